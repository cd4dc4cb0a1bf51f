//! A member that is unwell: when a leader hands over because its disk or a service stands still,
//! and what a member that must not lead does instead.
//!
//! A leader whose disk does not answer commits nothing, but its heartbeats go on, so nobody would
//! take over from it. So the age of what waits is a part of leadership: each member tells its own
//! with every acknowledgement, and a leader that waits for too long hands over. Only if that helps:
//!
//! A log that is full, because this member's snapshots fail, is a disk that takes nothing: its age
//! is one of the disk's. Then all else is the same: whose snapshots fail as well is no better off,
//! and with a quorum of such members nobody hands over.
//!
//! - **Somebody must be better off.** What the others have told within the last two periods counts,
//!   at its worst: an acknowledgement leaves just when a flush has ended, so the newest one alone
//!   would show every slow disk as a good one. On slow storage that all share nobody is better off,
//!   and the leader stays.
//! - **A quorum must be.** A leader with a good disk among slow ones commits no faster.
//! - **It may not go round.** Who has handed over for this reason rests: it does not do so again,
//!   and is not handed leadership by another that is unwell, before a delay has passed that doubles
//!   each time. So if the measure is wrong (storage that stalls all, but one after the other), the
//!   number of moves grows with the logarithm of the time only. An operator's transfer and an
//!   ordinary election do not ask who rests.

use core::time::Duration;

use super::{Progress, Raft, State};
use crate::planted::Planted;
use crate::time::Instant;
use crate::units::{MemberId, Position};

/// The first rest is so many times `Timing::sick_after`.
const REST_FIRST: u32 = 16;
/// How often it is doubled at most: 13 s become 14 minutes.
const DOUBLINGS_MAX: u8 = 6;

/// For how long work has waited for a member's disk and for the slowest of its services, in
/// milliseconds; 0 if none does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Ages {
    /// Bytes of the log for the disk: to be flushed, or to find room there at all.
    pub flush_ms: u32,
    /// Committed messages for a service.
    pub service_ms: u32,
}

impl Ages {
    fn max(self, other: Self) -> Self {
        Self {
            flush_ms: self.flush_ms.max(other.flush_ms),
            service_ms: self.service_ms.max(other.service_ms),
        }
    }
}

/// The worst of what a member has told within this period and the one before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Worst {
    this: Ages,
    before: Ages,
    until: Instant,
}

impl Worst {
    pub const fn new(now: Instant) -> Self {
        let none = Ages {
            flush_ms: 0,
            service_ms: 0,
        };
        Self {
            this: none,
            before: none,
            until: now,
        }
    }

    #[inline]
    pub fn note(&mut self, now: Instant, period: Duration, ages: Ages) {
        if now >= self.until {
            (self.before, self.this) = (self.this, Ages::default());
            self.until = now.plus(period);
        }
        self.this = self.this.max(ages);
    }

    pub fn get(&self) -> Ages {
        self.this.max(self.before)
    }
}

/// How long a member that has handed over because it was unwell lets others lead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Rest {
    until: Instant,
    times: u8,
}

impl Rest {
    /// It has not handed over.
    pub const NONE: Self = Self {
        until: Instant::from_nanos(0),
        times: 0,
    };
}

impl Raft {
    /// Whether this member has handed over because it was unwell, not long ago.
    pub fn is_resting(&self, now: Instant) -> bool {
        now < self.rest.until
    }

    fn rest(&mut self, now: Instant) {
        let length = |times: u8| self.timing.sick_after.saturating_mul(REST_FIRST << times);
        // Who was well for as long again as it has rested starts anew.
        let was = length(self.rest.times);
        if now >= self.rest.until.plus(was) {
            self.rest.times = 0;
        }
        self.rest.until = now.plus(length(self.rest.times));
        self.rest.times = (self.rest.times + 1).min(DOUBLINGS_MAX);
    }

    /// How long this leader has led.
    pub fn led_for(&self, now: Instant) -> Duration {
        match &self.state {
            State::Leader(leader) => now.since(leader.elected),
            _ => Duration::ZERO,
        }
    }

    /// A leader that has waited for too long for its own disk or service begins to hand over, if
    /// that helps: see the module. Whom to, if it does. Bounded by the members.
    pub fn hand_over_if_unwell(&mut self, now: Instant, own: Ages) -> Option<MemberId> {
        let limit = self.timing.sick_after;
        let State::Leader(leader) = &self.state else {
            return None;
        };
        let is_busy = self.closing || self.unfit || leader.is_leaving();
        // What others tell is known only after a while.
        let is_new = self.led_for(now) < limit;
        if limit.is_zero() || is_busy || is_new || self.is_resting(now) {
            return None;
        }
        if Planted::AnUnwellLeaderStays.is_active() {
            return None;
        }
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let is_disk_sick = own.flush_ms >= limit;
        if !is_disk_sick && own.service_ms < limit {
            return None;
        }
        // Well is who waits for less than half of what makes a leader go.
        let well = match Planted::HandsOverToNobodyBetter.is_active() {
            true => u32::MAX,
            false => limit / 2,
        };
        let is_near = |p: &Progress| {
            let heard = p.heard.map(|at| now.since(at));
            p.joined && p.counts && heard.is_some_and(|ago| ago < self.timing.leader_timeout)
        };
        let others = self.others();
        let near = || {
            let all = others.iter().filter_map(|m| Some((m, leader.of(m)?)));
            all.filter(|(_, p)| is_near(p) && p.worst.get().flush_ms < well)
        };
        let disks = near().count() + usize::from(!is_disk_sick);
        if disks < self.members.quorum() {
            return None;
        }
        let heirs = near().filter(|(_, p)| {
            let is_fit = p.votes && !p.quarantined && !p.resting;
            is_fit && p.worst.get().service_ms < well && p.durable >= self.commit
        });
        let (heir, _) = heirs.max_by_key(|(_, p)| (p.durable, p.received))?;
        self.transfer(now, heir).ok()?;
        if !Planted::HandsOverWithoutRest.is_active() {
            self.rest(now);
        }
        Some(heir)
    }

    /// Whether this member must not lead: its state is not the cluster's. It goes on to store,
    /// acknowledge and vote, for its log is sound. A leader hands over at once, and if nobody takes
    /// over within a leader timeout it resigns: no leader is better than one that answers wrongly.
    pub fn set_unfit(&mut self, now: Instant, unfit: bool) {
        self.unfit = unfit;
        match &self.state {
            State::Candidate(_) if unfit => self.begin_canvass(now),
            State::Leader(leader) if unfit && !leader.is_leaving() => {
                if let Some(heir) = self.heir() {
                    // An error would only say that it has left meanwhile: then `leader_timeout`
                    // resigns.
                    let _handing_over = self.transfer(now, heir).is_ok();
                }
            }
            _ => {}
        }
    }

    /// Whether this member must not lead.
    pub fn is_unfit(&self) -> bool {
        self.unfit
    }

    /// The follower that has most and may lead.
    pub(super) fn heir(&self) -> Option<MemberId> {
        let State::Leader(leader) = &self.state else {
            return None;
        };
        let level = |m: &MemberId| -> Option<(Position, Position)> {
            let p = leader.of(*m)?;
            (p.joined && p.counts && p.votes && !p.quarantined).then_some((p.durable, p.received))
        };
        let heirs = self.others().iter().filter(|m| level(m).is_some());
        heirs.max_by_key(level)
    }
}

#[cfg(test)]
mod tests;
