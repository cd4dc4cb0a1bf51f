//! The core's window, with a witness: what was cut from it since the checker last asked.

use coracle_core::broken::Broken;
use coracle_core::log::{Log, Window};
use coracle_core::units::Position;

/// A window over memory of its own that remembers truncations for the checker, apart from what it
/// remembers for the journal.
#[derive(Clone, Debug)]
pub struct SpyLog {
    /// The core's window.
    pub window: Window<Vec<u8>>,
    cut: Option<u64>,
}

impl SpyLog {
    /// Watches `window`.
    pub fn new(window: Window<Vec<u8>>) -> Self {
        Self { window, cut: None }
    }

    /// The lowest truncation since the last call.
    pub fn take_witnessed_cut(&mut self) -> Option<u64> {
        self.cut.take()
    }
}

impl Log for SpyLog {
    fn start(&self) -> Position {
        self.window.start()
    }

    fn end(&self) -> Position {
        self.window.end()
    }

    fn chain(&self) -> Option<u32> {
        self.window.chain()
    }

    fn chain_at(&self, at: Position) -> Option<u32> {
        self.window.chain_at(at)
    }

    fn read(&self, at: Position) -> &[u8] {
        self.window.read(at)
    }

    fn room(&mut self, at: Position) -> &mut [u8] {
        self.window.room(at)
    }

    fn lap_end(&self, at: Position) -> Position {
        self.window.lap_end(at)
    }

    fn publish(&mut self, end: Position, chain: u32) -> Result<(), Broken> {
        self.window.publish(end, chain)
    }

    fn truncate(&mut self, end: Position) -> Result<(), Broken> {
        let cut = end.get();
        self.cut = Some(self.cut.map_or(cut, |before| before.min(cut)));
        self.window.truncate(end)
    }

    fn release(&mut self, below: Position) {
        self.window.release(below);
    }

    fn capacity(&self) -> u64 {
        self.window.capacity()
    }

    fn segment_length(&self) -> u32 {
        self.window.segment_length()
    }
}
