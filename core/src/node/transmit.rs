//! What leaves: an ordered list of producers, each deriving one kind of debt from positions.

use core::net::SocketAddr;

use super::dues::Due;
use super::{Asking, Consumer, Door, NAK_REPEAT, Node, RESERVE, Recall};
use crate::limits::MTU_DEFAULT;
use crate::log::{Frames, LOG_STREAM_ID, Log, segment_base};
use crate::node::Lent;
use crate::planted::Planted;
use crate::raft::{Owed, State};
use crate::stream;
use crate::time::{Instant, Now};
use crate::units::{MemberId, Position, Tail, Term};
use crate::wire::frame::{Nak, align};
use crate::wire::member::{
    AppendPosition, Body, CHUNK_HEADER, CHUNK_MAX, CanvassPosition, CommitPosition, HistoryRequest,
    HistorySlice, MEMBER_MESSAGE_MAX, MemberMessage, NewLeadershipTerm, RequestVote, Resign,
    TransferLeadership, Vote, emit_append, emit_commit,
};
use crate::wire::status::STATUS_LENGTH;

/// The longest control datagram in bytes.
pub const CONTROL_MAX: usize = MTU_DEFAULT;
const _: () = assert!(CONTROL_MAX >= stream::CONTROL_MAX);
const _: () = assert!(CONTROL_MAX >= MEMBER_MESSAGE_MAX && CONTROL_MAX >= STATUS_LENGTH);
const _: () = assert!(CONTROL_MAX >= align(CHUNK_HEADER + CHUNK_MAX));

/// One datagram that is due.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Transmit<'l> {
    /// The socket it leaves by.
    pub door: Door,
    /// Where it goes.
    pub to: SocketAddr,
    /// What it says: in place, in the log or an egress stream, or written to the scratch.
    pub bytes: &'l [u8],
}

/// As [`Transmit`], of a producer: what is written to the scratch is lent once it is sure that this
/// one is sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Owes<'l> {
    pub door: Door,
    pub to: SocketAddr,
    pub what: What<'l>,
}

/// Where a datagram is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum What<'l> {
    InPlace(&'l [u8]),
    /// So many bytes, at the start of the scratch.
    Written(usize),
}

/// Where messages are written that are nowhere in place.
pub(super) type Scratch = [u8; CONTROL_MAX];

/// How far followers were sent bytes of the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sweep {
    /// Which one was last; or all were.
    pub member: u8,
    /// What one was last sent.
    pub run: Run,
}

/// What of the log makes one datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Run {
    pub from: Position,
    /// So many bytes were looked at.
    pub of: usize,
    /// So many are one,
    pub len: usize,
    /// of which so many are sent.
    pub sent: usize,
}

impl Run {
    pub const NONE: Self = Self {
        from: Position::ZERO,
        of: 0,
        len: 0,
        sent: 0,
    };
}

