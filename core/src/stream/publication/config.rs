//! What a publication is told, and why it refuses.

use core::net::SocketAddr;
use core::time::Duration;

use crate::limits::MESSAGE_MAX;
use crate::stream::cutting::unframed;
use crate::stream::geometry::{Ring, Segments};

/// How a sender keeps time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PublicationTiming {
    /// Between SETUPs while unanswered (Aeron: `PUBLICATION_SETUP_TIMEOUT`, 100 ms).
    pub setup: Duration,
    /// Of silence before a heartbeat (Aeron: `PUBLICATION_HEARTBEAT_TIMEOUT`, 100 ms).
    pub heartbeat: Duration,
    /// After an answered request, the same one is ignored (Aeron: `RETRANSMIT_UNICAST_LINGER`, 10
    /// ms).
    pub linger: Duration,
    /// Without a status message the receiver is gone (Aeron: `PUBLICATION_CONNECTION_TIMEOUT`, 5
    /// s).
    pub connection: Duration,
}

impl PublicationTiming {
    /// Aeron's times.
    pub const DEFAULT: Self = Self {
        setup: Duration::from_millis(100),
        heartbeat: Duration::from_millis(100),
        linger: Duration::from_millis(10),
        connection: Duration::from_secs(5),
    };
}

impl Default for PublicationTiming {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a publication is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PublicationConfig {
    /// Where its datagrams go.
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    pub target: SocketAddr,
    /// The stream.
    pub stream_id: i32,
    /// Random, and never one of a stream to the same endpoint within about 10 s: receivers key by
    /// it.
    pub session_id: i32,
    /// Any number; random in Aeron.
    pub initial_term_id: i32,
    /// The length of a segment (Aeron's term buffer) in bytes: a power of two, 64 KiB to 1 GiB. No
    /// message may be longer than an eighth of it.
    pub segment_length: u32,
    /// The longest datagram in bytes: a multiple of 32.
    pub mtu: u32,
    /// How it keeps time.
    pub timing: PublicationTiming,
}

/// Why there is no such publication.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ConfigError {
    /// The segment length is not a power of two from 64 KiB to 1 GiB.
    SegmentLength,
    /// The MTU is out of its bounds, or the slot is too small for it.
    Mtu,
}

/// Why a message was not taken. Nothing of it will be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OfferError {
    /// No receiver, at the moment.
    NotConnected,
    /// No room until the receiver has consumed more.
    BackPressured,
    /// Longer than `Publication::message_max`; it will never be taken.
    TooLong,
    /// The publication was closed, or its stream has come to its last position.
    Closed,
}

/// Why a status message or a request was ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StatusReject {
    /// It is of another stream or session.
    Foreign,
    /// It names no place in the stream, or one that was not sent or is half a segment away.
    Position,
}

/// The longest message that is ever taken: see `Publication::message_max`.
pub(super) fn message_max(segments: Segments, ring: Ring, mtu: u32) -> usize {
    let segment = segments.length() as usize / 8;
    let window = unframed(ring.window() as usize, mtu);
    segment.min(window).min(MESSAGE_MAX)
}
