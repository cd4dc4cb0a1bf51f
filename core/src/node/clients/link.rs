//! One egress connection: an attempt to connect, an open session, or an answer on its way out.

use core::net::SocketAddr;

use crate::session::connect::Refusal;
use crate::session::{Attempt, Challenge, Principal, Request};
use crate::stream::Publication;
use crate::time::Instant;
use crate::units::{Position, SessionId};
use crate::wire::cluster::CloseReason;

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Link {
    /// What the client asked for. Its correlation id is that of the client's newest question.
    pub request: Request,
    pub attempt: Attempt,
    pub stream: Stream,
    pub stage: Stage,
    /// When this stage has lasted too long. Does not count in `Appended` and `Open`.
    pub deadline: Instant,
}

/// The egress stream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "every slot has room for the largest"
)]
pub(super) enum Stream {
    /// The channel names a host. The driver is asked for its address, again after `retry_at`.
    Unresolved { asked: bool, retry_at: Instant },
    /// The address is known.
    Resolved(SocketAddr),
    /// There is a stream. `progress` is what was consumed when that last changed, and when.
    Ready {
        publication: Publication,
        progress: (Position, Instant),
        /// Whether its client had nothing to read when that was last looked at.
        was_read: bool,
    },
}

/// What an egress connection is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Stage {
    /// To say this, and leave.
    Answer(Answer),
    /// To say this, once; then the client has until the deadline to respond.
    Challenge { challenge: Challenge, said: bool },
    /// The client may open a session, as soon as its egress is connected and the log has room.
    Accepted { principal: Principal, bound: Bound },
    /// The open event is in the log and not committed.
    Appended { session: SessionId, bound: Bound },
    /// The session is open.
    Open(Live),
    /// All is said. The stream's end is announced until the deadline.
    Leaving { lingers: bool },
}

/// The last thing said to a client that gets no session here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Answer {
    Refused(Refusal),
    Redirect,
}

/// The ingress stream that a session is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Bound {
    pub serial: u64,
    pub address: SocketAddr,
    /// Where that stream is, as long as one with this serial number is there.
    pub slot: usize,
}

/// What only the leader knows about an open session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Live {
    pub session: SessionId,
    /// None after a change of leader, until the client is heard here for the first time.
    pub bound: Option<Bound>,
    /// What the client is to hear before anything else on this stream.
    pub greeting: Option<Greeting>,
    pub heard_at: Instant,
    /// Bytes of the session's messages that are appended and not applied: each may yet be answered.
    pub in_flight: u64,
    pub close: Close,
    /// A message to the client was lost: nothing follows it, or the client would not know.
    pub lost: bool,
}

/// The first words on an egress stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Greeting {
    /// "Your session is open": answers the connect request.
    Opened,
    /// "I lead now."
    NewLeader,
}

/// Where the end of a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Close {
    No,
    /// The log has yet to take the close event.
    Owed(CloseReason),
    /// It is in the log and not committed.
    Appended,
}

impl Link {
    pub(super) fn is_connected(&self) -> bool {
        self.publication().is_some_and(Publication::is_connected)
    }

    pub(super) fn publication(&self) -> Option<&Publication> {
        match &self.stream {
            Stream::Ready { publication, .. } => Some(publication),
            Stream::Unresolved { .. } | Stream::Resolved(_) => None,
        }
    }

