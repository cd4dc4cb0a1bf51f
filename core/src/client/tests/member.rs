//! A scripted member, built from the two halves of a stream.

use super::std::collections::VecDeque;
use super::std::string::{String, ToString};
use super::std::vec;
use super::std::vec::Vec;
use core::net::SocketAddr;

use crate::prng::Prng;
use crate::stream::{
    Assembled, Assembly, CONTROL_MAX, Image, ImageTiming, Output, Publication, PublicationConfig,
    PublicationTiming, elicit_setup, slot_len,
};
use crate::time::{Instant, Timestamp};
use crate::units::{MemberId, Position, SessionId, Term};
use crate::wire::channel::Channel;
use crate::wire::cluster::{
    Challenge, EventCode, Message, NewLeaderEvent, PROTOCOL_VERSION, SessionConnectRequest,
    SessionEvent, SessionMessage, SessionMessageHeader,
};
use crate::wire::frame::{Datagram, ErrFrame, FLAG_SEND_SETUP, Frame, parse_datagram};

pub const SESSION: SessionId = SessionId::new(Position::new(4096));

/// What a member does with a connect request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Script {
    /// It is not there at all.
    Dead,
    /// It opens the session, and echoes messages.
    Lead,
    /// It asks for credentials first; "open sesame" are the right ones.
    Challenge,
    /// It names that leader.
    Redirect(Option<u8>),
    /// It refuses, with this code.
    Refuse(EventCode),
    /// It answers the stream and nothing else.
    Silent,
    /// It answers the stream with an error.
    RefuseStream,
}

pub struct Member {
    pub id: u8,
    pub address: SocketAddr,
    pub script: Script,
    pub term: Term,
    /// Does not consume its ingress.
    pub is_stalled: bool,
    /// Takes messages and does not answer them.
    pub is_mute: bool,
    /// What came, in words; session messages in `messages`.
    pub heard: Vec<String>,
    pub messages: Vec<Vec<u8>>,
    pub endpoints: String,
    prng: Prng,
    image: Option<Image>,
    in_slot: Vec<u8>,
    assembly: Assembly,
    buffer: Vec<u8>,
    pub egress: Option<Publication>,
    out_slot: Vec<u8>,
    owed: VecDeque<Vec<u8>>,
}

pub fn address(id: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, id], 9000))
}

impl Member {
    pub fn new(id: u8, script: Script, window: usize) -> Self {
        Self {
            id,
            address: address(id),
            script,
            term: Term::new(3),
            is_stalled: false,
            is_mute: false,
            heard: Vec::new(),
            messages: Vec::new(),
            endpoints: "0=192.0.2.0:9000,1=192.0.2.1:9000,2=192.0.2.2:9000".to_string(),
            prng: Prng::new(1000 + u64::from(id)),
            image: None,
            in_slot: vec![0; slot_len(window, 1408)],
            assembly: Assembly::new(),
            buffer: vec![0; 1 << 17],
            egress: None,
            out_slot: vec![0; slot_len(1 << 17, 1408)],
            owed: VecDeque::new(),
        }
    }

    pub fn receive(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.script == Script::Dead {
            return None;
        }
        let frame = parse_datagram(bytes).unwrap();
        match frame {
            Frame::Setup(setup) if self.script == Script::RefuseStream => {
                let error = ErrFrame {
                    session_id: setup.session_id,
                    stream_id: setup.stream_id,
                    receiver_id: 1,
                    group_tag: None,
                    code: 11,
                    text: b"no",
                };
                self.heard.push("refused".to_string());
                let mut out = [0; 64];
                let len = error.emit(&mut out).unwrap();
                Some(out[..len].to_vec())
            }
            Frame::Setup(setup) => {
                if let Some(image) = self.image_of(from, setup.session_id) {
                    image.handle_setup(now);
                    return None;
                }
                let len = self.in_slot.len();
                let timing = ImageTiming::DEFAULT;
                self.image = Some(Image::new(now, from, &setup, 1, len, timing).unwrap());
                self.assembly.reset();
                None
            }
            Frame::Data(data) => self.take_data(now, from, &data),
            Frame::StatusMessage(sm) => {
                if sm.flags & FLAG_SEND_SETUP != 0 {
                    self.heard.push("send setup".to_string());
                }
                if let Some(egress) = &mut self.egress {
                    let _foreign = egress.handle_status(now, &sm);
                }
                None
            }
            Frame::Nak(nak) => {
                if let Some(egress) = &mut self.egress {
                    let _stale = egress.handle_nak(now, &nak, &self.out_slot);
                }
                None
            }
            other => panic!("{other:?}"),
        }
    }

    fn take_data(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &Datagram<'_>,
    ) -> Option<Vec<u8>> {
        let first = data.first();
        let image = self.image.as_mut();
        let Some(image) = image.filter(|i| i.is(from, 101, first.session_id)) else {
            let status = crate::stream::Control::StatusMessage(elicit_setup(first, 1)?);
            return Some(status.emit(&mut [0; CONTROL_MAX]).to_vec());
        };
        if first.is_end_of_stream() {
            self.heard.push("end".to_string());
        }
        let _dropped = image.handle_data(now, data, &mut self.in_slot);
        None
    }

