//! Back pressure: what has no room waits in its own window, and nothing accepted is lost.

extern crate std;

use core::net::SocketAddr;
use core::time::Duration;
use std::vec;
use std::vec::Vec;

use super::client::{Client, Event};
use super::world::{Heard, MESSAGE_MAX, MTU, SLOTS, TERM, World, config};
use crate::log::{Frames, Log};
use crate::node::clients::{Clients, ClientsConfig, Count, Memory};
use crate::session::AllowAll;
use crate::time::Instant;
use crate::units::{Position, SessionId};
use crate::wire::cluster::CloseReason;

#[test]
fn a_full_log_closes_the_window_and_loses_nothing() {
    let mut world = World::with_log(8192);
    world.node.become_leader(world.now, TERM);
    let at = world.join_open();
    world.commits = false;
    let sent: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; 700]).collect();
    for message in &sent {
        world.clients[at].say(message);
    }
    world.run(500);
    let end = world.log.end();
    let waiting = world.clients[at].waiting.len();
    assert!(waiting > 100, "the client's offer says so: {waiting}");
    world.run(100);
    assert_eq!(
        (world.log.end(), world.clients[at].waiting.len()),
        (end, waiting)
    );
    // A session that waits for us is not silent.
    world.sleep(Duration::from_secs(11), Duration::from_millis(100));
    world.commits = true;
    world.run(500);
    let session = world.clients[at].session.unwrap();
    assert_eq!(world.messages_of(session), sent);
    assert_eq!(world.clients[at].replies, sent);
    assert_eq!(world.close_reasons().len(), 0);
}

#[test]
fn memory_that_holds_nothing_is_named_and_only_if_there_is_much() {
    let mut world = World::leading();
    let at = world.join_open();
    let sent: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; 700]).collect();
    for message in &sent {
        world.clients[at].say(message);
    }
    // Of what is named all is overwritten, at every step.
    world.run(500);
    assert_eq!(world.clients[at].replies, sent);
    let both_ways = 2 * 200 * 700;
    assert!(world.spoilt > both_ways, "{} bytes", world.spoilt);
    // Nothing is left.
    let lent = (world.ingress.len(), world.egress.len());
    assert_eq!(world.node.poll_unused(0, lent.0, lent.1), None);
    world.clients[at].say(&[1; 700]);
    for _ in 0..20 {
        world.client_sends(at);
        world.admit(&mut AllowAll);
    }
    let little = 700;
    for _ in 0..2 * SLOTS {
        assert_eq!(world.node.poll_unused(4 * little, lent.0, lent.1), None);
    }
    assert!(world.node.poll_unused(0, lent.0, lent.1).is_some());
}

#[test]
fn a_reader_that_pauses_gets_everything() {
    let mut world = World::leading();
    let at = world.join_open();
    let sent: Vec<Vec<u8>> = (0..200u8)
        .map(|n| vec![n; 1000 + usize::from(n) * 10])
        .collect();
    for message in &sent {
        world.clients[at].say(message);
    }
    for _ in 0..20 {
        world.clients[at].reads = false;
        world.run(50);
        world.clients[at].reads = true;
        world.run(100);
    }
    assert_eq!(world.clients[at].replies, sent);
    assert_eq!(world.node.counters().get(Count::EgressOverflow), 0);
}

