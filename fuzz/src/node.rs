//! One node under arbitrary calls: the bytes choose what happens next. Peers and clients say
//! anything, the disk answers late, never, or with old news, in any order. Nothing may panic;
//! commit and what was executed never go back; nothing is executed that is not committed.

use std::net::SocketAddr;
use std::time::Duration;

use coracle_core::log::{Journal, Log, NodeState, Recovered, Window, append};
use coracle_core::node::{
    CONTROL_MAX, Config, Consumer, Door, Halt, Lent, MemberAddress, Node, ReadError,
};
use coracle_core::prng::Prng;
use coracle_core::service::echo::Echo;
use coracle_core::session::AllowAll;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_core::units::{ClusterId, Incarnation, Mark, MemberId, Position, Section, Term};
use coracle_core::wire::member::{
    AppendPosition, Body, CanvassPosition, Checkpoint, CommitPosition, HistoryRequest,
    HistorySlice, MemberMessage, NewLeadershipTerm, RepairRequest, RequestVote, Resign, Sender,
    SharedSettings, SnapshotRequest, TermBase, TransferLeadership, Vote,
};

const CLUSTER: ClusterId = ClusterId(1);
const SEGMENT: u32 = 64 * 1024;
const MTU: usize = 1408;
const MESSAGE_MAX: usize = 4096;
const SESSIONS: usize = 2;

/// The bytes that choose.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.next() % bound
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    fn section(&mut self) -> Section {
        Section::from_wire(u16::from(self.below(11))).expect("below 11")
    }

    fn checkpoint(&mut self, position: Position) -> Checkpoint {
        Checkpoint {
            position,
            digest: u64::from(self.below(2)),
        }
    }

    fn member(&mut self) -> MemberId {
        member(self.below(3))
    }

    fn term(&mut self) -> Term {
        Term::new(u32::from(self.below(8)))
    }

    /// Mostly a frame boundary of the peers' log.
    fn position(&mut self, known: &[Position]) -> Position {
        match self.below(8) {
            0 => Position::new(32 * u64::from(self.next())),
            1 => Position::MAX.minus(u64::from(self.next())),
            _ => known[usize::from(self.next()) % known.len()],
        }
    }
}

fn member(n: u8) -> MemberId {
    MemberId::new(n).expect("below 7")
}

fn address(n: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + n], port))
}

/// The node, its disk, and the log that its peers pretend to have.
struct Rig {
    node: Node<SESSIONS>,
    log: Window<Vec<u8>>,
    memory: [Vec<u8>; 7],
    journal: Journal,
    disk: Vec<u8>,
    echo: Echo,
    now: Now,
    persisting: Option<NodeState>,
    marks: Vec<Mark>,
    theirs: Window<Vec<u8>>,
    bounds: Vec<Position>,
    their_history: Vec<TermBase>,
}

fn config(sends_to_all: bool) -> Config {
    let listed = |n: u8| MemberAddress::new(address(n, 9000), address(n, 9001));
    let members = std::array::from_fn(|n| (n < 3).then(|| listed(n as u8)));
    Config {
        log_group: sends_to_all.then(|| SocketAddr::from(([239, 1, 1, 1], 9000))),
        segment_length: SEGMENT,
        mtu: MTU,
        message_max: MESSAGE_MAX,
        egress_mtu: MTU,
        checkpoint_every: 256,
        ..Config::new(CLUSTER, member(0), members, 5)
    }
}

impl Rig {
    fn new(sends_to_all: bool) -> Self {
        let state = NodeState::first(CLUSTER, member(0));
        let recovered = Recovered::fresh(CLUSTER);
        let window = || {
            let mut window = Window::new(vec![0; 32 * 1024 + MTU], MTU, SEGMENT).expect("fits");
            recovered.open_window(&mut window).expect("at its start");
            window
        };
        let now = Now {
            instant: Instant::from_nanos(1),
            wall: Timestamp(1),
        };
        let lengths = [
            SESSIONS * SEGMENT as usize,
            MESSAGE_MAX + 64,
            SESSIONS * SEGMENT as usize,
            2 * MESSAGE_MAX,
            2 * MESSAGE_MAX,
            MESSAGE_MAX + 64,
            1024,
        ];
        Self {
            node: Node::new(config(sends_to_all), state, &recovered, now).expect("it is good"),
            log: window(),
            memory: lengths.map(|len| vec![0; len]),
            journal: recovered.journal(CLUSTER, &window()),
            disk: vec![0; 4 * SEGMENT as usize],
            echo: Echo::new(),
            now,
            persisting: None,
            marks: Vec::new(),
            theirs: window(),
            bounds: vec![Position::ZERO],
            their_history: Vec::new(),
        }
    }

