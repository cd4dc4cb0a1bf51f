//! The slot: what a segment file says about which bytes may be believed.

use super::sector::{SECTOR, Sector, SectorError};
use crate::units::{ClusterId, Position, Term};

const MAGIC: [u8; 4] = *b"CrcS";
const HAS_CHAIN: u16 = 1;

/// Written under the same flush as the bytes below `intended`. Two of them alternate in each
/// segment file, each in a sector of its own; the newest `seq` over all files counts.
///
/// ```text
/// 16 cluster u64 | 24 confirmed i64 | 32 intended i64 | 40 joined i32 | 44 chain u32
/// 48 segment length u32 | 56 segment i64
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Slot {
    /// Grows by one with every slot.
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
}

impl Slot {
    /// The version of the log format that this code writes, and the newest it reads.
    pub const VERSION: u16 = 1;
    /// How many bytes of its sector a slot takes: what follows is zeros, but for the sum in the
    /// last four. So whoever has little room stores these and the sum.
    pub const LENGTH: usize = 64;

    /// Which of the two slots of its file this one is written to.
    pub const fn index(&self) -> usize {
        (self.seq & 1) as usize
    }

    /// The bytes of the slot's sector.
    pub fn encode(&self) -> [u8; SECTOR] {
        let flags = if self.chain.is_some() { HAS_CHAIN } else { 0 };
        let mut sector = Sector::new(MAGIC, Self::VERSION, flags, self.seq);
        sector.put(16, self.cluster.0.to_le_bytes());
        sector.put(24, self.confirmed.to_wire().to_le_bytes());
        sector.put(32, self.intended.to_wire().to_le_bytes());
        sector.put(40, self.joined.to_session_id().to_le_bytes());
        sector.put(44, self.chain.unwrap_or(0).to_le_bytes());
        sector.put(48, self.segment_length.to_le_bytes());
        sector.put(56, self.segment.to_wire().to_le_bytes());
        sector.seal()
    }

    /// The slot in the first `SECTOR` bytes.
    ///
    /// # Errors
    /// See [`SectorError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SectorError> {
        let sector = Sector::open(bytes, MAGIC, Self::VERSION)?;
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
        };
        let sector = slot.encode();
        let zeros = sector.get(Slot::LENGTH..SECTOR - 4).unwrap();
        assert!(zeros.iter().all(|byte| *byte == 0));
        assert_ne!(sector[Slot::LENGTH - 1..Slot::LENGTH], [0]);
    }
}
