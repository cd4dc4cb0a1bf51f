//! The session: what is done in each state, and what each message of the cluster changes.

use core::net::SocketAddr;

use heapless::{String, Vec};

use super::{Client, ClosedReason, Egress, Event, State};
use crate::limits::{CHANNEL_MAX, CREDENTIALS_MAX, MEMBERS_MAX};
use crate::stream::Publication;
use crate::time::Instant;
use crate::units::MemberId;
use crate::wire::channel::Endpoints;
use crate::wire::cluster::{
    Challenge, ChallengeResponse, EventCode, Message, NewLeaderEvent, PROTOCOL_VERSION,
    SessionCloseRequest, SessionConnectRequest, SessionEvent,
};

/// Room for the longest request: header, block, and three fields with their lengths.
const REQUEST_MAX: usize = 8 + 16 + 12 + CHANNEL_MAX + CREDENTIALS_MAX;

/// What an application is to see of a message that was found to be for it.
pub(super) fn reread(bytes: &[u8]) -> Option<Egress<'_>> {
    match Message::parse(bytes).ok()? {
        Message::SessionMessage(message) => Some(Egress::Message {
            timestamp: message.header.timestamp,
            term: message.header.term,
            payload: message.payload,
        }),
        Message::NewLeaderEvent(event) => Some(Egress::NewLeader {
            term: event.term,
            leader: event.leader,
        }),
        Message::AdminResponse(response) => Some(Egress::AdminResponse {
            correlation: response.correlation,
            code: response.code,
            message: response.message,
        }),
        _ => None,
    }
}

impl Client {
    /// Does what the state is due for. A constant number of steps.
    pub(super) fn step(&mut self, now: Instant, ingress: &mut [u8]) {
        if let Some(publication) = &mut self.publication {
            publication.handle_timeout(now);
        }
        let leader_ended = self.images.handle_timeout(now);
        match self.state {
            State::Connecting { member } => self.step_connecting(now, member, ingress),
            State::AwaitingReply { member, .. } | State::Challenged { member, .. } => {
                self.step_awaiting(now, member, ingress);
            }
            State::Open { session, term, .. } => {
                if leader_ended || !self.is_leader_alive(now) {
                    self.state = State::AwaitingNewLeader { session, term };
                    self.deadline = now.plus(self.new_leader_timeout);
                    self.tell(Event::Disconnected);
                } else {
                    self.keep_alive(now, ingress);
                }
            }
            State::AwaitingNewLeader { .. } => self.step_awaiting_new_leader(now),
            State::Joining { .. } => self.step_joining(now, ingress),
            State::Closing => {
                let is_sent = self
                    .publication
                    .as_ref()
                    .is_none_or(Publication::is_drained);
                if is_sent || now >= self.deadline {
                    self.closed(now, ClosedReason::ByClient);
                }
            }
            State::Closed(_) => {}
        }
    }

