//! The short way of session messages into an only service, beside the long way of all records: two
//! equal nodes, one of which may not take the short way, are told the same in the same calls, and
//! stay equal.

use core::cell::{Cell, RefCell};

use super::*;
use crate::log::{Frames, Log, run, sent};
use crate::prng::Prng;
use crate::service::{CloseReason, OfferError};
use crate::snapshot::SnapshotError;
use crate::units::{Mark, ServiceId, ServiceMessageId};
use crate::wire::cluster::{
    ClusterAction, ClusterActionRequest, Message, ServiceMessage, SessionCloseEvent,
    SessionMessage, SessionMessageHeader, SessionOpenEvent, TimerEvent,
};
use crate::wire::frame::step as step_of;

mod frames;
mod leader;

std::thread_local! {
    static IS_CLOSED: Cell<bool> = const { Cell::new(false) };
    static TAKEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static LANDED: Cell<usize> = const { Cell::new(0) };
    static ALONE: Cell<usize> = const { Cell::new(0) };
}

/// Whether all goes the long way just now.
pub fn is_closed() -> bool {
    IS_CLOSED.get()
}

/// So many messages of one call went the short way.
pub fn note(messages: usize) {
    TAKEN.with_borrow_mut(|taken| taken.push(messages));
}

/// A datagram of frames went the short way.
pub fn note_landed() {
    LANDED.set(LANDED.get() + 1);
}

/// Two nodes, but for what one has looked at once and the other looks at each time.
fn are_equal(short: &Node<2>, long: &Node<2>) -> bool {
    let runway = long.runway;
    short == long
        || *long
            == Node {
                runway,
                ..short.clone()
            }
}

/// One message was all that there was to execute.
pub fn note_alone() {
    note(1);
    ALONE.set(ALONE.get() + 1);
}

/// A service that does something with all that it hears, and stalls after so many records.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Actor {
    heard: Vec<(u8, u64, i64, u64, Vec<u8>)>,
    digest: u64,
    patience: u32,
}

impl Actor {
    fn hear(&mut self, kind: u8, cluster: &Cluster<'_>, number: u64, bytes: &[u8]) {
        let (position, time) = (cluster.position().get(), cluster.time().0);
        self.heard
            .push((kind, position, time, number, bytes.to_vec()));
        let sum = bytes.iter().fold(number ^ position, |sum, byte| {
            sum.rotate_left(5) ^ u64::from(*byte)
        });
        self.digest = (self.digest.rotate_left(9) ^ sum).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.patience = self.patience.saturating_sub(1);
    }

    fn answer(&mut self, answer: Result<(), OfferError>) {
        self.digest = self.digest.rotate_left(1) ^ u64::from(answer.is_err());
    }

    /// What it does is its state's affair alone.
    fn act(&mut self, cluster: &mut Cluster<'_>, session: Option<SessionId>, message: &[u8]) {
        let roll = self.digest % 128;
        if let Some(session) = session.or_else(|| cluster.session_at(0)) {
            let answer = match roll {
                0 => cluster.close_session(session),
                1..=90 => cluster.offer(session, &[message, b"!", message]),
                _ => Ok(()),
            };
            self.answer(answer);
        }
        let correlation = (self.digest >> 8) as i64 % 8;
        match roll {
            100..=112 => {
                let deadline = Timestamp(cluster.time().0 + correlation);
                let _full = cluster.schedule_timer(correlation, deadline);
            }
            113..=117 => {
                let armed = cluster.cancel_timer(correlation).unwrap_or(false);
                self.digest ^= u64::from(armed);
            }
            118..=127 => {
                let answer = cluster.offer_to_log(&[message]);
                self.answer(answer);
            }
            _ => {}
        }
    }
}

impl Service for Actor {
    fn ready(&self, _: Position) -> bool {
        self.patience > 0
    }
    fn on_session_open(&mut self, c: &mut Cluster<'_>, session: SessionId, principal: &[u8]) {
        self.hear(b'o', c, session.opened_at().get(), principal);
        self.act(c, Some(session), principal);
    }
    fn on_session_close(&mut self, c: &mut Cluster<'_>, session: SessionId, reason: CloseReason) {
        let reason = [reason.to_wire() as u8];
        self.hear(b'c', c, session.opened_at().get(), &reason);
    }
    fn on_session_message(&mut self, c: &mut Cluster<'_>, session: SessionId, message: &[u8]) {
        self.hear(b'm', c, session.opened_at().get(), message);
        self.act(c, Some(session), message);
    }
    fn on_timer_event(&mut self, c: &mut Cluster<'_>, correlation: i64, deadline: Timestamp) {
        self.hear(b't', c, correlation as u64, &deadline.0.to_le_bytes());
        self.act(c, None, b"tick");
    }
    fn on_service_message(&mut self, c: &mut Cluster<'_>, from: ServiceId, message: &[u8]) {
        self.hear(b's', c, from.get().into(), message);
        self.act(c, None, &message[..message.len() / 2]);
    }
    fn on_new_leadership_term(&mut self, c: &mut Cluster<'_>, begun: &LeadershipTerm) {
        self.hear(b'l', c, begun.term.get().into(), b"");
    }
    fn digest(&self) -> u64 {
        self.digest
    }
}

