//! How sessions begin, and how they do not.

extern crate std;

use core::time::Duration;
use std::vec;

use super::client::Event;
use super::world::{ENDPOINTS, Heard, TERM, World};
use crate::node::clients::{Count, View};
use crate::session::SharedSecret;
use crate::units::{MemberId, Term};
use crate::wire::cluster::{ChallengeResponse, Message, semantic_version};

#[test]
fn connect_open_echo_close() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    let opened = Event::Session {
        code: 0,
        session: Some(session),
        correlation: 1100,
        leader: Some(0),
        detail: ENDPOINTS.into(),
    };
    assert_eq!(world.clients[at].events, [opened]);
    assert_eq!(world.clients[at].term, TERM);
    // It waits for a new leader for twice this: as long as one would keep the session.
    let told = world.clients[at].leader_timeout_ns;
    assert_eq!(told, Some(5_000_000_000));
    world.clients[at].say(b"hello");
    world.clients[at].say(&[7; 3000]);
    world.run(20);
    assert_eq!(
        world.clients[at].replies,
        [b"hello".to_vec(), vec![7; 3000]]
    );
    assert_eq!(world.node.sessions_connected(), 1);
    assert_eq!(world.node.reassemblies(), 0);
    world.clients[at].close();
    world.run(10);
    assert_eq!(world.clients[at].codes(), [0, 4]);
    assert_eq!(
        world.heard,
        [
            Heard::Opened(session, vec![]),
            Heard::Message(session, b"hello".to_vec()),
            Heard::Message(session, vec![7; 3000]),
            Heard::Closed(session, "client"),
        ]
    );
    assert_eq!(world.node.sessions_connected(), 0);
}

#[test]
fn a_session_is_open_only_once_its_event_is_committed() {
    let mut world = World::leading();
    world.commits = false;
    let at = world.join();
    world.run(5);
    world.clients[at].connect();
    world.run(200);
    assert_eq!(world.node.counters().get(Count::OpenAppended), 1);
    assert_eq!(world.clients[at].events, []);
    world.commits = true;
    world.run(5);
    assert_eq!(world.clients[at].codes(), [0]);
}

#[test]
fn a_follower_says_who_leads() {
    let mut world = World::new();
    let leader = MemberId::new(1).unwrap();
    world.view = View::Following { leader, term: TERM };
    let at = world.join();
    world.run(5);
    world.clients[at].connect();
    world.run(10);
    let redirect = Event::Session {
        code: 2,
        session: None,
        correlation: 1100,
        leader: Some(1),
        detail: ENDPOINTS.into(),
    };
    assert_eq!(world.clients[at].events, [redirect]);
    assert_eq!(world.log_end(), 0);
    // The answer's stream has ended and its slot is free again.
    world.run(600);
    assert_eq!(world.node.links.len(), 0);
}

#[test]
fn without_a_leader_the_request_waits_in_its_window() {
    let mut world = World::new();
    world.view = View::Unknown;
    let at = world.join();
    world.run(5);
    world.clients[at].connect();
    world.run(300);
    assert_eq!(world.clients[at].events, []);
    world.node.become_leader(world.now, TERM);
    world.view = View::Leading;
    world.run(10);
    assert_eq!(world.clients[at].codes(), [0]);
}

#[test]
fn a_repeated_request_is_one_session() {
    let mut world = World::leading();
    let at = world.join();
    world.run(5);
    world.clients[at].connect();
    world.clients[at].connect();
    world.run(10);
    assert_eq!(world.clients[at].codes(), [0]);
    // After the session is open the answer is given again.
    world.clients[at].connect();
    world.run(10);
    assert_eq!(world.clients[at].codes(), [0, 0]);
    assert_eq!(world.node.sessions().len(), 1);
    assert_eq!(world.node.counters().get(Count::ConnectRepeated), 2);
    assert_eq!(world.heard.len(), 1);
}

#[test]
fn another_major_version_is_refused_in_words() {
    let mut world = World::leading();
    let at = world.join();
    world.run(5);
    world.clients[at].connect_with(semantic_version(1, 0, 0), b"");
    world.run(10);
    assert!(matches!(
        &world.clients[at].events[..],
        [Event::Session { code: 1, detail, .. }] if detail.contains("0.3.0")
    ));
    assert_eq!(world.log_end(), 0);
}

