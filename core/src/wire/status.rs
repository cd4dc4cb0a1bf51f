//! How a member answers "how are you?": our own query and report, each one DATA frame on stream
//! 109.
//!
//! The answer needs no state and is never longer than the question, so that it cannot be turned on
//! a third party whose address was forged (RFC 4732 section 2.5, amplification).

use crate::limits::{FRAME_HEADER, SERVICES_MAX};
use crate::units::{ClusterId, Incarnation, MemberId, Position, Term};
use crate::wire::cluster::NULL_VALUE;
use crate::wire::frame::{DataFrame, DataHeader, Kind, align};
use crate::wire::member::{SCHEMA_ID, SCHEMA_VERSION, SettingSet};
use crate::wire::sbe::{HEADER, Header, Opened};
use crate::wire::{Reader, Reject, Writer};

/// The stream of status queries and reports.
pub const STATUS_STREAM_ID: i32 = 109;

const QUERY_TEMPLATE: u16 = 200;
const REPORT_TEMPLATE: u16 = 201;
const QUERY_BLOCK: u16 = 16;
const REPORT_BLOCK: u16 = 152 + 8 * SERVICES_MAX as u16;
const FLAG_VOTES: u32 = 1;
const FLAG_SERVICE_READY: u32 = 1 << 1;
const FLAG_QUARANTINED: u32 = 1 << 2;
const FLAG_LOG_FULL: u32 = 1 << 3;

/// The length of a query and of a report, as a whole aligned frame, in bytes.
pub const STATUS_LENGTH: usize = align(FRAME_HEADER + HEADER + REPORT_BLOCK as usize);
const _: () = assert!(
    QUERY_BLOCK < REPORT_BLOCK,
    "a query is padded, a report is not"
);
// RFC 791: every host takes a datagram of 576 bytes; at most 60 are IPv4's header and 8 are UDP's.
const _: () = assert!(STATUS_LENGTH <= 576 - 60 - 8);

/// What a member is at the moment (Aeron: `Cluster.Role`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Role {
    /// Follows a leader, or looks for one.
    Follower = 0,
    /// Stands for election.
    Candidate = 1,
    /// Leads.
    Leader = 2,
}

impl Role {
    /// The role with Aeron's number for it.
    ///
    /// # Errors
    /// [`Reject::Enumerator`].
    pub const fn from_wire(number: i32) -> Result<Self, Reject> {
        match number {
            0 => Ok(Self::Follower),
            1 => Ok(Self::Candidate),
            2 => Ok(Self::Leader),
            _ => Err(Reject::Enumerator),
        }
    }

    /// Aeron's number for this role.
    pub const fn to_wire(self) -> i32 {
        self as i32
    }
}

/// "How are you?"
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StatusQuery {
    /// Comes back in the report.
    pub correlation: u64,
}

impl StatusQuery {
    /// Writes the query as one whole frame of [`STATUS_LENGTH`] bytes.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let payload = STATUS_LENGTH - FRAME_HEADER;
        let header = DataHeader::message(0, STATUS_STREAM_ID, payload)?;
        let mut writer = Writer::new(out.get_mut(..STATUS_LENGTH)?);
        header.write(&mut writer);
        sbe_header(QUERY_TEMPLATE, QUERY_BLOCK).write(&mut writer);
        writer.u64(self.correlation).u64(0);
        writer.zeros(payload - HEADER - usize::from(QUERY_BLOCK));
        writer.finish()
    }

    /// Reads a frame of the status stream.
    ///
    /// # Errors
    /// [`Reject::Stream`], [`Reject::Fragment`]; [`Reject::Amplification`] if the frame is shorter
    /// than a report; [`Reject::Short`], [`Reject::UnknownSchema`], [`Reject::UnknownTemplate`],
    /// [`Reject::BlockLength`].
    pub fn parse_frame(frame: &DataFrame<'_>) -> Result<Self, Reject> {
        let mut opened = open(frame, QUERY_TEMPLATE)?;
        if frame.header.aligned_len() < STATUS_LENGTH {
            return Err(Reject::Amplification);
        }
        let correlation = opened.block.u64()?;
        opened.block.u64()?;
        Ok(Self { correlation })
    }
}

