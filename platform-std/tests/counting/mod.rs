//! The system's allocator, which counts what each thread asks for while it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// See the module.
pub struct Counting;

/// Threads have names of at most 15 bytes (`prctl(2)`), padded with zeros: two words.
const NAMES: usize = 64;

struct Named {
    name: [AtomicU64; 2],
    count: AtomicU64,
}

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
/// Says where each allocation is made.
pub static IS_TRACED: AtomicBool = AtomicBool::new(false);
static THREADS: [Named; NAMES] = [const {
    Named {
        name: [AtomicU64::new(0), AtomicU64::new(0)],
        count: AtomicU64::new(0),
    }
}; NAMES];
/// Only one thread at a time gives an entry its name.
static NAMING: Mutex<()> = Mutex::new(());

thread_local! {
    /// What this thread does now is not of what is counted.
    static IS_EXCUSED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call goes to the system's allocator unchanged; what counts needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Relaxed) && !IS_EXCUSED.get() {
            count();
        }
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count() {
    let mut name = [0u64; 2];
    // SAFETY: the kernel writes at most 16 bytes, a name that ends in zero.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if IS_TRACED.load(Relaxed) {
        excused(|| eprintln!("{}", std::backtrace::Backtrace::force_capture()));
    }
    let is_it = |entry: &&Named| {
        entry.name[0].load(Relaxed) == name[0] && entry.name[1].load(Relaxed) == name[1]
    };
    if let Some(entry) = THREADS.iter().find(is_it) {
        entry.count.fetch_add(1, Relaxed);
        return;
    }
    let _one = NAMING.lock();
    let is_free = |entry: &&Named| is_it(entry) || entry.count.load(Relaxed) == 0;
    let entry = THREADS.iter().find(is_free).expect("fewer names than that");
    entry.name[0].store(name[0], Relaxed);
    entry.name[1].store(name[1], Relaxed);
    entry.count.fetch_add(1, Relaxed);
}

/// What this thread allocates meanwhile does not count.
pub fn excused<T>(work: impl FnOnce() -> T) -> T {
    let before = IS_EXCUSED.replace(true);
    let value = work();
    IS_EXCUSED.set(before);
    value
}

/// Counts from now on, from zero.
pub fn begin() {
    excused(|| {
        for entry in &THREADS {
            entry.count.store(0, Relaxed);
            entry.name[0].store(0, Relaxed);
            entry.name[1].store(0, Relaxed);
        }
    });
    IS_COUNTING.store(true, Relaxed);
}

/// Ends that; how much each thread that allocated has, by its name.
pub fn end() -> BTreeMap<String, u64> {
    IS_COUNTING.store(false, Relaxed);
    let mut counts = BTreeMap::new();
    for entry in &THREADS {
        let [a, b] = [0, 1].map(|at| entry.name[at].load(Relaxed).to_ne_bytes());
        let bytes = [a, b].concat();
        let name = String::from_utf8_lossy(&bytes);
        let count = entry.count.load(Relaxed);
        if count > 0 {
            *counts
                .entry(name.trim_end_matches('\0').to_owned())
                .or_default() += count;
        }
    }
    counts
}
