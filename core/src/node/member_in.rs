//! What other members say: checked for who says it, then given to the room it concerns.

use super::dues::Due;
use super::join::{self, Step};
use super::runway::Runway;
use super::transmit::Run;
use super::{Asking, Event, Halt, Lent, NAK_DELAY, Node, Reject};
use crate::log::{Bounded, LOG_STREAM_ID, Log, Received, publish_landed, receive, scan};
use crate::time::{Instant, Now};
use crate::units::{Incarnation, MemberId, Position, Tail, Term};
use crate::wire;
use crate::wire::frame::{DataFrame, DataHeader, Nak, TYPE_NAK, frame_type};
use crate::wire::member::{
    AppendPosition, Body, CONSENSUS_STREAM_ID, CommitPosition, Frequent, MemberMessage,
    NewLeadershipTerm, Sender, SnapshotChunk,
};

/// How far ahead of this member's term a message's may be.
const TERM_LEAP_MAX: u32 = 1 << 20;

impl<const N: usize, const S: usize> Node<N, S> {
    pub(super) fn handle_member<L: Log>(
        &mut self,
        now: Now,
        from: MemberId,
        datagram: &[u8],
        lent: &mut Lent<'_, L>,
    ) -> Result<(), Reject> {
        let log = &mut *lent.log;
        if self.healing.is_none() && scan::is_data(datagram) {
            self.dues.add(Due::SAY);
            return self.handle_frames(now.instant, from, datagram, log);
        }
        self.stir();
        if let Some((sender, said)) = Frequent::parse(datagram) {
            self.counts_of(from, &sender, said.term())?;
            match &said {
                Frequent::Append(ack) => {
                    self.take_append(now.instant, from, sender.incarnation, ack);
                }
                Frequent::Commit(said) => self.take_commit(now.instant, from, said, log),
            }
            return Ok(());
        }
        if frame_type(datagram).map_err(Reject::Wire)? == TYPE_NAK {
            let nak = Nak::parse(datagram).map_err(Reject::Wire)?;
            return self.handle_nak(now.instant, from, &nak, log);
        }
        let header = DataHeader::parse(datagram).map_err(Reject::Wire)?;
        match header.stream_id {
            LOG_STREAM_ID if self.healing.is_some() => {
                match self.take_repair(now.instant, from, datagram, lent) {
                    true => Ok(()),
                    false => Err(Reject::Frames),
                }
            }
            LOG_STREAM_ID => self.handle_frames(now.instant, from, datagram, log),
            CONSENSUS_STREAM_ID => {
                let frame = DataFrame::parse(datagram).map_err(Reject::Wire)?;
                if let Some(chunk) = SnapshotChunk::parse_frame(&frame).map_err(Reject::Wire)? {
                    return self.handle_chunk(now.instant, from, &chunk, lent.catchup);
                }
                let message = MemberMessage::parse_frame(&frame).map_err(Reject::Wire)?;
                self.handle_message(now, from, &message, log)
            }
            _ => Err(Reject::Wire(wire::Reject::Stream)),
        }
    }

    fn handle_message<L: Log>(
        &mut self,
        now: Now,
        from: MemberId,
        message: &MemberMessage,
        log: &mut L,
    ) -> Result<(), Reject> {
        let counts = self.counts_of(from, &message.sender, message.body.term())?;
        let incarnation = message.sender.incarnation;
        let instant = now.instant;
        let is_question = matches!(
            message.body,
            Body::HistoryRequest(_) | Body::RepairRequest(_) | Body::SnapshotRequest(_)
        );
        if counts && is_question {
            self.raft.handle_question(instant, from);
        }
        match &message.body {
            Body::CanvassPosition(said) => {
                let mut said = *said;
                said.votes &= counts;
                self.raft.handle_canvass(instant, from, &said);
            }
            Body::RequestVote(ask) if counts => self.raft.handle_request_vote(instant, from, ask),
            Body::Vote(vote) if counts => self.raft.handle_vote(instant, from, vote),
            Body::NewLeadershipTerm(said) => self.handle_new_leadership(now, from, said, log),
            Body::AppendPosition(ack) => self.take_append(instant, from, incarnation, ack),
            Body::CommitPosition(said) => self.take_commit(instant, from, said, log),
            Body::HistoryRequest(ask) if ask.term == self.raft.term() => {
                let from_log = self.ask_annals(from, ask.from);
                let asked = (!from_log).then_some(ask.from);
                self.raft.handle_history_request(instant, from, asked);
            }
            Body::RepairRequest(ask) => return self.handle_repair_request(from, ask),
            Body::SnapshotRequest(ask) => return self.handle_snapshot_request(from, ask),
            Body::Resign(said) => self.raft.handle_resign(instant, from, said.term),
            Body::TransferLeadership(said) => self.raft.handle_transfer(instant, from, said),
            _ => return Err(Reject::Stale),
        }
        Ok(())
    }

