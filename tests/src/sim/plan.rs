//! What a seed means: the size of the cluster, how bad its surroundings are, what its clients do.
//!
//! Every run draws each knob anew, some of them to zero, so that runs differ in kind and not only
//! in detail (swarm testing). A profile leans a run towards one sort of trouble.

use std::fmt;

use coracle_core::raft::Timing;

use super::clock::{MILLI, Nanos, SECOND};
use super::member::SEGMENT;
use super::mind::SERVICES;
use super::net::LinkPlan;
use super::rng::Rng;
use super::start::LEADER_TIMEOUT;

/// The sort of trouble that a run leans towards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// No faults at all: the messages alone.
    Calm,
    /// Some of everything.
    Mixed,
    /// Bad links.
    Links,
    /// Links that are cut, in every topology, with elections all the time.
    Partitions,
    /// Kills at any step, with the page cache kept.
    Kills,
    /// Losses of power, often of all members at once.
    Power,
    /// Short leaderships that leave uncommitted tails to be cut.
    Tails,
    /// Lost log frames and requests for them that make no sense here.
    Naks,
    /// Data directories that vanish.
    Wipes,
    /// Services, members and clients that stall.
    Stalls,
    /// Clocks that drift and step.
    Clocks,
    /// Snapshots, and starts from them, sound and damaged.
    Snapshots,
    /// Power cuts, snapshots and rot, with members that are boards in every run.
    Embedded,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Calm,
        Self::Mixed,
        Self::Links,
        Self::Partitions,
        Self::Kills,
        Self::Power,
        Self::Tails,
        Self::Naks,
        Self::Wipes,
        Self::Stalls,
        Self::Clocks,
        Self::Snapshots,
        Self::Embedded,
    ];

    /// What a seed may lean towards that is not told: any but the last, whose boards are in many
    /// runs of the others.
    const DRAWN: usize = Self::ALL.len() - 1;

    fn index(self) -> usize {
        self as usize
    }
}

/// What a member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// A process of the simulator's own driver, with files.
    Files,
    /// A board: the superloop and storage of `coracle_embedded`, on a disk.
    Disk,
    /// The same on a flash chip.
    Flash,
}

/// One kind of trouble that is injected from time to time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// A member is cut off from all others.
    Isolate,
    /// The leader is cut off from all others, while its clients still reach it.
    IsolateLeader,
    /// The members fall into two halves.
    Split,
    /// One link goes dead in one direction.
    OneWay,
    /// Two halves that only one member sees both of.
    Bridge,
    /// All links work again.
    Heal,
    /// A process dies between two calls, its page cache lives on.
    Kill,
    /// The leader's process does.
    KillLeader,
    /// A machine loses power between two calls.
    Power,
    /// All machines lose power at once.
    PowerAll,
    /// A member's directory is emptied while it is down.
    Wipe,
    /// A service takes nothing for a while.
    Stall,
    /// A process is not scheduled for a while.
    Pause,
    /// A disk is very slow for a while.
    SlowDisk,
    /// A wall clock jumps.
    WallStep,
    /// A monotonic clock runs at another rate.
    Rate,
    /// The leader closes gracefully and comes back.
    Resign,
    /// The leader is told to hand over.
    Transfer,
    /// A client vanishes and comes back with a new session.
    ClientGone,
    /// A client neither reads nor sends for a while.
    ClientSilent,
    /// The leader is asked for a snapshot.
    Snapshot,
    /// A process dies, and its newest snapshot, or every one, rots; or its log does, or all logs.
    Rot,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Isolate,
        Self::IsolateLeader,
        Self::Split,
        Self::OneWay,
        Self::Bridge,
        Self::Heal,
        Self::Kill,
        Self::KillLeader,
        Self::Power,
        Self::PowerAll,
        Self::Wipe,
        Self::Stall,
        Self::Pause,
        Self::SlowDisk,
        Self::WallStep,
        Self::Rate,
        Self::Resign,
        Self::Transfer,
        Self::ClientGone,
        Self::ClientSilent,
        Self::Snapshot,
        Self::Rot,
    ];
}

