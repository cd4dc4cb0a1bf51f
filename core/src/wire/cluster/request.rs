//! What clients say to the cluster, and the header of session messages in every direction.

use super::{
    AdminRequestType, SCHEMA_ID, SCHEMA_VERSION, SESSION_HEADER_LENGTH, open, read_session,
    read_term,
};
use crate::time::Timestamp;
use crate::units::{ServiceMessageId, SessionId, Term};
use crate::wire::Reject;
use crate::wire::frame::{from_words, words};
use crate::wire::sbe::{Opened, write_var};

/// Precedes an application's bytes, in ingress, log and egress alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionMessageHeader {
    /// The leadership that the message is meant for, or was appended in.
    pub term: Term,
    /// The session.
    pub session: SessionId,
    /// When the leader appended it; whatever the client likes in ingress.
    pub timestamp: Timestamp,
}

impl SessionMessageHeader {
    /// The template.
    pub const TEMPLATE: u16 = 1;
    /// The block in bytes.
    pub const BLOCK: u16 = 24;

    /// One of a client in our own version, and nothing wrong with it; else `None`, which says
    /// nothing.
    #[inline]
    pub(crate) fn quickly(header: &[u8; SESSION_HEADER_LENGTH]) -> Option<Self> {
        let [sbe, term, session, timestamp] = words(header);
        if sbe != Self::SBE {
            return None;
        }
        Some(Self {
            term: Term::from_wire(term as i64)?,
            session: SessionId::from_wire(session as i64)?,
            timestamp: Timestamp(timestamp as i64),
        })
    }

    /// Writes SBE header and block, [`SESSION_HEADER_LENGTH`] bytes; the payload follows them.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        *out.first_chunk_mut()? = self.to_bytes();
        Some(SESSION_HEADER_LENGTH)
    }

    /// The same bytes as an array.
    #[inline]
    pub fn to_bytes(&self) -> [u8; SESSION_HEADER_LENGTH] {
        from_words(self.to_words())
    }

    /// The same as little-endian words.
    #[inline(always)]
    pub(crate) fn to_words(self) -> [u64; SESSION_HEADER_LENGTH / 8] {
        let (term, session) = (self.term.to_wire(), self.session.to_wire());
        [
            Self::SBE,
            term as u64,
            session as u64,
            self.timestamp.0 as u64,
        ]
    }

    /// Of a message that starts with such a header: another timestamp.
    #[inline(always)]
    pub(crate) fn set_timestamp(message: &mut [u8], timestamp: Timestamp) {
        if let Some(header) = message.first_chunk_mut::<SESSION_HEADER_LENGTH>() {
            header[24..].copy_from_slice(&timestamp.0.to_le_bytes());
        }
    }

    /// Its SBE header: block length, template, schema and version.
    pub(crate) const SBE: u64 = {
        let [b0, b1] = Self::BLOCK.to_le_bytes();
        let [t0, t1] = Self::TEMPLATE.to_le_bytes();
        let [s0, s1] = SCHEMA_ID.to_le_bytes();
        let [v0, v1] = SCHEMA_VERSION.to_le_bytes();
        u64::from_le_bytes([b0, b1, t0, t1, s0, s1, v0, v1])
    };
}

/// A session message: header and the application's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionMessage<'a> {
    /// The header.
    pub header: SessionMessageHeader,
    /// The application's bytes.
    pub payload: &'a [u8],
}

impl<'a> SessionMessage<'a> {
    /// As [`SessionMessageHeader::quickly`], with what follows it.
    #[inline]
    pub(crate) fn quickly(bytes: &'a [u8]) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk()?;
        let header = SessionMessageHeader::quickly(header)?;
        Some(Self { header, payload })
    }

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        let header = SessionMessageHeader {
            term: read_term(&mut m.block)?,
            session: read_session(&mut m.block)?,
            timestamp: Timestamp(m.block.i64()?),
        };
        Ok(Self {
            header,
            payload: m.tail.rest(),
        })
    }

    /// Writes header and payload.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let at = self.header.emit(out)?;
        let end = at.checked_add(self.payload.len())?;
        out.get_mut(at..end)?.copy_from_slice(self.payload);
        Some(end)
    }
}

/// A message that a service has offered into the log: a session message whose session id is that of
/// a service (Aeron: `ConsensusModuleAgent.onServiceMessage`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ServiceMessage<'a> {
    /// The leadership that appended it.
    pub term: Term,
    /// Whose, and which.
    pub id: ServiceMessageId,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// The service's bytes.
    pub payload: &'a [u8],
}

