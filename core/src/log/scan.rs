//! Reading frames out of bytes that may be anything: nothing here trusts a length.

use core::cell::Cell;

use super::checksum::{Checksums, verify, verify_own};
use super::frame::{Header, follows};
use super::{LOG_STREAM_ID, Log, segment_base, segment_end};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER};
use crate::planted::Planted;
use crate::units::{Position, Term};
use crate::wire::frame::{
    Alike, DATA, FLAG_BEGIN, FLAG_END, VERSION_AND_TYPE, align, step as wire_step, words,
};

const _: () = assert!(LOG_STREAM_ID == 100);

/// Why the bytes at a position are not a good frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrameError {
    /// Not all bytes of the frame are there.
    Cut,
    /// Not the header of a log frame.
    BadHeader,
    /// A frame of another place in the log.
    WrongPosition,
    /// It would run across its segment's end.
    CrossesSegment,
    /// The frame's own checksum does not hold.
    BadChecksum,
    /// It does not follow from the frame before it.
    BadChain,
}

/// One frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRef<'a> {
    /// Where it starts.
    pub position: Position,
    /// The leadership term that wrote it.
    pub term: Term,
    /// The flags of its header.
    pub flags: u8,
    /// What it carries, without alignment bytes; empty for a PAD.
    pub payload: &'a [u8],
    /// Its bytes: `aligned_len` of them, or of a PAD that was sent as a header alone just that.
    pub bytes: &'a [u8],
    /// Its length in the log, a multiple of `FRAME_ALIGNMENT`.
    pub aligned_len: usize,
    /// It fills the rest of a segment and carries nothing.
    pub is_pad: bool,
    /// The chain that stands in it.
    pub chain: u32,
}

impl FrameRef<'_> {
    /// Where it ends.
    #[inline]
    pub fn end(&self) -> Position {
        self.position.plus(self.aligned_len as u64)
    }

    /// Does it follow from the chain `before` it?
    pub fn follows(&self, before: u32) -> bool {
        follows(self.bytes, self.is_pad, self.chain, before)
    }

    /// The chain before it, from which it follows. Walks its bits: for rare calls.
    pub(super) fn chain_before(&self) -> Option<u32> {
        Header::parse(self.bytes).map(|h| h.chain_before(self.bytes))
    }

    /// Writes the frame as it stands in the log to the start of `room`; of a PAD only the header
    /// counts, the rest is zeroed. False, and nothing is written, if it does not fit.
    pub(super) fn write_to(&self, room: &mut [u8]) -> bool {
        let counts = if self.is_pad {
            FRAME_HEADER
        } else {
            self.aligned_len
        };
        let room = room.get_mut(..self.aligned_len);
        let (Some((frame, filling)), Some(bytes)) = (
            room.and_then(|room| room.split_at_mut_checked(counts)),
            self.bytes.get(..counts),
        ) else {
            return false;
        };
        frame.copy_from_slice(bytes);
        filling.fill(0);
        true
    }

    /// Is it a message's first frame?
    #[inline]
    pub fn begins(&self) -> bool {
        self.flags & FLAG_BEGIN != 0 && !self.is_pad
    }

    /// Is it a message's last frame?
    #[inline]
    pub fn ends(&self) -> bool {
        self.flags & FLAG_END != 0 && !self.is_pad
    }
}

/// The whole frames in a run of bytes, in order, up to the first that is not good.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: Position,
    segment_length: u32,
    is_verified: bool,
    is_linked: bool,
    chain: Option<u32>,
    error: Option<FrameError>,
}

impl<'a> Frames<'a> {
    /// The frames in `bytes`, the first of which is the one at `at`. Checks structure only.
    pub const fn new(bytes: &'a [u8], at: Position, segment_length: u32) -> Self {
        Self {
            bytes,
            at,
            segment_length,
            is_verified: false,
            is_linked: false,
            chain: None,
            error: None,
        }
    }

    /// Checks each frame's own checksum too.
    #[must_use]
    pub const fn verified(mut self) -> Self {
        self.is_verified = true;
        self
    }

    /// Checks too that the frames follow from one another, and the first from `before`.
    #[must_use]
    pub const fn chained(self, before: u32) -> Self {
        self.linked(Some(before))
    }

    /// Checks too that the frames follow from one another, and the first from `before`, if that is
    /// known: it is not where a log was purged, or read in the middle.
    #[must_use]
    pub const fn linked(mut self, before: Option<u32>) -> Self {
        self.is_linked = true;
        self.chain = before;
        self
    }

