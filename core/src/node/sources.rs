//! Where bytes of the log are read: the window, or what the driver has recalled from storage.

use crate::log::Log;
use crate::units::{Position, Section};

/// Who needs bytes that the window has let go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Consumer {
    /// Execution: the bytes go to the start of `Lent::replay`.
    Replay,
    /// A follower: the bytes go to the start of `Lent::catchup`.
    Catchup,
    /// A follower's question about terms long past: the bytes go to the start of `Lent::catchup`.
    Annals,
    /// A damaged member's request: the bytes go to the start of `Lent::replay`, for who answers may
    /// be damaged as well, and need `Lent::catchup` for what it is sent itself.
    Repair,
    /// A follower that is sent a snapshot: the bytes of this section from `Recall::at` on, which
    /// counts within the section, go to the start of `Lent::catchup`. Fewer than asked for mean
    /// that the section ends there.
    Snapshot {
        /// Which snapshot.
        position: Position,
        /// Which section of it.
        section: Section,
    },
}

/// A debt of the driver: bytes to be read from storage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Recall {
    /// Who needs them, and with that where they go.
    pub consumer: Consumer,
    /// From this frame boundary on.
    pub at: Position,
    /// At most so many bytes; as many as fit the consumer's memory, and none that the window has.
    /// Fewer are fine, one whole frame at least.
    pub len: usize,
    /// How often the log had been cut when this was asked for: bytes that were read before a cut
    /// are not taken after it.
    pub cuts: u32,
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
}

impl Cold {
    fn read<'l>(&self, bytes: &'l [u8], at: Position) -> &'l [u8] {
        if at < self.at {
            return &[];
        }
        // On a 32-bit machine the distance may not fit: then it is past these bytes as well.
        let skipped = usize::try_from(at.since(self.at)).unwrap_or(usize::MAX);
        bytes
            .get(..self.len)
            .and_then(|b| b.get(skipped..))
            .unwrap_or(&[])
    }

    /// As `read`, but none of the bytes that `log` holds: what storage has of those may be of a
    /// leadership that has been cut off, and not overwritten yet.
    fn read_below<'l, L: Log>(&self, log: &L, bytes: &'l [u8], at: Position) -> &'l [u8] {
        let read = self.read(bytes, at);
        let below = usize::try_from(log.start().since(at)).unwrap_or(usize::MAX);
        read.get(..read.len().min(below)).unwrap_or(&[])
    }
}

/// What has been recalled, for each consumer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sources {
    replay: Cold,
    catchup: Cold,
    cuts: u32,
    /// Where the window began when it was last asked what of it is to be recalled.
    pub began: Position,
}

impl Sources {
    pub const fn new() -> Self {
        let none = Cold {
            at: Position::ZERO,
            len: 0,
        };
        Self {
            replay: none,
            catchup: none,
            cuts: 0,
            began: Position::ZERO,
        }
    }

    /// What the driver shall read for `consumer`: bytes from `at` on, at most `len` of them, and
    /// only such as the window has let go.
    pub fn recall<L: Log>(&self, log: &L, consumer: Consumer, at: Position, len: usize) -> Recall {
        let below = usize::try_from(log.start().since(at)).unwrap_or(usize::MAX);
        Recall {
            consumer,
            at,
            len: len.min(below),
            cuts: self.cuts,
        }
    }

    /// Whether the log was cut after `recall` was asked for.
    pub fn is_stale(&self, recall: &Recall) -> bool {
        recall.cuts != self.cuts
    }

    /// Whether the bytes recalled last for followers are those from `at` on.
    pub fn has_catchup_from(&self, at: Position) -> bool {
        self.catchup.at == at && self.catchup.len > 0
    }

    /// The driver has read `len` bytes for `recall`.
    pub fn recalled(&mut self, recall: Recall, len: usize) {
        let cold = Cold { at: recall.at, len };
        match recall.consumer {
            Consumer::Replay => self.replay = cold,
            Consumer::Catchup => self.catchup = cold,
            Consumer::Repair => self.replay.len = 0,
            Consumer::Annals | Consumer::Snapshot { .. } => self.catchup.len = 0,
        }
    }

    /// The log was cut: recalled bytes at and above are no more.
    pub fn truncate(&mut self, end: Position) {
        self.cuts = self.cuts.wrapping_add(1);
        for cold in [&mut self.replay, &mut self.catchup] {
            let below = usize::try_from(end.since(cold.at)).unwrap_or(usize::MAX);
            cold.len = cold.len.min(below);
        }
    }

    pub fn forget_replay(&mut self) {
        self.replay.len = 0;
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
            (self.replay.read_below(log, replay, at), true)
        }
    }

    /// The frames from `at` on, for a follower.
    pub fn for_catchup<'l, L: Log>(&self, log: &'l L, catchup: &'l [u8], at: Position) -> &'l [u8] {
        if at >= log.start() {
            log.read(at)
        } else {
            self.catchup.read_below(log, catchup, at)
        }
    }
}
