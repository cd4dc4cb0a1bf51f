//! What a client is told, and what it says back.

use core::net::SocketAddr;
use core::time::Duration;

use heapless::{String, Vec};

use crate::limits::{CHANNEL_MAX, CREDENTIALS_MAX, ENDPOINTS_MAX, MTU_DEFAULT};
use crate::stream::{ImageTiming, Output, PublicationTiming, SetupReject};
use crate::time::Timestamp;
use crate::units::{MemberId, Position, SessionId, Term};
use crate::wire::cluster::{AdminResponseCode, EGRESS_STREAM_ID, INGRESS_STREAM_ID};

/// How long a client waits for what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClientTiming {
    /// For one member to answer our stream, name look-up included; then the next one is tried.
    pub connect: Duration,
    /// For the answer to a connect request; then the next member is tried.
    pub reply: Duration,
    /// For a session to open, all members and redirects together; then the client is closed.
    pub open: Duration,
    /// Between keep-alives while no message is sent (Aeron: `KEEP_ALIVE_INTERVAL`, 1 s).
    pub keep_alive: Duration,
    /// For word of a new leader after the old one was lost (Aeron: `newLeaderTimeout`, 20 s). If
    /// the cluster states a leader timeout, twice that counts instead: Coracle's members state half
    /// of their session timeout, so that no client gives up a session that they still keep.
    pub new_leader: Duration,
    /// For a close request to be delivered.
    pub close: Duration,
    /// Between two rounds over all members, and between redirects that lead in circles.
    pub retry: Duration,
    /// Of the streams from the cluster.
    pub image: ImageTiming,
    /// Of the stream to the cluster.
    pub publication: PublicationTiming,
}

impl ClientTiming {
    /// Fit for a network without much delay.
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(1),
        reply: Duration::from_secs(3),
        open: Duration::from_secs(30),
        keep_alive: Duration::from_secs(1),
        new_leader: Duration::from_secs(20),
        close: Duration::from_secs(1),
        retry: Duration::from_millis(100),
        image: ImageTiming::DEFAULT,
        publication: PublicationTiming::DEFAULT,
    };
}

impl Default for ClientTiming {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a client is told at its construction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClientConfig {
    /// The channel that the cluster shall answer on: where our own socket can be reached, such as
    /// `aeron:udp?endpoint=192.0.2.1:20001`.
    pub egress_channel: String<CHANNEL_MAX>,
    /// The stream that the cluster shall answer on.
    pub egress_stream_id: i32,
    /// The stream that the cluster listens on.
    pub ingress_stream_id: i32,
    /// The members' ingress endpoints: `0=host:port,1=host:port,...`.
    pub ingress_endpoints: String<ENDPOINTS_MAX>,
    /// For the cluster's authenticator; empty if it asks for none.
    pub credentials: Vec<u8, CREDENTIALS_MAX>,
    /// The answer to a challenge, if it is known beforehand; else see [`super::Client::respond`].
    pub challenge_credentials: Option<Vec<u8, CREDENTIALS_MAX>>,
    /// The length of a segment (Aeron's term buffer) of the stream to the cluster, in bytes: at
    /// least eight times the longest message.
    pub segment_length: u32,
    /// The longest datagram to the cluster, in bytes: a multiple of 32.
    pub mtu: u32,
    /// Every client needs its own, and a new one after each restart: session ids of streams are
    /// drawn from it, and the cluster takes two streams of one session id for one.
    pub seed: u64,
    /// How long to wait for what.
    pub timing: ClientTiming,
}

impl ClientConfig {
    /// The usual streams and times. `None` if a text is too long.
    pub fn new(egress_channel: &str, ingress_endpoints: &str, seed: u64) -> Option<Self> {
        Some(Self {
            egress_channel: String::try_from(egress_channel).ok()?,
            egress_stream_id: EGRESS_STREAM_ID,
            ingress_stream_id: INGRESS_STREAM_ID,
            ingress_endpoints: String::try_from(ingress_endpoints).ok()?,
            credentials: Vec::new(),
            challenge_credentials: None,
            segment_length: 1 << 20,
            mtu: MTU_DEFAULT as u32,
            seed,
            timing: ClientTiming::DEFAULT,
        })
    }
}

/// The memory of a client, lent to every call that needs it; always the same, or a copy.
#[derive(Debug)]
pub struct Lent<'a> {
    /// A window and an MTU of ours: `stream::slot_len`. Holds messages until the cluster has them.
    pub ingress: &'a mut [u8],
    /// [`super::EGRESS_IMAGES`] equal slots, each a window and an MTU of the cluster's. Holds
    /// messages until `poll_egress` has returned them.
    pub egress: &'a mut [u8],
    /// The longest fragmented message from the cluster, with its header of 32 bytes.
    pub assembly: &'a mut [u8],
}

