//! The bytes of member messages.

use super::{
    AppendPosition, Body, CONSENSUS_STREAM_ID, CanvassPosition, Checkpoint, CommitPosition,
    HISTORY_SLICE_MAX, HistoryRequest, HistorySlice, MemberMessage, NewLeadershipTerm,
    RepairRequest, RequestVote, Resign, SCHEMA_ID, SCHEMA_VERSION, Sender, SharedSettings,
    SnapshotChunk, SnapshotRequest, TermBase, TransferLeadership, Vote, frequent,
};
use crate::limits::FRAME_HEADER;
use crate::units::{ClusterId, Incarnation, MemberId, Position, Section, Term};
use crate::wire::frame::{DataFrame, DataHeader, Kind, align};
use crate::wire::sbe::{HEADER, Header, Opened};
use crate::wire::{Reader, Reject, Writer};

pub(super) mod template {
    pub const CANVASS_POSITION: u16 = 50;
    pub const REQUEST_VOTE: u16 = 51;
    pub const VOTE: u16 = 52;
    pub const NEW_LEADERSHIP_TERM: u16 = 53;
    pub const APPEND_POSITION: u16 = 54;
    pub const COMMIT_POSITION: u16 = 55;
    pub const HISTORY_REQUEST: u16 = 56;
    pub const TRANSFER_LEADERSHIP: u16 = 58;
    pub const SNAPSHOT_REQUEST: u16 = 60;
    pub const SNAPSHOT_CHUNK: u16 = 61;
    pub const REPAIR_REQUEST: u16 = 62;
    pub const RESIGN: u16 = 75;
}

/// Bits of the `flags` field. Bits that a message does not name are ignored.
pub(super) mod flag {
    pub const HEARS_LEADER: u32 = 1;
    pub const TORN: u32 = 1 << 1;
    pub const VOTES: u32 = 1 << 2;
    pub const TRANSFER: u32 = 1;
    pub const GRANTED: u32 = 1;
    pub const QUARANTINED: u32 = 1;
    pub const RESTING: u32 = 1 << 1;
    pub const LAST: u32 = 1;
    pub const COUNTS: u32 = 1;
}

/// What every block starts with: cluster, incarnation, member, flags.
pub(super) const SENDER_BLOCK: usize = 8 + 8 + 4 + 4;
const NEW_LEADERSHIP_TERM_BLOCK: usize = SENDER_BLOCK + 6 * 8 + SharedSettings::LENGTH;
/// The fields of an `AppendPosition` and of a `CommitPosition`.
pub(super) const APPEND_LENGTH: usize = 84;
pub(super) const COMMIT_LENGTH: usize = 64;
const GROUP_HEADER: usize = 4;
const ENTRY: usize = 16;

/// The longest member message, as a whole aligned frame, in bytes.
pub const MEMBER_MESSAGE_MAX: usize = align(
    FRAME_HEADER + HEADER + NEW_LEADERSHIP_TERM_BLOCK + GROUP_HEADER + HISTORY_SLICE_MAX * ENTRY,
);
// RFC 791: every host takes a datagram of 576 bytes; at most 60 are IPv4's header and 8 are UDP's.
const _: () = assert!(MEMBER_MESSAGE_MAX <= 576 - 60 - 8);

/// What precedes a chunk's bytes in its datagram.
pub const CHUNK_HEADER: usize = FRAME_HEADER + HEADER + CHUNK_BLOCK + 4;
/// How many bytes of a snapshot one chunk carries at most: a datagram of Aeron's default MTU.
pub const CHUNK_MAX: usize = 1264;
const CHUNK_BLOCK: usize = SENDER_BLOCK + 8 + 8 + 8 + 4 + 8;
const _: () = assert!(align(CHUNK_HEADER + CHUNK_MAX) <= crate::limits::MTU_DEFAULT);

