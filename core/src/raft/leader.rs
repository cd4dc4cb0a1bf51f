//! Leading: who has how much, what is committed, and when to stop.

use core::time::Duration;

use super::telling::Telling;
use super::{Ages, Owed, Progress, Raft, Rounds, State};
use crate::limits::MEMBERS_MAX;
use crate::time::Instant;
use crate::units::{Incarnation, MemberId, MemberSet, Position};
use crate::wire::member::{AppendPosition, Marks};

/// Why a transfer of leadership was not begun.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TransferError {
    /// This member does not lead.
    NotLeader,
    /// The target is this member, no member, has not joined this term, or must not lead.
    BadTarget,
    /// Another transfer is under way, or this leader has resigned.
    InProgress,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Transfer {
    target: MemberId,
    until: Instant,
    next: Instant,
}

/// The state of a leader.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Leader {
    /// Where this term's first record starts.
    pub base: Position,
    /// The end of this term's first record, once it is appended: nothing is committed below it
    /// alone.
    pub barrier: Option<Position>,
    /// The followers, by slot.
    pub progress: [Progress; MEMBERS_MAX],
    /// Behind so many of them is nobody.
    slots: usize,
    /// No follower has told of more on its disk, in this term.
    pub(super) foremost: Position,
    /// The heartbeat round.
    pub round: u64,
    rounds: Rounds,
    telling: Telling,
    pub(super) elected: Instant,
    transfer: Option<Transfer>,
    resigned: bool,
    /// All that it leads were found to follow, and to be owed nothing: until one of them is found
    /// to be otherwise, or a round begins, they are only owed what is committed.
    pub(super) is_calm: bool,
}

impl Leader {
    pub(super) fn new(now: Instant, base: Position, members: MemberSet) -> Self {
        Self {
            base,
            barrier: None,
            progress: [Progress::new(now, base); MEMBERS_MAX],
            foremost: Position::ZERO,
            slots: members.iter().last().map_or(0, |last| last.slot() + 1),
            round: 0,
            rounds: Rounds::new(now),
            telling: Telling::new(now),
            elected: now,
            transfer: None,
            resigned: false,
            is_calm: false,
        }
    }

    /// When followers are to be told of what is committed, if they were not.
    pub(super) fn tells_next(&self, commit: Position) -> Instant {
        self.telling.deadline(commit).unwrap_or(Instant::NEVER)
    }

    /// Whether any follower may be sent bytes of a log that ends at `end`.
    #[inline(always)]
    pub fn owes_bytes(&self, end: Position) -> bool {
        self.places().iter().any(|p| p.may_be_sent(end))
    }

    /// Whether any is to be sent bytes of it from below `start`.
    pub fn owes_below(&self, end: Position, start: Position) -> bool {
        let may_be = |p: &&Progress| p.sent < start || p.resend.is_some();
        let is_below = |p: &Progress| p.due(end).is_some_and(|(from, _)| from < start);
        self.places().iter().filter(may_be).any(is_below)
    }

    /// Those that anybody has.
    fn places(&self) -> &[Progress] {
        self.progress.get(..self.slots).unwrap_or(&self.progress)
    }

    pub(super) fn of(&self, member: MemberId) -> Option<&Progress> {
        self.progress.get(member.slot())
    }

    /// When the next round of heartbeats is due.
    pub(super) const fn heartbeat_at(&self) -> Instant {
        self.rounds.next()
    }

    /// Whether its term's first record is committed.
    pub(crate) fn has_opened(&self, commit: Position) -> bool {
        self.barrier.is_some_and(|end| end <= commit)
    }

    /// It hands over, or has resigned.
    pub(super) const fn is_leaving(&self) -> bool {
        self.transfer.is_some() || self.resigned
    }

    /// A member that looks for a leader is told at once.
    pub(super) fn greet(&mut self, now: Instant, member: MemberId) {
        self.is_calm = false;
        if let Some(progress) = self.progress.get_mut(member.slot()) {
            if progress.joined {
                *progress = Progress {
                    heard: progress.heard,
                    counts: progress.counts,
                    round: progress.round,
                    // It is the same disk, whatever has begun anew.
                    worst: progress.worst,
                    ..Progress::new(now, progress.sent)
                };
            }
            progress.greet_at = progress.greet_at.min(now);
        }
    }

