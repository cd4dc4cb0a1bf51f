//! Where what lies on the device, and how it is read after a power cut.
//!
//! ```text
//! sector 0, 1          node state, written in turn
//! sector 2, 3          slots of segment 0
//! segment_length bytes the log's bytes 0 .. segment_length
//! two sectors          slots of segment 1, and so on to the device's end
//! ```
//! The log's bytes, the slots and the node state are core's formats; this is only their place.
//! There are no snapshots yet, so a full device is an error and not a reason to forget.

use coracle_core::log::{
    Frames, Group, Log, NodeState, Recovered, Recovery, RecoveryError, SECTOR, SectorError, Seed,
    Slot, Window, segment_base, segment_end,
};
use coracle_core::units::{ClusterId, Position};

use crate::device::Storage;

const SECTOR_LEN: u64 = SECTOR as u64;
const SLOTS: u64 = 2 * SECTOR_LEN;
const NODE_STATE: u64 = 2 * SECTOR_LEN;

/// Why a device cannot be used, or no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoreError<E> {
    /// The device failed.
    Device(E),
    /// Not one segment fits the device.
    TooSmall,
    /// The log has reached the device's end: this node stops here.
    Full,
    /// The device was never formatted, or is damaged where term and vote are kept: a node that has
    /// forgotten its vote must not run.
    NodeState(SectorError),
    /// The log was written by a newer version.
    Slot(SectorError),
    /// The log is of another cluster, has another segment length, or does not fit the window.
    Recovery(RecoveryError),
}

/// A formatted device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store<S> {
    device: S,
    segment_length: u32,
    segments: u64,
    state_seq: u64,
}

fn segments<S: Storage>(device: &S, segment_length: u32) -> Result<u64, StoreError<S::Error>> {
    let each = SLOTS + u64::from(segment_length);
    match device.capacity().saturating_sub(NODE_STATE) / each {
        0 => Err(StoreError::TooSmall),
        segments => Ok(segments),
    }
}

impl<S: Storage> Store<S> {
    /// Makes a device ready for the first start of a member: once in its life, as with `init`. A
    /// device formatted again forgets a vote; give it a state that may not vote.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::TooSmall`].
    pub fn format(
        mut device: S,
        segment_length: u32,
        state: &NodeState,
    ) -> Result<S, StoreError<S::Error>> {
        let segments = segments(&device, segment_length)?;
        let blank = [0; SECTOR];
        let each = SLOTS + u64::from(segment_length);
        for base in (0..segments).map(|n| NODE_STATE + n * each) {
            // Both slots, and the header of the first frame: old bytes behind it are not reached.
            for sector in 0..3 {
                let at = base + sector * SECTOR_LEN;
                device.write(at, &blank).map_err(StoreError::Device)?;
            }
        }
        for seq in 0..2_u64 {
            let at = (seq % 2) * SECTOR_LEN;
            let sector = state.encode(seq);
            device.write(at, &sector).map_err(StoreError::Device)?;
        }
        device.flush().map_err(StoreError::Device)?;
        Ok(device)
    }

    /// Opens a formatted device.
    ///
    /// # Errors
    /// All but the last two of [`StoreError`].
    pub fn open(
        mut device: S,
        segment_length: u32,
    ) -> Result<(Self, NodeState), StoreError<S::Error>> {
        let segments = segments(&device, segment_length)?;
        let mut sectors = [[0; SECTOR]; 2];
        for (sector, at) in sectors.iter_mut().zip([0, SECTOR_LEN]) {
            device.read(at, sector).map_err(StoreError::Device)?;
        }
        let [a, b] = &sectors;
        let newest = NodeState::newest(a, b).map_err(StoreError::NodeState)?;
        let (state_seq, state) = newest.ok_or(StoreError::NodeState(SectorError::Blank))?;
        let store = Self {
            device,
            segment_length,
            segments,
            state_seq,
        };
        Ok((store, state))
    }