    /// Consumes its ingress, and pays what it owes.
    pub fn work(&mut self, now: Instant) {
        while let Some(image) = self.image.as_mut().filter(|_| !self.is_stalled) {
            // As a node does: no more is read than can be answered.
            if self.owed.len() > 4 {
                break;
            }
            let Some(fragment) = image.peek(&self.in_slot) else {
                break;
            };
            let assembled = self.assembly.push(&fragment, &mut self.buffer);
            image.consume(&self.in_slot);
            if let Assembled::Message(len) = assembled {
                let bytes = self.buffer[..len].to_vec();
                self.hear(now, &Message::parse(&bytes).unwrap());
            }
        }
        while let (Some(egress), Some(message)) = (&mut self.egress, self.owed.front()) {
            if egress.offer(&[message], &mut self.out_slot).is_err() {
                break;
            }
            self.owed.pop_front();
        }
    }

    pub fn poll(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if self.script == Script::Dead {
            return None;
        }
        let mut out = [0; CONTROL_MAX];
        if let Some(image) = &mut self.image
            && let Some(control) = image.poll_control(now)
        {
            return Some((image.source(), control.emit(&mut out).to_vec()));
        }
        let egress = self.egress.as_mut()?;
        let bytes = match egress.poll_transmit(now, &self.out_slot)? {
            Output::Frames(frames) => frames.to_vec(),
            Output::Control(control) => control.emit(&mut out).to_vec(),
        };
        Some((egress.target(), bytes))
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let image = self.image.as_ref().and_then(Image::poll_timeout);
        let egress = self.egress.as_ref().and_then(Publication::poll_timeout);
        image.into_iter().chain(egress).min()
    }

    /// Becomes leader of `term`, and tells the client.
    pub fn lead(&mut self, now: Instant, term: u32, client: SocketAddr) {
        self.script = Script::Lead;
        self.term = Term::new(term);
        self.open_egress(now, client);
        let event = NewLeaderEvent {
            term: self.term,
            session: SESSION,
            leader: MemberId::new(self.id).unwrap(),
            ingress_endpoints: &self.endpoints.clone(),
        };
        self.owe(&Message::NewLeaderEvent(event));
    }

    pub fn event(&mut self, correlation: i64, code: EventCode, leader: Option<u8>, detail: &str) {
        self.owe(&Message::SessionEvent(SessionEvent {
            session: Some(SESSION),
            correlation,
            term: Some(self.term),
            leader: leader.and_then(MemberId::new),
            code,
            version: PROTOCOL_VERSION,
            leader_heartbeat_timeout_ns: Some(500_000_000),
            detail,
        }));
    }

    pub fn say(&mut self, payload: &[u8]) {
        let header = SessionMessageHeader {
            term: self.term,
            session: SESSION,
            timestamp: Timestamp(7),
        };
        self.owe(&Message::SessionMessage(SessionMessage { header, payload }));
    }

    fn image_of(&mut self, from: SocketAddr, session_id: i32) -> Option<&mut Image> {
        self.image.as_mut().filter(|i| i.is(from, 101, session_id))
    }

    fn owe(&mut self, message: &Message<'_>) {
        let mut bytes = vec![0; 1 << 17];
        let len = message.emit(&mut bytes).unwrap();
        self.owed.push_back(bytes[..len].to_vec());
    }

    pub fn open_egress(&mut self, now: Instant, target: SocketAddr) {
        let config = PublicationConfig {
            target,
            stream_id: 102,
            session_id: self.prng.next() as i32,
            initial_term_id: 9,
            segment_length: 1 << 20,
            mtu: 1408,
            timing: PublicationTiming::DEFAULT,
        };
        self.egress = Some(Publication::new(now, &config, self.out_slot.len()).unwrap());
        self.owed.clear();
    }

    fn hear(&mut self, now: Instant, message: &Message<'_>) {
        match message {
            Message::SessionConnectRequest(request) => self.hear_connect(now, request),
            Message::ChallengeResponse(response) => {
                let is_right = response.credentials == b"open sesame";
                let code = if is_right {
                    EventCode::Ok
                } else {
                    EventCode::AuthenticationRejected
                };
                let list = self.endpoints.clone();
                self.event(response.correlation, code, Some(self.id), &list);
            }
            Message::SessionMessage(message) => {
                assert_eq!(message.header.session, SESSION);
                assert_eq!(message.header.term, self.term);
                self.messages.push(message.payload.to_vec());
                if !self.is_mute {
                    self.say(message.payload);
                }
            }
            Message::SessionKeepAlive(keep_alive) => {
                assert_eq!(keep_alive.term, self.term);
                self.heard.push("keep-alive".to_string());
            }
            Message::SessionCloseRequest(_) => self.heard.push("close".to_string()),
            other => panic!("{other:?}"),
        }
    }

    fn hear_connect(&mut self, now: Instant, request: &SessionConnectRequest<'_>) {
        self.heard.push("connect".to_string());
        let channel = Channel::parse(request.response_channel).unwrap();
        assert_eq!(request.response_stream_id, 102);
        self.open_egress(now, channel.endpoint.literal().unwrap());
        let (correlation, list) = (request.correlation, self.endpoints.clone());
        match self.script {
            Script::Lead => self.event(correlation, EventCode::Ok, Some(self.id), &list),
            Script::Redirect(to) => self.event(correlation, EventCode::Redirect, to, &list),
            Script::Refuse(code) => self.event(correlation, code, None, "too many sessions"),
            Script::Challenge => self.owe(&Message::Challenge(Challenge {
                correlation,
                session: SESSION,
                challenge: b"who goes there?",
            })),
            Script::Silent | Script::Dead | Script::RefuseStream => {}
        }
    }
}
