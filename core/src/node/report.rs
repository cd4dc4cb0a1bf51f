//! What a node says of itself: events, counters, status.

use core::fmt;

use embedded_io::{Write, WriteFmtError};

use super::Node;
use crate::broken::Broken;
use crate::raft::Ages;
use crate::service::Role;
use crate::snapshot::whole::write_all;
use crate::units::{Incarnation, MemberId, Position, ServiceId, SessionId, Term};
use crate::wire::member::{Setting, SettingSet};

/// Something an operator may want to know. Lossy: the oldest is dropped when nobody asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Event {
    /// This member's role has changed.
    RoleChanged {
        /// The new role.
        role: Role,
        /// In this term.
        term: Term,
    },
    /// This member has joined a leadership.
    Joined {
        /// Of this term.
        term: Term,
        /// Led by this member.
        leader: MemberId,
    },
    /// Bytes that no quorum had were cut from the log's end.
    Truncated {
        /// The old end.
        from: Position,
        /// The new end.
        to: Position,
    },
    /// A client session was opened.
    SessionOpened(SessionId),
    /// A client session was closed.
    SessionClosed(SessionId),
    /// This follower seems not to hear what is sent to all at once: it is sent the log alone for a
    /// while.
    DeafToGroup(MemberId),
    /// A snapshot of this position is on this member's disk.
    SnapshotStored(Position),
    /// This member has no snapshot of this position, and goes on.
    SnapshotFailed(Position),
    /// At this position this member's state is not what a quorum of members has: it is quarantined,
    /// and must be rebuilt from theirs.
    Quarantined(Position),
    /// This follower says that it is quarantined.
    MemberQuarantined(MemberId),
    /// Members have different states at this position, and no quorum has the same: nobody can tell
    /// who is right, and nothing is done about it.
    NoAgreement(Position),
    /// This leader hands over, because its disk or a service has stood still for too long.
    HandingOver {
        /// To this member.
        to: MemberId,
        /// For how long.
        ages: Ages,
    },
    /// The wall clock has moved otherwise than the monotonic one.
    ClockStepped {
        /// Forward by so many milliseconds; less than zero: back.
        by_ms: i64,
    },
    /// The damage in this member's log, which ended here, has been written over with what others
    /// had.
    LogHealed(Position),
    /// A new directory of this member counts from here on, and its old one no more.
    MemberAdmitted(MemberId),
    /// A member asked for this snapshot, and it could not be read.
    SnapshotUnreadable(Position),
    /// This member's log ends before the leader's begins: it is sent a snapshot.
    InstallBegun {
        /// By this leader.
        leader: MemberId,
    },
    /// The leader has another value for a setting that all members must share: this member does not
    /// join it.
    SettingDiffers {
        /// The leader.
        leader: MemberId,
        /// Which setting.
        setting: Setting,
        /// This member's value.
        own: u64,
        /// The leader's.
        theirs: u64,
    },
    /// The node refuses to go on.
    Halted(Halt),
}

/// Why a node refuses to go on: a node that stops is better than a node that lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Halt {
    /// A leader's history contradicts bytes that this member knows to be committed.
    ConflictBelowCommit,
    /// This member's history no longer goes back to where it and the leader agree.
    HistoryTooShort,
    /// Committed bytes cannot be read, or are not what was written.
    CorruptLog(Position),
    /// Bytes of this log up to here were durable, cannot be read, and no other member has any that
    /// fit.
    DamageNotHealed(Position),
    /// A committed message that ends here is longer than this member has memory for.
    MessageTooLong(Position),
    /// The log holds another message of this service than the service has offered here: it is not
    /// deterministic, or its state is not the cluster's.
    ServiceMessage(ServiceId),
    /// A committed record that ends here gives a member a new directory, and this build has no room
    /// for that member.
    NoRoomForMember(Position),
    /// This service says that its own state is damaged.
    ServiceBroken(ServiceId),
    /// It was never told to begin.
    NotBegun,
    /// A bug of this program: one of its own rules does not hold.
    Broken(Broken),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConflictBelowCommit => {
                f.write_str("a leader's log contradicts bytes that are committed here")
            }
            Self::HistoryTooShort => {
                f.write_str("this log parted from the leader's too many terms ago to be reconciled")
            }
            Self::CorruptLog(at) => write!(f, "the log cannot be read at position {at}"),
            Self::DamageNotHealed(to) => write!(
                f,
                "the log is damaged below position {to}, and no other member has bytes that fit: \
                 make a new directory for this member, and let the others bring it up to date"
            ),
            Self::MessageTooLong(at) => write!(
                f,
                "the message that ends at position {at} is longer than this member's longest: \
                 configure the same on every member"
            ),
            Self::ServiceMessage(service) => write!(
                f,
                "the log has another message of service {service} than it offered here: the \
                 service is not deterministic, or its state is not the cluster's"
            ),
            Self::NoRoomForMember(at) => write!(
                f,
                "the record that ends at position {at} speaks of a member that this build has no \
                 room for: build with the feature `members-5` or `members-7`"
            ),
            Self::ServiceBroken(service) => write!(
                f,
                "service {service} has found its own state damaged: a bug of it, or bad memory"
            ),
            Self::NotBegun => f.write_str("this node has not begun"),
            Self::Broken(broken) => write!(f, "a bug of this program: {broken}"),
        }
    }
}

