//! The service's snapshots, written in pieces while the map goes on changing.
//!
//! A snapshot walks the keys upward. Who changes a key that it has not come to yet first puts the
//! entry aside, in a map in memory of its own: the barrier. What is written merges the two. When
//! the barrier may be too full for one more entry, the service is not ready until the snapshot has
//! moved on, so the answers to clients never depend on how far a snapshot is. Without a barrier it
//! is not ready until all is written.
//!
//! ```text
//!    0  format u32, number of watches u32    8  number of entries u64
//!   16  unsent u64, digest u64              32  watches, in their order:
//!         session u64, correlation u64, is prefix u8, key length u8, key
//!       entries, by ascending keys:
//!         version u64, value length u32, key length u8, key, value
//! ```

use heapless::Vec;

use super::codec::KEY_MAX;
use super::store::{Entry, Store};
use super::tree::{Damaged, HEADER};
use super::{Kv, WATCHES_MAX, Watch};
use crate::service::{Progress, SnapshotError, SnapshotReader, SnapshotWriter};
use crate::units::{Position, SessionId};
use crate::wire::Writer;

/// The version of the format.
const FORMAT: u32 = 1;
/// A piece ends with the entry that makes it this long.
const PIECE: usize = 128 * 1024;

/// A snapshot that was begun.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Saving {
    stage: Stage,
    /// The entries with versions up to this are the snapshot's.
    newest: u64,
    /// Those with keys up to this are written.
    cursor: Vec<u8, KEY_MAX>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    /// Nothing is written. What stands before the entries is not put aside: see `is_ready`.
    Head,
    Entries,
    /// Something was executed although the service was not ready.
    Lost,
}

