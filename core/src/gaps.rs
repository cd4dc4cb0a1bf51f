//! Which bytes ahead of a stream's contiguous end have already arrived: a bounded list of ranges.
//!
//! The idea is smoltcp's `Assembler`: a fixed number of ranges, kept sorted and merged. What does
//! not fit is simply not remembered, and will be asked for again.

use heapless::Vec;

use crate::list;
use crate::planted::Planted;
use crate::units::Position;

/// A range of bytes in a stream: `start` is in it, `end` is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Span {
    /// The first byte.
    pub start: Position,
    /// The byte after the last one; never below `start`.
    pub end: Position,
}

impl Span {
    /// From `start` to `end`; empty at `start` if `end` is below it.
    pub const fn new(start: Position, end: Position) -> Self {
        let end = if end.get() < start.get() { start } else { end };
        Self { start, end }
    }

    /// How many bytes.
    pub const fn len(self) -> u64 {
        self.end.since(self.start)
    }

    /// No byte at all?
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Is the byte at `position` in it?
    pub fn contains(self, position: Position) -> bool {
        self.start <= position && position < self.end
    }
}

/// The range list is full, and the new range touches none of the old ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct GapsFull;

/// At most `G` disjoint ranges that have arrived, sorted, no two touching. Every call walks the
/// list once or twice: bounded by `G`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Gaps<const G: usize> {
    arrived: Vec<Span, G>,
}

impl<const G: usize> Gaps<G> {
    /// Nothing has arrived.
    pub const fn new() -> Self {
        Self {
            arrived: Vec::new(),
        }
    }

    /// Remembers that `span` has arrived, and merges it with what it touches or overlaps.
    ///
    /// # Errors
    /// [`GapsFull`]: nothing is remembered, the list is as it was.
    pub fn insert(&mut self, span: Span) -> Result<(), GapsFull> {
        if span.is_empty() {
            return Ok(());
        }
        let mut merged = span;
        let first = self.first_ending_at_or_after(span.start);
        let mut after = first;
        while let Some(old) = self.arrived.get(after) {
            if old.start > span.end {
                break;
            }
            merged.start = merged.start.min(old.start);
            merged.end = merged.end.max(old.end);
            after += 1;
        }
        if after == first {
            return list::insert(&mut self.arrived, first, merged).map_err(|_| GapsFull);
        }
        if let Some(slot) = self.arrived.get_mut(first) {
            *slot = merged;
        }
        for _ in first + 1..after {
            list::take(&mut self.arrived, first + 1);
        }
        Ok(())
    }

    /// Turns `span` back into a hole. If that would split a range and the list is full, the upper
    /// part of that range is forgotten as well: it will be asked for again.
    pub fn remove(&mut self, span: Span) {
        let mut index = 0;
        while let Some(&old) = self.arrived.get(index) {
            if old.end <= span.start || span.end <= old.start || span.is_empty() {
                index += 1;
                continue;
            }
            let below = Span::new(old.start, span.start);
            let above = Span::new(span.end, old.end);
            list::take(&mut self.arrived, index);
            for part in [below, above] {
                if !part.is_empty() && list::insert(&mut self.arrived, index, part).is_ok() {
                    index += 1;
                }
            }
        }
    }

    /// Where the bytes that have arrived from `position` on end; `position` itself if its byte has
    /// not.
    pub fn contiguous_from(&self, position: Position) -> Position {
        self.arrived
            .iter()
            .find(|s| s.contains(position))
            .map_or(position, |s| s.end)
    }

    /// The lowest hole in `[from, to)`.
    pub fn first_hole(&self, from: Position, to: Position) -> Option<Span> {
        let start = self.contiguous_from(from);
        let next = self.arrived.iter().find(|s| s.start > start);
        let end = next.map_or(to, |s| s.start.min(to));
        (start < end).then_some(Span { start, end })
    }

