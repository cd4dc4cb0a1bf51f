//! Log bytes that were durable here and cannot be read any more: asked for, checked, written again.
//!
//! They are never cut: they may be what a quorum rests on (Alagappan et al., FAST 2018: a crash is
//! not a corruption). Until they are whole again this member does not stand for election, joins no
//! leadership, and votes only for candidates whose logs reach as far as its own did. It asks every
//! other member in turn, leader or not: so members that are damaged in different places heal one
//! another even when none of them can be elected.
//!
//! What comes must follow, frame by frame, from the chain before the hole, and end at the chain
//! that the sound frames behind it go on from (or that the newest slot has, if there are none).
//! Another member may hold other bytes there, of a branch that was never committed: then they come
//! to no good end, and all of the hole is asked for again from the next. Nothing is written before
//! its end has been seen: bytes of another branch, left there by a crash, would be taken for sound.
//! So what does not fit in memory is sent twice. If no one member had all of it, what came from the
//! last of them is written first: it is a hole of its own, whose both ends are known by then, and
//! the rest is a smaller hole that ends at a known chain (`parts`).
//!
//! Datagrams overtake one another: what comes ahead of what is missed before it is kept in memory
//! at its place, and no more is asked for at once than there is memory for.
//!
//! Only when every other member has bytes that do not fit, again and again (what was sent once may
//! come late), this member halts: its own were overwritten elsewhere, and it must come back as a
//! new directory. To cut its log at the hole, and take what the others have, would be wrong: up to
//! where its lost bytes differed from theirs, it may have been one of the quorum that committed
//! them, and where that was nobody knows any more.
//!
//! When the hole is closed the node does not go on: the driver recovers the log and begins anew, so
//! that history, tail and chain are those of the healed log.

use core::time::Duration;

use super::install::Receiving;
use super::parts::{Parts, Place};
use super::transmit::{Owes, Scratch};
use super::{Event, Halt, Lent, Node};
use crate::limits::FRAME_ALIGNMENT;
use crate::log::{FrameRef, Frames, Log, Recovered, scan, segment_end};
use crate::time::Instant;
use crate::units::{MemberId, MemberSet, Position, Tail, Term};
use crate::wire::member::{Body, RepairRequest};

/// How many bytes are asked for at once, at most.
pub(super) const WINDOW: u64 = 64 * 1024;
/// Where a frame can end, and so a request.
const ALIGNMENT: u64 = FRAME_ALIGNMENT as u64;
/// How long a member has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often the member whose bytes are known to fit is asked in vain before the next one is.
const UNANSWERED_MAX: u8 = 20;
/// How often in a row all others must have bytes that do not fit: what was sent once may come late,
/// and says nothing of what its sender has now.
const REFUTED_MAX: u8 = 3;
/// After how many rounds without an answer everything is asked for again, and of everybody.
const FORGET_ALL: u8 = 32;

/// Bytes that the driver writes to their place in storage, and flushes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Repair {
    /// Where they belong.
    pub at: Position,
    /// The first `len` bytes of `Lent::catchup`, all in one segment.
    pub len: usize,
    /// Where the frames that they are end: a PAD is its header alone.
    pub end: Position,
    /// The chain there, and who wrote the last of them.
    tail: (Option<u32>, Term),
}

/// How many runs of bytes are kept that have come ahead of others.
const AHEAD_MAX: usize = 8;

/// What is to be healed here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Healing {
    /// Where the damage begins.
    first: Place,
    /// Everything from there to here has come, and is stored if it `is_proven`.
    next: Place,
    /// The end of the damage, and the chain there.
    to: Position,
    to_chain: Option<u32>,
    /// What the peer has was seen to lead to that chain: it is stored from now on.
    is_proven: bool,
    /// No frame below `to` was written by a later leadership.
    joined: Term,
    /// What has come and is not stored.
    staged: Option<Repair>,
    /// What has come ahead: runs of whole frames of the peer, at their places in memory behind
    /// what is staged.
    ahead: [Option<(Position, Position)>; AHEAD_MAX],
    /// How far was asked.
    asked_to: Position,
    /// Whom this member asks, and whether it has answered.
    peer: MemberId,
    has_answered: bool,
    /// From here on all is from that member. `None` if nothing is.
    part: Option<Place>,
    /// Where others were asked before.
    parts: Parts,
    /// How often in a row it was asked in vain.
    unanswered: u8,
    /// Members whose bytes do not fit.
    unfit: MemberSet,
    /// How often in a row that were all others.
    refuted: u8,
    /// How often in a row all others were asked in vain.
    rounds: u8,
    next_ask: Instant,
}

