//! Replicated timers of one service, in lent memory.
//!
//! They change only when that service's callbacks schedule or cancel, and when a committed event
//! takes one out: so they are equal on every member at equal positions of that service, and are in
//! its snapshot. When one is due, whoever leads appends an event with the number of its arming;
//! an event for an arming that is no more is ignored, on every member alike. So each arming has
//! exactly one event that counts.

use crate::planted::Planted;
use crate::time::Timestamp;

/// Bytes of memory that one timer takes.
pub const TIMER_LENGTH: usize = 24;

/// One timer that is armed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Timer {
    /// When it is due, by the cluster's time.
    pub deadline: Timestamp,
    /// Its number among all that this service has armed, from 1 on: decides between equal
    /// deadlines.
    pub arming: u64,
    /// The service's name for it.
    pub correlation: i64,
}

/// There is no room for another timer. The same on every member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TimersFull;

/// The timers of one service, in the order in which they are due. The memory they are in is passed
/// to every call: the same one, as long as it was at first, on every member.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Timers {
    count: usize,
    armed: u64,
}

impl Timers {
    /// None.
    pub const fn new() -> Self {
        Self { count: 0, armed: 0 }
    }

    /// What a snapshot says: how many armings there were. Timers follow by [`Self::restore`].
    pub const fn with_armings(armed: u64) -> Self {
        Self { count: 0, armed }
    }

    /// How many are armed.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Is none armed?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many armings there have been.
    pub const fn armings(&self) -> u64 {
        self.armed
    }

    /// Arms `correlation` for `deadline`, anew if it was armed. Looks at every timer, and moves
    /// those that are due later.
    ///
    /// # Errors
    /// [`TimersFull`]; then an earlier arming of it stands.
    pub fn schedule(
        &mut self,
        memory: &mut [u8],
        correlation: i64,
        deadline: Timestamp,
    ) -> Result<(), TimersFull> {
        let known = self.position_of(memory, correlation);
        if known.is_none() && self.count >= memory.len() / TIMER_LENGTH {
            return Err(TimersFull);
        }
        if let Some(at) = known {
            self.take_out(memory, at);
        }
        self.armed += 1;
        let timer = Timer {
            deadline,
            arming: self.armed,
            correlation,
        };
        self.put_in(memory, &timer)
    }

    /// Takes `correlation` out; false if it is not armed. Looks at every timer.
    pub fn cancel(&mut self, memory: &mut [u8], correlation: i64) -> bool {
        match self.position_of(memory, correlation) {
            Some(at) => {
                self.take_out(memory, at);
                true
            }
            None => false,
        }
    }

    /// A committed event says that this arming has fired: takes it out and gives it back. `None` if
    /// it is armed no more. Looks at every timer.
    pub fn fire(&mut self, memory: &mut [u8], correlation: i64, arming: u64) -> Option<Timer> {
        let at = self.position_of(memory, correlation)?;
        let timer = read(memory, at)?;
        if timer.arming != arming && !Planted::AnEarlierArmingCounts.is_active() {
            return None;
        }
        self.take_out(memory, at);
        Some(timer)
    }

    /// Puts back a timer that a snapshot holds.
    ///
    /// # Errors
    /// [`TimersFull`], also if it was armed after the last arming that the snapshot names.
    pub fn restore(&mut self, memory: &mut [u8], timer: &Timer) -> Result<(), TimersFull> {
        let fits = self.count < memory.len() / TIMER_LENGTH && timer.arming <= self.armed;
        if !fits || self.position_of(memory, timer.correlation).is_some() {
            return Err(TimersFull);
        }
        self.put_in(memory, timer)
    }

    /// All timers, in the order in which they are due.
    pub fn iter<'m>(&self, memory: &'m [u8]) -> impl Iterator<Item = Timer> + use<'m> {
        (0..self.count).filter_map(move |at| read(memory, at))
    }

    fn position_of(&self, memory: &[u8], correlation: i64) -> Option<usize> {
        self.iter(memory).position(|t| t.correlation == correlation)
    }

    fn put_in(&mut self, memory: &mut [u8], timer: &Timer) -> Result<(), TimersFull> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match read(memory, middle) {
                Some(there) if there < *timer => low = middle + 1,
                _ => high = middle,
            }
        }
        let behind = self.from(memory, low, 1).ok_or(TimersFull)?;
        *shift(behind, true).ok_or(TimersFull)? = bytes(timer);
        self.count += 1;
        Ok(())
    }

    fn take_out(&mut self, memory: &mut [u8], at: usize) {
        if let Some(behind) = self.from(memory, at, 0)
            && shift(behind, false).is_some()
        {
            self.count -= 1;
        }
    }

    /// The places from this one on to behind the last timer, and `more`.
    fn from<'m>(&self, memory: &'m mut [u8], at: usize, more: usize) -> Option<&'m mut [Bytes]> {
        let (places, _) = memory.as_chunks_mut();
        places.get_mut(at..self.count + more)
    }
}

type Bytes = [u8; TIMER_LENGTH];

/// Moves what is in these places by one: to the back, but for the last, or to the front, but for
/// the first. Gives the first place; `None` if there is none.
fn shift(places: &mut [Bytes], is_back: bool) -> Option<&mut Bytes> {
    let others = places.len().checked_sub(1)?;
    match is_back {
        true => places.copy_within(..others, 1),
        false => places.copy_within(1.., 0),
    }
    places.first_mut()
}

