//! What the log files hold when a node starts: the core's recovery, fed from the files.

use std::path::Path;

use coracle_core::log::{
    FrameError, Frames, Log, Recovered, Recovery, RecoveryError, Seed, Slot, Window, segment_base,
};
use coracle_core::units::{ClusterId, Position, Term};

use super::dir::{exists, segment_bases};
use super::error::StorageError;
use super::label::VERSION;
use super::segment::Segment;
use super::slots::Newest;
use super::unreadable;

/// Bytes read at once: more than the largest frame, and few enough to be in a cache yet when they
/// are looked at.
const CHUNK: usize = 256 << 10;

/// Reads the whole log, decides what of it may be believed, and loads the tail into `window`. The
/// log may start anywhere: `known` is what a snapshot says of its own position, and is used if the
/// log starts just there, and compared if it does not. Without any file the log is empty and starts
/// at 0.
///
/// What is damaged, or cannot be read, below what was confirmed durable is in
/// [`Recovered::corrupt`]: the node has it healed from the others.
///
/// # Errors
/// Files of another cluster, of a newer version, missing between others, or any error of the
/// system. Nothing was changed then.
pub fn recover(
    log: &Path,
    cluster: ClusterId,
    known: Option<Seed>,
    window: &mut Window<Vec<u8>>,
) -> Result<Recovered, StorageError> {
    let segment_length = window.segment_length();
    let (start, slot) = examine(log, cluster, segment_length)?;
    let seed = match known {
        _ if start == Position::ZERO => Seed::genesis(cluster),
        Some(seed) if seed.position == start => seed,
        _ => Seed {
            position: start,
            chain: None,
            term: Term::ZERO,
        },
    };
    scan(log, cluster, (seed, known), slot, window)
}

/// The same, of the part above `seed` alone, which is a snapshot's: what is below is needed by
/// nobody here.
///
/// # Errors
/// As above.
pub fn recover_above(
    log: &Path,
    cluster: ClusterId,
    seed: Seed,
    window: &mut Window<Vec<u8>>,
) -> Result<Recovered, StorageError> {
    let (_, slot) = examine(log, cluster, window.segment_length())?;
    scan(log, cluster, (seed, None), slot, window)
}

fn scan(
    log: &Path,
    cluster: ClusterId,
    (seed, snapshot): (Seed, Option<Seed>),
    slot: Option<Slot>,
    window: &mut Window<Vec<u8>>,
) -> Result<Recovered, StorageError> {
    let refused = |error| refusal(log, error);
    let (segment_length, capacity) = (window.segment_length(), window.capacity());
    let mut recovery =
        Recovery::new(cluster, segment_length, seed, slot, capacity).map_err(refused)?;
    if let Some(snapshot) = snapshot {
        recovery.compare(snapshot);
    }
    let mut reader = Reader::new(log, segment_length);
    let mut bytes = vec![0; CHUNK];
    let certain = slot.map_or(Position::ZERO, |slot| slot.confirmed);
    let (mut last, mut behind) = ((Position::ZERO, 0), None);
    while let Some(at) = recovery.wanted() {
        let (len, error) = unreadable::read(&mut reader, at, &mut bytes, certain)?;
        recovery.feed(&bytes[..len]);
        (last, behind) = ((at, len), error);
    }
    let recovered = recovery.finish().map_err(refused)?;
    let end = recovered.tail.end;
    if let Some(error) = behind {
        let (at, len) = last;
        let rest = &bytes[(end.since(at) as usize).min(len)..len];
        let mut frames = Frames::new(rest, end, segment_length).verified();
        // A frame that begins there goes on in what cannot be read.
        if frames.next().is_none() && frames.error() == Some(FrameError::Cut) {
            return Err(error);
        }
        tracing::warn!(end = end.get(), "that part of the log is behind its end");
    }
    recovered.open_window(window).map_err(refused)?;
    while window.end() < end {
        let wanted = (end.since(window.end()) as usize).min(bytes.len());
        let len = reader.read(window.end(), &mut bytes[..wanted])?;
        if window.fill(&bytes[..len]) == 0 {
            return Err(damaged(log, format!("position {} changed", window.end())));
        }
    }
    Ok(recovered)
}

