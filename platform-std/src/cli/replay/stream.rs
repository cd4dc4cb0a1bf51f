//! Records as messages of an Aeron stream, which goes as fast as its subscriber reads.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use coracle_core::limits::MTU_DEFAULT;
use coracle_core::stream::{
    CONTROL_MAX, OfferError, Output, Publication, PublicationConfig, PublicationTiming, slot_len,
};
use coracle_core::time::Instant;
use coracle_core::units::Position;
use coracle_core::wire::frame::{Frame, parse_datagram};

use super::super::Failure;
use super::{Sink, Size, StreamArgs};
use crate::clock::{Clock, random_seed};
use crate::net::batch::BATCH;
use crate::net::{ReceiveBatch, SendBatch, Socket, resolve, wait};
use crate::signals::StopSignal;
use crate::walk::Record;

/// The longest sleep: how soon a signal is noticed at the latest.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The network is looked at after so many records, if there is room for all of them.
const BURST: u32 = 32;
/// How long the end of the stream is repeated to a subscriber that has read everything, and how
/// long one that was interrupted may take for what is on its way.
const LINGER: Duration = Duration::from_secs(1);
/// A subscriber that may have read everything and does not say so is let go of after this long.
const UNSAID: Duration = Duration::from_secs(5);

/// One publication over one socket.
pub struct Stream {
    socket: Socket,
    inbound: ReceiveBatch,
    outbound: SendBatch,
    publication: Publication,
    slot: Vec<u8>,
    clock: Clock,
    stop: StopSignal,
    to: String,
    is_found: bool,
    burst: u32,
    records: u64,
    /// Where each record that is on its way ends: in the stream, and in the log.
    flying: VecDeque<(Position, u64)>,
    /// The subscriber has read all below this position of the log, if it has read anything.
    read: Option<u64>,
}

impl Stream {
    /// Opens the stream, and waits until somebody subscribes to it.
    pub fn open(to: &str, args: &StreamArgs) -> Result<Self, Failure> {
        let target = resolve(to, false).map_err(|error| {
            Failure::usage(format!("`{to}` is no address: {error}. Write HOST:PORT"))
        })?;
        let local = match target.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let seed = random_seed();
        let config = PublicationConfig {
            target,
            stream_id: args.stream_id,
            session_id: args.session_id.unwrap_or(seed as i32),
            initial_term_id: (seed >> 32) as i32,
            segment_length: u32::try_from(args.term_length.0).unwrap_or(0),
            mtu: MTU_DEFAULT as u32,
            timing: PublicationTiming::DEFAULT,
        };
        // As much as a publication has on its way at most.
        let slot = vec![0; slot_len(config.segment_length as usize / 4, MTU_DEFAULT)];
        let clock = Clock::new();
        let publication = Publication::new(clock.instant(), &config, slot.len());
        let publication = publication.map_err(|_| {
            Failure::usage(format!(
                "--term-length {} is none of Aeron's: give a power of two from 64KiB to 1GiB",
                args.term_length
            ))
        })?;
        let mut stream = Self {
            socket: Socket::bind(SocketAddr::new(local, 0))?,
            inbound: ReceiveBatch::new(),
            outbound: SendBatch::new(),
            publication,
            slot,
            clock,
            stop: StopSignal::register()?,
            to: to.to_owned(),
            is_found: false,
            burst: 0,
            records: 0,
            flying: VecDeque::new(),
            read: None,
        };
        eprintln!(
            "coracle: waiting for a subscriber to aeron:udp?endpoint={to} stream {}",
            config.stream_id
        );
        while !stream.publication.is_connected() && !stream.stop.is_set() {
            stream.turn(SLEEP_MAX)?;
        }
        stream.is_found = stream.publication.is_connected();
        Ok(stream)
    }

