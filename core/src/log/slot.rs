//! The slot: what a segment file says about which bytes may be believed.

use super::sector::{SECTOR, Sector, SectorError};
use crate::limits::FRAME_ALIGNMENT;
use crate::units::{ClusterId, Position, Term};

const MAGIC: [u8; 4] = *b"CrcS";
const HAS_CHAIN: u16 = 1;
/// What a slot that leads no others is written as.
const VERSION_ALONE: u16 = 1;
/// What file systems keep, and write, as one, in bytes.
pub(super) const BLOCK: u64 = 4096;
/// Where in its block a pair of slots beside the data is: at its end, so that the log reaches them
/// as late as may be.
const PAIR: u64 = BLOCK - 2 * SECTOR as u64;
/// More groups than this do not end in one block.
pub(super) const BESIDE_MAX: u64 = BLOCK / FRAME_ALIGNMENT as u64;

/// Where a slot is in its segment's file: see `beside` for why, and when.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SlotPlace {
    /// In one of two places of its own: which, [`Slot::index`] says.
    Head,
    /// There as well; and newer ones may be beside the data, in one of the two sectors that
    /// [`Slot::beside`] says.
    Lead,
    /// In one of those sectors: which, [`Slot::index`] says again.
    Beside {
        /// By how much its number is above that of the one that leads here.
        behind: u8,
        /// The checksum of that one. It is part of this one's: so what else has ever been there,
        /// whoever wrote it, is not taken for it.
        sum: u32,
    },
}

/// Written under the same flush as the bytes below `intended`. Two of them alternate in each
/// segment file, each in a sector of its own, and others may be beside the data; the newest `seq`
/// over all files counts.
///
/// ```text
/// 16 cluster u64 | 24 confirmed i64 | 32 intended i64 | 40 joined i32 | 44 chain u32
/// 48 segment length u32 | 56 segment i64
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Slot {
    /// Grows with every slot.
    pub seq: u64,
    /// The cluster whose log this is.
    pub cluster: ClusterId,
    /// The last leadership term that the member had joined.
    pub joined: Term,
    /// Every byte below was durable before this slot was written.
    pub confirmed: Position,
    /// Every byte below is durable if the flush that wrote this slot returned.
    pub intended: Position,
    /// The chain of the last frame below `confirmed`; `None` if it was not known.
    pub chain: Option<u32>,
    /// The segment length of the log.
    pub segment_length: u32,
    /// The base of the segment in whose file this slot is.
    pub segment: Position,
    /// Where in that file.
    pub place: SlotPlace,
}

impl Slot {
    /// The newest version of the log format that this code writes, and reads. (A slot that leads
    /// to none beside the data is of the first.)
    pub const VERSION: u16 = 2;
    /// How many bytes of its sector a slot takes: what follows is zeros, but for the sum in the
    /// last four. So whoever has little room stores these and the sum.
    pub const LENGTH: usize = 64;

    /// Which of the two of its place this one is written to.
    pub const fn index(&self) -> usize {
        (self.seq & 1) as usize
    }

    /// Where slots beside the data are, once the log ends where this one says: two sectors, given
    /// by how many bytes behind the segment's base they are. `None` if there is no room for them,
    /// or this one leads to none: so that of a long group, and of none; nor the first one in its
    /// file, so that there are two at its start before any is elsewhere.
    pub fn beside(&self) -> Option<[u64; 2]> {
        let is_short = (1..BLOCK).contains(&self.intended.since(self.confirmed));
        if self.place == SlotPlace::Head || !is_short || self.confirmed <= self.segment {
            return None;
        }
        let pair = pair_of(self.intended);
        let first = pair.get().checked_sub(self.segment.get())?;
        let end = first + 2 * SECTOR as u64;
        (end <= self.segment_length.into()).then_some([first, first + SECTOR as u64])
    }

    /// Whether it is one of those.
    pub const fn is_beside(&self) -> bool {
        matches!(self.place, SlotPlace::Beside { .. })
    }

    /// Whether it is the first one beside the data since the one that leads there: what else is in
    /// its block is of no use to anybody.
    pub const fn is_first_beside(&self) -> bool {
        matches!(self.place, SlotPlace::Beside { behind: 1, .. })
    }

