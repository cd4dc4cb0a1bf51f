//! One member of the cluster: doors only.
//!
//! Datagrams are taken apart in `member_in` (members) and `clients` (clients), what is owed is made
//! in `transmit`, committed frames are executed in `apply`, and `join` decides what of this
//! member's log survives a new leader. Who leads is `raft`'s business, bytes are `log`'s; only this
//! room knows both.
//!
//! **Invariant:** the node calls nothing but the memory it is lent and the service, and keeps no
//! reference to either. **Invariant:** nothing is queued for sending: all that leaves is derived
//! from positions when it is asked for.

mod annals;
mod apply;
mod beginning;
mod catch_up;
mod checkpoint;
pub mod clients;
mod config;
mod container;
mod dues;
mod frames;
mod handle;
mod health;
mod host;
mod install;
mod join;
mod member_in;
mod mending;
mod originate;
mod parts;
mod plain;
mod repair;
mod report;
mod retain;
mod roster;
mod runway;
mod services;
mod settings;
mod snapshot;
mod sources;
#[cfg(test)]
mod tests;
mod transmit;

use core::net::SocketAddr;
use core::time::Duration;

pub use config::{App, Config, ConfigError, Lent, MemberAddress, SessionTiming, SnapshotPolicy};
pub use container::{Container, ContainerLent, Ran};
pub use install::{Install, SnapshotId};
pub use repair::Repair;
pub use report::{Counters, Event, Halt, ServiceStatus, Status};
pub use snapshot::{Snapshot, SnapshotRefusal, SnapshotStep};
pub use sources::{Consumer, ReadError, Recall};
pub use transmit::{CONTROL_MAX, Transmit};

use crate::broken::Broken;
use crate::limits::ENDPOINTS_MAX;
use crate::log::{
    AppendError, Gaps, HISTORY_TERMS, History, Log, NodeState, Recovered, Roster, append,
    encoded_len,
};
use crate::raft::{Ballot, Raft, State, TransferError};
use crate::service::Role;
use crate::time::{Instant, Now, Timestamp};
use crate::units::{Mark, MemberId, Position, Tail, Term};
use crate::wire::cluster::{NewLeadershipTermEvent, TimeUnit};
use crate::wire::member::{HistorySlice, Sender, TermBase};
use crate::wire::sbe::HEADER;
use apply::Applier;
use checkpoint::Checkpoints;
use clients::Clients;
use dues::{Due, Dues};
use health::Health;
use host::Host;
use install::{Receiving, Serving};
use mending::Mending;
use repair::Healing;
use roster::Heard;
use runway::Runway;
use settings::Shared;
use snapshot::Snapshots;
use sources::Sources;

/// How many ranges of received-ahead frames are remembered.
pub const GAPS_MAX: usize = 32;
/// How many events are kept for who asks late.
pub const EVENTS_MAX: usize = 32;
/// Room for a snapshot's action, in bytes.
const SNAPSHOT_ROOM: usize = 64;
/// Room that clients' messages leave for the first records of coming terms, in bytes.
pub(crate) const RESERVE: u64 = 2048;

/// Which of a node's two sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Door {
    /// Other members.
    Member,
    /// Clients.
    Client,
}

/// Why a datagram was not taken; it has been counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Reject {
    /// Malformed, or of an unknown type or version.
    Wire(crate::wire::Reject),
    /// Member traffic from an address that is not the member's.
    Unlisted,
    /// A member message of another cluster, or that names another sender than its address.
    Foreign,
    /// Of a term that does not count any more, or not yet.
    Stale,
    /// Log frames that could not be placed: no room, no history yet, corrupt, or here already.
    Frames,
    /// A request to send again that does not start at a frame of ours.
    BadNak,
    /// Client traffic that was refused; see the counters of `clients`.
    Client(clients::Reject),
    /// The node has halted.
    Halted,
}

/// Why a node wants to be woken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Deadline {
    /// An election or a heartbeat.
    Raft,
    /// A repeated request for log bytes or history.
    Repair,
    /// A client's stream or session.
    Clients,
    /// A timer of a service.
    Timers,
}

/// A request to the joined leader that is repeated until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Asking {
    from: Position,
    to: Position,
    next: Instant,
}

