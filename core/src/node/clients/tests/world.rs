//! The world of the scenarios: a node, its log, its clients, and a network that loses nothing.

extern crate std;

use core::net::SocketAddr;
use core::time::Duration;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use crate::log::checksum::genesis;
use crate::log::{Frames, Log, Messages, Window};
use crate::node::clients::{Admission, Clients, ClientsConfig, EgressError, Memory, Reject, View};
use crate::session::{AllowAll, Authenticator, Opened};
use crate::stream::{
    CONTROL_MAX, Fragment, Image, ImageTiming, Output, Publication, PublicationConfig,
    PublicationTiming,
};
use crate::time::{Instant, Timestamp};
use crate::units::{ClusterId, MemberId, Position, SessionId, Term};
use crate::wire::cluster::{
    INGRESS_STREAM_ID, Message, SessionCloseRequest, SessionConnectRequest, SessionEvent,
    SessionKeepAlive, SessionMessage, SessionMessageHeader,
};
use crate::wire::frame::{Frame, parse_datagram};

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
        egress_segment_length: SEGMENT,
        message_max: MESSAGE_MAX,
        sessions_max: 3,
        session_timeout: Duration::from_secs(10),
        egress_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(5),
        leader_heartbeat_timeout: Duration::from_millis(500),
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
    pub applied: Position,
    pub commits: bool,
    pub echoes: bool,
    /// How large every echo is made, if larger than the message.
    pub inflate: usize,
    pub heard: Vec<Heard>,
    pub clients: Vec<Client>,
    messages: Messages,
}

impl World {
    pub fn new() -> Self {
        Self::with_log(1 << 17)
    }

