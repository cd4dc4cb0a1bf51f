//! Committed frames into replicated state: the only writer of it, alike on every member.
//!
//! The consensus module goes first: it keeps the sessions, and each whole message that it has taken
//! it hands to the services that are level with it. It moves with the fastest service: as long as
//! one is level and takes more, those that do not are left behind, and come on by themselves
//! (`catch_up`) from the window or from storage. If none takes more, the module waits as
//! well, its clients' windows close, and that is back pressure.

use super::catch_up::Laggard;
use super::clients::Memory;
use super::host::{At, Audience, Effects, HostMemory, Record, Taking};
use super::{Event, Halt, Node};
use crate::log::scan;
use crate::log::{FrameError, FrameRef, Frames, Log, Message as Whole, Messages, Roster};
use crate::service::{LeadershipTerm, Role, Service};
use crate::session::{Channel, Opened, Request};
use crate::time::{Now, Timestamp};
use crate::units::{Position, SessionId, Term};
use crate::wire::Reject;
use crate::wire::admission::MemberAdmitted;
use crate::wire::cluster::{
    ClusterAction, Message, NewLeadershipTermEvent, SESSION_HEADER_LENGTH, SessionOpenEvent,
};

/// How many frames one call executes at most, and as many for each service that is behind.
pub(super) const FRAMES_MAX: usize = 512;

/// How far this member's consensus module has come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Applier {
    /// The end of the last frame taken.
    pub position: Position,
    /// The end of the last whole message: services that are level have executed it.
    pub level: Position,
    /// The cluster's time: the timestamp of the last record, never going back.
    pub time: Timestamp,
    /// Whether any service that is level took more when last asked.
    pub ready: bool,
    /// What is committed has piled up, because no service took more: the answers to all of it at
    /// once may be more than clients' streams hold.
    piled_up: bool,
    /// The roster as the log makes it up to here: the node state's may know of later records.
    pub roster: Roster,
    /// The end of the first record of the term that this member leads.
    pub opened: Position,
    /// Of the last frame taken.
    pub term: Term,
    /// The log's chain at `position`.
    pub chain: u32,
    messages: Messages,
    /// The service that is behind and in the middle of a message.
    pub laggard: Option<Laggard>,
}

impl Applier {
    pub const fn new() -> Self {
        Self {
            position: Position::ZERO,
            level: Position::ZERO,
            time: Timestamp(0),
            ready: true,
            piled_up: false,
            roster: Roster::FIRST,
            opened: Position::MAX,
            term: Term::ZERO,
            chain: 0,
            messages: Messages::new(),
            laggard: None,
        }
    }

    /// Whether no service took what is committed, and not all of it is taken yet.
    pub const fn has_piled_up(&self) -> bool {
        self.piled_up
    }

    /// Takes frames up to `end`, each of which holds a whole message; the last one is of this term
    /// and has this chain, the latest one this timestamp.
    #[inline]
    pub fn take_plain(&mut self, end: Position, term: Term, chain: u32, timestamp: Timestamp) {
        (self.position, self.level) = (end, end);
        (self.chain, self.term) = (chain, term);
        self.time = self.time.max(timestamp);
        self.messages.reset();
    }

    /// Takes over from a snapshot at `position`.
    pub fn restore(&mut self, position: Position, time: Timestamp, term: Term, chain: u32) {
        *self = Self {
            position,
            level: position,
            time,
            term,
            chain,
            ..Self::new()
        };
    }
}

/// What a call that executes was lent.
pub(super) struct Bench<'b, 's, 'm> {
    pub services: &'b mut [&'s mut dyn Service],
    pub memory: Memory<'m>,
    pub hosts: &'m mut [u8],
}

impl<const N: usize, const S: usize> Node<N, S> {
    pub(super) fn at(&self, start: Position, end: Position) -> At {
        At {
            start,
            end,
            role: self.raft.role(),
            member: self.config.member,
            message_max: self.config.message_max,
            serves: start >= self.applier.opened,
        }
    }

