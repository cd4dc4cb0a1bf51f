//! Snapshots on a device: two places that are written in turn, so that one sound set is always
//! there.
//!
//! A set begins with its place struck off the record, so that what is erased next does not count
//! any more, and counts again when the record says so, after all of it is durable. A power cut in
//! between leaves the other one. A set that comes from the leader is begun anew after a restart.

use coracle_core::log::Seed;
use coracle_core::node::SnapshotId;
use coracle_core::snapshot::{Section, SnapshotSink, SnapshotSource};
use coracle_core::units::{ClusterId, Position, Term};
use embedded_io::{ErrorKind, ErrorType, Read, Write};

use super::check::{CHECKED_AT_ONCE, Check, Checked};
use super::layout::Part;
use super::ring::Entry;
use super::{Store, StoreError};
use crate::device::Storage;
use crate::nor::GRANULE;

/// A complete snapshot that was read and is sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Set {
    pub place: usize,
    pub position: Position,
    pub term: Term,
    pub chain: u32,
    pub digest: u64,
}

/// How far a set is that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Finish {
    /// It is being read back: call again.
    More,
    /// It is durable and sound, and counts.
    Stored,
    /// Nothing was begun, or what was is not sound: it does not count.
    Unsound,
}

impl Set {
    pub fn seed(&self) -> Seed {
        Seed {
            position: self.position,
            chain: Some(self.chain),
            term: self.term,
        }
    }
}

/// The cluster's own section, or that of the service; others do not exist here.
fn index(section: Section) -> Option<usize> {
    match section {
        Section::Consensus => Some(0),
        Section::Service(service) => (service.slot() == 0).then_some(1),
    }
}

/// A set that is being written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Draft {
    place: usize,
    position: Position,
    /// Of a set that the leader sends.
    digest: Option<u64>,
    sheets: [Sheet; 2],
}

/// How far a set is that is not there yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Begun {
    /// There is none.
    Nothing,
    /// It is being written.
    Draft(Draft),
    /// It is written, and being read back; with its digest, if it was received.
    Written(Check, Option<u64>),
}

/// A section as it grows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sheet {
    base: u64,
    room: u32,
    len: u32,
    /// So far all is erased, or written.
    opened: u32,
    /// The last bytes, which do not fill a granule.
    rest: [u8; GRANULE],
}

impl Sheet {
    const fn new((base, room): (u64, u32)) -> Self {
        Self {
            base,
            room,
            len: 0,
            opened: 0,
            rest: [0xff; GRANULE],
        }
    }
}

impl<S: Storage> Store<S> {
    fn draft(&self) -> Option<&Draft> {
        match &self.begun {
            Begun::Draft(draft) => Some(draft),
            _ => None,
        }
    }

    fn sheet(&mut self, index: usize) -> Option<&mut Sheet> {
        match &mut self.begun {
            Begun::Draft(draft) => draft.sheets.get_mut(index),
            _ => None,
        }
    }

    /// Whether there is room for snapshots at all.
    pub fn takes_snapshots(&self) -> bool {
        self.map.snapshot_units > 0
    }

    /// The position of the set that is being taken here, if one is.
    pub fn taking(&self) -> Option<Position> {
        let draft = self.draft()?;
        draft.digest.is_none().then_some(draft.position)
    }

