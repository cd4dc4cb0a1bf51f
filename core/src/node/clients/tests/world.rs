//! The world of the scenarios: a node, its log, its clients, and a network that loses nothing.

extern crate std;

use core::net::SocketAddr;
use core::time::Duration;
use std::vec;
use std::vec::Vec;

use super::client::Client;
use crate::log::checksum::genesis;
use crate::log::{Frames, Log, Messages, Window};
use crate::node::clients::{
    Admission, Clients, ClientsConfig, EgressError, Memory, Reject, StreamMemory, View,
};
use crate::session::{AllowAll, Authenticator, Opened};
use crate::stream::{CONTROL_MAX, Output};
use crate::time::{Instant, Timestamp};
use crate::units::{ClusterId, MemberId, Position, SessionId, Term};
use crate::wire::cluster::Message;

pub const SLOTS: usize = 4;
pub const MTU: usize = 1408;
pub const SEGMENT: u32 = 1 << 16;
pub const MESSAGE_MAX: usize = 4096;
pub const EGRESS_SLOT: usize = 32 * 1024 + MTU + 64;
pub const ENDPOINTS: &str = "0=127.0.0.1:9000,1=127.0.0.1:9100";
pub const TERM: Term = Term::new(7);

pub fn config() -> ClientsConfig {
    ClientsConfig {
        member: MemberId::new(0).unwrap(),
        mtu: MTU,
        log_mtu: MTU,
        egress_segment_length: 2 * SEGMENT,
        message_max: MESSAGE_MAX,
        sessions_max: 3,
        session_timeout: Duration::from_secs(10),
        egress_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(5),
        seed: 1,
    }
}

/// What the service is told, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    Opened(SessionId, Vec<u8>),
    Message(SessionId, Vec<u8>),
    Closed(SessionId, &'static str),
}

pub struct World {
    pub node: Clients<SLOTS>,
    pub log: Window<Vec<u8>>,
    pub ingress: Vec<u8>,
    pub egress: Vec<u8>,
    pub reassembly: Vec<u8>,
    pub now: Instant,
    pub view: View,
    /// Datagrams may go straight into the log, as in a node that leads.
    pub is_direct: bool,
    pub applied: Position,
    pub commits: bool,
    /// Whether a snapshot could be begun.
    pub snapshot: Result<(), &'static str>,
    pub echoes: bool,
    /// How large every echo is made, if larger than the message.
    pub inflate: usize,
    pub heard: Vec<Heard>,
    /// How many bytes were said to hold nothing.
    pub spoilt: usize,
    pub clients: Vec<Client>,
    messages: Messages,
    assembly: Vec<u8>,
}

impl World {
    pub fn new() -> Self {
        Self::with_log(1 << 17)
    }

    pub fn with_log(bytes: usize) -> Self {
        let mut log = Window::new(vec![0; bytes + MTU], MTU, 1 << 20).unwrap();
        log.load(Position::ZERO, Some(genesis(ClusterId(1))), Term::ZERO)
            .expect("a boundary");
        Self {
            node: Clients::new(config()),
            log,
            ingress: vec![0; SLOTS * (32 * 1024 + MTU + 64)],
            egress: vec![0; SLOTS * EGRESS_SLOT],
            reassembly: vec![0; MESSAGE_MAX],
            now: Instant::from_nanos(1_000_000_000),
            view: View::Leading,
            is_direct: true,
            applied: Position::ZERO,
            snapshot: Ok(()),
            commits: true,
            echoes: true,
            inflate: 0,
            heard: Vec::new(),
            spoilt: 0,
            clients: Vec::new(),
            messages: Messages::new(),
            assembly: vec![0; MESSAGE_MAX],
        }
    }

    pub fn leading() -> Self {
        let mut world = Self::new();
        world.node.become_leader(world.now, TERM);
        world
    }

