//! Member traffic from whoever is no member: counted, and of no effect.

use std::net::UdpSocket;

use coracle_core::units::{ClusterId, Incarnation, MemberId, Position, Term};
use coracle_core::wire::member::{Body, MEMBER_MESSAGE_MAX, MemberMessage, RequestVote, Sender};
use coracle_tests::process::{Cluster, Plan, Session, until};
use serde_json::Value;

const MEMBER: u8 = 2;

/// A request that deposes a leader of the term before, if it comes from a member: for a hand-over.
fn request(cluster: u64, member: u8, term: u32) -> Vec<u8> {
    let message = MemberMessage {
        sender: Sender {
            cluster: ClusterId(cluster),
            incarnation: Incarnation::FIRST,
            member: MemberId::new(member).unwrap(),
        },
        body: Body::RequestVote(RequestVote {
            term: Term::new(term),
            log_term: Term::new(term - 1),
            position: Position::from_wire(1 << 40).unwrap(),
            transfer: true,
        }),
    };
    let mut bytes = vec![0; MEMBER_MESSAGE_MAX];
    let len = message.emit(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// One more than the newest term.
fn next_term(cluster: &Cluster) -> u32 {
    until("somebody to answer", || {
        let all = cluster.status();
        let newest = all.iter().filter_map(|m| m["term"].as_u64()).max();
        newest.map(|term| term as u32 + 1)
    })
}

/// What must not change, and what counts the refused.
fn view(cluster: &Cluster, member: u8) -> (Value, Vec<u8>, u64) {
    let mut status = cluster.answer_of(member);
    let rejects = status["rejects"].as_u64().expect("a number");
    for passing in ["rejects", "uptime_ms", "flush_age_ms", "service_age_ms"] {
        status[passing] = Value::Null;
    }
    let state = std::fs::read(cluster.data(member).join("node-state")).unwrap();
    (status, state, rejects)
}

/// Sends ten times, and requires that this is counted and has changed nothing.
#[track_caller]
fn require_no_effect(cluster: &Cluster, member: u8, what: &str, send: impl Fn()) {
    let (status, state, rejects) = view(cluster, member);
    for _ in 0..10 {
        send();
    }
    until(&format!("{what} to be counted"), || {
        (view(cluster, member).2 >= rejects + 10).then_some(())
    });
    let (status_after, state_after, _) = view(cluster, member);
    assert_eq!(status_after, status, "{what} has changed member {member}");
    assert_eq!(
        state_after, state,
        "{what} has changed the vote of member {member}"
    );
    until(&format!("{what} to be in the counters file"), || {
        let counted = cluster.counters(member)["rejects"].as_u64()?;
        (counted >= rejects + 10).then_some(())
    });
}

#[test]
fn strangers_are_counted_and_change_nothing() {
    let mut cluster = Cluster::start("strangers", Plan::patient());
    // The member whose name is to be misused is away. If it led, another leads now.
    cluster.kill(MEMBER);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(50, 8, 100);
    session.close();
    let leader = cluster.leader();
    until("level survivors", || {
        let all = cluster.status();
        let is_done = |m: &Value| m["applied"] == m["appended"] && m["sessions"] == 0;
        (all[0]["applied"] == all[1]["applied"] && all[..2].iter().all(is_done)).then_some(())
    });

    let at_its_address = UdpSocket::bind(("127.0.0.1", cluster.ports_of(MEMBER)[0])).unwrap();
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    let term = next_term(&cluster);
    let good = request(77, MEMBER, term);
    let mut damaged = good.clone();
    damaged.truncate(good.len() - 9);
    let mut newer = good.clone();
    newer[0..32].reverse();
    let strange: [(&str, &UdpSocket, Vec<u8>); 8] = [
        ("an unlisted source", &elsewhere, good.clone()),
        (
            "another cluster",
            &at_its_address,
            request(78, MEMBER, term),
        ),
        (
            "another member's id",
            &at_its_address,
            request(77, 1 - leader, term),
        ),
        (
            "the receiver's own id",
            &at_its_address,
            request(77, leader, term),
        ),
        ("a truncated message", &at_its_address, damaged),
        ("a wild header", &at_its_address, newer),
        ("one byte", &at_its_address, vec![7]),
        ("zeros", &at_its_address, vec![0; 1400]),
    ];
    for (what, socket, datagram) in strange {
        for member in 0..2 {
            require_no_effect(&cluster, member, what, || {
                let to = ("127.0.0.1", cluster.ports_of(member)[0]);
                socket.send_to(&datagram, to).unwrap();
            });
        }
    }

    // The same request with the right names from the right address does count: the test can fail.
    let to = ("127.0.0.1", cluster.ports_of(leader)[0]);
    until("the member's own request to be heeded", || {
        at_its_address.send_to(&good, to).unwrap();
        (next_term(&cluster) > term).then_some(())
    });
}

#[test]
fn a_client_port_takes_no_member_traffic() {
    let cluster = Cluster::start("doors", Plan::patient());
    let leader = cluster.leader();
    // What a new leader still commits is no stranger's doing.
    until("the first of the term to be executed by all", || {
        let all = cluster.status();
        let is_done = |m: &Value| m["appended"] != 0 && m["applied"] == m["appended"];
        all.iter().all(is_done).then_some(())
    });
    let (status, state, _) = view(&cluster, leader);
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    let term = next_term(&cluster);
    let received = || cluster.counters(leader)["received"].as_u64().unwrap();
    let rejected = || cluster.counters(leader)["rejects"].as_u64().unwrap();
    let (before, was_received) = (rejected(), received());
    for _ in 0..10 {
        let to = ("127.0.0.1", cluster.ports_of(leader)[1]);
        elsewhere.send_to(&request(77, MEMBER, term), to).unwrap();
    }
    until("them to be counted", || {
        (rejected() >= before + 10).then_some(())
    });
    assert!(received() >= was_received + 10);
    let (status_after, state_after, _) = view(&cluster, leader);
    assert_eq!((status_after, state_after), (status, state));
}