    /// Whether what this sender says of its log and its vote counts.
    fn counts_of(&self, from: MemberId, sender: &Sender, said: Term) -> Result<bool, Reject> {
        if sender.cluster != self.config.cluster || sender.member != from {
            return Err(Reject::Foreign);
        }
        // Terms grow one by one: a leap is no election, and would use them up for everybody.
        if said.get().saturating_sub(self.raft.term().get()) > TERM_LEAP_MAX {
            return Err(Reject::Foreign);
        }
        // Another incarnation than the roster's is a new disk under an old name: what it says of
        // its log is served, but neither its vote nor its mark counts.
        Ok(self.is_admitted(from, sender.incarnation))
    }

    fn take_append(
        &mut self,
        now: Instant,
        from: MemberId,
        incarnation: Incarnation,
        ack: &AppendPosition,
    ) {
        self.hear_append(now, from, incarnation, ack);
        self.hear_follower(from, ack);
        if ack.received < self.start.base {
            // It was too slow for this bounded log: it is told where that begins now.
            let asked = Some(ack.received);
            self.raft.handle_history_request(now, from, asked);
        }
    }

    fn take_commit<L: Log>(
        &mut self,
        now: Instant,
        from: MemberId,
        said: &CommitPosition,
        log: &mut L,
    ) {
        self.raft.handle_heartbeat(now, from, said);
        if self.raft.joined() == Some(said.term) {
            self.hear_leader(now, from, said, log);
        }
    }

    /// The joined leader says how far it is.
    fn hear_leader<L: Log>(
        &mut self,
        now: Instant,
        from: MemberId,
        said: &CommitPosition,
        log: &mut L,
    ) {
        if said.counts {
            self.told_to_count(said.commit);
        }
        self.leader_end = self.leader_end.max(said.end);
        self.look_for_hole(now, log);
        self.hear_agreed(said);
        if self.is_cut_off(now) {
            self.receive_snapshot(now, from, said.term);
        }
    }

    /// The leader of a term says how its log came to be. Joins, if that settles where the logs
    /// part.
    fn handle_new_leadership<L: Log>(
        &mut self,
        now: Now,
        from: MemberId,
        said: &NewLeadershipTerm,
        log: &mut L,
    ) {
        let (instant, term) = (now.instant, said.term);
        if !self.raft.observe_leader(instant, term, from) || !self.raft.is_persisted() {
            // The leader repeats it; by then the term is on disk.
            return;
        }
        if !self.shares_settings(instant, from, said) {
            return;
        }
        if let Some((wanted, _)) = self.healing() {
            // First what was durable here is made whole: it may be what the leader rests on. What
            // nobody has any more is in the leader's snapshot.
            match said.start.base > wanted {
                true => self.receive_snapshot(instant, from, term),
                false => self.receiving = None,
            }
            return;
        }
        if self.raft.joined() == Some(term) {
            self.hear_again(instant, from, said, log);
            return;
        }
        let (end, start, settled) = (log.end(), said.start, self.raft.commit());
        match join::step(&self.history, end, settled, &said.history, term) {
            Step::Ask(asked) | Step::TooShort(asked) if asked < start.base => {
                let first = said.history.as_slice().first();
                // Nothing agrees from the leader's first byte on, or nothing of it is here.
                if end < start.base || first.is_some_and(|e| e.base <= start.base) {
                    self.receive_snapshot(instant, from, term);
                } else {
                    self.ask_history(instant, from, term, start.base);
                }
            }
            Step::Ask(position) => self.ask_history(instant, from, term, position),
            Step::TooShort(_) => self.halt(Halt::HistoryTooShort),
            Step::Join { cut } => self.join_at(cut, instant, from, said, log),
        }
    }

    /// The log, taken back to `cut` if there is a conflict, is what the leader's goes on from.
    fn join_at<L: Log>(
        &mut self,
        cut: Option<Position>,
        now: Instant,
        from: MemberId,
        said: &NewLeadershipTerm,
        log: &mut L,
    ) {
        let term = said.term;
        if cut.is_some_and(|cut| cut < self.raft.commit()) {
            // Safety is broken already; do not make it worse.
            self.halt(Halt::ConflictBelowCommit);
            return;
        }
        // What is committed here is in every leader's log, and there terms only grow.
        let last = match cut {
            Some(cut) => self.history.term_before(cut),
            None => Some(self.raft.tail.term),
        };
        let known = join::extended(&said.history, term);
        let goes_on = join::goes_on(&known, cut.unwrap_or(log.end()), last);
        if !goes_on || cut.is_some_and(|cut| !scan::may_start_frame(log, cut)) {
            // Or two logs part between frames: this history is nobody's.
            self.counters.corrupt += 1;
            return;
        }
        if cut.is_some_and(|cut| !self.cut(cut, log)) {
            return;
        }
        self.forget_repair();
        self.receiving = None;
        self.known = known;
        self.leader_end = said.end;
        self.raft.join(now, term, from);
        self.raft.handle_commit(term, said.commit);
        self.event(Event::Joined { term, leader: from });
        self.ask_onward(now, log);
    }

