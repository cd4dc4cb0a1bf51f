//! The client half of a cluster: one session, over one stream to the leader and one back.
//!
//! ```text
//!  Connecting -> AwaitingReply -> Open <-> AwaitingNewLeader
//!      ^  ^          |    ^        ^  \        |
//!      |  +-redirect-+    |        |   \       | a new leader speaks
//!      +--no answer--+    |     Joining <------+
//!                  Challenged                     any of them -> Closing -> Closed
//! ```
//!
//! The same shape as a node: facts go in through `handle_*`, what is owed comes out of `poll_*`,
//! time is an argument, and memory is lent to each call ([`Lent`]). A driver calls, in each turn,
//! `handle_datagram` for what has arrived (and before it, if it likes, `take_egress`),
//! `handle_timeout`, `poll_egress` until it is empty, `poll_resolve`, and `poll_transmit` until it
//! is empty; then it sleeps until `poll_timeout`.
//!
//! **The client never sends a message twice.** One that was offered to a leader that was then lost,
//! and was not answered, is of unknown outcome, and only the application knows whether to offer it
//! again.

mod config;
mod directory;
mod egress;
mod session;
#[cfg(test)]
mod tests;

use core::net::SocketAddr;

use heapless::{String, Vec};

pub use config::{
    ClientConfig, ClientError, ClientTiming, ClosedReason, Egress, Event, Lent, OfferError,
    Offered, Resolve, State, Transmit,
};

use crate::limits::CREDENTIALS_MAX;
use crate::prng::Prng;
use crate::stream::{self, Output, Publication, PublicationConfig, Ring};
use crate::time::Instant;
use crate::units::MemberId;
use crate::wire::channel::{Channel, Endpoints};
use crate::wire::cluster::{
    AdminRequest, AdminRequestType, SessionKeepAlive, SessionMessage, SessionMessageHeader,
};
use crate::wire::frame::{Frame, parse_datagram};
use crate::wire::{Reject, frame};
use directory::Directory;
use egress::Images;

/// Streams from the cluster at one time: the leader's, and another's while leaders change.
pub const EGRESS_IMAGES: usize = 2;
/// Events that wait at most.
pub const EVENTS_MAX: usize = 8;
/// The longest text of a refusal that is kept, in bytes.
pub const DETAIL_MAX: usize = 96;

/// One session of a cluster, or the attempt to open it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Client {
    config: ClientConfig,
    prng: Prng,
    state: State,
    /// The last leader that was heard of, for when it comes back.
    leader: MemberId,
    /// When the state's patience ends.
    deadline: Instant,
    /// When connecting: not before then; none once begun. When joining: when the leader's name is
    /// looked up again; none once there is a stream.
    retry_at: Option<Instant>,
    /// When opening a session is given up.
    open_by: Instant,
    /// Members asked since the last pause.
    hops: usize,
    directory: Directory,
    publication: Option<Publication>,
    images: Images,
    keep_alive_at: Instant,
    new_leader_timeout: core::time::Duration,
    events: Vec<Event, EVENTS_MAX>,
    detail: String<DETAIL_MAX>,
    challenge: Vec<u8, CREDENTIALS_MAX>,
}