/// "This is how I am."
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StatusReport {
    /// The query's.
    pub correlation: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The life of the member's data directory.
    pub incarnation: Incarnation,
    /// The member.
    pub member: MemberId,
    /// What it is at the moment.
    pub role: Role,
    /// Its current term.
    pub term: Term,
    /// Who leads, if it knows.
    pub leader: Option<MemberId>,
    /// How many client sessions are open.
    pub sessions: u32,
    /// The oldest byte of its log that it still has.
    pub start: Position,
    /// The end of its log.
    pub appended: Position,
    /// What it has flushed.
    pub durable: Position,
    /// What it knows to be committed.
    pub commit: Position,
    /// What its service has executed.
    pub applied: Position,
    /// The digest of its replicated state at `applied`.
    pub digest: u64,
    /// How many bytes of log it has room for past `appended`.
    pub window: u32,
    /// How many times it has seen a new leadership since its start.
    pub leaderships: u32,
    /// How many datagrams it has refused since its start.
    pub rejects: u64,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Whether it may vote.
    pub votes: bool,
    /// Whether its service takes messages at the moment.
    pub service_ready: bool,
    /// Whether its state was found to differ from the others': it must not lead until it is
    /// rebuilt.
    pub quarantined: bool,
    /// Whether its log is full, with no snapshot on its disk that makes room.
    pub log_full: bool,
    /// By which settings it differs from its leader, and therefore does not join it.
    pub settings_differ: SettingSet,
    /// Its newest snapshot.
    pub snapshot: Option<Position>,
    /// For how long bytes of the log have waited for its disk, in milliseconds; 0 if none do.
    pub flush_age_ms: u32,
    /// For how long its slowest service has not moved although there is something to execute.
    pub service_age_ms: u32,
    /// What each service has executed, by its number.
    pub services: [Option<Position>; SERVICES_MAX],
    /// The newest position since its start at which it was to take a snapshot, and has none.
    pub snapshot_failed: Option<Position>,
}

impl StatusReport {
    /// Writes the report as one whole frame of [`STATUS_LENGTH`] bytes.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let payload = HEADER + usize::from(REPORT_BLOCK);
        let session_id = i32::from(self.member.get());
        let header = DataHeader::message(session_id, STATUS_STREAM_ID, payload)?;
        let mut writer = Writer::new(out.get_mut(..STATUS_LENGTH)?);
        header.write(&mut writer);
        sbe_header(REPORT_TEMPLATE, REPORT_BLOCK).write(&mut writer);
        let leader = self
            .leader
            .map_or(NULL_VALUE as i32, |id| i32::from(id.get()));
        let votes = if self.votes { FLAG_VOTES } else { 0 };
        let ready = if self.service_ready {
            FLAG_SERVICE_READY
        } else {
            0
        };
        let quarantined = if self.quarantined {
            FLAG_QUARANTINED
        } else {
            0
        };
        let full = if self.log_full { FLAG_LOG_FULL } else { 0 };
        writer
            .u64(self.correlation)
            .u64(self.cluster.0)
            .u64(self.incarnation.0)
            .i32(session_id)
            .u32(votes | ready | quarantined | full)
            .i64(self.term.to_wire())
            .i32(self.role.to_wire())
            .i32(leader)
            .i64(self.start.to_wire())
            .i64(self.appended.to_wire())
            .i64(self.durable.to_wire())
            .i64(self.commit.to_wire())
            .i64(self.applied.to_wire())
            .u64(self.digest)
            .u32(self.window)
            .u32(self.sessions)
            .u32(self.leaderships)
            .u32(self.settings_differ.to_wire())
            .u64(self.rejects)
            .u64(self.uptime_ms)
            .i64(optional(self.snapshot))
            .u32(self.flush_age_ms)
            .u32(self.service_age_ms);
        for applied in self.services {
            writer.i64(optional(applied));
        }
        writer.i64(optional(self.snapshot_failed));
        writer.zeros(STATUS_LENGTH - FRAME_HEADER - payload);
        writer.finish()
    }

    /// Reads a frame of the status stream.
    ///
    /// # Errors
    /// [`Reject::Stream`], [`Reject::Fragment`], [`Reject::Short`], [`Reject::UnknownSchema`],
    /// [`Reject::UnknownTemplate`], [`Reject::BlockLength`], [`Reject::Enumerator`],
    /// [`Reject::Value`].
    pub fn parse_frame(frame: &DataFrame<'_>) -> Result<Self, Reject> {
        let mut block = open(frame, REPORT_TEMPLATE)?.block;
        let correlation = block.u64()?;
        let cluster = ClusterId(block.u64()?);
        let incarnation = Incarnation(block.u64()?);
        let member = MemberId::from_wire(block.i32()?).ok_or(Reject::Value)?;
        let flags = block.u32()?;
        let term = Term::from_wire(block.i64()?).ok_or(Reject::Value)?;
        let role = Role::from_wire(block.i32()?)?;
        let leader = read_leader(&mut block)?;
        let start = read_position(&mut block)?;
        let appended = read_position(&mut block)?;
        let durable = read_position(&mut block)?;
        let commit = read_position(&mut block)?;
        let applied = read_position(&mut block)?;
        let digest = block.u64()?;
        let window = block.u32()?;
        let sessions = block.u32()?;
        let leaderships = block.u32()?;
        let settings_differ = SettingSet::from_wire(block.u32()?);
        let (rejects, uptime_ms) = (block.u64()?, block.u64()?);
        let snapshot = read_optional(&mut block)?;
        let (flush_age_ms, service_age_ms) = (block.u32()?, block.u32()?);
        let mut services = [None; SERVICES_MAX];
        for applied in &mut services {
            *applied = read_optional(&mut block)?;
        }
        let snapshot_failed = read_optional(&mut block)?;
        Ok(Self {
            correlation,
            cluster,
            incarnation,
            member,
            role,
            term,
            leader,
            sessions,
            start,
            appended,
            durable,
            commit,
            applied,
            digest,
            window,
            leaderships,
            rejects,
            uptime_ms,
            votes: flags & FLAG_VOTES != 0,
            service_ready: flags & FLAG_SERVICE_READY != 0,
            quarantined: flags & FLAG_QUARANTINED != 0,
            log_full: flags & FLAG_LOG_FULL != 0,
            settings_differ,
            snapshot,
            flush_age_ms,
            service_age_ms,
            services,
            snapshot_failed,
        })
    }
}