    /// Passes over whole frames, `len` bytes of them, that are known to be good.
    pub(crate) fn pass_over(&mut self, len: usize) {
        self.bytes = self.bytes.get(len..).unwrap_or(&[]);
        self.at = self.at.plus(len as u64);
    }

    /// Where the next frame would start: the end of the last good one.
    pub const fn position(&self) -> Position {
        self.at
    }

    /// Why the frames ended before the bytes did; `None` if they did not.
    pub const fn error(&self) -> Option<FrameError> {
        self.error
    }

    #[inline(always)]
    fn try_next(&mut self) -> Result<FrameRef<'a>, FrameError> {
        let (frame, header) = parse(self.bytes, self.at, self.segment_length)?;
        match (self.is_verified, self.chain) {
            (true, Some(before)) => header.both_hold(frame.bytes, before)?,
            (true, None) if !header.own_holds(frame.bytes) => return Err(FrameError::BadChecksum),
            (false, Some(before)) if !header.chain_holds(frame.bytes, before) => {
                return Err(FrameError::BadChain);
            }
            _ => {}
        }
        if self.is_linked {
            self.chain = Some(frame.chain);
        }
        self.bytes = self.bytes.get(frame.bytes.len()..).unwrap_or(&[]);
        self.at = frame.end();
        Ok(frame)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = FrameRef<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<FrameRef<'a>> {
        if self.bytes.is_empty() || self.error.is_some() {
            return None;
        }
        match self.try_next() {
            Ok(frame) => Some(frame),
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}

/// Frames as they were written: see [`sound`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sound<'a> {
    /// The first of them.
    pub first: FrameRef<'a>,
    /// How many bytes of the run they are.
    pub len: usize,
    /// The chain in the last of them.
    pub chain: u32,
    /// A frame beside the first says that its chain is as it was written. If not, there was none
    /// to ask.
    pub is_borne_out: bool,
}

/// What of the first `run` of `bytes` is frames as they were written: by each one's own checksum,
/// and by its chain, which that does not cover, as far as the chain `before` the first of them, if
/// it is known, and its neighbours can tell. Work: `run`, and one frame more.
pub(crate) fn sound(
    bytes: &[u8],
    run: usize,
    at: Position,
    before: Option<u32>,
    segment_length: u32,
) -> Option<Sound<'_>> {
    let run = bytes.get(..run)?;
    let mut frames = Frames::new(run, at, segment_length).verified();
    frames = frames.linked(before);
    let first = frames.next()?;
    let mut sound = Sound {
        first,
        len: first.aligned_len,
        chain: first.chain,
        is_borne_out: before.is_some(),
    };
    for frame in frames {
        sound.len += frame.aligned_len;
        sound.chain = frame.chain;
        sound.is_borne_out = true;
    }
    if sound.is_borne_out {
        return Some(sound);
    }
    let behind = bytes.get(first.bytes.len()..).unwrap_or_default();
    let next = Frames::new(behind, first.end(), segment_length)
        .verified()
        .next();
    sound.is_borne_out = next.is_some();
    // If it does not follow one of the two is damaged, and nothing says which.
    next.is_none_or(|next| next.follows(first.chain))
        .then_some(sound)
}

/// The position that the frame at the start of `bytes` says it has; `None` if it is no log frame.
pub fn stated_position(bytes: &[u8], segment_length: u32) -> Option<Position> {
    Header::parse(bytes).map(|h| h.position(segment_length))
}

/// Do `bytes` begin like a DATA frame of a log? Nothing else is checked.
#[inline]
pub(crate) fn is_data(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|header| {
        let [kind, _, stream, _] = words(header);
        kind & VERSION_AND_TYPE == DATA && stream as u32 == LOG_STREAM_ID as u32
    })
}

/// The frame at the start of `bytes`, if it is the one at `at`. Structure only. A PAD may be its
/// header alone, if nothing follows.
#[inline(always)]
fn parse(
    bytes: &[u8],
    at: Position,
    segment_length: u32,
) -> Result<(FrameRef<'_>, Header), FrameError> {
    match parse_data(bytes, at, segment_length) {
        Some(good) => Ok(good),
        None => parse_any(bytes, at, segment_length),
    }
}

