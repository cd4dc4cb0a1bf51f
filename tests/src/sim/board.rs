//! A member that is a board: the superloop and the storage of `coracle_embedded`, over a disk or a
//! flash chip whose power goes in the middle of a call. What it has promised is looked for in the
//! bytes that no power cut can take away, at places that are worked out here once more.

use std::borrow::{Borrow, BorrowMut};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use coracle_core::log::{Log, NodeState, Window};
use coracle_core::node::{Door as CoreDoor, Node, Status};
use coracle_core::prng::Prng;
use coracle_core::service::Role;
use coracle_core::session::AllowAll;
use coracle_core::snapshot::{BEGIN_LENGTH, Begin};
use coracle_core::time::Now;
use coracle_core::units::{Position, Section, ServiceId};
use coracle_devices::{Device, Handle, Kind, UNIT};
use coracle_embedded::{Clock, Layout, Network, Storage, Store, Superloop};

use super::board_service::Shared;
use super::clock::Nanos;
use super::disk::SECTOR;
use super::ghost::GhostLog;
use super::member::{SEGMENT, SESSIONS};
use super::net::{Datagram, Door, peer_at};
use super::plan::{Machine, Plan};
use super::services::History;
use super::unwell::Unwell;

/// Of one snapshot, in units: a quarter is for the cluster's part.
const SNAPSHOT_UNITS: usize = 12;
const RECORD_UNITS: usize = 3;
const STATE_UNITS: usize = 2;
/// A disk needs none: a few bytes are left over there.
const SPARE_UNITS: usize = 2;
/// A board has one service: so there are two sections.
pub const SECTIONS: usize = 2;

/// The real thing.
pub type Loop = Superloop<Ports, Handle, Shared, AllowAll, Vec<u8>, SESSIONS, Watched>;

/// A board's clock and sockets.
#[derive(Clone, Debug)]
pub struct Ports {
    /// What the clock shows during a turn.
    pub now: Now,
    /// The sockets' receive buffers.
    pub inbox: VecDeque<Datagram>,
    /// What was taken from there in this turn.
    pub taken: Vec<Datagram>,
    /// What was sent in this turn.
    pub sent: Vec<(Door, SocketAddr, Rc<[u8]>)>,
}

impl Ports {
    /// At a start.
    pub const fn new(now: Now) -> Self {
        Self {
            now,
            inbox: VecDeque::new(),
            taken: Vec::new(),
            sent: Vec::new(),
        }
    }
}

impl Clock for Ports {
    fn now(&mut self) -> Now {
        self.now
    }
}

impl Network for Ports {
    fn receive(&mut self, into: &mut [u8]) -> Option<(CoreDoor, SocketAddr, usize)> {
        loop {
            let datagram = self.inbox.pop_front()?;
            let (_, door) = peer_at(datagram.to)?;
            let door = match door {
                Door::Member => CoreDoor::Member,
                Door::Client => CoreDoor::Client,
            };
            let len = datagram.bytes.len();
            if let Some(room) = into.get_mut(..len) {
                room.copy_from_slice(&datagram.bytes);
                let from = datagram.from;
                self.taken.push(datagram);
                return Some((door, from, len));
            }
        }
    }

    fn send(&mut self, door: CoreDoor, to: SocketAddr, datagram: &[u8]) {
        let door = match door {
            CoreDoor::Member => Door::Member,
            CoreDoor::Client => Door::Client,
        };
        self.sent.push((door, to, Rc::from(datagram)));
    }
}

/// A leadership as it stood in the middle of a turn: its term, and what was committed.
pub type Moment = (u32, u64);

/// A node of which the leaderships within a turn are noted: it may commit as the leader and be none
/// when the turn ends.
#[derive(Debug)]
pub struct Watched {
    node: Box<Node<SESSIONS>>,
    moments: Rc<RefCell<Vec<Moment>>>,
}

impl Watched {
    /// A node that begins, and where its moments are noted.
    pub fn begin() -> (Self, Rc<RefCell<Vec<Moment>>>) {
        let moments = Rc::new(RefCell::new(Vec::new()));
        let watched = Self {
            node: Box::new(Node::vacant()),
            moments: moments.clone(),
        };
        (watched, moments)
    }
}

impl Borrow<Node<SESSIONS>> for Watched {
    fn borrow(&self) -> &Node<SESSIONS> {
        &self.node
    }
}

