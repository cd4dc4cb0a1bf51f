//! A sorted map from keys to values in one lent piece of memory.
//!
//! Entries are written one after another from the front; a sorted index of their offsets grows from
//! the back. What is overwritten or removed leaves a dead entry; when the two ends meet, the live
//! entries are moved together. Whether a put fits depends only on what is stored, never on where it
//! lies, so a member whose entries lie differently answers the same.

use super::codec::KEY_MAX;
use super::mix;

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

    const fn stored_len(&self) -> usize {
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
    memory: B,
    count: usize,
    /// Where the next entry is written.
    heap_end: usize,
    /// How many bytes below `heap_end` belong to dead entries.
    dead: usize,
    digest: u64,
}

/// An entry's header: key length (u16), 0 or `DEAD` (u16), value length (u32), version (u64).
const HEADER: usize = 16;
const DEAD: u16 = 1;
/// One offset in the index (u32).
const SLOT: usize = 4;
/// This share of the memory is kept free of live entries, so that moving entries together, which is
/// work in proportion to all of them, happens at most once in that many bytes of writing.
const SLACK_SHARE: usize = 8;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Store<B> {
    /// An empty map in `memory`, whatever that holds. At most 4 GiB of it are used; each entry
    /// takes 20 bytes beside its key and value, and an eighth is kept free.
    pub fn new(memory: B) -> Self {
        Self {
            memory,
            count: 0,
            heap_end: 0,
            dead: 0,
            digest: 0,
        }
    }

    /// Sets a key. Work: the entry's length, a search, and at times a move of all entries.
    pub fn put(&mut self, key: &[u8], value: &[u8], version: u64) -> Result<(), Full> {
        assert!(key.len() <= KEY_MAX, "the codec refuses longer keys");
        let new = Entry {
            key,
            value,
            version,
        };
        let mut found = self.find(key);
        let old_len = match found {
            Ok(slot) => self.entry_at(self.offset(slot)).stored_len() + SLOT,
            Err(_) => 0,
        };
        let live = self.heap_end - self.dead + self.count * SLOT;
        let capacity = self.capacity();
        if live - old_len + new.stored_len() + SLOT > capacity - capacity / SLACK_SHARE {
            return Err(Full);
        }
        self.digest = self.digest.wrapping_add(new.digest());
        if let Ok(slot) = found {
            self.kill(slot);
        }
        let slots = self.count + usize::from(found.is_err());
        if self.heap_end + new.stored_len() > capacity - slots * SLOT {
            if let Ok(slot) = found {
                self.forget(slot);
                found = Err(slot);
            }
            self.move_together();
        }
        let at = self.heap_end;
        self.write(at, &new);
        self.heap_end += new.stored_len();
        match found {
            Ok(slot) => self.set_offset(slot, at),
            Err(slot) => self.insert_offset(slot, at),
        }
        Ok(())
    }

    /// Removes a key; says whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Ok(slot) = self.find(key) else {
            return false;
        };
        self.kill(slot);
        self.forget(slot);
        true
    }

    /// Reads a key.
    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        let slot = self.find(key).ok()?;
        Some(self.entry_at(self.offset(slot)))
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.count).map(|slot| self.entry_at(self.offset(slot)))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Of all keys, values and versions; kept up to date by every write.
    pub fn digest(&self) -> u64 {
        mix::word(self.digest, self.count as u64)
    }

    fn capacity(&self) -> usize {
        self.memory.as_ref().len().min(u32::MAX as usize)
    }

    fn index_start(&self) -> usize {
        self.capacity() - self.count * SLOT
    }

    fn offset(&self, slot: usize) -> usize {
        let at = self.index_start() + slot * SLOT;
        u32_at(self.memory.as_ref(), at) as usize
    }

    fn set_offset(&mut self, slot: usize, offset: usize) {
        let at = self.index_start() + slot * SLOT;
        self.memory.as_mut()[at..at + SLOT].copy_from_slice(&(offset as u32).to_le_bytes());
    }

    fn insert_offset(&mut self, slot: usize, offset: usize) {
        let index = self.index_start();
        let memory = self.memory.as_mut();
        memory.copy_within(index..index + slot * SLOT, index - SLOT);
        self.count += 1;
        self.set_offset(slot, offset);
    }

    fn forget(&mut self, slot: usize) {
        let index = self.index_start();
        let memory = self.memory.as_mut();
        memory.copy_within(index..index + slot * SLOT, index + SLOT);
        self.count -= 1;
    }

    /// The key's slot, or the one it belongs in. Work: the logarithm of the count.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry_at(self.offset(middle)).key.cmp(key) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    fn entry_at(&self, at: usize) -> Entry<'_> {
        let memory = self.memory.as_ref();
        let key = at + HEADER;
        let value = key + usize::from(u16_at(memory, at));
        Entry {
            key: &memory[key..value],
            value: &memory[value..value + u32_at(memory, at + 4) as usize],
            version: u64_at(memory, at + 8),
        }
    }

    fn write(&mut self, at: usize, entry: &Entry<'_>) {
        let (key_len, value_len) = (entry.key.len(), entry.value.len());
        let room = &mut self.memory.as_mut()[at..at + entry.stored_len()];
        let (header, rest) = room.split_at_mut(HEADER);
        header[0..2].copy_from_slice(&(key_len as u16).to_le_bytes());
        header[2..4].copy_from_slice(&0_u16.to_le_bytes());
        header[4..8].copy_from_slice(&(value_len as u32).to_le_bytes());
        header[8..16].copy_from_slice(&entry.version.to_le_bytes());
        rest[..key_len].copy_from_slice(entry.key);
        rest[key_len..].copy_from_slice(entry.value);
    }

    /// Marks a slot's entry dead and takes it out of the digest; the slot stays.
    fn kill(&mut self, slot: usize) {
        let at = self.offset(slot);
        let entry = self.entry_at(at);
        let (len, digest) = (entry.stored_len(), entry.digest());
        self.dead += len;
        self.digest = self.digest.wrapping_sub(digest);
        self.memory.as_mut()[at + 2..at + 4].copy_from_slice(&DEAD.to_le_bytes());
    }

    /// Moves the live entries to the front, in the order they lie in. Work: all of them.
    fn move_together(&mut self) {
        let (mut from, mut to) = (0, 0);
        while from < self.heap_end {
            let entry = self.entry_at(from);
            let len = entry.stored_len();
            if u16_at(self.memory.as_ref(), from + 2) != DEAD {
                let slot = self.find(entry.key);
                self.memory.as_mut().copy_within(from..from + len, to);
                let slot = slot.expect("a live entry is in the index");
                self.set_offset(slot, to);
                to += len;
            }
            from += len;
        }
        assert_eq!(to, self.heap_end - self.dead, "dead bytes are counted");
        (self.heap_end, self.dead) = (to, 0);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
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
    }

    fn fits(model: &Model, capacity: usize) -> bool {
        let live: usize = model
            .iter()
            .map(|(k, (v, _))| HEADER + SLOT + k.len() + v.len())
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
                    assert_eq!(store.remove(&key), model.remove(&key).is_some());
                } else {
                    let value = vec![version as u8; prng.below(50) as usize];
                    let mut after = model.clone();
                    after.insert(key.clone(), (value.clone(), version));
                    let answer = store.put(&key, &value, version);
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

    #[test]
    fn the_digest_is_of_the_content_alone() {
        let mut one = Store::new(vec![0; 400]);
        let mut two = Store::new(vec![9; 300]);
        one.put(b"a", b"1", 32).unwrap();
        one.put(b"b", b"2", 64).unwrap();
        two.put(b"b", b"old", 16).unwrap();
        two.put(b"c", b"", 17).unwrap();
        two.put(b"b", b"2", 64).unwrap();
        assert!(two.remove(b"c"));
        assert_ne!(one.digest(), two.digest());
        two.put(b"a", b"1", 32).unwrap();
        assert_eq!(one.digest(), two.digest());
        two.put(b"a", b"1", 33).unwrap();
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn memory_too_small_for_anything_is_full() {
        for capacity in 0..22 {
            assert_eq!(Store::new(vec![0; capacity]).put(b"k", b"", 1), Err(Full));
        }
        assert_eq!(Store::new(vec![0; 24]).put(b"k", b"", 1), Ok(()));
    }
}
