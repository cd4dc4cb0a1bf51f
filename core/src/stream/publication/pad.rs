//! Where a segment ends before its end.

use super::Publication;
use crate::limits::FRAME_HEADER;
use crate::units::Position;

/// The last PAD: it stands for bytes that are never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) struct Pad {
    pub start: Position,
    pub end: Position,
}

impl Pad {
    /// The bytes that it stands for and does not take in the slot.
    pub const fn skip(self) -> u64 {
        self.end.since(self.start) - FRAME_HEADER as u64
    }

    pub const fn is_inside(self, at: Position) -> bool {
        at.get() > self.start.get() && at.get() < self.end.get()
    }
}

impl Publication {
    /// The bytes that may be written at the tail.
    pub(super) fn room(&self) -> u64 {
        let room = self.full.since(self.tail);
        debug_assert_eq!(
            room,
            u64::from(self.window()).saturating_sub(self.pending())
        );
        room
    }

    /// What was consumed has changed, or the last PAD: what follows from that for all messages.
    pub(super) fn note_room(&mut self) {
        let window = u64::from(self.ring.window());
        let room = window.saturating_sub(self.pending());
        self.full = self.tail.plus(room);
        self.shift = self.skipped + self.pad.map_or(0, Pad::skip);
    }

    /// Where in the slot the frame at `at` lies, if that is not below `acked`.
    pub(super) fn place(&self, at: Position) -> usize {
        self.ring.offset(self.stored(at))
    }

    /// The position without what PADs stand for, of which only headers are in the slot.
    pub(super) fn stored(&self, at: Position) -> Position {
        let pad = self.pad.filter(|pad| at >= pad.end);
        at.minus(self.skipped + pad.map_or(0, Pad::skip))
    }
}