    pub(super) fn advance<L: Log>(
        &mut self,
        now: Now,
        bench: &mut Bench<'_, '_, '_>,
        log: &L,
        replay: &[u8],
        assembly: &mut [u8],
    ) {
        let before = self.applier.position;
        let commit = self.raft.commit();
        if before >= commit {
            self.applier.piled_up = self.applier.piled_up && self.clients.are_reading();
            return;
        }
        let (bytes, cold) = self.sources.for_replay(log, replay, before);
        let segment_length = self.config.segment_length;
        let mut frames = Frames::new(bytes, before, segment_length);
        if cold {
            frames = frames.verified();
        }
        let mut budget = FRAMES_MAX;
        // What is in the window was found to be good when it came there.
        let known = match cold {
            true => scan::intact(bytes, before, segment_length, budget),
            false => bytes.len(),
        };
        self.advance_plain(now, bench, bytes.get(..known).unwrap_or(&[]), &mut budget);
        if self.applier.position >= commit {
            // All was plain, and so it had not piled up.
            debug_assert!(!self.applier.piled_up);
            return;
        }
        let taken = self.applier.position.since(before) as usize;
        frames.pass_over(taken);
        while budget > 0 && self.applier.position < commit && self.halted.is_none() {
            self.applier.ready = self.may_advance(bench);
            self.applier.piled_up |= !self.applier.ready;
            if !self.applier.ready {
                break;
            }
            let Some(frame) = frames.next().filter(|f| f.end() <= commit) else {
                break;
            };
            // Clients are let in as if each message were echoed; longer answers to what has piled
            // up are given at the pace at which whoever has asked reads, as by a service that is
            // behind.
            if self.applier.piled_up && self.is_asked_by_one_who_reads(&frame) {
                break;
            }
            budget -= 1;
            self.take_frame(now, &frame, bench, assembly);
        }
        let is_level = self.applier.position >= commit;
        self.applier.piled_up = self.applier.piled_up && (!is_level || self.clients.are_reading());
        if let Some(error) = frames.error()
            && self.applier.position == before
        {
            // Frames that are cut off at the end of recalled bytes are recalled again, to their
            // end.
            let more_to_come = cold && error == FrameError::Cut && bytes.len() < replay.len();
            if !more_to_come {
                self.halt(Halt::CorruptLog(before));
            }
        }
    }

    /// Whether a message begins here whose client has half a window and more to read: a service
    /// that is behind had better not answer it yet. One that makes no progress is closed after
    /// `egress_timeout`; who is not asked for waits for nobody: what clients have in flight is
    /// counted as if it were echoed, so that echoes never come to this.
    pub(super) fn is_asked_by_one_who_reads(&self, frame: &FrameRef<'_>) -> bool {
        if !frame.begins() || self.clients.leading().is_none() {
            return false;
        }
        match Message::parse(frame.payload) {
            Ok(Message::SessionMessage(said)) => self.clients.is_reading(said.header.session),
            _ => false,
        }
    }

    /// Is a service level that takes more? Nobody moves while a snapshot's first bytes are due.
    ///
    /// Each service is asked once for each frame: one that changes its mind in between is neither
    /// left out of a message nor handed half of one.
    fn may_advance(&mut self, bench: &Bench<'_, '_, '_>) -> bool {
        let level = self.applier.level;
        let mut is_any = false;
        for (host, service) in self.hosts.iter_mut().zip(bench.services.iter()) {
            host.ask(&**service);
            is_any |= host.ready && host.position == level;
        }
        is_any && !self.is_snapshot_due()
    }

