//! What the log files hold when a node starts: the core's recovery, fed from the files.

use std::path::Path;

use coracle_core::log::{
    Log, Recovered, Recovery, RecoveryError, Seed, Slot, Window, segment_base,
};
use coracle_core::units::{ClusterId, Position};

use super::dir::segment_bases;
use super::error::StorageError;
use super::segment::{Segment, VERSION};
use super::state::sector_error;

/// Bytes read at once: more than the largest frame.
const CHUNK: usize = 1 << 20;

/// Reads the whole log, decides what of it may be believed, and loads the tail into `window`.
///
/// # Errors
/// Files of another cluster, of a newer version, damaged below what was confirmed durable, or any
/// error of the system. Nothing was changed then.
pub fn recover(
    log: &Path,
    cluster: ClusterId,
    window: &mut Window<Vec<u8>>,
) -> Result<Recovered, StorageError> {
    let segment_length = window.segment_length();
    let bases = segment_bases(log)?;
    let mut slot = None;
    for (at, base) in bases.iter().enumerate() {
        let segment = Segment::open(&log.join(Segment::name(*base)), false)?;
        segment.belongs(cluster.0, segment_length)?;
        if *base != at as u64 * u64::from(segment_length) {
            return Err(damaged(log, format!("the file before {base} is missing")));
        }
        for bytes in segment.read_slots()? {
            slot = Slot::newest(slot, Slot::decode(&bytes)).map_err(|error| {
                sector_error(segment.path().to_path_buf(), error, Slot::VERSION)
            })?;
        }
    }
    let refused = |error| refusal(log, error);
    let seed = Seed::genesis(cluster);
    let capacity = window.capacity();
    let mut recovery =
        Recovery::new(cluster, segment_length, seed, slot, capacity).map_err(refused)?;
    let mut reader = Reader::new(log, segment_length);
    let mut bytes = vec![0; CHUNK];
    while let Some(at) = recovery.wanted() {
        let len = reader.read(at, &mut bytes)?;
        recovery.feed(&bytes[..len]);
    }
    let recovered = recovery.finish().map_err(refused)?;
    if let Some(at) = recovered.corrupt {
        return Err(damaged(
            log,
            format!("the frame at position {at}, which was durable, cannot be read"),
        ));
    }
    recovered.open_window(window);
    while window.end() < recovered.tail.end {
        let len = reader.read(window.end(), &mut bytes)?;
        let wanted = (recovered.tail.end.since(window.end()) as usize).min(len);
        if window.fill(&bytes[..wanted]) == 0 {
            return Err(damaged(log, format!("position {} changed", window.end())));
        }
    }
    Ok(recovered)
}

/// The chain of the last frame below `at`, by a walk from the start of its segment. For the rare
/// truncation below the window.
///
/// # Errors
/// Any error of the system.
pub fn chain_below(
    log: &Path,
    at: Position,
    segment_length: u32,
) -> Result<Option<u32>, StorageError> {
    let mut reader = Reader::new(log, segment_length);
    let mut bytes = vec![0; CHUNK];
    let mut from = segment_base(at.minus(1), segment_length);
    let mut chain = None;
    while from < at {
        let len = reader.read(from, &mut bytes)?;
        let len = len.min(at.since(from) as usize);
        let before = from;
        for frame in coracle_core::log::Frames::new(&bytes[..len], from, segment_length).verified()
        {
            chain = Some(frame.chain);
            from = frame.end();
        }
        if from == before {
            return Ok(None);
        }
    }
    Ok(chain.filter(|_| from == at))
}

/// Reads log bytes, wherever they are, keeping the last file open.
#[derive(Debug)]
pub struct Reader {
    log: std::path::PathBuf,
    segment_length: u32,
    open: Option<Segment>,
}

impl Reader {
    /// Of the files in the directory `log`.
    pub fn new(log: &Path, segment_length: u32) -> Self {
        Self {
            log: log.to_path_buf(),
            segment_length,
            open: None,
        }
    }

    /// Reads the bytes at `at`, as many as fit and are in the same file; 0 if there is no file.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn read(&mut self, at: Position, bytes: &mut [u8]) -> Result<usize, StorageError> {
        let base = segment_base(at, self.segment_length).get();
        if self.open.as_ref().is_none_or(|s| s.label().base != base) {
            let path = self.log.join(Segment::name(base));
            if !path.exists() {
                return Ok(0);
            }
            self.open = Some(Segment::open(&path, false)?);
        }
        let Some(segment) = &self.open else {
            return Ok(0);
        };
        let offset = at.get() - base;
        let left = u64::from(self.segment_length) - offset;
        let len = (left as usize).min(bytes.len());
        segment.read_data(offset, &mut bytes[..len])?;
        Ok(len)
    }
}

fn damaged(log: &Path, what: String) -> StorageError {
    let path = log.to_path_buf();
    StorageError::Damaged { path, what }
}

fn refusal(log: &Path, error: RecoveryError) -> StorageError {
    match error {
        RecoveryError::WindowTooSmall(needed) => StorageError::Window {
            path: log.to_path_buf(),
            needed,
        },
        other => damaged(log, format!("{other:?} (log format {VERSION})")),
    }
}
