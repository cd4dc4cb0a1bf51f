//! The log's bytes: written by groups, read back, made anew where they must change.

use coracle_core::log::{ChainSearch, Group, Log, Span, segment_base, segment_end};
use coracle_core::planted::Planted;
use coracle_core::units::Position;

use super::layout::Part;
use super::ring::Alias;
use super::{PIECE, Store, StoreError};
use crate::device::Storage;
use crate::nor::GRANULE;

impl<S: Storage> Store<S> {
    /// Writes what the journal gave; it is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::Full`].
    pub fn write_group<L: Log>(
        &mut self,
        group: &Group,
        log: &L,
    ) -> Result<(), StoreError<S::Error>> {
        let span = group.span;
        if !span.is_empty() {
            if !self.holds(span.start) {
                return Err(StoreError::Full);
            }
            match self.is_blank(span.start)? {
                true => self.put_log(span, span, log, self.place(span.start))?,
                false => self.make_anew(span, log)?,
            }
            self.blank = Some(span.end);
        }
        // Last: on flash it is durable at once, and what it speaks of is by then.
        self.write_slot(group.slot)?;
        if !Planted::ABoardAcknowledgesBeforeItsFlush.is_active() {
            self.flush()?;
        }
        // Above a truncation nothing counts any more, now that this is durable.
        self.trusted = self.trusted.min(group.slot.intended);
        Ok(())
    }

    /// Whether all from `at` to its segment's end can be written. A segment that the log comes to
    /// is erased.
    fn is_blank(&mut self, at: Position) -> Result<bool, StoreError<S::Error>> {
        if self.map.rewrites {
            return Ok(true);
        }
        if segment_base(at, self.map.segment_length) != at {
            return Ok(self.blank == Some(at));
        }
        if at < self.trusted {
            return Ok(false);
        }
        self.erase_all(Part::Log, self.place(at), self.map.segment_length)?;
        Ok(true)
    }

    /// Writes a piece of a group's bytes to a place on the device.
    fn put_log<L: Log>(
        &mut self,
        group: Span,
        piece: Span,
        log: &L,
        place: u64,
    ) -> Result<(), StoreError<S::Error>> {
        // The window is asked for whole frames: what is in the middle of one may be elsewhere.
        let mut at = group.start;
        while at < piece.end {
            let run = log.read(at);
            if run.is_empty() {
                return Err(StoreError::NotInWindow);
            }
            let skip = (piece.start.since(at)).min(run.len() as u64);
            let end = piece.end.since(at).min(run.len() as u64);
            let bytes = run.get(skip as usize..end as usize).unwrap_or_default();
            if !bytes.is_empty() {
                self.write(place + at.plus(skip).since(piece.start), bytes)?;
            }
            at = at.plus(run.len() as u64);
        }
        Ok(())
    }

    /// Writes where something is that may count: below `span`, and in it, if a start has found it
    /// there. Each unit is made in a spare one first. Leaves the rest of the segment blank.
    fn make_anew<L: Log>(&mut self, span: Span, log: &L) -> Result<(), StoreError<S::Error>> {
        let unit = u64::from(self.map.unit);
        let mut at = span.start;
        while at < span.end {
            let place = self.place(at);
            let skip = self.map.within_unit(place);
            let stop = span.end.min(at.plus(unit - skip));
            let piece = Span::new(at, stop);
            if skip == 0 && at >= self.trusted {
                self.erase(Part::Log, place)?;
                self.put_log(span, piece, log, place)?;
            } else {
                let spare = self.open_spare()?;
                self.copy(place - skip, spare, skip)?;
                self.put_log(span, piece, log, spare + skip)?;
                self.exchange(place - skip)?;
            }
            at = stop;
        }
        let last = self.place(span.end.minus(1));
        let mut rest = last - self.map.within_unit(last) + unit;
        let segment = segment_base(span.start, self.map.segment_length);
        let end = self.place(segment) + u64::from(self.map.segment_length);
        // A write that was cut may have come to the next unit without leaving a mark there.
        let mut is_doubtful = true;
        while rest < end {
            if is_doubtful || !self.is_erased(rest)? {
                self.erase(Part::Log, rest)?;
            }
            is_doubtful = false;
            rest += unit;
        }
        Ok(())
    }

