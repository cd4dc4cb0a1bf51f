//! Three superloops over a network of queues and devices in memory.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::client::Caller;
use super::{Board, Device, Handle, Kind, PowerCut, World};
use coracle_core::log::NodeState;
use coracle_core::node::{Config, MemberAddress, SnapshotPolicy};
use coracle_core::prng::Prng;
use coracle_core::service::Role;
use coracle_core::service::kv::Kv;
use coracle_core::session::AllowAll;
use coracle_core::units::{ClusterId, MemberId, Position, Term};
use coracle_embedded::{
    Application, Layout, Memory, Next, OpenError, Profile, Store, StoreError, Superloop, TurnError,
};

/// What most tests run with.
pub const ROOMY: Profile = Profile {
    sessions: SESSIONS,
    mtu: MTU,
    client_mtu: MTU,
    message_max: MESSAGE_MAX,
    log_window: 32 * 1024,
    ingress_window: 32 * 1024,
    egress_window: 32 * 1024,
    reassemblies: 2,
    catchup: 8 * 1024,
    services: 1024,
};
pub const SESSIONS: usize = Profile::TINY.sessions;
pub const SEGMENT: u32 = 64 * 1024;
pub const SEGMENTS: usize = 40;
pub const SNAPSHOT: u32 = 512 * 1024;
pub const MTU: usize = 1408;
pub const MESSAGE_MAX: usize = 4096;
pub const CLUSTER: ClusterId = ClusterId(0x00c0_ac1e);

pub type Member = Superloop<Board, Handle, Kv<Vec<u8>>, AllowAll, Vec<u8>, SESSIONS>;

pub fn id(member: usize) -> MemberId {
    MemberId::new(member as u8).unwrap()
}

pub fn address(member: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + member as u8], port))
}

pub fn config(member: usize, seed: u64, log_max: u64) -> Config {
    let listed = |n| MemberAddress::new(address(n, 9000), address(n, 9001));
    let members = std::array::from_fn(|n| (n < 3).then(|| listed(n)));
    Config {
        segment_length: SEGMENT,
        mtu: MTU,
        message_max: MESSAGE_MAX,
        egress_mtu: MTU,
        snapshots: SnapshotPolicy {
            enabled: log_max > 0,
            ..SnapshotPolicy::default()
        },
        log_max,
        ..Config::new(CLUSTER, id(member), members, seed)
    }
}

pub fn memory(profile: &Profile) -> Memory<Vec<u8>> {
    let mut bytes = vec![0; profile.total()];
    let memory = profile.split(&mut bytes).expect("as many as it says");
    Memory {
        log: memory.log.to_vec(),
        ingress: memory.ingress.to_vec(),
        reassembly: memory.reassembly.to_vec(),
        egress: memory.egress.to_vec(),
        replay: memory.replay.to_vec(),
        catchup: memory.catchup.to_vec(),
        assembly: memory.assembly.to_vec(),
        services: memory.services.to_vec(),
        datagram: memory.datagram.to_vec(),
    }
}

/// A member whose node owes no write has its term and vote where a power cut does not reach them.
pub fn assert_nothing_is_owed(member: &Member) {
    if member.node().poll_persist().is_none() {
        let safe = member.device().with(|device| device.safe());
        let (_, state) = Store::open(safe, SEGMENT).expect("it was formatted");
        assert_eq!(state.term, member.node().status().term);
    }
}

/// Three members, each running or without power.
pub struct Cluster {
    pub world: Rc<RefCell<World>>,
    pub members: [Option<Member>; 3],
    pub devices: [Handle; 3],
    pub log_max: u64,
    pub profile: Profile,
    /// The terms whose durability was looked at.
    pub terms: [Term; 3],
    pub prng: Prng,
    pub starts: u64,
    pub full: u64,
    /// How often one could not begin anew, for its service had a state.
    pub state_left: u64,
    /// The most bytes that a turn of each has read from its device.
    pub most_read: [u64; 3],
}

impl Cluster {
    /// A log of `log_max` bytes with snapshots; 0: none, until the device is full.
    pub fn new(seed: u64, kind: Kind, log_max: u64) -> Self {
        Self::of(ROOMY, seed, kind, log_max)
    }

