//! What becomes of one whole message from a client.

use core::net::SocketAddr;

use crate::limits::CREDENTIALS_MAX;
use crate::log::{Log, append};
use crate::node::clients::admit::{Taken, Turn};
use crate::node::clients::answer::attempt_session;
use crate::node::clients::link::{Answer, Bound, Link, Stage};
use crate::node::clients::{Clients, Count, View};
use crate::session::connect::{Refusal, check};
use crate::session::{Attempt, Authenticator, Channel as ChannelText, Request, Verdict};
use crate::units::SessionId;
use crate::wire::Reject;
use crate::wire::channel::Channel;
use crate::wire::cluster::{
    AdminRequest, AdminResponseCode, ChallengeResponse, CloseReason, Message,
    SESSION_HEADER_LENGTH, SessionConnectRequest, SessionMessage, SessionMessageHeader,
};

impl<const N: usize> Clients<N> {
    /// Acts on a whole message, put together or in its window (`gathered` or not). Held and Full
    /// mean: nothing has changed, and it is to come again.
    pub(super) fn take_message<L: Log, A: Authenticator>(
        &mut self,
        bytes: &[u8],
        from: Bound,
        gathered: bool,
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        match Message::parse(bytes) {
            Ok(Message::SessionMessage(message)) => {
                return self.take_session_message(&message, from, gathered, turn);
            }
            Ok(Message::SessionConnectRequest(request)) => {
                return self.take_connect(&request, from, turn);
            }
            Ok(Message::ChallengeResponse(response)) => {
                self.take_challenge_response(&response, from, turn);
            }
            Ok(Message::SessionKeepAlive(alive)) => {
                self.recognise(turn, alive.term, alive.session, from);
            }
            Ok(Message::SessionCloseRequest(close)) => {
                if let Some(slot) = self.recognise(turn, close.term, close.session, from) {
                    if let Some(live) = self.links.get_mut(slot).and_then(Link::live_mut) {
                        live.owe_close(CloseReason::ClientAction);
                    }
                    self.append_close(slot, turn);
                }
            }
            Ok(Message::AdminRequest(request)) => {
                self.take_admin_request(&request, from, turn);
            }
            Ok(_) | Err(Reject::UnknownTemplate) => self.count(Count::MessageIgnored),
            Err(malformed) => {
                self.counters.count_malformed(malformed);
                self.count(Count::MessageMalformed);
            }
        }
        Taken::Yes
    }

    fn take_session_message<L: Log, A: Authenticator>(
        &mut self,
        message: &SessionMessage<'_>,
        from: Bound,
        gathered: bool,
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        let SessionMessageHeader { term, session, .. } = message.header;
        let Some(slot) = self.recognise(turn, term, session, from) else {
            return Taken::Yes;
        };
        let len = message.payload.len().saturating_add(SESSION_HEADER_LENGTH);
        if len > self.config.message_max {
            self.count(Count::MessageTooLong);
            self.say_too_long(slot, session, turn.egress);
            return Taken::Yes;
        }
        let cost = self.egress_cost(message.payload.len());
        let Some(link) = self.links.get_mut(slot) else {
            return Taken::Yes;
        };
        // One that was put together was let in at its first fragment, and holds a reassembly slot:
        // it must not wait for its client.
        if !gathered && link.is_half_full() {
            return Taken::Held;
        }
        let header = SessionMessageHeader {
            term,
            session,
            timestamp: turn.admission.timestamp,
        };
        let parts = [&header.to_bytes()[..], message.payload];
        match append(turn.log, term, &parts, self.config.log_mtu) {
            Ok(_) => {
                if let Some(live) = link.live_mut() {
                    live.in_flight = live.in_flight.saturating_add(cost);
                }
                self.count(Count::MessageAppended);
                Taken::Yes
            }
            // No room, or none that is known to follow what is there: the window closes.
            Err(error) => {
                self.refused(error);
                Taken::Full
            }
        }
    }

    /// An operator's request: whether it can be begun is known here, before it is in the log.
    fn take_admin_request<L: Log, A: Authenticator>(
        &mut self,
        request: &AdminRequest<'_>,
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) {
        let Some(slot) = self.recognise(turn, request.term, request.session, from) else {
            return;
        };
        let session = self.table.get(request.session);
        let principal = session.map(|s| s.principal.clone()).unwrap_or_default();
        let (code, message) = if !turn.auth.may_administer(&principal) {
            let text = "this session may not administer: see `admin` in the members' settings";
            (AdminResponseCode::UnauthorisedAccess, text)
        } else {
            match turn.admission.snapshot {
                Ok(()) => {
                    self.snapshot_asked = true;
                    (AdminResponseCode::Ok, "")
                }
                Err(text) => (AdminResponseCode::Error, text),
            }
        };
        self.say_admin(slot, request, code, message, turn.egress);
    }