    /// Writes bytes of the log that were damaged; they are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn repair(&mut self, at: Position, bytes: &[u8]) -> Result<(), StoreError<S::Error>> {
        let unit = u64::from(self.map.unit);
        let (mut place, mut bytes) = (self.place(at), bytes);
        while !bytes.is_empty() {
            let skip = self.map.within_unit(place);
            let len = (bytes.len() as u64).min(unit - skip);
            let (now, rest) = bytes.split_at(len as usize);
            if self.map.rewrites {
                self.write(place, now)?;
            } else {
                let (base, spare) = (place - skip, self.open_spare()?);
                self.copy(base, spare, skip)?;
                self.write(spare + skip, now)?;
                let behind = skip + len;
                self.copy(base + behind, spare + behind, unit - behind)?;
                self.exchange(base)?;
            }
            (place, bytes) = (place + len, rest);
        }
        self.blank = None;
        self.flush()
    }

    /// An erased unit to make another one's content in. They take turns.
    fn open_spare(&mut self) -> Result<u64, StoreError<S::Error>> {
        self.spare = (self.spare + 1) % self.map.spares.max(1);
        let spare = self.map.spare(self.spare);
        self.erase(Part::Spare, spare)?;
        Ok(spare)
    }

    /// What the spare unit holds takes the place of what the unit at `base` does.
    fn exchange(&mut self, base: u64) -> Result<(), StoreError<S::Error>> {
        self.flush()?;
        self.root.alias = Some(Alias {
            unit: self.map.unit_at(base) as u32,
            spare: self.spare,
        });
        if !Planted::ABoardMakesAUnitAnewInItsPlace.is_active() {
            self.write_root()?;
            self.flush()?;
        }
        self.restore()
    }

    /// Copies the spare unit back. From the record that says that it counts to the one that says
    /// that it does not any more, this can be done over and over.
    pub(super) fn restore(&mut self) -> Result<(), StoreError<S::Error>> {
        let Some(alias) = self.root.alias else {
            return Ok(());
        };
        self.spare = alias.spare % self.map.spares.max(1);
        let unit = u64::from(self.map.unit);
        let (spare, base) = (self.map.spare(self.spare), u64::from(alias.unit) * unit);
        self.erase(Part::Log, base)?;
        self.copy(spare, base, unit)?;
        self.flush()?;
        self.root.alias = None;
        self.write_root()?;
        self.flush()
    }

    /// Copies to where all is erased: what is erased in the copied as well is not written.
    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), StoreError<S::Error>> {
        let mut done = 0;
        while done < len {
            let mut piece = [0; PIECE];
            let now = (len - done).min(PIECE as u64);
            let piece = piece.get_mut(..now as usize).unwrap_or_default();
            let read = self.device.read(from + done, piece);
            read.map_err(StoreError::Device)?;
            if piece.chunks(GRANULE).any(is_ones) {
                for (n, granule) in piece.chunks(GRANULE).enumerate() {
                    if !is_ones(granule) {
                        self.write(to + done + (n * GRANULE) as u64, granule)?;
                    }
                }
            } else {
                self.write(to + done, piece)?;
            }
            done += now;
        }
        Ok(())
    }

    fn is_erased(&mut self, base: u64) -> Result<bool, StoreError<S::Error>> {
        for n in 0..u64::from(self.map.unit) / PIECE as u64 {
            let mut piece = [0; PIECE];
            let read = self.device.read(base + n * PIECE as u64, &mut piece);
            read.map_err(StoreError::Device)?;
            if !is_ones(&piece) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the log's bytes at `at` to the start of `into`, not across a segment's end; gives how
    /// many, 0 where there are none.
    ///
    /// # Errors
    /// The device's own.
    pub fn read(&mut self, at: Position, into: &mut [u8]) -> Result<usize, S::Error> {
        if !self.holds(at) {
            return Ok(0);
        }
        let left = segment_end(at, self.map.segment_length).since(at);
        let len = left.min(into.len() as u64) as usize;
        let place = self.place(at);
        match into.get_mut(..len) {
            Some(into) => self.device.read(place, into)?,
            None => return Ok(0),
        }
        Ok(len)
    }

    /// The chain of the last frame below the frame boundary `at`: a walk from its segment's start.
    /// None if there is none, or a frame there is not good. `scratch` holds a whole frame of the
    /// largest size at least.
    ///
    /// # Errors
    /// The device's own.
    pub fn chain_below(
        &mut self,
        at: Position,
        scratch: &mut [u8],
    ) -> Result<Option<u32>, S::Error> {
        if at == self.root.start {
            return Ok(self.start_chain);
        }
        let mut search = ChainSearch::new(at, self.root.start, self.map.segment_length);
        while let Some(wanted) = search.wanted() {
            let len = self.read(wanted, scratch)?;
            search.feed(scratch.get(..len).unwrap_or_default());
        }
        Ok(search.chain())
    }

    /// Where the log starts.
    pub fn start(&self) -> Position {
        self.root.start
    }

    /// The log starts at `start` from now on: what is below may be erased when its place is needed.
    /// Durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Device`].
    pub fn purge(&mut self, start: Position) -> Result<(), StoreError<S::Error>> {
        if start <= self.root.start {
            return Ok(());
        }
        self.root.start = start;
        self.start_chain = None;
        self.write_root()?;
        self.flush()
    }

    /// An empty log that starts at `start` takes this one's place. Durable when this returns.
    pub(super) fn restart_log(&mut self, start: Position) -> Result<(), StoreError<S::Error>> {
        self.root.start = start;
        // Records so far are of the old log, the slot among them.
        if !Planted::AnOldSlotCountsForANewLog.is_active() {
            self.root.floor = self.seq;
        }
        (self.slot, self.blank, self.start_chain) = (None, None, None);
        self.write_root()?;
        self.flush()
    }

    /// Whether the log can have a byte there.
    fn holds(&self, at: Position) -> bool {
        let (number, _) = self.map.segment_of(at);
        let (first, _) = self.map.segment_of(self.root.start);
        let number = number.checked_sub(first);
        number.is_some_and(|number| number < u64::from(self.map.segments))
    }

    fn place(&self, at: Position) -> u64 {
        let (number, within) = self.map.segment_of(at);
        self.map.segment(number) + within
    }
}

fn is_ones(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0xff)
}
