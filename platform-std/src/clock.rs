//! The clocks of this machine, as the core takes them.

use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

use coracle_core::time::{Instant, Now, Timestamp};

/// Monotonic time since this was made, and wall time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: StdInstant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Starts at zero.
    pub fn new() -> Self {
        let start = StdInstant::now();
        Self { start }
    }

    /// The monotonic clock.
    pub fn instant(&self) -> Instant {
        let nanos = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since_1970.map_or(0, |t| t.as_millis() as i64);
        Now {
            instant: self.instant(),
            wall: Timestamp(millis),
        }
    }
}

/// When `timeout` from now is over. One that no clock reaches, as `Duration::MAX`, is never: in
/// centuries.
pub fn deadline(timeout: Duration) -> StdInstant {
    const NEVER: Duration = Duration::from_secs(1 << 33);
    let now = StdInstant::now();
    now.checked_add(timeout.min(NEVER)).unwrap_or(now)
}

/// A number that is different at every call, on every machine and in every process.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_that_no_clock_reaches_is_not_over() {
        let year = Duration::from_secs(365 * 86_400);
        for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), year] {
            assert!(deadline(timeout) > StdInstant::now() + year / 2);
        }
        assert!(deadline(Duration::ZERO) <= StdInstant::now());
    }
}