    /// Receives, sends what is due, and then waits for more to receive, or for a timer.
    fn turn(&mut self, longest: Duration) -> Result<(), Failure> {
        self.receive()?;
        self.transmit();
        if !longest.is_zero() {
            let now = self.clock.instant();
            let timer = self.publication.poll_timeout();
            let sleep = timer.map_or(longest, |at| longest.min(at.since(now)));
            wait(&[self.socket.as_fd()], sleep)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let now = self.clock.instant();
        let mut rejected = None;
        while self.inbound.receive(&self.socket)? {
            for (_, bytes) in self.inbound.datagrams() {
                // What belongs to no stream of ours, or is no frame at all, is not for us.
                let _stray = match parse_datagram(bytes) {
                    Ok(Frame::StatusMessage(status)) => {
                        self.publication.handle_status(now, &status).is_err()
                    }
                    Ok(Frame::Nak(nak)) => {
                        self.publication.handle_nak(now, &nak, &self.slot).is_err()
                    }
                    Ok(Frame::Rttm(rttm)) => {
                        self.publication.handle_rttm(&rttm);
                        false
                    }
                    Ok(Frame::Error(frame))
                        if self.publication.is(frame.stream_id, frame.session_id) =>
                    {
                        rejected = Some(String::from_utf8_lossy(frame.text).into_owned());
                        false
                    }
                    Ok(_) | Err(_) => true,
                };
            }
        }
        let acked = self.publication.acked();
        while let Some((_, end)) = self.flying.front().filter(|(at, _)| *at <= acked) {
            self.read = Some(*end);
            self.flying.pop_front();
        }
        match rejected {
            Some(why) => Err(Failure::outcome(format!(
                "the subscriber at {} rejects the stream: {why}",
                self.to
            ))),
            None => Ok(()),
        }
    }

    fn transmit(&mut self) {
        self.burst = 0;
        let now = self.clock.instant();
        let target = self.publication.target();
        loop {
            let mut outputs = heapless::Vec::<Output<'_>, BATCH>::new();
            while !outputs.is_full() {
                let Some(output) = self.publication.poll_transmit(now, &self.slot) else {
                    break;
                };
                outputs.push(output).unwrap_or_else(|_| unreachable!());
            }
            let mut scratch = [[0; CONTROL_MAX]; BATCH];
            let mut datagrams = heapless::Vec::<(SocketAddr, &[u8]), BATCH>::new();
            for (output, scratch) in outputs.iter().zip(&mut scratch) {
                let bytes = match output {
                    Output::Frames(bytes) => bytes,
                    Output::Control(control) => control.emit(scratch),
                };
                datagrams
                    .push((target, bytes))
                    .unwrap_or_else(|_| unreachable!());
            }
            self.outbound.send(&self.socket, &datagrams);
            if !outputs.is_full() {
                return;
            }
        }
    }

    fn too_long(&self, record: &Record<'_>) -> Failure {
        Failure::outcome(format!(
            "the record at position {} has {} bytes, and this stream takes {} at most: give \
             --term-length {}",
            record.position,
            record.bytes.len(),
            self.publication.message_max(),
            Size((record.bytes.len() as u64 * 8).next_power_of_two())
        ))
    }

    fn gone(&self) -> Failure {
        let where_to = match self.read {
            Some(position) => {
                format!("has read all below {position}: go on with --from {position}")
            }
            None => "had read nothing".to_owned(),
        };
        Failure::outcome(format!(
            "the subscriber at {} went away after {} records were sent, and {where_to}",
            self.to, self.records
        ))
    }

    /// Whether nothing is left to wait for, `since` it last said anything new.
    fn is_over(&self, now: Instant, since: Instant) -> bool {
        let patience = match () {
            () if self.stop.is_set() || self.publication.is_drained() => LINGER,
            () if self.publication.is_unread() => return false,
            () => UNSAID,
        };
        now.since(since) >= patience
    }
}

impl Sink for Stream {
    fn take(&mut self, record: &Record<'_>) -> Result<bool, Failure> {
        while !self.stop.is_set() {
            match self.publication.offer(&[record.bytes], &mut self.slot) {
                Ok(end) => {
                    self.flying.push_back((end, record.end));
                    self.records += 1;
                    self.burst += 1;
                    if self.burst >= BURST {
                        self.turn(Duration::ZERO)?;
                    }
                    return Ok(true);
                }
                Err(OfferError::BackPressured) => self.turn(SLEEP_MAX)?,
                Err(OfferError::TooLong) => return Err(self.too_long(record)),
                Err(_) => return Err(self.gone()),
            }
        }
        Ok(false)
    }

    fn rest(&mut self, time: Duration) -> Result<bool, Failure> {
        self.turn(time)?;
        match self.publication.is_connected() || self.stop.is_set() {
            true => Ok(!self.stop.is_set()),
            false => Err(self.gone()),
        }
    }

    /// Tells the end, and waits until the subscriber has read all of it.
    fn end(&mut self) -> Result<(), Failure> {
        if !self.is_found {
            return Ok(());
        }
        self.publication.close(self.clock.instant());
        let (mut acked, mut since) = (self.publication.acked(), self.clock.instant());
        while self.publication.is_connected() && !self.is_over(self.clock.instant(), since) {
            self.turn(SLEEP_MAX)?;
            if acked != self.publication.acked() {
                (acked, since) = (self.publication.acked(), self.clock.instant());
            }
        }
        if self.publication.is_unread() && !self.stop.is_set() {
            return Err(self.gone());
        }
        eprintln!("coracle: {} records sent to {}", self.records, self.to);
        Ok(())
    }
}