/// One member. `N` is how many client sessions, ingress streams and egress streams it has room for,
/// `S` how many services. For each of `N` it is about 3 KiB long: where there
/// is little stack, make it [`Node::vacant`] in a `static`, and let it [begin](Node::begin) there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node<const N: usize, const S: usize = 1> {
    config: Config,
    sender: Sender,
    votes: bool,
    raft: Raft,
    history: History<HISTORY_TERMS>,
    gaps: Gaps<GAPS_MAX>,
    /// What is known of the joined leader's history.
    known: HistorySlice,
    /// The history that is asked for, and of which leader and term.
    history_wanted: Option<(MemberId, Term, Asking)>,
    /// A follower's question that only the log itself can answer.
    annals: Option<annals::Question>,
    /// The hole that is asked for again.
    hole: Option<Asking>,
    /// How far the leader's log goes, as far as is known.
    leader_end: Position,
    clients: Clients<N>,
    endpoints: heapless::String<ENDPOINTS_MAX>,
    applier: Applier,
    hosts: heapless::Vec<Host<N>, S>,
    snapshots: Snapshots<S>,
    checkpoints: Checkpoints<S>,
    health: Health,
    shared: Shared,
    /// The snapshot that this member is sent.
    receiving: Option<Receiving>,
    /// The snapshot that this leader sends.
    serving: Option<Serving>,
    /// The damage in this member's own log.
    healing: Option<Healing>,
    /// The log bytes that a damaged member is sent.
    mending: Option<Mending>,
    /// The oldest byte of the log, and who wrote it.
    start: TermBase,
    sources: Sources,
    /// The clocks, as they were last seen.
    clock: Now,
    /// Whose votes and marks count.
    roster: Roster,
    heard: Heard,
    status_replies: heapless::Vec<(SocketAddr, u64), 8>,
    events: heapless::Vec<Event, EVENTS_MAX>,
    counters: Counters,
    halted: Option<Halt>,
    role_seen: Role,
    dues: Dues,
    runway: Runway,
    sweep: transmit::Sweep,
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// A member that starts, or starts again, with what its storage holds: [`Self::vacant`] and
    /// [`Self::begin`] in one, for who has a stack with room for two.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(
        config: Config,
        state: NodeState,
        recovered: &Recovered,
        now: Now,
    ) -> Result<Self, ConfigError> {
        let mut node = Self::vacant();
        node.begin(config, state, recovered, now)?;
        Ok(node)
    }

    /// Term and vote that have reached the disk. Older news is ignored.
    pub fn handle_persisted(&mut self, state: NodeState) {
        self.stir();
        self.raft.handle_persisted(Ballot {
            term: state.term,
            vote: state.vote,
        });
        self.health.handle_persisted(state.quarantined);
        if state.roster.at >= self.heard.persisted {
            self.heard.persisted = state.roster.at;
            self.heard.persisted_vote = state.votes;
            self.raft.votes |= state.votes && self.votes;
        }
    }

    /// The log is on disk up to this mark, taken before the flush began. Older news is ignored.
    pub fn handle_durable(&mut self, mark: Mark) {
        let before = self.raft.commit();
        self.raft.handle_durable(mark);
        // To its followers a leader's disk is nothing but what is committed by it.
        if self.raft.commit() > before {
            self.dues.add(Due::SERVICES.and(Due::SAY));
        } else if !matches!(self.raft.state(), State::Leader(_)) {
            self.dues.add(Due::SAY);
        }
    }

    /// Term and vote that must reach the disk: until then this member neither votes nor joins. And
    /// whether it is quarantined.
    #[inline]
    pub fn poll_persist(&self) -> Option<NodeState> {
        if !self.dues.has(Due::PERSIST) {
            debug_assert_eq!(self.unpersisted(), None);
            return None;
        }
        self.unpersisted()
    }

    fn unpersisted(&self) -> Option<NodeState> {
        let heard = &self.heard;
        let is_old = (heard.persisted, heard.persisted_vote) == (self.roster.at, self.votes);
        if is_old && self.health.is_persisted() && self.raft.is_persisted() {
            return None;
        }
        let ballot = self.raft.poll_persist();
        let ballot = ballot.unwrap_or_else(|| self.raft.ballot());
        Some(NodeState {
            cluster: self.sender.cluster,
            member: self.sender.member,
            incarnation: self.sender.incarnation,
            term: ballot.term,
            vote: ballot.vote,
            votes: self.votes,
            quarantined: self.health.quarantined(),
            roster: self.roster,
        })
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            None
        } else {
            Some(self.events.remove(0))
        }
    }

    /// When the node wants `handle_timeout`, and why. In the past if it is overdue; never, once it
    /// has halted.
    pub fn poll_timeout(&self) -> Option<(Instant, Deadline)> {
        if self.halted.is_some() {
            return None;
        }
        let raft = self.raft.poll_timeout().map(|at| (at, Deadline::Raft));
        let asked = self.history_wanted.map(|(_, _, asking)| asking.next);
        let repair = [asked, self.hole.map(|h| h.next)]
            .into_iter()
            .chain([self.install_deadline(), self.repair_deadline()])
            .flatten()
            .min();
        let clients = self
            .clients
            .poll_timeout()
            .map(|at| (at, Deadline::Clients));
        let repair = repair.map(|at| (at, Deadline::Repair));
        let timers = self.timer_deadline().map(|at| (at, Deadline::Timers));
        [raft, repair, clients, timers]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// The leadership that this member has joined; zero if none. The term to label a flush with.
    pub fn joined(&self) -> Term {
        self.raft.joined().unwrap_or(Term::ZERO)
    }

    /// What is committed, as far as this member knows.
    pub fn commit(&self) -> Position {
        self.raft.commit()
    }

    /// What all services have executed: whole messages.
    pub fn applied(&self) -> Position {
        self.last_service().unwrap_or(self.applier.level)
    }

    /// How far the service has come that is behind all others. Nearly always there is but one, and
    /// this is asked in every turn.
    #[inline]
    fn last_service(&self) -> Option<Position> {
        if S == 1 {
            return self.hosts.first().map(|host| host.position);
        }
        self.hosts.iter().map(|host| host.position).min()
    }

    /// How far each service has come, in their order.
    pub fn services(&self) -> impl Iterator<Item = ServiceStatus> {
        self.hosts.iter().map(|host| ServiceStatus {
            service: host.id,
            applied: host.position,
            digest: host.digest,
        })
    }

    /// One service's digest, or of several those of all.
    fn digest(&self) -> u64 {
        let mut digests = self.hosts.iter().map(|host| host.digest);
        let first = digests.next().unwrap_or_default();
        digests.fold(first, |all, one| {
            (all.rotate_left(7) ^ one).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// This member's role.
    pub fn role(&self) -> Role {
        self.raft.role()
    }

    /// This member's consensus state, for status, tests and invariants.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Which term wrote what of this member's log.
    pub fn history(&self) -> &History<HISTORY_TERMS> {
        &self.history
    }

    /// What it knows of clients.
    pub fn clients(&self) -> &Clients<N> {
        &self.clients
    }

    /// What it was told at construction.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why it refuses to go on, if it does: then the driver stops it.
    pub fn halted(&self) -> Option<Halt> {
        self.halted
    }

    /// Closes gracefully: a leader hands over first. Poll transmits until `is_resigned`.
    pub fn resign(&mut self, now: Now) {
        self.stir();
        self.raft.resign(now.instant);
    }

    /// Whether a resigning node has nothing left to hand over.
    pub fn is_resigned(&self) -> bool {
        self.raft.is_resigned()
    }

    /// Hands leadership to another member.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn transfer(&mut self, now: Now, target: MemberId) -> Result<(), TransferError> {
        self.stir();
        self.raft.transfer(now.instant, target)
    }

    /// A member's address has changed (a name resolved anew).
    pub fn set_member_address(&mut self, member: MemberId, address: SocketAddr) {
        if let Some(Some(known)) = self.config.members.get_mut(member.slot()) {
            known.member = address;
        }
        self.stir();
    }

    fn event(&mut self, event: Event) {
        if self.events.is_full() {
            self.events.remove(0);
        }
        // There is room now: an event cannot be refused.
        let _kept = self.events.push(event).is_ok();
    }

    fn halt(&mut self, halt: Halt) {
        self.stir();
        if self.halted.is_none() {
            self.halted = Some(halt);
            self.event(Event::Halted(halt));
        }
    }

    /// Halts if a rule of ours was found broken.
    #[inline]
    fn halt_if(&mut self, broken: Option<Broken>) {
        if let Some(broken) = broken {
            self.halt(Halt::Broken(broken));
        }
    }

    /// A record was not appended: no matter if there was no room for it.
    #[cold]
    fn refused(&mut self, error: AppendError) {
        if let AppendError::Broken(broken) = error {
            self.halt(Halt::Broken(broken));
        }
    }

    /// This leader has appended frames of `term`, from `from` on: as for a follower, but that they
    /// are to be sent.
    fn grown(&mut self, term: Term, from: Position, end: Position) {
        self.dues.add(Due::FRAMES);
        self.lengthened(term, from, end);
    }

    /// The log has grown from `from` by frames of `term`. Halts if that does not go on from what is
    /// known of it: who does not know with which term its log ends would compare itself with
    /// candidates by a wrong one.
    #[inline]
    fn lengthened(&mut self, term: Term, from: Position, end: Position) {
        if self.history.push(term, from, end) {
            self.raft.set_tail(Tail { term, end });
            if self.raft.commit() > self.applier.position {
                self.dues.add(Due::SERVICES);
            }
        } else {
            self.does_not_go_on();
        }
    }

    #[cold]
    fn does_not_go_on(&mut self) {
        self.halt(Halt::Broken(Broken::History));
    }

    /// Notices what has changed in `raft`: a new leader opens its term, an old one drops what it
    /// knew.
    #[inline]
    fn settle<L: Log>(&mut self, now: Now, log: &mut L) {
        if self.checkpoints.news {
            self.look_after(now);
        }
        debug_assert!(self.raft.has_turned || self.raft.role() == self.role_seen);
        if self.raft.has_turned || self.hole.is_some() || self.history_wanted.is_some() {
            self.settle_anew(now, log);
        }
    }

    #[inline(never)]
    fn settle_anew<L: Log>(&mut self, now: Now, log: &mut L) {
        self.stir();
        if self.raft.owes_barrier() {
            self.open_term(now, log);
        }
        if self.hole.is_some() && !matches!(self.raft.state(), State::Follower(_)) {
            self.hole = None;
        }
        if let Some((_, term, _)) = self.history_wanted
            && term != self.raft.term()
        {
            self.history_wanted = None;
        }
        let role = self.raft.role();
        if role != self.role_seen {
            if self.role_seen == Role::Leader {
                self.clients.step_down(now.instant);
                self.snapshots.asked = false;
                for host in &mut self.hosts {
                    host.forget_ahead();
                }
            }
            if role == Role::Leader {
                // What it was sent is needed no more: all that is committed is here.
                self.receiving = None;
            }
            if role == Role::Candidate {
                self.counters.elections += 1;
            }
            self.role_seen = role;
            self.forget_heard();
            self.sources.forget_catchup();
            self.event(Event::RoleChanged {
                role,
                term: self.raft.term(),
            });
        }
        self.raft.has_turned = self.raft.owes_barrier();
    }

    /// Raft 8: a new leader commits a record of its own term first (Aeron:
    /// `NewLeadershipTermEvent`).
    fn open_term<L: Log>(&mut self, now: Now, log: &mut L) {
        self.forget_repair();
        let (term, base, mtu) = (self.raft.term(), log.end(), self.config.mtu);
        let len = HEADER + usize::from(NewLeadershipTermEvent::BLOCK);
        let taken = encoded_len(base, len, mtu, log.segment_length()).unwrap_or(0);
        let end = base.plus(taken);
        let record = NewLeadershipTermEvent {
            term,
            position: end,
            timestamp: self.timestamp(now),
            base,
            leader: self.config.member,
            log_session_id: term.to_session_id(),
            time_unit: TimeUnit::Millis,
            app_version: self.config.app.version.to_wire(),
        };
        let mut bytes = [0; 128];
        let len = record.emit(&mut bytes).unwrap_or(0);
        let record = bytes.get(..len).unwrap_or(&[]);
        match append(log, term, &[record], mtu) {
            Ok(span) => {
                self.grown(term, base, span.end);
                if self.halted.is_some() {
                    return;
                }
                self.raft.set_barrier(span.end);
                self.event(Event::Joined {
                    term,
                    leader: self.config.member,
                });
            }
            // No room even in the reserve, or a log whose chain is unknown: another shall lead.
            Err(error) => {
                self.refused(error);
                self.raft.step_down(now.instant);
            }
        }
    }

    fn forget_repair(&mut self) {
        self.gaps.forget_on_join();
        self.hole = None;
        self.history_wanted = None;
        self.leader_end = Position::ZERO;
    }

    /// The timestamp of a record appended now: wall time, but never before the last one's.
    fn timestamp(&self, now: Now) -> Timestamp {
        now.wall.max(self.applier.time)
    }
}

/// How long to wait before a hole is asked for, and before it is asked for again.
const NAK_DELAY: Duration = Duration::from_millis(1);
const NAK_REPEAT: Duration = Duration::from_millis(20);
