//! Every door of the core itself, as a driver of one's own would call it, with values of which the
//! compiler is not told what they are: so it keeps each panic that it cannot prove to be out of
//! reach. What a board's superloop calls is in `doors` once more, as the board calls it.
//!
//! This program is linked and looked at, and not run: see `doors`.
#![no_std]
#![no_main]

#[path = "../bare.rs"]
mod bare;
#[path = "../planted.rs"]
mod planted;

use core::hint::black_box;
use core::net::SocketAddr;

use bare::{Out, exit};
use coracle_core::client::{self, Client, ClientConfig};
use coracle_core::log::{
    ChainSearch, Journal, Log, NodeState, Recovered, Recovery, Seed, Slot, Window, append,
};
use coracle_core::node::{
    CONTROL_MAX, Config, Container, ContainerLent, Door, Lent, MemberAddress, Node, ReadError,
    Snapshot, SnapshotStep,
};
use coracle_core::service::echo::Echo;
use coracle_core::service::kv::Kv;
use coracle_core::service::{
    Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::session::{AllowAll, SharedSecret};
use coracle_core::snapshot::{Section, SnapshotSink, SnapshotSource};
use coracle_core::stream::Output;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_core::units::{ClusterId, Mark, MemberId, Position, ServiceId, SessionId, Term};
use embedded_io::{ErrorKind, ErrorType, Read, Write};

const SESSIONS: usize = 4;
const SERVICES: usize = 3;

type Bytes = &'static mut [u8];
type Member = Node<SESSIONS, SERVICES>;
type Logs = Window<Bytes>;

fn bytes() -> Bytes {
    black_box(&mut [])
}

fn now() -> Now {
    black_box(Now {
        instant: Instant::from_nanos(0),
        wall: Timestamp(0),
    })
}

fn address() -> SocketAddr {
    black_box(([10, 0, 0, 1], 9000).into())
}

fn position() -> Position {
    black_box(Position::ZERO)
}

fn term() -> Term {
    black_box(Term::ZERO)
}

fn member() -> MemberId {
    black_box(MemberId::FIRST)
}

/// Any service.
struct Any;

impl Service for Any {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, said: &[u8]) {
        black_box(cluster.offer(session, &[said, bytes()]).is_ok());
        black_box(cluster.close_session(session).is_ok());
        let deadline = black_box(Timestamp(0));
        black_box(cluster.schedule_timer(black_box(1), deadline).is_ok());
        black_box(cluster.cancel_timer(black_box(1)).is_ok());
        black_box(cluster.offer_to_log(&[said, bytes()]).is_ok());
    }

    fn ready(&self, at: Position) -> bool {
        black_box(at);
        black_box(true)
    }

    fn digest(&self) -> u64 {
        black_box(0)
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        out.put(bytes())?;
        Ok(black_box(Progress::Done))
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        black_box(from.u64()?);
        Ok(())
    }
}

/// Any place for a snapshot's bytes.
struct Place;

impl ErrorType for Place {
    type Error = ErrorKind;
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        black_box(bytes);
        black_box(Ok(0))
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        black_box(Ok(()))
    }
}

impl Read for Place {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        black_box(into);
        black_box(Ok(0))
    }
}

impl SnapshotSink for Place {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        black_box(section);
        self
    }
}

impl SnapshotSource for Place {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        black_box(section);
        Some((self, black_box(0)))
    }
}

fn config() -> Config {
    let members = [(); 7].map(|()| black_box(Some(MemberAddress::new(address(), address()))));
    black_box(Config::new(black_box(ClusterId(1)), member(), members, 1))
}

/// What any storage says.
fn recover(log: &mut Logs) -> Option<(NodeState, Recovered, Journal)> {
    let (_, state) = NodeState::newest(bytes(), bytes()).ok()??;
    black_box(state.encode(black_box(1)));
    let slot = Slot::newest(None, Slot::decode(bytes())).ok()?;
    let start = black_box(Seed::genesis(ClusterId(1)));
    let (length, capacity) = (log.segment_length(), black_box(0));
    let mut recovery = Recovery::new(state.cluster, length, start, slot, capacity).ok()?;
    recovery.compare(start);
    while let Some(at) = recovery.wanted() {
        black_box(at);
        recovery.feed(bytes());
    }
    let recovered = recovery.finish().ok()?;
    recovered.open_window(log).ok()?;
    while log.fill(bytes()) > 0 {}
    let journal = recovered.journal(state.cluster, log);
    if let Some(slot) = slot {
        black_box((slot.encode(), slot.beside(), slot.is_beside()));
        black_box((slot.is_first_beside(), Slot::decode_beside(bytes(), &slot)))
            .1
            .ok();
    }
    Some((state, recovered, journal))
}

