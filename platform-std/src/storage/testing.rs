//! A directory for one test, removed at its end; and which directories were flushed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

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
