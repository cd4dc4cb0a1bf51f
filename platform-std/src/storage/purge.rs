//! Deleting the log's oldest files.

use std::path::Path;

use coracle_core::log::Seed;
use coracle_core::units::{Position, Term};

use super::dir::segment_bases;
use super::error::StorageError;
use super::recover::seed_at;
use super::segment::{Segment, sync_dir};

/// Which files are to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct PurgeJob {
    /// Where the log starts.
    pub start: Position,
    /// Where it is to start: the base of a segment.
    pub limit: Position,
    /// Bytes of stream in each file.
    pub segment_length: u32,
}

/// Deletes the files below the limit, oldest first, so that a crash leaves a log without a hole.
/// Says where the log starts now, and after which frame, as far as that can still be read.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn purge(log: &Path, job: PurgeJob) -> Result<Seed, StorageError> {
    let seed = seed_at(log, job.start, job.limit, job.segment_length)?;
    remove_below(log, job.limit.get())?;
    Ok(seed.unwrap_or(Seed {
        position: job.limit,
        chain: None,
        term: Term::ZERO,
    }))
}

/// Deletes the files that end at or below `limit`, oldest first.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn remove_below(log: &Path, limit: u64) -> Result<(), StorageError> {
    for base in segment_bases(log)?
        .into_iter()
        .take_while(|base| *base < limit)
    {
        let path = log.join(Segment::name(base));
        std::fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
    }
    sync_dir(log)
}
