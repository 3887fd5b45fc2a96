//! The bloom filter of a table, over keys without their versions.
//!
//! The filter is cut into lines of 64 bytes. A key's hash chooses a line and then bits within it,
//! so a probe costs one cache miss. At 10 bits for each key about one absent key in a hundred
//! passes; a present key always does.
//!
//! ```text
//! size  field
//!    1  bits that each key sets
//!    *  lines
//! ```

use xxhash_rust::xxh3::xxh3_64;

use super::error::Malformed;

const LINE_BYTES: usize = 64;
/// More set bits cost time and help little.
const PROBES_MAX: usize = 16;

/// The hash of a key without its version. Part of the format.
pub(super) fn hash(prefix: &[u8]) -> u64 {
    xxh3_64(prefix)
}

/// Builds the filter of keys with these hashes.
pub(super) fn build(hashes: &[u64], bits_per_key: usize) -> Vec<u8> {
    let lines = (hashes.len() * bits_per_key).div_ceil(LINE_BYTES * 8).max(1);
    // The optimum is ln 2 bits of each key's share.
    let probes = (bits_per_key * 69 / 100).clamp(1, PROBES_MAX);
    let mut filter = vec![0; 1 + lines * LINE_BYTES];
    filter[0] = probes as u8;
    for hash in hashes {
        let line = line_of(*hash, lines);
        let line = &mut filter[1 + line * LINE_BYTES..][..LINE_BYTES];
        for bit in bits(*hash, probes) {
            line[bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// A filter that was read from a table.
#[derive(Debug)]
pub(super) struct Bloom {
    bytes: Vec<u8>,
    probes: usize,
    lines: usize,
}

impl Bloom {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let probes = usize::from(*bytes.first().ok_or(Malformed)?);
        let lines = (bytes.len() - 1) / LINE_BYTES;
        let is_whole = lines > 0 && bytes.len() == 1 + lines * LINE_BYTES;
        match is_whole && (1..=PROBES_MAX).contains(&probes) {
            true => Ok(Self { bytes, probes, lines }),
            false => Err(Malformed),
        }
    }

    /// Whether a key with this hash may be in the table. Never denies one that is.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let line = line_of(hash, self.lines);
        let line = &self.bytes[1 + line * LINE_BYTES..][..LINE_BYTES];
        bits(hash, self.probes).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0)
    }

    pub(super) fn memory(&self) -> u64 {
        self.bytes.capacity() as u64
    }
}

/// The upper half of the hash, scaled to the count of lines.
fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

/// Nine bits each of a walk that starts at the lower half of the hash.
fn bits(hash: u64, probes: usize) -> impl Iterator<Item = usize> {
    let mut walk = hash as u32;
    (0..probes).map(move |_| {
        walk = walk.wrapping_mul(0x9e37_79b9);
        (walk >> 23) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_present_key_is_denied(
            keys in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..20), 0..400),
            bits_per_key in 1_usize..30,
        ) {
            let hashes: Vec<_> = keys.iter().map(|key| hash(key)).collect();
            let bloom = Bloom::parse(build(&hashes, bits_per_key)).unwrap();
            for key in &keys {
                prop_assert!(bloom.may_contain(hash(key)));
            }
        }
    }

    #[test]
    fn about_one_absent_key_in_a_hundred_passes() {
        let hash_of = |i: u64| hash(&i.to_be_bytes());
        let hashes: Vec<_> = (0..100_000).map(hash_of).collect();
        let bloom = Bloom::parse(build(&hashes, 10)).unwrap();
        let passed = (100_000..200_000).filter(|i| bloom.may_contain(hash_of(*i))).count();
        assert!(passed < 1_600, "{passed} of 100,000 absent keys passed");
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [vec![], vec![7], vec![0; 65], vec![17; 65], vec![7; 66]] {
            assert_eq!(Bloom::parse(bytes).err(), Some(Malformed));
        }
    }
}
