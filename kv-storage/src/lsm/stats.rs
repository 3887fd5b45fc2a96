//! What a tree tells about itself.

use super::tree::Tree;
use super::version::LEVEL_COUNT;

/// What a tree did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCounters {
    /// Bytes of keys and values that were written.
    pub bytes_put: u64,
    /// Flushes that were completed.
    pub flush_count: u64,
    /// Compactions that were completed, without those that only moved tables.
    pub compaction_count: u64,
}

/// What a tree consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeStats {
    /// Count of tables of each level.
    pub level_tables: [usize; LEVEL_COUNT],
    /// Size of each level.
    pub level_bytes: [u64; LEVEL_COUNT],
    /// Count of entries in tables: every kept version of every key, and tombstones.
    pub entry_count: u64,
    /// Memory of all memtables.
    pub memtable_bytes: u64,
    /// Memory that is kept for the next memtables.
    pub spare_bytes: u64,
    /// Memory of filters and block indexes.
    pub pinned_bytes: u64,
    /// Memory of cached blocks.
    pub cached_bytes: u64,
    /// Lookups of blocks that the cache had.
    pub cache_hits: u64,
    /// Lookups of blocks that had to be read.
    pub cache_misses: u64,
    /// What was done so far.
    pub counters: TreeCounters,
}

impl TreeStats {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut stats = Self { counters: tree.counters, ..Self::default() };
        for (level, table) in tree.view.version.tables() {
            stats.level_tables[level] += 1;
            stats.level_bytes[level] += table.meta.size;
            stats.entry_count += table.meta.entry_count;
            stats.pinned_bytes += table.memory();
        }
        stats.memtable_bytes =
            tree.view.memtables.iter().map(|memtable| memtable.read().memory()).sum();
        stats.spare_bytes = tree.pool.bytes();
        stats.cached_bytes = tree.view.cache.used();
        (stats.cache_hits, stats.cache_misses) = tree.view.cache.hits_and_misses();
        stats
    }
}
