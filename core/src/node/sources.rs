//! Where bytes of the log are read: the window, or what the driver has recalled from storage.

use crate::log::Log;
use crate::units::Position;

/// Who needs bytes that the window has let go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Consumer {
    /// Execution: the bytes go to the start of `Lent::replay`.
    Replay,
    /// A follower: the bytes go to the start of `Lent::catchup`.
    Catchup,
}

/// A debt of the driver: bytes to be read from storage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Recall {
    /// Who needs them, and with that where they go.
    pub consumer: Consumer,
    /// From this frame boundary on.
    pub at: Position,
    /// At most so many bytes; as many as fit the consumer's memory. Fewer are fine, one whole frame
    /// at least.
    pub len: usize,
}

/// Storage could not give the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ReadError;

/// A run of recalled bytes at the start of a lent buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Cold {
    at: Position,
    len: usize,
    /// The lowest truncation since bytes were last handed over: a read that was under way may have
    /// seen what was there before.
    cut: Option<Position>,
}

impl Cold {
    fn read<'l>(&self, bytes: &'l [u8], at: Position) -> &'l [u8] {
        if at < self.at {
            return &[];
        }
        let skipped = at.since(self.at) as usize;
        bytes
            .get(..self.len)
            .and_then(|b| b.get(skipped..))
            .unwrap_or(&[])
    }
}

/// What has been recalled, for each consumer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sources {
    replay: Cold,
    catchup: Cold,
}

impl Sources {
    pub const fn new() -> Self {
        let none = Cold {
            at: Position::ZERO,
            len: 0,
            cut: None,
        };
        Self {
            replay: none,
            catchup: none,
        }
    }

    /// The driver has read `len` bytes for `recall`.
    pub fn recalled(&mut self, recall: Recall, len: usize) {
        let cold = match recall.consumer {
            Consumer::Replay => &mut self.replay,
            Consumer::Catchup => &mut self.catchup,
        };
        let sound = match cold.cut {
            Some(cut) => len.min(cut.since(recall.at) as usize),
            None => len,
        };
        *cold = Cold {
            at: recall.at,
            len: sound,
            cut: None,
        };
    }

    /// The log was cut: recalled bytes at and above are no more.
    pub fn truncate(&mut self, end: Position) {
        for cold in [&mut self.replay, &mut self.catchup] {
            cold.len = cold.len.min(end.since(cold.at) as usize);
            cold.cut = Some(cold.cut.map_or(end, |cut| cut.min(end)));
        }
    }

    pub fn forget_catchup(&mut self) {
        self.catchup.len = 0;
    }

    /// The frames from `at` on, for execution, and whether they come from storage.
    pub fn for_replay<'l, L: Log>(
        &self,
        log: &'l L,
        replay: &'l [u8],
        at: Position,
    ) -> (&'l [u8], bool) {
        if at >= log.start() {
            (log.read(at), false)
        } else {
            (self.replay.read(replay, at), true)
        }
    }

    /// The frames from `at` on, for a follower.
    pub fn for_catchup<'l, L: Log>(&self, log: &'l L, catchup: &'l [u8], at: Position) -> &'l [u8] {
        if at >= log.start() {
            log.read(at)
        } else {
            self.catchup.read(catchup, at)
        }
    }
}
