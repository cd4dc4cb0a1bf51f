//! Three superloops over a network of queues and flash in memory: elect, commit, cut the power,
//! recover.

mod board;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use board::client::{Caller, value_of};
use board::{Board, Flash, PowerCut, World};
use coracle_core::log::{NodeState, Roster};
use coracle_core::node::{App, Config, MemberAddress, SessionTiming, SnapshotPolicy};
use coracle_core::prng::Prng;
use coracle_core::raft::Timing;
use coracle_core::service::Role;
use coracle_core::service::kv::Kv;
use coracle_core::session::AllowAll;
use coracle_core::units::{ClusterId, Incarnation, MemberId, Position, Term};
use coracle_embedded::{Application, Memory, Next, Store, StoreError, Superloop, TurnError};

const SESSIONS: usize = 2;
const SEGMENT: u32 = 64 * 1024;
const SEGMENTS: usize = 40;
const MTU: usize = 1408;
const MESSAGE_MAX: usize = 4096;
const CLUSTER: ClusterId = ClusterId(0x00c0_ac1e);

type Member = Superloop<Board, Flash, Kv<Vec<u8>>, AllowAll, Vec<u8>, SESSIONS>;

fn id(member: usize) -> MemberId {
    MemberId::new(member as u8).unwrap()
}

fn address(member: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + member as u8], port))
}

fn config(member: usize, seed: u64) -> Config {
    let listed = |n: usize| MemberAddress {
        member: address(n, 9000),
        ingress: format!("{}", address(n, 9001)).parse().unwrap(),
    };
    Config {
        cluster: CLUSTER,
        member: id(member),
        members: std::array::from_fn(|n| (n < 3).then(|| listed(n))),
        log_group: None,
        timing: Timing::default(),
        sessions: SessionTiming::default(),
        sessions_max: usize::MAX,
        segment_length: SEGMENT,
        mtu: MTU,
        message_max: MESSAGE_MAX,
        egress_mtu: MTU,
        app: App::default(),
        services: 1,
        snapshots: SnapshotPolicy::default(),
        log_max: 0,
        checkpoint_every: 0,
        seed,
    }
}

fn memory() -> Memory<Vec<u8>> {
    Memory {
        log: vec![0; 32 * 1024 + MTU],
        ingress: vec![0; SESSIONS * 64 * 1024],
        reassembly: vec![0; 2 * (MESSAGE_MAX + 64)],
        egress: vec![0; SESSIONS * 64 * 1024],
        replay: vec![0; 2 * MESSAGE_MAX + MTU],
        catchup: vec![0; 8 * 1024],
        assembly: vec![0; MESSAGE_MAX + 64],
        services: vec![0; 1024],
        datagram: vec![0; 2048],
    }
}

/// A member whose node owes no write has its term and vote where a power cut does not reach them.
fn assert_nothing_is_owed(member: &Member) {
    if member.node().poll_persist().is_none() {
        let (a, b) = member.device().safe(1024).split_at(512);
        let (_, state) = NodeState::newest(a, b).unwrap().expect("it was formatted");
        assert_eq!(state.term, member.node().status().term);
    }
}