    /// A joined leader repeats itself, or answers with more of its history: extends what is known,
    /// never truncates.
    fn hear_again<L: Log>(
        &mut self,
        now: Instant,
        from: MemberId,
        said: &NewLeadershipTerm,
        log: &mut L,
    ) {
        let planted = crate::planted::Planted::TruncateAgainOnADuplicateNewLeadershipTerm;
        if planted.is_active() && said.end < log.end() && said.end >= log.start() {
            self.cut(said.end, log);
        }
        let more = join::extended(&said.history, said.term);
        if !join::goes_on(&more, log.end(), Some(self.raft.tail.term)) {
            // It is not what was joined.
            self.counters.corrupt += 1;
            return;
        }
        if join::term_in(&more, log.end()).is_some() && more.covered_to > self.known.covered_to {
            self.known = more;
            self.publish_waiting(log);
        }
        // What an answer has not settled is asked again in time, not at once: the leader may not
        // know.
        let end = log.end();
        let known_to = self.known.covered_to;
        self.history_wanted = self
            .history_wanted
            .filter(|(_, _, asked)| asked.from == end && end >= known_to);
        self.raft.join(now, said.term, from);
        if log.end() < said.start.base {
            self.receive_snapshot(now, from, said.term);
        }
        self.leader_end = self.leader_end.max(said.end);
        self.raft.handle_commit(said.term, said.commit);
        self.ask_onward(now, log);
    }

    /// Frames that waited for more of the leader's history become part of the log.
    fn publish_waiting<L: Log>(&mut self, log: &mut L) {
        let (known, before) = (self.known, log.end());
        let mut got = Received::default();
        let term_at = |position| join::term_in(&known, position);
        publish_landed(log, &mut self.gaps, term_at, &mut got);
        self.counters.stale += u64::from(got.wrong_term);
        self.counters.corrupt += u64::from(got.mismatched);
        self.published(before, log);
        self.halt_if(got.broken);
    }

    fn ask_history(&mut self, now: Instant, leader: MemberId, term: Term, from: Position) {
        let repeated = self
            .history_wanted
            .filter(|(to, of, asked)| (*to, *of, asked.from) == (leader, term, from));
        let asking = Asking {
            from,
            to: from,
            next: repeated.map_or(now, |(_, _, asked)| asked.next),
        };
        self.history_wanted = Some((leader, term, asking));
    }

    /// Frames past what is known of the leader's history wait: asks for more of it in time.
    fn ask_onward<L: Log>(&mut self, now: Instant, log: &L) {
        let known_to = self.known.covered_to;
        let (Some(leader), Some(term)) = (self.raft.leader(), self.raft.joined()) else {
            return;
        };
        if self.history_wanted.is_none() && log.end() >= known_to && leader != self.config.member {
            self.ask_history(now, leader, term, log.end());
        }
    }

    /// Takes the log back to `cut`, above which is nothing committed. Who does not know which term
    /// its log ends with then would compare itself with candidates by a wrong one, and could vote
    /// for one that lacks what is committed: it halts, and false is returned.
    pub(super) fn cut<L: Log>(&mut self, cut: Position, log: &mut L) -> bool {
        let Some(term) = self.history.term_before(cut) else {
            self.halt(Halt::HistoryTooShort);
            return false;
        };
        let from = log.end();
        if let Err(broken) = log.truncate(cut) {
            self.halt(Halt::Broken(broken));
            return false;
        }
        self.runway = Runway::NONE;
        self.history.truncate(cut);
        self.sources.truncate(cut);
        self.stop_mending();
        self.sweep.run = Run::NONE;
        self.raft.set_tail(Tail { term, end: cut });
        self.event(Event::Truncated { from, to: cut });
        true
    }

