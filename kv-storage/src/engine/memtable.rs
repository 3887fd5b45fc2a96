//! Keys and values in memory, in the form in which a table will store them.
//!
//! Stored keys sort by shard, keyspace, key and then the newest version first, so the newest
//! version at or below a timestamp is the first key at or after `(shard, key, timestamp)`.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kv_core::id::Timestamp;
use kv_core::machine::{LocalShardId, StoredKey, VersionedWrite, decode_value, encode_value};
use kv_core::op::{Found, Key, Value};

/// A sorted map of stored keys to stored values.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    entries: BTreeMap<StoredKey, Bytes>,
}

impl Memtable {
    /// How many versions are stored.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Stores a version and drops the older ones of its key; a tombstone leaves nothing.
    pub(super) fn write(&mut self, shard: LocalShardId, write: &VersionedWrite) {
        while let Some((older, _)) = self.first_at(shard, &write.key, write.version) {
            let older = older.clone();
            self.entries.remove(&older);
        }
        if write.value.is_some() {
            let key = StoredKey::encode(shard, &write.key, write.version);
            self.entries.insert(key, encode_value(write.value.as_ref()));
        }
    }

    /// The newest version of `key` at or below `at`.
    pub(super) fn newest(
        &self,
        shard: LocalShardId,
        key: &Key,
        at: Timestamp,
    ) -> Option<(Timestamp, Option<Value>)> {
        let (stored, value) = self.first_at(shard, key, at)?;
        let version = stored.version().expect("the memtable holds stored keys");
        Some((version, decode_value(value).expect("the memtable holds stored values")))
    }

    /// A shard's keys with their newest values, in order.
    pub(super) fn scan(&self, shard: LocalShardId) -> impl Iterator<Item = (Key, Found)> {
        let start = StoredKey(shard.0.to_be_bytes().to_vec());
        let end = match shard.0.checked_add(1) {
            Some(next) => Bound::Excluded(StoredKey(next.to_be_bytes().to_vec())),
            None => Bound::Unbounded,
        };
        self.entries.range((Bound::Included(start), end)).filter_map(|(stored, value)| {
            let (_, key, version) = stored.decode().expect("the memtable holds stored keys");
            let value = decode_value(value).expect("the memtable holds stored values")?;
            Some((key, Found { version, value }))
        })
    }

    fn first_at(
        &self,
        shard: LocalShardId,
        key: &Key,
        at: Timestamp,
    ) -> Option<(&StoredKey, &Bytes)> {
        let start = StoredKey::encode(shard, key, at);
        let (stored, value) = self.entries.range(&start..).next()?;
        let prefix_bytes = start.0.len() - size_of::<Timestamp>();
        stored.0.starts_with(&start.0[..prefix_bytes]).then_some((stored, value))
    }
}
