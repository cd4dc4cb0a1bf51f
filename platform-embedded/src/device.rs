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
/// What a returned `write` has written may be lost until `flush` has returned; each sector of 512
/// bytes is then written whole, torn, or not at all. Adapters over devices that erase do so within
/// `write`, which rewrites what it is given.
pub trait Storage {
    /// Why a call failed. Nothing is retried: a node whose storage fails stops.
    type Error: core::fmt::Debug;

    /// How many bytes there are.
    fn capacity(&self) -> u64;

    /// Reads at a byte offset; all of `into`.
    ///
    /// # Errors
    /// The device's own.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes at a byte offset that is a multiple of 32.
    ///
    /// # Errors
    /// The device's own.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Returns when all that was written would survive a power cut.
    ///
    /// # Errors
    /// The device's own.
    fn flush(&mut self) -> Result<(), Self::Error>;
}