    /// The bytes of the slot's sector.
    pub fn encode(&self) -> [u8; SECTOR] {
        let flags = if self.chain.is_some() { HAS_CHAIN } else { 0 };
        let (version, by) = match self.place {
            SlotPlace::Head => (VERSION_ALONE, 0),
            SlotPlace::Lead => (Self::VERSION, 0),
            SlotPlace::Beside { sum, .. } => (Self::VERSION, sum),
        };
        let mut sector = Sector::new(MAGIC, version, flags, self.seq);
        sector.put(16, self.cluster.0.to_le_bytes());
        sector.put(24, self.confirmed.to_wire().to_le_bytes());
        sector.put(32, self.intended.to_wire().to_le_bytes());
        sector.put(40, self.joined.to_session_id().to_le_bytes());
        sector.put(44, self.chain.unwrap_or(0).to_le_bytes());
        sector.put(48, self.segment_length.to_le_bytes());
        sector.put(56, self.segment.to_wire().to_le_bytes());
        sector.seal(by)
    }

    /// The slot in the first `SECTOR` bytes, which are one of its two own places.
    ///
    /// # Errors
    /// See [`SectorError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SectorError> {
        Self::read(&Sector::open(bytes, MAGIC, Self::VERSION, 0)?)
    }

    /// The slot in the first `SECTOR` bytes, which are one of the two places beside the data that
    /// `lead` says.
    ///
    /// # Errors
    /// See [`SectorError`]; a slot that `lead` does not lead to has a bad checksum.
    pub fn decode_beside(bytes: &[u8], lead: &Self) -> Result<Self, SectorError> {
        let sum = lead.sum();
        let mut slot = Self::read(&Sector::open(bytes, MAGIC, Self::VERSION, sum)?)?;
        let behind = slot.seq.wrapping_sub(lead.seq);
        let is_near = (1..=BESIDE_MAX).contains(&behind);
        let is_later = lead.intended <= slot.confirmed && slot.confirmed < slot.intended;
        let is_same = (slot.cluster, slot.joined) == (lead.cluster, lead.joined)
            && (slot.segment, slot.segment_length) == (lead.segment, lead.segment_length)
            && pair_of(slot.intended) == pair_of(lead.intended);
        let leads = lead.place == SlotPlace::Lead && lead.beside().is_some();
        if !leads || !is_near || !is_later || !is_same {
            return Err(SectorError::BadField);
        }
        let behind = behind as u8;
        slot.place = SlotPlace::Beside { behind, sum };
        Ok(slot)
    }

    /// The checksum of its sector.
    pub(super) fn sum(&self) -> u32 {
        Sector(self.encode()).sum()
    }

    fn read(sector: &Sector) -> Result<Self, SectorError> {
        let position = |at| Position::from_wire(sector.u64(at) as i64);
        let fields = (
            position(24),
            position(32),
            position(56),
            Term::from_session_id(sector.u32(40) as i32),
        );
        let (Some(confirmed), Some(intended), Some(segment), Some(joined)) = fields else {
            return Err(SectorError::BadField);
        };
        let is_in_order = confirmed <= intended && confirmed.is_aligned() && intended.is_aligned();
        let segment_length = sector.u32(48);
        if !is_in_order || !segment_length.is_power_of_two() {
            return Err(SectorError::BadField);
        }
        Ok(Self {
            seq: sector.seq(),
            cluster: ClusterId(sector.u64(16)),
            joined,
            confirmed,
            intended,
            chain: (sector.flags() & HAS_CHAIN != 0).then(|| sector.u32(44)),
            segment_length,
            segment,
            place: match sector.version() {
                VERSION_ALONE => SlotPlace::Head,
                _ => SlotPlace::Lead,
            },
        })
    }

    /// One step of finding the newest slot: the better of the best so far and the next one read. A
    /// sector that is blank, torn or rotten counts for nothing.
    ///
    /// # Errors
    /// [`SectorError::NewerVersion`]: this log must not be opened.
    pub fn newest(
        best: Option<Self>,
        next: Result<Self, SectorError>,
    ) -> Result<Option<Self>, SectorError> {
        match next {
            Ok(next) if best.is_none_or(|best| best.seq < next.seq) => Ok(Some(next)),
            Err(SectorError::NewerVersion(version)) => Err(SectorError::NewerVersion(version)),
            Ok(_) | Err(_) => Ok(best),
        }
    }
}