/// Where the log starts, and the newest slot of all its files: each is ours, and none is missing
/// between others.
fn examine(
    log: &Path,
    cluster: ClusterId,
    segment_length: u32,
) -> Result<(Position, Option<Slot>), StorageError> {
    let (mut start, mut newest) = (Position::ZERO, Newest::default());
    let mut expected = None;
    for base in segment_bases(log)? {
        let segment = Segment::open(&log.join(Segment::name(base)), false)?;
        segment.belongs(cluster.0, segment_length)?;
        let expected = expected.replace(base + u64::from(segment_length));
        if expected.is_some_and(|expected| expected != base) {
            let path = log.join(Segment::name(expected.unwrap_or(0)));
            return Err(StorageError::SegmentMissing { path });
        }
        let label = segment.label();
        // Only the first file of a log may begin in its middle.
        let is_start = expected.is_none() || label.start == base;
        if label.base != base || !is_start {
            let path = segment.path().to_path_buf();
            let what = format!("it says that it starts at position {}", label.start);
            return Err(StorageError::Damaged { path, what });
        }
        if expected.is_none() {
            start = Position::new(label.start);
        }
        newest.look(segment)?;
    }
    Ok((start, newest.found()?))
}

/// Below this, all of the log was durable for certain: its newest slot says so. `None` if there is
/// no slot. For who only looks, also into a running member's directory: a file that is deleted
/// meanwhile, or cannot be opened, is passed over, and told of by whoever reads the frames in it.
///
/// # Errors
/// A newer version, or any error of the system.
pub fn confirmed(log: &Path) -> Result<Option<Position>, StorageError> {
    let mut newest = Newest::default();
    for base in segment_bases(log)? {
        let Ok(segment) = Segment::open(&log.join(Segment::name(base)), false) else {
            continue;
        };
        newest.look(segment)?;
    }
    Ok(newest.found()?.map(|slot| slot.confirmed))
}

/// What stands before the frame boundary `at` of a log that starts at `start`: the chain and term
/// of the last frame below, by a walk from the start of its segment. For the rare truncation below
/// the window, and where a log is purged. `None` if the frames do not lead there; so at `start`.
///
/// # Errors
/// Any error of the system.
pub fn seed_at(
    log: &Path,
    start: Position,
    at: Position,
    segment_length: u32,
) -> Result<Option<Seed>, StorageError> {
    let mut reader = Reader::new(log, segment_length);
    let mut bytes = vec![0; CHUNK];
    let mut seed = None;
    let mut from = segment_base(at.minus(1), segment_length).max(start);
    while from < at {
        let wanted = (at.since(from) as usize).min(bytes.len());
        let len = reader.read(from, &mut bytes[..wanted])?;
        let before = from;
        let chain = seed.and_then(|seed: Seed| seed.chain);
        for frame in Frames::new(&bytes[..len], from, segment_length)
            .verified()
            .linked(chain)
        {
            from = frame.end();
            seed = Some(Seed {
                position: from,
                chain: Some(frame.chain),
                term: frame.term,
            });
        }
        if from == before {
            return Ok(None);
        }
    }
    Ok(seed.filter(|seed| seed.position == at))
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

    /// Reads the bytes at `at`, as many as fit and are in the same file; 0 if there is no file, or
    /// none below where it starts. A file that is deleted while it is open is read on: see
    /// [`Self::forget_below`].
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn read(&mut self, at: Position, bytes: &mut [u8]) -> Result<usize, StorageError> {
        let base = segment_base(at, self.segment_length).get();
        if self.open.as_ref().is_none_or(|s| s.label().base != base) {
            let path = self.log.join(Segment::name(base));
            if !exists(&path)? {
                return Ok(0);
            }
            self.open = Some(Segment::open(&path, false)?);
        }
        let Some((segment, offset, len)) = self.place(at, bytes.len()) else {
            return Ok(0);
        };
        segment.read_data(offset, &mut bytes[..len])?;
        Ok(len)
    }

    /// Lets go of the file that is open if its bytes are all below `limit`: it is about to become
    /// another one.
    pub fn forget_below(&mut self, limit: Position) {
        self.open
            .take_if(|segment| segment.label().base < limit.get());
    }

    /// As [`Self::read`], if the file is the one that is open, and the system has all of these
    /// bytes in memory. Waits for no disk.
    pub fn read_cached(&self, at: Position, bytes: &mut [u8]) -> Option<usize> {
        let (segment, offset, len) = self.place(at, bytes.len())?;
        segment
            .read_cached(offset, &mut bytes[..len])
            .then_some(len)
    }

    /// Where in the open file the bytes at `at` are, and how many of `len`; `None` if they are not.
    fn place(&self, at: Position, len: usize) -> Option<(&Segment, u64, usize)> {
        let segment = self.open.as_ref()?;
        let label = segment.label();
        let offset = at.get().checked_sub(label.base)?;
        let left = u64::from(self.segment_length).checked_sub(offset)?;
        let len = len.min(left as usize);
        (at.get() >= label.start && len > 0).then_some((segment, offset, len))
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
