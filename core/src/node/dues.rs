//! What a member may have to do: so that a call which finds nothing costs next to nothing.
//!
//! Whatever happens to a node may make work for any of its calls, so it sets them all
//! ([`Node::stir`]); the few ways that nearly every message takes set those that it can concern. A
//! call that has found nothing to do takes its own out again. What comes with time alone is looked
//! for at a time of its own, by [`Node::handle_timeout`], which sets them all once more: a
//! millisecond after it was last looked for, or sooner if a deadline is.
//!
//! **Invariant:** a call that is not set would find nothing. **Invariant:** that time is never
//! later than [`Node::poll_timeout`] says, and the long past once the node has halted.

use core::time::Duration;

use super::runway::Runway;
use super::{Lent, Node};
use crate::log::Log;
use crate::time::{Instant, Now};
use crate::units::Position;

/// Time is looked at so often at least.
pub(super) const EVERY: Duration = Duration::from_millis(1);

/// Calls that may have something to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Due(u16);

impl Due {
    /// To take in what clients have sent, or to append something of its own.
    pub const INGRESS: Self = Self(1);
    /// To execute what is committed.
    pub const SERVICES: Self = Self(2);
    /// To have bytes read that the window has let go.
    pub const RECALL: Self = Self(4);
    /// To tell members something.
    pub const SAY: Self = Self(8);
    /// To ask for what is missing here.
    pub const ASK: Self = Self(16);
    /// To send bytes of the log.
    pub const FRAMES: Self = Self(32);
    /// To answer who asks for more than that.
    pub const RARELY: Self = Self(64);
    /// To write down a term, a vote, or whatever else of a node's state.
    pub const PERSIST: Self = Self(128);
    const ALL: Self = Self(255);
    /// No call, and not one of all: a follower has nothing to say but how far it is, in what it has
    /// acknowledged last.
    pub const MARKS: Self = Self(256);
    /// What is owed to members, and to who asks; clients' streams know what these are owed.
    pub const TRANSMIT: Self = Self(8 | 16 | 32 | 64);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Dues {
    calls: Due,
    /// When time is to be looked at.
    at: Instant,
    /// Up to here there may be messages of sessions that make nothing due but to execute them, in
    /// the node's only service: see [`Node::plain_to`]. Nowhere, until it has been looked.
    pub plain_to: Position,
    /// While this member leads, what its clients say may fill the log up to here at least. Nowhere,
    /// until it has been looked: see [`Node::clients_end`].
    pub clients_to: Position,
}

impl Dues {
    /// All may have something to do, now.
    pub const ALL: Self = Self {
        calls: Due::ALL,
        at: Instant::from_nanos(0),
        plain_to: Position::ZERO,
        clients_to: Position::ZERO,
    };

    /// Whether any of these may have.
    #[inline(always)]
    pub const fn has(&self, any: Due) -> bool {
        self.calls.0 & any.0 != 0
    }

    #[inline(always)]
    pub const fn add(&mut self, calls: Due) {
        self.calls.0 |= calls.0;
    }

    /// It has found nothing.
    #[inline(always)]
    pub const fn done(&mut self, call: Due) {
        self.calls.0 &= !call.0;
    }

    /// Whether time is to be looked at.
    #[inline(always)]
    pub fn have_come(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// There is something to do at that time.
    #[inline(always)]
    pub fn come_at(&mut self, at: Instant) {
        self.at = self.at.min(at);
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The node is told something: whoever had nothing to do may have something now.
    pub(super) fn stir(&mut self) {
        self.dues = Dues::ALL;
        self.runway = Runway::NONE;
    }

    /// Time is looked at, and what it brings.
    #[inline(never)]
    pub(super) fn pass_time<L: Log>(&mut self, now: Now, lent: &mut Lent<'_, L>) {
        if self.halted.is_some() {
            return;
        }
        self.look(now, lent);
        self.raft.has_come(now.instant);
        if self.is_to_look_after(now.instant) {
            self.look_after(now);
        }
        self.settle(now, lent.log);
        if self.halted.is_some() {
            return;
        }
        let clients = self.clients.handle_timeout(now.instant);
        self.dues = Dues {
            at: now.instant.plus(EVERY).min(clients),
            ..Dues::ALL
        };
        if let Some((at, _)) = self.poll_timeout() {
            self.dues.come_at(at);
        }
        if self.unpersisted().is_none() {
            self.dues.done(Due::PERSIST);
        }
        self.lay_runway(&*lent.log);
    }
}
