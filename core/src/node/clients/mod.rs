//! Everything a node knows about clients, in every role.
//!
//! Clients are real Aeron clients: each sends on an ingress stream, which is received by an image
//! in a slot of lent memory, and each reads an egress stream, which is a publication in such a
//! slot. What is replicated about them is only the [`SessionTable`], which changes when a committed
//! record is applied. All else is this member's own and dies with its role: a new leader opens a
//! fresh egress stream to every open session and says that it leads.
//!
//! **Invariant:** a message leaves its client's window only when it is in the log, or refused by a
//! typed answer, or when it can never be executed (its session is gone, its leadership is over).
//! Whatever else is in the way (no room in the log, no reassembly slot, an egress that fills up)
//! leaves it in its stream's own window, which closes, and the client's `offer` says so.
//!
//! **Invariant:** nothing is appended to the log except by [`Clients::poll_admit`], and there only
//! while this member leads.

mod admit;
mod answer;
mod apply;
mod counters;
mod direct;
mod egress;
mod gather;
mod ingress;
mod link;
mod message;
mod resolve;
mod slots;
#[cfg(test)]
mod tests;
mod timeouts;
mod transmit;
mod unused;

use core::time::Duration;

use heapless::Vec;

pub use counters::{COUNTS, Count, Counters};
pub use egress::EgressError;
pub use resolve::{HOST_MAX, Resolve, ResolveId};
pub use transmit::ClientTransmit;
pub use unused::{StreamMemory, Unused};

use crate::broken::Broken;
use crate::lookup::Places;
use crate::node::clients::direct::Direct;
use crate::node::clients::ingress::{Ingress, Pool, STRANGERS_MAX, Stranger};
use crate::node::clients::link::Link;
use crate::node::clients::slots::Slots;
use crate::node::clients::transmit::Round;
use crate::prng::Prng;
use crate::session::SessionTable;
use crate::time::{Instant, Timestamp};
use crate::units::{MemberId, SessionId, Term};
use crate::wire::Reject as Malformed;

/// The most slots that are kept for answering clients that are refused.
const SPARE_MAX: usize = 32;

/// How many egress session ids are not chosen again for a while after they were used.
const RETIRED_MAX: usize = 32;

/// What a node's operator decides about clients. Times are far above a round trip.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClientsConfig {
    /// This member.
    pub member: MemberId,
    /// The longest datagram of egress, in bytes: `MTU_MIN` to `MTU_MAX`, a multiple of 32.
    pub mtu: usize,
    /// The longest frame of the log, in the same bounds.
    pub log_mtu: usize,
    /// The greatest length of the egress streams' Aeron term buffers: a power of two, 64 KiB to
    /// 1 GiB. They are no longer than four windows, or eight longest messages.
    pub egress_segment_length: u32,
    /// The longest message, session header (32 bytes) included. The reassembly memory is cut to
    /// this.
    pub message_max: usize,
    /// How many sessions may be open. Never as many as there are slots, of which some are kept for
    /// answering those who are refused: see [`Clients::session_limit`].
    pub sessions_max: usize,
    /// A session that is not heard from for this long is closed (Aeron: `SESSION_TIMEOUT`, 10 s).
    pub session_timeout: Duration,
    /// A session whose egress has waited this long without progress is closed. What a client that
    /// reads may leave unsaid does not count as waiting: see `Publication::is_unread`.
    pub egress_timeout: Duration,
    /// How long an attempt to connect may take (Aeron: 5 s).
    pub connect_timeout: Duration,
    /// Seeds stream session ids: different on every member and at every start.
    pub seed: u64,
}

impl ClientsConfig {
    /// Of who has no clients yet.
    const NOBODY: Self = Self {
        member: MemberId::FIRST,
        mtu: 0,
        log_mtu: 0,
        egress_segment_length: 0,
        message_max: 0,
        sessions_max: 0,
        session_timeout: Duration::ZERO,
        egress_timeout: Duration::ZERO,
        connect_timeout: Duration::ZERO,
        seed: 0,
    };
}

