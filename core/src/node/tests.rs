//! A follower's door, driven by hand: what a leader says, what storage gives back, what is
//! executed.

extern crate std;

use core::net::SocketAddr;
use std::format;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::log::{Seed, Window, append};
use crate::service::{Cluster, LeadershipTerm, Service};
use crate::units::{ClusterId, Incarnation, SessionId};
use crate::wire::frame::DataFrame;
use crate::wire::member::{
    Body, CanvassPosition, HISTORY_SLICE_MAX, MemberMessage, NewLeadershipTerm, SharedSettings,
    TermBase, Vote,
};

const CLUSTER: ClusterId = ClusterId(3);
const SEGMENT: u32 = 1 << 16;
const MTU: usize = 256;
const WINDOW: usize = (1 << 13) + MTU;

fn id(n: u8) -> MemberId {
    MemberId::new(n).unwrap()
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 9000))
}

fn now(ms: u64) -> Now {
    let instant = Instant::from_nanos(ms * 1_000_000);
    Now {
        instant,
        wall: Timestamp(ms as i64),
    }
}

fn term(n: u32) -> Term {
    Term::new(n)
}

fn config(members: u8) -> Config {
    let address_of = |n: u8| MemberAddress {
        member: address(n),
        ingress: format!("localhost:{n}").parse().unwrap(),
    };
    let of = usize::from(members);
    let members = core::array::from_fn(|n| (n < of).then(|| address_of(n as u8)));
    Config {
        segment_length: SEGMENT,
        mtu: MTU,
        message_max: 1024,
        egress_mtu: MTU,
        checkpoint_every: 192,
        ..Config::new(CLUSTER, id(0), members, 1)
    }
}

fn state(at: u32) -> NodeState {
    NodeState {
        term: term(at),
        ..NodeState::first(CLUSTER, id(0))
    }
}

/// A whole log in memory, as its author has it.
struct Author(Window<Vec<u8>>);

impl Author {
    fn new() -> Self {
        let mut log = Window::new(vec![0; WINDOW], MTU, SEGMENT).unwrap();
        let start = Seed::genesis(CLUSTER);
        log.load(start.position, start.chain, start.term)
            .expect("a boundary");
        Self(log)
    }

    /// Appends one record by `of`, which the service will be told of; gives its end.
    fn write(&mut self, of: u32) -> Position {
        let base = self.0.end();
        let record = NewLeadershipTermEvent {
            term: term(of),
            position: base,
            timestamp: Timestamp(0),
            base,
            leader: id(1),
            log_session_id: of as i32,
            time_unit: TimeUnit::Millis,
            app_version: 1,
        };
        let mut bytes = [0; 128];
        let len = record.emit(&mut bytes).unwrap();
        append(&mut self.0, term(of), &[&bytes[..len]], MTU)
            .unwrap()
            .end
    }

    fn bytes(&self, from: Position) -> Vec<u8> {
        self.0.read(from).to_vec()
    }

    /// What a member recovers that has all of this on its disk, written by `of`.
    fn recovered(&self, of: u32) -> Recovered {
        let end = self.0.end();
        let mut recovered = Recovered::fresh(CLUSTER);
        recovered.tail = Tail {
            term: term(of),
            end,
        };
        recovered.chain = self.0.chain();
        recovered.confirmed_chain = self.0.chain();
        (recovered.confirmed, recovered.intended) = (end, end);
        (recovered.confirmed_term, recovered.joined) = (term(of), term(of));
        assert!(recovered.history.push(term(of), Position::ZERO, end));
        recovered
    }
}

/// Remembers of which terms it was told.
#[derive(Default)]
struct Terms(Vec<u32>);

