//! What members say to one another: our own SBE schema, carried as single Aeron DATA frames.
//!
//! Aeron Cluster's consensus messages (schema 111, templates 50 to 57) have no room for the cluster
//! id, the sender's incarnation and the joined term, without which a delayed or foreign message can
//! count. So each of ours keeps Aeron's name and template number under schema `SCHEMA_ID`, starts
//! with the same `Sender` block, and ends where an authentication trailer may follow.
//!
//! ```text
//!   DATA frame, BEGIN|END, stream 108, session id = member, term id and offset 0
//!   SBE header: block length, template, schema 1111, version 3
//!   block: cluster u64, incarnation u64, member i32, flags u32, then the message's own fields
//!   NewLeadershipTerm: group header (entry length u16 = 16, count u16), entries {term, base: i64}
//!   SnapshotChunk: the section's bytes, with their length
//!   anything: ignored, for an authentication trailer and newer versions
//! ```

mod code;
mod frequent;
mod settings;

pub use code::{CHUNK_HEADER, CHUNK_MAX, MEMBER_MESSAGE_MAX};
pub(crate) use frequent::{Frequent, emit_append, emit_commit, said_by};
pub(crate) use frequent::{Marks, Same};
pub use settings::{Setting, SettingSet, SharedSettings};

use crate::units::{ClusterId, Incarnation, MemberId, Position, Section, Term};

/// The schema of member messages; Aeron's are 110 to 112.
pub const SCHEMA_ID: u16 = 1111;
/// The version of that schema.
pub const SCHEMA_VERSION: u16 = 3;
/// The Aeron stream that member messages travel on (Aeron: `CONSENSUS_STREAM_ID_DEFAULT`).
pub const CONSENSUS_STREAM_ID: i32 = 108;
/// How many terms of history one `NewLeadershipTerm` carries at most.
pub const HISTORY_SLICE_MAX: usize = 16;
const _: () = assert!(
    HISTORY_SLICE_MAX <= u8::MAX as usize,
    "`HistorySlice::len` is a byte"
);

/// Who speaks: the first block of every member message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Sender {
    /// Messages of another cluster are rejects.
    pub cluster: ClusterId,
    /// The life of the sender's data directory.
    pub incarnation: Incarnation,
    /// The member.
    pub member: MemberId,
}

/// A member message with its sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemberMessage {
    /// Who speaks.
    pub sender: Sender,
    /// What is said.
    pub body: Body,
}

/// What is said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "without an allocator there is no box; few of these exist at a time"
)]
pub enum Body {
    /// "I hear no leader; this is how far my log goes" (Aeron: 50; Raft's pre-vote).
    CanvassPosition(CanvassPosition),
    /// "Vote for me" (Aeron: 51; Raft: RequestVote).
    RequestVote(RequestVote),
    /// The answer (Aeron: 52).
    Vote(Vote),
    /// "I lead; this is my log's history" (Aeron: 53).
    NewLeadershipTerm(NewLeadershipTerm),
    /// "I have this much" (Aeron: 54; Raft: the answer to AppendEntries).
    AppendPosition(AppendPosition),
    /// "This much is committed"; the leader's heartbeat (Aeron: 55).
    CommitPosition(CommitPosition),
    /// "Send me the history from this position on" (Aeron's CatchupPosition: 56).
    HistoryRequest(HistoryRequest),
    /// "I am closing: elect another now" (Aeron: TerminationPosition, 75).
    Resign(Resign),
    /// "Stand for election at once" (Raft, Ongaro 3.10: TimeoutNow).
    TransferLeadership(TransferLeadership),
    /// "Send me this part of a snapshot."
    SnapshotRequest(SnapshotRequest),
    /// "Send me these log bytes, which I have lost."
    RepairRequest(RepairRequest),
}

impl Body {
    /// The term that the message speaks of.
    pub const fn term(&self) -> Term {
        match self {
            Self::CanvassPosition(m) => m.term,
            Self::RequestVote(m) => m.term,
            Self::Vote(m) => m.term,
            Self::NewLeadershipTerm(m) => m.term,
            Self::AppendPosition(m) => m.term,
            Self::CommitPosition(m) => m.term,
            Self::HistoryRequest(m) => m.term,
            Self::Resign(m) => m.term,
            Self::TransferLeadership(m) => m.term,
            Self::SnapshotRequest(m) => m.term,
            Self::RepairRequest(m) => m.term,
        }
    }
}

/// See [`Body::CanvassPosition`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CanvassPosition {
    /// The sender's current term.
    pub term: Term,
    /// The term of its last log frame.
    pub log_term: Term,
    /// Its log's end.
    pub position: Position,
    /// Whether it hears a live leader: then it would refuse its vote.
    pub hears_leader: bool,
    /// Whether its log lost a torn tail at its last start: prefer candidates that have those bytes.
    pub torn: bool,
    /// Whether it may vote at all (an empty directory may not).
    pub votes: bool,
}

/// See [`Body::RequestVote`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RequestVote {
    /// The term that the candidate stands for.
    pub term: Term,
    /// The term of its last log frame.
    pub log_term: Term,
    /// Its log's end.
    pub position: Position,
    /// Set if the leader of the term before asked for this: overrides leader stickiness.
    pub transfer: bool,
}

/// See [`Body::Vote`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Vote {
    /// The voter's term; the vote is for this term if `granted`.
    pub term: Term,
    /// Who the vote is for.
    pub candidate: MemberId,
    /// Whether it is granted.
    pub granted: bool,
}