    /// Nobody took over: every member is told that it is free to stand.
    fn bow_out(&mut self, now: Instant, others: MemberSet, interval: Duration) {
        (self.transfer, self.is_calm) = (None, false);
        self.resigned = true;
        self.rounds.hurry(now);
        self.rounds.refill(now, others, interval);
    }

    #[inline(never)]
    pub(super) fn deadline(&self, others: MemberSet, commit: Position) -> Instant {
        let next = self.rounds.next();
        let transfer = self.transfer.map_or(next, |t| t.next.min(t.until));
        let greetings = others
            .iter()
            .filter_map(|m| self.progress.get(m.slot()))
            // A leader that has resigned greets nobody: a greeting left undone is no deadline.
            .filter(|p| !p.joined && !self.resigned)
            .map(|p| p.greet_at);
        let speaks = self.barrier.is_some() && !self.resigned;
        let tells = self.telling.deadline(commit).filter(|_| speaks);
        greetings
            .chain(tells)
            .fold(next.min(transfer), Instant::min)
    }
}

impl Raft {
    /// The node has appended this term's first record, which ends at `end`.
    pub fn set_barrier(&mut self, end: Position) {
        if let State::Leader(leader) = &mut self.state {
            leader.barrier = Some(end);
        }
    }

    /// Whether this leader still has to append its term's first record.
    pub fn owes_barrier(&self) -> bool {
        matches!(&self.state, State::Leader(leader) if leader.barrier.is_none())
    }

    /// Whether clients' messages may be appended: this member leads, has opened its term, and is
    /// not handing over.
    pub fn admits(&self) -> bool {
        matches!(&self.state, State::Leader(l) if l.barrier.is_some() && !l.is_leaving())
            && !self.closing
            && !self.unfit
    }

    /// This leader's progress table entry for `member`.
    pub fn progress_mut(&mut self, member: MemberId) -> Option<&mut Progress> {
        match &mut self.state {
            State::Leader(leader) => {
                leader.is_calm = false;
                leader.progress.get_mut(member.slot())
            }
            _ => None,
        }
    }

    /// A follower says what it has. Acknowledgements of another term count for nothing; positions
    /// only grow. `counts` is false for an incarnation that has not been admitted. True if it was
    /// taken: it is of this term, and not older than what was heard before.
    pub fn handle_append(
        &mut self,
        now: Instant,
        from: MemberId,
        ack: &AppendPosition,
        counts: bool,
    ) -> bool {
        if ack.term > self.ballot.term {
            self.observe_term(now, ack.term);
            return false;
        }
        // Who has joined this term has nothing that this leader has not: what says so is no member.
        if ack.term != self.ballot.term || ack.received > self.tail.end {
            return false;
        }
        let period = self.timing.sick_after;
        let State::Leader(leader) = &mut self.state else {
            return false;
        };
        let Some(progress) = leader.progress.get_mut(from.slot()) else {
            return false;
        };
        let taken = ack.round >= progress.round;
        let begins = progress.acknowledge(now, ack, counts, period);
        leader.is_calm &= !begins;
        leader.foremost = leader.foremost.max(progress.durable);
        // One mark that is no higher than what is committed commits nothing.
        if progress.durable > self.commit {
            self.advance_commit();
        }
        taken
    }

    /// As [`Raft::handle_append`] with an acknowledgement that differs from one which was taken,
    /// and counts, in its marks only, and tells of no ages. `None` if it is to be looked at as a
    /// whole; else whether it may be sent bytes of the log.
    #[inline(always)]
    pub(crate) fn handle_marks(
        &mut self,
        now: Instant,
        from: MemberId,
        marks: &Marks,
    ) -> Option<bool> {
        let (period, end) = (self.timing.sick_after, self.tail.end);
        let State::Leader(leader) = &mut self.state else {
            return None;
        };
        let progress = leader.progress.get_mut(from.slot())?;
        let goes_on = marks.round >= progress.round && marks.received >= progress.received;
        let is_known = progress.joined && progress.counts;
        if !goes_on || !is_known || marks.received > end {
            return None;
        }
        progress.take_marks(now, marks, Ages::default(), period);
        leader.foremost = leader.foremost.max(progress.durable);
        let (owes_bytes, mark) = (progress.may_be_sent(end), progress.durable);
        if mark > self.commit {
            self.commit_up_to(mark);
        }
        Some(owes_bytes)
    }