    /// A new client; its number.
    pub fn join(&mut self) -> usize {
        let client = Client::new(self.clients.len(), self.now);
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// A client with an open session.
    pub fn join_open(&mut self) -> usize {
        let at = self.join();
        self.run(5);
        self.clients[at].connect();
        self.run(10);
        assert!(
            self.clients[at].session.is_some(),
            "{:?}",
            self.clients[at].events
        );
        at
    }

    pub fn run(&mut self, millis: usize) {
        self.run_with(millis, &mut AllowAll);
    }

    /// Milliseconds go by; in each, every datagram that is due arrives.
    pub fn run_with(&mut self, millis: usize, auth: &mut impl Authenticator) {
        for _ in 0..millis {
            self.now = self.now.plus(Duration::from_millis(1));
            for at in 0..self.clients.len() {
                self.client_sends(at);
            }
            self.node.handle_timeout(self.now);
            let mut calls = 0;
            while self.admit(auth) {
                calls += 1;
                assert!(calls < 1000, "poll_admit ends");
            }
            if self.commits {
                self.apply();
            }
            self.node_sends();
            self.spoil();
        }
    }

    /// Memory that is said to hold nothing may be anything.
    fn spoil(&mut self) {
        let (ingress, egress) = (self.ingress.len(), self.egress.len());
        while let Some(unused) = self.node.poll_unused(0, ingress, egress) {
            let memory = match unused.memory {
                StreamMemory::Ingress => &mut self.ingress,
                StreamMemory::Egress => &mut self.egress,
            };
            for range in unused.ranges {
                self.spoilt += range.len();
                memory[range].fill(0xa5);
            }
        }
    }

    /// As `run`, but only time passes: for waits of many seconds.
    pub fn sleep(&mut self, duration: Duration, step: Duration) {
        let until = self.now.plus(duration);
        while self.now < until {
            self.now = self.now.plus(step);
            self.run(1);
        }
    }

    pub fn client_sends(&mut self, at: usize) {
        let address = self.clients[at].address;
        for datagram in self.due(at) {
            let _counted = self.inject(address, &datagram);
        }
    }

    /// One call; true if there is more.
    pub fn admit(&mut self, auth: &mut impl Authenticator) -> bool {
        let mut memory = Memory {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            reassembly: &mut self.reassembly,
        };
        let admission = admission(self.view, self.snapshot);
        self.node
            .poll_admit(self.now, &admission, &mut self.log, &mut memory, auth)
    }

    /// Everything in the log is committed, and applied.
    pub fn apply(&mut self) {
        let end = self.log.end();
        while self.applied < end {
            let run = self.log.read(self.applied).to_vec();
            assert!(!run.is_empty());
            for frame in Frames::new(&run, self.applied, 1 << 20).verified() {
                let next = frame.end();
                if let Some(message) = self.messages.push(frame, &mut self.assembly) {
                    let (start, bytes) = (message.start, message.bytes.to_vec());
                    self.apply_record(start, &bytes);
                }
                self.applied = next;
            }
        }
        self.log.set_written(self.applied);
        self.log.release(self.applied);
    }

    fn apply_record(&mut self, start: Position, bytes: &[u8]) {
        let mut memory = Memory {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            reassembly: &mut self.reassembly,
        };
        match Message::parse(bytes).unwrap() {
            Message::SessionOpenEvent(event) => {
                assert_eq!(event.session.opened_at(), start, "the id is the position");
                let opened = self
                    .node
                    .apply_open(self.now, start, &event, ENDPOINTS, &mut memory);
                if opened == Opened::Yes {
                    let principal = event.principal.to_vec();
                    self.heard.push(Heard::Opened(event.session, principal));
                }
            }
            Message::SessionCloseEvent(event) => {
                let (session, reason) = (event.session, event.reason);
                let closed = self
                    .node
                    .apply_close(self.now, session, reason, &mut memory);
                if closed.is_some() {
                    let reason = match reason.to_wire() {
                        0 => "client",
                        1 => "service",
                        _ => "timeout",
                    };
                    self.heard.push(Heard::Closed(session, reason));
                }
            }
            Message::SessionMessage(message) => {
                let session = message.header.session;
                let payload = message.payload.to_vec();
                if self.echoes {
                    let more = vec![0xee; self.inflate.saturating_sub(payload.len())];
                    let parts = [&payload[..], &more];
                    let _unknown_if_closed =
                        self.node
                            .offer(session, Timestamp(1234), &parts, true, &mut memory);
                }
                self.node.apply_message(session, payload.len());
                if self.node.sessions().contains(session) {
                    self.heard.push(Heard::Message(session, payload));
                }
            }
            other => panic!("not appended by this room: {other:?}"),
        }
    }

    pub fn node_sends(&mut self) {
        for _ in 0..10_000 {
            let Some(transmit) = self.node.poll_transmit(self.now, &self.egress) else {
                return;
            };
            let mut buffer = [0; CONTROL_MAX];
            let bytes = match transmit.payload {
                Output::Frames(frames) => frames,
                Output::Control(control) => control.emit(&mut buffer),
            };
            let to = transmit.to;
            if let Some(client) = self.clients.iter_mut().find(|c| c.address == to) {
                client.handle(self.now, bytes);
            }
        }
        panic!("poll_transmit ends");
    }

    pub fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), EgressError> {
        let mut memory = Memory {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            reassembly: &mut self.reassembly,
        };
        self.node
            .offer(session, Timestamp(1234), parts, true, &mut memory)
    }

    pub fn log_end(&self) -> u64 {
        self.log.end().get()
    }

    /// The client's next datagrams arrive as far as `count`; then it is never heard again.
    pub fn cut_after(&mut self, at: usize, count: usize) {
        self.now = self.now.plus(Duration::from_millis(1));
        self.clients[at].flush();
        let datagrams = self.clients[at].datagrams(self.now);
        let address = self.clients[at].address;
        for datagram in datagrams.iter().take(count) {
            self.inject(address, datagram).unwrap();
        }
        self.clients[at].mute = true;
    }

    /// The datagrams that the client would send now.
    pub fn due(&mut self, at: usize) -> Vec<Vec<u8>> {
        self.clients[at].flush();
        self.clients[at].datagrams(self.now)
    }

    pub fn inject(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<(), Reject> {
        let mut memory = Memory {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            reassembly: &mut self.reassembly,
        };
        if !self.is_direct || self.view != View::Leading {
            return self
                .node
                .handle_datagram(self.now, from, datagram, &mut memory);
        }
        let admission = admission(self.view, self.snapshot);
        let log = &mut self.log;
        self.node
            .handle_datagram_leading(self.now, from, datagram, &admission, log, &mut memory)
    }

    pub fn messages_of(&self, session: SessionId) -> Vec<Vec<u8>> {
        let heard = self.heard.iter().filter_map(|heard| match heard {
            Heard::Message(id, bytes) if *id == session => Some(bytes.clone()),
            _ => None,
        });
        heard.collect()
    }

    pub fn close_reasons(&self) -> Vec<&'static str> {
        let reasons = self.heard.iter().filter_map(|heard| match heard {
            Heard::Closed(_, reason) => Some(*reason),
            _ => None,
        });
        reasons.collect()
    }
}

fn admission(view: View, snapshot: Result<(), &'static str>) -> Admission<'static> {
    Admission {
        snapshot,
        view,
        timestamp: Timestamp(1234),
        endpoints: ENDPOINTS,
    }
}
