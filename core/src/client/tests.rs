//! A client and scripted members on a link that may lose, repeat and reorder.

extern crate std;

mod direct;
mod member;
mod sessions;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::stream::{CONTROL_MAX, slot_len};
use member::{Member, Script};

const ENDPOINTS: &str = "0=192.0.2.0:9000,1=192.0.2.1:9000,2=192.0.2.2:9000";

fn client_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 100], 7000))
}

struct Memory {
    ingress: Vec<u8>,
    egress: Vec<u8>,
    assembly: Vec<u8>,
}

impl Memory {
    fn new(ingress: usize, egress: usize, assembly: usize) -> Self {
        Self {
            ingress: vec![0; slot_len(ingress, 1408)],
            egress: vec![0; EGRESS_IMAGES * slot_len(egress, 1408)],
            assembly: vec![0; assembly],
        }
    }

    fn lent(&mut self) -> Lent<'_> {
        Lent {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            assembly: &mut self.assembly,
        }
    }
}

/// What the application was told, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Message(u32, Vec<u8>),
    NewLeader(u32, u8),
}

impl From<Egress<'_>> for Said {
    fn from(egress: Egress<'_>) -> Self {
        match egress {
            Egress::Message { term, payload, .. } => Self::Message(term.get(), payload.to_vec()),
            Egress::NewLeader { term, leader } => Self::NewLeader(term.get(), leader.get()),
            Egress::AdminResponse { .. } => panic!("nobody asked"),
        }
    }
}

struct World {
    now: Instant,
    prng: Prng,
    lose: u64,
    client: Client,
    memory: Memory,
    members: Vec<Member>,
    link: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sequence: u64,
    said: Vec<Said>,
    /// Whether the application asks for egress.
    reads: bool,
    /// How many messages it took from where they arrived.
    taken: usize,
    events: Vec<Event>,
    /// What names stand for.
    names: Vec<(&'static str, SocketAddr)>,
}

impl World {
    fn new(seed: u64, scripts: [Script; 3]) -> Self {
        let config = ClientConfig::new("aeron:udp?endpoint=192.0.2.100:7000", ENDPOINTS, seed);
        Self::with(
            config.unwrap(),
            scripts,
            Memory::new(1 << 17, 1 << 17, 1 << 17),
        )
    }

    fn with(config: ClientConfig, scripts: [Script; 3], mut memory: Memory) -> Self {
        let now = Instant::from_nanos(1_000_000);
        let seed = config.seed;
        let client = Client::new(now, config, &memory.lent()).unwrap();
        let mut id = 0;
        let members = scripts.map(|script| {
            id += 1;
            Member::new(id - 1, script, 1 << 17)
        });
        Self {
            now,
            prng: Prng::new(seed ^ 0x55),
            lose: 0,
            client,
            memory,
            members: members.into(),
            link: BTreeMap::new(),
            sequence: 0,
            said: Vec::new(),
            reads: true,
            taken: 0,
            events: Vec::new(),
            names: Vec::new(),
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.prng.below(100) < self.lose {
            return;
        }
        let late = self.lose > 0 && self.prng.below(5) == 0;
        let micros = 50 + if late { self.prng.below(2000) } else { 0 };
        let at = self.now.plus(Duration::from_micros(micros));
        self.sequence += 1;
        self.link.insert((at, self.sequence), (from, to, bytes));
    }

    fn turn(&mut self) {
        while let Some(entry) = self.link.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (from, to, bytes) = entry.remove();
            self.deliver(from, to, &bytes);
        }
        self.client
            .handle_timeout(self.now, &mut self.memory.lent());
        self.read();
        if let Some(resolve) = self.client.poll_resolve() {
            let found = self.names.iter().find(|name| name.0 == resolve.endpoint);
            let (member, address) = (resolve.member, found.map(|name| name.1));
            self.client.handle_resolved(member, address);
            self.client
                .handle_timeout(self.now, &mut self.memory.lent());
        }
        self.events
            .extend(core::iter::from_fn(|| self.client.poll_event()));
        self.client
            .handle_timeout(self.now, &mut self.memory.lent());
        self.transmit();
        // Everything due was done, so a driver may sleep.
        let next = self.client.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "{next:?}");
    }

    fn read(&mut self) {
        while self.reads {
            let mut lent = self.memory.lent();
            let Some(said) = self.client.poll_egress(self.now, &mut lent) else {
                break;
            };
            self.said.push(Said::from(said));
        }
    }

    fn transmit(&mut self) {
        loop {
            let lent = self.memory.lent();
            let Some(datagram) = self.client.poll_transmit(self.now, &lent) else {
                break;
            };
            let bytes = match datagram.payload {
                Output::Frames(frames) => frames.to_vec(),
                Output::Control(control) => control.emit(&mut [0; CONTROL_MAX]).to_vec(),
            };
            let to = datagram.to;
            self.send(client_address(), to, bytes);
        }
        for index in 0..self.members.len() {
            self.members[index].work(self.now);
            while let Some((to, bytes)) = self.members[index].poll(self.now) {
                let from = self.members[index].address;
                self.send(from, to, bytes);
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: &[u8]) {
        if to == client_address() {
            // Who reads may take messages where they arrive: each time, or now and then.
            let is_direct = self.reads && self.prng.below(4) > 0;
            while is_direct && let Some(said) = self.client.take_egress(self.now, from, &mut bytes)
            {
                self.taken += 1;
                self.said.push(Said::from(said));
            }
            if bytes.is_empty() {
                return;
            }
            let mut lent = self.memory.lent();
            let handled = self
                .client
                .handle_datagram(self.now, from, bytes, &mut lent);
            assert_eq!(handled, Ok(()));
            return;
        }
        let member = self.members.iter_mut().find(|member| member.address == to);
        let answer = member.and_then(|member| member.receive(self.now, from, bytes));
        if let Some(answer) = answer {
            self.send(to, from, answer);
        }
    }

    fn advance(&mut self) {
        let arrival = self.link.keys().next().map(|key| key.0);
        let timeouts = self.members.iter().map(Member::poll_timeout);
        let next = timeouts.chain([arrival, self.client.poll_timeout()]);
        let cap = self.now.plus(Duration::from_millis(500));
        let tick = self.now.plus(Duration::from_micros(10));
        self.now = next.flatten().min().unwrap_or(cap).max(tick).min(cap);
    }

    /// Runs until `done`, for at most `time`; true if it was.
    fn run(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.plus(time);
        while self.now < end {
            self.turn();
            if done(self) {
                return true;
            }
            self.advance();
        }
        false
    }

    fn open(&mut self) {
        let is_open = self.run(Duration::from_secs(20), |world| {
            matches!(world.client.state(), State::Open { .. })
        });
        assert!(is_open, "{:?}: {:?}", self.client.state(), self.events);
    }

    fn offer(&mut self, message: &[u8]) -> Result<Offered, OfferError> {
        let (a, b) = message.split_at(message.len() / 2);
        self.client
            .offer(self.now, &[a, b], &mut self.memory.lent())
    }

    fn answers(&self) -> Vec<&[u8]> {
        let messages = self.said.iter().filter_map(|said| match said {
            Said::Message(_, bytes) => Some(bytes.as_slice()),
            Said::NewLeader(..) => None,
        });
        messages.collect()
    }
}