    fn take_connect<L: Log, A: Authenticator>(
        &mut self,
        asked: &SessionConnectRequest<'_>,
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        let Some(request) = readable(asked) else {
            self.count(Count::ConnectUnanswerable);
            return Taken::Yes;
        };
        if self.is_repeated(&request, from, turn) {
            self.count(Count::ConnectRepeated);
            return Taken::Yes;
        }
        let Some(slot) = self.free_slot() else {
            return Taken::Held;
        };
        let attempt = Attempt {
            id: self.prng.next(),
            from: from.address,
        };
        let stage = match turn.admission.view {
            View::Leading if self.leading.is_some() => self.examine(asked, attempt, from, turn),
            View::Leading | View::Unknown => return Taken::Held,
            View::Following { .. } => {
                self.count(Count::ConnectRedirected);
                Stage::Answer(Answer::Redirect)
            }
        };
        self.connect(turn.now, slot, request, attempt, stage);
        Taken::Yes
    }

    /// Has this very request come before? If its session is open, its client is told once more;
    /// while it is being worked on, one answer is on its way already.
    fn is_repeated<L, A>(
        &mut self,
        request: &Request,
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) -> bool {
        let known = self.table.find(request).map(|session| session.id);
        if let Some((session, slot)) = known.and_then(|id| Some((id, self.serving(id)?))) {
            let live = self.links.get_mut(slot).and_then(Link::live_mut);
            let greets = live.is_some_and(|live| live.bind(from) && live.greeting.is_none());
            if greets {
                // If there is no room for it now, the client will ask again.
                let _unless_full =
                    self.say_opened(slot, session, turn.admission.endpoints, turn.egress);
            }
            return true;
        }
        let mut from = 0;
        while let Some((slot, link)) = self.next_connecting(from) {
            if link.request == *request {
                return true;
            }
            from = slot + 1;
        }
        false
    }

    /// How many sessions are being opened. Looks at every link that is being connected.
    fn opening(&mut self) -> usize {
        let (mut count, mut from) = (0, 0);
        while let Some((slot, link)) = self.next_connecting(from) {
            count += usize::from(link.is_opening());
            from = slot + 1;
        }
        count
    }

    fn examine<L: Log, A: Authenticator>(
        &mut self,
        asked: &SessionConnectRequest<'_>,
        attempt: Attempt,
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) -> Stage {
        let sessions = self.table.len() + self.opening();
        if let Err(refusal) = check(asked.version, sessions, self.session_limit()) {
            return self.refuse(refusal);
        }
        if asked.credentials.len() > CREDENTIALS_MAX {
            return self.refuse(Refusal::CredentialsTooLong);
        }
        let verdict = turn.auth.on_connect(attempt, asked.credentials);
        self.judge(verdict, from)
    }

    fn judge(&mut self, verdict: Verdict, bound: Bound) -> Stage {
        match verdict {
            Verdict::Accept(principal) => Stage::Accepted { principal, bound },
            Verdict::Challenge(challenge) => Stage::Challenge {
                challenge,
                said: false,
            },
            Verdict::Reject => self.refuse(Refusal::Authentication),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Stage {
        self.count(Count::ConnectRefused);
        Stage::Answer(Answer::Refused(refusal))
    }

    fn take_challenge_response<L: Log, A: Authenticator>(
        &mut self,
        response: &ChallengeResponse<'_>,
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) {
        let challenged = self.challenged(response.session);
        let Some((slot, attempt)) = challenged.filter(|_| self.term(turn).is_some()) else {
            self.count(Count::UnknownSession);
            return;
        };
        if attempt.from.ip() != from.address.ip() {
            self.count(Count::ForeignSource);
            return;
        }
        let stage = if response.credentials.len() > CREDENTIALS_MAX {
            self.refuse(Refusal::CredentialsTooLong)
        } else {
            let verdict = turn
                .auth
                .on_challenge_response(attempt, response.credentials);
            self.judge(verdict, from)
        };
        let deadline = turn.now.plus(self.config.connect_timeout);
        if let Some(link) = self.links.get_mut(slot) {
            // From now on the client waits for an answer to this, no more to its connect request.
            link.request.correlation_id = response.correlation;
            link.stage = stage;
            link.deadline = deadline;
        }
    }

    fn challenged(&mut self, session: SessionId) -> Option<(usize, Attempt)> {
        let mut from = 0;
        while let Some((slot, link)) = self.next_connecting(from) {
            let was_asked = matches!(link.stage, Stage::Challenge { said: true, .. });
            if was_asked && attempt_session(link.attempt.id) == session {
                return Some((slot, link.attempt));
            }
            from = slot + 1;
        }
        None
    }
}

/// What the client asks for, if there is a place that it could be answered at.
fn readable(asked: &SessionConnectRequest<'_>) -> Option<Request> {
    let channel = Channel::parse(asked.response_channel).ok()?;
    if channel.endpoint.port == 0 {
        return None;
    }
    let is_nowhere = |address: SocketAddr| address.ip().is_unspecified();
    if channel.endpoint.literal().is_some_and(is_nowhere) {
        return None;
    }
    Some(Request {
        correlation_id: asked.correlation,
        response_stream_id: asked.response_stream_id,
        response_channel: ChannelText::try_from(asked.response_channel).ok()?,
    })
}