const fn sbe_header(template: u16, block_length: u16) -> Header {
    Header {
        block_length,
        template,
        schema: SCHEMA_ID,
        version: SCHEMA_VERSION,
    }
}

fn open<'a>(frame: &DataFrame<'a>, template: u16) -> Result<Opened<'a>, Reject> {
    if frame.header.stream_id != STATUS_STREAM_ID {
        return Err(Reject::Stream);
    }
    if frame.header.kind != Kind::Data || !frame.header.is_whole() {
        return Err(Reject::Fragment);
    }
    let opened = Opened::parse(frame.payload(), SCHEMA_ID)?;
    if opened.header.template == template {
        Ok(opened)
    } else {
        Err(Reject::UnknownTemplate)
    }
}

fn read_position(block: &mut Reader<'_>) -> Result<Position, Reject> {
    Position::from_wire(block.i64()?).ok_or(Reject::Value)
}

fn optional(position: Option<Position>) -> i64 {
    position.map_or(NULL_VALUE, Position::to_wire)
}

fn read_optional(block: &mut Reader<'_>) -> Result<Option<Position>, Reject> {
    match block.i64()? {
        NULL_VALUE => Ok(None),
        number => Position::from_wire(number).map(Some).ok_or(Reject::Value),
    }
}

fn read_leader(block: &mut Reader<'_>) -> Result<Option<MemberId>, Reject> {
    let number = block.i32()?;
    if i64::from(number) == NULL_VALUE {
        return Ok(None);
    }
    MemberId::from_wire(number).map(Some).ok_or(Reject::Value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Datagram;
    use crate::wire::golden::{damage, golden, newer, shorter};

    const QUERY: StatusQuery = StatusQuery {
        correlation: 0xAB_CDEF,
    };

    fn report() -> StatusReport {
        let mut services = [None; SERVICES_MAX];
        services[0] = Some(Position::new(3168));
        services[9] = Some(Position::new(3136));
        StatusReport {
            correlation: 0xAB_CDEF,
            cluster: ClusterId(0xC0_FFEE),
            incarnation: Incarnation(1),
            member: MemberId::new(2).expect("in range"),
            role: Role::Leader,
            term: Term::new(5),
            leader: MemberId::new(2),
            sessions: 12,
            start: Position::new(64),
            appended: Position::new(9600),
            durable: Position::new(9568),
            commit: Position::new(3200),
            applied: Position::new(3168),
            digest: 0xFEDC_BA98_7654_3210,
            window: 65_536,
            leaderships: 3,
            rejects: 7,
            uptime_ms: 86_400_000,
            votes: true,
            service_ready: true,
            quarantined: true,
            log_full: false,
            settings_differ: SettingSet::from_wire(1 << 2 | 1 << 8),
            snapshot: Some(Position::new(1024)),
            snapshot_failed: Some(Position::new(2048)),
            flush_age_ms: 4,
            service_age_ms: 250,
            services,
        }
    }

    fn read<T>(
        bytes: &[u8],
        parse: impl Fn(&DataFrame<'_>) -> Result<T, Reject>,
    ) -> Result<T, Reject> {
        let datagram = Datagram::parse(bytes)?;
        parse(&datagram.frames().next().ok_or(Reject::Short)?)
    }

    #[test]
    fn golden_query_and_report_are_read_and_written() {
        let mut out = [0xee; STATUS_LENGTH];
        let bytes = golden!("status_query");
        assert_eq!(read(&bytes, StatusQuery::parse_frame), Ok(QUERY));
        assert_eq!(QUERY.emit(&mut out), Some(STATUS_LENGTH));
        assert_eq!(bytes, out);
        let bytes = golden!("status_report");
        assert_eq!(read(&bytes, StatusReport::parse_frame), Ok(report()));
        assert_eq!(report().emit(&mut out), Some(STATUS_LENGTH));
        assert_eq!(bytes, out);
        assert_eq!(report().emit(&mut out[1..]), None);
        assert_eq!(QUERY.emit(&mut out[1..]), None);
    }

    #[test]
    fn no_answer_is_longer_than_its_question() {
        let bytes = golden!("status_query");
        let mut short = bytes[..STATUS_LENGTH - 32].to_vec();
        short[..4].copy_from_slice(&(STATUS_LENGTH as i32 - 32).to_le_bytes());
        let rejected = read(&short, StatusQuery::parse_frame);
        assert_eq!(rejected, Err(Reject::Amplification));
    }

    #[test]
    fn a_member_that_knows_no_leader_says_so() {
        let lost = StatusReport {
            leader: None,
            role: Role::Candidate,
            votes: false,
            snapshot: None,
            log_full: true,
            ..report()
        };
        let mut out = [0; STATUS_LENGTH];
        lost.emit(&mut out).expect("fits");
        assert_eq!(read(&out, StatusReport::parse_frame), Ok(lost));
    }

    #[test]
    fn damaged_reports_are_rejects_or_mean_what_they_are_read_as() {
        damage(&golden!("status_report"), |damaged| {
            if let Ok(report) = read(damaged, StatusReport::parse_frame) {
                let mut out = [0; STATUS_LENGTH];
                report.emit(&mut out).expect("fits");
                assert_eq!(read(&out, StatusReport::parse_frame), Ok(report));
            }
        });
        damage(&golden!("status_query"), |damaged| {
            let query = read(damaged, StatusQuery::parse_frame);
            assert!(query.is_err() || damaged.len() == STATUS_LENGTH);
        });
    }

    #[test]
    fn a_newer_report_is_longer_and_a_broken_one_shorter() {
        let bytes = golden!("status_report");
        let mut long = newer(&bytes, FRAME_HEADER, 24);
        let length = STATUS_LENGTH + 24;
        long[..4].copy_from_slice(&(length as i32).to_le_bytes());
        long.resize(align(length), 0);
        assert_eq!(read(&long, StatusReport::parse_frame), Ok(report()));
        let mut short = shorter(&bytes, FRAME_HEADER);
        short.push(0);
        let rejected = read(&short, StatusReport::parse_frame);
        assert_eq!(rejected, Err(Reject::BlockLength));
        let query = read(&bytes, StatusQuery::parse_frame);
        assert_eq!(query, Err(Reject::UnknownTemplate));
    }
}
