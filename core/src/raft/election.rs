//! Canvass, ballot and votes.
//!
//! A member without a leader says how far its log goes and listens (Aeron: canvass; Raft 9.6:
//! pre-vote). Only when a quorum of members that hear no leader have logs no longer than its own
//! does it raise the term, so a member that was cut off cannot disturb a leader. Both the canvass
//! and the stickiness of followers are always on: each alone can wedge a cluster (etcd#8501).

use core::time::Duration;

use super::{Ballot, Leader, Raft, Rounds, State};
use crate::limits::MEMBERS_MAX;
use crate::time::Instant;
use crate::units::{MemberId, MemberSet, Position, Tail, Term};
use crate::wire::member::{CanvassPosition, RequestVote, TransferLeadership, Vote};

/// How often the periods of an election are doubled at most: 200 ms become 6.4 s.
const DOUBLINGS_MAX: u8 = 5;

/// What another member has said in its last canvass.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Report {
    /// Its term.
    pub term: Term,
    /// Its log's end.
    pub tail: Tail,
    /// Whether it hears a leader.
    pub hears_leader: bool,
    /// Whether it may vote.
    pub votes: bool,
    /// When this was heard.
    pub at: Instant,
}

/// The state of a member that looks for a leader.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Canvass {
    pub(super) rounds: Rounds,
    pub(super) reports: [Option<Report>; MEMBERS_MAX],
    pub(super) nominate_at: Option<Instant>,
    pub(super) since: Instant,
}

impl Canvass {
    pub(super) const fn new(now: Instant) -> Self {
        let reports = [None; MEMBERS_MAX];
        Self {
            rounds: Rounds::new(now),
            reports,
            nominate_at: None,
            since: now,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.nominate_at
            .map_or(self.rounds.next(), |at| at.min(self.rounds.next()))
    }
}

/// The state of a member that stands for election.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Candidate {
    pub(super) rounds: Rounds,
    pub(super) granted: MemberSet,
    pub(super) refused: MemberSet,
    pub(super) until: Instant,
    pub(super) transfer: bool,
}

impl Candidate {
    pub(super) fn deadline(&self) -> Instant {
        self.until.min(self.rounds.next())
    }
}

impl Raft {
    /// Whether this member hears a live leader, so that it would refuse its vote.
    pub fn hears_leader(&self, now: Instant) -> bool {
        match &self.state {
            State::Leader(_) => !self.closing && !self.unfit,
            State::Follower(f) => self.silence(now, f.heard) < self.timing.leader_timeout,
            _ => false,
        }
    }

    /// Another member looks for a leader, or answers one that does.
    pub fn handle_canvass(&mut self, now: Instant, from: MemberId, said: &CanvassPosition) {
        if said.term > self.ballot.term && matches!(self.state, State::Leader(_)) {
            // It was nominated by a quorum that did not hear us; it can follow only a higher term.
            self.observe_term(now, said.term);
        }
        let hears_leader = self.hears_leader(now);
        if let State::Leader(leader) = &mut self.state {
            if !said.hears_leader {
                leader.greet(now, from);
            }
            return;
        }
        if let State::Canvass(canvass) = &mut self.state {
            let tail = Tail {
                term: said.log_term,
                end: said.position,
            };
            let (term, votes) = (said.term, said.votes);
            let report = Report {
                term,
                tail,
                hears_leader: said.hears_leader,
                votes,
                at: now,
            };
            if let Some(slot) = canvass.reports.get_mut(from.slot()) {
                // Who has just lost its leader is answered at once: so both know of one another
                // from the same moment on, and the delays that keep them apart start together.
                if slot.is_none_or(|last| last.hears_leader) && !said.hears_leader {
                    self.canvass_replies.insert(from);
                }
                *slot = Some(report);
            }
            self.consider_nomination(now);
        } else if hears_leader && !said.hears_leader {
            self.canvass_replies.insert(from);
        }
    }

