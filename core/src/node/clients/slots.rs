//! A table of `N` numbered slots, each with a stream session id as its key, and what of them is to
//! be looked at.
//!
//! The slot's number is also its share of the lent memory.
//!
//! With many clients nearly every stream has nothing to say. So whoever changes an item does it
//! through [`Slots::get_mut`], or [`Slots::get_mut_for`], which note that; what has not changed,
//! and whose time has not come, nobody looks at. What an empty turn costs, and one with few
//! streams in it, does not depend on how many slots are taken.

use crate::lookup::{Lookup, Places, Times, salted};
use crate::time::Instant;

/// For what a slot is looked at. Each is noted by itself: a look for one is none for the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// What happens because time passes.
    Time,
    /// What is owed on a stream, as datagrams.
    Send,
    /// What is to be done on behalf of the log.
    Admit,
}

const ALL: [Look; 3] = [Look::Time, Look::Send, Look::Admit];

impl Look {
    const fn bit(self) -> u8 {
        match self {
            Self::Time => 1,
            Self::Send => 2,
            Self::Admit => 4,
        }
    }
}

/// A slot that is in so many of the sets of those to be looked at, one bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Noted {
    slot: usize,
    looks: u8,
}

impl Noted {
    const NONE: Self = Self {
        slot: usize::MAX,
        looks: 0,
    };
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Slots<T, const N: usize> {
    keys: [Option<i32>; N],
    items: [Option<T>; N],
    /// By key. Clients choose theirs, so its hashes are salted.
    found: Lookup<N>,
    salt: u64,
    vacant: Places<N>,
    len: usize,
    /// All slots from here on are free: most tables hold few items, at their start.
    high: usize,
    /// The slot that was changed last: nearly always it is the same again.
    last: Noted,
    /// What may have changed since each look.
    looks: [Places<N>; 3],
    /// When a slot is to be looked at although nothing has changed it.
    due: Times<N>,
}

impl<T, const N: usize> Slots<T, N> {
    /// A table without slots.
    pub(super) const fn vacant() -> Self {
        Self {
            keys: [None; N],
            items: [const { None }; N],
            found: Lookup::new(),
            salt: 0,
            vacant: Places::new(),
            len: 0,
            high: 0,
            last: Noted::NONE,
            looks: [const { Places::new() }; 3],
            due: Times::new(),
        }
    }

    /// An empty table of which the first `count` slots are used: whatever it was, in its place.
    pub(super) fn begin(&mut self, count: usize, new_salt: u64) {
        let Self {
            keys,
            items,
            found,
            salt,
            vacant,
            len,
            high,
            last,
            looks,
            due,
        } = self;
        keys.fill(None);
        items.fill_with(|| None);
        (*found, *salt, *vacant) = (Lookup::new(), new_salt, Places::first(count));
        (*len, *high, *last) = (0, 0, Noted::NONE);
        looks.fill_with(Places::new);
        *due = Times::new();
    }

    /// The number of the slot with this key.
    #[inline]
    pub(super) fn find(&self, key: i32) -> Option<usize> {
        let is = |slot| self.keys.get(slot) == Some(&Some(key));
        if is(self.last.slot) {
            return Some(self.last.slot);
        }
        self.found.find(hash(key, self.salt), is)
    }

    /// The key of a taken slot.
    pub(super) fn key(&self, slot: usize) -> Option<i32> {
        self.keys.get(slot).copied().flatten()
    }

    /// The lowest free slot.
    pub(super) fn free(&self) -> Option<usize> {
        self.vacant.next(0)
    }

    /// How many slots are taken.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.items.get(slot)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.touch(slot);
        self.items.get_mut(slot)?.as_mut()
    }

    /// As [`Slots::get_mut`], for a change that matters to these looks only.
    #[inline(always)]
    pub(super) fn get_mut_for(&mut self, slot: usize, looks: &[Look]) -> Option<&mut T> {
        self.touch_for(slot, looks);
        self.items.get_mut(slot)?.as_mut()
    }

    /// As [`Slots::get_mut`], for looking whether there is something to do, or for a change that
    /// makes nothing due, and nothing due earlier: it does not count as a touch.
    #[inline]
    pub(super) fn visit(&mut self, slot: usize) -> Option<&mut T> {
        self.items.get_mut(slot)?.as_mut()
    }

