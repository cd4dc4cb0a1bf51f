//! Committed frames into replicated state: the only writer of it, alike on every member.

use super::clients::{EgressError, Memory};
use super::handle::memory;
use super::{Clients, Event, Halt, Lent, Node};
use crate::log::{FrameError, Frames, Log, Messages};
use crate::service::{Cluster, LeadershipTerm, OfferError, Outbox, Role, Service};
use crate::session::Opened;
use crate::time::{Now, Timestamp};
use crate::units::{Position, SessionId};
use crate::wire::cluster::{CloseReason, Message, NewLeadershipTermEvent};

/// How many frames one call of `poll_service` executes at most.
const FRAMES_MAX: usize = 256;

/// How far this member's service has come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Applier {
    /// The end of the last frame taken.
    pub position: Position,
    /// The cluster's time: the timestamp of the last record, never going back.
    pub time: Timestamp,
    /// The digest of the service's state at `position`.
    pub digest: u64,
    /// Whether the service took more when last asked.
    pub ready: bool,
    messages: Messages,
    started: bool,
    role_told: Role,
}

impl Applier {
    pub const fn new() -> Self {
        Self {
            position: Position::ZERO,
            time: Timestamp(0),
            digest: 0,
            ready: true,
            messages: Messages::new(),
            started: false,
            role_told: Role::Follower,
        }
    }
}

/// What a callback may do, on this member.
struct Effects<'a, 'm, const N: usize> {
    clients: &'a mut Clients<N>,
    memory: &'a mut Memory<'m>,
    time: Timestamp,
}

impl<const N: usize> Outbox for Effects<'_, '_, N> {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.clients
            .offer(session, self.time, parts, self.memory)
            .map_err(|error| match error {
                EgressError::UnknownSession => OfferError::UnknownSession,
                EgressError::TooLong => OfferError::TooLong,
            })
    }

    fn close_session(&mut self, session: SessionId) -> Result<(), OfferError> {
        let open = self.clients.ask_close(session, CloseReason::ServiceAction);
        if open {
            Ok(())
        } else {
            Err(OfferError::UnknownSession)
        }
    }
}

/// One executed message, as the steps below need it.
#[derive(Clone, Copy)]
struct At {
    start: Position,
    end: Position,
    role: Role,
}

impl<const N: usize> Node<N> {
    /// Hands committed messages to the service, in the order of the log: at most `FRAMES_MAX`
    /// frames. True if there may be more to do at once.
    pub fn poll_service<L: Log, S: Service>(
        &mut self,
        now: Now,
        service: &mut S,
        lent: &mut Lent<'_, L>,
    ) -> bool {
        if self.halted.is_some() {
            return false;
        }
        let mut memory = memory(lent.ingress, lent.egress, lent.reassembly);
        self.tell_role(service, &mut memory);
        let before = self.applier.position;
        let commit = self.raft.commit();
        let (bytes, cold) = self.sources.for_replay(&*lent.log, &*lent.replay, before);
        let mut frames = Frames::new(bytes, before, self.config.segment_length);
        if cold {
            frames = frames.verified();
        }
        let mut budget = FRAMES_MAX;
        while budget > 0 && self.applier.position < commit {
            self.applier.ready = service.ready();
            if !self.applier.ready {
                break;
            }
            let Some(frame) = frames.next().filter(|f| f.end() <= commit) else {
                break;
            };
            budget -= 1;
            self.applier.position = frame.end();
            let mut messages = self.applier.messages.clone();
            if let Some(message) = messages.push(frame, lent.assembly) {
                let role = self.raft.role();
                let at = At {
                    start: message.start,
                    end: message.end,
                    role,
                };
                self.execute(now, at, message.bytes, service, &mut memory);
            }
            self.applier.messages = messages;
        }
        if let Some(error) = frames.error()
            && self.applier.position == before
        {
            // Frames that are cut off at the end of recalled bytes are recalled again, to their
            // end.
            let more_to_come = cold && error == FrameError::Cut && bytes.len() < lent.replay.len();
            if !more_to_come {
                self.halt(Halt::CorruptLog(before));
            }
        }
        // Nothing that is read here is kept from call to call, and what leaves the window is
        // recalled.
        lent.log.release(self.raft.tail.end);
        if self.applier.position > before {
            self.applier.digest = service.digest();
        }
        let more = self.applier.position < commit && self.applier.position > before;
        more && self.applier.ready
    }

