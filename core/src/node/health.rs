//! How this member is, what it does about it, and what it tells: the age of what waits for its disk
//! and its services, whether its state is the cluster's, and what its wall clock does.
//!
//! A member whose state is found to differ is **quarantined**: it neither leads nor stands, serves
//! no snapshot, and says so wherever it is asked. It still stores and acknowledges the log and
//! votes, for its log is sound: without that, one flipped bit in a state would cost the cluster a
//! disk as well. It stays so across restarts until its state was rebuilt from the others'. The
//! price is stated: if the members that are left to lead are too few, or lack what only this one
//! has, the cluster waits for them. No leader is better than one that answers wrongly.

use core::time::Duration;

use super::dues::EVERY;
use super::{Event, Node};
use crate::planted::Planted;
use crate::raft::{Ages, State};
use crate::service::Role;
use crate::time::{Instant, Now};
use crate::units::{MemberId, MemberSet, Position};
use crate::wire::member::{AppendPosition, Checkpoint, CommitPosition};

/// The wall clock may differ so much from the monotonic one between two calls, in milliseconds.
const STEP_MIN_MS: i64 = 1000;

/// What a node knows of its own health.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Health {
    /// The end of the log when its flushing was last looked at anew, and when that was.
    flush_to: Position,
    flush_since: Instant,
    /// Since when the log is full, and no snapshot of this member's makes room in it.
    full_since: Option<Instant>,
    quarantined: bool,
    /// What the disk says of that.
    persisted: bool,
    /// The members that have said they are quarantined.
    others: MemberSet,
    /// When all of that was last looked at.
    looked_at: Instant,
}

impl Health {
    pub const fn new(now: Instant, quarantined: bool) -> Self {
        Self {
            flush_to: Position::ZERO,
            flush_since: now,
            full_since: None,
            quarantined,
            persisted: quarantined,
            others: MemberSet::EMPTY,
            looked_at: Instant::from_nanos(0),
        }
    }

    /// Whether the disk says the same.
    pub const fn is_persisted(&self) -> bool {
        self.quarantined == self.persisted
    }

    pub const fn quarantined(&self) -> bool {
        self.quarantined
    }

    /// Whether the log is full, and no snapshot of this member's makes room in it.
    pub const fn is_full(&self) -> bool {
        self.full_since.is_some()
    }

