//! The frames beside the data: SETUP, SM, NAK, RTTM, ERR.

use super::{
    Base, FLAG_HAS_GROUP_TAG, FLAG_REPLY, TYPE_ERROR, TYPE_NAK, TYPE_RTTM, TYPE_SETUP,
    TYPE_STATUS_MESSAGE, is_term_length,
};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER, MTU_DEFAULT, MTU_MAX};
use crate::wire::{Reject, Writer};

/// The longest text of an [`ErrFrame`] in bytes (Aeron: `MAX_ERROR_MESSAGE_LENGTH`).
pub const ERROR_TEXT_MAX: usize = 1023;
const _: () = assert!(ErrFrame::LENGTH_MAX <= MTU_DEFAULT, "sent as one datagram");

/// Announces a stream (Aeron: `SetupFlyweight`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Setup {
    /// `FLAG_SEND_RESPONSE_SETUP`, `FLAG_GROUP`.
    pub flags: u8,
    /// Where the sender is in the active term: aligned, below `term_length`.
    pub term_offset: i32,
    /// The session.
    pub session_id: i32,
    /// The stream.
    pub stream_id: i32,
    /// The id of the stream's first term buffer.
    pub initial_term_id: i32,
    /// The id of the term buffer that the sender is in.
    pub active_term_id: i32,
    /// The length of a term buffer in bytes: a power of two, 64 KiB to 1 GiB.
    pub term_length: u32,
    /// The longest frame in bytes: 32 to 65,504, a multiple of 32.
    pub mtu: u32,
    /// Multicast hops.
    pub ttl: i32,
}

impl Setup {
    /// The length of the frame in bytes.
    pub const LENGTH: usize = 40;

    /// Reads the frame at the start of `bytes`.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::FrameVersion`], [`Reject::UnknownType`],
    /// [`Reject::FrameLength`]; [`Reject::Alignment`] and [`Reject::Value`] for what Aeron's
    /// `SetupFlyweight.isValid` refuses, and for an active term before the first.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let (base, mut reader) = Base::open(bytes, TYPE_SETUP, Self::LENGTH)?;
        let setup = Self {
            flags: base.flags,
            term_offset: reader.i32()?,
            session_id: reader.i32()?,
            stream_id: reader.i32()?,
            initial_term_id: reader.i32()?,
            active_term_id: reader.i32()?,
            term_length: reader.u32()?,
            mtu: reader.u32()?,
            ttl: reader.i32()?,
        };
        let offset = aligned(setup.term_offset)?;
        let mtu = usize::try_from(setup.mtu).map_err(|_| Reject::Value)?;
        if !mtu.is_multiple_of(FRAME_ALIGNMENT) {
            return Err(Reject::Alignment);
        }
        let is_mtu = (FRAME_HEADER..=MTU_MAX).contains(&mtu);
        let is_forward = setup.active_term_id.wrapping_sub(setup.initial_term_id) >= 0;
        if is_mtu && is_forward && is_term_length(setup.term_length) && offset < setup.term_length {
            Ok(setup)
        } else {
            Err(Reject::Value)
        }
    }

    /// Writes the frame.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, TYPE_SETUP, self.flags, Self::LENGTH);
        writer
            .i32(self.term_offset)
            .i32(self.session_id)
            .i32(self.stream_id)
            .i32(self.initial_term_id)
            .i32(self.active_term_id)
            .u32(self.term_length)
            .u32(self.mtu)
            .i32(self.ttl);
        writer.finish()
    }
}

/// How far a receiver has consumed, and how much more it has room for (Aeron:
/// `StatusMessageFlyweight`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StatusMessage {
    /// `FLAG_SEND_SETUP`, `FLAG_SM_END_OF_STREAM`.
    pub flags: u8,
    /// The session.
    pub session_id: i32,
    /// The stream.
    pub stream_id: i32,
    /// The term buffer of the consumed position.
    pub term_id: i32,
    /// The consumed position in that term buffer: aligned.
    pub term_offset: i32,
    /// How many bytes past that position the receiver takes; not negative.
    pub window: i32,
    /// Tells receivers apart.
    pub receiver_id: i64,
    /// The receiver's group, for multicast flow control.
    pub group_tag: Option<i64>,
}

