//! Random storms: a bad network, and the power of any member at any moment, on members with disks
//! and with flash in one cluster. One leader for each term, terms that never go back, equal states
//! at equal positions, and nothing lost that was acknowledged.

mod board;

use std::collections::BTreeMap;

use board::Kind;
use board::client::Caller;
use board::trio::{Cluster, SEGMENT, address, endpoints};
use coracle_core::prng::Prng;
use coracle_core::service::Role;
use coracle_core::units::{Position, Term};
use coracle_embedded::Profile;

const LOG_MAX: u64 = 8 * SEGMENT as u64;

/// What must stay true.
#[derive(Default)]
struct Checker {
    leaders: BTreeMap<Term, usize>,
    terms: [Term; 3],
    digests: BTreeMap<Position, u64>,
}

impl Checker {
    fn look(&mut self, cluster: &Cluster) {
        for (n, member) in cluster.members.iter().enumerate() {
            let Some(member) = member else {
                continue;
            };
            let status = member.node().status();
            assert!(
                status.term >= self.terms[n],
                "member {n} has forgotten a term"
            );
            if member.node().poll_persist().is_none() {
                self.terms[n] = status.term;
            }
            if status.role == Role::Leader {
                let leader = *self.leaders.entry(status.term).or_insert(n);
                assert_eq!(leader, n, "two led term {}", status.term.get());
            }
            for service in member.node().services() {
                let digest = *self
                    .digests
                    .entry(service.applied)
                    .or_insert(service.digest);
                assert_eq!(digest, service.digest, "at {}", service.applied);
            }
        }
    }
}

/// How many power cuts, and how many bytes of log.
fn storm(seed: u64, profile: Profile) -> (u64, u64) {
    let mut prng = Prng::new(seed);
    let mut cluster = Cluster::of(profile, seed, Kind::Mixed, LOG_MAX);
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    caller.keys = 30;
    if profile == Profile::TINY {
        caller.limit(profile.client_mtu, 300);
    }
    let mut checker = Checker::default();
    cluster.world.borrow_mut().loss = [0, 20, 100, 1_000][prng.below(4) as usize];
    let mut cuts = 0;
    for _ in 0..6_000 {
        if prng.below(300) == 0 {
            let victim = prng.below(3) as usize;
            let calls = prng.below(60);
            cluster.devices[victim].with(|device| device.cut_after(calls));
        }
        for n in 0..3 {
            if cluster.members[n].is_none() && prng.below(250) == 0 {
                cuts += 1;
                cluster.start(n);
            }
        }
        cluster.step();
        caller.turn();
        checker.look(&cluster);
    }
    cluster.world.borrow_mut().loss = 0;
    // Who has no power already may not have noticed.
    for _ in 0..2_000 {
        for n in 0..3 {
            cluster.devices[n].with(|device| device.cut_after(u64::MAX));
            if cluster.members[n].is_none() {
                cluster.start(n);
            }
        }
        cluster.step();
    }
    cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    checker.look(&cluster);
    cluster.assert_has_all(&caller);
    (cuts, cluster.committed().get())
}

#[test]
fn storms_lose_nothing() {
    let (mut cuts, mut bytes) = (0, 0);
    for seed in 0..40 {
        let profile = if seed % 2 == 0 {
            Profile::TINY
        } else {
            board::trio::ROOMY
        };
        let (now, committed) = storm(seed, profile);
        cuts += now;
        bytes += committed;
    }
    assert!(cuts > 400 && bytes > 10 * LOG_MAX, "{cuts} {bytes}");
}