    /// Begins a set, in the place of the one before the newest. Whatever was begun is given up.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn begin_snapshot(&mut self, position: Position) -> Result<(), StoreError<S::Error>> {
        self.open_draft(position, None)
    }

    /// Gives up what was begun.
    pub fn abandon_snapshot(&mut self) {
        self.begun = Begun::Nothing;
    }

    /// Where a set goes that was begun.
    pub fn sink(&mut self) -> Option<Sink<'_, S>> {
        self.draft().is_some().then_some(Sink {
            store: self,
            index: 0,
            failed: None,
        })
    }

    /// All of the set is written: it is made durable, read back in pieces, a call each, and then
    /// counts. Until it does, it is as if it had not been begun. Called again until it says
    /// something else than [`Finish::More`]. Work: [`CHECKED_AT_ONCE`].
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn finish_snapshot(&mut self, cluster: ClusterId) -> Result<Finish, StoreError<S::Error>> {
        let begun = core::mem::replace(&mut self.begun, Begun::Nothing);
        let (mut check, digest) = match begun {
            Begun::Nothing => return Ok(Finish::Unsound),
            Begun::Written(check, digest) => (check, digest),
            Begun::Draft(draft) => {
                self.begun = Begun::Draft(draft);
                return self.begin_check(cluster);
            }
        };
        let checked = self.check_on(&mut check, CHECKED_AT_ONCE)?;
        let Checked::Done(set) = checked else {
            self.begun = Begun::Written(check, digest);
            return Ok(Finish::More);
        };
        let is_meant = |set: &Set| digest.is_none_or(|digest| digest == set.digest);
        let Some(set) = set.filter(is_meant) else {
            return Ok(Finish::Unsound);
        };
        if let Some(place) = self.root.snapshots.get_mut(set.place) {
            *place = Some(check.entry());
        }
        self.write_root()?;
        self.flush()?;
        self.newest = Some(set);
        Ok(Finish::Stored)
    }

    /// What is begun is durable, and what is there is read next.
    fn begin_check(&mut self, cluster: ClusterId) -> Result<Finish, StoreError<S::Error>> {
        if !self.write_rests()? {
            return Ok(Finish::Unsound);
        }
        self.flush()?;
        let Some(draft) = self.draft() else {
            return Ok(Finish::Unsound);
        };
        let [own, service] = &draft.sheets;
        let entry = Entry {
            position: draft.position,
            lengths: [own.len, service.len],
        };
        let check = Check::new(draft.place, entry, cluster);
        self.begun = Begun::Written(check, draft.digest);
        Ok(Finish::More)
    }

    /// Stores a piece of a set that the leader sends. False if it cannot be.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn receive_snapshot(
        &mut self,
        id: SnapshotId,
        section: Section,
        offset: u64,
        bytes: &[u8],
    ) -> Result<bool, StoreError<S::Error>> {
        let Some(index) = index(section).filter(|_| self.takes_snapshots()) else {
            return Ok(false);
        };
        let is_same =
            |draft: &Draft| draft.digest == Some(id.digest) && draft.position == id.position;
        if !self.draft().is_some_and(is_same) {
            self.open_draft(id.position, Some(id.digest))?;
        }
        let Begun::Draft(draft) = &mut self.begun else {
            return Ok(false);
        };
        let sections = self.map.sections(draft.place);
        if let (Some(sheet), Some(place), 0) =
            (draft.sheets.get_mut(index), sections.get(index), offset)
        {
            *sheet = Sheet::new(*place);
        }
        let stored = draft.sheets.get(index).map(|sheet| u64::from(sheet.len));
        if stored != Some(offset) {
            return Ok(false);
        }
        let mut left = bytes;
        while !left.is_empty() {
            let Ok(len) = self.write_section(index, left)? else {
                return Ok(false);
            };
            left = left.get(len..).unwrap_or_default();
        }
        Ok(true)
    }

    /// Reads bytes of a complete set; fewer than asked for where its section ends. `None` if it is
    /// not here any more.
    ///
    /// # Errors
    /// The device's own.
    pub fn read_snapshot(
        &mut self,
        position: Position,
        section: Section,
        at: u64,
        into: &mut [u8],
    ) -> Result<Option<usize>, S::Error> {
        let mut places = self.root.snapshots.iter().enumerate();
        let found = places.find_map(|(place, entry)| {
            let entry = entry.filter(|entry| entry.position == position)?;
            let index = index(section)?;
            let (base, _) = self.map.sections(place).get(index).copied()?;
            Some((base, u64::from(entry.lengths.get(index).copied()?)))
        });
        let Some((base, length)) = found.filter(|(_, length)| at <= *length) else {
            return Ok(None);
        };
        let len = (length - at).min(into.len() as u64) as usize;
        if let Some(into) = into.get_mut(..len) {
            self.device.read(base + at, into)?;
        }
        Ok(Some(len))
    }

    /// Where the newest sound set is read from; `None` if there is none.
    pub fn source(&mut self) -> Option<Source<'_, S>> {
        let set = self.newest?;
        let entry = self.root.snapshots.get(set.place).copied().flatten()?;
        Some(self.source_of(set.place, entry))
    }

    pub(super) fn source_of(&mut self, place: usize, entry: Entry) -> Source<'_, S> {
        let bases = self.map.sections(place).map(|(base, _)| base);
        Source {
            device: &mut self.device,
            bases,
            lengths: entry.lengths,
            at: 0,
            end: 0,
            failed: None,
        }
    }

    /// The newest set that is sound. Where the device fails in one, the other one is to be had, if
    /// it does; what has failed is said for the case that it does not.
    pub(super) fn find_newest(
        &mut self,
        cluster: ClusterId,
    ) -> (Option<Set>, Option<StoreError<S::Error>>) {
        let (mut newest, mut failed): (Option<Set>, _) = (None, None);
        for (place, entry) in self.root.snapshots.into_iter().enumerate() {
            let Some(entry) = entry else {
                continue;
            };
            if newest.is_none_or(|set| set.position < entry.position) {
                match self.verify(Check::new(place, entry, cluster)) {
                    Ok(read) => newest = read.or(newest),
                    Err(error) => failed = Some(error),
                }
            }
        }
        (newest, failed)
    }

    fn open_draft(
        &mut self,
        position: Position,
        digest: Option<u64>,
    ) -> Result<(), StoreError<S::Error>> {
        let place = self.newest.map_or(0, |set| 1 - set.place.min(1));
        if let Some(entry) = self.root.snapshots.get_mut(place)
            && entry.take().is_some()
        {
            self.write_root()?;
            self.flush()?;
        }
        self.begun = Begun::Draft(Draft {
            place,
            position,
            digest,
            sheets: self.map.sections(place).map(Sheet::new),
        });
        Ok(())
    }

    /// Writes what does not fill a granule; false if there is nothing begun.
    fn write_rests(&mut self) -> Result<bool, StoreError<S::Error>> {
        for index in 0..2 {
            let Some(sheet) = self.sheet(index) else {
                return Ok(false);
            };
            let used = sheet.len as usize % GRANULE;
            if used > 0 {
                sheet
                    .rest
                    .iter_mut()
                    .skip(used)
                    .for_each(|byte| *byte = 0xff);
                let (at, rest) = (sheet.len - used as u32, sheet.rest);
                self.put_sheet(index, at, &rest)?;
            }
        }
        Ok(true)
    }

    /// Writes the next bytes of a section, as many as go at once; or says why it takes none.
    fn write_section(
        &mut self,
        index: usize,
        bytes: &[u8],
    ) -> Result<Result<usize, ErrorKind>, StoreError<S::Error>> {
        let Begun::Draft(draft) = &mut self.begun else {
            return Ok(Err(ErrorKind::Other));
        };
        let Some(sheet) = draft.sheets.get_mut(index) else {
            return Ok(Err(ErrorKind::Unsupported));
        };
        let (at, used) = (sheet.len, sheet.len as usize % GRANULE);
        if bytes.len() > (sheet.room - sheet.len) as usize {
            return Ok(Err(ErrorKind::OutOfMemory));
        }
        let (len, whole) = if used == 0 && bytes.len() >= GRANULE {
            let len = bytes.len() - bytes.len() % GRANULE;
            (len, bytes.get(..len).map(|bytes| (at, bytes)))
        } else {
            let len = bytes.len().min(GRANULE - used);
            let room = sheet.rest.get_mut(used..used + len).unwrap_or_default();
            room.copy_from_slice(bytes.get(..len).unwrap_or_default());
            (len, None)
        };
        let rest = sheet.rest;
        let whole = match whole {
            None if used + len == GRANULE => Some((at - used as u32, &rest[..])),
            whole => whole,
        };
        if let Some((at, bytes)) = whole {
            self.put_sheet(index, at, bytes)?;
        }
        if let Some(sheet) = self.sheet(index) {
            sheet.len += len as u32;
        }
        Ok(Ok(len))
    }

    /// Writes granules of a section, and erases what they come to.
    fn put_sheet(
        &mut self,
        index: usize,
        at: u32,
        bytes: &[u8],
    ) -> Result<(), StoreError<S::Error>> {
        let unit = self.map.unit;
        while let Some(sheet) = self.sheet(index) {
            let (base, opened) = (sheet.base, sheet.opened);
            if u64::from(opened) >= u64::from(at) + bytes.len() as u64 {
                return self.write(base + u64::from(at), bytes);
            }
            sheet.opened += unit;
            self.erase(Part::Snapshots, base + u64::from(opened))?;
        }
        Ok(())
    }
}