impl Healing {
    /// What a recovered log needs; `None` if it is sound.
    pub fn of(recovered: &Recovered, me: MemberId, now: Instant) -> Option<Self> {
        let first = (recovered.corrupt?, recovered.corrupt_after);
        Some(Self {
            first,
            next: first,
            to: recovered.corrupt_to.0,
            to_chain: recovered.corrupt_to.1,
            is_proven: false,
            joined: recovered.joined,
            staged: None,
            ahead: [None; AHEAD_MAX],
            asked_to: first.0,
            peer: me,
            has_answered: false,
            part: None,
            parts: Parts::NONE,
            unanswered: 0,
            unfit: MemberSet::EMPTY,
            refuted: 0,
            rounds: 0,
            next_ask: now,
        })
    }

    /// What has come is lost: it is asked for again.
    pub fn forget_staged(&mut self) {
        self.go_on_at(self.next);
    }

    /// Nothing is in memory, and what follows `next` is missed.
    fn go_on_at(&mut self, next: Place) {
        (self.next, self.staged, self.ahead) = (next, None, [None; AHEAD_MAX]);
    }

    /// What has come up to, and what stands there.
    fn reached(&self) -> Place {
        self.staged.map_or(self.next, |s| (s.end, s.tail))
    }

    fn staged_to(&self) -> Position {
        self.reached().0
    }

    /// What is staged, if only nothing.
    fn staged(&self) -> Repair {
        let ((at, tail), len) = (self.next, 0);
        let end = at;
        self.staged.unwrap_or(Repair { at, len, end, tail })
    }

    fn is_full(&self, segment: u32) -> bool {
        self.staged.is_some_and(|staged| {
            let ends = staged.end == segment_end(staged.at, segment) || staged.end >= self.to;
            ends || staged.len as u64 >= WINDOW
        })
    }

    /// What is staged is worth a flush, and is to be written now: all that was asked for is there.
    fn is_due(&self) -> bool {
        let is_all = |s: Repair| s.len > 0 && (s.end >= self.asked_to || s.end >= self.to);
        self.is_proven && self.staged.is_some_and(is_all)
    }

    /// What has come does not fit. If all of it came from one member, that one has no better.
    fn start_over(&mut self, now: Instant) {
        if self.part.is_some_and(|part| part.0 == self.first.0) {
            self.unfit.insert(self.peer);
        }
        self.parts = Parts::NONE;
        self.ask_again();
        self.has_answered = false;
        self.next_ask = now;
    }

    /// Asks for what is missed from the last place on that is known; whom it was asked of there.
    fn ask_again(&mut self) -> Option<(Place, MemberId)> {
        let last = self.parts.last_below(self.to);
        self.go_on_at(last.map_or(self.first, |(place, _)| place));
        (self.is_proven, self.part) = (false, None);
        last
    }

    /// The chain that stands before the damage, if that begins there: what does not follow from it
    /// is damaged, or is of another branch that was here before.
    pub fn chain_before(&self, at: Position) -> Option<u32> {
        let (first, (chain, _)) = self.first;
        chain.filter(|_| at == first)
    }

    /// Whether a sound frame of this log, of whose chain nothing beside it tells, has the chain
    /// that it was written with: it is not in the damage, or is linked with a place that is known,
    /// or that others have led to.
    pub fn bears_out(&self, frame: &FrameRef<'_>) -> bool {
        let is_at = |place: Place| place.0 == frame.position;
        let follows = |place: Place| place.1.0.is_some_and(|chain| frame.follows(chain));
        let links = |place: Place| is_at(place) && follows(place);
        let is_outside = frame.position < self.first.0 || frame.position >= self.to;
        let is_last = frame.end() == self.to && self.to_chain == Some(frame.chain);
        is_outside || is_last || links(self.reached()) || self.parts.iter().any(links)
    }

    fn leads_on(&self, chain: Option<u32>) -> bool {
        !matches!((chain, self.to_chain), (Some(a), Some(b)) if a != b)
    }