/// Aeron's driver does not tell of the last little that its client has consumed. Such a client is
/// neither closed nor held up.
#[test]
fn a_client_whose_driver_tells_sparingly_is_not_taken_for_one_that_does_not_read() {
    let mut world = World::leading();
    let at = world.join();
    world.clients[at].sparing = true;
    world.run(5);
    world.clients[at].connect();
    world.run(10);
    let mut sent = Vec::new();
    for n in 0..40u8 {
        // Up to a kilobyte in a second, and three seconds of silence are too many.
        let message = vec![n; 100 + 20 * usize::from(n)];
        world.clients[at].say(&message);
        sent.push(message);
        world.sleep(Duration::from_secs(1), Duration::from_millis(50));
        assert_eq!(world.clients[at].replies, sent);
    }
    for _ in 0..10 {
        world.clients[at].keep_alive();
        world.sleep(Duration::from_secs(2), Duration::from_millis(50));
    }
    // As many as the window allows, all at once.
    for n in 0..200u8 {
        let message = vec![n; 1300];
        world.clients[at].say(&message);
        sent.push(message);
    }
    world.run(1000);
    assert_eq!(world.clients[at].replies, sent);
    assert_eq!(world.node.counters().get(Count::EgressTimeout), 0);
    assert_eq!(world.close_reasons().len(), 0);

    // But one that does not read at all is.
    world.clients[at].reads = false;
    for n in 0..200u8 {
        world.clients[at].say(&vec![n; 1300]);
    }
    world.sleep(Duration::from_secs(4), Duration::from_millis(50));
    assert_eq!(world.node.counters().get(Count::EgressTimeout), 1);
    assert_eq!(world.close_reasons(), ["timeout"]);
}

#[test]
fn frames_of_the_log_are_as_long_as_the_log_has_them_and_not_as_answers() {
    for is_direct in [true, false] {
        let mut world = World::new();
        world.node = Clients::new(ClientsConfig {
            mtu: 2 * MTU,
            ..config()
        });
        world.is_direct = is_direct;
        world.node.become_leader(world.now, TERM);
        let at = world.join_open();
        // Whole in its datagram: that may be longer than a frame of the log.
        world.clients[at].say(&[3; MTU - 64]);
        world.clients[at].say(&[4; 4000]);
        world.run(20);
        let replies = world.clients[at].replies.iter().map(Vec::len);
        assert!(replies.eq([MTU - 64, 4000]));
        let run = world.log.read(Position::ZERO);
        let mut frames = Frames::new(run, Position::ZERO, 1 << 20);
        assert!(frames.all(|frame| frame.bytes.len() <= MTU));
    }
}

#[test]
fn fragmented_messages_share_one_reassembly_slot() {
    let mut world = World::leading();
    let a = world.join_open();
    let b = world.join_open();
    for n in 0..20 {
        world.clients[a].say(&[n; 4000]);
        world.clients[b].say(&[n; 3000]);
    }
    world.run(200);
    for (at, len) in [(a, 4000), (b, 3000)] {
        let expected: Vec<Vec<u8>> = (0..20).map(|n| vec![n; len]).collect();
        assert_eq!(world.clients[at].replies, expected);
    }
    assert_eq!(world.node.reassemblies(), 0);
}

#[test]
fn a_message_over_the_limit_is_refused_in_words_and_the_next_one_goes_on() {
    let mut world = World::leading();
    let at = world.join_open();
    let most = MESSAGE_MAX - 32;
    world.clients[at].say(&vec![1; most + 1]);
    world.clients[at].say(&vec![2; most]);
    world.clients[at].say(&vec![3; 7000]);
    world.run(50);
    assert_eq!(world.clients[at].replies, [vec![2; most]]);
    let mut refusals = 0;
    for event in &world.clients[at].events {
        let Event::Session {
            code: 1, detail, ..
        } = event
        else {
            continue;
        };
        assert!(detail.contains("4096"), "{detail}");
        refusals += 1;
    }
    assert_eq!(refusals, 2);
    assert_eq!(world.node.counters().get(Count::MessageTooLong), 2);
    assert_eq!(world.node.reassemblies(), 0);
}

#[test]
fn a_half_sent_message_frees_its_slot_when_its_stream_dies() {
    let mut world = World::leading();
    let at = world.join_open();
    let other = world.join_open();
    world.clients[at].say(&[1; 4000]);
    world.cut_after(at, 1);
    world.run(5);
    assert_eq!(world.node.reassemblies(), 1);
    world.clients[other].say(&[2; 4000]);
    for _ in 0..24 {
        world.clients[other].keep_alive();
        world.sleep(Duration::from_millis(500), Duration::from_millis(50));
    }
    assert_eq!(world.node.reassemblies(), 0);
    assert_eq!(world.clients[other].replies, [vec![2; 4000]]);
}

