//! Records, put together from a log's frames.

use super::Frame;

/// The schema of session messages, and of all that a log holds.
const SCHEMA: u16 = 111;

/// A record, put together from its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where its first frame starts.
    pub position: u64,
    /// Where its last frame ends.
    pub end: u64,
    /// The leadership term that wrote it.
    pub term: i32,
    /// What it is.
    pub kind: Kind,
    /// The session it is about, if it is about one.
    pub session: Option<i64>,
    /// All of it, as in the log: header, fields, and what follows.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// A message's own bytes, behind the header and the three fields of a SessionMessageHeader;
    /// nothing for any other record.
    pub fn body(&self) -> &'a [u8] {
        match self.kind {
            Kind::Message => self.bytes.get(32..).unwrap_or(&[]),
            _ => &[],
        }
    }
}

/// What a record is, by its template number in schema 111.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A client's message (1).
    Message,
    /// A timer fired (20).
    Timer,
    /// A session was opened (21).
    SessionOpen,
    /// A session was closed (22).
    SessionClose,
    /// An operator's action (23).
    Action,
    /// A leadership term began (24).
    NewTerm,
    /// Something else.
    Other,
}

impl Kind {
    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Timer => "timer",
            Self::SessionOpen => "open",
            Self::SessionClose => "close",
            Self::Action => "action",
            Self::NewTerm => "new-term",
            Self::Other => "other",
        }
    }
}

/// Puts records together from frames. Every member decides alike: a BEGIN or another term discards
/// an unfinished record, PADs in between are skipped.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    open: Option<(u64, i32)>,
}

impl Records {
    /// Whether a record has begun, and its end is still to come.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next frame; gives the record that it completes.
    pub fn push(&mut self, frame: &Frame<'_>) -> Option<Record<'_>> {
        if frame.is_pad {
            return None;
        }
        if frame.flags & 0x80 != 0 {
            self.bytes.clear();
            self.open = Some((frame.position, frame.term));
        }
        let (position, term) = self.open?;
        if term != frame.term {
            self.open = None;
            return None;
        }
        self.bytes.extend_from_slice(frame.payload);
        if frame.flags & 0x40 == 0 {
            return None;
        }
        self.open = None;
        Some(record(position, frame.end, term, &self.bytes))
    }
}

/// What the first payload bytes of a record say it is, and about which session.
pub fn kind_of(bytes: &[u8]) -> (Kind, Option<i64>) {
    let u16_at = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let i64_at = |at: usize| Some(i64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    if u16_at(4) != Some(SCHEMA) {
        return (Kind::Other, None);
    }
    match u16_at(2) {
        // leadershipTermId, clusterSessionId, timestamp
        Some(1) => (Kind::Message, i64_at(16)),
        Some(20) => (Kind::Timer, None),
        // leadershipTermId, correlationId, clusterSessionId, timestamp, ...
        Some(21) => (Kind::SessionOpen, i64_at(24)),
        Some(22) => (Kind::SessionClose, i64_at(16)),
        Some(23) => (Kind::Action, None),
        Some(24) => (Kind::NewTerm, None),
        Some(_) | None => (Kind::Other, None),
    }
}

fn record(position: u64, end: u64, term: i32, bytes: &[u8]) -> Record<'_> {
    let (kind, session) = kind_of(bytes);
    Record {
        position,
        end,
        term,
        kind,
        session,
        bytes,
    }
}
