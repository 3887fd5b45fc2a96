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
//!
//! # A state that came from elsewhere
//!
//! When a snapshot is installed, the tree is told first, and when that is durable, the log: it is
//! released up to the *installed* entry, which it may not reach or may contradict. The tree
//! remembers which entry that was. A crash between the two leaves a floor before the installed
//! entry, so the floor says whether the log was told:
//!
//! - A floor at or behind the installed entry: the log was told, and everything above holds. If it
//!   ends before what is applied, it has lost its end.
//! - A floor before it, and the log holds the very entry that was installed: being told would change
//!   nothing behind it. Everything above holds as well.
//! - A floor before it, and the log ends before it or holds another entry there. Then nothing in the
//!   log is needed: it is reset, to begin and end at the installed entry, and keeps its hard state.
//!   Entries behind the installed one come into the log only after it was told, and what is told
//!   later is durable later. So nothing behind it can have been applied, and if something was, the
//!   log has lost that it was told.
//!
//! # A shard that was removed
//!
//! Here too the tree is told first, and remembers it until the shard has a state again. If the log
//! of such a shard has a floor, that is from before: a log that begins anew has none until its
//! entries were applied and flushed. It is reset to nothing but the hard state. Without a floor the
//! log holds every entry from the first one on. They may be from before too, but they are the
//! group's, and can be applied again.
//!
//! A tree that holds nothing of a shard, and does not say that it was removed, has lost it if the
//! log has a floor.

use std::collections::BTreeMap;

use kv_core::id::{LogId, LogIndex, ShardId, Term};
use kv_core::storage::{HardState, RecoveredGroup, StorageDamage};

use crate::log::LogGroup;
use crate::mutants::{Mutant, Mutants};

/// What the applied state says of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The last applied entry.
    pub(crate) applied: LogId,
    /// The entry at which the state came from elsewhere; zero if it never did.
    pub(crate) installed: LogId,
    /// Whether the shard was here, and is not any more. Then nothing is applied.
    pub(crate) is_removed: bool,
}

/// What the log and the applied state come to.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) groups: BTreeMap<ShardId, RecoveredGroup>,
    /// Groups whose log must be cut to begin and end at what is applied, which may be nothing.
    pub(crate) resets: BTreeMap<ShardId, LogId>,
}

/// Joins what the log holds of each group with what is applied.
///
/// # Errors
/// [`StorageDamage`] if one of the two has lost something.
pub(crate) fn join(
    mut logs: BTreeMap<ShardId, LogGroup>,
    held: &BTreeMap<ShardId, Held>,
    mutants: Mutants,
) -> Result<Joined, StorageDamage> {
    let mut joined = Joined::default();
    for shard in held.keys() {
        logs.entry(*shard).or_default();
    }
    for (shard, LogGroup { hard_state, floor, entries }) in logs {
        let held = held.get(&shard).copied().unwrap_or_default();
        let applied = held.applied;
        let mut group = RecoveredGroup {
            transactions: Default::default(),
            hard_state,
            floor,
            entries,
            applied,
            configuration: None,
            is_removed: held.is_removed,
        };
        let is_reset = match () {
            () if held.is_removed => floor.index > LogIndex::default(),
            () if is_unheard(&group, held.installed) => match applied == held.installed {
                true => true,
                false => return Err(lost(shard, applied, floor, last_of(&group))),
            },
            () => {
                check(shard, &group)?;
                let agrees = term_at(&group, applied) == Some(applied.term);
                !agrees && !mutants.has(Mutant::AppliedTermIgnored)
            }
        };
        if is_reset {
            group.floor = applied;
            group.entries.clear();
            joined.resets.insert(shard, applied);
        }
        let commit = group.hard_state.commit.max(applied.index);
        let end = last_of(&group).index;
        group.hard_state = HardState { commit: commit.min(end), ..group.hard_state };
        // Of a shard that was removed, and that the log was never told of, nothing is left.
        if !(held.is_removed && group == RecoveredGroup::default()) {
            joined.groups.insert(shard, group);
        }
    }
    Ok(joined)
}

/// Whether the log was not told that a state was installed, and needs to be.
fn is_unheard(group: &RecoveredGroup, installed: LogId) -> bool {
    group.floor.index < installed.index && term_at(group, installed) != Some(installed.term)
}

/// Whether neither log nor applied state has lost something.
fn check(shard: ShardId, group: &RecoveredGroup) -> Result<(), StorageDamage> {
    let (applied, floor, last) = (group.applied, group.floor, last_of(group));
    let is_behind = applied.index < floor.index;
    let contradicts = applied.index == floor.index && applied.term != floor.term;
    match is_behind || contradicts || last.index < applied.index {
        true => Err(lost(shard, applied, floor, last)),
        false => Ok(()),
    }
}

fn last_of(group: &RecoveredGroup) -> LogId {
    group.entries.last().map_or(group.floor, |entry| entry.id)
}

/// The term of the entry at the index of `id`, which is at or behind the floor, if the log reaches
/// so far.
fn term_at(group: &RecoveredGroup, id: LogId) -> Option<Term> {
    let count = (id.index.0 - group.floor.index.0) as usize;
    let Some(before) = count.checked_sub(1) else { return Some(group.floor.term) };
    group.entries.get(before).map(|entry| entry.id.term)
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
