//! What a node starts from: its newest sound snapshot and the log that goes on from there.
//!
//! A set that was received gets its name before the log is touched, so after a crash in between the
//! rule below finds a log that does not reach the set, or is of another history, and ends what was
//! begun: the log is replaced by one that starts at the set's position.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use coracle_core::log::{Log, NodeState, Recovered, Seed, Window, segment_base};
use coracle_core::units::{ClusterId, Position, Term};

use super::dir::{DataDir, exists, segment_bases};
use super::error::StorageError;
use super::label::Label;
use super::recover::{recover, recover_above, seed_at};
use super::segment::{Fill, Segment, sync_dir};
use super::snapshots::{Damaged, SnapshotSet, newest_valid};
use super::spares::remove_below;
use super::unreadable::is_unreadable;

/// What is known of a log, beside a snapshot's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
    /// The chain of the frame that ends at the snapshot's position; `None` if that is not in the
    /// log, no frame's end, or just the start, before which there is no frame.
    pub chain: Option<u32>,
}

/// Why a log is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not reach the snapshot: that was received, and all that this log has is below.
    EndsBelow,
    /// It has another history there: what a quorum has is in the snapshot.
    OtherHistory,
    /// It starts above the snapshot: a newer one is lost. What this member has acknowledged above
    /// the snapshot is given up, so it must not vote, nor stand, until others have given it back.
    StartsAbove,
}

/// What is done with the log at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is kept; what is above the snapshot is executed again.
    Keep,
    /// It is replaced by an empty one at the snapshot's position.
    Replace(Reason),
    /// The log does not start at 0, and no snapshot says what was before.
    SnapshotMissing,
}

/// Decides by the newest sound snapshot, if there is one, and the log.
pub fn plan(snapshot: Option<Seed>, log: Extent) -> Plan {
    let Some(seed) = snapshot else {
        return match log.start {
            Position::ZERO => Plan::Keep,
            _ => Plan::SnapshotMissing,
        };
    };
    if log.end < seed.position {
        return Plan::Replace(Reason::EndsBelow);
    }
    if log.start > seed.position {
        return Plan::Replace(Reason::StartsAbove);
    }
    // A log that starts there has nothing to compare: its frames were checked against the seed.
    if log.start < seed.position && log.chain != seed.chain {
        return Plan::Replace(Reason::OtherHistory);
    }
    Plan::Keep
}

/// What a node starts from.
#[derive(Debug)]
pub struct Opened {
    /// The log; the window is loaded with its tail.
    pub recovered: Recovered,
    /// The newest sound snapshot.
    pub snapshot: Option<SnapshotSet>,
    /// Damaged snapshots above it, to be told to the operator.
    pub damaged: Vec<Damaged>,
    /// Why the log was replaced, if it was.
    pub replaced: Option<Reason>,
}

/// Finds the newest sound snapshot, recovers the log into `window`, and replaces it if it does not
/// go with the snapshot. A member whose vote counts, by its `state`, must not forget what it has
/// acknowledged: where the log would be replaced all the same ([`Reason::StartsAbove`]), that is
/// [`StorageError::SnapshotMissing`].
///
/// # Errors
/// [`StorageError::LogLost`] if no file of the log is there and there should be. See
/// [`newest_valid`] and [`recover`], and any error of the system.
pub fn open(
    dir: &DataDir,
    state: &NodeState,
    window: &mut Window<Vec<u8>>,
) -> Result<Opened, StorageError> {
    let (log, segment_length) = (dir.log(), window.segment_length());
    let (cluster, may_forget) = (state.cluster, !state.votes);
    // A set that has its name may not have it on the disk yet: before anything is done because of
    // it, it has.
    if exists(&dir.snapshots())? {
        sync_dir(&dir.snapshots())?;
    }
    let (snapshot, damaged) = newest_valid(&dir.snapshots(), cluster)?;
    if let Some(set) = &snapshot {
        belongs(set, segment_length)?;
    }
    let seed = snapshot.as_ref().map(SnapshotSet::seed);
    require_log(&log, state, seed, segment_length)?;
    let mut recovered = recover(&log, cluster, seed, window)?;
    keep_slot(&log, &recovered)?;
    let mut extent = Extent {
        start: recovered.start.position,
        end: recovered.tail.end,
        chain: None,
    };
    if let Some(seed) = seed
        && seed.position <= extent.end
    {
        let is_below = recovered.corrupt.is_some_and(|at| at < seed.position);
        let found = match seed_at(&log, extent.start, seed.position, segment_length) {
            Err(error) if is_below && is_unreadable(&error) => None,
            found => found?,
        };
        extent.chain = found.and_then(|found| found.chain);
        // Where the log is damaged it cannot be compared, and is not thrown away for that: what is
        // healed is checked against the chain behind the damage. Behind it, it can.
        let is_damaged = is_below && recovered.agrees != Some(false);
        if is_damaged && extent.chain.is_none() {
            extent.chain = seed.chain;
        }
    }
    let missing = || StorageError::SnapshotMissing {
        path: dir.snapshots(),
        start: extent.start.get(),
    };
    let replaced = match (plan(seed, extent), seed) {
        (Plan::Keep, Some(seed)) if is_needless(&recovered, seed) => {
            // It is in the snapshot: nobody is asked for what is damaged below.
            remove_below(&log, segment_base(seed.position, segment_length).get())?;
            recovered = recover_above(&log, cluster, seed, window)?;
            None
        }
        (Plan::Keep, _) => None,
        (Plan::Replace(Reason::StartsAbove), _) if !may_forget => return Err(missing()),
        (Plan::Replace(reason), Some(seed)) => {
            replace_log(&log, cluster, segment_length, seed.position)?;
            recovered = recover(&log, cluster, Some(seed), window)?;
            Some(reason)
        }
        (Plan::SnapshotMissing | Plan::Replace(_), _) => return Err(missing()),
    };
    replacing_ended(&log)?;
    Ok(Opened {
        recovered,
        snapshot,
        damaged,
        replaced,
    })
}

