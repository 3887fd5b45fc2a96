//! Seeded randomness, forked by label.
//!
//! A node has one seed. Each component draws from a generator of its own, forked by a label, so
//! that one more draw in one component does not move the draws of another. ChaCha is stable over
//! releases and platforms.

use core::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A component's random stream.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream `label` of `seed`.
    pub fn fork(seed: u64, label: &str) -> Self {
        Self(ChaCha8Rng::seed_from_u64(xxhash_rust::xxh3::xxh3_64_with_seed(
            label.as_bytes(),
            seed,
        )))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`, or 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// A duration in `min..=max`; `min` if the range is empty.
    pub fn duration(&mut self, min: Duration, max: Duration) -> Duration {
        if max <= min { min } else { self.0.random_range(min..=max) }
    }
}
