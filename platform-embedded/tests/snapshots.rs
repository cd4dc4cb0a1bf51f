//! Snapshots on small devices: the log goes round for ever, and who has missed too much is sent
//! one.

mod board;

use std::ops::Range;

use board::Kind;
use board::client::Caller;
use board::trio::{Cluster, Member, SEGMENT, SNAPSHOT, address, endpoints};
use coracle_core::log::Log;
use coracle_core::node::Event;
use coracle_core::units::Position;
use coracle_devices::Broken;
use coracle_embedded::CHECKED_AT_ONCE;

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

/// A snapshot of hundreds of kilobytes: no turn reads more of it than a piece, so its member hears
/// and sends all the while.
#[test]
fn a_large_snapshot_is_read_back_a_piece_in_a_turn() {
    for kind in [Kind::Flash, Kind::Disk] {
        let mut cluster = Cluster::new(18, kind, 40 * u64::from(SEGMENT));
        let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
        run_to(&mut cluster, &mut caller, 300 * 1024);
        cluster.run_until("level", Cluster::is_level);
        let stored = |member: &Member| member.node().status().snapshot.is_some();
        assert!(!cluster.running().any(stored));
        cluster.most_read = [0; 3];
        let before = [0, 1, 2].map(|n| cluster.devices[n].bytes_read());
        let asked = cluster.members.iter_mut().flatten();
        assert_eq!(asked.filter_map(|m| m.request_snapshot().ok()).count(), 1);
        for _ in 0..5_000 {
            run(&mut cluster, &mut caller, 1);
            if cluster.running().all(stored) {
                break;
            }
        }
        assert_eq!(cluster.running().filter(|member| stored(member)).count(), 3);
        for (n, before) in before.into_iter().enumerate() {
            let all = cluster.devices[n].bytes_read() - before;
            assert!(all > 200_000, "{all} bytes");
            let most = cluster.most_read[n];
            assert!(most < u64::from(CHECKED_AT_ONCE) + 128, "{most} in a turn");
        }
        // It is what they start from.
        (0..3).for_each(|n| cluster.cut_power(n));
        (0..3).for_each(|n| cluster.start(n));
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
        cluster.assert_has_all(&caller);
    }
}

/// Where the second of two places for snapshots is, and both. They count from the device's end.
fn places() -> [Range<u64>; 2] {
    let (start, len) = (LOG_MAX, u64::from(SNAPSHOT));
    [start + len..start + 2 * len, start..start + 2 * len]
}

/// A member whose device has failed at a snapshot stops at that call, whatever else of it is well;
/// the others go on, and it starts again once its device is whole.
fn a_device_fails_at_a_snapshot(kind: Kind, breaks: fn(&mut Broken)) {
    let mut cluster = Cluster::new(16, kind, LOG_MAX);
    let mut caller = caller(&cluster);
    run_to(&mut cluster, &mut caller, 8 * 1024);
    let victim = 1;
    breaks(&mut cluster.devices[victim].broken());
    let mut asked = false;
    for _ in 0..2_000 {
        run(&mut cluster, &mut caller, 1);
        for member in cluster.members.iter_mut().flatten() {
            asked = asked || member.request_snapshot().is_ok();
        }
        if let Some(member) = &mut cluster.members[victim] {
            while let Some(event) = member.poll_event() {
                assert!(!matches!(event, Event::SnapshotFailed(_)), "it went on");
            }
        }
    }
    assert!(asked, "somebody led");
    assert!(cluster.members[victim].is_none(), "it has stopped");
    assert_eq!(cluster.devices[victim].broken().failures, 1);
    let stored = |member: &Member| member.node().status().snapshot.is_some();
    assert_eq!(cluster.running().filter(|member| stored(member)).count(), 2);
    *cluster.devices[victim].broken() = Broken::default();
    cluster.start(victim);
    let end = cluster.committed().get() + 8 * 1024;
    run_to(&mut cluster, &mut caller, end);
    cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    cluster.assert_has_all(&caller);
}

#[test]
fn a_device_that_fails_while_a_snapshot_is_written_stops_its_node() {
    for kind in [Kind::Disk, Kind::Flash] {
        a_device_fails_at_a_snapshot(kind, |broken| {
            broken.writes = places()[1].clone();
        });
    }
}

#[test]
fn a_device_that_fails_while_a_snapshot_is_read_back_stops_its_node() {
    for kind in [Kind::Disk, Kind::Flash] {
        a_device_fails_at_a_snapshot(kind, |broken| {
            broken.reads = places()[1].clone();
        });
    }
}

/// One of two sets cannot be read at a start. The older one is not needed; without the newer one
/// the member does not start, and says that the device has failed: it may be read the next time.
#[test]
fn a_start_needs_the_set_that_the_log_goes_on_from() {
    let mut cluster = Cluster::new(17, Kind::Disk, LOG_MAX);
    let mut caller = caller(&cluster);
    run_to(&mut cluster, &mut caller, 3 * LOG_MAX);
    cluster.run_until("level", Cluster::is_level);
    let [second, both] = places();
    let mut starts = 0;
    for place in [both.start..second.start, second] {
        cluster.cut_power(0);
        cluster.devices[0].broken().reads = place;
        // Whatever else it said but that its device has failed would end this test.
        cluster.start(0);
        starts += usize::from(cluster.members[0].is_some());
        *cluster.devices[0].broken() = Broken::default();
        cluster.start(0);
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
    }
    assert_eq!(starts, 1);
    cluster.assert_has_all(&caller);
}

/// A member whose log is healed begins anew. If the snapshot that it had started from cannot be
/// read any more, its service would execute all of the log once more: it stops, and a start helps.
#[test]
fn a_healed_member_does_not_execute_its_log_with_the_state_that_it_has() {
    for kind in [Kind::Disk, Kind::Flash] {
        let mut cluster = Cluster::new(18, kind, LOG_MAX);
        let mut caller = caller(&cluster);
        run_to(&mut cluster, &mut caller, 8 * 1024);
        let victim = 2;
        for member in cluster.members.iter_mut().flatten() {
            let _asked = member.request_snapshot().is_ok();
        }
        run_to(&mut cluster, &mut caller, 16 * 1024);
        cluster.run_until("level", Cluster::is_level);
        let member = cluster.members[victim].as_ref().unwrap();
        let (status, log) = (member.node().status(), member.log());
        assert!(status.start == Position::ZERO && status.snapshot.is_some());
        // Soon behind the snapshot, so that it was confirmed long ago.
        let bytes = log.read(status.snapshot.unwrap().plus(256).max(log.start()));
        let bytes = bytes[..64].to_vec();
        cluster.cut_power(victim);
        cluster.devices[victim].with(|device| {
            let mut windows = device.durable().windows(64);
            let place = windows.position(|there| there == bytes).unwrap();
            device.rot(place, 64);
        });
        cluster.start(victim);
        let member = cluster.members[victim].as_ref().unwrap();
        assert!(member.node().healing().is_some());
        assert!(member.node().applied() > Position::ZERO);
        cluster.devices[victim].broken().reads = places()[1].clone();
        for _ in 0..2_000 {
            if cluster.members[victim].is_none() {
                break;
            }
            cluster.step();
        }
        assert!(cluster.members[victim].is_none(), "it has stopped");
        assert_eq!(cluster.state_left, 1);
        *cluster.devices[victim].broken() = Broken::default();
        // Its log is healed, so it goes on from there.
        cluster.start(victim);
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