/// How often each trouble comes, against the others, for each profile: one row a profile, in the
/// order of `Trouble::ALL`.
#[rustfmt::skip]
const WEIGHTS: [[u8; Trouble::ALL.len()]; Profile::ALL.len()] = [
    // iso isoL spl 1w brid heal kill kiL pow poA wip sta pau slo wal rat res tra gon sil sna rot
    [ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0],
    [ 3,  3,  2,  3,  2,  5,  3,  3,  3,  1,  1,  2,  2,  2,  1,  1,  1,  1,  1,  1,  3,  1],
    [ 1,  1,  1,  2,  1,  4,  1,  1,  0,  0,  0,  1,  1,  0,  0,  0,  0,  1,  1,  1,  1,  0],
    [ 6,  8,  5,  6,  5, 12,  1,  1,  0,  0,  0,  0,  2,  0,  0,  1,  1,  2,  0,  0,  1,  0],
    [ 1,  2,  0,  1,  0,  4, 10,  8,  1,  0,  0,  0,  1,  2,  0,  0,  1,  0,  1,  0,  2,  2],
    [ 1,  2,  0,  1,  0,  4,  3,  4,  8,  4,  0,  0,  1,  3,  0,  0,  0,  0,  1,  0,  2,  3],
    [ 2, 10,  2,  3,  2,  8,  3,  8,  3,  1,  0,  0,  3,  3,  0,  0,  0,  2,  0,  0,  2,  3],
    [ 1,  3,  1,  2,  0,  5,  1,  2,  0,  0,  0,  0,  1,  0,  0,  0,  0,  0,  0,  0,  0,  0],
    [ 1,  3,  1,  1,  0,  5,  2,  3,  2,  0,  5,  0,  0,  0,  0,  0,  0,  1,  0,  0,  0,  0],
    [ 0,  0,  0,  1,  0,  2,  1,  1,  0,  0,  0,  8,  6,  4,  0,  0,  0,  0,  2,  6,  3,  0],
    [ 0,  1,  0,  0,  0,  2,  1,  1,  0,  0,  0,  0,  2,  0,  8,  8,  0,  0,  0,  0,  2,  0],
    [ 1,  2,  0,  1,  0,  4,  5,  5,  4,  2,  0,  3,  1,  2,  1,  0,  0,  1,  0,  0, 12,  6],
    [ 2,  3,  1,  2,  1,  5,  4,  4,  6,  3,  1,  1,  2,  3,  1,  1,  1,  1,  1,  1,  4,  4],
];

/// How slow a disk is, and what a kill leaves in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The quickest flush.
    pub least: Nanos,
    /// The slowest.
    pub most: Nanos,
    /// A dirty sector goes stale when its process is killed, in millionths.
    pub stale: u64,
}

/// How well a driver calls its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnPlan {
    /// The longest time between a reason to call and the call.
    pub most: Nanos,
    /// A part of a turn is left out, in millionths.
    pub skip: u64,
    /// How many datagrams a socket holds.
    pub inbox: usize,
    /// How many transmits a turn asks for at most.
    pub transmits: u64,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkPlan {
    /// The longest message.
    pub message_max: u64,
    /// How many messages a client has unanswered at most.
    pub in_flight: u64,
    /// The longest pause of a client between messages.
    pub think: Nanos,
    /// How many messages all clients send before faults stop, at most.
    pub messages: u64,
}

/// Everything that a seed decides before the run begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The sort of trouble.
    pub profile: Profile,
    /// How many members: 1 to 7.
    pub members: usize,
    /// What each of them is.
    pub machines: [Machine; 7],
    /// How many services each has: a board has one, so then all have.
    pub services: usize,
    /// How many clients.
    pub clients: usize,
    /// Whether leaders send the log to all followers at once.
    pub multicast: bool,
    /// The longest datagram that any stream is cut to.
    pub mtu: usize,
    /// The links while faults last.
    pub link: LinkPlan,
    /// The disks.
    pub disk: DiskPlan,
    /// The drivers.
    pub turn: TurnPlan,
    /// The clients.
    pub work: WorkPlan,
    /// The mean time between troubles.
    pub trouble_every: Nanos,
    /// The longest time that a trouble lasts.
    pub trouble_most: Nanos,
    /// Clocks run between a million minus and plus this many millionths.
    pub drift: u64,
    /// Whether services do anything of their own accord.
    pub services_act: bool,
    /// A snapshot after so many bytes of log; 0: never for that.
    pub snapshot_bytes: u64,
    /// A snapshot after so much time; 0: never for that.
    pub snapshot_interval: Nanos,
    /// The most bytes of log on a disk; 0: no bound.
    pub log_max: u64,
    /// When faults stop.
    pub safety: Nanos,
    /// How long after that the cluster may take to be level and serve.
    pub liveness: Nanos,
    /// Elections and heartbeats.
    pub timing: Timing,
}

