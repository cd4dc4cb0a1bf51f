//! The clocks of this machine, as the core takes them.

use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

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

/// A number that is different at every call, on every machine and in every process.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}
