//! Storage devices that do not exist: what `coracle-embedded` is tested on, alone and in the
//! simulator. A disk forgets what was not flushed; a flash chip forgets nothing, but must be erased
//! before it is written. The power goes in the middle of any call, reads fail, and bytes rot.

mod chip;
mod disk;
mod power;

use std::cell::{Cell, RefCell, RefMut};
use std::ops::Range;
use std::rc::Rc;

use coracle_core::prng::Prng;
use coracle_embedded::{Block, Buffered, Nor, Storage};

pub use chip::{Chip, UNIT};
pub use disk::Disk;

/// The device does not answer: its power is gone, or a read has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerCut;

/// Any kind of device.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Device {
    Disk(Disk),
    Buffered(Buffered<Disk, Vec<Block>>),
    Flash(Nor<Chip>),
}

/// Which kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Disk,
    /// A disk behind so many blocks of memory.
    Buffered(usize),
    Flash,
    /// The first member has a disk, the others flash.
    Mixed,
}

impl Kind {
    /// Of one member.
    pub fn of(self, member: usize) -> Self {
        match (self, member) {
            (Self::Mixed, 0) => Self::Disk,
            (Self::Mixed, _) => Self::Flash,
            (kind, _) => kind,
        }
    }
}

impl Device {
    /// A device of `len` bytes that nobody has formatted.
    pub fn new(kind: Kind, len: usize) -> Self {
        match kind {
            Kind::Disk => Self::Disk(Disk::new(len)),
            Kind::Buffered(blocks) => Self::buffered(Disk::new(len), blocks),
            Kind::Flash | Kind::Mixed => Self::Flash(Nor::new(Chip::new(len))),
        }
    }

    fn buffered(disk: Disk, blocks: usize) -> Self {
        Self::Buffered(Buffered::new(disk, vec![Block::EMPTY; blocks]))
    }

    fn power(&mut self) -> &mut power::Power {
        match self {
            Self::Disk(disk) => &mut disk.power,
            Self::Buffered(buffered) => &mut buffered.device_mut().power,
            Self::Flash(nor) => &mut nor.flash_mut().power,
        }
    }

    /// What a board finds that starts again after a power cut.
    pub fn start_again(&mut self, prng: &mut Prng) {
        match self {
            Self::Disk(disk) => disk.start_again(prng),
            Self::Buffered(buffered) => {
                let mut disk = buffered.device().clone();
                disk.start_again(prng);
                *self = Self::buffered(disk, buffered.blocks().len());
            }
            Self::Flash(nor) => nor.flash_mut().start_again(prng),
        }
    }

    /// What a board finds that was reset while its power stayed on. A chip that was in the middle
    /// of a call has the same left as after a power cut.
    pub fn reset(&mut self, prng: &mut Prng) {
        match self {
            Self::Disk(disk) => disk.reset(),
            Self::Buffered(buffered) => {
                let mut disk = buffered.device().clone();
                disk.reset();
                *self = Self::buffered(disk, buffered.blocks().len());
            }
            Self::Flash(nor) => nor.flash_mut().start_again(prng),
        }
    }

    /// As it is without what a power cut may take away.
    #[must_use]
    pub fn safe(&self) -> Self {
        match self {
            Self::Disk(disk) => Self::Disk(disk.safe()),
            Self::Buffered(buffered) => {
                Self::buffered(buffered.device().safe(), buffered.blocks().len())
            }
            Self::Flash(nor) => {
                let mut nor = nor.clone();
                nor.flash_mut().start_again(&mut Prng::new(1));
                Self::Flash(nor)
            }
        }
    }

    /// The bytes that a power cut cannot take away.
    pub fn durable(&self) -> &[u8] {
        match self {
            Self::Disk(disk) => disk.durable(),
            Self::Buffered(buffered) => buffered.device().durable(),
            Self::Flash(nor) => &nor.flash().bytes,
        }
    }

    /// After so many more calls that change something the power goes.
    pub fn cut_after(&mut self, calls: u64) {
        self.power().cut_after(calls);
    }

    /// After so many more reads one fails; `for_good`: and nothing works any more.
    pub fn fail_read(&mut self, after: u64, for_good: bool) {
        self.power().fail_read(after, for_good);
    }

    /// No fault that was planned comes.
    pub fn spare(&mut self) {
        self.power().spare();
    }

    /// Whether a read has failed since it was started.
    pub fn has_failed(&mut self) -> bool {
        self.power().has_failed
    }

