//! A committed message into one service.

use core::cell::Cell;

use super::{Host, HostMemory, OpenSession};
use crate::node::Halt;
use crate::node::clients::{Clients, EgressError, Memory};
use crate::planted::Planted;
use crate::service::{
    Beginning, CloseReason, Cluster, Floor, Heard, LeadershipTerm, Messages, OfferError, Outbox,
    Role, Service, TimerError,
};
use crate::time::Timestamp;
use crate::units::{MemberId, Position, SessionId};
use crate::wire::cluster::{ServiceMessage, SessionMessageHeader, TimerEvent};
use crate::wire::frame::Alike;

/// Where a record is, and what this member is meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) struct At {
    pub start: Position,
    pub end: Position,
    pub role: Role,
    pub member: MemberId,
    /// The longest message a service may offer into the log, in bytes.
    pub message_max: usize,
    /// The record is of the term that this member leads: clients expect its answers.
    pub serves: bool,
}

/// A committed record, as far as services are concerned.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::node) enum Record<'a> {
    Term(LeadershipTerm),
    Open {
        timestamp: Timestamp,
        /// `None` if the record names what this version has no room for: then it opens nothing.
        request: Option<u64>,
        principal: &'a [u8],
    },
    Close {
        timestamp: Timestamp,
        session: SessionId,
        reason: CloseReason,
    },
    Message {
        timestamp: Timestamp,
        session: SessionId,
        payload: &'a [u8],
    },
    Timer(TimerEvent),
    Service(ServiceMessage<'a>),
    /// Nothing that a service is told of.
    Other(Option<Timestamp>),
}

impl Record<'_> {
    /// When it was appended; `None` if it does not say.
    pub const fn timestamp(&self) -> Option<Timestamp> {
        match self {
            Self::Term(term) => Some(term.timestamp),
            Self::Open { timestamp, .. }
            | Self::Close { timestamp, .. }
            | Self::Message { timestamp, .. } => Some(*timestamp),
            Self::Timer(event) => Some(event.timestamp),
            Self::Service(message) => Some(message.timestamp),
            Self::Other(timestamp) => *timestamp,
        }
    }
}

/// Who hears what a service says to its clients.
pub(in crate::node) enum Audience<'a, 'm, const N: usize> {
    /// Those that this node serves, if it leads.
    Clients(&'a mut Clients<N>, &'a mut Memory<'m>),
    /// Nobody: the service runs away from its node, which says it again.
    Nobody,
}

/// What callbacks act on beside the host itself.
pub(in crate::node) struct Effects<'a, 'm, const N: usize> {
    pub audience: Audience<'a, 'm, N>,
    pub host: HostMemory<'a>,
}

/// What one callback may do.
struct Desk<'e, 'a, 'm, const N: usize> {
    host: &'e mut Host<N>,
    effects: &'e mut Effects<'a, 'm, N>,
    message_max: usize,
    serves: bool,
    cause: Cause,
    /// The cluster's time: the host's is set when the call is over.
    time: &'e Cell<Timestamp>,
}

/// What a callback is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Something that happens on this member alone.
    Own,
    /// A record of the log: every member makes it.
    Record,
    /// A message of this session, which is open.
    Said(SessionId),
}

