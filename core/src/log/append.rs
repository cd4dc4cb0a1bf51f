//! Writing records: the only place where frames are made.

use super::checksum::seal_all;
use super::frame::{Header, seal};
use super::{LOG_STREAM_ID, Log, Span, segment_base, segment_end};
use crate::broken::Broken;
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER, MESSAGE_MAX};
use crate::units::{Position, Term};
use crate::wire::frame::{
    DATA, FLAG_BEGIN as BEGIN, FLAG_END as END, align, from_words, put, words,
};

/// Why a record was not appended. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum AppendError {
    /// No room now: back pressure.
    Full,
    /// The record is longer than `MESSAGE_MAX`.
    TooLong,
    /// The chain at the log's end is not known (see [`Log::chain`]).
    ChainUnknown,
    /// A frame of this MTU would carry nothing.
    BadMtu,
    /// A bug of ours.
    Broken(Broken),
}

impl From<Broken> for AppendError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Appends one record, the concatenation of `parts`, in frames of at most `mtu` bytes, and
/// publishes it; gives the bytes it takes, PADs before and between its frames included.
///
/// All or nothing. Bounded by the record's frames. `mtu` is at least twice
/// `FRAME_ALIGNMENT` and at most the window's `frame_max`.
///
/// # Errors
/// See [`AppendError`].
pub fn append<L: Log>(
    log: &mut L,
    term: Term,
    parts: &[&[u8]],
    mtu: usize,
) -> Result<Span, AppendError> {
    let total = total_len(parts).ok_or(AppendError::TooLong)?;
    let mut chain = log.chain().ok_or(AppendError::ChainUnknown)?;
    let payload_max = payload_max(mtu).ok_or(AppendError::BadMtu)?;
    let start = log.end();
    let mut run = Appending::open(log, term, mtu)?;
    if run.push(total, parts) {
        let (end, chain) = run.seal();
        log.publish(end, chain)?;
        return Ok(Span::new(start, end));
    }
    check_room(log, start, total, payload_max)?;

    let mut source = Source { parts, skipped: 0 };
    let mut at = start;
    let mut left = total;
    loop {
        let len = left.min(payload_max);
        at = pad(log, at, term, align(FRAME_HEADER + len), &mut chain)?;
        let first = if left == total { BEGIN } else { 0 };
        let last = if left == len { END } else { 0 };
        let header = header_at(log, at, term, FRAME_HEADER + len, first | last);
        let frame = frame_room(log, at, header.aligned())?;
        header.emit(frame);
        let body = frame.get_mut(FRAME_HEADER..);
        let body = body.and_then(|body| body.split_at_mut_checked(len));
        let (payload, alignment) = body.ok_or(Broken::Room)?;
        source.fill(payload);
        alignment.fill(0);
        chain = seal(&header, frame, chain);
        at = at.plus(header.aligned() as u64);
        left -= len;
        if left == 0 {
            break;
        }
    }
    log.publish(at, chain)?;
    Ok(Span::new(start, at))
}

/// Records of one frame each, written one behind the other into room that is looked up once: nearly
/// all are. What was written is no part of the log before it is sealed, and published up to where
/// it ends.
pub struct Appending<'r> {
    /// To the end of the segment at most.
    room: &'r mut [u8],
    /// So much of it is written.
    len: usize,
    /// A frame that starts behind so many bytes of it lies elsewhere in memory.
    lap: usize,
    /// What one frame carries at most.
    payload_max: usize,
    start: Position,
    chain: u32,
    /// The second and third word of the first frame's header: offset and term, stream and segment.
    places: u64,
    stream: u64,
}