/// The memory that the node was lent, as far as clients need it. Each part is cut in equal slots.
#[derive(Debug)]
pub struct Memory<'a> {
    /// One slot for each ingress stream: see [`places`].
    pub ingress: &'a mut [u8],
    /// One slot for each egress stream: see [`places`].
    pub egress: &'a mut [u8],
    /// Slots of `message_max` bytes, shared by all ingress streams.
    pub reassembly: &'a mut [u8],
}

/// Who leads, as this member sees it now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum View {
    /// This member leads, and has applied its own term's first record.
    Leading,
    /// Another member leads.
    Following {
        /// Who.
        leader: MemberId,
        /// Its term.
        term: Term,
    },
    /// No leader is known, or this member leads but has not applied its own first record. Clients
    /// wait, their requests stay in their windows.
    Unknown,
}

/// What admission goes by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Admission<'a> {
    /// Who leads.
    pub view: View,
    /// The timestamp of records appended now: never below that of the record before.
    pub timestamp: Timestamp,
    /// Whether a snapshot could be begun now; why not, in words.
    pub snapshot: Result<(), &'static str>,
    /// All members' ingress endpoints, `0=host:port,1=host:port,...`, at most `ENDPOINTS_MAX`
    /// bytes.
    pub endpoints: &'a str,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Reject {
    /// It does not parse.
    Malformed(Malformed),
    /// It parses, and was not taken; counted under this name.
    Refused(Count),
}

/// See the module. `N` is the number of ingress streams, of egress streams, and of open sessions.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Clients<const N: usize> {
    config: ClientsConfig,
    prng: Prng,
    receiver_id: i64,
    /// Replicated: changes in `apply` only.
    table: SessionTable<N>,
    /// Set while this member leads and has applied its own term's first record.
    leading: Option<Term>,
    ingress: Slots<Ingress, N>,
    serial: u64,
    pool: Pool<N>,
    strangers: Vec<Stranger, STRANGERS_MAX>,
    links: Slots<Link, N>,
    /// Which link serves which open session, by ascending session: only while leading.
    served: Vec<(SessionId, usize), N>,
    retired: Vec<i32, RETIRED_MAX>,
    /// A session that may has asked for a snapshot.
    snapshot_asked: bool,
    admit_next: usize,
    direct: Direct,
    round: Round,
    /// How many slots are used: see [`places`].
    places: usize,
    /// The links that are not open and not leaving are among these.
    connecting: Places<N>,
    /// Those that are leaving are among these.
    leaving: Places<N>,
    /// Those whose address is to be asked for.
    unresolved: Places<N>,
    /// Before that time no ingress stream gives way to a new one.
    full_until: Instant,
    /// When time was last said to have passed.
    looked_at: Instant,
    touched: unused::Touched<N>,
    counters: Counters,
    /// A bug of ours, found here: the node halts.
    broken: Option<Broken>,
}

/// How many sessions a node of `capacity` slots admits: `sessions_max`, less if there are not
/// enough slots to keep one in eight, at least one and at most 32, for answering clients that are
/// refused.
pub const fn session_limit(capacity: usize, sessions_max: usize) -> usize {
    let spare = match capacity {
        0 | 1 => 0,
        _ => between(capacity / 8, 1, SPARE_MAX),
    };
    let most = capacity - spare;
    if sessions_max < most {
        sessions_max
    } else {
        most
    }
}

/// How many slots a node of `capacity` slots uses, so many being enough for its sessions and for
/// refusals: the memory that is lent for streams is cut in so many shares.
pub const fn places(capacity: usize, sessions_max: usize) -> usize {
    let limit = session_limit(capacity, sessions_max);
    let places = limit + between(limit / 7, 1, SPARE_MAX);
    if places < capacity { places } else { capacity }
}

const fn between(number: usize, least: usize, most: usize) -> usize {
    if number < least {
        least
    } else if number > most {
        most
    } else {
        number
    }
}

