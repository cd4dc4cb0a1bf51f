//! A board that does not exist: a device of `coracle_devices`, a network of queues, a clock that is
//! set by hand.

// Not every test uses all of it.
#![allow(dead_code)]

pub mod client;
pub mod rig;
pub mod trio;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use coracle_core::node::Door;
use coracle_core::prng::Prng;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_embedded::{Clock, Network};

pub use coracle_devices::{Device, Handle, Kind, PowerCut};

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
