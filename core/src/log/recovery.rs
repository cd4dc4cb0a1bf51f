//! What may be believed after a crash.
//!
//! Given the newest slot, and fed the log's bytes from storage in order:
//! - a bad frame below `confirmed` is corruption: reported, never cut. It ends where frames begin
//!   that run, each following from the one before, to `confirmed` and to the chain that the slot
//!   has there; if there are none, at `confirmed`;
//! - a bad frame above it is where a write was cut (`torn`, if below `intended`), and the log ends;
//! - good frames above `confirmed` may be in the page cache and not on the disk: they are loaded in
//!   the window and written again before they count, also those above `intended`, whose slot was
//!   lost.
//!
//! Behind a bad frame no length says where the next one begins, so every multiple of the alignment
//! is tried: a frame must say that it is of this place, hold its own checksum, be of a term that
//! may be there, and lead to the slot's chain. Whatever else looks like a frame (a client may have
//! sent one) leads elsewhere. Two damaged places are one hole: what is sound between them is asked
//! for as well. Of all members, the one that is damaged lowest finds that place sound at any other
//! whose damage begins above. (Not covered: frames that are sound here alone, between two damaged
//! places,
//! are of no use to this member, which reads none of its own hole. If no other has them, it waits
//! for ever.)

use super::scan::{alike, sound_of};
use super::{
    FrameError, FrameRef, Frames, HISTORY_TERMS, History, Journal, Slot, Window, checksum,
    segment_base, segment_end,
};
use crate::broken::Broken;
use crate::limits::FRAME_ALIGNMENT;
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
    /// No frame can end at this position, from which on the log is to be loaded.
    BadStart(Position),
    /// A bug of ours.
    Broken(Broken),
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Recovered {
    /// Where the log in storage starts.
    pub start: Seed,
    /// Where it ends: for elections. With corruption and no frame above it, the term is the joined
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
    /// The lowest bad frame below `confirmed` (the driver writes `slot` to its place again, and
    /// flushes, before the node starts: where a process was killed it may be in the page cache
    /// alone, and nothing else says that those bytes were durable): no candidacy, and votes only
    /// for candidates at least at `tail`, until it is repaired from peers.
    pub corrupt: Option<Position>,
    /// The chain before that frame, if it is known, and the term of the frame before it.
    pub corrupt_after: (Option<u32>, Term),
    /// Where the damage ends: from here on every frame is sound and follows from the one before, to
    /// `confirmed`. With the chain that stands before, if it is known. Without damage it means
    /// nothing.
    pub corrupt_to: (Position, Option<u32>),
    /// Whether the log agrees with the snapshot that [`Recovery::compare`] named: it has a frame
    /// that ends there, and the chain that the snapshot says. `None` if that cannot be said: the
    /// log does not reach there, or is damaged there.
    pub agrees: Option<bool>,
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
            corrupt_to: (start.position, start.chain),
            agrees: None,
        }
    }

    /// Empties `window` and lets it start at `confirmed`. The driver then reads `window.end()` to
    /// `tail.end` from storage and hands it to `Window::fill`.
    ///
    /// # Errors
    /// [`RecoveryError::BadStart`]: no frame can end at `confirmed`.
    pub fn open_window<B: AsRef<[u8]> + AsMut<[u8]>>(
        &self,
        window: &mut Window<B>,
    ) -> Result<(), RecoveryError> {
        let loaded = window.load(self.confirmed, self.confirmed_chain, self.confirmed_term);
        loaded.map_err(|_| RecoveryError::BadStart(self.confirmed))
    }

    /// The journal that goes on with this log, in segments as long as those of `window`.
    pub fn journal<B>(&self, cluster: ClusterId, window: &Window<B>) -> Journal {
        Journal::new(cluster, window, self)
    }
}

/// How far good frames lead.
enum Followed {
    /// To `confirmed`.
    ToConfirmed,
    /// Not so far, and why not further, if there are more bytes.
    UpTo(Option<FrameError>),
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
    /// Behind damage: where the frames begin that follow from one another up to `at`, and the chain
    /// that stands before the first.
    run: Option<(Position, u32)>,
    /// The snapshot to compare with, and what those frames say of it.
    snapshot: Option<(Position, u32)>,
    run_agrees: Option<bool>,
    is_done: bool,
    needed: Option<u64>,
    broken: Option<Broken>,
}

