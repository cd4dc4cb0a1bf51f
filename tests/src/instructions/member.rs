//! A node and the loop that drives it, with nothing under it.

use std::net::SocketAddr;

use coracle_core::log::{Journal, NodeState, Recovered, Window, window_len};
use coracle_core::node::{CONTROL_MAX, Config, Door, Lent, MemberAddress, Node};
use coracle_core::service::Role;
use coracle_core::session::AllowAll;
use coracle_core::stream::slot_len;
use coracle_core::time::{Instant, Now};
use coracle_core::units::{ClusterId, MemberId};

use super::mirror::Mirror;
use super::{Inbox, MEMBERS};

/// As many as a node on Linux has room for.
pub const SESSIONS: usize = coracle_std::node::SESSIONS;
/// The default of `sessions_max`.
const SESSIONS_MAX: usize = 1_000;
/// The settings of a node on Linux, but for smaller windows.
const SEGMENT: u32 = 16 << 20;
const MTU: usize = coracle_core::limits::MTU_DEFAULT;
const MESSAGE_MAX: usize = 16 << 10;
const WINDOW: usize = 1 << 20;
const STREAM_WINDOW: usize = 256 << 10;
const CHECKPOINT_EVERY: u64 = 1 << 20;
/// Polls without work after which the journal confirms what is durable.
const CONFIRM_AFTER: u32 = 64;
const CLUSTER: ClusterId = ClusterId(1);

/// Where clients find a member.
pub fn client_door(member: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + member as u8], 9001))
}

fn member_door(member: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + member as u8], 9000))
}

fn id(member: usize) -> MemberId {
    MemberId::new(member as u8).expect("a small number")
}

fn config(member: usize) -> Config {
    let listed = |n| MemberAddress::new(member_door(n), client_door(n));
    let members = std::array::from_fn(|n| (n < MEMBERS).then(|| listed(n)));
    Config {
        sessions_max: SESSIONS_MAX,
        segment_length: SEGMENT,
        mtu: MTU,
        message_max: MESSAGE_MAX,
        egress_mtu: MTU,
        checkpoint_every: CHECKPOINT_EVERY,
        ..Config::new(CLUSTER, id(member), members, member as u64 + 1)
    }
}

/// What a member is lent, once and for all: as a board has it in statics.
type Memory = Lent<'static, Window<Vec<u8>>>;

fn memory() -> Memory {
    fn bytes(len: usize) -> &'static mut [u8] {
        vec![0; len].leak()
    }
    let log = vec![0; window_len(WINDOW, MTU)];
    let window = Window::new(log, MTU, SEGMENT).expect("large enough");
    Lent {
        log: Box::leak(Box::new(window)),
        ingress: bytes(SESSIONS * slot_len(STREAM_WINDOW, MTU)),
        reassembly: bytes(2 * (MESSAGE_MAX + 64)),
        egress: bytes(SESSIONS * slot_len(STREAM_WINDOW, MTU)),
        replay: bytes(2 * MESSAGE_MAX + MTU),
        catchup: bytes(MTU),
        assembly: bytes(MESSAGE_MAX + 64),
        services: bytes(4096),
    }
}

/// A node with all that it needs.
pub struct Member {
    id: usize,
    node: Box<Node<SESSIONS>>,
    journal: Journal,
    lent: Memory,
    pub service: Mirror,
    is_busy: bool,
    scratch: Box<[u8; CONTROL_MAX]>,
    pub inbox: Inbox<SocketAddr, Door>,
    pub outbox: Inbox<Door, SocketAddr>,
}

impl Member {
    /// A member of a new cluster.
    pub fn new(member: usize, answers: bool, now: Now) -> Self {
        let state = NodeState::first(CLUSTER, id(member));
        let recovered = Recovered::fresh(CLUSTER);
        let lent = memory();
        let opened = recovered.open_window(lent.log);
        opened.expect("a log starts at its start");
        let mut journal = recovered.journal(CLUSTER, lent.log);
        journal.set_confirm_after(CONFIRM_AFTER);
        let node = Node::new(config(member), state, &recovered, now);
        Self {
            id: member,
            node: Box::new(node.expect("a sound configuration")),
            journal,
            lent,
            service: Mirror {
                answers,
                executed: 0,
            },
            is_busy: true,
            scratch: Box::new([0; CONTROL_MAX]),
            inbox: Inbox::default(),
            outbox: Inbox::default(),
        }
    }

    pub fn role(&self) -> Role {
        self.node.role()
    }

    /// Which of its sockets has this address?
    pub fn door(&self, address: SocketAddr) -> Option<Door> {
        match address {
            _ if address == member_door(self.id) => Some(Door::Member),
            _ if address == client_door(self.id) => Some(Door::Client),
            _ => None,
        }
    }

    /// The address of one of its sockets.
    pub fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Member => member_door(self.id),
            Door::Client => client_door(self.id),
        }
    }

    /// Would a driver that sleeps wake up now?
    pub fn is_due(&self, now: Instant) -> bool {
        let timeout = self.node.poll_timeout();
        self.is_busy || !self.inbox.is_empty() || timeout.is_some_and(|(at, _)| at <= now)
    }

    /// One turn of the loop that every driver has.
    pub fn turn(&mut self, now: Now) {
        let lent = &mut self.lent;
        for (from, door, bytes) in self.inbox.iter() {
            // What was refused it has counted.
            let _taken = self
                .node
                .handle_datagram(now, door, from, bytes, lent)
                .is_ok();
        }
        self.inbox.clear();
        self.node.handle_timeout(now, lent);
        let mut is_busy = self.node.poll_ingress(now, &mut AllowAll, lent);
        make_durable(&mut self.node, &mut self.journal, lent.log);
        is_busy |= self.node.poll_service(now, &mut self.service, lent);
        assert!(self.node.poll_recall(lent).is_none(), "all is in memory");
        send(
            &mut self.node,
            now,
            lent,
            &mut self.scratch,
            &mut self.outbox,
        );
        while self.node.poll_event().is_some() {}
        assert_eq!(self.node.halted(), None);
        self.is_busy = is_busy;
    }
}

/// All that there is to write is durable at once.
fn make_durable(node: &mut Node<SESSIONS>, journal: &mut Journal, window: &mut Window<Vec<u8>>) {
    if let Some(state) = node.poll_persist() {
        node.handle_persisted(state);
    }
    if let Some(cut) = window.take_cut() {
        journal.handle_truncated(cut);
    }
    if journal.poll_group(node.joined(), window).is_some() {
        window.set_written(journal.written());
        let mark = journal.handle_flushed();
        node.handle_durable(mark);
    }
}

fn send(
    node: &mut Node<SESSIONS>,
    now: Now,
    lent: &Memory,
    scratch: &mut [u8; CONTROL_MAX],
    outbox: &mut Inbox<Door, SocketAddr>,
) {
    while let Some(transmit) = node.poll_transmit(now, lent, scratch) {
        outbox.push(transmit.door, transmit.to, transmit.bytes);
    }
}
