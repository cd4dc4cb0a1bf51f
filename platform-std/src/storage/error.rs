//! What can go wrong with a data directory, which file it was, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used, or no longer. All but those of a snapshot that is written
/// or received are fatal to the node: the page cache cannot be believed after a failed flush, so
/// the node stops and recovers from what is on disk.
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
    /// A directory that `init` has made is gone.
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// No log file is there, of a member that has run before.
    LogLost {
        /// The log's directory.
        path: PathBuf,
    },
    /// A log file is missing between others.
    SegmentMissing {
        /// The file.
        path: PathBuf,
    },
    /// The log does not start at 0, and no snapshot says what was before.
    SnapshotMissing {
        /// Where the snapshots are kept.
        path: PathBuf,
        /// Where the log starts.
        start: u64,
    },
    /// A snapshot could not be written. The node goes on without it.
    SnapshotNotWritten {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A snapshot is sound, but the services of this node cannot start from it.
    SnapshotNotTaken {
        /// Its directory.
        path: PathBuf,
        /// What the core or the service says.
        what: String,
    },
    /// A snapshot that another member has sent is not what it must be; it was removed.
    SnapshotRefused {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
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

/// What to do with a directory that is beyond repair.
const REPLACE: &str = "move the whole data directory away, and make another with `coracle init \
                       --replace`: the others fill it";

impl StorageError {
    /// The same failure, of a file that only a snapshot needed: the node goes on.
    #[must_use]
    pub fn of_snapshot(self) -> Self {
        match self {
            Self::Io {
                action,
                path,
                error,
            } => Self::SnapshotNotWritten {
                action,
                path,
                error,
            },
            other => other,
        }
    }

    /// Whether there was no room for something on the disk.
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Io { error, .. } | Self::SnapshotNotWritten { error, .. } => is_no_room(error),
            _ => false,
        }
    }

    /// What is missing or too small, and what is wrong with snapshots.
    fn fmt_of_what_is_missing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(
                f,
                "the directory {} is missing, though this member has run before: without it the \
                 member would forget what it acknowledged. Mount or restore it; if it is lost, \
                 {REPLACE}",
                path.display()
            ),
            Self::LogLost { path } => write!(
                f,
                "there is no log file in {}, though this member has run before: without them it \
                 would forget what it acknowledged. Restore them; if they are lost, {REPLACE}",
                path.display()
            ),
            Self::Window { path, needed } => write!(
                f,
                "the newest part of the log in {} is {needed} bytes long: set `window` to at least \
                 {}",
                path.display(),
                needed.next_power_of_two()
            ),
            Self::SegmentMissing { path } => write!(
                f,
                "the log file {} is missing, but there are older and newer ones: restore it from \
                 a copy, or {REPLACE}",
                path.display()
            ),
            Self::SnapshotMissing { path, start } => write!(
                f,
                "the log starts at position {start}, and in {} is no sound snapshot that reaches \
                 there: restore one (from a copy, or from another member), or {REPLACE}",
                path.display()
            ),
            Self::SnapshotNotWritten {
                action,
                path,
                error,
            } => write!(
                f,
                "no snapshot was taken: cannot {action} {}: {error}. The member goes on, but its \
                 log cannot be shortened until one succeeds. {}",
                path.display(),
                snapshot_advice(error)
            ),
            Self::SnapshotNotTaken { path, what } => write!(
                f,
                "this node cannot start from its snapshot {}, though every byte of it is as it was \
                 written: {what}. Run the services (and the version of them) that wrote it",
                path.display()
            ),
            Self::SnapshotRefused { path, what } => write!(
                f,
                "the snapshot that was received is not sound: {what} ({}). It was removed, and \
                 will be asked for again",
                path.display()
            ),
            Self::Io { .. }
            | Self::Locked { .. }
            | Self::Uninitialised { .. }
            | Self::NotEmpty { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. } => Ok(()),
        }
    }

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
                "the data directory {} was never initialised. For a new cluster's first start run \
                 `coracle init` on every member, or start with --init. A member that has run \
                 before would forget its vote: restore its directory, or `coracle init --replace`",
                path.display()
            ),
            Self::NotEmpty { path } => write!(
                f,
                "the directory {} is not empty: `init` only makes new members, it would forget the \
                 vote and the log of an old one. Give an empty or missing directory; to replace a \
                 directory that is damaged, move that one away first",
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
            Self::Damaged { path, what } => write!(
                f,
                "{} is damaged: {what}. This member must not go on with it. If other members hold \
                 what it lost, {REPLACE}; else restore it from a copy",
                path.display()
            ),
            Self::Missing { .. }
            | Self::LogLost { .. }
            | Self::Window { .. }
            | Self::SegmentMissing { .. }
            | Self::SnapshotMissing { .. }
            | Self::SnapshotNotWritten { .. }
            | Self::SnapshotNotTaken { .. }
            | Self::SnapshotRefused { .. } => self.fmt_of_what_is_missing(f),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } | Self::SnapshotNotWritten { error, .. } => Some(error),
            Self::Locked { .. }
            | Self::Uninitialised { .. }
            | Self::NotEmpty { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Missing { .. }
            | Self::LogLost { .. }
            | Self::SegmentMissing { .. }
            | Self::SnapshotMissing { .. }
            | Self::SnapshotNotTaken { .. }
            | Self::SnapshotRefused { .. }
            | Self::Window { .. }
            | Self::Damaged { .. } => None,
        }
    }
}

/// Whether the file system, or the user's part of it, is full.
fn is_no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn snapshot_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_no_room(error) => {
            "Make room on that file system: a snapshot needs its own size beside the two before"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Let the node's user read and write it"
        }
        _ => "Check the disk (dmesg, smartctl)",
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_no_room(error) => {
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