impl Service for Terms {
    fn on_session_message(&mut self, _: &mut Cluster<'_>, _: SessionId, _: &[u8]) {}
    fn on_new_leadership_term(&mut self, _: &mut Cluster<'_>, begun: &LeadershipTerm) {
        self.0.push(begun.term.get());
    }
    fn digest(&self) -> u64 {
        self.0.len() as u64
    }
}

struct Bench {
    node: Node<2>,
    window: Window<Vec<u8>>,
    memory: [Vec<u8>; 7],
}

/// Calls `node.$method(.., lent)` with everything it is to be lent.
macro_rules! lent {
    ($bench:expr) => {{
        let [
            ingress,
            reassembly,
            egress,
            replay,
            catchup,
            assembly,
            services,
        ] = &mut $bench.memory;
        Lent {
            log: &mut $bench.window,
            ingress,
            reassembly,
            egress,
            replay,
            catchup,
            assembly,
            services,
        }
    }};
}

mod annals;
mod broken;
mod health;
mod install;
mod members;
pub(super) mod plain;
mod repair;
mod roster;
mod settings;
mod snapshots;

impl Bench {
    fn new(members: u8, recovered: &Recovered) -> Self {
        let of = recovered.tail.term.get();
        let node = Node::new(config(members), state(of), recovered, now(0)).unwrap();
        let mut window = Window::new(vec![0; WINDOW], MTU, SEGMENT).unwrap();
        recovered.open_window(&mut window).expect("aligned");
        let memory = core::array::from_fn(|_| vec![0; 1 << 16]);
        Self {
            node,
            window,
            memory,
        }
    }

    fn datagram(&mut self, ms: u64, from: u8, datagram: &[u8]) -> Result<(), Reject> {
        let mut lent = lent!(self);
        let from = address(from);
        let door = Door::Member;
        self.node
            .handle_datagram(now(ms), door, from, datagram, &mut lent)
    }

    fn say(&mut self, ms: u64, from: u8, body: Body) {
        self.say_as(ms, from, Incarnation::FIRST, body);
    }

    fn say_as(&mut self, ms: u64, from: u8, incarnation: Incarnation, body: Body) {
        let sender = Sender {
            cluster: CLUSTER,
            incarnation,
            member: id(from),
        };
        let mut bytes = [0; CONTROL_MAX];
        let len = MemberMessage { sender, body }.emit(&mut bytes).unwrap();
        let _taken = self.datagram(ms, from, &bytes[..len]);
    }

    /// What a leader says that has the same settings.
    fn settings(&self) -> SharedSettings {
        SharedSettings {
            service_memory: self.memory[6].len() as u64,
            ..self.node.shared_settings()
        }
    }

    /// Member 1 leads `of`; said twice, with the term persisted in between.
    fn lead(&mut self, ms: u64, of: u32, history: &[(u32, u64)], end: u64, commit: u64) {
        let settings = self.settings();
        self.lead_with(ms, of, history, (end, commit), settings);
    }

    fn lead_with(
        &mut self,
        ms: u64,
        of: u32,
        history: &[(u32, u64)],
        (end, commit): (u64, u64),
        settings: SharedSettings,
    ) {
        let mut slice = HistorySlice::EMPTY;
        assert!(history.len() <= HISTORY_SLICE_MAX);
        for (slot, (of, base)) in slice.entries.iter_mut().zip(history) {
            (slot.term, slot.base) = (term(*of), Position::new(*base));
        }
        slice.len = history.len() as u8;
        slice.covered_to = Position::new(end);
        let said = NewLeadershipTerm {
            term: term(of),
            commit: Position::new(commit),
            end: Position::new(end),
            start: TermBase::default(),
            settings,
            history: slice,
        };
        for _ in 0..2 {
            self.say(ms, 1, Body::NewLeadershipTerm(said));
            if let Some(state) = self.node.poll_persist() {
                self.node.handle_persisted(state);
            }
        }
    }

    /// How many requests for history are due.
    fn asks(&mut self, ms: u64) -> usize {
        let said = self.said(ms);
        let is_ask = |(_, body): &(_, Body)| matches!(body, Body::HistoryRequest(_));
        said.iter().filter(|said| is_ask(said)).count()
    }

    /// Everything that is said to members.
    fn said(&mut self, ms: u64) -> Vec<(SocketAddr, Body)> {
        let lent = lent!(self);
        let (mut scratch, mut said) = ([0; CONTROL_MAX], Vec::new());
        while let Some(due) = self.node.poll_transmit(now(ms), &lent, &mut scratch) {
            let frame = DataFrame::parse(due.bytes);
            let message = frame.and_then(|frame| MemberMessage::parse_frame(&frame));
            said.extend(message.map(|message| (due.to, message.body)));
        }
        said
    }

    fn recall(&mut self) -> Option<Recall> {
        let lent = lent!(self);
        self.node.poll_recall(&lent)
    }

    /// The driver reads `storage` for `recall`.
    fn read(&mut self, recall: Recall, storage: &[u8]) {
        let at = recall.at.get() as usize;
        let bytes = &storage[at..storage.len().min(at + recall.len)];
        let buffer = match recall.consumer {
            Consumer::Replay | Consumer::Repair => 3,
            _ => 4,
        };
        self.memory[buffer][..bytes.len()].copy_from_slice(bytes);
        self.node.handle_recalled(recall, Ok(bytes.len()));
    }

