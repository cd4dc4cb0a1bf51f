//! A table of `N` numbered slots, each with a stream session id as its key.
//!
//! The slot's number is also its share of the lent memory. Keys lie together, so that finding a
//! datagram's stream among hundreds touches few cache lines.

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Slots<T, const N: usize> {
    keys: [Option<i32>; N],
    items: [Option<T>; N],
    /// All slots from here on are free: most tables hold few items, at their start.
    high: usize,
    /// Counts, round and round, whatever may have changed an item.
    touches: u32,
}

impl<T, const N: usize> Slots<T, N> {
    pub(super) const fn new() -> Self {
        Self {
            keys: [None; N],
            items: [const { None }; N],
            high: 0,
            touches: 0,
        }
    }

    /// No slot from here on is taken.
    pub(super) fn high(&self) -> usize {
        self.high
    }

    /// The number of the slot with this key. Compares at most `N` keys.
    pub(super) fn find(&self, key: i32) -> Option<usize> {
        self.keys
            .iter()
            .take(self.high)
            .position(|k| *k == Some(key))
    }

    /// The key of a taken slot.
    pub(super) fn key(&self, slot: usize) -> Option<i32> {
        self.keys.get(slot).copied().flatten()
    }

    /// The lowest free slot.
    pub(super) fn free(&self) -> Option<usize> {
        self.keys.iter().position(Option::is_none)
    }

    /// How many slots are taken.
    pub(super) fn len(&self) -> usize {
        self.keys.iter().flatten().count()
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.items.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.touch();
        self.items.get_mut(slot)?.as_mut()
    }

    /// As [`Slots::get_mut`], for looking whether there is something to do: it does not count as a
    /// touch.
    pub(super) fn visit(&mut self, slot: usize) -> Option<&mut T> {
        self.items.get_mut(slot)?.as_mut()
    }

    /// How often an item may have changed: equal counts mean that none has.
    pub(super) fn touches(&self) -> u32 {
        self.touches
    }

    pub(super) fn touch(&mut self) {
        self.touches = self.touches.wrapping_add(1);
    }

    /// Fills a slot; what was there is forgotten. A slot beyond `N` stays what it is: nothing.
    pub(super) fn put(&mut self, slot: usize, key: i32, item: T) {
        self.touch();
        if let (Some(k), Some(i)) = (self.keys.get_mut(slot), self.items.get_mut(slot)) {
            *k = Some(key);
            *i = Some(item);
            self.high = self.high.max(slot + 1);
        }
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        self.touch();
        *self.keys.get_mut(slot)? = None;
        let mut taken = self.keys.iter().take(self.high);
        self.high = taken.rposition(Option::is_some).map_or(0, |last| last + 1);
        self.items.get_mut(slot)?.take()
    }

    /// The taken slots with their numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let items = self.items.iter().take(self.high).enumerate();
        items.filter_map(|(slot, item)| Some((slot, item.as_ref()?)))
    }

    /// As [`Slots::iter`].
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.touch();
        let items = self.items.iter_mut().take(self.high).enumerate();
        items.filter_map(|(slot, item)| Some((slot, item.as_mut()?)))
    }
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

    #[test]
    fn a_slot_is_found_by_its_key_until_it_is_removed() {
        let mut slots = Slots::<u8, 2>::new();
        slots.put(1, -7, 70);
        assert_eq!(
            (slots.find(-7), slots.free(), slots.len()),
            (Some(1), Some(0), 1)
        );
        assert_eq!(slots.remove(1), Some(70));
        assert_eq!((slots.find(-7), slots.len()), (None, 0));
        assert_eq!(slots.high(), 0);
        slots.put(0, 1, 10);
        slots.put(1, 2, 20);
        assert_eq!((slots.remove(0), slots.high()), (Some(10), 2));
        assert_eq!((slots.remove(1), slots.high()), (Some(20), 0));
        slots.put(2, 9, 90);
        assert_eq!((slots.find(9), slots.remove(2)), (None, None));
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