impl Plan {
    /// What `seed` means; `profile` overrides what it would lean towards.
    pub fn new(seed: u64, profile: Option<Profile>) -> Self {
        let mut rng = Rng::new(seed ^ 0xc07a_c1e0_c07a_c1e0);
        let drawn = rng.pick(&Profile::ALL[..Profile::DRAWN]);
        let profile = profile.unwrap_or(drawn);
        let members = rng.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7]);
        let calm = profile == Profile::Calm;
        let retention = retention(&mut rng);
        let machines = machines(seed, profile, members);
        let has_boards = machines.iter().any(|m| *m != Machine::Files);
        let (snapshot_bytes, snapshot_interval, log_max) = match has_boards {
            true => bounded(retention),
            false => retention,
        };
        Self {
            seed,
            profile,
            members,
            machines,
            services: if has_boards { 1 } else { SERVICES },
            clients: rng.range(1, 5) as usize,
            // Of a generator of its own, so that all else that a seed means stays as it was.
            multicast: Rng::new(seed ^ 0x6d75_6c74_6963_6173).chance(300_000),
            mtu: rng.pick(&[256, 288, 512, 512, 1024, 1408]),
            link: link(&mut rng, profile),
            disk: disk(&mut rng),
            turn: turn(&mut rng, calm),
            work: WorkPlan {
                message_max: rng.pick(&[16, 100, 100, 1000, 8000]),
                in_flight: rng.pick(&[1, 4, 16, 64]),
                think: rng.pick(&[1, 5, 20, 100]) * MILLI,
                messages: rng.range(200, 3000),
            },
            trouble_every: rng.range(50, 600) * MILLI,
            trouble_most: rng.range(100, 3000) * MILLI,
            drift: rng.pick(&[0, 100, 10_000, 100_000]),
            services_act: true,
            snapshot_bytes,
            snapshot_interval,
            log_max,
            safety: rng.range(2, 12) * SECOND,
            liveness: 60 * SECOND,
            timing: Timing::from_leader_timeout(LEADER_TIMEOUT),
        }
    }

    /// A quiet cluster of `members` with one client, for a scenario.
    pub fn scripted(members: usize) -> Self {
        Self {
            members,
            machines: [Machine::Files; 7],
            services: SERVICES,
            clients: 1,
            multicast: false,
            mtu: 512,
            turn: TurnPlan {
                most: 1_000,
                skip: 0,
                inbox: 1024,
                transmits: 256,
            },
            disk: DiskPlan {
                least: MILLI / 2,
                most: MILLI / 2,
                stale: 1_000_000,
            },
            drift: 0,
            services_act: false,
            snapshot_bytes: 0,
            snapshot_interval: 0,
            log_max: 0,
            work: WorkPlan {
                message_max: 40,
                in_flight: 64,
                think: 1,
                messages: 0,
            },
            ..Self::new(1, Some(Profile::Calm))
        }
    }

    /// How many sections a snapshot has.
    pub const fn sections(&self) -> usize {
        1 + self.services
    }

    /// Draws the next trouble, if this profile has any.
    pub fn draw(&self, rng: &mut Rng) -> Option<Trouble> {
        let weights = &WEIGHTS[self.profile.index()];
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.below(total);
        for (trouble, weight) in Trouble::ALL.into_iter().zip(weights) {
            if at < u64::from(*weight) {
                return Some(trouble);
            }
            at -= u64::from(*weight);
        }
        None
    }
}

fn link(rng: &mut Rng, profile: Profile) -> LinkPlan {
    if profile == Profile::Calm {
        return LinkPlan::calm();
    }
    let bad = profile == Profile::Links;
    let naks = profile == Profile::Naks;
    let least = rng.pick(&[20_000, 100_000, MILLI]);
    LinkPlan {
        loss: if bad || naks {
            rng.range(10_000, 250_000)
        } else {
            rng.pick(&[0, 0, 1_000, 20_000, 100_000])
        },
        duplicate: rng.pick(&[0, 0, 10_000, 200_000]),
        delay: if bad {
            rng.range(0, 100_000)
        } else {
            rng.pick(&[0, 1_000, 20_000])
        },
        least,
        most: least * rng.pick(&[2, 4, 20]),
        late: rng.pick(&[50, 300, 2000]) * MILLI,
        replay: rng.pick(&[0, 0, 2_000, 20_000]),
        damage_naks: if naks {
            500_000
        } else {
            rng.pick(&[0, 0, 100_000])
        },
    }
}