#[test]
fn one_session_too_many_is_refused_in_words_and_may_come_again() {
    let mut world = World::leading();
    for _ in 0..3 {
        world.join_open();
    }
    let last = world.join();
    world.run(5);
    world.clients[last].connect();
    world.run(10);
    assert!(matches!(
        &world.clients[last].events[..],
        [Event::Session { code: 1, detail, .. }] if detail.contains("limit")
    ));
    world.clients[0].close();
    world.run(400);
    world.clients[last].connect();
    world.run(10);
    assert_eq!(world.clients[last].codes(), [1, 0]);
}

#[test]
fn a_challenge_is_answered_rightly_or_wrongly() {
    let mut world = World::leading();
    let mut auth = SharedSecret::new(b"sesame", b"ali");
    for (credentials, code) in [(&b"sesame"[..], 0), (b"barley", 3)] {
        let at = world.join();
        world.run_with(5, &mut auth);
        world.clients[at].connect();
        world.run_with(10, &mut auth);
        let [Event::Challenge(session, bytes)] = &world.clients[at].events[..] else {
            panic!("{:?}", world.clients[at].events);
        };
        assert_eq!(bytes, b"secret?");
        let session = *session;
        let client = &mut world.clients[at];
        client.correlation += 500;
        client.send(&Message::ChallengeResponse(ChallengeResponse {
            correlation: client.correlation,
            session,
            credentials,
        }));
        let correlation = client.correlation;
        world.run_with(10, &mut auth);
        assert!(matches!(
            world.clients[at].events[1],
            Event::Session { code: c, correlation: o, .. } if c == code && o == correlation
        ));
    }
    let [Heard::Opened(_, principal)] = &world.heard[..] else {
        panic!("{:?}", world.heard);
    };
    assert_eq!(principal, b"ali");
}

#[test]
fn a_host_name_is_looked_up_by_the_driver() {
    let mut world = World::leading();
    let at = world.join();
    world.run(5);
    let version = semantic_version(0, 3, 0);
    world.clients[at].connect_to("aeron:udp?endpoint=gw.example:5000", version, b"");
    world.run(5);
    let resolve = world.node.poll_resolve().unwrap();
    assert_eq!((resolve.host.as_str(), resolve.port), ("gw.example", 5000));
    assert_eq!(world.node.poll_resolve(), None);
    // The answer is lost: a second later the question comes again.
    world.run(1010);
    let resolve = world.node.poll_resolve().unwrap();
    let address = world.clients[at].address;
    world.node.handle_resolved(resolve.id, Some(address));
    world.run(10);
    assert_eq!(world.clients[at].codes(), [0]);
}

#[test]
fn a_host_name_without_an_address_ends_the_attempt() {
    let mut world = World::leading();
    let at = world.join();
    world.run(5);
    let version = semantic_version(0, 3, 0);
    world.clients[at].connect_to("aeron:udp?endpoint=nowhere:5000", version, b"");
    world.run(5);
    let resolve = world.node.poll_resolve().unwrap();
    world.node.handle_resolved(resolve.id, None);
    assert_eq!(world.node.links.len(), 0);
    assert_eq!(world.node.counters().get(Count::ResolveFailed), 1);
    world.node.handle_resolved(resolve.id, None);
    assert_eq!(world.node.counters().get(Count::ResolveFailed), 1);
}

#[test]
fn who_never_answers_on_its_egress_opens_nothing() {
    let mut world = World::leading();
    let at = world.join();
    world.run(5);
    let version = semantic_version(0, 3, 0);
    let nobody = "aeron:udp?endpoint=127.0.0.1:1";
    world.clients[at].connect_to(nobody, version, b"");
    world.sleep(Duration::from_secs(6), Duration::from_millis(100));
    assert_eq!(world.log_end(), 0);
    assert_eq!(world.node.links.len(), 0);
}

#[test]
fn attempts_under_way_are_sent_to_the_next_leader() {
    let mut world = World::leading();
    world.commits = false;
    let at = world.join();
    world.run(5);
    world.clients[at].connect();
    world.run(10);
    world.node.step_down(world.now);
    world.view = View::Unknown;
    world.run(10);
    assert_eq!(world.clients[at].events, []);
    let (leader, term) = (MemberId::new(1).unwrap(), Term::new(8));
    world.view = View::Following { leader, term };
    world.run(10);
    assert!(matches!(
        world.clients[at].events[..],
        [Event::Session {
            code: 2,
            leader: Some(1),
            ..
        }]
    ));
}