/// One entry of the term history: `term` wrote the bytes from `base` to the next entry's base.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TermBase {
    /// The leadership term.
    pub term: Term,
    /// The position of its first frame.
    pub base: Position,
}

/// A bounded run of the leader's term history, ascending.
///
/// It says which term wrote every byte in `[entries[0].base, covered_to)`; nothing about bytes
/// below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HistorySlice {
    /// How many of `entries` are meant.
    pub len: u8,
    /// The entries; those at and above `len` are default values.
    pub entries: [TermBase; HISTORY_SLICE_MAX],
    /// The end of what the last entry covers.
    pub covered_to: Position,
}

impl HistorySlice {
    /// No entry.
    pub const EMPTY: Self = Self {
        len: 0,
        entries: [TermBase {
            term: Term::ZERO,
            base: Position::ZERO,
        }; HISTORY_SLICE_MAX],
        covered_to: Position::ZERO,
    };

    /// The entries that are meant.
    pub fn as_slice(&self) -> &[TermBase] {
        self.entries
            .get(..usize::from(self.len))
            .unwrap_or(&self.entries)
    }
}

/// See [`Body::NewLeadershipTerm`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NewLeadershipTerm {
    /// The leadership term, whose leader the sender is.
    pub term: Term,
    /// What is committed.
    pub commit: Position,
    /// The leader's log end.
    pub end: Position,
    /// The oldest byte the leader still has, and the term that wrote it.
    pub start: TermBase,
    /// The leader's settings: who has others must not join.
    pub settings: SharedSettings,
    /// A run of its term history. The newest run ends at `end`.
    pub history: HistorySlice,
}

/// See [`Body::AppendPosition`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AppendPosition {
    /// The leadership term that the sender has joined.
    pub term: Term,
    /// The contiguous, verified end of its log.
    pub received: Position,
    /// What it has flushed: the only position that counts for commit.
    pub durable: Position,
    /// What its service has executed.
    pub applied: Position,
    /// How many bytes past `received` it has room for.
    pub window: u32,
    /// The age of its oldest unflushed byte in milliseconds, or for how long its log has been full
    /// with no snapshot that makes room, if that is longer; 0 if all is flushed and there is room.
    pub flush_age_ms: u32,
    /// The last heartbeat round it has heard.
    pub round: u64,
    /// How long the slowest of its services has not moved, although there is something to execute,
    /// in milliseconds; 0 if all are level.
    pub service_age_ms: u32,
    /// Whether its state has been found to differ from the others': it must not lead.
    pub quarantined: bool,
    /// Whether it has handed leadership on not long ago because it was unwell: it is no heir of a
    /// leader that is unwell.
    pub resting: bool,
    /// Whether it votes, and its node state says so: once a leader has told it that it counts.
    pub votes: bool,
    /// Its state at the last checkpoint that it has come to.
    pub checkpoint: Checkpoint,
    /// Its newest snapshot.
    pub snapshot: Checkpoint,
}

/// What must be equal on every member at an equal position. Position 0: none yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Checkpoint {
    /// Where.
    pub position: Position,
    /// Of the state there.
    pub digest: u64,
}

/// See [`Body::CommitPosition`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CommitPosition {
    /// The leadership term, whose leader the sender is.
    pub term: Term,
    /// What is committed.
    pub commit: Position,
    /// The leader's log end, so that a lost last datagram is missed.
    pub end: Position,
    /// A number that grows with every heartbeat; acknowledged in `AppendPosition`.
    pub round: u64,
    /// Whether the marks of the receiver's directory which the log up to `commit` names count for
    /// the sender, that has executed all of that: then it may vote.
    pub counts: bool,
    /// What a quorum of members had at the newest checkpoint that enough of them have told of: who
    /// has something else there is the odd one out.
    pub checkpoint: Checkpoint,
    /// The same of snapshots.
    pub snapshot: Checkpoint,
}

/// See [`Body::HistoryRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HistoryRequest {
    /// The leadership term being joined.
    pub term: Term,
    /// The history wanted starts with the term that wrote this byte.
    pub from: Position,
}

/// See [`Body::Resign`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Resign {
    /// The term whose leader the sender was.
    pub term: Term,
    /// Its log's end.
    pub end: Position,
}

/// See [`Body::TransferLeadership`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TransferLeadership {
    /// The term whose leader the sender is.
    pub term: Term,
    /// The member that shall stand for the next term.
    pub target: MemberId,
}

/// See [`Body::SnapshotRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SnapshotRequest {
    /// The leadership term of the leader that is asked.
    pub term: Term,
    /// Which snapshot; zero for the newest there is.
    pub position: Position,
    /// Which section.
    pub section: Section,
    /// From this byte of the section on.
    pub offset: u64,
    /// So many bytes.
    pub length: u32,
}

/// A part of a section of a snapshot, in a message of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotChunk<'a> {
    /// Who sends it.
    pub sender: Sender,
    /// The leadership term, whose leader the sender is.
    pub term: Term,
    /// Which snapshot.
    pub position: Position,
    /// The digest of the whole set: parts of equal sets fit together, whoever sent them.
    pub digest: u64,
    /// Which section.
    pub section: Section,
    /// Where in the section the bytes start.
    pub offset: u64,
    /// Whether the section ends with them.
    pub is_last: bool,
    /// The bytes, at most [`CHUNK_MAX`].
    pub bytes: &'a [u8],
}

/// See [`Body::RepairRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RepairRequest {
    /// The asking member's current term.
    pub term: Term,
    /// From this frame boundary on.
    pub from: Position,
    /// Up to this one.
    pub to: Position,
}

#[cfg(test)]
mod tests;