impl Recovery {
    /// Of a log that starts at `start` in storage, whose newest slot is `slot` (`None` if there is
    /// none in any file: nothing was ever acknowledged), for a window of `capacity` bytes.
    ///
    /// # Errors
    /// All of [`RecoveryError`] but the last four.
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
            run: None,
            snapshot: None,
            run_agrees: None,
            is_done: false,
            needed: None,
            broken: None,
        };
        recovery.note_confirmed();
        Ok(recovery)
    }

    /// Says what a snapshot says of the log at its position: see [`Recovered::agrees`].
    pub fn compare(&mut self, snapshot: Seed) {
        self.snapshot = snapshot.chain.map(|chain| (snapshot.position, chain));
    }

    /// The position whose bytes are wanted next; `None` when the scan is done.
    pub fn wanted(&self) -> Option<Position> {
        (!self.is_done).then_some(self.at)
    }

    /// Takes the bytes at `wanted()`: at least one whole frame of the largest size, or all to the
    /// segment's end; not across it. None at all, if storage has none or cannot read them.
    ///
    /// Bounded by the bytes; where they are damaged, by the checksum of a frame for each place that
    /// looks like the header of one.
    pub fn feed(&mut self, bytes: &[u8]) {
        let before = self.at;
        while !self.is_done {
            let rest = bytes.get(self.at.since(before) as usize..);
            let error = match self.follow(rest.unwrap_or_default()) {
                // The rest is checked against the slot's chain: it is wanted again.
                Followed::ToConfirmed => return,
                Followed::UpTo(error) => error,
            };
            let is_more_wanted = self.at > before && matches!(error, None | Some(FrameError::Cut));
            if self.is_done || is_more_wanted {
                return;
            }
            self.stop(bytes.is_empty());
        }
    }

    /// Takes the good frames at the start of `bytes`.
    fn follow(&mut self, bytes: &[u8]) -> Followed {
        let taken = self.follow_alike(bytes);
        let bytes = bytes.get(taken..).unwrap_or_default();
        let frames = Frames::new(bytes, self.at, self.segment_length).verified();
        let mut frames = frames.linked(self.chain);
        for frame in frames.by_ref() {
            if !self.may_be(&frame) {
                return Followed::UpTo(Some(FrameError::BadHeader));
            }
            if frame.end() > self.found.confirmed.plus(self.capacity) {
                self.end_at_capacity();
                return Followed::UpTo(None);
            }
            if self.is_searching() && self.run.is_none() {
                self.run = frame.chain_before().map(|before| (self.at, before));
            }
            self.note_snapshot(&frame);
            let history = &mut self.found.history;
            let is_pushed = history.push(frame.term, frame.position, frame.end());
            if !is_pushed {
                self.broken = Some(Broken::History);
                self.is_done = true;
                return Followed::UpTo(None);
            }
            self.at = frame.end();
            self.chain = Some(frame.chain);
            self.term = frame.term;
            if self.at == self.found.confirmed {
                self.note_confirmed();
                return Followed::ToConfirmed;
            }
        }
        Followed::UpTo(frames.error())
    }

    /// Takes those at the start of `bytes` that are alike, and of which nothing more is to be said:
    /// nearly all of a log. How many bytes they are.
    fn follow_alike(&mut self, bytes: &[u8]) -> usize {
        #[cfg(test)]
        if super::one_by_one::is_asked() {
            return 0;
        }
        let (Some(before), false) = (self.chain, self.is_searching()) else {
            return 0;
        };
        // The frames that end at `confirmed`, at the snapshot, or where there is no more room, and
        // what goes beyond, are looked at one by one.
        let confirmed = self.found.confirmed;
        let marks = [Some(confirmed), self.snapshot.map(|at| at.0)];
        let ahead = marks.into_iter().flatten().filter(|mark| *mark > self.at);
        let room = confirmed.plus(self.capacity);
        let until = ahead.fold(room, Position::min).minus(1);
        let until = until.min(segment_end(self.at, self.segment_length));
        let most = usize::try_from(until.since(self.at)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..most).unwrap_or(bytes);
        let Some((frames, term)) = alike(bytes, self.at, self.segment_length) else {
            return 0;
        };
        if term < self.term {
            return 0;
        }
        let (len, chain) = sound_of(frames, before, usize::MAX);
        let end = self.at.plus(len as u64);
        if len == 0 || !self.found.history.push(term, self.at, end) {
            return 0;
        }
        (self.at, self.chain, self.term) = (end, Some(chain), term);
        #[cfg(test)]
        super::one_by_one::note(len);
        len
    }

    /// What a good frame says of the snapshot.
    fn note_snapshot(&mut self, frame: &FrameRef<'_>) {
        let Some((at, chain)) = self.snapshot else {
            return;
        };
        let starts_run = self.run.filter(|run| run.0 == at && frame.position == at);
        let agrees = match starts_run {
            Some((_, before)) => before == chain,
            None if frame.position < at && at <= frame.end() => {
                at == frame.end() && frame.chain == chain
            }
            None => return,
        };
        match self.is_searching() {
            true => self.run_agrees = Some(agrees),
            false => self.found.agrees = Some(agrees),
        }
    }

    /// Whether a frame goes with what is known besides its chain.
    fn may_be(&self, frame: &FrameRef<'_>) -> bool {
        let confirmed = self.found.confirmed;
        let is_across = frame.position < confirmed && frame.end() > confirmed;
        let is_of_later = self.is_searching() && frame.term > self.found.joined;
        !is_across && !is_of_later && frame.term >= self.term
    }

    /// Behind a bad frame, and not at `confirmed` yet.
    fn is_searching(&self) -> bool {
        self.found.corrupt.is_some() && self.at < self.found.confirmed
    }

    /// What was found.
    ///
    /// # Errors
    /// [`RecoveryError::WindowTooSmall`], [`RecoveryError::Unfinished`] or
    /// [`RecoveryError::Broken`].
    pub fn finish(mut self) -> Result<Recovered, RecoveryError> {
        if let Some(broken) = self.broken {
            return Err(RecoveryError::Broken(broken));
        }
        if !self.is_done {
            return Err(RecoveryError::Unfinished);
        }
        if let Some(needed) = self.needed {
            return Err(RecoveryError::WindowTooSmall(needed));
        }
        let confirmed = self.found.confirmed;
        let is_hidden = self.found.corrupt.is_some()
            && self.at == confirmed
            && self.found.corrupt_to.0 == confirmed;
        let term = if is_hidden {
            self.found.joined.max(self.term)
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
        let run = self.run.take().filter(|_| !is_other);
        self.chain = stated.or(self.chain.filter(|_| !is_other));
        self.found.confirmed_chain = self.chain;
        self.found.confirmed_term = self.term;
        let start = self.found.start;
        let first = (start.position, (start.chain, start.term));
        match (self.found.corrupt, run) {
            (None, _) if !is_other => {}
            (Some(corrupt), Some((at, before))) if at > start.position => {
                self.found.corrupt_to = (at, Some(before));
                self.found.agrees = self.run_agrees.or(self.found.agrees);
                if corrupt == at {
                    // No frame is bad, and yet those below do not lead here: they are of another
                    // log.
                    (self.found.corrupt, self.found.corrupt_after) = (Some(first.0), first.1);
                }
            }
            (corrupt, _) => {
                if corrupt.is_none() {
                    // Every frame holds, and yet this is another log: none of it is believed.
                    (self.found.corrupt, self.found.corrupt_after) = (Some(first.0), first.1);
                } else {
                    self.found.confirmed_term = Term::ZERO;
                    self.term = self.found.corrupt_after.1;
                }
                self.found.history.clear();
                self.found.corrupt_to = (self.at, self.chain);
            }
        }
    }

    /// No good frame that follows is at `at`; nor any bytes, if nothing `is_there`.
    fn stop(&mut self, is_nothing_there: bool) {
        let confirmed = self.found.confirmed;
        if self.at >= confirmed {
            self.is_done = true;
            return;
        }
        if self.found.corrupt.is_none() {
            self.found.corrupt = Some(self.at);
            self.found.corrupt_after = (self.chain, self.term);
        }
        self.found.history.clear();
        self.term = self.found.corrupt_after.1;
        (self.run, self.run_agrees) = (None, None);
        // What does not follow from the frames before may still be sound, and follow from others.
        if self.chain.take().is_some() {
            return;
        }
        let next = match is_nothing_there {
            true => segment_end(self.at, self.segment_length),
            false => self.at.plus(FRAME_ALIGNMENT as u64),
        };
        self.at = next.min(confirmed);
        self.note_confirmed();
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
