//! How often followers hear of what is committed.
//!
//! Each message of a client that waits for its answer is committed alone. Told of each at once, a
//! follower would be woken twice for it: by its bytes, and because they are committed. So what is
//! committed first after a pause is told at once, and what follows within a moment together. No
//! answer to a client waits for that: only what followers' services have executed is so much
//! older, and with that what a new leader has to execute before it serves.

use core::time::Duration;

use crate::time::Instant;
use crate::units::Position;

/// For so long followers are not told again,
const AFTER: Duration = Duration::from_millis(1);
/// unless it is of so much, in bytes: what they execute at once stays short.
const BYTES: u64 = 16 << 10;

/// The commit position that all followers are to be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Telling {
    told: Position,
    /// When it may be raised, however little is added.
    next: Instant,
}

impl Telling {
    pub const fn new(now: Instant) -> Self {
        Self {
            told: Position::ZERO,
            next: now,
        }
    }

    /// What they are to be told while this is committed. Never goes back.
    pub fn told(&mut self, now: Instant, commit: Position) -> Position {
        if !self.is_told(now, commit) {
            (self.told, self.next) = (commit, now.plus(AFTER));
        }
        self.told
    }

    /// Whether `told` would say what it has said last.
    pub fn is_told(&self, now: Instant, commit: Position) -> bool {
        let untold = commit.since(self.told);
        untold == 0 || (now < self.next && untold < BYTES)
    }

    /// When they are to be told of `commit`, which is more than they were, if not at once.
    #[inline(always)]
    pub fn later(&self, now: Instant, commit: Position) -> Option<Instant> {
        (now < self.next && commit.since(self.told) < BYTES).then_some(self.next)
    }

    /// When they are to be told more, if nothing more is committed before.
    pub fn deadline(&self, commit: Position) -> Option<Instant> {
        (commit > self.told).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ack, at, id, leader, tail};
    use super::super::{Owed, Raft};
    use super::*;
    use crate::units::{Mark, Tail};

    /// Members 1 and 2 have, as their leader has, all up to `end` on disk.
    fn commit(raft: &mut Raft, now: Instant, end: u64) {
        let (term, position) = (raft.term(), Position::new(end));
        raft.set_tail(Tail {
            term,
            end: position,
        });
        raft.joined = Some(term);
        raft.handle_durable(Mark { term, position });
        for follower in [1, 2] {
            raft.handle_append(now, id(follower), &ack(term.get(), end), true);
        }
        assert_eq!(raft.commit(), position);
    }

    /// To how many members the commit position is owed now.
    fn owed(raft: &mut Raft, now: Instant) -> usize {
        let owed = core::iter::from_fn(|| raft.poll_owed(now, Position::MAX));
        owed.filter(|(_, owed)| matches!(owed, Owed::Commit { .. }))
            .count()
    }

    #[test]
    fn what_is_committed_is_told_at_once_and_what_follows_together() {
        let mut raft = leader(tail(1, 640), 960);
        let now = |micros| at(400).plus(Duration::from_micros(micros));
        raft.handle_timeout(now(0));
        commit(&mut raft, now(0), 960);
        assert_eq!(owed(&mut raft, now(0)), 2);
        for micros in [10, 500, 999] {
            commit(&mut raft, now(micros), 960 + micros / 10 * 32);
            assert_eq!(owed(&mut raft, now(micros)), 0);
            assert_eq!(raft.poll_timeout(), Some(now(1000)));
        }
        assert_eq!(owed(&mut raft, now(1000)), 2);
        assert!(raft.poll_timeout() > Some(now(1000)));
        // After a pause at once again.
        commit(&mut raft, now(2000), 9600);
        assert_eq!(owed(&mut raft, now(2000)), 2);
    }

    #[test]
    fn of_much_they_are_told_at_once() {
        let mut raft = leader(tail(1, 640), 960);
        raft.handle_timeout(at(400));
        commit(&mut raft, at(400), 960);
        assert_eq!(owed(&mut raft, at(400)), 2);
        commit(&mut raft, at(400), 960 + BYTES - 32);
        assert_eq!(owed(&mut raft, at(400)), 0);
        commit(&mut raft, at(400), 960 + BYTES);
        assert_eq!(owed(&mut raft, at(400)), 2);
    }
}
