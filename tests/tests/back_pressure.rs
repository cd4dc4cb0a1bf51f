//! Back pressure, end to end and in virtual time: what cannot be taken now is refused at the
//! client's `offer`, nothing that was accepted is lost, and one who stalls stalls nobody else.

use coracle_tests::sim::check::Violation;
use coracle_tests::sim::clock::{MILLI, Nanos, SECOND};
use coracle_tests::sim::member::WINDOW;
use coracle_tests::sim::mind::SERVICES;
use coracle_tests::sim::plan::{Plan, WorkPlan};
use coracle_tests::sim::run::table;
use coracle_tests::sim::world::{What, World};

/// Three quiet members, and clients that send as fast as they may.
fn busy(clients: usize, in_flight: u64) -> World {
    let plan = Plan {
        clients,
        work: WorkPlan {
            message_max: 1000,
            in_flight,
            think: 1,
            messages: 0,
        },
        ..Plan::scripted(3)
    };
    let mut world = World::new(plan, 200);
    world.is_scripted = true;
    for member in 0..3 {
        held(world.start(member), &world);
    }
    for client in 0..clients {
        world.clients[client].quota = u64::MAX;
        world.schedule(0, What::Client(client));
    }
    pass(&mut world, 2 * SECOND);
    assert!(
        world.clients.iter().all(|c| c.acknowledged > 0),
        "{}",
        table(&world)
    );
    world
}

fn held(outcome: Result<(), Violation>, world: &World) {
    if let Err(violation) = outcome {
        panic!("{violation:?}\n{}\n{}", world.trace.text(), table(world));
    }
}

fn pass(world: &mut World, time: Nanos) {
    let outcome = world.run_until(world.now + time);
    held(outcome, world);
}

fn acknowledged(world: &World, client: usize) -> u64 {
    world.clients[client].acknowledged
}

/// What one client gets through in a second.
fn throughput(world: &mut World, client: usize) -> u64 {
    let before = acknowledged(world, client);
    pass(world, SECOND);
    acknowledged(world, client) - before
}

#[test]
fn a_stalled_service_closes_the_window_and_loses_nothing() {
    let mut world = busy(1, u64::MAX);
    for member in &mut world.members {
        member.stalled = [true; SERVICES];
    }
    pass(&mut world, SECOND / 2);
    let (stuck, refused) = (acknowledged(&world, 0), world.clients[0].back_pressured);
    let unanswered = world.clients[0].unanswered();
    pass(&mut world, 2 * SECOND);
    assert_eq!(
        acknowledged(&world, 0),
        stuck,
        "nothing is answered by a stalled service"
    );
    assert!(world.clients[0].back_pressured > refused, "offer says so");
    assert_eq!(
        world.clients[0].unanswered(),
        unanswered,
        "and takes nothing more"
    );
    for member in &world.members {
        let Some(process) = &member.process else {
            continue;
        };
        let waiting = process.node.status().appended.since(process.node.applied());
        assert!(
            waiting <= WINDOW as u64,
            "n{} holds {waiting} bytes",
            member.id
        );
    }
    for member in 0..3 {
        world.members[member].stalled = [false; SERVICES];
        world.want_turn(member, 0);
    }
    world.clients[0].stop();
    pass(&mut world, 5 * SECOND);
    // The simulator has checked each answer: the right message, in order, once.
    assert_eq!(world.clients[0].unanswered(), 0, "{}", table(&world));
    assert_eq!(acknowledged(&world, 0), stuck + unanswered as u64);
    assert_eq!(world.clients[0].lives(), 1, "the session lived through it");
}

