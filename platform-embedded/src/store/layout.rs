//! Which part of a device is what.
//!
//! ```text
//! segments         the log: segment n lies in place n modulo their number, at a multiple of its
//!                  length, so that a driver may erase it in large blocks
//! snapshots        two places, one of which always holds the newest set
//! spares           two units, on flash only: what a unit's new content is made in
//! records          units that are filled one after the other: see `ring`
//! node state       two units, filled in turn
//! ```
//! The last two are at the device's end, counted down from there: so they are found before anything
//! else is known.

use coracle_core::units::Position;

/// What a device that rewrites in place is divided in.
const DISK_UNIT: u32 = 4096;
const STATE_UNITS: u32 = 2;
/// One unit of records may be being erased while another has the newest.
pub(super) const RING_MIN: u32 = 2;

/// How a device is divided: decided once, when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Layout {
    /// The length of a log segment, as in the node's configuration.
    pub segment_length: u32,
    /// The most bytes of one snapshot, two of which are kept; 0: no snapshots. A quarter of it is
    /// for the cluster's own part, the rest for the service's.
    pub snapshot_max: u32,
    /// How many units the records take that each flush writes, 96 bytes at a time.
    pub record_units: u32,
}

impl Layout {
    /// A quarter of the device for two snapshots, a thirty-second part for records, the rest for
    /// the log.
    pub fn of(capacity: u64, erase_size: Option<u32>, segment_length: u32) -> Self {
        let unit = erase_size.unwrap_or(DISK_UNIT).max(1);
        let units = capacity / u64::from(unit);
        Self {
            segment_length,
            snapshot_max: (capacity / 8).min(1 << 30) as u32,
            record_units: (units / 32).clamp(RING_MIN.into(), 64) as u32,
        }
    }
}

/// The same, in bytes from the device's beginning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Map {
    pub unit: u32,
    /// It rewrites in place: nothing is erased, and no unit is made anew elsewhere.
    pub rewrites: bool,
    pub segment_length: u32,
    pub segments: u32,
    /// Of one place.
    pub snapshot_units: u32,
    pub ring_units: u32,
    units: u64,
    pub spares: u32,
}

impl Map {
    /// What is known of any device: enough to look for its records.
    pub fn bare(capacity: u64, erase_size: Option<u32>) -> Self {
        let unit = erase_size.unwrap_or(DISK_UNIT).max(1);
        Self {
            unit,
            rewrites: erase_size.is_none(),
            segment_length: 0,
            segments: 0,
            snapshot_units: 0,
            ring_units: RING_MIN,
            units: capacity / u64::from(unit),
            spares: if erase_size.is_none() { 0 } else { 2 },
        }
    }

    /// `None` if not one segment fits, or a segment is no multiple of what is erased at once.
    pub fn new(capacity: u64, erase_size: Option<u32>, layout: &Layout) -> Option<Self> {
        let bare = Self::bare(capacity, erase_size);
        let snapshot_units = layout.snapshot_max / bare.unit;
        // Less than one for each of two sections is none at all.
        let snapshot_units = if snapshot_units < 2 {
            0
        } else {
            snapshot_units
        };
        let ring_units = layout.record_units.max(RING_MIN);
        let taken = u64::from(STATE_UNITS + ring_units + bare.spares);
        let taken = taken + 2 * u64::from(snapshot_units);
        let length = layout.segment_length;
        let is_multiple = length >= bare.unit && length.is_multiple_of(bare.unit);
        let left = bare.units.checked_sub(taken)? * u64::from(bare.unit);
        let segments = (left / u64::from(length.max(1))).min(u32::MAX.into()) as u32;
        (is_multiple && segments > 0).then_some(Self {
            segment_length: length,
            segments,
            snapshot_units,
            ring_units,
            ..bare
        })
    }

    /// Whether there are units enough to look for records in.
    pub fn has_records(&self) -> bool {
        self.units >= u64::from(STATE_UNITS + RING_MIN)
    }

    fn units_from_end(&self, units: u64) -> u64 {
        self.units.saturating_sub(units) * u64::from(self.unit)
    }

    pub fn state(&self, n: u32) -> u64 {
        self.units_from_end(1 + u64::from(n))
    }

    pub fn ring(&self, n: u32) -> u64 {
        self.units_from_end(u64::from(STATE_UNITS) + 1 + u64::from(n))
    }

    pub fn spare(&self, n: u32) -> u64 {
        let above = u64::from(STATE_UNITS + self.ring_units);
        self.units_from_end(above + 1 + u64::from(n))
    }

    /// Where the sections of a place are, and how many bytes each has room for.
    pub fn sections(&self, place: usize) -> [(u64, u32); 2] {
        let above = u64::from(STATE_UNITS + self.ring_units + self.spares);
        let units = u64::from(self.snapshot_units);
        let base = self.units_from_end(above + (1 + place as u64) * units);
        let own = (self.snapshot_units / 4).max(1) * self.unit;
        let all = self.snapshot_units * self.unit;
        [
            (base, own),
            (base + u64::from(own), all.saturating_sub(own)),
        ]
    }

    /// The number of the unit that begins at `place`.
    pub fn unit_at(&self, place: u64) -> u64 {
        place / u64::from(self.unit.max(1))
    }

    /// How far in its unit `place` is.
    pub fn within_unit(&self, place: u64) -> u64 {
        place % u64::from(self.unit.max(1))
    }

    /// The number of the segment that `at` is in, and how far in.
    pub fn segment_of(&self, at: Position) -> (u64, u64) {
        let length = u64::from(self.segment_length.max(1));
        (at.get() / length, at.get() % length)
    }

    /// Where the segment of this number is.
    pub fn segment(&self, number: u64) -> u64 {
        number % u64::from(self.segments.max(1)) * u64::from(self.segment_length)
    }
}

/// One of the parts of a device, and how often a unit of it was erased.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Worn {
    /// How many units there are.
    pub units: u32,
    /// How many erasures there were, of all of them together.
    pub erased: u32,
}

impl Worn {
    /// How often each was erased, about: they are used one after the other.
    pub const fn each(self) -> u32 {
        match self.units {
            0 => 0,
            units => self.erased.div_ceil(units),
        }
    }
}

/// How often what was erased since the device was formatted. A power cut forgets the last few.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Wear {
    /// Term and vote: a unit for each few elections.
    pub state: Worn,
    /// Records: a unit for each few flushes.
    pub records: Worn,
    /// Units made anew after truncations and restarts.
    pub spares: Worn,
    /// Snapshots.
    pub snapshots: Worn,
    /// The log.
    pub log: Worn,
}

/// Where something is erased.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Part {
    State,
    Ring,
    Spare,
    Snapshots,
    Log,
}

/// How many parts there are.
pub(super) const PARTS: usize = 5;

impl Map {
    pub fn wear(&self, erased: &[u32; PARTS]) -> Wear {
        let [state, records, spares, snapshots, log] = *erased;
        let worn = |units, erased| Worn { units, erased };
        let segment_units = self.segment_length / self.unit.max(1);
        Wear {
            state: worn(STATE_UNITS, state),
            records: worn(self.ring_units, records),
            spares: worn(self.spares, spares),
            snapshots: worn(2 * self.snapshot_units, snapshots),
            log: worn(self.segments.saturating_mul(segment_units), log),
        }
    }
}