impl From<Damaged> for SnapshotError {
    fn from(_: Damaged) -> Self {
        Self::Content
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Kv<B> {
    pub(super) fn begin(&mut self) {
        self.end();
        self.saving = Some(Saving {
            stage: Stage::Head,
            newest: self.store.newest(),
            cursor: Vec::new(),
        });
    }

    pub(super) fn end(&mut self) {
        self.saving = None;
        if let Some(barrier) = &mut self.barrier {
            barrier.clear();
        }
    }

    /// Whether anything may be executed: a message changes one key, and the longest entry fits.
    pub(super) fn is_ready(&self) -> bool {
        let longest = self.store.longest();
        match &self.saving {
            None => true,
            Some(saving) if saving.stage == Stage::Head => false,
            Some(_) => self.barrier.as_ref().is_some_and(|b| b.fits(longest)),
        }
    }

    /// Called before anything is executed.
    pub(super) fn check_ready(&mut self) {
        if let Some(saving) = &mut self.saving
            && saving.stage == Stage::Head
        {
            saving.stage = Stage::Lost;
        }
    }

    /// Puts a key's entry aside, if the snapshot has yet to write it: before the key is changed.
    pub(super) fn put_aside(&mut self, key: &[u8]) -> Result<(), Damaged> {
        let Some(saving) = &mut self.saving else {
            return Ok(());
        };
        let Some(old) = self.store.get(key)? else {
            return Ok(());
        };
        if saving.stage == Stage::Entries && saving.cursor.as_slice() < key {
            let barrier = self.barrier.as_mut();
            let is_aside = old.version > saving.newest
                || barrier.is_some_and(|b| b.put(old.key, old.value, old.version) == Ok(Ok(())));
            if !is_aside {
                saving.stage = Stage::Lost;
            }
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        out: &mut SnapshotWriter<'_>,
    ) -> Result<Progress, SnapshotError> {
        if self.saving.is_none() {
            self.begin();
        }
        match self.saving.as_ref().map(|saving| saving.stage) {
            Some(Stage::Head) => self.write_head(out)?,
            Some(Stage::Lost) => return Err(SnapshotError::TooLarge),
            Some(Stage::Entries) | None => {}
        }
        let written = self.write_entries(out);
        match written {
            Ok(Progress::Done) => self.end(),
            // Of what is written: only damaged memory is called that.
            Err(SnapshotError::Content) => self.damaged = true,
            _ => {}
        }
        written
    }

    fn write_head(&mut self, out: &mut SnapshotWriter<'_>) -> Result<(), SnapshotError> {
        out.u32(FORMAT)?;
        out.u32(self.watches.len() as u32)?;
        out.u64(self.store.len() as u64)?;
        out.u64(self.unsent)?;
        out.u64(self.content_digest())?;
        for watch in &self.watches {
            out.block::<18>(|to| {
                to.u64(watch.session.opened_at().get())
                    .u64(watch.correlation)
                    .u8(u8::from(watch.is_prefix))
                    .u8(watch.key.len() as u8);
            })?;
            out.put(&watch.key)?;
        }
        if let Some(saving) = &mut self.saving {
            saving.stage = Stage::Entries;
        }
        Ok(())
    }

    /// Merges the map and what was put aside, from the cursor on. Work: `PIECE` and one entry.
    fn write_entries(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        let Some(saving) = &mut self.saving else {
            return Ok(Progress::Done);
        };
        let mut stored = self.store.above(&saving.cursor)?;
        let mut budget = PIECE;
        while budget > 0 {
            let aside = match &self.barrier {
                Some(barrier) => barrier.above(&[])?,
                None => None,
            };
            let (entry, is_aside) = match (stored, aside) {
                (None, None) => return Ok(Progress::Done),
                (Some((_, entry)), None) => (entry, false),
                // An equal key in the map was written since.
                (Some((_, entry)), Some((_, old))) if entry.key < old.key => (entry, false),
                (_, Some((_, old))) => (old, true),
            };
            let mut cost = HEADER;
            if entry.version <= saving.newest {
                write_entry(out, &entry)?;
                cost = entry.stored_len();
            }
            if let Some((at, _)) = stored.filter(|(_, stored)| stored.key == entry.key) {
                stored = self.store.next(at)?;
            }
            // A key has KEY_MAX bytes at most.
            saving.cursor = Vec::from_slice(entry.key).map_err(|_| Damaged)?;
            if let Some(barrier) = self.barrier.as_mut().filter(|_| is_aside) {
                barrier.remove(&saving.cursor)?;
            }
            budget = budget.saturating_sub(cost);
        }
        Ok(Progress::More)
    }

    pub(super) fn read(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        if from.u32()? != FORMAT {
            return Err(SnapshotError::Content);
        }
        self.forget();
        let read = self.read_content(from);
        if read.is_err() {
            self.forget();
        }
        read
    }

    fn forget(&mut self) {
        self.end();
        self.store.clear();
        self.watches.clear();
        self.unsent = 0;
    }

    fn read_content(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let watches = from.u32()?;
        let entries = from.u64()?;
        self.unsent = from.u64()?;
        let digest = from.u64()?;
        if watches as usize > WATCHES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        for _ in 0..watches {
            let pushed = self.watches.push(read_watch(from)?);
            pushed.map_err(|_| SnapshotError::TooLarge)?;
        }
        let mut last = Vec::new();
        for _ in 0..entries {
            last = read_entry(from, &mut self.store, &last)?;
        }
        if self.content_digest() == digest {
            Ok(())
        } else {
            Err(SnapshotError::Content)
        }
    }
}

fn read_watch(from: &mut SnapshotReader<'_>) -> Result<Watch, SnapshotError> {
    let session = SessionId::new(Position::new(from.u64()?));
    let correlation = from.u64()?;
    let [is_prefix, key_len] = from.array()?;
    if is_prefix > 1 {
        return Err(SnapshotError::Content);
    }
    Ok(Watch {
        session,
        correlation,
        key: read_key(from, key_len)?,
        is_prefix: is_prefix == 1,
    })
}

/// Reads an entry into the map; gives back its key, which must be above `last`.
fn read_entry<B: AsRef<[u8]> + AsMut<[u8]>>(
    from: &mut SnapshotReader<'_>,
    store: &mut Store<B>,
    last: &[u8],
) -> Result<Vec<u8, KEY_MAX>, SnapshotError> {
    let version = from.u64()?;
    let value_len = from.u32()? as usize;
    let [key_len] = from.array()?;
    let key = read_key(from, key_len)?;
    if key.as_slice() <= last {
        return Err(SnapshotError::Content);
    }
    if !store.fits((HEADER + key.len()).saturating_add(value_len)) {
        return Err(SnapshotError::TooLarge);
    }
    store.append(&key, value_len, version, |room| from.take(room))??;
    Ok(key)
}

fn read_key(from: &mut SnapshotReader<'_>, len: u8) -> Result<Vec<u8, KEY_MAX>, SnapshotError> {
    let mut key = Vec::new();
    let sized = key.resize(usize::from(len), 0);
    sized.map_err(|_| SnapshotError::Content)?;
    from.take(&mut key)?;
    Ok(key)
}

fn write_entry(out: &mut SnapshotWriter<'_>, entry: &Entry<'_>) -> Result<(), SnapshotError> {
    // One write of the small fields, not four: a sink may do work for each.
    let mut head = [0; 13 + KEY_MAX];
    let mut writer = Writer::new(&mut head);
    writer
        .u64(entry.version)
        .u32(entry.value.len() as u32)
        .u8(entry.key.len() as u8)
        .put(entry.key);
    let len = writer.finish().ok_or(Damaged)?;
    out.put(head.get(..len).unwrap_or_default())?;
    out.put(entry.value)
}

#[cfg(test)]
mod tests;