    /// A follower's directory of this life says what it has. If another life of it was heard last,
    /// what that had is not this one's: it starts anew.
    pub fn hear_life(&mut self, from: MemberId, incarnation: Incarnation, ack: &AppendPosition) {
        if ack.term != self.ballot.term || ack.received > self.tail.end {
            return;
        }
        if let State::Leader(leader) = &mut self.state
            && let Some(progress) = leader.progress.get_mut(from.slot())
            && progress.incarnation.is_some_and(|last| last != incarnation)
            && ack.round >= progress.round
        {
            progress.joined = false;
            leader.is_calm = false;
        }
    }

    /// The life of a follower's directory, as it said in what was taken.
    pub fn note_life(&mut self, member: MemberId, incarnation: Incarnation) {
        if let State::Leader(leader) = &mut self.state
            && let Some(progress) = leader.progress.get_mut(member.slot())
        {
            progress.incarnation = Some(incarnation);
        }
    }

    /// A follower misses `[from, to)`; the node has checked that `from` is a frame boundary.
    pub fn handle_nak(&mut self, member: MemberId, from: Position, to: Position) {
        let end = self.tail.end;
        let Some(progress) = self.progress_mut(member) else {
            return;
        };
        if progress.joined && progress.resend.is_none() && from < to && from < progress.sent {
            progress.resend = Some((from, to.min(end)));
        }
    }

    /// A member that the roster names has spoken: if not level, it is alive, and its questions keep
    /// the quorum together.
    pub fn handle_question(&mut self, now: Instant, member: MemberId) {
        if let Some(progress) = self.progress_mut(member) {
            progress.heard = Some(now);
            progress.lives = true;
        }
    }

    /// A follower asks for history: from `from` on, if that is this room's to answer.
    pub fn handle_history_request(
        &mut self,
        now: Instant,
        member: MemberId,
        from: Option<Position>,
    ) {
        if let Some(progress) = self.progress_mut(member) {
            if from.is_some() {
                progress.history_from = from;
                progress.greet_at = now;
            }
            progress.heard = Some(now);
        }
    }

    /// Raft 6.2: a leader that does not hear a quorum steps down, and with that falls silent, so
    /// that a bridge in a partial partition is free to follow another (openraft#2080).
    fn hears_quorum(&self, now: Instant) -> bool {
        let State::Leader(leader) = &self.state else {
            return false;
        };
        let live = |at: Instant| now.since(at) < self.timing.leader_timeout;
        if live(leader.elected) {
            return true;
        }
        let others = self.others().iter().filter(|m| {
            leader
                .progress
                .get(m.slot())
                .is_some_and(|p| (p.counts || p.lives) && p.heard.is_some_and(live))
        });
        others.count() + 1 >= self.members.quorum()
    }

    pub(super) fn leader_timeout(&mut self, now: Instant) {
        if !self.hears_quorum(now) || self.has_resigned_for_good() {
            self.step_down(now);
            return;
        }
        let (others, interval) = (self.others(), self.timing.heartbeat_interval);
        let (patience, goes) = (interval.saturating_mul(4), self.closing || self.unfit);
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        if leader.rounds.refill(now, others, interval) {
            leader.round += 1;
            leader.is_calm = false;
        }
        for progress in &mut leader.progress {
            progress.listen_again(now);
            let stuck = progress.joined && progress.sent > progress.received;
            if !stuck {
                // Nothing is on its way: the wait for it begins when something is.
                progress.moved = now;
            }
            // Nothing new for a while: what was sent is lost, and so is the request for it.
            if stuck && now.since(progress.moved) >= patience {
                progress.sent = progress.received;
                progress.resend = None;
                progress.moved = now;
            }
        }
        if leader.transfer.is_some_and(|t| now >= t.until) {
            leader.transfer = None;
        }
        if goes && leader.transfer.is_none() && !leader.resigned {
            leader.bow_out(now, others, interval);
        }
    }

    /// A member that must not lead has told everybody that it does not: it goes on as a follower,
    /// unlike one that closes.
    fn has_resigned_for_good(&self) -> bool {
        let has_resigned =
            matches!(&self.state, State::Leader(l) if l.resigned && l.rounds.is_done());
        self.unfit && !self.closing && has_resigned
    }

    /// Stops leading; the term goes on without a leader, and this member never resumes in it.
    pub fn step_down(&mut self, now: Instant) {
        if matches!(self.state, State::Leader(_)) {
            self.begin_canvass(now);
        }
    }

