//! One service on this member: how far it has come, and what of the replicated state is its own.
//!
//! Each service comes on at its own pace, so what its callbacks can observe (sessions, timers, the
//! room for its messages) changes at *its* position, and is in its section of a snapshot. What the
//! consensus module knows may be ahead of that.

mod execute;
mod outgoing;
mod state;

pub(super) use execute::{At, Audience, Effects, Record};

use heapless::Vec;

use crate::broken::Broken;
use crate::planted::Planted;
use crate::service::{CloseReason, Role, Service};
use crate::snapshot::Sums;
use crate::time::{Instant, Timestamp};
use crate::timer::{Timer, Timers};
use crate::units::{Position, ServiceId, SessionId};
use outgoing::{Ahead, Outgoing};

/// How many fired timers of one service may be on their way through the log at once: what a jump of
/// the wall clock fires, it fires at the rate at which they are committed.
const FIRED_MAX: usize = 16;

/// One part in so many of a service's memory is for its timers, the rest for its messages.
const TIMERS_SHARE: usize = 4;

/// A session as one service sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct OpenSession {
    id: SessionId,
    /// Of the connect request: an equal one does not open a second session.
    request: u64,
    /// Set once this service has asked for its end.
    closing: Option<CloseReason>,
}

/// Where a service stands with the snapshot that is being taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Taking {
    /// It has none to write.
    #[default]
    No,
    /// It is at the snapshot's position, and goes no further until it has begun to write.
    Due,
    /// It is writing, and goes on executing.
    Writing(Sums),
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Host<const N: usize> {
    pub id: ServiceId,
    /// The end of the last message that it has executed.
    pub position: Position,
    /// The digest of the service's state, and where that was taken: after each call that executes,
    /// at `position`.
    pub digest: u64,
    pub digest_at: Position,
    /// Whether the service took more when last asked.
    pub ready: bool,
    /// When it last executed something, or was level with what is committed.
    pub moved: Instant,
    pub taking: Taking,
    /// When the first timer that is not on its way is due, as far as is known.
    pub next_due: Option<Timestamp>,
    /// A timer is due, and the log had no room for its event when last tried.
    pub blocked: bool,
    time: Timestamp,
    sessions: Vec<OpenSession, N>,
    timers: Timers,
    outgoing: Outgoing,
    started: bool,
    role_told: Role,
    /// What this member has appended as a leader and not seen committed: gone with its leadership.
    ahead: Ahead,
    fired: Vec<u64, FIRED_MAX>,
}

/// A service's share of the lent memory, in two parts.
pub(super) struct HostMemory<'m> {
    pub outgoing: &'m mut [u8],
    pub timers: &'m mut [u8],
}

impl<'m> HostMemory<'m> {
    /// The share of service `slot` of `count`: equal ones, a quarter of each for timers.
    #[inline]
    pub fn of(memory: &'m mut [u8], slot: usize, count: usize) -> Self {
        if count == 1 {
            return Self::all(memory);
        }
        let len = memory.len() / count.max(1);
        let share = memory.get_mut(slot * len..(slot + 1) * len);
        Self::all(share.unwrap_or_default())
    }

    #[inline]
    fn all(share: &'m mut [u8]) -> Self {
        let (timers, outgoing) = share.split_at_mut(share.len() / TIMERS_SHARE);
        Self { outgoing, timers }
    }
}

impl<const N: usize> Host<N> {
    pub const fn new(id: ServiceId, now: Instant) -> Self {
        Self {
            id,
            position: Position::ZERO,
            digest: 0,
            digest_at: Position::ZERO,
            ready: true,
            moved: now,
            taking: Taking::No,
            next_due: None,
            blocked: false,
            time: Timestamp(0),
            sessions: Vec::new(),
            timers: Timers::new(),
            outgoing: Outgoing::new(0),
            started: false,
            role_told: Role::Follower,
            ahead: Outgoing::new(0).ahead(),
            fired: Vec::new(),
        }
    }

    /// Asks whether the service takes what follows. Before a snapshot has begun it is not asked,
    /// and gets nothing: one that is asked again may take it that there is none to begin here.
    #[inline]
    pub fn ask(&mut self, service: &dyn Service) {
        let goes_on = Planted::SnapshotLaterThanItsAction.is_active();
        let is_due = self.taking == Taking::Due && !goes_on;
        self.ready = !is_due && service.ready(self.position);
    }

    /// The sessions whose end this service has asked for, and why.
    pub fn closings(&self) -> impl Iterator<Item = (SessionId, CloseReason)> {
        let closing = |s: &OpenSession| Some((s.id, s.closing?));
        self.sessions.iter().filter_map(closing)
    }

    /// A leadership of this member begins, or ends: nothing of its own is on its way.
    pub fn forget_ahead(&mut self) {
        self.ahead = self.outgoing.ahead();
        self.fired.clear();
    }

    /// Whether a leader has something of this service's to append: a timer that is due, or a
    /// message.
    pub fn owes(&self, now: Timestamp) -> bool {
        self.next_due.is_some_and(|due| due <= now) || self.queued() > 0
    }

    /// The first timer that is not on its way through the log, if there is room for another one.
    pub fn next_timer(&self, memory: &HostMemory<'_>) -> Option<Timer> {
        if self.timers.is_empty() || self.fired.is_full() {
            return None;
        }
        let mut timers = self.timers.iter(memory.timers);
        timers.find(|timer| !self.fired.contains(&timer.arming))
    }

    /// An event for that timer, asked for while there was room, has been appended.
    pub fn note_fired(&mut self, timer: &Timer) -> Result<(), Broken> {
        let noted = self.fired.push(timer.arming);
        noted.map_err(|_| Broken::Fired)
    }

    /// The next message of this service that is to be appended, and its number.
    pub fn next_outgoing<'m>(&self, memory: &'m HostMemory<'_>) -> Option<(u64, &'m [u8])> {
        self.outgoing.next(memory.outgoing, &self.ahead)
    }

    /// That message, `len` bytes long, has been appended.
    pub fn note_appended(&mut self, number: u64, len: usize) {
        self.outgoing.appended(&mut self.ahead, number, len);
    }

    /// How many bytes of messages this member has not appended: a matter of who leads.
    pub fn queued(&self) -> usize {
        self.outgoing.queued(&self.ahead)
    }

    /// Whether it has timers, or messages of its own that this member has not appended.
    pub fn has_own(&self) -> bool {
        !self.timers.is_empty() || self.next_due.is_some() || self.queued() > 0
    }

    /// Has it executed all up to `level`, and was it told and asked all that follows from that?
    pub fn is_at_rest(&self, level: Position, role: Role) -> bool {
        let is_level = self.position == level && self.digest_at == level;
        self.is_told(role) && is_level && self.taking == Taking::No
    }

    /// Was it told of its start, and of this role?
    pub fn is_told(&self, role: Role) -> bool {
        self.started && self.role_told == role
    }

    /// Is this session open, as this service sees it?
    #[inline(always)]
    pub fn knows(&self, id: SessionId) -> bool {
        self.index_of(id).is_some()
    }

    #[inline]
    fn index_of(&self, id: SessionId) -> Option<usize> {
        self.sessions.binary_search_by_key(&id, |s| s.id).ok()
    }
}
