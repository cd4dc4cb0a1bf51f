//! Deleting the log's oldest files.

use std::path::Path;

use super::dir::segment_bases;
use super::error::StorageError;
use super::segment::{Segment, sync_dir};

/// Deletes the files that end at or below `limit`, oldest first, so that a crash leaves a log
/// without a hole. What is in them is not looked at: nobody needs it, sound or not.
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
