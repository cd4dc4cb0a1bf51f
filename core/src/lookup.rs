//! Which of `N` numbered places: sets of them, the earliest among their times, and finding one by
//! what is in it.
//!
//! For tables of many places of which few matter at a time. Nothing here is asked of every place,
//! in memory that is fixed at compile time.

use crate::time::Instant;

/// Places in one word of a set, and in one block of times.
const BLOCK: usize = 32;

const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// A set of places below `N`. Room for more is not used: a length that depends on `N` is all that
/// can be said of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Places<const N: usize> {
    words: [u32; N],
    len: usize,
    /// All words from here on are 0.
    top: usize,
}

impl<const N: usize> Places<N> {
    /// None.
    pub const fn new() -> Self {
        Self {
            words: [0; N],
            len: 0,
            top: 0,
        }
    }

    /// The first `count`.
    pub fn first(count: usize) -> Self {
        let mut set = Self::new();
        for place in 0..count.min(N) {
            set.insert(place);
        }
        set
    }

    /// Adds one. One beyond `N` is left out.
    pub fn insert(&mut self, place: usize) {
        let (at, bit) = (place / BLOCK, 1 << (place % BLOCK));
        if place < N
            && let Some(word) = self.words.get_mut(at)
        {
            self.len += usize::from(*word & bit == 0);
            *word |= bit;
            self.top = self.top.max(at + 1);
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, place: usize) {
        let bit = 1 << (place % BLOCK);
        if let Some(word) = self.words.get_mut(place / BLOCK) {
            self.len -= usize::from(*word & bit != 0);
            *word &= !bit;
        }
        if self.len == 0 {
            self.top = 0;
        }
    }

    /// Whether it is in the set.
    pub fn contains(&self, place: usize) -> bool {
        let word = self.words.get(place / BLOCK);
        word.is_some_and(|word| word & (1 << (place % BLOCK)) != 0)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first at or after `from`. Looks at a word for every 32 places.
    pub fn next(&self, from: usize) -> Option<usize> {
        let first = from / BLOCK;
        let mut mask = u32::MAX << (from % BLOCK);
        let words = self.words.get(first..self.top)?;
        for (at, word) in words.iter().enumerate() {
            let left = *word & mask;
            if left != 0 {
                return Some((first + at) * BLOCK + left.trailing_zeros() as usize);
            }
            mask = u32::MAX;
        }
        None
    }

    /// The first at or after `from`, or else the first of all.
    pub fn next_round(&self, from: usize) -> Option<usize> {
        self.next(from).or_else(|| self.next(0))
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let place = self.next(from)?;
            from = place + 1;
            Some(place)
        })
    }
}

/// A time for each of `N` places, and the earliest of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Times<const N: usize> {
    at: [Instant; N],
    /// No place of a block has an earlier time than this.
    blocks: [Instant; N],
    /// Nor has any block.
    least: Instant,
}

impl<const N: usize> Times<N> {
    /// Never, for all.
    pub const fn new() -> Self {
        Self {
            at: [NEVER; N],
            blocks: [NEVER; N],
            least: NEVER,
        }
    }

    /// Gives a place another time; `None`: never.
    pub fn set(&mut self, place: usize, at: Option<Instant>) {
        let at = at.unwrap_or(NEVER);
        let block = self.blocks.get_mut(place / BLOCK);
        if let (Some(own), Some(block)) = (self.at.get_mut(place), block) {
            *own = at;
            *block = at.min(*block);
            self.least = at.min(self.least);
        }
    }

    /// No place has an earlier time; a place that was given a later one may still count with the
    /// one it had, until that has come.
    pub fn least(&self) -> Option<Instant> {
        (self.least < NEVER).then_some(self.least)
    }

    /// Whether some place's time may have come.
    #[inline]
    pub fn may_come(&self, now: Instant) -> bool {
        now >= self.least
    }

    /// Calls `come` with each place whose time has come, and has none from then on. If none can
    /// have, that takes no time; else a look at a time for every 32 places, and at all of a block
    /// that may have one.
    pub fn pass(&mut self, now: Instant, mut come: impl FnMut(usize)) {
        if !self.may_come(now) {
            return;
        }
        let mut least = NEVER;
        let blocks = self.at.chunks_mut(BLOCK).zip(&mut self.blocks);
        for (number, (times, earliest)) in blocks.enumerate() {
            if *earliest <= now {
                *earliest = NEVER;
                for (at, time) in times.iter_mut().enumerate() {
                    if *time <= now {
                        *time = NEVER;
                        come(number * BLOCK + at);
                    }
                    *earliest = (*earliest).min(*time);
                }
            }
            least = least.min(*earliest);
        }
        self.least = least;
    }
}

