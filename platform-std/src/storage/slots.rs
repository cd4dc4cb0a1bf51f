//! Where slots are in a file: two places at its start, and others beside the data, to which the
//! newest of these leads. Why, and what keeps each from being written over too soon: core's
//! `log/beside.rs`.

use coracle_core::limits::FRAME_ALIGNMENT;
use coracle_core::log::{SECTOR, SectorError, Slot};

use super::error::StorageError;
use super::segment::{BLOCK, Segment};
use super::state::sector_error;

/// The newest slot of a log, of whose files one after the other is looked at.
#[derive(Debug, Default)]
pub(super) struct Newest {
    head: Option<Slot>,
    /// In which file that is.
    file: Option<Segment>,
}

impl Newest {
    /// Looks at the two at a file's start.
    ///
    /// # Errors
    /// One of a newer version, or any error of the system, with the file's path.
    pub(super) fn look(&mut self, segment: Segment) -> Result<(), StorageError> {
        let before = self.head;
        for bytes in segment.read_slots()? {
            self.head = segment.newer(self.head, Slot::decode(&bytes))?;
        }
        if self.head != before {
            self.file = Some(segment);
        }
        Ok(())
    }

    /// The newest of those, or what it leads to.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub(super) fn found(self) -> Result<Option<Slot>, StorageError> {
        let (Some(lead), Some(segment)) = (self.head, self.file) else {
            return Ok(None);
        };
        let label = segment.label();
        let is_here = lead.segment.get() == label.base;
        let is_as_long = lead.segment_length == label.segment_length;
        let pair = lead.beside().filter(|_| is_here && is_as_long);
        let mut newest = Some(lead);
        for at in pair.into_iter().flatten() {
            let mut bytes = [0; SECTOR];
            segment.read_data(at, &mut bytes)?;
            newest = segment.newer(newest, Slot::decode_beside(&bytes, &lead))?;
        }
        Ok(newest)
    }
}

impl Segment {
    /// Writes a slot to its place, and nothing else.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn write_slot(&self, slot: &Slot) -> Result<(), StorageError> {
        match beside(slot) {
            Some(at) => self.write_data(at, &slot.encode()),
            None => self.write((slot.index() * SECTOR) as u64, &slot.encode()),
        }
    }

    /// The same of a new one. If it is the first one in its block, that is zeros otherwise: so the
    /// system has not to read it. Nobody needs what was there.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn write_new_slot(&self, slot: &Slot) -> Result<(), StorageError> {
        let Some(at) = beside(slot).filter(|_| slot.is_first_beside()) else {
            return self.write_slot(slot);
        };
        let start = at / BLOCK * BLOCK;
        let mut block = [0; BLOCK as usize];
        block[(at - start) as usize..][..SECTOR].copy_from_slice(&slot.encode());
        self.write_data(start, &block)
    }

    /// Whether nothing was ever written to it as part of a log: every write comes with a slot, and
    /// the first one with the file's first frame.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn is_unused(&self) -> Result<bool, StorageError> {
        let mut first = [0; FRAME_ALIGNMENT];
        self.read_data(0, &mut first)?;
        let slots = self.read_slots()?;
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        Ok(is_zero(&first) && slots.iter().all(|slot| is_zero(slot)))
    }

    /// The two at its start.
    fn read_slots(&self) -> Result<[[u8; SECTOR]; 2], StorageError> {
        let mut slots = [[0; SECTOR]; 2];
        self.read(0, slots.as_flattened_mut())?;
        Ok(slots)
    }

    fn newer(
        &self,
        best: Option<Slot>,
        next: Result<Slot, SectorError>,
    ) -> Result<Option<Slot>, StorageError> {
        let refused = |error| sector_error(self.path().to_path_buf(), error, Slot::VERSION);
        Slot::newest(best, next).map_err(refused)
    }
}

/// Where it is behind the segment's base, if it is beside the data.
fn beside(slot: &Slot) -> Option<u64> {
    let pair = slot.beside().filter(|_| slot.is_beside());
    pair.map(|pair| pair[slot.index()])
}

#[cfg(test)]
mod tests {
    use coracle_core::log::SlotPlace;
    use coracle_core::units::{ClusterId, Position, Term};

    use super::super::label::Label;
    use super::super::segment::{Fill, HEADER_LENGTH};
    use super::super::testing::{Scratch, lose_block};
    use super::super::unreadable::is_unreadable;
    use super::*;

    const LENGTH: u32 = 64 << 10;