#[test]
fn a_stalled_follower_slows_nobody() {
    let all = throughput(&mut busy(2, 32), 0);
    // With two disks of three each message waits for both, stalled or not: it is no more than that.
    let mut without = busy(2, 32);
    let follower = (without.leader().unwrap() + 1) % 3;
    held(without.crash(follower, false), &without);
    let two = throughput(&mut without, 0);
    let mut world = busy(2, 32);
    let leader = world.leader().unwrap();
    let follower = (leader + 1) % 3;
    world.members[follower].stalled = [true; SERVICES];
    world.members[follower].slow_until = u64::MAX;
    let others = throughput(&mut world, 0);
    assert!(
        others * 100 >= two * 98 && others * 100 >= all * 88,
        "{others} messages in a second; {two} without that follower, {all} with three well ones"
    );
    // Later it catches up, alone.
    world.members[follower].stalled = [false; SERVICES];
    world.members[follower].slow_until = 0;
    for client in &mut world.clients {
        client.stop();
    }
    pass(&mut world, 3 * SECOND);
    let applied = |m: usize| world.members[m].process.as_ref().map(|p| p.node.applied());
    assert_eq!(applied(follower), applied(leader), "{}", table(&world));
}

#[test]
fn a_stalled_service_stalls_no_other_and_comes_on_from_storage() {
    let all = throughput(&mut busy(2, 32), 0);
    let mut world = busy(2, 32);
    // Service 0 answers clients; service 1 takes nothing, on any member.
    for member in &mut world.members {
        member.stalled[1] = true;
    }
    let others = throughput(&mut world, 0);
    assert!(
        others * 10 >= all * 9,
        "{others} of {all} messages in a second"
    );
    let behind = |world: &World, service: usize| {
        let node = &world.members[0].process.as_ref().unwrap().node;
        let applied = node.services().nth(service).unwrap().applied;
        node.status().appended.since(applied)
    };
    assert!(behind(&world, 1) > WINDOW as u64, "{}", table(&world));
    assert!(behind(&world, 2) < WINDOW as u64, "{}", table(&world));
    for member in 0..3 {
        world.members[member].stalled = [false; SERVICES];
        world.want_turn(member, 0);
    }
    for client in &mut world.clients {
        client.stop();
    }
    pass(&mut world, 3 * SECOND);
    assert_eq!(behind(&world, 1), 0, "{}", table(&world));
}

/// The service that answers was behind, and has more to say than the clients' windows hold.
#[test]
fn a_service_that_comes_on_answers_at_the_pace_of_the_clients() {
    let mut world = busy(2, 600);
    for member in &mut world.members {
        member.stalled[0] = true;
    }
    pass(&mut world, 2 * SECOND);
    for member in 0..3 {
        world.members[member].stalled = [false; SERVICES];
        world.want_turn(member, 0);
    }
    pass(&mut world, 2 * SECOND);
    for client in &mut world.clients {
        client.stop();
    }
    pass(&mut world, 3 * SECOND);
    for client in &world.clients {
        assert_eq!(client.lives(), 1, "nobody is closed: {}", table(&world));
        assert!(client.acknowledged > 600, "{}", table(&world));
    }
}

#[test]
fn a_client_that_never_reads_slows_nobody_and_is_closed() {
    // More than a quarter of a receiver's window: with less, one that does not read looks like one
    // that has read and has not said so.
    let in_flight = 128;
    let all = throughput(&mut busy(3, in_flight), 0);
    let mut world = busy(3, in_flight);
    world.clients[2].reads = false;
    let others = throughput(&mut world, 0);
    assert!(
        others * 10 >= all * 9,
        "{others} of {all} messages in a second"
    );
    for client in &mut world.clients[..2] {
        client.stop();
    }
    pass(&mut world, 4 * SECOND);
    world.clients[2].reads = true;
    pass(&mut world, 200 * MILLI);
    let sessions = |m: usize| {
        world.members[m]
            .process
            .as_ref()
            .map(|p| p.node.status().sessions)
    };
    assert!(sessions(0) <= Some(3), "{}", table(&world));
    assert!(
        world.clients[2].lives() > 1,
        "the cluster closed its session: {}",
        table(&world)
    );
}
