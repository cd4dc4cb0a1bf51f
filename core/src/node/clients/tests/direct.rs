//! Straight from a datagram into the log, where nothing waits; and the same as by the long way.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::world::{TERM, World};
use crate::log::Log;
use crate::node::clients::Count;
use crate::prng::Prng;
use crate::session::AllowAll;

/// Datagrams of one client arrive, and nothing else happens.
fn arrive(world: &mut World, at: usize) {
    let address = world.clients[at].address;
    for datagram in world.due(at) {
        world.inject(address, &datagram).unwrap();
    }
}

#[test]
fn what_comes_in_order_is_in_the_log_at_once() {
    let mut world = World::leading();
    let at = world.join_open();
    for (message, frames) in [(vec![1; 100], 1), (vec![2; 4000], 3)] {
        let before = world.log_end();
        world.clients[at].say(&message);
        arrive(&mut world, at);
        let least = before + message.len() as u64 + 64 + 32 * (frames - 1);
        assert!(world.log_end() >= least, "{} bytes", message.len());
        assert!(!world.node.direct.waits);
    }
    assert_eq!(world.node.reassemblies(), 0);
    world.run(10);
    assert_eq!(world.clients[at].replies, [vec![1; 100], vec![2; 4000]]);
}

#[test]
fn what_waits_is_not_overtaken() {
    let mut world = World::with_log(8192);
    world.node.become_leader(world.now, TERM);
    let (a, b) = (world.join_open(), world.join_open());
    world.commits = false;
    for n in 0..20 {
        world.clients[a].say(&[n; 700]);
    }
    world.run(5);
    assert!(world.node.direct.waits, "the log is full");
    world.apply();
    // There is room again, and it is for who has waited.
    let end = world.log.end();
    world.clients[b].say(&[99; 100]);
    arrive(&mut world, b);
    assert_eq!(world.log.end(), end);
    world.commits = true;
    world.run(50);
    assert_eq!(world.clients[a].replies.len(), 20);
    assert_eq!(world.clients[b].replies, [vec![99; 100]]);
    assert!(!world.node.direct.waits);
}

#[test]
fn who_has_heard_enough_says_so_and_still_takes_what_has_arrived() {
    let mut world = World::with_log(1 << 20);
    world.node.become_leader(world.now, TERM);
    let at = world.join_open();
    world.admit(&mut AllowAll);
    let before = world.node.counters().get(Count::MessageAppended);
    let say = |world: &mut World, mut count: usize| {
        while count > 0 {
            let some = count.min(40);
            for _ in 0..some {
                world.clients[at].say(&[7; 32]);
            }
            arrive(world, at);
            world.apply();
            world.node_sends();
            count -= some;
        }
        world.node.counters().get(Count::MessageAppended) - before
    };
    assert_eq!(say(&mut world, 255), 255);
    assert!(!world.node.is_fed());
    assert_eq!(say(&mut world, 1), 256);
    assert!(world.node.is_fed());
    // The rest of what the driver had received when it could ask.
    assert_eq!(say(&mut world, 400), 656);
    assert!(world.node.is_fed() && !world.node.direct.waits);
    world.admit(&mut AllowAll);
    assert!(!world.node.is_fed());
}

#[test]
fn no_more_is_taken_at_once_than_there_is_time_for() {
    let mut world = World::with_log(1 << 20);
    world.node.become_leader(world.now, TERM);
    let all = [(); 3].map(|()| world.join_open());
    world.admit(&mut AllowAll);
    for (n, at) in (0..45u8).zip(all.into_iter().cycle()) {
        for _ in 0..40 {
            world.clients[at].say(&[n; 32]);
        }
        arrive(&mut world, at);
        world.apply();
        world.node_sends();
    }
    // 128 KiB without an admission, at 96 bytes each: the others are in their window. What waits
    // there is the next that is looked at, so more may be received.
    let appended = world.node.counters().get(Count::MessageAppended);
    assert_eq!(appended, (128_u64 << 10).div_ceil(96));
    assert!(world.node.direct.waits && !world.node.is_fed());
    world.run(200);
    let heard = all.map(|at| world.clients[at].replies.len());
    assert_eq!(heard, [600; 3]);
    assert!(!world.node.direct.waits);
}

/// What two clients say, in whichever way it comes in.
fn story(is_direct: bool) -> Vec<Vec<Vec<u8>>> {
    let mut world = World::leading();
    world.is_direct = is_direct;
    let clients = [world.join_open(), world.join_open()];
    for n in 0..60u8 {
        let len = [0, 32, 900, 1344, 1345, 4000][usize::from(n) % 6];
        for at in clients {
            world.clients[at].say(&vec![n; len]);
        }
        // One datagram of the second is late now and then: it and what follows wait.
        let [a, b] = clients.map(|at| (world.clients[at].address, world.due(at)));
        for datagram in a.1 {
            world.inject(a.0, &datagram).unwrap();
        }
        let mut late = b.1;
        if n % 3 == 0 {
            late.reverse();
        }
        for datagram in late {
            world.inject(b.0, &datagram).unwrap();
        }
        world.run(2);
    }
    world.run(200);
    assert_eq!(world.node.reassemblies(), 0);
    let said = |at: usize| world.messages_of(world.clients[at].session.unwrap());
    clients.map(said).into()
}

#[test]
fn both_ways_come_to_the_same() {
    let told = story(true);
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [60, 60]);
    assert_eq!(told, story(false));
}

/// Of a datagram that is cut off, or goes on with what is none of its stream's, the messages before
/// that count once, whether it comes again whole or is what comes first.
#[test]
fn what_follows_good_frames_in_a_datagram_takes_nothing_from_them() {
    let mut prng = Prng::new(5);
    for round in 0..40u8 {
        let mut world = World::leading();
        let (at, other) = (world.join_open(), world.join_open());
        let (mut said, mut foreign) = (Vec::new(), Vec::new());
        for n in 0..30u8 {
            let mut pick = |below: u64| (prng.next() % below) as usize;
            for _ in 0..=pick(6) {
                let message = vec![n ^ round; [0, 1, 31, 32, 200, 900, 2000][pick(7)]];
                world.clients[at].say(&message);
                said.push(message);
            }
            world.clients[other].say(&[n; 40]);
            foreign.push(vec![n; 40]);
            let [mine, theirs] = [at, other].map(|c| (world.clients[c].address, world.due(c)));
            for datagram in mine.1 {
                let mut spoilt = datagram.clone();
                match pick(4) {
                    0 => spoilt.truncate(pick(datagram.len() as u64)),
                    1 => spoilt.extend_from_slice(&theirs.1[0]),
                    2 => spoilt.extend_from_slice(&[0xff; 37]),
                    _ => spoilt.extend_from_slice(&datagram[..32]),
                }
                let _refused = world.inject(mine.0, &spoilt);
                let _twice = world.inject(mine.0, &datagram);
            }
            for datagram in theirs.1 {
                world.inject(theirs.0, &datagram).unwrap();
            }
            if pick(2) == 0 {
                world.run(1 + pick(3));
            }
        }
        world.run(300);
        let heard = |at: usize| world.messages_of(world.clients[at].session.unwrap());
        // Not `assert_eq`: that would print all of it.
        assert!((heard(at), heard(other)) == (said, foreign), "{round}");
    }
}