impl<const N: usize> Clients<N> {
    /// No client yet. `N` and the configuration must fit the memory that will be lent.
    pub fn new(config: ClientsConfig) -> Self {
        let mut clients = Self::vacant();
        clients.begin(config);
        clients
    }

    /// Nothing yet: it has no slots, and serves nobody before it begins.
    pub(super) const fn vacant() -> Self {
        Self {
            config: ClientsConfig::NOBODY,
            prng: Prng::new(0),
            receiver_id: 0,
            table: SessionTable::vacant(),
            leading: None,
            ingress: Slots::vacant(),
            serial: 0,
            pool: Pool::new(),
            strangers: Vec::new(),
            links: Slots::vacant(),
            served: Vec::new(),
            retired: Vec::new(),
            snapshot_asked: false,
            admit_next: 0,
            direct: Direct::new(),
            round: Round::FIRST,
            places: 0,
            connecting: Places::new(),
            leaving: Places::new(),
            unresolved: Places::new(),
            full_until: Instant::from_nanos(0),
            looked_at: Instant::from_nanos(0),
            touched: unused::Touched::new(),
            counters: Counters::new(),
            broken: None,
        }
    }

    /// The same as [`Self::new`], whatever it was, in its place: with many slots it is large.
    pub(super) fn begin(&mut self, new: ClientsConfig) {
        let Self {
            config,
            prng,
            receiver_id,
            table,
            leading,
            ingress,
            serial,
            pool,
            strangers,
            links,
            served,
            retired,
            snapshot_asked,
            admit_next,
            direct,
            round,
            places: used,
            connecting,
            leaving,
            unresolved,
            full_until,
            looked_at,
            touched,
            counters,
            broken,
        } = self;
        *config = new;
        *prng = Prng::new(config.seed);
        *receiver_id = prng.next() as i64;
        let salt = Prng::new(config.seed ^ 0x6c6f_6f6b_7570).next();
        *used = places(N, config.sessions_max);
        table.clear();
        ingress.begin(*used, salt);
        links.begin(*used, salt);
        (*leading, *serial, *pool) = (None, 0, Pool::new());
        strangers.clear();
        served.clear();
        retired.clear();
        (*snapshot_asked, *admit_next) = (false, 0);
        (*direct, *round) = (Direct::new(), Round::FIRST);
        for places in [connecting, leaving, unresolved] {
            *places = Places::new();
        }
        (*full_until, *looked_at) = (Instant::default(), Instant::default());
        *touched = unused::Touched::new();
        *counters = Counters::new();
        *broken = None;
    }

    /// The open sessions: replicated.
    pub fn sessions(&self) -> &SessionTable<N> {
        &self.table
    }

    /// How many sessions this member admits: see [`session_limit`].
    pub fn session_limit(&self) -> usize {
        session_limit(N, self.config.sessions_max)
    }

    /// How many sessions this member serves over a connected egress stream; 0 unless it leads.
    pub fn sessions_connected(&self) -> usize {
        let served = self.served.iter();
        served
            .filter(|(_, slot)| self.links.get(*slot).is_some_and(Link::is_connected))
            .count()
    }

    /// How many ingress streams are being received.
    pub fn ingress_streams(&self) -> usize {
        self.ingress.len()
    }

    /// How many slots of the reassembly memory are taken.
    pub fn reassemblies(&self) -> usize {
        self.pool.taken()
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The term that this member leads in, once it serves clients.
    pub fn leading(&self) -> Option<Term> {
        self.leading
    }

    /// The bug of ours that was found here, if one was.
    #[inline]
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Whether a session has asked for a snapshot since this was last called.
    pub fn take_snapshot_asked(&mut self) -> bool {
        core::mem::take(&mut self.snapshot_asked)
    }

    fn count(&mut self, count: Count) {
        self.counters.count(count);
    }

    fn count_reject(&mut self, reject: Reject) {
        match reject {
            Reject::Malformed(malformed) => self.counters.count_malformed(malformed),
            Reject::Refused(count) => self.counters.count(count),
        }
    }
}
