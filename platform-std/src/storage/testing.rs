//! A directory for one test, removed at its end; which directories were flushed; and a disk that is
//! full.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::StorageError;

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
