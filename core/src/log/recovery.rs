//! What may be believed after a crash.
//!
//! Given the newest slot, and fed the log's bytes from storage in order:
//! - a bad frame below `confirmed` is corruption: reported, never cut. Reading goes on at
//!   `confirmed`, whose chain the slot has;
//! - a bad frame above it is where a write was cut (`torn`, if below `intended`), and the log ends;
//! - good frames above `confirmed` may be in the page cache and not on the disk: they are loaded in
//!   the window and written again before they count, also those above `intended`, whose slot was
//!   lost.

use super::{
    FrameError, Frames, HISTORY_TERMS, History, Journal, Slot, Window, checksum, segment_base,
};
use crate::units::{ClusterId, Position, Tail, Term};

/// Where a log, or a part of it, goes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Seed {
    /// The position of the next frame.
    pub position: Position,
    /// The chain before it; `None` if unknown.
    pub chain: Option<u32>,
    /// The term of the frame before it; zero if there is none or it is not known.
    pub term: Term,
}

impl Seed {
    /// The start of a cluster's log.
    pub fn genesis(cluster: ClusterId) -> Self {
        Self {
            position: Position::ZERO,
            chain: Some(checksum::genesis(cluster)),
            term: Term::ZERO,
        }
    }
}

/// Why a log cannot be recovered. Nothing in storage was changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RecoveryError {
    /// The log is of this cluster, not ours.
    WrongCluster(ClusterId),
    /// The log's segments have this length, not the configured one.
    WrongSegmentLength(u32),
    /// The log is known to reach the position given, but starts behind it.
    StartAboveConfirmed(Position),
    /// The last group does not fit in the window: give it at least this many bytes.
    WindowTooSmall(u64),
    /// `finish` was called while bytes were still wanted.
    Unfinished,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Recovered {
    /// Where the log in storage starts.
    pub start: Seed,
    /// Where it ends: for elections. With corruption and nothing above it, the term is the joined
    /// one.
    pub tail: Tail,
    /// The chain at the end; `None` if it is not known.
    pub chain: Option<u32>,
    /// Every byte below was durable for certain.
    pub confirmed: Position,
    /// The chain there.
    pub confirmed_chain: Option<u32>,
    /// The term of the frame before it; zero if there is none or it is not known.
    pub confirmed_term: Term,
    /// Where the last group was to end.
    pub intended: Position,
    /// The leadership that was joined when the newest slot was written.
    pub joined: Term,
    /// The newest slot, if there is one.
    pub slot: Option<Slot>,
    /// Which term wrote what; above a corruption only.
    pub history: History<HISTORY_TERMS>,
    /// Bytes of the last group were lost. They may have been acknowledged: prefer candidates that
    /// have them, for one canvass period.
    pub torn: bool,
    /// The lowest bad frame below `confirmed`: no candidacy, and votes only for candidates at least
    /// at `tail`, until it is repaired from peers.
    pub corrupt: Option<Position>,
    /// The chain before that frame, if it is known, and the term of the frame before it.
    pub corrupt_after: (Option<u32>, Term),
}

impl Recovered {
    /// An empty log of a new cluster.
    pub fn fresh(cluster: ClusterId) -> Self {
        Self::empty(Seed::genesis(cluster))
    }

    /// An empty log that goes on at `start`.
    pub fn empty(start: Seed) -> Self {
        Self {
            start,
            tail: Tail {
                term: start.term,
                end: start.position,
            },
            chain: start.chain,
            confirmed: start.position,
            confirmed_chain: start.chain,
            confirmed_term: start.term,
            intended: start.position,
            joined: Term::ZERO,
            slot: None,
            history: History::new(),
            torn: false,
            corrupt: None,
            corrupt_after: (None, Term::ZERO),
        }
    }

    /// Empties `window` and lets it start at `confirmed`. The driver then reads `window.end()` to
    /// `tail.end` from storage and hands it to `Window::fill`.
    pub fn open_window<B: AsRef<[u8]> + AsMut<[u8]>>(&self, window: &mut Window<B>) {
        window.load(self.confirmed, self.confirmed_chain, self.confirmed_term);
    }

    /// The journal that goes on with this log.
    pub fn journal(&self, cluster: ClusterId, segment_length: u32) -> Journal {
        Journal::new(cluster, segment_length, self)
    }
}

/// The scan at start. Ask [`wanted`](Self::wanted), read, [`feed`](Self::feed), until nothing is
/// wanted; then [`finish`](Self::finish).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Recovery {
    found: Recovered,
    segment_length: u32,
    capacity: u64,
    at: Position,
    chain: Option<u32>,
    term: Term,
    is_done: bool,
    needed: Option<u64>,
}

impl Recovery {
    /// Of a log that starts at `start` in storage, whose newest slot is `slot` (`None` if there is
    /// none in any file: nothing was ever acknowledged), for a window of `capacity` bytes.
    ///
    /// # Errors
    /// All of [`RecoveryError`] but the last two.
    pub fn new(
        cluster: ClusterId,
        segment_length: u32,
        start: Seed,
        slot: Option<Slot>,
        capacity: u64,
    ) -> Result<Self, RecoveryError> {
        let mut found = Recovered::empty(start);
        if let Some(slot) = slot {
            if slot.cluster != cluster {
                return Err(RecoveryError::WrongCluster(slot.cluster));
            }
            if slot.segment_length != segment_length {
                return Err(RecoveryError::WrongSegmentLength(slot.segment_length));
            }
            if slot.confirmed < start.position {
                return Err(RecoveryError::StartAboveConfirmed(slot.confirmed));
            }
            found.confirmed = slot.confirmed;
            found.intended = slot.intended;
            found.joined = slot.joined;
            found.slot = Some(slot);
        }
        let mut recovery = Self {
            found,
            segment_length,
            capacity,
            at: start.position,
            chain: start.chain,
            term: start.term,
            is_done: false,
            needed: None,
        };
        recovery.note_confirmed();
        Ok(recovery)
    }