    pub fn of(profile: Profile, seed: u64, kind: Kind, log_max: u64) -> Self {
        let devices = [0, 1, 2].map(|n| {
            let state = NodeState::first(CLUSTER, id(n));
            let layout = Layout {
                segment_length: SEGMENT,
                snapshot_max: if log_max > 0 { SNAPSHOT } else { 0 },
                record_units: 8,
            };
            let segments = match log_max {
                0 => SEGMENTS * SEGMENT as usize,
                bytes => bytes as usize,
            };
            let others = 2 * layout.snapshot_max as usize + 12 * 4096;
            let blank = Device::new(kind.of(n), segments + others);
            Handle::new(Store::format_as(blank, &layout, &state).unwrap())
        });
        let mut cluster = Self {
            world: World::new(seed),
            members: [None, None, None],
            devices,
            log_max,
            profile,
            terms: [Term::ZERO; 3],
            prng: Prng::new(seed),
            starts: seed * 1000,
            full: 0,
            state_left: 0,
            most_read: [0; 3],
        };
        for n in 0..3 {
            cluster.start(n);
        }
        cluster
    }

    pub fn start(&mut self, n: usize) {
        self.starts += 1;
        let board = Board {
            world: self.world.clone(),
            member: address(n, 9000),
            client: address(n, 9001),
        };
        self.world.borrow_mut().bind(board.member);
        self.world.borrow_mut().bind(board.client);
        let application = Application {
            service: Kv::new(vec![0; 4 * 1024 * 1024]),
            authenticator: AllowAll,
        };
        let mut config = config(n, self.starts, self.log_max);
        self.profile.apply(&mut config);
        let device = self.devices[n].clone();
        match Superloop::open(board, device, application, config, memory(&self.profile)) {
            Ok(member) => self.members[n] = Some(member),
            Err(OpenError::Store(StoreError::Device(PowerCut))) => self.cut_power(n),
            Err(error) => panic!("what a power cut leaves can be recovered: {error:?}"),
        }
    }

    pub fn cut_power(&mut self, n: usize) {
        self.members[n] = None;
        self.world.borrow_mut().unbind(address(n, 9000));
        self.world.borrow_mut().unbind(address(n, 9001));
        self.devices[n].with(|device| device.start_again(&mut self.prng));
    }

    /// One millisecond: every member turns until it wants to sleep. Members whose power goes, or
    /// whose device is full, are off afterwards.
    pub fn step(&mut self) {
        for n in 0..3 {
            let Some(member) = &mut self.members[n] else {
                continue;
            };
            let mut turns = 0;
            loop {
                let before = self.devices[n].bytes_read();
                let turned = member.turn();
                let read = self.devices[n].bytes_read() - before;
                self.most_read[n] = self.most_read[n].max(read);
                match turned {
                    Ok(Next::Now) if turns < 100 => turns += 1,
                    Ok(_) => break,
                    Err(TurnError::Store(StoreError::Device(PowerCut))) => {
                        self.cut_power(n);
                        break;
                    }
                    Err(TurnError::Open(OpenError::StateLeft)) => {
                        self.state_left += 1;
                        self.cut_power(n);
                        break;
                    }
                    Err(TurnError::Store(StoreError::Full)) => {
                        self.full += 1;
                        self.cut_power(n);
                        break;
                    }
                    Err(error) => panic!("member {n}: {error:?}"),
                }
            }
        }
        for n in 0..3 {
            let Some(member) = &self.members[n] else {
                continue;
            };
            let term = member.node().status().term;
            if term != self.terms[n] && member.node().poll_persist().is_none() {
                assert_nothing_is_owed(member);
                self.terms[n] = term;
            }
        }
        let mut world = self.world.borrow_mut();
        world.now = world.now.plus(Duration::from_millis(1));
    }

    pub fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten()
    }

    pub fn leader(&self) -> Option<&Member> {
        self.running()
            .filter(|member| member.node().role() == Role::Leader)
            .max_by_key(|member| member.node().joined())
    }

    /// All running members have executed all of the leader's log, durably.
    pub fn is_level(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let end = leader.node().status().appended;
        self.running().all(|member| {
            let status = member.node().status();
            status.applied == end && status.durable == end && status.appended == end
        })
    }

    #[track_caller]
    pub fn run_until(&mut self, what: &str, is_reached: fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if is_reached(self) {
                return;
            }
            self.step();
        }
        let states: Vec<_> = self.running().map(|m| m.node().status()).collect();
        panic!("{what} not within 20 s: {states:#?}");
    }

    pub fn committed(&self) -> Position {
        self.running().map(|m| m.node().commit()).max().unwrap()
    }
}

pub fn endpoints() -> String {
    let each = [0, 1, 2].map(|n| format!("{n}={}", address(n, 9001)));
    each.join(",")
}

impl Cluster {
    /// Every acknowledged key has its value and version on every running member.
    #[track_caller]
    pub fn assert_has_all(&self, caller: &Caller) {
        for member in self.running() {
            for (number, version) in &caller.acknowledged {
                let entry = member.service().get(&number.to_be_bytes());
                let entry = entry.expect("what was acknowledged is not lost");
                // What was put again and not yet answered is newer.
                assert!(entry.version >= *version);
                assert!(entry.value == caller.value_of(*number));
            }
        }
    }
}
