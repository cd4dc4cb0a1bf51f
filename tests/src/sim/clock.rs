//! The clocks of one process: a monotonic one that drifts, a wall clock that steps.

use coracle_core::time::{Instant, Now, Timestamp};

use super::rng::Rng;

/// Virtual nanoseconds since the start of a run.
pub type Nanos = u64;

/// One millisecond of virtual time.
pub const MILLI: Nanos = 1_000_000;
/// One second of virtual time.
pub const SECOND: Nanos = 1000 * MILLI;

/// What one process believes the time to be.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The virtual time at which `base` was read.
    since: Nanos,
    base: u64,
    /// Local nanoseconds for a million virtual ones.
    rate: u64,
    wall_ms: i64,
}

impl Clock {
    /// A clock that began at `now` with a random zero and runs at `rate` local nanoseconds for a
    /// million virtual ones.
    pub fn new(now: Nanos, rate: u64, rng: &mut Rng) -> Self {
        Self {
            since: now,
            base: rng.below(1 << 40),
            rate,
            wall_ms: 1_700_000_000_000 + rng.below(1000) as i64,
        }
    }

    /// Both clocks at virtual time `now`.
    pub fn read(&self, now: Nanos) -> Now {
        Now {
            instant: Instant::from_nanos(self.local(now)),
            wall: Timestamp(self.wall_ms + (now / MILLI) as i64),
        }
    }

    /// The earliest virtual time at which this clock reads at least `instant`.
    pub fn when(&self, instant: Instant) -> Nanos {
        let ahead = instant.nanos().saturating_sub(self.base);
        let virtual_ahead = (u128::from(ahead) * 1_000_000).div_ceil(u128::from(self.rate));
        self.since
            .saturating_add(u64::try_from(virtual_ahead).unwrap_or(u64::MAX))
    }

    /// From `now` on, run at `rate`; the time read so far stays.
    pub fn set_rate(&mut self, now: Nanos, rate: u64) {
        self.base = self.local(now);
        self.since = now;
        self.rate = rate;
    }

    /// The wall clock jumps by `ms` milliseconds.
    pub fn step_wall(&mut self, ms: i64) {
        self.wall_ms += ms;
    }

    fn local(&self, now: Nanos) -> u64 {
        let passed = u128::from(now.saturating_sub(self.since)) * u128::from(self.rate);
        self.base + (passed / 1_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_at_when_is_never_too_early_and_at_most_a_tick_late() {
        let mut rng = Rng::new(7);
        for rate in [900_000, 1_000_000, 1_234_567] {
            let clock = Clock::new(5 * SECOND, rate, &mut rng);
            for ahead in [0, 1, 999, MILLI, 17 * SECOND + 3] {
                let wanted = Instant::from_nanos(clock.base + ahead);
                let when = clock.when(wanted);
                assert!(clock.read(when).instant >= wanted);
                assert!(when == clock.since || clock.read(when - 1).instant < wanted);
            }
        }
    }

    #[test]
    fn a_change_of_rate_does_not_move_the_present() {
        let mut clock = Clock::new(0, 1_000_000, &mut Rng::new(1));
        let before = clock.read(SECOND).instant;
        clock.set_rate(SECOND, 500_000);
        assert_eq!(clock.read(SECOND).instant, before);
        let later = clock.read(3 * SECOND).instant;
        assert_eq!(later.nanos() - before.nanos(), SECOND);
    }
}
