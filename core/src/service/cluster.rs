//! What a service's callbacks are given.

use super::Role;
use crate::time::Timestamp;
use crate::units::{MemberId, Position, SessionId};

/// Why an offer or a close was refused. The same on every member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OfferError {
    /// There is no such open session at this position of the log.
    UnknownSession,
    /// The message is longer than the cluster's maximum.
    TooLong,
    /// As many messages of this service as there is room for are on their way into the log: offer
    /// it again in a later callback.
    Full,
    /// Not in this callback: it is not in the log, so other members would not do the same.
    OutsideLog,
}

/// Why a timer was not scheduled. The same on every member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TimerError {
    /// As many timers as there is room for are armed.
    Full,
    /// Not in this callback: it is not in the log, so other members would not do the same.
    OutsideLog,
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

    /// Queues one message, the concatenation of `parts`, to be appended to the log.
    ///
    /// # Errors
    /// See [`OfferError`].
    fn offer_to_log(&mut self, parts: &[&[u8]]) -> Result<(), OfferError> {
        let _ = parts;
        Err(OfferError::OutsideLog)
    }

    /// Arms a timer, anew if it was armed.
    ///
    /// # Errors
    /// See [`TimerError`].
    fn schedule_timer(&mut self, correlation: i64, deadline: Timestamp) -> Result<(), TimerError> {
        let _ = (correlation, deadline);
        Err(TimerError::OutsideLog)
    }

    /// Takes a timer out; false if it was not armed.
    ///
    /// # Errors
    /// [`TimerError::OutsideLog`].
    fn cancel_timer(&mut self, correlation: i64) -> Result<bool, TimerError> {
        let _ = correlation;
        Err(TimerError::OutsideLog)
    }

    /// The sessions that are open at this position, by ascending id.
    fn session_at(&self, index: usize) -> Option<SessionId> {
        let _ = index;
        None
    }
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

    /// The cluster's time: the leader's wall clock when the record being executed was appended,
    /// never before that of an earlier record.
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

    /// The sessions that are open at this position, by ascending id.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        (0..).map_while(|index| self.session_at(index))
    }

    /// One of [`Self::sessions`].
    pub fn session_at(&self, index: usize) -> Option<SessionId> {
        self.outbox.session_at(index)
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
    /// [`OfferError::UnknownSession`] or [`OfferError::OutsideLog`].
    pub fn close_session(&mut self, session: SessionId) -> Result<(), OfferError> {
        self.outbox.close_session(session)
    }

    /// Offers one message, the concatenation of `parts`, into the log: every service on it will see
    /// it in `on_service_message`, exactly once, whoever leads meanwhile, and in the order in which
    /// this service has offered them.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer_to_log(&mut self, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.outbox.offer_to_log(parts)
    }

    /// Arms a timer of this service under a number of its choice: once the cluster's time has
    /// reached `deadline`, `on_timer_event` is called, once. A timer that is armed already gets the
    /// new deadline. Work: bounded by the number of timers.
    ///
    /// # Errors
    /// See [`TimerError`].
    pub fn schedule_timer(
        &mut self,
        correlation: i64,
        deadline: Timestamp,
    ) -> Result<(), TimerError> {
        self.outbox.schedule_timer(correlation, deadline)
    }

    /// Takes a timer out; false if it was not armed: it has fired, or never was.
    ///
    /// # Errors
    /// [`TimerError::OutsideLog`].
    pub fn cancel_timer(&mut self, correlation: i64) -> Result<bool, TimerError> {
        self.outbox.cancel_timer(correlation)
    }
}
