//! Logs that do not start at 0: purged to a segment's start, or begun after a snapshot.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::limits::SEGMENT_MIN;
use crate::units::{ClusterId, Position, Term};

pub(super) const CLUSTER: ClusterId = ClusterId(5);
const MTU: usize = 512;
pub(super) const CAPACITY: u64 = 16 * 1024;

/// A log of some segments in `term`, from genesis, and all its frames' ends and chains.
#[derive(Clone)]
pub(super) struct Whole {
    pub bytes: Vec<u8>,
    pub ends: Vec<(Position, u32)>,
}

fn whole(term: u32, fill: u8) -> Whole {
    whole_of(term, &[fill; 300])
}

/// The same, every message of which is `payload`.
pub(super) fn whole_of(term: u32, payload: &[u8]) -> Whole {
    let mut log = Window::new(vec![0; 4096 + MTU], MTU, SEGMENT_MIN).expect("large enough");
    let seed = Seed::genesis(CLUSTER);
    log.load(seed.position, seed.chain, seed.term)
        .expect("a boundary");
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    while log.end().get() < 3 * u64::from(SEGMENT_MIN) + 5000 {
        let from = log.end();
        append(&mut log, Term::new(term), &[payload], MTU).expect("room");
        let mut at = from;
        while at < log.end() {
            let run = log.read(at).to_vec();
            let frames = Frames::new(&run, at, SEGMENT_MIN);
            ends.extend(frames.map(|frame| (frame.end(), frame.chain)));
            bytes.extend_from_slice(&run);
            at = at.plus(run.len() as u64);
        }
        log.set_written(log.end());
        log.release(log.end());
    }
    Whole { bytes, ends }
}

impl Whole {
    pub fn end(&self) -> (Position, u32) {
        self.ends[self.ends.len() - 1]
    }

    fn read(&self, at: Position, max: usize) -> &[u8] {
        let from = at.get() as usize;
        let until = segment_end(at, SEGMENT_MIN).get() as usize;
        &self.bytes[from..until.min(from + max).min(self.bytes.len())]
    }

    pub fn slot(&self, confirmed: (Position, u32)) -> Slot {
        Slot {
            seq: 9,
            cluster: CLUSTER,
            joined: Term::new(2),
            confirmed: confirmed.0,
            intended: self.end().0,
            chain: Some(confirmed.1),
            segment_length: SEGMENT_MIN,
            segment: segment_base(confirmed.0, SEGMENT_MIN),
            place: SlotPlace::Head,
        }
    }

    fn recover(&self, start: Seed, slot: Option<Slot>) -> Recovered {
        self.recover_by(4096, start, slot)
    }

    /// The same, of so many bytes at once.
    pub fn recover_by(&self, chunk: usize, start: Seed, slot: Option<Slot>) -> Recovered {
        let mut recovery =
            Recovery::new(CLUSTER, SEGMENT_MIN, start, slot, CAPACITY).expect("our own");
        while let Some(at) = recovery.wanted() {
            assert!(at >= start.position, "nothing is read below the start");
            recovery.feed(self.read(at, chunk));
        }
        recovery.finish().expect("fits")
    }
}

fn unknown(position: Position) -> Seed {
    Seed {
        position,
        chain: None,
        term: Term::ZERO,
    }
}

#[test]
fn a_log_is_recovered_from_wherever_it_starts() {
    let log = whole(2, 7);
    let confirmed = log.ends[log.ends.len() - 4];
    let slot = Some(log.slot(confirmed));
    let full = log.recover(Seed::genesis(CLUSTER), slot);
    let boundary = log.ends[log.ends.len() / 2].0;
    let segment = Position::new(2 * u64::from(SEGMENT_MIN));
    for start in [boundary, segment, confirmed.0] {
        let found = log.recover(unknown(start), slot);
        assert_eq!(found.start, unknown(start));
        assert_eq!((found.tail, found.chain), (full.tail, full.chain));
        assert_eq!(found.confirmed_chain, Some(confirmed.1));
        assert_eq!((found.corrupt, found.torn), (None, false));
        assert_eq!(found.history.known_from(), Some(start));
        let mut window = Window::new(vec![0; 32 * 1024], MTU, SEGMENT_MIN).expect("large enough");
        found.open_window(&mut window).expect("aligned");
        let tail = log.read(window.end(), 1 << 20);
        assert_eq!(window.fill(tail), tail.len());
        assert_eq!((window.end(), window.chain()), (log.end().0, found.chain));
    }
}

#[test]
fn an_unknown_chain_at_the_start_hides_no_break_behind_it() {
    // Equal positions and good checksums, but of another history.
    let (mut log, other) = (whole(2, 7), whole(2, 8));
    let at = log.ends.len() / 2;
    let (from, until) = (log.ends[at].0, log.ends[at + 1].0);
    let spliced = from.get() as usize..until.get() as usize;
    log.bytes[spliced.clone()].copy_from_slice(&other.bytes[spliced]);
    let slot = Some(log.slot(log.end()));
    let found = log.recover(unknown(log.ends[at - 3].0), slot);
    assert_eq!(found.corrupt, Some(from));
    let (position, chain) = log.ends[at - 1];
    let seed = Seed {
        position,
        chain: Some(chain ^ 1),
        term: Term::ZERO,
    };
    assert_eq!(
        log.recover(seed, slot).corrupt,
        Some(position),
        "the snapshot there is of another history"
    );
}

#[test]
fn a_start_above_what_is_known_to_be_durable_is_an_error() {
    let log = whole(2, 7);
    let slot = Some(log.slot(log.ends[3]));
    let start = unknown(log.ends[4].0);
    let refused = Recovery::new(CLUSTER, SEGMENT_MIN, start, slot, CAPACITY).err();
    let confirmed = log.ends[3].0;
    assert_eq!(refused, Some(RecoveryError::StartAboveConfirmed(confirmed)));
}

#[test]
fn a_chain_is_looked_up_from_the_start_on_and_not_below() {
    let log = whole(2, 7);
    let start = log.ends[20].0;
    let search = |until| {
        let mut search = ChainSearch::new(until, start, SEGMENT_MIN);
        while let Some(at) = search.wanted() {
            assert!(at >= start);
            search.feed(log.read(at, 2048));
        }
        search.chain()
    };
    assert_eq!(search(start), None);
    assert_eq!(search(log.ends[40].0), Some(log.ends[40].1));
    assert_eq!(search(log.end().0), Some(log.end().1));
    assert_eq!(search(log.ends[40].0.plus(32)), None);
}
