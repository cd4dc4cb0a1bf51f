//! What a change of leader does to clients.

extern crate std;

use std::vec::Vec;

use super::client::Event;
use super::world::{MESSAGE_MAX, World};
use crate::node::clients::{Count, EgressError, View};
use crate::units::{MemberId, SessionId, Term};
use crate::wire::cluster::CloseReason;

const NEXT: Term = Term::new(9);

/// This member leads, loses its leadership, and wins another term: to its clients, a new leader.
fn another_term(world: &mut World) {
    let (leader, term) = (MemberId::new(1).unwrap(), Term::new(8));
    world.node.step_down(world.now);
    world.view = View::Following { leader, term };
    world.run(5);
    world.view = View::Unknown;
    world.run(5);
    world.node.become_leader(world.now, NEXT);
    world.view = View::Leading;
}

#[test]
fn a_new_leader_greets_every_open_session_on_a_fresh_stream() {
    let mut world = World::leading();
    let a = world.join_open();
    let b = world.join_open();
    let before: Vec<_> = world.clients.iter().map(|c| c.streams()).collect();
    another_term(&mut world);
    world.run(10);
    for at in [a, b] {
        let session = world.clients[at].session.unwrap();
        assert_eq!(
            world.clients[at].events.last(),
            Some(&Event::NewLeader(session, NEXT))
        );
        assert_eq!(world.clients[at].streams(), before[at] + 1);
        world.clients[at].say(b"on we go");
    }
    world.run(10);
    for at in [a, b] {
        assert_eq!(world.clients[at].replies, [b"on we go"]);
    }
}

#[test]
fn a_message_of_an_old_leadership_is_never_executed_in_a_new_one() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    world.node.step_down(world.now);
    world.view = View::Unknown;
    world.clients[at].say(b"for term 7");
    world.clients[at].say(&[7; 3000]);
    world.run(5);
    world.node.become_leader(world.now, NEXT);
    world.view = View::Leading;
    world.run(20);
    assert!(world.messages_of(session).is_empty());
    assert_eq!(world.node.counters().get(Count::StaleTerm), 2);
    assert_eq!(world.clients[at].term, NEXT);
    world.clients[at].say(b"for term 9");
    world.run(5);
    assert_eq!(world.messages_of(session), [b"for term 9"]);
}

#[test]
fn a_close_that_the_old_leader_owed_is_appended_by_the_new_one() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    world.node.step_down(world.now);
    // Nobody is served: nothing happens, and whoever leads next is told again.
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.node.become_leader(world.now, NEXT);
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.run(10);
    assert_eq!(world.close_reasons(), ["service"]);
}

#[test]
fn who_does_not_lead_answers_offers_alike_and_sends_nothing() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    let unknown = SessionId::new(session.opened_at().plus(32));
    let leading = offers(&mut world, session, unknown);
    world.run(5);
    assert_eq!(world.clients[at].replies.len(), 1);
    world.node.step_down(world.now);
    assert_eq!(offers(&mut world, session, unknown), leading);
    world.run(5);
    assert_eq!(world.clients[at].replies.len(), 1);
    // Whether a session is open is each service's own to know.
    assert_eq!(leading, [Ok(()), Ok(()), Err(EgressError::TooLong)]);
}

fn offers(
    world: &mut World,
    session: SessionId,
    unknown: SessionId,
) -> [Result<(), EgressError>; 3] {
    let long = [0; MESSAGE_MAX];
    [(session, &b"x"[..]), (unknown, b"x"), (session, &long)]
        .map(|(session, payload)| world.offer(session, &[payload]))
}

#[test]
fn a_leader_with_every_slot_taken_serves_all_sessions_again() {
    let mut world = World::leading();
    for _ in 0..3 {
        world.join_open();
    }
    for term in 10..20 {
        world.node.step_down(world.now);
        // Redirects take what slots there are.
        world.view = View::Following {
            leader: MemberId::new(1).unwrap(),
            term: Term::new(term),
        };
        world.clients[0].connect();
        world.run(2);
        world.node.become_leader(world.now, Term::new(term + 100));
        world.view = View::Leading;
        world.run(20);
        for client in &world.clients {
            assert_eq!(client.term, Term::new(term + 100));
        }
    }
    assert_eq!(world.node.sessions_connected(), 3);
}
