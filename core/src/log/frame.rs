//! The 32-byte header of a log frame (Aeron: `DataHeaderFlyweight`).
//!
//! ```text
//!  0 frame_length i32 | 4 version u8 = 0 | 5 flags u8 | 6 type u16 (0 PAD, 1 DATA)
//!  8 term_offset i32: place in the segment | 12 session_id i32: the leadership term
//! 16 stream_id i32 = 100 | 20 term_id i32: number of the segment | 24 reserved: checksums i64
//! ```

use super::LOG_STREAM_ID;
use super::checksum::{Checksums, chain_of, own_of};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER};
use crate::units::{Position, Term};

/// The first frame of a message.
pub(super) const BEGIN: u8 = 0x80;
/// The last frame of a message.
pub(super) const END: u8 = 0x40;

const TYPE_PAD: u16 = 0;
const TYPE_DATA: u16 = 1;
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
        let bytes: &[u8; FRAME_HEADER] = bytes.first_chunk()?;
        let i32_at = |at: usize| i32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let kind = u16::from_le_bytes([bytes[6], bytes[7]]);
        let length = u32::try_from(i32_at(0)).ok()?;
        let is_ours = bytes[4] == 0 && kind <= TYPE_DATA && i32_at(16) == LOG_STREAM_ID;
        if !is_ours || (length as usize) < FRAME_HEADER {
            return None;
        }
        let mut reserved = [0; 8];
        reserved.copy_from_slice(&bytes[RESERVED]);
        Some(Self {
            length,
            flags: bytes[5],
            is_pad: kind == TYPE_PAD,
            segment_offset: u32::try_from(i32_at(8)).ok()?,
            segment: u32::try_from(i32_at(20)).ok()?,
            term: Term::from_session_id(i32_at(12))?,
            sums: Checksums::from_reserved(i64::from_le_bytes(reserved)),
        })
    }

    /// Writes a header at the start of `frame`, with the reserved value as 0.
    #[inline]
    pub fn emit(&self, frame: &mut [u8]) {
        let Some(bytes) = frame.first_chunk_mut::<FRAME_HEADER>() else {
            return;
        };
        let kind = if self.is_pad { TYPE_PAD } else { TYPE_DATA };
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = 0;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.segment_offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.term.to_session_id().to_le_bytes());
        bytes[16..20].copy_from_slice(&LOG_STREAM_ID.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.segment.to_le_bytes());
        bytes[RESERVED].fill(0);
    }

    /// The length with alignment bytes.
    #[inline]
    pub const fn aligned(&self) -> usize {
        aligned(self.length as usize)
    }

    /// Where in the log this frame says it is.
    #[inline]
    pub const fn position(&self, segment_length: u32) -> Position {
        Position::new(self.segment as u64 * segment_length as u64 + self.segment_offset as u64)
    }

    /// What the checksums cover behind the header: of a PAD nothing.
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

    /// Does its chain follow from the chain `before` it?
    #[inline]
    pub fn chain_holds(&self, frame: &[u8], before: u32) -> bool {
        chain_of(before, &blanked(frame), self.body(frame)) == self.sums.chain
    }
}

/// Writes both checksums into a frame that is complete but for them; gives its chain.
#[inline]
pub(super) fn seal(header: &Header, frame: &mut [u8], before: u32) -> u32 {
    let blanked = blanked(frame);
    let body = header.body(frame);
    let sums = Checksums {
        own: own_of(&blanked, body),
        chain: chain_of(before, &blanked, body),
    };
    if let Some(reserved) = frame.get_mut(RESERVED) {
        reserved.copy_from_slice(&sums.to_reserved().to_le_bytes());
    }
    sums.chain
}

/// `length` up to the next multiple of the alignment.
#[inline]
pub(super) const fn aligned(length: usize) -> usize {
    length.next_multiple_of(FRAME_ALIGNMENT)
}

/// The chain that stands in the frame at the start of `bytes`, and the frame's aligned length: for
/// walking frames that are known to be good.
#[inline]
pub(super) fn hop(bytes: &[u8]) -> Option<(usize, u32, Term)> {
    let header = Header::parse(bytes)?;
    Some((header.aligned(), header.sums.chain, header.term))
}

fn blanked(frame: &[u8]) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    if let Some(bytes) = frame.get(..RESERVED.start) {
        header[..RESERVED.start].copy_from_slice(bytes);
    }
    header
}