    /// Member 1, whose log is as long, helps this member to be elected.
    fn be_elected(&mut self) {
        let Tail {
            term: log_term,
            end,
        } = self.node.raft().tail;
        let mut ms = 1;
        while self.node.role() != Role::Leader {
            assert!(ms < 1_000, "it is not elected");
            let term = self.node.raft().term();
            let said = CanvassPosition {
                term,
                log_term,
                position: end,
                hears_leader: false,
                torn: false,
                votes: true,
            };
            self.say(ms, 1, Body::CanvassPosition(said));
            let (granted, candidate) = (true, id(0));
            self.say(
                ms,
                1,
                Body::Vote(Vote {
                    term,
                    candidate,
                    granted,
                }),
            );
            let mut lent = lent!(self);
            self.node.handle_timeout(now(ms), &mut lent);
            if let Some(state) = self.node.poll_persist() {
                self.node.handle_persisted(state);
            }
            ms += 1;
        }
    }

    /// The histories that are due to member 1.
    fn histories(&mut self, ms: u64) -> Vec<HistorySlice> {
        let of = |(to, body)| match body {
            Body::NewLeadershipTerm(said) if to == address(1) => Some(said.history),
            _ => None,
        };
        self.said(ms).into_iter().filter_map(of).collect()
    }