/// What was refused, and how often, beside the counters of the rooms. Wraps at 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Counters {
    /// Malformed datagrams and unknown types, on both doors.
    pub malformed: u64,
    /// Member traffic from an address that is not that member's.
    pub unlisted: u64,
    /// Member messages of another cluster.
    pub foreign: u64,
    /// Frames and messages of a term that does not count any more.
    pub stale: u64,
    /// Log frames that were here already.
    pub duplicate: u64,
    /// Log frames for which there was no room, or no history yet.
    pub no_room: u64,
    /// Log frames whose checksum or chain did not hold, and histories that cannot be a leader's.
    pub corrupt: u64,
    /// Requests to send again that did not start at a frame of ours.
    pub bad_nak: u64,
    /// Requests to send again that this member has made.
    pub naks: u64,
    /// Elections this member has stood in.
    pub elections: u64,
    /// Steps of the wall clock by more than a second.
    pub clock_steps: u64,
    /// Bytes of log frames that this leader has sent: once to all, or once to each.
    pub log_sent: u64,
}

impl Counters {
    pub(super) const ZERO: Self = Self {
        malformed: 0,
        unlisted: 0,
        foreign: 0,
        stale: 0,
        duplicate: 0,
        no_room: 0,
        corrupt: 0,
        bad_nak: 0,
        naks: 0,
        elections: 0,
        clock_steps: 0,
        log_sent: 0,
    };
}

/// The state of one member at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Status {
    /// This member.
    pub member: MemberId,
    /// This life of its directory.
    pub incarnation: Incarnation,
    /// Its role.
    pub role: Role,
    /// Its current leadership term.
    pub term: Term,
    /// Whom it takes for the leader.
    pub leader: Option<MemberId>,
    /// The end of its log.
    pub appended: Position,
    /// What of it is on disk.
    pub durable: Position,
    /// What is committed, as far as it knows.
    pub committed: Position,
    /// What its service has executed.
    pub applied: Position,
    /// A digest of the services' state at `applied`.
    pub digest: u64,
    /// The oldest byte of its log.
    pub start: Position,
    /// Its newest snapshot.
    pub snapshot: Option<Position>,
    /// The newest position since its start at which it was to take a snapshot, and has none.
    pub snapshot_failed: Option<Position>,
    /// How many client sessions are open.
    pub sessions: u32,
    /// For how long bytes of the log have waited for its disk, in milliseconds; 0 if none do.
    pub flush_age_ms: u32,
    /// Whether its log is full, with no snapshot on its disk that makes room: it does not stay
    /// leader if others are better off.
    pub log_full: bool,
    /// For how long its slowest service has not moved although there is something to execute.
    pub service_age_ms: u32,
    /// Whether its state was found to differ from the others'.
    pub quarantined: bool,
    /// By which settings it differs from its leader, and therefore does not join it.
    pub settings_differ: SettingSet,
    /// Whether it counts: its incarnation is one that may vote.
    pub votes: bool,
    /// Why it refuses to go on, if it does.
    pub halted: Option<Halt>,
}

/// How far one service has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ServiceStatus {
    /// Which.
    pub service: ServiceId,
    /// What it has executed.
    pub applied: Position,
    /// The digest of its state there.
    pub digest: u64,
}

