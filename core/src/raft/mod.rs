//! Who leads, and what is committed: Raft over marks and member ids. This room never sees a byte.
//!
//! Facts come in through `handle_*` and `set_*`; what is owed to other members is derived from them
//! by `poll_owed`, never queued. The gates ("the term must be on disk first") stand at the point of
//! emission, so that no order of calls can let a promise leave too early.
//!
//! - `commit`: what a quorum has (Raft 5.3, 5.4.2)
//! - `election`: canvass, ballot, votes (Raft 5.2, 5.4.1, 9.6; Aeron: `Election`)
//! - `group`: the log sent to all followers at once
//! - `leader`: check-quorum, transfer, what followers are owed (Raft 5.3, 6.2)
//! - `progress`: what a leader knows of each follower
//! - `telling`: how often followers hear of what is committed
//! - `health`: a leader that is unwell hands over, a member that must not lead does not

mod commit;
mod election;
mod group;
mod health;
mod leader;
mod owed;
mod progress;
mod silence;
mod telling;
#[cfg(test)]
mod tests;

use core::time::Duration;

pub use election::{Candidate, Canvass, Report};
pub use health::Ages;
pub use leader::{Leader, TransferError};
pub use owed::{Owed, Rounds};
pub use progress::Progress;

use crate::planted::Planted;
use crate::prng::Prng;
use crate::time::Instant;
use crate::units::{Mark, MemberId, MemberSet, Position, Tail, Term};
use crate::wire::member::CommitPosition;
use crate::wire::status::Role;

/// The periods that elections and heartbeats run on, all of the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Timing {
    /// How often a leader speaks to each follower (Aeron: `LEADER_HEARTBEAT_INTERVAL`).
    pub heartbeat_interval: Duration,
    /// How long silence lasts before a follower looks for another leader, and a leader without a
    /// quorum steps down (Aeron: `LEADER_HEARTBEAT_TIMEOUT`).
    pub leader_timeout: Duration,
    /// How often a member without a leader says how far its log goes.
    pub canvass_interval: Duration,
    /// The longest random delay before standing for election; above zero, or members stand at the
    /// same moment for ever.
    pub nomination_delay: Duration,
    /// How long a ballot may last; above zero.
    pub ballot_timeout: Duration,
    /// How long a leader's disk, or a service of it, may stand still while there is work, before it
    /// hands over to a member that is better off. Zero: for ever. It must be far above what a flush
    /// takes at its slowest (tens of milliseconds), and not below the leader timeout: what is over
    /// by then is dearer to move away from than to wait for.
    pub sick_after: Duration,
}

impl Timing {
    /// Every period derived from the leader timeout by the ratios that the defaults have.
    pub const fn from_leader_timeout(leader_timeout: Duration) -> Self {
        let micros = leader_timeout.as_micros() as u64;
        Self {
            heartbeat_interval: Duration::from_micros(micros / 8),
            leader_timeout,
            canvass_interval: Duration::from_micros(micros / 20),
            nomination_delay: Duration::from_micros(micros / 8),
            ballot_timeout: Duration::from_micros(micros / 2),
            sick_after: Duration::from_micros(micros * 2),
        }
    }
}

impl Default for Timing {
    /// A leader timeout of 400 ms: failover takes well under a second.
    fn default() -> Self {
        Self::from_leader_timeout(Duration::from_millis(400))
    }
}

/// What of this member's state must be on disk before it may speak for it (Raft figure 2:
/// `currentTerm`, `votedFor`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Ballot {
    /// The current term.
    pub term: Term,
    /// Who has this member's vote in that term.
    pub vote: Option<MemberId>,
}

/// What this member is at the moment; each state carries its own data and nothing else.
// With a tag of its own: which state it is, is asked for in every call.
#[repr(u8)]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one per node; boxing needs an allocator"
)]
pub enum State {
    /// Looks for a leader and says how far its log goes (Aeron: CANVASS; Raft 9.6: pre-vote).
    Canvass(Canvass),
    /// Stands for election (Aeron: CANDIDATE_BALLOT).
    Candidate(Candidate),
    /// Has voted and waits for the winner (Aeron: FOLLOWER_BALLOT).
    Voter {
        /// When it gives up waiting.
        until: Instant,
    },
    /// Follows.
    Follower(Follower),
    /// Leads.
    Leader(Leader),
}

