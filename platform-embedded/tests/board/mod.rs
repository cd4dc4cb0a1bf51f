//! A board that does not exist: flash in memory that loses what was not flushed, a network of
//! queues, a clock that is set by hand.

pub mod client;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use coracle_core::node::Door;
use coracle_core::prng::Prng;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_embedded::{Clock, Network, Storage};

const SECTOR: usize = 512;

/// The power is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerCut;

/// Flash that survives a power cut sector by sector: what was not flushed is there, not there, or
/// torn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flash {
    safe: Vec<u8>,
    seen: Vec<u8>,
    /// After so many more writes and flushes the power goes.
    pub calls_left: u64,
    pub flushes: u64,
}

impl Flash {
    pub fn new(len: usize) -> Self {
        let blank = vec![0xff; len];
        Self {
            safe: blank.clone(),
            seen: blank,
            calls_left: u64::MAX,
            flushes: 0,
        }
    }

    /// What a board finds that starts again.
    pub fn after_power_cut(mut self, prng: &mut Prng) -> Self {
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
        self
    }

    /// The first bytes as they are without what was not flushed.
    pub fn safe(&self, len: usize) -> &[u8] {
        &self.safe[..len]
    }

    fn call(&mut self) -> Result<(), PowerCut> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(PowerCut)?;
        Ok(())
    }
}

impl Storage for Flash {
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
        self.flushes += 1;
        Ok(())
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
