//! How long a cluster is without a leader: the Raft paper's figure 16, for this project's timers.
//!
//! Five members, of which the leader is killed at a random moment of its heartbeat interval; the
//! time until another leads. As in the paper, all followers have heard it at nearly the same time,
//! and asking for a vote and getting one takes about 15 ms, of which a third is the disk's. The
//! heartbeat is a third of the least timeout, the most that a node takes; in the paper it is half.
//!
//! The paper draws each member's timeout from `least..most`. Here nobody's silence is randomised:
//! every member finds its leader gone after `least`, canvasses, and then waits a random time before
//! it stands. So `least` is the leader timeout and `most - least` the nomination delay. All other
//! periods are in the ratios that the defaults have.

use std::time::Duration;

use coracle_core::raft::Timing;

use super::check::Violation;
use super::clock::{MILLI, Nanos, SECOND};
use super::net::LinkPlan;
use super::plan::{DiskPlan, Plan};
use super::rng::Rng;
use super::world::{What, World};

/// How many members.
const MEMBERS: usize = 5;
/// Heartbeats in the least timeout.
const HEARTBEAT: u64 = 3;
/// A cluster sees so many elections, then a new one begins: so its log stays short.
const ELECTIONS_EACH: usize = 100;
/// A cluster that has no leader for so long is given up.
pub const PATIENCE: Nanos = 3 * SECOND;

/// From what the wait before a candidacy is drawn, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The least.
    pub least: u64,
    /// The most.
    pub most: u64,
}

const fn range(least: u64, most: u64) -> Range {
    Range { least, most }
}

/// How much randomness it needs: the upper half of the figure.
pub const SPREADS: [Range; 7] = [
    range(150, 150),
    range(150, 151),
    range(150, 155),
    range(150, 175),
    range(150, 200),
    range(150, 250),
    range(150, 300),
];

/// How short the timeout may be: the lower half.
pub const SCALES: [Range; 5] = [
    range(12, 24),
    range(25, 50),
    range(50, 100),
    range(100, 200),
    range(150, 300),
];

impl Range {
    fn timing(self) -> Timing {
        let least = Duration::from_millis(self.least);
        Timing {
            heartbeat_interval: least / HEARTBEAT as u32,
            // None at all is refused; this is as good as none.
            nomination_delay: Duration::from_millis(self.most - self.least)
                .max(Duration::from_nanos(1)),
            ..Timing::from_leader_timeout(least)
        }
    }

    fn plan(self, seed: u64) -> Plan {
        Plan {
            seed,
            timing: self.timing(),
            link: LinkPlan {
                least: 4 * MILLI,
                most: 6 * MILLI,
                ..LinkPlan::calm()
            },
            disk: DiskPlan {
                least: 4 * MILLI,
                most: 6 * MILLI,
                stale: 0,
            },
            ..Plan::scripted(MEMBERS)
        }
    }
}

/// What some elections came to.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Elections {
    /// How long each left the cluster without a leader, the shortest first.
    pub times: Vec<Nanos>,
    /// How many had a ballot that nobody won.
    pub split: usize,
    /// How many were not over after [`PATIENCE`].
    pub open: usize,
}

impl Elections {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.times.len() + self.open
    }
}

/// So many elections; the same seed gives the same.
///
/// # Errors
/// A broken invariant.
pub fn hold(range: Range, count: usize, seed: u64) -> Result<Elections, Violation> {
    let mut found = Elections::default();
    let mut rng = Rng::new(seed);
    while found.count() < count {
        let mut world = World::new(range.plan(rng.bits()), 0);
        world.is_scripted = true;
        for member in 0..MEMBERS {
            world.start(member)?;
        }
        let each = ELECTIONS_EACH.min(count - found.count());
        for _ in 0..each {
            // The first leader of all comes by an election too: whoever starts together has
            // nothing to lose.
            if !settle(&mut world, range, &mut rng)? {
                break;
            }
            let Some((time, ballots)) = lose_leader(&mut world)? else {
                found.open += 1;
                break;
            };
            found.times.push(time);
            found.split += usize::from(ballots > 1);
        }
    }
    found.times.sort_unstable();
    Ok(found)
}

/// Waits until all members follow one leader, and then a random part of its heartbeat interval.
/// False if they do not come to.
fn settle(world: &mut World, range: Range, rng: &mut Rng) -> Result<bool, Violation> {
    let until = world.now + PATIENCE;
    while !is_settled(world) {
        if world.now >= until || !world.happen()? {
            return Ok(false);
        }
    }
    // Some heartbeats, after which all have heard as much as they ever will.
    let beat = range.least * MILLI / HEARTBEAT;
    world.run_until(world.now + 4 * beat + rng.below(beat))?;
    Ok(is_settled(world))
}

fn is_settled(world: &World) -> bool {
    let leader = world
        .leader()
        .and_then(|at| world.members[at].process.as_ref());
    let Some(leader) = leader else {
        return false;
    };
    world.members.iter().all(|member| {
        let node = member.process.as_ref().map(|process| &process.node);
        node.is_some_and(|node| {
            node.joined() == leader.node.joined() && node.commit() == leader.node.commit()
        })
    })
}

/// Kills the leader: how long there is none, and how many ballots that takes; `None` if there is
/// none for too long. The dead member comes back once there is a new leader.
fn lose_leader(world: &mut World) -> Result<Option<(Nanos, u32)>, Violation> {
    let term = |world: &World, member: usize| {
        let process = world.members[member].process.as_ref();
        process.map_or(0, |process| process.node.status().term.get())
    };
    let Some(old) = world.leader() else {
        return Ok(None);
    };
    let (before, began) = (term(world, old), world.now);
    world.crash(old, false)?;
    let new = loop {
        if let Some(new) = world.leader() {
            break new;
        }
        if world.now >= began + PATIENCE || !world.happen()? {
            return Ok(None);
        }
    };
    let life = world.members[old].life;
    world.schedule(world.now, What::Start { member: old, life });
    Ok(Some((world.now - began, term(world, new) - before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 40;

    #[test]
    fn every_election_ends_and_a_seed_gives_the_same_ones() {
        for range in [SPREADS[1], SPREADS[6], SCALES[0]] {
            let found = hold(range, COUNT, 7).unwrap();
            assert_eq!((found.times.len(), found.open), (COUNT, 0));
            assert!(found.times.is_sorted());
            // The leader was heard a heartbeat ago at most, and a link's delay.
            let least = range.least * MILLI * 2 / 3;
            assert!(found.times[0] + 10 * MILLI >= least, "{found:?}");
            assert_eq!(hold(range, COUNT, 7).unwrap(), found);
            assert_ne!(hold(range, COUNT, 8).unwrap(), found);
        }
    }

    #[test]
    fn the_wider_the_range_the_fewer_ballots_are_split() {
        let split = |range| hold(range, COUNT, 7).unwrap().split;
        let all = [SPREADS[1], SPREADS[3], SPREADS[6]].map(split);
        assert!(
            all.is_sorted_by(|a, b| a >= b) && all[0] > all[2],
            "{all:?}"
        );
    }

    #[test]
    fn without_randomness_a_ballot_is_split_again_and_again() {
        let found = hold(SPREADS[0], 2, 7).unwrap();
        assert!(found.open > 0, "{found:?}");
    }
}
