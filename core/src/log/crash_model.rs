//! Window, journal and recovery together against a model: a `Vec` of bytes, and a disk that loses
//! or keeps each unflushed sector as it likes when the power goes.

extern crate std;

mod disk;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::limits::{FRAME_HEADER, SEGMENT_MIN};
use crate::prng::Prng;
use crate::units::{ClusterId, Tail, Term};
use disk::Disk;

const CLUSTER: ClusterId = ClusterId(0xc0ac1e);
const SEGMENT: u32 = SEGMENT_MIN;
const MTU: usize = 512;
const CAPACITY: usize = 16 * 1024;

/// A member's log with its disk, and what must be true of it.
struct Machine {
    window: Window<Vec<u8>>,
    journal: Journal,
    disk: Disk,
    term: Term,
    /// The whole log, as it should be, and as it was before each truncation.
    log: Vec<u8>,
    older: Vec<Vec<u8>>,
    /// What was acknowledged and not truncated since.
    acked: Position,
    /// The slot that is being flushed, and the newest that was.
    flushing: Option<Slot>,
    flushed: Option<Slot>,
    has_slots_beside: bool,
}

#[derive(Default)]
struct Stats {
    crashes: u32,
    torn: u32,
    tails: u32,
    truncations: u32,
    below_window: u32,
    beside: u32,
    in_the_way: u32,
}

impl Machine {
    fn new(has_slots_beside: bool) -> Self {
        let recovered = Recovered::fresh(CLUSTER);
        let bytes = vec![0; window_len(CAPACITY, MTU)];
        let mut window = Window::new(bytes, MTU, SEGMENT).expect("large enough");
        recovered.open_window(&mut window).expect("aligned");
        let mut journal = recovered.journal(CLUSTER, &window);
        if has_slots_beside {
            journal.set_slots_beside();
        }
        Self {
            journal,
            window,
            disk: Disk::default(),
            term: Term::new(1),
            log: Vec::new(),
            older: Vec::new(),
            acked: Position::ZERO,
            flushing: None,
            flushed: None,
            has_slots_beside,
        }
    }

    /// On files that were those of an earlier part of a log, and become the next ones as they are.
    fn on_used_files(prng: &mut Prng, has_slots_beside: bool) -> Self {
        let mut earlier = Self::new(has_slots_beside);
        while earlier.log.len() < 6 * SEGMENT as usize {
            earlier.append(prng.below(400) as usize, prng.next() as u8);
            earlier.poll(&mut Stats::default());
            earlier.flush().expect("no violation");
        }
        // What counts is that they are of another place.
        let bytes = earlier.log.split_off(SEGMENT as usize);
        let mut machine = Self::new(has_slots_beside);
        machine.disk.durable.bytes = bytes.clone();
        machine.disk.seen.bytes = bytes;
        machine
    }

    fn append(&mut self, len: usize, byte: u8) {
        let payload = vec![byte; len];
        let result = append(&mut self.window, self.term, &[&payload], MTU);
        let Ok(span) = result else {
            assert_eq!(result, Err(AppendError::Full));
            return;
        };
        let mut at = span.start;
        while at < span.end {
            let run = self.window.read(at);
            self.log.extend_from_slice(run);
            at = at.plus(run.len() as u64);
        }
        assert_eq!(self.log.len() as u64, self.window.end().get());
        // Readers have seen all but the last few bytes.
        self.window.release(span.start);
    }

    fn boundaries(&self, from: Position) -> Vec<(Position, u32)> {
        let mut found = Vec::new();
        let mut at = Position::ZERO;
        while (at.get() as usize) < self.log.len() {
            let end = segment_end(at, SEGMENT).get() as usize;
            let run = &self.log[at.get() as usize..end.min(self.log.len())];
            for frame in Frames::new(run, at, SEGMENT).verified() {
                if frame.end() >= from {
                    found.push((frame.end(), frame.chain));
                }
                at = frame.end();
            }
        }
        found
    }