/// Where in the stream the two slots are beside the data of a log that ends at `end`: in the block
/// behind the one that its next byte is in.
pub(super) fn pair_of(end: Position) -> Position {
    let block = end.get() / BLOCK;
    Position::new(block * BLOCK).plus(BLOCK + PAIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_its_length_a_slot_is_zeros_and_a_sum() {
        let slot = Slot {
            seq: u64::MAX,
            cluster: ClusterId(u64::MAX),
            joined: Term::new(i32::MAX as u32),
            confirmed: Position::MAX,
            intended: Position::MAX,
            chain: Some(u32::MAX),
            segment_length: 1 << 30,
            segment: Position::MAX,
            place: SlotPlace::Head,
        };
        let sector = slot.encode();
        let zeros = sector.get(Slot::LENGTH..SECTOR - 4).unwrap();
        assert!(zeros.iter().all(|byte| *byte == 0));
        assert_ne!(sector[Slot::LENGTH - 1..Slot::LENGTH], [0]);
    }

    const LEAD: Slot = Slot {
        seq: 7,
        cluster: ClusterId(3),
        joined: Term::new(2),
        confirmed: Position::new(SEGMENT + 32),
        intended: Position::new(SEGMENT + 96),
        chain: Some(5),
        segment_length: SEGMENT as u32,
        segment: Position::new(SEGMENT),
        place: SlotPlace::Lead,
    };
    const SEGMENT: u64 = 1 << 16;

    fn led(lead: &Slot) -> Slot {
        Slot {
            seq: lead.seq + 1,
            confirmed: lead.intended,
            intended: lead.intended.plus(96),
            place: SlotPlace::Beside {
                behind: 1,
                sum: lead.sum(),
            },
            ..*lead
        }
    }

    /// A client may have sent anything, and anything may have been there before.
    #[test]
    fn only_what_its_lead_leads_to_is_a_slot_beside_the_data() {
        let slot = led(&LEAD);
        assert_eq!(Slot::decode_beside(&slot.encode(), &LEAD), Ok(slot));
        assert_eq!(
            Slot::decode(&slot.encode()),
            Err(SectorError::BadChecksum),
            "nor is it one at a file's start"
        );
        let later = Slot {
            confirmed: Position::new(SEGMENT + 64),
            ..LEAD
        };
        let of_another = Slot::decode_beside(&slot.encode(), &later);
        assert_eq!(of_another, Err(SectorError::BadChecksum));
        let alone = Slot {
            place: SlotPlace::Head,
            ..LEAD
        };
        let forged = Slot {
            place: SlotPlace::Beside {
                behind: 1,
                sum: alone.sum(),
            },
            ..slot
        };
        let refused = Err(SectorError::BadField);
        assert_eq!(Slot::decode_beside(&forged.encode(), &alone), refused);
        let changes: [fn(&mut Slot); 9] = [
            |slot| slot.seq = LEAD.seq,
            |slot| slot.seq = LEAD.seq + BESIDE_MAX + 1,
            |slot| slot.seq = LEAD.seq - 1,
            |slot| slot.cluster = ClusterId(4),
            |slot| slot.joined = Term::new(3),
            |slot| slot.confirmed = LEAD.intended.minus(32),
            |slot| slot.confirmed = slot.intended,
            |slot| slot.intended = Position::new(SEGMENT + BLOCK),
            |slot| slot.segment = Position::new(0),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut other = slot;
            change(&mut other);
            let read = Slot::decode_beside(&other.encode(), &LEAD);
            assert_eq!(read, refused, "{n}");
        }
    }

    #[test]
    fn where_the_segment_ends_there_is_no_room_beside_the_data() {
        let at = |end| {
            let intended = Position::new(SEGMENT + end);
            let confirmed = intended.minus(32);
            let slot = Slot {
                confirmed,
                intended,
                ..LEAD
            };
            slot.beside()
        };
        assert_eq!(at(96), Some([7168, 7680]));
        assert_eq!(at(4064), Some([7168, 7680]));
        assert_eq!(at(4096), Some([11_264, 11_776]));
        let last = SEGMENT - BLOCK;
        assert_eq!(at(last - 32), Some([SEGMENT - 1024, SEGMENT - 512]));
        assert_eq!((at(last), at(SEGMENT)), (None, None));
        let elsewhere = Slot {
            segment: Position::new(2 * SEGMENT),
            ..LEAD
        };
        assert_eq!(elsewhere.beside(), None);
    }

    #[test]
    fn neither_a_long_group_nor_none_nor_the_first_in_a_file_leads_on() {
        let of = |from: u64, len: u64| {
            let confirmed = Position::new(SEGMENT + from);
            let intended = confirmed.plus(len);
            let slot = Slot {
                confirmed,
                intended,
                ..LEAD
            };
            slot.beside()
        };
        assert!(of(32, 32).is_some() && of(32, BLOCK - 32).is_some());
        assert_eq!((of(32, BLOCK), of(32, 0), of(0, 96)), (None, None, None));
    }
}
