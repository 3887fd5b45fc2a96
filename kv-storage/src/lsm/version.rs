//! Which tables the tree consists of.
//!
//! Level 0 holds flushed memtables, which overlap. Every level below is one run. Flushes and
//! compactions make a new [`Version`]; whoever reads holds on to the one it began with.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::key::{LOCAL_ID_BYTES, local_id_of};
use super::options::TreeOptions;
use super::table::{Run, Table};

/// Count of levels, level 0 included. The last one fills first, and levels above it come into use
/// as it grows.
pub(super) const LEVEL_COUNT: usize = 7;
/// The last level.
pub(super) const LEVEL_MAX: usize = LEVEL_COUNT - 1;

/// The tables of a tree at one time.
///
/// - Level 0 has one table per run, the newest first. A newer one has a higher number.
/// - A key's versions in a level are all newer than those in the levels below.
/// - Tables of a level from 1 on do not overlap, not even in a key's versions, and are sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Version {
    /// Level 0, the newest first.
    pub(super) level0: Vec<Run>,
    /// The levels from 1 on; empty runs included.
    pub(super) levels: [Run; LEVEL_MAX],
    /// Size of each level, level 0 included.
    level_bytes: [u64; LEVEL_COUNT],
}

impl Version {
    /// The version with some tables less and some more.
    pub(super) fn with(&self, removed: &BTreeSet<u64>, added: Vec<(usize, Arc<Table>)>) -> Self {
        let mut levels: [Vec<Arc<Table>>; LEVEL_COUNT] = Default::default();
        let kept = self.tables().filter(|(_, table)| !removed.contains(&table.meta.number));
        let mut level_bytes = [0; LEVEL_COUNT];
        for (level, table) in kept.map(|(level, table)| (level, table.clone())).chain(added) {
            level_bytes[level] += table.meta.size;
            levels[level].push(table);
        }
        let [mut level0, rest @ ..] = levels;
        level0.sort_by_key(|table| std::cmp::Reverse(table.meta.number));
        Self {
            level0: level0.into_iter().map(|table| Arc::new(vec![table])).collect(),
            levels: rest.map(|mut level| {
                level.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
                Arc::new(level)
            }),
            level_bytes,
        }
    }

    /// All runs, the newest first.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.level0.iter().chain(self.levels.iter().filter(|run| !run.is_empty()))
    }

    /// The run of a level from 1 on.
    pub(super) fn run(&self, level: usize) -> &Run {
        &self.levels[level - 1]
    }

    /// All tables with their levels.
    pub(super) fn tables(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        let level0 = self.level0.iter().flat_map(|run| run.iter()).map(|table| (0, table));
        level0.chain(
            self.levels
                .iter()
                .enumerate()
                .flat_map(|(above, run)| run.iter().map(move |table| (above + 1, table))),
        )
    }

    /// Size of a level.
    pub(super) fn level_bytes(&self, level: usize) -> u64 {
        self.level_bytes[level]
    }

    /// The size that each level should not exceed. Zero for a level that should not be in use.
    ///
    /// The last level may be as large as it likes, and each above is smaller by the multiplier, as
    /// long as that is worth a level.
    pub(super) fn targets(&self, options: &TreeOptions) -> [u64; LEVEL_COUNT] {
        let mut targets = [0; LEVEL_COUNT];
        targets[LEVEL_MAX] = u64::MAX;
        let mut target = self.level_bytes(LEVEL_MAX);
        for level in (1..LEVEL_MAX).rev() {
            target /= options.level_multiplier;
            if target < options.base_level_bytes {
                break;
            }
            targets[level] = target;
        }
        targets
    }

    /// The level that level 0 is compacted into: the first that is in use.
    pub(super) fn base_level(&self, options: &TreeOptions) -> usize {
        let targets = self.targets(options);
        (1..LEVEL_MAX)
            .find(|level| targets[*level] > 0 || !self.run(*level).is_empty())
            .unwrap_or(LEVEL_MAX)
    }

    /// The tables of a level from 1 on that may hold versions of keys from `first` to `last`.
    pub(super) fn overlapping(&self, level: usize, first: &[u8], last: &[u8]) -> Vec<Arc<Table>> {
        let run = self.run(level).iter();
        run.filter(|table| table.meta.overlaps(first, last)).cloned().collect()
    }

    /// Whether any table holds keys of a deleted local id, or may. Those from a number on do not.
    pub(super) fn may_hold(&self, local_id: u32, clean_from: u64) -> bool {
        self.tables().any(|(_, table)| may_hold(table, local_id, clean_from))
    }
}

/// Whether a table may hold keys of a deleted local id. Those from a number on do not, even if
/// they hold keys of local ids before and behind it.
pub(super) fn may_hold(table: &Table, local_id: u32, clean_from: u64) -> bool {
    let ids = local_id_of(&table.meta.smallest)..=local_id_of(&table.meta.largest);
    table.meta.number < clean_from && ids.contains(&local_id)
}

/// Whether a table holds keys of these local ids only.
pub(super) fn is_within(table: &Table, local_ids: &BTreeSet<u32>) -> bool {
    debug_assert!(table.meta.smallest.len() > LOCAL_ID_BYTES);
    let first = local_id_of(&table.meta.smallest);
    first == local_id_of(&table.meta.largest) && local_ids.contains(&first)
}