#[test]
fn a_reassembly_slot_is_free_again_when_its_session_is_closed() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    world.clients[at].say(&[1; 4000]);
    let datagrams = world.due(at);
    let address = world.clients[at].address;
    world.inject(address, &datagrams[0]).unwrap();
    world.clients[at].mute = true;
    world.run(2);
    assert_eq!(world.node.reassemblies(), 1);
    world.node.owe_close(session, CloseReason::ServiceAction);
    world.run(2);
    assert_eq!(world.close_reasons(), ["service"]);
    assert_eq!(world.node.reassemblies(), 0);
    // The rest of the message comes late, and is nothing.
    for datagram in &datagrams[1..] {
        world.inject(address, datagram).unwrap();
    }
    world.run(2);
    assert_eq!(world.node.reassemblies(), 0);
}

#[test]
fn what_is_in_flight_counts_as_if_it_were_answered() {
    let mut world = World::leading();
    let at = world.join_open();
    world.commits = false;
    for _ in 0..100 {
        world.clients[at].say(&[1; 1000]);
    }
    world.run(300);
    let appended = world.node.counters().get(Count::MessageAppended);
    assert!((10..20).contains(&appended), "half of 32 KiB: {appended}");
    world.commits = true;
    world.run(300);
    assert_eq!(world.clients[at].replies.len(), 100);
    assert_eq!(world.node.counters().get(Count::EgressOverflow), 0);
}

#[test]
fn a_gathered_message_never_waits_for_its_client_with_the_slot_in_hand() {
    let mut world = World::leading();
    let at = world.join_open();
    let session = world.clients[at].session.unwrap();
    world.clients[at].say(&[1; 4000]);
    let datagrams = world.due(at);
    let address = world.clients[at].address;
    world.inject(address, &datagrams[0]).unwrap();
    world.run(1);
    assert_eq!(world.node.reassemblies(), 1);
    world.clients[at].reads = false;
    for _ in 0..8 {
        assert_eq!(world.offer(session, &[&[2; 3000]]), Ok(()));
    }
    for datagram in &datagrams[1..] {
        world.inject(address, datagram).unwrap();
    }
    world.run(1);
    assert_eq!(world.node.reassemblies(), 0);
    assert_eq!(world.messages_of(session), [vec![1; 4000]]);
    // The next one waits, without a slot.
    world.clients[at].say(&[3; 4000]);
    world.run(5);
    assert_eq!(world.node.reassemblies(), 0);
    assert_eq!(world.messages_of(session).len(), 1);
    world.clients[at].reads = true;
    world.run(300);
    assert_eq!(world.messages_of(session).len(), 2);
}

#[test]
fn one_reassembly_slot_goes_round() {
    let mut world = World::leading();
    for _ in 0..SLOTS - 1 {
        world.join_open();
    }
    for _ in 0..40 {
        for client in &mut world.clients {
            client.say(&[5; 4000]);
        }
    }
    // At every moment all are about equally far.
    for _ in 0..400 {
        world.run(1);
        let done = world.clients.iter().map(|client| client.replies.len());
        let (least, most) = (done.clone().min().unwrap(), done.max().unwrap());
        assert!(most - least <= 1, "{least} {most}");
    }
    assert!(
        world
            .clients
            .iter()
            .all(|client| client.replies.len() == 40)
    );
}

#[test]
fn long_messages_take_turns_in_one_slot() {
    long_messages_take_turns(false, 2);
    // Here what one client sends at once is there before the other's.
    long_messages_take_turns(true, 3);
}

