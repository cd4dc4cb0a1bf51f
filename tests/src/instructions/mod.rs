//! What the core alone costs: three nodes and their clients in one process, without sockets, disks
//! or clocks. Whoever counts instructions counts those of the functions in [`roles`].
//!
//! A mark is durable as soon as it is asked for, and a datagram costs the one copy that a socket
//! would make. Time is virtual and moves by the same steps in every run, so that two runs of the
//! same length execute the same instructions.

mod caller;
mod member;
mod mirror;
pub mod roles;

use std::net::SocketAddr;
use std::time::Duration;

use coracle_core::service::Role;
use coracle_core::time::{Instant, Now, Timestamp};

use caller::Caller;
use member::Member;

/// The members.
const MEMBERS: usize = 3;
/// The payload of a message, in bytes.
pub const PAYLOAD: usize = 32;
/// One hop over a network.
const HOP: Duration = Duration::from_micros(5);
/// One turn of a node that has nothing to do.
const IDLE: Duration = Duration::from_micros(1);
/// No part takes more hops than this.
const HOPS_MAX: usize = 1_000_000;
/// The longest datagram.
const DATAGRAM_MAX: usize = 2048;

/// Datagrams on their way, of or to one owner of sockets: each with where it is from and where it
/// goes, which is an address or, at the owner's end, which of its sockets.
struct Inbox<From = SocketAddr, To = SocketAddr> {
    places: Vec<Place<From, To>>,
    len: usize,
}

struct Place<From, To> {
    from: From,
    to: To,
    len: usize,
    bytes: [u8; DATAGRAM_MAX],
}

impl<From, To> Default for Inbox<From, To> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            len: 0,
        }
    }
}

impl<From: Copy, To: Copy> Inbox<From, To> {
    fn push(&mut self, from: From, to: To, bytes: &[u8]) {
        if self.len == self.places.len() {
            self.places.push(Place {
                from,
                to,
                len: 0,
                bytes: [0; DATAGRAM_MAX],
            });
        }
        let place = &mut self.places[self.len];
        (place.from, place.to, place.len) = (from, to, bytes.len());
        place.bytes[..bytes.len()].copy_from_slice(bytes);
        self.len += 1;
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn iter(&self) -> impl Iterator<Item = (From, To, &[u8])> {
        let places = self.places.iter().take(self.len);
        places.map(|place| (place.from, place.to, &place.bytes[..place.len]))
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

/// Three nodes and some clients.
pub struct Cluster {
    now: Now,
    members: Vec<Member>,
    callers: Vec<Caller>,
}

impl Cluster {
    /// A cluster that has a leader, and so many clients with an open session each. Whether its
    /// services answer.
    pub fn new(clients: usize, answers: bool) -> Self {
        let start = Instant::from_nanos(1_000_000_000);
        let mut cluster = Self {
            now: Now {
                instant: start,
                wall: Timestamp(1_000_000),
            },
            members: Vec::new(),
            callers: Vec::new(),
        };
        for id in 0..MEMBERS {
            cluster.members.push(Member::new(id, answers, cluster.now));
        }
        for id in 0..clients {
            cluster.callers.push(Caller::new(id, start));
        }
        cluster.run_until("a leader and open sessions", |c| {
            c.leader().is_some() && c.callers.iter().all(Caller::is_open)
        });
        // Whatever the start has left to say is said.
        for _ in 0..10_000 {
            cluster.hop();
        }
        cluster
    }

    /// One client has `batch` messages in flight until they are answered, `rounds` times.
    pub fn echo(&mut self, rounds: usize, batch: usize) {
        for _ in 0..rounds {
            self.callers[0].want(batch);
            self.run_until("all answered", |c| c.callers[0].is_answered());
        }
    }

    /// One client has `batch` messages in flight until the leader has executed them, `rounds`
    /// times; no answers.
    pub fn commit(&mut self, rounds: usize, batch: usize) {
        let leader = self.leader().expect("there is one");
        for _ in 0..rounds {
            self.callers[0].want(batch);
            let all = self.members[leader].service.executed + batch as u64;
            self.run_until("all executed", |c| {
                c.members[leader].service.executed == all
            });
        }
    }

    /// A leader and a follower turn `turns` times each with nothing to do.
    pub fn idle(&mut self, turns: usize) {
        let leader = self.leader().expect("there is one");
        let follower = (leader + 1) % MEMBERS;
        for _ in 0..turns {
            self.advance(IDLE);
            roles::leader(&mut self.members[leader], self.now);
            roles::follower(&mut self.members[follower], self.now);
        }
    }

    fn leader(&self) -> Option<usize> {
        self.members.iter().position(|m| m.role() == Role::Leader)
    }

    fn advance(&mut self, by: Duration) {
        self.now.instant = self.now.instant.plus(by);
        self.now.wall = Timestamp(self.now.instant.nanos() as i64 / 1_000_000);
    }

    fn run_until(&mut self, what: &str, is_reached: impl Fn(&Self) -> bool) {
        for _ in 0..HOPS_MAX {
            if is_reached(self) {
                return;
            }
            self.hop();
        }
        panic!("{what}: not reached");
    }

    /// Whoever has something to do has one turn; what they send arrives.
    fn hop(&mut self) {
        self.advance(HOP);
        for caller in &mut self.callers {
            if caller.is_due(self.now.instant) {
                roles::client(caller, self.now.instant);
            }
        }
        for member in &mut self.members {
            if member.is_due(self.now.instant) {
                match member.role() {
                    Role::Leader => roles::leader(member, self.now),
                    Role::Candidate | Role::Follower => roles::follower(member, self.now),
                }
            }
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        for at in 0..self.members.len() {
            let sent = std::mem::take(&mut self.members[at].outbox);
            for (door, to, bytes) in sent.iter() {
                self.bring(self.members[at].address(door), to, bytes);
            }
            self.members[at].outbox = sent;
            self.members[at].outbox.clear();
        }
        for at in 0..self.callers.len() {
            let sent = std::mem::take(&mut self.callers[at].outbox);
            for ((), to, bytes) in sent.iter() {
                self.bring(self.callers[at].address, to, bytes);
            }
            self.callers[at].outbox = sent;
            self.callers[at].outbox.clear();
        }
    }

    fn bring(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let mut members = self.members.iter_mut();
        if let Some((member, door)) = members.find_map(|m| m.door(to).map(|d| (m, d))) {
            member.inbox.push(from, door, bytes);
        } else if let Some(caller) = self.callers.iter_mut().find(|c| c.address == to) {
            caller.inbox.push(from, (), bytes);
        }
    }
}
