//! Three superloops over a network of queues and devices in memory: elect, commit, cut the power,
//! recover.

mod board;

use board::Kind;
use board::client::Caller;
use board::trio::{Cluster, SEGMENT, address, endpoints};
use coracle_core::units::Position;
use coracle_embedded::Storage;

#[test]
fn three_boards_elect_a_leader_and_are_level() {
    let mut cluster = Cluster::new(1, Kind::Disk, 0);
    cluster.run_until("level", Cluster::is_level);
    assert!(cluster.committed() > Position::ZERO);
}

#[test]
fn the_others_go_on_without_a_leader_that_lost_power_and_it_comes_back() {
    let mut cluster = Cluster::new(2, Kind::Flash, 0);
    cluster.run_until("level", Cluster::is_level);
    let (before, leader) = {
        let leader = cluster.leader().unwrap().node();
        (leader.commit(), leader.status().member.slot())
    };
    cluster.cut_power(leader);
    cluster.run_until("a new leader", Cluster::is_level);
    assert!(cluster.committed() > before);
    cluster.start(leader);
    cluster.run_until("level again", |c| c.is_level() && c.running().count() == 3);
}

#[test]
fn all_boards_lose_power_and_nothing_committed_is_lost() {
    let mut cluster = Cluster::new(3, Kind::Flash, 0);
    for _ in 0..5 {
        cluster.run_until("level", Cluster::is_level);
        let committed = cluster.committed();
        for n in 0..3 {
            cluster.cut_power(n);
        }
        for n in 0..3 {
            cluster.start(n);
        }
        let kept = cluster
            .running()
            .filter(|m| m.node().status().appended >= committed)
            .count();
        assert!(kept >= 2, "a quorum has what was committed");
        cluster.run_until("level", Cluster::is_level);
        assert!(cluster.committed() > committed);
    }
}

/// The power of one board goes at every call to its flash, one after the other, on a bad network.
#[test]
fn a_power_cut_at_any_write_or_flush_is_recovered_from() {
    let mut cuts = 0;
    for calls in 0..60 {
        let kind = [Kind::Disk, Kind::Flash][calls as usize % 2];
        let mut cluster = Cluster::new(100 + calls, kind, 0);
        cluster.world.borrow_mut().loss = 10;
        let victim = (calls % 3) as usize;
        cluster.cut_power(victim);
        cluster.devices[victim].with(|device| device.cut_after(calls));
        cluster.start(victim);
        for _ in 0..3_000 {
            cluster.step();
            if cluster.members[victim].is_none() {
                cuts += 1;
                cluster.start(victim);
            }
        }
        cluster.world.borrow_mut().loss = 0;
        cluster.run_until("level", Cluster::is_level);
    }
    assert!(cuts > 5, "{cuts}");
}

/// A client puts keys all the time; boards lose power one after the other and all at once.
#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    acknowledged_survives(Kind::Disk);
    acknowledged_survives(Kind::Flash);
}

fn acknowledged_survives(kind: Kind) {
    let mut cluster = Cluster::new(4, kind, 0);
    cluster.world.borrow_mut().loss = 100;
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    for round in 0..6 {
        for _ in 0..1_500 {
            cluster.step();
            caller.turn();
            if caller.acknowledged.len() > 90 * (round + 1) {
                break;
            }
        }
        let victims = match round % 3 {
            2 => vec![0, 1, 2],
            _ => vec![round % 3],
        };
        victims.iter().for_each(|n| cluster.cut_power(*n));
        for _ in 0..700 {
            cluster.step();
            caller.turn();
        }
        victims.iter().for_each(|n| cluster.start(*n));
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
        cluster.assert_has_all(&caller);
    }
    assert!(
        caller.acknowledged.len() > 400,
        "{}",
        caller.acknowledged.len()
    );
    assert!(caller.sessions < 30, "{}", caller.sessions);
}

/// A device that is full stops its node with an error, and what was acknowledged is still there.
#[test]
fn a_full_device_is_an_error_and_not_a_loss() {
    let mut cluster = Cluster::new(5, Kind::Flash, 0);
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    for _ in 0..20_000 {
        caller.turn();
        cluster.step();
        if cluster.full == 3 {
            break;
        }
    }
    assert_eq!(cluster.full, 3);
    assert!(caller.acknowledged.len() > 500);
    (0..3).for_each(|n| cluster.start(n));
    let held = cluster.running().map(|m| m.node().status().durable.get());
    assert!(held.min() > Some(38 * u64::from(SEGMENT)));
}

/// Bytes of a log rot while its member is off; the others have them, and they are written again.
#[test]
fn a_log_that_has_rotten_is_healed_from_the_others() {
    for kind in [Kind::Disk, Kind::Flash] {
        let mut cluster = Cluster::new(6, kind, 0);
        let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
        for _ in 0..600 {
            cluster.step();
            caller.turn();
        }
        cluster.run_until("level", Cluster::is_level);
        let bytes = |cluster: &Cluster| {
            let mut bytes = vec![0; 20_000];
            let mut device = cluster.devices[1].clone();
            device.read(0, &mut bytes).unwrap();
            bytes
        };
        let before = bytes(&cluster);
        cluster.cut_power(1);
        // Where two units meet, and a place of its own.
        for (at, len) in [(8_000, 300), (15_000, 5)] {
            cluster.devices[1].with(|device| device.rot(at, len));
        }
        assert_ne!(bytes(&cluster), before);
        cluster.start(1);
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
        assert_eq!(bytes(&cluster), before);
        cluster.assert_has_all(&caller);
    }
}
