//! Which versions a flush or a compaction keeps.
//!
//! Each local id has a watermark, and nobody reads below it. So of the versions of a key at or below
//! it only the newest can still be seen, and if that is a tombstone, it need not be stored at all,
//! unless an older version lies in a table that the step does not see: below it in the tree. All
//! versions above the watermark are kept.

use std::collections::BTreeMap;

use kv_core::id::Timestamp;

use super::key::{is_tombstone, local_id_of, prefix_of, version_of};

/// The oldest timestamps that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Of local ids that have one of their own.
    listed: BTreeMap<u32, Timestamp>,
    /// Of all others.
    others: Timestamp,
}

impl Watermarks {
    /// The same one for all local ids.
    pub fn everywhere(watermark: Timestamp) -> Self {
        Self { listed: BTreeMap::new(), others: watermark }
    }

    /// Those of some local ids. Of all others only the newest versions are read.
    pub fn of(listed: BTreeMap<u32, Timestamp>) -> Self {
        Self { listed, others: Timestamp::MAX }
    }

    /// That of a local id.
    pub fn get(&self, local_id: u32) -> Timestamp {
        self.listed.get(&local_id).copied().unwrap_or(self.others)
    }
}

/// Decides entry by entry, in key order.
#[derive(Debug)]
pub(super) struct Retention {
    watermarks: Watermarks,
    /// That of the last entry's local id.
    watermark: Timestamp,
    /// The key, without version, of the last entry.
    prefix: Vec<u8>,
    /// The version of the last entry.
    version: Option<u64>,
    /// Whether the newest version at or below the watermark has come by.
    is_settled: bool,
}

impl Retention {
    pub(super) fn new(watermarks: Watermarks) -> Self {
        let (watermark, prefix) = (Timestamp(0), Vec::new());
        Self { watermarks, watermark, prefix, version: None, is_settled: false }
    }

    /// Takes back the last decision, on the first entry of a key, so that it can be asked again.
    pub(super) fn forget(&mut self) {
        self.version = None;
    }

    /// Whether an entry is kept. `is_bottom` says whether no table that the step does not see has
    /// older versions of the key.
    pub(super) fn keeps(
        &mut self,
        key: &[u8],
        value: &[u8],
        is_bottom: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        let prefix = prefix_of(key);
        let version = version_of(key);
        if self.version.is_none() || self.prefix != prefix {
            self.begin_key(prefix);
        } else if self.version == Some(version) {
            // An older copy of the same version.
            return false;
        }
        self.version = Some(version);
        if version > self.watermark.0 {
            return true;
        }
        if self.is_settled {
            return false;
        }
        self.is_settled = true;
        !(is_tombstone(value) && is_bottom(prefix))
    }

    fn begin_key(&mut self, prefix: &[u8]) {
        let local_id = local_id_of(prefix);
        // Most keys are of the same local id as the one before.
        if self.version.is_none() || local_id_of(&self.prefix) != local_id {
            self.watermark = self.watermarks.get(local_id);
        }
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        self.is_settled = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stored entry of one key of a local id; a negative version is a tombstone.
    fn entry(local_id: u32, version: i64) -> (Vec<u8>, &'static [u8]) {
        let mut key = local_id.to_be_bytes().to_vec();
        key.extend_from_slice(b"key");
        key.extend_from_slice(&(!version.unsigned_abs()).to_be_bytes());
        (key, if version < 0 { &[0] } else { &[1] })
    }

    /// What is kept of the versions of one key; a negative number is a tombstone.
    #[track_caller]
    fn check(watermark: u64, is_bottom: bool, versions: &[i64], kept: &[i64]) {
        let mut retention = Retention::new(Watermarks::everywhere(Timestamp(watermark)));
        let keeps = |version: &i64| {
            let (key, value) = entry(5, *version);
            retention.keeps(&key, value, |_| is_bottom)
        };
        let found: Vec<_> = versions.iter().copied().filter(keeps).collect();
        assert_eq!(found, kept);
    }

    #[test]
    fn versions_collapse_at_the_watermark() {
        check(0, true, &[9, 7, -5, 3], &[9, 7, -5, 3]);
        check(6, true, &[9, 7, 5, 3], &[9, 7, 5]);
        check(9, true, &[9, 7, 5, 3], &[9]);
        check(6, false, &[9, 7, -5, 3], &[9, 7, -5]);
        check(6, true, &[9, 7, -5, 3], &[9, 7]);
        check(6, true, &[9, -7, 5, -3], &[9, -7, 5]);
        check(9, true, &[-9, 3], &[]);
        check(9, true, &[8, 8, 8], &[8]);
        check(1, true, &[8, 8, 2, 2], &[8, 2]);
    }

    #[test]
    fn each_local_id_has_its_own_watermark() {
        let listed = BTreeMap::from([(1, Timestamp(6)), (2, Timestamp(0)), (4, Timestamp(8))]);
        let mut retention = Retention::new(Watermarks::of(listed));
        let mut kept = Vec::new();
        for local_id in 0..=4 {
            for version in [9, 7, -5, 3] {
                let (key, value) = entry(local_id, version);
                if retention.keeps(&key, value, |_| true) {
                    kept.push((local_id, version));
                }
            }
        }
        let all_of_2 = [9, 7, -5, 3].map(|version| (2, version));
        let expected = [&[(0, 9), (1, 9), (1, 7)][..], &all_of_2, &[(3, 9), (4, 9), (4, 7)]];
        assert_eq!(kept, expected.concat());
    }

    /// A compaction that ends a table asks for the first entry of the next one again.
    #[test]
    fn question_is_asked_again_after_it_was_taken_back() {
        let listed = BTreeMap::from([(1, Timestamp(0)), (2, Timestamp(9))]);
        let mut retention = Retention::new(Watermarks::of(listed));
        let mut keeps = |local_id, version| {
            let (key, value) = entry(local_id, version);
            let keeps = retention.keeps(&key, value, |_| true);
            retention.forget();
            (keeps, retention.keeps(&key, value, |_| true))
        };
        assert_eq!(keeps(1, 9), (true, true));
        assert_eq!(keeps(2, 9), (true, true));
        assert_eq!(keeps(3, 7), (true, true));
    }
}
