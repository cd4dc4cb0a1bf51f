//! Entries in one lent piece of memory, and the balanced tree that keeps their keys in order.
//!
//! The links of the tree stand in the entries themselves (Adelson-Velsky and Landis, 1962: the two
//! sides of an entry differ in height by one at most), so there is no index to keep room for, and
//! an entry that moves takes its place in the tree with it: that touches its three neighbours only.
//!
//! ```text
//!    0  key length u8, height u8 (0: dead)   2  value length u32   6  version u64
//!   14  left u32, right u32, parent u32: where these entries start  26  key, value
//! ```

use super::store::Entry;

/// The length of an entry's header.
pub const HEADER: usize = 26;
/// The two sides of an entry: which of its links.
pub const LEFT: usize = 0;
pub const RIGHT: usize = 1;
const PARENT: usize = 2;

/// Where the fields of a header are.
const HEIGHT: usize = 1;
const VALUE_LENGTH: usize = 2;
const VERSION: usize = 6;
const LINKS: usize = 14;
/// The link to nothing.
const NIL: u32 = u32::MAX;

/// Where an entry hangs: below which one, on which side.
pub type Place = (Option<usize>, usize);

/// The memory, and where the topmost entry is. Entries are named by where they start.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tree<B> {
    pub memory: B,
    root: Option<usize>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Tree<B> {
    /// No entries, whatever the memory holds.
    pub fn new(memory: B) -> Self {
        Self { memory, root: None }
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.root = None;
    }

    /// Writes an entry that hangs nowhere, all but its value. The memory must have room.
    pub fn write(&mut self, at: usize, key: &[u8], value_len: usize, version: u64) {
        let room = &mut self.memory.as_mut()[at..at + HEADER + key.len()];
        room[0] = key.len() as u8;
        room[HEIGHT] = 0;
        room[VALUE_LENGTH..VERSION].copy_from_slice(&(value_len as u32).to_le_bytes());
        room[VERSION..LINKS].copy_from_slice(&version.to_le_bytes());
        room[LINKS..HEADER].fill(0xff);
        room[HEADER..].copy_from_slice(key);
    }

    /// Gives an entry a new version; its value is the caller's to write.
    pub fn set_version(&mut self, at: usize, version: u64) {
        let room = &mut self.memory.as_mut()[at + VERSION..at + LINKS];
        room.copy_from_slice(&version.to_le_bytes());
    }

    /// An entry's value.
    pub fn value_mut(&mut self, at: usize) -> &mut [u8] {
        let entry = self.entry(at);
        let (start, len) = (at + HEADER + entry.key.len(), entry.value.len());
        &mut self.memory.as_mut()[start..start + len]
    }

    /// The entry that starts at `at`.
    pub fn entry(&self, at: usize) -> Entry<'_> {
        let rest = &self.memory.as_ref()[at..];
        let key_end = HEADER + usize::from(rest[0]);
        let value_end = key_end + u32_at(rest, VALUE_LENGTH) as usize;
        let version = u64::from(u32_at(rest, VERSION + 4)) << 32 | u64::from(u32_at(rest, VERSION));
        Entry {
            key: &rest[HEADER..key_end],
            value: &rest[key_end..value_end],
            version,
        }
    }

    /// Whether the entry hangs in the tree.
    pub fn is_live(&self, at: usize) -> bool {
        self.height(at) != 0
    }

    /// The key's entry, or the place it belongs in. Work: the logarithm of the count.
    pub fn find(&self, key: &[u8]) -> Result<usize, Place> {
        let mut place = (None, LEFT);
        let mut next = self.root;
        while let Some(at) = next {
            let side = match key.cmp(self.entry(at).key) {
                core::cmp::Ordering::Less => LEFT,
                core::cmp::Ordering::Greater => RIGHT,
                core::cmp::Ordering::Equal => return Ok(at),
            };
            place = (Some(at), side);
            next = self.link(at, side);
        }
        Err(place)
    }

    /// The entry with the least key above `key`. Work: the logarithm of the count.
    pub fn above(&self, key: &[u8]) -> Option<usize> {
        let mut best = None;
        let mut next = self.root;
        while let Some(at) = next {
            let is_above = self.entry(at).key > key;
            if is_above {
                best = next;
            }
            next = self.link(at, if is_above { LEFT } else { RIGHT });
        }
        best
    }

    /// The entry that follows in the order of keys. Work: constant on the average.
    pub fn next(&self, at: usize) -> Option<usize> {
        if let Some(right) = self.link(at, RIGHT) {
            return Some(self.leftmost(right));
        }
        let mut at = at;
        loop {
            let (parent, side) = self.place(at);
            let parent = parent?;
            if side == LEFT {
                return Some(parent);
            }
            at = parent;
        }
    }

    /// Hangs an entry, as written, where [`Self::find`] has said.
    pub fn attach(&mut self, at: usize, (parent, side): Place) {
        self.memory.as_mut()[at + HEIGHT] = 1;
        self.hang((parent, side), Some(at));
        self.balance(parent);
    }

    /// Takes an entry out; its bytes stay, and are marked dead.
    pub fn detach(&mut self, at: usize) {
        let place = self.place(at);
        let (left, right) = (self.link(at, LEFT), self.link(at, RIGHT));
        let mut from = place.0;
        if let (Some(_), Some(right)) = (left, right) {
            // The next entry in order, which has no left side, takes over this one's place.
            let heir = self.leftmost(right);
            from = Some(heir);
            if heir != right {
                let above = self.place(heir);
                from = above.0;
                self.hang(above, self.link(heir, RIGHT));
                self.hang((Some(heir), RIGHT), Some(right));
            }
            self.hang((Some(heir), LEFT), left);
            self.memory.as_mut()[heir + HEIGHT] = self.height(at);
            self.hang(place, Some(heir));
        } else {
            self.hang(place, left.or(right));
        }
        self.balance(from);
        self.memory.as_mut()[at + HEIGHT] = 0;
    }

    /// Moves a live entry's bytes down to `to`. Work: its length, and three links.
    pub fn relocate(&mut self, from: usize, to: usize) {
        let (parent, side) = self.place(from);
        let (left, right) = (self.link(from, LEFT), self.link(from, RIGHT));
        let end = from + self.entry(from).stored_len();
        self.memory.as_mut().copy_within(from..end, to);
        self.hang((parent, side), Some(to));
        for child in [left, right].into_iter().flatten() {
            self.set_link(child, PARENT, Some(to));
        }
    }

    /// From an entry whose sides may have changed in height up to where nothing changes any more.
    fn balance(&mut self, from: Option<usize>) {
        let mut next = from;
        while let Some(at) = next {
            let before = self.height(at);
            let top = self.level(at);
            if self.height(top) == before {
                return;
            }
            next = self.link(top, PARENT);
        }
    }

    /// Makes the sides of an entry differ by one at most; gives back what is now in its place.
    fn level(&mut self, at: usize) -> usize {
        let (left, right) = (self.side_height(at, LEFT), self.side_height(at, RIGHT));
        let side = match (left, right) {
            (left, right) if left > right + 1 => LEFT,
            (left, right) if right > left + 1 => RIGHT,
            _ => {
                self.measure(at);
                return at;
            }
        };
        let child = self.link(at, side).expect("the higher side is not empty");
        if self.side_height(child, 1 - side) > self.side_height(child, side) {
            self.rotate(child, 1 - side);
        }
        self.rotate(at, side)
    }

    /// Lifts an entry's child on `side` into its place, and puts it below that child.
    fn rotate(&mut self, at: usize, side: usize) -> usize {
        let place = self.place(at);
        let top = self.link(at, side).expect("the lifted side is not empty");
        self.hang((Some(at), side), self.link(top, 1 - side));
        self.hang((Some(top), 1 - side), Some(at));
        self.hang(place, Some(top));
        self.measure(at);
        self.measure(top);
        top
    }

    fn hang(&mut self, (parent, side): Place, child: Option<usize>) {
        match parent {
            Some(parent) => self.set_link(parent, side, child),
            None => self.root = child,
        }
        if let Some(child) = child {
            self.set_link(child, PARENT, parent);
        }
    }

    fn place(&self, at: usize) -> Place {
        let parent = self.link(at, PARENT);
        match parent {
            Some(above) if self.link(above, RIGHT) == Some(at) => (parent, RIGHT),
            _ => (parent, LEFT),
        }
    }

    fn leftmost(&self, mut at: usize) -> usize {
        while let Some(left) = self.link(at, LEFT) {
            at = left;
        }
        at
    }

    fn height(&self, at: usize) -> u8 {
        self.memory.as_ref()[at + HEIGHT]
    }

    fn side_height(&self, at: usize, side: usize) -> u8 {
        self.link(at, side).map_or(0, |child| self.height(child))
    }

    fn measure(&mut self, at: usize) {
        let (left, right) = (self.side_height(at, LEFT), self.side_height(at, RIGHT));
        self.memory.as_mut()[at + HEIGHT] = 1 + left.max(right);
    }

    fn link(&self, at: usize, which: usize) -> Option<usize> {
        match u32_at(self.memory.as_ref(), at + LINKS + 4 * which) {
            NIL => None,
            to => Some(to as usize),
        }
    }

    fn set_link(&mut self, at: usize, which: usize, to: Option<usize>) {
        let at = at + LINKS + 4 * which;
        let to = to.map_or(NIL, |to| to as u32);
        self.memory.as_mut()[at..at + 4].copy_from_slice(&to.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[at..at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
impl<B: AsRef<[u8]> + AsMut<[u8]>> Tree<B> {
    /// Checks every link, height and order; gives back how many entries there are.
    pub fn audit(&self) -> usize {
        let mut count = 0;
        let mut next = self.root.map(|root| self.leftmost(root));
        assert!(
            self.root
                .is_none_or(|root| self.link(root, PARENT).is_none())
        );
        let mut last: Option<&[u8]> = None;
        while let Some(at) = next {
            let key = self.entry(at).key;
            assert!(last.is_none_or(|last| last < key), "keys ascend");
            let (left, right) = (self.side_height(at, LEFT), self.side_height(at, RIGHT));
            assert!(left.abs_diff(right) <= 1, "balanced");
            assert_eq!(self.height(at), 1 + left.max(right));
            for child in [LEFT, RIGHT].into_iter().filter_map(|s| self.link(at, s)) {
                assert_eq!(self.link(child, PARENT), Some(at));
            }
            (last, next, count) = (Some(key), self.next(at), count + 1);
        }
        count
    }
}
