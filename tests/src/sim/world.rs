//! The world of one run: members, clients, network and time, and what happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use hashbrown::HashMap;

use super::check::{Checker, Violation};
use super::client::Client;
use super::clock::{MILLI, Nanos};
use super::divergence::Divergence;
use super::member::{Member, SESSIONS};
use super::mind::SERVICES;
use super::net::{Datagram, Door, GROUP, Net, member_address};
use super::plan::Plan;
use super::rng::Rng;
use super::stats::{Fault, Stats};
use super::trace::{Entry, Trace, WORLD};

/// What happens at some time. A `life` that is over makes the event void.
#[derive(Clone, Debug)]
pub enum What {
    /// A datagram arrives.
    Deliver(Datagram),
    /// A member's driver runs.
    Turn {
        /// The member.
        member: usize,
        /// Its life.
        life: u32,
    },
    /// A flush of a segment goes on.
    LogFlush {
        /// The member.
        member: usize,
        /// Its life.
        life: u32,
    },
    /// A flush of the node state goes on.
    StateFlush {
        /// The member.
        member: usize,
        /// Its life.
        life: u32,
    },
    /// A flush of a snapshot goes on.
    SnapshotFlush {
        /// The member.
        member: usize,
        /// Its life.
        life: u32,
    },
    /// A read from storage ends.
    Recall {
        /// The member.
        member: usize,
        /// Its life.
        life: u32,
    },
    /// A client's driver runs.
    Client(usize),
    /// The next trouble.
    Trouble,
    /// Links that were cut work again.
    Mend(Rc<[(u8, u8)]>),
    /// A stalled service goes on.
    Unstall(usize),
    /// A dead member starts.
    Start {
        /// The member.
        member: usize,
        /// Its life before.
        life: u32,
    },
}

#[derive(Clone, Debug)]
struct Scheduled {
    at: Nanos,
    order: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Why a turn ends early.
#[derive(Clone, Debug)]
pub enum Stop {
    /// The process dies here; with `power`, what its disk had not flushed is at stake.
    Crash {
        /// The machine dies, not the process alone.
        power: bool,
    },
    /// The process starts anew, with a log that was healed or from a snapshot that it was sent.
    Anew {
        /// With the state of the others.
        is_rebuilt: bool,
    },
    /// An invariant is broken.
    Broken(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

/// Everything there is.
pub struct World {
    /// What the seed means.
    pub plan: Plan,
    /// Virtual time.
    pub now: Nanos,
    /// Calls into the core so far.
    pub step: u64,
    /// The members.
    pub members: Vec<Member>,
    /// The clients.
    pub clients: Vec<Client>,
    /// The network.
    pub net: Net,
    /// The invariants.
    pub checker: Checker,
    /// The counts.
    pub stats: Stats,
    /// The last events.
    pub trace: Trace,
    /// Chance for everything that has no generator of its own.
    pub rng: Rng,
    /// Faults have stopped.
    pub is_calm: bool,
    /// Nothing from outside: troubles are commands of a scenario.
    pub is_scripted: bool,
    /// What members have said to one another, for a scenario.
    pub said: Vec<String>,
    /// The last message of each kind from one member to another, for a scenario.
    pub heard: HashMap<(String, u8, u8), Rc<[u8]>>,
    /// The member whose state is wrong.
    pub divergence: Divergence,
    order: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
}

impl World {
    /// The world at its beginning: every member initialised and down.
    pub fn new(plan: Plan, keep: usize) -> Self {
        let mut rng = Rng::new(plan.seed);
        let net = Net::new(plan.link, rng.fork());
        let members = (0..plan.members)
            .map(|id| Member::new(id as u8, &plan, &mut rng))
            .collect();
        let clients = (0..plan.clients)
            .map(|id| Client::new(id as u8, &plan, &mut rng))
            .collect();
        Self {
            now: 0,
            step: 0,
            members,
            clients,
            net,
            checker: Checker::new(&plan, SESSIONS),
            stats: Stats::default(),
            trace: Trace::new(keep),
            rng,
            is_calm: false,
            is_scripted: false,
            said: Vec::new(),
            heard: HashMap::new(),
            divergence: Divergence::default(),
            order: 0,
            heap: BinaryHeap::new(),
            plan,
        }
    }

    /// Puts `what` on the calendar.
    pub fn schedule(&mut self, at: Nanos, what: What) {
        self.order += 1;
        self.heap.push(Reverse(Scheduled {
            at: at.max(self.now),
            order: self.order,
            what,
        }));
    }

    /// The time of the next event.
    pub fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(s)| s.at)
    }

