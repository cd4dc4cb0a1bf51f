//! A board that does not exist: a disk in memory that loses what was not flushed, or a flash chip,
//! a network of queues, a clock that is set by hand.

// Not every test uses all of it.
#![allow(dead_code)]

pub mod chip;
pub mod client;
pub mod rig;
pub mod trio;

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;

use chip::Chip;
use coracle_core::node::Door;
use coracle_core::prng::Prng;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_embedded::{Block, Buffered, Clock, Network, Nor, Storage};

const SECTOR: usize = 512;

/// The power is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerCut;

/// A disk that survives a power cut sector by sector: what was not flushed is there, not there, or
/// torn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    safe: Vec<u8>,
    seen: Vec<u8>,
    /// After so many more writes and flushes the power goes.
    pub calls_left: u64,
    pub calls: u64,
}

impl Disk {
    pub fn new(len: usize) -> Self {
        let blank = vec![0xff; len];
        Self {
            safe: blank.clone(),
            seen: blank,
            calls_left: u64::MAX,
            calls: 0,
        }
    }

    /// What a board finds that starts again.
    pub fn start_again(&mut self, prng: &mut Prng) {
        let pairs = self.safe.chunks_mut(SECTOR).zip(self.seen.chunks(SECTOR));
        for (safe, seen) in pairs.filter(|(safe, seen)| safe != seen) {
            let len = match prng.below(3) {
                0 => 0,
                1 => prng.below(safe.len() as u64) as usize,
                _ => safe.len(),
            };
            safe[..len].copy_from_slice(&seen[..len]);
        }
        self.seen.clone_from(&self.safe);
        self.calls_left = u64::MAX;
    }

    /// The same without what was not flushed.
    pub fn safe(&self) -> Self {
        Self {
            safe: self.safe.clone(),
            seen: self.safe.clone(),
            calls_left: u64::MAX,
            calls: 0,
        }
    }

    fn call(&mut self) -> Result<(), PowerCut> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(PowerCut)?;
        self.calls += 1;
        Ok(())
    }
}

impl Storage for Disk {
    type Error = PowerCut;

    fn capacity(&self) -> u64 {
        self.seen.len() as u64
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), PowerCut> {
        let at = at as usize;
        into.copy_from_slice(&self.seen[at..at + into.len()]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), PowerCut> {
        assert!(at.is_multiple_of(32));
        self.call()?;
        let at = at as usize;
        self.seen[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PowerCut> {
        self.call()?;
        self.safe.clone_from(&self.seen);
        Ok(())
    }
}

/// Any kind of device.
#[derive(Clone, Debug)]
pub enum Device {
    Disk(Disk),
    Buffered(Buffered<Disk, Vec<Block>>),
    Flash(Nor<Chip>),
}

/// Which kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

    /// As it is without what a power cut may take away.
    pub fn safe(&self) -> Self {
        match self {
            Self::Disk(disk) => Self::Disk(disk.safe()),
            Self::Buffered(buffered) => {
                let mut buffered = buffered.clone();
                let safe = buffered.device().safe();
                Self::buffered(safe, buffered.blocks().len())
            }
            Self::Flash(nor) => {
                let mut nor = nor.clone();
                nor.flash_mut().start_again(&mut Prng::new(1));
                Self::Flash(nor)
            }
        }
    }

    /// After so many more calls that change something the power goes.
    pub fn cut_after(&mut self, calls: u64) {
        match self {
            Self::Disk(disk) => disk.calls_left = calls,
            Self::Buffered(buffered) => buffered.device().calls_left = calls,
            Self::Flash(nor) => nor.flash_mut().calls_left = calls,
        }
    }

    /// Bytes rot.
    pub fn rot(&mut self, at: usize, len: usize) {
        let rotten = match self {
            Self::Disk(disk) => {
                disk.seen[at..at + len].iter_mut().for_each(|b| *b = !*b);
                disk.safe[at..at + len].iter_mut()
            }
            Self::Buffered(_) => panic!("what is in memory does not rot"),
            Self::Flash(nor) => nor.flash_mut().bytes[at..at + len].iter_mut(),
        };
        rotten.for_each(|byte| *byte = !*byte);
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
            Self::Disk(disk) => disk.calls,
            Self::Buffered(buffered) => buffered.clone().device().calls,
            Self::Flash(nor) => nor.flash().calls,
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
    pub reads: Range<u64>,
    /// Erasures too.
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
pub struct Handle(Rc<RefCell<Device>>, Rc<RefCell<Broken>>);

impl Handle {
    pub fn new(device: Device) -> Self {
        Self(Rc::new(RefCell::new(device)), Rc::default())
    }

    /// What of it is broken.
    pub fn broken(&self) -> RefMut<'_, Broken> {
        self.1.borrow_mut()
    }

    /// Another device that holds the same.
    pub fn fork(&self) -> Self {
        Self::new(self.0.borrow().clone())
    }

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

/// One datagram under way.
type Datagram = (Door, SocketAddr, Vec<u8>);

/// Every socket's queue, the time, and how bad the network is.
pub struct World {
    pub now: Instant,
    queues: Vec<(SocketAddr, VecDeque<Datagram>)>,
    prng: Prng,
    /// One in so many datagrams is lost; 0: none.
    pub loss: u64,
}

impl World {
    pub fn new(seed: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            now: Instant::from_nanos(1),
            queues: Vec::new(),
            prng: Prng::new(seed),
            loss: 0,
        }))
    }

    /// Opens a socket, or empties it.
    pub fn bind(&mut self, address: SocketAddr) {
        self.queues.retain(|(bound, _)| *bound != address);
        self.queues.push((address, VecDeque::new()));
    }

    /// Nobody listens there any more.
    pub fn unbind(&mut self, address: SocketAddr) {
        self.queues.retain(|(bound, _)| *bound != address);
    }

    pub fn send(&mut self, door: Door, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.loss > 0 && self.prng.below(self.loss) == 0 {
            return;
        }
        if let Some((_, queue)) = self.queues.iter_mut().find(|(bound, _)| *bound == to) {
            queue.push_back((door, from, bytes.to_vec()));
        }
    }

    pub fn receive(&mut self, at: SocketAddr) -> Option<(SocketAddr, Vec<u8>)> {
        let (_, queue) = self.queues.iter_mut().find(|(bound, _)| *bound == at)?;
        queue.pop_front().map(|(_, from, bytes)| (from, bytes))
    }
}

/// One board's clock and sockets.
#[derive(Clone)]
pub struct Board {
    pub world: Rc<RefCell<World>>,
    pub member: SocketAddr,
    pub client: SocketAddr,
}

impl Clock for Board {
    fn now(&mut self) -> Now {
        let instant = self.world.borrow().now;
        Now {
            instant,
            wall: Timestamp((instant.nanos() / 1_000_000) as i64),
        }
    }
}

impl Network for Board {
    fn receive(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        let mut world = self.world.borrow_mut();
        for (door, address) in [(Door::Member, self.member), (Door::Client, self.client)] {
            if let Some((from, bytes)) = world.receive(address) {
                into[..bytes.len()].copy_from_slice(&bytes);
                return Some((door, from, bytes.len()));
            }
        }
        None
    }

    fn send(&mut self, door: Door, to: SocketAddr, datagram: &[u8]) {
        let from = match door {
            Door::Member => self.member,
            Door::Client => self.client,
        };
        self.world.borrow_mut().send(door, from, to, datagram);
    }
}
