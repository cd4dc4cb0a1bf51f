//! When each stage of the pipeline had which part of the log: for a picture of a member at work.
//!
//! Off unless [`NodeBuilder::trace`](super::NodeBuilder::trace) names a file. Then the marks of a
//! turn are looked at between its steps, and each one that has moved is noted with the time of the
//! step. The newest notes are kept in memory that is taken at the start, and written when the
//! member closes.

use std::fmt::Write;
use std::path::PathBuf;

use coracle_core::log::LOG_STREAM_ID;
use coracle_core::node::Door;
use coracle_core::units::Position;
use coracle_core::wire::frame::{Datagram, position};
use coracle_core::wire::member::{Body, MemberMessage};
use rustix::time::{ClockId, clock_gettime};

use super::Core;
use crate::storage::{LogStore, StorageError};

/// How many notes are kept: some seconds of a busy member.
const NOTES: usize = 1 << 16;

/// What the stages are called in the file, by mark.
const STAGES: [&str; MARKS] = [
    "append",
    "transmit",
    "write",
    "flush",
    "acknowledge",
    "commit",
    "execute",
    "answer",
];
const MARKS: usize = 8;
const WRITE: usize = 2;
const FLUSH: usize = 3;

/// What has left so far, as far as a trace wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    segment_length: u32,
    /// Below this, the log was sent to some member at least.
    sent: Position,
    /// This member has said that it has the log up to here on its disk.
    acknowledged: Position,
    /// Something has left for clients since this was last asked.
    answered: bool,
}

impl Left {
    fn new(segment_length: u32) -> Self {
        Self {
            segment_length,
            sent: Position::ZERO,
            acknowledged: Position::ZERO,
            answered: false,
        }
    }

    /// This leaves now.
    pub fn look(&mut self, door: Door, bytes: &[u8]) {
        match door {
            Door::Client => self.answered |= Datagram::parse(bytes).is_ok(),
            Door::Member => {
                if let Some(end) = self.end_of(bytes) {
                    self.sent = self.sent.max(end);
                } else if let Some(durable) = acknowledged(bytes) {
                    self.acknowledged = self.acknowledged.max(durable);
                }
            }
        }
    }

    fn end_of(&self, bytes: &[u8]) -> Option<Position> {
        let datagram = Datagram::parse(bytes).ok()?;
        let first = datagram.first();
        if first.stream_id != LOG_STREAM_ID {
            return None;
        }
        let at = position(first.term_id, first.term_offset, 0, self.segment_length)?;
        Some(at.plus(datagram.span().into()))
    }
}

/// What this datagram acknowledges, if that is what it does.
fn acknowledged(bytes: &[u8]) -> Option<Position> {
    let datagram = Datagram::parse(bytes).ok()?;
    let message = MemberMessage::parse_frame(&datagram.frames().next()?).ok()?;
    match message.body {
        Body::AppendPosition(said) => Some(said.durable),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Note {
    stage: usize,
    from: u64,
    to: u64,
    begun: u64,
    ended: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    notes: Vec<Note>,
    /// How many there ever were.
    count: usize,
    marks: [u64; MARKS],
    /// When the last step ended.
    last: u64,
    /// When the group that is being flushed was written.
    written: u64,
}

impl Trace {
    /// Takes the memory; what is to be asked of the doors goes with it.
    pub fn new(path: PathBuf, segment_length: u32) -> (Self, Left) {
        let trace = Self {
            path,
            notes: vec![Note::default(); NOTES],
            count: 0,
            marks: [0; MARKS],
            last: nanos(),
            written: 0,
        };
        (trace, Left::new(segment_length))
    }

    /// A step of the turn has ended: notes which marks it has moved. Allocates nothing.
    pub fn step(&mut self, node: &Core, store: &LogStore, left: Option<&mut Left>) {
        let (begun, ended) = (self.last, nanos());
        self.last = ended;
        let status = node.status();
        let [_, sent, _, _, acknowledged, _, _, answered] = self.marks;
        let applied = status.applied.get();
        let (mut sent, mut acknowledged, mut answered) = (sent, acknowledged, answered);
        if let Some(left) = left {
            (sent, acknowledged) = (left.sent.get(), left.acknowledged.get());
            if std::mem::take(&mut left.answered) {
                answered = applied;
            }
        }
        let marks = [
            status.appended.get(),
            sent,
            store.journal().written().get(),
            status.durable.get(),
            acknowledged,
            status.committed.get(),
            applied,
            answered,
        ];
        for (stage, to) in marks.into_iter().enumerate() {
            let from = std::mem::replace(&mut self.marks[stage], to);
            if to <= from {
                continue;
            }
            // A flush is another thread's, and goes on over several turns.
            let begun = match stage {
                FLUSH if self.written > 0 => self.written,
                _ => begun,
            };
            self.notes[self.count % NOTES] = Note {
                stage,
                from,
                to,
                begun,
                ended,
            };
            self.count += 1;
            if stage == WRITE {
                self.written = ended;
            }
        }
    }

    /// Writes the file: a line for each note, oldest first.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn write(&self) -> Result<(), StorageError> {
        let oldest = self.count.saturating_sub(NOTES);
        let mut text = String::from("# stage, positions from and to, begun and ended at (ns)\n");
        for number in oldest..self.count {
            let note = &self.notes[number % NOTES];
            let (stage, Note { from, to, .. }) = (STAGES[note.stage], note);
            let (begun, ended) = (note.begun, note.ended);
            // A string grows.
            writeln!(text, "{stage} {from} {to} {begun} {ended}").ok();
        }
        std::fs::write(&self.path, text).map_err(StorageError::io("write", &self.path))
    }
}

/// The clock that all processes of a machine share.
fn nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