    /// Whether this leads, all follow, and have been told all that they are to be told now.
    #[inline]
    pub(super) fn has_told_all(&self, now: Instant) -> bool {
        matches!(&self.state, State::Leader(leader)
            if leader.is_calm && leader.telling.is_told(now, self.commit))
    }

    /// When followers are to be told of what has just been committed, if not at once.
    #[inline(always)]
    pub(crate) fn tells_later(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Leader(leader) if leader.is_calm => leader.telling.later(now, self.commit),
            _ => None,
        }
    }

    #[inline(never)]
    pub(super) fn owed_by_leader(&mut self, now: Instant) -> Option<(MemberId, Owed)> {
        let others = self.others();
        let interval = self.timing.canvass_interval;
        let (commit, end) = (self.commit, self.tail.end);
        let State::Leader(leader) = &mut self.state else {
            return None;
        };
        leader.barrier?;
        leader.is_calm = false;
        if leader.resigned {
            return leader.rounds.take().map(|member| (member, Owed::Resign));
        }
        let told = leader.telling.told(now, commit);
        let (mut behind, mut all_follow) = (MemberSet::EMPTY, leader.transfer.is_none());
        for member in others.iter() {
            let Some(p) = leader.progress.get_mut(member.slot()) else {
                continue;
            };
            if p.joined && p.history_from.is_none() {
                if p.commit_told < told {
                    behind.insert(member);
                }
                continue;
            }
            let history_from = p.history_from.take();
            if history_from.is_some() || (!p.joined && now >= p.greet_at) {
                p.greet_at = now.plus(interval);
                return Some((member, Owed::NewLeadershipTerm { history_from }));
            }
            all_follow = false;
        }
        if let Some(transfer) = &mut leader.transfer
            && now >= transfer.next
        {
            let (target, slot) = (transfer.target, transfer.target.slot());
            transfer.next = now.plus(interval);
            if leader.progress.get(slot).is_some_and(|p| p.durable >= end) {
                return Some((target, Owed::Transfer));
            }
        }
        // With a round to everybody, and else whoever was not told of what all are to be told.
        let Some(member) = leader.rounds.take().or_else(|| behind.iter().next()) else {
            leader.is_calm = all_follow;
            return None;
        };
        if let Some(p) = leader.progress.get_mut(member.slot()) {
            p.commit_told = commit;
        }
        let round = leader.round;
        Some((member, Owed::Commit { round }))
    }

    /// Hands leadership to `target`: clients' messages wait until it has everything and stands, or
    /// until a leader timeout has passed.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn transfer(&mut self, now: Instant, target: MemberId) -> Result<(), TransferError> {
        let until = now.plus(self.timing.leader_timeout);
        let (me, members) = (self.me, self.members);
        let State::Leader(leader) = &mut self.state else {
            return Err(TransferError::NotLeader);
        };
        if leader.is_leaving() {
            return Err(TransferError::InProgress);
        }
        let joined = leader
            .progress
            .get(target.slot())
            .is_some_and(|p| p.joined && p.counts && p.votes && !p.quarantined);
        if target == me || !members.contains(target) || !joined {
            return Err(TransferError::BadTarget);
        }
        leader.is_calm = false;
        leader.transfer = Some(Transfer {
            target,
            until,
            next: now,
        });
        Ok(())
    }

    /// Closes gracefully: a leader hands over to the follower that has most, then says it resigns.
    /// Nothing to do for any other member.
    pub fn resign(&mut self, now: Instant) {
        let best = self.heir();
        if let Some(best) = best {
            // An error would only say that a transfer is under way, which serves as well.
            let _handing_over = self.transfer(now, best).is_ok();
        } else {
            let (others, interval) = (self.others(), self.timing.heartbeat_interval);
            if let State::Leader(leader) = &mut self.state {
                leader.bow_out(now, others, interval);
            }
        }
        self.closing = true;
    }

    /// Whether a resigning member has nothing left to hand over.
    pub fn is_resigned(&self) -> bool {
        let has_let_go = match &self.state {
            State::Leader(leader) => leader.resigned && leader.rounds.is_done(),
            _ => true,
        };
        self.closing && has_let_go
    }

    /// Whom leadership is being handed to.
    pub fn transfer_target(&self) -> Option<MemberId> {
        match &self.state {
            State::Leader(leader) => leader.transfer.map(|t| t.target),
            _ => None,
        }
    }
}