/// As [`parse`], of a DATA frame with nothing wrong: nearly all are. Else `None`, which says
/// nothing.
#[inline(always)]
fn parse_data(bytes: &[u8], at: Position, segment_length: u32) -> Option<(FrameRef<'_>, Header)> {
    let [kind, places, stream, sums] = words(bytes.first_chunk()?);
    let (length, flags) = (kind as u32, (kind >> 40) as u8);
    let (segment_offset, term) = (places as u32, (places >> 32) as u32);
    let (stream, segment) = (stream as u32, (stream >> 32) as u32);
    let named = u64::from(segment) * u64::from(segment_length) + u64::from(segment_offset);
    let aligned_len = align(length as usize);
    let is_good = kind & VERSION_AND_TYPE == DATA
        && stream == LOG_STREAM_ID as u32
        && (segment | term | length) >> 31 == 0
        && length as usize >= FRAME_HEADER
        && named == at.get()
        && (at.get() | u64::from(segment_offset)).is_multiple_of(FRAME_ALIGNMENT as u64)
        && aligned_len <= segment_length.saturating_sub(segment_offset) as usize;
    let frame = bytes.get(..aligned_len).filter(|_| is_good)?;
    let term = Term::new(term);
    let sums = Checksums::from_reserved(sums as i64);
    let header = Header {
        length,
        flags,
        is_pad: false,
        segment_offset,
        segment,
        term,
        sums,
    };
    let frame = FrameRef {
        position: at,
        term,
        flags,
        payload: frame.get(FRAME_HEADER..length as usize)?,
        bytes: frame,
        aligned_len,
        is_pad: false,
        chain: sums.chain,
    };
    Some((frame, header))
}

#[inline(never)]
fn parse_any(
    bytes: &[u8],
    at: Position,
    segment_length: u32,
) -> Result<(FrameRef<'_>, Header), FrameError> {
    if bytes.len() < FRAME_HEADER {
        return Err(FrameError::Cut);
    }
    let header = Header::parse(bytes).ok_or(FrameError::BadHeader)?;
    let named = u64::from(header.segment) * u64::from(segment_length);
    let named = named + u64::from(header.segment_offset);
    if header.segment_offset >= segment_length || named != at.get() || !at.is_aligned() {
        return Err(FrameError::WrongPosition);
    }
    let aligned_len = header.aligned();
    let rest = (segment_length - header.segment_offset) as usize;
    if aligned_len > rest || (header.is_pad && aligned_len != rest) {
        return Err(FrameError::CrossesSegment);
    }
    let is_header_alone = header.is_pad && bytes.len() == FRAME_HEADER;
    let len = if is_header_alone {
        FRAME_HEADER
    } else {
        aligned_len
    };
    let frame = bytes.get(..len).ok_or(FrameError::Cut)?;
    let payload = if header.is_pad {
        &[]
    } else {
        frame
            .get(FRAME_HEADER..header.length as usize)
            .ok_or(FrameError::BadHeader)?
    };
    let frame = FrameRef {
        position: at,
        term: header.term,
        flags: header.flags,
        payload,
        bytes: frame,
        aligned_len,
        is_pad: header.is_pad,
        chain: header.sums.chain,
    };
    Ok((frame, header))
}

/// The frames that are alike from the one at `at` on, with which `bytes` start, and their term;
/// `None` if that is no DATA frame at this place.
#[inline(always)]
pub(crate) fn alike(bytes: &[u8], at: Position, segment_length: u32) -> Option<(Alike<'_>, Term)> {
    let (first, _) = parse_data(bytes, at, segment_length)?;
    Some((Alike::as_first(bytes)?, first.term))
}

/// What the headers of all DATA frames that a term has written into one segment say, wherever they
/// are in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Common {
    /// The word of its place and its term, if it were at the log's first byte.
    places: u64,
    /// The word of its stream and its segment.
    stream: u64,
}

impl Common {
    /// What no frame says.
    pub const NONE: Self = Self {
        places: 0,
        stream: 0,
    };

    /// In the segment of the byte at `at`.
    pub const fn of(at: Position, term: Term, segment_length: u32) -> Self {
        let base = segment_base(at, segment_length).get();
        let segment = base >> segment_length.trailing_zeros();
        Self {
            places: ((term.get() as u64) << 32).wrapping_sub(base),
            stream: LOG_STREAM_ID as u32 as u64 | segment << 32,
        }
    }

    /// Those of them at the start of `bytes`, of which the first is the one at `at`.
    #[inline(always)]
    pub const fn frames<'a>(&self, bytes: &'a [u8], at: Position) -> Alike<'a> {
        Alike::of(bytes, self.places.wrapping_add(at.get()), self.stream)
    }
}