/// Three members, each running or without power.
struct Cluster {
    world: Rc<RefCell<World>>,
    members: [Option<Member>; 3],
    flash: [Option<Flash>; 3],
    prng: Prng,
    starts: u64,
    full: u64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let flash = [0, 1, 2].map(|n| {
            let state = NodeState {
                cluster: CLUSTER,
                member: id(n),
                incarnation: Incarnation::FIRST,
                term: Term::ZERO,
                vote: None,
                votes: true,
                quarantined: false,
                roster: Roster::FIRST,
            };
            let blank = Flash::new(SEGMENTS * (SEGMENT as usize + 1024) + 1024);
            Some(Store::format(blank, SEGMENT, &state).unwrap())
        });
        let mut cluster = Self {
            world: World::new(seed),
            members: [None, None, None],
            flash,
            prng: Prng::new(seed),
            starts: seed * 1000,
            full: 0,
        };
        for n in 0..3 {
            cluster.start(n);
        }
        cluster
    }

    fn start(&mut self, n: usize) {
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
        let flash = self.flash[n].take().expect("it was without power");
        let config = config(n, self.starts);
        let member = Superloop::open(board, flash, application, config, memory());
        self.members[n] = Some(member.expect("what a power cut leaves can be recovered"));
    }

    fn cut_power(&mut self, n: usize) {
        let (board, flash) = self.members[n].take().expect("it runs").into_parts();
        self.world.borrow_mut().unbind(board.member);
        self.world.borrow_mut().unbind(board.client);
        self.flash[n] = Some(flash.after_power_cut(&mut self.prng));
    }

    /// One millisecond: every member turns until it wants to sleep. Members whose power goes, or
    /// whose device is full, are off afterwards.
    fn step(&mut self) {
        for n in 0..3 {
            let Some(member) = &mut self.members[n] else {
                continue;
            };
            let mut turns = 0;
            loop {
                match member.turn() {
                    Ok(Next::Now) if turns < 100 => turns += 1,
                    Ok(_) => break,
                    Err(TurnError::Store(StoreError::Device(PowerCut))) => {
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
        self.running().for_each(assert_nothing_is_owed);
        let mut world = self.world.borrow_mut();
        world.now = world.now.plus(Duration::from_millis(1));
    }

    fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten()
    }

    fn leader(&self) -> Option<&Member> {
        self.running()
            .filter(|member| member.node().role() == Role::Leader)
            .max_by_key(|member| member.node().joined())
    }

    /// All running members have executed all of the leader's log, durably.
    fn is_level(&self) -> bool {
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
    fn run_until(&mut self, what: &str, is_reached: fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if is_reached(self) {
                return;
            }
            self.step();
        }
        let states: Vec<_> = self.running().map(|m| m.node().status()).collect();
        panic!("{what} not within 20 s: {states:#?}");
    }

    fn committed(&self) -> Position {
        self.running().map(|m| m.node().commit()).max().unwrap()
    }
}

#[test]
fn three_boards_elect_a_leader_and_are_level() {
    let mut cluster = Cluster::new(1);
    cluster.run_until("level", Cluster::is_level);
    assert!(cluster.committed() > Position::ZERO);
}

#[test]
fn the_others_go_on_without_a_leader_that_lost_power_and_it_comes_back() {
    let mut cluster = Cluster::new(2);
    cluster.run_until("level", Cluster::is_level);
    let (before, leader) = {
        let leader = cluster.leader().unwrap().node();
        (leader.commit(), leader.status().member.slot())
    };
    cluster.cut_power(leader);
    cluster.run_until("a new leader", Cluster::is_level);
    assert!(cluster.committed() > before);
    cluster.start(leader);
    cluster.run_until("level again", |c| c.is_level() && c.running().count() == 3);
}

#[test]
fn all_boards_lose_power_and_nothing_committed_is_lost() {
    let mut cluster = Cluster::new(3);
    for _ in 0..5 {
        cluster.run_until("level", Cluster::is_level);
        let committed = cluster.committed();
        for n in 0..3 {
            cluster.cut_power(n);
        }
        for n in 0..3 {
            cluster.start(n);
        }
        let kept = cluster
            .running()
            .filter(|m| m.node().status().appended >= committed)
            .count();
        assert!(kept >= 2, "a quorum has what was committed");
        cluster.run_until("level", Cluster::is_level);
        assert!(cluster.committed() > committed);
    }
}

/// The power of one board goes at every call to its flash, one after the other, on a bad network.
#[test]
fn a_power_cut_at_any_write_or_flush_is_recovered_from() {
    let mut cuts = 0;
    for calls in 0..60 {
        let mut cluster = Cluster::new(100 + calls);
        cluster.world.borrow_mut().loss = 10;
        let victim = (calls % 3) as usize;
        cluster.cut_power(victim);
        if let Some(flash) = &mut cluster.flash[victim] {
            flash.calls_left = calls;
        }
        cluster.start(victim);
        for _ in 0..3_000 {
            cluster.step();
            if cluster.members[victim].is_none() {
                cuts += 1;
                cluster.start(victim);
            }
        }
        cluster.world.borrow_mut().loss = 0;
        cluster.run_until("level", Cluster::is_level);
    }
    assert!(cuts > 5, "{cuts}");
}

fn endpoints() -> String {
    let each = [0, 1, 2].map(|n| format!("{n}={}", address(n, 9001)));
    each.join(",")
}

impl Cluster {
    /// Every acknowledged key has its value and version on every running member.
    #[track_caller]
    fn assert_has_all(&self, caller: &Caller) {
        for member in self.running() {
            for (number, version) in &caller.acknowledged {
                let entry = member.service().get(&number.to_be_bytes());
                let entry = entry.expect("what was acknowledged is not lost");
                assert_eq!(entry.version, *version);
                assert!(entry.value == value_of(*number));
            }
        }
    }
}

/// A client puts keys all the time; boards lose power one after the other and all at once.
#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    let mut cluster = Cluster::new(4);
    cluster.world.borrow_mut().loss = 100;
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    for round in 0..6 {
        for _ in 0..1_500 {
            cluster.step();
            caller.turn();
            if caller.acknowledged.len() > 90 * (round + 1) {
                break;
            }
        }
        let victims = match round % 3 {
            2 => vec![0, 1, 2],
            _ => vec![round % 3],
        };
        victims.iter().for_each(|n| cluster.cut_power(*n));
        for _ in 0..700 {
            cluster.step();
            caller.turn();
        }
        victims.iter().for_each(|n| cluster.start(*n));
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
        cluster.assert_has_all(&caller);
    }
    assert!(
        caller.acknowledged.len() > 400,
        "{}",
        caller.acknowledged.len()
    );
    assert!(caller.sessions < 30, "{}", caller.sessions);
}

/// A device that is full stops its node with an error, and what was acknowledged is still there.
#[test]
fn a_full_device_is_an_error_and_not_a_loss() {
    let mut cluster = Cluster::new(5);
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    for _ in 0..20_000 {
        caller.turn();
        cluster.step();
        if cluster.full == 3 {
            break;
        }
    }
    assert_eq!(cluster.full, 3);
    assert!(caller.acknowledged.len() > 500);
    (0..3).for_each(|n| cluster.start(n));
    let held = cluster.running().map(|m| m.node().status().durable.get());
    assert!(held.min() > Some(38 * u64::from(SEGMENT)));
}
