//! Seeded randomness, forked by label.
//!
//! A run has one seed. Each component draws from a stream of its own, named by a label and a number
//! (a node, a client), so that one more draw in one of them does not move the draws of another: a
//! scenario with one more client keeps the network latencies between the servers. ChaCha is stable
//! over releases and platforms, and the derived draws below use integers only, so that every build
//! computes the same.
//!
//! A link of the network has a stream, too. There are thousands of links, so they use [`LinkRng`],
//! which is eight bytes of state and good enough for latencies and losses.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Parts of a whole in which rates are stated: a rate of `MILLION` is always.
pub const MILLION: u32 = 1_000_000;

/// Derived draws over a source of 64 random bits.
pub trait Draw {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// A number in `0..bound`, or 0 if `bound` is 0.
    fn below(&mut self, bound: u64) -> u64 {
        (u128::from(self.next_u64()) * u128::from(bound)).wrapping_shr(64) as u64
    }

    /// A number in `min..=max`; `min` if the range is empty.
    fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.below(max.saturating_sub(min).saturating_add(1))
    }

    /// Whether something happens that has a chance of `rate` in a million.
    fn chance(&mut self, rate: u32) -> bool {
        self.below(u64::from(MILLION)) < u64::from(rate)
    }

    /// An index into a slice of this length. The slice must not be empty.
    fn index(&mut self, length: usize) -> usize {
        assert!(length > 0, "an index into something must exist");
        self.below(length as u64) as usize
    }

    /// Something around `middle`: between half and one and a half of it.
    fn around(&mut self, middle: u64) -> u64 {
        self.between(middle / 2, middle.saturating_add(middle / 2))
    }

    /// A number with this mean and roughly an exponential distribution, in integers: the leading
    /// zeros of a random number are geometric, the bits that follow interpolate.
    fn exponential(&mut self, mean: u64) -> u64 {
        let bits = self.next_u64() | 1;
        let zeros = bits.leading_zeros();
        let fraction = (bits << zeros << 1) >> 44;
        let halvings = (u64::from(zeros) << 20) + (1 << 20) - fraction;
        // The mean of `halvings` is one and a half, in units of 2^20.
        ((u128::from(mean) * u128::from(halvings) * 2 / 3) >> 20) as u64
    }

    /// Moves a random choice of `count` items to the front.
    fn shuffle_front<T>(&mut self, items: &mut [T], count: usize) {
        for position in 0..count.min(items.len()) {
            let other = position + self.index(items.len() - position);
            items.swap(position, other);
        }
    }
}

/// A component's random stream.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream `label` of `seed`, number `index`.
    pub fn fork(seed: u64, label: &str, index: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(fork_seed(seed, label, index)))
    }
}

impl Draw for Rng {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// The seed of a part: what a process is given to seed its own generators with.
pub fn fork_seed(seed: u64, label: &str, index: u64) -> u64 {
    xxh3_64_with_seed(label.as_bytes(), xxh3_64_with_seed(&index.to_le_bytes(), seed))
}

/// The random stream of one link (the generator is SplitMix64).
#[derive(Clone, Debug)]
pub struct LinkRng(u64);

impl LinkRng {
    /// The stream of link number `index`.
    pub fn new(seed: u64, index: u64) -> Self {
        Self(fork_seed(seed, "link", index))
    }
}

impl Draw for LinkRng {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// A delay in nanoseconds: how it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The shortest.
    pub min: u64,
    /// With a mean, the part above `min` is exponential around it; without, uniform up to `max`.
    pub mean: Option<u64>,
    /// The longest.
    pub max: u64,
}

impl Latency {
    /// Draws one.
    pub fn draw(&self, rng: &mut impl Draw) -> u64 {
        match self.mean {
            Some(mean) => (self.min + rng.exponential(mean.saturating_sub(self.min))).min(self.max),
            None => rng.between(self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_label_and_index() {
        let first = |seed, label, index| Rng::fork(seed, label, index).next_u64();
        let base = first(1, "network", 0);
        assert_eq!(base, first(1, "network", 0));
        assert_ne!(base, first(2, "network", 0));
        assert_ne!(base, first(1, "disk", 0));
        assert_ne!(base, first(1, "network", 1));
    }

    #[test]
    fn draws_stay_in_range_and_around_their_mean() {
        let mut rng = Rng::fork(7, "test", 0);
        let mut sum = 0;
        for _ in 0..100_000 {
            let value = rng.exponential(1_000);
            sum += value;
            assert!(value <= 64 * 1_000);
            let between = rng.between(3, 5);
            assert!((3..=5).contains(&between));
        }
        assert!((950..1_050).contains(&(sum / 100_000)), "mean {}", sum / 100_000);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.between(9, 2), 9);
    }

    #[test]
    fn a_latency_keeps_its_bounds() {
        let mut rng = LinkRng::new(1, 0);
        let exponential = Latency { min: 100, mean: Some(300), max: 1_000 };
        let uniform = Latency { min: 100, mean: None, max: 200 };
        for _ in 0..10_000 {
            assert!((100..=1_000).contains(&exponential.draw(&mut rng)));
            assert!((100..=200).contains(&uniform.draw(&mut rng)));
        }
    }
}
