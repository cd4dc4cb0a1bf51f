//! When a device goes off: at a call that changes something, or at one that reads.

use super::PowerCut;

/// What a device's calls have come to.
#[derive(Clone, Debug)]
pub struct Power {
    /// After so many more calls that change something the power goes.
    calls_left: u64,
    /// How many there were.
    pub calls: u64,
    /// After so many more calls that read one fails, and with the second all that follow.
    read_fails: Option<(u64, bool)>,
    /// A read has failed since the device was started.
    pub has_failed: bool,
    is_off: bool,
}

impl Power {
    pub const fn on() -> Self {
        Self {
            calls_left: u64::MAX,
            calls: 0,
            read_fails: None,
            has_failed: false,
            is_off: false,
        }
    }

    pub const fn cut_after(&mut self, calls: u64) {
        self.calls_left = calls;
    }

    pub const fn fail_read(&mut self, after: u64, for_good: bool) {
        self.read_fails = Some((after, for_good));
    }

    /// No fault that was planned comes.
    pub const fn spare(&mut self) {
        (self.calls_left, self.read_fails) = (u64::MAX, None);
    }

    /// It is on again, and stays so.
    pub const fn start_again(&mut self) {
        let calls = self.calls;
        *self = Self::on();
        self.calls = calls;
    }

    /// A call that changes something: true if the power goes in the middle of it.
    pub const fn change(&mut self) -> Result<bool, PowerCut> {
        if self.is_off {
            return Err(PowerCut);
        }
        match self.calls_left.checked_sub(1) {
            Some(left) => {
                self.calls_left = left;
                self.calls += 1;
                Ok(false)
            }
            None => {
                self.is_off = true;
                Ok(true)
            }
        }
    }

    pub const fn read(&mut self) -> Result<(), PowerCut> {
        if self.is_off {
            return Err(PowerCut);
        }
        match self.read_fails {
            None => Ok(()),
            Some((0, for_good)) => {
                self.read_fails = None;
                self.is_off = for_good;
                self.has_failed = true;
                Err(PowerCut)
            }
            Some((left, for_good)) => {
                self.read_fails = Some((left - 1, for_good));
                Ok(())
            }
        }
    }
}