/// Where a set is written to.
pub struct Sink<'a, S: Storage> {
    store: &'a mut Store<S>,
    index: usize,
    failed: Option<StoreError<S::Error>>,
}

impl<S: Storage> Sink<'_, S> {
    /// To be asked when all was written that is now: who writes is only told that it failed.
    ///
    /// # Errors
    /// The device has failed: then the node must stop, as for every other write.
    pub fn failed(self) -> Result<(), StoreError<S::Error>> {
        self.failed.map_or(Ok(()), Err)
    }
}

impl<S: Storage> SnapshotSink for Sink<'_, S> {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        // Of services there is one: whatever else there was would be refused for want of room.
        self.index = index(section).unwrap_or(usize::MAX);
        self
    }
}

impl<S: Storage> ErrorType for Sink<'_, S> {
    type Error = ErrorKind;
}

impl<S: Storage> Write for Sink<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        if self.failed.is_some() {
            return Err(ErrorKind::Other);
        }
        let written = self.store.write_section(self.index, bytes);
        written.unwrap_or_else(|error| {
            self.failed = Some(error);
            Err(ErrorKind::Other)
        })
    }

    /// Nothing is flushed before the set is complete.
    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// Where a set is read from.
pub struct Source<'a, S: Storage> {
    device: &'a mut S,
    bases: [u64; 2],
    lengths: [u32; 2],
    at: u64,
    end: u64,
    failed: Option<S::Error>,
}