    /// Takes a frame that is in memory behind what is staged; false behind the damage, and `None`
    /// if it does not fit.
    fn take(&mut self, staged: &mut Repair, frame: &FrameRef<'_>) -> Option<bool> {
        if frame.position >= self.to {
            // What comes in the same datagram behind the damage is not missed.
            return Some(false);
        }
        let follows = staged.tail.0.is_none_or(|chain| frame.follows(chain));
        if !follows || frame.end() > self.to || frame.term > self.joined {
            return None;
        }
        staged.len += frame.bytes.len();
        staged.end = frame.end();
        staged.tail = (Some(frame.chain), frame.term);
        Some(true)
    }

    /// Puts the frames of a datagram behind what is staged; `None` if one does not fit.
    fn take_next(&mut self, datagram: &[u8], segment: u32, memory: &mut [u8]) -> Option<Repair> {
        let mut staged = self.staged();
        for frame in Frames::new(datagram, staged.end, segment).verified() {
            let len = frame.bytes.len();
            if !self.is_proven && staged.len + len > memory.len() {
                // It was seen, and comes again when it is known to lead to the end.
                self.go_on_at((staged.end, staged.tail));
                staged = self.staged();
            }
            let Some(room) = memory.get_mut(staged.len..staged.len + len) else {
                break;
            };
            room.copy_from_slice(frame.bytes);
            if !self.take(&mut staged, &frame)? || frame.end() == segment_end(staged.at, segment) {
                break;
            }
        }
        Some(staged)
    }

    /// What came ahead, and follows now; `None` if it does not fit.
    fn take_ahead(&mut self, mut staged: Repair, segment: u32, memory: &[u8]) -> Option<Repair> {
        while let Some(end) = self.next_ahead(staged.end) {
            // It is in one segment, so nothing but its last frame is shorter than its place.
            let to = staged.len + end.since(staged.end) as usize;
            let run = memory.get(staged.len..to).unwrap_or_default();
            for frame in Frames::new(run, staged.end, segment).verified() {
                if !self.take(&mut staged, &frame)? {
                    break;
                }
            }
        }
        Some(staged)
    }

    /// Bytes have come that others are missed before: they are kept, if there is room.
    fn keep_ahead(&mut self, datagram: &[u8], at: Position, segment: u32, memory: &mut [u8]) {
        let staged = self.staged();
        let frames = Frames::new(datagram, at, segment).verified();
        let len: usize = frames.map(|frame| frame.bytes.len()).sum();
        let to = at.plus(len as u64);
        let is_near = at > staged.end && to <= segment_end(staged.at, segment);
        let is_known = |run: &Option<_>| run.is_some_and(|(from, end)| from <= at && to <= end);
        if !is_near || len == 0 || self.ahead.iter().any(is_known) {
            return;
        }
        let from = at.since(staged.at) as usize;
        let room = memory.get_mut(from..).and_then(|room| room.get_mut(..len));
        let (Some(room), Some(bytes)) = (room, datagram.get(..len)) else {
            return;
        };
        let joins = |run: &&mut Option<_>| run.is_some_and(|(_, end)| end == at);
        if let Some(Some(run)) = self.ahead.iter_mut().find(joins) {
            run.1 = to;
        } else if let Some(free) = self.ahead.iter_mut().find(|run| run.is_none()) {
            *free = Some((at, to));
        } else {
            return;
        }
        room.copy_from_slice(bytes);
    }

    /// The run that has come ahead and goes on at `at`; those that are behind it are forgotten.
    fn next_ahead(&mut self, at: Position) -> Option<Position> {
        for run in &mut self.ahead {
            match *run {
                Some((_, end)) if end <= at => *run = None,
                Some((from, end)) if from <= at => {
                    *run = None;
                    return Some(end);
                }
                _ => {}
            }
        }
        None
    }

    /// More has come. Where nothing may be written yet, what was seen makes room for it.
    fn keep(&mut self, staged: Repair, segment: u32, now: Instant) {
        (self.has_answered, self.rounds) = (true, 0);
        self.next_ask = match staged.end >= self.asked_to {
            true => now,
            false => now.plus(PATIENCE),
        };
        self.staged = Some(staged);
        if staged.end < self.to {
            if self.is_full(segment) && !self.is_proven {
                self.go_on_at((staged.end, staged.tail));
            }
        } else if !self.leads_on(staged.tail.0) {
            self.start_over(now);
        } else if !self.is_proven {
            let part = self.part.unwrap_or(self.first);
            if staged.at <= part.0 {
                // All of it is in memory.
                self.part = Some(self.next);
            } else {
                self.go_on_at(part);
                self.next_ask = now;
            }
            (self.is_proven, self.refuted) = (true, 0);
        }
    }

