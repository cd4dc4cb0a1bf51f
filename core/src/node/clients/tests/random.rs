//! Calls in any order, with changes of role, stalls and damage, and what holds after each of them.

extern crate std;

use core::time::Duration;
use std::vec;
use std::vec::Vec;

use super::world::{SLOTS, World, config};
use crate::node::clients::ingress::Assembly;
use crate::node::clients::{Clients, View};
use crate::prng::Prng;
use crate::units::{MemberId, Term};
use crate::wire::cluster::CloseReason;

const SEEDS: u64 = 60;
const STEPS: u32 = 300;

struct Story {
    world: World,
    prng: Prng,
    term: u32,
    said: u32,
}

#[test]
fn whatever_the_order_of_calls_sessions_stay_whole() {
    let mut executed = 0;
    let mut opened = 0;
    for seed in 0..SEEDS {
        let mut story = Story {
            world: World::with_log(8192),
            prng: Prng::new(seed),
            term: 1,
            said: 0,
        };
        for _ in 0..2 {
            story.world.join();
        }
        for step in 0..STEPS {
            story.step();
            story.check(seed, step);
        }
        executed += story.world.heard.len();
        opened += story
            .world
            .clients
            .iter()
            .filter(|c| c.session.is_some())
            .count();
        // Whatever they were, they begin as if they had not been.
        let new = Clients::new(config());
        assert!(story.world.node != new, "seed {seed}");
        story.world.node.begin(config());
        assert!(story.world.node == new, "seed {seed}");
    }
    // The stories are about something.
    assert!(executed > 1000, "{executed}");
    assert!(opened > SEEDS as usize / 2, "{opened}");
}

impl Story {
    fn step(&mut self) {
        let at = self.prng.below(self.world.clients.len() as u64) as usize;
        let clients = self.world.clients.len();
        let client = &mut self.world.clients[at];
        match (self.prng.below(20), client.session) {
            (0, _) if clients <= SLOTS => {
                self.world.join();
            }
            (1..=2, None) => client.connect(),
            (3..=7, Some(_)) => {
                for _ in 0..self.prng.below(8) {
                    let mut message = vec![0; 4 + self.prng.below(3800) as usize];
                    message[..4].copy_from_slice(&self.said.to_be_bytes());
                    self.said += 1;
                    client.say(&message);
                }
            }
            (8, Some(_)) => client.keep_alive(),
            (9, Some(_)) if self.prng.below(8) == 0 => client.close(),
            (10, _) => client.reads = self.prng.below(4) != 0,
            (11, Some(session)) if self.prng.below(8) == 0 => {
                self.world
                    .node
                    .owe_close(session, CloseReason::ServiceAction);
            }
            (12, _) => self.change_role(),
            (13, _) => self.world.commits = self.prng.below(4) != 0,
            (14, _) => self.damage(at),
            (15, _) => {
                let pause = Duration::from_millis(self.prng.below(2000));
                self.world.now = self.world.now.plus(pause);
            }
            _ => {}
        }
        let millis = 1 + self.prng.below(10) as usize;
        self.world.run(millis);
    }

    /// What was not committed at a change of leader is so afterwards: the barrier was applied.
    fn change_role(&mut self) {
        self.term += 1;
        let (now, term) = (self.world.now, Term::new(self.term));
        self.world.node.step_down(now);
        match self.prng.below(4) {
            0 => self.world.view = View::Unknown,
            1 => {
                let leader = MemberId::new(1).unwrap();
                self.world.view = View::Following { leader, term };
            }
            _ => {
                self.world.apply();
                self.world.node.become_leader(now, term);
                self.world.view = View::Leading;
            }
        }
    }

    /// Damaged copies of what a client sends: they must change no message, so only headers in front
    /// of the payload are hit, and lengths.
    fn damage(&mut self, at: usize) {
        let from = self.world.clients[at].address;
        for datagram in self.world.due(at) {
            let mut damaged: Vec<u8> = datagram.clone();
            let byte = self.prng.below(8.min(damaged.len() as u64)) as usize;
            damaged[byte] ^= 1 << self.prng.below(8);
            let len = self.prng.below(damaged.len() as u64) as usize;
            let _counted = self.world.inject(from, &damaged[..len]);
            let _counted = self.world.inject(from, &datagram);
        }
    }

    fn check(&self, seed: u64, step: u32) {
        let node = &self.world.node;
        let place = (seed, step);
        let leads = node.leading().is_some();
        let served: Vec<_> = node.served.iter().map(|(id, _)| *id).collect();
        let open: Vec<_> = node.sessions().iter().map(|session| session.id).collect();
        if leads {
            assert_eq!(served, open, "{place:?}");
        } else {
            assert!(served.is_empty(), "{place:?}");
        }
        for (id, slot) in &node.served {
            let live = node.links.get(*slot).unwrap().live().unwrap();
            assert_eq!(live.session, *id, "{place:?}");
        }
        let gathering = node
            .ingress
            .iter()
            .filter(|(_, stream)| matches!(stream.assembly, Assembly::Gathering(_)));
        assert_eq!(gathering.count(), node.reassemblies(), "{place:?}");
        for id in &open {
            let numbers = self.world.messages_of(*id).into_iter().map(|message| {
                u32::from_be_bytes([message[0], message[1], message[2], message[3]])
            });
            let numbers: Vec<u32> = numbers.collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{place:?} {numbers:?}");
        }
    }
}
