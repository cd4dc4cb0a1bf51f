//! Snapshots: `<dir>/snapshot/<position>/`, one file for each section.
//!
//! ```text
//! <position>/                a complete set, on the disk before it had this name
//! next.tmp/                  the next set: made ahead, perhaps being written; removed at start
//! <position>.tmp/            being deleted: removed at start
//! <position>.old.tmp/        had the position's name: at start it is given back if nothing has it,
//!                            else this is removed
//! <position>-<digest>.part/  being received from another member: goes on after a restart
//! ```
//! The newest two complete sets are kept. A set that cannot be written fails alone: the node goes
//! on, and its log is kept. All that waits for the disk is done on a thread of its own, also what
//! the next set is written into: its directory, its files and their buffers.

mod draft;
mod finish;
mod receive;
mod set;
#[cfg(test)]
pub(super) mod tests;

pub use draft::Draft;
pub use finish::bring_back;
pub use receive::Receiving;
pub use set::{
    Damaged, Entry, SectionFile, SectionReader, SetError, SetReader, SnapshotSet, entries,
    file_name, newest_valid, positions, verify,
};

use std::path::{Path, PathBuf};

use coracle_core::snapshot::{Section, SnapshotSink};
use coracle_core::units::{ClusterId, Position};

use super::dir::create_dir;
use super::error::StorageError;
use crate::waker::Waker;
use crate::worker::Worker;
use finish::{Done, Finisher, Job, KEPT, remove};

/// A piece of a section that is to be read into `bytes`.
#[derive(Debug)]
pub struct ReadJob {
    /// Of the set at this position.
    pub position: Position,
    /// The section.
    pub section: Section,
    /// Where in its file.
    pub offset: u64,
    /// How many bytes at most.
    pub len: usize,
    /// Where to.
    pub bytes: Vec<u8>,
}

/// The buffer, and how many bytes at its start were read: fewer than asked for at the section's
/// end.
pub type ReadDone = (Vec<u8>, Result<usize, StorageError>);

/// What came of a set.
#[derive(Debug)]
pub enum Outcome {
    /// It is on the disk: the log below [`SnapshotStore::oldest`] is not needed for a restart any
    /// more.
    Stored(Position),
    /// It was given up; the log is kept.
    Failed(Position, StorageError),
    /// A set that another member has sent is sound and on the disk: the log can be replaced.
    Installed(SnapshotSet),
    /// A set that another member has sent was refused, or could not be kept.
    Refused(Position, StorageError),
}

/// Sets of one member while its node runs.
pub struct SnapshotStore {
    dir: PathBuf,
    worker: Worker<Job, Done>,
    reader: Worker<ReadJob, ReadDone>,
    services: usize,
    /// Where the next set is written to.
    next: Option<Box<Draft>>,
    draft: Option<Box<Draft>>,
    receiving: Option<Receiving>,
    /// What the worker is to do once it is idle.
    waiting: Option<Job>,
    /// The complete, sound sets, in ascending order.
    kept: Vec<Position>,
    stored: u64,
    failed: u64,
}

