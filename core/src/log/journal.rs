//! By which steps the window's bytes become durable, and what is written down about it.
//!
//! Sans-IO: the driver writes what [`Journal::poll_group`] gives, flushes, and says so. One flush
//! is in flight at most; what arrives meanwhile is the next group. Each group is flushed together
//! with a [`Slot`] that says where it ends (`intended`) and that all before it is durable
//! (`confirmed`): so after a crash, a bad frame below `confirmed` is corruption, and one above it a
//! write that was cut. When the log has come to rest, one more slot confirms the last group, so
//! that rot in it will be seen as rot. A truncation is durable before any byte above the cut is
//! overwritten.
//!
//! Of two slots in a file one is always durable while the other is overwritten. After a restart
//! that is not known of the newest: it may be in the page cache only, of a process that was killed
//! or whose flush failed. So the first flush of all writes it again, where and as it is; or what it
//! says at the file's start, if it is beside the data.

use super::beside::Places;
use super::{Frames, Log, Recovered, Slot, SlotPlace, Span, Window, segment_base, segment_end};
use crate::planted::Planted;
use crate::units::{ClusterId, Mark, Position, Term};

/// After how many polls in a row that find nothing to write the log counts as at rest, by default:
/// enough that a request and its answer do not wait for a confirming flush in between.
pub const CONFIRM_AFTER_POLLS: u32 = 8;

/// What one flush makes durable. The driver writes the slot and the bytes of `span` to the file of
/// the segment that the slot names, and flushes that file once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Group {
    /// The slot to write, which says where.
    pub slot: Slot,
    /// The bytes to write, all in that segment; empty for a confirming or a truncating slot. Read
    /// them with `Log::read`, in one run or two.
    pub span: Span,
    /// The block in which these end is to be left as it is behind them: the newest durable slot is
    /// there. Else a driver may write anything there, up to that block's end; and all of the block
    /// in which a slot is that [is the first there](Slot::is_first_beside).
    pub keeps_rest: bool,
}

/// The group that is being flushed: what follows once it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Flight {
    /// Where its bytes end.
    end: Position,
    joined: Term,
    /// The chain at the end of the group.
    chain: Option<u32>,
    /// The lowest truncation since; the end, if there was none below.
    cut: Position,
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Journal {
    cluster: ClusterId,
    segment_length: u32,
    /// Where the log starts: no file holds a byte below.
    start: Position,
    slots: Places,
    /// The leadership that was joined when the last group was polled; zero if none was.
    joined: Term,
    /// The last one that was joined ever, which the disk must not forget: a log that is damaged
    /// later stands for its last term by it.
    last_joined: Term,
    /// Handed to the driver to be written.
    written: Position,
    durable: Position,
    /// The chain at `durable`; `None` if it must be asked for.
    chain: Option<u32>,
    /// What the newest durable slot says.
    confirmed: Position,
    /// The slot that was found at start, to be written again before anything else.
    found: Option<Slot>,
    /// The log was truncated to `written`: that must be made durable first.
    is_cut: bool,
    flight: Option<Flight>,
    idle_polls: u32,
    confirm_after: u32,
}

impl Journal {
    /// For a log as it was recovered: what is confirmed is durable, the tail above is written
    /// again. In segments as long as those of `window`, which has seen to it that they can be.
    pub fn new<B>(cluster: ClusterId, window: &Window<B>, recovered: &Recovered) -> Self {
        let segment_length = window.segment();
        let mut journal = Self {
            cluster,
            segment_length,
            start: recovered.start.position,
            slots: Places::behind(recovered.slot.map_or(0, |slot| slot.seq)),
            joined: recovered.joined,
            // The slot of a leadership may be lost and its frames may not: they are written again,
            // with a slot that must not be of an earlier one.
            last_joined: recovered.joined.max(recovered.tail.term),
            written: recovered.confirmed,
            durable: recovered.confirmed,
            chain: recovered.confirmed_chain,
            confirmed: recovered.confirmed,
            found: recovered.slot,
            is_cut: false,
            flight: None,
            idle_polls: 0,
            confirm_after: CONFIRM_AFTER_POLLS,
        };
        if Planted::RecoveredTailAcknowledgedWithoutRewriting.is_active() {
            journal.written = recovered.tail.end;
            journal.durable = recovered.tail.end;
            journal.chain = recovered.chain;
        }
        journal
    }

    /// Sets after how many polls in a row with nothing to write the last group is confirmed; at
    /// least one. A driver that polls without sleeping wants many.
    pub fn set_confirm_after(&mut self, polls: u32) {
        self.confirm_after = polls.max(1);
    }

