//! Random choices that are the same in every run with the same seed. Pure.

use std::time::Duration;

/// A stream of choices (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// All choices that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Choices of one's own, so that who asks first does not matter.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number between 0 and 1, both excluded.
    pub fn unit(&mut self) -> f64 {
        const STEPS: f64 = (1u64 << 53) as f64;
        ((self.next() >> 11) as f64 + 0.5) / STEPS
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        match bound as u64 {
            0 => 0,
            bound => (self.next() % bound) as usize,
        }
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A time up to `limit`.
    pub fn time_up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as usize + 1) as u64)
    }

    /// Puts `items` in any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices_and_another_does_not() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            let mut order: Vec<usize> = (0..20).collect();
            random.shuffle(&mut order);
            (order, random.fork().below(1000), random.below(1000))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut all = draw(1).0;
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn choices_stay_within_their_bounds() {
        let mut random = Random::new(7);
        let limit = Duration::from_millis(20);
        for _ in 0..1000 {
            assert!(random.below(3) < 3);
            assert!(random.time_up_to(limit) <= limit);
            let unit = random.unit();
            assert!(0.0 < unit && unit < 1.0);
        }
        assert_eq!(random.below(0), 0);
    }
}
