//! Joining a leadership: where does this member's log part from the leader's?
//!
//! Raft's Log Matching: if two logs have a byte of the same term at the same position, they are
//! equal up to there. So one point of agreement settles everything below it, and only what lies
//! above has to be compared, term by term. A member cuts its log only at a proven conflict, the
//! lowest position where its own term and the leader's are both known and differ; that the leader's
//! log is shorter is no reason to cut.

use crate::log::History;
use crate::units::{Position, Term};
use crate::wire::member::{HistorySlice, TermBase};

/// What to do next with a slice of the leader's history.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Step {
    /// It does not say enough: ask for the history from this position on.
    Ask(Position),
    /// The logs agree below `cut`, or wholly; then the member joins.
    Join {
        /// The lowest proven conflict.
        cut: Option<Position>,
    },
    /// This member's own history does not go back far enough: to below this position.
    TooShort(Position),
}

/// The term that `slice` says wrote the byte at `position`; `None` outside what it covers.
pub(super) fn term_in(slice: &HistorySlice, position: Position) -> Option<Term> {
    if position >= slice.covered_to {
        return None;
    }
    let mut from_last = slice.as_slice().iter().rev();
    let entry = match from_last.next() {
        // Nearly always it is the newest.
        Some(last) if last.base <= position => Some(last),
        _ => from_last.find(|entry| entry.base <= position),
    };
    entry.map(|entry| entry.term)
}

/// The slice as the follower keeps it: the run that ends with the leadership's own term covers all
/// that the leader will ever append in it.
pub(super) fn extended(slice: &HistorySlice, leadership: Term) -> HistorySlice {
    let mut known = *slice;
    if is_newest(slice, leadership) {
        known.covered_to = Position::MAX;
    }
    known
}

/// Whether the slice says who wrote, or will write, the byte at `position`.
fn slice_covers(slice: &HistorySlice, position: Position, leadership: Term) -> bool {
    term_in(&extended(slice, leadership), position).is_some()
}

/// Whether a log that ends at `end`, with a byte of the term `last` if that is known, can go on as
/// the slice says: the terms of a log never fall.
pub(super) fn goes_on(slice: &HistorySlice, end: Position, last: Option<Term>) -> bool {
    let next = term_in(slice, end);
    next.is_none_or(|next| last.is_none_or(|last| last <= next))
}

fn is_newest(slice: &HistorySlice, leadership: Term) -> bool {
    slice
        .as_slice()
        .last()
        .is_some_and(|e| e.term == leadership)
}

/// Compares this member's log, `own` up to `end`, with a slice of the leader's history. What is
/// known here to be committed, below `settled`, is in every later leader's log (Raft 5.4, Leader
/// Completeness), so nothing below needs to be compared. The work is bounded by the number of terms
/// in both.
pub(super) fn step<const H: usize>(
    own: &History<H>,
    end: Position,
    settled: Position,
    slice: &HistorySlice,
    leadership: Term,
) -> Step {
    let entries = slice.as_slice();
    let Some(first) = entries.first() else {
        return Step::Ask(settled);
    };
    if end == settled {
        // All of this log is committed, or it is empty: it goes on where it ends.
        let goes_on = first.base <= end && slice_covers(slice, end, leadership);
        return if goes_on {
            Step::Join { cut: None }
        } else {
            Step::Ask(end)
        };
    }
    let agrees = |e: &&TermBase| e.base < end && own.term_at(e.base) == Some(e.term);
    let floor = match entries.iter().rev().find(agrees) {
        Some(entry) => entry.base,
        // Nothing agrees, from the start on: provided that this member still knows its own start.
        None if first.base == Position::ZERO && own.term_at(first.base).is_some() => Position::ZERO,
        // Only if every term above is known here: else a conflict could go unseen.
        None if first.base <= settled && own.known_from().is_some_and(|k| k <= settled) => settled,
        None => return ask_below(own, end.min(first.base)),
    };
    let known = extended(slice, leadership);
    let bases = entries
        .iter()
        .map(|e| e.base)
        .chain(own.entries().iter().map(|e| e.base));
    let differs = |p: &Position| match (own.term_at(*p), term_in(&known, *p)) {
        (Some(ours), Some(theirs)) => ours != theirs,
        _ => false,
    };
    let cut = bases
        .filter(|p| *p >= floor && *p < end)
        .filter(differs)
        .min();
    if cut.is_some() || known.covered_to >= end {
        Step::Join { cut }
    } else {
        Step::Ask(slice.covered_to)
    }
}

/// Asks for the history from the base of the own term that wrote the byte before `position`.
fn ask_below<const H: usize>(own: &History<H>, position: Position) -> Step {
    let before = position.minus(1);
    match own.entries().iter().rev().find(|e| e.base <= before) {
        Some(entry) => Step::Ask(entry.base),
        None => Step::TooShort(before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_unknown_terms_above_what_is_settled_is_not_joined_unseen() {
        let at = Position::new;
        let entry = |term, base| TermBase {
            term: Term::new(term),
            base: at(base),
        };
        let mut slice = HistorySlice::EMPTY;
        slice.entries[0] = entry(1, 0);
        slice.entries[1] = entry(6, 96);
        (slice.len, slice.covered_to) = (2, at(192));
        let mut own = History::<64>::new();
        let joins = |own: &History<64>| step(own, at(128), at(32), &slice, Term::new(6));
        assert_eq!(joins(&own), Step::TooShort(Position::ZERO));
        // What is known from the settled position on is compared.
        assert!(own.push(Term::new(5), at(32), at(128)));
        assert_eq!(joins(&own), Step::Join { cut: Some(at(32)) });
    }
}
