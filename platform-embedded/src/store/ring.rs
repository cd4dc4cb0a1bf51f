//! Records: what a flush says of the log, and what is where on the device.
//!
//! They are written one behind the other through a few units, and round again; the newest counts.
//! Every unit begins with a root, which has the newest slot in it, so that no other unit holds
//! anything that is missed when it is erased.
//!
//! ```text
//! 0 "CrcR" | 4 version u16 | 6 kind u8 | 7 zero | 8 sequence u64 | 16 fields | CRC-32C u32
//! slot, 96 bytes:  16 the first 64 bytes of core's sector, and its sum
//! root, 192 bytes: 16 unit u32, record units u32, snapshot units u32, segment length u32
//!                  32 log start u64 | 40 slots of this sequence and below count no more u64
//!                  48 unit that is replaced u32 (all ones: none), by which spare u32
//!                  56 two snapshots: position u64, lengths of both sections u32 (zeros: none)
//!                  88 erasures of each part, five u32; 112 the newest slot, as above (or zeros)
//! ```

use coracle_core::castagnoli::crc32c;
use coracle_core::log::{SECTOR, SectorError, Slot};
use coracle_core::units::Position;

use super::layout::PARTS;

/// What records are multiples of.
pub(super) const CELL: usize = 96;
/// The length of a root.
pub(super) const ROOT: usize = 2 * CELL;
const MAGIC: [u8; 4] = *b"CrcR";
const VERSION: u16 = 1;
const KIND_ROOT: u8 = 1;
const KIND_SLOT: u8 = 2;
const BODY: usize = 16;
/// Where a root has the newest slot.
const ROOT_SLOT: usize = 112;
/// All that a slot's sector has before its zeros. The format has no room for more.
const SLOT_HEAD: usize = 64;
const _: () = assert!(Slot::LENGTH == SLOT_HEAD && ROOT_SLOT + SLOT_HEAD + 4 <= ROOT - 4);
const NONE: u32 = u32::MAX;

/// A unit whose content is in a spare one until it is written again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Alias {
    /// Which unit of the device.
    pub unit: u32,
    pub spare: u32,
}

/// A complete snapshot: where its state is that of the log, and its sections' lengths.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Entry {
    pub position: Position,
    pub lengths: [u32; 2],
}

/// What is where on a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Root {
    pub unit: u32,
    pub ring_units: u32,
    pub snapshot_units: u32,
    pub segment_length: u32,
    /// Where the log starts.
    pub start: Position,
    /// Slots up to this record are of a log that is no more.
    pub floor: u64,
    pub alias: Option<Alias>,
    pub snapshots: [Option<Entry>; 2],
    pub erased: [u32; PARTS],
}

/// A record that was read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Record {
    /// With the newest slot.
    Root(Root, Option<Slot>),
    Slot(Slot),
}

struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Bytes<N> {
    fn new(kind: u8, seq: u64) -> Self {
        let mut bytes = Self([0; N]);
        bytes.put(0, &MAGIC);
        bytes.put(4, &VERSION.to_le_bytes());
        bytes.put(6, &[kind]);
        bytes.put(8, &seq.to_le_bytes());
        bytes
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(room) = self.0.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    fn slot(&mut self, at: usize, slot: &Slot) {
        let sector = slot.encode();
        let (head, rest) = sector.split_at(SLOT_HEAD);
        let (_zeros, sum) = rest.split_at(rest.len() - 4);
        self.put(at, head);
        self.put(at + SLOT_HEAD, sum);
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn seal(mut self) -> [u8; N] {
        let sum = crc32c(self.0.get(..N - 4).unwrap_or_default());
        self.u32(N - 4, sum);
        self.0
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// A slot as a record.
pub(super) fn encode_slot(seq: u64, slot: &Slot) -> [u8; CELL] {
    let mut bytes = Bytes::<CELL>::new(KIND_SLOT, seq);
    bytes.slot(BODY, slot);
    bytes.seal()
}

impl Root {
    pub fn encode(&self, seq: u64, slot: Option<&Slot>) -> [u8; ROOT] {
        let mut bytes = Bytes::<ROOT>::new(KIND_ROOT, seq);
        bytes.u32(16, self.unit);
        bytes.u32(20, self.ring_units);
        bytes.u32(24, self.snapshot_units);
        bytes.u32(28, self.segment_length);
        bytes.put(32, &self.start.get().to_le_bytes());
        bytes.put(40, &self.floor.to_le_bytes());
        bytes.u32(48, self.alias.map_or(NONE, |alias| alias.unit));
        bytes.u32(52, self.alias.map_or(0, |alias| alias.spare));
        for (n, entry) in self.snapshots.iter().enumerate() {
            let at = 56 + 16 * n;
            let position = entry.map_or(0, |entry| entry.position.get());
            let [own, service] = entry.map_or([0; 2], |entry| entry.lengths);
            bytes.put(at, &position.to_le_bytes());
            bytes.u32(at + 8, own);
            bytes.u32(at + 12, service);
        }
        for (n, erased) in self.erased.iter().enumerate() {
            bytes.u32(88 + 4 * n, *erased);
        }
        if let Some(slot) = slot {
            bytes.slot(ROOT_SLOT, slot);
        }
        bytes.seal()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let entry = |at| {
            let position = Position::from_wire(u64_at(bytes, at)? as i64)?;
            let lengths = [u32_at(bytes, at + 8)?, u32_at(bytes, at + 12)?];
            (lengths != [0; 2]).then_some(Entry { position, lengths })
        };
        let mut erased = [0; PARTS];
        for (n, part) in erased.iter_mut().enumerate() {
            *part = u32_at(bytes, 88 + 4 * n)?;
        }
        let (unit, spare) = (u32_at(bytes, 48)?, u32_at(bytes, 52)?);
        Some(Self {
            unit: u32_at(bytes, 16)?,
            ring_units: u32_at(bytes, 20)?,
            snapshot_units: u32_at(bytes, 24)?,
            segment_length: u32_at(bytes, 28)?,
            start: Position::from_wire(u64_at(bytes, 32)? as i64)?,
            floor: u64_at(bytes, 40)?,
            alias: (unit != NONE).then_some(Alias { unit, spare }),
            snapshots: [entry(56), entry(72)],
            erased,
        })
    }
}

/// The record at the start of `bytes`, which are as many as there are up to the unit's end, and a
/// root's length at most. `None` if there is none that is whole.
///
/// # Errors
/// [`SectorError::NewerVersion`]: this device must not be used.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(u64, Record)>, SectorError> {
    if array(bytes, 0) != Some(MAGIC) {
        return Ok(None);
    }
    let kind = bytes.get(6).copied().unwrap_or_default();
    let len = if kind == KIND_ROOT { ROOT } else { CELL };
    let Some((body, sum)) = bytes.get(..len).and_then(|b| b.split_at_checked(len - 4)) else {
        return Ok(None);
    };
    if u32_at(sum, 0) != Some(crc32c(body)) {
        return Ok(None);
    }
    let version = array(body, 4).map_or(0, u16::from_le_bytes);
    if version > VERSION {
        return Err(SectorError::NewerVersion(version));
    }
    let Some(seq) = u64_at(body, 8) else {
        return Ok(None);
    };
    let record = match kind {
        KIND_ROOT => {
            let slot = decode_slot(body, ROOT_SLOT)?;
            Root::decode(body).map(|root| Record::Root(root, slot))
        }
        KIND_SLOT => decode_slot(body, BODY)?.map(Record::Slot),
        _ => None,
    };
    Ok(record.map(|record| (seq, record)))
}

fn decode_slot(body: &[u8], at: usize) -> Result<Option<Slot>, SectorError> {
    let mut sector = [0; SECTOR];
    let (head, rest) = sector.split_at_mut(SLOT_HEAD);
    let (_, sum) = rest.split_at_mut(rest.len() - 4);
    let from = body.get(at..at + SLOT_HEAD + 4);
    let Some((from_head, from_sum)) = from.and_then(|b| b.split_at_checked(SLOT_HEAD)) else {
        return Ok(None);
    };
    head.copy_from_slice(from_head);
    sum.copy_from_slice(from_sum);
    match Slot::decode(&sector) {
        Err(SectorError::NewerVersion(version)) => Err(SectorError::NewerVersion(version)),
        slot => Ok(slot.ok()),
    }
}

/// Where the next record goes: units that are filled one after the other, and round again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Cursor {
    pub unit: u32,
    pub used: u32,
}

impl Cursor {
    /// Behind a unit of which it is not known what was written to it last, and how well: it is left
    /// as it is.
    pub const fn behind(unit: u32) -> Self {
        Self {
            unit,
            used: u32::MAX,
        }
    }

    pub const fn has_room(&self, len: usize, unit_len: u32) -> bool {
        self.used as u64 + len as u64 <= unit_len as u64
    }

    /// To the next of so many units.
    pub const fn advance(&mut self, units: u32) {
        let next = self.unit + 1;
        self.unit = if next < units { next } else { 0 };
        self.used = 0;
    }

    /// Takes room; says where in the unit.
    pub const fn take(&mut self, len: usize) -> u64 {
        let at = self.used;
        self.used += len as u32;
        at as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_core::log::SlotPlace;
    use coracle_core::units::{ClusterId, Term};

    fn root() -> Root {
        Root {
            unit: 4096,
            ring_units: 8,
            snapshot_units: 32,
            segment_length: 65_536,
            start: Position::new(131_072),
            floor: 5,
            alias: Some(Alias { unit: 9, spare: 1 }),
            snapshots: [
                None,
                Some(Entry {
                    position: Position::new(140_000),
                    lengths: [500, 7_000],
                }),
            ],
            erased: [1, 2, 3, 4, 5],
        }
    }

    fn slot() -> Slot {
        Slot {
            seq: 77,
            cluster: ClusterId(6),
            joined: Term::new(3),
            confirmed: Position::new(140_032),
            intended: Position::new(140_064),
            chain: Some(8),
            segment_length: 65_536,
            segment: Position::new(131_072),
            place: SlotPlace::Head,
        }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let with = root().encode(12, Some(&slot()));
        let read = Record::Root(root(), Some(slot()));
        assert_eq!(decode(&with), Ok(Some((12, read))));
        let without = root().encode(13, None);
        assert_eq!(decode(&without), Ok(Some((13, Record::Root(root(), None)))));
        let alone = encode_slot(14, &slot());
        assert_eq!(decode(&alone), Ok(Some((14, Record::Slot(slot())))));
    }

    #[test]
    fn damaged_records_are_none() {
        let whole = root().encode(12, Some(&slot()));
        for at in 0..whole.len() {
            let mut damaged = whole;
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), Ok(None), "{at}");
            assert_eq!(decode(&whole[..at]), Ok(None), "{at}");
        }
    }

    #[test]
    fn a_newer_version_is_an_error() {
        let mut bytes = Bytes(root().encode(12, None));
        bytes.put(4, &(VERSION + 1).to_le_bytes());
        let bytes = bytes.seal();
        assert_eq!(decode(&bytes), Err(SectorError::NewerVersion(VERSION + 1)));
    }

    /// The format is on devices: it changes with its version only.
    #[test]
    fn the_format_is_what_it_was() {
        let sum = |bytes: &[u8]| u32_at(bytes, bytes.len() - 4);
        assert_eq!(sum(&root().encode(12, Some(&slot()))), Some(725_346_459));
        assert_eq!(sum(&encode_slot(14, &slot())), Some(2_397_534_007));
    }
}
