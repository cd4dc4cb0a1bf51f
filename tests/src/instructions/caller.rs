//! A client that has its messages echoed.

use std::net::SocketAddr;

use coracle_core::client::{self, Client, ClientConfig, Egress, OfferError, State};
use coracle_core::limits::MTU_DEFAULT;
use coracle_core::stream::{CONTROL_MAX, Output, slot_len};
use coracle_core::time::Instant;

use super::member::client_door;
use super::{Inbox, MEMBERS, PAYLOAD};

const WINDOW: usize = 256 << 10;

struct Memory {
    ingress: Vec<u8>,
    egress: Vec<u8>,
    assembly: Vec<u8>,
}

impl Memory {
    fn lend(&mut self) -> client::Lent<'_> {
        client::Lent {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            assembly: &mut self.assembly,
        }
    }
}

/// A client.
pub struct Caller {
    pub address: SocketAddr,
    core: Client,
    memory: Memory,
    pub inbox: Inbox<SocketAddr, ()>,
    pub outbox: Inbox<(), SocketAddr>,
    wanted: usize,
    offered: u64,
    answered: u64,
}

impl Caller {
    /// One that begins to open a session.
    pub fn new(id: usize, now: Instant) -> Self {
        let address = SocketAddr::from(([10, 0, 1, 1 + id as u8], 20_000));
        let channel = format!("aeron:udp?endpoint={address}");
        let endpoints: Vec<String> = (0..MEMBERS)
            .map(|member| format!("{member}={}", client_door(member)))
            .collect();
        let seed = 100 + id as u64;
        let config = ClientConfig::new(&channel, &endpoints.join(","), seed).expect("short texts");
        let slot = slot_len(WINDOW, MTU_DEFAULT);
        let mut memory = Memory {
            ingress: vec![0; slot],
            egress: vec![0; client::EGRESS_IMAGES * slot],
            assembly: vec![0; 1 << 12],
        };
        let core = Client::new(now, config, &memory.lend()).expect("a sound configuration");
        Self {
            address,
            core,
            memory,
            inbox: Inbox::default(),
            outbox: Inbox::default(),
            wanted: 0,
            offered: 0,
            answered: 0,
        }
    }

    /// It shall offer so many messages more.
    pub fn want(&mut self, messages: usize) {
        self.wanted += messages;
    }

    pub fn is_open(&self) -> bool {
        matches!(self.core.state(), State::Open { .. })
    }

    /// Has it an answer to all that it was to offer?
    pub fn is_answered(&self) -> bool {
        self.wanted == 0 && self.offered == self.answered
    }

    /// Would a driver that sleeps wake up now?
    pub fn is_due(&self, now: Instant) -> bool {
        let is_early = self.core.poll_timeout().is_none_or(|at| now < at);
        self.wanted > 0 || !self.inbox.is_empty() || !is_early
    }

    /// One turn of the loop that every driver has.
    pub fn turn(&mut self, now: Instant) {
        let mut lent = self.memory.lend();
        for (from, (), mut bytes) in self.inbox.iter() {
            while let Some(egress) = self.core.take_egress(now, from, &mut bytes) {
                hear(&mut self.answered, &egress);
            }
            if bytes.is_empty() {
                continue;
            }
            let taken = self.core.handle_datagram(now, from, bytes, &mut lent);
            std::hint::black_box(taken.is_ok());
        }
        self.inbox.clear();
        self.core.handle_timeout(now, &mut lent);
        while let Some(egress) = self.core.poll_egress(now, &mut lent) {
            hear(&mut self.answered, &egress);
        }
        while let Some(resolve) = self.core.poll_resolve() {
            let (member, address) = (resolve.member, resolve.endpoint.parse().ok());
            self.core.handle_resolved(member, address);
        }
        while self.wanted > 0 {
            let mut message = [7; PAYLOAD];
            message[..8].copy_from_slice(&self.offered.to_le_bytes());
            match self.core.offer(now, &[&message], &mut lent) {
                Ok(_) => {
                    self.offered += 1;
                    self.wanted -= 1;
                }
                Err(OfferError::BackPressured) => break,
                Err(error) => panic!("the session is open: {error:?}"),
            }
        }
        while self.core.poll_event().is_some() {}
        self.send(now);
    }

    fn send(&mut self, now: Instant) {
        let lent = self.memory.lend();
        while let Some(transmit) = self.core.poll_transmit(now, &lent) {
            let mut scratch = [0; CONTROL_MAX];
            let bytes = match transmit.payload {
                Output::Frames(frames) => frames,
                Output::Control(control) => control.emit(&mut scratch),
            };
            self.outbox.push((), transmit.to, bytes);
        }
    }
}

/// The next answer, if this is one.
fn hear(answered: &mut u64, egress: &Egress<'_>) {
    if let Egress::Message { payload, .. } = egress {
        let number = payload.first_chunk().map(|n| u64::from_le_bytes(*n));
        assert_eq!((number, payload.len()), (Some(*answered), PAYLOAD));
        *answered += 1;
    }
}
