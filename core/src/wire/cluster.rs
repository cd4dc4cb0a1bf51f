//! Aeron Cluster's own messages: schema 111, version 17.
//!
//! Clients and cluster talk in templates 1 to 8, 26 and 27; the log holds 1, 20 to 24. Offsets,
//! null values and codes are those of `aeron-cluster-codecs.xml`. Everything is borrowed from the
//! message.

mod code;
mod record;
mod request;
mod response;

pub use code::{
    AdminRequestType, AdminResponseCode, CloseReason, ClusterAction, EventCode, TimeUnit,
};
pub use record::{
    ClusterActionRequest, NewLeadershipTermEvent, SessionCloseEvent, SessionOpenEvent, TimerEvent,
};
pub use request::{
    AdminRequest, ChallengeResponse, ServiceMessage, SessionCloseRequest, SessionConnectRequest,
    SessionKeepAlive, SessionMessage, SessionMessageHeader,
};
pub use response::{AdminResponse, Challenge, NewLeaderEvent, SessionEvent};

use crate::units::{MemberId, Position, ServiceId, SessionId, Term};
use crate::wire::sbe::{HEADER, Header, Opened};
use crate::wire::{Reader, Reject, Writer};

/// The schema.
pub const SCHEMA_ID: u16 = 111;
/// The version of the schema that we write. Newer ones are read.
pub const SCHEMA_VERSION: u16 = 17;
/// The Aeron stream of ingress (Aeron: `INGRESS_STREAM_ID_DEFAULT`).
pub const INGRESS_STREAM_ID: i32 = 101;
/// The Aeron stream of egress (Aeron: `EGRESS_STREAM_ID_DEFAULT`).
pub const EGRESS_STREAM_ID: i32 = 102;
/// The Aeron stream of the log (Aeron: `LOG_STREAM_ID_DEFAULT`).
pub const LOG_STREAM_ID: i32 = 100;
/// The length of what precedes the payload of a session message, in bytes (Aeron:
/// `SESSION_HEADER_LENGTH`).
pub const SESSION_HEADER_LENGTH: usize = HEADER + SessionMessageHeader::BLOCK as usize;
const _: () = assert!(SESSION_HEADER_LENGTH == 32);

/// The version of the protocol between client and cluster that we speak: 0.3.0.
pub const PROTOCOL_VERSION: i32 = semantic_version(0, 3, 0);
/// "There is none", in identities that are not optional in the schema (Aeron: `NULL_VALUE`).
pub const NULL_VALUE: i64 = -1;

/// Packs a semantic version as Aeron does (`SemanticVersion.compose`).
pub const fn semantic_version(major: u8, minor: u8, patch: u8) -> i32 {
    ((major as i32) << 16) | ((minor as i32) << 8) | patch as i32
}

/// May a peer of protocol `version` talk to us? Only the major version decides (Aeron:
/// `ConsensusModuleAgent.onSessionConnect`). A null version, 0, is one.
pub const fn is_compatible(version: i32) -> bool {
    (version >> 16) & 0xff == (PROTOCOL_VERSION >> 16) & 0xff
}

