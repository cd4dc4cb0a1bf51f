//! A publication and an image on a link that loses, repeats and reorders.

extern crate std;

mod stories;

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::prng::Prng;
use crate::wire::frame::{Frame, parse_datagram};

const STREAM: i32 = 101;
const SESSION: i32 = 77;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn config(segment_length: u32, mtu: u32) -> PublicationConfig {
    PublicationConfig {
        target: address(1),
        stream_id: STREAM,
        session_id: SESSION,
        initial_term_id: i32::MAX - 1,
        segment_length,
        mtu,
        timing: PublicationTiming::DEFAULT,
    }
}

/// What the link does to a datagram, in percent.
#[derive(Clone, Copy)]
struct Faults {
    lose: u64,
    repeat: u64,
    reorder: u64,
}

const CLEAN: Faults = Faults {
    lose: 0,
    repeat: 0,
    reorder: 0,
};

const BAD: Faults = Faults {
    lose: 15,
    repeat: 10,
    reorder: 20,
};

/// Both halves, their memory, the link between them and a clock that jumps from event to event.
struct World {
    now: Instant,
    prng: Prng,
    faults: Faults,
    publication: Publication,
    send_slot: Vec<u8>,
    image: Option<Image>,
    receive_slot: Vec<u8>,
    to_receiver: BTreeMap<(Instant, u64), Vec<u8>>,
    to_sender: BTreeMap<(Instant, u64), Vec<u8>>,
    sequence: u64,
    /// Each datagram, one a line.
    picture: String,
    assembly: Assembly,
    buffer: Vec<u8>,
    reads: bool,
}

impl World {
    fn new(seed: u64, faults: Faults, send_window: usize, receive_window: usize) -> Self {
        let config = config(1 << 20, 1408);
        Self::with(seed, faults, &config, send_window, receive_window)
    }

    fn with(
        seed: u64,
        faults: Faults,
        config: &PublicationConfig,
        send_window: usize,
        receive_window: usize,
    ) -> Self {
        let now = Instant::from_nanos(1);
        let mtu = config.mtu as usize;
        let send_slot = vec![0xEE; slot_len(send_window, mtu)];
        Self {
            now,
            prng: Prng::new(seed),
            faults,
            publication: Publication::new(now, config, send_slot.len()).unwrap(),
            send_slot,
            image: None,
            receive_slot: vec![0xEE; slot_len(receive_window, mtu)],
            to_receiver: BTreeMap::new(),
            to_sender: BTreeMap::new(),
            sequence: 0,
            picture: String::new(),
            assembly: Assembly::new(),
            buffer: vec![0; 1 << 17],
            reads: true,
        }
    }

    fn send(&mut self, bytes: Vec<u8>, forward: bool) {
        self.picture += &picture(&bytes, forward);
        let copies = 1 + u64::from(self.prng.below(100) < self.faults.repeat);
        for _ in 0..copies {
            if self.prng.below(100) < self.faults.lose {
                continue;
            }
            let late = self.prng.below(100) < self.faults.reorder;
            let micros = 50 + if late { self.prng.below(3000) } else { 0 };
            let at = self.now.plus(Duration::from_micros(micros));
            self.sequence += 1;
            let link = if forward {
                &mut self.to_receiver
            } else {
                &mut self.to_sender
            };
            link.insert((at, self.sequence), bytes.clone());
        }
    }

    /// One turn at the present time: what has arrived is handled, what is due is sent.
    fn turn(&mut self, received: &mut Vec<Vec<u8>>) {
        while let Some(bytes) = due(&mut self.to_receiver, self.now) {
            self.receive(&bytes);
        }
        while let Some(bytes) = due(&mut self.to_sender, self.now) {
            self.feedback(&bytes);
        }
        if self.reads {
            self.read(received);
        }
        while let Some(output) = self.publication.poll_transmit(self.now, &self.send_slot) {
            let bytes = match output {
                Output::Frames(frames) => frames.to_vec(),
                Output::Control(control) => control.emit(&mut [0; CONTROL_MAX]).to_vec(),
            };
            assert!(bytes.len() <= 1408);
            self.send(bytes, true);
        }
        while let Some(control) = self.image.as_mut().and_then(|i| i.poll_control(self.now)) {
            self.send(control.emit(&mut [0; CONTROL_MAX]).to_vec(), false);
        }
        // Everything due was done, so a driver may sleep.
        let image = self.image.as_ref();
        let alive = image.filter(|i| i.state(self.now) != ImageState::Lost);
        let next = [
            self.publication.poll_timeout(),
            alive.and_then(Image::poll_timeout),
        ];
        assert!(
            next.iter().flatten().all(|next| *next > self.now),
            "{next:?}"
        );
    }

