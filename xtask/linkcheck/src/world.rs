//! Clock, network and flash in memory, without an allocator.

use core::cell::RefCell;
use core::net::SocketAddr;

use coracle_core::node::Door;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_embedded::{Clock, Network, Storage};

const DATAGRAMS: usize = 256;
const DATAGRAM: usize = 1408;

#[derive(Clone, Copy)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    len: usize,
    bytes: [u8; DATAGRAM],
}

/// The datagrams under way, in the order they were sent, and the time.
pub struct World {
    pub now: Instant,
    queue: [Option<Datagram>; DATAGRAMS],
    sent: usize,
}

impl World {
    pub const fn new() -> Self {
        Self {
            now: Instant::from_nanos(1),
            queue: [None; DATAGRAMS],
            sent: 0,
        }
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        Now {
            instant: self.now,
            wall: Timestamp((self.now.nanos() / 1_000_000) as i64),
        }
    }

    /// Puts a datagram under way; the oldest is lost if there are too many.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut bytes = [0; DATAGRAM];
        let Some(into) = bytes.get_mut(..payload.len()) else {
            return;
        };
        into.copy_from_slice(payload);
        let len = payload.len();
        let datagram = Datagram {
            from,
            to,
            len,
            bytes,
        };
        if let Some(slot) = self.queue.get_mut(self.sent % DATAGRAMS) {
            *slot = Some(datagram);
        }
        self.sent += 1;
    }

    /// The oldest datagram for an address, copied to the start of `into`.
    pub fn receive(&mut self, at: SocketAddr, into: &mut [u8]) -> Option<(SocketAddr, usize)> {
        for n in self.sent..self.sent + DATAGRAMS {
            let slot = self.queue.get_mut(n % DATAGRAMS)?;
            if slot.is_some_and(|datagram| datagram.to == at) {
                let datagram = slot.take()?;
                let bytes = datagram.bytes.get(..datagram.len)?;
                into.get_mut(..datagram.len)?.copy_from_slice(bytes);
                return Some((datagram.from, datagram.len));
            }
        }
        None
    }
}

/// One member's clock and sockets.
#[derive(Clone)]
pub struct Board<'w> {
    pub world: &'w RefCell<World>,
    pub member: SocketAddr,
    pub client: SocketAddr,
}

impl Clock for Board<'_> {
    fn now(&mut self) -> Now {
        self.world.borrow().now()
    }
}

impl Network for Board<'_> {
    fn receive(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        let mut world = self.world.borrow_mut();
        for (door, address) in [(Door::Member, self.member), (Door::Client, self.client)] {
            if let Some((from, len)) = world.receive(address, into) {
                return Some((door, from, len));
            }
        }
        None
    }

    fn send(&mut self, door: Door, to: SocketAddr, datagram: &[u8]) {
        let from = match door {
            Door::Member => self.member,
            Door::Client => self.client,
        };
        self.world.borrow_mut().send(from, to, datagram);
    }
}

/// Flash in memory.
pub struct Flash(pub &'static mut [u8]);

/// A call reached outside the device.
#[derive(Debug)]
pub struct OutOfRange;

impl Flash {
    fn part(&mut self, at: u64, len: usize) -> Result<&mut [u8], OutOfRange> {
        let at = usize::try_from(at).map_err(|_| OutOfRange)?;
        let part = self.0.get_mut(at..).and_then(|rest| rest.get_mut(..len));
        part.ok_or(OutOfRange)
    }
}

impl Storage for Flash {
    type Error = OutOfRange;

    fn capacity(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        into.copy_from_slice(self.part(at, into.len())?);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.part(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OutOfRange> {
        Ok(())
    }
}
