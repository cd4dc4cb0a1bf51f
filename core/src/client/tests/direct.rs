//! Messages that are taken from the datagram in which they arrive.

use super::sessions::{SECOND, messages};
use super::std::vec::Vec;

use super::member::{Script, address};
use super::*;
use crate::wire::frame::{FLAG_BEGIN, FLAG_END};

/// A client that does not read, and the datagram, still on its way, with the answers to all of
/// these.
fn answered(all: &[&[u8]]) -> (World, Vec<u8>) {
    let mut world = World::new(1, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    world.reads = false;
    for message in all {
        world.offer(message).unwrap();
    }
    let is_answer = |entry: &&(SocketAddr, SocketAddr, Vec<u8>)| {
        entry.1 == client_address() && entry.2.len() > 32 && entry.2[6] == 1
    };
    loop {
        world.turn();
        if let Some((_, _, bytes)) = world.link.values().find(is_answer) {
            let bytes = bytes.clone();
            assert_eq!(bytes.len(), all.len() * 96);
            return (world, bytes);
        }
        world.advance();
    }
}

/// What is taken from there, and how many bytes of it that was.
fn take(world: &mut World, from: SocketAddr, bytes: &[u8]) -> (Option<Said>, usize) {
    let mut rest = bytes;
    let said = world.client.take_egress(world.now, from, &mut rest);
    (said.map(Said::from), bytes.len() - rest.len())
}

const NOTHING: (Option<Said>, usize) = (None, 0);

#[test]
fn messages_that_are_taken_where_they_arrive_come_behind_those_that_wait() {
    for seed in 0..8 {
        let mut world = World::new(seed, [Script::Lead, Script::Dead, Script::Dead]);
        world.lose = if seed > 3 { 10 } else { 0 };
        world.open();
        let all = messages(seed, 300, 300);
        for (n, message) in all.iter().enumerate() {
            while world.offer(message).is_err() {
                world.turn();
                world.advance();
            }
            world.reads = n % 20 > 4;
            world.turn();
            world.advance();
        }
        world.reads = true;
        assert!(world.run(SECOND * 20, |w| w.answers().len() == all.len()));
        assert!(world.answers() == all);
        // Behind what was lost all waits.
        let some = if world.lose == 0 { 100..200 } else { 1..200 };
        assert!(some.contains(&world.taken), "{} of 300", world.taken);
    }
}

#[test]
fn only_the_leaders_next_message_is_taken_where_it_arrives() {
    let (mut world, datagram) = answered(&[b"one", b"two"]);
    let (w, leader) = (&mut world, address(0));
    let [first, second] = [b"one", b"two"].map(|m| Said::Message(3, m.to_vec()));
    // Another member, and another version, type, place, session, stream, term or session of the
    // cluster; parts of messages.
    assert_eq!(take(w, address(1), &datagram), NOTHING);
    for at in [4, 6, 8, 12, 16, 20, 32 + 16] {
        let mut other = datagram.clone();
        other[at] ^= 1;
        assert_eq!(take(w, leader, &other), NOTHING, "{at}");
    }
    for flags in [0, FLAG_BEGIN, FLAG_END] {
        let mut other = datagram.clone();
        other[5] = flags;
        assert_eq!(take(w, leader, &other), NOTHING, "a part");
    }
    for len in [0, 31, 32, 66, 95] {
        assert_eq!(take(w, leader, &datagram[..len]), NOTHING);
    }
    assert_eq!(take(w, leader, &datagram[96..]), NOTHING);
    assert_eq!(take(w, leader, &datagram), (Some(first), 96));
    assert_eq!(take(w, leader, &datagram), NOTHING, "once");
    assert_eq!(take(w, leader, &datagram[96..]), (Some(second), 96));
    // The whole datagram, which is still on its way, brings nothing new.
    world.reads = true;
    world.run(SECOND, |_| false);
    assert_eq!(world.said, []);
}

#[test]
fn a_message_in_parts_that_another_follows_does_not_go_on() {
    let (mut world, mut datagram) = answered(&[b"one", b"two", b"three"]);
    let (now, leader) = (world.now, address(0));
    datagram[5] = FLAG_BEGIN;
    datagram[2 * 96 + 5] = FLAG_END;
    let hear = |world: &mut World, bytes: &[u8]| {
        let lent = &mut world.memory.lent();
        world
            .client
            .handle_datagram(now, leader, bytes, lent)
            .unwrap();
        world
            .client
            .poll_egress(now, &mut world.memory.lent())
            .map(Said::from)
    };
    assert_eq!(hear(&mut world, &datagram[..96]), None);
    let second = Said::Message(3, b"two".to_vec());
    assert_eq!(
        take(&mut world, leader, &datagram[96..192]),
        (Some(second), 96)
    );
    assert_eq!(hear(&mut world, &datagram[192..]), None);
}
