//! A publication and an image on a link that loses, repeats and reorders.

extern crate std;

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
            Frame::StatusMessage(sm) => self.publication.handle_status(self.now, &sm).unwrap(),
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

fn messages(prng: &mut Prng, count: usize, longest: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|_| {
            // Mostly small, some as large as can be.
            let bound = 1 + prng.below(longest);
            let len = 1 + prng.below(bound) as usize;
            (0..len).map(|_| prng.next() as u8).collect()
        })
        .collect()
}

#[test]
fn every_message_arrives_once_in_order_and_byte_for_byte() {
    let windows = [(131_072, 131_072), (131_072, 2048), (131_072, 16_384)];
    for seed in 0..8 {
        for (send, receive) in windows {
            let mut world = World::new(seed, BAD, send, receive);
            let sent = messages(&mut Prng::new(seed ^ 0xA5), 80, 64 * 1024);
            let received = world.exchange(&sent, 400_000);
            assert_eq!(received.len(), sent.len(), "seed {seed} window {receive}");
            assert!(received == sent, "seed {seed} window {receive}");
        }
    }
}

#[test]
fn segment_ends_are_padded_and_small_windows_jump_over_them() {
    for (seed, receive) in [(1, 32_768), (2, 1024), (3, 512), (4, 4096)] {
        // 200 messages of up to 4 KiB cross the ends of 64 KiB segments several times.
        let config = config(1 << 16, 512);
        let mut world = World::with(seed, BAD, &config, 16_384, receive);
        let sent = messages(&mut Prng::new(seed), 200, 4096);
        let received = world.exchange(&sent, 400_000);
        assert!(received == sent, "seed {seed}");
        assert!(world.picture.contains("PAD"));
        assert!(world.publication.tail() > Position::new(3 << 16));
    }
}

#[test]
fn a_slow_consumer_closes_the_window_and_nothing_is_lost() {
    let mut world = World::new(9, CLEAN, 65_536, 4096);
    world.reads = false;
    let sent = messages(&mut Prng::new(9), 500, 900);
    let mut received = world.exchange(&sent, 2000);
    assert!(received.is_empty());
    let pending = world.publication.pending();
    assert!(
        pending > 64_000 - 2048,
        "the sender's slot is full: {pending}"
    );
    let image = world.image.as_ref().unwrap();
    assert_eq!(image.dropped(), 0);
    assert!(image.received().get() <= 4096);
    let offered = world.publication.offer(&[&[0; 2048]], &mut world.send_slot);
    assert_eq!(offered, Err(OfferError::BackPressured));
    // Once it reads again, all that was accepted arrives.
    world.reads = true;
    let accepted = world.publication.tail();
    for _ in 0..5000 {
        world.turn(&mut received);
        world.advance(Duration::from_millis(500));
    }
    assert!(sent.starts_with(&received) && received.len() > 100);
    assert_eq!(world.image.as_ref().unwrap().consumed(), accepted);
    assert!(world.publication.is_drained());
}

#[test]
fn the_first_datagrams_are_aerons() {
    let mut world = World::with(1, CLEAN, &config(1 << 16, 1408), 16_384, 16_384);
    let sent = vec![b"hello".to_vec(), vec![7; 3000], b"end".to_vec()];
    assert_eq!(world.exchange(&sent, 20), sent);
    world.publication.close(world.now);
    for _ in 0..8 {
        world.turn(&mut Vec::new());
        world.advance(Duration::from_millis(100));
    }
    // id/offset of segments; offset+length:flags of frames. The first id is i32::MAX - 1.
    let expected = "\
-> SETUP 2147483646/0
<- SM 2147483646/0 +16384 00
-> DATA 0+37:c0
-> DATA 64+1408:80
-> DATA 1472+1408:00
-> DATA 2880+280:40 3168+35:c0
-> HEARTBEAT 3232 EOS
";
    assert!(world.picture.starts_with(expected), "{}", world.picture);
    let state = world.image.as_ref().map(|i| i.state(world.now));
    assert_eq!(state, Some(ImageState::Ended));
}

