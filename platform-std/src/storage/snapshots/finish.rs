//! What the snapshots' thread does: flush, rename, verify, delete.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_core::units::{ClusterId, Position};

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
        let aside = self.dir.join(format!("{}.old.tmp", set_name(position)));
        if exists(&target)? {
            // Taken again at the same position: equal, or the old one is damaged.
            std::fs::rename(&target, &aside).map_err(StorageError::io("rename", &target))?;
        }
        std::fs::rename(draft, &target).map_err(StorageError::io("rename", draft))?;
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