impl<'r> Appending<'r> {
    /// Behind the last frame of `log`, for records of `term` in frames of at most `mtu` bytes.
    ///
    /// # Errors
    /// [`AppendError::ChainUnknown`].
    #[inline(always)]
    pub fn open<L: Log>(log: &'r mut L, term: Term, mtu: usize) -> Result<Self, AppendError> {
        let chain = log.chain().ok_or(AppendError::ChainUnknown)?;
        let (start, length) = (log.end(), log.segment_length());
        let offset = start.since(segment_base(start, length));
        let segment = start.get() >> length.trailing_zeros();
        let lap = log.lap_end(start).since(start) as usize;
        let room = log.room(start);
        let most = room.len().min((u64::from(length) - offset) as usize);
        let (room, _) = room.split_at_mut(most);
        Ok(Self {
            room,
            len: 0,
            lap,
            payload_max: payload_max(mtu).unwrap_or(0),
            start,
            chain,
            places: offset | u64::from(term.get()) << 32,
            stream: u64::from(LOG_STREAM_ID as u32) | segment << 32,
        })
    }

    /// Writes the concatenation of `parts`, `total` bytes, if it fits here in one frame; else
    /// false.
    #[inline(always)]
    pub fn push(&mut self, total: usize, parts: &[&[u8]]) -> bool {
        if total > self.payload_max || self.len >= self.lap {
            return false;
        }
        let length = FRAME_HEADER + total;
        let end = self.len + align(length);
        let Some(frame) = self.room.get_mut(self.len..end) else {
            return false;
        };
        let Some((header, mut rest)) = frame.split_first_chunk_mut() else {
            return false;
        };
        for part in parts {
            // Parts that are longer than `total` are no record: then this run ends here.
            let Some(behind) = put(rest, part) else {
                return false;
            };
            rest = behind;
        }
        if !rest.is_empty() {
            rest.fill(0);
        }
        let whole = u64::from(BEGIN | END) << 40;
        let places = self.places + self.len as u64;
        *header = from_words([length as u64 | whole | DATA, places, self.stream, 0]);
        self.len = end;
        true
    }

    /// How much room there is for frames, behind how many bytes of it none may start, and how long
    /// one may be.
    #[inline(always)]
    pub fn bounds(&self) -> (usize, usize, usize) {
        (self.room.len(), self.lap, FRAME_HEADER + self.payload_max)
    }

    /// Takes over records that stand in frames of another stream, one behind the other: `frames`
    /// are whole DATA frames that keep to [`Self::bounds`], each with a whole message. `change` is
    /// told of the room of each message. Nothing else may have been written.
    ///
    /// Seals them: where they end, and the chain there. `None` if they do not keep to the bounds.
    #[inline(always)]
    pub fn adopt(self, frames: &[u8], change: impl Fn(&mut [u8])) -> Option<(Position, u32)> {
        let room = self.room.get_mut(..frames.len())?;
        room.copy_from_slice(frames);
        let mut at = 0;
        // Told by where they came from: what was just copied would be waited for.
        while let Some(heard) = frames.get(at..).and_then(|rest| rest.first_chunk()) {
            let [kind, ..] = words(heard);
            let length = kind as u32 as usize;
            let end = at + align(length);
            let (header, body) = room.get_mut(at..end)?.split_first_chunk_mut()?;
            *header = from_words([kind, self.places + at as u64, self.stream, 0]);
            if let Some(filling) = body.get_mut(length.wrapping_sub(FRAME_HEADER)..)
                && !filling.is_empty()
            {
                filling.fill(0);
            }
            change(body);
            at = end;
        }
        let chain = seal_all(self.chain, room);
        Some((self.start.plus(frames.len() as u64), chain))
    }

    /// Seals what was written: where it ends, and the chain there.
    #[inline]
    pub fn seal(self) -> (Position, u32) {
        let written = self.room.get_mut(..self.len).unwrap_or_default();
        let chain = seal_all(self.chain, written);
        (self.start.plus(self.len as u64), chain)
    }
}

/// How many bytes of log a record of `len` bytes takes at `at`, PADs included. `None` if too long,
/// or if a frame of `mtu` bytes would carry nothing.
pub fn encoded_len(at: Position, len: usize, mtu: usize, segment_length: u32) -> Option<u64> {
    if len > MESSAGE_MAX {
        return None;
    }
    let (_, end) = layout(at, len, payload_max(mtu)?, segment_length);
    Some(end.since(at))
}

