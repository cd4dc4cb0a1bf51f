//! Where a segment ends before its end.

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
