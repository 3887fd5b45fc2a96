//! What a node starts from: the log, compared with the applied state.
//!
//! Only what is durable in the log is ever applied, and the log is released only up to what is
//! durable in the tables. So whatever a crash leaves:
//!
//! - the log begins at or before what is applied, and reaches at least as far;
//! - its entry there has the applied entry's *term*. If not, its entries are of another history:
//!   what is applied came from elsewhere and replaced them, and the crash came before the log was
//!   told. They are given up.
//!
//! A log that ends before what is applied has lost its end, which the log alone cannot always tell.
//! A floor was applied and durable before the log was released up to there. So a floor that is
//! behind what is applied, or is another entry of the same index, means that the tree has lost
//! something.

use std::collections::BTreeMap;

use kv_core::id::{LogId, ShardId, Term};
use kv_core::storage::{HardState, RecoveredGroup, StorageDamage};

use crate::log::LogGroup;
use crate::mutants::{Mutant, Mutants};

/// What the log and the applied state come to.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) groups: BTreeMap<ShardId, RecoveredGroup>,
    /// Groups whose log must be cut to begin and end at what is applied.
    pub(crate) resets: BTreeMap<ShardId, LogId>,
}

/// Joins what the log holds of each group with what is applied.
///
/// # Errors
/// [`StorageDamage`] if one of the two has lost something.
pub(crate) fn join(
    mut logs: BTreeMap<ShardId, LogGroup>,
    applied: &BTreeMap<ShardId, LogId>,
    mutants: Mutants,
) -> Result<Joined, StorageDamage> {
    let mut joined = Joined::default();
    for shard in applied.keys() {
        logs.entry(*shard).or_default();
    }
    for (shard, log) in logs {
        let applied = applied.get(&shard).copied().unwrap_or_default();
        let (hard_state, floor) = (log.hard_state, log.floor);
        let last = log.entries.last().map_or(floor, |entry| entry.id);
        let is_behind = applied.index < floor.index;
        let contradicts = applied.index == floor.index && applied.term != floor.term;
        if is_behind || contradicts || last.index < applied.index {
            return Err(lost(shard, applied, floor, last));
        }
        let entries = log.entries;
        let mut group = RecoveredGroup { hard_state, floor, entries, applied, configuration: None };
        let agrees = term_at(&group, applied) == applied.term;
        if !agrees && !mutants.has(Mutant::AppliedTermIgnored) {
            group.floor = applied;
            group.entries.clear();
            joined.resets.insert(shard, applied);
        }
        let commit = group.hard_state.commit.max(applied.index);
        let end = group.entries.last().map_or(group.floor.index, |entry| entry.id.index);
        group.hard_state = HardState { commit: commit.min(end), ..group.hard_state };
        joined.groups.insert(shard, group);
    }
    Ok(joined)
}

/// The term of the log's entry at the index of `applied`, which is at or behind the floor.
fn term_at(group: &RecoveredGroup, applied: LogId) -> Term {
    let count = (applied.index.0 - group.floor.index.0) as usize;
    let Some(before) = count.checked_sub(1) else { return group.floor.term };
    group.entries.get(before).map(|entry| entry.id.term).unwrap_or_default()
}

fn lost(shard: ShardId, applied: LogId, floor: LogId, last: LogId) -> StorageDamage {
    let (file, what) = match applied.index <= floor.index {
        true => (
            crate::engine::TREE_FOLDER,
            format!("{shard} is applied up to {applied}, but the log begins behind {floor}"),
        ),
        false => {
            ("wal-*.log", format!("{shard} is applied up to {applied}, but the log ends at {last}"))
        }
    };
    StorageDamage { file: file.into(), offset: 0, what }
}
