//! A sorted map from keys to values in one lent piece of memory.
//!
//! Entries are written one after another from the front, each a node of a balanced tree. What is
//! overwritten or removed leaves a dead entry. When there are many, or little room is left behind
//! the last entry, a pass begins that moves the live ones together, a bounded piece with each later
//! write. Whether a put fits depends only on what is stored, never on where it lies, so a member
//! whose entries lie differently answers the same.

use super::codec::KEY_MAX;
use super::mix;
use super::tree::{Damaged, HEADER, Tree};

const _: () = assert!(KEY_MAX <= u8::MAX as usize, "a header has a byte for it");

/// One key with its value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Entry<'a> {
    /// 1 to [`KEY_MAX`] bytes.
    pub key: &'a [u8],
    /// Any bytes.
    pub value: &'a [u8],
    /// The log position of the last write.
    pub version: u64,
}

impl Entry<'_> {
    /// The sum of these over all entries is the map's digest, whatever the order of writes.
    fn digest(&self) -> u64 {
        mix::bytes(mix::bytes(self.version, self.key), self.value)
    }

    /// How many bytes of the memory it takes.
    pub(super) const fn stored_len(&self) -> usize {
        HEADER + self.key.len() + self.value.len()
    }
}

/// There is no room for this key and value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Full;

/// The map. Equal maps that were written in different orders are not equal in memory; compare
/// `digest` or iterate.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store<B> {
    tree: Tree<B>,
    count: usize,
    /// Where the next entry is written.
    heap_end: usize,
    /// How many bytes below `heap_end` do not belong to live entries.
    dead: usize,
    pass: Option<Pass>,
    digest: u64,
    newest: u64,
    longest: usize,
}

/// Moving together: what lies below `from` has been moved to below `to`, or was dead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Pass {
    from: usize,
    to: usize,
}