impl<'a> SnapshotChunk<'a> {
    /// Writes the message as one whole frame, alignment included. `None` if it does not fit `out`.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let header = Header {
            block_length: CHUNK_BLOCK as u16,
            template: template::SNAPSHOT_CHUNK,
            schema: SCHEMA_ID,
            version: SCHEMA_VERSION,
        };
        frame(self.sender, out, |w| {
            header.write(w);
            write_sender(w, &self.sender, set(self.is_last, flag::LAST));
            w.i64(self.term.to_wire())
                .i64(self.position.to_wire())
                .u64(self.digest)
                .u32(u32::from(self.section.to_wire()))
                .u64(self.offset)
                .u32(self.bytes.len() as u32)
                .put(self.bytes);
        })
    }

    /// Reads a frame of the consensus stream. `None` if it is another message.
    ///
    /// # Errors
    /// As [`MemberMessage::parse_frame`].
    pub fn parse_frame(frame: &'a DataFrame<'_>) -> Result<Option<Self>, Reject> {
        check_frame(frame)?;
        let Opened {
            header,
            mut block,
            mut tail,
        } = Opened::parse(frame.payload(), SCHEMA_ID)?;
        if header.template != template::SNAPSHOT_CHUNK {
            return Ok(None);
        }
        let (sender, flags) = read_sender(&mut block)?;
        check_session(frame, &sender)?;
        let block = &mut block;
        let chunk = Self {
            sender,
            term: term(block)?,
            position: position(block)?,
            digest: block.u64()?,
            section: section(block)?,
            offset: block.u64()?,
            is_last: flags & flag::LAST != 0,
            bytes: &[],
        };
        let length = tail.u32()? as usize;
        if length > CHUNK_MAX {
            return Err(Reject::VarData);
        }
        let bytes = tail.take(length).map_err(|_| Reject::VarData)?;
        Ok(Some(Self { bytes, ..chunk }))
    }
}