impl<const N: usize> Outbox for Desk<'_, '_, '_, N> {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        if self.cause == Cause::Own {
            return Err(OfferError::OutsideLog);
        }
        if self.cause != Cause::Said(session) && !self.host.knows(session) {
            return Err(OfferError::UnknownSession);
        }
        match &mut self.effects.audience {
            Audience::Clients(clients, memory) => {
                let offered = clients.offer(session, self.time.get(), parts, self.serves, memory);
                offered.map_err(|EgressError::TooLong| OfferError::TooLong)
            }
            Audience::Nobody if length(parts) > self.message_max => Err(OfferError::TooLong),
            Audience::Nobody => Ok(()),
        }
    }

    fn close_session(&mut self, session: SessionId) -> Result<(), OfferError> {
        if self.cause == Cause::Own {
            return Err(OfferError::OutsideLog);
        }
        let index = self.host.index_of(session);
        let open = index.and_then(|index| self.host.sessions.get_mut(index));
        let open = open.ok_or(OfferError::UnknownSession)?;
        let reason = *open.closing.get_or_insert(CloseReason::ServiceAction);
        if let Audience::Clients(clients, _) = &mut self.effects.audience {
            clients.owe_close(session, reason);
        }
        Ok(())
    }

    fn offer_to_log(&mut self, parts: &[&[u8]]) -> Result<(), OfferError> {
        if self.cause == Cause::Own {
            return Err(OfferError::OutsideLog);
        }
        let len = length(parts);
        if len > self.message_max {
            return Err(OfferError::TooLong);
        }
        let memory = &mut *self.effects.host.outgoing;
        let planted = Planted::OfferAnswersByTheLeadersQueue.is_active();
        if planted && self.host.queued() + len > memory.len() / 2 {
            return Err(OfferError::Full);
        }
        if self.host.outgoing.push(memory, parts) {
            Ok(())
        } else {
            Err(OfferError::Full)
        }
    }

    fn schedule_timer(&mut self, correlation: i64, deadline: Timestamp) -> Result<(), TimerError> {
        if self.cause == Cause::Own {
            return Err(TimerError::OutsideLog);
        }
        let memory = &mut *self.effects.host.timers;
        let scheduled = self.host.timers.schedule(memory, correlation, deadline);
        scheduled.map_err(|_| TimerError::Full)
    }

    fn cancel_timer(&mut self, correlation: i64) -> Result<bool, TimerError> {
        if self.cause == Cause::Own {
            return Err(TimerError::OutsideLog);
        }
        let memory = &mut *self.effects.host.timers;
        Ok(self.host.timers.cancel(memory, correlation))
    }

    fn session_at(&self, index: usize) -> Option<SessionId> {
        self.host.sessions.get(index).map(|s| s.id)
    }
}

impl<const N: usize> Floor for Desk<'_, '_, '_, N> {
    fn turn_to(&mut self, session: Option<SessionId>, cost: u64) -> bool {
        if let (Audience::Clients(clients, _), Cause::Said(last)) =
            (&mut self.effects.audience, self.cause)
        {
            // What it was let in for is its client's to read now.
            clients.apply_messages(last, cost);
        }
        self.cause = session.map_or(Cause::Record, Cause::Said);
        session.is_some_and(|session| self.host.knows(session))
    }
}

fn length(parts: &[&[u8]]) -> usize {
    parts
        .iter()
        .fold(0, |sum, part| sum.saturating_add(part.len()))
}

impl<const N: usize> Host<N> {
    /// The timestamp of the last record, never going back.
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Tells the service of its start and of this member's role, if it has not been told.
    pub fn tell(&mut self, at: At, service: &mut dyn Service, effects: &mut Effects<'_, '_, N>) {
        let role = at.role;
        if !self.started {
            self.started = true;
            self.call(at, Cause::Own, effects, |c| service.on_start(c));
            self.digest = service.digest();
        }
        if role != self.role_told {
            self.role_told = role;
            self.call(at, Cause::Own, effects, |c| service.on_role_change(c, role));
        }
    }

    /// The node closes.
    pub fn terminate(
        &mut self,
        at: At,
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) {
        self.call(at, Cause::Own, effects, |c| service.on_terminate(c));
    }

    /// Executes one message. Work: that of the callback, and of finding session, timer or message.
    ///
    /// # Errors
    /// [`Halt::ServiceMessage`] if the log holds another message of this service than the service
    /// has offered: then it is not deterministic, or its state is not the cluster's.
    pub fn execute(
        &mut self,
        at: At,
        record: &Record<'_>,
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) -> Result<(), Halt> {
        if let Some(timestamp) = record.timestamp() {
            self.time = self.time.max(timestamp);
        }
        self.position = at.end;
        match *record {
            Record::Term(term) => {
                self.call(at, Cause::Record, effects, |c| {
                    service.on_new_leadership_term(c, &term);
                });
            }
            Record::Open {
                request, principal, ..
            } => {
                let id = SessionId::new(at.start);
                if request.is_some_and(|request| self.open(id, request)) {
                    self.call(at, Cause::Record, effects, |c| {
                        service.on_session_open(c, id, principal);
                    });
                }
            }
            Record::Close {
                session, reason, ..
            } => {
                if let Some(index) = self.index_of(session) {
                    self.sessions.remove(index);
                    self.call(at, Cause::Record, effects, |c| {
                        service.on_session_close(c, session, reason);
                    });
                }
            }
            Record::Message {
                session, payload, ..
            } => self.say(at, session, payload, service, effects),
            Record::Timer(event) => self.fire(at, &event, service, effects),
            Record::Service(message) => return self.take(at, &message, service, effects),
            Record::Other(_) => {}
        }
        Ok(())
    }