impl<'a> ServiceMessage<'a> {
    /// `None`, and nothing is consumed, if the session is a client's.
    pub(super) fn read(m: &mut Opened<'a>) -> Result<Option<Self>, Reject> {
        let mut block = m.block.clone();
        let term = read_term(&mut block)?;
        let session = block.i64()?;
        if session >= 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            term,
            id: ServiceMessageId::from_wire(session).ok_or(Reject::Value)?,
            timestamp: Timestamp(block.i64()?),
            payload: m.tail.rest(),
        }))
    }

    /// What precedes the payload.
    pub fn header(&self) -> [u8; SESSION_HEADER_LENGTH] {
        let mut bytes = [0; SESSION_HEADER_LENGTH];
        let mut writer = open(
            &mut bytes,
            SessionMessageHeader::TEMPLATE,
            SessionMessageHeader::BLOCK,
        );
        writer
            .i64(self.term.to_wire())
            .i64(self.id.to_wire())
            .i64(self.timestamp.0);
        let written = writer.finish();
        assert!(written == Some(SESSION_HEADER_LENGTH), "of fixed length");
        bytes
    }

    /// Writes header and payload.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let header = self.header();
        let end = header.len().checked_add(self.payload.len())?;
        let (head, tail) = out.get_mut(..end)?.split_at_mut(header.len());
        head.copy_from_slice(&header);
        tail.copy_from_slice(self.payload);
        Some(end)
    }
}

/// "Open a session for me."
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionConnectRequest<'a> {
    /// The client's number for this request.
    pub correlation: i64,
    /// The stream that it expects its egress on.
    pub response_stream_id: i32,
    /// Its protocol version (see [`super::is_compatible`]); 0 if it is older than that field.
    pub version: i32,
    /// The channel that it expects its egress on.
    pub response_channel: &'a str,
    /// For the authenticator.
    pub credentials: &'a [u8],
    /// Free words of the client about itself, since version 14. Not checked to be text.
    pub client_info: &'a [u8],
}

impl<'a> SessionConnectRequest<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 3;
    /// The block in bytes.
    pub const BLOCK: u16 = 16;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            correlation: m.block.i64()?,
            response_stream_id: m.block.i32()?,
            version: if m.since(2) { m.block.i32()? } else { 0 },
            response_channel: m.var_ascii()?,
            credentials: m.var_data()?,
            client_info: if m.since(14) { m.var_data()? } else { &[] },
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.correlation)
            .i32(self.response_stream_id)
            .i32(self.version);
        write_var(&mut writer, self.response_channel.as_bytes());
        write_var(&mut writer, self.credentials);
        write_var(&mut writer, self.client_info);
        writer.finish()
    }
}

/// "Close my session."
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionCloseRequest {
    /// The leadership that the message is meant for.
    pub term: Term,
    /// The session.
    pub session: SessionId,
}

impl SessionCloseRequest {
    /// The template.
    pub const TEMPLATE: u16 = 4;
    /// The block in bytes.
    pub const BLOCK: u16 = 16;

    pub(super) fn read(m: &mut Opened<'_>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            session: read_session(&mut m.block)?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer.i64(self.term.to_wire()).i64(self.session.to_wire());
        writer.finish()
    }
}

/// "I am alive; keep my session open."
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionKeepAlive {
    /// The leadership that the message is meant for.
    pub term: Term,
    /// The session.
    pub session: SessionId,
}

impl SessionKeepAlive {
    /// The template.
    pub const TEMPLATE: u16 = 5;
    /// The block in bytes.
    pub const BLOCK: u16 = 16;

    pub(super) fn read(m: &mut Opened<'_>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            session: read_session(&mut m.block)?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer.i64(self.term.to_wire()).i64(self.session.to_wire());
        writer.finish()
    }
}

/// The answer to a challenge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ChallengeResponse<'a> {
    /// The client's number for this answer.
    pub correlation: i64,
    /// The session that was named in the challenge.
    pub session: SessionId,
    /// For the authenticator.
    pub credentials: &'a [u8],
}

impl<'a> ChallengeResponse<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 8;
    /// The block in bytes.
    pub const BLOCK: u16 = 16;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            correlation: m.block.i64()?,
            session: read_session(&mut m.block)?,
            credentials: m.var_data()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer.i64(self.correlation).i64(self.session.to_wire());
        write_var(&mut writer, self.credentials);
        writer.finish()
    }
}

/// An operator asks for something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AdminRequest<'a> {
    /// The leadership that the message is meant for.
    pub term: Term,
    /// The session.
    pub session: SessionId,
    /// The client's number for this request.
    pub correlation: i64,
    /// What it asks for.
    pub request: AdminRequestType,
    /// More about it; may be empty.
    pub payload: &'a [u8],
}

impl<'a> AdminRequest<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 26;
    /// The block in bytes.
    pub const BLOCK: u16 = 28;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            session: read_session(&mut m.block)?,
            correlation: m.block.i64()?,
            request: AdminRequestType::from_wire(m.block.i32()?)?,
            payload: m.var_data()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.session.to_wire())
            .i64(self.correlation)
            .i32(self.request.to_wire());
        write_var(&mut writer, self.payload);
        writer.finish()
    }
}