    /// Slots may be beside the data: what is written to two blocks in a row is durable sooner than
    /// what is written to two places.
    pub fn set_slots_beside(&mut self) {
        self.slots.allow_beside();
    }

    /// What to write and flush next; `None` while a flush is in flight or nothing is to do.
    /// `joined` is the leadership that the member has joined now.
    ///
    /// Before: `Window::take_cut` to [`handle_truncated`](Self::handle_truncated). After the bytes
    /// are written: `Window::set_written` with [`written`](Self::written). Bounded by the frames in
    /// a group.
    pub fn poll_group<L: Log>(&mut self, joined: Term, log: &L) -> Option<Group> {
        if self.flight.is_some() {
            return None;
        }
        if let Some(slot) = self.found {
            return Some(self.write_again(slot));
        }
        let span = self.next_span(joined, log)?;
        let chain = match span.is_empty() {
            true => self.chain,
            false => chain_at_end(log, span),
        };
        Some(self.take_off(joined, span, chain))
    }

    /// The bytes that are written next, and none if only a slot is. Afterwards the chain before
    /// them is known if it can be.
    fn next_span<L: Log>(&mut self, joined: Term, log: &L) -> Option<Span> {
        if self.is_cut {
            self.chain = log.chain_at(self.written);
            return Some(Span::new(self.written, self.written));
        }
        if log.end() > self.written {
            let end = segment_end(self.written, self.segment_length);
            let span = Span::new(self.written, log.end().min(end));
            self.idle_polls = 0;
            if self.chain.is_none() {
                self.chain = log.chain_at(self.written);
            }
            if self.slots.is_in_the_way(span) {
                // What the newest slot says is said elsewhere first.
                return Some(Span::new(self.written, self.written));
            }
            if joined == Term::ZERO {
                // A vote has ended the leadership that these are of, before they were polled: it
                // was joined all the same, and a slot is of no earlier one than what it confirms.
                self.last_joined = self.last_joined.max(term_at_end(log, span));
            }
            return Some(span);
        }
        self.idle_polls = self.idle_polls.saturating_add(1);
        // The marks of an earlier leadership say nothing to one that is joined since: what is
        // durable is said once more for it, also if it never has anything to write.
        let is_news =
            joined != Term::ZERO && joined != self.joined && self.durable > Position::ZERO;
        let is_due = self.confirmed < self.durable || is_news;
        if is_due && self.idle_polls >= self.confirm_after {
            self.chain = self.chain.or_else(|| log.chain_at(self.durable));
            return Some(Span::new(self.durable, self.durable));
        }
        None
    }

    /// The flush in flight has returned without an error: what it covered is durable. `term` of the
    /// mark is the leadership joined when the group was polled. With no flush in flight nothing
    /// changes.
    pub fn handle_flushed(&mut self) -> Mark {
        let flight = self.flight.take();
        if let Some(flight) = flight
            && self.found.take().is_none()
        {
            self.joined = flight.joined;
            self.confirmed = self.durable;
            self.durable = flight.end;
            self.chain = flight.chain;
            if flight.cut < flight.end {
                self.durable = flight.cut;
                self.chain = None;
            } else if self.written == flight.end {
                self.is_cut = false;
            }
        }
        Mark {
            term: self.joined,
            position: self.durable,
        }
    }

    /// The log was truncated to `cut`: nothing at or above it is durable any more, and if such
    /// bytes were ever handed out, that is written down before they are overwritten.
    pub fn handle_truncated(&mut self, cut: Position) {
        if Planted::FlushCursorNotPulledBackByTruncation.is_active() {
            return;
        }
        if let Some(flight) = &mut self.flight {
            flight.cut = flight.cut.min(cut);
        }
        // What a crash has left above `written` was never relied upon: it is simply written again.
        if cut < self.written {
            self.is_cut = true;
        }
        if cut < self.durable {
            self.durable = cut;
            self.chain = None;
        }
        self.written = self.written.min(cut);
        self.idle_polls = 0;
    }

    /// The log starts at `start` now: what was below is deleted. Never goes back. The file that
    /// holds the newest byte below `durable` must be left: it has the newest slot.
    pub fn handle_purged(&mut self, start: Position) {
        self.start = self.start.max(start);
    }

    /// Where the log starts in storage.
    pub fn start(&self) -> Position {
        self.start
    }

    /// Every byte below has been handed out to be written.
    pub fn written(&self) -> Position {
        self.written
    }

