//! The counters, in a mapped file: `u64`s in the machine's order, the same on both sides.
//!
//! ```text
//! 0                  bytes that were not counted because the table of places is full
//! 8 + 24 * kind      calls, bytes, marked bytes of each kind of call
//! 256 + 32 * place   address, calls, bytes, marked bytes of each place that copies
//! ```

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

use crate::marked;

/// The kinds of calls, as they are numbered in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Kind {
    /// Into a socket.
    Send,
    /// Out of a socket.
    Receive,
    /// Into a file, at an offset: the log and snapshots.
    Write,
    /// Out of a file, at an offset.
    Read,
    /// `write`, `read` and theirs: a first file's zeros, wake-ups, lines of the program's log.
    Other,
}

const KINDS: usize = 10;
const PLACES: usize = 1024;

#[repr(C)]
struct Counts {
    calls: AtomicU64,
    bytes: AtomicU64,
    marked: AtomicU64,
}

impl Counts {
    fn add(&self, bytes: usize, marked: usize) {
        self.calls.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.marked.fetch_add(marked as u64, Relaxed);
    }
}

#[repr(C)]
struct Place {
    address: AtomicU64,
    counts: Counts,
}

/// See the module.
#[repr(C)]
pub struct Table {
    lost: AtomicU64,
    kinds: [Counts; KINDS],
    _unused: u64,
    places: [Place; PLACES],
}

const _: () = assert!(std::mem::offset_of!(Table, places) == 256);

static TABLE: AtomicPtr<Table> = AtomicPtr::new(null_mut());

impl Table {
    /// The table, once there is one.
    #[inline]
    pub fn get() -> Option<&'static Self> {
        // SAFETY: null, or mapped for as long as the process lives; zeros are a table, and all of
        // it is atomic.
        unsafe { TABLE.load(Relaxed).as_ref() }
    }

    /// A place has copied so much.
    pub fn copied(&self, caller: usize, bytes: usize, marked: usize) {
        let caller = caller as u64;
        let first = (caller.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize;
        for step in 0..PLACES {
            let Some(place) = self.places.get((first + step) % PLACES) else {
                break;
            };
            let is_ours = match place.address.load(Relaxed) {
                0 => match place.address.compare_exchange(0, caller, Relaxed, Relaxed) {
                    Ok(_) => true,
                    Err(other) => other == caller,
                },
                address => address == caller,
            };
            if is_ours {
                return place.counts.add(bytes, marked);
            }
        }
        self.lost.fetch_add(bytes as u64, Relaxed);
    }

    /// A call has moved what these pieces hold, of which `left` bytes count.
    ///
    /// # Safety
    /// So many bytes of each piece can be read.
    pub unsafe fn moved(&self, kind: Kind, pieces: &[libc::iovec], mut left: usize) {
        let (mut bytes, mut of_mark) = (0, 0);
        for piece in pieces {
            let len = piece.iov_len.min(left);
            // SAFETY: the caller's promise.
            of_mark += unsafe { marked(piece.iov_base.cast(), len) };
            bytes += len;
            left -= len;
        }
        if let Some(counts) = self.kinds.get(kind as usize) {
            counts.add(bytes, of_mark);
        }
    }
}

/// Maps the file that `CORACLE_COPIES` names, before the program's own code runs.
extern "C" fn open() {
    // SAFETY: plain calls of the C library with a name that ends in zero. The file is as long as
    // the table or the mapping fails, which is seen by whoever reads counters that stay zero.
    unsafe {
        let name = libc::getenv(c"CORACLE_COPIES".as_ptr());
        if name.is_null() {
            return;
        }
        let file = libc::open(name, libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let len = size_of::<Table>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let is_sized = libc::ftruncate(file, len as libc::off_t) == 0;
        let at = libc::mmap(null_mut(), len, access, libc::MAP_SHARED, file, 0);
        if is_sized && at != libc::MAP_FAILED {
            TABLE.store(at.cast(), Relaxed);
        }
        libc::close(file);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static OPEN: extern "C" fn() = open;
