//! What a board has to offer.

use core::net::SocketAddr;

use coracle_core::node::Door;
use coracle_core::time::Now;

/// Time since some moment, and the time of day.
pub trait Clock {
    /// Both clocks. The monotonic one never goes back; the wall clock may be wrong, but then the
    /// timestamps of records are, too.
    fn now(&mut self) -> Now;
}

/// Two UDP sockets: one for the other members, one for clients. Neither call blocks.
pub trait Network {
    /// Copies the next datagram to the start of `into`: its socket, its source and its length. None
    /// if none has arrived. A datagram that does not fit is dropped.
    fn receive(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)>;

    /// Sends a datagram, or loses it: every datagram may be lost.
    fn send(&mut self, door: Door, to: SocketAddr, datagram: &[u8]);

    /// The address of a host name that a client gave for its responses. By default there are none.
    fn resolve(&mut self, host: &str, port: u16) -> Option<SocketAddr> {
        let _ = (host, port);
        None
    }
}

/// A block or flash device, or a part of one. All calls block until they are done.
///
/// There are two kinds. A disk rewrites in place, and what a returned `write` has written may be
/// lost until `flush` has returned. Each sector of 512 bytes is then written whole, torn, or not at
/// all; where it is torn, bytes that are the same before and after stay. It implements the four
/// calls without a default. NOR flash is behind [`Nor`](crate::Nor), which makes a device of any
/// `embedded_storage` driver: it must erase before it writes, and a returned `write` is durable.
pub trait Storage {
    /// Why a call failed. Nothing is retried: a node whose storage fails stops.
    type Error: core::fmt::Debug;

    /// How many bytes there are.
    fn capacity(&self) -> u64;

    /// The least that can be erased, a power of two, if bytes can be written only once between two
    /// erasures; `None` if the device rewrites in place.
    fn erase_size(&self) -> Option<u32> {
        None
    }

    /// Reads at a byte offset; all of `into`.
    ///
    /// # Errors
    /// The device's own.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes at a byte offset that is a multiple of 32, so many bytes too.
    ///
    /// # Errors
    /// The device's own.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Makes all bytes of `[at, at + len)` ones; both are multiples of the erase size. Not called
    /// on a device that rewrites in place.
    ///
    /// # Errors
    /// The device's own.
    fn erase(&mut self, at: u64, len: u64) -> Result<(), Self::Error> {
        let _ = (at, len);
        Ok(())
    }

    /// Returns when all that was written would survive a power cut.
    ///
    /// # Errors
    /// The device's own.
    fn flush(&mut self) -> Result<(), Self::Error>;
}