fn payload_max(mtu: usize) -> Option<usize> {
    let payload = (mtu / FRAME_ALIGNMENT * FRAME_ALIGNMENT).checked_sub(FRAME_HEADER)?;
    (payload > 0).then_some(payload)
}

fn total_len(parts: &[&[u8]]) -> Option<usize> {
    parts
        .iter()
        .try_fold(0usize, |sum, part| sum.checked_add(part.len()))
        .filter(|total| *total <= MESSAGE_MAX)
}

/// Is there room for every frame? The room for the last one implies that of those before it.
fn check_room<L: Log>(
    log: &mut L,
    start: Position,
    total: usize,
    payload_max: usize,
) -> Result<(), AppendError> {
    let (last, end) = layout(start, total, payload_max, log.segment_length());
    let first = log.room(start).len();
    let room = if last == start {
        first
    } else {
        log.room(last).len()
    };
    if first == 0 || (room as u64) < end.since(last) {
        return Err(AppendError::Full);
    }
    Ok(())
}

/// Where the last frame of a record starts and ends.
fn layout(
    start: Position,
    total: usize,
    payload_max: usize,
    segment_length: u32,
) -> (Position, Position) {
    let mut at = start;
    let mut left = total;
    loop {
        let len = left.min(payload_max);
        let frame = align(FRAME_HEADER + len) as u64;
        let segment_end = segment_end(at, segment_length);
        if segment_end.since(at) < frame {
            at = segment_end;
        }
        left -= len;
        if left == 0 {
            return (at, at.plus(frame));
        }
        at = at.plus(frame);
    }
}

/// Fills the segment with a PAD if a frame of `needed` bytes does not fit in the rest of it. The
/// PAD is shorter than that frame, so it has room wherever the frame has.
fn pad<L: Log>(
    log: &mut L,
    at: Position,
    term: Term,
    needed: usize,
    chain: &mut u32,
) -> Result<Position, Broken> {
    let segment_end = segment_end(at, log.segment_length());
    let rest = segment_end.since(at) as usize;
    if rest >= needed {
        return Ok(at);
    }
    let mut header = header_at(log, at, term, rest, BEGIN | END);
    header.is_pad = true;
    let frame = frame_room(log, at, rest)?;
    frame.fill(0);
    header.emit(frame);
    *chain = seal(&header, frame, *chain);
    Ok(segment_end)
}

fn header_at<L: Log>(log: &L, at: Position, term: Term, length: usize, flags: u8) -> Header {
    let base = segment_base(at, log.segment_length());
    Header {
        length: length as u32,
        flags,
        is_pad: false,
        segment_offset: at.since(base) as u32,
        segment: (base.get() >> log.segment_length().trailing_zeros()) as u32,
        term,
        sums: super::checksum::Checksums { own: 0, chain: 0 },
    }
}

/// Room that was checked before anything was written.
fn frame_room<L: Log>(log: &mut L, at: Position, len: usize) -> Result<&mut [u8], Broken> {
    log.room(at).get_mut(..len).ok_or(Broken::Room)
}

/// The bytes of all parts, one after the other.
struct Source<'a> {
    parts: &'a [&'a [u8]],
    skipped: usize,
}

impl Source<'_> {
    fn fill(&mut self, mut target: &mut [u8]) {
        while let (false, Some((part, rest))) = (target.is_empty(), self.parts.split_first()) {
            let part = part.get(self.skipped..).unwrap_or(&[]);
            let len = part.len().min(target.len());
            let (now, later) = target.split_at_mut(len);
            now.copy_from_slice(&part[..len]);
            target = later;
            self.skipped += len;
            if len == part.len() {
                self.parts = rest;
                self.skipped = 0;
            }
        }
    }
}
