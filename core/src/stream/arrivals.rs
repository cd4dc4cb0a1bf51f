//! Which bytes of a stream have arrived: everything below one position, and a few ranges ahead.

use heapless::Vec;

use crate::list;
use crate::units::Position;

/// How many separate ranges ahead of the first hole are remembered. A frame that would need one
/// more is dropped and asked for again: 16 covers a 128 KiB window at one datagram in six lost.
pub const RANGES_MAX: usize = 16;
const _: () = assert!(RANGES_MAX >= 2, "a duplicate must not end reordering");

/// One run of bytes, `start` to `end`, never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Range {
    /// The first byte.
    pub start: Position,
    /// The byte after the last.
    pub end: Position,
}

/// Why a range was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum NotTaken {
    /// Some of it has arrived before.
    Overlap,
    /// It would need one more range than there is room for.
    Full,
}

/// The arrived bytes. Ranges are ascending, disjoint, never adjacent, and all above `contiguous`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Arrivals {
    contiguous: Position,
    ahead: Vec<Range, RANGES_MAX>,
}

impl Arrivals {
    /// Everything below `start` counts as arrived.
    pub fn new(start: Position) -> Self {
        Self {
            contiguous: start,
            ahead: Vec::new(),
        }
    }

    /// Would `insert` take this range? At most `RANGES_MAX` comparisons.
    pub fn check(&self, range: Range) -> Result<(), NotTaken> {
        if range.start < self.contiguous || range.end <= range.start {
            return Err(NotTaken::Overlap);
        }
        let next = self.after(range.start);
        let overlaps_next = self.ahead.get(next).is_some_and(|n| n.start < range.end);
        let before = self.before(next);
        if overlaps_next || before.is_some_and(|p| p.end > range.start) {
            return Err(NotTaken::Overlap);
        }
        let extends = range.start == self.contiguous
            || before.is_some_and(|p| p.end == range.start)
            || self.ahead.get(next).is_some_and(|n| n.start == range.end);
        if extends || !self.ahead.is_full() {
            Ok(())
        } else {
            Err(NotTaken::Full)
        }
    }

    /// Takes a range all of whose bytes are new; at most `RANGES_MAX` steps.
    pub fn insert(&mut self, range: Range) -> Result<(), NotTaken> {
        self.check(range)?;
        let next = self.after(range.start);
        let joins_next = self.ahead.get(next).is_some_and(|n| n.start == range.end);
        if range.start == self.contiguous {
            self.contiguous = range.end;
            if let Some(joined) = self.take_if(joins_next, next) {
                self.contiguous = joined.end;
            }
            return Ok(());
        }
        let joins_before = self.before(next).is_some_and(|p| p.end == range.start);
        let joined = self.take_if(joins_next && joins_before, next);
        let end = joined.map_or(range.end, |joined| joined.end);
        if joins_before {
            if let Some(before) = next.checked_sub(1).and_then(|i| self.ahead.get_mut(i)) {
                before.end = end;
            }
        } else if joins_next {
            if let Some(after) = self.ahead.get_mut(next) {
                after.start = range.start;
            }
        } else {
            list::insert(&mut self.ahead, next, range).map_err(|_| NotTaken::Full)?;
        }
        Ok(())
    }

    /// Has everything below `at` arrived, and nothing above?
    #[inline]
    pub fn is_level(&self, at: Position) -> bool {
        self.contiguous == at && self.ahead.is_empty()
    }

    /// `insert` of a range that is the next, while nothing has arrived ahead; else false.
    #[inline]
    pub fn extend(&mut self, range: Range) -> bool {
        let is_next = range.start == self.contiguous && range.end > range.start;
        if !is_next || !self.ahead.is_empty() {
            return false;
        }
        self.contiguous = range.end;
        true
    }

    /// The end of what has arrived without a hole.
    pub fn contiguous(&self) -> Position {
        self.contiguous
    }

    /// The end of all that has arrived.
    pub fn end(&self) -> Position {
        self.ahead.last().map_or(self.contiguous, |r| r.end)
    }

    /// The end of the first hole, if anything has arrived beyond it.
    pub fn hole_end(&self) -> Option<Position> {
        self.ahead.first().map(|r| r.start)
    }

    fn take_if(&mut self, is_wanted: bool, at: usize) -> Option<Range> {
        is_wanted.then(|| list::take(&mut self.ahead, at))?
    }

    fn after(&self, start: Position) -> usize {
        self.ahead.partition_point(|r| r.start < start)
    }

    fn before(&self, next: usize) -> Option<&Range> {
        next.checked_sub(1).and_then(|i| self.ahead.get(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;

    fn range(start: u64, end: u64) -> Range {
        Range {
            start: Position::new(start),
            end: Position::new(end),
        }
    }

    #[test]
    fn agrees_with_a_bitmap_whatever_the_order() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let mut arrivals = Arrivals::new(Position::ZERO);
            let mut bitmap = [false; 64];
            for _ in 0..300 {
                let start = prng.below(64) as usize;
                let end = (start + 1 + prng.below(4) as usize).min(64);
                let clean = bitmap[start..end].iter().all(|b| !b);
                let taken = arrivals.insert(range(start as u64, end as u64));
                match taken {
                    Ok(()) => {
                        assert!(clean);
                        bitmap[start..end].fill(true);
                    }
                    Err(NotTaken::Overlap) => assert!(!clean),
                    Err(NotTaken::Full) => assert!(clean),
                }
                let first_hole = bitmap.iter().position(|b| !b).unwrap_or(64);
                assert_eq!(arrivals.contiguous().get(), first_hole as u64);
                let beyond = bitmap[first_hole..].iter().position(|b| *b);
                assert_eq!(
                    arrivals.hole_end().map(Position::get),
                    beyond.map(|b| (first_hole + b) as u64)
                );
            }
        }
    }

    #[test]
    fn one_range_too_many_is_refused_and_the_hole_still_closes() {
        let mut arrivals = Arrivals::new(Position::ZERO);
        for i in 1..=RANGES_MAX as u64 {
            assert_eq!(arrivals.insert(range(i * 10, i * 10 + 5)), Ok(()));
        }
        let far = range(1000, 1005);
        assert_eq!(arrivals.insert(far), Err(NotTaken::Full));
        assert_eq!(arrivals.insert(range(0, 10)), Ok(()));
        assert_eq!(arrivals.contiguous().get(), 15);
        assert_eq!(arrivals.insert(far), Ok(()));
    }

    #[test]
    fn an_empty_or_backward_range_is_refused() {
        let mut arrivals = Arrivals::new(Position::new(8));
        assert_eq!(arrivals.insert(range(9, 9)), Err(NotTaken::Overlap));
        assert_eq!(arrivals.insert(range(12, 9)), Err(NotTaken::Overlap));
    }
}