impl BorrowMut<Node<SESSIONS>> for Watched {
    /// The call before this one has ended.
    fn borrow_mut(&mut self) -> &mut Node<SESSIONS> {
        if self.node.role() == Role::Leader {
            let moment = (self.node.joined().get(), self.node.commit().get());
            let mut moments = RefCell::borrow_mut(&self.moments);
            if moments.last() != Some(&moment) {
                moments.push(moment);
            }
        }
        &mut self.node
    }
}

/// A superloop that runs: everything that a power cut ends.
pub struct Running {
    /// See [`Loop`].
    pub superloop: Loop,
    /// Its service.
    pub service: Rc<RefCell<History>>,
    /// How it led in the last turn.
    pub moments: Rc<RefCell<Vec<Moment>>>,
    /// What it was told of others' health, and did about its own.
    pub unwell: Unwell,
    /// When it next turns.
    pub turn_at: Option<Nanos>,
    /// Its node has another seed each time it begins anew.
    pub seed: u64,
    /// Where its log started, and its newest snapshot, after the last turn.
    pub known: (u64, Option<Position>),
    /// How many calls its device had had when its term and vote were looked for.
    pub looked: u64,
    /// Up to here its log was found on the medium.
    pub verified: u64,
}

impl Running {
    /// What it shows.
    pub fn status(&self) -> Status {
        self.superloop.node().status()
    }
}

/// One board.
pub struct Board {
    /// What it stores on: it outlives whatever runs.
    pub device: Handle,
    layout: Layout,
    segments: u64,
    spares: usize,
    /// The superloop, most of the time.
    pub running: Option<Running>,
    /// While none runs: where the log starts, and the device as a start would leave it.
    found: Option<(u64, Device)>,
}

impl Board {
    /// A board as planned; `None` for a machine with files. It is not formatted.
    pub fn new(machine: Machine, plan: &Plan) -> Option<Self> {
        let (kind, spares) = match machine {
            Machine::Files => return None,
            Machine::Disk => (Kind::Disk, 0),
            Machine::Flash => (Kind::Flash, SPARE_UNITS),
        };
        let segments = plan.log_max / u64::from(SEGMENT);
        let units = 2 * SNAPSHOT_UNITS + SPARE_UNITS + RECORD_UNITS + STATE_UNITS;
        let len = plan.log_max as usize + units * UNIT;
        Some(Self {
            device: Handle::new(Device::new(kind, len)),
            layout: Layout {
                segment_length: SEGMENT,
                snapshot_max: (SNAPSHOT_UNITS * UNIT) as u32,
                record_units: RECORD_UNITS as u32,
            },
            segments,
            spares,
            running: None,
            found: None,
        })
    }

    /// What a member's first start needs. Whatever was on the device stays there where it is not
    /// written over.
    pub fn format(&mut self, state: &NodeState) {
        let formatted = Store::format_as(self.device.clone(), &self.layout, state);
        assert!(formatted.is_ok(), "it is large enough, and its power is on");
        self.found = None;
    }

    /// It starts.
    pub fn forget(&mut self) {
        self.found = None;
    }

    /// It died; with `power`, what was not flushed is at stake.
    pub fn lose(&mut self, power: bool, seed: u64) {
        let mut prng = Prng::new(seed);
        self.device.with(|device| match power {
            true => device.start_again(&mut prng),
            false => device.reset(&mut prng),
        });
        self.find();
    }

    /// Nothing runs any more.
    pub fn end(&mut self, power: bool, seed: u64) {
        self.running = None;
        self.lose(power, seed);
    }

    /// Looks at what a start would find.
    pub fn find(&mut self) {
        let safe = self.device.with(|device| device.safe());
        self.found = match Store::open(safe, SEGMENT) {
            Ok((store, _)) => Some((store.start().get(), store.into_device())),
            // The start says why.
            Err(_) => None,
        };
    }

    fn with_durable<R>(&self, what: impl FnOnce(&[u8]) -> R) -> R {
        match &self.found {
            Some((_, device)) => what(device.durable()),
            None => self.device.with(|device| what(device.durable())),
        }
    }

    /// Where the log starts.
    pub fn log_start(&self) -> u64 {
        match (&self.running, &self.found) {
            (Some(running), _) => running.known.0,
            (None, Some((start, _))) => *start,
            (None, None) => 0,
        }
    }

    /// Where the log starts by what no power cut can take away.
    pub fn start_on_medium(&self) -> Option<u64> {
        let safe = self.device.with(|device| device.safe());
        let (store, _) = Store::open(safe, SEGMENT).ok()?;
        Some(store.start().get())
    }

