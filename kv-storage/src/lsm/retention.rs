//! Which versions a flush or a compaction keeps.
//!
//! Nobody reads below the watermark. So of the versions of a key at or below it only the newest can
//! still be seen, and if that is a tombstone, it need not be stored at all, unless an older version
//! lies in a table that the step does not see: below it in the tree. All versions above the
//! watermark are kept.

use kv_core::id::Timestamp;

use super::key::{is_tombstone, prefix_of, version_of};

/// Decides entry by entry, in key order.
#[derive(Debug)]
pub(super) struct Retention {
    watermark: Timestamp,
    /// The key, without version, of the last entry.
    prefix: Vec<u8>,
    /// The version of the last entry.
    version: Option<u64>,
    /// Whether the newest version at or below the watermark has come by.
    is_settled: bool,
}

impl Retention {
    pub(super) fn new(watermark: Timestamp) -> Self {
        Self { watermark, prefix: Vec::new(), version: None, is_settled: false }
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
            self.prefix.clear();
            self.prefix.extend_from_slice(prefix);
            self.is_settled = false;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of the versions of one key; a negative number is a tombstone.
    #[track_caller]
    fn check(watermark: u64, is_bottom: bool, versions: &[i64], kept: &[i64]) {
        let mut retention = Retention::new(Timestamp(watermark));
        let keeps = |version: &i64| {
            let mut key = b"shardkey".to_vec();
            key.extend_from_slice(&(!version.unsigned_abs()).to_be_bytes());
            let value: &[u8] = if *version < 0 { &[0] } else { &[1] };
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
}