/// A follower's view of its leader.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Follower {
    /// Whom it follows.
    pub leader: MemberId,
    /// When it last heard the leader.
    pub heard: Instant,
    /// The last heartbeat round it has heard.
    pub round: u64,
    /// An acknowledgement is due, whatever has changed.
    pub ack_due: bool,
    /// What it has last acknowledged.
    pub acked: Acked,
}

/// What an acknowledgement said, so that the next is sent when there is news.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Acked {
    /// The contiguous end.
    pub received: Position,
    /// The flushed end.
    pub durable: Position,
    /// The end of the window: received + room.
    pub limit: Position,
}

/// The consensus state of one member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Raft {
    pub(crate) me: MemberId,
    pub(crate) members: MemberSet,
    /// Whether this member may vote: an empty directory may not.
    pub(crate) votes: bool,
    /// Whether this member's log lost a torn tail at its last start.
    pub(crate) torn: bool,
    pub(crate) timing: Timing,
    pub(crate) prng: Prng,
    pub(crate) ballot: Ballot,
    pub(crate) persisted: Ballot,
    /// The leadership whose history this member's log has been reconciled with.
    pub(crate) joined: Option<Term>,
    pub(crate) state: State,
    pub(crate) tail: Tail,
    /// Everything below is on this member's disk, and has not been truncated since.
    pub(crate) flushed: Position,
    pub(crate) commit: Position,
    /// What the joined leader says is committed; may be ahead of this member's log.
    pub(crate) told: Position,
    /// A vote is owed to the candidate of `ballot.vote`.
    pub(crate) vote_due: bool,
    /// Refusals owed.
    pub(crate) refusals: MemberSet,
    /// Members whose canvass is to be answered.
    pub(crate) canvass_replies: MemberSet,
    pub(crate) closing: bool,
    /// Its log cannot be read as it was acknowledged: it must not stand for election.
    pub(crate) damaged: bool,
    /// Elections in a row that this member stood in and that brought it no leader.
    pub(crate) in_vain: u8,
    /// It must not lead: see `health`.
    pub(crate) unfit: bool,
    pub(crate) rest: health::Rest,
    /// When it last looked whether others are silent.
    pub(crate) looked: Instant,
    /// See [`silence::nap`].
    pub(crate) nap: u64,
    /// It has become something else since the node has last looked at what it is, or has yet to
    /// open the term that it leads.
    pub(crate) has_turned: bool,
}

/// What a new `Raft` starts from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Start {
    /// This member.
    pub me: MemberId,
    /// All members, this one too.
    pub members: MemberSet,
    /// Whether this member may vote.
    pub votes: bool,
    /// Whether its log lost a torn tail.
    pub torn: bool,
    /// Whether bytes of its log that were durable cannot be read.
    pub damaged: bool,
    /// What its node state says.
    pub ballot: Ballot,
    /// The end of its recovered log.
    pub tail: Tail,
    /// What of it is known to be on disk.
    pub flushed: Position,
    /// The periods.
    pub timing: Timing,
    /// For delays.
    pub seed: u64,
}

impl Raft {
    /// A member that has just started: it knows no leader and canvasses.
    pub const fn new(start: Start, now: Instant) -> Self {
        let mut prng = Prng::new(start.seed);
        let _ = prng.next();
        Self {
            me: start.me,
            members: start.members,
            votes: start.votes,
            torn: start.torn,
            timing: start.timing,
            prng,
            ballot: start.ballot,
            persisted: start.ballot,
            joined: None,
            state: State::Canvass(Canvass::new(now)),
            tail: start.tail,
            flushed: start.flushed,
            commit: Position::ZERO,
            told: Position::ZERO,
            vote_due: false,
            refusals: MemberSet::EMPTY,
            canvass_replies: MemberSet::EMPTY,
            closing: false,
            damaged: start.damaged,
            in_vain: 0,
            unfit: false,
            rest: health::Rest::NONE,
            looked: now,
            nap: silence::nap(&start.timing),
            has_turned: true,
        }
    }

    /// Takes the state that is now on disk. A stale report is ignored.
    pub fn handle_persisted(&mut self, ballot: Ballot) {
        let news = ballot.term > self.persisted.term
            || (ballot.term == self.persisted.term && self.persisted.vote.is_none());
        if news && ballot.term <= self.ballot.term {
            self.persisted = ballot;
        }
    }