    fn place(&self, at: u64) -> usize {
        let length = u64::from(SEGMENT);
        (at / length % self.segments * length + at % length) as usize
    }

    /// Whether no power cut can take away these bytes of the log, which are in one segment.
    pub fn holds(&self, at: u64, bytes: &[u8]) -> bool {
        let place = self.place(at);
        self.with_durable(|all| all[place..place + bytes.len()] == *bytes)
    }

    /// Bytes of the log rot, which are in one segment.
    pub fn rot(&mut self, at: u64, len: usize) {
        let place = self.place(at);
        self.device.with(|device| device.rot(place, len));
        if let Some((_, device)) = &mut self.found {
            device.rot(place, len);
        }
    }

    /// One byte of the device rots.
    pub fn rot_at(&mut self, at: usize) {
        self.device.with(|device| device.rot(at, 1));
        if let Some((_, device)) = &mut self.found {
            device.rot(at, 1);
        }
    }

    /// Term and vote on the medium.
    pub fn state(&self) -> Option<NodeState> {
        self.with_durable(|all| {
            let states = &all[all.len() - STATE_UNITS * UNIT..];
            let sectors = states.as_chunks::<SECTOR>().0.iter();
            let newest = sectors.filter_map(|sector| NodeState::decode(sector).ok());
            newest.max_by_key(|(seq, _)| *seq).map(|(_, state)| state)
        })
    }

    /// Takes over the log up to `end`, from its window and from the medium.
    ///
    /// # Errors
    /// Where there is no frame.
    pub fn follow(
        &self,
        mut log: GhostLog,
        window: &Window<Vec<u8>>,
        end: u64,
    ) -> Result<GhostLog, u64> {
        let mut bytes = vec![0; SEGMENT as usize];
        while log.end() < end {
            let from = log.end();
            let run = if from >= window.start().get() {
                window.read(Position::new(from))
            } else {
                let len = (u64::from(SEGMENT) - from % u64::from(SEGMENT)) as usize;
                let place = self.place(from);
                self.with_durable(|all| bytes[..len].copy_from_slice(&all[place..place + len]));
                &bytes[..len]
            };
            let mut at = 0;
            while log.end() < end && at < run.len() {
                let Some(row) = log.push(&run[at..]) else {
                    break;
                };
                at += (row.end - row.start) as usize;
            }
            if at == 0 {
                return Err(from);
            }
        }
        Ok(log)
    }

    /// A section of the set of `position`, if no power cut can take that away.
    pub fn section(&self, position: u64, index: usize) -> Option<Vec<u8>> {
        let safe = match &self.found {
            Some((_, device)) => device.clone(),
            None => self.device.with(|device| device.safe()),
        };
        let (mut store, _) = Store::open(safe, SEGMENT).ok()?;
        let section = match index.checked_sub(1) {
            None => Section::Consensus,
            Some(service) => Section::Service(ServiceId::new(service as u8)?),
        };
        let mut bytes = vec![0; SNAPSHOT_UNITS * UNIT];
        let read = store.read_snapshot(Position::new(position), section, 0, &mut bytes);
        bytes.truncate(read.ok()??);
        Some(bytes)
    }

    /// Where the sections of one of the two places are.
    fn sections_at(&self, place: usize) -> [usize; SECTIONS] {
        let behind = STATE_UNITS + RECORD_UNITS + self.spares + (1 + place) * SNAPSHOT_UNITS;
        let len = self.device.capacity() as usize;
        let base = len - behind * UNIT;
        [base, base + SNAPSHOT_UNITS / 4 * UNIT]
    }

    /// The complete sets, newest first: their positions, and where each section is.
    pub fn sets(&self) -> Vec<(u64, [(usize, usize); SECTIONS])> {
        let mut sets = Vec::new();
        for place in 0..2 {
            let at = self.sections_at(place);
            let begin = self.with_durable(|all| {
                let bytes = all[at[0]..].first_chunk::<BEGIN_LENGTH>()?;
                Begin::decode(bytes).ok()
            });
            let Some(position) = begin.map(|begin| begin.position.get()) else {
                continue;
            };
            let lengths = [0, 1].map(|index| self.section(position, index).map(|s| s.len()));
            if let [Some(own), Some(service)] = lengths {
                sets.push((position, [(at[0], own), (at[1], service)]));
            }
        }
        sets.sort_by_key(|(position, _)| std::cmp::Reverse(*position));
        sets
    }
}
