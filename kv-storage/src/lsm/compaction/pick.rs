//! What to compact next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::key::prefix_of;
use super::super::options::TreeOptions;
use super::super::table::{Run, Table};
use super::super::version::{LEVEL_MAX, Version, is_within, may_hold};

/// How a plan is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanKind {
    /// The inputs are merged into new tables.
    Merge,
    /// The inputs overlap nothing and become tables of the output level as they are.
    Move,
    /// All keys of the inputs are deleted, so they are just removed.
    Drop,
}

/// A compaction that is due.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How.
    pub(crate) kind: PlanKind,
    /// The tables that go, with their levels: for each level in order, level 0 from new to old.
    pub(crate) inputs: Vec<(usize, Arc<Table>)>,
    /// Where the new tables go.
    pub(crate) output_level: usize,
}

impl Plan {
    /// Size of the inputs.
    pub(crate) fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, table)| table.meta.size).sum()
    }

    /// The inputs as runs, the newest first.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for chunk in self.inputs.chunk_by(|(a, _), (b, _)| a == b && *a > 0) {
            runs.push(Arc::new(chunk.iter().map(|(_, table)| table.clone()).collect()));
        }
        runs
    }
}

/// The compaction that helps most, if any is due. `deleted` are local ids that the manifest says
/// are deleted, and `clean_from` says from which number on tables hold none of their keys.
pub(crate) fn pick(
    version: &Version,
    options: &TreeOptions,
    deleted: &BTreeSet<u32>,
    clean_from: &BTreeMap<u32, u64>,
) -> Option<Plan> {
    if let Some(plan) = drop_deleted(version, deleted) {
        return Some(plan);
    }
    let targets = version.targets(options);
    // In thousandths of what is allowed.
    let score = |level: usize| match level {
        0 => version.level0.len() as u64 * 1000 / options.level0_compact as u64,
        // A level that should not be in use is emptied.
        _ => version.level_bytes(level).saturating_mul(1000) / targets[level].max(1),
    };
    let worst = (0..LEVEL_MAX).max_by_key(|level| (score(*level), Reverse(*level)))?;
    match worst {
        level if score(level) < 1000 => purge(version, clean_from),
        0 => Some(level0(version, options)),
        level => Some(one_table(version, level)),
    }
}

/// The compaction of everything into the last level.
pub(crate) fn full(version: &Version) -> Option<Plan> {
    let inputs: Vec<_> = version.tables().map(|(level, table)| (level, table.clone())).collect();
    (!inputs.is_empty()).then_some(Plan { kind: PlanKind::Merge, inputs, output_level: LEVEL_MAX })
}

/// Removes tables in which there is nothing but deleted keys.
fn drop_deleted(version: &Version, deleted: &BTreeSet<u32>) -> Option<Plan> {
    if deleted.is_empty() {
        return None;
    }
    let tables = version.tables().filter(|(_, table)| is_within(table, deleted));
    let inputs: Vec<_> = tables.map(|(level, table)| (level, table.clone())).collect();
    (!inputs.is_empty()).then_some(Plan { kind: PlanKind::Drop, inputs, output_level: LEVEL_MAX })
}

/// Compacts all of level 0.
fn level0(version: &Version, options: &TreeOptions) -> Plan {
    let tables: Vec<_> = version.level0.iter().flat_map(|run| run.iter().cloned()).collect();
    merge_into(version, 0, tables, version.base_level(options))
}

/// Compacts the table of a level that costs least for what it brings.
fn one_table(version: &Version, level: usize) -> Plan {
    let plan_of = |table: &Arc<Table>| merge_into(version, level, vec![table.clone()], level + 1);
    let cost = |plan: &Plan| {
        let own = plan.inputs.first().map_or(1, |(_, table)| table.meta.size.max(1));
        plan.input_bytes() * 1000 / own
    };
    let plans = version.run(level).iter().map(plan_of);
    plans.min_by_key(cost).expect("a level without tables has no size")
}

/// Rewrites a table that may hold deleted keys beside others, once nothing else is due.
fn purge(version: &Version, clean_from: &BTreeMap<u32, u64>) -> Option<Plan> {
    if clean_from.is_empty() {
        return None;
    }
    let holds_deleted =
        |table: &Table| clean_from.iter().any(|(id, from)| may_hold(table, *id, *from));
    let (level, table) = version.tables().find(|(_, table)| holds_deleted(table))?;
    match level {
        0 => {
            let tables = version.level0.iter().flat_map(|run| run.iter());
            let inputs: Vec<_> = tables.cloned().collect();
            let first = (1..LEVEL_MAX).find(|level| !version.run(*level).is_empty());
            let mut plan = merge_into(version, 0, inputs, first.unwrap_or(LEVEL_MAX));
            plan.kind = PlanKind::Merge;
            Some(plan)
        }
        level => {
            let inputs = vec![(level, table.clone())];
            Some(Plan { kind: PlanKind::Merge, inputs, output_level: level })
        }
    }
}

/// A plan to bring tables of a level down, along with what they overlap there.
fn merge_into(
    version: &Version,
    level: usize,
    tables: Vec<Arc<Table>>,
    output_level: usize,
) -> Plan {
    let mut below: Vec<Arc<Table>> = Vec::new();
    let first = tables.iter().map(|table| prefix_of(&table.meta.smallest)).min();
    let last = tables.iter().map(|table| prefix_of(&table.meta.largest)).max();
    if let (Some(first), Some(last)) = (first, last) {
        below = version.overlapping(output_level, first, last);
    }
    let kind = match below.is_empty() && are_disjoint(&tables) {
        true => PlanKind::Move,
        false => PlanKind::Merge,
    };
    let inputs = tables.into_iter().map(|table| (level, table));
    let below = below.into_iter().map(|table| (output_level, table));
    Plan { kind, inputs: inputs.chain(below).collect(), output_level }
}

fn are_disjoint(tables: &[Arc<Table>]) -> bool {
    let mut sorted: Vec<_> = tables.iter().collect();
    sorted.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
    sorted
        .windows(2)
        .all(|pair| prefix_of(&pair[0].meta.largest) < prefix_of(&pair[1].meta.smallest))
}
