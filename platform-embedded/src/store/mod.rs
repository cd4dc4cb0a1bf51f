//! What lies on a device, and how it is read after a power cut.
//!
//! The log's bytes, slots, node states and sections of snapshots are core's formats; this is their
//! place, on devices that rewrite (disks) and on such that erase (flash). `layout` says which part
//! of a device is what, `ring` has the records by which all that changes does so in one step.
//!
//! - **Nothing that counts is ever erased, or written over with anything else.** Node states and
//!   records go from unit to unit; a unit of the log that must change (after a truncation, or a
//!   restart) is made anew in a spare one first, a record says so, and then it is copied back. A
//!   power cut at any moment leaves the old or the new.
//! - **What was written before a start is not written behind**, on flash: nobody knows how well the
//!   last cells hold.
//! - **All of it is used evenly**: the log goes round through its segments, records and node states
//!   through their units, snapshots through two places.

mod check;
mod layout;
mod log;
mod recover;
mod ring;
mod snapshots;

use coracle_core::log::{NodeState, RecoveryError, SECTOR, SectorError, Slot};
use coracle_core::planted::Planted;
use coracle_core::snapshot::SnapshotError;
use coracle_core::units::Position;

use crate::device::Storage;
pub use check::CHECKED_AT_ONCE;
pub use layout::{Layout, Wear, Worn};
use layout::{Map, PARTS, Part};
use ring::{Cursor, ROOT, Record, Root};
use snapshots::{Begun, Set};
pub use snapshots::{Finish, Sink, Source};

/// How many bytes are copied, or looked at, at once.
const PIECE: usize = 256;

/// Why a device cannot be used, or no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StoreError<E> {
    /// The device failed.
    Device(E),
    /// Not one segment fits the device, or a segment is no multiple of what it erases at once.
    TooSmall,
    /// The device was formatted for segments of another length, or is another device.
    Layout,
    /// The log has reached the device's end: this node stops here. Give its configuration a bound
    /// of the log, and snapshots.
    Full,
    /// The log's window has not got what was to be written: only a bug of ours brings that about,
    /// and to go on would be to acknowledge it.
    NotInWindow,
    /// The device was never formatted, or is damaged where term and vote are kept: a node that has
    /// forgotten its vote must not run.
    NodeState(SectorError),
    /// It was written by a newer version.
    Slot(SectorError),
    /// The log's end reads otherwise each time: an unsound device.
    Unsteady,
    /// The log is of another cluster, has another segment length, or does not fit the window.
    Recovery(RecoveryError),
    /// The log does not start at its beginning, and no sound snapshot says what was before. Format
    /// the device anew, with a new incarnation that may not vote.
    SnapshotMissing,
    /// The snapshot is sound, but the application does not take it.
    Snapshot(SnapshotError),
}

/// A formatted device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store<S> {
    device: S,
    map: Map,
    state: NodeState,
    states: Cursor,
    state_seq: u64,
    /// What the newest root says, but for erasures since.
    root: Root,
    slot: Option<Slot>,
    ring: Cursor,
    seq: u64,
    /// The spare unit that was used last.
    spare: u32,
    /// From here to the end of its segment all is erased.
    blank: Option<Position>,
    /// What a start has found of the log below may have been acknowledged.
    trusted: Position,
    /// The chain before the log's first byte, if it is known.
    start_chain: Option<u32>,
    newest: Option<Set>,
    begun: Begun,
}

impl<S: Storage> Store<S> {
    /// [`Self::format_as`] with [`Layout::of`] this device.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::TooSmall`].
    pub fn format(
        device: S,
        segment_length: u32,
        state: &NodeState,
    ) -> Result<S, StoreError<S::Error>> {
        let layout = Layout::of(device.capacity(), device.erase_size(), segment_length);
        Self::format_as(device, &layout, state)
    }

    /// Makes a device ready for the first start of a member: once in its life, as with `init`. A
    /// device formatted again forgets a vote; give it a state that may not vote.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::TooSmall`].
    pub fn format_as(
        device: S,
        layout: &Layout,
        state: &NodeState,
    ) -> Result<S, StoreError<S::Error>> {
        let map = Map::new(device.capacity(), device.erase_size(), layout);
        let map = map.ok_or(StoreError::TooSmall)?;
        let root = Root {
            unit: map.unit,
            ring_units: map.ring_units,
            snapshot_units: map.snapshot_units,
            segment_length: map.segment_length,
            start: Position::ZERO,
            floor: 0,
            alias: None,
            snapshots: [None; 2],
            erased: [0; PARTS],
        };
        let mut store = Self::with(device, map, *state, root);
        // What was a member before is none, until all of it is written.
        for n in 0..2 {
            store.wipe(Part::State, map.state(n))?;
        }
        for n in 0..map.ring_units {
            store.wipe(Part::Ring, map.ring(n))?;
        }
        store.flush()?;
        store.write_root()?;
        store.write_state(state)?;
        Ok(store.device)
    }

