//! How another thread gets the node's thread out of its sleep: an eventfd, written only if needed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes one thread. Cheap to clone; `wake` costs a load while that thread is awake.
#[derive(Clone, Debug)]
pub struct Waker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Waker {
    /// # Errors
    /// Those of `eventfd(2)`: the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let sleeping = AtomicBool::new(false);
        Ok(Self {
            inner: Arc::new(Inner { sleeping, event }),
        })
    }

    /// Called by any thread after it has published something that the sleeper polls.
    pub fn wake(&self) {
        // Sequentially consistent on both sides: either the sleeper sees what was published when it
        // looks a last time, or we see that it sleeps.
        if self.inner.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only if the counter is full, and then the sleeper wakes anyway.
            rustix::io::write(&self.inner.event, &1u64.to_ne_bytes()).ok();
        }
    }

    /// The sleeper says that it is about to sleep. It must look once more at what it polls, then
    /// wait for `fd` to be readable, then call `awake`.
    pub fn about_to_sleep(&self) {
        self.inner.sleeping.store(true, Ordering::SeqCst);
    }

    /// The sleeper is awake again; `signalled` if `fd` was readable.
    pub fn awake(&self, signalled: bool) {
        self.inner.sleeping.store(false, Ordering::SeqCst);
        if signalled {
            let mut count = [0u8; 8];
            // Non-blocking: nothing to read means that nobody woke us.
            rustix::io::read(&self.inner.event, &mut count).ok();
        }
    }

    /// What to poll for readability.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.event.as_fd()
    }
}