    /// Every byte below is durable. Under a newly joined leadership, what lies below both this and
    /// the log's end after the join is durable for that leadership too.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// The bytes of the log behind `durable`, or the slot for them, are on their way.
    pub fn is_flushing(&self) -> bool {
        self.flight.is_some()
    }

    #[inline]
    fn take_off(&mut self, joined: Term, span: Span, chain: Option<u32>) -> Group {
        self.last_joined = self.last_joined.max(joined);
        let last_joined = match Planted::ASlotForgetsTheLastJoin.is_active() {
            true => joined,
            false => self.last_joined,
        };
        let keeps_rest = self.slots.is_behind(span);
        let (seq, place) = self.slots.next(last_joined, span);
        // A confirming slot goes to the file of the bytes it confirms: the next may not exist yet.
        // But that one may not exist any more: a log that goes on after a snapshot has nothing
        // below.
        let is_confirming = span.is_empty() && !self.is_cut;
        let in_segment = span.start.minus(u64::from(is_confirming)).max(self.start);
        let slot = Slot {
            seq,
            cluster: self.cluster,
            joined: last_joined,
            confirmed: span.start,
            intended: span.end,
            chain: self.chain,
            segment_length: self.segment_length,
            segment: segment_base(in_segment, self.segment_length),
            place,
        };
        if place == SlotPlace::Lead {
            self.slots.lead(slot);
        }
        self.written = span.end;
        self.launch(joined, span, chain);
        Group {
            slot,
            span,
            keeps_rest,
        }
    }

    fn write_again(&mut self, found: Slot) -> Group {
        let slot = self.slots.again(found);
        let span = Span::new(slot.confirmed, slot.confirmed);
        self.launch(slot.joined, span, slot.chain);
        Group {
            slot,
            span,
            keeps_rest: true,
        }
    }

    fn launch(&mut self, joined: Term, span: Span, chain: Option<u32>) {
        self.flight = Some(Flight {
            end: span.end,
            joined,
            chain,
            cut: span.end,
        });
    }
}

/// The chain of the last frame in `span`.
fn chain_at_end<L: Log>(log: &L, span: Span) -> Option<u32> {
    if span.end == log.end() {
        return log.chain();
    }
    last_in(log, span).map(|(chain, _)| chain)
}

/// The term of the last frame in `span`; zero if there is none.
fn term_at_end<L: Log>(log: &L, span: Span) -> Term {
    last_in(log, span).map_or(Term::ZERO, |(_, term)| term)
}