    fn execute(&mut self, service: &mut Terms) {
        let mut lent = lent!(self);
        while self.node.poll_service(now(1), service, &mut lent) {}
    }
}

/// Four records of term 1 on this member's disk, and a leader of term 2 that has only the first
/// two.
fn cut_off() -> (Author, Author, u64) {
    let (mut ours, mut theirs) = (Author::new(), Author::new());
    let mut base = Position::ZERO;
    for n in 0..4 {
        ours.write(1);
        if n < 2 {
            base = theirs.write(1);
        }
    }
    (ours, theirs, base.get())
}

#[test]
fn what_storage_still_has_of_a_cut_leadership_is_not_executed() {
    let (ours, mut theirs, base) = cut_off();
    theirs.write(2);
    let end = theirs.write(2);
    let disk = ours.bytes(Position::ZERO);
    let mut bench = Bench::new(3, &ours.recovered(1));
    let mut service = Terms::default();
    bench.lead(1, 2, &[(1, 0), (2, base)], end.get(), end.get());
    assert_eq!(bench.window.end().get(), base, "cut where the terms differ");
    let recall = bench.recall().expect("what is committed is on disk only");
    bench.read(recall, &disk);
    let frames = theirs.bytes(Position::new(base));
    bench.datagram(2, 1, &frames).unwrap();
    assert_eq!(bench.node.commit(), end);
    bench.execute(&mut service);
    assert_eq!(service.0, [1, 1, 2, 2]);
}

#[test]
fn what_was_read_before_a_cut_is_not_taken_after_it() {
    let (mut ours, mut theirs, base) = cut_off();
    let first = theirs.0.end().get();
    let disk = ours.bytes(Position::ZERO);
    let mut bench = Bench::new(3, &ours.recovered(1));
    // The leader of term 2 has all that we have, then one of term 3 has not.
    let end = ours.write(2);
    bench.lead(
        1,
        2,
        &[(1, 0), (2, disk.len() as u64)],
        end.get(),
        first / 2,
    );
    let recall = bench.recall().expect("the first record is committed");
    let end = theirs.write(3);
    bench.lead(2, 3, &[(1, 0), (3, base)], end.get(), end.get());
    assert_eq!(bench.window.end().get(), base);
    bench.read(recall, &disk);
    let again = bench.recall().expect("what was read is not believed");
    assert_eq!((again.at, again.len as u64), (Position::ZERO, base));
    bench.read(again, &disk);
    let frames = theirs.bytes(Position::new(base));
    bench.datagram(3, 1, &frames).unwrap();
    let mut service = Terms::default();
    bench.execute(&mut service);
    assert_eq!(service.0, [1, 1, 3]);
}

#[test]
fn a_history_that_parts_in_mid_frame_is_nobodys() {
    let (ours, _, base) = cut_off();
    let mut recovered = ours.recovered(1);
    (recovered.confirmed, recovered.intended) = (Position::ZERO, Position::ZERO);
    recovered.confirmed_chain = Author::new().0.chain();
    let mut bench = Bench::new(3, &recovered);
    let end = bench.window.fill(&ours.bytes(Position::ZERO)) as u64;
    bench.lead(1, 2, &[(1, 0), (2, base + 32)], end, 0);
    assert_eq!(
        (bench.window.end().get(), bench.node.joined()),
        (end, Term::ZERO)
    );
    bench.lead(2, 2, &[(1, 0), (2, base)], end, 0);
    assert_eq!(
        (bench.window.end().get(), bench.node.joined()),
        (base, term(2))
    );
}

#[test]
fn a_node_state_that_is_older_than_the_log_is_refused() {
    let mut log = Author::new();
    log.write(3);
    let recovered = log.recovered(3);
    let start = |of| Node::<2>::new(config(3), state(of), &recovered, now(0)).err();
    assert_eq!(start(3), None);
    assert_eq!(start(2), Some(ConfigError::StateBehindLog));
}

#[test]
fn a_node_begins_in_its_place_as_a_new_one_whatever_it_was() {
    let recovered = Recovered::fresh(CLUSTER);
    let new = Node::<2>::new(config(3), state(0), &recovered, now(0)).unwrap();
    let mut bench = Bench::new(3, &recovered);
    bench.be_elected();
    assert!(bench.node != new);
    let leader = bench.node.clone();
    let none = Config {
        sessions_max: 0,
        ..config(3)
    };
    let begun = bench.node.begin(none, state(0), &recovered, now(0));
    assert_eq!(begun, Err(ConfigError::SessionsMax));
    assert!(bench.node == leader, "it leads on");
    let begun = bench.node.begin(config(3), state(0), &recovered, now(0));
    assert!(begun.is_ok() && bench.node == new);
}

#[test]
fn a_vacant_node_has_halted_and_begins_like_any() {
    let recovered = Recovered::fresh(CLUSTER);
    let mut bench = Bench::new(3, &recovered);
    let new = core::mem::replace(&mut bench.node, const { Node::vacant() });
    let none = CanvassPosition {
        term: term(0),
        log_term: term(0),
        position: Position::ZERO,
        hears_leader: false,
        torn: false,
        votes: true,
    };
    bench.say(1, 1, Body::CanvassPosition(none));
    let mut lent = lent!(bench);
    bench.node.handle_timeout(now(5_000), &mut lent);
    assert_eq!(bench.node.halted(), Some(Halt::NotBegun));
    let wants = (bench.node.poll_timeout(), bench.node.poll_persist());
    assert_eq!((wants, bench.asks(5_000)), ((None, None), 0));
    let begun = bench.node.begin(config(3), state(0), &recovered, now(0));
    assert!(begun.is_ok() && bench.node == new);
}

#[test]
fn frames_that_waited_for_history_land_when_it_comes() {
    let mut theirs = Author::new();
    let base = theirs.write(1);
    let known_to = theirs.write(2);
    let end = theirs.write(3);
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    // The leader's answer was a part of its history only.
    bench.lead(1, 3, &[(1, 0)], base.get(), 0);
    let frames = theirs.bytes(Position::ZERO);
    for (from, to) in [(0, base), (base.get(), known_to), (known_to.get(), end)] {
        let _taken = bench.datagram(2, 1, &frames[from as usize..to.get() as usize]);
    }
    assert_eq!(bench.window.end(), base);
    bench.lead(
        3,
        3,
        &[(1, 0), (2, base.get()), (3, known_to.get())],
        end.get(),
        0,
    );
    assert_eq!(bench.window.end(), end);
    assert_eq!(bench.node.raft().tail.term, term(3));
}

#[test]
fn a_leader_that_does_not_know_its_history_is_asked_in_time_and_not_at_once() {
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    let mut asks = 0;
    for ms in 1..=100 {
        bench.lead(ms, 80, &[(79, 3200), (80, 6400)], 6496, 0);
        asks += bench.asks(ms);
    }
    assert_eq!(asks, 5, "one in a canvass interval of 20 ms");
}

#[test]
fn a_node_that_has_halted_wants_nothing_any_more() {
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    assert!(bench.node.poll_timeout().is_some());
    bench.node.halt(Halt::HistoryTooShort);
    assert_eq!((bench.node.poll_timeout(), bench.asks(500)), (None, 0));
}
