//! Which life of each member's data directory counts.
//!
//! A directory that was lost took promises with it: what comes up in its place counts for nothing,
//! until a record says that it takes the old one's place. The leader appends that record once the
//! new directory is level, and commits it by a quorum without it. Three gates keep the two lives
//! from ever counting at once, even if the old directory should come back:
//! - no member tells that it has executed the record before its node state says so as well: so it
//!   will never again count the old life, not even after a restart;
//! - a leader counts the new life's marks only when *every* other member has told so, once: until
//!   then a member that does not know of the record could still be elected by the old life; and
//!   when a quorum without it has all that is committed, which the old life may have helped to;
//!   other new lives that do not count yet are among those members: the old ones of all of them may
//!   still count for one another, but they are fewer than a quorum, and for all others for nobody;
//! - the new life votes only when a leader has told it that this is the case, and says from then on
//!   that it does: no later leader needs to see it again. What a leader tells may come late, and to
//!   the wrong life: so it is told with what is committed, and only by one that knows whom that
//!   names; and it is heard by the one which that names, when it has executed all of it.
//!
//! So from when the new life counts for anybody, the old one counts for nobody; unless it comes
//! back and is admitted in its turn, like any that is new: not before it knows that it has no vote.

use core::net::SocketAddr;

use super::dues::Due;
use super::{Event, Node};
use crate::limits::MEMBERS_MAX;
use crate::log::{Log, append};
use crate::raft::{Leader, Progress, State};
use crate::time::Instant;
use crate::units::{Incarnation, MemberId, Position, Term};
use crate::wire::admission::MemberAdmitted;
use crate::wire::member::{AppendPosition, Same, said_by};

/// How far behind what is committed a new directory may be and still be level.
const LEVEL: u64 = 64 * 1024;

/// What is known of incarnations beside the roster itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Heard {
    /// This leader has appended a record and not seen it committed: in this term.
    appended: Option<Term>,
    /// A leader that knew whom the log up to here names has told this member that it counts; zero
    /// if none has.
    told: Position,
    /// A member that does not count may have been heard: until then nobody is looked for.
    pub strange: bool,
    /// What of the roster is in the node state on disk.
    pub persisted: Position,
    /// Whether that says that this member votes.
    pub persisted_vote: bool,
    /// What each follower has said beside its marks in its last acknowledgement, if that counts and
    /// all that follows from it was done: this leader's roster is the same since.
    said: [Option<Same>; MEMBERS_MAX],
}

impl Heard {
    pub const fn new(persisted: Position, persisted_vote: bool) -> Self {
        Self {
            appended: None,
            told: Position::ZERO,
            strange: false,
            persisted,
            persisted_vote,
            said: [None; MEMBERS_MAX],
        }
    }

