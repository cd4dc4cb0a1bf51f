//! The replicated log: whole Aeron frames at byte positions, with two checksums each.
//!
//! Bytes are the same on the wire, in memory and on disk. A record (one SBE message) is cut into
//! DATA frames of at most one MTU; a PAD frame fills a segment that the next frame does not fit in.
//! The session id of a frame is the leadership term that wrote it, its term id the number of the
//! *segment* it is in (what Aeron calls a term buffer is a segment here), its term offset the place
//! in that segment. So a frame says by itself which bytes of which log it is.
//!
//! What is where: [`append()`] writes frames, [`scan`] reads them, [`Messages`] puts fragments
//! together again, [`receive()`] lands frames that arrive in any order, [`History`] knows which
//! term wrote what, [`Window`] is the memory, [`Journal`] the discipline by which it becomes
//! durable, and [`Recovery`] what may be believed after a crash.

mod append;
mod beside;
mod bounded;
pub mod checksum;
mod frame;
mod history;
mod journal;
mod messages;
mod node_state;
mod receive;
mod recovery;
pub mod scan;
mod sector;
mod slot;
mod window;

pub use crate::gaps::{Gaps, GapsFull, Span};
pub use append::{AppendError, Appending, append, encoded_len};
pub use bounded::Bounded;
pub use history::{HISTORY_TERMS, History};
pub use journal::{CONFIRM_AFTER_POLLS, Group, Journal};
pub use messages::{Message, Messages};
pub(crate) use node_state::NoRoom;
pub use node_state::{NodeState, Roster};
pub(crate) use receive::receive_next;
pub use receive::{Received, publish_landed, receive};
pub use recovery::{ChainSearch, Recovered, Recovery, RecoveryError, Seed};
pub use scan::{FrameError, FrameRef, Frames, boundary, run, sent, starts_frame};
pub use sector::{SECTOR, SectorError};
pub use slot::{Slot, SlotPlace};
pub use window::{Window, WindowError, window_len};

use crate::broken::Broken;
use crate::units::Position;

#[cfg(test)]
mod crash_model;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod holes;
#[cfg(test)]
mod one_by_one;
#[cfg(test)]
mod purged;
#[cfg(test)]
mod tests;

/// The Aeron stream of the log (Aeron Cluster: `LOG_STREAM_ID_DEFAULT`).
pub const LOG_STREAM_ID: i32 = 100;

/// The log's recent bytes in memory: infallible, never blocks. What it has let go is in storage.
///
/// Positions in arguments are frame boundaries. `end` is the contiguous, verified end: bytes at and
/// above it do not exist until they are published.
pub trait Log {
    /// The oldest byte that can be read.
    fn start(&self) -> Position;

    /// The end of what is published.
    fn end(&self) -> Position;

    /// The chain of the last frame below `end`. `None` if it is not known: after a truncation below
    /// `start`, until a frame is published or the driver has looked it up in storage.
    fn chain(&self) -> Option<u32>;

    /// The chain of the last frame below `at`, a frame boundary in `[start, end]`; `None` if
    /// unknown. Walks the frames from `start`: bounded by the window, meant for rare calls.
    fn chain_at(&self, at: Position) -> Option<u32>;

    /// The whole published frames from the boundary `at` on that are contiguous in memory; empty if
    /// there are none. Reading on behind the last one gives the next run.
    fn read(&self, at: Position) -> &[u8];

    /// The contiguous room for frames from the boundary `at`, at or above `end`; empty if there is
    /// none (back pressure), or `at` is no such place. May let go the oldest bytes. Bounded by the
    /// frames let go.
    fn room(&mut self, at: Position) -> &mut [u8];

    /// Frames that start at or above this lie elsewhere in memory than those from `at` on, which is
    /// at or above `end`.
    fn lap_end(&self, at: Position) -> Position;

    /// Makes the whole frames in the room from `end()` to `end` exist. `chain` is that of the last.
    ///
    /// # Errors
    /// [`Broken::Publish`] if that cannot be the end of frames there: nothing was changed.
    fn publish(&mut self, end: Position, chain: u32) -> Result<(), Broken>;

    /// Takes back everything at and above the frame boundary `end`. Never below what is committed.
    ///
    /// # Errors
    /// [`Broken::Cut`] if that is no frame boundary, or behind the end: nothing was changed.
    fn truncate(&mut self, end: Position) -> Result<(), Broken>;

    /// No reader on this thread needs bytes below this any more. Never goes back.
    fn release(&mut self, below: Position);

    /// How many bytes the window can hold.
    fn capacity(&self) -> u64;

    /// The length of a segment in bytes, a power of two. No frame crosses a segment's end.
    fn segment_length(&self) -> u32;
}

/// Where the last segment ends: a frame names its segment in 31 bits, so there is no room behind
/// it. That is 128 TiB of log in segments of 64 KiB.
#[inline]
pub const fn last_end(segment_length: u32) -> Position {
    Position::new((segment_length as u64) << 31)
}

/// Where the segment of the byte at `position` starts.
#[inline]
pub const fn segment_base(position: Position, segment_length: u32) -> Position {
    // A power of two: a mask instead of a division for every frame.
    debug_assert!(segment_length.is_power_of_two());
    Position::new(position.get() & !(segment_length as u64 - 1))
}

/// Where the segment of the byte at `position` ends.
#[inline]
pub const fn segment_end(position: Position, segment_length: u32) -> Position {
    segment_base(position, segment_length).plus(segment_length as u64)
}
