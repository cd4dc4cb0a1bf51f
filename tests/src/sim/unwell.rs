//! Leadership that a member gives up because it is unwell: only to one that is better off, with a
//! quorum that is, and not again before it has rested. What others have told a leader is noted here
//! apart from the core, so that the rule is not checked by itself.

use coracle_core::raft::Timing;
use coracle_core::units::MemberId;
use coracle_core::wire::frame::DataFrame;
use coracle_core::wire::member::{AppendPosition, Body, MemberMessage};

use super::check::{Checked, broken};
use super::clock::{MILLI, Nanos};
use super::start::LEADER_TIMEOUT;
use super::stats::Fault;
use super::world::World;

/// The first rest, in so many times `Timing::sick_after`, as the core has it.
const REST_FIRST: u64 = 16;

/// What one process has been told while it led, and done about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwell {
    term: u32,
    /// The newest acknowledgement of each member, and when one last said that its disk is slow.
    told: [(u64, Option<Nanos>); 7],
    /// When this process last handed over for that reason, and the end of its rest, how many times
    /// in a row.
    rest: Option<(Nanos, Nanos, u32)>,
}

fn sick_after() -> Nanos {
    let after = Timing::from_leader_timeout(LEADER_TIMEOUT).sick_after;
    u64::try_from(after.as_nanos()).unwrap_or(Nanos::MAX)
}

impl Unwell {
    fn note(&mut self, now: Nanos, from: usize, ack: &AppendPosition) {
        let term = ack.term.get();
        if self.term != term {
            (self.term, self.told) = (term, Default::default());
        }
        let (round, slow) = &mut self.told[from];
        if ack.round >= *round {
            *round = ack.round;
            if u64::from(ack.flush_age_ms) * MILLI >= sick_after() / 2 {
                *slow = Some(now);
            }
        }
    }

    /// Whether a member has told of a slow disk a moment ago, by any clock.
    fn is_slow(&self, now: Nanos, member: usize) -> bool {
        let told = self.told[member].1.filter(|at| *at < now);
        told.is_some_and(|at| now - at < sick_after() * 8 / 10)
    }

    fn is_resting(&self, now: Nanos, drift: u64) -> bool {
        let margin = |from: Nanos, until: Nanos| (until - from) * 2 * drift / 1_000_000;
        self.rest
            .is_some_and(|(from, until, _)| now + margin(from, until) < until)
    }

    /// Doubles with each time; anew for who was well for as long as it has rested.
    fn begin_rest(&mut self, now: Nanos) {
        let length = |times: u32| sick_after() * (REST_FIRST << times.min(6));
        let times = match self.rest {
            Some((_, until, times)) if now < until + length(times) => times + 1,
            _ => 0,
        };
        self.rest = Some((now, now + length(times), times));
    }
}

impl World {
    /// A member has taken a datagram of another.
    pub(super) fn note_told(&mut self, member: usize, from: usize, bytes: &[u8]) {
        let now = self.now;
        let Some(process) = &mut self.members[member].process else {
            return;
        };
        let message = DataFrame::parse(bytes).and_then(|f| MemberMessage::parse_frame(&f));
        if let Ok(message) = message
            && let Body::AppendPosition(ack) = &message.body
            && ack.term == process.node.joined()
            && from < 7
        {
            process.unwell.note(now, from, ack);
        }
    }

    /// A leader hands over because its disk (for `flush_ms`) or a service stands still.
    pub(super) fn check_hand_over(
        &mut self,
        member: usize,
        to: MemberId,
        flush_ms: u32,
    ) -> Checked {
        self.stats.hand_overs += 1;
        let (now, count) = (self.now, self.members.len());
        let drift = self.plan.drift.max(10_000);
        let heir = usize::from(to.get());
        let rests = |m: usize| {
            let process = self.members[m].process.as_ref();
            process.is_some_and(|p| p.unwell.is_resting(now, drift))
        };
        if rests(member) || rests(heir) {
            let detail = format!("n{member} hands over to n{heir}, and one of them rests");
            return broken("The Unwell Rest", detail);
        }
        let Some(process) = &mut self.members[member].process else {
            return Ok(());
        };
        let is_sick = u64::from(flush_ms) * MILLI >= sick_after();
        let is_slow = |m: usize| match m == member {
            true => is_sick,
            false => process.unwell.is_slow(now, m),
        };
        let well = (0..count).filter(|m| !is_slow(*m)).count();
        if is_slow(heir) || well <= count / 2 {
            let detail = format!("n{member} hands over to n{heir}, {well} of {count} are well");
            return broken("Handing Over Helps", detail);
        }
        process.unwell.begin_rest(now);
        self.note(
            member as u8,
            "is unwell",
            u64::from(to.get()),
            flush_ms.into(),
        );
        Ok(())
    }

    /// A disk is slow for a while; or all are, and nobody is better off. Now and then it has no
    /// room for snapshots either, for long enough that the log fills up.
    pub(super) fn slow_disk(&mut self, member: usize, lasts: Nanos) {
        let is_everywhere = self.rng.chance(300_000);
        let is_full = lasts.is_multiple_of(4);
        for slow in 0..self.members.len() {
            if slow == member || is_everywhere {
                self.members[slow].slow_until = self.now + lasts;
                if is_full {
                    self.members[slow].full_until = self.now + 4 * lasts;
                }
                self.stats.count(Fault::SlowFlush);
            }
        }
    }
}