    fn take_frame(
        &mut self,
        now: Now,
        frame: &FrameRef<'_>,
        bench: &mut Bench<'_, '_, '_>,
        assembly: &mut [u8],
    ) {
        self.applier.position = frame.end();
        (self.applier.chain, self.applier.term) = (frame.chain, frame.term);
        if let Some(message) = self.applier.messages.whole(frame) {
            return self.execute(now, &message, bench);
        }
        let mut messages = self.applier.messages.clone();
        if let Some(message) = messages.push(*frame, assembly) {
            self.execute(now, &message, bench);
        }
        if messages.is_too_long() {
            self.halt(Halt::MessageTooLong(frame.end()));
        }
        self.applier.messages = messages;
    }

    /// A whole message: the consensus module, then the services that are level and take it.
    fn execute(&mut self, now: Now, message: &Whole<'_>, bench: &mut Bench<'_, '_, '_>) {
        let level = self.applier.level;
        self.applier.level = message.end;
        let (every, chain) = (self.config.checkpoint_every, self.applier.chain);
        self.checkpoints.pass(every, level, message.end, chain);
        match Message::parse(message.bytes) {
            // Nearly all are, and to the module they are nothing but the time.
            Ok(Message::SessionMessage(said)) => {
                let (session, timestamp) = (said.header.session, said.header.timestamp);
                let record = Record::Message {
                    timestamp,
                    session,
                    payload: said.payload,
                };
                self.applier.time = self.applier.time.max(timestamp);
                self.execute_level(now, level, message, &record, bench);
                self.clients.apply_message(session, said.payload.len());
            }
            parsed => self.execute_other(now, level, message, &parsed, bench),
        }
    }

    #[inline(never)]
    fn execute_other(
        &mut self,
        now: Now,
        level: Position,
        message: &Whole<'_>,
        parsed: &Result<Message<'_>, Reject>,
        bench: &mut Bench<'_, '_, '_>,
    ) {
        self.stir();
        let record = record_of(message.start, parsed);
        if let Some(timestamp) = record.timestamp() {
            self.applier.time = self.applier.time.max(timestamp);
        }
        match parsed {
            Ok(parsed) => self.take_record(now, message, parsed, &mut bench.memory),
            Err(_) => match MemberAdmitted::parse(message.bytes) {
                Ok(admitted) => self.apply_admitted(message.end, &admitted),
                // To pass over it would leave an old directory counting.
                Err(Reject::Value) => self.halt(Halt::NoRoomForMember(message.end)),
                Err(_) => {}
            },
        }
        self.execute_level(now, level, message, &record, bench);
        if let Ok(Message::NewLeadershipTermEvent(event)) = parsed {
            self.lead(message, event);
        }
    }

    /// One message into each service that is level and takes it.
    #[inline]
    fn execute_level(
        &mut self,
        now: Now,
        level: Position,
        message: &Whole<'_>,
        record: &Record<'_>,
        bench: &mut Bench<'_, '_, '_>,
    ) {
        for slot in 0..self.hosts.len() {
            let host = self.hosts.get(slot);
            if host.is_some_and(|host| host.position == level && host.ready) {
                self.execute_in(now, slot, message, record, bench);
            }
        }
    }

    /// One message into one service.
    pub(super) fn execute_in(
        &mut self,
        now: Now,
        slot: usize,
        message: &Whole<'_>,
        record: &Record<'_>,
        bench: &mut Bench<'_, '_, '_>,
    ) {
        let (at, count) = (self.at(message.start, message.end), self.hosts.len());
        let snapshot_at = self.taking_at();
        let (Some(host), Some(service)) = (self.hosts.get_mut(slot), bench.services.get_mut(slot))
        else {
            return;
        };
        let mut effects = Effects {
            audience: Audience::Clients(&mut self.clients, &mut bench.memory),
            host: HostMemory::of(bench.hosts, slot, count),
        };
        let executed = host.execute(at, record, &mut **service, &mut effects);
        host.moved = now.instant;
        // Asked for where it counts, and when this call is over (`note_services`).
        if self.checkpoints.is_open() {
            let digest = service.digest();
            (host.digest, host.digest_at) = (digest, message.end);
            self.checkpoints
                .executed(self.config.member, message.end, (slot, count), digest);
        }
        if snapshot_at == Some(message.end) {
            host.taking = Taking::Due;
        }
        if let Err(halt) = executed {
            self.halt(halt);
        }
    }