    fn tell_role<S: Service>(&mut self, service: &mut S, memory: &mut Memory<'_>) {
        let role = self.raft.role();
        let at = At {
            start: self.applier.position,
            end: self.applier.position,
            role,
        };
        if !self.applier.started {
            self.applier.started = true;
            self.with_cluster(at, memory, |cluster| service.on_start(cluster));
            self.applier.digest = service.digest();
        }
        if role != self.applier.role_told {
            self.applier.role_told = role;
            self.with_cluster(at, memory, |cluster| service.on_role_change(cluster, role));
        }
    }

    fn with_cluster(
        &mut self,
        at: At,
        memory: &mut Memory<'_>,
        call: impl FnOnce(&mut Cluster<'_>),
    ) {
        let time = self.applier.time;
        let clients = &mut self.clients;
        let mut effects = Effects {
            clients,
            memory,
            time,
        };
        let member = self.config.member;
        call(&mut Cluster::new(
            time,
            at.end,
            member,
            at.role,
            &mut effects,
        ));
    }

    fn execute<S: Service>(
        &mut self,
        now: Now,
        at: At,
        bytes: &[u8],
        service: &mut S,
        memory: &mut Memory<'_>,
    ) {
        // Records of a newer version are skipped alike on every member that does not know them.
        let Ok(record) = Message::parse(bytes) else {
            return;
        };
        match record {
            Message::NewLeadershipTermEvent(event) => {
                self.begin_term(now, at, &event, service, memory);
            }
            Message::SessionOpenEvent(event) => {
                self.set_time(event.timestamp);
                let id = SessionId::new(at.start);
                let endpoints = &self.endpoints;
                let opened =
                    self.clients
                        .apply_open(now.instant, at.start, &event, endpoints, memory);
                if opened == Opened::Yes {
                    self.event(Event::SessionOpened(id));
                    let principal = event.principal;
                    self.with_cluster(at, memory, |c| {
                        service.on_session_open(c, id, principal);
                    });
                }
            }
            Message::SessionCloseEvent(event) => {
                self.set_time(event.timestamp);
                let (id, reason) = (event.session, event.reason);
                if self
                    .clients
                    .apply_close(now.instant, id, reason, memory)
                    .is_some()
                {
                    self.event(Event::SessionClosed(id));
                    self.with_cluster(at, memory, |c| {
                        service.on_session_close(c, id, reason);
                    });
                }
            }
            Message::SessionMessage(message) => {
                self.set_time(message.header.timestamp);
                let id = message.header.session;
                if self.clients.sessions().contains(id) {
                    let payload = message.payload;
                    self.with_cluster(at, memory, |c| {
                        service.on_session_message(c, id, payload);
                    });
                    self.clients.apply_message(id, payload.len());
                }
            }
            _ => {}
        }
    }

    fn begin_term<S: Service>(
        &mut self,
        now: Now,
        at: At,
        event: &NewLeadershipTermEvent,
        service: &mut S,
        memory: &mut Memory<'_>,
    ) {
        self.set_time(event.timestamp);
        let (term, base, leader) = (event.term, at.start, event.leader);
        let leading = at.role == Role::Leader && term == self.raft.term();
        if leading && leader == self.config.member {
            self.clients.become_leader(now.instant, term);
        }
        let begun = LeadershipTerm {
            term,
            base,
            leader,
            timestamp: self.applier.time,
        };
        self.with_cluster(at, memory, |c| service.on_new_leadership_term(c, &begun));
    }

    fn set_time(&mut self, timestamp: Timestamp) {
        self.applier.time = self.applier.time.max(timestamp);
    }
}