    /// Of a group of so many bytes behind `from`.
    fn slot(seq: u64, from: u64, len: u64, place: SlotPlace) -> Slot {
        Slot {
            seq,
            cluster: ClusterId(7),
            joined: Term::new(1),
            confirmed: Position::new(from),
            intended: Position::new(from + len),
            chain: None,
            segment_length: LENGTH,
            segment: Position::ZERO,
            place,
        }
    }

    /// What is behind `lead`.
    fn led(lead: &Slot, behind: u8) -> Slot {
        let bytes = lead.encode();
        let sum = bytes.last_chunk().copied().map(u32::from_le_bytes);
        let place = SlotPlace::Beside {
            behind,
            sum: sum.unwrap(),
        };
        let from = lead.intended.get() + 64 * u64::from(behind - 1);
        slot(lead.seq + u64::from(behind), from, 64, place)
    }

    fn used(scratch: &Scratch) -> Segment {
        let label = Label::starting_at(0, 7, LENGTH);
        let segment = Segment::create(scratch.path(), label, Fill::Reserved).unwrap();
        segment.write_data(0, &vec![0xEE; LENGTH as usize]).unwrap();
        segment
    }

    fn newest(segment: &Segment) -> Result<Option<Slot>, StorageError> {
        let mut newest = Newest::default();
        newest.look(Segment::open(segment.path(), false)?)?;
        newest.found()
    }

    #[test]
    fn the_newest_is_found_wherever_it_is() {
        let scratch = Scratch::new("slots");
        let segment = used(&scratch);
        let newest = || newest(&segment).unwrap();
        assert_eq!(newest(), None);
        let lead = slot(4, 32, 64, SlotPlace::Lead);
        segment.write_new_slot(&lead).unwrap();
        assert_eq!(newest(), Some(lead));
        for behind in 1..=5 {
            let slot = led(&lead, behind);
            segment.write_new_slot(&slot).unwrap();
            assert_eq!(newest(), Some(slot));
        }
        // All else in that block is zeros since the first one, and the next one is as it was.
        let mut bytes = [0; 3 * BLOCK as usize];
        segment.read_data(0, &mut bytes).unwrap();
        let (first, rest) = bytes.split_at(BLOCK as usize);
        assert!(first.iter().all(|byte| *byte == 0xEE));
        assert!(rest[..3072].iter().all(|byte| *byte == 0));
        assert!(rest[4096..].iter().all(|byte| *byte == 0xEE));
        // Torn, it is not; the one before it is in the other sector.
        segment.write_data(BLOCK + 3072 + 512 + 20, &[1]).unwrap();
        assert_eq!(newest(), Some(led(&lead, 4)));
        // Written again, it takes nothing with it.
        segment.write_data(BLOCK, &[1]).unwrap();
        segment.write_slot(&led(&lead, 1)).unwrap();
        segment.read_data(BLOCK, &mut bytes[..1]).unwrap();
        assert_eq!(bytes[0], 1);
        // The next one at the start leads elsewhere.
        let next = slot(11, 352, 4000, SlotPlace::Lead);
        segment.write_new_slot(&next).unwrap();
        assert_eq!(newest(), Some(next));
        assert_eq!(Newest::default().found().unwrap(), None);
    }

    /// It may say what was acknowledged. What an older one leads to says nothing any more: there
    /// are frames now, which are healed.
    #[test]
    fn where_the_newest_one_leads_must_be_readable_and_nothing_else() {
        let scratch = Scratch::new("slots-unreadable");
        let segment = used(&scratch);
        let lead = slot(1, 32, 64, SlotPlace::Lead);
        segment.write_slot(&lead).unwrap();
        let lose = |n: u64| lose_block(segment.path(), HEADER_LENGTH + n * BLOCK);
        lose(2);
        assert_eq!(newest(&segment).unwrap(), Some(lead));
        lose(1);
        let error = newest(&segment).unwrap_err();
        assert!(is_unreadable(&error), "{error}");
        let next = slot(2, 96, 3 * BLOCK, SlotPlace::Lead);
        segment.write_slot(&next).unwrap();
        // Behind a long group there is none: not even block 4 is read.
        lose(4);
        assert_eq!(newest(&segment).unwrap(), Some(next));
        // Nor behind a log at rest.
        let rest = slot(3, 96 + 3 * BLOCK, 0, SlotPlace::Lead);
        segment.write_slot(&rest).unwrap();
        assert_eq!(newest(&segment).unwrap(), Some(rest));
    }
}
