//! Window, journal and recovery together against a model: a `Vec` of bytes, and a disk that loses
//! or keeps each unflushed sector as it likes when the power goes.

extern crate std;

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::limits::{FRAME_HEADER, SEGMENT_MIN};
use crate::prng::Prng;
use crate::units::{ClusterId, Tail, Term};

const CLUSTER: ClusterId = ClusterId(0xc0ac1e);
const SEGMENT: u32 = SEGMENT_MIN;
const MTU: usize = 512;
const CAPACITY: usize = 16 * 1024;
const BLOCK: usize = 4096;

/// A log file, and the slots of all segments' files, by segment and index.
#[derive(Clone, Default)]
struct Files {
    bytes: Vec<u8>,
    slots: BTreeMap<(u64, usize), Vec<u8>>,
}

impl Files {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Bytes(offset, bytes) => {
                let end = offset + bytes.len();
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[*offset..end].copy_from_slice(bytes);
            }
            Write::Slot(place, sector) => drop(self.slots.insert(*place, sector.clone())),
        }
    }
}

/// One sector, or a part of it.
#[derive(Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Slot((u64, usize), Vec<u8>),
}

/// What is on the disk, what a process sees (the page cache), and the difference.
#[derive(Clone, Default)]
struct Disk {
    durable: Files,
    seen: Files,
    pending: Vec<Write>,
}

impl Disk {
    fn write(&mut self, log: &Window<Vec<u8>>, group: &Group) {
        let place = (group.slot_segment.get(), group.slot_index);
        let sector = group.slot.encode().to_vec();
        let first_new = self.pending.len();
        self.pending.push(Write::Slot(place, sector));
        let mut at = group.span.start;
        while at < group.span.end {
            let run = log.read(at);
            let len = (run.len() as u64).min(group.span.end.since(at)) as usize;
            let mut from = 0;
            while from < len {
                let offset = at.get() as usize + from;
                let until = len.min(from + SECTOR - offset % SECTOR);
                let sector = run[from..until].to_vec();
                self.pending.push(Write::Bytes(offset, sector));
                from = until;
            }
            at = at.plus(len as u64);
        }
        self.end_block(group.span);
        for write in &self.pending[first_new..] {
            self.seen.apply(write);
        }
    }

    /// As some drivers do: the rest of the block in which the log ends now is zeros, if it is
    /// another one than that in which it ended.
    fn end_block(&mut self, span: Span) {
        let (start, mut at) = (span.start.get() as usize, span.end.get() as usize);
        let is_in_one = !start.is_multiple_of(BLOCK) && start / BLOCK == at / BLOCK;
        while !is_in_one && !at.is_multiple_of(BLOCK) {
            let until = at + SECTOR - at % SECTOR;
            self.pending.push(Write::Bytes(at, vec![0; until - at]));
            at = until;
        }
    }

    fn flush(&mut self) {
        for write in self.pending.drain(..) {
            self.durable.apply(&write);
        }
    }

    /// Each unflushed sector is kept, lost or torn (new bytes, then old ones); in no order.
    fn lose(&mut self, prng: &mut Prng) {
        let keeps = prng.below(5);
        for mut write in core::mem::take(&mut self.pending) {
            let fate = prng.below(4);
            if let (3, Write::Bytes(_, bytes)) = (fate, &mut write) {
                bytes.truncate(prng.below(bytes.len() as u64) as usize);
            } else if let (3, Write::Slot(place, sector)) = (fate, &mut write) {
                let old = self.durable.slots.get(place);
                let old = old.cloned().unwrap_or(vec![0; SECTOR]);
                let torn = prng.below(SECTOR as u64) as usize;
                sector[torn..].copy_from_slice(&old[torn..]);
            } else if fate >= keeps {
                continue;
            }
            self.durable.apply(&write);
        }
    }

    /// The power goes; or the process is killed and the page cache lives on; or a flush fails,
    /// which leaves pages in the cache that count as clean and are not on the disk.
    fn crash(&mut self, prng: &mut Prng) {
        match prng.below(4) {
            0 => (),
            1 => self.lose(prng),
            _ => {
                self.lose(prng);
                self.seen = self.durable.clone();
            }
        }
    }

