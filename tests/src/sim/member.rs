//! One member: a machine with a disk and a clock, and most of the time a process on it.

use std::collections::VecDeque;

use coracle_core::log::{Group, Journal, NodeState};
use coracle_core::node::clients::StreamMemory;
use coracle_core::node::{Lent, Node, Recall};
use coracle_core::units::{ClusterId, Incarnation};

use super::away::Services;
use super::board::Board;
use super::clock::{Clock, Nanos};
use super::disk::{Disk, Flush};
use super::installs::Incoming;
use super::mind::{SERVICES, SHARE};
use super::net::Datagram;
use super::plan::Plan;
use super::repairs::Rotten;
use super::rng::Rng;
use super::snapshots::{Damage, Storing, Taking};
use super::spy::SpyLog;
use super::unwell::Unwell;

/// How many sessions a member has room for.
pub const SESSIONS: usize = 5;
/// The length of a log segment, the smallest there is: ends and pads are common.
pub const SEGMENT: u32 = 64 * 1024;
/// The capacity of a log window.
pub const WINDOW: usize = 64 * 1024;
/// The longest client message.
pub const MESSAGE_MAX: usize = 8000;
/// The memory of one ingress stream.
pub const INGRESS: usize = 16 * 1024;
/// The memory of one egress stream.
pub const EGRESS: usize = 64 * 1024;
/// The cluster.
pub const CLUSTER: ClusterId = ClusterId(0xc07a_c1e0);

/// The memory that a node is lent, beside its log.
#[derive(Clone, Debug)]
pub struct Memory {
    ingress: Vec<u8>,
    reassembly: Vec<u8>,
    egress: Vec<u8>,
    /// Where bytes recalled for the service go.
    pub replay: Vec<u8>,
    /// Where bytes recalled for followers go.
    pub catchup: Vec<u8>,
    assembly: Vec<u8>,
    services: Vec<u8>,
}

impl Memory {
    /// For so many services. Small, so that everything fills up now and then.
    pub fn new(services: usize) -> Self {
        Self {
            ingress: vec![0; SESSIONS * INGRESS],
            reassembly: vec![0; 2 * (MESSAGE_MAX + 64)],
            egress: vec![0; SESSIONS * EGRESS],
            replay: vec![0; 16 * 1024],
            catchup: vec![0; 4 * 1024],
            assembly: vec![0; 2 * (MESSAGE_MAX + 64)],
            services: vec![0; services * SHARE],
        }
    }

    /// Lends everything for one call.
    pub fn lend<'a>(&'a mut self, log: &'a mut SpyLog) -> Lent<'a, SpyLog> {
        Lent {
            log,
            ingress: &mut self.ingress,
            reassembly: &mut self.reassembly,
            egress: &mut self.egress,
            replay: &mut self.replay,
            catchup: &mut self.catchup,
            assembly: &mut self.assembly,
            services: &mut self.services,
        }
    }
}

/// A running process: everything that a kill ends.
pub struct Process {
    /// The core.
    pub node: Box<Node<SESSIONS, SERVICES>>,
    /// Its window.
    pub log: SpyLog,
    /// Its memory.
    pub memory: Memory,
    /// Its storage discipline.
    pub journal: Journal,
    /// Its services.
    pub services: Services,
    /// The snapshot that is being written.
    pub taking: Option<Taking>,
    /// The one that is being made durable.
    pub storing: Option<Storing>,
    /// Its sockets' receive buffers.
    pub inbox: VecDeque<Datagram>,
    /// The group whose flush is under way.
    pub flush: Option<(Group, Flush)>,
    /// The node state whose flush is under way.
    pub state_flush: Option<(NodeState, Flush)>,
    /// The read from storage that is under way.
    pub recall: Option<Recall>,
    /// When the driver next runs.
    pub turn_at: Option<Nanos>,
    /// What it was told of others' health, and did about its own.
    pub unwell: Unwell,
    /// The number of the next node state.
    pub state_seq: u64,
}

impl Process {
    /// Memory of clients' streams that is said to hold nothing may be anything.
    pub fn spoil(&mut self) {
        let lent = self.memory.lend(&mut self.log);
        let Some(unused) = self.node.poll_unused(0, &lent) else {
            return;
        };
        let memory = match unused.memory {
            StreamMemory::Ingress => lent.ingress,
            StreamMemory::Egress => lent.egress,
        };
        for range in unused.ranges {
            memory[range].fill(0xa5);
        }
    }
}

/// One machine.
pub struct Member {
    /// Its number.
    pub id: u8,
    /// Its disk, which outlives processes.
    pub disk: Disk,
    /// What it is instead, if it is a board: then it has no files and no process.
    pub board: Option<Box<Board>>,
    /// Its clock.
    pub clock: Clock,
    /// How many processes it has had.
    pub life: u32,
    /// The present one.
    pub process: Option<Process>,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// Whether its directory was made by `init`.
    pub votes: bool,
    /// The process dies after so many calls; with the second, its machine does.
    pub fuse: Option<(u32, bool)>,
    /// The process ends in its next turn after this.
    pub fuse_at: Option<Nanos>,
    /// The directory is emptied when the process has died.
    pub wipe_next: bool,
    /// Which services take nothing.
    pub stalled: [bool; SERVICES],
    /// The snapshot that the present process has started from.
    pub loaded: Option<u64>,
    /// A snapshot that is coming from the leader.
    pub incoming: Option<Incoming>,
    /// The number of the newest slot of the log that is on the medium.
    pub slot: u64,
    /// What has rotten of the log, and is not healed.
    pub rotten: Option<Rotten>,
    /// What is done to the newest snapshots while the process is down.
    pub damage: Damage,
    /// The process is not scheduled before this.
    pub paused_until: Nanos,
    /// Flushes take very long before this.
    pub slow_until: Nanos,
    /// Snapshots that it takes fail before this.
    pub full_until: Nanos,
    /// Only a scenario sets this: no flush ends.
    pub is_disk_stuck: bool,
    /// Polls in a row that have said there is more to do.
    pub polls_in_a_row: u64,
    /// Turns in a row after which another was due at once.
    pub turns_in_a_row: u64,
    /// A millisecond, and the transmits in it.
    pub transmits: (u64, u64),
    /// Only a scenario sets this: this member does not stand for election by itself.
    pub is_patient: bool,
}

impl Member {
    /// A machine with an initialised directory and no process.
    pub fn new(id: u8, plan: &Plan, rng: &mut Rng) -> Self {
        let rate = rng.range(1_000_000 - plan.drift, 1_000_000 + plan.drift);
        let mut member = Self {
            id,
            disk: Disk::default(),
            board: Board::new(plan.machines[usize::from(id)], plan).map(Box::new),
            clock: Clock::new(0, rate, rng),
            life: 0,
            process: None,
            incarnation: Incarnation::FIRST,
            votes: true,
            fuse: None,
            fuse_at: None,
            wipe_next: false,
            stalled: [false; SERVICES],
            loaded: None,
            incoming: None,
            slot: 0,
            rotten: None,
            damage: Damage::None,
            paused_until: 0,
            slow_until: 0,
            full_until: 0,
            is_disk_stuck: false,
            polls_in_a_row: 0,
            turns_in_a_row: 0,
            transmits: (0, 0),
            is_patient: false,
        };
        member.init();
        member
    }
}
