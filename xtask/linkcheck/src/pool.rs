//! All the memory there is, handed out once.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

const LEN: usize = 8 * 1024 * 1024;

struct Memory(UnsafeCell<[u8; LEN]>);

// SAFETY: `Pool::take_all` hands the bytes out once, whoever asks.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; LEN]));
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// What has not been handed out yet.
pub struct Pool(&'static mut [u8]);

impl Pool {
    /// Everything. Only once.
    pub fn take_all() -> Self {
        let was_taken = IS_TAKEN.swap(true, Ordering::Relaxed);
        assert!(!was_taken, "the memory is handed out once");
        // SAFETY: nobody else has a reference, as the flag says.
        Self(unsafe { &mut *MEMORY.0.get() })
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> &'static mut [u8] {
        let (part, rest) = core::mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        part
    }
}