    /// What must reach the disk before this member may speak for it.
    pub fn poll_persist(&self) -> Option<Ballot> {
        if self.is_persisted() {
            return None;
        }
        let forget = Planted::ForgetTheVote.is_active();
        let vote = if forget { None } else { self.ballot.vote };
        Some(Ballot {
            term: self.ballot.term,
            vote,
        })
    }

    /// Term and vote as they are now, on disk or not.
    pub(crate) fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Whether term and vote are on disk: the gate before every vote, join and acknowledgement.
    pub(crate) fn is_persisted(&self) -> bool {
        if Planted::ForgetTheVote.is_active() {
            return self.persisted.term == self.ballot.term;
        }
        let is_same_vote = match (self.persisted.vote, self.ballot.vote) {
            (Some(persisted), Some(vote)) => persisted == vote,
            (None, None) => true,
            _ => false,
        };
        is_same_vote && self.persisted.term == self.ballot.term
    }

    /// The log's end has moved (append, publish or truncation).
    pub fn set_tail(&mut self, tail: Tail) {
        if tail.end < self.flushed {
            self.flushed = tail.end;
        }
        self.tail = tail;
        if self.joined == Some(self.ballot.term) {
            self.commit = self.commit.max(self.told.min(self.tail.end));
        }
    }

    /// A flush has ended. A mark of another joined term, or beyond the log's end, counts for
    /// nothing or only up to the end.
    pub fn handle_durable(&mut self, mark: Mark) {
        if Some(mark.term) == self.joined || (self.joined.is_none() && mark.term == Term::ZERO) {
            self.flushed = self.flushed.max(mark.position.min(self.tail.end));
            self.advance_commit();
        }
    }

    /// This member's log has been reconciled with the leader's history: it has joined `term`.
    ///
    /// Does nothing unless `term` is the current term and is on disk.
    pub fn join(&mut self, now: Instant, term: Term, leader: MemberId) {
        if term != self.ballot.term || !self.is_persisted() || leader == self.me {
            return;
        }
        if self.joined != Some(term) {
            self.joined = Some(term);
            self.told = Position::ZERO;
        }
        // What its torn tail may have held is settled now.
        self.torn = false;
        self.follow(now, leader);
        if let State::Follower(follower) = &mut self.state {
            follower.ack_due = true;
        }
    }

    /// A message of the current term's leader was heard.
    pub fn follow(&mut self, now: Instant, leader: MemberId) {
        match &mut self.state {
            State::Follower(f) if f.leader == leader => {
                f.heard = now;
            }
            State::Leader(_) => {}
            _ => {
                self.in_vain = 0;
                let acked = Acked::default();
                let (heard, round) = (now, 0);
                self.turn(State::Follower(Follower {
                    leader,
                    heard,
                    round,
                    ack_due: true,
                    acked,
                }));
            }
        }
    }

    /// Takes what the joined leader says is committed: never backwards, never past this member's
    /// log.
    pub fn handle_commit(&mut self, term: Term, commit: Position) {
        if self.joined == Some(term) && term == self.ballot.term {
            self.told = self.told.max(commit);
            self.commit = self.commit.max(self.told.min(self.tail.end));
        }
    }

    /// The log is whole again.
    pub fn heal(&mut self, now: Instant) {
        self.damaged = false;
        self.begin_canvass(now);
    }

    /// This member starts from a snapshot: what it holds was committed.
    pub fn restore_commit(&mut self, position: Position) {
        self.commit = self.commit.max(position.min(self.tail.end));
    }

    /// The leader's heartbeat. A member that has not joined stays where it is: its canvass tells
    /// the leader so.
    pub fn handle_heartbeat(&mut self, now: Instant, from: MemberId, said: &CommitPosition) {
        if !self.observe_leader(now, said.term, from) || self.joined != Some(said.term) {
            return;
        }
        self.follow(now, from);
        if let State::Follower(follower) = &mut self.state {
            // A new round is always acknowledged: the leader counts its quorum by it.
            follower.ack_due |= said.round > follower.round;
            follower.round = follower.round.max(said.round);
        }
        self.handle_commit(said.term, said.commit);
    }