impl Sweep {
    /// Nobody was asked.
    pub const NONE: Self = Self {
        member: 0,
        run: Run::NONE,
    };
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The next datagram due; `None` when nothing more is owed now. What comes with time is owed
    /// once [`Self::handle_timeout`] was called at that time. Each may be lost, duplicated or
    /// delayed. What is not in place is written to `scratch`. Each call does work bounded by the
    /// members, the sessions and one datagram.
    #[inline]
    pub fn poll_transmit<'l, L: Log>(
        &mut self,
        now: Now,
        lent: &'l Lent<'_, L>,
        scratch: &'l mut [u8; CONTROL_MAX],
    ) -> Option<Transmit<'l>> {
        if !self.dues.has(Due::TRANSMIT) && self.clients.is_quiet_to_send() {
            return None;
        }
        self.transmit_due(now, lent, scratch)
    }

    /// Not a part of its caller: what a loop around it would work out for it ahead costs more than
    /// the call, where nothing is due.
    #[inline(never)]
    fn transmit_due<'l, L: Log>(
        &mut self,
        now: Now,
        lent: &'l Lent<'_, L>,
        scratch: &'l mut [u8; CONTROL_MAX],
    ) -> Option<Transmit<'l>> {
        let Owes { door, to, what } = self.poll_owes(now, lent, scratch)?;
        let bytes = match what {
            What::InPlace(bytes) => bytes,
            What::Written(len) => scratch.get(..len)?,
        };
        Some(Transmit { door, to, bytes })
    }

    fn poll_owes<'l, L: Log>(
        &mut self,
        now: Now,
        lent: &'l Lent<'_, L>,
        scratch: &mut Scratch,
    ) -> Option<Owes<'l>> {
        if self.halted.is_some() {
            return None;
        }
        // One after the other; sending makes no other debts: who owed nothing is not asked again.
        macro_rules! first {
            ($($owed:expr),+ $(,)?) => {
                $(let owed = $owed;
                if owed.is_some() {
                    return owed;
                })+
            };
        }
        first!(
            self.owed_message(now, &*lent.log, scratch),
            self.owed_amiss(now, lent, scratch),
            self.owed_frames(lent),
            self.owed_client(now, lent, scratch),
            self.owed_rarely(lent, scratch),
        );
        None
    }

    /// What is owed only to who asks, and to a member that is far behind or damaged.
    #[inline]
    fn owed_rarely<'l, L: Log>(
        &mut self,
        lent: &'l Lent<'_, L>,
        scratch: &mut Scratch,
    ) -> Option<Owes<'l>> {
        if !self.dues.has(Due::RARELY) {
            return None;
        }
        let owed = self.owed_status(scratch);
        let owed = owed.or_else(|| self.owed_repair(lent));
        let owed = owed.or_else(|| self.owed_chunk(lent.catchup, scratch));
        if owed.is_none() {
            self.dues.done(Due::RARELY);
        }
        owed
    }

    /// What is owed only while something of this member's own is missing, or of its leader's.
    #[inline]
    fn owed_amiss<L: Log>(
        &mut self,
        now: Now,
        lent: &Lent<'_, L>,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        if !self.dues.has(Due::ASK) {
            return None;
        }
        self.dues.done(Due::ASK);
        let is_told = self.annals.is_none() && self.history_wanted.is_none() && self.hole.is_none();
        let is_whole = self.receiving.is_none() && self.healing.is_none();
        let owed = match is_told && is_whole {
            true => None,
            false => self.owed_for_the_missing(now.instant, lent, scratch),
        };
        if owed.is_some() {
            self.dues.add(Due::ASK);
        }
        owed
    }

    #[inline(never)]
    fn owed_for_the_missing<L: Log>(
        &mut self,
        instant: Instant,
        lent: &Lent<'_, L>,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let owed = self.owed_annals(lent, scratch);
        owed.or_else(|| self.owed_history_request(instant, scratch))
            .or_else(|| self.owed_nak(instant, scratch))
            .or_else(|| self.owed_snapshot_request(instant, lent.catchup, scratch))
            .or_else(|| self.owed_repair_request(instant, lent.catchup.len(), scratch))
    }

    /// More is committed than before: services are to execute it, and followers to be told of it,
    /// if not at once then a little later.
    #[inline(always)]
    pub(super) fn committed(&mut self, now: Instant) {
        self.dues.add(Due::SERVICES);
        match self.raft.tells_later(now) {
            Some(at) => self.dues.come_at(at),
            None => self.dues.add(Due::SAY),
        }
    }

    /// No message is owed now.
    fn says_nothing(&mut self) {
        self.dues.done(Due::SAY);
        self.dues.come_at(self.raft.owes_next());
    }

    /// To a member, the so many bytes that were written.
    fn to_member(&self, member: MemberId, written: Option<usize>) -> Option<Owes<'static>> {
        let to = self.config.address(member)?.member;
        Some(Owes {
            door: Door::Member,
            to,
            what: What::Written(written?),
        })
    }

    pub(super) fn say(
        &self,
        member: MemberId,
        body: Body,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let sender = self.sender;
        self.to_member(member, MemberMessage { sender, body }.emit(scratch))
    }

    /// The end of the room for frames: past it a leader must not send.
    pub(super) fn limit<L: Log>(&self, log: &L) -> Position {
        // What is not executed yet may leave the window, it is recalled from storage: a follower's
        // service never holds up its log. After a restart nothing is known to be committed, and the
        // bytes that tell what is may be more than a window away.
        self.raft
            .flushed()
            .plus(log.capacity().saturating_sub(RESERVE / 2))
            .min(self.disk_limits().1)
            .max(self.raft.tail.end)
    }

    #[inline]
    fn owed_message<L: Log>(
        &mut self,
        now: Now,
        log: &L,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        if !self.dues.has(Due::SAY) {
            return None;
        }
        if self.dues.has(Due::MARKS) {
            let limit = self.limit(log);
            self.dues.done(Due::SAY);
            let to = self.raft.owed_marks(limit)?;
            return self.say_marks(now.instant, to, limit, scratch);
        }
        // A leader has room for all that it appends.
        let limit = match self.raft.state() {
            State::Leader(_) => Position::MAX,
            _ => self.limit(log),
        };
        let Some((to, owed)) = self.raft.poll_owed(now.instant, limit) else {
            self.says_nothing();
            return None;
        };
        let written = match owed {
            Owed::Append => {
                // The last that a follower owes: whom it has not answered comes first.
                self.says_nothing();
                self.dues.add(Due::MARKS);
                return self.say_marks(now.instant, to, limit, scratch);
            }
            Owed::Commit { round } => {
                emit_commit(&self.sender, &self.commit_position(to, round), scratch)
            }
            owed => return self.say_rarely(now, to, owed, scratch),
        };
        self.to_member(to, written)
    }

    #[inline(always)]
    fn say_marks(
        &self,
        now: Instant,
        to: MemberId,
        limit: Position,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let said = self.append_position(now, limit);
        self.to_member(to, emit_append(&self.sender, &said, scratch))
    }

    #[inline(never)]
    fn say_rarely(
        &self,
        now: Now,
        to: MemberId,
        owed: Owed,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let body = self.body(now, owed)?;
        self.say(to, body, scratch)
    }

    fn commit_position(&self, to: MemberId, round: u64) -> CommitPosition {
        CommitPosition {
            term: self.raft.term(),
            commit: self.raft.commit(),
            end: self.raft.tail.end,
            round,
            counts: self.counts_now(to),
            checkpoint: self.checkpoints.states.agreed(),
            snapshot: self.checkpoints.snapshots.agreed(),
        }
    }

    /// What is not said all the time.
    fn body(&self, now: Now, owed: Owed) -> Option<Body> {
        let term = self.raft.term();
        let Tail {
            term: log_term,
            end,
        } = self.raft.tail;
        Some(match owed {
            Owed::Canvass => Body::CanvassPosition(CanvassPosition {
                term,
                log_term,
                position: end,
                hears_leader: self.raft.hears_leader(now.instant),
                torn: self.raft.torn,
                votes: self.votes,
            }),
            Owed::RequestVote { transfer } => Body::RequestVote(RequestVote {
                term,
                log_term,
                position: end,
                transfer,
            }),
            Owed::Vote { candidate, granted } => Body::Vote(Vote {
                term,
                candidate,
                granted,
            }),
            Owed::NewLeadershipTerm { history_from } => {
                self.new_leadership_term(self.history.slice_from(history_from))
            }
            Owed::Commit { .. } | Owed::Append => return None,
            Owed::Transfer => {
                let target = self.raft.transfer_target().unwrap_or(self.config.member);
                Body::TransferLeadership(TransferLeadership { term, target })
            }
            Owed::Resign => Body::Resign(Resign { term, end }),
        })
    }

    fn new_leadership_term(&self, history: HistorySlice) -> Body {
        let start = self.start;
        let (term, commit, end) = (self.raft.term(), self.raft.commit(), self.raft.tail.end);
        Body::NewLeadershipTerm(NewLeadershipTerm {
            term,
            commit,
            end,
            start,
            settings: self.shared_settings(),
            history,
        })
    }

    pub(super) fn say_history(
        &self,
        member: MemberId,
        history: HistorySlice,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        self.say(member, self.new_leadership_term(history), scratch)
    }

    #[inline(always)]
    fn append_position(&self, now: Instant, limit: Position) -> AppendPosition {
        let Tail {
            term: log_term,
            end,
        } = self.raft.tail;
        let joined = self.raft.joined().unwrap_or(Term::ZERO);
        let planted = Planted::MarkCarriesTheLastFramesTerm.is_active();
        let (me, ages) = (self.config.member, self.ages(now));
        AppendPosition {
            term: if planted { log_term } else { joined },
            received: end,
            durable: self.raft.acknowledged(),
            applied: self.told_applied(),
            window: limit.since(end).min(u64::from(u32::MAX)) as u32,
            flush_age_ms: ages.flush_ms,
            round: self.raft.round(),
            service_age_ms: ages.service_ms,
            quarantined: self.is_quarantined(),
            resting: self.raft.is_resting(now),
            votes: self.heard.persisted_vote,
            checkpoint: self.checkpoints.states.of(me),
            snapshot: self.checkpoints.snapshots.of(me),
        }
    }

    fn owed_history_request(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let repeat = self.config.timing.canvass_interval;
        let (leader, term, asking) = self.history_wanted.as_mut()?;
        if now < asking.next {
            return None;
        }
        asking.next = now.plus(repeat);
        let request = HistoryRequest {
            term: *term,
            from: asking.from,
        };
        let leader = *leader;
        self.say(leader, Body::HistoryRequest(request), scratch)
    }

    fn owed_nak(&mut self, now: Instant, scratch: &mut Scratch) -> Option<Owes<'static>> {
        let State::Follower(follower) = self.raft.state() else {
            return None;
        };
        let leader = follower.leader;
        let Asking { from, to, next } = self.hole?;
        if now < next {
            return None;
        }
        self.hole = Some(Asking {
            from,
            to,
            next: now.plus(NAK_REPEAT),
        });
        self.counters.naks += 1;
        let length = self.config.segment_length;
        let segment = segment_base(from, length);
        let nak = Nak {
            session_id: self.raft.joined()?.to_session_id(),
            stream_id: LOG_STREAM_ID,
            term_id: (segment.get() >> length.trailing_zeros()) as i32,
            term_offset: from.since(segment) as i32,
            length: to.since(from).min(i32::MAX as u64) as i32,
        };
        self.to_member(leader, nak.emit(scratch))
    }

    #[inline(never)]
    fn owed_status(&mut self, scratch: &mut Scratch) -> Option<Owes<'static>> {
        let (to, nonce) = self.status_replies.pop()?;
        let written = self.report(nonce).emit(scratch)?;
        Some(Owes {
            door: Door::Client,
            to,
            what: What::Written(written),
        })
    }

    #[inline]
    fn owed_client<'l, L: Log>(
        &mut self,
        now: Now,
        lent: &'l Lent<'_, L>,
        scratch: &mut Scratch,
    ) -> Option<Owes<'l>> {
        let transmit = self.clients.poll_transmit(now.instant, &*lent.egress)?;
        let what = match transmit.payload {
            stream::Output::Frames(bytes) => What::InPlace(bytes),
            stream::Output::Control(control) => {
                What::Written(control.emit(scratch.first_chunk_mut()?).len())
            }
        };
        Some(Owes {
            door: Door::Client,
            to: transmit.to,
            what,
        })
    }

    /// Bytes that the driver shall read from storage and hand to `handle_recalled`. The same until
    /// it does; bounded by the members.
    pub fn poll_recall<L: Log>(&mut self, lent: &Lent<'_, L>) -> Option<Recall> {
        let start = lent.log.start();
        if start == self.sources.began && !self.dues.has(Due::RECALL) {
            return None;
        }
        self.sources.began = start;
        if !self.may_recall(start) {
            self.dues.done(Due::RECALL);
            return None;
        }
        self.dues.add(Due::RECALL);
        if self.is_mending() {
            // What a damaged member is sent is in the memory for replay, and leaves first.
            return self.recall_for_followers(lent);
        }
        let applied = self.applier.position;
        if applied < self.raft.commit() {
            let (bytes, _) = self.sources.for_replay(&*lent.log, &*lent.replay, applied);
            let segment = self.config.segment_length;
            if Frames::new(bytes, applied, segment).next().is_none() {
                let (log, len) = (&*lent.log, lent.replay.len());
                return Some(self.sources.recall(log, Consumer::Replay, applied, len));
            }
        }
        self.recall_for_services(lent)
            .or_else(|| self.recall_repair(lent))
            .or_else(|| self.recall_for_followers(lent))
    }

    /// Whether anybody may need what the window has let go, which starts at `start`.
    #[inline]
    fn may_recall(&self, start: Position) -> bool {
        if self.annals.is_some() || self.serving.is_some() || self.mending.is_some() {
            return true;
        }
        // What the window has is not recalled, whoever is behind.
        if self.applier.position < start || self.last_service().is_some_and(|at| at < start) {
            return true;
        }
        let end = self.raft.tail.end;
        matches!(self.raft.state(), State::Leader(leader) if leader.owes_below(end, start))
    }
}