    /// Does any byte of `span` count as arrived?
    pub fn touches(&self, span: Span) -> bool {
        self.arrived
            .iter()
            .any(|s| s.start < span.end && span.start < s.end)
    }

    /// The end of the highest range: the furthest that anything has arrived.
    pub fn highest(&self) -> Option<Position> {
        self.arrived.last().map(|s| s.end)
    }

    /// Forgets everything below `position`, which is contiguous now.
    pub fn forget_below(&mut self, position: Position) {
        self.remove(Span::new(Position::ZERO, position));
    }

    /// Forgets everything at and above `end`.
    pub fn truncate(&mut self, end: Position) {
        self.remove(Span::new(end, Position::MAX));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.arrived.clear();
    }

    /// A new leadership is joined: what arrived ahead may be another leader's bytes, so all of it
    /// is a hole again.
    pub fn forget_on_join(&mut self) {
        if !Planted::HoleKeptAcrossAJoin.is_active() {
            self.clear();
        }
    }

    /// Has nothing arrived?
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.arrived.iter().copied()
    }

    fn first_ending_at_or_after(&self, position: Position) -> usize {
        self.arrived
            .iter()
            .position(|s| s.end >= position)
            .unwrap_or(self.arrived.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    fn span(start: u64, end: u64) -> Span {
        Span::new(at(start), at(end))
    }

    fn ranges<const G: usize>(gaps: &Gaps<G>) -> Vec<(u64, u64), 16> {
        gaps.iter().map(|s| (s.start.get(), s.end.get())).collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut gaps = Gaps::<4>::new();
        for (start, end) in [(64, 96), (128, 160), (32, 64), (96, 128)] {
            gaps.insert(span(start, end)).unwrap();
        }
        assert_eq!(ranges(&gaps), [(32, 160)]);
    }

    #[test]
    fn a_full_list_refuses_a_new_range_but_still_grows_old_ones() {
        let mut gaps = Gaps::<2>::new();
        gaps.insert(span(32, 64)).unwrap();
        gaps.insert(span(96, 128)).unwrap();
        assert_eq!(gaps.insert(span(160, 192)), Err(GapsFull));
        gaps.insert(span(128, 192)).unwrap();
        assert_eq!(ranges(&gaps), [(32, 64), (96, 192)]);
    }

    #[test]
    fn the_first_hole_is_between_what_arrived() {
        let mut gaps = Gaps::<4>::new();
        gaps.insert(span(32, 64)).unwrap();
        gaps.insert(span(96, 128)).unwrap();
        assert_eq!(gaps.first_hole(at(0), at(128)), Some(span(0, 32)));
        assert_eq!(gaps.first_hole(at(32), at(128)), Some(span(64, 96)));
        assert_eq!(gaps.first_hole(at(96), at(128)), None);
        assert_eq!(gaps.first_hole(at(96), at(256)), Some(span(128, 256)));
    }

    #[test]
    fn agrees_with_a_bitmap_under_random_calls() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let mut gaps = Gaps::<8>::new();
            let mut model = [false; 64];
            for _ in 0..100 {
                let start = prng.below(64) as usize;
                let end = (start + prng.below(12) as usize).min(64);
                let change = span(start as u64, end as u64);
                match prng.below(5) {
                    0..3 if gaps.insert(change).is_ok() => model[start..end].fill(true),
                    3 if ranges(&gaps).len() < 8 => {
                        gaps.remove(change);
                        model[start..end].fill(false);
                    }
                    4 if prng.below(10) == 0 => {
                        gaps.truncate(at(start as u64));
                        model[start..].fill(false);
                    }
                    _ => (),
                }
                for (i, arrived) in model.iter().enumerate() {
                    let one = span(i as u64, i as u64 + 1);
                    assert_eq!(gaps.touches(one), *arrived, "seed {seed} byte {i}");
                }
                let sorted = ranges(&gaps);
                assert!(sorted.windows(2).all(|w| w[0].1 < w[1].0), "seed {seed}");
            }
        }
    }
}