    fn handle_frames<L: Log>(
        &mut self,
        now: Instant,
        from: MemberId,
        datagram: &[u8],
        log: &mut L,
    ) -> Result<(), Reject> {
        // "A voter for t10 accepts a delayed t9 frame": only the joined term's frames land.
        let follows = matches!(self.raft.state(), crate::raft::State::Follower(_));
        if !follows || self.raft.joined().is_none() {
            self.counters.stale += 1;
            return Err(Reject::Stale);
        }
        let before = log.end();
        let limit = self.limit(&*log);
        let mut log_bounded = Bounded::new(log, limit);
        let known = &self.known;
        let term_at = |position| join::term_in(known, position);
        let got = receive(&mut log_bounded, &mut self.gaps, datagram, term_at);
        self.counters.duplicate += u64::from(got.duplicates);
        self.counters.no_room += u64::from(got.no_room + got.gaps_full);
        self.counters.stale += u64::from(got.wrong_term);
        self.counters.corrupt += u64::from(got.mismatched);
        self.published(before, log);
        self.halt_if(got.broken);
        if self.halted.is_some() {
            return Err(Reject::Halted);
        }
        self.raft.handle_frames(now, from);
        self.ask_onward(now, log);
        self.look_for_hole(now, log);
        self.runway = self.runway_anew(from, log);
        if got.malformed.is_some() {
            self.counters.corrupt += 1;
            return Err(Reject::Frames);
        }
        if got.published == 0 && got.ahead == 0 {
            Err(Reject::Frames)
        } else {
            Ok(())
        }
    }

    /// Frames from `before` to the log's end were published: the terms are those of the leader.
    #[inline]
    fn published<L: Log>(&mut self, before: Position, log: &L) {
        let end = log.end();
        if end == before {
            return;
        }
        // Nearly always the leader's own term is all there is to say.
        match self.known.as_slice().last() {
            Some(last) if last.base <= before => self.lengthened(last.term, before, end),
            _ => self.published_of_many(before, end),
        }
    }

    #[cold]
    fn published_of_many(&mut self, mut at: Position, end: Position) {
        let known = self.known;
        let entries = known.as_slice();
        let nexts = entries.iter().skip(1).map(|next| next.base);
        for (entry, next) in entries.iter().zip(nexts.chain([end])) {
            let to = next.min(end);
            if entry.base <= at && at < to {
                self.lengthened(entry.term, at, to);
                at = to;
            }
        }
        if at < end {
            // Nothing is published whose term is not known.
            self.does_not_go_on();
        }
    }

    /// Missing bytes are asked for after a moment, in which they may still come.
    #[inline]
    fn look_for_hole<L: Log>(&mut self, now: Instant, log: &L) {
        if self.hole.is_some() || self.leader_end > log.end() || !self.gaps.is_empty() {
            self.find_hole(now, log);
        }
    }

    #[inline(never)]
    fn find_hole<L: Log>(&mut self, now: Instant, log: &L) {
        let end = log.end();
        // What there is no room for would only be dropped again.
        let to = self.leader_end.max(self.gaps.highest().unwrap_or(end));
        if to <= end {
            self.hole = None;
            return;
        }
        let to = to.min(self.limit(log)).max(end);
        let hole = self.gaps.first_hole(end, to);
        self.hole = match (hole, self.hole) {
            (None, _) => None,
            (Some(span), Some(old)) if old.from == span.start => Some(Asking {
                to: span.end,
                ..old
            }),
            (Some(span), _) => {
                let next = now.plus(NAK_DELAY);
                Some(Asking {
                    from: span.start,
                    to: span.end,
                    next,
                })
            }
        };
    }

    /// A follower misses bytes. Only a frame boundary of this very log is answered.
    fn handle_nak<L: Log>(
        &mut self,
        now: Instant,
        from: MemberId,
        nak: &Nak,
        log: &L,
    ) -> Result<(), Reject> {
        let joined = Term::from_session_id(nak.session_id);
        if nak.stream_id != LOG_STREAM_ID || joined != Some(self.raft.term()) {
            self.counters.stale += 1;
            return Err(Reject::Stale);
        }
        let segment = self.config.segment_length;
        let at = wire::frame::position(nak.term_id, nak.term_offset, 0, segment);
        let length = u64::try_from(nak.length).unwrap_or(0);
        let Some(at) = at.filter(|at| at.is_aligned() && length > 0) else {
            self.counters.bad_nak += 1;
            return Err(Reject::BadNak);
        };
        // Bytes below the window are sent again from the follower's cursor, after a while.
        let term = self.history.term_at(at);
        if at >= log.start() && scan::boundary(log, at, term).is_none() {
            self.counters.bad_nak += 1;
            return Err(Reject::BadNak);
        }
        if at >= log.start() {
            self.raft.handle_nak(from, at, at.plus(length));
            if self.config.log_group.is_some() && self.raft.note_missed(now, from, at) {
                self.event(Event::DeafToGroup(from));
            }
        }
        Ok(())
    }
}
