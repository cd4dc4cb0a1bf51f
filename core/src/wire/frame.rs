//! Aeron transport frames, version 0, little endian.
//!
//! ```text
//!   0       4   5   6    8
//!   +-------+---+---+----+----------------- - -
//!   |length |ver|flg|type| the rest of the type's header, then its payload
//!   +-------+---+---+----+----------------- - -
//! ```
//!
//! Aeron: `HeaderFlyweight` and the other classes of `io.aeron.protocol`.

mod alike;
mod control;
mod data;

pub(crate) use alike::Alike;
pub use control::{ERROR_TEXT_MAX, ErrFrame, Nak, Rttm, Setup, StatusMessage};
pub(crate) use data::{DATA, VERSION_AND_TYPE, WHOLE, from_words, names_stream, pair, step, words};
pub use data::{DataFrame, DataFrames, DataHeader, Datagram, Kind};

use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER, SEGMENT_MAX, SEGMENT_MIN};
use crate::units::Position;
use crate::wire::{Reader, Reject, Writer};

/// A PAD frame: fills a term buffer, or stands for an aborted claim.
pub const TYPE_PAD: u16 = 0;
/// A DATA frame.
pub const TYPE_DATA: u16 = 1;
/// A NAK frame: asks for a range again.
pub const TYPE_NAK: u16 = 2;
/// A status message: how far a receiver has consumed, and its window.
pub const TYPE_STATUS_MESSAGE: u16 = 3;
/// An error frame: a receiver rejects a stream.
pub const TYPE_ERROR: u16 = 4;
/// A SETUP frame: announces a stream.
pub const TYPE_SETUP: u16 = 5;
/// A round trip measurement.
pub const TYPE_RTTM: u16 = 6;

/// DATA: the first fragment of a message.
pub const FLAG_BEGIN: u8 = 0x80;
/// DATA: the last fragment of a message.
pub const FLAG_END: u8 = 0x40;
/// DATA: a whole message.
pub const FLAGS_WHOLE: u8 = FLAG_BEGIN | FLAG_END;
/// DATA: the sender has closed the stream at this position.
pub const FLAG_END_OF_STREAM: u8 = 0x20;
/// DATA: the sender has revoked the stream.
pub const FLAG_REVOKED: u8 = 0x10;
/// SM: the sender shall send SETUP again.
pub const FLAG_SEND_SETUP: u8 = 0x80;
/// SM: the receiver is going away.
pub const FLAG_SM_END_OF_STREAM: u8 = 0x40;
/// SETUP: the receiver shall set up a response channel.
pub const FLAG_SEND_RESPONSE_SETUP: u8 = 0x80;
/// SETUP: the stream uses group semantics.
pub const FLAG_GROUP: u8 = 0x40;
/// RTTM: an answer is wanted (Aeron sets it in the question and clears it in the answer).
pub const FLAG_REPLY: u8 = 0x80;
/// ERR: the group tag is meant.
pub const FLAG_HAS_GROUP_TAG: u8 = 0x08;

/// Writes `head`, as little-endian words, and `parts` to the start of `room` and gives what is
/// left; `None` if they do not fit.
#[inline(always)]
pub(crate) fn put_all<'r, const N: usize>(
    room: &'r mut [u8],
    head: [u64; N],
    parts: &[&[u8]],
) -> Option<&'r mut [u8]> {
    let mut rest = room;
    for word in head {
        let (now, later) = rest.split_first_chunk_mut()?;
        *now = word.to_le_bytes();
        rest = later;
    }
    for part in parts {
        rest = put(rest, part)?;
    }
    Some(rest)
}

/// Writes `part` to the start of `room` and gives what is left; `None` if it does not fit. Not by a
/// call if it is as long as a session message's header: nearly every message has that in front.
#[inline(always)]
pub(crate) fn put<'r>(room: &'r mut [u8], part: &[u8]) -> Option<&'r mut [u8]> {
    if let Ok(part) = <&[u8; HEAD]>::try_from(part) {
        let (now, later) = room.split_first_chunk_mut()?;
        // As words: two copies of bytes would be made one, by a call, for either length.
        *now = from_words(words(part));
        return Some(later);
    }
    let (now, later) = room.split_at_mut_checked(part.len())?;
    now.copy_from_slice(part);
    Some(later)
}

const HEAD: usize = 32;

/// The length of what every frame starts with, in bytes.
pub const BASE_HEADER: usize = 8;