/// Writes one whole frame of the consensus stream.
fn frame(sender: Sender, out: &mut [u8], write: impl FnOnce(&mut Writer<'_>)) -> Option<usize> {
    let payload = {
        let mut writer = Writer::new(out.get_mut(FRAME_HEADER..)?);
        write(&mut writer);
        writer.finish()?
    };
    let session_id = i32::from(sender.member.get());
    let header = DataHeader::message(session_id, CONSENSUS_STREAM_ID, payload)?;
    header.emit(out)?;
    let padding = out.get_mut(header.length()..header.aligned_len())?;
    padding.fill(0);
    Some(header.aligned_len())
}

fn write_sender(writer: &mut Writer<'_>, sender: &Sender, flags: u32) {
    writer
        .u64(sender.cluster.0)
        .u64(sender.incarnation.0)
        .i32(i32::from(sender.member.get()))
        .u32(flags);
}

/// The sender, and the message's flags.
fn read_sender(block: &mut Reader<'_>) -> Result<(Sender, u32), Reject> {
    let sender = Sender {
        cluster: ClusterId(block.u64()?),
        incarnation: Incarnation(block.u64()?),
        member: member(block)?,
    };
    Ok((sender, block.u32()?))
}

fn check_frame(frame: &DataFrame<'_>) -> Result<(), Reject> {
    if frame.header.stream_id != CONSENSUS_STREAM_ID {
        return Err(Reject::Stream);
    }
    if frame.header.kind != Kind::Data || !frame.header.is_whole() {
        return Err(Reject::Fragment);
    }
    Ok(())
}

fn check_session(frame: &DataFrame<'_>, sender: &Sender) -> Result<(), Reject> {
    if frame.header.session_id == i32::from(sender.member.get()) {
        Ok(())
    } else {
        Err(Reject::Value)
    }
}

impl MemberMessage {
    /// Writes the message as one whole frame, alignment included: at most [`MEMBER_MESSAGE_MAX`]
    /// bytes. `None` if they do not fit `out`.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        match &self.body {
            Body::AppendPosition(said) => frequent::emit_append(&self.sender, said, out),
            Body::CommitPosition(said) => frequent::emit_commit(&self.sender, said, out),
            _ => self.emit_any(out),
        }
    }

    /// As [`MemberMessage::emit`], of any message.
    pub(super) fn emit_any(&self, out: &mut [u8]) -> Option<usize> {
        frame(self.sender, out, |writer| self.write(writer))
    }

    /// Reads a frame of the consensus stream.
    ///
    /// # Errors
    /// [`Reject::Stream`] if it is of another stream, [`Reject::Fragment`] unless it is a whole
    /// message, [`Reject::Value`] if its session is not the sender's; and as
    /// [`MemberMessage::parse`].
    pub fn parse_frame(frame: &DataFrame<'_>) -> Result<Self, Reject> {
        check_frame(frame)?;
        let message = Self::parse(frame.payload())?;
        check_session(frame, &message.sender)?;
        Ok(message)
    }

    /// Reads the payload of a frame. What follows the message is ignored.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::UnknownSchema`], [`Reject::UnknownTemplate`],
    /// [`Reject::BlockLength`], [`Reject::Value`] for a member, term or position that cannot be,
    /// [`Reject::Alignment`] for a position where no frame starts, [`Reject::VarData`] and
    /// [`Reject::History`] for a history that is cut, does not fit, does not ascend or has terms
    /// above the message's.
    pub fn parse(payload: &[u8]) -> Result<Self, Reject> {
        let Opened {
            header,
            mut block,
            mut tail,
        } = Opened::parse(payload, SCHEMA_ID)?;
        let (sender, flags) = read_sender(&mut block)?;
        let block = &mut block;
        let body = match header.template {
            template::CANVASS_POSITION => Body::CanvassPosition(canvass_position(block, flags)?),
            template::REQUEST_VOTE => Body::RequestVote(request_vote(block, flags)?),
            template::VOTE => Body::Vote(vote(block, flags)?),
            template::NEW_LEADERSHIP_TERM => {
                Body::NewLeadershipTerm(new_leadership_term(block, &mut tail)?)
            }
            template::APPEND_POSITION => Body::AppendPosition(append_position(block, flags)?),
            template::COMMIT_POSITION => Body::CommitPosition(commit_position(block, flags)?),
            template::HISTORY_REQUEST => Body::HistoryRequest(HistoryRequest {
                term: term(block)?,
                from: position(block)?,
            }),
            template::TRANSFER_LEADERSHIP => Body::TransferLeadership(TransferLeadership {
                term: term(block)?,
                target: member(block)?,
            }),
            template::SNAPSHOT_REQUEST => Body::SnapshotRequest(SnapshotRequest {
                term: term(block)?,
                position: position(block)?,
                section: section(block)?,
                offset: block.u64()?,
                length: block.u32()?,
            }),
            template::REPAIR_REQUEST => Body::RepairRequest(RepairRequest {
                term: term(block)?,
                from: position(block)?,
                to: position(block)?,
            }),
            template::RESIGN => Body::Resign(Resign {
                term: term(block)?,
                end: position(block)?,
            }),
            _ => return Err(Reject::UnknownTemplate),
        };
        Ok(Self { sender, body })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let (template, length, flags) = self.body.shape();
        let header = Header {
            block_length: (SENDER_BLOCK + length) as u16,
            template,
            schema: SCHEMA_ID,
            version: SCHEMA_VERSION,
        };
        header.write(writer);
        write_sender(writer, &self.sender, flags);
        self.body.write(writer);
    }
}