    /// [`Self::execute`] of a session's message.
    #[inline(always)]
    pub fn execute_message(
        &mut self,
        at: At,
        header: &SessionMessageHeader,
        payload: &[u8],
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) {
        self.time = self.time.max(header.timestamp);
        self.position = at.end;
        self.say(at, header.session, payload, service, effects);
    }

    #[inline(always)]
    fn say(
        &mut self,
        at: At,
        session: SessionId,
        payload: &[u8],
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) {
        if self.knows(session) {
            self.call(at, Cause::Said(session), effects, |c| {
                service.on_session_message(c, session, payload);
            });
        }
    }

    /// Session messages, each of which [`Self::execute`] would execute alike: those of `frames`,
    /// which begin at `at`, up to the first that is something else, or that the service is not
    /// ready for, and `most` of them.
    pub fn hear(
        &mut self,
        at: At,
        frames: Alike<'_>,
        most: usize,
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) -> Heard {
        let time = Cell::new(self.time);
        // Who leads has let them in for so much of its clients' egress.
        let egress_mtu = match &effects.audience {
            Audience::Clients(clients, _) if at.role == Role::Leader => Some(clients.egress_mtu()),
            _ => None,
        };
        let beginning = Beginning {
            position: at.start,
            member: at.member,
            role: at.role,
            egress_mtu,
        };
        let mut desk = Desk {
            host: self,
            effects,
            message_max: at.message_max,
            serves: at.serves,
            cause: Cause::Record,
            time: &time,
        };
        let mut messages = Messages::new(frames, most, beginning, &time, &mut desk);
        service.on_session_messages(&mut messages);
        let heard = messages.end(most);
        if heard.count > 0 {
            (self.position, self.time) = (heard.position, time.get());
        }
        heard
    }

    #[inline(always)]
    fn call(
        &mut self,
        at: At,
        cause: Cause,
        effects: &mut Effects<'_, '_, N>,
        callback: impl FnOnce(&mut Cluster<'_>),
    ) {
        let time = Cell::new(self.time);
        let mut desk = Desk {
            host: self,
            effects,
            message_max: at.message_max,
            serves: at.serves,
            cause,
            time: &time,
        };
        let outbox = &mut desk;
        callback(&mut Cluster::new(
            time.get(),
            at.end,
            at.member,
            at.role,
            outbox,
        ));
    }

    /// The same decision as the session table's, from the same facts.
    fn open(&mut self, id: SessionId, request: u64) -> bool {
        let is_newest = self.sessions.last().is_none_or(|last| last.id < id);
        let is_known = self.sessions.iter().any(|s| s.request == request);
        let session = OpenSession {
            id,
            request,
            closing: None,
        };
        is_newest && !is_known && self.sessions.push(session).is_ok()
    }

    fn fire(
        &mut self,
        at: At,
        event: &TimerEvent,
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) {
        if event.service != self.id {
            return;
        }
        self.fired.retain(|arming| *arming != event.arming);
        let memory = &mut *effects.host.timers;
        if let Some(timer) = self.timers.fire(memory, event.correlation, event.arming) {
            self.call(at, Cause::Record, effects, |c| {
                service.on_timer_event(c, timer.correlation, timer.deadline);
            });
        }
    }

    fn take(
        &mut self,
        at: At,
        message: &ServiceMessage<'_>,
        service: &mut dyn Service,
        effects: &mut Effects<'_, '_, N>,
    ) -> Result<(), Halt> {
        let from = message.id.service;
        if from == self.id {
            let expected = self.outgoing.front(effects.host.outgoing);
            let is_next = message.id.number == self.outgoing.seen() + 1;
            if !is_next || expected != Some(message.payload) {
                return Err(Halt::ServiceMessage(from));
            }
            self.outgoing.pop(effects.host.outgoing, &mut self.ahead);
        }
        self.call(at, Cause::Record, effects, |c| {
            service.on_service_message(c, from, message.payload);
        });
        Ok(())
    }
}
