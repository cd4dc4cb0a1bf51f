//! What the snapshots' thread does: flush, rename, verify, delete.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_core::units::{ClusterId, Position};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::super::dir::exists;
use super::super::error::StorageError;
use super::super::segment::sync_dir;
use super::draft::{Draft, Piece};
use super::set::{Damaged, Entry, SetError, SnapshotSet, entries, set_name, verify};

/// How many complete sets are kept: the newest, and one to fall back to.
pub(super) const KEPT: usize = 2;

/// One job.
pub(super) enum Job {
    /// Writes a piece of a file and hands it to the disk, so that little is left to flush at the
    /// end.
    Piece(Piece),
    /// Makes a set that this node has written durable, and gives it its name.
    Store(Box<Draft>),
    /// Deletes one that was begun.
    GiveUp(Box<Draft>),
    /// Verifies a set that was received, makes it durable, and gives it its name.
    Install {
        position: Position,
        part: PathBuf,
        files: Vec<(PathBuf, Arc<File>)>,
    },
    /// Deletes what is of no use any more.
    Remove(PathBuf),
}

/// What came of a job.
pub(super) enum Done {
    /// A piece was written.
    Piece(Piece, Result<(), StorageError>),
    /// The set that was written, and a place for the next one.
    Stored(Position, Result<(), StorageError>, Next),
    /// A set that was begun was deleted; and a place for the next one.
    GivenUp(Result<(), StorageError>, Next),
    /// The set that was received.
    Installed(Position, Result<SnapshotSet, StorageError>),
    /// A directory was deleted.
    Removed(Result<(), StorageError>),
}

/// Where the next set is written to; none if it cannot be made.
pub(super) type Next = Option<Box<Draft>>;

/// The thread's state.
pub(super) struct Finisher {
    pub dir: PathBuf,
    pub cluster: ClusterId,
    /// How many services a set has sections of.
    pub services: usize,
    /// Sets that do not count as kept.
    pub damaged: Vec<Position>,
}

impl Finisher {
    /// Does one job; also deletes the sets that a new one makes superfluous.
    pub fn run(&mut self, job: Job) -> Done {
        match job {
            Job::Piece(piece) => {
                let written = piece.write().and_then(|()| piece.write_back());
                Done::Piece(piece, written)
            }
            Job::Store(mut draft) => {
                let (position, stored) = (draft.position, self.store(&mut draft));
                drop(draft);
                Done::Stored(position, stored, self.next())
            }
            Job::GiveUp(draft) => {
                let removed = remove(&draft.path);
                drop(draft);
                Done::GivenUp(removed, self.next())
            }
            Job::Install {
                position,
                part,
                files,
            } => Done::Installed(position, self.install(position, &part, &files)),
            Job::Remove(path) => Done::Removed(remove(&path)),
        }
    }

    /// Makes a place for the next set. Whoever begins one without a place tries it again, and says
    /// why it does not work.
    pub fn next(&self) -> Next {
        Draft::create(&self.dir, self.services).ok()
    }

    fn store(&mut self, draft: &mut Draft) -> Result<(), StorageError> {
        let files = draft.close();
        let stored = files.and_then(|files| self.make_durable(draft.position, &draft.path, &files));
        if stored.is_err() {
            // The first failure is the one to be told of, also if its remnants cannot be deleted.
            drop(remove(&draft.path));
        }
        stored
    }

    fn install(
        &mut self,
        position: Position,
        part: &Path,
        files: &[(PathBuf, Arc<File>)],
    ) -> Result<SnapshotSet, StorageError> {
        match verify(part, position, Some(self.cluster)) {
            Ok(set) => {
                if let Err(error) = self.make_durable(position, part, files) {
                    // What is left of it may be in memory and not on the disk, and would verify.
                    drop(remove(part));
                    return Err(error);
                }
                Ok(set.moved_to(self.dir.join(set_name(position))))
            }
            Err(error) => {
                remove(part)?;
                Err(match error {
                    SetError::Damaged(Damaged { path, what, .. }) => {
                        StorageError::SnapshotRefused { path, what }
                    }
                    SetError::Refused(error) => error,
                })
            }
        }
    }

    /// Flushes the files and their directory, and renames it; only then is it a set.
    fn make_durable(
        &mut self,
        position: Position,
        draft: &Path,
        files: &[(PathBuf, Arc<File>)],
    ) -> Result<(), StorageError> {
        for (path, file) in files {
            file.sync_all().map_err(StorageError::io("flush", path))?;
        }
        sync_dir(draft)?;
        let target = self.dir.join(set_name(position));
        let aside = self.dir.join(format!("{}{ASIDE}", set_name(position)));
        give_name(draft, &target, &aside, exchange)?;
        sync_dir(&self.dir)?;
        self.damaged.retain(|damaged| *damaged != position);
        if let Err(error) = self.prune(&aside) {
            // The set is there all the same; at the next start, or with the next set, it is tried
            // again.
            tracing::warn!(%error, "an old snapshot was not deleted");
        }
        Ok(())
    }

    /// Deletes `aside`, if it is there, and all sets but the newest two that are sound.
    fn prune(&mut self, aside: &Path) -> Result<(), StorageError> {
        if exists(aside)? {
            remove(aside)?;
        }
        let mut kept = 0;
        for (entry, path) in entries(&self.dir)?.into_iter().rev() {
            let Entry::Set(position) = entry else {
                continue;
            };
            let is_damaged = self.damaged.contains(&position);
            if !is_damaged && kept < KEPT {
                kept += 1;
            } else {
                remove(&path)?;
                self.damaged.retain(|damaged| *damaged != position);
            }
        }
        Ok(())
    }
}