impl Body {
    /// Template, length of its own fields in bytes, flags.
    fn shape(&self) -> (u16, usize, u32) {
        match self {
            Self::CanvassPosition(m) => {
                let flags = set(m.hears_leader, flag::HEARS_LEADER)
                    | set(m.torn, flag::TORN)
                    | set(m.votes, flag::VOTES);
                (template::CANVASS_POSITION, 24, flags)
            }
            Self::RequestVote(m) => (template::REQUEST_VOTE, 24, set(m.transfer, flag::TRANSFER)),
            Self::Vote(m) => (template::VOTE, 12, set(m.granted, flag::GRANTED)),
            Self::NewLeadershipTerm(_) => {
                let length = NEW_LEADERSHIP_TERM_BLOCK - SENDER_BLOCK;
                (template::NEW_LEADERSHIP_TERM, length, 0)
            }
            Self::AppendPosition(m) => {
                let flags = set(m.quarantined, flag::QUARANTINED)
                    | set(m.resting, flag::RESTING)
                    | set(m.votes, flag::VOTES);
                (template::APPEND_POSITION, APPEND_LENGTH, flags)
            }
            Self::CommitPosition(m) => {
                let flags = set(m.counts, flag::COUNTS);
                (template::COMMIT_POSITION, COMMIT_LENGTH, flags)
            }
            Self::HistoryRequest(_) => (template::HISTORY_REQUEST, 16, 0),
            Self::TransferLeadership(_) => (template::TRANSFER_LEADERSHIP, 12, 0),
            Self::SnapshotRequest(_) => (template::SNAPSHOT_REQUEST, 32, 0),
            Self::RepairRequest(_) => (template::REPAIR_REQUEST, 24, 0),
            Self::Resign(_) => (template::RESIGN, 16, 0),
        }
    }

    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::CanvassPosition(m) => w
                .i64(m.term.to_wire())
                .i64(m.log_term.to_wire())
                .i64(m.position.to_wire()),
            Self::RequestVote(m) => w
                .i64(m.term.to_wire())
                .i64(m.log_term.to_wire())
                .i64(m.position.to_wire()),
            Self::Vote(m) => w.i64(m.term.to_wire()).i32(i32::from(m.candidate.get())),
            Self::NewLeadershipTerm(m) => write_new_leadership_term(m, w),
            Self::AppendPosition(m) => w
                .i64(m.term.to_wire())
                .i64(m.received.to_wire())
                .i64(m.durable.to_wire())
                .i64(m.applied.to_wire())
                .u32(m.window)
                .u32(m.flush_age_ms)
                .u64(m.round)
                .u32(m.service_age_ms)
                .i64(m.checkpoint.position.to_wire())
                .u64(m.checkpoint.digest)
                .i64(m.snapshot.position.to_wire())
                .u64(m.snapshot.digest),
            Self::CommitPosition(m) => w
                .i64(m.term.to_wire())
                .i64(m.commit.to_wire())
                .i64(m.end.to_wire())
                .u64(m.round)
                .i64(m.checkpoint.position.to_wire())
                .u64(m.checkpoint.digest)
                .i64(m.snapshot.position.to_wire())
                .u64(m.snapshot.digest),
            Self::HistoryRequest(m) => w.i64(m.term.to_wire()).i64(m.from.to_wire()),
            Self::TransferLeadership(m) => w.i64(m.term.to_wire()).i32(i32::from(m.target.get())),
            Self::SnapshotRequest(m) => w
                .i64(m.term.to_wire())
                .i64(m.position.to_wire())
                .u32(u32::from(m.section.to_wire()))
                .u64(m.offset)
                .u32(m.length),
            Self::RepairRequest(m) => w
                .i64(m.term.to_wire())
                .i64(m.from.to_wire())
                .i64(m.to.to_wire()),
            Self::Resign(m) => w.i64(m.term.to_wire()).i64(m.end.to_wire()),
        };
    }
}

fn write_new_leadership_term<'w, 'o>(
    m: &NewLeadershipTerm,
    w: &'w mut Writer<'o>,
) -> &'w mut Writer<'o> {
    let entries = m.history.as_slice();
    w.i64(m.term.to_wire())
        .i64(m.commit.to_wire())
        .i64(m.end.to_wire())
        .i64(m.start.term.to_wire())
        .i64(m.start.base.to_wire())
        .i64(m.history.covered_to.to_wire());
    m.settings.write(w);
    w.u16(ENTRY as u16).u16(entries.len() as u16);
    for entry in entries {
        w.i64(entry.term.to_wire()).i64(entry.base.to_wire());
    }
    w
}

fn canvass_position(block: &mut Reader<'_>, flags: u32) -> Result<CanvassPosition, Reject> {
    Ok(CanvassPosition {
        term: term(block)?,
        log_term: term(block)?,
        position: position(block)?,
        hears_leader: flags & flag::HEARS_LEADER != 0,
        torn: flags & flag::TORN != 0,
        votes: flags & flag::VOTES != 0,
    })
}

fn request_vote(block: &mut Reader<'_>, flags: u32) -> Result<RequestVote, Reject> {
    Ok(RequestVote {
        term: term(block)?,
        log_term: term(block)?,
        position: position(block)?,
        transfer: flags & flag::TRANSFER != 0,
    })
}

fn vote(block: &mut Reader<'_>, flags: u32) -> Result<Vote, Reject> {
    Ok(Vote {
        term: term(block)?,
        candidate: member(block)?,
        granted: flags & flag::GRANTED != 0,
    })
}

