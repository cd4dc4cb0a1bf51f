//! How sessions end.

extern crate std;

use core::time::Duration;

use super::client::Event;
use super::world::{World, config};
use crate::log::Log;
use crate::node::clients::{Clients, ClientsConfig, Count};
use crate::session::AllowAdministration;
use crate::units::{Position, Term};
use crate::wire::cluster::{AdminRequest, AdminRequestType, CloseReason, Message};

const STEP: Duration = Duration::from_millis(50);

#[test]
fn silence_closes_a_session_and_a_keep_alive_keeps_it() {
    let mut world = World::leading();
    let silent = world.join_open();
    let alive = world.join_open();
    for _ in 0..12 {
        world.clients[alive].keep_alive();
        world.sleep(Duration::from_secs(1), STEP);
    }
    assert_eq!(world.close_reasons(), ["timeout"]);
    assert_eq!(world.clients[silent].codes(), [0, 4]);
    assert_eq!(world.clients[alive].codes(), [0]);
    assert_eq!(world.node.counters().get(Count::SessionTimeout), 1);
}

#[test]
fn the_service_closes_a_session_once() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.run(10);
    assert_eq!(world.close_reasons(), ["service"]);
    assert_eq!(world.node.counters().get(Count::CloseAppended), 1);
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.run(10);
    assert_eq!(world.node.counters().get(Count::CloseAppended), 1);
    let Some(Event::Session { detail, .. }) = world.clients[at].events.last() else {
        panic!("no event");
    };
    assert_eq!(detail, "SERVICE_ACTION");
}

#[test]
fn a_close_waits_for_room_in_the_log_and_is_appended_once() {
    let mut world = World::with_log(4096);
    world.node.become_leader(world.now, super::world::TERM);
    let at = world.join_open();
    world.commits = false;
    for _ in 0..20 {
        world.clients[at].say(&[1; 500]);
    }
    world.run(20);
    let end = world.log.end();
    let session = world.clients[at].session.unwrap();
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.run(20);
    assert_eq!(world.log.end(), end);
    world.commits = true;
    world.run(20);
    assert_eq!(world.close_reasons(), ["service"]);
    assert_eq!(world.node.counters().get(Count::CloseAppended), 1);
}

#[test]
fn after_its_end_nothing_of_a_session_is_executed() {
    let mut world = World::leading();
    let at = world.join_open();
    world.clients[at].close();
    world.clients[at].say(b"too late");
    world.run(20);
    assert_eq!(world.close_reasons(), ["client"]);
    let session = world.clients[at].session.unwrap();
    assert!(world.messages_of(session).is_empty());
    assert_eq!(world.node.counters().get(Count::UnknownSession), 1);
}

#[test]
fn a_client_that_does_not_read_loses_its_session_and_nobody_else_waits() {
    let mut world = World::leading();
    let slow = world.join_open();
    let fast = world.join_open();
    world.clients[slow].reads = false;
    for _ in 0..100 {
        world.clients[slow].say(&[1; 1000]);
    }
    for round in 0..50 {
        world.clients[fast].say(&[2; 1000]);
        world.run(4);
        assert_eq!(world.clients[fast].replies.len(), round + 1);
    }
    assert_eq!(world.close_reasons().len(), 0);
    world.clients[fast].keep_alive();
    world.sleep(Duration::from_secs(4), STEP);
    assert_eq!(world.close_reasons(), ["timeout"]);
    let count = |count| world.node.counters().get(count);
    assert_eq!(
        (count(Count::EgressTimeout), count(Count::EgressOverflow)),
        (1, 0)
    );
    assert!(count(Count::IngressHeld) > 0);
    assert_eq!(world.clients[fast].codes(), [0]);
}

#[test]
fn answers_that_overflow_the_egress_close_the_session_once() {
    let mut world = World::leading();
    let at = world.join_open();
    world.inflate = 4000;
    world.clients[at].reads = false;
    for _ in 0..40 {
        world.clients[at].say(b"small");
    }
    world.run(20);
    assert_eq!(world.close_reasons(), ["timeout"]);
    assert!(world.node.counters().get(Count::EgressOverflow) > 0);
    assert_eq!(world.node.counters().get(Count::CloseAppended), 1);
}

#[test]
fn only_who_may_administers_and_is_told_what_comes_of_it() {
    let mut world = World::leading();
    let at = world.join_open();
    let (term, session) = (world.clients[at].term, world.clients[at].session.unwrap());
    let request = Message::AdminRequest(AdminRequest {
        term,
        session,
        correlation: 4,
        request: AdminRequestType::Snapshot,
        payload: &[],
    });
    world.clients[at].send(&request);
    world.run(10);
    assert_eq!(world.clients[at].events.last(), Some(&Event::Admin(2)));
    assert!(!world.node.take_snapshot_asked());
    world.clients[at].send(&request);
    world.run_with(10, &mut AllowAdministration);
    assert_eq!(world.clients[at].events.last(), Some(&Event::Admin(0)));
    assert!(world.node.take_snapshot_asked());
    world.snapshot = Err("one is being taken");
    world.clients[at].send(&request);
    world.run_with(10, &mut AllowAdministration);
    assert_eq!(world.clients[at].events.last(), Some(&Event::Admin(1)));
    assert!(!world.node.take_snapshot_asked());
}

/// The machine, clients and all, stands still for longer than a session may be silent. The
/// leader goes on leading (`raft/silence.rs`).
#[test]
fn sessions_survive_a_leader_that_slept() {
    let mut world = World::leading();
    let at = world.join_open();
    world.run(50);
    let slept = Duration::from_secs(60);
    world.now = world.now.plus(slept);
    world.node.excuse(world.now, slept);
    world.run(20);
    assert_eq!(world.node.counters().get(Count::SessionTimeout), 0);
    assert!(world.clients[at].session.is_some());
}

/// What was in the log is committed and answered before the leader has heard its clients again.
#[test]
fn a_leader_that_slept_answers_what_was_on_its_way() {
    let mut world = World::leading();
    let at = world.join_open();
    world.commits = false;
    world.clients[at].say(b"on its way");
    world.run(5);
    let slept = Duration::from_secs(6);
    world.now = world.now.plus(slept);
    world.node.excuse(world.now, slept);
    world.node.handle_timeout(world.now);
    world.apply();
    world.commits = true;
    world.run(20);
    assert_eq!(world.clients[at].replies, [b"on its way".to_vec()]);
    assert_eq!(world.close_reasons().len(), 0);
    assert_eq!(world.node.counters().get(Count::EgressOverflow), 0);
    // Who stays silent from then on is no client that reads.
    world.clients[at].mute = true;
    world.sleep(Duration::from_secs(5), STEP);
    assert_eq!(world.node.sessions_connected(), 0);
}

/// The members have been given less room than they had when these sessions were opened.
#[test]
fn sessions_that_found_no_slot_are_served_when_there_is_one() {
    let mut world = World::leading();
    let all = [world.join_open(), world.join_open(), world.join_open()];
    world.node = Clients::new(ClientsConfig {
        sessions_max: 1,
        ..config()
    });
    world.applied = Position::ZERO;
    world.apply();
    assert_eq!(world.node.sessions().len(), all.len());
    for at in all {
        world.clients[at].mute = true;
    }
    world.node.become_leader(world.now, Term::new(8));
    world.sleep(Duration::from_secs(25), STEP);
    assert_eq!(world.close_reasons(), ["timeout"; 3]);
    assert!(world.node.sessions().is_empty());
}