    /// The node, the memory it is lent, and the service.
    fn parts(&mut self) -> (&mut Node<SESSIONS>, Lent<'_, Window<Vec<u8>>>, &mut Echo) {
        let [
            ingress,
            reassembly,
            egress,
            replay,
            catchup,
            assembly,
            services,
        ] = &mut self.memory;
        let lent = Lent {
            log: &mut self.log,
            ingress,
            reassembly,
            egress,
            replay,
            catchup,
            assembly,
            services,
        };
        (&mut self.node, lent, &mut self.echo)
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let now = self.now;
        match choices.below(16) {
            0 => self.pass_time(choices),
            1..4 => self.hear_member(choices),
            4 => self.hear_anything(choices),
            5 => self.extend_theirs(choices),
            6 => self.hear_frames(choices),
            7 => self.persisting = self.node.poll_persist().or(self.persisting),
            8 => {
                if let Some(state) = self.persisting {
                    self.node.handle_persisted(state);
                }
            }
            9 => self.write(),
            10 => self.flush(choices),
            11 => {
                let (node, mut lent, _) = self.parts();
                node.poll_ingress(now, &mut AllowAll, &mut lent);
            }
            12 => {
                let (node, mut lent, echo) = self.parts();
                node.poll_service(now, echo, &mut lent);
            }
            13 => self.recall(choices),
            14 => self.transmit(choices),
            _ => self.command(choices),
        }
    }

    fn pass_time(&mut self, choices: &mut Choices<'_>) {
        let millis = u64::from(choices.next());
        self.now.instant = self.now.instant.plus(Duration::from_millis(millis));
        self.now.wall = Timestamp(i64::from(choices.next()));
        let now = self.now;
        let (node, mut lent, _) = self.parts();
        node.handle_timeout(now, &mut lent);
    }

    fn hear(&mut self, door: Door, from: SocketAddr, datagram: &[u8]) {
        let now = self.now;
        let (node, mut lent, _) = self.parts();
        // Refused or taken: both are fine.
        let _taken = node
            .handle_datagram(now, door, from, datagram, &mut lent)
            .is_ok();
    }

    fn hear_member(&mut self, choices: &mut Choices<'_>) {
        let from = choices.below(3);
        let sender = Sender {
            cluster: CLUSTER,
            incarnation: Incarnation::FIRST,
            member: member(from),
        };
        let body = self.body(choices);
        let mut bytes = [0; CONTROL_MAX];
        let message = MemberMessage { sender, body };
        let len = message.emit(&mut bytes).expect("there is room");
        if choices.below(16) == 0 {
            let at = usize::from(choices.next()) % len;
            bytes[at] = choices.next();
        }
        self.hear(Door::Member, address(from, 9000), &bytes[..len]);
    }

    fn body(&self, choices: &mut Choices<'_>) -> Body {
        let (term, log_term) = (choices.term(), choices.term());
        let position = choices.position(&self.bounds);
        let other = choices.position(&self.bounds);
        match choices.below(11) {
            0 => Body::CanvassPosition(CanvassPosition {
                term,
                log_term,
                position,
                hears_leader: choices.is(),
                torn: choices.is(),
                votes: choices.is(),
            }),
            1 => Body::RequestVote(RequestVote {
                term,
                log_term,
                position,
                transfer: choices.is(),
            }),
            2 => Body::Vote(Vote {
                term,
                candidate: choices.member(),
                granted: choices.is(),
            }),
            3 => Body::NewLeadershipTerm(NewLeadershipTerm {
                term,
                commit: position,
                end: other,
                start: TermBase {
                    term: log_term,
                    base: if choices.is() {
                        position
                    } else {
                        Position::ZERO
                    },
                },
                settings: self.settings(choices),
                history: self.slice(choices),
            }),
            4 => Body::AppendPosition(AppendPosition {
                term,
                received: position,
                durable: other,
                applied: Position::ZERO,
                window: u32::from(choices.next()) * 256,
                flush_age_ms: u32::from(choices.next()) * 16,
                round: u64::from(choices.next()),
                service_age_ms: u32::from(choices.next()),
                quarantined: choices.is(),
                resting: choices.is(),
                votes: true,
                checkpoint: choices.checkpoint(other),
                snapshot: choices.checkpoint(position),
            }),
            5 => Body::CommitPosition(CommitPosition {
                term,
                commit: position,
                end: other,
                round: u64::from(choices.next()),
                counts: choices.is(),
                checkpoint: choices.checkpoint(other),
                snapshot: choices.checkpoint(position),
            }),
            which => Self::request(which, choices, (term, position, other)),
        }
    }