    fn receive(&mut self, bytes: &[u8]) {
        match parse_datagram(bytes).unwrap() {
            Frame::Setup(setup) => match &mut self.image {
                Some(image) => image.handle_setup(self.now),
                None => {
                    let (len, timing) = (self.receive_slot.len(), ImageTiming::DEFAULT);
                    let image = Image::new(self.now, address(2), &setup, 5, len, timing);
                    self.image = Some(image.unwrap());
                }
            },
            Frame::Data(datagram) => match &mut self.image {
                Some(image) => {
                    let taken = image.handle_data(self.now, &datagram, &mut self.receive_slot);
                    assert_ne!(taken, Err(DataReject::Malformed));
                    assert_ne!(taken, Err(DataReject::Foreign));
                }
                None => {
                    let status = elicit_setup(datagram.first(), 5).map(Control::StatusMessage);
                    let bytes = status.map(|s| s.emit(&mut [0; CONTROL_MAX]).to_vec());
                    self.send(bytes.unwrap(), false);
                }
            },
            Frame::Rttm(rttm) => self.image.as_mut().unwrap().handle_rttm(&rttm),
            other => panic!("not for a receiver: {other:?}"),
        }
    }

    fn feedback(&mut self, bytes: &[u8]) {
        match parse_datagram(bytes).unwrap() {
            Frame::StatusMessage(sm) => {
                // One that was delayed by more than half a segment is refused; it says nothing new.
                let acked = self.publication.acked();
                let taken = self.publication.handle_status(self.now, &sm);
                if taken == Err(StatusReject::Position) {
                    let segments = Segments::new(i32::MAX - 1, 1 << 16).unwrap();
                    let consumed = segments.position(sm.term_id, sm.term_offset).unwrap();
                    assert!(consumed < acked, "{consumed:?} {acked:?}");
                } else {
                    assert_eq!(taken, Ok(()));
                }
            }
            Frame::Nak(nak) => {
                // A request that was overtaken by the data it is for is a reject; no harm.
                let _stale = self.publication.handle_nak(self.now, &nak, &self.send_slot);
            }
            other => panic!("not for a sender: {other:?}"),
        }
    }

    fn read(&mut self, received: &mut Vec<Vec<u8>>) {
        let Some(image) = &mut self.image else { return };
        while let Some(fragment) = image.peek(&self.receive_slot) {
            if let Assembled::Message(len) = self.assembly.push(&fragment, &mut self.buffer) {
                received.push(self.buffer[..len].to_vec());
            }
            image.consume(&self.receive_slot);
        }
    }

    /// Time goes on to whatever is next, at most `step_max`.
    fn advance(&mut self, step_max: Duration) {
        let arrivals = [&self.to_receiver, &self.to_sender];
        let arrival = arrivals.iter().filter_map(|l| l.keys().next()).map(|k| k.0);
        let timeouts = [
            self.publication.poll_timeout(),
            self.image.as_ref().and_then(Image::poll_timeout),
        ];
        let next = arrival.chain(timeouts.into_iter().flatten()).min();
        let tick = Instant::from_nanos(self.now.nanos() + 1);
        let cap = self.now.plus(step_max);
        self.now = next.unwrap_or(cap).max(tick).min(cap);
    }

    /// Lets everything that is pending arrive and be consumed.
    fn run_dry(&mut self) {
        for _ in 0..1000 {
            self.turn(&mut Vec::new());
            self.advance(Duration::from_millis(500));
        }
        assert!(self.publication.is_drained());
    }

    /// Sends all messages and returns what was received, in at most `turns` turns.
    fn exchange(&mut self, messages: &[Vec<u8>], turns: usize) -> Vec<Vec<u8>> {
        let mut received = Vec::new();
        let mut waiting = messages.iter().peekable();
        for _ in 0..turns {
            while let Some(message) = waiting.peek() {
                let (a, b) = message.split_at(message.len() / 3);
                match self.publication.offer(&[a, &[], b], &mut self.send_slot) {
                    Ok(_) => waiting.next(),
                    Err(OfferError::BackPressured | OfferError::NotConnected) => break,
                    Err(error) => panic!("{error:?}"),
                };
            }
            self.turn(&mut received);
            if received.len() >= messages.len() {
                break;
            }
            self.advance(Duration::from_millis(500));
        }
        received
    }
}

fn due(link: &mut BTreeMap<(Instant, u64), Vec<u8>>, now: Instant) -> Option<Vec<u8>> {
    let entry = link.first_entry()?;
    (entry.key().0 <= now).then(|| entry.remove())
}

fn picture(bytes: &[u8], forward: bool) -> String {
    let arrow = if forward { "->" } else { "<-" };
    let text = match parse_datagram(bytes).unwrap() {
        Frame::Setup(s) => std::format!("SETUP {}/{}", s.active_term_id, s.term_offset),
        Frame::Data(d) if d.is_heartbeat() => {
            let end = if d.first().is_end_of_stream() {
                " EOS"
            } else {
                ""
            };
            std::format!("HEARTBEAT {}{end}", d.first().term_offset)
        }
        Frame::Data(d) => {
            let mut text = String::from("DATA");
            for f in d.frames() {
                let kind = std::format!("{:?}", f.header.kind);
                let kind = if kind == "Pad" { " PAD" } else { "" };
                let (at, len) = (f.header.term_offset, f.header.length());
                text += &std::format!("{kind} {at}+{len}:{:02x}", f.header.flags);
            }
            text
        }
        Frame::StatusMessage(s) => {
            std::format!(
                "SM {}/{} +{} {:02x}",
                s.term_id,
                s.term_offset,
                s.window,
                s.flags
            )
        }
        Frame::Nak(n) => std::format!("NAK {}+{}", n.term_offset, n.length),
        other => std::format!("{other:?}"),
    };
    std::format!("{arrow} {text}\n")
}
