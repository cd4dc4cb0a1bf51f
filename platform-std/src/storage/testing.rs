//! A directory for one test, removed at its end; which directories were flushed; a disk that is
//! full; and one with blocks that cannot be read.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::StorageError;
use super::segment::Fill;
use super::segment::Segment;
use super::spares::{ensure, set_aside_below};

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let path = std::env::temp_dir().join(format!("coracle-{name}-{process}-{count}"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A running member needs the log's file at `base` no more, and makes the one at `next` of it.
pub fn make_another(log: &Path, base: u64, next: u64) {
    let segment = Segment::open(&log.join(Segment::name(base)), false).unwrap();
    let label = segment.label();
    set_aside_below(log, base + 1).unwrap();
    let (cluster, length) = (label.cluster, label.segment_length);
    ensure(log, Some(base), cluster, next, length, Fill::Reserved).unwrap();
}

thread_local! {
    static FLUSHED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// This thread flushes a directory.
pub fn note_flushed(dir: &Path) {
    FLUSHED.with_borrow_mut(|flushed| flushed.push(dir.to_path_buf()));
}

/// The directories that this thread has flushed since it was last asked.
pub fn flushed() -> Vec<PathBuf> {
    FLUSHED.take()
}

/// The directories for whose files there is no room: for all threads.
static FULL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn full() -> MutexGuard<'static, Vec<PathBuf>> {
    FULL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether from now on there is room for files in this directory.
pub fn set_room(dir: &Path, is_room: bool) {
    full().retain(|full| full != dir);
    if !is_room {
        full().push(dir.to_path_buf());
    }
}

/// What the system would say to a new file.
pub fn require_room(file: &Path) -> Result<(), StorageError> {
    let is_full = full().iter().any(|dir| file.starts_with(dir));
    let error = || std::io::Error::from_raw_os_error(libc::ENOSPC);
    match is_full {
        true => Err(StorageError::io("fill", file)(error())),
        false => Ok(()),
    }
}

/// The blocks that cannot be read: the file, and where they start in it.
static UNREADABLE: Mutex<Vec<(PathBuf, u64)>> = Mutex::new(Vec::new());
const BLOCK: u64 = 4096;

fn unreadable() -> MutexGuard<'static, Vec<(PathBuf, u64)>> {
    UNREADABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a block cannot be read, until all of it is written.
pub fn lose_block(file: &Path, start: u64) {
    assert!(start.is_multiple_of(BLOCK));
    unreadable().push((file.to_path_buf(), start));
}

/// What the system would say to a read.
pub fn read_blocks(file: &Path, offset: u64, len: usize) -> Result<(), StorageError> {
    let end = offset + len as u64;
    let is_hit =
        |(path, start): &(PathBuf, u64)| path == file && *start < end && offset < *start + BLOCK;
    match unreadable().iter().any(is_hit) {
        true => Err(StorageError::io("read", file)(eio())),
        false => Ok(()),
    }
}

/// What it would say to a write: it reads what it is not given of a block.
pub fn write_blocks(file: &Path, offset: u64, len: usize) -> Result<(), StorageError> {
    one_more_write(file)?;
    let end = offset + len as u64;
    unreadable().retain(|(path, start)| path != file || *start < offset || end < *start + BLOCK);
    read_blocks(file, offset, len).map_err(|_| StorageError::io("write", file)(eio()))
}

fn eio() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::EIO)
}

thread_local! {
    static WRITES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// This thread's writes fail after so many.
pub fn set_writes_left(left: Option<u32>) {
    WRITES_LEFT.set(left);
}

fn one_more_write(file: &Path) -> Result<(), StorageError> {
    let left = WRITES_LEFT.get();
    if left == Some(0) {
        return Err(StorageError::io("write", file)(eio()));
    }
    WRITES_LEFT.set(left.map(|left| left - 1));
    Ok(())
}
