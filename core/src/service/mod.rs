//! What a replicated service is, and what it may do.
//!
//! A service is fed the committed messages of the log, in order, on every member alike (Aeron:
//! `ClusteredService`). Anything a callback can observe is a function of the log up to its
//! position, so every member's service reaches the same state and gives the same answers.

pub mod echo;
pub mod kv;

pub use crate::wire::cluster::CloseReason;
pub use crate::wire::status::Role;

use crate::time::Timestamp;
use crate::units::{MemberId, Position, SessionId, Term};

/// A leadership term has begun (Aeron: `onNewLeadershipTermEvent`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LeadershipTerm {
    /// The term.
    pub term: Term,
    /// Where its first record starts.
    pub base: Position,
    /// Who leads it.
    pub leader: MemberId,
    /// When it began, by the leader's wall clock.
    pub timestamp: Timestamp,
}

/// Why `Cluster::offer` or `Cluster::close_session` refused. The same on every member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OfferError {
    /// There is no such open session at this position of the log.
    UnknownSession,
    /// The message is longer than the cluster's maximum.
    TooLong,
}

/// A replicated state machine. Callbacks must be deterministic and must not block for long: they
/// run on the node's thread unless the driver says otherwise.
pub trait Service {
    /// Whether the service can take more now. While it says no, nothing is handed over, nothing is
    /// lost, and the clients' windows close: this is how a service exerts back pressure.
    fn ready(&self) -> bool {
        true
    }

    /// Called once, before anything else.
    fn on_start(&mut self, cluster: &mut Cluster<'_>) {
        let _ = cluster;
    }

    /// A client session was opened.
    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: SessionId, principal: &[u8]) {
        let _ = (cluster, session, principal);
    }

    /// A client session was closed: the last call for this session.
    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        reason: CloseReason,
    ) {
        let _ = (cluster, session, reason);
    }

    /// A client's message is committed.
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, message: &[u8]);

    /// This member's role has changed. Not replicated: it may steer what is done outside the
    /// replicated state, never that state.
    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        let _ = (cluster, role);
    }

    /// A new leadership term's first record is committed.
    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        let _ = (cluster, term);
    }

    /// The node is closing: the last call of all.
    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        let _ = cluster;
    }

    /// A digest of the whole replicated state: equal on every member at equal positions.
    fn digest(&self) -> u64;
}

/// Where a service's effects go. The node implements this; followers send nothing, but answer the
/// same.
pub trait Outbox {
    /// Queues one message, the concatenation of `parts`, for a session's client.
    ///
    /// # Errors
    /// See [`OfferError`].
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError>;

    /// Marks a session to be closed by a replicated event.
    ///
    /// # Errors
    /// [`OfferError::UnknownSession`].
    fn close_session(&mut self, session: SessionId) -> Result<(), OfferError>;
}

/// What a callback is given (Aeron: `Cluster`).
pub struct Cluster<'a> {
    time: Timestamp,
    position: Position,
    member: MemberId,
    role: Role,
    outbox: &'a mut dyn Outbox,
}

impl<'a> Cluster<'a> {
    /// For drivers and for tests of services.
    pub fn new(
        time: Timestamp,
        position: Position,
        member: MemberId,
        role: Role,
        outbox: &'a mut dyn Outbox,
    ) -> Self {
        Self {
            time,
            position,
            member,
            role,
            outbox,
        }
    }

    /// The timestamp of the record being executed: the leader's wall clock when it was appended.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The end of the record being executed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// This member. Not replicated state.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// This member's role. Not replicated state.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Sends one message, the concatenation of `parts`, to a session's client. The answer is the
    /// same on every member; a client that does not read is closed by a replicated event, later.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.outbox.offer(session, parts)
    }

    /// Closes a session by a replicated event.
    ///
    /// # Errors
    /// [`OfferError::UnknownSession`].
    pub fn close_session(&mut self, session: SessionId) -> Result<(), OfferError> {
        self.outbox.close_session(session)
    }
}
