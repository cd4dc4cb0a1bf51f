//! A conversation with the echo service of a cluster, and what stands around one in a test.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use coracle_net::cluster::{Cluster, Plan, free_port};
use coracle_net::say;
use coracle_net::scratch::Scratch;

use crate::driver::{Driver, Offered};
use crate::session::{Arrival, EgressChannel, IngressStyle, Session};
use crate::workload;

/// No part of a test waits longer than this for the next sign of life.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Messages that may be without their echo at a time.
pub const IN_FLIGHT: usize = 64;

/// Members that a conversation is held with.
pub trait Members {
    /// Fails if one that should run has ended.
    ///
    /// # Errors
    /// Which, and how.
    fn check_alive(&mut self) -> Result<(), String>;
}

impl Members for Cluster {
    fn check_alive(&mut self) -> Result<(), String> {
        Self::check_alive(self)
    }
}

/// A conversation with the echo service: what was sent, and what came back.
pub struct Echo<'d> {
    /// The session.
    pub session: Session<'d>,
    /// Next message to send.
    next: u64,
    /// Sent to the present leader, without an echo so far.
    waiting: VecDeque<u64>,
    /// Sent to a leader that is gone, without an echo: their outcome is unknown.
    unknown: VecDeque<u64>,
    /// Echoes that came back.
    pub echoed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Longest message to send, in bytes: longer ones of the workload are cut.
    pub longest: usize,
    last_life: Instant,
}

impl<'d> Echo<'d> {
    /// A conversation that begins with message 0.
    pub fn new(session: Session<'d>) -> Self {
        Self {
            session,
            next: 0,
            waiting: VecDeque::new(),
            unknown: VecDeque::new(),
            echoed: 0,
            bytes: 0,
            longest: workload::MESSAGE_MAX,
            last_life: Instant::now(),
        }
    }

    /// Sends up to message `until`, as far as the window and back pressure let it, and takes what
    /// has come.
    ///
    /// # Errors
    /// A wrong echo, the end of the session, or too long a silence.
    pub fn step(&mut self, until: u64) -> Result<(), String> {
        while self.next < until
            && self.waiting.len() < IN_FLIGHT
            && self.session.offer(&self.message(self.next))? == Offered::Taken
        {
            self.waiting.push_back(self.next);
            self.next += 1;
        }
        let arrivals = self.session.poll()?;
        if arrivals.is_empty() {
            std::thread::yield_now();
        } else {
            self.last_life = Instant::now();
        }
        for arrival in arrivals {
            match arrival {
                Arrival::Message(bytes) => self.take_echo(&bytes)?,
                Arrival::NewLeader(leader) => {
                    self.unknown.append(&mut self.waiting);
                    say!(
                        "aeron_client: member {leader} leads, {} unknown",
                        self.unknown.len()
                    );
                }
                Arrival::Admin(..) => return Err("an answer to nothing".to_owned()),
                Arrival::Closed => return Err("the cluster closed the session".to_owned()),
            }
        }
        if self.last_life.elapsed() > PATIENCE {
            let (echoed, waiting) = (self.echoed, self.waiting.len());
            return Err(format!(
                "silence after {echoed} echoes, {waiting} waiting: {:?}",
                self.session.state()
            ));
        }
        Ok(())
    }

    /// Until every message below `until` has its echo, or counts as unknown.
    ///
    /// # Errors
    /// As [`Echo::step`], or a node that ended.
    pub fn run(&mut self, until: u64, cluster: &mut impl Members) -> Result<(), String> {
        let mut told = self.next / 10_000;
        while self.next < until || !self.waiting.is_empty() {
            self.step(until)?;
            if self.next / 10_000 > told {
                told = self.next / 10_000;
                say!("aeron_client: {} echoed of {} sent", self.echoed, self.next);
                cluster.check_alive()?;
            }
        }
        Ok(())
    }

    /// Messages without their echo so far.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Messages whose outcome is unknown, because their leader is gone.
    pub fn unknown(&self) -> usize {
        self.unknown.len()
    }

    fn message(&self, number: u64) -> Vec<u8> {
        let mut bytes = workload::message(number);
        bytes.truncate(self.longest);
        bytes
    }

    /// Echoes come in the order of their messages. One of an old leader may still be on its way
    /// when a new one speaks up.
    fn take_echo(&mut self, bytes: &[u8]) -> Result<(), String> {
        let is = |number: &u64| bytes == self.message(*number);
        if self.waiting.front().is_some_and(is) {
            self.waiting.pop_front();
        } else if let Some(at) = self.unknown.iter().position(is) {
            self.unknown.remove(at);
        } else {
            let expected = self
                .waiting
                .front()
                .map(|number| self.message(*number).len());
            let length = bytes.len();
            let echoed = self.echoed;
            return Err(format!(
                "echo {echoed}: {length} bytes, expected {expected:?}"
            ));
        }
        self.echoed += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Three nodes with the echo service and a leader among them.
///
/// # Panics
/// When they do not start or elect.
pub fn cluster(host: &str, settings: &str) -> (Cluster, Client, usize) {
    let mut plan = Plan::on(host, 3);
    plan.settings = format!("service = \"echo\"\n{settings}");
    let mut cluster = Cluster::start("peer-cluster", &plan).expect("the nodes start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    let endpoints = plan.views[0].iter().map(|one| one.ingress.clone());
    (cluster, Client::start(host, endpoints), leader)
}

/// A driver, and what a client of a cluster knows beforehand.
pub struct Client {
    // Dropped in this order: the driver's files go before their directory.
    driver: Driver,
    _scratch: Scratch,
    host: String,
    members: Vec<(i32, String)>,
}

impl Client {
    /// A driver on `host`, and the members' endpoints in their order.
    ///
    /// # Panics
    /// When the driver does not start.
    pub fn start(host: &str, endpoints: impl IntoIterator<Item = String>) -> Self {
        let scratch = Scratch::new("peer");
        let driver = Driver::start(&scratch.join("driver")).expect("the driver starts");
        let members = (0..).zip(endpoints).collect();
        Self {
            driver,
            _scratch: scratch,
            host: host.to_owned(),
            members,
        }
    }

    /// The driver.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Ingress endpoint of a member.
    pub fn endpoint(&self, member: usize) -> &str {
        &self.members[member].1
    }

    /// A fresh endpoint for answers.
    pub fn fresh_endpoint(&self) -> String {
        format!("{}:{}", self.host, free_port())
    }

    /// Opens a session with a channel of its own for answers, first asking member `first`, counted
    /// round.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn connect(&self, style: &IngressStyle, first: usize) -> Result<Session<'_>, String> {
        let egress = EgressChannel::direct(&self.fresh_endpoint());
        let (first, _) = self.members[first % self.members.len()];
        Session::connect(&self.driver, &egress, style, &self.members, first, PATIENCE)
    }
}
