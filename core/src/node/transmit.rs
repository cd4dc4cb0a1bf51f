//! What leaves: an ordered list of producers, each deriving one kind of debt from positions.

use core::net::SocketAddr;

use super::{Asking, Consumer, Door, NAK_REPEAT, Node, RESERVE, Recall};
use crate::limits::MTU_DEFAULT;
use crate::log::{Frames, LOG_STREAM_ID, Log};
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
    SnapshotChunk, TransferLeadership, Vote,
};
use crate::wire::status::{STATUS_LENGTH, StatusReport};

/// The longest control datagram in bytes.
pub const CONTROL_MAX: usize = MTU_DEFAULT;
const _: () = assert!(CONTROL_MAX >= MEMBER_MESSAGE_MAX && CONTROL_MAX >= STATUS_LENGTH);
const _: () = assert!(CONTROL_MAX >= align(CHUNK_HEADER + CHUNK_MAX));

/// A small message that is written out only when it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "lives for one call; boxing needs an allocator"
)]
pub enum Control {
    /// To a member.
    Member(MemberMessage),
    /// To the joined leader: send these log bytes again.
    Nak(Nak),
    /// To whoever asked.
    Status(StatusReport),
}

impl Control {
    /// Writes it to `out`; how many bytes that were.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Member(message) => message.emit(out),
            Self::Nak(nak) => nak.emit(out),
            Self::Status(report) => report.emit(out),
        }
    }
}

/// One datagram that is due.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Transmit<'l> {
    /// The socket it leaves by.
    pub door: Door,
    /// Where it goes.
    pub to: SocketAddr,
    /// What it says.
    pub payload: Payload<'l>,
}

/// How far a round through the producers has come: those before `next` owe nothing. It stands until
/// the node is told something, or time moves on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Sweep {
    at: Instant,
    next: u8,
    /// Which follower was last sent log bytes; or all were.
    pub member: u8,
    /// When this member's health was last looked after.
    pub looked_at: Instant,
}