/// A member has a file of its log before it has a state, and from then on one at any time, but
/// while its log is replaced. So one that has no file has lost its log, and with it what it has
/// acknowledged. That cannot be anything if it never had a term: builds before made such members
/// without a file, so it is made here.
fn require_log(
    log: &Path,
    state: &NodeState,
    snapshot: Option<Seed>,
    segment_length: u32,
) -> Result<(), StorageError> {
    if !segment_bases(log)?.is_empty() {
        return Ok(());
    }
    if state.term == Term::ZERO {
        let label = Label::starting_at(0, state.cluster.0, segment_length);
        return Segment::create(log, label, Fill::Written).map(drop);
    }
    let by = replaced_by(log)?;
    if by.is_some_and(|by| snapshot.is_some_and(|seed| seed.position >= by)) {
        return Ok(());
    }
    let path = log.to_path_buf();
    Err(StorageError::LogLost { path })
}

/// What says that damaged bytes were durable may be in the page cache alone, after a process was
/// killed. Were it lost with the power, damage at the end of the log would be taken for a write
/// that was cut, and what was acknowledged for what never was. So it is written again, and flushed,
/// before anything is done with such a log.
fn keep_slot(log: &Path, recovered: &Recovered) -> Result<(), StorageError> {
    let (Some(_), Some(slot)) = (recovered.corrupt, recovered.slot) else {
        return Ok(());
    };
    let path = log.join(Segment::name(slot.segment.get()));
    let segment = Segment::open(&path, true)?;
    segment.write_slot(&slot)?;
    segment.flush()
}

/// Whether the damage begins below a snapshot, and the log goes on above: then the newest slot is
/// in a file that stays. (At the end of what is confirmed, the core heals by the snapshot itself.)
fn is_needless(recovered: &Recovered, snapshot: Seed) -> bool {
    let at = snapshot.position;
    recovered.corrupt.is_some_and(|corrupt| corrupt < at) && at < recovered.confirmed
}

/// The file in the log's directory that says, in digits, by a snapshot of which position the log
/// is being replaced.
const REPLACING: &str = "replacing";
const DIGITS: usize = 20;

/// The position of the snapshot by which the log was being replaced when the last process ended.
fn replaced_by(log: &Path) -> Result<Option<Position>, StorageError> {
    let path = log.join(REPLACING);
    if !exists(&path)? {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(StorageError::io("read", &path))?;
    // If it was cut off, no file of the log was deleted yet.
    let is_whole = bytes.len() == DIGITS;
    let text = str::from_utf8(&bytes).ok().filter(|_| is_whole);
    Ok(text.and_then(|text| text.parse().ok()).map(Position::new))
}

fn replacing_begins(log: &Path, by: Position) -> Result<(), StorageError> {
    let path = log.join(REPLACING);
    let mut file = File::create(&path).map_err(StorageError::io("create", &path))?;
    let digits = format!("{:0width$}", by.get(), width = DIGITS);
    file.write_all(digits.as_bytes())
        .map_err(StorageError::io("write", &path))?;
    file.sync_all().map_err(StorageError::io("flush", &path))?;
    sync_dir(log)
}

fn replacing_ended(log: &Path) -> Result<(), StorageError> {
    let path = log.join(REPLACING);
    if exists(&path)? {
        std::fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
        sync_dir(log)?;
    }
    Ok(())
}

/// Replaces the log by an empty one that starts at `start`, the position of a snapshot that is
/// complete on the disk. The newest file is deleted first: what a crash leaves ends below where it
/// did, and starts where it did. That no file is there in between is said by another file.
///
/// No [`LogStore`](super::LogStore) of that directory may be open: it would go on with deleted
/// files.
///
/// # Errors
/// Any error of the system, with the file's path; it is done again at the next start.
pub fn replace_log(
    log: &Path,
    cluster: ClusterId,
    segment_length: u32,
    start: Position,
) -> Result<(), StorageError> {
    replacing_begins(log, start)?;
    for base in segment_bases(log)?.into_iter().rev() {
        let path = log.join(Segment::name(base));
        std::fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
        sync_dir(log)?;
    }
    let label = Label::starting_at(start.get(), cluster.0, segment_length);
    Segment::create(log, label, Fill::Written)?;
    replacing_ended(log)
}

fn belongs(set: &SnapshotSet, segment_length: u32) -> Result<(), StorageError> {
    if set.begin.segment_length == segment_length {
        return Ok(());
    }
    Err(StorageError::Foreign {
        path: set.path.clone(),
        what: "segment length",
        expected: segment_length.into(),
        found: set.begin.segment_length.into(),
    })
}

#[cfg(test)]
mod tests;
