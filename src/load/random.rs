//! Random choices that are the same in every run with the same seed. Pure.

/// A stream of choices (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// All choices that follow from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Choices of one's own, so that who asks first does not matter.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`, or 0. The bias of the remainder is below anything that shows.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        match bound as u64 {
            0 => 0,
            bound => (self.next() % bound) as usize,
        }
    }

    /// A time that has no memory, this long on average; nanoseconds.
    pub(super) fn exponential(&mut self, mean_ns: f64) -> u64 {
        // 53 bits, above 0 and up to 1: the logarithm of 0 is nobody's pause.
        let uniform = ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-uniform.ln() * mean_ns).round() as u64
    }
}
