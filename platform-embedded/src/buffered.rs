//! A few blocks of a disk in memory.

use core::ops::Range;

use coracle_core::log::SECTOR;

use crate::device::Storage;

/// How many sectors are read at once, and kept together.
const SECTORS: usize = 8;
const LEN: usize = SECTORS * SECTOR;

/// A piece of a disk, 4 KiB.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Block {
    /// Which; none at first.
    number: Option<u64>,
    /// The sectors that are newer here than on the device, all of them, and no others: a power cut
    /// may tear whatever is written.
    dirty: Range<usize>,
    /// It has bytes that were written from here, and not read since.
    is_own: bool,
    /// When it was used last.
    used: u64,
    bytes: [u8; LEN],
}

impl Block {
    /// None.
    pub const EMPTY: Self = Self {
        number: None,
        dirty: 0..0,
        is_own: false,
        used: 0,
        bytes: [0; LEN],
    };
}

/// A disk whose requests cost far more than their bytes, as with eMMC, SD or virtio: a store reads
/// and writes in small pieces, which are gathered here. What was written stays in memory until it
/// is flushed, or its place is wanted.
///
/// What is flushed is as durable as the device makes it, and what is read after a flush is what the
/// device has, not what was meant. The device is asked for whole sectors of 512 bytes only. `B` is
/// where the blocks are: four are enough for a log, its records, and a snapshot being written; one
/// is the least.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Buffered<D, B> {
    device: D,
    blocks: B,
    uses: u64,
}

impl<D: Storage, B: AsRef<[Block]> + AsMut<[Block]>> Buffered<D, B> {
    /// A disk. What is in `blocks` is forgotten.
    ///
    /// # Panics
    /// If there is no block, or the device does not rewrite in place.
    pub fn new(device: D, mut blocks: B) -> Self {
        assert!(!blocks.as_ref().is_empty(), "one block is the least");
        assert!(device.erase_size().is_none(), "flash has no use for it");
        for block in blocks.as_mut() {
            (block.number, block.dirty, block.used) = (None, 0..0, 0);
        }
        Self {
            device,
            blocks,
            uses: 0,
        }
    }

    /// The device itself; it may not have yet what was not flushed.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// The same, to be changed.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// What is in memory.
    pub fn blocks(&self) -> &[Block] {
        self.blocks.as_ref()
    }