#[test]
fn a_lost_last_datagram_is_found_by_the_heartbeat() {
    let mut world = World::with(1, CLEAN, &config(1 << 16, 1408), 16_384, 16_384);
    assert_eq!(world.exchange(&[b"first".to_vec()], 20).len(), 1);
    world.picture.clear();
    world
        .publication
        .offer(&[b"second"], &mut world.send_slot)
        .unwrap();
    world.faults.lose = 100;
    world.turn(&mut Vec::new());
    world.faults.lose = 0;
    let mut received = Vec::new();
    for _ in 0..20 {
        world.advance(Duration::from_secs(1));
        world.turn(&mut received);
    }
    assert_eq!(received, [b"second"]);
    let expected = "\
-> DATA 64+38:c0
<- SM 2147483646/64 +16384 00
-> HEARTBEAT 128
<- NAK 64+64
-> DATA 64+38:c0
";
    assert!(world.picture.starts_with(expected), "{}", world.picture);
}

#[test]
fn a_restarted_receiver_asks_for_setup_and_skips_to_the_next_message() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    world.reads = false;
    let long = vec![1; 5000];
    assert!(world.exchange(&[long], 100).is_empty());
    world.image = None;
    world.reads = true;
    let next = b"after".to_vec();
    let received = world.exchange(core::slice::from_ref(&next), 3000);
    assert_eq!(received, [next], "{}", world.picture);
    assert!(world.picture.contains("<- SM 0/0 +0 80\n-> SETUP"));
}

#[test]
fn without_status_messages_the_receiver_is_gone() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    assert_eq!(world.exchange(&[b"one".to_vec()], 100).len(), 1);
    assert!(world.publication.is_connected());
    world.faults.lose = 100;
    for _ in 0..400 {
        world.turn(&mut Vec::new());
        world.advance(Duration::from_millis(100));
    }
    assert!(!world.publication.is_connected());
    let offered = world.publication.offer(&[b"two"], &mut world.send_slot);
    assert_eq!(offered, Err(OfferError::NotConnected));
    let state = world.image.as_ref().map(|i| i.state(world.now));
    assert_eq!(state, Some(ImageState::Lost));
    assert!(
        world
            .image
            .as_mut()
            .unwrap()
            .poll_control(world.now)
            .is_none()
    );
}

#[test]
fn a_closing_receiver_disconnects_at_once() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    assert_eq!(world.exchange(&[b"one".to_vec()], 100).len(), 1);
    world.image.as_mut().unwrap().close(world.now);
    for _ in 0..3 {
        world.turn(&mut Vec::new());
        world.advance(Duration::from_micros(100));
    }
    assert!(!world.publication.is_connected());
}

#[test]
fn a_zero_window_stops_the_sender_and_never_takes_back_what_was_granted() {
    let mut publication =
        Publication::new(Instant::default(), &config(1 << 16, 512), 8192).unwrap();
    let mut slot = vec![0; 8192];
    let now = Instant::from_nanos(1);
    let sm = |window| StatusMessage {
        flags: 0,
        session_id: SESSION,
        stream_id: STREAM,
        term_id: i32::MAX - 1,
        term_offset: 0,
        window,
        receiver_id: 1,
        group_tag: None,
    };
    assert!(matches!(
        publication.poll_transmit(now, &slot),
        Some(Output::Control(_))
    ));
    publication.handle_status(now, &sm(0)).unwrap();
    publication.offer(&[&[1; 100]], &mut slot).unwrap();
    assert_eq!(publication.poll_transmit(now, &slot), None);
    publication.handle_status(now, &sm(512)).unwrap();
    publication.handle_status(now, &sm(0)).unwrap();
    assert!(matches!(
        publication.poll_transmit(now, &slot),
        Some(Output::Frames(_))
    ));
    let mut beyond = sm(512);
    beyond.term_offset = 1024;
    assert_eq!(
        publication.handle_status(now, &beyond),
        Err(StatusReject::Position)
    );
}

