//! What is said to clients beside their services' messages.

use core::fmt::Write as _;

use crate::limits::ENDPOINTS_MAX;
use crate::node::clients::egress::is_temporary;
use crate::node::clients::link::{Answer, Greeting, Link, Stage};
use crate::node::clients::slots::share_mut;
use crate::node::clients::{Admission, Clients, View};
use crate::session::connect::Refusal;
use crate::time::Instant;
use crate::units::{MemberId, SessionId, Term};
use crate::wire::cluster::{
    AdminRequest, AdminResponse, AdminResponseCode, Challenge, CloseReason, EventCode, Message,
    NewLeaderEvent, PROTOCOL_VERSION, SessionEvent,
};
use crate::wire::sbe::{HEADER, VAR_LENGTH};

/// The longest of these messages in bytes: a session event with all endpoints.
const ANSWER_MAX: usize = HEADER + SessionEvent::BLOCK as usize + VAR_LENGTH + ENDPOINTS_MAX;

/// Whether something was said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Said {
    Yes,
    /// The stream takes nothing now.
    NotNow,
    /// It never will.
    Never,
}

impl<const N: usize> Clients<N> {
    /// Sends one of these messages on a link's stream.
    pub(super) fn say(&mut self, slot: usize, message: &Message<'_>, egress: &mut [u8]) -> Said {
        let mut buffer = [0; ANSWER_MAX];
        let written = message.emit(&mut buffer);
        let bytes = written.and_then(|written| buffer.get(..written));
        let publication = self.links.get_mut(slot).and_then(Link::publication_mut);
        let (Some(bytes), Some(publication)) = (bytes, publication) else {
            return Said::Never;
        };
        match publication.offer(&[bytes], share_mut(egress, slot, self.places)) {
            Ok(_) => Said::Yes,
            Err(error) if is_temporary(error) => Said::NotNow,
            Err(_) => Said::Never,
        }
    }