    /// What the consensus module does with a record, before any service hears of it.
    fn take_record(
        &mut self,
        now: Now,
        message: &Whole<'_>,
        record: &Message<'_>,
        memory: &mut Memory<'_>,
    ) {
        match record {
            Message::NewLeadershipTermEvent(event) => self.begin_term(now, event),
            Message::SessionOpenEvent(event) => {
                let (at, endpoints) = (message.start, &self.endpoints);
                let opened = self
                    .clients
                    .apply_open(now.instant, at, event, endpoints, memory);
                if opened == Opened::Yes {
                    self.event(Event::SessionOpened(SessionId::new(at)));
                }
            }
            Message::SessionCloseEvent(event) => {
                let (id, reason) = (event.session, event.reason);
                let closed = self.clients.apply_close(now.instant, id, reason, memory);
                if closed.is_some() {
                    self.event(Event::SessionClosed(id));
                }
            }
            Message::ClusterActionRequest(request) if request.action == ClusterAction::Snapshot => {
                self.begin_snapshot(message.end);
            }
            _ => {}
        }
    }

    fn begin_term(&mut self, now: Now, event: &NewLeadershipTermEvent) {
        let leads = self.raft.role() == Role::Leader && event.term == self.raft.term();
        if leads && event.leader == self.config.member {
            self.clients.become_leader(now.instant, event.term);
        }
    }

    /// The first record of the term that this member leads has been executed: what services have
    /// asked for before is owed to the log from here on.
    fn lead(&mut self, message: &Whole<'_>, event: &NewLeadershipTermEvent) {
        if self.clients.leading() != Some(event.term) {
            return;
        }
        self.applier.opened = message.end;
        for host in &mut self.hosts {
            host.forget_ahead();
            for (session, reason) in host.closings() {
                self.clients.owe_close(session, reason);
            }
        }
    }
}

/// What a record is to services. Records of a newer version are skipped alike on every member that
/// does not know them.
pub(super) fn record_of<'a>(start: Position, parsed: &Result<Message<'a>, Reject>) -> Record<'a> {
    match parsed {
        Ok(Message::NewLeadershipTermEvent(event)) => Record::Term(LeadershipTerm {
            term: event.term,
            base: start,
            leader: event.leader,
            timestamp: event.timestamp,
        }),
        Ok(Message::SessionOpenEvent(event)) => Record::Open {
            timestamp: event.timestamp,
            request: request_of(event).map(|request| request.digest()),
            principal: event.principal,
        },
        Ok(Message::SessionCloseEvent(event)) => Record::Close {
            timestamp: event.timestamp,
            session: event.session,
            reason: event.reason,
        },
        Ok(Message::SessionMessage(message)) => Record::Message {
            timestamp: message.header.timestamp,
            session: message.header.session,
            payload: message.payload,
        },
        Ok(Message::TimerEvent(event)) => Record::Timer(*event),
        Ok(Message::ServiceMessage(message)) => Record::Service(*message),
        Ok(Message::ClusterActionRequest(request)) => Record::Other(Some(request.timestamp)),
        _ => Record::Other(None),
    }
}

/// The connect request that an open event answers; `None` if it has no room here, or its principal
/// has none: then no session is opened (see `Clients::apply_open`).
fn request_of(event: &SessionOpenEvent<'_>) -> Option<Request> {
    if event.principal.len() > crate::limits::PRINCIPAL_MAX {
        return None;
    }
    Some(Request {
        correlation_id: event.correlation,
        response_stream_id: event.response_stream_id,
        response_channel: Channel::try_from(event.response_channel).ok()?,
    })
}

const _: () = assert!(SESSION_HEADER_LENGTH == 32, "also of a service's message");
