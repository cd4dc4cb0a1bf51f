//! Which life of each member's data directory counts.
//!
//! A directory that was lost took promises with it: what comes up in its place counts for nothing,
//! until a record says that it takes the old one's place. The leader appends that record once the
//! new directory is level, and commits it by a quorum without it. Three gates keep the two lives
//! from ever counting at once, even if the old directory should come back:
//! - no member tells that it has executed the record before its node state says so as well: so it
//!   will never again count the old life, not even after a restart;
//! - a leader counts the new life's marks only when a quorum *of the others* has told so;
//! - the new life votes only when a leader has told it that this is the case.
//!
//! So when the new life counts for anybody, the old one counts for nobody in some quorum of the
//! others, and every quorum of the old kind meets that one.

use super::{Event, Node};
use crate::limits::MEMBERS_MAX;
use crate::log::{Log, append};
use crate::raft::State;
use crate::units::{Incarnation, MemberId, Position, Term};
use crate::wire::admission::MemberAdmitted;

/// How far behind what is committed a new directory may be and still be level.
const LEVEL: u64 = 64 * 1024;

/// What is known of incarnations beside the roster itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Heard {
    /// The incarnation that each member spoke with last.
    incarnations: [Option<Incarnation>; MEMBERS_MAX],
    /// The incarnation of each member that was heard to vote. It does so only once a leader has found
    /// that a quorum of the others knows of it, and they never forget.
    voters: [Option<Incarnation>; MEMBERS_MAX],
    /// This leader has appended a record and not seen it committed: in this term.
    appended: Option<Term>,
    /// What of the roster is in the node state on disk, and whether that says that this member
    /// votes.
    pub persisted: (Position, bool),
}

impl Heard {
    pub const fn new(persisted: (Position, bool)) -> Self {
        Self {
            incarnations: [None; MEMBERS_MAX],
            voters: [None; MEMBERS_MAX],
            appended: None,
            persisted,
        }
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Whether a member that speaks with this incarnation is the one that the roster names.
    pub(super) fn is_admitted(&self, member: MemberId, incarnation: Incarnation) -> bool {
        self.roster.incarnation(member) == Some(incarnation)
    }

    /// Notes with which incarnation a member speaks; whether its marks count for this leader.
    pub(super) fn hear_incarnation(&mut self, member: MemberId, incarnation: Incarnation) -> bool {
        if let Some(heard) = self.heard.incarnations.get_mut(member.slot()) {
            *heard = Some(incarnation);
        }
        self.counts(member)
    }

    /// A member votes, or stands.
    pub(super) fn hear_voter(&mut self, member: MemberId, incarnation: Incarnation) {
        if let Some(heard) = self.heard.voters.get_mut(member.slot()) {
            *heard = Some(incarnation);
        }
    }

    /// Whether this member's marks count, and it may vote: a quorum of the others will never again
    /// count another life of it.
    pub(super) fn counts(&self, member: MemberId) -> bool {
        let heard = self.heard.incarnations.get(member.slot());
        let Some(incarnation) = heard.copied().flatten() else {
            return false;
        };
        let since = self.roster.since(member);
        if !self.is_admitted(member, incarnation) || since == Position::ZERO {
            return self.is_admitted(member, incarnation);
        }
        if self.heard.voters.get(member.slot()) == Some(&Some(incarnation)) {
            // The others may be dead by now: this one need not wait for them.
            return true;
        }
        let State::Leader(leader) = self.raft.state() else {
            return false;
        };
        let mine = self.told_applied() >= since;
        let others = self.raft.others().iter().filter(|other| {
            let progress = leader.progress.get(other.slot());
            *other != member && progress.is_some_and(|p| p.counts && p.applied >= since)
        });
        usize::from(mine) + others.count() >= self.raft.members.quorum()
    }

    /// What this member tells that it has executed: nothing of which its node state does not know.
    pub(super) fn told_applied(&self) -> Position {
        let applied = self.applied();
        if self.heard.persisted.0 < self.roster.at {
            applied.min(self.heard.persisted.0)
        } else {
            applied
        }
    }

    /// A leader has told this member that it counts.
    pub(super) fn told_to_count(&mut self, counts: bool) {
        if counts && !self.votes && self.is_admitted(self.config.member, self.sender.incarnation) {
            // It votes as soon as its node state says so.
            self.votes = true;
        }
    }

    /// The record is committed and executed.
    pub(super) fn apply_admitted(&mut self, end: Position, admitted: &MemberAdmitted) {
        self.heard.appended = None;
        let MemberAdmitted {
            member,
            incarnation,
            ..
        } = *admitted;
        self.applier.roster.admit(member, incarnation, end);
        if !self.roster.admit(member, incarnation, end) {
            return;
        }
        self.event(Event::MemberAdmitted(member));
        let is_me = member == self.config.member;
        if is_me && incarnation != self.sender.incarnation {
            // Another directory has taken this one's place.
            self.votes = false;
            self.raft.votes = false;
        }
    }

    /// The leader admits one new directory at a time, once it is level.
    pub(super) fn append_admission<L: Log>(&mut self, term: Term, log: &mut L) {
        let State::Leader(leader) = self.raft.state() else {
            return;
        };
        if self.heard.appended == Some(term) {
            return;
        }
        let commit = self.raft.commit();
        let is_new = |member: &MemberId| {
            let heard = self.heard.incarnations.get(member.slot());
            let incarnation = heard.copied().flatten();
            let progress = leader.progress.get(member.slot());
            let is_level = progress.is_some_and(|p| p.joined && p.durable.plus(LEVEL) >= commit);
            is_level && incarnation.is_some_and(|i| !self.is_admitted(*member, i))
        };
        let Some(member) = self.raft.others().iter().find(is_new) else {
            return;
        };
        let heard = self.heard.incarnations.get(member.slot());
        let Some(incarnation) = heard.copied().flatten() else {
            return;
        };
        let admitted = MemberAdmitted {
            term,
            member,
            incarnation,
        };
        if append(log, term, &[&admitted.to_bytes()], self.config.mtu).is_ok() {
            self.heard.appended = Some(term);
        }
    }
}