/// What a driver does with the log.
fn store(node: &mut Member, journal: &mut Journal, log: &mut Logs) {
    if let Some(cut) = log.take_cut() {
        journal.handle_truncated(cut);
    }
    journal.set_confirm_after(black_box(1));
    journal.set_slots_beside();
    if let Some(group) = journal.poll_group(node.joined(), log) {
        black_box((log.read(group.span.start), group));
        log.set_writing(Some(group.span));
        log.set_written(journal.written());
    }
    let mark = journal.handle_flushed();
    node.handle_durable(mark);
    node.handle_durable(black_box(Mark {
        term: term(),
        position: position(),
    }));
    if log.chain().is_none() {
        let mut search = ChainSearch::new(log.end(), position(), log.segment_length());
        while let Some(at) = search.wanted() {
            black_box(at);
            search.feed(bytes());
        }
        if let Some(chain) = search.chain() {
            black_box(log.set_chain(log.end(), chain));
        }
    }
    if let Some(state) = node.poll_persist() {
        node.handle_persisted(black_box(state));
    }
    node.handle_purged(node.purgeable());
    journal.handle_purged(position());
    // As a driver that reads the log, or makes one, for tests or tools.
    black_box(log.chain_at(position()));
    black_box(append(log, term(), &[bytes(), bytes()], black_box(1408)).is_ok());
    black_box(log.truncate(position()).is_ok());
    black_box(log.load(position(), black_box(None), term()).is_ok());
}

fn converse(node: &mut Member, services: &mut [&mut dyn Service], lent: &mut Lent<'_, Logs>) {
    let door = black_box(Door::Client);
    black_box(node.handle_datagram(now(), door, address(), bytes(), lent)).ok();
    node.handle_timeout(now(), lent);
    black_box(node.poll_ingress(now(), &mut AllowAll, lent));
    let mut secret = SharedSecret::new(bytes(), bytes());
    black_box(node.poll_ingress(now(), &mut secret, lent));
    black_box(node.is_fed());
    while node.poll_services(now(), services, lent) {}
    if let Some(recall) = node.poll_recall(lent) {
        let read = black_box(Err(ReadError));
        node.handle_recalled(black_box(recall), read);
    }
    let mut scratch = [0; CONTROL_MAX];
    while let Some(transmit) = node.poll_transmit(now(), lent, &mut scratch) {
        black_box(transmit);
    }
    black_box(node.poll_unused(black_box(0), lent));
    while let Some(resolve) = node.poll_resolve() {
        node.handle_resolved(resolve.id, black_box(None));
    }
}

fn preserve(node: &mut Member, services: &mut [&mut dyn Service], lent: &mut Lent<'_, Logs>) {
    black_box(node.request_snapshot().is_ok());
    match node.poll_snapshot(services, &mut Place, lent) {
        SnapshotStep::Written(snapshot) => node.handle_snapshot_stored(snapshot),
        step => drop(black_box(step)),
    }
    node.abandon_snapshot(services, SnapshotError::Short);
    node.handle_snapshot_failed(position());
    if let Ok(snapshot) = node.load_snapshot(&mut Place, services, lent) {
        let snapshot: Snapshot = black_box(snapshot);
        node.handle_snapshot_stored(snapshot);
    }
    if let Some(install) = node.poll_install(lent) {
        black_box(&install);
        node.handle_installed(install, black_box(true));
    }
    if let Some(repair) = node.poll_repair() {
        node.handle_repaired(black_box(repair));
    }
    node.handle_rebuilt();
}

fn look(node: &mut Member) {
    let status = node.status();
    black_box(status.write_line(&mut Out).is_ok());
    black_box((node.poll_timeout(), node.commit(), node.applied()));
    black_box((node.counters(), node.halted(), node.is_resigned()));
    black_box((node.healing(), node.installing(), node.stored_snapshots()));
    black_box((node.differing_settings(), node.quarantined_members()));
    black_box((node.history().entries(), node.raft().commit()));
    for service in node.services() {
        black_box(service);
    }
    while let Some(event) = node.poll_event() {
        black_box(event);
    }
    node.resign(now());
    black_box(node.transfer(now(), member()).is_ok());
    node.set_member_address(member(), address());
}