/// Why there is no such client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ClientError {
    /// The egress channel is not one of UDP with an endpoint.
    EgressChannel,
    /// The ingress endpoints are not a list of endpoints.
    IngressEndpoints,
    /// The segment length or the MTU is none, or the ingress memory is too small for them.
    Ingress,
    /// The egress memory is too small for any stream.
    Egress,
}

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ClosedReason {
    /// `Client::close` was called.
    ByClient,
    /// The cluster closed the session: it timed out, was too slow, or a service wanted it so.
    ByCluster,
    /// The cluster refused the session: see `Client::detail`.
    Rejected,
    /// The cluster refused the credentials.
    AuthenticationRejected,
    /// No session could be opened in `ClientTiming::open`.
    NoAnswer,
    /// The leader was lost, and no other has spoken in time.
    NoLeader,
}

/// Where a client stands. Its time limits are moments of the clock that `now` comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum State {
    /// Waits for that member to answer our stream.
    Connecting {
        /// The member.
        member: MemberId,
    },
    /// Has asked that member for a session.
    AwaitingReply {
        /// The member.
        member: MemberId,
        /// The number of the request.
        correlation: i64,
    },
    /// That member wants proof of who we are: see `Client::respond`.
    Challenged {
        /// The member.
        member: MemberId,
        /// The session to be.
        session: SessionId,
    },
    /// Messages may be offered.
    Open {
        /// The session.
        session: SessionId,
        /// The leadership.
        term: Term,
        /// Who leads.
        leader: MemberId,
    },
    /// The leader was lost. The session lives on, and waits to hear of another.
    AwaitingNewLeader {
        /// The session.
        session: SessionId,
        /// The leadership that was lost.
        term: Term,
    },
    /// Another leader has spoken, and has yet to answer our new stream to it.
    Joining {
        /// The session.
        session: SessionId,
        /// The leadership.
        term: Term,
        /// Who leads.
        leader: MemberId,
    },
    /// A close request is on its way.
    Closing,
    /// For good. A new client is needed for a new session.
    Closed(ClosedReason),
}

impl State {
    /// The session, if there is one.
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Open { session, .. }
            | Self::AwaitingNewLeader { session, .. }
            | Self::Joining { session, .. } => Some(*session),
            _ => None,
        }
    }

    /// The leadership that the session is in.
    pub const fn term(&self) -> Option<Term> {
        match self {
            Self::Open { term, .. }
            | Self::AwaitingNewLeader { term, .. }
            | Self::Joining { term, .. } => Some(*term),
            _ => None,
        }
    }
}

/// What has happened: for logs and metrics; at most `EVENTS_MAX` wait, then the oldest is lost.
/// `Client::state` is the truth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Event {
    /// The session is open.
    Connected {
        /// The session.
        session: SessionId,
        /// Who leads.
        leader: MemberId,
    },
    /// A member that does not lead named the one that does.
    Redirected {
        /// Who leads.
        leader: MemberId,
    },
    /// A member did not answer in time.
    Unanswered {
        /// The member.
        member: MemberId,
    },
    /// A member wants proof of who we are: see `Client::challenge`.
    Challenged,
    /// Another leader has spoken. Messages offered before and not answered are of unknown outcome.
    NewLeader {
        /// The leadership.
        term: Term,
        /// Who leads.
        leader: MemberId,
    },
    /// The leader was lost.
    Disconnected,
    /// The lost leader came back, in the same leadership; nothing was lost.
    Reconnected,
    /// The cluster reports an error of the session: see `Client::detail`.
    Error,
    /// A member's stream does not fit the egress memory, or is none.
    Incompatible(SetupReject),
    /// It is over.
    Closed(ClosedReason),
}

/// Why a message was not taken. Nothing of it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OfferError {
    /// No session yet, or no leader at the moment: see `Client::state`. Try again later.
    NotConnected,
    /// The cluster takes no more at the moment. Try again after its next answers.
    BackPressured,
    /// Longer than `Client::message_max`: never try again.
    TooLong,
    /// It is over.
    Closed,
}

/// A message that was taken: it will be sent, to that leader and no other.
///
/// If it is not answered when `Egress::NewLeader` comes, its outcome is unknown; the client never
/// sends a message again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Offered {
    /// The leadership that it is for.
    pub term: Term,
    /// Where it ends in the stream to that leader: grows from message to message of one leadership.
    pub position: Position,
}

/// What the cluster says to the application, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Egress<'l> {
    /// A message.
    Message {
        /// When the leader appended what this answers.
        timestamp: Timestamp,
        /// The leadership.
        term: Term,
        /// The application's bytes.
        payload: &'l [u8],
    },
    /// Another leader. What was offered before and not answered by now is of unknown outcome: no
    /// answer to it will come. Every message from here on answers what is offered from here on.
    NewLeader {
        /// The leadership.
        term: Term,
        /// Who leads.
        leader: MemberId,
    },
    /// The answer to `Client::request_snapshot`.
    AdminResponse {
        /// The number of the request.
        correlation: i64,
        /// Whether it is begun.
        code: AdminResponseCode,
        /// Why not, in words.
        message: &'l str,
    },
}

/// A datagram to send.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Transmit<'l> {
    /// Where to.
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    pub to: SocketAddr,
    /// What.
    pub payload: Output<'l>,
}

/// A name to look up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Resolve<'c> {
    /// Whose; to be given back with the answer.
    pub member: MemberId,
    /// `host:port`.
    pub endpoint: &'c str,
}
