//! Sleeping until a socket has something, another thread calls, or a time has come.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits until one of `fds` (at most 4) is readable or `timeout` is over; returns which are
/// readable, as a bit mask. A signal ends the wait early.
///
/// # Errors
/// Any error of `ppoll(2)` but a signal.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<u32> {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    });
    let readable = |polled: &[PollFd<'_>]| {
        polled
            .iter()
            .enumerate()
            .filter(|(_, fd)| !fd.revents().is_empty())
            .fold(0, |mask, (at, _)| mask | (1 << at))
    };
    let entry = |at: usize| {
        fds.get(at)
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
    };
    let outcome = match [entry(0), entry(1), entry(2), entry(3)] {
        [Some(a), Some(b), Some(c), Some(d)] => run(&mut [a, b, c, d], &timeout, readable),
        [Some(a), Some(b), Some(c), None] => run(&mut [a, b, c], &timeout, readable),
        [Some(a), Some(b), None, None] => run(&mut [a, b], &timeout, readable),
        [Some(a), None, None, None] => run(&mut [a], &timeout, readable),
        _ => run(&mut [], &timeout, readable),
    };
    match outcome {
        Ok(mask) => Ok(mask),
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn run(
    polled: &mut [PollFd<'_>],
    timeout: &Timespec,
    readable: impl Fn(&[PollFd<'_>]) -> u32,
) -> Result<u32, Errno> {
    poll(polled, Some(timeout))?;
    Ok(readable(polled))
}
