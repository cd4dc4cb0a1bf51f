//! The disk: who this node is in its first block, and the node's store behind that.
//!
//! A request of the device costs far more than its bytes, and the store reads and writes in small
//! pieces: so a few blocks are kept in memory. What was written stays there until it is flushed, or
//! its place is wanted. That is what [`Storage`] says of a disk: what was not flushed may be lost.

use core::ops::Range;

use coracle_embedded::Storage;
use coracle_embedded::identity::BLOCK;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};

use crate::devices::{Bus, Machine};

/// How many sectors are read at once, and kept together.
const SECTORS: usize = 8;
const LEN: usize = SECTORS * SECTOR_SIZE;
/// How many blocks are kept: the log's end, the newest records, and both parts of a snapshot.
const KEPT: usize = 4;
/// The store begins here.
const START: u64 = BLOCK as u64;

/// What is kept in memory.
pub type Blocks = [Block; KEPT];

/// A piece of the disk.
pub struct Block {
    /// Which; none at first.
    number: Option<u64>,
    /// The sectors that are newer here than on the device: none beside them is ever written, for a
    /// power cut may tear whatever is.
    dirty: Range<usize>,
    /// When it was used last.
    used: u64,
    bytes: [u8; LEN],
}

impl Block {
    /// None.
    pub const EMPTY: Self = Self {
        number: None,
        dirty: 0..0,
        used: 0,
        bytes: [0; LEN],
    };
}

/// A virtio block device without its first block.
pub struct Disk {
    device: VirtIOBlk<Machine, Bus>,
    blocks: &'static mut Blocks,
    uses: u64,
}

impl Disk {
    /// Takes the device over.
    ///
    /// # Errors
    /// The device's own.
    pub fn new(bus: Bus, blocks: &'static mut Blocks) -> Result<Self, Error> {
        Ok(Self {
            device: VirtIOBlk::new(bus)?,
            blocks,
            uses: 0,
        })
    }

    /// Its first block.
    ///
    /// # Errors
    /// The device's own.
    pub fn first(&mut self) -> Result<[u8; BLOCK], Error> {
        let mut block = [0; BLOCK];
        let read = self.device.read_blocks(0, &mut block);
        self.device.ack_interrupt();
        read.map(|()| block)
    }

    /// The blocks that have bytes from `at` on: each one's number, where in it the bytes are, and
    /// which bytes these are.
    fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = START + at + done as u64;
            let inside = (at % LEN as u64) as usize;
            let part = (LEN - inside).min(len - done);
            let range = done..done + part;
            done += part;
            (part > 0).then_some((at / LEN as u64, inside..inside + part, range))
        })
    }

    /// The place of a block in memory; it is read, unless all of it is about to be written.
    fn block(&mut self, number: u64, is_overwritten: bool) -> Result<&mut Block, Error> {
        self.uses += 1;
        let is_it = |block: &Block| block.number == Some(number);
        let place = match self.blocks.iter().position(is_it) {
            Some(place) => place,
            None => {
                let oldest = self.blocks.iter().enumerate().min_by_key(|(_, b)| b.used);
                let place = oldest.map_or(0, |(place, _)| place);
                self.write_back(place)?;
                self.load(place, number, is_overwritten)?;
                place
            }
        };
        let block = self.blocks.get_mut(place).ok_or(Error::InvalidParam)?;
        block.used = self.uses;
        Ok(block)
    }

    fn load(&mut self, place: usize, number: u64, is_overwritten: bool) -> Result<(), Error> {
        let first = number as usize * SECTORS;
        let sectors = (self.device.capacity() as usize).saturating_sub(first);
        let len = sectors.min(SECTORS) * SECTOR_SIZE;
        let block = self.blocks.get_mut(place).ok_or(Error::InvalidParam)?;
        block.number = None;
        if !is_overwritten {
            let into = block.bytes.get_mut(..len).unwrap_or_default();
            let read = self.device.read_blocks(first, into);
            self.device.ack_interrupt();
            read?;
        }
        block.number = Some(number);
        Ok(())
    }

    /// Writes what is newer here. If that fails, it is still to be written.
    fn write_back(&mut self, place: usize) -> Result<(), Error> {
        let block = self.blocks.get_mut(place).ok_or(Error::InvalidParam)?;
        let Some(number) = block.number.filter(|_| !block.dirty.is_empty()) else {
            return Ok(());
        };
        let Range { start, end } = block.dirty;
        let bytes = block.bytes.get(start * SECTOR_SIZE..end * SECTOR_SIZE);
        let first = number as usize * SECTORS + start;
        let written = self.device.write_blocks(first, bytes.unwrap_or_default());
        self.device.ack_interrupt();
        written?;
        block.dirty = 0..0;
        Ok(())
    }
}

impl Storage for Disk {
    type Error = Error;

    fn capacity(&self) -> u64 {
        (self.device.capacity() * SECTOR_SIZE as u64).saturating_sub(START)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        for (number, inside, range) in Self::pieces(at, into.len()) {
            let block = self.block(number, false)?;
            let from = block.bytes.get(inside).unwrap_or_default();
            into.get_mut(range)
                .unwrap_or_default()
                .copy_from_slice(from);
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        for (number, inside, range) in Self::pieces(at, bytes.len()) {
            let sectors = inside.start / SECTOR_SIZE..inside.end.div_ceil(SECTOR_SIZE);
            let is_overwritten = inside.len() == LEN;
            let dirty = self.block(number, is_overwritten)?.dirty.clone();
            let is_apart = dirty.end < sectors.start || sectors.end < dirty.start;
            if is_apart && !dirty.is_empty() {
                let is_it = |block: &Block| block.number == Some(number);
                let place = self.blocks.iter().position(is_it);
                self.write_back(place.unwrap_or_default())?;
            }
            let block = self.block(number, is_overwritten)?;
            block.dirty = match block.dirty.is_empty() {
                true => sectors,
                false => block.dirty.start.min(sectors.start)..block.dirty.end.max(sectors.end),
            };
            let room = block.bytes.get_mut(inside).unwrap_or_default();
            room.copy_from_slice(bytes.get(range).unwrap_or_default());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        for place in 0..KEPT {
            self.write_back(place)?;
        }
        self.device.flush()?;
        self.device.ack_interrupt();
        Ok(())
    }
}