impl StatusMessage {
    /// The length of the frame without a group tag, in bytes.
    pub const LENGTH: usize = 36;
    /// The length of the frame with a group tag, in bytes.
    pub const LENGTH_MAX: usize = Self::LENGTH + 8;

    /// Reads the frame at the start of `bytes`. Feedback that is not a group tag is ignored.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::FrameVersion`], [`Reject::UnknownType`],
    /// [`Reject::FrameLength`], [`Reject::Alignment`], [`Reject::Value`] for a negative window.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let (base, mut reader) = Base::open(bytes, TYPE_STATUS_MESSAGE, Self::LENGTH)?;
        let mut message = Self {
            flags: base.flags,
            session_id: reader.i32()?,
            stream_id: reader.i32()?,
            term_id: reader.i32()?,
            term_offset: reader.i32()?,
            window: reader.i32()?,
            receiver_id: reader.i64()?,
            group_tag: None,
        };
        if reader.rest().len() == 8 {
            message.group_tag = Some(reader.i64()?);
        }
        aligned(message.term_offset)?;
        if message.window < 0 {
            return Err(Reject::Value);
        }
        Ok(message)
    }

    /// Writes the frame.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let length = match self.group_tag {
            Some(_) => Self::LENGTH_MAX,
            None => Self::LENGTH,
        };
        let mut writer = open(out, TYPE_STATUS_MESSAGE, self.flags, length);
        writer
            .i32(self.session_id)
            .i32(self.stream_id)
            .i32(self.term_id)
            .i32(self.term_offset)
            .i32(self.window)
            .i64(self.receiver_id);
        if let Some(tag) = self.group_tag {
            writer.i64(tag);
        }
        writer.finish()
    }
}

/// Asks for a range of a stream again (Aeron: `NakFlyweight`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Nak {
    /// The session; between members the joined leadership term.
    pub session_id: i32,
    /// The stream.
    pub stream_id: i32,
    /// The term buffer.
    pub term_id: i32,
    /// Where the range starts in that term buffer: aligned.
    pub term_offset: i32,
    /// How many bytes are missing; not negative.
    pub length: i32,
}

impl Nak {
    /// The length of the frame in bytes.
    pub const LENGTH: usize = 28;

    /// Reads the frame at the start of `bytes`. Whether the range is inside its term is for those
    /// to check who know the term's length.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::FrameVersion`], [`Reject::UnknownType`],
    /// [`Reject::FrameLength`], [`Reject::Alignment`], [`Reject::Value`] for a negative length.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let (_, mut reader) = Base::open(bytes, TYPE_NAK, Self::LENGTH)?;
        let nak = Self {
            session_id: reader.i32()?,
            stream_id: reader.i32()?,
            term_id: reader.i32()?,
            term_offset: reader.i32()?,
            length: reader.i32()?,
        };
        aligned(nak.term_offset)?;
        if nak.length < 0 {
            return Err(Reject::Value);
        }
        Ok(nak)
    }

    /// Writes the frame.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, TYPE_NAK, 0, Self::LENGTH);
        writer
            .i32(self.session_id)
            .i32(self.stream_id)
            .i32(self.term_id)
            .i32(self.term_offset)
            .i32(self.length);
        writer.finish()
    }
}

/// A round trip measurement, or its answer (Aeron: `RttMeasurementFlyweight`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Rttm {
    /// `FLAG_REPLY`: whoever gets this shall answer, with the flag clear.
    pub reply: bool,
    /// The session.
    pub session_id: i32,
    /// The stream.
    pub stream_id: i32,
    /// The asker's clock in nanoseconds, given back as it came.
    pub echo_timestamp: i64,
    /// How long the answerer took, in nanoseconds.
    pub reception_delta: i64,
    /// The receiver that asks or is asked.
    pub receiver_id: i64,
}