/// A log of records of all kinds, by some leaders.
struct Script {
    prng: Prng,
    log: Window<Vec<u8>>,
    storage: Vec<u8>,
    history: Vec<(u32, u64)>,
    sessions: Vec<SessionId>,
    time: i64,
    of: u32,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut script = Self {
            prng: Prng::new(seed),
            log: Author::new().0,
            storage: Vec::new(),
            history: Vec::new(),
            sessions: Vec::new(),
            time: 1_000,
            of: 0,
        };
        script.begin_term();
        script
    }

    fn begin_term(&mut self) {
        self.of += 1;
        let base = self.log.end();
        self.history.push((self.of, base.get()));
        let record = NewLeadershipTermEvent {
            term: term(self.of),
            position: base,
            timestamp: Timestamp(self.time),
            base,
            leader: id(1),
            log_session_id: self.of as i32,
            time_unit: TimeUnit::Millis,
            app_version: 1,
        };
        self.put(&Message::NewLeadershipTermEvent(record), false);
    }

    /// Appends a record; `is_cut` leaves of one in several frames the first alone.
    fn put(&mut self, record: &Message<'_>, is_cut: bool) {
        let mut bytes = vec![0; 2048];
        let len = record.emit(&mut bytes).unwrap();
        let base = self.log.end();
        append(&mut self.log, term(self.of), &[&bytes[..len]], MTU).unwrap();
        let first = Frames::new(self.log.read(base), base, SEGMENT).find(|f| !f.is_pad);
        if let Some(first) = first.filter(|_| is_cut) {
            self.log.truncate(first.end()).expect("a boundary");
            self.log.take_cut();
        }
        let end = self.log.end().get() as usize;
        while self.storage.len() < end {
            let at = Position::new(self.storage.len() as u64);
            self.storage.extend_from_slice(self.log.read(at));
        }
        let end = self.log.end();
        self.log.set_written(end);
        self.log.release(end);
    }

    fn session(&mut self) -> SessionId {
        match self.sessions.len() as u64 {
            0 => SessionId::new(Position::new(32)),
            count => self.sessions[self.prng.below(count) as usize],
        }
    }

    fn message(&mut self, len: usize, is_cut: bool) {
        let payload: Vec<u8> = (0..len).map(|_| self.prng.next() as u8).collect();
        let header = SessionMessageHeader {
            term: term(self.of),
            session: self.session(),
            timestamp: Timestamp(self.time),
        };
        let said = SessionMessage {
            header,
            payload: &payload,
        };
        self.put(&Message::SessionMessage(said), is_cut);
    }

    /// One record, or a run of messages.
    fn step(&mut self) {
        // Time goes back now and then, and another leader's clock.
        self.time += self.prng.below(8) as i64 - 2;
        let (of, timestamp) = (term(self.of), Timestamp(self.time));
        match self.prng.below(40) {
            0..=1 => self.open(),
            2 => {
                let session = self.session();
                self.put(
                    &Message::SessionCloseEvent(SessionCloseEvent {
                        term: of,
                        session,
                        timestamp,
                        reason: CloseReason::ClientAction,
                    }),
                    false,
                );
            }
            3..=7 => self.unasked(of, timestamp),
            8 => {
                let action = ClusterActionRequest {
                    term: of,
                    position: self.log.end(),
                    timestamp,
                    action: ClusterAction::Snapshot,
                    flags: None,
                };
                self.put(&Message::ClusterActionRequest(action), false);
            }
            9 if self.of < 6 => {
                if self.prng.below(2) == 0 {
                    self.message(900, true);
                }
                self.begin_term();
            }
            // What follows discards it, on whichever way.
            10..=11 => self.message(900, true),
            12..=16 => {
                let len = self.prng.below(980) as usize;
                self.message(len, false);
            }
            _ => {
                for _ in 0..self.prng.below(16) {
                    let len = self.prng.below(100) as usize;
                    self.message(len, false);
                }
            }
        }
    }

    /// A timer's event, or another service's message.
    fn unasked(&mut self, of: Term, timestamp: Timestamp) {
        if self.prng.below(5) < 3 {
            let event = TimerEvent {
                term: of,
                correlation: self.prng.below(8) as i64,
                timestamp,
                service: ServiceId::new(self.prng.below(4).saturating_sub(2) as u8).unwrap(),
                arming: self.prng.below(6),
            };
            return self.put(&Message::TimerEvent(event), false);
        }
        let id = ServiceMessageId {
            service: ServiceId::new(1).unwrap(),
            number: 1,
        };
        let payload = &[7; 300][..self.prng.below(300) as usize];
        self.put(
            &Message::ServiceMessage(ServiceMessage {
                term: of,
                id,
                timestamp,
                payload,
            }),
            false,
        );
    }

    fn open(&mut self) {
        let session = SessionId::new(self.log.end());
        self.sessions.push(session);
        let correlation = self.prng.below(50) as i64;
        self.put(
            &Message::SessionOpenEvent(SessionOpenEvent {
                term: term(self.of),
                correlation,
                session,
                timestamp: Timestamp(self.time),
                response_stream_id: 102,
                response_channel: "aeron:udp?endpoint=127.0.0.1:5000",
                principal: b"me",
            }),
            false,
        );
    }

    /// A member that has all of this on its disk.
    fn recovered(&self) -> Recovered {
        let end = self.log.end();
        let mut recovered = Recovered::fresh(CLUSTER);
        recovered.tail = Tail {
            term: term(self.of),
            end,
        };
        recovered.chain = self.log.chain();
        recovered.confirmed_chain = self.log.chain();
        (recovered.confirmed, recovered.intended) = (end, end);
        (recovered.confirmed_term, recovered.joined) = (term(self.of), term(self.of));
        let ends = self.history.iter().skip(1).map(|(_, base)| *base);
        for ((of, base), end) in self.history.iter().zip(ends.chain([end.get()])) {
            let (base, end) = (Position::new(*base), Position::new(end));
            assert!(recovered.history.push(term(*of), base, end));
        }
        recovered
    }
}

