//! A log that has no room past a position, whatever its window could hold.

use super::Log;
use crate::broken::Broken;
use crate::units::Position;

/// Lends a log on, with room up to `limit` only: what lies behind is kept for something else.
pub struct Bounded<'a, L: Log> {
    log: &'a mut L,
    limit: Position,
}

impl<'a, L: Log> Bounded<'a, L> {
    /// `log`, with no room at and above `limit`.
    pub fn new(log: &'a mut L, limit: Position) -> Self {
        Self { log, limit }
    }
}

impl<L: Log> Log for Bounded<'_, L> {
    fn start(&self) -> Position {
        self.log.start()
    }

    fn end(&self) -> Position {
        self.log.end()
    }

    fn chain(&self) -> Option<u32> {
        self.log.chain()
    }

    fn chain_at(&self, at: Position) -> Option<u32> {
        self.log.chain_at(at)
    }

    fn read(&self, at: Position) -> &[u8] {
        self.log.read(at)
    }

    // Asked for each message that is taken alone.
    #[inline(always)]
    fn room(&mut self, at: Position) -> &mut [u8] {
        let allowed = self.limit.since(at);
        if allowed == 0 {
            return &mut [];
        }
        let room = self.log.room(at);
        let len = room
            .len()
            .min(usize::try_from(allowed).unwrap_or(usize::MAX));
        room.get_mut(..len).unwrap_or(&mut [])
    }

    fn lap_end(&self, at: Position) -> Position {
        self.log.lap_end(at)
    }

    #[inline(always)]
    fn publish(&mut self, end: Position, chain: u32) -> Result<(), Broken> {
        self.log.publish(end, chain)
    }

    fn truncate(&mut self, end: Position) -> Result<(), Broken> {
        self.log.truncate(end)
    }

    fn release(&mut self, below: Position) {
        self.log.release(below);
    }

    fn capacity(&self) -> u64 {
        self.log.capacity()
    }

    fn segment_length(&self) -> u32 {
        self.log.segment_length()
    }
}