/// Finds one of `N` places by a hash of what is in it: open addressing, in twice as many cells.
///
/// As many cells are looked at as hashes lie together: a few, whoever chooses what is hashed, if
/// the hash is salted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Lookup<const N: usize> {
    /// The number of a place, from 1 on; 0: none.
    cells: [[u16; 2]; N],
}

impl<const N: usize> Lookup<N> {
    const FITS: () = assert!(N < u16::MAX as usize, "places are numbered with 16 bits");

    /// Nothing is found.
    pub const fn new() -> Self {
        let () = Self::FITS;
        Self { cells: [[0; 2]; N] }
    }

    /// The place with this hash that `is` the right one.
    #[inline]
    pub fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<usize> {
        self.cell(hash, is).map(|(_, place)| place)
    }

    /// From now on `place` is found by this hash. It must not be in here by another.
    pub fn insert(&mut self, hash: u64, place: usize) {
        let cells = self.cells.as_flattened_mut();
        let mut at = home(hash, cells.len());
        for _ in 0..cells.len() {
            match cells.get_mut(at) {
                Some(cell) if *cell == 0 => {
                    *cell = place as u16 + 1;
                    return;
                }
                _ => at = after(at, cells.len()),
            }
        }
    }

    /// `place` with this hash is found no more. `hash_of` gives the hashes of the others.
    pub fn remove(&mut self, hash: u64, place: usize, hash_of: impl Fn(usize) -> u64) {
        let Some((mut hole, _)) = self.cell(hash, |found| found == place) else {
            return;
        };
        let cells = self.cells.as_flattened_mut();
        let len = cells.len();
        let mut at = after(hole, len);
        // What lies behind without a gap comes forward, unless that were in front of its home.
        for _ in 0..len {
            let moved = cells.get(at).copied().unwrap_or(0);
            if moved == 0 {
                break;
            }
            let home = home(hash_of(usize::from(moved - 1)), len);
            if behind(home, at, len) >= behind(hole, at, len) {
                if let Some(cell) = cells.get_mut(hole) {
                    *cell = moved;
                }
                hole = at;
            }
            at = after(at, len);
        }
        if let Some(cell) = cells.get_mut(hole) {
            *cell = 0;
        }
    }

    #[inline]
    fn cell(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        let cells = self.cells.as_flattened();
        let mut at = home(hash, cells.len());
        for _ in 0..cells.len() {
            match cells.get(at) {
                None | Some(0) => return None,
                Some(cell) if is(usize::from(cell - 1)) => {
                    return Some((at, usize::from(cell - 1)));
                }
                Some(_) => at = after(at, cells.len()),
            }
        }
        None
    }
}

