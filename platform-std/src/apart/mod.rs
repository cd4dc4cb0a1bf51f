//! Services away from the node: each on a thread of its own, so that one which is slow, stuck or
//! broken holds up nobody but itself.
//!
//! ```text
//!   node's thread                                            the service's thread
//!   StandIn: the node takes it for  ◀── News: calls, how ──  Executor: a container (core), which
//!   the service; calls again what       far it has come      executes what is committed and
//!   the service has called         ─── Orders, bounds ──▶    durable, from the log's files
//! ```
//!
//! The service is first: the node executes a record once the service has, and hears then what the
//! callbacks have called. Neither waits for the other; nothing but these two messages is shared.
//! Bytes that are committed do not change, so the service reads the log's files by itself.
//!
//! `StandIn` and `Executor` know no thread: the simulator drives them too. `thread` does the rest.

mod calls;
mod executor;
mod link;
mod stand_in;
mod thread;

pub use executor::{Executor, Memory};
pub use stand_in::StandIn;
pub use thread::{Away, OnThread, Surroundings};

use coracle_core::node::Halt;
use coracle_core::service::{Role, SnapshotError};
use coracle_core::units::Position;

use crate::storage::StorageError;

/// How many bytes of calls, and of a snapshot, may wait for the node: the service goes on when it
/// has made something of them. One callback may call more.
const BACKLOG_MAX: usize = 1 << 20;

/// What an executor tells its stand-in. Handed over and emptied as a whole.
#[derive(Debug, Default)]
pub struct News {
    /// What the callbacks have called.
    pub calls: Vec<u8>,
    /// The end of the last record executed: the calls are whole up to it.
    pub executed: Position,
    /// It waits at a snapshot's action, which ends here.
    pub action: Option<Position>,
    /// The snapshot at this position is being written.
    pub saving: Option<Position>,
    /// Its next bytes.
    pub pieces: Vec<u8>,
    /// It has no more bytes than those, or could not be written.
    pub saved: Option<Result<(), SnapshotError>>,
}

impl News {
    /// Adds what is newer, and leaves `newer` without calls and pieces.
    pub fn absorb(&mut self, newer: &mut Self) {
        self.calls.append(&mut newer.calls);
        (self.executed, self.action) = (newer.executed, newer.action);
        if self.saving != newer.saving {
            self.saving = newer.saving;
            self.pieces.clear();
            self.saved = None;
        }
        self.pieces.append(&mut newer.pieces);
        self.saved = self.saved.take().or(newer.saved.take());
    }
}

/// What a stand-in wants of its executor: a state, not a queue, so that a later one replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// This member's role.
    pub role: Role,
    /// The last snapshot's action on which it is decided whether this member takes one.
    pub decided: Position,
    /// The snapshot that is being taken: it is neither complete nor given up.
    pub taken: Option<Position>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            role: Role::Follower,
            decided: Position::ZERO,
            taken: None,
        }
    }
}

/// Why a service's thread has ended of itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// A callback panicked, with this text.
    Panicked(String),
    /// The log cannot be executed: the node comes to the same.
    Halted(Halt),
    /// The log cannot be read.
    Storage(StorageError),
}