impl<S: Storage> Source<'_, S> {
    /// To be asked when all was read: who reads is only told that it failed.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn failed(self) -> Result<(), StoreError<S::Error>> {
        self.failed.map_or(Ok(()), |e| Err(StoreError::Device(e)))
    }

    /// A section from so many bytes before its end on.
    pub(super) fn open_at_end(
        &mut self,
        section: Section,
        left: u64,
    ) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        let (_, length) = self.open(section)?;
        self.at = self.end.saturating_sub(left.min(length));
        Some((self, length))
    }
}

impl<S: Storage> SnapshotSource for Source<'_, S> {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        let index = index(section)?;
        let length = u64::from(self.lengths.get(index).copied()?);
        self.at = self.bases.get(index).copied()?;
        self.end = self.at + length;
        Some((self, length))
    }
}

impl<S: Storage> ErrorType for Source<'_, S> {
    type Error = ErrorKind;
}

impl<S: Storage> Read for Source<'_, S> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        let len = (self.end - self.at).min(into.len() as u64) as usize;
        let into = into.get_mut(..len).unwrap_or_default();
        if let Err(error) = self.device.read(self.at, into) {
            self.failed = Some(error);
            return Err(ErrorKind::Other);
        }
        self.at += len as u64;
        Ok(len)
    }
}
