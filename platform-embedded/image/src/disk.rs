//! The disk: who this node is in its first block, and the node's store behind that.

use coracle_embedded::identity::BLOCK;
use coracle_embedded::{Block, Buffered, Storage};
use virtio_drivers::Error;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};

use crate::devices::{Bus, Machine};

/// The store begins here.
const START: u64 = BLOCK as u64;
/// How many blocks are kept in memory: the log's end, the newest records, and both parts of a
/// snapshot that is being written.
const KEPT: usize = 4;

/// What is kept in memory of a disk.
pub type Blocks = [Block; KEPT];
/// A disk that is used in small pieces.
pub type Disk = Buffered<Sectors, &'static mut Blocks>;

/// A virtio block device without its first block. It takes whole sectors only.
pub struct Sectors {
    device: VirtIOBlk<Machine, Bus>,
}

impl Sectors {
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
}

/// The sector of the device that these bytes of the store begin with.
fn sector(at: u64, len: usize) -> Result<usize, Error> {
    let is_whole = at.is_multiple_of(SECTOR_SIZE as u64) && len.is_multiple_of(SECTOR_SIZE);
    match is_whole {
        true => Ok(((START + at) / SECTOR_SIZE as u64) as usize),
        false => Err(Error::InvalidParam),
    }
}

impl Storage for Sectors {
    type Error = Error;

    fn capacity(&self) -> u64 {
        (self.device.capacity() * SECTOR_SIZE as u64).saturating_sub(START)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let read = self.device.read_blocks(sector(at, into.len())?, into);
        self.device.ack_interrupt();
        read
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let written = self.device.write_blocks(sector(at, bytes.len())?, bytes);
        self.device.ack_interrupt();
        written
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.device.flush()?;
        self.device.ack_interrupt();
        Ok(())
    }
}