impl SnapshotStore {
    /// Opens the directory `dir`, which is made if it is missing, for sets of so many services;
    /// removes the drafts of a dead process. `damaged` are the sets that [`newest_valid`] found so:
    /// they do not count as kept.
    ///
    /// # Errors
    /// Any error of the system, with the path.
    pub fn open(
        dir: &Path,
        cluster: ClusterId,
        services: usize,
        damaged: &[Damaged],
        waker: &Waker,
    ) -> Result<Self, StorageError> {
        create_dir(dir)?;
        let damaged: Vec<Position> = damaged.iter().map(|damaged| damaged.position).collect();
        let mut kept = positions(dir)?;
        kept.retain(|position| !damaged.contains(position));
        kept.reserve(KEPT + 1);
        for (entry, path) in entries(dir)? {
            let is_old = match entry {
                Entry::Draft => true,
                Entry::Part(position, _) => kept.last().is_some_and(|newest| position <= *newest),
                Entry::Set(_) => false,
            };
            if is_old {
                remove(&path)?;
            }
        }
        let mut finisher = Finisher {
            dir: dir.to_path_buf(),
            cluster,
            services,
            damaged,
        };
        let next = finisher.next();
        let worker = Worker::spawn("snapshots", waker.clone(), move |job| finisher.run(job))
            .map_err(StorageError::io("start a thread for", dir))?;
        let mut sections = SectionReader::new(dir);
        let reader = Worker::spawn("sending", waker.clone(), move |mut job: ReadJob| {
            let len = job.len.min(job.bytes.len());
            let bytes = &mut job.bytes[..len];
            let read = sections.read(job.position, job.section, job.offset, bytes);
            (job.bytes, read)
        })
        .map_err(StorageError::io("start a thread for", dir))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            worker,
            reader,
            services,
            next,
            draft: None,
            receiving: None,
            waiting: None,
            kept,
            stored: 0,
            failed: 0,
        })
    }

    /// Begins a set, in the place that was made for it. False, and nothing is done, while another
    /// one is written or received, or the thread is busy: ask again.
    ///
    /// # Errors
    /// There is no place: its directory or files could not be made, nor can they be now. This set
    /// has failed.
    pub fn begin(&mut self, position: Position) -> Result<bool, StorageError> {
        if self.draft.is_some() || self.receiving.is_some() || !self.is_idle() {
            return Ok(false);
        }
        let next = self.next.take();
        match next.map_or_else(|| Draft::create(&self.dir, self.services), Ok) {
            Ok(mut draft) => {
                draft.position = position;
                self.draft = Some(draft);
                Ok(true)
            }
            Err(error) => {
                self.failed += 1;
                Err(error.of_snapshot())
            }
        }
    }

    /// Where the set that was begun is written to.
    pub fn sink(&mut self) -> Option<&mut dyn SnapshotSink> {
        self.draft
            .as_mut()
            .map(|draft| draft.as_mut() as &mut dyn SnapshotSink)
    }

    /// Whether the disk keeps up: while it does not, writing more of a set would make the log's own
    /// flushes wait. A set that cannot be written in steps need not ask.
    pub fn is_ready_for_more(&self) -> bool {
        self.draft.as_ref().is_some_and(|draft| draft.is_level())
    }

    /// All sections of the set that was begun are written: [`Self::poll`] says what came of it.
    /// Without one nothing happens.
    pub fn finish(&mut self) {
        if let Some(draft) = self.draft.take() {
            self.waiting = Some(Job::Store(draft));
            self.go_on();
        }
    }

    /// Gives the set that was begun up: a write has failed, or the service. What is returned is the
    /// system's reason with the file's path, if it was a write.
    pub fn abandon(&mut self) -> Option<StorageError> {
        let mut draft = self.draft.take()?;
        self.failed += 1;
        let error = draft.take_error();
        self.waiting = Some(Job::GiveUp(draft));
        self.go_on();
        error.map(StorageError::of_snapshot)
    }

    /// A set that a process which has ended had begun to receive: its position and digest.
    ///
    /// # Errors
    /// Any error of the system, with the directory's path.
    pub fn part(&self) -> Result<Option<(Position, u64)>, StorageError> {
        let parts = entries(&self.dir)?.into_iter();
        Ok(parts
            .filter_map(|(entry, _)| match entry {
                Entry::Part(position, digest) => Some((position, digest)),
                Entry::Set(_) | Entry::Draft => None,
            })
            .next_back())
    }

    /// Begins to receive the set whose consensus section has this digest, or goes on with it, also
    /// of a process that has ended. False, and nothing is done, while a set is written or the
    /// thread is busy: ask again.
    ///
    /// # Errors
    /// Any error of the system, with the path.
    pub fn receive(&mut self, position: Position, digest: u64) -> Result<bool, StorageError> {
        let is_this = |r: &Receiving| (r.position, r.digest) == (position, digest);
        if self.receiving.as_ref().is_some_and(is_this) {
            return Ok(true);
        }
        if self.draft.is_some() || !self.is_idle() {
            return Ok(false);
        }
        self.receiving = None;
        let this = Entry::Part(position, digest);
        let is_other = |entry: &Entry| matches!(entry, Entry::Part(..)) && *entry != this;
        let mut parts = entries(&self.dir)?.into_iter();
        if let Some((_, path)) = parts.find(|(entry, _)| is_other(entry)) {
            self.waiting = Some(Job::Remove(path));
            self.go_on();
            return Ok(false);
        }
        self.receiving = Some(Receiving::open(&self.dir, position, digest)?);
        Ok(true)
    }

    /// What was received is not wanted any more: the log came to this member instead. The thread
    /// deletes it.
    pub fn give_up_receiving(&mut self) {
        if let Some(part) = self.receiving.take() {
            self.waiting = Some(Job::Remove(part.path));
            self.go_on();
        }
    }

    /// The set that is being received.
    pub fn receiving(&mut self) -> Option<&mut Receiving> {
        self.receiving.as_mut()
    }

    /// All of the set that is being received is there: [`Self::poll`] says whether it is sound and
    /// stored. Without one nothing happens.
    pub fn finish_receiving(&mut self) {
        if let Some(receiving) = self.receiving.take() {
            self.waiting = Some(Job::Install {
                position: receiving.position,
                part: receiving.path.clone(),
                files: receiving.close(),
            });
            self.go_on();
        }
    }

    /// One turn: what came of a set, once that is known. Bounded.
    pub fn poll(&mut self) -> Option<Outcome> {
        let outcome = self.worker.poll().and_then(|done| self.handle(done));
        self.go_on();
        outcome
    }

    /// Gives the thread something to do, if it has nothing.
    fn go_on(&mut self) {
        if !self.worker.is_idle() {
            return;
        }
        if let Some(job) = self.waiting.take() {
            self.worker.submit(job);
        } else if let Some(piece) = self.draft.as_mut().and_then(|draft| draft.take_piece()) {
            self.worker.submit(Job::Piece(piece));
        }
    }

    /// Starts to read a piece of a set, to be sent to another member; unless one is being read:
    /// then the job comes back.
    pub fn read(&mut self, job: ReadJob) -> Option<ReadJob> {
        if !self.reader.is_idle() {
            return Some(job);
        }
        self.reader.submit(job);
        None
    }

    /// The piece, once it is read.
    pub fn poll_read(&mut self) -> Option<ReadDone> {
        self.reader.poll()
    }

    /// Whether `poll` or `poll_read` has something to tell.
    pub fn is_ready(&self) -> bool {
        self.worker.is_done() || self.reader.is_done()
    }

    /// The position of the newest set.
    pub fn newest(&self) -> Option<Position> {
        self.kept.last().copied()
    }

    /// The position of the oldest set that is kept to fall back to: below it, no restart needs the
    /// log.
    pub fn oldest(&self) -> Option<Position> {
        self.kept.first().copied()
    }

    /// How many sets were stored, and how many were given up.
    pub fn counts(&self) -> (u64, u64) {
        (self.stored, self.failed)
    }

    fn is_idle(&self) -> bool {
        self.worker.is_idle() && self.waiting.is_none()
    }

    fn keep(&mut self, position: Position) {
        if !self.kept.contains(&position) {
            self.kept.push(position);
            self.kept.sort_unstable();
        }
        let superfluous = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..superfluous);
    }

    fn handle(&mut self, done: Done) -> Option<Outcome> {
        match done {
            Done::Removed(Ok(())) => None,
            Done::Piece(piece, written) => {
                let draft = match &mut self.waiting {
                    Some(Job::Store(draft)) => Some(draft),
                    _ => self.draft.as_mut(),
                };
                if let Some(draft) = draft {
                    draft.give_back(piece, written);
                }
                None
            }
            Done::GivenUp(removed, next) => {
                self.next = next;
                self.handle(Done::Removed(removed))
            }
            Done::Removed(Err(error)) => {
                tracing::warn!(%error, "a snapshot of no use was not deleted");
                None
            }
            Done::Stored(position, Ok(()), next) => {
                self.next = next;
                self.stored += 1;
                self.keep(position);
                Some(Outcome::Stored(position))
            }
            Done::Stored(position, Err(error), next) => {
                self.next = next;
                self.failed += 1;
                Some(Outcome::Failed(position, error.of_snapshot()))
            }
            Done::Installed(position, Ok(set)) => {
                self.keep(position);
                Some(Outcome::Installed(set))
            }
            Done::Installed(position, Err(error)) => Some(Outcome::Refused(position, error)),
        }
    }
}

impl Drop for SnapshotStore {
    /// A member that closes leaves nothing that it has not begun.
    fn drop(&mut self) {
        if let Some(next) = self.next.take() {
            // The next start tries it again.
            drop(next.unmake());
        }
    }
}
