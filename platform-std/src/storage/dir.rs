//! A member's data directory: its lock, and what is where.
//!
//! ```text
//! <dir>/lock             held by the running node
//! <dir>/node-state       term, vote, member, cluster: two slots
//! <dir>/counters         mapped; read by `coracle status` and by services in other processes
//! <dir>/log/<base>.seg   the log, each file named by the position of its first byte
//! <dir>/log/<base>.old.tmp   purged; to become a later file of the log
//! <dir>/log/replacing    only while the log is replaced by one that starts at a snapshot
//! <dir>/snapshot/<position>/consensus, service-0, ...   the newest two snapshots
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use coracle_core::units::ClusterId;

use super::error::StorageError;
use super::label::Label;
use super::segment::{Fill, Segment, sync_dir};
use super::snapshots::bring_back;
use super::spares;

/// A data directory that no other process has open.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock ends with the process, however it ends, so a restart after `kill -9` just works.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// [`StorageError::Locked`], [`StorageError::Missing`] if the log's directory is gone from an
    /// initialised one, or any error of the system.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        create_dir(path)?;
        let log = path.join("log");
        // `init` makes the log's directory before the node state: a member that has a vote and no
        // log directory has lost what it acknowledged, and must not begin anew.
        if exists(&path.join("node-state"))? && !log.is_dir() {
            return Err(StorageError::Missing { path: log });
        }
        create_dir(&log)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(StorageError::io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.to_path_buf();
                return Err(StorageError::Locked { path });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StorageError::io("lock", &lock_path)(error));
            }
        }
        let path = path.to_path_buf();
        let dir = Self { path, _lock: lock };
        dir.remove_drafts()?;
        // A file that a process has named just before it was killed may not have its name on the
        // disk yet, and no flush of the file gives it one: before anything in it counts, it has.
        sync_dir(&dir.log())?;
        sync_dir(&dir.path)?;
        bring_back(&dir.snapshots())?;
        Ok(dir)
    }

    /// Refuses a directory with anything in it: what `init` asks before it locks.
    ///
    /// # Errors
    /// [`StorageError::NotEmpty`], or any error of the system.
    pub fn require_empty(path: &Path) -> Result<(), StorageError> {
        if !exists(path)? {
            return Ok(());
        }
        for entry in list(path)? {
            // What an `init` leaves that was ended in the middle.
            let is_remnant = entry.ends_with("lock")
                || entry.ends_with("node-state.tmp")
                || (entry.ends_with("log") && is_unused_log(&entry));
            if !is_remnant {
                let path = path.to_path_buf();
                return Err(StorageError::NotEmpty { path });
            }
        }
        Ok(())
    }

    /// Makes the first file of a new member's log, before there is a node state: so whoever has a
    /// state and no log file has lost his log. In a directory that [`Self::require_empty`] has let
    /// pass.
    ///
    /// # Errors
    /// [`StorageError::NotEmpty`] if there is a node state: another process has made it since. Any
    /// error of the system, with the file's path.
    pub fn make_log(
        &self,
        cluster: ClusterId,
        segment_length: u32,
        fill: Fill,
    ) -> Result<(), StorageError> {
        if exists(&self.node_state())? {
            let path = self.path.clone();
            return Err(StorageError::NotEmpty { path });
        }
        let label = Label::starting_at(0, cluster.0, segment_length);
        // Over that of an `init` which was ended, and may have had other settings.
        Segment::create(&self.log(), label, fill).map(drop)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the segment files are.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The file of the two node state slots.
    pub fn node_state(&self) -> PathBuf {
        self.path.join("node-state")
    }

    /// Where the snapshots are: made with the first one.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshot")
    }

    /// The counters file.
    pub fn counters(&self) -> PathBuf {
        self.path.join("counters")
    }

    /// Files that were being made when the last process ended: they have no name yet, so nothing
    /// refers to them.
    fn remove_drafts(&self) -> Result<(), StorageError> {
        for dir in [self.path.clone(), self.log()] {
            for path in list(&dir)? {
                if path.extension().is_some_and(|e| e == "tmp") {
                    std::fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a log's directory has nothing in it but what [`DataDir::make_log`] puts there.
fn is_unused_log(log: &Path) -> bool {
    let first = log.join(Segment::name(0));
    let is_unused = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_draft = path.extension().is_some_and(|e| e == "tmp");
        (is_draft && !name.is_some_and(spares::is_name))
            || (*path == first
                && Segment::open(path, false).is_ok_and(|s| s.is_unused().unwrap_or(false)))
    };
    list(log).is_ok_and(|files| files.iter().all(is_unused))
}

/// The bases of the segment files in a log directory, ascending. Other files are left alone.
///
/// # Errors
/// Any error of the system, with the directory's path.
pub fn segment_bases(log: &Path) -> Result<Vec<u64>, StorageError> {
    let mut bases: Vec<u64> = list(log)?
        .iter()
        .filter_map(|path| path.file_name()?.to_str().and_then(Segment::base_of))
        .collect();
    bases.sort_unstable();
    Ok(bases)
}

/// The paths in a directory, in no order.
///
/// # Errors
/// Any error of the system, with the directory's path.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(StorageError::io("list the directory", dir))
}

/// Whether something has this name. What the system cannot say is not taken for "no": whoever
/// hears that makes a new file in place of the old one, or takes the log to end there.
///
/// # Errors
/// Any error of the system but that there is nothing.
pub(super) fn exists(path: &Path) -> Result<bool, StorageError> {
    path.try_exists().map_err(StorageError::io("examine", path))
}

/// Makes a directory if it is missing, and those above that are, so that it lives through a power
/// cut.
///
/// # Errors
/// Any error of the system, with the directory's path.
pub(super) fn create_dir(path: &Path) -> Result<(), StorageError> {
    let mut named_in = Vec::new();
    let mut missing = path;
    while !missing.is_dir() {
        let parent = missing.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        named_in.push(parent);
        if parent == missing {
            // Nothing is above it, and the system does not say what it is: so it will below.
            break;
        }
        missing = parent;
    }
    if named_in.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(StorageError::io("create the directory", path))?;
    named_in.into_iter().try_for_each(sync_dir)
}

#[cfg(test)]
mod tests {
    use coracle_core::units::Position;

    use super::super::recover::Reader;
    use super::super::segment::ensure;
    use super::super::state::NodeStateFile;
    use super::super::testing::{Scratch, flushed};
    use super::*;

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let scratch = Scratch::new("lock");
        let path = scratch.path().join("data");
        DataDir::require_empty(&path).unwrap();
        let first = DataDir::open(&path).unwrap();
        let second = DataDir::open(&path).unwrap_err();
        assert!(matches!(second, StorageError::Locked { .. }), "{second}");
        drop(first);
        let dir = DataDir::open(&path).unwrap();
        DataDir::require_empty(&path).unwrap();
        std::fs::write(dir.node_state(), b"a vote").unwrap();
        let full = DataDir::require_empty(&path).unwrap_err();
        assert!(matches!(full, StorageError::NotEmpty { .. }), "{full}");
        drop(dir);
        std::fs::remove_dir(path.join("log")).unwrap();
        let missing = DataDir::open(&path).unwrap_err();
        assert!(matches!(missing, StorageError::Missing { .. }), "{missing}");
    }

    /// With other settings than before, too: a node was never started with those.
    #[test]
    fn init_goes_on_where_one_was_ended_and_never_over_a_log_that_was_used() {
        let scratch = Scratch::new("init");
        let first = scratch.path().join("log").join(Segment::name(0));
        for (segment_length, draft) in [(1 << 16, true), (1 << 17, false)] {
            let dir = DataDir::open(scratch.path()).unwrap();
            dir.make_log(ClusterId(7), segment_length, Fill::Written)
                .unwrap();
            drop(dir);
            if draft {
                std::fs::rename(&first, first.with_extension("seg.tmp")).unwrap();
            }
            DataDir::require_empty(scratch.path()).unwrap();
        }
        let segment = Segment::open(&first, true).unwrap();
        assert_eq!(segment.label().segment_length, 1 << 17);
        // The node state, which says that it is no new member, is lost; its log is not.
        segment.write(612, &[1]).unwrap();
        let used = DataDir::require_empty(scratch.path()).unwrap_err();
        assert!(matches!(used, StorageError::NotEmpty { .. }), "{used}");
        segment.write(612, &[0]).unwrap();
        DataDir::require_empty(scratch.path()).unwrap();
        segment.write_data(0, &[0, 0, 1]).unwrap();
        DataDir::require_empty(scratch.path()).unwrap_err();
        segment.write_data(0, &[0; 3]).unwrap();
        std::fs::write(first.with_file_name(Segment::name(1 << 17)), b"").unwrap();
        DataDir::require_empty(scratch.path()).unwrap_err();
        // Another process was first.
        let dir = DataDir::open(scratch.path()).unwrap();
        std::fs::write(dir.node_state(), b"a vote").unwrap();
        let late = dir.make_log(ClusterId(7), 1 << 16, Fill::Written);
        assert!(matches!(late, Err(StorageError::NotEmpty { .. })));
    }

    #[test]
    fn names_are_on_the_disk_before_what_has_them_counts() {
        let scratch = Scratch::new("names");
        let path = scratch.path().join("above").join("data");
        let log = path.join("log");
        drop(flushed());
        drop(DataDir::open(&path).unwrap());
        let made = flushed();
        // Each directory in the one that it got its name in.
        for dir in [scratch.path(), path.parent().unwrap(), &path] {
            assert!(made.contains(&dir.to_path_buf()), "{}", dir.display());
        }
        // A file of the log, or a node state, of a process that was killed right after the rename.
        drop(DataDir::open(&path).unwrap());
        let again = flushed();
        assert!(again.contains(&log) && again.contains(&path), "{again:?}");
    }

    /// A link to itself: the system says neither that there is something nor that there is not.
    #[test]
    fn what_cannot_be_examined_is_not_taken_for_missing() {
        let scratch = Scratch::new("loop");
        let looped = |name: &str| {
            let path = scratch.path().join(name);
            std::os::unix::fs::symlink(&path, &path).unwrap();
            path
        };
        let is_said = |found: Result<(), StorageError>| {
            let error = found.unwrap_err();
            let action = "examine";
            assert!(matches!(error, StorageError::Io { action: a, .. } if a == action));
        };
        looped(&Segment::name(0));
        let made = ensure(scratch.path(), 7, 0, 1 << 16, Fill::Reserved);
        is_said(made.map(drop));
        let read = Reader::new(scratch.path(), 1 << 16).read(Position::ZERO, &mut [0; 32]);
        is_said(read.map(drop));
        is_said(DataDir::require_empty(&looped("data")));
        looped("node-state");
        is_said(NodeStateFile::open(scratch.path()).map(drop));
        is_said(DataDir::open(scratch.path()).map(drop));
    }

    #[test]
    fn drafts_of_a_dead_process_are_removed() {
        let scratch = Scratch::new("drafts");
        let dir = DataDir::open(scratch.path()).unwrap();
        let draft = dir.log().join("00000000000000000000.seg.tmp");
        std::fs::write(&draft, b"half").unwrap();
        drop(dir);
        let dir = DataDir::open(scratch.path()).unwrap();
        assert!(!draft.exists());
        assert_eq!(segment_bases(&dir.log()).unwrap(), Vec::<u64>::new());
    }
}
