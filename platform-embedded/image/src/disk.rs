//! The disk: who this node is in its first block, and the node's store behind that.

use coracle_embedded::Storage;
use coracle_embedded::identity::BLOCK;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};

use crate::devices::{Bus, Machine};

const SECTOR: u64 = SECTOR_SIZE as u64;
const START: u64 = BLOCK as u64;

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

    /// Calls `one` for each sector that has bytes from `at` on: where it is, and which part of it
    /// and of the bytes is meant.
    fn sectors(
        at: u64,
        len: usize,
    ) -> impl Iterator<Item = (usize, usize, core::ops::Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = START + at + done as u64;
            let inside = (at % SECTOR) as usize;
            let part = (SECTOR_SIZE - inside).min(len - done);
            let range = done..done + part;
            done += part;
            (part > 0).then_some(((at / SECTOR) as usize, inside, range))
        })
    }
}

impl Storage for Disk {
    type Error = Error;

    fn capacity(&self) -> u64 {
        (self.device.capacity() * SECTOR).saturating_sub(START)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut sector = [0; SECTOR_SIZE];
        for (number, inside, range) in Self::sectors(at, into.len()) {
            self.device.read_blocks(number, &mut sector)?;
            self.device.ack_interrupt();
            let from = sector.get(inside..).unwrap_or_default();
            let into = into.get_mut(range).unwrap_or_default();
            into.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut sector = [0; SECTOR_SIZE];
        for (number, inside, range) in Self::sectors(at, bytes.len()) {
            let part = bytes.get(range).unwrap_or_default();
            if part.len() < SECTOR_SIZE {
                self.device.read_blocks(number, &mut sector)?;
            }
            let to = sector.get_mut(inside..).unwrap_or_default();
            to.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.device.write_blocks(number, &sector)?;
            self.device.ack_interrupt();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.device.flush()?;
        self.device.ack_interrupt();
        Ok(())
    }
}