    fn fresh_reports(&self, now: Instant) -> impl Iterator<Item = (MemberId, Report)> {
        let horizon = self.timing.leader_timeout;
        let reports = match &self.state {
            State::Canvass(canvass) => canvass.reports,
            _ => [None; MEMBERS_MAX],
        };
        self.others().iter().filter_map(move |member| {
            let report = reports.get(member.slot()).copied().flatten()?;
            (now.since(report.at) < horizon).then_some((member, report))
        })
    }

    /// How many members, this one too, would vote for this one now.
    fn supporters(&self, now: Instant) -> usize {
        let tail = self.tail;
        let others = self
            .fresh_reports(now)
            .filter(|(_, r)| r.votes && !r.hears_leader && r.tail <= tail)
            .count();
        usize::from(self.votes) + others
    }

    fn consider_nomination(&mut self, now: Instant) {
        let may_lead = self.votes && !self.closing && !self.damaged && !self.unfit;
        let electable = may_lead && self.supporters(now) >= self.members.quorum();
        let delay = self.nomination_delay(now);
        let State::Canvass(canvass) = &mut self.state else {
            return;
        };
        if !electable {
            canvass.nominate_at = None;
        } else if canvass.nominate_at.is_none() {
            canvass.nominate_at = Some(now.plus(delay));
        }
    }

    /// A random delay, longer for a member whose log is shorter than another's or was torn, and for
    /// the higher ids among equals, so that two members rarely stand at the same time.
    fn nomination_delay(&mut self, now: Instant) -> Duration {
        if self.members.len() == 1 {
            return Duration::ZERO;
        }
        let (mine, me) = (self.tail, self.me);
        let rank = self
            .fresh_reports(now)
            .filter(|(m, r)| r.tail == mine && *m < me)
            .count();
        let longer = self.fresh_reports(now).any(|(_, r)| r.tail > mine);
        let unit = self.timing.nomination_delay.saturating_mul(self.patience());
        let behind = if longer || self.torn {
            self.timing.ballot_timeout
        } else {
            Duration::ZERO
        };
        let random = self.prng.below(unit.as_nanos() as u64 / 2 + 1);
        unit.saturating_mul(rank as u32)
            .saturating_add(behind)
            .saturating_add(Duration::from_nanos(random))
    }

    /// By how much the periods of an election are stretched: twice with each that was in vain. A
    /// vote leaves only when it is on disk, so where that takes longer than the delays that keep
    /// candidates apart, or than a ballot lasts, they would meet again and again (Raft 9.3: the
    /// election timeout is an order of magnitude above the broadcast time).
    fn patience(&self) -> u32 {
        1 << self.in_vain.min(DOUBLINGS_MAX)
    }

    pub(super) fn canvass_timeout(&mut self, now: Instant) {
        let (others, interval) = (self.others(), self.timing.canvass_interval);
        let State::Canvass(canvass) = &mut self.state else {
            return;
        };
        canvass.rounds.refill(now, others, interval);
        let due = canvass.nominate_at.is_some_and(|at| now >= at);
        self.consider_nomination(now);
        let State::Canvass(canvass) = &mut self.state else {
            return;
        };
        if due && canvass.nominate_at.take().is_some() {
            let heard = self
                .fresh_reports(now)
                .map(|(_, r)| r.term)
                .max()
                .unwrap_or(Term::ZERO);
            self.nominate(now, self.ballot.term.max(heard).next(), false);
        }
    }

    fn nominate(&mut self, now: Instant, term: Term, transfer: bool) {
        if term <= self.ballot.term {
            // There is no higher term: a vote that was given is never given again.
            return;
        }
        self.ballot = Ballot {
            term,
            vote: Some(self.me),
        };
        self.joined = None;
        self.told = Position::ZERO;
        self.vote_due = false;
        let ballot_timeout = self.timing.ballot_timeout.saturating_mul(self.patience());
        let jitter = self.prng.below(ballot_timeout.as_nanos() as u64 / 2 + 1);
        self.turn(State::Candidate(Candidate {
            rounds: Rounds::new(now),
            granted: MemberSet::EMPTY,
            refused: MemberSet::EMPTY,
            until: now.plus(ballot_timeout).plus(Duration::from_nanos(jitter)),
            transfer,
        }));
        self.candidate_timeout(now);
    }

