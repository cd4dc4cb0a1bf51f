//! Small file systems, to be filled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::is_root;

/// A small file system, for as long as this value lives.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts one over a folder, which is made if it is missing.
    ///
    /// # Errors
    /// What is missing to do so.
    ///
    /// # Panics
    /// If the system refuses the folder.
    pub fn new(at: &Path, size: &str) -> Result<Self, &'static str> {
        if !is_root() {
            return Err("mounting a small file system needs root");
        }
        std::fs::create_dir_all(at).expect("a folder in the scratch directory");
        if !mount(&[&format!("size={size}")], at) {
            return Err("`mount -t tmpfs` does not work here");
        }
        Ok(Self(at.to_owned()))
    }

    /// Makes it larger or smaller.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn resize(&self, size: &str) {
        assert!(mount(&["remount", &format!("size={size}")], &self.0));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that still uses it must not keep it.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", &options.join(","), "coracle-test"])
        .arg(at);
    command
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