    /// Bytes rot.
    pub fn rot(&mut self, at: usize, len: usize) {
        match self {
            Self::Disk(disk) => disk.rot(at, len),
            Self::Buffered(buffered) => buffered.device_mut().rot(at, len),
            Self::Flash(nor) => nor.flash_mut().bytes[at..at + len]
                .iter_mut()
                .for_each(|byte| *byte = !*byte),
        }
    }

    /// How often each unit was erased; none on a disk.
    pub fn erased(&self) -> Vec<u32> {
        match self {
            Self::Disk(_) | Self::Buffered(_) => Vec::new(),
            Self::Flash(nor) => nor.flash().erased.clone(),
        }
    }

    /// How many calls there were that change something.
    pub fn calls(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.power.calls,
            Self::Buffered(buffered) => buffered.device().power.calls,
            Self::Flash(nor) => nor.flash().power.calls,
        }
    }
}

impl Storage for Device {
    type Error = PowerCut;

    fn capacity(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.capacity(),
            Self::Buffered(disk) => disk.capacity(),
            Self::Flash(nor) => nor.capacity(),
        }
    }

    fn erase_size(&self) -> Option<u32> {
        match self {
            Self::Disk(disk) => disk.erase_size(),
            Self::Buffered(disk) => disk.erase_size(),
            Self::Flash(nor) => nor.erase_size(),
        }
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), PowerCut> {
        match self {
            Self::Disk(disk) => disk.read(at, into),
            Self::Buffered(disk) => disk.read(at, into),
            Self::Flash(nor) => nor.read(at, into),
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), PowerCut> {
        match self {
            Self::Disk(disk) => disk.write(at, bytes),
            Self::Buffered(disk) => disk.write(at, bytes),
            Self::Flash(nor) => nor.write(at, bytes),
        }
    }

    fn erase(&mut self, at: u64, len: u64) -> Result<(), PowerCut> {
        match self {
            Self::Disk(_) | Self::Buffered(_) => panic!("it rewrites in place"),
            Self::Flash(nor) => nor.erase(at, len),
        }
    }

    fn flush(&mut self) -> Result<(), PowerCut> {
        match self {
            Self::Disk(disk) => disk.flush(),
            Self::Buffered(disk) => disk.flush(),
            Self::Flash(nor) => nor.flush(),
        }
    }
}

/// Where a device fails, though all else of it goes on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Broken {
    /// Reading fails from here.
    pub reads: Range<u64>,
    /// Writing and erasing fail here.
    pub writes: Range<u64>,
    /// How often it has failed.
    pub failures: u32,
}

impl Broken {
    /// Fails if the call begins in a part that is broken.
    fn call(&mut self, at: u64, is_read: bool) -> Result<(), PowerCut> {
        let part = if is_read { &self.reads } else { &self.writes };
        if part.contains(&at) {
            self.failures += 1;
            return Err(PowerCut);
        }
        Ok(())
    }
}

/// A device that outlives the node that has it.
#[derive(Clone, Debug)]
pub struct Handle(Rc<RefCell<Device>>, Rc<RefCell<Broken>>, Rc<Cell<u64>>);

impl Handle {
    /// The only one so far.
    pub fn new(device: Device) -> Self {
        Self(Rc::new(RefCell::new(device)), Rc::default(), Rc::default())
    }

    /// What of it is broken.
    pub fn broken(&self) -> RefMut<'_, Broken> {
        self.1.borrow_mut()
    }

    /// How many bytes were read from it.
    pub fn bytes_read(&self) -> u64 {
        self.2.get()
    }

    /// Another device that holds the same.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.0.borrow().clone())
    }

    /// Does something with the device.
    pub fn with<R>(&self, what: impl FnOnce(&mut Device) -> R) -> R {
        what(&mut self.0.borrow_mut())
    }
}

impl Storage for Handle {
    type Error = PowerCut;

    fn capacity(&self) -> u64 {
        self.0.borrow().capacity()
    }

    fn erase_size(&self) -> Option<u32> {
        self.0.borrow().erase_size()
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), PowerCut> {
        self.2.set(self.2.get() + into.len() as u64);
        self.broken().call(at, true)?;
        self.with(|device| device.read(at, into))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), PowerCut> {
        self.broken().call(at, false)?;
        self.with(|device| device.write(at, bytes))
    }

    fn erase(&mut self, at: u64, len: u64) -> Result<(), PowerCut> {
        self.broken().call(at, false)?;
        self.with(|device| device.erase(at, len))
    }

    fn flush(&mut self) -> Result<(), PowerCut> {
        self.with(Storage::flush)
    }
}
