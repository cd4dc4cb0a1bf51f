//! A snapshot that was written is read back before it counts: flash wears out, and what was written
//! may not be what was meant. In pieces, so that its member goes on meanwhile.

use coracle_core::snapshot::{
    BEGIN_LENGTH, Begin, END_LENGTH, End, FormatError, Section, SnapshotError, SnapshotReader,
    SnapshotSource, Suspended,
};
use coracle_core::units::{ClusterId, ServiceId, Term};
use embedded_io::Read;

use super::ring::Entry;
use super::snapshots::{Set, Source};
use super::{PIECE, Store, StoreError};
use crate::device::Storage;

/// How many bytes of a set are read back in one call of `Store::finish_snapshot`, at most, beside
/// marks of less than 128 bytes.
pub const CHECKED_AT_ONCE: u32 = 4096;

/// What stands for one service at the end of the cluster's own section: length and digest.
const SERVICE_END: u64 = 16;

/// A set that is being read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Check {
    place: usize,
    entry: Entry,
    cluster: ClusterId,
    /// How far the present section was read.
    reading: Option<Suspended>,
    /// The cluster's own section is sound: its term, chain and digest. Then it is the service's.
    own: Option<(Term, u32, u64)>,
}

/// What reading on has come to.
pub(super) enum Checked {
    /// There is more.
    More,
    /// This is what it is; `None` if it is not sound.
    Done(Option<Set>),
}

impl Check {
    pub const fn new(place: usize, entry: Entry, cluster: ClusterId) -> Self {
        Self {
            place,
            entry,
            cluster,
            reading: None,
            own: None,
        }
    }

    pub const fn entry(&self) -> Entry {
        self.entry
    }

    fn section(&self) -> Option<Section> {
        match self.own {
            None => Some(Section::Consensus),
            Some(_) => ServiceId::new(0).map(Section::Service),
        }
    }

    /// Reads so many bytes more; gives the section's marks if they are its last.
    fn read_on<S: Storage>(
        &mut self,
        source: &mut Source<'_, S>,
        most: u32,
    ) -> Result<Option<(Begin, End)>, SnapshotError> {
        let section = self.section().ok_or(SnapshotError::Content)?;
        let opened = match &self.reading {
            None => source.open(section),
            Some(reading) => source.open_at_end(section, reading.left() + END_LENGTH as u64),
        };
        let (bytes, length) = opened.ok_or(SnapshotError::Missing(section))?;
        let mut reader = match self.reading.take() {
            None => SnapshotReader::new(bytes, length, self.cluster, section)?,
            Some(reading) => SnapshotReader::resume(bytes, reading),
        };
        let begin = *reader.begin();
        if begin.position != self.entry.position {
            return Err(FormatError::Foreign.into());
        }
        let mut scratch = [0; PIECE];
        for _ in 0..most as usize / PIECE {
            if reader.left() == 0 {
                break;
            }
            reader.read(&mut scratch)?;
        }
        if reader.left() > 0 {
            self.reading = Some(reader.suspend());
            return Ok(None);
        }
        let end = reader.finish()?;
        Ok(Some((begin, end)))
    }
}

impl<S: Storage> Store<S> {
    /// Reads a set on, by so many bytes and the marks of a section.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub(super) fn check_on(
        &mut self,
        check: &mut Check,
        most: u32,
    ) -> Result<Checked, StoreError<S::Error>> {
        let mut source = self.source_of(check.place, check.entry);
        let Ok(read) = check.read_on(&mut source, most) else {
            return source.failed().map(|()| Checked::Done(None));
        };
        let Some((begin, end)) = read else {
            return Ok(Checked::More);
        };
        let Some((term, chain, digest)) = check.own else {
            check.own = Some((begin.term, begin.chain, end.digest));
            return Ok(Checked::More);
        };
        // The set is sound as a whole if the first section ends with what the other ends with.
        let is_whole = self.stated_end(check)? == end;
        Ok(Checked::Done(is_whole.then_some(Set {
            place: check.place,
            position: check.entry.position,
            term,
            chain,
            digest,
        })))
    }

    /// What the cluster's own section says that the service's ends with.
    fn stated_end(&mut self, check: &Check) -> Result<End, StoreError<S::Error>> {
        let mut end = [0; SERVICE_END as usize];
        let [length, _] = check.entry.lengths;
        let at = u64::from(length).saturating_sub(END_LENGTH as u64 + SERVICE_END);
        let [(base, _), _] = self.map.sections(check.place);
        let read = self
            .device
            .read(base + at.max(BEGIN_LENGTH as u64), &mut end);
        read.map_err(StoreError::Device)?;
        let (length, digest) = end.split_at(8);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        Ok(End {
            length: number(length),
            digest: number(digest),
        })
    }

    /// Reads a whole set at once. `None` if it is not sound.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub(super) fn verify(&mut self, mut check: Check) -> Result<Option<Set>, StoreError<S::Error>> {
        loop {
            if let Checked::Done(set) = self.check_on(&mut check, u32::MAX)? {
                return Ok(set);
            }
        }
    }
}