/// Which members are boards: in one run of five some are, or all. Of a generator of its own, so
/// that without boards a seed means what it meant; the salt leaves those alone that have found
/// bugs.
fn machines(seed: u64, profile: Profile, members: usize) -> [Machine; 7] {
    let mut rng = Rng::new(seed ^ BOARDS_SALT);
    let mut machines = [Machine::Files; 7];
    if !rng.chance(200_000) && profile != Profile::Embedded {
        return machines;
    }
    let is_all = rng.chance(400_000);
    let one = rng.below(members as u64) as usize;
    for (member, machine) in machines.iter_mut().enumerate().take(members) {
        if rng.chance(500_000) || is_all || member == one {
            *machine = rng.pick(&[Machine::Disk, Machine::Flash]);
        }
    }
    machines
}

/// A board's log is as long as its device: it must be bounded, and so there must be snapshots.
fn bounded((bytes, interval, most): (u64, Nanos, u64)) -> (u64, Nanos, u64) {
    let bytes = if bytes == 0 { 40 * 1024 } else { bytes };
    let least = 8 * u64::from(SEGMENT);
    (bytes, interval, most.max(least))
}

/// Snapshots by bytes and by time, and the bound of the log: only with snapshots is there one.
fn retention(rng: &mut Rng) -> (u64, Nanos, u64) {
    let segment = u64::from(SEGMENT);
    let bytes = rng.pick(&[0, 8 * 1024, 40 * 1024, 200 * 1024]);
    let interval = rng.pick(&[0, 0, 100, 1000]) * MILLI;
    let most = rng.pick(&[0, 8, 8, 12, 16]) * segment;
    (bytes, interval, if bytes > 0 { most } else { 0 })
}

fn disk(rng: &mut Rng) -> DiskPlan {
    let least = rng.pick(&[10_000, 200_000, 2 * MILLI]);
    DiskPlan {
        least,
        most: least * rng.pick(&[1, 5, 20]),
        stale: rng.pick(&[0, 500_000, 1_000_000]),
    }
}

fn turn(rng: &mut Rng, calm: bool) -> TurnPlan {
    TurnPlan {
        most: rng.pick(&[1_000, 100_000, MILLI]),
        skip: if calm {
            0
        } else {
            rng.pick(&[0, 50_000, 300_000])
        },
        inbox: rng.pick(&[16, 128, 1024]),
        transmits: rng.pick(&[2, 16, 256]),
    }
}

const BOARDS_SALT: u64 = 0x626f_6172_6400_002c;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {:?}, {} members, {} clients, mtu {}, {}, faults for {} ms",
            self.seed,
            self.profile,
            self.members,
            self.clients,
            self.mtu,
            match self.multicast {
                true => "log by multicast",
                false => "log to each",
            },
            self.safety / MILLI
        )?;
        writeln!(f, "  {:?}", &self.machines[..self.members])?;
        writeln!(f, "  {:?}", self.link)?;
        writeln!(f, "  {:?}", self.disk)?;
        writeln!(f, "  {:?}", self.turn)?;
        writeln!(f, "  {:?}", self.work)?;
        write!(
            f,
            "  trouble every {} ms for up to {} ms, clocks drift by {} millionths, a snapshot \
             every {} bytes and {} ms, at most {} bytes of log",
            self.trouble_every / MILLI,
            self.trouble_most / MILLI,
            self.drift,
            self.snapshot_bytes,
            self.snapshot_interval / MILLI,
            self.log_max
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_every_time() {
        for seed in 0..100 {
            let (a, b) = (Plan::new(seed, None), Plan::new(seed, None));
            assert_eq!(format!("{a}"), format!("{b}"));
        }
    }

    #[test]
    fn every_profile_draws_only_what_it_has_weights_for() {
        for profile in Profile::ALL {
            let plan = Plan::new(1, Some(profile));
            let mut rng = Rng::new(5);
            for _ in 0..1000 {
                let trouble = plan.draw(&mut rng);
                assert_eq!(trouble.is_none(), profile == Profile::Calm);
                if let Some(trouble) = trouble {
                    let at = Trouble::ALL.iter().position(|t| *t == trouble).unwrap();
                    assert_ne!(WEIGHTS[profile.index()][at], 0);
                }
            }
        }
    }
}