    /// Every acknowledgement is to be looked at as a whole.
    pub const fn forget_said(&mut self) {
        self.said = [None; MEMBERS_MAX];
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Whether a member that speaks with this incarnation is the one that the roster names.
    pub(super) fn is_admitted(&self, member: MemberId, incarnation: Incarnation) -> bool {
        self.roster.incarnation(member) == Some(incarnation)
    }

    /// Whether a member's marks count that speaks with this incarnation, and says that it votes or
    /// does not.
    pub(super) fn counts(&self, member: MemberId, incarnation: Incarnation, votes: bool) -> bool {
        let since = self.roster.since(member);
        let is_first = since == Position::ZERO;
        self.is_admitted(member, incarnation)
            && (is_first || votes || self.all_others_know(member, since))
    }

    /// Whether every other member has told this leader that it knows of the record that ends at
    /// `since`, also after a restart; and, if others do not count yet, of their records too.
    fn all_others_know(&self, member: MemberId, since: Position) -> bool {
        let State::Leader(leader) = self.raft.state() else {
            return false;
        };
        let mut last = since;
        for other in self.raft.others().iter().filter(|other| *other != member) {
            match leader.progress.get(other.slot()) {
                Some(progress) if progress.counts => {}
                Some(progress) if self.is_named(other, progress) => {
                    last = last.max(self.roster.since(other));
                }
                _ => return false,
            }
        }
        let mut others = self.raft.others().iter().filter(|other| *other != member);
        let knows = |other: MemberId| {
            let progress = leader.progress.get(other.slot());
            progress.is_some_and(|p| p.applied >= last)
        };
        self.told_applied() >= last && others.all(knows) && self.needs_no_mark_of(leader, member)
    }

    /// Whether it was the directory that the roster names which has told all of this.
    fn is_named(&self, member: MemberId, progress: &Progress) -> bool {
        let is_admitted = |incarnation| self.is_admitted(member, incarnation);
        progress.joined && progress.incarnation.is_some_and(is_admitted)
    }

    /// Whether all that is committed is on the disks of a quorum without this member: the old
    /// directory may have been in the one that committed it.
    fn needs_no_mark_of(&self, leader: &Leader, member: MemberId) -> bool {
        let commit = self.raft.commit();
        let has = |other: &MemberId| {
            let progress = leader.progress.get(other.slot());
            progress.is_some_and(|p| p.joined && p.counts && p.durable >= commit)
        };
        let others = self.raft.others().iter().filter(|other| *other != member);
        // Whom this leader has counted since may be of a quorum that nobody else made.
        if leader.progress.get(member.slot()).is_some_and(|p| p.counts) {
            return true;
        }
        // Before its first record is committed a leader does not know all that is.
        leader.has_opened(commit) && 1 + others.filter(has).count() >= self.raft.members.quorum()
    }

    /// Whether a follower votes that says so. One that was heard without a vote has one only when
    /// it knows of its record: it may have said that before, when another one was in its place.
    fn may_vote(&self, from: MemberId, incarnation: Incarnation, ack: &AppendPosition) -> bool {
        let State::Leader(leader) = self.raft.state() else {
            return ack.votes;
        };
        let had_none = |p: &Progress| p.joined && p.incarnation == Some(incarnation) && !p.votes;
        let had_none = leader.progress.get(from.slot()).is_some_and(had_none);
        ack.votes && (!had_none || ack.applied >= self.roster.since(from))
    }

    /// Takes what a follower says of its log.
    pub(super) fn hear_append(
        &mut self,
        now: Instant,
        from: MemberId,
        incarnation: Incarnation,
        ack: &AppendPosition,
    ) {
        self.raft.hear_life(from, incarnation, ack);
        let counts = self.counts(from, incarnation, self.may_vote(from, incarnation, ack));
        self.heard.strange |= !counts;
        let taken = self.raft.handle_append(now, from, ack, counts);
        if taken {
            // Only what is no echo of an earlier life of the sender.
            self.raft.note_life(from, incarnation);
        }
        let commit = self.raft.commit();
        // Digests of what is not known to be committed are not compared yet, so they are looked at
        // again; and whether one counts that does not vote hangs on what others say.
        let is_settled = ack.checkpoint.position <= commit && ack.snapshot.position <= commit;
        let is_well = ack.votes && !ack.quarantined && !ack.resting;
        if let Some(said) = self.heard.said.get_mut(from.slot()) {
            let is_plain = taken && counts && is_settled && is_well;
            *said = is_plain.then(|| Same::of(incarnation, ack));
        }
    }

    /// An acknowledgement that says what the sender's last one did, but for its marks: nearly all
    /// do. False if it is to be looked at as a whole.
    #[inline(always)]
    pub(super) fn hear_marks(
        &mut self,
        now: Instant,
        address: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        let Some(from) = said_by(datagram) else {
            return false;
        };
        let Some(Some(same)) = self.heard.said.get(from.slot()) else {
            return false;
        };
        let Some(marks) = same.marks(datagram, self.config.cluster, from) else {
            return false;
        };
        if !self.is_at(from, address) {
            return false;
        }
        let before = self.raft.commit();
        let is_of_now = same.term() == self.raft.term() && marks.received >= self.start.base;
        if !is_of_now {
            return false;
        }
        let Some(owes_bytes) = self.raft.handle_marks(now, from, &marks) else {
            return false;
        };
        if owes_bytes {
            self.dues.add(Due::FRAMES);
        }
        if self.raft.commit() > before {
            self.committed(now);
        }
        true
    }

    /// Whether this leader counts the marks of the directory that the roster names at what is
    /// committed: who hears it may be another one than it has heard, so nothing is said before that
    /// is known.
    pub(super) fn counts_now(&self, member: MemberId) -> bool {
        match self.raft.state() {
            State::Leader(leader) if self.knows_whom_it_names() => {
                let progress = leader.progress.get(member.slot());
                progress.is_some_and(|p| p.joined && p.counts)
            }
            _ => false,
        }
    }

    /// Whether this leader knows whom all that is committed names: what earlier ones have appended
    /// is executed, and so is its own.
    fn knows_whom_it_names(&self) -> bool {
        let term = self.raft.term();
        let has_opened = self.clients.leading() == Some(term);
        let is_level = self.applier.position == self.raft.commit();
        is_level || has_opened && self.heard.appended != Some(term)
    }

    /// What this member tells that it has executed: nothing of which its node state does not know.
    pub(super) fn told_applied(&self) -> Position {
        let applied = self.applied();
        if self.heard.persisted < self.roster.at {
            applied.min(self.heard.persisted)
        } else {
            applied
        }
    }

    /// A leader that knows whom the log up to `commit` names has told this member that it counts:
    /// so it does if it is still the one when it has executed all of that.
    pub(super) fn told_to_count(&mut self, commit: Position) {
        let me = self.config.member;
        // What was said before the record was committed is about the old directory.
        let since = self.roster.since(me);
        if self.heard.told < since || self.heard.told == Position::ZERO {
            self.heard.told = commit;
        }
        let told = self.heard.told;
        let is_of_this = told >= since && self.applier.position >= told;
        if is_of_this && !self.votes && self.is_admitted(me, self.sender.incarnation) {
            // It votes as soon as its node state says so.
            self.votes = true;
        }
    }

    /// The roster has changed: does another directory count in place of this one?
    pub(super) fn check_own_life(&mut self) {
        if !self.is_admitted(self.config.member, self.sender.incarnation) {
            self.votes = false;
            self.raft.votes = false;
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
        self.heard.forget_said();
        // What the old directory said of itself is not the new one's.
        if let Some(progress) = self.raft.progress_mut(member) {
            progress.counts = false;
        }
        self.check_own_life();
    }

    /// The leader admits one new directory at a time, once it is level.
    pub(super) fn append_admission<L: Log>(&mut self, term: Term, log: &mut L) {
        let State::Leader(leader) = self.raft.state() else {
            return;
        };
        if !self.heard.strange || self.heard.appended == Some(term) {
            return;
        }
        let strange = |p: &Progress| p.joined && !p.counts;
        if !leader.progress.iter().any(strange) {
            self.heard.strange = false;
            return;
        }
        let commit = self.raft.commit();
        let new_life = |member: MemberId| {
            let progress = leader.progress.get(member.slot())?;
            // One that counts is the one that the roster names.
            let incarnation = progress.incarnation.filter(|_| strange(progress))?;
            let is_level = progress.durable.plus(LEVEL) >= commit;
            // An old one that votes has yet to come to the record that another takes its place.
            let is_new = !progress.votes && !self.is_admitted(member, incarnation);
            (is_level && is_new).then_some((member, incarnation))
        };
        let Some((member, incarnation)) = self.raft.others().iter().find_map(new_life) else {
            return;
        };
        let admitted = MemberAdmitted {
            term,
            member,
            incarnation,
        };
        match append(log, term, &[&admitted.to_bytes()], self.config.mtu) {
            Ok(_) => self.heard.appended = Some(term),
            Err(error) => self.refused(error),
        }
    }
}
