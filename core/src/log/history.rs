//! Which leadership term wrote which bytes.

use heapless::Vec;

use crate::units::{Position, Term};
use crate::wire::member::{HISTORY_SLICE_MAX, HistorySlice, TermBase};

/// How many terms of history a member keeps in memory. A cache: older ones are in the log itself.
pub const HISTORY_TERMS: usize = 64;
const _: () = assert!(HISTORY_TERMS >= HISTORY_SLICE_MAX);

/// The newest `H` terms of a log: a term wrote the bytes from its base to the next term's base, the
/// last one those up to `covered_to`. Nothing is known about bytes below the first base. When full, the
/// oldest term is forgotten. Every call is bounded by `H`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct History<const H: usize> {
    entries: Vec<TermBase, H>,
    covered_to: Position,
}

impl<const H: usize> History<H> {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            covered_to: Position::ZERO,
        }
    }

    /// The bytes from `base`, where what is known ends (if anything is known), to `end` were written
    /// by `term`, which is not below the last. This is what a publisher says of each frame.
    ///
    /// False, and nothing is changed, if that does not go on from what is known.
    pub fn push(&mut self, term: Term, base: Position, end: Position) -> bool {
        if end <= base {
            return true;
        }
        let last = self.entries.last().copied();
        let goes_on = last.is_none_or(|l| l.term <= term && base == self.covered_to);
        if !goes_on {
            return false;
        }
        if last.is_none_or(|l| l.term < term) {
            if self.entries.is_full() {
                self.entries.remove(0);
            }
            let entry = TermBase { term, base };
            if self.entries.push(entry).is_err() {
                return false;
            }
        }
        self.covered_to = end;
        true
    }

    /// Takes back what is known about bytes at and above `end`.
    pub fn truncate(&mut self, end: Position) {
        while self.entries.last().is_some_and(|l| l.base >= end) {
            self.entries.pop();
        }
        self.covered_to = self.covered_to.min(end);
    }

    /// Adds what a slice of the same log says, where it touches or overlaps what is known, above it or
    /// below it. Never takes anything back: where both know something, the old stands. False if
    /// there is nothing new in it, it does not touch, it contradicts, or it is malformed.
    pub fn extend(&mut self, slice: &HistorySlice) -> bool {
        if !is_well_formed(slice) {
            return false;
        }
        let Some(known_from) = self.known_from() else {
            return self.replace(slice);
        };
        if self.conflict(self.covered_to, slice).is_some() {
            return false;
        }
        let entries = slice.as_slice();
        let from = entries.first().map_or(slice.covered_to, |e| e.base);
        if slice.covered_to > self.covered_to && from <= self.covered_to {
            let mut is_new = false;
            for (i, entry) in entries.iter().enumerate() {
                let end = entries.get(i + 1).map_or(slice.covered_to, |e| e.base);
                let base = entry.base.max(self.covered_to);
                is_new |= end > base && self.push(entry.term, base, end);
            }
            return is_new;
        }
        if from < known_from && slice.covered_to >= known_from {
            return self.extend_below(entries);
        }
        false
    }

    fn extend_below(&mut self, entries: &[TermBase]) -> bool {
        let mut is_new = false;
        for entry in entries.iter().rev() {
            let Some(first) = self.entries.first_mut() else {
                return false;
            };
            if entry.base >= first.base {
                continue;
            }
            if entry.term == first.term {
                first.base = entry.base;
            } else if entry.term > first.term || self.entries.insert(0, *entry).is_err() {
                return is_new;
            }
            is_new = true;
        }
        is_new
    }

    fn replace(&mut self, slice: &HistorySlice) -> bool {
        self.entries.clear();
        let skipped = slice.as_slice().len().saturating_sub(H);
        self.entries
            .extend(slice.as_slice().iter().skip(skipped).copied());
        self.covered_to = slice.covered_to;
        !self.entries.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.covered_to = Position::ZERO;
    }

    /// Who wrote the byte at `position`; `None` if that is not known.
    pub fn term_at(&self, position: Position) -> Option<Term> {
        if position >= self.covered_to {
            return None;
        }
        self.entries
            .iter()
            .rev()
            .find(|e| e.base <= position)
            .map(|e| e.term)
    }

    /// The term of the last byte; zero if nothing is known.
    pub fn last_term(&self) -> Term {
        self.entries.last().map_or(Term::ZERO, |e| e.term)
    }

    /// The base of the oldest term known.
    pub fn known_from(&self) -> Option<Position> {
        self.entries.first().map(|e| e.base)
    }

    /// The end of what is known.
    pub fn covered_to(&self) -> Position {
        self.covered_to
    }

    /// The terms, ascending.
    pub fn entries(&self) -> &[TermBase] {
        &self.entries
    }

    /// The newest part of the history of the bytes below `below`, as much as one message carries.
    pub fn slice_below(&self, below: Position) -> HistorySlice {
        let mut slice = HistorySlice::EMPTY;
        let count = self.entries.iter().take_while(|e| e.base < below).count();
        let first = count.saturating_sub(HISTORY_SLICE_MAX);
        for (slot, entry) in slice
            .entries
            .iter_mut()
            .zip(self.entries.iter().take(count).skip(first))
        {
            *slot = *entry;
            slice.len += 1;
        }
        slice.covered_to = self.covered_to.min(below);
        slice
    }

    /// A part of the history for a follower: from the term that wrote the byte at `from` on, or the
    /// newest part if it did not say.
    pub fn slice_from(&self, from: Option<Position>) -> HistorySlice {
        let Some(from) = from else {
            return self.slice_below(self.covered_to);
        };
        let first = self
            .entries
            .iter()
            .rposition(|e| e.base <= from)
            .unwrap_or(0);
        let next = self.entries.get(first + HISTORY_SLICE_MAX);
        self.slice_below(next.map_or(self.covered_to, |e| e.base))
    }

    /// The lowest position below `own_end` where this history and the leader's `slice` both know the
    /// term, and it differs: there, and nowhere else, a follower may cut (architecture: "a proven
    /// conflict"). That the leader's log is shorter is none.
    pub fn conflict(&self, own_end: Position, slice: &HistorySlice) -> Option<Position> {
        if !is_well_formed(slice) {
            return None;
        }
        let theirs = slice.as_slice();
        let end = own_end.min(self.covered_to).min(slice.covered_to);
        // The terms of both change at bases only: the lowest difference is at one of them.
        let bases = self.entries.iter().chain(theirs).map(|e| e.base);
        let term_of = |position: Position| {
            let before = theirs.iter().take_while(|e| e.base <= position);
            before.last().map(|e| e.term)
        };
        bases
            .filter(|base| *base < end)
            .filter(|base| match (self.term_at(*base), term_of(*base)) {
                (Some(own), Some(leaders)) => own != leaders,
                _ => false,
            })
            .min()
    }
}

/// Bases and terms ascend, and the end is above the last base.
fn is_well_formed(slice: &HistorySlice) -> bool {
    let entries = slice.as_slice();
    let ascends = entries
        .windows(2)
        .all(|w| matches!(w, [a, b] if a.term < b.term && a.base < b.base));
    let is_aligned = entries.iter().all(|e| e.base.is_aligned()) && slice.covered_to.is_aligned();
    let ends = entries.last().is_none_or(|l| l.base <= slice.covered_to);
    ascends && is_aligned && ends
}