    fn with(device: S, map: Map, state: NodeState, root: Root) -> Self {
        Self {
            device,
            map,
            state,
            states: Cursor::behind(1),
            state_seq: 0,
            root,
            slot: None,
            ring: Cursor::behind(map.ring_units - 1),
            seq: 0,
            spare: 0,
            blank: None,
            trusted: Position::ZERO,
            start_chain: None,
            newest: None,
            begun: Begun::Nothing,
        }
    }

    /// Opens a formatted device, and ends what a power cut has interrupted.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(
        mut device: S,
        segment_length: u32,
    ) -> Result<(Self, NodeState), StoreError<S::Error>> {
        // What a process that was reset has written may be in the device's cache only.
        device.flush().map_err(StoreError::Device)?;
        let (capacity, erase_size) = (device.capacity(), device.erase_size());
        let bare = Map::bare(capacity, erase_size);
        let blank = || StoreError::NodeState(SectorError::Blank);
        let found = bare.has_records().then(|| scan(&mut device, &bare));
        let found = found.transpose()?.ok_or_else(blank)?;
        let (_, root) = found.root.ok_or_else(blank)?;
        let layout = Layout {
            segment_length: root.segment_length,
            snapshot_max: root.snapshot_units.saturating_mul(bare.unit),
            record_units: root.ring_units,
        };
        let map = Map::new(capacity, erase_size, &layout).ok_or(StoreError::Layout)?;
        if root.unit != map.unit || root.segment_length != segment_length {
            return Err(StoreError::Layout);
        }
        let found = scan(&mut device, &map)?;
        let (_, root) = found.root.ok_or_else(blank)?;
        let (state_unit, state_seq, state) = read_states(&mut device, &map)?;
        let mut store = Self::with(device, map, state, root);
        store.states = Cursor::behind(state_unit);
        store.state_seq = state_seq;
        store.ring = Cursor::behind(found.unit);
        store.seq = found.seq;
        store.slot = found
            .slot
            .filter(|(seq, _)| *seq > root.floor)
            .map(|(_, slot)| slot);
        if !map.rewrites {
            // A write that was cut may be read today and not tomorrow: before anything is done
            // because of what was read, it is written where it holds.
            store.begin_records()?;
            store.write_state(&state)?;
        }
        store.restore()?;
        Ok((store, state))
    }

    /// Term and vote as they were written last.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// Writes term and vote; they are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn write_state(&mut self, state: &NodeState) -> Result<(), StoreError<S::Error>> {
        if !self.states.has_room(SECTOR, self.map.unit) {
            self.states.advance(2);
            self.erase(Part::State, self.map.state(self.states.unit))?;
        }
        let seq = self.state_seq + 1;
        let at = self.map.state(self.states.unit) + self.states.take(SECTOR);
        self.write(at, &state.encode(seq))?;
        if !Planted::ABoardVotesBeforeItsFlush.is_active() {
            self.flush()?;
        }
        (self.state_seq, self.state) = (seq, *state);
        Ok(())
    }

    /// How often what was erased.
    pub fn wear(&self) -> Wear {
        self.map.wear(&self.root.erased)
    }

    /// The most bytes of log that there is room for: the upper bound of `Config::log_max`.
    pub fn log_max(&self) -> u64 {
        u64::from(self.map.segments) * u64::from(self.map.segment_length)
    }

    /// The device.
    pub fn device(&self) -> &S {
        &self.device
    }

    /// The device, for instance to power it down.
    pub fn into_device(self) -> S {
        self.device
    }

    /// Says what is where. It counts once it is flushed.
    fn write_root(&mut self) -> Result<(), StoreError<S::Error>> {
        match self.ring.has_room(ROOT, self.map.unit) {
            true => self.put_root(),
            false => self.begin_records(),
        }
    }

    fn write_slot(&mut self, slot: Slot) -> Result<(), StoreError<S::Error>> {
        self.slot = Some(slot);
        match self.ring.has_room(ring::CELL, self.map.unit) {
            true => self.put_slot(slot),
            false => self.begin_records(),
        }
    }

    fn begin_records(&mut self) -> Result<(), StoreError<S::Error>> {
        self.ring.advance(self.map.ring_units);
        self.erase(Part::Ring, self.map.ring(self.ring.unit))?;
        self.put_root()
    }

    fn put_root(&mut self) -> Result<(), StoreError<S::Error>> {
        self.seq += 1;
        let at = self.map.ring(self.ring.unit) + self.ring.take(ROOT);
        self.write(at, &self.root.encode(self.seq, self.slot.as_ref()))
    }

    fn put_slot(&mut self, slot: Slot) -> Result<(), StoreError<S::Error>> {
        self.seq += 1;
        let at = self.map.ring(self.ring.unit) + self.ring.take(ring::CELL);
        self.write(at, &ring::encode_slot(self.seq, &slot))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), StoreError<S::Error>> {
        self.device.write(at, bytes).map_err(StoreError::Device)
    }

    fn flush(&mut self) -> Result<(), StoreError<S::Error>> {
        self.device.flush().map_err(StoreError::Device)
    }

    fn erase(&mut self, part: Part, at: u64) -> Result<(), StoreError<S::Error>> {
        self.erase_all(part, at, self.map.unit)
    }

    fn erase_all(&mut self, part: Part, at: u64, len: u32) -> Result<(), StoreError<S::Error>> {
        if self.map.rewrites {
            return Ok(());
        }
        if let Some(erased) = self.root.erased.get_mut(part as usize) {
            *erased = erased.saturating_add(self.map.unit_at(len.into()) as u32);
        }
        let erased = self.device.erase(at, len.into());
        erased.map_err(StoreError::Device)
    }

    /// Leaves nothing in a unit that could be taken for something.
    fn wipe(&mut self, part: Part, at: u64) -> Result<(), StoreError<S::Error>> {
        if !self.map.rewrites {
            return self.erase(part, at);
        }
        for piece in 0..u64::from(self.map.unit) / PIECE as u64 {
            self.write(at + piece * PIECE as u64, &[0xff; PIECE])?;
        }
        Ok(())
    }
}

