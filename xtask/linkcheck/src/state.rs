//! State that lasts: one member with two services, their timers and messages into the log, a
//! snapshot of them in steps, and a second life that starts from it.

use coracle_core::log::{Log, NodeState, Recovered, Seed, Window};
use coracle_core::node::{Config, Lent, Node, Snapshot, SnapshotPolicy, SnapshotStep};
use coracle_core::service::{
    Cluster, LeadershipTerm, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::session::AllowAll;
use coracle_core::snapshot::{Section, SnapshotSink, SnapshotSource};
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_core::units::{Mark, MemberId, ServiceId, SessionId};
use embedded_io::{ErrorKind, ErrorType, Read, Write};

use crate::pool::Pool;
use crate::{CLUSTER, Failed, MTU, SEGMENT, SESSIONS};

const SERVICES: usize = 2;
const SECTION_MAX: usize = 2048;

/// Counts what it is told; each term it arms a timer, and each timer offers a message.
#[derive(Default, PartialEq, Eq)]
struct Clockwork {
    fired: u64,
    heard: u64,
    pieces: u64,
}

impl Service for Clockwork {
    fn on_session_message(&mut self, _: &mut Cluster<'_>, _: SessionId, _: &[u8]) {}

    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, _: &LeadershipTerm) {
        let deadline = Timestamp(cluster.time().0 + 5);
        let _armed = cluster.schedule_timer(1, deadline).is_ok();
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, _: i64, deadline: Timestamp) {
        self.fired += 1;
        let _armed = cluster.schedule_timer(1, Timestamp(deadline.0 + 5)).is_ok();
        let _offered = cluster.offer_to_log(&[b"tick"]).is_ok();
    }

    fn on_service_message(&mut self, _: &mut Cluster<'_>, _: ServiceId, message: &[u8]) {
        self.heard += u64::from(message == b"tick");
    }

    fn digest(&self) -> u64 {
        self.fired << 32 | self.heard
    }

    fn begin_snapshot(&mut self) {
        self.pieces = 0;
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        self.pieces += 1;
        if self.pieces == 1 {
            out.u64(self.fired)?;
            return Ok(Progress::More);
        }
        out.u64(self.heard)?;
        Ok(Progress::Done)
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        (self.fired, self.heard) = (from.u64()?, from.u64()?);
        Ok(())
    }
}

/// One section, in lent memory.
struct Part {
    bytes: &'static mut [u8],
    len: usize,
    read: usize,
}

impl ErrorType for Part {
    type Error = ErrorKind;
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let room = self.bytes.get_mut(self.len..self.len + bytes.len());
        room.ok_or(ErrorKind::OutOfMemory)?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        let left = self.bytes.get(self.read..self.len).unwrap_or_default();
        let len = left.len().min(into.len());
        for (to, from) in into.iter_mut().zip(left) {
            *to = *from;
        }
        self.read += len;
        Ok(len)
    }
}

/// A snapshot set in memory.
struct Set([Part; 1 + SERVICES]);

fn place(section: Section) -> usize {
    usize::from(section.to_wire()).min(SERVICES)
}

impl SnapshotSink for Set {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        let Self(parts) = self;
        &mut parts[place(section)]
    }
}

impl SnapshotSource for Set {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        let part = self.0.get_mut(place(section))?;
        let len = part.len as u64;
        Some((part, len))
    }
}

/// A member and its memory. Its storage is quick: what is written is durable.
struct Life {
    node: Node<SESSIONS, SERVICES>,
    window: Window<&'static mut [u8]>,
    memory: [&'static mut [u8]; 7],
    services: [Clockwork; SERVICES],
    now: Now,
}

impl Life {
    fn begin(recovered: &Recovered, now: Now, pool: &mut Pool) -> Result<Self, Failed> {
        let memory = pool.take(16 * 1024 + MTU);
        let window = Window::new(memory, MTU, SEGMENT);
        let mut window = window.map_err(|_| Failed("memory for a window"))?;
        let opened = recovered.open_window(&mut window);
        opened.map_err(|_| Failed("a log that starts at its start"))?;
        let member = MemberId::new(0).ok_or(Failed("a member id"))?;
        let state = NodeState {
            term: recovered.tail.term,
            ..NodeState::first(CLUSTER, member)
        };
        let node = Node::new(config(member), state, recovered, now);
        Ok(Self {
            node: node.map_err(|_| Failed("a node with two services"))?,
            window,
            memory: core::array::from_fn(|_| pool.take(16 * 1024)),
            services: [Clockwork::default(), Clockwork::default()],
            now,
        })
    }