    fn truncate(&mut self, prng: &mut Prng, stats: &mut Stats) {
        let lowest = self.window.end().minus(prng.below(2 * CAPACITY as u64));
        let places = self.boundaries(Position::new(lowest.get() & !31));
        let Some(&(cut, chain)) = places.get(prng.below(places.len() as u64) as usize) else {
            return;
        };
        if cut == self.window.end() {
            return;
        }
        stats.truncations += 1;
        stats.below_window += u32::from(cut < self.window.start());
        self.older.push(self.log.clone());
        self.log.truncate(cut.get() as usize);
        self.acked = self.acked.min(cut);
        self.window.truncate(cut).expect("a boundary");
        if self.window.chain().is_none() {
            let found = self.look_up(cut);
            assert_eq!(found, Some(chain));
            assert!(self.window.set_chain(cut, chain));
        }
        assert_eq!(self.window.chain(), Some(chain));
        assert_eq!(self.window.take_cut(), Some(cut));
        self.journal.handle_truncated(cut);
        self.term = self.term.next();
    }

    fn look_up(&self, cut: Position) -> Option<u32> {
        let mut search = ChainSearch::new(cut, Position::ZERO, SEGMENT);
        while let Some(at) = search.wanted() {
            search.feed(self.disk.read(at, 2048));
        }
        search.chain()
    }

    fn poll(&mut self, stats: &mut Stats) {
        if let Some(group) = self.journal.poll_group(self.term, &self.window) {
            self.disk.write(&self.window, &group);
            stats.beside += u32::from(group.slot.is_beside());
            // All that is said of what was durable already, before more is written.
            let confirms = |newest: Slot| newest.is_beside() && newest.intended == group.span.end;
            let is_in_the_way = self.flushed.is_some_and(confirms)
                && group.slot.place == SlotPlace::Lead
                && self.journal.written() < self.window.end();
            stats.in_the_way += u32::from(is_in_the_way);
            self.flushing = Some(group.slot);
            self.window.set_written(self.journal.written());
        }
    }

    fn flush(&mut self) -> Result<(), &'static str> {
        if !self.journal.is_flushing() {
            return Ok(());
        }
        self.disk.flush();
        self.flushed = self.flushing.take().or(self.flushed);
        let mark = self.journal.handle_flushed();
        if mark.term != self.term {
            return Ok(());
        }
        self.acknowledge(mark.position)
    }

    fn acknowledge(&mut self, position: Position) -> Result<(), &'static str> {
        let durable = position.get() as usize;
        if self.disk.durable.bytes.get(..durable) != self.log.get(..durable) {
            return Err("a mark covers bytes that are not on the disk");
        }
        self.acked = self.acked.max(position);
        Ok(())
    }

    fn crash(&mut self, prng: &mut Prng, stats: &mut Stats) -> Result<(), &'static str> {
        self.disk.crash(prng);
        let recovered = self.disk.recover();
        let end = recovered.tail.end.get() as usize;
        stats.crashes += 1;
        stats.torn += u32::from(recovered.torn);
        stats.tails += u32::from(recovered.tail.end > recovered.confirmed);
        let acked = self.acked.get() as usize;
        if recovered.corrupt.is_some() {
            return Err("a crash is no corruption");
        }
        if recovered.slot.map(|slot| slot.seq) < self.flushed.map(|slot| slot.seq) {
            return Err("the newest slot that was durable is gone");
        }
        if recovered.intended < self.acked {
            return Err("that more was acknowledged is forgotten");
        }
        if self.disk.seen.bytes.get(..acked) != self.log.get(..acked) || end < acked {
            return Err("acknowledged bytes are gone");
        }
        let mut found = self.disk.seen.bytes[..end].to_vec();
        blank_pads(&mut found);
        let is_a_past = |log: &Vec<u8>| log.get(..end) == Some(&found[..]);
        if !is_a_past(&self.log) && !self.older.iter().any(is_a_past) {
            return Err("the recovered log never was");
        }
        self.older.push(core::mem::replace(&mut self.log, found));
        // Sometimes it is of the same leadership again.
        if prng.below(2) > 0 {
            self.term = self.term.next();
        }
        self.restart(&recovered)
    }

    fn restart(&mut self, recovered: &Recovered) -> Result<(), &'static str> {
        let opened = recovered.open_window(&mut self.window);
        opened.map_err(|_| "it does not start at a frame")?;
        while self.window.end() < recovered.tail.end {
            let at = self.window.end();
            if self.window.fill(self.disk.read(at, 4096)) == 0 {
                return Err("the tail does not load");
            }
            let end = self.window.end().min(recovered.tail.end);
            self.window.truncate(end).map_err(|_| "no boundary")?;
        }
        self.journal = recovered.journal(CLUSTER, &self.window);
        if self.has_slots_beside {
            self.journal.set_slots_beside();
        }
        self.window.take_cut();
        self.window.set_written(self.journal.written());
        let last = recovered.history.last_term();
        assert_eq!(last, recovered.tail.term);
        self.acknowledge(self.journal.durable())
    }
}

