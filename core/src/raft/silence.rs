//! What a member slept through is not the silence of others.
//!
//! A process that the scheduler leaves out, or a virtual machine that its host stops, finds on
//! waking that its leader timeout has passed; but it was not there to listen, and where members
//! share a machine the leader was stopped as well. So a leader timeout is made of time in which
//! this member looked: of the time between two looks no more counts than two heartbeats. Whoever
//! waits for the end of a silence looks that often. What else a node measures by its clock, the
//! silence of clients and the age of a flush, leaves out the same time.
//!
//! Nothing but liveness hangs on this: terms and votes decide who leads, however late anybody is.

use core::time::Duration;

use super::{Raft, State, Timing};
use crate::time::Instant;

/// The longest time between two looks that counts in full, in nanoseconds. With heartbeats that are
/// very short beside the leader timeout it is a quarter of that: four looks are enough.
pub(super) const fn nap(timing: &Timing) -> u64 {
    let (zero, heartbeat) = (Instant::from_nanos(0), timing.heartbeat_interval);
    let heartbeats = zero.plus(heartbeat).plus(heartbeat).nanos();
    let quarter = zero.plus(timing.leader_timeout).nanos() / 4;
    if heartbeats > quarter {
        heartbeats
    } else {
        quarter
    }
}

impl Raft {
    /// By when a follower must have looked again, for the time until then to count in full.
    pub(super) fn next_look(&self, heard: Instant) -> Instant {
        let awake = heard.max(self.looked);
        Instant::from_nanos(awake.nanos().saturating_add(self.nap))
    }

    /// What of the time since this member last looked, or heard its leader, counts as sleep.
    fn slept(&self, now: Instant) -> Duration {
        let awake = match &self.state {
            State::Follower(follower) => follower.heard.max(self.looked),
            _ => self.looked,
        };
        now.since(awake)
            .saturating_sub(Duration::from_nanos(self.nap))
    }

    /// How long somebody who was last heard at `heard` has been silent while this member listened.
    pub(super) fn silence(&self, now: Instant, heard: Instant) -> Duration {
        now.since(heard).saturating_sub(self.slept(now))
    }

    /// This member looks: what it slept through is taken from the silence of those it waits for.
    /// How long that was, if it slept.
    #[inline]
    pub fn look(&mut self, now: Instant) -> Option<Duration> {
        let sleeps = now.nanos().saturating_sub(self.looked.nanos()) > self.nap;
        let slept = if sleeps { self.excuse(now) } else { None };
        // A call that was held back is no look into the past.
        self.looked = self.looked.max(now);
        slept
    }

    #[cold]
    fn excuse(&mut self, now: Instant) -> Option<Duration> {
        let slept = self.slept(now);
        let later = |at: Instant| at.plus(slept).min(now);
        match &mut self.state {
            State::Follower(follower) => follower.heard = later(follower.heard),
            State::Leader(leader) => {
                leader.elected = later(leader.elected);
                for progress in &mut leader.progress {
                    progress.heard = progress.heard.map(later);
                }
            }
            State::Voter { .. } | State::Canvass(_) | State::Candidate(_) => {}
        }
        (!slept.is_zero()).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ack, at, id, leader, member, tail};
    use super::super::{Raft, Role, State};

    /// 50 ms: an eighth of the leader timeout of 400 ms.
    const HEARTBEAT: u64 = 50;
    const TIMEOUT: u64 = 400;

    fn has_given_up(raft: &Raft) -> bool {
        matches!(raft.state, State::Canvass(_))
    }

    /// Looks every millisecond until it gives up; when that was.
    fn watch(raft: &mut Raft, from: u64) -> u64 {
        let mut looks = from..from + 10 * TIMEOUT;
        let end = looks.find(|ms| {
            raft.handle_timeout(at(*ms));
            has_given_up(raft)
        });
        end.expect("it gives up at some time")
    }

    fn follower() -> Raft {
        let mut raft = member(0, 3, tail(0, 0));
        raft.handle_timeout(at(1));
        raft.follow(at(1), id(1));
        assert!(!has_given_up(&raft));
        raft
    }

    #[test]
    fn a_follower_that_looks_waits_for_the_leader_timeout() {
        let mut raft = follower();
        assert_eq!(watch(&mut raft, 2), 1 + TIMEOUT);
    }

    #[test]
    fn a_follower_that_is_driven_by_its_deadlines_waits_no_longer() {
        let mut raft = follower();
        let mut looks = 0;
        while !has_given_up(&raft) {
            let due = raft.poll_timeout().unwrap();
            assert!(due <= at(1 + TIMEOUT));
            raft.handle_timeout(due);
            looks += 1;
        }
        assert_eq!(looks, TIMEOUT / (2 * HEARTBEAT));
    }

    #[test]
    fn a_follower_that_slept_counts_two_heartbeats_of_it() {
        let mut raft = follower();
        raft.handle_timeout(at(41));
        let woken = 60_000;
        // It has not looked yet, and is asked whether it hears a leader: it would.
        assert!(raft.hears_leader(at(woken)));
        raft.handle_timeout(at(woken));
        assert!(!has_given_up(&raft));
        let counted = 40 + 2 * HEARTBEAT;
        assert_eq!(watch(&mut raft, woken + 1), woken + TIMEOUT - counted);
    }

    #[test]
    fn a_follower_that_always_sleeps_gives_up_all_the_same() {
        let mut raft = follower();
        let looks = (1..).find(|n| {
            raft.handle_timeout(at(1 + n * 10_000));
            has_given_up(&raft)
        });
        assert_eq!(looks, Some(TIMEOUT / (2 * HEARTBEAT)));
    }

    #[test]
    fn a_leader_that_slept_goes_on_until_it_has_listened_in_vain() {
        let mut raft = leader(tail(0, 0), 96);
        let began = 1_000;
        for member in [1, 2] {
            raft.handle_append(at(began), id(member), &ack(1, 0), true);
        }
        raft.handle_timeout(at(began));
        assert_eq!(raft.role(), Role::Leader);
        let woken = began + 60_000;
        raft.handle_timeout(at(woken));
        assert_eq!(raft.role(), Role::Leader);
        let end = watch(&mut raft, woken + 1);
        // It looks at its quorum with its heartbeats.
        let least = woken + TIMEOUT - 2 * HEARTBEAT;
        assert!((least..=least + HEARTBEAT).contains(&end), "{end}");
    }
}