    /// Fills a slot; what was there is forgotten. A slot beyond `N` stays what it is: nothing.
    pub(super) fn put(&mut self, slot: usize, key: i32, item: T) {
        self.remove(slot);
        self.touch(slot);
        if let (Some(k), Some(i)) = (self.keys.get_mut(slot), self.items.get_mut(slot)) {
            *k = Some(key);
            *i = Some(item);
            self.found.insert(hash(key, self.salt), slot);
            self.vacant.remove(slot);
            self.len += 1;
            self.high = self.high.max(slot + 1);
        }
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        let key = self.keys.get_mut(slot)?.take()?;
        let (keys, salt) = (&self.keys, self.salt);
        let hash_of = |other: usize| {
            let key = keys.get(other).copied().flatten();
            hash(key.unwrap_or_default(), salt)
        };
        self.found.remove(hash(key, salt), slot, hash_of);
        self.vacant.insert(slot);
        self.due.set(slot, None);
        self.len -= 1;
        while self.high > 0 && self.key(self.high - 1).is_none() {
            self.high -= 1;
        }
        self.touch(slot);
        self.items.get_mut(slot)?.take()
    }

    /// The taken slots with their numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let items = self.items.iter().take(self.high).enumerate();
        items.filter_map(|(slot, item)| Some((slot, item.as_ref()?)))
    }

    /// As [`Slots::iter`]; all count as touched.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        for slot in 0..self.high {
            self.touch(slot);
        }
        let items = self.items.iter_mut().take(self.high).enumerate();
        items.filter_map(|(slot, item)| Some((slot, item.as_mut()?)))
    }

    /// Something in this slot may have changed: it is to be looked at for everything.
    #[inline]
    pub(super) fn touch(&mut self, slot: usize) {
        self.touch_for(slot, &ALL);
    }

    /// It is to be looked at for these.
    #[inline]
    fn touch_for(&mut self, slot: usize, looks: &[Look]) {
        let bits = looks.iter().fold(0, |bits, look| bits | look.bit());
        if self.last.slot != slot || self.last.looks & bits != bits {
            self.note(slot, bits);
        }
    }

    #[inline(never)]
    fn note(&mut self, slot: usize, bits: u8) {
        if self.last.slot != slot {
            self.last = Noted { slot, looks: 0 };
        }
        self.last.looks |= bits;
        for (places, look) in self.looks.iter_mut().zip(ALL) {
            if bits & look.bit() != 0 {
                places.insert(slot);
            }
        }
    }

    /// Whether some slot's time may have come.
    #[inline]
    pub(super) fn may_come(&self, now: Instant) -> bool {
        self.due.may_come(now)
    }

    /// Whose time has come is to be looked at for everything.
    #[inline]
    pub(super) fn pass(&mut self, now: Instant) {
        if self.may_come(now) {
            let looks = &mut self.looks;
            let come = |slot| looks.iter_mut().for_each(|look| look.insert(slot));
            self.due.pass(now, come);
        }
    }

    /// The slots that are to be looked at.
    #[inline]
    pub(super) fn looks(&self, look: Look) -> &Places<N> {
        let [time, send, admit] = &self.looks;
        match look {
            Look::Time => time,
            Look::Send => send,
            Look::Admit => admit,
        }
    }

    /// Whether this slot is to be looked at, from now on and until it is touched.
    pub(super) fn set_look(&mut self, look: Look, slot: usize, is_wanted: bool) {
        let [time, send, admit] = &mut self.looks;
        let slots = match look {
            Look::Time => time,
            Look::Send => send,
            Look::Admit => admit,
        };
        if is_wanted {
            slots.insert(slot);
            return;
        }
        slots.remove(slot);
        if self.last.slot == slot {
            self.last.looks &= !look.bit();
        }
    }

    /// This slot was looked at for what time brings, which is next at `due`.
    pub(super) fn looked_in_time(&mut self, slot: usize, due: Option<Instant>) {
        self.set_look(Look::Time, slot, false);
        self.due.set(slot, due);
    }

    /// When some slot is to be looked at because of the time. Of what was touched since it was
    /// looked at, `due` tells.
    pub(super) fn earliest(&self, due: impl Fn(&T) -> Option<Instant>) -> Option<Instant> {
        let changed = self.looks(Look::Time).iter();
        let changed = changed.filter_map(|slot| due(self.get(slot)?));
        changed.chain(self.due.least()).min()
    }
}

#[inline]
const fn hash(key: i32, salt: u64) -> u64 {
    salted(key as u32 as u64, salt)
}

/// One of `count` equal shares of lent memory, cut down to whole cache lines; empty if there is
/// none.
pub(super) fn share(memory: &[u8], slot: usize, count: usize) -> &[u8] {
    let len = share_len(memory.len(), count);
    let start = slot.saturating_mul(len);
    memory
        .get(start..start.saturating_add(len))
        .unwrap_or_default()
}

/// As [`share`].
pub(super) fn share_mut(memory: &mut [u8], slot: usize, count: usize) -> &mut [u8] {
    let len = share_len(memory.len(), count);
    let start = slot.saturating_mul(len);
    memory
        .get_mut(start..start.saturating_add(len))
        .unwrap_or_default()
}