    fn request(which: u8, choices: &mut Choices<'_>, from: (Term, Position, Position)) -> Body {
        let (term, position, other) = from;
        match which {
            6 => Body::HistoryRequest(HistoryRequest {
                term,
                from: position,
            }),
            7 => Body::Resign(Resign {
                term,
                end: position,
            }),
            8 => Body::SnapshotRequest(SnapshotRequest {
                term,
                position,
                section: choices.section(),
                offset: other.get(),
                length: u32::from(choices.next()) * 512,
            }),
            9 => Body::RepairRequest(RepairRequest {
                term,
                from: position,
                to: other,
            }),
            _ => Body::TransferLeadership(TransferLeadership {
                term,
                target: choices.member(),
            }),
        }
    }

    /// What a leader tells of its settings: mostly this member's own.
    fn settings(&self, choices: &mut Choices<'_>) -> SharedSettings {
        let mut settings = self.node.shared_settings();
        settings.service_memory = self.memory[6].len() as u64;
        settings.message_max += u32::from(choices.below(16) == 15);
        settings
    }

    /// The peers' true history, or one made up.
    fn slice(&self, choices: &mut Choices<'_>) -> HistorySlice {
        let mut slice = HistorySlice::EMPTY;
        let is_true = choices.below(4) != 0;
        let len = match is_true {
            true => self.their_history.len(),
            false => usize::from(choices.below(4)),
        };
        for n in 0..len.min(slice.entries.len()) {
            slice.entries[n] = match is_true {
                true => self.their_history[n],
                false => TermBase {
                    term: choices.term(),
                    base: choices.position(&self.bounds),
                },
            };
            slice.len += 1;
        }
        slice.covered_to = match is_true {
            true => self.theirs.end(),
            false => choices.position(&self.bounds),
        };
        slice
    }

    fn hear_anything(&mut self, choices: &mut Choices<'_>) {
        let door = match choices.is() {
            true => Door::Member,
            false => Door::Client,
        };
        let from = address(choices.below(5), 9000);
        let len = usize::from(choices.next());
        let bytes: Vec<u8> = (0..len).map(|_| choices.next()).collect();
        self.hear(door, from, &bytes);
    }

    fn extend_theirs(&mut self, choices: &mut Choices<'_>) {
        let last = self.their_history.last().map_or(1, |e| e.term.get());
        let is_new_term = choices.below(4) == 0;
        let term = Term::new(last + u32::from(is_new_term));
        let record = vec![choices.next(); 16 * usize::from(choices.next())];
        if let Ok(span) = append(&mut self.theirs, term, &[&record], MTU) {
            let is_new = self.their_history.last().is_none_or(|e| e.term != term);
            if is_new && self.their_history.len() < 16 {
                let base = span.start;
                self.their_history.push(TermBase { term, base });
            }
            self.bounds.push(span.end);
        }
    }

    fn hear_frames(&mut self, choices: &mut Choices<'_>) {
        let at = choices.position(&self.bounds);
        let run = match at < self.theirs.end() {
            true => self.theirs.read(at),
            false => &[],
        };
        let mut bytes = run[..run.len().min(MTU)].to_vec();
        if choices.below(8) == 0 && !bytes.is_empty() {
            let at = usize::from(choices.next()) * 5 % bytes.len();
            bytes[at] = choices.next();
        }
        self.hear(Door::Member, address(choices.below(3), 9000), &bytes);
    }

    fn write(&mut self) {
        if let Some(cut) = self.log.take_cut() {
            self.journal.handle_truncated(cut);
        }
        let Some(group) = self.journal.poll_group(self.node.joined(), &self.log) else {
            return;
        };
        let mut at = group.span.start;
        while at < group.span.end {
            let run = self.log.read(at);
            let len = run.len().min(group.span.end.since(at) as usize);
            let place = at.get() as usize;
            if let Some(disk) = self.disk.get_mut(place..place + len) {
                disk.copy_from_slice(&run[..len]);
            }
            at = at.plus(len as u64);
        }
        self.log.set_written(self.journal.written());
    }

    /// The flush returns; the node hears of it now, later, or again.
    fn flush(&mut self, choices: &mut Choices<'_>) {
        if let Some(cut) = self.log.take_cut() {
            self.journal.handle_truncated(cut);
        }
        let mark = self.journal.handle_flushed();
        self.marks.push(mark);
        let n = usize::from(choices.next()) % self.marks.len();
        let mark = match choices.is() {
            true => mark,
            false => self.marks[n],
        };
        self.node.handle_durable(mark);
    }

