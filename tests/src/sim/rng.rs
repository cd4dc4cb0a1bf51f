//! The one source of chance in a run: everything is drawn from the seed.

use coracle_core::prng::Prng;

/// A millionth: the unit of every probability here.
pub const MILLION: u64 = 1_000_000;

/// A random generator with the few questions that a simulator asks.
#[derive(Clone, Debug)]
pub struct Rng(Prng);

impl Rng {
    /// Every seed is good.
    pub const fn new(seed: u64) -> Self {
        Self(Prng::new(seed))
    }

    /// A generator of its own for one part of the world, so that parts do not disturb one another.
    pub fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next()
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number in `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `millionths` times in a million.
    pub fn chance(&mut self, millionths: u64) -> bool {
        millionths > 0 && self.below(MILLION) < millionths
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number in `1..=high` whose logarithm is about uniform: small ones are common.
    pub fn skewed(&mut self, high: u64) -> u64 {
        let bits = u64::from(64 - high.max(1).leading_zeros());
        let top = 1u64 << self.below(bits);
        self.range(top, (2 * top - 1).min(high)).min(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewed_numbers_stay_in_range_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let drawn: Vec<u64> = (0..10_000).map(|_| rng.skewed(9)).collect();
        assert_eq!(drawn.iter().min(), Some(&1));
        assert_eq!(drawn.iter().max(), Some(&9));
    }

    #[test]
    fn a_chance_is_never_and_always_at_its_ends() {
        let mut rng = Rng::new(2);
        assert!((0..1000).all(|_| !rng.chance(0)));
        assert!((0..1000).all(|_| rng.chance(MILLION)));
    }
}
