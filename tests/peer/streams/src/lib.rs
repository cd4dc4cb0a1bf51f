//! An echo made of nothing but the core's two stream halves and one UDP socket: no node, no log.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use coracle_core::stream::{
    Assembled, Assembly, CONTROL_MAX, Control, Image, ImageTiming, OfferError, Output, Publication,
    PublicationConfig, PublicationTiming, elicit_setup, slot_len,
};
use coracle_core::time::Instant;
use coracle_core::wire::frame::{Datagram, Frame, Setup, parse_datagram};

/// Longest datagram of either side, in bytes.
const MTU: usize = 1_408;
/// Longest message, in bytes.
const MESSAGE_MAX: usize = 64 * 1024;
/// Window of the stream back, in bytes.
const EGRESS_WINDOW: usize = 256 * 1024;
/// The stream back.
const EGRESS_STREAM: i32 = 102;
/// Fragments and datagrams taken in one turn.
const TURN: usize = 64;

/// What an echo is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the stream back goes.
    pub egress: SocketAddr,
    /// Window for the stream that comes in, in bytes: a power of two.
    pub ingress_window: usize,
    /// Forget the incoming stream once, after this many messages, as a restarted receiver would.
    pub forget_after: Option<u64>,
}

/// A running echo; ends when it is stopped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What happened in an echo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages echoed.
    pub messages: u64,
    /// SETUPs that made an image.
    pub images: u64,
    /// Times that SETUP was asked for.
    pub elicited: u64,
    /// Requests for lost data that were sent.
    pub naks_sent: u64,
    /// Requests for lost data that came.
    pub naks_taken: u64,
    /// Frames that came too late or too far ahead: what is needed comes again.
    pub refused: u64,
    /// Datagrams that no part of the echo could read.
    pub unread: u64,
    /// The sender said that the stream ended, and all of it had been consumed.
    pub has_ended: bool,
}

impl Echo {
    /// Starts the echo on a thread of its own.
    ///
    /// # Panics
    /// When the core refuses the plan.
    pub fn start(socket: UdpSocket, plan: Plan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut halves = Halves::new(socket, plan);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if !halves.turn() {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            halves.tally
        });
        Self { stop, thread }
    }

    /// Ends the echo.
    ///
    /// # Panics
    /// When its thread has panicked.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .expect("the echo's thread goes on until it is stopped")
    }
}

struct Halves {
    socket: UdpSocket,
    plan: Plan,
    started: std::time::Instant,
    image: Option<Image>,
    ingress: Vec<u8>,
    publication: Publication,
    egress: Vec<u8>,
    assembly: Assembly,
    message: Vec<u8>,
    /// Length of a whole message that waits for room in the stream back.
    ready: Option<usize>,
    has_forgotten: bool,
    tally: Tally,
}

impl Halves {
    fn new(socket: UdpSocket, plan: Plan) -> Self {
        socket
            .set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let port = socket.local_addr().expect("it is bound").port();
        let config = PublicationConfig {
            target: plan.egress,
            stream_id: EGRESS_STREAM,
            session_id: i32::from(port),
            initial_term_id: -7,
            segment_length: 1 << 20,
            mtu: 1_408,
            timing: PublicationTiming::DEFAULT,
        };
        let egress = vec![0; slot_len(EGRESS_WINDOW, MTU)];
        let publication = Publication::new(Instant::from_nanos(0), &config, egress.len());
        Self {
            socket,
            plan,
            started: std::time::Instant::now(),
            image: None,
            ingress: vec![0; slot_len(plan.ingress_window, MTU)],
            publication: publication.expect("the plan fits"),
            egress,
            assembly: Assembly::new(),
            message: vec![0; MESSAGE_MAX],
            ready: None,
            has_forgotten: false,
            tally: Tally::default(),
        }
    }

    /// True if there was anything to do.
    fn turn(&mut self) -> bool {
        let nanos = self.started.elapsed().as_nanos();
        let now = Instant::from_nanos(u64::try_from(nanos).expect("584 years"));
        let has_received = self.receive(now);
        let has_echoed = self.echo();
        let has_sent = self.send(now);
        has_received || has_echoed || has_sent
    }