    fn recall(&mut self, choices: &mut Choices<'_>) {
        let (node, lent, _) = self.parts();
        let Some(recall) = node.poll_recall(&lent) else {
            return;
        };
        let into = match recall.consumer {
            Consumer::Replay | Consumer::Repair => lent.replay,
            _ => lent.catchup,
        };
        let mut len = recall.len.min(into.len());
        if choices.below(4) == 0 {
            len = usize::from(choices.next()) % (len + 1);
        }
        let from = recall.at.get() as usize;
        let bytes = self.disk.get(from..from + len).unwrap_or_default().to_vec();
        let (node, lent, _) = self.parts();
        let into = match recall.consumer {
            Consumer::Replay | Consumer::Repair => lent.replay,
            _ => lent.catchup,
        };
        into[..bytes.len()].copy_from_slice(&bytes);
        let result = match choices.below(32) {
            0 => Err(ReadError),
            _ => Ok(bytes.len()),
        };
        node.handle_recalled(recall, result);
    }

    fn transmit(&mut self, choices: &mut Choices<'_>) {
        let now = self.now;
        let mut scratch = [0; CONTROL_MAX];
        for _ in 0..choices.below(32) {
            let (node, lent, _) = self.parts();
            let Some(transmit) = node.poll_transmit(now, &lent, &mut scratch) else {
                break;
            };
            let bytes = transmit.bytes;
            assert!(!bytes.is_empty() && bytes.len() <= MTU.max(CONTROL_MAX));
        }
    }

    fn command(&mut self, choices: &mut Choices<'_>) {
        match choices.below(8) {
            0 => self.node.resign(self.now),
            1 => {
                // Refused unless it leads: both are fine.
                let _sent = self.node.transfer(self.now, choices.member()).is_ok();
            }
            2 => {
                let n = choices.below(3);
                self.node.set_member_address(member(n), address(n, 9000));
            }
            3 => while self.node.poll_event().is_some() {},
            _ => {
                while let Some(resolve) = self.node.poll_resolve() {
                    self.node.handle_resolved(resolve.id, None);
                }
            }
        }
    }
}

/// Lets the bytes choose calls, and checks after each; says how far the log was executed, in
/// records.
pub fn run(bytes: &[u8]) -> usize {
    // Not a choice of the bytes, which mean the same in either.
    let mut rig = Rig::new(bytes.len() % 2 == 1);
    let mut choices = Choices(bytes);
    let (mut commit, mut applied, mut joined) = Default::default();
    while !choices.0.is_empty() && rig.node.halted().is_none() {
        rig.step(&mut choices);
        assert!(rig.node.commit() >= commit, "commit never goes back");
        assert!(rig.node.applied() >= applied, "nothing is executed twice");
        assert!(rig.node.joined() >= joined || rig.node.joined() == Term::ZERO);
        (commit, applied) = (rig.node.commit(), rig.node.applied());
        joined = joined.max(rig.node.joined());
        assert!(applied <= commit, "only what is committed is executed");
        assert!(applied <= rig.log.end());
        // Nobody else can bring about what only a bug of ours does.
        let halted = rig.node.halted();
        assert!(!matches!(halted, Some(Halt::Broken(_))), "{halted:?}");
        if let Some((at, _)) = rig.node.poll_timeout() {
            assert!(at.nanos() > 0);
        }
    }
    usize::from(applied > Position::ZERO)
}

/// Bytes with which a node gets somewhere: it hears of a leader, joins it, takes its frames, makes
/// them durable and executes them, over several terms, with some arbitrary calls in between.
pub fn example(prng: &mut Prng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut term, mut records) = (1, 0_u8);
    for _ in 0..5 {
        let known = records;
        for n in 0..1 + prng.below(4) {
            // The first record of the first term cannot begin another.
            let is_new_term = n == 0 && prng.below(2) == 0 && records > 0;
            term += u8::from(is_new_term);
            bytes.extend([
                5,
                u8::from(!is_new_term),
                prng.next() as u8,
                prng.below(120) as u8,
            ]);
            records += 1;
        }
        // Of positions, 2 chooses the frame boundary whose number follows.
        let leader_says = |kind: u8| [1, 1, term, 0, 2, records, 2, records, kind];
        for _ in 0..2 {
            bytes.extend(leader_says(3));
            bytes.extend([0, 0, 1, 1, 7, 8]);
        }
        for at in known..records {
            bytes.extend([6, 2, at, 1, 1]);
        }
        bytes.extend([9, 10, 0, 1, 9, 10, 0, 1]);
        bytes.extend(leader_says(5));
        bytes.extend([term, 1, 0, 0, 1, 12, 12, 14, 31]);
        let noise = prng.below(12);
        bytes.extend((0..noise).map(|_| prng.next() as u8));
    }
    bytes
}