    /// The position whose bytes are wanted next; `None` when the scan is done.
    pub fn wanted(&self) -> Option<Position> {
        (!self.is_done).then_some(self.at)
    }

    /// Takes the bytes at `wanted()`: at least one whole frame of the largest size, or all to the
    /// segment's end; not across it. None at all, if storage has none or cannot read them.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_done {
            return;
        }
        let before = self.at;
        let frames = Frames::new(bytes, self.at, self.segment_length).verified();
        let mut frames = frames.linked(self.chain);
        let mut error = None;
        while error.is_none() {
            let Some(frame) = frames.next() else {
                error = frames.error();
                break;
            };
            let is_across =
                frame.position < self.found.confirmed && frame.end() > self.found.confirmed;
            if is_across || frame.term < self.term {
                error = Some(FrameError::BadHeader);
                break;
            }
            if frame.end() > self.found.confirmed.plus(self.capacity) {
                self.end_at_capacity();
                return;
            }
            let is_pushed = self
                .found
                .history
                .push(frame.term, frame.position, frame.end());
            assert!(is_pushed, "frames are pushed in order");
            self.at = frame.end();
            self.chain = Some(frame.chain);
            self.term = frame.term;
            if self.at == self.found.confirmed {
                self.note_confirmed();
                // The rest is checked against the slot's chain: it is wanted again.
                return;
            }
        }
        let is_more_wanted = self.at > before && matches!(error, None | Some(FrameError::Cut));
        if !is_more_wanted {
            self.stop();
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// [`RecoveryError::WindowTooSmall`] or [`RecoveryError::Unfinished`].
    pub fn finish(mut self) -> Result<Recovered, RecoveryError> {
        if !self.is_done {
            return Err(RecoveryError::Unfinished);
        }
        if let Some(needed) = self.needed {
            return Err(RecoveryError::WindowTooSmall(needed));
        }
        let is_hidden = self.found.corrupt.is_some() && self.at == self.found.confirmed;
        let term = if is_hidden {
            self.found.joined
        } else {
            self.term
        };
        self.found.tail = Tail { term, end: self.at };
        self.found.chain = self.chain;
        self.found.torn = self.at < self.found.intended;
        Ok(self.found)
    }

    /// The scan has come to `confirmed`: from here on the slot's chain counts.
    fn note_confirmed(&mut self) {
        if self.at != self.found.confirmed {
            return;
        }
        let stated = self.found.slot.and_then(|slot| slot.chain);
        let is_other = matches!((stated, self.chain), (Some(a), Some(b)) if a != b);
        if is_other && self.found.corrupt.is_none() {
            // Every frame holds, and yet this is another log: none of it is believed.
            let start = self.found.start;
            self.found.corrupt = Some(start.position);
            self.found.corrupt_after = (start.chain, start.term);
            self.found.history.clear();
        }
        self.chain = stated.or(self.chain);
        self.found.confirmed_chain = self.chain;
        self.found.confirmed_term = self.term;
    }

    /// No good frame is at `at`.
    fn stop(&mut self) {
        if self.at >= self.found.confirmed {
            self.is_done = true;
            return;
        }
        if self.found.corrupt.is_none() {
            self.found.corrupt = Some(self.at);
            self.found.corrupt_after = (self.chain, self.term);
        }
        self.found.history.clear();
        self.at = self.found.confirmed;
        self.chain = None;
        self.note_confirmed();
        self.found.confirmed_term = Term::ZERO;
    }

    /// More good frames than the window holds. Only those below `intended` may be acknowledged; and
    /// if that would fit, these are what an old truncation has left.
    fn end_at_capacity(&mut self) {
        let needed = self.found.intended.since(self.found.confirmed);
        if self.at < self.found.intended && needed > self.capacity {
            self.needed = Some(needed);
        }
        self.is_done = true;
    }
}

/// Looks up in storage which chain the frame that ends at a position has: for `Window::set_chain`,
/// after a truncation below the window's start (which happens soon after a restart only). Same
/// shape as [`Recovery`]; bounded by one segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ChainSearch {
    until: Position,
    segment_length: u32,
    at: Position,
    chain: Option<u32>,
    is_done: bool,
}

impl ChainSearch {
    /// The chain at `until` in a log that starts at `start`. There nothing is wanted and nothing
    /// found: its [`Seed`] has it.
    pub fn new(until: Position, start: Position, segment_length: u32) -> Self {
        Self {
            until,
            segment_length,
            at: segment_base(until.minus(1), segment_length).max(start),
            chain: None,
            is_done: until <= start,
        }
    }

    /// The position whose bytes are wanted next; `None` when the search is done.
    pub fn wanted(&self) -> Option<Position> {
        (!self.is_done).then_some(self.at)
    }

    /// Takes the bytes at `wanted()`, as `Recovery::feed` does.
    pub fn feed(&mut self, bytes: &[u8]) {
        let before = self.at;
        let frames = Frames::new(bytes, self.at, self.segment_length).verified();
        for frame in frames.linked(self.chain) {
            if frame.end() > self.until {
                break;
            }
            self.at = frame.end();
            self.chain = Some(frame.chain);
        }
        self.is_done |= self.at == self.until || self.at == before;
    }

    /// What was found; `None` if no good frame ends there.
    pub fn chain(&self) -> Option<u32> {
        self.chain.filter(|_| self.at == self.until)
    }
}
