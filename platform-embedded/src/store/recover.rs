//! What a start begins with: the newest sound snapshot, and the log that goes on from there.

use coracle_core::log::{Log, Recovered, Recovery, Seed, Window};
use coracle_core::units::{ClusterId, Position, Term};

use super::snapshots::{Begun, Set};
use super::{Store, StoreError};
use crate::device::Storage;

/// So often the log is read before its device is given up.
const READS_MAX: usize = 4;

/// What is done with the log because of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    Keep,
    /// An empty one at the snapshot takes its place: it does not reach there, or has another
    /// history there.
    Replace,
    /// It is damaged below the snapshot, and sound above: what is below is not needed.
    StartAtSnapshot,
    /// Nothing says what was before its first byte.
    SnapshotMissing,
}

fn plan(snapshot: Option<Position>, log: &Recovered) -> Plan {
    let start = log.start.position;
    let Some(at) = snapshot else {
        return match start {
            Position::ZERO => Plan::Keep,
            _ => Plan::SnapshotMissing,
        };
    };
    if log.tail.end < at || log.agrees == Some(false) {
        return Plan::Replace;
    }
    if start > at {
        return Plan::SnapshotMissing;
    }
    match log.corrupt {
        Some(corrupt) if corrupt < at && at < log.confirmed => Plan::StartAtSnapshot,
        _ => Plan::Keep,
    }
}

impl<S: Storage> Store<S> {
    /// Finds the newest sound snapshot, reads the whole log, decides what of it may be believed,
    /// and loads into `window` what has to be written again. A log that does not go with the
    /// snapshot is replaced. `scratch` holds a whole frame of the largest size at least.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn recover<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        cluster: ClusterId,
        window: &mut Window<B>,
        scratch: &mut [u8],
    ) -> Result<Recovered, StoreError<S::Error>> {
        // A flash cell whose write was cut short may read otherwise each time: what was sound when
        // it was scanned is not when it is loaded, and is no part of the log then.
        for _ in 1..READS_MAX {
            let once = self.recover_once(cluster, window, scratch);
            if !matches!(once, Err(StoreError::Unsteady)) {
                return once;
            }
            warn!("the end of the log reads otherwise than a moment ago: once more");
        }
        self.recover_once(cluster, window, scratch)
    }

    fn recover_once<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        cluster: ClusterId,
        window: &mut Window<B>,
        scratch: &mut [u8],
    ) -> Result<Recovered, StoreError<S::Error>> {
        (self.begun, self.blank) = (Begun::Nothing, None);
        let (newest, failed) = self.find_newest(cluster);
        self.newest = newest;
        let capacity = window.capacity();
        let mut recovered = self.scan_log(cluster, capacity, scratch)?;
        match (
            plan(self.newest.map(|set| set.position), &recovered),
            self.newest,
        ) {
            (Plan::Keep, _) => {}
            (Plan::Replace, Some(set)) => {
                warn!(
                    "the log is replaced by the snapshot at {}",
                    set.position.get()
                );
                self.restart_log(set.position)?;
                recovered = self.scan_log(cluster, capacity, scratch)?;
            }
            (Plan::StartAtSnapshot, Some(set)) => {
                self.purge(set.position)?;
                recovered = self.scan_log(cluster, capacity, scratch)?;
            }
            (Plan::SnapshotMissing | Plan::Replace | Plan::StartAtSnapshot, _) => {
                // What could not be read may be read the next time: no reason to give it up.
                return Err(failed.unwrap_or(StoreError::SnapshotMissing));
            }
        }
        if let Some(at) = recovered.corrupt {
            warn!(
                "the log is damaged at {}: others are asked for it",
                at.get()
            );
        }
        self.start_chain = recovered.start.chain;
        self.trusted = recovered.tail.end;
        recovered
            .open_window(window)
            .map_err(StoreError::Recovery)?;
        while window.end() < recovered.tail.end {
            let len = self
                .read(window.end(), scratch)
                .map_err(StoreError::Device)?;
            let left = recovered.tail.end.since(window.end());
            let len = (len as u64).min(left) as usize;
            if window.fill(scratch.get(..len).unwrap_or_default()) == 0 {
                return Err(StoreError::Unsteady);
            }
        }
        Ok(recovered)
    }

    fn scan_log(
        &mut self,
        cluster: ClusterId,
        capacity: u64,
        scratch: &mut [u8],
    ) -> Result<Recovered, StoreError<S::Error>> {
        let start = self.seed(cluster);
        let Some(slot) = self.slot else {
            // Without one nothing was ever acknowledged; what lies there may be of an older log.
            return Ok(Recovered::empty(start));
        };
        let length = self.map.segment_length;
        let mut recovery = Recovery::new(cluster, length, start, Some(slot), capacity)
            .map_err(StoreError::Recovery)?;
        if let Some(set) = self.newest {
            recovery.compare(set.seed());
        }
        while let Some(at) = recovery.wanted() {
            let len = self.read(at, scratch).map_err(StoreError::Device)?;
            recovery.feed(scratch.get(..len).unwrap_or_default());
        }
        recovery.finish().map_err(StoreError::Recovery)
    }

    /// What is known of the log's start.
    fn seed(&self, cluster: ClusterId) -> Seed {
        let start = self.root.start;
        let at_start = |set: &Set| set.position == start;
        match self.newest.filter(at_start) {
            Some(set) => set.seed(),
            None if start == Position::ZERO => Seed::genesis(cluster),
            None => Seed {
                position: start,
                chain: None,
                term: Term::ZERO,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(start: u64, confirmed: u64, end: u64) -> Recovered {
        let at = |position| Seed {
            position: Position::new(position),
            chain: None,
            term: Term::ZERO,
        };
        let mut log = Recovered::empty(at(start));
        log.confirmed = Position::new(confirmed);
        log.tail.end = Position::new(end);
        log
    }

    #[test]
    fn a_log_is_kept_replaced_or_begun_at_the_snapshot() {
        let damaged = |at| Recovered {
            corrupt: Some(Position::new(at)),
            ..log(0, 960, 960)
        };
        let agrees = |agrees| Recovered {
            agrees: Some(agrees),
            ..log(0, 960, 960)
        };
        for (snapshot, log, expected) in [
            (None, log(0, 32, 64), Plan::Keep),
            (None, log(32, 32, 64), Plan::SnapshotMissing),
            (Some(64), log(0, 32, 64), Plan::Keep),
            (Some(96), log(0, 64, 64), Plan::Replace),
            (Some(32), log(64, 64, 64), Plan::SnapshotMissing),
            (Some(64), log(64, 64, 64), Plan::Keep),
            (Some(320), agrees(true), Plan::Keep),
            (Some(320), agrees(false), Plan::Replace),
            (Some(320), damaged(32), Plan::StartAtSnapshot),
            (Some(320), damaged(640), Plan::Keep),
            (Some(960), damaged(32), Plan::Keep),
        ] {
            assert_eq!(plan(snapshot.map(Position::new), &log), expected);
        }
    }
}
