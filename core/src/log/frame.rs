//! The header of a log frame: an Aeron DATA or PAD header whose session id is the leadership term,
//! whose term id is the number of the segment, and whose reserved value holds the two checksums.

use super::checksum::{Checksums, both_of, chain_before, own_of};
use super::{FrameError, LOG_STREAM_ID};
use crate::limits::FRAME_HEADER;
use crate::units::{Position, Term};

use crate::wire::frame::{DataHeader, Kind, align};

const RESERVED: core::ops::Range<usize> = 24..32;

/// A header as values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Header and payload, without alignment bytes; at least `FRAME_HEADER`.
    pub length: u32,
    pub flags: u8,
    pub is_pad: bool,
    pub segment_offset: u32,
    pub segment: u32,
    pub term: Term,
    pub sums: Checksums,
}

impl Header {
    /// `None` if these are not the first bytes of a log frame.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = DataHeader::parse(bytes).ok()?;
        if header.stream_id != LOG_STREAM_ID || header.is_heartbeat() {
            return None;
        }
        // Length and offset are none below zero: that was checked. Term id and session id may be.
        if header.term_id < 0 {
            return None;
        }
        Some(Self {
            length: header.frame_length as u32,
            flags: header.flags,
            is_pad: header.kind == Kind::Pad,
            segment_offset: header.term_offset as u32,
            segment: header.term_id as u32,
            term: Term::from_session_id(header.session_id)?,
            sums: Checksums::from_reserved(header.reserved),
        })
    }

    /// Writes a header at the start of `frame`, with the reserved value as 0.
    #[inline]
    pub fn emit(&self, frame: &mut [u8]) {
        let header = DataHeader {
            frame_length: self.length as i32,
            flags: self.flags,
            kind: if self.is_pad { Kind::Pad } else { Kind::Data },
            term_offset: self.segment_offset as i32,
            session_id: self.term.to_session_id(),
            stream_id: LOG_STREAM_ID,
            term_id: self.segment as i32,
            reserved: 0,
        };
        let is_written = header.emit(frame).is_some();
        debug_assert!(is_written, "the room was checked");
    }

    /// The length with alignment bytes.
    #[inline]
    pub const fn aligned(&self) -> usize {
        align(self.length as usize)
    }

    /// Where in the log this frame says it is.
    #[inline]
    pub const fn position(&self, segment_length: u32) -> Position {
        Position::new(self.segment as u64 * segment_length as u64 + self.segment_offset as u64)
    }

    /// What the checksums cover behind the header: of a PAD nothing.
    #[inline]
    fn body<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        let end = if self.is_pad {
            FRAME_HEADER
        } else {
            self.aligned()
        };
        frame.get(FRAME_HEADER..end).unwrap_or(&[])
    }

    /// Does the frame's own checksum hold?
    #[inline]
    pub fn own_holds(&self, frame: &[u8]) -> bool {
        own_of(&blanked(frame), self.body(frame)) == self.sums.own
    }

    /// Do both of its sums hold?
    #[inline]
    pub fn both_hold(&self, frame: &[u8], before: u32) -> Result<(), FrameError> {
        let sums = sums_of(frame, self.is_pad, before);
        if sums.own != self.sums.own {
            return Err(FrameError::BadChecksum);
        }
        match sums.chain == self.sums.chain {
            true => Ok(()),
            false => Err(FrameError::BadChain),
        }
    }

    /// Does its chain follow from the chain `before` it?
    #[inline]
    pub fn chain_holds(&self, frame: &[u8], before: u32) -> bool {
        follows(frame, self.is_pad, self.sums.chain, before)
    }

    /// The chain that its own follows from.
    pub fn chain_before(&self, frame: &[u8]) -> u32 {
        chain_before(self.sums.chain, &blanked(frame), self.body(frame))
    }
}

/// Does `chain`, which stands in `frame`, follow from the chain `before` it? `frame` ends where its
/// alignment does.
#[inline]
pub(super) fn follows(frame: &[u8], is_pad: bool, chain: u32, before: u32) -> bool {
    sums_of(frame, is_pad, before).chain == chain
}

/// The sums of a frame that ends where its alignment does; of a PAD its header counts alone.
#[inline]
pub(super) fn sums_of(frame: &[u8], is_pad: bool, before: u32) -> Checksums {
    let (header, body) = frame
        .split_first_chunk()
        .unwrap_or((&[0; FRAME_HEADER], &[]));
    both_of(before, header, if is_pad { &[] } else { body })
}

/// Writes both checksums into a frame that is complete but for them; gives its chain.
#[inline]
pub(super) fn seal(header: &Header, frame: &mut [u8], before: u32) -> u32 {
    let sums = sums_of(frame, header.is_pad, before);
    if let Some(reserved) = frame.get_mut(RESERVED) {
        reserved.copy_from_slice(&sums.to_reserved().to_le_bytes());
    }
    sums.chain
}

/// The aligned length of the frame at the start of `bytes`, which is known to be good: all that a
/// walk over many needs.
#[inline]
pub(super) fn step(bytes: &[u8]) -> Option<usize> {
    let length = i32::from_le_bytes(*bytes.first_chunk()?);
    (length >= FRAME_HEADER as i32).then(|| align(length as usize))
}

/// The chain that stands in the frame at the start of `bytes`, and the frame's aligned length: for
/// walking frames that are known to be good.
#[inline]
pub(super) fn hop(bytes: &[u8]) -> Option<(usize, u32, Term)> {
    let header = Header::parse(bytes)?;
    Some((header.aligned(), header.sums.chain, header.term))
}

#[inline]
fn blanked(frame: &[u8]) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    if let Some(bytes) = frame.first_chunk::<{ RESERVED.start }>() {
        header[..RESERVED.start].copy_from_slice(bytes);
    }
    header
}