    /// What a whole message of the cluster changes; `Some` if it is for the application.
    pub(super) fn handle_message<'l>(
        &mut self,
        now: Instant,
        slot: usize,
        bytes: &'l [u8],
    ) -> Option<Egress<'l>> {
        // What cannot be read is of a newer version, or not from a cluster: skipped.
        match Message::parse(bytes).ok()? {
            Message::SessionMessage(message) => {
                let is_ours = self.state.session() == Some(message.header.session);
                if !is_ours || !self.images.is_current(slot) {
                    return None;
                }
                Some(Egress::Message {
                    timestamp: message.header.timestamp,
                    term: message.header.term,
                    payload: message.payload,
                })
            }
            Message::NewLeaderEvent(event) => {
                self.handle_new_leader(now, slot, &event).then_some(())?;
                reread(bytes)
            }
            Message::SessionEvent(event) => {
                self.handle_session_event(now, slot, &event);
                None
            }
            Message::AdminResponse(response) => {
                let is_ours = self.state.session() == Some(response.session);
                let is_heard = is_ours && self.images.is_current(slot);
                is_heard.then(|| reread(bytes)).flatten()
            }
            Message::Challenge(challenge) => {
                self.handle_challenge(now, &challenge);
                None
            }
            _ => None,
        }
    }

    /// A member refuses our stream: no session will come of it. An open session waits to hear more.
    pub(super) fn handle_rejected_stream(&mut self, now: Instant) {
        if let State::Connecting { member } | State::AwaitingReply { member, .. } = self.state {
            self.try_next(now, member);
        }
    }

    pub(super) fn answer_challenge(
        &mut self,
        now: Instant,
        credentials: &[u8],
        ingress: &mut [u8],
    ) -> bool {
        let State::Challenged { member, session } = self.state else {
            return false;
        };
        let correlation = self.new_correlation();
        let response = ChallengeResponse {
            correlation,
            session,
            credentials,
        };
        let mut bytes = [0; REQUEST_MAX];
        let len = response.emit(&mut bytes);
        if !len.is_some_and(|len| self.offer_control(bytes.get(..len).unwrap_or(&[]), ingress)) {
            return false;
        }
        self.state = State::AwaitingReply {
            member,
            correlation,
        };
        self.deadline = now.plus(self.config.timing.reply);
        true
    }

    pub(super) fn begin_close(&mut self, now: Instant, ingress: &mut [u8]) {
        let (session, term) = match self.state {
            State::Open { session, term, .. } => (session, term),
            State::Closing | State::Closed(_) => return,
            _ => return self.closed(now, ClosedReason::ByClient),
        };
        let mut bytes = [0; 32];
        let request = SessionCloseRequest { term, session };
        let len = request.emit(&mut bytes).unwrap_or(0);
        // Without room for it the session is closed by its end of stream, or times out.
        let is_sent = self.offer_control(bytes.get(..len).unwrap_or(&[]), ingress);
        if !is_sent {
            return self.closed(now, ClosedReason::ByClient);
        }
        self.state = State::Closing;
        self.deadline = now.plus(self.config.timing.close);
    }

    fn step_connecting(&mut self, now: Instant, member: MemberId, ingress: &mut [u8]) {
        if now >= self.open_by {
            return self.closed(now, ClosedReason::NoAnswer);
        }
        if self.retry_at.is_some_and(|start| now < start) {
            return;
        }
        self.retry_at = None;
        if now >= self.deadline {
            return self.try_next(now, member);
        }
        let Some(publication) = &self.publication else {
            if let Some(address) = self.directory.address(member) {
                self.open_publication(now, address, ingress);
            }
            return;
        };
        if publication.is_connected() {
            self.send_connect_request(now, member, ingress);
        }
    }

    fn step_awaiting(&mut self, now: Instant, member: MemberId, ingress: &mut [u8]) {
        let is_connected = self
            .publication
            .as_ref()
            .is_some_and(Publication::is_connected);
        if now >= self.open_by {
            self.closed(now, ClosedReason::NoAnswer);
        } else if now >= self.deadline || !is_connected {
            self.try_next(now, member);
        } else if matches!(self.state, State::Challenged { .. })
            && let Some(credentials) = self.config.challenge_credentials.clone()
        {
            self.answer_challenge(now, &credentials, ingress);
        }
    }

    fn step_awaiting_new_leader(&mut self, now: Instant) {
        if now >= self.deadline {
            return self.closed(now, ClosedReason::NoLeader);
        }
        let State::AwaitingNewLeader { session, term } = self.state else {
            return;
        };
        // Both streams are reliable: if both still stand, they go on where they were.
        if self.is_leader_alive(now) {
            let leader = self.leader;
            self.state = State::Open {
                session,
                term,
                leader,
            };
            self.keep_alive_at = now;
            self.tell(Event::Reconnected);
        }
    }

    fn step_joining(&mut self, now: Instant, ingress: &mut [u8]) {
        let State::Joining {
            session,
            term,
            leader,
        } = self.state
        else {
            return;
        };
        if now >= self.deadline {
            return self.closed(now, ClosedReason::NoLeader);
        }
        let Some(publication) = &self.publication else {
            if let Some(address) = self.directory.address(leader) {
                self.open_publication(now, address, ingress);
                self.retry_at = None;
            } else if self.retry_at.is_some_and(|again| now >= again) {
                self.directory.forget(leader);
                self.retry_at = Some(now.plus(self.config.timing.connect));
            }
            return;
        };
        if publication.is_connected() {
            self.state = State::Open {
                session,
                term,
                leader,
            };
            // The new leader counts the session's silence from its election: speak at once.
            self.keep_alive_at = now;
            self.keep_alive(now, ingress);
        }
    }

    fn handle_session_event(&mut self, now: Instant, slot: usize, event: &SessionEvent<'_>) {
        if let State::AwaitingReply {
            member,
            correlation,
        } = self.state
            && correlation == event.correlation
        {
            return self.handle_reply(now, slot, member, event);
        }
        let session = self.state.session();
        if session.is_none() || session != event.session || !self.images.is_current(slot) {
            return;
        }
        match event.code {
            EventCode::Closed => {
                self.keep_detail(event.detail);
                self.closed(now, ClosedReason::ByCluster);
            }
            EventCode::Error | EventCode::AuthenticationRejected => {
                self.keep_detail(event.detail);
                self.tell(Event::Error);
            }
            EventCode::Ok | EventCode::Redirect => {}
        }
    }

    fn handle_reply(
        &mut self,
        now: Instant,
        slot: usize,
        member: MemberId,
        event: &SessionEvent<'_>,
    ) {
        match event.code {
            EventCode::Ok => {
                let (Some(session), Some(term)) = (event.session, event.term) else {
                    return self.try_next(now, member);
                };
                let leader = event.leader.unwrap_or(member);
                self.learn_endpoints(event.detail);
                let heartbeat = event.leader_heartbeat_timeout_ns;
                if let Some(nanos) = heartbeat.and_then(|nanos| u64::try_from(nanos).ok()) {
                    let twice = core::time::Duration::from_nanos(nanos).saturating_mul(2);
                    // A cluster's default of 0 or nearly so would close us at the first change.
                    self.new_leader_timeout = twice.max(self.config.timing.connect);
                }
                self.images.set_current(now, slot);
                self.leader = leader;
                self.state = State::Open {
                    session,
                    term,
                    leader,
                };
                self.keep_alive_at = now.plus(self.config.timing.keep_alive);
                self.tell(Event::Connected { session, leader });
            }
            EventCode::Redirect => {
                self.learn_endpoints(event.detail);
                match event
                    .leader
                    .filter(|leader| self.directory.contains(*leader))
                {
                    Some(leader) => {
                        self.tell(Event::Redirected { leader });
                        self.connect_to(now, leader);
                    }
                    None => self.try_next(now, member),
                }
            }
            EventCode::Error => {
                self.keep_detail(event.detail);
                self.closed(now, ClosedReason::Rejected);
            }
            EventCode::AuthenticationRejected => {
                self.keep_detail(event.detail);
                self.closed(now, ClosedReason::AuthenticationRejected);
            }
            EventCode::Closed => {
                self.keep_detail(event.detail);
                self.closed(now, ClosedReason::ByCluster);
            }
        }
    }

    fn handle_challenge(&mut self, now: Instant, challenge: &Challenge<'_>) {
        if let State::AwaitingReply {
            member,
            correlation,
        } = self.state
            && correlation == challenge.correlation
        {
            self.challenge = Vec::from_slice(challenge.challenge).unwrap_or_default();
            let session = challenge.session;
            self.state = State::Challenged { member, session };
            self.deadline = now.plus(self.config.timing.reply);
            self.tell(Event::Challenged);
        }
    }

    /// A leadership above ours has spoken: its stream is the leader's from now on, and a new stream
    /// to it takes the place, and the memory, of the one to the old leader.
    fn handle_new_leader(&mut self, now: Instant, slot: usize, event: &NewLeaderEvent<'_>) -> bool {
        let is_ours = self.state.session() == Some(event.session);
        if !is_ours || self.state.term().is_none_or(|term| event.term <= term) {
            return false;
        }
        self.learn_endpoints(event.ingress_endpoints);
        self.images.set_current(now, slot);
        self.publication = None;
        self.leader = event.leader;
        self.state = State::Joining {
            session: event.session,
            term: event.term,
            leader: event.leader,
        };
        self.deadline = now.plus(self.new_leader_timeout);
        self.retry_at = Some(now.plus(self.config.timing.connect));
        self.tell(Event::NewLeader {
            term: event.term,
            leader: event.leader,
        });
        true
    }

    fn send_connect_request(&mut self, now: Instant, member: MemberId, ingress: &mut [u8]) {
        let correlation = self.new_correlation();
        let request = SessionConnectRequest {
            correlation,
            response_stream_id: self.config.egress_stream_id,
            version: PROTOCOL_VERSION,
            response_channel: &self.config.egress_channel,
            credentials: &self.config.credentials,
            client_info: &[],
        };
        let mut bytes = [0; REQUEST_MAX];
        let len = request.emit(&mut bytes);
        if !len.is_some_and(|len| self.offer_control(bytes.get(..len).unwrap_or(&[]), ingress)) {
            // The stream is new and the request short, so it was taken, or the member has just
            // gone.
            return self.try_next(now, member);
        }
        self.state = State::AwaitingReply {
            member,
            correlation,
        };
        self.deadline = now.plus(self.config.timing.reply);
    }

    fn try_next(&mut self, now: Instant, member: MemberId) {
        self.tell(Event::Unanswered { member });
        self.directory.forget(member);
        let next = self.directory.next(Some(member)).unwrap_or(member);
        self.connect_to(now, next);
    }

    /// Begins with another member; after a round of all of them only after a pause.
    fn connect_to(&mut self, now: Instant, member: MemberId) {
        self.hops += 1;
        let mut start = now;
        if self.hops >= MEMBERS_MAX {
            self.hops = 0;
            start = now.plus(self.config.timing.retry);
        }
        self.publication = None;
        self.images.retire_all(now);
        self.retry_at = Some(start);
        self.state = State::Connecting { member };
        self.deadline = start.plus(self.config.timing.connect);
    }

    /// A new stream under a new session id: receivers tell streams apart by nothing else.
    fn open_publication(&mut self, now: Instant, target: SocketAddr, ingress: &mut [u8]) {
        let session_id = self.prng.next() as i32;
        let initial_term_id = self.prng.next() as i32;
        let config = self.publication_config(target, session_id, initial_term_id);
        // The same memory and numbers were good at construction.
        self.publication = Publication::new(now, &config, ingress.len()).ok();
    }

    fn is_leader_alive(&self, now: Instant) -> bool {
        let is_connected = self
            .publication
            .as_ref()
            .is_some_and(Publication::is_connected);
        is_connected && self.images.is_current_alive(now)
    }

    fn learn_endpoints(&mut self, list: &str) {
        // A list that cannot be read leaves what we know.
        if let Ok(endpoints) = Endpoints::parse(list) {
            self.directory.update(&endpoints);
        }
    }

    fn keep_detail(&mut self, detail: &str) {
        self.detail = String::new();
        for character in detail.chars() {
            if self.detail.push(character).is_err() {
                break;
            }
        }
    }

    fn new_correlation(&mut self) -> i64 {
        (self.prng.next() >> 1) as i64
    }

    fn closed(&mut self, now: Instant, reason: ClosedReason) {
        self.state = State::Closed(reason);
        self.retry_at = None;
        if let Some(publication) = &mut self.publication {
            publication.close(now);
        }
        self.images.close(now);
        self.tell(Event::Closed(reason));
    }
}