/// What a PAD's header does not cover means nothing: a torn write may have left anything there.
fn blank_pads(log: &mut [u8]) {
    for (n, segment) in log.chunks_mut(SEGMENT as usize).enumerate() {
        let base = Position::new(n as u64 * u64::from(SEGMENT));
        let pad = Frames::new(segment, base, SEGMENT).find(|frame| frame.is_pad);
        if let Some(at) = pad.map(|pad| pad.position.since(base) as usize) {
            segment[at + FRAME_HEADER..].fill(0);
        }
    }
}

fn run_model(seed: u64, steps: u32) -> Result<Stats, &'static str> {
    let mut prng = Prng::new(seed);
    let is_beside = !seed.is_multiple_of(3);
    let mut machine = match seed % 2 {
        0 => Machine::new(is_beside),
        _ => Machine::on_used_files(&mut prng, is_beside),
    };
    let mut stats = Stats::default();
    for _ in 0..steps {
        match prng.below(100) {
            0..50 => {
                let len = match prng.below(10) {
                    0 => prng.below(5000),
                    _ => prng.below(300),
                };
                machine.append(len as usize, prng.next() as u8);
            }
            50..72 => machine.poll(&mut stats),
            72..90 => machine.flush()?,
            90..93 => machine.truncate(&mut prng, &mut stats),
            93..98 => machine.crash(&mut prng, &mut stats)?,
            _ => {
                for _ in 0..CONFIRM_AFTER_POLLS {
                    machine.poll(&mut stats);
                }
            }
        }
        if machine.log.len() > 4 * SEGMENT as usize {
            break;
        }
    }
    Ok(stats)
}