/// A datagram on an Aeron port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Frame<'a> {
    /// DATA and PAD frames, or a heartbeat.
    Data(Datagram<'a>),
    /// A stream is announced.
    Setup(Setup),
    /// A receiver's progress.
    StatusMessage(StatusMessage),
    /// A receiver asks for a range again.
    Nak(Nak),
    /// A round trip measurement.
    Rttm(Rttm),
    /// A receiver rejects a stream.
    Error(ErrFrame<'a>),
}

/// Takes a datagram apart. All of it is checked before anything is returned; bytes after a control
/// frame are ignored, as Aeron's drivers do.
///
/// # Errors
/// Whatever the frame's own `parse` says; [`Reject::UnknownType`] for types that we do not speak.
pub fn parse_datagram(datagram: &[u8]) -> Result<Frame<'_>, Reject> {
    match frame_type(datagram)? {
        TYPE_PAD | TYPE_DATA => Datagram::parse(datagram).map(Frame::Data),
        TYPE_NAK => Nak::parse(datagram).map(Frame::Nak),
        TYPE_STATUS_MESSAGE => StatusMessage::parse(datagram).map(Frame::StatusMessage),
        TYPE_ERROR => ErrFrame::parse(datagram).map(Frame::Error),
        TYPE_SETUP => Setup::parse(datagram).map(Frame::Setup),
        TYPE_RTTM => Rttm::parse(datagram).map(Frame::Rttm),
        _ => Err(Reject::UnknownType),
    }
}

/// The type of the first frame of a datagram.
///
/// # Errors
/// [`Reject::Short`], [`Reject::FrameVersion`].
pub fn frame_type(datagram: &[u8]) -> Result<u16, Reject> {
    Base::read(&mut Reader::new(datagram)).map(|base| base.kind)
}

/// The length of `len` bytes with the padding that makes the next frame aligned. Saturates.
pub const fn align(len: usize) -> usize {
    len.saturating_add(FRAME_ALIGNMENT - 1) & !(FRAME_ALIGNMENT - 1)
}

/// Is `length` one that a term buffer or log segment may have?
pub const fn is_term_length(length: u32) -> bool {
    length.is_power_of_two() && length >= SEGMENT_MIN && length <= SEGMENT_MAX
}

/// The position of a place in a stream. `term_id` counts term buffers and wraps.
///
/// `None` if the place is before the first term, outside its term, or past `Position::MAX`, or if
/// `term_length` is none (see [`is_term_length`]). Aeron: `LogBufferDescriptor.computePosition`.
pub fn position(
    term_id: i32,
    term_offset: i32,
    initial_term_id: i32,
    term_length: u32,
) -> Option<Position> {
    let count = u64::try_from(term_id.wrapping_sub(initial_term_id)).ok()?;
    let offset = u32::try_from(term_offset).ok()?;
    if !is_term_length(term_length) || offset > term_length {
        return None;
    }
    let value = count * u64::from(term_length) + u64::from(offset);
    Some(Position::new(value))
}

/// The inverse of [`position`]: term id and offset (below `term_length`) of a place in a stream.
///
/// `None` if the stream cannot reach `position`, or `term_length` is none.
pub fn locate(position: Position, initial_term_id: i32, term_length: u32) -> Option<(i32, i32)> {
    if !is_term_length(term_length) {
        return None;
    }
    let length = u64::from(term_length);
    let count = i32::try_from(position.get() / length).ok()?;
    let offset = i32::try_from(position.get() % length).ok()?;
    Some((initial_term_id.wrapping_add(count), offset))
}

/// What every frame starts with.
#[derive(Clone, Copy)]
struct Base {
    length: i32,
    flags: u8,
    kind: u16,
}

impl Base {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Reject> {
        let length = reader.i32()?;
        let version = reader.u8()?;
        let flags = reader.u8()?;
        let kind = reader.u16()?;
        if version != 0 {
            return Err(Reject::FrameVersion);
        }
        Ok(Self {
            length,
            flags,
            kind,
        })
    }

    /// Reads the start of a control frame, and returns a reader of the rest of that frame.
    fn open(bytes: &[u8], kind: u16, least: usize) -> Result<(Self, Reader<'_>), Reject> {
        let mut reader = Reader::new(bytes);
        let base = Self::read(&mut reader)?;
        if base.kind != kind {
            return Err(Reject::UnknownType);
        }
        let length = usize::try_from(base.length).map_err(|_| Reject::FrameLength)?;
        if length < least {
            return Err(Reject::FrameLength);
        }
        let frame = bytes.get(BASE_HEADER..length).ok_or(Reject::Short)?;
        Ok((base, Reader::new(frame)))
    }

    fn write(self, writer: &mut Writer<'_>) {
        writer.i32(self.length).u8(0).u8(self.flags).u16(self.kind);
    }
}

#[cfg(test)]
mod tests;

/// An upper bound of the bytes that a message takes in a stream: a header and an alignment for each
/// frame.
#[inline]
pub(crate) fn framed_bound(len: usize, mtu: usize) -> u64 {
    let payload_max = mtu.saturating_sub(FRAME_HEADER);
    if len < payload_max {
        return (len + FRAME_HEADER + FRAME_ALIGNMENT) as u64;
    }
    let frames = len.checked_div(payload_max).unwrap_or(0) + 1;
    let overhead = frames.saturating_mul(FRAME_HEADER) + FRAME_ALIGNMENT;
    (len as u64).saturating_add(overhead as u64)
}