    fn event<'e>(&self, correlation: i64, code: EventCode, detail: &'e str) -> SessionEvent<'e> {
        // Without a leader a client waits for twice this, then it gives its session up: as late as
        // a new leader would. By our leader timeout it would not outlast two elections that fail.
        let timeout = (self.config.session_timeout / 2).as_nanos();
        SessionEvent {
            session: None,
            correlation,
            term: self.leading,
            leader: self.leading.map(|_| self.config.member),
            code,
            version: PROTOCOL_VERSION,
            leader_heartbeat_timeout_ns: i64::try_from(timeout).ok(),
            detail,
        }
    }

    /// The last words to a client that gets no session here. Then the stream ends.
    pub(super) fn say_answer(
        &mut self,
        now: Instant,
        slot: usize,
        answer: Answer,
        admission: &Admission<'_>,
        egress: &mut [u8],
    ) {
        let Some(link) = self.links.get(slot) else {
            return;
        };
        let correlation = link.request.correlation_id;
        let (code, detail) = match answer {
            Answer::Refused(Refusal::Authentication) => (
                EventCode::AuthenticationRejected,
                Refusal::Authentication.text(),
            ),
            Answer::Refused(refusal) => (EventCode::Error, refusal.text()),
            Answer::Redirect => (EventCode::Redirect, admission.endpoints),
        };
        let mut event = self.event(correlation, code, detail);
        if answer == Answer::Redirect {
            let Some((leader, term)) = self.leader(admission) else {
                return;
            };
            event.leader = Some(leader);
            event.term = Some(term);
        }
        if self.say(slot, &Message::SessionEvent(event), egress) != Said::NotNow {
            self.leave(now, slot);
        }
    }

    fn leader(&self, admission: &Admission<'_>) -> Option<(MemberId, Term)> {
        match admission.view {
            View::Following { leader, term } => Some((leader, term)),
            View::Leading => Some((self.config.member, self.leading?)),
            View::Unknown => None,
        }
    }

    /// The first words on an open session's stream.
    pub(super) fn say_greeting(&mut self, slot: usize, endpoints: &str, egress: &mut [u8]) {
        let live = self.links.get(slot).and_then(Link::live).copied();
        let Some((live, greeting)) = live.and_then(|live| Some((live, live.greeting?))) else {
            return;
        };
        let said = match greeting {
            Greeting::Opened => self.say_opened(slot, live.session, endpoints, egress),
            Greeting::NewLeader => {
                let Some(term) = self.leading else {
                    return;
                };
                let message = Message::NewLeaderEvent(NewLeaderEvent {
                    term,
                    session: live.session,
                    leader: self.config.member,
                    ingress_endpoints: endpoints,
                });
                self.say(slot, &message, egress)
            }
        };
        match said {
            Said::Yes => {
                if let Some(live) = self.links.get_mut(slot).and_then(Link::live_mut) {
                    live.greeting = None;
                }
            }
            Said::NotNow => {}
            Said::Never => self.overflow(slot),
        }
    }

    /// "Your session is open."
    pub(super) fn say_opened(
        &mut self,
        slot: usize,
        session: SessionId,
        endpoints: &str,
        egress: &mut [u8],
    ) -> Said {
        let mut event = self.event(self.correlation(slot), EventCode::Ok, endpoints);
        event.session = Some(session);
        self.say(slot, &Message::SessionEvent(event), egress)
    }

    /// Asks the client to prove who it is. It answers with this attempt's number as its session.
    pub(super) fn say_challenge(&mut self, slot: usize, egress: &mut [u8]) {
        let Some(link) = self.links.get(slot) else {
            return;
        };
        let Stage::Challenge { challenge, .. } = &link.stage else {
            return;
        };
        let challenge = challenge.clone();
        let message = Message::Challenge(Challenge {
            correlation: link.request.correlation_id,
            session: attempt_session(link.attempt.id),
            challenge: &challenge,
        });
        if self.say(slot, &message, egress) == Said::Yes
            && let Some(link) = self.links.get_mut(slot)
            && let Stage::Challenge { said, .. } = &mut link.stage
        {
            *said = true;
        }
    }

    /// Tells an open session's client that a message of its was refused. If there is no room for
    /// that, the session ends: a refusal is never silent.
    pub(super) fn say_too_long(&mut self, slot: usize, session: SessionId, egress: &mut [u8]) {
        let mut text = heapless::String::<96>::new();
        let limit = self.config.message_max;
        let fits = write!(
            text,
            "message refused: longer than {limit} bytes with its header"
        );
        let text = if fits.is_ok() {
            text.as_str()
        } else {
            "message refused: too long"
        };
        let correlation = self.correlation(slot);
        let mut event = self.event(correlation, EventCode::Error, text);
        event.session = Some(session);
        if self.say(slot, &Message::SessionEvent(event), egress) != Said::Yes {
            self.overflow(slot);
        }
    }

    /// Tells a client that its session is closed. It may be gone: nothing depends on this.
    pub(super) fn say_closed(
        &mut self,
        slot: usize,
        session: SessionId,
        reason: CloseReason,
        egress: &mut [u8],
    ) {
        let detail = match reason {
            CloseReason::ClientAction => "CLIENT_ACTION",
            CloseReason::ServiceAction => "SERVICE_ACTION",
            CloseReason::Timeout => "TIMEOUT",
        };
        let correlation = self.correlation(slot);
        let mut event = self.event(correlation, EventCode::Closed, detail);
        event.session = Some(session);
        let _said_if_there_was_room = self.say(slot, &Message::SessionEvent(event), egress);
    }

    /// Administration goes through the operator's own tools, not through a session.
    pub(super) fn say_admin(
        &mut self,
        slot: usize,
        request: &AdminRequest<'_>,
        code: AdminResponseCode,
        message: &str,
        egress: &mut [u8],
    ) {
        let response = AdminResponse {
            session: request.session,
            correlation: request.correlation,
            request: request.request,
            code,
            message,
            payload: &[],
        };
        if self.say(slot, &Message::AdminResponse(response), egress) != Said::Yes {
            self.overflow(slot);
        }
    }

    fn correlation(&self, slot: usize) -> i64 {
        let link = self.links.get(slot);
        link.map_or(0, |link| link.request.correlation_id)
    }
}

/// What stands for a session before there is one: a session id is a position, and this attempt has
/// none yet, so a random number that fits.
pub(super) fn attempt_session(attempt: u64) -> SessionId {
    SessionId::new(crate::units::Position::new(attempt >> 2))
}