    /// Bytes of the joined leader's log have arrived.
    pub fn handle_frames(&mut self, now: Instant, from: MemberId) {
        if let State::Follower(follower) = &mut self.state
            && follower.leader == from
        {
            follower.heard = now;
        }
    }

    /// Raises the term without a vote: a message of a higher term's leader, or a refused candidate.
    pub(crate) fn observe_term(&mut self, now: Instant, term: Term) {
        if term > self.ballot.term {
            self.ballot = Ballot { term, vote: None };
            if !Planted::AcknowledgeAfterVotingForAHigherTerm.is_active() {
                self.joined = None;
            }
            self.told = Position::ZERO;
            self.vote_due = false;
            self.begin_canvass(now);
        }
    }

    /// A leadership term's leader was heard; true if this member may go on to join or follow it.
    pub fn observe_leader(&mut self, now: Instant, term: Term, leader: MemberId) -> bool {
        if term < self.ballot.term || leader == self.me {
            return false;
        }
        self.observe_term(now, term);
        // Raft, Election Safety: a leader never hears another leader of its own term.
        !matches!(self.state, State::Leader(_))
    }

    /// The last heartbeat round heard.
    pub fn round(&self) -> u64 {
        match &self.state {
            State::Follower(follower) => follower.round,
            State::Leader(leader) => leader.round,
            _ => 0,
        }
    }

    /// The role, as services and status see it.
    pub fn role(&self) -> Role {
        match self.state {
            State::Leader(_) => Role::Leader,
            State::Candidate(_) => Role::Candidate,
            _ => Role::Follower,
        }
    }

    /// Whom this member takes for the leader.
    pub fn leader(&self) -> Option<MemberId> {
        match &self.state {
            State::Leader(_) => Some(self.me),
            State::Follower(f) => Some(f.leader),
            _ => None,
        }
    }

    /// The leadership this member has joined.
    pub fn joined(&self) -> Option<Term> {
        self.joined
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.ballot.term
    }

    /// What is committed, as far as this member knows.
    pub fn commit(&self) -> Position {
        self.commit
    }

    /// What is on this member's disk.
    pub fn flushed(&self) -> Position {
        self.flushed
    }

    /// The detail, for status and tests.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The other members.
    pub(crate) fn others(&self) -> MemberSet {
        let mut others = self.members;
        others.remove(self.me);
        others
    }

    pub(crate) fn begin_canvass(&mut self, now: Instant) {
        if matches!(self.state, State::Candidate(_)) {
            self.in_vain = self.in_vain.saturating_add(1);
        }
        if !matches!(self.state, State::Canvass(_)) {
            self.turn(State::Canvass(Canvass::new(now)));
        }
    }

    /// It becomes something else.
    fn turn(&mut self, state: State) {
        self.state = state;
        self.has_turned = true;
    }

    /// Moves time on: at most one transition a call, each bounded by the number of members. True if
    /// some time had come.
    #[inline]
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let _slept = self.look(now);
        self.has_come(now)
    }

    /// The same, by one who has just looked.
    #[inline]
    pub fn has_come(&mut self, now: Instant) -> bool {
        let is_due = match &self.state {
            State::Follower(f) => now >= f.heard.plus(self.timing.leader_timeout),
            State::Voter { until } => now >= *until,
            State::Canvass(_) | State::Candidate(_) => true,
            // All that a leader does in time is done with its heartbeats, unless it goes.
            State::Leader(l) => {
                now >= l.heartbeat_at() || self.closing || self.unfit || l.is_leaving()
            }
        };
        if is_due {
            self.pass_time(now);
        }
        is_due
    }

    #[inline(never)]
    fn pass_time(&mut self, now: Instant) {
        match &self.state {
            State::Follower(_) | State::Voter { .. } => self.begin_canvass(now),
            State::Canvass(_) => self.canvass_timeout(now),
            State::Candidate(_) => self.candidate_timeout(now),
            State::Leader(_) => self.leader_timeout(now),
        }
    }

    /// When `handle_timeout` or `poll_owed` next has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Follower(f) => {
                let end = f.heard.plus(self.timing.leader_timeout);
                Some(end.min(self.next_look(f.heard)))
            }
            State::Voter { until } => Some(*until),
            State::Canvass(c) => Some(c.deadline()),
            State::Candidate(c) => Some(c.deadline()),
            State::Leader(l) => Some(l.deadline(self.others(), self.commit)),
        }
    }
}
