//! Landing frames that arrive in any order, any number of times, from whoever has them.

use super::{FrameError, FrameRef, Frames, Gaps, Log, Span, scan, segment_end};
use crate::broken::Broken;
use crate::limits::FRAME_ALIGNMENT;
use crate::units::{Position, Term};
use crate::wire::frame::Alike;

/// What became of one call's frames: counts to add up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Received {
    /// How many bytes became part of the log, those that waited for it included.
    pub published: u64,
    /// Frames that landed ahead of a hole, or of what is known of the leader's history.
    pub ahead: u32,
    /// Frames that are there already.
    pub duplicates: u32,
    /// Frames dropped because the window has no room for them.
    pub no_room: u32,
    /// Frames dropped because there are too many holes to remember.
    pub gaps_full: u32,
    /// Frames dropped because another term wrote these bytes.
    pub wrong_term: u32,
    /// Frames dropped, or turned back into a hole, because they do not follow from the frame before
    /// or overlap another.
    pub mismatched: u32,
    /// Why the bytes behind the last good frame are none.
    pub malformed: Option<FrameError>,
    /// A bug of ours: what had landed could not be published, and nothing more was taken.
    pub broken: Option<Broken>,
}

/// Takes a datagram of log frames: each that is whole, holds its own checksum and was written by
/// the term that `term_at` names for its position lands in the log's room, and what is contiguous
/// and chained is published. Where `term_at` does not know the term, frames wait.
///
/// A frame that is not taken is not remembered: it will be asked for again. Bounded by the frames
/// in the datagram and those that waited for them.
pub fn receive<L: Log, const G: usize>(
    log: &mut L,
    gaps: &mut Gaps<G>,
    datagram: &[u8],
    mut term_at: impl FnMut(Position) -> Option<Term>,
) -> Received {
    let mut received = Received::default();
    let segment_length = log.segment_length();
    // Nearly always it is the next, with nothing missing before it.
    let taken = match gaps.is_empty() {
        true => receive_in_order(log, datagram, &mut term_at, &mut received),
        false => 0,
    };
    let rest = datagram.get(taken..).unwrap_or(&[]);
    if taken > 0 && rest.is_empty() || received.broken.is_some() {
        return received;
    }
    let at = match taken {
        0 => scan::stated_position(datagram, segment_length),
        _ => Some(log.end()),
    };
    let Some(at) = at else {
        received.malformed = Some(FrameError::BadHeader);
        return received;
    };
    let mut frames = Frames::new(rest, at, segment_length).verified();
    for frame in frames.by_ref() {
        land(log, gaps, &frame, &mut term_at, &mut received);
        if received.broken.is_some() {
            return received;
        }
    }
    received.malformed = frames.error();
    if !gaps.is_empty() {
        publish_landed(log, gaps, term_at, &mut received);
    }
    received
}

/// The DATA frames of one term that are simply the next: how many bytes of them there are. What is
/// behind them is something else, or is to be looked at more closely.
fn receive_in_order<L: Log>(
    log: &mut L,
    datagram: &[u8],
    term_at: &mut impl FnMut(Position) -> Option<Term>,
    received: &mut Received,
) -> usize {
    let (at, segment_length) = (log.end(), log.segment_length());
    let alike = scan::alike(datagram, at, segment_length);
    let (Some(before), Some((frames, term))) = (log.chain(), alike) else {
        return 0;
    };
    let lap = log.lap_end(at).since(at) as usize;
    let rest = segment_end(at, segment_length).since(at) as usize;
    let room = log.room(at);
    let frames = frames.within(room.len().min(rest));
    let (len, chain) = scan::sound_of(frames, before, lap);
    // Terms ascend: what wrote the first and the last has written all between.
    let mut is_of_term = |place: usize| term_at(at.plus(place as u64)) == Some(term);
    let last = len.saturating_sub(FRAME_ALIGNMENT);
    let (Some(room), Some(frames)) = (room.get_mut(..len), datagram.get(..len)) else {
        return 0;
    };
    if len == 0 || !is_of_term(0) || !is_of_term(last) {
        return 0;
    }
    room.copy_from_slice(frames);
    if let Err(broken) = log.publish(at.plus(len as u64), chain) {
        received.broken = Some(broken);
        return 0;
    }
    received.published += len as u64;
    len
}

