//! What can go wrong with a data directory, which file it was, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used, or no longer. All are fatal to the node: the page cache
/// cannot be believed after a failed flush, so the node stops and recovers from what is on disk.
#[derive(Debug)]
#[non_exhaustive]
pub enum StorageError {
    /// The system refused something.
    Io {
        /// What was tried, as in "cannot `flush` /data/log/0.seg".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has the directory open.
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was never initialised.
    Uninitialised {
        /// The directory.
        path: PathBuf,
    },
    /// `init` found something in the directory.
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file belongs to something else than the configuration says.
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs, as in "cluster".
        what: &'static str,
        /// What the configuration says.
        expected: u64,
        /// What the file says.
        found: u64,
    },
    /// A file was written by a newer version of this program.
    Newer {
        /// The file.
        path: PathBuf,
        /// The format version in the file.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// The newest messages in the log do not fit in the configured window.
    Window {
        /// The log directory.
        path: PathBuf,
        /// The bytes that are needed.
        needed: u64,
    },
    /// A file is damaged where no crash can have damaged it.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl StorageError {
    /// Makes an `Io` out of a system error; copies the path only then.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io {
            action,
            path: path.to_path_buf(),
            error,
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                path,
                error,
            } => write!(
                f,
                "cannot {action} {}: {error}. {}",
                path.display(),
                advice(error)
            ),
            Self::Locked { path } => write!(
                f,
                "the data directory {} is in use by another process: each node needs its own; stop \
                 the other one, or give another --dir",
                path.display()
            ),
            Self::Uninitialised { path } => write!(
                f,
                "the data directory {} was never initialised. For the first start of a new cluster \
                 run `coracle init` on every member, or start with --init. If this member has run \
                 before, do not: it would forget its vote; restore its directory instead",
                path.display()
            ),
            Self::NotEmpty { path } => write!(
                f,
                "the directory {} is not empty: `init` only makes new members, it would forget the \
                 vote and the log of an old one. Give an empty or missing directory",
                path.display()
            ),
            Self::Foreign {
                path,
                what,
                expected,
                found,
            } => write!(
                f,
                "{} belongs to {what} {found}, but the configuration says {expected}: point `dir` \
                 at this member's own directory, or correct the configuration",
                path.display()
            ),
            Self::Newer { path, found, known } => write!(
                f,
                "{} has format version {found}; this program knows versions up to {known}: run the \
                 newer program that wrote it",
                path.display()
            ),
            Self::Window { path, needed } => write!(
                f,
                "the newest part of the log in {} is {needed} bytes long: set `window` to at least \
                 {}",
                path.display(),
                needed.next_power_of_two()
            ),
            Self::Damaged { path, what } => write!(
                f,
                "{} is damaged: {what}. Keep a copy of the directory; this member must not go on \
                 with it while the others hold what it lost",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Locked { .. }
            | Self::Uninitialised { .. }
            | Self::NotEmpty { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Window { .. }
            | Self::Damaged { .. } => None,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Make room on that file system and start the node again: nothing acknowledged is lost"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Let the node's user read and write it, and start the node again"
        }
        io::ErrorKind::NotFound => "Check the path, and that the file system is mounted",
        _ => {
            "Check the disk (dmesg, smartctl) and start the node again: what was acknowledged is \
             on a quorum of members"
        }
    }
}
