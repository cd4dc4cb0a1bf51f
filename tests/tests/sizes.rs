//! Clusters of 1 to 7 members: as many may fail as leave a quorum, and not one more.

use coracle_tests::sim::check::Violation;
use coracle_tests::sim::clock::{Nanos, SECOND};
use coracle_tests::sim::plan::{Plan, WorkPlan};
use coracle_tests::sim::run::table;
use coracle_tests::sim::world::{What, World};

/// A quiet cluster with one client that sends all the time.
fn cluster(members: usize) -> World {
    let plan = Plan {
        work: WorkPlan {
            message_max: 100,
            in_flight: 1,
            think: 1,
            messages: 0,
        },
        ..Plan::scripted(members)
    };
    let mut world = World::new(plan, 200);
    world.is_scripted = true;
    for member in 0..members {
        let outcome = world.start(member);
        held(outcome, &world);
    }
    world.clients[0].quota = u64::MAX;
    world.schedule(0, What::Client(0));
    world
}

#[track_caller]
fn held(outcome: Result<(), Violation>, world: &World) {
    if let Err(violation) = outcome {
        panic!("{violation:?}\n{}\n{}", world.trace.text(), table(world));
    }
}

/// How far the committed log has grown after this time.
#[track_caller]
fn committed_after(world: &mut World, time: Nanos) -> u64 {
    let outcome = world.run_until(world.now + time);
    held(outcome, world);
    world.checker.committed()
}

#[track_caller]
fn crash(world: &mut World, member: usize) {
    let outcome = world.crash(member, false);
    held(outcome, world);
}

#[test]
fn every_size_of_cluster_bears_what_its_quorum_bears() {
    for members in 1..=7 {
        let mut world = cluster(members);
        let mut committed = committed_after(&mut world, 3 * SECOND);
        assert!(committed > 5_000, "{members}: {}", table(&world));

        // The leader first, and others until only a quorum is left.
        let quorum = members / 2 + 1;
        for _ in quorum..members {
            let leader = world.leader().expect("a leader");
            crash(&mut world, leader);
            let later = committed_after(&mut world, 5 * SECOND);
            assert!(later > committed, "{members}: {}", table(&world));
            committed = later;
        }

        // One more, and nothing is committed until it is back.
        let leader = world.leader().expect("a leader");
        crash(&mut world, leader);
        committed = world.checker.committed();
        let later = committed_after(&mut world, 5 * SECOND);
        assert_eq!(later, committed, "{members}: {}", table(&world));
        for member in 0..members {
            if world.members[member].process.is_none() {
                let outcome = world.start(member);
                held(outcome, &world);
            }
        }
        world.clients[0].stop();
        let later = committed_after(&mut world, 10 * SECOND);
        assert!(later > committed, "{members}: {}", table(&world));
        for member in &world.members {
            let node = &member.process.as_ref().expect("it runs").node;
            assert_eq!(node.applied().get(), later, "{members}: {}", table(&world));
        }
    }
}