/// Any of the messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Message<'a> {
    /// 1, of a client's session
    SessionMessage(SessionMessage<'a>),
    /// 1, offered into the log by a service
    ServiceMessage(ServiceMessage<'a>),
    /// 2
    SessionEvent(SessionEvent<'a>),
    /// 3
    SessionConnectRequest(SessionConnectRequest<'a>),
    /// 4
    SessionCloseRequest(SessionCloseRequest),
    /// 5
    SessionKeepAlive(SessionKeepAlive),
    /// 6
    NewLeaderEvent(NewLeaderEvent<'a>),
    /// 7
    Challenge(Challenge<'a>),
    /// 8
    ChallengeResponse(ChallengeResponse<'a>),
    /// 20
    TimerEvent(TimerEvent),
    /// 21
    SessionOpenEvent(SessionOpenEvent<'a>),
    /// 22
    SessionCloseEvent(SessionCloseEvent),
    /// 23
    ClusterActionRequest(ClusterActionRequest),
    /// 24
    NewLeadershipTermEvent(NewLeadershipTermEvent),
    /// 26
    AdminRequest(AdminRequest<'a>),
    /// 27
    AdminResponse(AdminResponse<'a>),
}

impl<'a> Message<'a> {
    /// Reads a whole message: SBE header, block and variable data.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::UnknownSchema`], [`Reject::UnknownTemplate`] (to be skipped),
    /// [`Reject::BlockLength`], [`Reject::VarData`], [`Reject::Text`], [`Reject::Enumerator`], and
    /// [`Reject::Value`] for a term, position, session or member that cannot be.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reject> {
        // Nearly all messages are a client's, of our version.
        match SessionMessage::quickly(bytes) {
            Some(message) => Ok(Self::SessionMessage(message)),
            None => Self::parse_any(bytes),
        }
    }

    #[inline(never)]
    fn parse_any(bytes: &'a [u8]) -> Result<Self, Reject> {
        let mut m = Opened::parse(bytes, SCHEMA_ID)?;
        let m = &mut m;
        Ok(match m.header.template {
            SessionMessageHeader::TEMPLATE => match ServiceMessage::read(m)? {
                Some(message) => Self::ServiceMessage(message),
                None => Self::SessionMessage(SessionMessage::read(m)?),
            },
            SessionEvent::TEMPLATE => Self::SessionEvent(SessionEvent::read(m)?),
            SessionConnectRequest::TEMPLATE => {
                Self::SessionConnectRequest(SessionConnectRequest::read(m)?)
            }
            SessionCloseRequest::TEMPLATE => {
                Self::SessionCloseRequest(SessionCloseRequest::read(m)?)
            }
            SessionKeepAlive::TEMPLATE => Self::SessionKeepAlive(SessionKeepAlive::read(m)?),
            NewLeaderEvent::TEMPLATE => Self::NewLeaderEvent(NewLeaderEvent::read(m)?),
            Challenge::TEMPLATE => Self::Challenge(Challenge::read(m)?),
            ChallengeResponse::TEMPLATE => Self::ChallengeResponse(ChallengeResponse::read(m)?),
            TimerEvent::TEMPLATE => Self::TimerEvent(TimerEvent::read(m)?),
            SessionOpenEvent::TEMPLATE => Self::SessionOpenEvent(SessionOpenEvent::read(m)?),
            SessionCloseEvent::TEMPLATE => Self::SessionCloseEvent(SessionCloseEvent::read(m)?),
            ClusterActionRequest::TEMPLATE => {
                Self::ClusterActionRequest(ClusterActionRequest::read(m)?)
            }
            NewLeadershipTermEvent::TEMPLATE => {
                Self::NewLeadershipTermEvent(NewLeadershipTermEvent::read(m)?)
            }
            AdminRequest::TEMPLATE => Self::AdminRequest(AdminRequest::read(m)?),
            AdminResponse::TEMPLATE => Self::AdminResponse(AdminResponse::read(m)?),
            _ => return Err(Reject::UnknownTemplate),
        })
    }

    /// Writes the whole message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        match self {
            Self::SessionMessage(message) => message.emit(out),
            Self::ServiceMessage(message) => message.emit(out),
            Self::SessionEvent(message) => message.emit(out),
            Self::SessionConnectRequest(message) => message.emit(out),
            Self::SessionCloseRequest(message) => message.emit(out),
            Self::SessionKeepAlive(message) => message.emit(out),
            Self::NewLeaderEvent(message) => message.emit(out),
            Self::Challenge(message) => message.emit(out),
            Self::ChallengeResponse(message) => message.emit(out),
            Self::TimerEvent(message) => message.emit(out),
            Self::SessionOpenEvent(message) => message.emit(out),
            Self::SessionCloseEvent(message) => message.emit(out),
            Self::ClusterActionRequest(message) => message.emit(out),
            Self::NewLeadershipTermEvent(message) => message.emit(out),
            Self::AdminRequest(message) => message.emit(out),
            Self::AdminResponse(message) => message.emit(out),
        }
    }
}

/// Starts a message of `template` whose block is `block` bytes.
fn open(out: &mut [u8], template: u16, block: u16) -> Writer<'_> {
    let mut writer = Writer::new(out);
    let header = Header {
        block_length: block,
        template,
        schema: SCHEMA_ID,
        version: SCHEMA_VERSION,
    };
    header.write(&mut writer);
    writer
}

fn read_term(block: &mut Reader<'_>) -> Result<Term, Reject> {
    Term::from_wire(block.i64()?).ok_or(Reject::Value)
}

fn read_session(block: &mut Reader<'_>) -> Result<SessionId, Reject> {
    SessionId::from_wire(block.i64()?).ok_or(Reject::Value)
}

fn read_position(block: &mut Reader<'_>) -> Result<Position, Reject> {
    Position::from_wire(block.i64()?).ok_or(Reject::Value)
}

fn read_service(block: &mut Reader<'_>) -> Result<ServiceId, Reject> {
    let number = u8::try_from(block.i32()?).map_err(|_| Reject::Value)?;
    ServiceId::new(number).ok_or(Reject::Value)
}

fn read_member(block: &mut Reader<'_>) -> Result<MemberId, Reject> {
    MemberId::from_wire(block.i32()?).ok_or(Reject::Value)
}

#[cfg(test)]
mod tests;