    /// Reads the whole log, decides what of it may be believed, and loads into `window` what has to
    /// be written again. `scratch` holds a whole frame of the largest size at least.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn recover<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        cluster: ClusterId,
        window: &mut Window<B>,
        scratch: &mut [u8],
    ) -> Result<Recovered, StoreError<S::Error>> {
        let slot = self.newest_slot()?;
        let start = Seed::genesis(cluster);
        let length = self.segment_length;
        let mut recovery = Recovery::new(cluster, length, start, slot, window.capacity())
            .map_err(StoreError::Recovery)?;
        while let Some(at) = recovery.wanted() {
            let len = self.read(at, scratch).map_err(StoreError::Device)?;
            recovery.feed(scratch.get(..len).unwrap_or_default());
        }
        let recovered = recovery.finish().map_err(StoreError::Recovery)?;
        recovered.open_window(window);
        while window.end() < recovered.tail.end {
            let len = self
                .read(window.end(), scratch)
                .map_err(StoreError::Device)?;
            if window.fill(scratch.get(..len).unwrap_or_default()) == 0 {
                let needed = recovered.tail.end.since(recovered.confirmed);
                return Err(StoreError::Recovery(RecoveryError::WindowTooSmall(needed)));
            }
        }
        if let (Some(_), Some(slot)) = (recovered.corrupt, recovered.slot) {
            // It alone says that what is damaged was durable, and may be in the device's cache.
            let segment = slot.segment.get() / u64::from(length);
            let at = self.segment_at(segment) + slot.index() as u64 * SECTOR_LEN;
            self.device
                .write(at, &slot.encode())
                .map_err(StoreError::Device)?;
            self.device.flush().map_err(StoreError::Device)?;
        }
        Ok(recovered)
    }

    fn newest_slot(&mut self) -> Result<Option<Slot>, StoreError<S::Error>> {
        let mut newest = None;
        for segment in 0..self.segments {
            for index in 0..2 {
                let mut sector = [0; SECTOR];
                let at = self.segment_at(segment) + index * SECTOR_LEN;
                self.device
                    .read(at, &mut sector)
                    .map_err(StoreError::Device)?;
                newest = Slot::newest(newest, Slot::decode(&sector)).map_err(StoreError::Slot)?;
            }
        }
        Ok(newest)
    }

    /// Writes term and vote; they are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn write_state(&mut self, state: &NodeState) -> Result<(), StoreError<S::Error>> {
        let seq = self.state_seq + 1;
        let at = (seq % 2) * SECTOR_LEN;
        self.device
            .write(at, &state.encode(seq))
            .map_err(StoreError::Device)?;
        self.device.flush().map_err(StoreError::Device)?;
        self.state_seq = seq;
        Ok(())
    }

    /// Writes what the journal gave; it is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::Full`].
    pub fn write_group<L: Log>(
        &mut self,
        group: &Group,
        log: &L,
    ) -> Result<(), StoreError<S::Error>> {
        let segment = group.slot_segment.get() / u64::from(self.segment_length);
        if segment >= self.segments {
            return Err(StoreError::Full);
        }
        let slot_at = self.segment_at(segment) + group.slot_index as u64 * SECTOR_LEN;
        self.device
            .write(slot_at, &group.slot.encode())
            .map_err(StoreError::Device)?;
        let mut at = group.span.start;
        while at < group.span.end {
            let run = log.read(at);
            let len = (run.len() as u64).min(group.span.end.since(at));
            let run = run.get(..len as usize).unwrap_or_default();
            assert!(!run.is_empty(), "the window keeps what was not written");
            self.device
                .write(self.place(at), run)
                .map_err(StoreError::Device)?;
            at = at.plus(len);
        }
        self.device.flush().map_err(StoreError::Device)
    }

    /// Reads the log's bytes at `at` to the start of `into`, not across a segment's end; gives how
    /// many, 0 behind the device's end.
    ///
    /// # Errors
    /// The device's own.
    pub fn read(&mut self, at: Position, into: &mut [u8]) -> Result<usize, S::Error> {
        if at.get() / u64::from(self.segment_length) >= self.segments {
            return Ok(0);
        }
        let left = segment_end(at, self.segment_length).since(at);
        let len = left.min(into.len() as u64) as usize;
        let place = self.place(at);
        match into.get_mut(..len) {
            Some(into) => self.device.read(place, into)?,
            None => return Ok(0),
        }
        Ok(len)
    }

    /// The chain of the last frame below the frame boundary `at`: a walk from its segment's start.
    /// None if there is none, or a frame there is not good.
    ///
    /// # Errors
    /// The device's own.
    pub fn chain_below(
        &mut self,
        at: Position,
        scratch: &mut [u8],
    ) -> Result<Option<u32>, S::Error> {
        let mut from = segment_base(at.minus(1), self.segment_length);
        let mut chain = None;
        while from < at {
            let len = self.read(from, scratch)?;
            let bytes = scratch.get(..len).unwrap_or_default();
            let before = from;
            for frame in Frames::new(bytes, from, self.segment_length).verified() {
                if frame.end() > at {
                    return Ok(None);
                }
                (from, chain) = (frame.end(), Some(frame.chain));
                if from == at {
                    return Ok(chain);
                }
            }
            if from == before {
                return Ok(None);
            }
        }
        Ok(chain)
    }

    /// The device.
    pub fn device(&self) -> &S {
        &self.device
    }

    /// The device, for instance to power it down.
    pub fn into_device(self) -> S {
        self.device
    }

    fn segment_at(&self, segment: u64) -> u64 {
        NODE_STATE + segment * (SLOTS + u64::from(self.segment_length))
    }

    fn place(&self, at: Position) -> u64 {
        let length = u64::from(self.segment_length);
        self.segment_at(at.get() / length) + SLOTS + at.get() % length
    }
}