    fn receive(&mut self, now: Instant) -> bool {
        let mut buffer = [0; 2_048];
        for turn in 0..TURN {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else {
                return turn > 0;
            };
            match parse_datagram(&buffer[..length]) {
                Ok(Frame::Setup(setup)) => self.take_setup(now, from, &setup),
                Ok(Frame::Data(datagram)) => self.take_data(now, from, &datagram),
                Ok(Frame::StatusMessage(status)) => {
                    let taken = self.publication.handle_status(now, &status);
                    self.tally.refused += u64::from(taken.is_err());
                }
                Ok(Frame::Nak(nak)) => {
                    self.tally.naks_taken += 1;
                    let taken = self.publication.handle_nak(now, &nak, &self.egress);
                    self.tally.refused += u64::from(taken.is_err());
                }
                Ok(Frame::Rttm(rttm)) => {
                    self.publication.handle_rttm(&rttm);
                    if let Some(image) = &mut self.image {
                        image.handle_rttm(&rttm);
                    }
                }
                _ => self.tally.unread += 1,
            }
        }
        true
    }

    fn take_setup(&mut self, now: Instant, from: SocketAddr, setup: &Setup) {
        match &mut self.image {
            Some(image) if image.is(from, setup.stream_id, setup.session_id) => {
                image.handle_setup(now);
            }
            _ => {
                let length = self.ingress.len();
                let made = Image::new(now, from, setup, 42, length, ImageTiming::DEFAULT);
                self.image = Some(made.expect("the driver's SETUP is a good one"));
                self.assembly.reset();
                self.tally.images += 1;
            }
        }
    }

    fn take_data(&mut self, now: Instant, from: SocketAddr, datagram: &Datagram<'_>) {
        if let Some(image) = &mut self.image {
            let taken = image.handle_data(now, datagram, &mut self.ingress);
            self.tally.refused += u64::from(taken.is_err());
        } else if let Some(status) = elicit_setup(datagram.first(), 42) {
            self.tally.elicited += 1;
            self.emit(&Control::StatusMessage(status), from);
        }
    }

    fn echo(&mut self) -> bool {
        let mut has_worked = false;
        for _ in 0..TURN {
            if let Some(length) = self.ready {
                match self
                    .publication
                    .offer(&[&self.message[..length]], &mut self.egress)
                {
                    Ok(_) => self.tally.messages += 1,
                    Err(OfferError::BackPressured | OfferError::NotConnected) => break,
                    Err(error) => panic!("offer: {error:?}"),
                }
                self.ready = None;
                if !self.has_forgotten && self.plan.forget_after == Some(self.tally.messages) {
                    self.has_forgotten = true;
                    self.image = None;
                    break;
                }
            }
            let Some(image) = &mut self.image else { break };
            let Some(fragment) = image.peek(&self.ingress) else {
                break;
            };
            has_worked = true;
            match self.assembly.push(&fragment, &mut self.message) {
                Assembled::Message(length) => self.ready = Some(length),
                Assembled::Partial | Assembled::Stray => {}
                Assembled::TooLong => panic!("longer than the workload's longest"),
            }
            image.consume(&self.ingress);
        }
        has_worked
    }

    fn send(&mut self, now: Instant) -> bool {
        let mut has_sent = false;
        while let Some(control) = self
            .image
            .as_mut()
            .and_then(|image| image.poll_control(now))
        {
            self.tally.naks_sent += u64::from(matches!(control, Control::Nak(_)));
            let source = self.image.as_ref().map(Image::source);
            source
                .into_iter()
                .for_each(|source| self.emit(&control, source));
            has_sent = true;
        }
        while let Some(output) = self.publication.poll_transmit(now, &self.egress) {
            let target = self.publication.target();
            match output {
                // A full socket buffer is loss, which the streams repair.
                Output::Frames(frames) => drop(self.socket.send_to(frames, target)),
                Output::Control(control) => self.emit(&control, target),
            }
            has_sent = true;
        }
        let state = self.image.as_ref().map(|image| image.state(now));
        self.tally.has_ended |= state == Some(coracle_core::stream::ImageState::Ended);
        has_sent
    }

    fn emit(&self, control: &Control, to: SocketAddr) {
        let mut bytes = [0; CONTROL_MAX];
        drop(self.socket.send_to(control.emit(&mut bytes), to));
    }
}
