//! Sleeping until a socket has something, another thread calls, or a time has come.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The most file descriptors of one wait.
pub const FDS_MAX: usize = 8;

/// Waits until one of `fds` (at most `FDS_MAX`; further ones are not looked at) is readable or
/// `timeout` is over; returns which are readable, as a bit mask. A signal ends the wait early.
///
/// # Errors
/// Any error of `ppoll(2)` but a signal.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<u32> {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    });
    let entries = fds.iter().take(FDS_MAX);
    let mut polled: heapless::Vec<PollFd<'_>, FDS_MAX> = entries
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(0),
        Err(error) => return Err(error.into()),
    }
    let readable = polled.iter().enumerate();
    let readable = readable.filter(|(_, fd)| !fd.revents().is_empty());
    Ok(readable.fold(0, |mask, (at, _)| mask | (1 << at)))
}