impl Client {
    /// A client that begins to connect, to a member that the seed chooses. `lent` is only measured.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(now: Instant, config: ClientConfig, lent: &Lent<'_>) -> Result<Self, ClientError> {
        Channel::parse(&config.egress_channel).map_err(|_| ClientError::EgressChannel)?;
        let endpoints = Endpoints::parse(&config.ingress_endpoints)
            .map_err(|_| ClientError::IngressEndpoints)?;
        let directory = Directory::new(&endpoints);
        let mut prng = Prng::new(config.seed);
        let start = MemberId::new(prng.below(crate::limits::MEMBERS_MAX as u64) as u8);
        let member = directory.next(start).ok_or(ClientError::IngressEndpoints)?;
        // The smallest MTU that a member could have; a larger one is checked when it says so.
        Ring::fit(
            egress::slot_length(lent.egress),
            crate::limits::MTU_MIN,
            u32::MAX,
        )
        .ok_or(ClientError::Egress)?;
        let receiver_id = prng.next() as i64;
        let images = Images::new(config.egress_stream_id, receiver_id, config.timing.image);
        let client = Self {
            state: State::Connecting { member },
            leader: member,
            deadline: now.plus(config.timing.connect),
            retry_at: Some(now),
            open_by: now.plus(config.timing.open),
            hops: 0,
            directory,
            publication: None,
            images,
            keep_alive_at: now,
            new_leader_timeout: config.timing.new_leader,
            events: Vec::new(),
            detail: String::new(),
            challenge: Vec::new(),
            prng,
            config,
        };
        let trial = client.publication_config(SocketAddr::from(([127, 0, 0, 1], 1)), 0, 0);
        Publication::new(now, &trial, lent.ingress.len()).map_err(|_| ClientError::Ingress)?;
        Ok(client)
    }

    /// A datagram has arrived on the socket that our egress channel names. Bounded by its length.
    ///
    /// # Errors
    /// [`Reject`] if it is no frame of Aeron's. What is well formed and not for us is ignored.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<(), Reject> {
        match parse_datagram(datagram)? {
            Frame::Data(data) => self.images.handle_data(now, from, &data, lent.egress),
            Frame::Setup(setup) => {
                // A client that is closed reads no new stream.
                if !matches!(self.state, State::Closed(_))
                    && let Err(reject) = self.images.handle_setup(now, from, &setup, lent.egress)
                {
                    self.tell(Event::Incompatible(reject));
                }
            }
            Frame::StatusMessage(status) => {
                if let Some(publication) = &mut self.publication {
                    let _foreign = publication.handle_status(now, &status);
                }
            }
            Frame::Nak(nak) => {
                if let Some(publication) = &mut self.publication {
                    let _foreign = publication.handle_nak(now, &nak, lent.ingress);
                }
            }
            Frame::Rttm(rttm) if rttm.stream_id == self.config.egress_stream_id => {
                self.images.handle_rttm(from, &rttm);
            }
            Frame::Rttm(rttm) => {
                if let Some(publication) = &mut self.publication {
                    publication.handle_rttm(&rttm);
                }
            }
            Frame::Error(error) => {
                let publication = self.publication.as_ref();
                if publication.is_some_and(|p| p.is(error.stream_id, error.session_id)) {
                    self.handle_rejected_stream(now);
                }
            }
        }
        self.step(now, lent.ingress);
        Ok(())
    }

    /// The first message of a datagram, where it lies: if this is the next of the leader's stream,
    /// nothing waits for [`Self::poll_egress`] before it, and the message is whole and for the
    /// application. Then `datagram` is what is behind it. Ask until `None`, and give what is left,
    /// if anything is, to `handle_datagram`.
    ///
    /// So payload is copied to the stream's window only if it has to wait there. Who takes messages
    /// later than datagrams does not call this. A constant number of steps.
    #[inline]
    pub fn take_egress<'d>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &mut &'d [u8],
    ) -> Option<Egress<'d>> {
        let State::Open { session, .. } = self.state else {
            return None;
        };
        let (carried, rest) = self.images.first(from, datagram)?;
        let SessionMessage { header, payload } = SessionMessage::quickly(carried)?;
        if header.session != session {
            return None;
        }
        self.images.pass(now, datagram.len() - rest.len());
        *datagram = rest;
        Some(Egress::Message {
            timestamp: header.timestamp,
            term: header.term,
            payload,
        })
    }

    /// Time has passed. A constant number of steps.
    pub fn handle_timeout(&mut self, now: Instant, lent: &mut Lent<'_>) {
        self.step(now, lent.ingress);
    }

    /// The answer to `poll_resolve`; `None` if the name is unknown.
    pub fn handle_resolved(&mut self, member: MemberId, address: Option<SocketAddr>) {
        self.directory.resolved(member, address);
    }

    /// Sends the message that the parts are together to the leader. All of it or nothing.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn offer(
        &mut self,
        now: Instant,
        parts: &[&[u8]],
        lent: &mut Lent<'_>,
    ) -> Result<Offered, OfferError> {
        let (session, term) = match self.state {
            State::Open { session, term, .. } => (session, term),
            State::Closing | State::Closed(_) => return Err(OfferError::Closed),
            _ => return Err(OfferError::NotConnected),
        };
        let header = SessionMessageHeader {
            term,
            session,
            timestamp: crate::time::Timestamp(0),
        };
        let publication = self.publication.as_mut().ok_or(OfferError::NotConnected)?;
        let lengths = parts.iter().map(|part| part.len());
        let len = lengths.fold(SESSION_HEADER, usize::saturating_add);
        let position = publication
            .offer_headed(header.to_words(), parts, len, lent.ingress)
            .map_err(refused)?;
        self.keep_alive_at = now.plus(self.config.timing.keep_alive);
        Ok(Offered { term, position })
    }

    /// Asks the cluster to take a snapshot; the answer is an [`Egress::AdminResponse`] with the
    /// same correlation. The cluster may not let this session administer.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn request_snapshot(
        &mut self,
        now: Instant,
        correlation: i64,
        lent: &mut Lent<'_>,
    ) -> Result<Offered, OfferError> {
        let (session, term) = match self.state {
            State::Open { session, term, .. } => (session, term),
            State::Closing | State::Closed(_) => return Err(OfferError::Closed),
            _ => return Err(OfferError::NotConnected),
        };
        let request = AdminRequest {
            term,
            session,
            correlation,
            request: AdminRequestType::Snapshot,
            payload: &[],
        };
        let mut bytes = [0; 64];
        let len = request.emit(&mut bytes).ok_or(OfferError::TooLong)?;
        let publication = self.publication.as_mut().ok_or(OfferError::NotConnected)?;
        let parts = [bytes.get(..len).unwrap_or_default()];
        let position = publication.offer(&parts, lent.ingress).map_err(refused)?;
        self.keep_alive_at = now.plus(self.config.timing.keep_alive);
        Ok(Offered { term, position })
    }

    /// Answers a challenge. Nothing happens unless the state is `Challenged` and there is room to
    /// send; true if it was sent.
    pub fn respond(&mut self, now: Instant, credentials: &[u8], lent: &mut Lent<'_>) -> bool {
        self.answer_challenge(now, credentials, lent.ingress)
    }

    /// Ends the session. What was offered is still sent, for as long as `ClientTiming::close`.
    pub fn close(&mut self, now: Instant, lent: &mut Lent<'_>) {
        self.begin_close(now, lent.ingress);
    }

    /// The next thing that the cluster says to the application. This also drives the session: a
    /// client that is not asked does not open. At most all fragments that have arrived.
    pub fn poll_egress<'l>(&mut self, now: Instant, lent: &'l mut Lent<'_>) -> Option<Egress<'l>> {
        let Lent {
            ingress,
            egress,
            assembly,
        } = lent;
        let memory: &'l [u8] = egress;
        loop {
            let (slot, found) = self.images.next(memory, assembly)?;
            let len = match found {
                egress::Found::InPlace(bytes) => {
                    let said = self.handle_message(now, slot, bytes);
                    self.step(now, ingress);
                    if said.is_some() {
                        return said;
                    }
                    continue;
                }
                egress::Found::Assembled(len) => len,
            };
            let bytes = assembly.get(..len).unwrap_or(&[]);
            let is_for_application = self.handle_message(now, slot, bytes).is_some();
            self.step(now, ingress);
            if is_for_application {
                return session::reread(assembly.get(..len).unwrap_or(&[]));
            }
        }
    }

    /// The next datagram to send. Ask until `None`.
    pub fn poll_transmit<'l>(&mut self, now: Instant, lent: &'l Lent<'_>) -> Option<Transmit<'l>> {
        if let Some((to, control)) = self.images.poll_transmit(now) {
            let payload = Output::Control(control);
            return Some(Transmit { to, payload });
        }
        let publication = self.publication.as_mut()?;
        let payload = publication.poll_transmit(now, lent.ingress)?;
        let to = publication.target();
        Some(Transmit { to, payload })
    }

    /// A name to look up, if one is needed now; each is given once.
    pub fn poll_resolve(&mut self) -> Option<Resolve<'_>> {
        let member = match self.state {
            State::Connecting { member } => member,
            State::Joining { leader, .. } => leader,
            _ => return None,
        };
        let endpoint = self.directory.ask(member)?;
        Some(Resolve { member, endpoint })
    }

    /// What has happened; the oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        (!self.events.is_empty()).then(|| self.events.remove(0))
    }

    /// When to call `handle_timeout` and `poll_transmit`, if nothing happens before. None once
    /// closed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Closed(_) => return None,
            State::Open { .. } => Some(self.keep_alive_at),
            State::AwaitingNewLeader { .. } | State::Joining { .. } | State::Closing => {
                Some(self.deadline)
            }
            _ => Some(self.deadline.min(self.open_by)),
        };
        let publication = self
            .publication
            .as_ref()
            .and_then(Publication::poll_timeout);
        let streams = [
            state,
            self.retry_at,
            publication,
            self.images.poll_timeout(),
        ];
        streams.into_iter().flatten().min()
    }

    /// Where the client stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the cluster refused, in its words; cut to [`DETAIL_MAX`].
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the cluster challenges us with, in the state `Challenged`.
    pub fn challenge(&self) -> &[u8] {
        &self.challenge
    }

    /// The longest message that may be offered, in bytes; 0 without a stream to the cluster.
    pub fn message_max(&self) -> usize {
        let longest = self.publication.as_ref().map(Publication::message_max);
        longest.map_or(0, |max| max.saturating_sub(SESSION_HEADER))
    }

    /// How many bytes of stream were offered and, as far as is known, not yet taken by the leader.
    pub fn pending(&self) -> u64 {
        self.publication.as_ref().map_or(0, Publication::pending)
    }

    fn publication_config(
        &self,
        target: SocketAddr,
        session_id: i32,
        initial_term_id: i32,
    ) -> PublicationConfig {
        PublicationConfig {
            target,
            stream_id: self.config.ingress_stream_id,
            session_id,
            initial_term_id,
            segment_length: self.config.segment_length,
            mtu: self.config.mtu,
            timing: self.config.timing.publication,
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.is_full() {
            self.events.remove(0);
        }
        // There is room: the oldest was just taken out.
        let _room = self.events.push(event);
    }

    /// Sends a keep-alive if one is due.
    fn keep_alive(&mut self, now: Instant, ingress: &mut [u8]) {
        let State::Open { session, term, .. } = self.state else {
            return;
        };
        if now < self.keep_alive_at {
            return;
        }
        let mut bytes = [0; 32];
        let message = SessionKeepAlive { term, session };
        let sent = message
            .emit(&mut bytes)
            .is_some_and(|len| self.offer_control(bytes.get(..len).unwrap_or(&[]), ingress));
        // Without room for it the stream is busy, and will be again soon.
        let period = self.config.timing.keep_alive;
        let wait = if sent { period } else { period / 8 };
        self.keep_alive_at = now.plus(wait);
    }

    fn offer_control(&mut self, message: &[u8], ingress: &mut [u8]) -> bool {
        self.publication
            .as_mut()
            .is_some_and(|publication| publication.offer(&[message], ingress).is_ok())
    }
}

const SESSION_HEADER: usize = crate::wire::cluster::SESSION_HEADER_LENGTH;
const _: () = assert!(frame::align(SESSION_HEADER) == SESSION_HEADER);

const fn refused(error: stream::OfferError) -> OfferError {
    match error {
        // A stream at its last position is as good as lost, and will be replaced.
        stream::OfferError::NotConnected | stream::OfferError::Closed => OfferError::NotConnected,
        stream::OfferError::BackPressured => OfferError::BackPressured,
        stream::OfferError::TooLong => OfferError::TooLong,
    }
}