/// The length of such a share in bytes.
pub(super) fn share_len(memory: usize, count: usize) -> usize {
    memory.checked_div(count).unwrap_or(0) & !63
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<T, const N: usize>(count: usize, salt: u64) -> Slots<T, N> {
        let mut slots = Slots::vacant();
        slots.begin(count, salt);
        slots
    }

    #[test]
    fn a_slot_is_found_by_its_key_until_it_is_removed() {
        let mut slots = table::<u8, 2>(2, 0);
        slots.put(1, -7, 70);
        assert_eq!(
            (slots.find(-7), slots.free(), slots.len()),
            (Some(1), Some(0), 1)
        );
        assert_eq!(slots.remove(1), Some(70));
        assert_eq!((slots.find(-7), slots.len()), (None, 0));
        slots.put(0, 1, 10);
        slots.put(1, 2, 20);
        assert_eq!((slots.remove(0), slots.iter().count()), (Some(10), 1));
        assert_eq!((slots.remove(1), slots.iter().count()), (Some(20), 0));
        slots.put(2, 9, 90);
        assert_eq!((slots.find(9), slots.remove(2)), (None, None));
        assert_eq!((slots.len(), slots.free()), (0, Some(0)));
    }

    #[test]
    fn of_slots_that_are_not_used_none_is_free() {
        let mut slots = table::<u8, 4>(2, 0);
        slots.put(0, 1, 10);
        assert_eq!(slots.free(), Some(1));
        slots.put(1, 2, 20);
        assert_eq!(slots.free(), None);
    }

    #[test]
    fn what_was_touched_is_looked_at_once_for_each_look() {
        let mut slots = table::<u8, 40>(40, 5);
        slots.put(33, 1, 10);
        slots.put(2, 2, 20);
        for look in [Look::Time, Look::Send, Look::Admit] {
            assert!(slots.looks(look).iter().eq([2, 33]));
        }
        for slot in [33, 2] {
            slots.set_look(Look::Send, slot, false);
            assert!(!slots.looks(Look::Send).contains(slot));
            assert!(slots.looks(Look::Admit).iter().eq([2, 33]));
            *slots.get_mut(slot).unwrap() += 1;
            assert!(slots.looks(Look::Send).contains(slot));
        }
    }

    #[test]
    fn a_change_for_some_looks_is_none_for_the_others() {
        let mut slots = table::<u8, 40>(40, 5);
        slots.put(33, 1, 10);
        for look in ALL {
            slots.set_look(look, 33, false);
        }
        *slots.get_mut_for(33, &[Look::Send]).unwrap() += 1;
        assert!(slots.looks(Look::Send).contains(33) && slots.looks(Look::Admit).is_empty());
        *slots.get_mut_for(33, &[Look::Send, Look::Time]).unwrap() += 1;
        assert!(slots.looks(Look::Time).contains(33) && slots.looks(Look::Admit).is_empty());
        *slots.get_mut(33).unwrap() += 1;
        assert!(slots.looks(Look::Admit).contains(33));
    }

    #[test]
    fn a_slot_is_looked_at_for_everything_when_its_time_has_come() {
        let at = Instant::from_nanos;
        let some = |nanos| Some(at(nanos));
        let mut slots = table::<u64, 40>(40, 5);
        slots.put(7, 1, 90);
        slots.put(35, 2, 50);
        let due = |nanos: &u64| some(*nanos);
        assert_eq!(slots.earliest(due), some(50));
        slots.pass(at(10));
        slots.looked_in_time(7, some(90));
        slots.looked_in_time(35, some(50));
        slots.set_look(Look::Admit, 7, false);
        slots.set_look(Look::Admit, 35, false);
        slots.pass(at(49));
        assert!(slots.looks(Look::Admit).is_empty() && slots.looks(Look::Time).is_empty());
        slots.pass(at(50));
        assert!(slots.looks(Look::Admit).iter().eq([35]));
        assert!(slots.looks(Look::Time).iter().eq([35]));
        slots.remove(35);
        slots.looked_in_time(35, None);
        assert_eq!(slots.earliest(due), some(90));
        slots.remove(7);
        slots.pass(at(90));
        assert_eq!(slots.earliest(due), None);
    }

    #[test]
    fn shares_are_equal_disjoint_and_never_outside() {
        let mut memory = [0u8; 300];
        for slot in 0..2 {
            share_mut(&mut memory, slot, 2).fill(slot as u8 + 1);
        }
        assert_eq!(share(&memory, 0, 2), [1; 128]);
        assert_eq!(share(&memory, 1, 2), [2; 128]);
        assert!(share(&memory, 2, 2).is_empty());
        assert!(share(&memory, 0, 0).is_empty());
    }
}
