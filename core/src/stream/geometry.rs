//! How a stream's positions map to Aeron's term ids and offsets, and to bytes of lent memory.
//!
//! Aeron cuts a stream into term buffers of equal length. "Term" means leadership in this project,
//! so these are segments here; only the wire's own field names (`term_id`, `term_offset`) keep
//! Aeron's word.

use core::ops::Range;

use crate::limits::{FRAME_ALIGNMENT, MTU_MAX, MTU_MIN};
use crate::units::Position;
use crate::wire::frame;

/// The segments of one stream: position = (id - first id) * length + offset, ids wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Segments {
    initial_id: i32,
    bits: u8,
}

impl Segments {
    /// `None` unless `length` is a power of two from `SEGMENT_MIN` to `SEGMENT_MAX`.
    pub const fn new(initial_id: i32, length: u32) -> Option<Self> {
        if !frame::is_term_length(length) {
            return None;
        }
        Some(Self {
            initial_id,
            bits: length.trailing_zeros() as u8,
        })
    }

    /// The length of a segment in bytes.
    pub const fn length(self) -> u32 {
        1 << self.bits
    }

    /// The id of the segment that starts at position 0.
    pub const fn initial_id(self) -> i32 {
        self.initial_id
    }

    /// The position that a frame header names; `None` if there is none, or no frame may start
    /// there.
    ///
    /// The end of a segment (offset = length) is a valid name for the start of the next one:
    /// Aeron's senders and receivers use it in heartbeats and status messages.
    pub fn position(self, id: i32, offset: i32) -> Option<Position> {
        let position = frame::position(id, offset, self.initial_id, self.length())?;
        position.is_aligned().then_some(position)
    }

    /// The id of the segment that `position` is in.
    pub const fn id(self, position: Position) -> i32 {
        self.initial_id
            .wrapping_add((position.get() >> self.bits) as i32)
    }

    /// The offset of `position` in its segment, in bytes.
    pub const fn offset(self, position: Position) -> i32 {
        (position.get() & (self.length() as u64 - 1)) as i32
    }

    /// Is `position` in the last segment that has an id, so that no next one can follow?
    pub const fn is_last(self, position: Position) -> bool {
        position.get() >> self.bits >= i32::MAX as u64
    }

    /// Is `position` behind the last segment that has an id?
    pub const fn is_past(self, position: Position) -> bool {
        position.get() >> self.bits > i32::MAX as u64
    }

    /// The bytes from `position` to the end of its segment: 1 to `length`.
    pub const fn remaining(self, position: Position) -> u64 {
        self.length() as u64 - self.offset(position) as u64
    }
}

/// A slot of lent memory as a ring: a window of a power of two of bytes, where position p lies at
/// p % window, and after it one MTU of slack, so that a frame never wraps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Ring {
    window: u32,
}

impl Ring {
    /// The largest ring in `slot_len` bytes for frames of up to `mtu` bytes and no window over
    /// `window_max`; `None` if the MTU is out of bounds or a window would not hold one such frame.
    pub const fn fit(slot_len: usize, mtu: usize, window_max: u32) -> Option<Self> {
        if mtu < MTU_MIN || mtu > MTU_MAX || !mtu.is_multiple_of(FRAME_ALIGNMENT) {
            return None;
        }
        let mut room = slot_len.saturating_sub(mtu);
        if room > window_max as usize {
            room = window_max as usize;
        }
        if room < mtu {
            return None;
        }
        let window = 1 << room.ilog2();
        if (window as usize) < mtu {
            return None;
        }
        Some(Self { window })
    }

    /// The window in bytes.
    pub const fn window(self) -> u32 {
        self.window
    }

    /// What of a slot holds nothing while the stream's bytes in it are those from `start` to `end`.
    pub const fn held(self, start: Position, end: Position) -> Held {
        Held {
            start,
            end,
            ring: self,
        }
    }

    /// Where the byte at `position` lies in the slot.
    pub const fn offset(self, position: Position) -> usize {
        (position.get() & (self.window as u64 - 1)) as usize
    }
}

/// What a stream has in its slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Held {
    /// The first byte.
    pub start: Position,
    /// The byte after the last.
    pub end: Position,
    ring: Ring,
}

impl Held {
    /// What else there is in a slot of `len` bytes. The slack behind the window counts only if
    /// nothing at all is held: a frame may reach into it.
    pub fn unused(&self, len: usize) -> [Range<usize>; 2] {
        let window = self.ring.window as usize;
        let (start, end) = (self.ring.offset(self.start), self.ring.offset(self.end));
        match self.end.since(self.start) {
            0 => [0..len, 0..0],
            held if held >= window as u64 => [0..0, 0..0],
            _ if start < end => [0..start, end..window],
            _ => [end..start, 0..0],
        }
    }
}

/// The length of a slot for a window of `window` bytes (a power of two) and frames of `mtu` bytes.
pub const fn slot_len(window: usize, mtu: usize) -> usize {
    window + mtu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_to_ids_and_offsets_and_back() {
        let segments = Segments::new(i32::MAX, 65_536).unwrap();
        for p in [0, 32, 65_504, 65_536, 65_536 * 3 + 96] {
            let position = Position::new(p);
            let (id, offset) = (segments.id(position), segments.offset(position));
            assert_eq!(segments.position(id, offset), Some(position));
        }
        assert_eq!(segments.id(Position::new(65_536)), i32::MIN);
        assert_eq!(
            segments.position(i32::MAX, 65_536),
            Some(Position::new(65_536))
        );
    }

    #[test]
    fn a_header_that_names_no_frame_start_has_no_position() {
        let segments = Segments::new(7, 65_536).unwrap();
        assert_eq!(segments.position(6, 0), None);
        assert_eq!(segments.position(7, -32), None);
        assert_eq!(segments.position(7, 33), None);
        assert_eq!(segments.position(7, 65_568), None);
        assert_eq!(Segments::new(0, 65_535), None);
        assert_eq!(Segments::new(0, 32_768), None);
        assert_eq!(Segments::new(0, 1 << 31), None);
    }

    #[test]
    fn what_is_not_held_is_the_rest_of_the_window() {
        let ring = Ring::fit(slot_len(4096, 1408), 1408, u32::MAX).unwrap();
        let unused = |start, end| {
            let held = ring.held(Position::new(start), Position::new(end));
            held.unused(slot_len(4096, 1408))
        };
        assert_eq!(unused(96, 96), [0..5504, 0..0]);
        assert_eq!(unused(4096 + 96, 4096 + 128), [0..96, 128..4096]);
        assert_eq!(unused(4000, 4096), [0..4000, 0..0]);
        assert_eq!(unused(4000, 4192), [96..4000, 0..0]);
        assert_eq!(unused(32, 32 + 4096), [0..0, 0..0]);
    }

    #[test]
    fn a_ring_is_a_power_of_two_and_holds_a_frame() {
        let window = |len, mtu| Ring::fit(len, mtu, u32::MAX).map(Ring::window);
        assert_eq!(window(slot_len(4096, 1408), 1408), Some(4096));
        assert_eq!(window(slot_len(4096, 1408) - 1, 1408), Some(2048));
        assert_eq!(window(2048 + 1407, 1408), None);
        assert_eq!(window(0, 1408), None);
        assert_eq!(window(1 << 20, 100), None);
        assert_eq!(
            Ring::fit(1 << 20, 1408, 32_768).map(Ring::window),
            Some(32_768)
        );
    }
}