/// A service away from its node.
fn leave(node: &Member, lent: &mut Lent<'_, Logs>) -> Option<()> {
    let service = ServiceId::new(black_box(0))?;
    black_box(node.container_memory_len(black_box(3)));
    let mut container: Container<SESSIONS> = node.container(service, lent, bytes())?;
    let mut away = ContainerLent {
        service: bytes(),
        assembly: bytes(),
    };
    container.tell(node.role(), &mut Any, &mut away);
    black_box(container.execute(bytes(), &mut Any, &mut away).is_ok());
    black_box((container.position(), container.reads_at()));
    container.terminate(&mut Any, &mut away);
    Some(())
}

fn drive(node: &'static mut Member) -> Option<()> {
    let mut log = Window::new(bytes(), black_box(1408), black_box(0)).ok()?;
    let (state, recovered, mut journal) = recover(&mut log)?;
    node.begin(config(), state, &recovered, now()).ok()?;
    let mut kept = Kv::with_barrier(bytes(), bytes());
    let mut lent = Lent {
        log: &mut log,
        ingress: bytes(),
        reassembly: bytes(),
        egress: bytes(),
        replay: bytes(),
        catchup: bytes(),
        assembly: bytes(),
        services: bytes(),
    };
    let (mut any, mut echo) = (Any, Echo::new());
    while black_box(true) {
        let mut services: [&mut dyn Service; 3] = [&mut any, &mut echo, &mut kept];
        let services = services.get_mut(..black_box(3))?;
        converse(node, services, &mut lent);
        preserve(node, services, &mut lent);
        black_box(node.poll_service(now(), &mut Any, &mut lent));
        leave(node, &mut lent);
        store(node, &mut journal, lent.log);
        look(node);
        node.terminate(services, &mut lent);
        black_box(kept.get(bytes()));
        for entry in kept.iter() {
            black_box(entry);
        }
    }
    node.begin_anew(black_box(1), state, &recovered, now()).ok()
}

/// A client of the cluster.
fn call() -> Option<()> {
    let text = || core::str::from_utf8(bytes()).unwrap_or_default();
    let config = ClientConfig::new(text(), text(), black_box(1))?;
    let mut lent = client::Lent {
        ingress: bytes(),
        egress: bytes(),
        assembly: bytes(),
    };
    let at = || now().instant;
    let mut client = Client::new(at(), black_box(config), &lent).ok()?;
    while black_box(true) {
        let mut datagram: &[u8] = bytes();
        while let Some(egress) = client.take_egress(at(), address(), &mut datagram) {
            black_box(egress);
        }
        let taken = client.handle_datagram(at(), address(), datagram, &mut lent);
        black_box(taken.is_ok());
        client.handle_timeout(at(), &mut lent);
        black_box(client.offer(at(), &[bytes(), bytes()], &mut lent).is_ok());
        let asked = client.request_snapshot(at(), black_box(1), &mut lent);
        black_box(asked.is_ok());
        black_box(client.respond(at(), bytes(), &mut lent));
        while let Some(egress) = client.poll_egress(at(), &mut lent) {
            black_box(egress);
        }
        while let Some(transmit) = client.poll_transmit(at(), &lent) {
            if let Output::Control(control) = &transmit.payload {
                let mut scratch = [0; coracle_core::stream::CONTROL_MAX];
                black_box(control.emit(&mut scratch));
            }
            black_box(transmit);
        }
        while let Some(resolve) = client.poll_resolve() {
            let member = resolve.member;
            client.handle_resolved(member, black_box(None));
        }
        while let Some(event) = client.poll_event() {
            black_box(event);
        }
        black_box((client.state(), client.detail(), client.challenge()));
        black_box((
            client.message_max(),
            client.pending(),
            client.poll_timeout(),
        ));
        client.close(at(), &mut lent);
    }
    Some(())
}

/// Called by `_start` with an aligned stack.
extern "C" fn start() -> ! {
    black_box(planted::pick(black_box(0)));
    // Never taken: there is no memory.
    if let Some(node) = black_box(None::<&'static mut Member>) {
        black_box(drive(node));
    }
    black_box(call());
    exit(black_box(0))
}
