//! A client that puts one key after another and remembers which were acknowledged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use coracle_core::client::{Client, ClientConfig, Egress, Lent, State};
use coracle_core::node::Door;
use coracle_core::service::kv::codec::{Reply, Request, decode_reply, encode_request};
use coracle_core::stream::{CONTROL_MAX, Output};

use super::World;

const SEGMENT: usize = 64 * 1024;
const MTU: usize = 1408;

/// The value of the key of this number: all lengths up to two frames and more.
fn value_of(number: u64) -> Vec<u8> {
    vec![number as u8; (number as usize * 397) % 3_500]
}

/// One session at a time; a new one when it is closed.
pub struct Caller {
    world: Rc<RefCell<World>>,
    address: SocketAddr,
    endpoints: String,
    client: Option<Client>,
    ingress: Vec<u8>,
    egress: Vec<u8>,
    assembly: Vec<u8>,
    seed: u64,
    next: u64,
    mtu: u32,
    /// No value is longer than this.
    value_max: usize,
    /// After so many keys the first is put again.
    pub keys: u64,
    /// The version of each key that was acknowledged.
    pub acknowledged: BTreeMap<u64, u64>,
    pub sessions: u64,
}

impl Caller {
    pub fn new(world: Rc<RefCell<World>>, address: SocketAddr, endpoints: String) -> Self {
        world.borrow_mut().bind(address);
        Self {
            world,
            address,
            endpoints,
            client: None,
            ingress: vec![0; SEGMENT + MTU],
            egress: vec![0; 2 * (SEGMENT + MTU)],
            assembly: vec![0; 8 * 1024],
            seed: 0,
            next: 0,
            mtu: MTU as u32,
            value_max: usize::MAX,
            keys: u64::MAX,
            acknowledged: BTreeMap::new(),
            sessions: 0,
        }
    }

    /// Sends no longer datagrams, and no longer values.
    pub fn limit(&mut self, mtu: usize, value_max: usize) {
        (self.mtu, self.value_max) = (mtu as u32, value_max);
    }

    /// The value that this client gives the key of this number.
    pub fn value_of(&self, number: u64) -> Vec<u8> {
        let mut value = value_of(number);
        value.truncate(self.value_max);
        value
    }

    fn open(&mut self) -> Client {
        self.seed += 1;
        self.sessions += 1;
        let now = self.world.borrow().now;
        let channel = format!("aeron:udp?endpoint={}", self.address);
        let config = ClientConfig {
            segment_length: SEGMENT as u32,
            mtu: self.mtu,
            ..ClientConfig::new(&channel, &self.endpoints, self.seed).unwrap()
        };
        Client::new(
            now,
            config,
            &lent(&mut self.ingress, &mut self.egress, &mut self.assembly),
        )
        .unwrap()
    }

    /// One turn: takes in what has arrived, offers one message, sends what is due.
    pub fn turn(&mut self) {
        let mut client = match self.client.take() {
            Some(client) if !matches!(client.state(), State::Closed(_)) => client,
            _ => self.open(),
        };
        let now = self.world.borrow().now;
        let value = self.value_of(self.next % self.keys);
        let mut lent = lent(&mut self.ingress, &mut self.egress, &mut self.assembly);
        while let Some((from, bytes)) = {
            let mut world = self.world.borrow_mut();
            world.receive(self.address)
        } {
            client
                .handle_datagram(now, from, &bytes, &mut lent)
                .unwrap();
        }
        client.handle_timeout(now, &mut lent);
        while let Some(egress) = client.poll_egress(now, &mut lent) {
            if let Egress::Message { payload, .. } = egress {
                let (number, reply) = decode_reply(payload).unwrap();
                let Reply::Done { version } = reply else {
                    panic!("{reply:?}");
                };
                let before = self.acknowledged.insert(number % self.keys, version);
                assert!(before < Some(version), "answered once, and in order");
            }
        }
        let key = (self.next % self.keys).to_be_bytes();
        let request = Request::Put {
            key: &key,
            value: &value,
        };
        let encoded = encode_request(self.next, &request);
        if client.offer(now, &encoded.parts(), &mut lent).is_ok() {
            self.next += 1;
        }
        while let Some(resolve) = client.poll_resolve() {
            let (member, address) = (resolve.member, resolve.endpoint.parse().ok());
            client.handle_resolved(member, address);
        }
        let mut scratch = [0; CONTROL_MAX];
        while let Some(transmit) = client.poll_transmit(now, &lent) {
            let bytes = match &transmit.payload {
                Output::Frames(bytes) => bytes,
                Output::Control(control) => control.emit(&mut scratch),
            };
            let mut world = self.world.borrow_mut();
            world.send(Door::Client, self.address, transmit.to, bytes);
        }
        self.client = Some(client);
    }
}

fn lent<'a>(ingress: &'a mut [u8], egress: &'a mut [u8], assembly: &'a mut [u8]) -> Lent<'a> {
    Lent {
        ingress,
        egress,
        assembly,
    }
}
