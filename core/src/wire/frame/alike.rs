//! Frames that have all but their length, flags and reserved value in common: nearly all that are
//! in one datagram, or lie behind one another in a log.

use super::data::{DATA, VERSION_AND_TYPE, words};
use super::{FLAGS_WHOLE, align};
use crate::limits::FRAME_HEADER;

/// The frames at the start of some bytes that are DATA, one behind the other, with the same header
/// as the first but for length, flags, reserved value and place: so they are of one session or
/// term, and say that they are of one term buffer or segment. Nothing else is checked, and nothing
/// of what bytes hold can do harm.
#[derive(Clone, Debug)]
pub(crate) struct Alike<'a> {
    bytes: &'a [u8],
    places: u64,
    stream: u64,
}

/// One of [`Alike`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<'a> {
    /// Its bytes.
    frame: &'a [u8],
    /// The same without alignment.
    length: usize,
    /// Its reserved value.
    pub reserved: u64,
}

impl<'a> Plain<'a> {
    /// What it carries.
    #[inline(always)]
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.frame.get(FRAME_HEADER..self.length)
    }
}

impl<'a> Alike<'a> {
    /// As the first header in `bytes`, whatever that is; `None` if there is none.
    #[inline(always)]
    pub fn as_first(bytes: &'a [u8]) -> Option<Self> {
        let [_, places, stream, _] = words(bytes.first_chunk()?);
        Some(Self {
            bytes,
            places,
            stream,
        })
    }

    /// As a header with these words for place and session, and for stream and term buffer.
    #[inline(always)]
    pub const fn of(bytes: &'a [u8], places: u64, stream: u64) -> Self {
        Self {
            bytes,
            places,
            stream,
        }
    }

    /// Only those that end within `most` bytes.
    #[inline(always)]
    #[must_use]
    pub fn within(self, most: usize) -> Self {
        let bytes = self.bytes.get(..most).unwrap_or(self.bytes);
        Self { bytes, ..self }
    }

    /// The bytes that are left.
    #[inline(always)]
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Would a frame with this header, so many bytes behind the first, be one of them?
    #[inline(always)]
    pub fn has(&self, header: &[u8; FRAME_HEADER], behind: usize) -> bool {
        let [kind, places, stream, _] = words(header);
        is_data(kind, 0)
            && places == self.places.wrapping_add(behind as u64)
            && stream == self.stream
    }

    /// The next one, if it is a message that takes no other frame.
    #[inline(always)]
    pub fn next_whole(&mut self) -> Option<Plain<'a>> {
        self.next_of(FLAGS_WHOLE)
    }

    /// The next one, if it has these flags.
    #[inline(always)]
    fn next_of(&mut self, flags: u8) -> Option<Plain<'a>> {
        let [kind, places, stream, reserved] = words(self.bytes.first_chunk()?);
        let length = kind as u32 as usize;
        let is_next = is_data(kind, flags)
            && places == self.places
            && stream == self.stream
            && length >= FRAME_HEADER;
        if !is_next {
            return None;
        }
        let (frame, rest) = self.bytes.split_at_checked(align(length))?;
        self.bytes = rest;
        self.places = places.wrapping_add(frame.len() as u64);
        Some(Plain {
            frame,
            length,
            reserved,
        })
    }
}

impl<'a> Iterator for Alike<'a> {
    type Item = Plain<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Plain<'a>> {
        self.next_of(0)
    }
}

/// Does the first word of a header say that it is a DATA frame's, with these flags at least?
#[inline(always)]
fn is_data(kind: u64, flags: u8) -> bool {
    // The half of it that is not the length.
    let half = |word: u64| (word >> 32) as u32;
    let flags = u64::from(flags) << 40;
    half(kind) & half(VERSION_AND_TYPE | flags) == half(DATA | flags)
}