    /// Lets everything happen up to virtual time `until`.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn run_until(&mut self, until: Nanos) -> Result<(), Violation> {
        while self.next_at().is_some_and(|at| at <= until) {
            self.happen()?;
        }
        self.now = self.now.max(until);
        Ok(())
    }

    /// Lets the next event happen; false if there is none.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn happen(&mut self) -> Result<bool, Violation> {
        let Some(Reverse(next)) = self.heap.pop() else {
            return Ok(false);
        };
        self.now = next.at;
        match next.what {
            What::Deliver(datagram) => self.deliver(datagram),
            What::Turn { member, life } => return self.turn_event(member, life),
            What::LogFlush { member, life } => return self.log_flush_event(member, life),
            What::StateFlush { member, life } => return self.state_flush_event(member, life),
            What::SnapshotFlush { member, life } => {
                return self.snapshot_flush_event(member, life);
            }
            What::Recall { member, life } => return self.recall_event(member, life),
            What::Client(client) => return self.client_event(client),
            What::Trouble => return self.trouble_event(),
            What::Mend(links) => {
                for (from, to) in links.iter() {
                    self.net.mend(*from, *to);
                }
                self.stats.count(Fault::Heal);
            }
            What::Unstall(member) => {
                self.members[member].stalled = [false; SERVICES];
                self.want_turn(member, 0);
            }
            What::Start { member, life } => {
                if self.members[member].life == life && !self.members[member].is_up() {
                    self.start(member)?;
                }
            }
        }
        Ok(true)
    }

    /// Sends a datagram on its way, some time from now. One to the group is on its way to each
    /// other member by itself: what is lost for one is not lost for all.
    pub fn send(&mut self, datagram: Datagram, after: Nanos) {
        if datagram.to != GROUP {
            self.send_to_one(datagram, after);
            return;
        }
        for id in 0..self.members.len() as u8 {
            let to = member_address(id, Door::Member);
            if to != datagram.from && !self.net.loses(datagram.from, id) {
                let datagram = datagram.clone();
                self.send_to_one(Datagram { to, ..datagram }, after);
            }
        }
    }

    fn send_to_one(&mut self, datagram: Datagram, after: Nanos) {
        let Self {
            net,
            stats,
            heap,
            order,
            ..
        } = self;
        net.send(self.now + after, datagram, stats, |at, datagram| {
            *order += 1;
            heap.push(Reverse(Scheduled {
                at,
                order: *order,
                what: What::Deliver(datagram),
            }));
        });
    }

    /// Notes something for whoever reads about a failure.
    pub fn note(&mut self, who: u8, what: &'static str, a: u64, b: u64) {
        self.trace.note(Entry {
            at: self.now,
            step: self.step,
            who,
            what,
            a,
            b,
        });
    }

    /// Notes something that concerns nobody in particular.
    pub fn note_world(&mut self, what: &'static str, a: u64, b: u64) {
        self.note(WORLD, what, a, b);
    }

    /// Faults stop: links work, every process runs, every disk and service is quick.
    ///
    /// # Errors
    /// A broken invariant at a start.
    pub fn calm_down(&mut self) -> Result<(), Violation> {
        self.note_world("faults stop", 0, 0);
        self.is_calm = true;
        self.net.heal();
        self.net.set_plan(super::net::LinkPlan::calm());
        self.net.forget_archive();
        self.plan.turn.skip = 0;
        self.plan.turn.most = self.plan.turn.most.min(MILLI);
        self.plan.turn.inbox = 1024;
        for member in 0..self.members.len() {
            let m = &mut self.members[member];
            m.stalled = [false; SERVICES];
            m.fuse = None;
            m.paused_until = 0;
            m.slow_until = 0;
            m.full_until = 0;
            m.spare();
            if !m.is_up() {
                self.start(member)?;
            }
            self.want_turn(member, 0);
        }
        for client in 0..self.clients.len() {
            self.clients[client].silent_until = 0;
            self.clients[client].quota = u64::MAX;
            self.schedule(self.now, What::Client(client));
        }
        Ok(())
    }
}