fn append_position(block: &mut Reader<'_>, flags: u32) -> Result<AppendPosition, Reject> {
    Ok(AppendPosition {
        term: term(block)?,
        received: position(block)?,
        durable: position(block)?,
        applied: position(block)?,
        window: block.u32()?,
        flush_age_ms: block.u32()?,
        round: block.u64()?,
        service_age_ms: block.u32()?,
        quarantined: flags & flag::QUARANTINED != 0,
        resting: flags & flag::RESTING != 0,
        votes: flags & flag::VOTES != 0,
        checkpoint: checkpoint(block)?,
        snapshot: checkpoint(block)?,
    })
}

fn commit_position(block: &mut Reader<'_>, flags: u32) -> Result<CommitPosition, Reject> {
    Ok(CommitPosition {
        term: term(block)?,
        commit: position(block)?,
        end: position(block)?,
        round: block.u64()?,
        counts: flags & flag::COUNTS != 0,
        checkpoint: checkpoint(block)?,
        snapshot: checkpoint(block)?,
    })
}

fn new_leadership_term(
    block: &mut Reader<'_>,
    tail: &mut Reader<'_>,
) -> Result<NewLeadershipTerm, Reject> {
    let message = NewLeadershipTerm {
        term: term(block)?,
        commit: position(block)?,
        end: position(block)?,
        start: term_base(block)?,
        settings: SharedSettings::default(),
        history: HistorySlice::EMPTY,
    };
    let covered_to = position(block)?;
    let settings = SharedSettings::read(block)?;
    let history = history(covered_to, tail)?;
    // Nobody has a byte of a term that is to come.
    if history
        .as_slice()
        .last()
        .is_some_and(|e| e.term > message.term)
    {
        return Err(Reject::History);
    }
    Ok(NewLeadershipTerm {
        settings,
        history,
        ..message
    })
}

/// The history that ends at `covered_to`: terms and bases must ascend, and none may begin beyond
/// its end. Etcd's `logSlice.valid` asks the same of entries.
fn history(covered_to: Position, tail: &mut Reader<'_>) -> Result<HistorySlice, Reject> {
    let entry_length = usize::from(tail.u16()?);
    let count = usize::from(tail.u16()?);
    let mut slice = HistorySlice {
        covered_to,
        ..HistorySlice::EMPTY
    };
    if entry_length < ENTRY {
        return Err(Reject::BlockLength);
    }
    let slots = slice.entries.get_mut(..count).ok_or(Reject::History)?;
    let mut last: Option<TermBase> = None;
    for slot in slots {
        // A newer version's entries may be longer.
        let bytes = tail.take(entry_length)?;
        let entry = term_base(&mut Reader::new(bytes))?;
        let ascends = last.is_none_or(|last| last.term < entry.term && last.base < entry.base);
        if !ascends || entry.base > covered_to {
            return Err(Reject::History);
        }
        *slot = entry;
        last = Some(entry);
    }
    slice.len = count as u8;
    Ok(slice)
}

fn checkpoint(reader: &mut Reader<'_>) -> Result<Checkpoint, Reject> {
    Ok(Checkpoint {
        position: position(reader)?,
        digest: reader.u64()?,
    })
}

fn section(reader: &mut Reader<'_>) -> Result<Section, Reject> {
    let number = u16::try_from(reader.u32()?).map_err(|_| Reject::Value)?;
    Section::from_wire(number).ok_or(Reject::Value)
}

fn term_base(reader: &mut Reader<'_>) -> Result<TermBase, Reject> {
    Ok(TermBase {
        term: term(reader)?,
        base: position(reader)?,
    })
}

fn term(reader: &mut Reader<'_>) -> Result<Term, Reject> {
    Term::from_wire(reader.i64()?).ok_or(Reject::Value)
}

fn member(reader: &mut Reader<'_>) -> Result<MemberId, Reject> {
    MemberId::from_wire(reader.i32()?).ok_or(Reject::Value)
}

/// A position where a frame may start: every position that members exchange is one.
fn position(reader: &mut Reader<'_>) -> Result<Position, Reject> {
    let position = Position::from_wire(reader.i64()?).ok_or(Reject::Value)?;
    if position.is_aligned() {
        Ok(position)
    } else {
        Err(Reject::Alignment)
    }
}

pub(super) const fn set(condition: bool, bit: u32) -> u32 {
    if condition { bit } else { 0 }
}
