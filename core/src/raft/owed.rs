//! What this member owes the others, derived from its state when asked.

use super::{Raft, State};
use crate::planted::Planted;
use crate::time::Instant;
use crate::units::{MemberId, MemberSet, Position};
use core::time::Duration;

/// One message that is due. The node fills in what only it knows (history, window).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Owed {
    /// `CanvassPosition`.
    Canvass,
    /// `RequestVote`; `transfer` if the leader asked for it.
    RequestVote {
        /// Overrides leader stickiness.
        transfer: bool,
    },
    /// `Vote` for `candidate`.
    Vote {
        /// Who asked.
        candidate: MemberId,
        /// The answer.
        granted: bool,
    },
    /// `NewLeadershipTerm`, with the history from this position on, or its newest run.
    NewLeadershipTerm {
        /// What the follower has asked for.
        history_from: Option<Position>,
    },
    /// `CommitPosition`, the heartbeat.
    Commit {
        /// The round it opens.
        round: u64,
    },
    /// `AppendPosition`.
    Append,
    /// `TransferLeadership` to this member.
    Transfer,
    /// `Resign`.
    Resign,
}

/// A message that goes to several members again and again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rounds {
    pending: MemberSet,
    next: Instant,
}

impl Rounds {
    /// The first round is due at once.
    pub const fn new(now: Instant) -> Self {
        Self {
            pending: MemberSet::EMPTY,
            next: now,
        }
    }

    /// Opens a new round to `members` if one is due; true if it did.
    pub fn refill(&mut self, now: Instant, members: MemberSet, interval: Duration) -> bool {
        if now < self.next {
            return false;
        }
        self.pending = members;
        self.next = now.plus(interval);
        true
    }

    /// When the next round is due.
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// Takes one member that this round still owes.
    pub fn take(&mut self) -> Option<MemberId> {
        let member = self.pending.iter().next()?;
        self.pending.remove(member);
        Some(member)
    }

    /// Whether this round owes nobody anything.
    pub const fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Sends the round to everybody again as soon as possible.
    pub fn hurry(&mut self, now: Instant) {
        self.next = now;
    }
}

impl Raft {
    /// The next message owed, and to whom. `received` is the log's contiguous end, `limit` the end
    /// of the room behind it. Each call does work bounded by the number of members.
    #[inline]
    pub fn poll_owed(&mut self, now: Instant, limit: Position) -> Option<(MemberId, Owed)> {
        let answers =
            self.vote_due || !self.refusals.is_empty() || !self.canvass_replies.is_empty();
        match &self.state {
            State::Follower(_) if !answers => self.owed_append(limit),
            State::Leader(_) if !answers && self.has_told_all(now) => None,
            State::Leader(_) if !answers => self.owed_by_leader(now),
            _ => self.owed_in_an_election(now, limit),
        }
    }

    /// By when `poll_owed`, which has just found nothing, may find something although this member
    /// was told nothing, and no time has passed by [`Raft::handle_timeout`].
    pub fn owes_next(&self) -> Instant {
        match &self.state {
            State::Leader(leader) if leader.is_calm => leader.tells_next(self.commit),
            State::Leader(leader) => leader.deadline(self.others(), self.commit),
            // Whatever they owe, they owe since they were told something or their time had come.
            _ => Instant::NEVER,
        }
    }

    #[inline(never)]
    fn owed_in_an_election(&mut self, now: Instant, limit: Position) -> Option<(MemberId, Owed)> {
        if let Some(owed) = self.owed_vote().or_else(|| self.owed_canvass()) {
            return Some(owed);
        }
        match self.state {
            State::Candidate(_) => self.owed_ballot(),
            State::Follower(_) => self.owed_append(limit),
            State::Leader(_) => self.owed_by_leader(now),
            State::Canvass(_) | State::Voter { .. } => None,
        }
    }

    fn owed_vote(&mut self) -> Option<(MemberId, Owed)> {
        let is_owed = self.vote_due || !self.refusals.is_empty();
        // Raft figure 2: "updated on stable storage before responding to RPCs".
        if !is_owed || !self.is_persisted() {
            return None;
        }
        if self.vote_due
            && let Some(candidate) = self.ballot.vote
        {
            self.vote_due = false;
            if candidate != self.me {
                return Some((
                    candidate,
                    Owed::Vote {
                        candidate,
                        granted: true,
                    },
                ));
            }
        }
        let candidate = self.refusals.iter().next()?;
        self.refusals.remove(candidate);
        Some((
            candidate,
            Owed::Vote {
                candidate,
                granted: false,
            },
        ))
    }

    fn owed_canvass(&mut self) -> Option<(MemberId, Owed)> {
        if let State::Canvass(canvass) = &mut self.state
            && let Some(member) = canvass.rounds.take()
        {
            self.canvass_replies.remove(member);
            return Some((member, Owed::Canvass));
        }
        let member = self.canvass_replies.iter().next()?;
        self.canvass_replies.remove(member);
        Some((member, Owed::Canvass))
    }

    fn owed_ballot(&mut self) -> Option<(MemberId, Owed)> {
        if !self.is_persisted() {
            return None;
        }
        let State::Candidate(candidate) = &mut self.state else {
            return None;
        };
        let transfer = candidate.transfer;
        candidate
            .rounds
            .take()
            .map(|member| (member, Owed::RequestVote { transfer }))
    }

    fn owed_append(&mut self, limit: Position) -> Option<(MemberId, Owed)> {
        // "A voter for t10 accepts a delayed t9 frame, acks it": only a joined member acknowledges,
        // and only once the term it has joined is on disk.
        let joined = self.joined == Some(self.ballot.term) && self.is_persisted();
        if !joined && !Planted::AcknowledgeAfterVotingForAHigherTerm.is_active() {
            return None;
        }
        self.owed_marks(limit).map(|to| (to, Owed::Append))
    }

    /// Whether a follower has news for its leader, of bytes that have come or are on disk, or of
    /// room for more. To be asked by one whose last acknowledgement was of the same leadership.
    #[inline(always)]
    pub(crate) fn owed_marks(&mut self, limit: Position) -> Option<MemberId> {
        debug_assert!(
            self.joined == Some(self.ballot.term) && self.is_persisted()
                || Planted::AcknowledgeAfterVotingForAHigherTerm.is_active()
        );
        let (received, durable) = (self.tail.end, self.acknowledged());
        let State::Follower(follower) = &mut self.state else {
            return None;
        };
        let acked = follower.acked;
        let quarter = acked.limit.since(acked.received) / 4;
        let news = durable != acked.durable
            || follower.ack_due
            || limit.since(acked.limit) > quarter
            || (received > acked.received && acked.limit.since(received) <= quarter);
        if !news {
            return None;
        }
        follower.ack_due = false;
        follower.acked = super::Acked {
            received,
            durable,
            limit,
        };
        Some(follower.leader)
    }

    /// What this member acknowledges as durable.
    pub fn acknowledged(&self) -> Position {
        if Planted::AcknowledgeBeforeDurable.is_active() {
            return self.tail.end;
        }
        self.flushed
    }
}
