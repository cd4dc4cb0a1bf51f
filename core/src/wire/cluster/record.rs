//! The log's own records, beside session messages.

use super::{
    CloseReason, ClusterAction, TimeUnit, open, read_member, read_position, read_service,
    read_session, read_term,
};
use crate::time::Timestamp;
use crate::units::{MemberId, Position, ServiceId, SessionId, Term};
use crate::wire::Reject;
use crate::wire::sbe::{NULL_I32, Opened, write_var};

/// A timer has fired. Aeron's message, and behind it what Aeron's has no room for: whose timer it
/// is, and which arming of it (SBE lets a block grow at its end).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TimerEvent {
    /// The leadership that appended it.
    pub term: Term,
    /// Which timer.
    pub correlation: i64,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// The service that scheduled it.
    pub service: ServiceId,
    /// Which of that service's armings: a timer that is scheduled anew is armed anew.
    pub arming: u64,
}

impl TimerEvent {
    /// The template.
    pub const TEMPLATE: u16 = 20;
    /// The block in bytes: 24 are Aeron's.
    pub const BLOCK: u16 = 36;

    pub(super) fn read(m: &mut Opened<'_>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            correlation: m.block.i64()?,
            timestamp: Timestamp(m.block.i64()?),
            service: read_service(&mut m.block)?,
            arming: m.block.u64()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.correlation)
            .i64(self.timestamp.0)
            .i32(i32::from(self.service.get()))
            .u64(self.arming);
        writer.finish()
    }
}

/// A session is open from here on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionOpenEvent<'a> {
    /// The leadership that appended it.
    pub term: Term,
    /// The client's number for its connect request.
    pub correlation: i64,
    /// The session: the position of this record.
    pub session: SessionId,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// The stream of its egress.
    pub response_stream_id: i32,
    /// The channel of its egress.
    pub response_channel: &'a str,
    /// Who the client is, as the authenticator says.
    pub principal: &'a [u8],
}

impl<'a> SessionOpenEvent<'a> {
    /// The template.
    pub const TEMPLATE: u16 = 21;
    /// The block in bytes.
    pub const BLOCK: u16 = 36;

    pub(super) fn read(m: &mut Opened<'a>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            correlation: m.block.i64()?,
            session: read_session(&mut m.block)?,
            timestamp: Timestamp(m.block.i64()?),
            response_stream_id: m.block.i32()?,
            response_channel: m.var_ascii()?,
            principal: m.var_data()?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.correlation)
            .i64(self.session.to_wire())
            .i64(self.timestamp.0)
            .i32(self.response_stream_id);
        write_var(&mut writer, self.response_channel.as_bytes());
        write_var(&mut writer, self.principal);
        writer.finish()
    }
}

/// A session is closed from here on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionCloseEvent {
    /// The leadership that appended it.
    pub term: Term,
    /// The session.
    pub session: SessionId,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// Why.
    pub reason: CloseReason,
}

impl SessionCloseEvent {
    /// The template.
    pub const TEMPLATE: u16 = 22;
    /// The block in bytes.
    pub const BLOCK: u16 = 28;

    pub(super) fn read(m: &mut Opened<'_>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            session: read_session(&mut m.block)?,
            timestamp: Timestamp(m.block.i64()?),
            reason: CloseReason::from_wire(m.block.i32()?)?,
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.session.to_wire())
            .i64(self.timestamp.0)
            .i32(self.reason.to_wire());
        writer.finish()
    }
}

/// All members shall do something here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClusterActionRequest {
    /// The leadership that appended it.
    pub term: Term,
    /// The end of this record (Aeron: the position after it).
    pub position: Position,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// What.
    pub action: ClusterAction,
    /// Since version 11: 1 is a snapshot of standby members.
    pub flags: Option<i32>,
}

impl ClusterActionRequest {
    /// The template.
    pub const TEMPLATE: u16 = 23;
    /// The block in bytes.
    pub const BLOCK: u16 = 32;

    pub(super) fn read(m: &mut Opened<'_>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            position: read_position(&mut m.block)?,
            timestamp: Timestamp(m.block.i64()?),
            action: ClusterAction::from_wire(m.block.i32()?)?,
            flags: if m.since(11) {
                Some(m.block.i32()?).filter(|&flags| flags != NULL_I32)
            } else {
                None
            },
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.position.to_wire())
            .i64(self.timestamp.0)
            .i32(self.action.to_wire())
            .i32(self.flags.unwrap_or(NULL_I32));
        writer.finish()
    }
}

/// The first record of every leadership term.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NewLeadershipTermEvent {
    /// The leadership that begins.
    pub term: Term,
    /// The end of this record (Aeron: the position after it).
    pub position: Position,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// The start of this record.
    pub base: Position,
    /// Who leads.
    pub leader: MemberId,
    /// The session id of the term's log frames.
    pub log_session_id: i32,
    /// The unit of timestamps, since version 4; milliseconds if null.
    pub time_unit: TimeUnit,
    /// The application's version, since version 4; 0 if null.
    pub app_version: i32,
}

impl NewLeadershipTermEvent {
    /// The template.
    pub const TEMPLATE: u16 = 24;
    /// The block in bytes.
    pub const BLOCK: u16 = 48;

    pub(super) fn read(m: &mut Opened<'_>) -> Result<Self, Reject> {
        Ok(Self {
            term: read_term(&mut m.block)?,
            position: read_position(&mut m.block)?,
            timestamp: Timestamp(m.block.i64()?),
            base: read_position(&mut m.block)?,
            leader: read_member(&mut m.block)?,
            log_session_id: m.block.i32()?,
            time_unit: if m.since(4) {
                read_time_unit(m.block.i32()?)?
            } else {
                TimeUnit::Millis
            },
            app_version: if m.since(4) { m.block.i32()? } else { 0 },
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = open(out, Self::TEMPLATE, Self::BLOCK);
        writer
            .i64(self.term.to_wire())
            .i64(self.position.to_wire())
            .i64(self.timestamp.0)
            .i64(self.base.to_wire())
            .i32(i32::from(self.leader.get()))
            .i32(self.log_session_id)
            .i32(self.time_unit.to_wire())
            .i32(self.app_version);
        writer.finish()
    }
}

/// A null unit is milliseconds (Aeron: `ClusterClock.map`).
fn read_time_unit(number: i32) -> Result<TimeUnit, Reject> {
    if number == NULL_I32 {
        Ok(TimeUnit::Millis)
    } else {
        TimeUnit::from_wire(number)
    }
}