    pub(super) fn publication_mut(&mut self) -> Option<&mut Publication> {
        match &mut self.stream {
            Stream::Ready { publication, .. } => Some(publication),
            Stream::Unresolved { .. } | Stream::Resolved(_) => None,
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Open(live) => Some(live),
            _ => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.stage {
            Stage::Open(live) => Some(live),
            _ => None,
        }
    }

    /// The ingress stream that the client of this link speaks on, if it has or gets a session.
    pub(super) fn bound(&self) -> Option<Bound> {
        match &self.stage {
            Stage::Accepted { bound, .. } | Stage::Appended { bound, .. } => Some(*bound),
            Stage::Open(live) => live.bound,
            Stage::Answer(_) | Stage::Challenge { .. } | Stage::Leaving { .. } => None,
        }
    }

    /// Is a session being opened here?
    pub(super) fn is_opening(&self) -> bool {
        matches!(
            self.stage,
            Stage::Challenge { .. } | Stage::Accepted { .. } | Stage::Appended { .. }
        )
    }

    /// May `poll_admit` have something to do here although nothing changes? What waits for the
    /// client to connect or to read is no such thing: its status message is a change.
    pub(super) fn owes(&self) -> bool {
        match &self.stage {
            _ if matches!(self.stream, Stream::Resolved(_)) => true,
            // Until a leader is known, or the log has room.
            Stage::Answer(_) | Stage::Accepted { .. } => self.is_connected(),
            Stage::Open(live) => matches!(live.close, Close::Owed(_)),
            Stage::Challenge { .. } | Stage::Appended { .. } | Stage::Leaving { .. } => false,
        }
    }

    /// Nothing more will be said. What was said is still delivered, until `deadline`.
    pub(super) fn leave(&mut self, now: Instant, deadline: Instant) {
        self.stage = Stage::Leaving { lingers: false };
        self.deadline = deadline;
        if let Some(publication) = self.publication_mut() {
            publication.close(now);
        }
    }

    /// Is the client's egress so full that no more of its messages should be taken? What is in
    /// flight counts in full, as if every message were echoed. An idle session's next message
    /// always passes.
    pub(super) fn is_half_full(&self) -> bool {
        let in_flight = self.live().map_or(0, |live| live.in_flight);
        self.in_flight_max().is_none_or(|most| in_flight > most)
    }

    /// How much may be in flight for another message to be taken; `None` if nothing may.
    #[inline]
    pub(super) fn in_flight_max(&self) -> Option<u64> {
        self.publication().map_or(Some(u64::MAX), |publication| {
            let half = u64::from(publication.window()) / 2;
            half.checked_sub(publication.pending())
        })
    }
}

impl Link {
    /// Has its client so much to read that a service which is behind had better wait? One that is
    /// lost, or closing, makes nobody wait.
    pub(super) fn is_reading(&self) -> bool {
        let is_open = |live: &Live| live.close == Close::No && !live.lost;
        self.live().is_some_and(is_open)
            && self
                .publication()
                .is_some_and(|p| p.pending() > u64::from(p.window()) / 2)
    }
}

impl Live {
    pub(super) fn new(session: SessionId, now: Instant, greeting: Greeting) -> Self {
        Self {
            session,
            bound: None,
            greeting: Some(greeting),
            heard_at: now,
            in_flight: 0,
            close: Close::No,
            lost: false,
        }
    }

    /// May a message of this session come from there? The first source after a change of leader
    /// may; a younger stream may take over from the same address; an older one never again, so that
    /// messages stay in the order in which they were sent.
    pub(super) fn bind(&mut self, from: Bound) -> bool {
        let allowed = self
            .bound
            .is_none_or(|b| b.address.ip() == from.address.ip() && b.serial <= from.serial);
        if allowed {
            self.bound = Some(from);
        }
        allowed
    }

    /// Is the stream with this serial number, which no other one ever has, that on which its client
    /// was heard last, and is the session not closing?
    #[inline(always)]
    pub(super) fn is_heard_on(&self, serial: u64) -> bool {
        self.close == Close::No && self.bound.is_some_and(|bound| bound.serial == serial)
    }

    /// Owes the log a close event, unless it is owed or there already.
    pub(super) fn owe_close(&mut self, reason: CloseReason) -> bool {
        let is_new = self.close == Close::No;
        if is_new {
            self.close = Close::Owed(reason);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_moves_to_a_younger_stream_of_the_same_address_only() {
        let id = SessionId::new(Position::new(32));
        let mut live = Live::new(id, Instant::default(), Greeting::Opened);
        let bound = |serial, last, port| Bound {
            serial,
            address: SocketAddr::from(([10, 0, 0, last], port)),
            slot: 0,
        };
        assert!(live.bind(bound(5, 1, 40)));
        assert!(!live.bind(bound(6, 2, 40)));
        assert!(live.bind(bound(7, 1, 41)));
        assert!(!live.bind(bound(5, 1, 40)));
        assert!(live.bind(bound(7, 1, 41)));
    }

    #[test]
    fn a_close_is_owed_once_with_its_first_reason() {
        let id = SessionId::new(Position::new(32));
        let mut live = Live::new(id, Instant::default(), Greeting::Opened);
        assert!(live.owe_close(CloseReason::Timeout));
        assert!(!live.owe_close(CloseReason::ClientAction));
        assert_eq!(live.close, Close::Owed(CloseReason::Timeout));
    }
}
