//! The newest entries, in memory.
//!
//! Keys and values are copied one after the other into an *arena* of chunks, and a B+ tree of
//! places in the arena keeps them in order. A node holds the first sixteen bytes of each key as a
//! number, so a search seldom leaves the node to compare: those bytes are local id, keyspace and
//! the first eight bytes of the key itself.
//!
//! Nothing is ever removed, so a reader that wants the newest version at or below a timestamp is
//! not disturbed by later writes of the same key, which have later versions. A memtable is *active* while it is
//! written to and then *sealed*, until its flush.

mod arena;
mod nodes;
mod pool;
mod tree;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub(super) use pool::Pool;
pub(super) use tree::Place;
use tree::Tree;

use super::key::{prefix_of, version_of};

/// A sorted set of entries.
#[derive(Debug)]
pub(super) struct Memtable(RwLock<Tree>);

/// A memtable that is being read.
#[derive(Debug)]
pub(super) struct MemtableGuard<'a>(RwLockReadGuard<'a, Tree>);

impl Memtable {
    /// An empty memtable that takes its memory from a pool and gives it back.
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self(RwLock::new(Tree::new(pool)))
    }

    /// Adds entries. One with the key of an earlier one replaces it.
    pub(super) fn write<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, batch: &[(K, V)]) {
        let mut tree: RwLockWriteGuard<'_, Tree> =
            self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
            tree.insert(key.as_ref(), value.as_ref());
        }
    }

    /// Looks in.
    pub(super) fn read(&self) -> MemtableGuard<'_> {
        MemtableGuard(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MemtableGuard<'_> {
    /// Memory in use.
    pub(super) fn memory(&self) -> u64 {
        self.0.memory()
    }

    /// Bytes of keys and values.
    pub(super) fn content_bytes(&self) -> u64 {
        self.0.content_bytes()
    }

    /// The version and stored value at the first entry that is not below `target`, if its key has
    /// the first `prefix_bytes` bytes of `target` as prefix.
    pub(super) fn get(&self, target: &[u8], prefix_bytes: usize) -> Option<(u64, Bytes)> {
        let (key, value) = self.0.entry(self.0.seek(target))?;
        (*prefix_of(key) == target[..prefix_bytes])
            .then(|| (version_of(key), Bytes::copy_from_slice(value)))
    }

    /// Where the first entry is.
    pub(super) fn first(&self) -> Place {
        self.0.first()
    }

    /// Where the first entry that is not below `target` is.
    pub(super) fn seek(&self, target: &[u8]) -> Place {
        self.0.seek(target)
    }

    /// The entry at a place.
    pub(super) fn entry(&self, place: Place) -> Option<(&[u8], &[u8])> {
        self.0.entry(place)
    }

    /// The place after one that has an entry.
    pub(super) fn next(&self, place: Place) -> Place {
        self.0.next(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entries(memtable: &MemtableGuard<'_>, from: Place) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut place = from;
        let mut out = Vec::new();
        while let Some((key, value)) = memtable.entry(place) {
            out.push((key.to_vec(), value.to_vec()));
            place = memtable.next(place);
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            batch in proptest::collection::vec(
                (proptest::collection::vec(0_u8..4, 0..24), 0_u8..9), 0..2000),
            target in proptest::collection::vec(0_u8..4, 0..24),
        ) {
            let batch: Vec<_> =
                batch.into_iter().map(|(key, value)| (key, vec![value; 3])).collect();
            let memtable = Memtable::new(Arc::default());
            memtable.write(&batch);
            let model: BTreeMap<_, _> = batch.into_iter().collect();
            let memtable = memtable.read();
            let expected: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(entries(&memtable, memtable.first()), expected);
            let expected: Vec<_> =
                model.range(target.clone()..).map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(entries(&memtable, memtable.seek(&target)), expected);
        }
    }

    #[test]
    fn ascending_keys_fill_their_nodes() {
        let batch: Vec<_> = (0..100_000_u64).map(|i| (i.to_be_bytes(), b"v")).collect();
        let memtable = Memtable::new(Arc::default());
        memtable.write(&batch);
        let memtable = memtable.read();
        assert_eq!(entries(&memtable, memtable.first()).len(), batch.len());
        assert!(memtable.memory() < 100_000 * 48, "{} bytes", memtable.memory());
    }

    #[test]
    fn random_keys_fill_their_nodes_by_two_thirds() {
        let mut rng = kv_core::rng::Rng::fork(1, "keys");
        let batch: Vec<_> = (0..100_000).map(|_| (rng.next_u64().to_be_bytes(), b"v")).collect();
        let memtable = Memtable::new(Arc::default());
        memtable.write(&batch);
        let memory = memtable.read().memory();
        assert!(memory < 100_000 * 60, "{memory} bytes");
    }

    #[test]
    fn the_next_memtable_takes_what_the_last_one_left() {
        let pool = Arc::new(Pool::new(2 << 20));
        let batch: Vec<_> = (0..100_000_u64).map(|i| (i.to_be_bytes(), [7; 30])).collect();
        for _ in 0..3 {
            let memtable = Memtable::new(pool.clone());
            memtable.write(&batch);
            assert_eq!(pool.bytes(), 0);
            assert_eq!(entries(&memtable.read(), memtable.read().first()).len(), batch.len());
            drop(memtable);
            assert!((2 << 20..(2 << 20) + (1 << 20)).contains(&pool.bytes()), "{}", pool.bytes());
        }
    }

    #[test]
    fn a_value_larger_than_a_chunk_fits() {
        let memtable = Memtable::new(Arc::default());
        let large = vec![7; 3 << 20];
        memtable.write(&[(b"a".to_vec(), large.clone()), (b"b".to_vec(), b"small".to_vec())]);
        let memtable = memtable.read();
        assert_eq!(memtable.entry(memtable.first()), Some((&b"a"[..], &large[..])));
        assert_eq!(entries(&memtable, memtable.seek(b"b")).len(), 1);
    }
}