/// Takes a datagram that is the next frames, if all of them are good, and there is room. False, and
/// nothing has changed, if there is anything else about it: that says nothing of the frames.
///
/// `frames` is the datagram, beside what is in the header of its first frame if that is the next
/// one, and of the term that writes there. All of it is in one lap, one segment and one term, and
/// within what the log may hold; nothing has landed ahead.
#[inline(always)]
pub(crate) fn receive_next<L: Log>(log: &mut L, frames: Alike<'_>) -> bool {
    let (at, bytes) = (log.end(), frames.rest());
    let Some(before) = log.chain().filter(|_| !bytes.is_empty()) else {
        return false;
    };
    // Where a frame may start is bounded by where they end.
    let (len, chain) = scan::sound_of(frames, before, usize::MAX);
    if len != bytes.len() {
        return false;
    }
    let Some(room) = log.room(at).get_mut(..len) else {
        return false;
    };
    room.copy_from_slice(bytes);
    log.publish(at.plus(len as u64), chain).is_ok()
}

fn land<L: Log, const G: usize>(
    log: &mut L,
    gaps: &mut Gaps<G>,
    frame: &FrameRef<'_>,
    term_at: &mut impl FnMut(Position) -> Option<Term>,
    received: &mut Received,
) {
    let end = log.end();
    let span = Span::new(frame.position, frame.end());
    if span.end <= end || gaps.contiguous_from(span.start) >= span.end {
        received.duplicates += 1;
        return;
    }
    let term = term_at(frame.position);
    if term.is_some_and(|term| term != frame.term) {
        received.wrong_term += 1;
        return;
    }
    let is_next = span.start == end && term.is_some();
    let follows = !is_next || log.chain().is_none_or(|before| frame.follows(before));
    if span.start < end || gaps.touches(span) || !follows {
        received.mismatched += 1;
        return;
    }
    if !frame.write_to(log.room(span.start)) {
        received.no_room += 1;
    } else if is_next {
        match log.publish(span.end, frame.chain) {
            Ok(()) => received.published += span.end.since(span.start),
            Err(broken) => received.broken = Some(broken),
        }
    } else if gaps.insert(span).is_ok() {
        received.ahead += 1;
    } else {
        received.gaps_full += 1;
    }
}

/// Publishes what has landed and is contiguous now, checking term and chain again. Call it too when
/// more of the leader's history became known.
pub fn publish_landed<L: Log, const G: usize>(
    log: &mut L,
    gaps: &mut Gaps<G>,
    mut term_at: impl FnMut(Position) -> Option<Term>,
    received: &mut Received,
) {
    loop {
        let at = log.end();
        let landed = gaps.contiguous_from(at).since(at) as usize;
        let Some(term) = term_at(at).filter(|_| landed > 0) else {
            break;
        };
        let (segment_length, before) = (log.segment_length(), log.chain());
        let room = log.room(at);
        let run = room.get(..landed.min(room.len())).unwrap_or(&[]);
        let Some(frame) = Frames::new(run, at, segment_length).next() else {
            // Not what has landed here: the room is busy, or the bytes are no frame any more.
            if !run.is_empty() {
                gaps.remove(Span::new(at, at.plus(landed as u64)));
                received.mismatched += 1;
            }
            break;
        };
        let (end, chain) = (frame.end(), frame.chain);
        if frame.term != term {
            received.wrong_term += 1;
            gaps.remove(Span::new(at, end));
            break;
        }
        if before.is_some_and(|before| !frame.follows(before)) {
            received.mismatched += 1;
            gaps.remove(Span::new(at, end));
            break;
        }
        if let Err(broken) = log.publish(end, chain) {
            received.broken = Some(broken);
            break;
        }
        received.published += end.since(at);
    }
    gaps.forget_below(log.end());
}
