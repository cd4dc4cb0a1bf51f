//! Where the log's oldest files are set aside, and those set aside deleted: on a thread of its own.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Instant;

use coracle_core::units::Position;

use super::super::error::StorageError;
use super::super::spares::{self, Spares};
use super::readers::Readers;
use crate::waker::Waker;
use crate::worker::Worker;

enum Job {
    /// What is below becomes spares.
    Below(Position),
    /// These spares are deleted.
    Spares(Range<u64>),
}

/// See the module's text.
pub(super) struct Purger {
    /// Says where the log starts, if that is news.
    worker: Worker<Job, Result<Option<Position>, StorageError>>,
    /// No byte below is there, or will be soon.
    gone: Position,
    /// No spare is kept until then.
    none_until: Option<Instant>,
}

impl Purger {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses it.
    pub(super) fn new(
        log: PathBuf,
        segment_length: u32,
        readers: &Readers,
        waker: &Waker,
    ) -> io::Result<Self> {
        let readers = readers.shared();
        let worker = Worker::spawn("purge", waker.clone(), move |job| match job {
            Job::Below(limit) => {
                spares::set_aside_below(&log, limit.get())?;
                // From here on nobody finds them by their names.
                for reader in &readers {
                    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                    reader.forget_below(limit);
                }
                Ok(Some(limit))
            }
            Job::Spares(bases) => spares::remove(&log, bases, segment_length).map(|()| None),
        })?;
        Ok(Self {
            worker,
            gone: Position::ZERO,
            none_until: None,
        })
    }

    /// No byte below is there, or will be soon.
    pub(super) fn gone(&self) -> Position {
        self.gone
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.worker.is_idle()
    }

    /// Whether there is something to be polled for.
    pub(super) fn is_done(&self) -> bool {
        self.worker.is_done()
    }

    /// Starts to set aside what is below. Only while idle.
    pub(super) fn purge(&mut self, limit: Position) {
        self.gone = limit;
        self.worker.submit(Job::Below(limit));
    }

    /// Where the log starts now, if that was what was done.
    pub(super) fn poll(&mut self) -> Option<Result<Position, StorageError>> {
        self.worker.poll().and_then(Result::transpose)
    }

    /// From now on until then all spares are deleted.
    pub(super) fn keep_none_until(&mut self, until: Instant) {
        self.none_until = Some(until);
    }

    /// Starts to delete those that take up `surplus` bytes, or all if none is to be kept. Only
    /// while idle.
    pub(super) fn remove_some(&mut self, spares: &mut Spares, surplus: u64) {
        let is_none_kept = self.none_until.is_some_and(|until| Instant::now() < until);
        let bases = match is_none_kept {
            true => spares.take_all(),
            false => spares.take_beyond(surplus),
        };
        if !bases.is_empty() {
            self.worker.submit(Job::Spares(bases));
        }
    }

    /// Waits for the thread, whatever comes of it.
    pub(super) fn wait(&mut self) {
        drop(self.worker.wait());
    }
}
