//! The log's oldest files: deleted, or kept to become its next ones.
//!
//! A file that was written before has its blocks, and as long as the system has them in memory a
//! write needs no new memory either: at full load that is what a write costs most. And where
//! flushes are waited for, no zeros have to be written first. So a file that is purged gets another
//! name, with which it is no file of the log, and waits to be made the next one
//! ([`Segment::recycle`]). All of them together are never more than the log's bound on the disk:
//! a new file is made only while there is no spare. What the last process has left of them is
//! deleted at start.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir::{list, segment_bases};
use super::error::StorageError;
use super::label::Label;
use super::segment::{self, Fill, HEADER_LENGTH, Segment, sync_dir};

/// What the name of a spare ends with: like that of any draft, so that each version of this program
/// deletes it.
const ENDING: &str = ".old.tmp";

/// Whether it is the name of one.
pub(super) fn is_name(name: &str) -> bool {
    name.ends_with(ENDING)
}

/// The files that wait, by the bases that they had: without a gap, the oldest is used first.
#[derive(Clone, Debug)]
pub(super) struct Spares {
    bases: Range<u64>,
    length: u64,
}

impl Spares {
    /// None yet, of a log with segments of this length.
    pub(super) fn none(segment_length: u32) -> Self {
        Self {
            bases: 0..0,
            length: segment_length.into(),
        }
    }

    /// The files with bases in `from..to` were set aside.
    pub(super) fn add(&mut self, from: u64, to: u64) {
        match self.bases.is_empty() {
            true => self.bases = from..to,
            false => self.bases.end = to,
        }
    }

    /// The one to be used next, which is none any more.
    pub(super) fn take(&mut self) -> Option<u64> {
        let base = self.bases.start;
        (!self.bases.is_empty()).then(|| {
            self.bases.start += self.length;
            base
        })
    }

    /// The oldest, which are none any more: as many as take up at least so many bytes.
    pub(super) fn take_beyond(&mut self, bytes: u64) -> Range<u64> {
        let count = bytes.div_ceil(self.length + HEADER_LENGTH);
        let from = self.bases.start;
        self.bases.start = self.bases.end.min(from + count * self.length);
        from..self.bases.start
    }

    /// All of them, which are none any more.
    pub(super) fn take_all(&mut self) -> Range<u64> {
        std::mem::replace(&mut self.bases, 0..0)
    }

    /// Bytes of stream in each.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// How many bytes of disk they take up.
    pub(super) fn bytes(&self) -> u64 {
        (self.bases.end - self.bases.start) / self.length * (self.length + HEADER_LENGTH)
    }
}

fn path_of(log: &Path, base: u64) -> PathBuf {
    log.join(format!("{base:020}{ENDING}"))
}

/// Deletes the files that end at or below `limit`, oldest first, so that a crash leaves a log
/// without a hole. What is in them is not looked at: nobody needs it, sound or not.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn remove_below(log: &Path, limit: u64) -> Result<(), StorageError> {
    for base in below(log, limit)? {
        let path = log.join(Segment::name(base));
        std::fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
    }
    sync_dir(log)
}

/// The same, but they are spares afterwards. Whoever may still read one must be kept from it before
/// it is used.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn set_aside_below(log: &Path, limit: u64) -> Result<(), StorageError> {
    for base in below(log, limit)? {
        let path = log.join(Segment::name(base));
        std::fs::rename(&path, path_of(log, base)).map_err(StorageError::io("rename", &path))?;
    }
    // Before it becomes another one, on the disk it is none of these any more.
    sync_dir(log)
}

fn below(log: &Path, limit: u64) -> Result<impl Iterator<Item = u64>, StorageError> {
    let bases = segment_bases(log)?;
    Ok(bases.into_iter().take_while(move |base| *base < limit))
}

/// Deletes spares. One that is not there is none.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn remove(log: &Path, bases: Range<u64>, length: u32) -> Result<(), StorageError> {
    for base in bases.step_by(length as usize) {
        remove_if_there(&path_of(log, base))?;
    }
    sync_dir(log)
}

/// Deletes all spares that there are: whose they were, they are nobody's.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn remove_all(log: &Path) -> Result<(), StorageError> {
    for path in list(log)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(is_name) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Opens the file that starts at `base`, which is made if it is missing: of the spare that had the
/// base `spare`, if that can be used, else anew.
///
/// # Errors
/// As [`segment::ensure`].
pub(super) fn ensure(
    log: &Path,
    spare: Option<u64>,
    cluster: u64,
    base: u64,
    segment_length: u32,
    fill: Fill,
) -> Result<Arc<Segment>, StorageError> {
    let Some(spare) = spare.map(|spare| path_of(log, spare)) else {
        return segment::ensure(log, cluster, base, segment_length, fill);
    };
    if !super::dir::exists(&log.join(Segment::name(base)))? {
        let label = Label::starting_at(base, cluster, segment_length);
        match Segment::recycle(log, &spare, label) {
            Ok(segment) => {
                sync_dir(log)?;
                return Ok(Arc::new(segment));
            }
            Err(error) => tracing::warn!(%error, "a file of the log cannot be used again"),
        }
    }
    remove_if_there(&spare)?;
    segment::ensure(log, cluster, base, segment_length, fill)
}

#[cfg(test)]
mod tests;
