//! Whether to look a few times more before the thread sleeps.
//!
//! To be put to sleep and woken costs more than the wait itself while a message is on its way
//! between members. So after some sleeps in a row that something ended at once, the thread looks
//! again for about as long, and offers its core meanwhile. A node without traffic sleeps for
//! milliseconds at a time, and never does.

use std::time::{Duration, Instant};

/// A sleep that ends sooner was hardly worth it.
const BRIEF: Duration = Duration::from_micros(100);
/// How many of those in a row are traffic.
const IN_A_ROW: u32 = 3;
/// How long to look before the next sleep.
const LOOK: Duration = Duration::from_micros(50);

/// See the module's text.
#[derive(Debug, Default)]
pub struct Glance {
    brief: u32,
    since: Option<Instant>,
}

impl Glance {
    /// There was something to do.
    pub fn found(&mut self) {
        self.since = None;
    }

    /// There was nothing to do: whether to look again rather than sleep.
    pub fn looks_again(&mut self, now: Instant) -> bool {
        if self.brief < IN_A_ROW {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < LOOK {
            return true;
        }
        self.since = None;
        false
    }

    /// A sleep is over, ended by something that `came`, or by a timer.
    pub fn slept(&mut self, length: Duration, came: bool) {
        self.brief = match came && length < BRIEF {
            true => self.brief.saturating_add(1),
            false => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brief_sleeps_in_a_row_make_it_look_and_a_long_one_ends_that() {
        let (mut glance, start) = (Glance::default(), Instant::now());
        for _ in 0..IN_A_ROW {
            assert!(!glance.looks_again(start));
            glance.slept(BRIEF / 2, true);
        }
        assert!(glance.looks_again(start));
        assert!(glance.looks_again(start + LOOK / 2));
        glance.found();
        assert!(glance.looks_again(start + LOOK), "a new wait begins");
        assert!(!glance.looks_again(start + LOOK * 2));
        // It slept, and was right to.
        glance.slept(BRIEF * 2, true);
        assert!(!glance.looks_again(start + LOOK * 3));
        for _ in 0..IN_A_ROW {
            glance.slept(BRIEF / 2, false);
        }
        assert!(
            !glance.looks_again(start + LOOK * 4),
            "timers are no traffic"
        );
    }
}
