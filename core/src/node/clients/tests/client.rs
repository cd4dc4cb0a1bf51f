//! A client made of the streams and messages that real ones are made of.

extern crate std;

use core::net::SocketAddr;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::world::{MTU, SEGMENT};
use crate::stream::{
    CONTROL_MAX, Control, Fragment, Image, ImageTiming, Output, Publication, PublicationConfig,
    PublicationTiming,
};
use crate::time::{Instant, Timestamp};
use crate::units::{MemberId, Position, SessionId, Term};
use crate::wire::cluster::{
    INGRESS_STREAM_ID, Message, PROTOCOL_VERSION, SessionCloseRequest, SessionConnectRequest,
    SessionEvent, SessionKeepAlive, SessionMessage, SessionMessageHeader,
};
use crate::wire::frame::{Frame, StatusMessage, parse_datagram};

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
    /// What it last told of each image, if it is sparing.
    told: Vec<(i32, Position, StatusMessage)>,
    /// Tells what it has consumed as Aeron's driver does: only once that is more than a quarter of
    /// the window since it last did; until then it repeats itself.
    pub sparing: bool,
    partial: Vec<u8>,
    pub waiting: Vec<Vec<u8>>,
    pub reads: bool,
    /// Sends nothing any more.
    pub mute: bool,
    pub session: Option<SessionId>,
    pub term: Term,
    pub leader_timeout_ns: Option<i64>,
    pub correlation: i64,
    pub events: Vec<Event>,
    pub replies: Vec<Vec<u8>>,
}

impl Client {
    pub fn new(number: usize, now: Instant) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 5000 + number as u16));
        Self::at(address, 100 + number as i32, now, MTU)
    }

    pub fn at(address: SocketAddr, session_id: i32, now: Instant, mtu: usize) -> Self {
        let config = PublicationConfig {
            target: SocketAddr::from(([127, 0, 0, 1], 9000)),
            stream_id: INGRESS_STREAM_ID,
            session_id,
            initial_term_id: 3,
            segment_length: SEGMENT,
            mtu: mtu as u32,
            timing: PublicationTiming::DEFAULT,
        };
        let slot = vec![0; 32 * 1024 + MTU];
        Self {
            address,
            publication: Publication::new(now, &config, slot.len()).unwrap(),
            slot,
            images: Vec::new(),
            told: Vec::new(),
            sparing: false,
            partial: Vec::new(),
            waiting: Vec::new(),
            reads: true,
            mute: false,
            session: None,
            term: Term::ZERO,
            leader_timeout_ns: None,
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
        self.connect_with(PROTOCOL_VERSION, b"");
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

    pub fn flush(&mut self) {
        let mut sent = 0;
        for message in &self.waiting {
            if self.publication.offer(&[message], &mut self.slot).is_err() {
                break;
            }
            sent += 1;
        }
        self.waiting.drain(..sent);
    }

    pub fn datagrams(&mut self, now: Instant) -> Vec<Vec<u8>> {
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
            while let Some(mut control) = image.poll_control(now) {
                if let (Control::StatusMessage(status), true) = (&mut control, self.sparing) {
                    spare(&mut self.told, image.consumed(), status);
                }
                out.push(control.emit(&mut buffer).to_vec());
            }
        }
        out
    }

    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
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
            Frame::StatusMessage(status) => {
                let _foreign_if_damaged = self.publication.handle_status(now, &status);
            }
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
            self.leader_timeout_ns = event.leader_heartbeat_timeout_ns;
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

/// Aeron: `aeron_publication_image_track_rebuild`.
fn spare(
    told: &mut Vec<(i32, Position, StatusMessage)>,
    consumed: Position,
    status: &mut StatusMessage,
) {
    let Some(last) = told.iter_mut().find(|(id, ..)| *id == status.session_id) else {
        told.push((status.session_id, consumed, *status));
        return;
    };
    if consumed.since(last.1) > u64::from(status.window.unsigned_abs() / 4) {
        *last = (status.session_id, consumed, *status);
    }
    *status = last.2;
}
