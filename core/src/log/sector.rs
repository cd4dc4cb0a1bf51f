//! What slots and node states have in common: 512 bytes, written whole or torn, never half
//! believed.
//!
//! ```text
//! 0 magic u32 | 4 version u16 | 6 flags u16 | 8 sequence u64 | 16 fields ... | 508 CRC-32C u32
//! ```
//! The checksum covers the first 508 bytes, in every version, so that a newer version is told from
//! damage.

use super::checksum::crc32c;

/// The unit that a device writes whole (and the least that it can spoil), in bytes.
pub const SECTOR: usize = 512;
const CHECKSUM: usize = SECTOR - 4;

/// Why a sector is not what was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SectorError {
    /// All zeros: never written.
    Blank,
    /// Fewer than `SECTOR` bytes.
    TooShort,
    /// Something else is here.
    BadMagic,
    /// Torn or rotten.
    BadChecksum,
    /// Written by a newer Coracle, in this version of the format: upgrade before opening it.
    NewerVersion(u16),
    /// The checksum holds, but a value is out of range.
    BadField,
    /// It speaks of this member, and this build has no room for it: it is of a larger cluster.
    /// Build with the feature `members-5` or `members-7`.
    NoRoomForMember(u8),
}

impl SectorError {
    /// Whether the sector is what was once written, and only this build cannot use it: then no
    /// older one may be taken in its place.
    pub const fn is_sound(self) -> bool {
        matches!(self, Self::NewerVersion(_) | Self::NoRoomForMember(_))
    }
}

/// A sector being written or read.
pub(super) struct Sector(pub [u8; SECTOR]);

impl Sector {
    pub fn new(magic: [u8; 4], version: u16, flags: u16, seq: u64) -> Self {
        let mut sector = Self([0; SECTOR]);
        sector.put(0, magic);
        sector.put(4, version.to_le_bytes());
        sector.put(6, flags.to_le_bytes());
        sector.put(8, seq.to_le_bytes());
        sector
    }

    pub fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    /// The whole sector. Its checksum is changed `by` what whoever opens it must know; zero: by
    /// nothing.
    pub fn seal(mut self, by: u32) -> [u8; SECTOR] {
        let checksum = crc32c(&self.0[..CHECKSUM]) ^ by;
        self.put(CHECKSUM, checksum.to_le_bytes());
        self.0
    }

    pub fn open(bytes: &[u8], magic: [u8; 4], version: u16, by: u32) -> Result<Self, SectorError> {
        let Some(bytes) = bytes.first_chunk::<SECTOR>() else {
            return Err(SectorError::TooShort);
        };
        if bytes.iter().all(|b| *b == 0) {
            return Err(SectorError::Blank);
        }
        let sector = Self(*bytes);
        if sector.get::<4>(0) != magic {
            return Err(SectorError::BadMagic);
        }
        if sector.sum() ^ by != crc32c(&bytes[..CHECKSUM]) {
            return Err(SectorError::BadChecksum);
        }
        let found = u16::from_le_bytes(sector.get(4));
        if found > version {
            return Err(SectorError::NewerVersion(found));
        }
        if found == 0 {
            return Err(SectorError::BadField);
        }
        Ok(sector)
    }

    /// The checksum that it has.
    pub fn sum(&self) -> u32 {
        self.u32(CHECKSUM)
    }

    pub fn version(&self) -> u16 {
        u16::from_le_bytes(self.get(4))
    }

    pub fn flags(&self) -> u16 {
        u16::from_le_bytes(self.get(6))
    }

    pub fn seq(&self) -> u64 {
        self.u64(8)
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }
}