#[test]
fn what_was_acknowledged_survives_every_crash() {
    let mut all = Stats::default();
    for seed in 0..600 {
        match run_model(seed, 600) {
            Ok(stats) => {
                all.crashes += stats.crashes;
                all.torn += stats.torn;
                all.tails += stats.tails;
                all.truncations += stats.truncations;
                all.below_window += stats.below_window;
                all.beside += stats.beside;
                all.in_the_way += stats.in_the_way;
            }
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    // The walk has been where it was meant to go.
    assert!(all.crashes > 1000, "{}", all.crashes);
    assert!(all.torn > 100, "{}", all.torn);
    assert!(all.tails > 100, "{}", all.tails);
    assert!(all.truncations > 1000, "{}", all.truncations);
    assert!(all.below_window > 10, "{}", all.below_window);
    assert!(all.beside > 1000, "{}", all.beside);
    assert!(all.in_the_way > 100, "{}", all.in_the_way);
}

/// Run this one alone: the switches are for the whole process.
#[cfg(coracle_planted)]
#[test]
fn the_model_finds_the_planted_bugs() {
    use crate::planted::Planted;
    for bug in [
        Planted::FlushCursorNotPulledBackByTruncation,
        Planted::RecoveredTailAcknowledgedWithoutRewriting,
        Planted::TheLogIsWrittenOverItsNewestSlot,
    ] {
        Planted::activate(Some(bug));
        let found = (0..300).find(|seed| run_model(*seed, 600).is_err());
        Planted::activate(None);
        assert!(found.is_some(), "{bug:?}");
    }
}

/// A machine that has come to rest: everything is durable and confirmed.
fn at_rest(seed: u64) -> Machine {
    let mut prng = Prng::new(seed);
    let mut machine = Machine::new(!seed.is_multiple_of(2));
    for _ in 0..100 {
        machine.append(prng.below(400) as usize, prng.next() as u8);
        machine.poll(&mut Stats::default());
        machine.flush().expect("no violation");
    }
    for _ in 0..=CONFIRM_AFTER_POLLS {
        machine.poll(&mut Stats::default());
        machine.flush().expect("no violation");
    }
    machine
}

#[test]
fn rot_in_a_confirmed_byte_is_reported_and_never_cut() {
    for seed in 0..100 {
        let mut machine = at_rest(seed);
        let whole = machine.disk.recover();
        assert_eq!(whole.confirmed, whole.tail.end);
        assert_eq!((whole.corrupt, whole.torn), (None, false));
        let mut prng = Prng::new(seed);
        // A PAD's rest is not covered, and this log has none: it is shorter than a segment.
        assert!(machine.disk.seen.bytes.len() < SEGMENT as usize);
        let byte = prng.below(whole.tail.end.get()) as usize;
        machine.disk.seen.bytes[byte] ^= 1 << prng.below(8);
        let found = machine.disk.recover();
        let corrupt = found.corrupt.expect("reported");
        assert!(corrupt.get() as usize <= byte, "seed {seed}");
        assert!(byte < corrupt.get() as usize + MTU, "seed {seed}");
        assert_eq!(found.tail.end, whole.tail.end);
        assert_eq!(found.tail.term, machine.term, "the joined term");
        assert_eq!(found.chain, whole.chain);
    }
}

#[test]
fn nothing_is_written_while_idle_after_one_confirming_flush() {
    let mut machine = at_rest(1);
    let before = machine.disk.newest_slot().expect("written");
    assert_eq!(before.confirmed, before.intended);
    for _ in 0..1000 {
        machine.poll(&mut Stats::default());
        machine.flush().expect("no violation");
    }
    assert_eq!(machine.disk.newest_slot(), Some(before));
}

#[test]
fn a_lost_newest_slot_loses_nothing() {
    for seed in 0..50 {
        let mut machine = at_rest(seed);
        let whole = machine.disk.recover();
        let newest = machine.disk.newest_slot().expect("written");
        let place = (0, newest.index());
        machine.disk.seen.slots.get_mut(&place).expect("there")[100] ^= 1;
        let found = machine.disk.recover();
        assert!(found.slot.map(|s| s.seq) < whole.slot.map(|s| s.seq));
        assert_eq!(found.tail, whole.tail);
        assert_eq!(found.chain, whole.chain);
    }
}

#[test]
fn a_log_of_another_cluster_or_segment_length_is_not_opened() {
    let machine = at_rest(3);
    let slot = machine.disk.newest_slot();
    let seed = Seed::genesis(CLUSTER);
    let open = |cluster, length| Recovery::new(cluster, length, seed, slot, 4096).err();
    assert_eq!(
        open(ClusterId(1), SEGMENT),
        Some(RecoveryError::WrongCluster(CLUSTER))
    );
    assert_eq!(
        open(CLUSTER, 2 * SEGMENT),
        Some(RecoveryError::WrongSegmentLength(SEGMENT))
    );
}

#[test]
fn a_tail_larger_than_the_window_is_an_error_and_not_a_loss() {
    let mut machine = Machine::new(false);
    for _ in 0..20 {
        machine.append(400, 7);
    }
    machine.poll(&mut Stats::default());
    machine.flush().expect("no violation");
    let slot = machine.disk.newest_slot();
    let seed = Seed::genesis(CLUSTER);
    let mut recovery = Recovery::new(CLUSTER, SEGMENT, seed, slot, 1024).expect("ours");
    while let Some(at) = recovery.wanted() {
        recovery.feed(machine.disk.read(at, 4096));
    }
    let needed = machine.log.len() as u64;
    assert_eq!(
        recovery.finish(),
        Err(RecoveryError::WindowTooSmall(needed))
    );
}

#[test]
fn an_empty_disk_is_an_empty_log() {
    let found = Disk::default().recover();
    assert_eq!(found, Recovered::fresh(CLUSTER));
    assert_eq!(found.tail, Tail::default());
}