fn bytes(timer: &Timer) -> Bytes {
    let mut bytes = [0; TIMER_LENGTH];
    let numbers = [
        timer.deadline.0.to_le_bytes(),
        timer.arming.to_le_bytes(),
        timer.correlation.to_le_bytes(),
    ];
    for (room, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        room.copy_from_slice(&number);
    }
    bytes
}

fn read(memory: &[u8], at: usize) -> Option<Timer> {
    let bytes = memory.get(at * TIMER_LENGTH..)?.get(..TIMER_LENGTH)?;
    let (numbers, _) = bytes.as_chunks::<8>();
    let [deadline, arming, correlation] = numbers else {
        return None;
    };
    Some(Timer {
        deadline: Timestamp(i64::from_le_bytes(*deadline)),
        arming: u64::from_le_bytes(*arming),
        correlation: i64::from_le_bytes(*correlation),
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::prng::Prng;

    fn order(timers: &Timers, memory: &[u8]) -> Vec<i64> {
        timers.iter(memory).map(|t| t.correlation).collect()
    }

    #[test]
    fn timers_are_in_the_order_in_which_they_are_due() {
        let mut memory = vec![0; 3 * TIMER_LENGTH];
        let mut timers = Timers::new();
        timers.schedule(&mut memory, 1, Timestamp(30)).unwrap();
        timers.schedule(&mut memory, 2, Timestamp(10)).unwrap();
        timers.schedule(&mut memory, 3, Timestamp(10)).unwrap();
        assert_eq!(order(&timers, &memory), [2, 3, 1]);
        let full = timers.schedule(&mut memory, 4, Timestamp(1));
        assert_eq!(full, Err(TimersFull));
        // A timer that is known may always be scheduled anew.
        timers.schedule(&mut memory, 1, Timestamp(5)).unwrap();
        assert_eq!(order(&timers, &memory), [1, 2, 3]);
        assert!(timers.cancel(&mut memory, 2));
        assert!(!timers.cancel(&mut memory, 2));
        assert_eq!(order(&timers, &memory), [1, 3]);
    }

    #[test]
    fn an_event_of_an_earlier_arming_is_ignored() {
        let mut memory = vec![0; 2 * TIMER_LENGTH];
        let mut timers = Timers::new();
        timers.schedule(&mut memory, 7, Timestamp(1)).unwrap();
        timers.schedule(&mut memory, 7, Timestamp(9)).unwrap();
        assert_eq!(timers.fire(&mut memory, 7, 1), None);
        let fired = timers.fire(&mut memory, 7, 2).unwrap();
        assert_eq!(fired.deadline, Timestamp(9));
        assert_eq!(timers.fire(&mut memory, 7, 2), None);
        assert_eq!((timers.len(), timers.armings()), (0, 2));
    }

    #[test]
    fn what_a_snapshot_holds_is_put_back_in_order() {
        let mut memory = vec![0; 4 * TIMER_LENGTH];
        let mut timers = Timers::new();
        for (correlation, deadline) in [(1, 5), (2, 3), (3, 4)] {
            let deadline = Timestamp(deadline);
            timers.schedule(&mut memory, correlation, deadline).unwrap();
        }
        let mut other = vec![0xff; 4 * TIMER_LENGTH];
        let mut restored = Timers::with_armings(timers.armings());
        for timer in timers.iter(&memory) {
            restored.restore(&mut other, &timer).unwrap();
        }
        assert_eq!(restored, timers);
        assert_eq!(order(&restored, &other), order(&timers, &memory));
        let unknown = Timer {
            deadline: Timestamp(1),
            arming: 4,
            correlation: 9,
        };
        assert_eq!(restored.restore(&mut other, &unknown), Err(TimersFull));
    }

    /// Random calls; every answer and the whole content as a map would have it.
    #[test]
    fn it_is_a_map_ordered_by_deadline() {
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let room = 1 + prng.below(8) as usize;
            let mut memory = vec![0; room * TIMER_LENGTH];
            let mut timers = Timers::new();
            let mut model: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
            for _ in 0..300 {
                let correlation = prng.below(10) as i64;
                let deadline = prng.below(50) as i64;
                match prng.below(3) {
                    0 => {
                        let fits = model.contains_key(&correlation) || model.len() < room;
                        let done = timers.schedule(&mut memory, correlation, Timestamp(deadline));
                        assert_eq!(done.is_ok(), fits);
                        if fits {
                            model.insert(correlation, (deadline, timers.armings()));
                        }
                    }
                    1 => {
                        let known = model.remove(&correlation).is_some();
                        assert_eq!(timers.cancel(&mut memory, correlation), known);
                    }
                    _ => {
                        let first = model.iter().map(|(c, (d, a))| (*d, *a, *c)).min();
                        let mine = timers.iter(&memory).next();
                        let mine = mine.map(|t| (t.deadline.0, t.arming, t.correlation));
                        assert_eq!(mine, first);
                        if let Some((_, arming, correlation)) = first {
                            assert!(timers.fire(&mut memory, correlation, arming).is_some());
                            model.remove(&correlation);
                        }
                    }
                }
                assert_eq!(timers.len(), model.len());
            }
        }
    }
}
