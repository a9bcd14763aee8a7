//! Decisions that a seed repeats.
#![forbid(unsafe_code)]

use std::time::Duration;

/// xorshift: the same seed gives the same decisions.
pub(crate) struct Random(u64);

impl Random {
    /// One of many that share a seed.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        // Neighbours shall not be alike, and zero would stay zero.
        let mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(2) | 1;
        let mut random = Self(mixed);
        for _ in 0..8 {
            random.below(2);
        }
        random
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % limit.max(1)
    }

    /// True once in so many.
    pub(crate) fn once_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// Up to that long.
    pub(crate) fn within(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(longest))
    }

    pub(crate) fn any<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(of.len() as u64)).ok()?;
        of.get(index).copied()
    }
}
