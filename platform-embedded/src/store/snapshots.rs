//! Snapshots on a device: two places that are written in turn, so that one sound set is always
//! there.
//!
//! A set begins with its place struck off the record, so that what is erased next does not count
//! any more, and counts again when the record says so, after all of it is durable. A power cut in
//! between leaves the other one. A set that comes from the leader is begun anew after a restart.

use coracle_core::log::Seed;
use coracle_core::node::SnapshotId;
use coracle_core::snapshot::{
    BEGIN_LENGTH, Begin, END_LENGTH, End, Section, SnapshotSink, SnapshotSource, Verifier,
};
use coracle_core::units::{ClusterId, Position, ServiceId, Term};
use embedded_io::{ErrorKind, ErrorType, Read, Write};

use super::layout::Part;
use super::ring::Entry;
use super::{PIECE, Store, StoreError};
use crate::device::Storage;
use crate::nor::GRANULE;

/// What stands for one service at the end of the cluster's own section: length and digest.
const SERVICE_END: u64 = 16;

/// A complete snapshot that was read and is sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Set {
    place: usize,
    pub position: Position,
    term: Term,
    chain: u32,
    digest: u64,
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

fn service() -> Option<Section> {
    ServiceId::new(0).map(Section::Service)
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
    /// Whether there is room for snapshots at all.
    pub fn takes_snapshots(&self) -> bool {
        self.map.snapshot_units > 0
    }

    /// The position of the set that is being taken here, if one is.
    pub fn taking(&self) -> Option<Position> {
        let draft = self.draft.as_ref()?;
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
        self.draft = None;
    }

    /// Where a set goes that was begun.
    pub fn sink(&mut self) -> Option<Sink<'_, S>> {
        self.draft.is_some().then_some(Sink {
            store: self,
            index: 0,
            failed: None,
        })
    }

    /// All of the set is written: it is durable, and counts, when this returns. False if nothing
    /// was begun, or it is not sound: then it does not.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn finish_snapshot(&mut self, cluster: ClusterId) -> Result<bool, StoreError<S::Error>> {
        if !self.write_rests()? {
            return Ok(false);
        }
        let Some(draft) = self.draft.take() else {
            return Ok(false);
        };
        self.flush()?;
        let [own, service] = &draft.sheets;
        let entry = Entry {
            position: draft.position,
            lengths: [own.len, service.len],
        };
        // What was written may not be what was meant: flash wears out.
        let Some(set) = self.verify(draft.place, entry, cluster)? else {
            return Ok(false);
        };
        if draft.digest.is_some_and(|digest| digest != set.digest) {
            return Ok(false);
        }
        if let Some(place) = self.root.snapshots.get_mut(draft.place) {
            *place = Some(entry);
        }
        self.write_root()?;
        self.flush()?;
        self.newest = Some(set);
        Ok(true)
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
        if !self.draft.as_ref().is_some_and(is_same) {
            self.open_draft(id.position, Some(id.digest))?;
        }
        let Some(draft) = &mut self.draft else {
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

    fn source_of(&mut self, place: usize, entry: Entry) -> Source<'_, S> {
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
                match self.verify(place, entry, cluster) {
                    Ok(read) => newest = read.or(newest),
                    Err(error) => failed = Some(error),
                }
            }
        }
        (newest, failed)
    }

    /// Reads a whole set. `None` if it is not sound.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    fn verify(
        &mut self,
        place: usize,
        entry: Entry,
        cluster: ClusterId,
    ) -> Result<Option<Set>, StoreError<S::Error>> {
        let mut scratch = [0; PIECE];
        let mut source = self.source_of(place, entry);
        let mut run = |section: Section| {
            let (bytes, length) = source.open(section)?;
            let at = Some(entry.position);
            Verifier::run(bytes, length, cluster, section, at, &mut scratch).ok()
        };
        let own = run(Section::Consensus);
        let service = own.as_ref().and_then(|_| service()).and_then(run);
        let (Some(own), Some(service)) = (own, service) else {
            return source.failed().map(|()| None);
        };
        // The set is sound as a whole if the first section ends with what the other ends with.
        let [length, _] = entry.lengths;
        let mut end = [0; SERVICE_END as usize];
        let at = u64::from(length).saturating_sub(END_LENGTH as u64 + SERVICE_END);
        let base = source.bases[0] + at.max(BEGIN_LENGTH as u64);
        source
            .device
            .read(base, &mut end)
            .map_err(StoreError::Device)?;
        let (length, digest) = end.split_at(8);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let stated = End {
            length: number(length),
            digest: number(digest),
        };
        let Begin { term, chain, .. } = own.begin;
        Ok((stated == service.end).then_some(Set {
            place,
            position: entry.position,
            term,
            chain,
            digest: own.end.digest,
        }))
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
        self.draft = Some(Draft {
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
            let Some(sheet) = self.draft.as_mut().and_then(|d| d.sheets.get_mut(index)) else {
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
        let Some(draft) = &mut self.draft else {
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
        if let Some(draft) = &mut self.draft
            && let Some(sheet) = draft.sheets.get_mut(index)
        {
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
        while let Some(sheet) = self.draft.as_mut().and_then(|d| d.sheets.get_mut(index)) {
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