/// Whether the header of `bytes` is that of a DATA frame of `term` at this place.
#[inline(always)]
pub(crate) fn starts_with(bytes: &[u8], at: Position, term: Term, segment_length: u32) -> bool {
    let Some(header) = bytes.first_chunk() else {
        return false;
    };
    let ([kind, places, stream, _], base) = (words(header), segment_base(at, segment_length));
    let segment = base.get() >> segment_length.trailing_zeros();
    kind & VERSION_AND_TYPE == DATA
        && places == (at.since(base) | u64::from(term.get()) << 32)
        && stream == (u64::from(LOG_STREAM_ID as u32) | segment << 32)
}

/// How many bytes are those of `frames` of which both sums hold, if this is the chain before them,
/// and that start within `lap` bytes; and the chain behind the last.
#[inline(always)]
pub(super) fn sound_of(frames: Alike<'_>, before: u32, lap: usize) -> (usize, u32) {
    verify(before, frames.rest(), move |header, start| {
        frames.has(header, start) && start < lap
    })
}

/// How many of `bytes` are frames that are alike from the one at `at` on, at most `count` of them,
/// of which their own sums hold.
pub(crate) fn intact(bytes: &[u8], at: Position, segment_length: u32, count: usize) -> usize {
    let Some((frames, _)) = alike(bytes, at, segment_length) else {
        return 0;
    };
    let left = Cell::new(count);
    verify_own(frames.rest(), |header, start| {
        let is_one_more = left.get().checked_sub(1).map(|rest| left.set(rest));
        is_one_more.is_some() && frames.has(header, start)
    })
}

/// How many of `bytes`, which start with the frame at `at`, make one datagram: whole frames of one
/// term, at most `max_len` bytes, not across a segment's end. 0 if the first frame does not fit, or
/// is a PAD of which the header alone is there.
///
/// A PAD travels alone (as a driver of Aeron's sends it): see [`sent`].
pub fn run(bytes: &[u8], at: Position, max_len: usize, segment_length: u32) -> usize {
    let rest = segment_end(at, segment_length).since(at) as usize;
    let most = bytes.get(..max_len.min(rest)).unwrap_or(bytes);
    let Some((mut frames, _)) = alike(most, at, segment_length) else {
        let first = parse(bytes, at, segment_length).ok();
        let len = first.map_or(0, |(frame, _)| frame.aligned_len);
        return if len <= max_len.min(bytes.len()) {
            len
        } else {
            0
        };
    };
    while frames.next().is_some() {}
    most.len() - frames.rest().len()
}

/// What of one datagram's run of frames is sent: all of it, but of a PAD its header alone (Aeron).
pub fn sent(run: &[u8]) -> &[u8] {
    let sent = wire_step(run).map_or(run.len(), |(sent, spans)| match sent < spans {
        true => sent,
        false => run.len(),
    });
    run.get(..sent).unwrap_or(run)
}

/// Does a frame start at `position`, where `bytes` are read from: its header says so, its own
/// checksum holds, and `term` (if given) wrote it? So is checked where a peer asks to be sent bytes
/// from.
pub fn starts_frame(
    bytes: &[u8],
    position: Position,
    term: Option<Term>,
    segment_length: u32,
) -> bool {
    if Planted::NakInMidFrameAnswered.is_active() {
        return !bytes.is_empty();
    }
    let mut frames = Frames::new(bytes, position, segment_length).verified();
    let first = frames.next();
    first.is_some_and(|frame| term.is_none_or(|term| term == frame.term))
}

/// Might a frame start at `position` of `log`? Certain for what is in memory, where frames are
/// walked from the oldest on: bounded by the window, for rare calls. Of bytes below nothing is
/// known.
pub fn may_start_frame<L: Log>(log: &L, position: Position) -> bool {
    let mut at = log.start();
    while at < position {
        let run = log.read(at);
        let mut frames = Frames::new(run, at, log.segment_length());
        let reached = frames.by_ref().map(|f| f.end()).find(|e| *e >= position);
        match reached {
            Some(end) => return end == position,
            None if frames.position() == at => return false,
            None => at = frames.position(),
        }
    }
    at == position || position < log.start()
}

/// The frames in memory from `position` on, if one starts there: see [`starts_frame`].
pub fn boundary<L: Log>(log: &L, position: Position, term: Option<Term>) -> Option<&[u8]> {
    let run = log.read(position);
    starts_frame(run, position, term, log.segment_length()).then_some(run)
}
