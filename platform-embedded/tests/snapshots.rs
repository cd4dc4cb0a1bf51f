//! Snapshots on small devices: the log goes round for ever, and who has missed too much is sent
//! one.

mod board;

use board::Kind;
use board::client::Caller;
use board::trio::{Cluster, SEGMENT, address, endpoints};

/// The least that a bounded log may be.
const LOG_MAX: u64 = 8 * SEGMENT as u64;

fn caller(cluster: &Cluster) -> Caller {
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    // So that the service's state stays small however long it goes on.
    caller.keys = 40;
    caller
}

fn run(cluster: &mut Cluster, caller: &mut Caller, milliseconds: u64) {
    for _ in 0..milliseconds {
        cluster.step();
        caller.turn();
    }
}

#[track_caller]
fn run_to(cluster: &mut Cluster, caller: &mut Caller, end: u64) {
    for _ in 0..200_000 {
        if cluster.committed().get() >= end {
            return;
        }
        run(cluster, caller, 1);
    }
    let states: Vec<_> = cluster.running().map(|m| m.node().status()).collect();
    panic!("the log has not come to {end}: {states:#?}");
}

fn a_log_goes_round(kind: Kind) {
    let mut cluster = Cluster::new(11, kind, LOG_MAX);
    let mut caller = caller(&cluster);
    run_to(&mut cluster, &mut caller, 5 * LOG_MAX);
    cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    cluster.assert_has_all(&caller);
    for member in cluster.running() {
        let status = member.node().status();
        assert!(status.start.get() > 3 * LOG_MAX, "{status:?}");
        assert!(status.appended.since(status.start) <= LOG_MAX);
        if kind == Kind::Flash {
            let log = member.wear().log;
            assert!((5..=7).contains(&log.each()), "{:?}", member.wear());
            let counted = member.device().with(|device| device.erased());
            let (least, most) = (
                counted.iter().take(128).min().unwrap(),
                counted.iter().take(128).max().unwrap(),
            );
            assert!(most - least <= 3, "evenly: {least} to {most}");
        }
    }
    // And so it does after the power went everywhere.
    (0..3).for_each(|n| cluster.cut_power(n));
    (0..3).for_each(|n| cluster.start(n));
    cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    cluster.assert_has_all(&caller);
    run_to(&mut cluster, &mut caller, 7 * LOG_MAX);
    cluster.run_until("level", Cluster::is_level);
    cluster.assert_has_all(&caller);
}

#[test]
fn a_log_goes_round_on_flash_many_times() {
    a_log_goes_round(Kind::Flash);
}

#[test]
fn a_log_goes_round_on_a_disk_many_times() {
    a_log_goes_round(Kind::Disk);
}

fn a_member_comes_back(kind: Kind) {
    let mut cluster = Cluster::new(12, kind, LOG_MAX);
    let mut caller = caller(&cluster);
    run_to(&mut cluster, &mut caller, LOG_MAX / 4);
    let away = 2;
    cluster.cut_power(away);
    run_to(&mut cluster, &mut caller, 3 * LOG_MAX);
    cluster.start(away);
    let has_less = |cluster: &Cluster| {
        let started = cluster.members[away].as_ref().unwrap().node().status();
        let others = cluster.running().map(|m| m.node().status().start).max();
        Some(started.appended) < others
    };
    assert!(has_less(&cluster), "it needs what nobody has any more");
    run(&mut cluster, &mut caller, 2_000);
    cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    cluster.assert_has_all(&caller);
    assert!(!has_less(&cluster));
    // What it was sent is what it starts from as well.
    cluster.cut_power(away);
    cluster.start(away);
    cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    cluster.assert_has_all(&caller);
}

#[test]
fn a_member_that_was_away_too_long_is_sent_a_snapshot_onto_flash() {
    a_member_comes_back(Kind::Flash);
}

#[test]
fn a_member_that_was_away_too_long_is_sent_a_snapshot_onto_a_disk() {
    a_member_comes_back(Kind::Disk);
}

/// The power of one member goes over and over, at every moment of taking and receiving snapshots.
#[test]
fn the_power_goes_at_any_moment_and_the_log_goes_round() {
    for (seed, kind) in [(13, Kind::Flash), (14, Kind::Disk)] {
        let mut cluster = Cluster::new(seed, kind, LOG_MAX);
        let mut caller = caller(&cluster);
        let (mut cuts, mut calls) = (0, 1);
        while cuts < 90 || cluster.committed().get() < 4 * LOG_MAX {
            let victim = cuts % 3;
            cluster.devices[victim].with(|device| device.cut_after(calls));
            for _ in 0..3_000 {
                run(&mut cluster, &mut caller, 1);
                if cluster.members[victim].is_none() {
                    break;
                }
            }
            if cluster.members[victim].is_none() {
                let down = [1, 50, 800][cuts / 3 % 3];
                run(&mut cluster, &mut caller, down);
                cuts += 1;
                cluster.start(victim);
            }
            calls = calls * 5 % 293 + 1;
        }
        (0..3).for_each(|n| {
            cluster.devices[n].with(|device| device.cut_after(u64::MAX));
            if cluster.members[n].is_none() {
                cluster.start(n);
            }
        });
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
        cluster.assert_has_all(&caller);
    }
}

#[test]
fn nothing_is_written_while_nothing_happens() {
    for kind in [Kind::Flash, Kind::Disk] {
        let mut cluster = Cluster::new(15, kind, LOG_MAX);
        cluster.run_until("level", Cluster::is_level);
        (0..1_000).for_each(|_| cluster.step());
        let calls = |cluster: &Cluster| {
            let each = cluster.devices.each_ref();
            each.map(|device| device.with(|device| device.calls()))
        };
        let before = calls(&cluster);
        (0..60_000).for_each(|_| cluster.step());
        assert_eq!(calls(&cluster), before);
    }
}
