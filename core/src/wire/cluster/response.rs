//! What the cluster says to clients, beside session messages.

use super::{
    AdminRequestType, AdminResponseCode, EventCode, NULL_VALUE, open, read_member, read_session,
    read_term,
};
use crate::units::{MemberId, SessionId, Term};
use crate::wire::sbe::{NULL_I64, Opened, write_var};
use crate::wire::{Reader, Reject};

/// The answer to a connect request, or the end of a session.
///
/// Identities that a member may not know, such as the leader's, are `None`: -1 on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionEvent<'a> {
    /// The session.
    pub session: Option<SessionId>,
    /// The request that this answers.
    pub correlation: i64,
    /// The leadership.
    pub term: Option<Term>,
    /// Who leads.
    pub leader: Option<MemberId>,
    /// What has happened.
    pub code: EventCode,
    /// The cluster's protocol version, since version 6; else 0.
    pub version: i32,
    /// How long the leader may be silent, in nanoseconds, since version 13.
    pub leader_heartbeat_timeout_ns: Option<i64>,
    /// The members' ingress endpoints if the code is REDIRECT; else a message. Empty if the code is
    /// OK (Aeron: `ClusterSession.sendSessionOpenEvent`), though clients take anything there.
    pub detail: &'a str,
}

impl<'a> SessionEvent<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 2;
    /// The block in bytes.
    pub const BLOCK: u16 = 44;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            session: optional(m.block.i64()?, SessionId::from_wire)?,
            correlation: m.block.i64()?,
            term: optional(m.block.i64()?, Term::from_wire)?,
            leader: optional_member(&mut m.block)?,
            code: EventCode::from_wire(m.block.i32()?)?,
            version: if m.since(6) { m.block.i32()? } else { 0 },
            leader_heartbeat_timeout_ns: if m.since(13) {
                Some(m.block.i64()?).filter(|&timeout| timeout != NULL_I64)
            } else {
                None
            },
            detail: m.var_ascii()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.session.map_or(NULL_VALUE, SessionId::to_wire))
            .i64(self.correlation)
            .i64(self.term.map_or(NULL_VALUE, Term::to_wire))
            .i32(
                self.leader
                    .map_or(NULL_VALUE as i32, |leader| i32::from(leader.get())),
            )
            .i32(self.code.to_wire())
            .i32(self.version)
            .i64(self.leader_heartbeat_timeout_ns.unwrap_or(NULL_I64));
        write_var(&mut writer, self.detail.as_bytes());
        writer.finish()
    }
}

/// Tells every open session who leads now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NewLeaderEvent<'a> {
    /// The leadership.
    pub term: Term,
    /// The session.
    pub session: SessionId,
    /// Who leads.
    pub leader: MemberId,
    /// The members' ingress endpoints: see `wire::channel`.
    pub ingress_endpoints: &'a str,
}

impl<'a> NewLeaderEvent<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 6;
    /// The block in bytes.
    pub const BLOCK: u16 = 20;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            session: read_session(&mut m.block)?,
            leader: read_member(&mut m.block)?,
            ingress_endpoints: m.var_ascii()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.session.to_wire())
            .i32(i32::from(self.leader.get()));
        write_var(&mut writer, self.ingress_endpoints.as_bytes());
        writer.finish()
    }
}

/// "Prove who you are."
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Challenge<'a> {
    /// The request that this answers.
    pub correlation: i64,
    /// The session to name in the answer.
    pub session: SessionId,
    /// From the authenticator.
    pub challenge: &'a [u8],
}

impl<'a> Challenge<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 7;
    /// The block in bytes.
    pub const BLOCK: u16 = 16;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            correlation: m.block.i64()?,
            session: read_session(&mut m.block)?,
            challenge: m.var_data()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer.i64(self.correlation).i64(self.session.to_wire());
        write_var(&mut writer, self.challenge);
        writer.finish()
    }
}

/// The answer to an operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AdminResponse<'a> {
    /// The session.
    pub session: SessionId,
    /// The request that this answers.
    pub correlation: i64,
    /// What was asked for.
    pub request: AdminRequestType,
    /// The answer.
    pub code: AdminResponseCode,
    /// The answer in words; may be empty.
    pub message: &'a str,
    /// More about it; may be empty.
    pub payload: &'a [u8],
}

impl<'a> AdminResponse<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 27;
    /// The block in bytes.
    pub const BLOCK: u16 = 24;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            session: read_session(&mut m.block)?,
            correlation: m.block.i64()?,
            request: AdminRequestType::from_wire(m.block.i32()?)?,
            code: AdminResponseCode::from_wire(m.block.i32()?)?,
            message: m.var_ascii()?,
            payload: m.var_data()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.session.to_wire())
            .i64(self.correlation)
            .i32(self.request.to_wire())
            .i32(self.code.to_wire());
        write_var(&mut writer, self.message.as_bytes());
        write_var(&mut writer, self.payload);
        writer.finish()
    }
}

fn optional<T>(value: i64, from_wire: impl Fn(i64) -> Option<T>) -> Result<Option<T>, Reject> {
    if value == NULL_VALUE {
        return Ok(None);
    }
    from_wire(value).map(Some).ok_or(Reject::Value)
}

fn optional_member(block: &mut Reader<'_>) -> Result<Option<MemberId>, Reject> {
    let value = block.i32()?;
    optional(i64::from(value), |_| MemberId::from_wire(value))
}
