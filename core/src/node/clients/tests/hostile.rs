//! Whatever arrives, it is counted, nothing breaks, and the log takes only what belongs there.

extern crate std;

use core::net::SocketAddr;
use std::vec;
use std::vec::Vec;

use super::client::Client;
use super::world::{MTU, SLOTS, World};
use crate::node::clients::{Count, Reject};
use crate::prng::Prng;
use crate::stream::{CONTROL_MAX, Control, Output};
use crate::wire::Reject as Malformed;
use crate::wire::frame::Rttm;

fn first_datagram(client: &mut Client, world: &World) -> Vec<u8> {
    let mut buffer = [0; CONTROL_MAX];
    match client.publication.poll_transmit(world.now, &[]).unwrap() {
        Output::Control(control) => control.emit(&mut buffer).to_vec(),
        Output::Frames(frames) => frames.to_vec(),
    }
}

#[test]
fn nobody_else_may_speak_for_a_session() {
    let mut world = World::leading();
    let at = world.join_open();
    let thief = SocketAddr::from(([127, 0, 0, 9], 5000));
    let mut client = Client::at(thief, 77, world.now, MTU);
    client.session = world.clients[at].session;
    client.term = world.clients[at].term;
    world.clients.push(client);
    world.run(5);
    world.clients.last_mut().unwrap().say(b"stolen");
    world.run(5);
    let session = world.clients[at].session.unwrap();
    assert!(world.messages_of(session).is_empty());
    assert_eq!(world.node.counters().get(Count::ForeignSource), 1);
    // The same stream id from another address is not the same stream.
    let mut client = Client::at(thief, 100, world.now, MTU);
    let setup = first_datagram(&mut client, &world);
    let refused = world.inject(thief, &setup);
    assert_eq!(refused, Err(Reject::Refused(Count::ForeignSource)));
}

#[test]
fn a_client_may_come_back_on_a_new_stream_and_its_old_one_is_over() {
    let mut world = World::leading();
    let old = world.join_open();
    let address = SocketAddr::from(([127, 0, 0, 1], 5999));
    let mut client = Client::at(address, 77, world.now, MTU);
    client.session = world.clients[old].session;
    client.term = world.clients[old].term;
    world.clients.push(client);
    world.run(5);
    let new = world.clients.len() - 1;
    world.clients[new].say(b"second life");
    world.run(5);
    world.clients[old].say(b"ghost");
    world.run(5);
    let session = world.clients[old].session.unwrap();
    assert_eq!(world.messages_of(session), [b"second life"]);
}

#[test]
fn unknown_senders_are_asked_for_their_setup() {
    let mut world = World::leading();
    let at = world.join_open();
    // This member restarts: the client's publication never sends SETUP again by itself.
    let mut config = super::world::config();
    config.seed += 1;
    world.node = crate::node::clients::Clients::new(config);
    world.node.become_leader(world.now, super::world::TERM);
    world.run(300);
    assert_eq!(world.node.ingress_streams(), 1);
    world.clients[at].connect();
    world.run(10);
    assert_eq!(world.node.sessions().len(), 1);
}

#[test]
fn one_stream_too_many_is_counted() {
    let mut world = World::leading();
    for _ in 0..=SLOTS {
        world.join();
    }
    world.run(5);
    assert_eq!(world.node.ingress_streams(), SLOTS);
    assert!(world.node.counters().get(Count::ImageLimit) > 0);
}

#[test]
fn streams_that_nobody_sends_on_make_room() {
    let mut world = World::leading();
    let open = world.join_open();
    for _ in 1..SLOTS {
        let ghost = world.join();
        world.run(2);
        world.clients[ghost].mute = true;
    }
    world.clients[open].mute = true;
    world.run(1100);
    let late = world.join();
    world.run(20);
    assert_eq!(world.node.ingress_streams(), SLOTS);
    assert!(world.clients[late].publication.is_connected());
    // The stream of an open session keeps its place, though it is silent too.
    world.clients[open].mute = false;
    world.clients[open].say(b"still here");
    world.run(20);
    let session = world.clients[open].session.unwrap();
    assert_eq!(world.messages_of(session), [b"still here"]);
    assert_eq!(world.node.counters().get(Count::UnknownStream), 0);
}

#[test]
fn a_round_trip_is_answered_on_both_kinds_of_streams() {
    let mut world = World::leading();
    let at = world.join_open();
    let address = world.clients[at].address;
    let egress = world.node.links.key(0).unwrap();
    for (session_id, stream_id) in [(100, 101), (egress, 102)] {
        let rttm = Rttm {
            reply: true,
            session_id,
            stream_id,
            echo_timestamp: 5,
            reception_delta: 0,
            receiver_id: 1,
        };
        let mut buffer = [0; CONTROL_MAX];
        let datagram = Control::Rttm(rttm).emit(&mut buffer).to_vec();
        world.inject(address, &datagram).unwrap();
        let transmit = world.node.poll_transmit(world.now, &world.egress).unwrap();
        assert_eq!(transmit.to, address);
        let Output::Control(Control::Rttm(echo)) = transmit.payload else {
            panic!("{:?}", transmit.payload);
        };
        assert_eq!((echo.echo_timestamp, echo.reply), (5, false));
    }
}

#[test]
fn nonsense_is_counted_by_kind() {
    let mut world = World::leading();
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let short = world.inject(from, &[1, 2, 3]);
    assert_eq!(short, Err(Reject::Malformed(Malformed::Short)));
    let short = Malformed::Short.index();
    assert_eq!(world.node.counters().malformed()[short], 1);
}

#[test]
fn damaged_datagrams_never_break_anything() {
    for seed in 0..20 {
        let mut world = World::leading();
        let mut prng = Prng::new(seed);
        let at = world.join_open();
        let mut datagrams = vec![];
        for round in 0..40u8 {
            world.clients[at].say(&vec![round; prng.below(3000) as usize]);
            for datagram in world.due(at) {
                for _ in 0..3 {
                    let mut damaged: Vec<u8> = datagram.clone();
                    for _ in 0..=prng.below(3) {
                        let byte = prng.below(damaged.len() as u64) as usize;
                        damaged[byte] ^= 1 << prng.below(8);
                    }
                    let len = prng.below(damaged.len() as u64 + 1) as usize;
                    datagrams.push(damaged[..len].to_vec());
                    datagrams.push(damaged);
                }
                datagrams.push(datagram);
            }
            for datagram in datagrams.drain(..) {
                let from = world.clients[at].address;
                let _counted = world.inject(from, &datagram);
            }
            world.run(5);
        }
        assert_eq!(world.node.leading(), Some(super::world::TERM));
    }
}