/// One that may take the short way, and one that may not.
struct Pair {
    members: [(Bench, Actor); 2],
    place: (u64, usize),
}

impl Pair {
    fn new(recovered: &Recovered, change: impl Fn(&mut Config)) -> Self {
        let member = || {
            let mut bench = Bench::new(3, recovered);
            change(&mut bench.node.config);
            (bench, Actor::default())
        };
        Self {
            members: [member(), member()],
            place: (0, 0),
        }
    }

    /// The same call of both; gives what it gives.
    fn each<T: PartialEq + core::fmt::Debug>(
        &mut self,
        mut call: impl FnMut(&mut Bench, &mut Actor) -> T,
    ) -> T {
        let [short, long] = &mut self.members;
        let given = call(&mut short.0, &mut short.1);
        IS_CLOSED.set(true);
        let other = call(&mut long.0, &mut long.1);
        IS_CLOSED.set(false);
        let place = self.place;
        assert_eq!(given, other, "{place:?}");
        assert_eq!(short.1, long.1, "{place:?}");
        assert!(
            are_equal(&short.0.node, &long.0.node),
            "{place:?}: {:#?}",
            self.nodes()
        );
        assert!(short.0.window == long.0.window, "{place:?}: the log");
        let memory = |bench: &Bench| bench.memory[2] == long.0.memory[2];
        assert!(memory(&short.0), "{place:?}: egress");
        assert_eq!(short.0.memory[6], long.0.memory[6], "{place:?}: services");
        given
    }

    fn nodes(&self) -> [&Node<2>; 2] {
        [&self.members[0].0.node, &self.members[1].0.node]
    }

    fn node(&self) -> &Node<2> {
        &self.members[0].0.node
    }

    fn execute(&mut self, ms: u64, patience: u32) -> bool {
        self.each(|bench, actor| {
            actor.patience = patience;
            // As if nothing had stirred it since services were last looked after.
            bench.node.dues.plain_to = bench.node.plain_to();
            let mut lent = lent!(bench);
            bench.node.poll_service(now(ms), actor, &mut lent)
        })
    }

    /// What the driver does meanwhile.
    fn drive(&mut self, ms: u64, storage: &[u8]) {
        self.each(|bench, actor| {
            let end = bench.window.end();
            bench.window.set_written(end);
            let position = end;
            let term = bench.node.joined();
            bench.node.handle_durable(Mark { term, position });
            while let Some(recall) = bench.recall() {
                let before = recall;
                bench.read(recall, &storage[..end.get() as usize]);
                if bench.recall() == Some(before) {
                    break;
                }
            }
            if bench.node.snapshot_due().is_some() && ms.is_multiple_of(4) {
                let error = SnapshotError::TooLarge;
                bench.node.abandon_snapshot(&mut [actor], error);
            }
        });
    }
}

/// The next bytes of the log arrive, as a leader sends them.
fn deliver(pair: &mut Pair, ms: u64, storage: &[u8]) {
    let at = pair.members[0].0.window.end();
    let rest = &storage[at.get() as usize..];
    let len = run(rest, at, MTU, SEGMENT);
    let datagram = match len {
        0 => sent(rest),
        len => sent(&rest[..len]),
    };
    if !datagram.is_empty() {
        pair.each(|bench, _| bench.datagram(ms, 1, datagram).is_ok());
    }
}

