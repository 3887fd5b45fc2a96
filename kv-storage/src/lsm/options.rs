//! How a tree is laid out. Everything may change from one opening to the next.

use crate::mutants::Mutants;

/// The options of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// Whose tree it is: the incarnation of the data directory. Part of every checksum, so a file
    /// brought from another node's directory is damage. Must be the same at every opening.
    pub owner: u64,
    /// Size in memory at which a memtable should be sealed. One more of that size may wait for its
    /// flush, so memtables take about twice as much.
    pub memtable_bytes: u64,
    /// Memory for blocks, filters and block indexes of tables together. Filters and indexes always
    /// stay in memory; blocks get the rest, but at least an eighth.
    pub cache_bytes: u64,
    /// Size of a data block before compression. Larger blocks scan faster, smaller ones waste less
    /// of a read.
    pub block_bytes: usize,
    /// Every how many entries a block holds a whole key.
    pub restart_interval: usize,
    /// Bits of the bloom filter for each key. 10 answer about 99 % of the misses.
    pub bloom_bits_per_key: usize,
    /// Size at which compaction starts the next table.
    pub table_bytes: u64,
    /// Least size of a level between level 0 and the last one.
    pub base_level_bytes: u64,
    /// How many times larger each level is than the one above.
    pub level_multiplier: u64,
    /// Count of tables in level 0 from which they are compacted.
    pub level0_compact: usize,
    /// Count of tables in level 0 at which writes should stand still.
    pub level0_stop: usize,
    /// Whether blocks are compressed with LZ4. Tables of both kinds may stand side by side.
    pub compression: bool,
    /// Planted bugs: none in production.
    pub mutants: Mutants,
}

impl TreeOptions {
    /// The options of a data directory with the incarnation `owner`.
    pub fn new(owner: u64) -> Self {
        Self {
            owner,
            memtable_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            block_bytes: 4096,
            restart_interval: 8,
            bloom_bits_per_key: 10,
            table_bytes: 32 << 20,
            base_level_bytes: 256 << 20,
            level_multiplier: 10,
            level0_compact: 4,
            level0_stop: 12,
            compression: false,
            mutants: Mutants::NONE,
        }
    }

    /// What the tree should hold in memory at most: memtables, blocks, filters and indexes.
    pub fn memory_bytes(&self) -> u64 {
        2 * self.memtable_bytes + self.cache_bytes
    }
}
