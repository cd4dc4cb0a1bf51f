//! Which leadership term wrote which bytes.

use heapless::Vec;

use crate::units::{Position, Term};
use crate::wire::member::{HISTORY_SLICE_MAX, HistorySlice, TermBase};

/// How many terms of history a member keeps in memory. A cache: older ones are in the log itself.
pub const HISTORY_TERMS: usize = 64;
const _: () = assert!(HISTORY_TERMS >= HISTORY_SLICE_MAX);

/// The newest `H` terms of a log: a term wrote the bytes from its base to the next term's base, the
/// last one those up to `covered_to`. Nothing is known about bytes below the first base. When full,
/// the oldest term is forgotten. Every call is bounded by `H`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct History<const H: usize> {
    entries: Vec<TermBase, H>,
    covered_to: Position,
    /// The term of the byte *before* this base, where no entry says it.
    anchor: Option<TermBase>,
}

impl<const H: usize> History<H> {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            covered_to: Position::ZERO,
            anchor: None,
        }
    }

    /// The byte before `position` was written by `term`: a snapshot says so, whose log begins, or
    /// may come to begin, there.
    pub fn anchor(&mut self, position: Position, term: Term) {
        let base = position;
        self.anchor = Some(TermBase { term, base });
    }

    /// The bytes from `base`, where what is known ends (if anything is known), to `end` were
    /// written by `term`, which is not below the last. This is what a publisher says of each frame.
    ///
    /// False, and nothing is changed, if that does not go on from what is known.
    #[must_use = "what does not go on is a broken rule"]
    pub fn push(&mut self, term: Term, base: Position, end: Position) -> bool {
        if end <= base {
            return true;
        }
        // Nearly always the last term goes on.
        let last = self.entries.last();
        if base == self.covered_to && last.is_some_and(|last| last.term == term) {
            self.covered_to = end;
            return true;
        }
        let last = self.entries.last().copied();
        let goes_on = last.is_none_or(|l| l.term <= term && base == self.covered_to);
        if !goes_on {
            return false;
        }
        if last.is_none_or(|l| l.term < term) {
            if self.entries.is_full() {
                let forgotten = self.entries.remove(0).term;
                let base = self.known_from().unwrap_or(base);
                self.anchor(base, forgotten);
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

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.covered_to = Position::ZERO;
        self.anchor = None;
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

    /// Who wrote the byte before `position`, which is where a log may be cut; zero at its very
    /// beginning. `None` if that is not known.
    pub fn term_before(&self, position: Position) -> Option<Term> {
        if position == Position::ZERO {
            return Some(Term::ZERO);
        }
        let anchored = self.anchor.filter(|anchor| anchor.base == position);
        self.term_at(position.minus(1))
            .or(anchored.map(|anchor| anchor.term))
    }

    /// The term of the last byte of which it is known; zero if of none.
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

    /// The lowest position below `own_end` where this history and the leader's `slice` both know
    /// the term, and it differs: there, and nowhere else, a follower may cut (architecture: "a
    /// proven conflict"). That the leader's log is shorter is none.
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

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::prng::Prng;

    fn at(unit: u64) -> Position {
        Position::new(unit * 32)
    }

    /// A history of the terms of frames, one unit each, as far as it was pushed.
    fn of(terms: &[u32]) -> History<16> {
        let mut history = History::new();
        for (n, term) in terms.iter().enumerate() {
            assert!(history.push(Term::new(*term), at(n as u64), at(n as u64 + 1)));
        }
        history
    }

    #[test]
    fn what_does_not_go_on_is_refused() {
        let mut history = of(&[1, 1, 3]);
        assert!(!history.push(Term::new(2), at(3), at(4)), "a lower term");
        assert!(!history.push(Term::new(3), at(4), at(5)), "a hole");
        assert!(!history.push(Term::new(4), at(2), at(5)), "an overlap");
        assert_eq!(history, of(&[1, 1, 3]));
    }

    #[test]
    fn a_full_history_forgets_its_oldest_term_only() {
        let mut history = History::<2>::new();
        for n in 1..=4 {
            assert!(history.push(Term::new(n), at(u64::from(n)), at(u64::from(n) + 1)));
        }
        assert_eq!(history.term_at(at(2)), None);
        assert_eq!(history.term_at(at(3)), Some(Term::new(3)));
        assert_eq!(history.term_at(at(4)), Some(Term::new(4)));
        assert_eq!(history.known_from(), Some(at(3)));
    }

    #[test]
    fn a_shorter_leader_is_no_conflict_and_a_different_term_is_one() {
        let own = of(&[1, 1, 2, 2, 2]);
        let end = own.covered_to();
        let leader = |terms: &[u32]| of(terms).slice_below(Position::MAX);
        assert_eq!(own.conflict(end, &leader(&[1, 1])), None);
        assert_eq!(own.conflict(end, &leader(&[1, 1, 2])), None);
        assert_eq!(own.conflict(end, &leader(&[1, 1, 2, 2, 2, 5])), None);
        assert_eq!(own.conflict(end, &leader(&[1, 1, 1, 3])), Some(at(2)));
        assert_eq!(own.conflict(end, &leader(&[1, 1, 2, 3])), Some(at(3)));
        assert_eq!(own.conflict(end, &leader(&[1, 2, 2, 3])), Some(at(1)));
    }

    /// Two random logs with a common start.
    fn pair(prng: &mut Prng) -> (std::vec::Vec<u32>, std::vec::Vec<u32>) {
        let mut logs = (std::vec::Vec::new(), std::vec::Vec::new());
        let mut term = 1;
        for _ in 0..prng.below(12) {
            term += prng.below(2) as u32;
            logs.0.push(term);
            logs.1.push(term);
        }
        for log in [&mut logs.0, &mut logs.1] {
            let mut term = term;
            for _ in 0..prng.below(8) {
                term += prng.below(3) as u32;
                log.push(term);
            }
        }
        logs
    }

    #[test]
    fn the_conflict_is_the_lowest_position_where_both_are_known_and_differ() {
        let mut conflicts = 0;
        for seed in 0..5000 {
            let mut prng = Prng::new(seed);
            let (own, leaders) = pair(&mut prng);
            let (history, leader) = (of(&own), of(&leaders));
            let below = at(prng.below(24));
            let slice = leader.slice_below(below);
            let known = slice
                .as_slice()
                .first()
                .map_or(u64::MAX, |e| e.base.get() / 32);
            let expected = (known..own.len().min(leaders.len()) as u64)
                .filter(|n| at(*n) < below)
                .find(|n| own[*n as usize] != leaders[*n as usize])
                .map(at);
            let found = history.conflict(history.covered_to(), &slice);
            assert_eq!(found, expected, "seed {seed}");
            conflicts += u32::from(found.is_some());
        }
        assert!(conflicts > 500);
    }

    #[test]
    fn a_malformed_slice_is_nothing() {
        let good = of(&[1, 2, 3]).slice_below(Position::MAX);
        let own = of(&[1, 4]);
        let mut falls = good;
        falls.entries.swap(0, 1);
        let mut ends_early = good;
        ends_early.covered_to = at(1);
        let mut is_odd = good;
        is_odd.entries[1].base = Position::new(33);
        let mut too_many = good;
        too_many.len = 255;
        for bad in [falls, ends_early, is_odd, too_many] {
            assert_eq!(own.conflict(own.covered_to(), &bad), None);
        }
        assert_eq!(own.conflict(own.covered_to(), &good), Some(at(1)));
    }

    #[test]
    fn the_term_before_a_position_is_known_down_to_where_a_log_begins() {
        let mut history = History::<2>::new();
        assert_eq!(history.term_before(at(0)), Some(Term::ZERO));
        assert_eq!(history.term_before(at(3)), None);
        history.anchor(at(3), Term::new(5));
        assert!(history.push(Term::new(6), at(3), at(5)));
        assert_eq!(history.term_before(at(5)), Some(Term::new(6)));
        // All that came after the snapshot is taken back: what is left ends with the snapshot's.
        history.truncate(at(3));
        assert_eq!(history.term_before(at(3)), Some(Term::new(5)));
        // What has been forgotten because there were too many is known as well.
        for term in 6..10 {
            let base = u64::from(term);
            assert!(history.push(Term::new(term), at(base - 3), at(base - 2)));
        }
        let from = history.known_from().unwrap();
        assert_eq!(
            (from, history.term_before(from)),
            (at(5), Some(Term::new(7)))
        );
        assert_eq!(history.term_before(at(4)), None);
    }

    #[test]
    fn a_truncation_forgets_from_there_on() {
        let mut history = of(&[1, 1, 2, 3]);
        history.truncate(at(2));
        assert_eq!(history, of(&[1, 1]));
        history.truncate(at(1));
        assert_eq!(history, of(&[1]));
        history.truncate(at(0));
        assert_eq!(history.term_at(at(0)), None);
        assert_eq!(history.last_term(), Term::ZERO);
    }
}