fn long_messages_take_turns(is_direct: bool, most: usize) {
    let mut world = World::leading();
    world.is_direct = is_direct;
    for number in 0..2 {
        let address = SocketAddr::from(([127, 0, 0, 1], 5000 + number));
        let client = Client::at(address, 100 + i32::from(number), world.now, 256);
        world.clients.push(client);
        world.run(5);
        world.clients.last_mut().unwrap().connect();
        world.run(10);
    }
    for _ in 0..6 {
        for client in &mut world.clients {
            client.say(&[5; 4000]);
        }
    }
    world.run(100);
    let order = world.heard.iter().filter_map(|heard| match heard {
        Heard::Message(session, _) => Some(*session),
        _ => None,
    });
    let order: Vec<_> = order.collect();
    assert_eq!(order.len(), 12);
    let is_alike = |row: &&[SessionId]| row.iter().all(|one| *one == row[0]);
    let alike = order.windows(most + 1).filter(is_alike);
    assert_eq!(alike.count(), 0, "{order:?}");
}

#[test]
fn a_log_without_room_is_shared_fairly() {
    log_without_room(false, 4);
    // Whoever comes first while nobody waits is served first, and in this world that is always the
    // same one.
    log_without_room(true, 8);
}

fn log_without_room(is_direct: bool, most: usize) {
    let mut world = World::with_log(4096);
    world.is_direct = is_direct;
    world.node.become_leader(world.now, TERM);
    let a = world.join_open();
    let b = world.join_open();
    for at in [a, b] {
        for _ in 0..100 {
            world.clients[at].say(&[1; 1000]);
        }
    }
    world.run(30);
    let [a, b] = [a, b].map(|at| world.clients[at].replies.len());
    assert!(a.min(b) > 5 && a.abs_diff(b) <= most, "{a} {b}");
}

/// What a turn costs is shared by all that it takes, so one call takes as much as there is.
#[test]
fn a_stream_that_is_alone_has_the_whole_call() {
    let mut world = World::leading();
    let (at, _silent) = (world.join_open(), world.join_open());
    let appended = |world: &World| world.node.counters().get(Count::MessageAppended);
    for _ in 0..140 {
        world.clients[at].say(&[1; 8]);
    }
    world.client_sends(at);
    assert!(!world.admit(&mut AllowAll), "nothing is left");
    assert_eq!(appended(&world), 140);
}

/// One call at a time may be forked: the clone goes on alike, and is equal while it does.
#[test]
fn a_fork_goes_the_same_way() {
    let mut world = World::leading();
    world.is_direct = false;
    let at = world.join_open();
    world.clients[at].say(&[1; 4000]);
    let datagrams = world.due(at);
    let mut fork = world.node.clone();
    assert!(fork == world.node);
    let address = world.clients[at].address;
    let (mut ingress, mut egress) = (world.ingress.clone(), world.egress.clone());
    let mut reassembly = world.reassembly.clone();
    let mut memory = Memory {
        ingress: &mut ingress,
        egress: &mut egress,
        reassembly: &mut reassembly,
    };
    for datagram in &datagrams {
        world.inject(address, datagram).unwrap();
        fork.handle_datagram(world.now, address, datagram, &mut memory)
            .unwrap();
    }
    assert!(fork == world.node);
    assert_eq!(ingress, world.ingress);
}

#[test]
fn the_next_deadline_is_enough_to_wake_for() {
    let mut world = World::leading();
    let at = world.join_open();
    // Until its greeting is known to be consumed.
    world.run(250);
    world.clients[at].mute = true;
    let begin = world.now;
    let mut wakes = 0;
    while world.close_reasons().is_empty() {
        let next = world.node.poll_timeout().unwrap();
        assert!(next > world.now, "nothing is overdue after a turn");
        world.now = Instant::from_nanos(next.nanos() - 1_000_000);
        world.run(1);
        wakes += 1;
        assert!(wakes < 1000);
    }
    let waited = world.now.since(begin);
    let second = Duration::from_secs(1);
    assert!(waited > 9 * second && waited < 10 * second, "{waited:?}");
}