/// What records there are.
struct Found {
    root: Option<(u64, Root)>,
    slot: Option<(u64, Slot)>,
    /// The newest of all, and in which unit it is.
    seq: u64,
    unit: u32,
}

fn scan<S: Storage>(device: &mut S, map: &Map) -> Result<Found, StoreError<S::Error>> {
    let mut found = Found {
        root: None,
        slot: None,
        seq: 0,
        unit: map.ring_units - 1,
    };
    for unit in 0..map.ring_units {
        let mut used = 0;
        while used + ring::CELL as u64 <= u64::from(map.unit) {
            let mut bytes = [0; ROOT];
            let len = (u64::from(map.unit) - used).min(ROOT as u64) as usize;
            let bytes = bytes.get_mut(..len).unwrap_or_default();
            let at = map.ring(unit) + used;
            device.read(at, bytes).map_err(StoreError::Device)?;
            used += ring::CELL as u64;
            let Some((seq, record)) = ring::decode(bytes).map_err(StoreError::Slot)? else {
                continue;
            };
            if seq > found.seq {
                (found.seq, found.unit) = (seq, unit);
            }
            let slot = match record {
                Record::Root(root, slot) => {
                    if found.root.is_none_or(|(best, _)| best < seq) {
                        found.root = Some((seq, root));
                    }
                    slot
                }
                Record::Slot(slot) => Some(slot),
            };
            if let Some(slot) = slot.filter(|_| found.slot.is_none_or(|(best, _)| best < seq)) {
                found.slot = Some((seq, slot));
            }
        }
    }
    Ok(found)
}

/// The newest node state: in which unit it is, and its number.
fn read_states<S: Storage>(
    device: &mut S,
    map: &Map,
) -> Result<(u32, u64, NodeState), StoreError<S::Error>> {
    let mut newest: Option<(u32, u64, NodeState)> = None;
    let mut error = SectorError::Blank;
    for unit in 0..2 {
        for n in 0..u64::from(map.unit) / SECTOR as u64 {
            let mut sector = [0; SECTOR];
            let at = map.state(unit) + n * SECTOR as u64;
            device.read(at, &mut sector).map_err(StoreError::Device)?;
            match NodeState::decode(&sector) {
                Ok((seq, state)) if newest.is_none_or(|(_, best, _)| best < seq) => {
                    newest = Some((unit, seq, state));
                }
                Ok(_) => {}
                Err(error) if error.is_sound() => return Err(StoreError::NodeState(error)),
                Err(_) if sector.iter().all(|byte| *byte == 0xff) => {}
                Err(what) => error = what,
            }
        }
    }
    newest.ok_or(StoreError::NodeState(error))
}
