//! The memory window: a ring with slack, so that a frame never wraps.
//!
//! ```text
//!   0                          capacity      + frame_max
//!   |---- positions % capacity ----|--- slack ---|
//!          a frame that starts here  ====== runs on into the slack;
//!   ====== the next frame's place is its position % capacity, as always
//! ```
//!
//! The first bytes of a lap that the slack stands in for are simply not used in that lap.

use super::frame::{hop, step};
use super::{Log, Span, last_end, scan};
use crate::broken::Broken;
use crate::limits::{FRAME_ALIGNMENT, MTU_MAX};
use crate::planted::Planted;
use crate::units::{Position, Term};
use crate::wire::frame::is_term_length;

/// Why a window cannot be made of this memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum WindowError {
    /// Fewer bytes than `window_len(2 * frame_max, frame_max)`, rounded up to a power of two.
    TooSmall,
    /// The frame length is not a multiple of `FRAME_ALIGNMENT` in `1..=MTU_MAX`.
    BadFrameLength,
    /// The segment length is not a power of two in `SEGMENT_MIN..=SEGMENT_MAX`.
    BadSegmentLength,
    /// No frame can start at the position where the log is to go on: that is no multiple of
    /// `FRAME_ALIGNMENT`.
    BadStart,
}

/// How many bytes of memory a window of `capacity` (a power of two) for frames of at most
/// `frame_max` bytes needs.
pub const fn window_len(capacity: usize, frame_max: usize) -> usize {
    capacity.saturating_add(frame_max)
}

/// The log's recent bytes in lent memory. The oldest bytes are let go when their room is needed,
/// but never before storage has them ([`Window::set_written`]) and readers have released them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window<B> {
    bytes: B,
    capacity: u64,
    frame_max: usize,
    segment_length: u32,
    start: Position,
    end: Position,
    /// The chain of the last frame below `start` and below `end`.
    start_chain: Option<u32>,
    end_chain: Option<u32>,
    /// The term of the last frame below `start`; zero if none or unknown.
    start_term: Term,
    /// The first frame boundary at or behind the last lap that `end` has begun.
    wrap: Position,
    released: Position,
    written: Position,
    writing: Option<Span>,
    cut: Option<Position>,
    marks: Marks,
}

/// Of so many bytes about one is let go before its room is needed.
const SPARE: u64 = 64;
/// How many marks there are in a lap.
const MARKS: usize = SPARE as usize;

/// Where some of the window's frames start, so that many can be let go at once and need not be
/// walked: at most one in each part of a lap.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Marks {
    /// By part. That of another lap is none, and so is 0, which is before what is asked for or
    /// where the first frame of all starts.
    of: [Position; MARKS],
    /// A part is so long: a power of two.
    bits: u8,
}

impl Marks {
    const fn of_lap(capacity: u64) -> Self {
        let bits = capacity
            .trailing_zeros()
            .saturating_sub(MARKS.trailing_zeros());
        Self {
            of: [Position::ZERO; MARKS],
            bits: bits as u8,
        }
    }

    /// A frame will start at `position` if any does.
    #[inline(always)]
    fn note(&mut self, position: Position) {
        let part = position.get() >> self.bits;
        if let Some(mark) = self.of.get_mut(part as usize % MARKS)
            && mark.get() >> self.bits != part
        {
            *mark = position;
        }
    }

    /// The first one from `position` on, if it is in the same part or the next.
    fn next(&self, position: Position) -> Option<Position> {
        let first = position.get() >> self.bits;
        [first, first + 1].into_iter().find_map(|part| {
            let mark = *self.of.get(part as usize % MARKS)?;
            (mark.get() >> self.bits == part && mark >= position).then_some(mark)
        })
    }

    /// From `end` on there are no frames any more.
    fn forget_from(&mut self, end: Position) {
        for mark in &mut self.of {
            if *mark >= end {
                *mark = Position::ZERO;
            }
        }
    }
}