impl Rttm {
    /// The length of the frame in bytes.
    pub const LENGTH: usize = 40;

    /// Reads the frame at the start of `bytes`.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::FrameVersion`], [`Reject::UnknownType`],
    /// [`Reject::FrameLength`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let (base, mut reader) = Base::open(bytes, TYPE_RTTM, Self::LENGTH)?;
        Ok(Self {
            reply: base.flags & FLAG_REPLY != 0,
            session_id: reader.i32()?,
            stream_id: reader.i32()?,
            echo_timestamp: reader.i64()?,
            reception_delta: reader.i64()?,
            receiver_id: reader.i64()?,
        })
    }

    /// Writes the frame.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let flags = if self.reply { FLAG_REPLY } else { 0 };
        let mut writer = open(out, TYPE_RTTM, flags, Self::LENGTH);
        writer
            .i32(self.session_id)
            .i32(self.stream_id)
            .i64(self.echo_timestamp)
            .i64(self.reception_delta)
            .i64(self.receiver_id);
        writer.finish()
    }
}

/// A receiver rejects a stream (Aeron: `ErrorFlyweight`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ErrFrame<'a> {
    /// The session.
    pub session_id: i32,
    /// The stream.
    pub stream_id: i32,
    /// The receiver that rejects it.
    pub receiver_id: i64,
    /// The receiver's group.
    pub group_tag: Option<i64>,
    /// Aeron's error code.
    pub code: i32,
    /// The reason: at most [`ERROR_TEXT_MAX`] bytes are sent; not necessarily text.
    pub text: &'a [u8],
}

impl<'a> ErrFrame<'a> {
    /// The length of the frame without its text, in bytes.
    pub const LENGTH: usize = 40;
    /// The longest that `emit` writes, in bytes.
    pub const LENGTH_MAX: usize = Self::LENGTH + ERROR_TEXT_MAX;

    /// Reads the frame at the start of `bytes`.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::FrameVersion`], [`Reject::UnknownType`],
    /// [`Reject::FrameLength`], [`Reject::VarData`] if the text reaches beyond the frame.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reject> {
        let (base, mut reader) = Base::open(bytes, TYPE_ERROR, Self::LENGTH)?;
        let session_id = reader.i32()?;
        let stream_id = reader.i32()?;
        let receiver_id = reader.i64()?;
        let tag = reader.i64()?;
        let code = reader.i32()?;
        let length = usize::try_from(reader.u32()?).map_err(|_| Reject::VarData)?;
        let text = reader.take(length).map_err(|_| Reject::VarData)?;
        Ok(Self {
            session_id,
            stream_id,
            receiver_id,
            group_tag: (base.flags & FLAG_HAS_GROUP_TAG != 0).then_some(tag),
            code,
            text,
        })
    }

    /// Writes the frame; a text longer than [`ERROR_TEXT_MAX`] is cut.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let flags = match self.group_tag {
            Some(_) => FLAG_HAS_GROUP_TAG,
            None => 0,
        };
        let text = self.text.get(..ERROR_TEXT_MAX).unwrap_or(self.text);
        let mut writer = open(out, TYPE_ERROR, flags, Self::LENGTH + text.len());
        writer
            .i32(self.session_id)
            .i32(self.stream_id)
            .i64(self.receiver_id)
            .i64(self.group_tag.unwrap_or(0))
            .i32(self.code)
            .u32(text.len() as u32)
            .put(text);
        writer.finish()
    }
}

fn open(out: &mut [u8], kind: u16, flags: u8, length: usize) -> Writer<'_> {
    let mut writer = Writer::new(out);
    let base = Base {
        length: length as i32,
        flags,
        kind,
    };
    base.write(&mut writer);
    writer
}

/// A term offset that is not negative and is aligned.
fn aligned(offset: i32) -> Result<u32, Reject> {
    match u32::try_from(offset) {
        Ok(offset) if offset.is_multiple_of(FRAME_ALIGNMENT as u32) => Ok(offset),
        _ => Err(Reject::Alignment),
    }
}