impl Status {
    /// Writes one line of text to a byte stream: a board's serial console has no other way to show
    /// how a member is. Work: bounded, but for the stream's own time.
    ///
    /// # Errors
    /// The stream's own.
    pub fn write_line<W: Write>(&self, out: &mut W) -> Result<(), WriteFmtError<W::Error>> {
        let mut line = Line { out, error: None };
        let written = self.write_to(&mut line);
        written.map_err(|fmt::Error| {
            line.error
                .map_or(WriteFmtError::FmtError, WriteFmtError::Other)
        })
    }

    fn write_to(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let Self { member, role, .. } = self;
        write!(out, "member {member} {role:?} term {}", self.term)?;
        if let Some(leader) = self.leader {
            write!(out, " leader {leader}")?;
        }
        write!(
            out,
            " appended {} durable {} committed {} applied {} digest {:016x} sessions {}",
            self.appended, self.durable, self.committed, self.applied, self.digest, self.sessions
        )?;
        if !self.votes {
            out.write_str(" without a vote")?;
        }
        if self.quarantined {
            out.write_str(" quarantined")?;
        }
        for setting in self.settings_differ.iter() {
            write!(out, " differs in {}", setting.name())?;
        }
        if let Some(halt) = self.halted {
            write!(out, " halted: {halt}")?;
        }
        out.write_str("\r\n")
    }
}

/// A byte stream as what text is written to, and its error.
struct Line<'o, W: Write> {
    out: &'o mut W,
    error: Option<W::Error>,
}

impl<W: Write> fmt::Write for Line<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let written = write_all(self.out, text.as_bytes());
        written.map_err(|error| {
            if let WriteFmtError::Other(error) = error {
                self.error = Some(error);
            }
            fmt::Error
        })
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// All an operator wants to see.
    pub fn status(&self) -> Status {
        let ages = self.ages(self.clock.instant);
        Status {
            member: self.config.member,
            incarnation: self.sender.incarnation,
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            appended: self.raft.tail.end,
            durable: self.raft.flushed(),
            committed: self.raft.commit(),
            applied: self.applied(),
            digest: self.digest(),
            start: self.start.base,
            snapshot: self.snapshots.stored[0].map(|snapshot| snapshot.position),
            snapshot_failed: self.snapshots.failed_at,
            sessions: self.clients.sessions().len() as u32,
            flush_age_ms: self.flush_age(self.clock.instant),
            log_full: self.health.is_full(),
            service_age_ms: ages.service_ms,
            quarantined: self.is_quarantined(),
            settings_differ: self.differing_settings(),
            votes: self.votes,
            halted: self.halted,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn a_status_is_one_line_and_a_stream_that_is_full_says_so() {
        let mut status = Status {
            member: MemberId::new(2).expect("a member"),
            incarnation: Incarnation::FIRST,
            role: Role::Leader,
            term: Term::new(7),
            leader: MemberId::new(2),
            appended: Position::new(960),
            durable: Position::new(928),
            committed: Position::new(896),
            applied: Position::new(864),
            digest: 0xabc,
            sessions: 3,
            flush_age_ms: 0,
            log_full: false,
            service_age_ms: 0,
            quarantined: false,
            settings_differ: SettingSet::NONE,
            votes: true,
            halted: None,
            start: Position::ZERO,
            snapshot: None,
            snapshot_failed: None,
        };
        let line = |status: &Status| {
            let mut bytes = [0; 256];
            let mut rest = &mut bytes[..];
            status.write_line(&mut rest).expect("room");
            let written = 256 - rest.len();
            std::string::String::from_utf8(bytes[..written].to_vec()).expect("text")
        };
        let expected = "member 2 Leader term 7 leader 2 appended 960 durable 928 committed 896 \
                        applied 864 digest 0000000000000abc sessions 3";
        assert_eq!(line(&status), std::format!("{expected}\r\n"));
        (status.votes, status.quarantined) = (false, true);
        status.settings_differ.insert(Setting::MessageMax);
        status.halted = Some(Halt::CorruptLog(Position::new(32)));
        let more = " without a vote quarantined differs in message_max halted: the log cannot be \
                    read at position 32\r\n";
        assert_eq!(line(&status), std::format!("{expected}{more}"));
        assert!(status.write_line(&mut &mut [0; 40][..]).is_err());
    }
}