    /// Calls `call` with the node, the services, and everything that is lent.
    fn with<R>(
        &mut self,
        call: impl FnOnce(
            &mut Node<SESSIONS, SERVICES>,
            &mut [&mut dyn Service],
            &mut Lent<'_, Window<&'static mut [u8]>>,
        ) -> R,
    ) -> R {
        let [
            ingress,
            reassembly,
            egress,
            replay,
            catchup,
            assembly,
            services,
        ] = &mut self.memory;
        let mut lent = Lent {
            log: &mut self.window,
            ingress,
            reassembly,
            egress,
            replay,
            catchup,
            assembly,
            services,
        };
        let [one, two] = &mut self.services;
        call(&mut self.node, &mut [one, two], &mut lent)
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now.instant = Instant::from_nanos(self.now.instant.nanos() + 1_000_000);
        self.now.wall.0 += 1;
        let now = self.now;
        self.with(|node, services, lent| {
            node.handle_timeout(now, lent);
            let _more = node.poll_ingress(now, &mut AllowAll, lent);
            while node.poll_services(now, services, lent) {}
        });
        if let Some(state) = self.node.poll_persist() {
            self.node.handle_persisted(state);
        }
        let (term, position) = (self.node.joined(), self.window.end());
        self.window.set_written(position);
        self.node.handle_durable(Mark { term, position });
    }
}

fn config(member: MemberId) -> Config {
    Config {
        services: SERVICES,
        snapshots: SnapshotPolicy {
            enabled: true,
            ..SnapshotPolicy::default()
        },
        checkpoint_every: 1 << 12,
        ..crate::config(member, 1, 3)
    }
}

/// # Errors
/// What did not come about.
pub fn run(pool: &mut Pool) -> Result<(), Failed> {
    let now = Now {
        instant: Instant::from_nanos(1),
        wall: Timestamp(1_000),
    };
    let mut first = Life::begin(&Recovered::fresh(CLUSTER), now, pool)?;
    let is_done = |life: &Life| life.services.iter().all(|s| s.fired >= 10 && s.heard >= 10);
    for _ in 0..5_000 {
        if is_done(&first) {
            break;
        }
        first.step();
    }
    if !is_done(&first) {
        return Err(Failed("ten timers, and ten messages of each service"));
    }
    let mut set = Set(core::array::from_fn(|_| Part {
        bytes: pool.take(SECTION_MAX),
        len: 0,
        read: 0,
    }));
    let snapshot = take(&mut first, &mut set)?;
    let chain = Some(snapshot.chain);
    let (position, term) = (snapshot.position, snapshot.term);
    let start = Seed {
        position,
        chain,
        term,
    };
    let mut second = Life::begin(&Recovered::empty(start), now, pool)?;
    let loaded = second.with(|node, services, lent| node.load_snapshot(&mut set, services, lent));
    if loaded != Ok(snapshot) || second.node.applied() != position {
        return Err(Failed("a member that starts from its snapshot"));
    }
    let before = second.services.each_ref().map(|s| s.fired);
    for _ in 0..2_000 {
        second.step();
    }
    let goes_on = second.services.iter().zip(before).all(|(s, b)| s.fired > b);
    if !goes_on || second.node.halted().is_some() {
        return Err(Failed("timers that survive in a snapshot"));
    }
    Ok(())
}

fn take(life: &mut Life, set: &mut Set) -> Result<Snapshot, Failed> {
    let asked = life.node.request_snapshot();
    asked.map_err(|_| Failed("a leader that takes snapshots"))?;
    for _ in 0..100 {
        life.step();
        match life.with(|node, services, lent| node.poll_snapshot(services, set, lent)) {
            SnapshotStep::Written(snapshot) => {
                life.node.handle_snapshot_stored(snapshot);
                return Ok(snapshot);
            }
            SnapshotStep::Failed(..) => return Err(Failed("room for a snapshot")),
            _ => {}
        }
    }
    Err(Failed("a snapshot that comes to its end"))
}