    /// All up to `to` is stored. What is missed before, if anything, is what is to be healed now.
    fn end_part(&mut self) -> bool {
        let part = self.part.unwrap_or(self.first);
        if part.0 == self.first.0 {
            return true;
        }
        (self.to, self.to_chain) = (part.0, part.1.0);
        if let Some((place, peer)) = self.ask_again() {
            // What it has sent before may come before it is asked: it is of this part as well.
            (self.part, self.peer, self.has_answered) = (Some(place), peer, true);
        }
        false
    }

    /// The next member to ask. It is the same as long as it answers.
    fn turn_to(&mut self, others: MemberSet, now: Instant) -> Option<MemberId> {
        if others.iter().all(|other| self.unfit.contains(other)) {
            self.refuted += 1;
            if self.refuted < REFUTED_MAX {
                self.unfit = MemberSet::EMPTY;
            }
        }
        let fit = |m: &MemberId| !self.unfit.contains(*m);
        let after = others.iter().filter(fit).find(|m| *m > self.peer);
        let next = after.or_else(|| others.iter().find(fit))?;
        self.unanswered = match self.has_answered {
            true => 0,
            false => self.unanswered.saturating_add(1),
        };
        let stays = self.has_answered || (self.is_proven && self.unanswered < UNANSWERED_MAX);
        let peer = if stays { self.peer } else { next };
        if !stays && after.is_none() {
            self.rounds += 1;
            if self.rounds == FORGET_ALL {
                // Those that had other bytes may have been led to ours since, and what came of such
                // bytes leads to a place that is in nobody's log any more.
                (self.rounds, self.refuted) = (0, 0);
                (self.unfit, self.parts) = (MemberSet::EMPTY, Parts::NONE);
                self.ask_again();
            }
        }
        if peer != self.peer && self.is_proven {
            // That was said of what another has.
            self.ask_again();
        }
        if peer != self.peer {
            (self.part, self.ahead) = (None, [None; AHEAD_MAX]);
        }
        if self.part.is_none() {
            let part = self.reached();
            self.part = Some(part);
            self.parts.note(self.first.0, part, peer);
        }
        self.has_answered = false;
        self.peer = peer;
        self.next_ask = now.plus(PATIENCE);
        Some(peer)
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The log bytes that are still to be healed; `None` if the log is sound.
    pub fn healing(&self) -> Option<(Position, Position)> {
        let missing = |h: &Healing| if h.is_proven { h.next.0 } else { h.first.0 };
        self.healing.as_ref().map(|h| (missing(h), h.to))
    }

    /// Whether the damage is written over: the driver recovers the log and begins anew with it.
    pub fn is_healed(&self) -> bool {
        let is_whole = |h: &Healing| h.is_proven && h.next.0 >= h.to;
        self.healing.as_ref().is_some_and(is_whole)
    }

    pub(super) fn repair_deadline(&self) -> Option<Instant> {
        let healing = self.healing.as_ref()?;
        let waits = self.is_healed()
            || healing.is_full(self.config.segment_length)
            || healing.is_due()
            || self.raft.others().is_empty();
        // A snapshot comes first, as long as it comes.
        let comes = match &self.receiving {
            Some(receiving) => receiving.comes_until(self.config.timing.leader_timeout)?,
            None => healing.next_ask,
        };
        (!waits).then_some(healing.next_ask.max(comes))
    }

    pub(super) fn owed_repair_request(
        &mut self,
        now: Instant,
        memory: usize,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        if self.repair_deadline().is_none_or(|at| now < at) {
            return None;
        }
        self.forget_chunks();
        let (term, others) = (self.raft.term(), self.raft.others());
        let mtu = self.config.mtu as u64;
        let healing = self.healing.as_mut()?;
        let Some(peer) = healing.turn_to(others, now) else {
            let to = healing.to;
            self.halt(Halt::DamageNotHealed(to));
            return None;
        };
        let from = healing.staged_to();
        // What finds no room is sent in vain. The last datagram may go beyond what was asked for.
        let left = memory.saturating_sub(healing.staged().len) as u64;
        let is_last = healing.to.since(from) <= left;
        let room = match left.saturating_sub(mtu) {
            _ if is_last => left,
            room if room >= mtu => room,
            _ if healing.is_proven => ALIGNMENT,
            _ => {
                healing.go_on_at(healing.reached());
                (memory as u64).saturating_sub(mtu)
            }
        };
        let room = room.clamp(ALIGNMENT, WINDOW) & !(ALIGNMENT - 1);
        let to = healing.to.min(from.plus(room));
        healing.asked_to = to;
        let request = RepairRequest { term, from, to };
        self.say(peer, Body::RepairRequest(request), scratch)
    }

    /// Frames have come: those that are missed here, if they follow. False if they are not for
    /// this.
    pub(super) fn take_repair<L: Log>(
        &mut self,
        now: Instant,
        from: MemberId,
        datagram: &[u8],
        lent: &mut Lent<'_, L>,
    ) -> bool {
        let (segment, mtu) = (self.config.segment_length, self.config.mtu);
        let timeout = self.config.timing.leader_timeout;
        let comes = |r: &Receiving| r.comes_until(timeout).is_none_or(|until| now < until);
        let may_take = !self.receiving.as_ref().is_some_and(comes) && !self.is_healed();
        let at = scan::stated_position(datagram, segment);
        if may_take {
            self.forget_chunks();
        }
        let healing = self.healing.as_mut().filter(|h| may_take && h.peer == from);
        let Some(healing) = healing.filter(|h| at >= Some(h.staged_to()) && !h.is_full(segment))
        else {
            return false;
        };
        let before = healing.staged_to();
        if let Some(at) = at.filter(|at| *at > before) {
            let is_missed = at < healing.to;
            if is_missed {
                healing.has_answered = true;
                healing.keep_ahead(datagram, at, segment, lent.catchup);
            }
            return is_missed;
        }
        let taken = healing.take_next(datagram, segment, lent.catchup);
        let Some(staged) = taken.and_then(|to| healing.take_ahead(to, segment, lent.catchup))
        else {
            healing.start_over(now);
            return true;
        };
        if staged.end > before {
            if lent.catchup.len() - staged.len < 2 * mtu {
                // There is no room for more.
                healing.asked_to = healing.asked_to.min(staged.end);
            }
            healing.keep(staged, segment, now);
        }
        true
    }

    /// Bytes that the driver shall write over the damage: at least these, until `handle_repaired`.
    pub fn poll_repair(&self) -> Option<Repair> {
        let healing = self.healing.as_ref()?;
        let is_due = healing.is_due() || healing.is_full(self.config.segment_length);
        healing.staged.filter(|_| healing.is_proven && is_due)
    }

    /// They are durable. When nothing is left to heal, [`Self::is_healed`] says so.
    pub fn handle_repaired(&mut self, repair: Repair) {
        self.stir();
        let now = self.clock.instant;
        let Some(healing) = self.healing.as_mut().filter(|h| repair.at == h.next.0) else {
            return;
        };
        // What has come meanwhile is asked for again: the memory is free.
        healing.go_on_at((repair.end, repair.tail));
        healing.next_ask = now;
        if repair.end < healing.to {
            return;
        }
        if !healing.leads_on(repair.tail.0) {
            healing.start_over(now);
            return;
        }
        let to = healing.to;
        if healing.end_part() {
            self.event(Event::LogHealed(to));
        }
    }

    /// This member starts from a snapshot at or behind all that is confirmed: what is damaged
    /// below is needed by nobody here. (A driver whose log goes on above the snapshot recovers only
    /// what is above: then there is none.)
    pub(super) fn heal_from_snapshot(&mut self, at: Position, term: Term) {
        self.stir();
        if self.healing.as_ref().is_none_or(|h| at < h.to) {
            return;
        }
        // Nor is it served to others.
        self.start.base = self.start.base.max(at);
        self.start.term = term;
        self.healing = None;
        self.raft.damaged = false;
        let end = self.raft.tail.end;
        if at == end {
            // With nothing above, the tail was taken to be of the joined leadership.
            self.raft.set_tail(Tail { term, end });
        }
    }
}
