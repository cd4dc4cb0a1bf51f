//! A disk that loses or keeps each unflushed sector as it likes when the power goes.

use std::collections::BTreeMap;

use super::*;

const BLOCK: usize = 4096;

/// A log file, and the slots at the start of all segments' files, by segment and index.
#[derive(Clone, Default)]
pub struct Files {
    pub bytes: Vec<u8>,
    pub slots: BTreeMap<(u64, usize), Vec<u8>>,
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
pub struct Disk {
    pub durable: Files,
    pub seen: Files,
    pending: Vec<Write>,
}

impl Disk {
    pub fn write(&mut self, log: &Window<Vec<u8>>, group: &Group) {
        let first_new = self.pending.len();
        self.put_slot(&group.slot);
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
        if !group.keeps_rest {
            self.end_block(group.span);
        }
        for write in &self.pending[first_new..] {
            self.seen.apply(write);
        }
    }

    fn put_slot(&mut self, slot: &Slot) {
        let (base, sector) = (slot.segment.get(), slot.encode().to_vec());
        if !slot.is_beside() {
            let place = (base, slot.index());
            assert!(slot.index() as u64 == slot.seq % 2);
            self.pending.push(Write::Slot(place, sector));
            return;
        }
        let pair = slot.beside().expect("there is room");
        let at = (base + pair[slot.index()]) as usize;
        let block = at / BLOCK * BLOCK;
        for other in (block..block + BLOCK).step_by(SECTOR) {
            // As drivers do that would have to read the block.
            if slot.is_first_beside() && other != at {
                self.pending.push(Write::Bytes(other, vec![0; SECTOR]));
            }
        }
        self.pending.push(Write::Bytes(at, sector));
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

    pub fn flush(&mut self) {
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
    pub fn crash(&mut self, prng: &mut Prng) {
        match prng.below(4) {
            0 => (),
            1 => self.lose(prng),
            _ => {
                self.lose(prng);
                self.seen = self.durable.clone();
            }
        }
    }

    pub fn newest_slot(&self) -> Option<Slot> {
        let mut best: Option<Slot> = None;
        for sector in self.seen.slots.values() {
            best = Slot::newest(best, Slot::decode(sector)).expect("no newer version");
        }
        let lead = best?;
        for at in lead.beside().into_iter().flatten() {
            let at = (lead.segment.get() + at) as usize;
            let slot = Slot::decode_beside(self.seen.bytes.get(at..).unwrap_or_default(), &lead);
            best = Slot::newest(best, slot).expect("no newer version");
        }
        best
    }

    pub fn read(&self, at: Position, max: usize) -> &[u8] {
        let bytes = &self.seen.bytes;
        let offset = (at.get() as usize).min(bytes.len());
        let end = (segment_end(at, SEGMENT).get() as usize).min(bytes.len());
        &bytes[offset..end.min(offset + max).max(offset)]
    }

    pub fn recover(&self) -> Recovered {
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