/// What a datagram says.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives for one call; boxing needs an allocator"
)]
pub enum Payload<'l> {
    /// Bytes of the log or of an egress stream, in place.
    Bytes(&'l [u8]),
    /// A small message to or from members, or a status report.
    Control(Control),
    /// A part of a snapshot.
    Chunk(SnapshotChunk<'l>),
    /// A small message of a client's stream.
    Client(stream::Control),
}

impl Payload<'_> {
    /// The bytes to send: in place, or written to `scratch`.
    pub fn bytes<'b>(&'b self, scratch: &'b mut [u8; CONTROL_MAX]) -> &'b [u8] {
        let len = match self {
            Self::Bytes(bytes) => return bytes,
            Self::Client(control) => {
                let mut small = [0; stream::CONTROL_MAX];
                let bytes = control.emit(&mut small);
                let (room, _) = scratch.split_at_mut(bytes.len().min(CONTROL_MAX));
                room.copy_from_slice(bytes);
                room.len()
            }
            Self::Control(control) => control.emit(scratch).unwrap_or(0),
            Self::Chunk(chunk) => chunk.emit(scratch).unwrap_or(0),
        };
        scratch.get(..len).unwrap_or(&[])
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The next datagram due; `None` when nothing more is owed now. Each may be lost, duplicated or
    /// delayed. Each call does work bounded by the members, the sessions and one datagram.
    pub fn poll_transmit<'l, L: Log>(
        &mut self,
        now: Now,
        lent: &'l Lent<'_, L>,
    ) -> Option<Transmit<'l>> {
        if self.halted.is_some() {
            return None;
        }
        let instant = now.instant;
        if self.sweep.at != instant {
            (self.sweep.at, self.sweep.next) = (instant, 0);
        }
        // One after the other and not chained: what is given back is hundreds of bytes long, and
        // is written once, where the caller wants it. Sending makes no other debts, so whoever owed
        // nothing is not asked again.
        macro_rules! first {
            ($($number:literal: $owed:expr),+ $(,)?) => {
                $(if self.sweep.next <= $number {
                    let owed = $owed;
                    if owed.is_some() {
                        return owed;
                    }
                    self.sweep.next = $number + 1;
                })+
            };
        }
        first!(
            0: self.owed_message(now, &*lent.log),
            1: self.owed_annals(lent),
            2: self.owed_history_request(instant),
            3: self.owed_nak(instant),
            4: self.owed_snapshot_request(instant, lent.catchup),
            5: self.owed_repair_request(instant, lent.catchup.len()),
            6: self.owed_frames(lent),
            7: self.owed_status(),
            8: self.owed_client(now, lent),
            9: self.owed_repair(lent),
            10: self.owed_chunk(lent.catchup),
        );
        None
    }

    /// The node is told something: whoever owed nothing may owe something now.
    pub(super) fn stir(&mut self) {
        self.sweep.next = 0;
    }

    fn to_member(&self, member: MemberId, control: Control) -> Option<Transmit<'static>> {
        let to = self.config.address(member)?.member;
        Some(Transmit {
            door: Door::Member,
            to,
            payload: Payload::Control(control),
        })
    }

    pub(super) fn say(&self, member: MemberId, body: Body) -> Option<Transmit<'static>> {
        self.to_member(
            member,
            Control::Member(MemberMessage {
                sender: self.sender,
                body,
            }),
        )
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

    fn owed_message<L: Log>(&mut self, now: Now, log: &L) -> Option<Transmit<'static>> {
        let limit = self.limit(log);
        let (to, owed) = self.raft.poll_owed(now.instant, limit)?;
        let body = self.body(now, to, owed, limit);
        self.say(to, body)
    }

    fn body(&self, now: Now, to: MemberId, owed: Owed, limit: Position) -> Body {
        let (term, commit) = (self.raft.term(), self.raft.commit());
        let Tail {
            term: log_term,
            end,
        } = self.raft.tail;
        match owed {
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
            Owed::Commit { round } => Body::CommitPosition(CommitPosition {
                term,
                commit,
                end,
                round,
                counts: self.counts_now(to),
                checkpoint: self.checkpoints.states.agreed(),
                snapshot: self.checkpoints.snapshots.agreed(),
            }),
            Owed::Append => Body::AppendPosition(self.append_position(now.instant, limit)),
            Owed::Transfer => {
                let target = self.raft.transfer_target().unwrap_or(self.config.member);
                Body::TransferLeadership(TransferLeadership { term, target })
            }
            Owed::Resign => Body::Resign(Resign { term, end }),
        }
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
    ) -> Option<Transmit<'static>> {
        self.say(member, self.new_leadership_term(history))
    }

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
            votes: self.heard.persisted.1,
            checkpoint: self.checkpoints.states.of(me),
            snapshot: self.checkpoints.snapshots.of(me),
        }
    }

    fn owed_history_request(&mut self, now: Instant) -> Option<Transmit<'static>> {
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
        self.say(leader, Body::HistoryRequest(request))
    }

    fn owed_nak(&mut self, now: Instant) -> Option<Transmit<'static>> {
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
        let segment = u64::from(self.config.segment_length);
        let nak = Nak {
            session_id: self.raft.joined()?.to_session_id(),
            stream_id: LOG_STREAM_ID,
            term_id: (from.get() / segment) as i32,
            term_offset: (from.get() % segment) as i32,
            length: to.since(from).min(i32::MAX as u64) as i32,
        };
        self.to_member(leader, Control::Nak(nak))
    }

    fn owed_status(&mut self) -> Option<Transmit<'static>> {
        let (to, nonce) = self.status_replies.pop()?;
        let report = self.report(nonce);
        let payload = Payload::Control(Control::Status(report));
        Some(Transmit {
            door: Door::Client,
            to,
            payload,
        })
    }

    fn owed_client<'l, L: Log>(&mut self, now: Now, lent: &'l Lent<'_, L>) -> Option<Transmit<'l>> {
        let transmit = self.clients.poll_transmit(now.instant, &*lent.egress)?;
        let payload = match transmit.payload {
            stream::Output::Frames(bytes) => Payload::Bytes(bytes),
            stream::Output::Control(control) => Payload::Client(control),
        };
        Some(Transmit {
            door: Door::Client,
            to: transmit.to,
            payload,
        })
    }

    /// Bytes that the driver shall read from storage and hand to `handle_recalled`. The same until
    /// it does; bounded by the members.
    pub fn poll_recall<L: Log>(&self, lent: &Lent<'_, L>) -> Option<Recall> {
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
}