/// What follows the position in the name of a set that another one of the same position replaces.
const ASIDE: &str = ".old.tmp";

/// Gives a set its name. If it is taken again at a position, the old one (equal, or damaged) is
/// `aside` then. In one step that has a name all along; where the file system cannot do that, a
/// crash in between is undone by [`bring_back`].
fn give_name(
    draft: &Path,
    target: &Path,
    aside: &Path,
    exchange: impl Fn(&Path, &Path) -> io::Result<bool>,
) -> Result<(), StorageError> {
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to).map_err(StorageError::io("rename", from))
    };
    if !exists(target)? {
        return rename(draft, target);
    }
    if exists(aside)? {
        remove(aside)?;
    }
    if exchange(draft, target).map_err(StorageError::io("rename", draft))? {
        return rename(draft, aside);
    }
    rename(target, aside)?;
    rename(draft, target).inspect_err(|_| {
        // The first failure is the one to be told of.
        drop(rename(aside, target));
    })
}

/// Exchanges two names in one step; false if the file system, or the system, cannot.
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives sets their names again that lost them to another one of the same position, which never got
/// it: the process ended in between. When a process starts, before it looks which sets there are.
///
/// # Errors
/// Any error of the system, with the path.
pub fn bring_back(dir: &Path) -> Result<(), StorageError> {
    for (_, path) in entries(dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(ASIDE)) else {
            continue;
        };
        let target = dir.join(name);
        if !exists(&target)? {
            std::fs::rename(&path, &target).map_err(StorageError::io("rename", &path))?;
            sync_dir(dir)?;
        }
    }
    Ok(())
}

/// Deletes a set or a draft. It loses its name first: a set is never there with files missing.
pub(super) fn remove(path: &Path) -> Result<(), StorageError> {
    let mut aside = path.to_path_buf();
    if path.extension().is_none_or(|e| e != "tmp") {
        aside.as_mut_os_string().push(".tmp");
        std::fs::rename(path, &aside).map_err(StorageError::io("rename", path))?;
        if let Some(parent) = path.parent() {
            sync_dir(parent)?;
        }
    }
    std::fs::remove_dir_all(&aside).map_err(StorageError::io("remove", &aside))
}

#[cfg(test)]
mod tests {
    use super::super::super::DataDir;
    use super::super::super::testing::Scratch;
    use super::*;

    /// The directories of a set's draft, of its name, and of the one that had it before.
    fn places(scratch: &Scratch) -> [PathBuf; 3] {
        let dir = scratch.path().join("snapshot");
        let name = set_name(Position::new(96));
        let aside = dir.join(format!("{name}{ASIDE}"));
        let [draft, target] = ["next.tmp", &name].map(|name| dir.join(name));
        for (place, text) in [(&draft, "new"), (&target, "old"), (&aside, "of before")] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join("consensus"), text).unwrap();
        }
        [draft, target, aside]
    }

    fn text(place: &Path) -> Option<String> {
        std::fs::read_to_string(place.join("consensus")).ok()
    }

    #[test]
    fn a_set_taken_again_has_its_name_all_along() {
        let scratch = Scratch::new("taken-again");
        let [draft, target, aside] = places(&scratch);
        let exchanged = |one: &Path, other: &Path| {
            let can = exchange(one, other)?;
            let found = text(&target);
            assert_eq!(found.as_deref(), Some(if can { "new" } else { "old" }));
            Ok(can)
        };
        give_name(&draft, &target, &aside, exchanged).unwrap();
        let found = [&draft, &target, &aside].map(|place| text(place));
        assert_eq!(found, [None, Some("new".into()), Some("old".into())]);
    }

    #[test]
    fn a_file_system_that_cannot_exchange_names_comes_to_the_same() {
        let scratch = Scratch::new("taken-again-old");
        let [draft, target, aside] = places(&scratch);
        let refused = |_: &Path, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
        give_name(&draft, &target, &aside, refused).unwrap_err();
        assert_eq!(text(&target).as_deref(), Some("old"));
        give_name(&draft, &target, &aside, |_, _| Ok(false)).unwrap();
        let found = [&draft, &target, &aside].map(|place| text(place));
        assert_eq!(found, [None, Some("new".into()), Some("old".into())]);
        // The new one is gone.
        std::fs::remove_dir_all(&target).unwrap();
        std::fs::rename(&aside, &target).unwrap();
        give_name(&draft, &target, &aside, |_, _| Ok(false)).unwrap_err();
        assert_eq!(text(&target).as_deref(), Some("old"));
    }

    #[test]
    fn a_crash_between_two_renames_costs_no_set() {
        let scratch = Scratch::new("taken-again-crash");
        let [_, target, aside] = places(&scratch);
        drop(DataDir::open(scratch.path()).unwrap());
        assert_eq!(text(&target).as_deref(), Some("old"), "it has its name");
        std::fs::remove_dir_all(&target).unwrap();
        drop(DataDir::open(scratch.path()).unwrap());
        assert_eq!(text(&target).as_deref(), Some("of before"));
        assert!(!aside.exists());
    }
}