    /// The blocks that have bytes from `at` on: each one's number, where in it the bytes are, and
    /// which bytes these are.
    fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = at + done as u64;
            let inside = (at % LEN as u64) as usize;
            let part = (LEN - inside).min(len - done);
            let range = done..done + part;
            done += part;
            (part > 0).then_some((at / LEN as u64, inside..inside + part, range))
        })
    }

    /// A block's place in memory, which is made free for it: it is not read yet if it is `EMPTY`.
    fn place(&mut self, number: u64) -> Result<usize, D::Error> {
        let blocks = self.blocks.as_ref().iter().enumerate();
        let is_it = |(_, block): &(usize, &Block)| block.number == Some(number);
        if let Some((place, _)) = blocks.clone().find(is_it) {
            return Ok(place);
        }
        let oldest = blocks.min_by_key(|(_, block)| block.used);
        let place = oldest.map_or(0, |(place, _)| place);
        self.write_back(place)?;
        if let Some(block) = self.blocks.as_mut().get_mut(place) {
            (block.number, block.is_own) = (None, false);
        }
        Ok(place)
    }

    /// Reads a block. If that fails, nothing is in its place.
    fn load(&mut self, place: usize, number: u64) -> Result<(), D::Error> {
        let Some(block) = self.blocks.as_mut().get_mut(place) else {
            return Ok(());
        };
        block.number = None;
        let at = number * LEN as u64;
        let whole = self.device.capacity() / SECTOR as u64 * SECTOR as u64;
        let len = whole.saturating_sub(at).min(LEN as u64) as usize;
        let into = block.bytes.get_mut(..len).unwrap_or_default();
        self.device.read(at, into)?;
        (block.number, block.is_own) = (Some(number), false);
        Ok(())
    }

    fn used(&mut self, place: usize) -> Option<&mut Block> {
        self.uses += 1;
        let block = self.blocks.as_mut().get_mut(place)?;
        block.used = self.uses;
        Some(block)
    }

    /// Writes what is newer here. If that fails, it is still to be written.
    fn write_back(&mut self, place: usize) -> Result<(), D::Error> {
        let Some(block) = self.blocks.as_mut().get_mut(place) else {
            return Ok(());
        };
        let Some(number) = block.number.filter(|_| !block.dirty.is_empty()) else {
            return Ok(());
        };
        let bytes = block.dirty.start * SECTOR..block.dirty.end * SECTOR;
        let at = number * LEN as u64 + bytes.start as u64;
        let bytes = block.bytes.get(bytes).unwrap_or_default();
        self.device.write(at, bytes)?;
        block.dirty = 0..0;
        Ok(())
    }

    /// A block that these bytes are about to be written in.
    fn open(&mut self, number: u64, inside: &Range<usize>) -> Result<Option<&mut Block>, D::Error> {
        let place = self.place(number)?;
        let known = self.blocks.as_ref().get(place).map(|block| {
            let dirty = block.dirty.clone();
            (block.number.is_some(), dirty)
        });
        let (is_loaded, dirty) = known.unwrap_or((false, 0..0));
        if !is_loaded && inside.len() < LEN {
            self.load(place, number)?;
        }
        let sectors = inside.start / SECTOR..inside.end.div_ceil(SECTOR);
        let is_apart = dirty.end < sectors.start || sectors.end < dirty.start;
        if is_apart && !dirty.is_empty() {
            self.write_back(place)?;
        }
        let Some(block) = self.used(place) else {
            return Ok(None);
        };
        (block.number, block.is_own) = (Some(number), true);
        block.dirty = match block.dirty.is_empty() {
            true => sectors,
            false => block.dirty.start.min(sectors.start)..block.dirty.end.max(sectors.end),
        };
        Ok(Some(block))
    }
}

impl<D: Storage, B: AsRef<[Block]> + AsMut<[Block]>> Storage for Buffered<D, B> {
    type Error = D::Error;