/// A follower with the first records on its disk, which is sent the rest; gives how far it came.
fn follow(seed: u64) -> (Pair, Script) {
    let mut script = Script::new(seed);
    for _ in 0..script.prng.below(100) {
        script.step();
    }
    let recovered = script.recovered();
    for _ in 0..180 {
        script.step();
    }
    let every = [0, 192, 1 << 12, 1 << 14][seed as usize % 4];
    let snapshots = script.prng.below(2) == 0;
    let mut pair = Pair::new(&recovered, |config| {
        config.checkpoint_every = every;
        config.snapshots.enabled = snapshots;
    });
    let (last, end) = (script.of, script.log.end().get());
    let mut commit = 0;
    for step in 0..100_000 {
        pair.place = (seed, step);
        let ms = 1 + step as u64 / 4;
        if pair.node().halted().is_some() || pair.node().applier.position.get() == end {
            break;
        }
        match script.prng.below(4) {
            0 => {
                let most = [300, 1_500, 6_000][script.prng.below(3) as usize];
                commit = end.min(commit + script.prng.below(most));
                let history = script.history.clone();
                pair.each(|bench, _| bench.lead(ms, last, &history, end, commit));
            }
            1 => {
                for _ in 0..script.prng.below(40) {
                    deliver(&mut pair, ms, &script.storage);
                }
            }
            2 => pair.drive(ms, &script.storage),
            _ => {
                let patience = match script.prng.below(12) {
                    0 => script.prng.below(12) as u32,
                    _ => u32::MAX,
                };
                if script.prng.below(4) > 0 {
                    pair.drive(ms, &script.storage);
                }
                pair.execute(ms, patience);
            }
        }
    }
    (pair, script)
}

#[test]
fn a_follower_executes_the_same_whichever_way() {
    TAKEN.take();
    let (mut heard, mut ended) = (0, 0);
    for seed in 0..60 {
        let (pair, script) = follow(seed);
        ended += usize::from(pair.node().applier.position == script.log.end());
        heard += pair.members[0].1.heard.len();
    }
    let taken = TAKEN.take();
    let runs = taken.iter().filter(|messages| **messages > 1).count();
    let sum: usize = taken.iter().sum();
    assert_eq!(ended, 60, "each log to its end");
    assert!(
        heard > 20_000 && runs > 200 && sum > 2_500,
        "{runs} runs, {sum} messages"
    );
}

#[test]
fn a_message_discards_one_that_was_cut_off_in_an_earlier_call() {
    TAKEN.take();
    let mut script = Script::new(1);
    script.message(900, true);
    let cut = script.log.end().get();
    script.message(10, false);
    let end = script.log.end().get();
    let mut pair = Pair::new(&script.recovered(), |config| config.checkpoint_every = 0);
    for (ms, commit) in [(1, cut), (2, end)] {
        pair.each(|bench, _| bench.lead(ms, 1, &[(1, 0)], end, commit));
        pair.drive(ms, &script.storage);
        pair.execute(ms, 9);
    }
    assert_eq!(pair.node().applier.position.get(), end);
    assert_eq!(TAKEN.take(), [0, 1]);
}

/// Each frame is committed as soon as it is there.
#[test]
fn a_message_alone_is_executed_the_same_whichever_way() {
    ALONE.take();
    for seed in 0..24 {
        let mut script = Script::new(seed);
        let recovered = script.recovered();
        for _ in 0..80 {
            script.step();
        }
        let every = [0, 192, 1 << 12][seed as usize % 3];
        let mut pair = Pair::new(&recovered, |config| config.checkpoint_every = every);
        let (last, end) = (script.of, script.log.end().get());
        for ms in 1..4_000 {
            pair.place = (seed, ms as usize);
            let at = pair.node().applier.position.get();
            if at == end || pair.node().halted().is_some() {
                break;
            }
            if pair.members[0].0.window.end().get() <= at {
                deliver(&mut pair, ms, &script.storage);
            }
            let next = step_of(&script.storage[at as usize..]);
            let commit = at + next.map_or(0, |(_, len)| len as u64);
            let history = script.history.clone();
            pair.each(|bench, _| bench.lead(ms, last, &history, end, commit));
            pair.drive(ms, &script.storage);
            let patience = (script.prng.below(8) > 0).then_some(u32::MAX);
            pair.execute(ms, patience.unwrap_or(0));
        }
        assert_eq!(pair.node().applier.position.get(), end, "{seed}");
    }
    let alone = ALONE.take();
    assert!(alone > 1_000, "{alone} messages alone");
}