/// This share of the memory is kept free of live entries, so that moving entries together frees at
/// least as much.
const SLACK_SHARE: usize = 8;
/// A pass begins when less than this share is left behind the last entry: half the slack, so that a
/// pass has the other half to work in.
const CROWDED_SHARE: usize = 2 * SLACK_SHARE;
/// How many bytes a pass looks at for each byte that is written or dies. At twice `CROWDED_SHARE`
/// it is done when half of that share is used up; what is left over is for entries that are long.
const PACE: usize = 2 * CROWDED_SHARE;
/// A pass begins, too, when there are this many more dead bytes than live ones: so that few live
/// bytes do not spread over all of the memory, which is not there before it is touched.
const SPRAWL: usize = 64 * 1024;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Store<B> {
    /// An empty map in `memory`, whatever that holds. At most 4 GiB of it are used; each entry
    /// takes 26 bytes beside its key and value, and an eighth is kept free.
    pub fn new(memory: B) -> Self {
        Self {
            tree: Tree::new(memory),
            count: 0,
            heap_end: 0,
            dead: 0,
            pass: None,
            digest: 0,
            newest: 0,
            longest: 0,
        }
    }

    /// Forgets all entries. Work: constant.
    pub fn clear(&mut self) {
        self.tree.clear();
        (self.count, self.heap_end, self.dead, self.pass) = (0, 0, 0, None);
        (self.digest, self.newest, self.longest) = (0, 0, 0);
    }

    /// Sets a key. Work: a search, and a fixed multiple of the lengths of the old and the new
    /// entry; at times a move of all entries, if some are longer than a 64th of the memory.
    ///
    /// # Errors
    /// [`Damaged`]: so for every other method here. Then the map is not to be used any more.
    pub fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        version: u64,
    ) -> Result<Result<(), Full>, Damaged> {
        let len = stored_len(key, value.len());
        let found = self.tree.find(key)?.ok();
        let old_len = match found {
            Some(at) => self.tree.entry(at)?.stored_len(),
            None => 0,
        };
        if !self.fits_for(old_len, len) {
            return Ok(Err(Full));
        }
        match found {
            Some(at) if old_len == len => {
                let digest = self.tree.entry(at)?.digest();
                self.digest = self.digest.wrapping_sub(digest);
                self.tree.set_version(at, version)?;
                copy(self.tree.value_mut(at)?, value)?;
                self.count_in(at)?;
                return Ok(Ok(()));
            }
            Some(at) => self.kill(at)?,
            None => {}
        }
        self.append(key, value.len(), version, |room| copy(room, value))??;
        self.tidy(old_len + len)?;
        Ok(Ok(()))
    }

    /// Adds a key that is not there, with a value that `fill` writes. The entry must fit. Work: as
    /// that of [`Self::put`].
    ///
    /// # Errors
    /// Within, that of `fill`; then nothing was added.
    pub fn append<E>(
        &mut self,
        key: &[u8],
        value_len: usize,
        version: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, Damaged> {
        let len = stored_len(key, value_len);
        self.make_room(len)?;
        // The codec refuses keys that are longer, and no other caller adds one that is there.
        let (Err(place), true) = (self.tree.find(key)?, key.len() <= KEY_MAX) else {
            return Err(Damaged);
        };
        let at = self.heap_end;
        self.tree.write(at, key, value_len, version)?;
        if let Err(error) = fill(self.tree.value_mut(at)?) {
            return Ok(Err(error));
        }
        self.tree.attach(at, place)?;
        self.heap_end += len;
        self.count += 1;
        self.longest = self.longest.max(len);
        self.count_in(at)?;
        Ok(Ok(()))
    }

    /// Removes a key; says whether it was there. Work: as that of [`Self::put`].
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, Damaged> {
        let Ok(at) = self.tree.find(key)? else {
            return Ok(false);
        };
        let len = self.tree.entry(at)?.stored_len();
        self.kill(at)?;
        self.tidy(len)?;
        Ok(true)
    }

    /// Whether one more entry of `stored_len` bytes fits, whatever its key.
    pub fn fits(&self, stored_len: usize) -> bool {
        self.fits_for(0, stored_len)
    }

    /// Reads a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Damaged> {
        match self.tree.find(key)? {
            Ok(at) => self.tree.entry(at).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The first entry whose key is above `key`, and where it is until the next write.
    pub fn above(&self, key: &[u8]) -> Result<Option<(usize, Entry<'_>)>, Damaged> {
        self.at(self.tree.above(key)?)
    }

    /// The entry behind that at `at`, in the order of keys.
    pub fn next(&self, at: usize) -> Result<Option<(usize, Entry<'_>)>, Damaged> {
        self.at(self.tree.next(at)?)
    }

    fn at(&self, at: Option<usize>) -> Result<Option<(usize, Entry<'_>)>, Damaged> {
        let Some(at) = at else {
            return Ok(None);
        };
        Ok(Some((at, self.tree.entry(at)?)))
    }

    /// All entries in the order of their keys, up to where the memory is damaged.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let first = self.above(&[]).ok().flatten();
        let next = |(at, _): &(usize, _)| self.next(*at).ok().flatten();
        let entries = core::iter::successors(first, next).take(self.count);
        entries.map(|(_, entry)| entry)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Of all keys, values and versions; kept up to date by every write.
    pub fn digest(&self) -> u64 {
        mix::word(self.digest, self.count as u64)
    }

    /// The highest version that was ever put.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// How many bytes the longest entry took that was ever put.
    pub fn longest(&self) -> usize {
        self.longest
    }

    #[cfg(test)]
    pub(super) fn memory_mut(&mut self) -> &mut [u8] {
        self.tree.memory.as_mut()
    }

    fn capacity(&self) -> usize {
        self.tree.memory.as_ref().len().min(u32::MAX as usize)
    }

    fn live(&self) -> usize {
        self.heap_end - self.dead
    }

    fn fits_for(&self, old_len: usize, len: usize) -> bool {
        let capacity = self.capacity();
        let live = self.live() - old_len;
        live.saturating_add(len) <= capacity - capacity / SLACK_SHARE
    }

    /// Takes an entry as it is now into the digest.
    fn count_in(&mut self, at: usize) -> Result<(), Damaged> {
        let entry = self.tree.entry(at)?;
        self.digest = self.digest.wrapping_add(entry.digest());
        self.newest = self.newest.max(entry.version);
        Ok(())
    }

    fn kill(&mut self, at: usize) -> Result<(), Damaged> {
        let entry = self.tree.entry(at)?;
        self.digest = self.digest.wrapping_sub(entry.digest());
        self.dead += entry.stored_len();
        self.tree.detach(at)?;
        self.count -= 1;
        Ok(())
    }

    /// Moves all entries together at once if an entry would not fit behind the last one: only
    /// entries that are long beside the memory, or memory that is very small, bring this about.
    fn make_room(&mut self, len: usize) -> Result<(), Damaged> {
        for _ in 0..2 {
            if self.heap_end + len > self.capacity() {
                self.pass.get_or_insert_default();
                self.move_together(usize::MAX)?;
            }
        }
        // It was asked for only where it fits.
        match self.heap_end + len <= self.capacity() {
            true => Ok(()),
            false => Err(Damaged),
        }
    }

    /// Goes on moving entries together, if that is worth while, by the measure of what a call has
    /// written and killed.
    fn tidy(&mut self, changed: usize) -> Result<(), Damaged> {
        let capacity = self.capacity();
        let is_crowded = self.heap_end > capacity - capacity / CROWDED_SHARE;
        if is_crowded || self.dead > self.live() + SPRAWL {
            self.pass.get_or_insert_default();
        }
        self.move_together(changed.saturating_mul(PACE))
    }

    /// Moves live entries to the front, in the order they lie in. Work: up to the first entry that
    /// ends behind `budget` bytes.
    fn move_together(&mut self, budget: usize) -> Result<(), Damaged> {
        let Some(Pass { mut from, mut to }) = self.pass else {
            return Ok(());
        };
        let end = self.heap_end.min(from.saturating_add(budget));
        while from < end {
            let len = self.tree.entry(from)?.stored_len();
            if self.tree.is_live(from)? {
                if from != to {
                    self.tree.relocate(from, to)?;
                }
                to += len;
            }
            from += len;
        }
        self.pass = Some(Pass { from, to });
        if from == self.heap_end {
            self.dead -= from - to;
            self.heap_end = to;
            self.pass = None;
        }
        Ok(())
    }
}

/// Copies a value into the room for it.
fn copy(room: &mut [u8], value: &[u8]) -> Result<(), Damaged> {
    if room.len() != value.len() {
        return Err(Damaged);
    }
    room.copy_from_slice(value);
    Ok(())
}

fn stored_len(key: &[u8], value_len: usize) -> usize {
    (HEADER + key.len()).saturating_add(value_len)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::prng::Prng;

    type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

    fn same(store: &Store<Vec<u8>>, model: &Model) {
        let stored: Vec<_> = store
            .iter()
            .map(|e| (e.key.to_vec(), (e.value.to_vec(), e.version)))
            .collect();
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(stored, expected);
        assert_eq!(store.len(), model.len());
        assert_eq!(store.tree.audit(), model.len());
        let live: usize = store.iter().map(|e| e.stored_len()).sum();
        assert_eq!(store.live(), live);
    }

    fn fits(model: &Model, capacity: usize) -> bool {
        let live: usize = model
            .iter()
            .map(|(k, (v, _))| HEADER + k.len() + v.len())
            .sum();
        live <= capacity - capacity / SLACK_SHARE
    }

    /// Random puts and removes; every answer and the whole content as a `BTreeMap` would have it.
    #[test]
    fn it_is_a_sorted_map() {
        for seed in 0..40 {
            let mut prng = Prng::new(seed);
            let capacity = 40 + prng.below(2_000) as usize;
            let mut store = Store::new(vec![0xaa; capacity]);
            let mut model = Model::new();
            let (mut full, mut moved) = (0, 0);
            for version in 1..600 {
                let key: Vec<u8> = (0..=prng.below(3)).map(|_| prng.below(4) as u8).collect();
                let dead = store.dead;
                if prng.below(3) == 0 {
                    assert_eq!(store.remove(&key), Ok(model.remove(&key).is_some()));
                } else {
                    let value = vec![version as u8; prng.below(50) as usize];
                    let mut after = model.clone();
                    after.insert(key.clone(), (value.clone(), version));
                    let answer = store.put(&key, &value, version).unwrap();
                    assert_eq!(answer.is_ok(), fits(&after, capacity));
                    match answer {
                        Ok(()) => model = after,
                        Err(Full) => full += 1,
                    }
                }
                moved += usize::from(store.dead < dead);
                same(&store, &model);
            }
            assert!(full > 0 || capacity > 1_000, "{capacity}");
            assert!(moved > 0, "{capacity}");
        }
    }

    /// As full as it may be, with entries of a 64th of the memory and less: no put ever waits for
    /// all entries to be moved, and no call moves more than its share.
    #[test]
    fn moving_together_is_done_in_time_by_shares() {
        for seed in 0..6 {
            let mut prng = Prng::new(seed);
            let capacity = 100_000;
            let mut store = Store::new(vec![0; capacity]);
            let (mut full, mut passes, mut shares) = (0, 0, 0);
            for version in 1..30_000 {
                let key = [prng.below(250) as u8; 8];
                let value = vec![version as u8; prng.below(capacity as u64 / 64 - 34) as usize];
                let at = store.pass.map_or(0, |pass| pass.from);
                let len = HEADER + key.len() + value.len();
                let old = store.get(&key).unwrap().map_or(0, |e| e.stored_len());
                if store.fits_for(old, len) {
                    assert!(store.heap_end + len <= capacity, "seed {seed} at {version}");
                }
                if prng.below(40) == 0 {
                    store.remove(&key).unwrap();
                } else {
                    full += usize::from(store.put(&key, &value, version) == Ok(Err(Full)));
                }
                let now = store.pass.map_or(at, |pass| pass.from);
                assert!(now <= at + PACE * (old + len) + capacity / 64);
                shares += usize::from(now != at);
                passes += usize::from(at != 0 && store.pass.is_none());
            }
            assert_eq!(store.tree.audit(), store.len());
            assert!(full > 1_000, "{full}");
            assert!(passes > 50 && shares > passes, "{passes} {shares}");
        }
    }

    /// Few live bytes stay together, although there is room for many.
    #[test]
    fn memory_that_is_not_needed_is_not_touched() {
        let mut store = Store::new(vec![0; 1 << 20]);
        for version in 1..10_000 {
            let value = vec![1; 500 + (version % 7) as usize];
            store
                .put(&[version as u8 % 20], &value, version)
                .unwrap()
                .unwrap();
        }
        assert!(store.tree.memory[200_000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_digest_is_of_the_content_alone() {
        let mut one = Store::new(vec![0; 400]);
        let mut two = Store::new(vec![9; 300]);
        one.put(b"a", b"1", 32).unwrap().unwrap();
        one.put(b"b", b"2", 64).unwrap().unwrap();
        two.put(b"b", b"old", 16).unwrap().unwrap();
        two.put(b"c", b"", 17).unwrap().unwrap();
        two.put(b"b", b"2", 64).unwrap().unwrap();
        assert_eq!(two.remove(b"c"), Ok(true));
        assert_ne!(one.digest(), two.digest());
        two.put(b"a", b"1", 32).unwrap().unwrap();
        assert_eq!(one.digest(), two.digest());
        two.put(b"a", b"1", 33).unwrap().unwrap();
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn memory_too_small_for_anything_is_full() {
        for capacity in 0..30 {
            assert_eq!(
                Store::new(vec![0; capacity]).put(b"k", b"", 1),
                Ok(Err(Full))
            );
        }
        assert_eq!(Store::new(vec![0; 30]).put(b"k", b"", 1), Ok(Ok(())));
    }
}