    fn capacity(&self) -> u64 {
        self.device.capacity() / SECTOR as u64 * SECTOR as u64
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), D::Error> {
        for (number, inside, range) in Self::pieces(at, into.len()) {
            let place = self.place(number)?;
            let is_here = |block: &Block| {
                let is_as_read = !block.is_own || !block.dirty.is_empty();
                block.number == Some(number) && is_as_read
            };
            if !self.blocks.as_ref().get(place).is_some_and(is_here) {
                self.load(place, number)?;
            }
            if let (Some(block), Some(into)) = (self.used(place), into.get_mut(range)) {
                into.copy_from_slice(block.bytes.get(inside).unwrap_or_default());
            }
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), D::Error> {
        for (number, inside, range) in Self::pieces(at, bytes.len()) {
            let block = self.open(number, &inside)?;
            let room = block.and_then(|block| block.bytes.get_mut(inside));
            if let (Some(room), Some(bytes)) = (room, bytes.get(range)) {
                room.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), D::Error> {
        for place in 0..self.blocks.as_ref().len() {
            self.write_back(place)?;
        }
        self.device.flush()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use coracle_core::prng::Prng;

    use super::*;

    /// A disk that takes whole sectors only, and fails on command.
    #[derive(Clone)]
    struct Disk {
        bytes: Vec<u8>,
        reads: usize,
        writes: usize,
        fails: bool,
    }

    impl Storage for Disk {
        type Error = ();

        fn capacity(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), ()> {
            assert!(at.is_multiple_of(512) && into.len().is_multiple_of(512));
            self.reads += 1;
            into.copy_from_slice(&self.bytes[at as usize..at as usize + into.len()]);
            if self.fails { Err(()) } else { Ok(()) }
        }

        fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ()> {
            assert!(at.is_multiple_of(512) && bytes.len().is_multiple_of(512));
            self.writes += 1;
            if self.fails {
                return Err(());
            }
            self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn flush(&mut self) -> Result<(), ()> {
            Ok(())
        }
    }

    /// Of a length that no block divides.
    const LENGTH: usize = 5 * LEN + 3 * SECTOR;

    fn buffered(blocks: usize) -> Buffered<Disk, Vec<Block>> {
        let disk = Disk {
            bytes: (0..LENGTH).map(|n| (n / 32) as u8).collect(),
            reads: 0,
            writes: 0,
            fails: false,
        };
        Buffered::new(disk, vec![Block::EMPTY; blocks])
    }

    #[test]
    fn what_is_read_is_what_was_written_and_a_flush_leaves_nothing_behind() {
        for blocks in 1..5 {
            let (mut disk, mut prng) = (buffered(blocks), Prng::new(3));
            let mut expected = disk.device().bytes.clone();
            for n in 0..20_000 {
                let at = prng.below(LENGTH as u64 / 32) as usize * 32;
                let most = (LENGTH - at).min(3 * LEN) as u64 / 32;
                let len = 32 * (1 + prng.below(most)) as usize;
                match prng.below(8) {
                    0..4 => {
                        let bytes: Vec<u8> = (0..len).map(|_| prng.below(256) as u8).collect();
                        expected[at..at + len].copy_from_slice(&bytes);
                        disk.write(at as u64, &bytes).unwrap();
                    }
                    4..7 => {
                        let mut found = vec![0; len];
                        disk.read(at as u64, &mut found).unwrap();
                        assert!(found == expected[at..at + len], "{blocks} blocks, {n}");
                    }
                    _ => {
                        disk.flush().unwrap();
                        assert!(disk.device().bytes == expected, "{blocks} blocks, {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn small_pieces_are_few_requests_and_only_sectors_that_changed_are_written() {
        let mut disk = buffered(2);
        for piece in 0..4 * LEN as u64 / 32 {
            disk.write(piece * 32, &[7; 32]).unwrap();
        }
        disk.flush().unwrap();
        assert_eq!((disk.device().reads, disk.device().writes), (4, 4));
        // Two sectors with others between them: what was there is not written again.
        disk.write(0, &[8; 32]).unwrap();
        disk.device_mut().bytes[SECTOR] = 9;
        disk.write(3 * SECTOR as u64, &[8; 32]).unwrap();
        disk.flush().unwrap();
        assert_eq!(disk.device().bytes[SECTOR], 9);
        assert_eq!(disk.device().writes, 6);
    }

    #[test]
    fn after_a_flush_the_device_is_read_and_not_what_was_meant() {
        let mut disk = buffered(4);
        disk.write(64, &[1; 64]).unwrap();
        disk.flush().unwrap();
        disk.device_mut().bytes[70] = 2;
        let mut found = [0; 64];
        disk.read(64, &mut found).unwrap();
        assert_eq!(found[6], 2);
    }

    #[test]
    fn a_device_that_fails_is_said_to_and_nothing_is_taken_for_written() {
        let mut disk = buffered(1);
        disk.write(64, &[1; 64]).unwrap();
        disk.device_mut().fails = true;
        let mut elsewhere = [0; 32];
        assert_eq!(disk.read(LEN as u64, &mut elsewhere), Err(()));
        assert_eq!(disk.write(LEN as u64, &[3; 32]), Err(()));
        assert_eq!(disk.flush(), Err(()));
        disk.device_mut().fails = false;
        disk.flush().unwrap();
        assert_eq!(disk.device().bytes[64..128], [1; 64]);
        // What failed to be read is not there afterwards.
        disk.device_mut().fails = true;
        assert_eq!(disk.read(LEN as u64, &mut elsewhere), Err(()));
        disk.device_mut().fails = false;
        disk.read(0, &mut elsewhere).unwrap();
        assert_eq!(elsewhere, [0; 32]);
    }
}