impl<B> Window<B> {
    /// The length of a segment in bytes: a power of two.
    pub(super) const fn segment(&self) -> u32 {
        self.segment_length
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Window<B> {
    /// An empty window at `start`, the position of the first frame to come. The capacity is the
    /// largest power of two that leaves `frame_max` bytes of slack.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn new(bytes: B, frame_max: usize, segment_length: u32) -> Result<Self, WindowError> {
        if frame_max == 0 || frame_max > MTU_MAX || !frame_max.is_multiple_of(FRAME_ALIGNMENT) {
            return Err(WindowError::BadFrameLength);
        }
        if !is_term_length(segment_length) {
            return Err(WindowError::BadSegmentLength);
        }
        let ring = bytes.as_ref().len().saturating_sub(frame_max);
        let capacity = ring.checked_ilog2().map_or(0, |log2| 1usize << log2);
        if capacity < 2 * frame_max {
            return Err(WindowError::TooSmall);
        }
        Ok(Self {
            bytes,
            capacity: capacity as u64,
            frame_max,
            segment_length,
            start: Position::ZERO,
            end: Position::ZERO,
            start_chain: None,
            end_chain: None,
            start_term: Term::ZERO,
            wrap: Position::ZERO,
            released: Position::ZERO,
            written: Position::ZERO,
            writing: None,
            cut: None,
            marks: Marks::of_lap(capacity as u64),
        })
    }

    /// Empties the window and lets it go on at `start`, after a frame with this chain and term (the
    /// genesis chain and `Term::ZERO` at the start of a log). At recovery, `start` is the confirmed
    /// position: [`fill`](Self::fill) then brings the tail that is to be rewritten.
    ///
    /// # Errors
    /// [`WindowError::BadStart`]: nothing was changed.
    pub fn load(
        &mut self,
        start: Position,
        chain: Option<u32>,
        term: Term,
    ) -> Result<(), WindowError> {
        if !start.is_aligned() {
            return Err(WindowError::BadStart);
        }
        self.go_on_at(start, chain, term);
        Ok(())
    }

    fn go_on_at(&mut self, start: Position, chain: Option<u32>, term: Term) {
        self.start = start;
        self.end = start;
        self.start_chain = chain;
        self.end_chain = chain;
        self.start_term = term;
        self.wrap = start;
        self.released = start;
        self.written = start;
        self.writing = None;
        self.cut = None;
        self.marks = Marks::of_lap(self.capacity);
    }

    /// Publishes the whole, good frames at the start of `run`, which are those at `end()`, as far
    /// as there is room; gives how many bytes that was. Checks structure, checksum and chain.
    /// None at all of good frames means one longer than `frame_max`: the log was written with a
    /// larger MTU.
    pub fn fill(&mut self, run: &[u8]) -> usize {
        let mut filled = 0;
        let frames = scan::Frames::new(run, self.end, self.segment_length).verified();
        for frame in frames.linked(self.end_chain) {
            if !frame.write_to(self.room(frame.position)) {
                break;
            }
            if self.publish(frame.end(), frame.chain).is_err() {
                break;
            }
            filled += frame.bytes.len();
        }
        filled
    }

    /// Storage has copied every byte below `position`: pass `Journal::written` after each group is
    /// written. Clamped to what exists; a truncation pulls it back.
    pub fn set_written(&mut self, position: Position) {
        let limit = match self.cut {
            Some(cut) if !Planted::FlushCursorNotPulledBackByTruncation.is_active() => cut,
            _ => self.end,
        };
        self.written = position.min(limit).max(self.start);
    }

    /// Storage is copying `span` out of this memory and will read it until told otherwise: there is
    /// no room in it, even after a truncation. For drivers whose writes are not done when they
    /// return.
    pub fn set_writing(&mut self, span: Option<Span>) {
        self.writing = span;
    }

    /// The lowest truncation since the last call: pass it to `Journal::handle_truncated` before the
    /// journal is polled.
    pub fn take_cut(&mut self) -> Option<Position> {
        self.cut.take()
    }

    /// The truncation that the journal has not heard of: from here on, what is in storage is not
    /// the log.
    pub fn cut(&self) -> Option<Position> {
        self.cut
    }

    /// Sets the chain at the end, looked up in storage (`ChainSearch`), where a truncation below
    /// `start` has left it unknown. False if it is known or `at` is not the end.
    pub fn set_chain(&mut self, at: Position, chain: u32) -> bool {
        let is_wanted = at == self.end && self.start == self.end && self.end_chain.is_none();
        if is_wanted {
            self.start_chain = Some(chain);
            self.end_chain = Some(chain);
        }
        is_wanted
    }

    /// The largest frame in bytes.
    pub fn frame_max(&self) -> usize {
        self.frame_max
    }

    /// The term of the last frame below `start`; zero if there is none or it is not known.
    pub fn start_term(&self) -> Term {
        self.start_term
    }

    /// Storage has every byte below this.
    pub fn written(&self) -> Position {
        self.written
    }

    fn offset(&self, position: Position) -> usize {
        (position.get() & (self.capacity - 1)) as usize
    }

    /// Lets go what is in the way of a frame at `at`, if all of that may go.
    #[inline(never)]
    fn make_room(&mut self, at: Position) {
        let limit = self.released.min(self.written).max(self.start);
        if at.since(limit) < self.capacity {
            let wanted = at.plus(self.frame_max as u64);
            self.advance(wanted.minus(self.capacity));
        }
    }

    /// Lets go frames from the oldest on until `start` is at least `target`, as far as is allowed.
    fn advance(&mut self, target: Position) {
        let limit = self.released.min(self.written).min(self.end);
        let mut last = None;
        // From mark to mark, if what is between them may go; else a little more than is needed, so
        // that not every frame that comes lets one go.
        let mut target = target.max(self.start);
        let mark = self.marks.next(target);
        if let Some(mark) = mark.filter(|mark| mark.since(target) <= 2 * self.capacity / SPARE) {
            let offset = self.offset(mark);
            let len = self.bytes.as_ref().get(offset..).and_then(step);
            let end = len.map(|len| mark.plus(len as u64));
            if let Some(end) = end.filter(|end| *end <= limit) {
                (self.start, last) = (end, Some(offset));
            }
        }
        if last.is_none() {
            target = target.plus(self.capacity / SPARE);
        }
        while self.start < target {
            let offset = self.offset(self.start);
            let Some(len) = self.bytes.as_ref().get(offset..).and_then(step) else {
                break;
            };
            let next = self.start.plus(len as u64);
            if next > limit {
                break;
            }
            self.start = next;
            last = Some(offset);
        }
        let last = last.and_then(|offset| self.bytes.as_ref().get(offset..));
        if let Some((_, chain, term)) = last.and_then(hop) {
            self.start_chain = Some(chain);
            self.start_term = term;
        }
    }

    /// The last frame boundary below `at`'s frame walk: the boundary at or first above `at`, with
    /// the chain there.
    fn walk(&self, from: (Position, Option<u32>), at: Position) -> (Position, Option<u32>) {
        let (mut position, mut chain) = from;
        while position < at {
            let frame = self.bytes.as_ref().get(self.offset(position)..);
            let Some((len, next, _)) = frame.and_then(hop) else {
                break;
            };
            position = position.plus(len as u64);
            chain = Some(next);
        }
        (position, chain)
    }

    /// The first frame boundary at or behind `lap_end` of the frames up to `end` that are to be
    /// published.
    #[inline(never)]
    fn wrap_of(&self, lap_end: Position, end: Position) -> Result<Position, Broken> {
        let (wrap, _) = self.walk((self.end, None), lap_end);
        let is_there = wrap >= lap_end && wrap <= end;
        is_there.then_some(wrap).ok_or(Broken::Publish)
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Log for Window<B> {
    fn start(&self) -> Position {
        self.start
    }

    fn end(&self) -> Position {
        self.end
    }

    fn chain(&self) -> Option<u32> {
        self.end_chain
    }

    fn chain_at(&self, at: Position) -> Option<u32> {
        if at == self.end {
            return self.end_chain;
        }
        if at < self.start || at > self.end {
            return None;
        }
        let (position, chain) = self.walk((self.start, self.start_chain), at);
        chain.filter(|_| position == at)
    }

    #[inline(always)]
    fn read(&self, at: Position) -> &[u8] {
        if at < self.start || at >= self.end || !at.is_aligned() {
            return &[];
        }
        let lap_end = self.lap_end(at);
        let until = if self.end < lap_end {
            self.end
        } else {
            self.wrap
        };
        let offset = self.offset(at);
        let len = until.since(at) as usize;
        self.bytes.as_ref().get(offset..offset + len).unwrap_or(&[])
    }

    #[inline(always)]
    fn room(&mut self, at: Position) -> &mut [u8] {
        // Who asks for another place than one behind the end would write where no frame goes.
        if !at.is_aligned() || at < self.end || at >= last_end(self.segment_length) {
            return &mut [];
        }
        if at.since(self.start) + self.frame_max as u64 > self.capacity {
            self.make_room(at);
        }
        let is_being_written = self.writing.is_some_and(|w| at < w.end);
        let avail = self.capacity.saturating_sub(at.since(self.start)) as usize;
        if avail == 0 || is_being_written {
            return &mut [];
        }
        let offset = self.offset(at);
        let end = (offset + avail).min(self.capacity as usize + self.frame_max);
        self.bytes.as_mut().get_mut(offset..end).unwrap_or(&mut [])
    }

    fn lap_end(&self, at: Position) -> Position {
        Position::new((at.get() | (self.capacity - 1)) + 1)
    }

    // Of every frame that is appended or lands, and short: a call would cost as much again.
    #[inline(always)]
    fn publish(&mut self, end: Position, chain: u32) -> Result<(), Broken> {
        let is_in_room = end >= self.end && end.since(self.start) <= self.capacity;
        if !is_in_room || !end.is_aligned() {
            return Err(Broken::Publish);
        }
        debug_assert_eq!(self.walk((self.end, None), end).0, end, "whole frames");
        let lap_end = self.lap_end(self.end);
        if end >= lap_end {
            self.wrap = self.wrap_of(lap_end, end)?;
        }
        self.marks.note(self.end);
        self.end = end;
        self.end_chain = Some(chain);
        Ok(())
    }

    fn truncate(&mut self, end: Position) -> Result<(), Broken> {
        if end > self.end || !end.is_aligned() {
            return Err(Broken::Cut);
        }
        if end == self.end {
            return Ok(());
        }
        let cut = Some(self.cut.map_or(end, |cut| cut.min(end)));
        if end < self.start {
            let (written, writing) = (self.written, self.writing);
            self.go_on_at(end, None, Term::ZERO);
            (self.writing, self.cut) = (writing, cut);
            if Planted::FlushCursorNotPulledBackByTruncation.is_active() {
                self.written = written;
            }
            return Ok(());
        }
        let (boundary, chain) = self.walk((self.start, self.start_chain), end);
        if boundary != end {
            return Err(Broken::Cut);
        }
        self.cut = cut;
        self.end = end;
        self.end_chain = chain;
        self.marks.forget_from(end);
        if !Planted::FlushCursorNotPulledBackByTruncation.is_active() {
            self.written = self.written.min(end);
        }
        Ok(())
    }

    fn release(&mut self, below: Position) {
        self.released = self.released.max(below);
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn segment_length(&self) -> u32 {
        self.segment_length
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::limits::SEGMENT_MIN;
    use crate::log::{Appending, append};
    use crate::prng::Prng;

    const MTU: usize = 256;

    /// Frames' ends, with the chain and the term there.
    type Ends = Vec<(Position, Option<u32>, Term)>;

    /// Appends up to eight frames, published at once, or a record of several.
    fn grow(window: &mut Window<Vec<u8>>, ends: &mut Ends, term: Term, prng: &mut Prng) {
        let before = window.end();
        if prng.next().is_multiple_of(8) {
            let _full = append(window, term, &[&[7; 700]], MTU);
        } else if let Ok(mut run) = Appending::open(window, term, MTU) {
            for _ in 0..=prng.next() % 8 {
                let len = (prng.next() % 200) as usize;
                run.push(len, &[&vec![3; len]]);
            }
            let (end, chain) = run.seal();
            window.publish(end, chain).expect("it was room");
        }
        let mut at = before;
        while at < window.end() {
            let (len, chain, term) = hop(window.read(at)).expect("a frame");
            at = at.plus(len as u64);
            ends.push((at, Some(chain), term));
        }
    }

    /// Whatever is let go, from mark to mark or frame by frame, the window starts behind a frame,
    /// and knows the chain and the term there; it lets nothing go that it may not.
    #[test]
    fn a_window_starts_behind_a_frame_however_much_it_lets_go() {
        let mut jumps = 0;
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let bytes = vec![0xee; window_len(4096, MTU)];
            let mut window = Window::new(bytes, MTU, SEGMENT_MIN).expect("large enough");
            let start = Position::new(prng.next() % 4 * 1024);
            window.load(start, Some(9), Term::ZERO).expect("a boundary");
            let mut ends = vec![(start, Some(9), Term::ZERO)];
            let mut term = Term::new(1);
            for _ in 0..300 {
                let (before, any) = (window.start(), ends[prng.next() as usize % ends.len()].0);
                match prng.next() % 8 {
                    0 => window.release(any),
                    1 => window.set_written(any),
                    2 => window.release(window.end()),
                    3 => window.set_written(window.end()),
                    4 if any >= window.start() && any >= window.released => {
                        window.truncate(any).expect("a boundary");
                        ends.retain(|(end, ..)| *end <= any);
                        let _cut = window.take_cut();
                        term = term.next();
                    }
                    _ => grow(&mut window, &mut ends, term, &mut prng),
                }
                let here = ends.iter().find(|(end, ..)| *end == window.start());
                let (_, chain, last) = *here.expect("a boundary");
                assert_eq!((window.start_chain, window.start_term), (chain, last));
                let passed = ends.iter().filter(|(end, ..)| *end > before);
                let passed = passed.filter(|(end, ..)| *end <= window.start()).count();
                jumps += usize::from(passed > 2);
                if window.start() > before {
                    assert!(window.start() <= window.released.min(window.written));
                }
            }
        }
        assert!(jumps > 100, "{jumps}");
    }
}