    pub(super) fn candidate_timeout(&mut self, now: Instant) {
        let persisted = self.is_persisted();
        let interval = self.timing.canvass_interval;
        let State::Candidate(candidate) = &mut self.state else {
            return;
        };
        if now >= candidate.until {
            self.begin_canvass(now);
            return;
        }
        if persisted && !candidate.granted.contains(self.me) {
            // Our own vote counts like any other: once it is on disk.
            candidate.granted.insert(self.me);
            candidate.rounds.hurry(now);
        }
        let mut silent = self.members;
        for member in candidate.granted.iter() {
            silent.remove(member);
        }
        silent.remove(self.me);
        candidate.rounds.refill(now, silent, interval);
        self.count_votes(now);
    }

    fn count_votes(&mut self, now: Instant) {
        let State::Candidate(candidate) = &self.state else {
            return;
        };
        if candidate.granted.len() >= self.members.quorum() && self.is_persisted() {
            self.joined = Some(self.ballot.term);
            self.in_vain = 0;
            self.turn(State::Leader(Leader::new(now, self.tail.end, self.members)));
        } else if candidate.refused.len() >= self.members.quorum() {
            self.begin_canvass(now);
        }
    }

    /// A candidate asks for this member's vote (Raft figure 2, RequestVote; 5.4.1).
    pub fn handle_request_vote(&mut self, now: Instant, from: MemberId, ask: &RequestVote) {
        if !self.votes {
            return;
        }
        if ask.term < self.ballot.term {
            self.refusals.insert(from);
            return;
        }
        let candidate_tail = Tail {
            term: ask.log_term,
            end: ask.position,
        };
        if ask.term > self.ballot.term {
            // Raft 6: a server that hears a leader disregards RequestVotes, and keeps its term.
            let transferred = ask.transfer && ask.term == self.ballot.term.next();
            if self.hears_leader(now) && !transferred {
                return;
            }
            self.observe_term(now, ask.term);
        }
        let free = self.ballot.vote.is_none() && self.joined.is_none();
        if self.ballot.vote == Some(from) {
            // The vote may have been lost on its way: it is given again.
            self.vote_due = true;
        } else if free && candidate_tail >= self.tail {
            self.ballot.vote = Some(from);
            self.vote_due = true;
            let patience = self.timing.ballot_timeout.saturating_mul(self.patience());
            self.turn(State::Voter {
                until: now.plus(patience),
            });
        } else {
            self.refusals.insert(from);
        }
    }

    /// An answer to this candidate. Votes of other terms count for nothing.
    pub fn handle_vote(&mut self, now: Instant, from: MemberId, vote: &Vote) {
        if vote.candidate != self.me {
            return;
        }
        if vote.term > self.ballot.term {
            self.observe_term(now, vote.term);
            return;
        }
        if vote.term != self.ballot.term {
            return;
        }
        let State::Candidate(candidate) = &mut self.state else {
            return;
        };
        if vote.granted {
            candidate.granted.insert(from);
        } else {
            candidate.refused.insert(from);
        }
        self.count_votes(now);
    }

    /// The leader asks this member to stand at once (Raft, Ongaro 3.10). Only the leader of the
    /// joined term may, and only its target listens.
    pub fn handle_transfer(&mut self, now: Instant, from: MemberId, said: &TransferLeadership) {
        let State::Follower(follower) = &self.state else {
            return;
        };
        let bound = said.target == self.me
            && follower.leader == from
            && self.joined == Some(said.term)
            && self.ballot.term == said.term;
        if bound && self.votes && !self.closing && !self.damaged && !self.unfit {
            self.nominate(now, self.ballot.term.next(), true);
        }
    }

    /// The leader closes: do not wait for the timeout (Aeron: graceful close, EOS on the log).
    pub fn handle_resign(&mut self, now: Instant, from: MemberId, term: Term) {
        let State::Follower(follower) = &self.state else {
            return;
        };
        if follower.leader == from && term == self.ballot.term {
            self.begin_canvass(now);
        }
    }
}