#[test]
fn a_request_in_mid_frame_or_out_of_range_is_refused() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    world.reads = false;
    world.exchange(&[vec![3; 1000]], 50);
    let ask = |world: &mut World, term_offset, length| {
        let nak = Nak {
            session_id: SESSION,
            stream_id: STREAM,
            term_id: i32::MAX - 1,
            term_offset,
            length,
        };
        world
            .publication
            .handle_nak(world.now, &nak, &world.send_slot)
    };
    assert_eq!(ask(&mut world, 32, 64), Err(StatusReject::Position));
    assert_eq!(ask(&mut world, 2048, 64), Err(StatusReject::Position));
    assert_eq!(ask(&mut world, 0, 0), Ok(()));
    let sent = world.publication.poll_transmit(world.now, &world.send_slot);
    assert!(matches!(sent, Some(Output::Frames(f)) if f.len() == 1056));
    // While the first answer lingers, the same request is ignored.
    assert_eq!(ask(&mut world, 0, 64), Ok(()));
    assert_eq!(
        world.publication.poll_transmit(world.now, &world.send_slot),
        None
    );
}

#[test]
fn hostile_datagrams_change_nothing_they_should_not() {
    for seed in 0..30 {
        let mut prng = Prng::new(seed);
        let mut world = World::new(seed, CLEAN, 65_536, 4096);
        let sent = messages(&mut Prng::new(seed), 20, 2000);
        let mut good = Vec::new();
        world.exchange(&sent[..1], 50);
        for _ in 0..3000 {
            let mut bytes: Vec<u8> = (0..prng.below(120)).map(|_| prng.next() as u8).collect();
            let output = world.publication.poll_transmit(world.now, &world.send_slot);
            if let Some(Output::Frames(frames)) = output {
                good = frames.to_vec();
            }
            if prng.below(2) == 0 && !good.is_empty() {
                bytes = good.clone();
                let at = prng.below(bytes.len().min(40) as u64) as usize;
                bytes[at] ^= 1 << prng.below(8);
            }
            let Ok(frame) = parse_datagram(&bytes) else {
                continue;
            };
            let image = world.image.as_mut().unwrap();
            match frame {
                Frame::Data(d) => {
                    let _any = image.handle_data(world.now, &d, &mut world.receive_slot);
                }
                Frame::StatusMessage(sm) => {
                    let _any = world.publication.handle_status(world.now, &sm);
                }
                Frame::Nak(nak) => {
                    let _any = world
                        .publication
                        .handle_nak(world.now, &nak, &world.send_slot);
                }
                Frame::Setup(setup) => {
                    let len = prng.below(5000) as usize;
                    let timing = ImageTiming::DEFAULT;
                    let _any = Image::new(world.now, address(2), &setup, 5, len, timing);
                }
                _ => {}
            }
            image.consume(&world.receive_slot);
            while image.poll_control(world.now).is_some() {}
            assert!(image.consumed() <= image.received());
            world.now = world.now.plus(Duration::from_millis(1));
            let _any = world.publication.offer(&[&[1; 700]], &mut world.send_slot);
        }
    }
}

#[test]
fn an_echo_is_given_for_a_round_trip_measurement() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    world.exchange(&[b"one".to_vec()], 100);
    let ask = Rttm {
        reply: true,
        session_id: SESSION,
        stream_id: STREAM,
        echo_timestamp: 12,
        reception_delta: 3,
        receiver_id: 5,
    };
    let echo = Rttm {
        reply: false,
        reception_delta: 0,
        ..ask
    };
    world.publication.handle_rttm(&ask);
    let sent = world.publication.poll_transmit(world.now, &world.send_slot);
    assert_eq!(sent, Some(Output::Control(Control::Rttm(echo))));
    // An echo is not echoed.
    world.publication.handle_rttm(&echo);
    let sent = world.publication.poll_transmit(world.now, &world.send_slot);
    assert!(!matches!(sent, Some(Output::Control(Control::Rttm(_)))));
}
