//! Aeron streams, both halves: what clients speak. Every position here is a byte position in one
//! stream, not in the log.
//!
//! An [`Image`] receives and a [`Publication`] sends, each in a slot of lent memory that is passed
//! to every call and never kept. Both may live in a microcontroller: a window of two MTUs is
//! enough.

mod arrivals;
mod assembly;
mod cutting;
mod geometry;
mod image;
mod publication;

#[cfg(test)]
mod tests;

pub use arrivals::{Arrivals, NotTaken, RANGES_MAX, Range};
pub use assembly::{Assembled, Assembly};
pub use geometry::{Held, Ring, Segments, slot_len};
pub use image::{DataReject, Image, ImageState, ImageTiming, SetupReject};
pub use publication::{
    ConfigError, OfferError, Publication, PublicationConfig, PublicationTiming, StatusReject,
};

use core::net::SocketAddr;

use crate::time::Instant;
use crate::units::Position;
use crate::wire::frame::{
    DataHeader, FLAG_BEGIN, FLAG_END, FLAG_SEND_SETUP, Nak, Rttm, Setup, StatusMessage,
};

/// The longest [`Control`] in bytes.
pub const CONTROL_MAX: usize = StatusMessage::LENGTH_MAX;
const _: () = assert!(CONTROL_MAX >= Setup::LENGTH && CONTROL_MAX >= Rttm::LENGTH);

/// A small frame that one half of a stream owes the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Control {
    /// Announces a stream.
    Setup(Setup),
    /// A sender without new data is alive; or, with the end-of-stream flag, has ended.
    Heartbeat(DataHeader),
    /// A receiver's progress and window.
    StatusMessage(StatusMessage),
    /// Asks for lost data.
    Nak(Nak),
    /// The echo of a round-trip measurement.
    Rttm(Rttm),
}

impl Control {
    /// Writes the frame and returns its bytes.
    pub fn emit<'b>(&self, out: &'b mut [u8; CONTROL_MAX]) -> &'b [u8] {
        let len = match self {
            Self::Setup(setup) => setup.emit(out),
            Self::Heartbeat(header) => header.emit(out),
            Self::StatusMessage(status) => status.emit(out),
            Self::Nak(nak) => nak.emit(out),
            Self::Rttm(rttm) => rttm.emit(out),
        };
        // `None` would mean that the frame is longer than CONTROL_MAX, which is checked above.
        out.get(..len.unwrap_or(0)).unwrap_or(&[])
    }
}

/// What a publication sends: frames in place, or a small frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Output<'s> {
    /// One datagram of whole frames.
    Frames(&'s [u8]),
    /// One datagram of one small frame.
    Control(Control),
}

/// One DATA frame of an image: a message, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Fragment<'s> {
    /// Where the frame starts in its stream.
    pub position: Position,
    /// The flags of its header.
    pub flags: u8,
    /// The header's field that belongs to the application.
    pub reserved: i64,
    /// Its bytes, without header and alignment.
    pub payload: &'s [u8],
}

impl Fragment<'_> {
    /// Does a message begin here?
    pub const fn is_begin(&self) -> bool {
        self.flags & FLAG_BEGIN != 0
    }

    /// Does a message end here?
    pub const fn is_end(&self) -> bool {
        self.flags & FLAG_END != 0
    }

    /// Is it a whole message?
    pub const fn is_whole(&self) -> bool {
        self.is_begin() && self.is_end()
    }
}

/// The answer to data of a stream that no image is there for: "send SETUP" (Aeron:
/// `DataPacketDispatcher.elicitSetupMessageFromSource`). A sender repeats its SETUP for no other
/// reason once it was answered, so a restarted receiver depends on this. `None` for a stream that
/// has ended.
pub fn elicit_setup(first: &DataHeader, receiver_id: i64) -> Option<StatusMessage> {
    if first.is_end_of_stream() {
        return None;
    }
    Some(StatusMessage {
        flags: FLAG_SEND_SETUP,
        session_id: first.session_id,
        stream_id: first.stream_id,
        term_id: 0,
        term_offset: 0,
        window: 0,
        receiver_id,
        group_tag: None,
    })
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether these are the same address. What `==` says, which is a call that compares member by
/// member: it is asked of every datagram, and nearly all are of IPv4.
#[inline(always)]
pub(crate) fn is_same(one: &SocketAddr, other: &SocketAddr) -> bool {
    match (one, other) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            (a.ip().to_bits(), a.port()) == (b.ip().to_bits(), b.port())
        }
        _ => one == other,
    }
}