    pub fn with_log(bytes: usize) -> Self {
        let mut log = Window::new(vec![0; bytes + MTU], MTU, 1 << 20).unwrap();
        log.load(Position::ZERO, Some(genesis(ClusterId(1))), Term::ZERO);
        let world = Self {
            node: Clients::new(config()),
            log,
            ingress: vec![0; SLOTS * (32 * 1024 + MTU + 64)],
            egress: vec![0; SLOTS * EGRESS_SLOT],
            reassembly: vec![0; MESSAGE_MAX],
            now: Instant::from_nanos(1_000_000_000),
            view: View::Leading,
            applied: Position::ZERO,
            commits: true,
            echoes: true,
            inflate: 0,
            heard: Vec::new(),
            clients: Vec::new(),
            messages: Messages::new(),
        };
        let (ingress, egress) = (world.ingress.len(), world.egress.len());
        let checked = config().check(SLOTS, ingress, egress, world.reassembly.len());
        assert_eq!(checked, Ok(()));
        world
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

    fn client_sends(&mut self, at: usize) {
        let mut memory = Memory {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            reassembly: &mut self.reassembly,
        };
        let client = &mut self.clients[at];
        client.flush();
        for datagram in client.datagrams(self.now) {
            let _counted =
                self.node
                    .handle_datagram(self.now, client.address, &datagram, &mut memory);
        }
    }

    fn admit(&mut self, auth: &mut impl Authenticator) -> bool {
        let mut memory = Memory {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            reassembly: &mut self.reassembly,
        };
        let admission = Admission {
            view: self.view,
            timestamp: Timestamp(1234),
            endpoints: ENDPOINTS,
        };
        self.node
            .poll_admit(self.now, &admission, &mut self.log, &mut memory, auth)
    }

    /// Everything in the log is committed, and applied.
    pub fn apply(&mut self) {
        let end = self.log.end();
        while self.applied < end {
            let run = self.log.read(self.applied).to_vec();
            assert!(!run.is_empty());
            let mut assembly = vec![0; MESSAGE_MAX];
            for frame in Frames::new(&run, self.applied, 1 << 20).verified() {
                let next = frame.end();
                if let Some(message) = self.messages.push(frame, &mut assembly) {
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
                            .offer(session, Timestamp(1234), &parts, &mut memory);
                }
                self.node.apply_message(session, payload.len());
                if self.node.sessions().contains(session) {
                    self.heard.push(Heard::Message(session, payload));
                }
            }
            other => panic!("not appended by this room: {other:?}"),
        }
    }

    fn node_sends(&mut self) {
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
            .offer(session, Timestamp(1234), parts, &mut memory)
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
        self.node
            .handle_datagram(self.now, from, datagram, &mut memory)
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

/// What a client has been told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Session {
        code: i32,
        session: Option<SessionId>,
        correlation: i64,
        leader: Option<u8>,
        detail: String,
    },
    NewLeader(SessionId, Term),
    Challenge(SessionId, Vec<u8>),
    Admin(i32),
}

pub struct Client {
    pub address: SocketAddr,
    pub publication: Publication,
    slot: Vec<u8>,
    images: Vec<(Image, Vec<u8>)>,
    partial: Vec<u8>,
    pub waiting: Vec<Vec<u8>>,
    pub reads: bool,
    /// Sends nothing any more.
    pub mute: bool,
    pub session: Option<SessionId>,
    pub term: Term,
    pub correlation: i64,
    pub events: Vec<Event>,
    pub replies: Vec<Vec<u8>>,
}

impl Client {
    pub fn new(number: usize, now: Instant) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 5000 + number as u16));
        Self::at(address, 100 + number as i32, now)
    }

    pub fn at(address: SocketAddr, session_id: i32, now: Instant) -> Self {
        let config = PublicationConfig {
            target: SocketAddr::from(([127, 0, 0, 1], 9000)),
            stream_id: INGRESS_STREAM_ID,
            session_id,
            initial_term_id: 3,
            segment_length: SEGMENT,
            mtu: MTU as u32,
            timing: PublicationTiming::DEFAULT,
        };
        let slot = vec![0; 32 * 1024 + MTU];
        Self {
            address,
            publication: Publication::new(now, &config, slot.len()).unwrap(),
            slot,
            images: Vec::new(),
            partial: Vec::new(),
            waiting: Vec::new(),
            reads: true,
            mute: false,
            session: None,
            term: Term::ZERO,
            correlation: 1000 + i64::from(session_id),
            events: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Sends a message as soon as the window allows.
    pub fn send(&mut self, message: &Message<'_>) {
        let mut buffer = vec![0; 64 * 1024];
        let len = message.emit(&mut buffer).unwrap();
        self.waiting.push(buffer[..len].to_vec());
    }

    pub fn connect(&mut self) {
        self.connect_with(crate::wire::cluster::PROTOCOL_VERSION, b"");
    }

    pub fn connect_with(&mut self, version: i32, credentials: &[u8]) {
        let channel = std::format!("aeron:udp?endpoint={}", self.address);
        self.connect_to(&channel, version, credentials);
    }

    pub fn connect_to(&mut self, channel: &str, version: i32, credentials: &[u8]) {
        self.send(&Message::SessionConnectRequest(SessionConnectRequest {
            correlation: self.correlation,
            response_stream_id: 102,
            version,
            response_channel: channel,
            credentials,
            client_info: b"",
        }));
    }

    pub fn say(&mut self, payload: &[u8]) {
        let header = SessionMessageHeader {
            term: self.term,
            session: self.session.unwrap(),
            timestamp: Timestamp(0),
        };
        self.send(&Message::SessionMessage(SessionMessage { header, payload }));
    }

    pub fn keep_alive(&mut self) {
        let (term, session) = (self.term, self.session.unwrap());
        self.send(&Message::SessionKeepAlive(SessionKeepAlive {
            term,
            session,
        }));
    }

    pub fn close(&mut self) {
        let (term, session) = (self.term, self.session.unwrap());
        self.send(&Message::SessionCloseRequest(SessionCloseRequest {
            term,
            session,
        }));
    }

    /// How many egress streams it has seen.
    pub fn streams(&self) -> usize {
        self.images.len()
    }

    /// The codes of the session events so far.
    pub fn codes(&self) -> Vec<i32> {
        let codes = self.events.iter().filter_map(|event| match event {
            Event::Session { code, .. } => Some(*code),
            _ => None,
        });
        codes.collect()
    }

    fn flush(&mut self) {
        let mut sent = 0;
        for message in &self.waiting {
            if self.publication.offer(&[message], &mut self.slot).is_err() {
                break;
            }
            sent += 1;
        }
        self.waiting.drain(..sent);
    }

    fn datagrams(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if self.mute {
            return out;
        }
        let mut buffer = [0; CONTROL_MAX];
        while let Some(output) = self.publication.poll_transmit(now, &self.slot) {
            out.push(match output {
                Output::Frames(frames) => frames.to_vec(),
                Output::Control(control) => control.emit(&mut buffer).to_vec(),
            });
        }
        for (image, _) in &mut self.images {
            while let Some(control) = image.poll_control(now) {
                out.push(control.emit(&mut buffer).to_vec());
            }
        }
        out
    }

    fn handle(&mut self, now: Instant, datagram: &[u8]) {
        match parse_datagram(datagram).unwrap() {
            Frame::Setup(setup) => {
                let timing = ImageTiming::DEFAULT;
                if !self
                    .images
                    .iter()
                    .any(|(i, _)| i.session_id() == setup.session_id)
                {
                    let slot = vec![0; 16 * 1024 + MTU];
                    let from = SocketAddr::from(([127, 0, 0, 1], 9000));
                    let image = Image::new(now, from, &setup, 5, slot.len(), timing).unwrap();
                    self.images.push((image, slot));
                }
            }
            Frame::Data(data) => {
                let id = data.first().session_id;
                for (image, slot) in &mut self.images {
                    if image.session_id() == id {
                        image.handle_data(now, &data, slot).unwrap();
                    }
                }
            }
            Frame::StatusMessage(status) => self.publication.handle_status(now, &status).unwrap(),
            Frame::Nak(nak) => {
                let _stale = self.publication.handle_nak(now, &nak, &self.slot);
            }
            other => panic!("unexpected {other:?}"),
        }
        if self.reads {
            self.read();
        }
    }

    pub fn read(&mut self) {
        for at in 0..self.images.len() {
            loop {
                let (image, slot) = &mut self.images[at];
                let Some(Fragment { flags, payload, .. }) = image.peek(slot) else {
                    break;
                };
                if flags & 0x80 != 0 {
                    self.partial.clear();
                }
                self.partial.extend_from_slice(payload);
                image.consume(slot);
                if flags & 0x40 != 0 {
                    let message = core::mem::take(&mut self.partial);
                    self.take(&message);
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match Message::parse(bytes).unwrap() {
            Message::SessionEvent(event) => self.take_event(&event),
            Message::NewLeaderEvent(event) => {
                self.term = event.term;
                self.events
                    .push(Event::NewLeader(event.session, event.term));
            }
            Message::Challenge(challenge) => {
                assert_eq!(challenge.correlation, self.correlation);
                let bytes = challenge.challenge.to_vec();
                self.events.push(Event::Challenge(challenge.session, bytes));
            }
            Message::SessionMessage(message) => {
                assert_eq!(message.header.session, self.session.unwrap());
                self.replies.push(message.payload.to_vec());
            }
            Message::AdminResponse(response) => {
                self.events.push(Event::Admin(response.code.to_wire()));
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn take_event(&mut self, event: &SessionEvent<'_>) {
        if event.code.to_wire() == 0 {
            self.session = event.session;
            self.term = event.term.unwrap();
        }
        self.events.push(Event::Session {
            code: event.code.to_wire(),
            session: event.session,
            correlation: event.correlation,
            leader: event.leader.map(MemberId::get),
            detail: event.detail.to_string(),
        });
    }
}
