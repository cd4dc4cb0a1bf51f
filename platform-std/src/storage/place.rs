//! Where the log's flushes are waited for: by the node's thread itself, or by the one that flushes.
//!
//! To hand a flush over takes two wake-ups, and a member with little to do needs the bytes on the
//! disk before it can do more. So a short group is flushed where it was written. What that costs
//! is that the node's thread hears nothing meanwhile. A follower that is deaf for as long as its
//! disk takes delays nobody who does not wait for that disk anyway, and a leader commits nothing
//! that it has not flushed; but heartbeats must not be late. So it is done only where no flush of
//! the last seconds took longer than a heartbeat is apart from the next. The first one that does,
//! nobody can foresee: if a disk stands still under a leader that waits for it, the others elect
//! another one after their leader timeout, as if it had died. (Where the flush was handed over,
//! heartbeats go on, nothing is committed either, and it hands over after `sick_after`.)

use std::time::{Duration, Instant};

/// A longer group is handed over: while it is flushed, the node's thread has the next to see to.
const SHORT: u64 = 16 << 10;
/// After a slow flush, how long all are handed over.
const REST: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// A flush that takes longer is a slow one; with zero all are handed over.
    limit: Duration,
    /// From when on flushes need not be handed over: none has been seen, or one was slow.
    trusted: Option<Instant>,
}

impl Place {
    /// Nothing is known of the disk yet, so the first flush is handed over.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            trusted: None,
        }
    }

    /// Whether the node's thread may wait for a flush of `len` bytes itself. For one of none, which
    /// confirms what is there, nobody waits.
    pub fn is_here(&self, len: u64, now: Instant) -> bool {
        (1..=SHORT).contains(&len)
            && !self.limit.is_zero()
            && self.trusted.is_some_and(|since| now >= since)
    }

    /// A flush has returned at `now` that took so long.
    pub fn note(&mut self, took: Duration, now: Instant) {
        if took > self.limit {
            self.trusted = Some(now + REST);
        } else if self.trusted.is_none() {
            self.trusted = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);
    const QUICK: Duration = Duration::from_micros(200);

    #[test]
    fn short_groups_are_flushed_here_once_a_flush_was_quick() {
        let (mut place, now) = (Place::new(LIMIT), Instant::now());
        assert!(!place.is_here(96, now), "nothing is known of the disk");
        place.note(QUICK, now);
        assert!(place.is_here(96, now));
        assert!(place.is_here(SHORT, now));
        assert!(!place.is_here(0, now), "nobody waits for that");
        assert!(!place.is_here(SHORT + 1, now));
    }

    #[test]
    fn after_a_slow_flush_all_are_handed_over_for_a_while() {
        let (mut place, start) = (Place::new(LIMIT), Instant::now());
        place.note(LIMIT * 2, start);
        assert!(!place.is_here(96, start), "the first was slow");
        // Quick ones meanwhile do not shorten the rest; another slow one begins it anew.
        place.note(QUICK, start);
        assert!(!place.is_here(96, start + REST / 2));
        place.note(LIMIT * 2, start + REST / 2);
        assert!(!place.is_here(96, start + REST));
        assert!(place.is_here(96, start + REST / 2 + REST));
    }

    #[test]
    fn without_a_limit_all_are_handed_over() {
        let (mut place, now) = (Place::new(Duration::ZERO), Instant::now());
        place.note(Duration::ZERO, now);
        assert!(!place.is_here(96, now + REST * 2));
    }
}