    fn newest_slot(&self) -> Option<Slot> {
        let mut best = None;
        for sector in self.seen.slots.values() {
            best = Slot::newest(best, Slot::decode(sector)).expect("no newer version");
        }
        best
    }

    fn read(&self, at: Position, max: usize) -> &[u8] {
        let bytes = &self.seen.bytes;
        let offset = (at.get() as usize).min(bytes.len());
        let end = (segment_end(at, SEGMENT).get() as usize).min(bytes.len());
        &bytes[offset..end.min(offset + max).max(offset)]
    }

    fn recover(&self) -> Recovered {
        let seed = Seed::genesis(CLUSTER);
        let slot = self.newest_slot();
        let mut recovery =
            Recovery::new(CLUSTER, SEGMENT, seed, slot, CAPACITY as u64).expect("our own log");
        while let Some(at) = recovery.wanted() {
            recovery.feed(self.read(at, 4096));
        }
        recovery.finish().expect("the last group fits")
    }
}

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
}

#[derive(Default)]
struct Stats {
    crashes: u32,
    torn: u32,
    tails: u32,
    truncations: u32,
    below_window: u32,
}

impl Machine {
    fn new() -> Self {
        let recovered = Recovered::fresh(CLUSTER);
        let bytes = vec![0; window_len(CAPACITY, MTU)];
        let mut window = Window::new(bytes, MTU, SEGMENT).expect("large enough");
        recovered.open_window(&mut window).expect("aligned");
        Self {
            journal: recovered.journal(CLUSTER, &window),
            window,
            disk: Disk::default(),
            term: Term::new(1),
            log: Vec::new(),
            older: Vec::new(),
            acked: Position::ZERO,
        }
    }

    /// On files that were those of an earlier part of a log, and become the next ones as they are.
    fn on_used_files(prng: &mut Prng) -> Self {
        let mut earlier = Self::new();
        while earlier.log.len() < 6 * SEGMENT as usize {
            earlier.append(prng.below(400) as usize, prng.next() as u8);
            earlier.poll();
            earlier.flush().expect("no violation");
        }
        // What counts is that they are of another place.
        let bytes = earlier.log.split_off(SEGMENT as usize);
        let mut machine = Self::new();
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

    fn poll(&mut self) {
        if let Some(group) = self.journal.poll_group(self.term, &self.window) {
            assert_eq!(group.slot_index as u64, group.slot.seq % 2);
            self.disk.write(&self.window, &group);
            self.window.set_written(self.journal.written());
        }
    }

    fn flush(&mut self) -> Result<(), &'static str> {
        if !self.journal.is_flushing() {
            return Ok(());
        }
        self.disk.flush();
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
        self.window.take_cut();
        self.window.set_written(self.journal.written());
        let last = recovered.history.last_term();
        assert_eq!(last, recovered.tail.term);
        self.term = self.term.next();
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
    let mut machine = match seed % 2 {
        0 => Machine::new(),
        _ => Machine::on_used_files(&mut prng),
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
            50..72 => machine.poll(),
            72..90 => machine.flush()?,
            90..93 => machine.truncate(&mut prng, &mut stats),
            93..98 => machine.crash(&mut prng, &mut stats)?,
            _ => {
                for _ in 0..CONFIRM_AFTER_POLLS {
                    machine.poll();
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
}

/// Run this one alone: the switches are for the whole process.
#[cfg(coracle_planted)]
#[test]
fn the_model_finds_the_planted_bugs() {
    use crate::planted::Planted;
    for bug in [
        Planted::FlushCursorNotPulledBackByTruncation,
        Planted::RecoveredTailAcknowledgedWithoutRewriting,
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
    let mut machine = Machine::new();
    for _ in 0..100 {
        machine.append(prng.below(400) as usize, prng.next() as u8);
        machine.poll();
        machine.flush().expect("no violation");
    }
    for _ in 0..=CONFIRM_AFTER_POLLS {
        machine.poll();
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
        machine.poll();
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
    let mut machine = Machine::new();
    for _ in 0..20 {
        machine.append(400, 7);
    }
    machine.poll();
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