/// A hash of a number that who does not know `salt` cannot choose.
#[inline]
pub const fn salted(number: u64, salt: u64) -> u64 {
    // Steele, Lea and Flood: SplitMix64's way of mixing.
    let mixed = (number ^ salt).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[inline]
const fn home(hash: u64, cells: usize) -> usize {
    (((hash >> 32) * cells as u64) >> 32) as usize
}

#[inline]
const fn after(at: usize, cells: usize) -> usize {
    if at + 1 < cells { at + 1 } else { 0 }
}

/// How far `from` is behind `at`, in a circle.
const fn behind(from: usize, at: usize, cells: usize) -> usize {
    if from <= at {
        at - from
    } else {
        at + cells - from
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    use super::*;
    use crate::prng::Prng;

    /// As many as a large node has, so that there are many words and a last one that is not full.
    const MANY: usize = 1_056;

    #[test]
    fn places_are_a_set() {
        let mut prng = Prng::new(1);
        let mut set = Places::<MANY>::new();
        let mut model = BTreeSet::new();
        for step in 0..20_000u64 {
            // Few at first, then many.
            let place = prng.below(if step < 9_000 { 40 } else { 1_060 }) as usize;
            if prng.below(5) < 2 {
                set.insert(place);
                if place < MANY {
                    model.insert(place);
                }
            } else {
                set.remove(place);
                model.remove(&place);
            }
            let from = prng.below(1_060) as usize;
            assert_eq!(set.next(from), model.range(from..).next().copied());
            assert_eq!(
                set.next_round(from),
                model.range(from..).chain(&model).next().copied()
            );
            assert_eq!((set.len(), set.is_empty()), (model.len(), model.is_empty()));
            assert_eq!(set.contains(place), model.contains(&place));
        }
        assert!(set.iter().eq(model));
        assert!(Places::<MANY>::first(33).iter().eq(0..33));
        assert!(Places::<3>::first(9).iter().eq(0..3));
    }

    #[test]
    fn times_come_when_they_are_due_and_once() {
        for seed in 0..20 {
            let mut prng = Prng::new(seed);
            let mut times = Times::<MANY>::new();
            let mut model: BTreeMap<usize, u64> = BTreeMap::new();
            let mut now = 0;
            for _ in 0..2_000 {
                let place = prng.below(MANY as u64) as usize;
                if prng.below(8) == 0 {
                    times.set(place, None);
                    model.remove(&place);
                } else {
                    let at = now + prng.below(5_000);
                    times.set(place, Some(Instant::from_nanos(at)));
                    model.insert(place, at);
                }
                let earliest = model.values().min().map(|at| Instant::from_nanos(*at));
                // Never later than the earliest: nothing would be missed.
                assert!(earliest.is_none_or(|at| times.least().is_some_and(|least| least <= at)));
                now += prng.below(20);
                let mut come = Vec::new();
                times.pass(Instant::from_nanos(now), |place| come.push(place));
                let due = model.iter().filter(|(_, at)| **at <= now);
                assert_eq!(come, due.map(|(place, _)| *place).collect::<Vec<_>>());
                model.retain(|_, at| *at > now);
                // What is left is later than now, so nobody is asked in vain for ever.
                assert!(times.least() > Some(Instant::from_nanos(now)) || times.least().is_none());
            }
        }
    }

    /// Random keys, and keys whose hashes are all alike, against a list that is searched.
    #[test]
    fn a_place_is_found_as_by_looking_at_all() {
        let one: fn(u64) -> u64 = |_| u64::MAX;
        let few: fn(u64) -> u64 = |key| salted(key % 5, 9);
        let many: fn(u64) -> u64 = |key| salted(key, 9);
        for (hash, steps) in [(many, 20_000), (few, 2_000), (one, 1_500)] {
            is_a_map::<MANY>(hash, steps);
            is_a_map::<4>(hash, steps);
            is_a_map::<1>(hash, steps);
        }
    }

    fn is_a_map<const N: usize>(hash: fn(u64) -> u64, steps: u32) {
        let mut prng = Prng::new(u64::from(steps));
        let mut keys: Vec<Option<u64>> = std::vec![None; N];
        let mut lookup = Lookup::<N>::new();
        for _ in 0..steps {
            let key = prng.below(2 * N as u64);
            let expected = keys.iter().position(|k| *k == Some(key));
            let found = lookup.find(hash(key), |place| keys[place] == Some(key));
            assert_eq!(found, expected);
            let free = keys.iter().position(Option::is_none);
            match (found, free) {
                (Some(place), _) => {
                    lookup.remove(hash(key), place, |other| hash(keys[other].unwrap()));
                    keys[place] = None;
                }
                (None, Some(place)) => {
                    keys[place] = Some(key);
                    lookup.insert(hash(key), place);
                }
                (None, None) => {}
            }
        }
        // All that is in it is found, and nothing else holds a cell.
        for (place, key) in keys.iter().enumerate() {
            if let Some(key) = key {
                assert_eq!(
                    lookup.find(hash(*key), |p| keys[p] == Some(*key)),
                    Some(place)
                );
            }
        }
        let cells = lookup.cells.as_flattened();
        let held = cells.iter().filter(|cell| **cell != 0).count();
        assert_eq!(held, keys.iter().flatten().count());
    }

    #[test]
    fn with_half_of_the_cells_taken_few_are_looked_at() {
        let mut lookup = Lookup::<MANY>::new();
        for place in 0..MANY {
            lookup.insert(salted(place as u64, 77), place);
        }
        let looks = core::cell::Cell::new(0);
        for place in 0..MANY {
            let is = |found: usize| {
                looks.set(looks.get() + 1);
                found == place
            };
            assert_eq!(lookup.find(salted(place as u64, 77), is), Some(place));
        }
        assert!(looks.get() < 2 * MANY, "{} looks", looks.get());
    }
}
