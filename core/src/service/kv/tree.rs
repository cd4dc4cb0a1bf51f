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
//!
//! What stands in the memory is the map's own, so a link that leads nowhere is a bug, or memory
//! that was overwritten: [`Damaged`], upon which the service stops.

use super::store::Entry;

/// The memory does not hold what was written there: the map is good for nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Damaged;

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

/// No tree of entries in 4 GiB is deeper: each level and the next have 1.6 times as many entries as
/// those above, at least. Who goes further goes in a circle.
const DEPTH_MAX: usize = 64;

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

    /// Writes an entry that hangs nowhere, all but its value, for which the memory must have room.
    pub fn write(
        &mut self,
        at: usize,
        key: &[u8],
        value_len: usize,
        version: u64,
    ) -> Result<(), Damaged> {
        let mut header = [0xff; HEADER];
        let [key_len, height, fields @ ..] = &mut header;
        (*key_len, *height) = (key.len() as u8, 0);
        let length = (value_len as u32).to_le_bytes();
        let fields = fields.iter_mut();
        for (field, byte) in fields.zip(length.into_iter().chain(version.to_le_bytes())) {
            *field = byte;
        }
        self.set(at, &header)?;
        self.set(at + HEADER, key)?;
        self.value_mut(at).map(|_| ())
    }

    /// Gives an entry a new version; its value is the caller's to write.
    pub fn set_version(&mut self, at: usize, version: u64) -> Result<(), Damaged> {
        self.set(at + VERSION, &version.to_le_bytes())
    }

    /// An entry's value.
    pub fn value_mut(&mut self, at: usize) -> Result<&mut [u8], Damaged> {
        let entry = self.entry(at)?;
        let (start, len) = (at + HEADER + entry.key.len(), entry.value.len());
        let rest = self.memory.as_mut().get_mut(start..);
        rest.and_then(|rest| rest.get_mut(..len)).ok_or(Damaged)
    }

    /// The entry that starts at `at`.
    pub fn entry(&self, at: usize) -> Result<Entry<'_>, Damaged> {
        let rest = self.memory.as_ref().get(at..).ok_or(Damaged)?;
        let (header, rest) = rest.split_first_chunk::<HEADER>().ok_or(Damaged)?;
        let [key_len, ..] = *header;
        let (key, rest) = rest.split_at_checked(key_len.into()).ok_or(Damaged)?;
        let value_len = u32::from_le_bytes(field(header, VALUE_LENGTH)) as usize;
        Ok(Entry {
            key,
            value: rest.get(..value_len).ok_or(Damaged)?,
            version: u64::from_le_bytes(field(header, VERSION)),
        })
    }

    /// Whether the entry hangs in the tree.
    pub fn is_live(&self, at: usize) -> Result<bool, Damaged> {
        Ok(self.height(at)? != 0)
    }

    /// The key's entry, or the place it belongs in. Work: the logarithm of the count.
    pub fn find(&self, key: &[u8]) -> Result<Result<usize, Place>, Damaged> {
        let mut place = (None, LEFT);
        let mut next = self.root;
        for _ in 0..DEPTH_MAX {
            let Some(at) = next else {
                return Ok(Err(place));
            };
            let side = match key.cmp(self.entry(at)?.key) {
                core::cmp::Ordering::Less => LEFT,
                core::cmp::Ordering::Greater => RIGHT,
                core::cmp::Ordering::Equal => return Ok(Ok(at)),
            };
            place = (Some(at), side);
            next = self.link(at, side)?;
        }
        Err(Damaged)
    }

    /// The entry with the least key above `key`. Work: the logarithm of the count.
    pub fn above(&self, key: &[u8]) -> Result<Option<usize>, Damaged> {
        let mut best = None;
        let mut next = self.root;
        for _ in 0..DEPTH_MAX {
            let Some(at) = next else {
                return Ok(best);
            };
            let is_above = self.entry(at)?.key > key;
            if is_above {
                best = next;
            }
            next = self.link(at, if is_above { LEFT } else { RIGHT })?;
        }
        Err(Damaged)
    }

    /// The entry that follows in the order of keys. Work: constant on the average.
    pub fn next(&self, at: usize) -> Result<Option<usize>, Damaged> {
        if let Some(right) = self.link(at, RIGHT)? {
            return self.leftmost(right).map(Some);
        }
        let mut at = at;
        for _ in 0..DEPTH_MAX {
            let (parent, side) = self.place(at)?;
            let Some(parent) = parent.filter(|_| side == RIGHT) else {
                return Ok(parent);
            };
            at = parent;
        }
        Err(Damaged)
    }

    /// Hangs an entry, as written, where [`Self::find`] has said.
    pub fn attach(&mut self, at: usize, (parent, side): Place) -> Result<(), Damaged> {
        self.set_height(at, 1)?;
        self.hang((parent, side), Some(at))?;
        self.balance(parent)
    }

    /// Takes an entry out; its bytes stay, and are marked dead.
    pub fn detach(&mut self, at: usize) -> Result<(), Damaged> {
        let place = self.place(at)?;
        let (left, right) = (self.link(at, LEFT)?, self.link(at, RIGHT)?);
        let mut from = place.0;
        if let (Some(_), Some(right)) = (left, right) {
            // The next entry in order, which has no left side, takes over this one's place.
            let heir = self.leftmost(right)?;
            from = Some(heir);
            if heir != right {
                let above = self.place(heir)?;
                from = above.0;
                self.hang(above, self.link(heir, RIGHT)?)?;
                self.hang((Some(heir), RIGHT), Some(right))?;
            }
            self.hang((Some(heir), LEFT), left)?;
            self.set_height(heir, self.height(at)?)?;
            self.hang(place, Some(heir))?;
        } else {
            self.hang(place, left.or(right))?;
        }
        self.balance(from)?;
        self.set_height(at, 0)
    }

    /// Moves a live entry's bytes down to `to`. Work: its length, and three links.
    pub fn relocate(&mut self, from: usize, to: usize) -> Result<(), Damaged> {
        let (parent, side) = self.place(from)?;
        let (left, right) = (self.link(from, LEFT)?, self.link(from, RIGHT)?);
        let end = from + self.entry(from)?.stored_len();
        let moved = self.memory.as_mut().get_mut(to..end).ok_or(Damaged)?;
        let by = from.checked_sub(to).filter(|by| *by <= moved.len());
        moved.copy_within(by.ok_or(Damaged)?.., 0);
        self.hang((parent, side), Some(to))?;
        for child in [left, right].into_iter().flatten() {
            self.set_link(child, PARENT, Some(to))?;
        }
        Ok(())
    }

    /// From an entry whose sides may have changed in height up to where nothing changes any more.
    fn balance(&mut self, from: Option<usize>) -> Result<(), Damaged> {
        let mut next = from;
        for _ in 0..DEPTH_MAX {
            let Some(at) = next else {
                return Ok(());
            };
            let before = self.height(at)?;
            let top = self.level(at)?;
            if self.height(top)? == before {
                return Ok(());
            }
            next = self.link(top, PARENT)?;
        }
        Err(Damaged)
    }

    /// Makes the sides of an entry differ by one at most; gives back what is now in its place.
    fn level(&mut self, at: usize) -> Result<usize, Damaged> {
        let (left, right) = (self.side_height(at, LEFT)?, self.side_height(at, RIGHT)?);
        let side = match (left, right) {
            (left, right) if left > right.saturating_add(1) => LEFT,
            (left, right) if right > left.saturating_add(1) => RIGHT,
            _ => {
                self.measure(at)?;
                return Ok(at);
            }
        };
        // The higher side is not empty.
        let child = self.link(at, side)?.ok_or(Damaged)?;
        if self.side_height(child, 1 - side)? > self.side_height(child, side)? {
            self.rotate(child, 1 - side)?;
        }
        self.rotate(at, side)
    }

    /// Lifts an entry's child on `side`, where there is one, into its place, and puts it below that
    /// child.
    fn rotate(&mut self, at: usize, side: usize) -> Result<usize, Damaged> {
        let place = self.place(at)?;
        let top = self.link(at, side)?.ok_or(Damaged)?;
        self.hang((Some(at), side), self.link(top, 1 - side)?)?;
        self.hang((Some(top), 1 - side), Some(at))?;
        self.hang(place, Some(top))?;
        self.measure(at)?;
        self.measure(top)?;
        Ok(top)
    }

    fn hang(&mut self, (parent, side): Place, child: Option<usize>) -> Result<(), Damaged> {
        match parent {
            Some(parent) => self.set_link(parent, side, child)?,
            None => self.root = child,
        }
        match child {
            Some(child) => self.set_link(child, PARENT, parent),
            None => Ok(()),
        }
    }

    fn place(&self, at: usize) -> Result<Place, Damaged> {
        let parent = self.link(at, PARENT)?;
        let is_right = match parent {
            Some(above) => self.link(above, RIGHT)? == Some(at),
            None => false,
        };
        Ok((parent, if is_right { RIGHT } else { LEFT }))
    }

    fn leftmost(&self, mut at: usize) -> Result<usize, Damaged> {
        for _ in 0..DEPTH_MAX {
            let Some(left) = self.link(at, LEFT)? else {
                return Ok(at);
            };
            at = left;
        }
        Err(Damaged)
    }

    fn height(&self, at: usize) -> Result<u8, Damaged> {
        let height = self.memory.as_ref().get(at + HEIGHT);
        height.copied().ok_or(Damaged)
    }

    fn set_height(&mut self, at: usize, height: u8) -> Result<(), Damaged> {
        self.set(at + HEIGHT, &[height])
    }

    fn side_height(&self, at: usize, side: usize) -> Result<u8, Damaged> {
        self.link(at, side)?
            .map_or(Ok(0), |child| self.height(child))
    }

    fn measure(&mut self, at: usize) -> Result<(), Damaged> {
        let (left, right) = (self.side_height(at, LEFT)?, self.side_height(at, RIGHT)?);
        self.set_height(at, left.max(right).saturating_add(1))
    }

    fn link(&self, at: usize, which: usize) -> Result<Option<usize>, Damaged> {
        let rest = self.memory.as_ref().get(at + LINKS + 4 * which..);
        let link = rest.and_then(|rest| rest.first_chunk());
        match u32::from_le_bytes(*link.ok_or(Damaged)?) {
            NIL => Ok(None),
            to => Ok(Some(to as usize)),
        }
    }

    fn set_link(&mut self, at: usize, which: usize, to: Option<usize>) -> Result<(), Damaged> {
        let to = to.map_or(NIL, |to| to as u32);
        self.set(at + LINKS + 4 * which, &to.to_le_bytes())
    }

    fn set(&mut self, at: usize, bytes: &[u8]) -> Result<(), Damaged> {
        let rest = self.memory.as_mut().get_mut(at..);
        let room = rest.and_then(|rest| rest.get_mut(..bytes.len()));
        room.ok_or(Damaged)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// The bytes of a header from `at` on: a place that is known.
fn field<const L: usize>(header: &[u8; HEADER], at: usize) -> [u8; L] {
    let field = header.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().unwrap_or([0; L])
}

#[cfg(test)]
impl<B: AsRef<[u8]> + AsMut<[u8]>> Tree<B> {
    /// Checks every link, height and order; gives back how many entries there are.
    pub fn audit(&self) -> usize {
        let mut count = 0;
        let mut next = self.root.map(|root| self.leftmost(root).unwrap());
        assert!(
            self.root
                .is_none_or(|root| self.link(root, PARENT) == Ok(None))
        );
        let mut last: Option<&[u8]> = None;
        while let Some(at) = next {
            let key = self.entry(at).unwrap().key;
            assert!(last.is_none_or(|last| last < key), "keys ascend");
            let height = |side| self.side_height(at, side).unwrap();
            let (left, right) = (height(LEFT), height(RIGHT));
            assert!(left.abs_diff(right) <= 1, "balanced");
            assert_eq!(self.height(at), Ok(1 + left.max(right)));
            let child = |side| self.link(at, side).unwrap();
            for child in [LEFT, RIGHT].into_iter().filter_map(child) {
                assert_eq!(self.link(child, PARENT), Ok(Some(at)));
            }
            (last, next, count) = (Some(key), self.next(at).unwrap(), count + 1);
        }
        count
    }
}