/// The chain and the term of the last frame in `span`. Bounded by the window.
fn last_in<L: Log>(log: &L, span: Span) -> Option<(u32, Term)> {
    let mut at = span.start;
    let mut last = None;
    while at < span.end {
        let run = log.read(at);
        if run.is_empty() {
            return None;
        }
        for frame in Frames::new(run, at, log.segment_length()) {
            if frame.position >= span.end {
                break;
            }
            last = Some((frame.chain, frame.term));
        }
        at = at.plus(run.len() as u64);
    }
    last
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::limits::SEGMENT_MIN;
    use crate::log::{Seed, Window, append};

    const CLUSTER: ClusterId = ClusterId(3);
    const T1: Term = Term::new(1);
    const T2: Term = Term::new(2);

    /// A journal and a window whose log starts at `start`.
    fn fresh(start: u64) -> (Journal, Window<Vec<u8>>) {
        let seed = Seed {
            position: Position::new(start),
            chain: Some(5),
            term: Term::ZERO,
        };
        let recovered = Recovered::empty(seed);
        let mut log = Window::new(vec![0; 5000], 256, SEGMENT_MIN).expect("large enough");
        recovered.open_window(&mut log).expect("aligned");
        (recovered.journal(CLUSTER, &log), log)
    }

    /// Appends a message that takes 128 bytes of log.
    fn append_128(log: &mut Window<Vec<u8>>, term: Term) {
        append(log, term, &[&[0; 96]], 256).expect("room");
    }

    fn truncate(journal: &mut Journal, log: &mut Window<Vec<u8>>, cut: u64) {
        log.truncate(Position::new(cut)).expect("a boundary");
        journal.handle_truncated(log.take_cut().expect("just cut"));
    }

    /// (confirmed, intended) of the slot, and the bytes written with it.
    fn shape(group: Option<Group>) -> Option<(u64, u64, u64)> {
        let slot = group?.slot;
        let len = group?.span.len();
        Some((slot.confirmed.get(), slot.intended.get(), len))
    }

    fn mark(term: Term, position: u64) -> Mark {
        let position = Position::new(position);
        Mark { term, position }
    }

    #[test]
    fn what_arrives_during_a_flush_is_the_next_group() {
        let (mut journal, mut log) = fresh(0);
        append_128(&mut log, T1);
        assert_eq!(shape(journal.poll_group(T1, &log)), Some((0, 128, 128)));
        append_128(&mut log, T1);
        append_128(&mut log, T1);
        assert_eq!(journal.poll_group(T1, &log), None, "one in flight");
        assert_eq!(journal.handle_flushed(), mark(T1, 128));
        assert_eq!(shape(journal.poll_group(T1, &log)), Some((128, 384, 256)));
        assert_eq!(journal.written().get(), 384);
        assert_eq!(journal.durable().get(), 128);
        assert_eq!(journal.handle_flushed(), mark(T1, 384));
    }

    #[test]
    fn a_mark_has_the_term_joined_when_its_group_was_polled() {
        let (mut journal, mut log) = fresh(0);
        append_128(&mut log, T1);
        assert!(journal.poll_group(T1, &log).is_some());
        append_128(&mut log, T2);
        assert_eq!(journal.handle_flushed(), mark(T1, 128));
        assert!(journal.poll_group(T2, &log).is_some());
        assert_eq!(journal.handle_flushed(), mark(T2, 256));
    }

    #[test]
    fn a_group_ends_with_its_segment() {
        let start = u64::from(SEGMENT_MIN) - 256;
        let (mut journal, mut log) = fresh(start);
        for _ in 0..3 {
            append_128(&mut log, T1);
        }
        let first = journal.poll_group(T1, &log).expect("bytes");
        assert_eq!((first.span.len(), first.slot.segment.get()), (256, 0));
        journal.handle_flushed();
        let second = journal.poll_group(T1, &log).expect("bytes");
        assert_eq!(second.span.len(), 128);
        assert_eq!(second.slot.segment.get(), u64::from(SEGMENT_MIN));
        assert_ne!(first.slot.index(), second.slot.index());
    }

    #[test]
    fn a_log_at_rest_is_confirmed_once_in_the_file_it_ends_in() {
        let (mut journal, mut log) = fresh(u64::from(SEGMENT_MIN) - 128);
        journal.set_confirm_after(2);
        append_128(&mut log, T1);
        assert!(journal.poll_group(T1, &log).is_some());
        let durable = journal.handle_flushed();
        assert_eq!(journal.poll_group(T1, &log), None);
        let group = journal.poll_group(T1, &log).expect("the confirming slot");
        assert_eq!(group.slot.confirmed, log.end());
        assert_eq!((group.slot.chain, group.span.len()), (log.chain(), 0));
        assert_eq!(
            group.slot.segment,
            Position::ZERO,
            "the next file may not exist"
        );
        assert_eq!(journal.handle_flushed(), durable);
        for _ in 0..100 {
            assert_eq!(journal.poll_group(T1, &log), None);
        }
    }

    #[test]
    fn a_log_that_starts_with_a_segment_is_never_confirmed_in_the_file_before() {
        let start = Position::new(u64::from(SEGMENT_MIN));
        let polled = |journal: &mut Journal, log: &Window<Vec<u8>>| {
            (0..100).find_map(|_| journal.poll_group(T2, log))
        };
        // Empty, as after a snapshot: what is durable is said to the leadership it has joined.
        let (mut journal, log) = fresh(start.get());
        let group = polled(&mut journal, &log).expect("news for this leadership");
        assert_eq!(group.slot.segment, start);
        assert_eq!(journal.handle_flushed(), mark(T2, start.get()));
        // Purged to there, then cut to there.
        let (mut journal, mut log) = fresh(start.get() - 128);
        append_128(&mut log, T1);
        append_128(&mut log, T1);
        for _ in 0..2 {
            assert!(journal.poll_group(T1, &log).is_some());
            journal.handle_flushed();
        }
        journal.handle_purged(start);
        truncate(&mut journal, &mut log, start.get());
        let cut = polled(&mut journal, &log).expect("the truncation");
        assert_eq!(cut.slot.segment, start);
        journal.handle_flushed();
        append_128(&mut log, T2);
        truncate(&mut journal, &mut log, start.get());
        while let Some(group) = polled(&mut journal, &log) {
            assert_eq!(group.slot.segment, start);
            journal.handle_flushed();
        }
    }

    #[test]
    fn a_slot_is_of_no_earlier_leadership_than_what_it_confirms() {
        let (mut journal, mut log) = fresh(0);
        append_128(&mut log, T1);
        assert!(journal.poll_group(T1, &log).is_some());
        append_128(&mut log, T2);
        assert_eq!(journal.handle_flushed(), mark(T1, 128));
        // It has voted before what it took from the leader of term 2 was polled.
        let group = journal.poll_group(Term::ZERO, &log).expect("bytes");
        assert_eq!(group.slot.joined, T2);
        // What is durable is told to no leadership: none is joined.
        assert_eq!(journal.handle_flushed(), mark(Term::ZERO, 256));
    }

    #[test]
    fn a_leadership_joined_later_is_told_what_is_durable() {
        let (mut journal, mut log) = fresh(0);
        append_128(&mut log, T1);
        assert!(journal.poll_group(T1, &log).is_some());
        assert_eq!(journal.handle_flushed(), mark(T1, 128));
        let polled =
            |journal: &mut Journal, joined| (0..100).find_map(|_| journal.poll_group(joined, &log));
        let confirmed = polled(&mut journal, Term::ZERO).expect("confirmed");
        assert_eq!(confirmed.slot.joined, T1, "the disk never forgets it");
        // Joined while that was in flight: its mark does not count any more.
        assert_eq!(journal.handle_flushed(), mark(Term::ZERO, 128));
        let again = polled(&mut journal, T2);
        assert_eq!(shape(again), Some((128, 128, 0)));
        assert_eq!(journal.handle_flushed(), mark(T2, 128));
        assert_eq!(polled(&mut journal, T2), None);
    }

    #[test]
    fn a_truncation_during_a_flush_shortens_its_mark_and_is_written_down_first() {
        let (mut journal, mut log) = fresh(0);
        for _ in 0..3 {
            append_128(&mut log, T1);
        }
        assert_eq!(shape(journal.poll_group(T1, &log)), Some((0, 384, 384)));
        truncate(&mut journal, &mut log, 256);
        append_128(&mut log, T2);
        append_128(&mut log, T2);
        assert_eq!(journal.handle_flushed(), mark(T1, 256));
        assert_eq!(shape(journal.poll_group(T2, &log)), Some((256, 256, 0)));
        truncate(&mut journal, &mut log, 128);
        assert_eq!(
            journal.handle_flushed(),
            mark(T2, 128),
            "cut again meanwhile"
        );
        append_128(&mut log, T2);
        assert_eq!(shape(journal.poll_group(T2, &log)), Some((128, 128, 0)));
        assert_eq!(journal.handle_flushed(), mark(T2, 128));
        assert_eq!(shape(journal.poll_group(T2, &log)), Some((128, 256, 128)));
        assert_eq!(journal.handle_flushed(), mark(T2, 256));
    }

    #[test]
    fn a_truncation_of_bytes_never_handed_out_writes_nothing() {
        let (mut journal, mut log) = fresh(0);
        append_128(&mut log, T1);
        assert!(journal.poll_group(T1, &log).is_some());
        journal.handle_flushed();
        append_128(&mut log, T1);
        truncate(&mut journal, &mut log, 128);
        append_128(&mut log, T2);
        assert_eq!(shape(journal.poll_group(T2, &log)), Some((128, 256, 128)));
    }

    #[test]
    fn a_flush_that_was_never_begun_changes_nothing() {
        let (mut journal, log) = fresh(0);
        let before = journal.clone();
        assert_eq!(journal.handle_flushed(), mark(Term::ZERO, 0));
        assert_eq!(journal, before);
        assert_eq!(journal.poll_group(T1, &log), None);
    }

    #[test]
    fn a_recovered_tail_is_written_again_after_the_newest_slot() {
        let (mut journal, mut log) = fresh(0);
        append_128(&mut log, T1);
        let group = journal.poll_group(T1, &log).expect("bytes");
        let mut recovered = Recovered::empty(Seed {
            position: Position::ZERO,
            chain: Some(5),
            term: Term::ZERO,
        });
        recovered.slot = Some(group.slot);
        recovered.tail.end = log.end();
        let mut journal = recovered.journal(CLUSTER, &log);
        assert_eq!(journal.durable(), Position::ZERO);
        let unasked = journal.clone();
        journal.handle_flushed();
        assert_eq!(journal, unasked);
        let again = journal.poll_group(T2, &log).expect("the newest slot");
        assert_eq!(again.slot, group.slot);
        assert!(again.span.is_empty());
        assert_eq!(journal.handle_flushed().position, Position::ZERO);
        assert_eq!(shape(journal.poll_group(T2, &log)), Some((0, 128, 128)));
        assert_eq!(journal.handle_flushed(), mark(T2, 128));
    }
}