    /// What is on disk of it.
    pub const fn handle_persisted(&mut self, quarantined: bool) {
        self.persisted = quarantined;
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Whether this member's state was found to differ from the others': it must not lead, and
    /// nobody may be given its state.
    pub fn is_quarantined(&self) -> bool {
        self.health.quarantined
    }

    /// The newest checkpoint at which a quorum of members has the same, as far as this one knows.
    pub fn agreed_checkpoint(&self) -> Checkpoint {
        self.checkpoints.states.agreed()
    }

    /// The members that are quarantined, as far as this one has heard as a leader, and itself.
    pub fn quarantined_members(&self) -> MemberSet {
        let mut members = self.health.others;
        if self.health.quarantined {
            members.insert(self.config.member);
        }
        members
    }

    /// This member's state was replaced by the others' (a snapshot of theirs was installed): it is
    /// as good as any.
    pub fn handle_rebuilt(&mut self) {
        self.health.quarantined = false;
        self.checkpoints.forget_own(self.config.member);
        self.set_fitness(self.clock.instant);
    }

    /// This member slept for so long (see `raft/silence.rs`): in that time nothing of it stood
    /// still that it could have seen move, and neither a client nor a member was silent.
    #[cold]
    pub(super) fn excuse(&mut self, now: Instant, slept: Duration) {
        self.stir();
        let later = |at: Instant| at.plus(slept).min(now);
        self.health.flush_since = later(self.health.flush_since);
        self.health.full_since = self.health.full_since.map(later);
        for host in &mut self.hosts {
            host.moved = later(host.moved);
        }
        self.checkpoints.excuse(later);
        self.clients.excuse(now, slept);
    }

    /// The clocks are seen.
    pub(super) fn see(&mut self, now: Now) {
        if now.instant < self.clock.instant {
            // A call that was held back; the clocks were seen later than that.
            return;
        }
        let passed = now.instant.since(self.clock.instant).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let step = now.wall.0.saturating_sub(self.clock.wall.0);
        let by_ms = step.saturating_sub(passed);
        if by_ms.saturating_abs() > STEP_MIN_MS {
            self.counters.clock_steps += 1;
            self.event(Event::ClockStepped { by_ms });
        }
        self.clock = now;
    }

    /// For how long bytes of the log have waited to be flushed, in milliseconds; 0 if none do.
    pub(super) fn flush_age(&self, now: Instant) -> u32 {
        match self.raft.flushed() >= self.raft.tail.end {
            true => 0,
            false => millis_since(now, self.health.flush_since),
        }
    }

    /// For how long work has waited for this member's disk, and for its slowest service. A disk on
    /// which there is no room for more of the log is one that does not take it, whatever the reason
    /// is that there is no snapshot: so it counts like a flush that does not end. On all members
    /// alike, for a follower that is full acknowledges nothing more either.
    #[inline(always)]
    pub(super) fn ages(&self, now: Instant) -> Ages {
        let commit = self.raft.commit();
        let (level, taken) = (self.applier.level, self.applier.position);
        let full = self.health.full_since;
        let full = full.map_or(0, |since| millis_since(now, since));
        let is_level = taken >= commit && self.last_service().is_none_or(|last| last >= level);
        Ages {
            flush_ms: self.flush_age(now).max(full),
            service_ms: match is_level {
                true => 0,
                false => self.service_age(now),
            },
        }
    }

    /// For how long the slowest service that has something to do has kept it waiting.
    #[cold]
    fn service_age(&self, now: Instant) -> u32 {
        let (level, is_behind) = (
            self.applier.level,
            self.applier.position < self.raft.commit(),
        );
        let waits = self.hosts.iter();
        let waits = waits.filter(|host| host.position < level || is_behind);
        let ages = waits.map(|host| millis_since(now, host.moved));
        ages.max().unwrap_or(0)
    }

    /// Looks after this member's health. Called with datagrams and timeouts, once in a millisecond
    /// or when something was told; bounded by the members and by what they have told.
    #[inline(never)]
    pub(super) fn look_after(&mut self, now: Now) {
        self.stir();
        let instant = now.instant;
        self.health.looked_at = instant;
        self.watch_disk(instant);
        self.note_own_snapshot();
        if self.raft.role() == Role::Leader {
            self.judge(instant);
            let ages = self.ages(instant);
            if let Some(to) = self.raft.hand_over_if_unwell(instant, ages) {
                self.event(Event::HandingOver { to, ages });
            }
        }
        if core::mem::take(&mut self.checkpoints.news)
            && let Some(position) = self.checkpoints.differs(self.config.member)
            && !Planted::TheOddOneOutGoesOn.is_active()
        {
            self.quarantine(instant, position);
        }
    }

    /// Whether that is due: what moves with time only is counted in milliseconds.
    pub(super) fn is_to_look_after(&self, now: Instant) -> bool {
        now.since(self.health.looked_at) >= EVERY
    }

    /// The bytes that waited when it was last looked at are on disk, or wait still.
    fn watch_disk(&mut self, now: Instant) {
        let (end, flushed) = (self.raft.tail.end, self.raft.flushed());
        let health = &mut self.health;
        // A log that was cut has other bytes there.
        if flushed >= health.flush_to || end < health.flush_to {
            (health.flush_to, health.flush_since) = (end, now);
        }
        let since = health.full_since.unwrap_or(now);
        self.health.full_since = self.is_stuck().then_some(since);
    }

    fn note_own_snapshot(&mut self) {
        let Some(newest) = self.snapshots.stored[0] else {
            return;
        };
        let own = Checkpoint {
            position: newest.position,
            digest: newest.digest,
        };
        self.checkpoints.news |= self.checkpoints.snapshots.note(self.config.member, own);
    }

    fn quarantine(&mut self, now: Instant, position: Position) {
        if !self.health.quarantined {
            self.health.quarantined = true;
            self.event(Event::Quarantined(position));
        }
        self.set_fitness(now);
    }

    /// Whose digests count towards a quorum: not theirs who are known to be wrong, and not those of
    /// members that do not count.
    fn judges(&self) -> MemberSet {
        let mut judges = MemberSet::EMPTY;
        let State::Leader(leader) = self.raft.state() else {
            return judges;
        };
        for member in self.config.member_set().iter() {
            let progress = leader.progress.get(member.slot());
            let is_judge = match progress {
                _ if member == self.config.member => !self.health.quarantined,
                Some(p) => p.joined && p.counts && !p.quarantined,
                None => false,
            };
            if is_judge {
                judges.insert(member);
            }
        }
        judges
    }

    /// The leader compares what members have told.
    fn judge(&mut self, now: Instant) {
        if self.checkpoints.news {
            let judges = self.judges();
            let quorum = self.config.member_set().quorum();
            self.checkpoints.agree(now, judges, quorum);
        }
        let patience = self.config.timing.leader_timeout;
        if let Some(position) = self.checkpoints.undecided(now, patience) {
            self.event(Event::NoAgreement(position));
        }
    }

    /// A follower of this leader has told what it has, in an acknowledgement that counts.
    pub(super) fn hear_follower(&mut self, from: MemberId, said: &AppendPosition) {
        let is_mine = self.raft.role() == Role::Leader && said.term == self.raft.term();
        // Nobody can have executed what is not committed.
        let commit = self.raft.commit();
        let is_known = |c: &Checkpoint| c.position <= commit;
        if !is_mine {
            return;
        }
        if is_known(&said.checkpoint) {
            self.checkpoints.news |= self.checkpoints.states.note(from, said.checkpoint);
        }
        if is_known(&said.snapshot) {
            self.checkpoints.news |= self.checkpoints.snapshots.note(from, said.snapshot);
        }
        let was = self.health.others.contains(from);
        if said.quarantined && !was {
            self.health.others.insert(from);
            self.event(Event::MemberQuarantined(from));
        } else if was && !said.quarantined {
            self.health.others.remove(from);
        }
    }

    /// The joined leader tells what was agreed.
    pub(super) fn hear_agreed(&mut self, said: &CommitPosition) {
        self.checkpoints.news |= self.checkpoints.states.note_agreed(said.checkpoint);
        self.checkpoints.news |= self.checkpoints.snapshots.note_agreed(said.snapshot);
    }

    /// This member leads now, or does so no more: what it has heard is of the past.
    pub(super) fn forget_heard(&mut self) {
        let mut others = self.config.member_set();
        others.remove(self.config.member);
        self.checkpoints.forget_others(others);
        self.health.others = MemberSet::EMPTY;
        self.heard.forget_said();
    }
}

fn millis_since(now: Instant, since: Instant) -> u32 {
    u32::try_from(now.since(since).as_millis()).unwrap_or(u32::MAX)
}
