//! The disk: who this node is in its first block, and the node's store behind that.

use core::ops::Range;

use coracle_embedded::Storage;
use coracle_embedded::identity::BLOCK;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};

use crate::devices::{Bus, Machine};

const SECTOR: u64 = SECTOR_SIZE as u64;
const START: u64 = BLOCK as u64;
/// What one request reads or writes, at most.
const BUFFER: usize = 8 * SECTOR_SIZE;

/// A virtio block device without its first block.
pub struct Disk {
    device: VirtIOBlk<Machine, Bus>,
}

impl Disk {
    /// Takes the device over.
    ///
    /// # Errors
    /// The device's own.
    pub fn new(bus: Bus) -> Result<Self, Error> {
        let device = VirtIOBlk::new(bus)?;
        Ok(Self { device })
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

    /// The sectors that have bytes from `at` on, in pieces that fit the buffer: the first one's
    /// number, how many there are, where in them the bytes begin, and which bytes these are.
    fn pieces(at: u64, len: usize) -> impl Iterator<Item = (usize, usize, usize, Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = START + at + done as u64;
            let inside = (at % SECTOR) as usize;
            let part = (BUFFER - inside).min(len - done);
            let range = done..done + part;
            done += part;
            let sectors = (inside + part).div_ceil(SECTOR_SIZE);
            (part > 0).then_some(((at / SECTOR) as usize, sectors, inside, range))
        })
    }

    fn read_sectors(&mut self, first: usize, into: &mut [u8]) -> Result<(), Error> {
        let read = self.device.read_blocks(first, into);
        self.device.ack_interrupt();
        read
    }
}

impl Storage for Disk {
    type Error = Error;

    fn capacity(&self) -> u64 {
        (self.device.capacity() * SECTOR).saturating_sub(START)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut buffer = [0; BUFFER];
        for (first, sectors, inside, range) in Self::pieces(at, into.len()) {
            let buffer = buffer.get_mut(..sectors * SECTOR_SIZE).unwrap_or_default();
            self.read_sectors(first, buffer)?;
            let into = into.get_mut(range).unwrap_or_default();
            let from = buffer.get(inside..inside + into.len());
            into.copy_from_slice(from.unwrap_or_default());
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut buffer = [0; BUFFER];
        for (first, sectors, inside, range) in Self::pieces(at, bytes.len()) {
            let bytes = bytes.get(range).unwrap_or_default();
            let end = inside + bytes.len();
            // What the first and the last sector hold beside these bytes stays.
            for (sector, is_whole) in [
                (0, inside == 0 && end >= SECTOR_SIZE),
                (sectors - 1, end == sectors * SECTOR_SIZE),
            ] {
                let place = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
                if !is_whole {
                    let sector_bytes = buffer.get_mut(place).unwrap_or_default();
                    self.read_sectors(first + sector, sector_bytes)?;
                }
            }
            let room = buffer.get_mut(inside..end).unwrap_or_default();
            room.copy_from_slice(bytes);
            let buffer = buffer.get(..sectors * SECTOR_SIZE).unwrap_or_default();
            let written = self.device.write_blocks(first, buffer);
            self.device.ack_interrupt();
            written?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.device.flush()?;
        self.device.ack_interrupt();
        Ok(())
    }
}
