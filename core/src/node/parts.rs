//! Where the member changes that has what is missed, if no single one has all of a hole.
//!
//! Such a hole is written from its end: of a part only the end is known to be right, by the part
//! behind it. To find each part anew from the hole's start would take the square of their number;
//! so the places that were passed are remembered, with the chain that stands there, and what is
//! missed next is asked for from the last of them. Whatever leads from there to a chain that is
//! known is right, wherever that place came from.
//!
//! There is room for a few. When it is full, the one is forgotten whose neighbours are nearest to
//! one another: less has to be passed again than is between those. So a hole of 32 parts is sent 4
//! times, one of 128 parts 5 times and one of 512 parts 11 times, where it was half as often as
//! there are parts.

use heapless::Vec;

use crate::list;
use crate::units::{MemberId, Position, Term};

/// How many places are remembered.
const PARTS_MAX: usize = 8;

/// A place in the log, and what stands before it.
pub(super) type Place = (Position, (Option<u32>, Term));

/// Places in a hole, ascending, and who was asked for what follows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Parts(Vec<(Place, MemberId), PARTS_MAX>);

impl Parts {
    pub const NONE: Self = Self(Vec::new());

    /// In a hole that starts at `first`, `peer` is asked for what follows `place`.
    pub fn note(&mut self, first: Position, place: Place, peer: MemberId) {
        self.forget_from(place.0);
        if place.0 <= first {
            return;
        }
        if self.0.is_full() {
            let at = self.nearest(first);
            let _forgotten = list::take(&mut self.0, at);
        }
        // There is room now.
        let _kept = self.0.push((place, peer)).is_ok();
    }

    /// Those that are remembered.
    pub fn iter(&self) -> impl Iterator<Item = Place> {
        self.0.iter().map(|(place, _)| *place)
    }

    /// The last of them below `to`, where the hole ends now.
    pub fn last_below(&mut self, to: Position) -> Option<(Place, MemberId)> {
        self.forget_from(to);
        self.0.last().copied()
    }

    fn forget_from(&mut self, position: Position) {
        while self.0.last().is_some_and(|(last, _)| last.0 >= position) {
            self.0.pop();
        }
    }

    /// The one whose neighbours are nearest to one another.
    fn nearest(&self, first: Position) -> usize {
        let places = self.0.iter().map(|(place, _)| place.0);
        let before = core::iter::once(first).chain(places.clone());
        let between = before.zip(places.skip(1));
        let nearest = between.enumerate().min_by_key(|(_, (a, b))| b.since(*a));
        nearest.map_or(0, |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(unit: u64) -> Place {
        (Position::new(unit * 32), (None, Term::ZERO))
    }

    fn of(units: &[u64]) -> Parts {
        let mut parts = Parts::NONE;
        for unit in units {
            parts.note(place(1).0, place(*unit), MemberId::FIRST);
        }
        parts
    }

    /// How often a hole of so many parts of equal length is passed, besides being written.
    fn passes(count: u64) -> f64 {
        let (mut parts, mut passed, first) = (Parts::NONE, 0, place(0).0);
        for to in (1..=count).rev() {
            let from = parts.last_below(place(to).0);
            let from = from.map_or(0, |(place, _)| place.0.get() / 32);
            passed += to - from;
            for at in from..to {
                parts.note(first, place(at), MemberId::FIRST);
            }
        }
        passed as f64 / count as f64
    }

    #[test]
    fn those_at_and_above_an_end_are_forgotten_and_the_start_is_none() {
        let mut parts = of(&[1, 2, 5, 9]);
        assert_eq!(parts, of(&[2, 5, 9]));
        assert_eq!(
            parts.last_below(place(10).0),
            Some((place(9), MemberId::FIRST))
        );
        assert_eq!(
            parts.last_below(place(9).0),
            Some((place(5), MemberId::FIRST))
        );
        assert_eq!(parts, of(&[2, 5]));
        assert_eq!(parts.last_below(place(2).0), None);
    }

    #[test]
    fn the_one_between_the_nearest_is_forgotten_and_never_the_newest() {
        let full = [3, 6, 9, 12, 14, 15, 19, 23];
        assert_eq!(
            of(&[&full[..], &[24]].concat()),
            of(&[3, 6, 9, 12, 15, 19, 23, 24])
        );
        let full = [2, 6, 10, 14, 18, 22, 26, 27];
        assert_eq!(
            of(&[&full[..], &[31]].concat()),
            of(&[6, 10, 14, 18, 22, 26, 27, 31])
        );
    }

    #[test]
    fn a_hole_is_passed_few_times_however_many_parts_it_has() {
        for (count, most) in [(1, 1.0), (8, 2.0), (32, 3.0), (128, 4.2), (512, 10.5)] {
            let passes = passes(count);
            assert!(passes <= most, "{count} parts: {passes}");
        }
    }
}
