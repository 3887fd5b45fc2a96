//! Merging tables into the next level.
//!
//! A compaction takes tables of one level, or all of level 0, and the tables of the level below
//! that overlap them, and writes them anew as tables of that level. It goes on in steps of its
//! caller's size. Until it is complete, nothing of the tree changes; then one edit of the manifest
//! exchanges the tables.
//!
//! A table is ended only between two keys, never between two versions of one, so that no two tables
//! of a level have versions of the same key. That keeps the versions below a compaction older than
//! those in it.

mod pick;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) use pick::{Plan, PlanKind, full, pick};

use super::disk::Disk;
use super::error::TreeError;
use super::key::{local_id_of, prefix_of};
use super::merge::{Merge, Source};
use super::retention::{Retention, Watermarks};
use super::table::{Reader, Run, RunCursor, Table, TableBuilder};
use super::version::{LEVEL_COUNT, Version};
use crate::mutants::Mutant;

/// A compaction in the making.
#[derive(Debug)]
pub(super) struct CompactionJob {
    pub(super) plan: Plan,
    /// Local ids whose keys are left out.
    deleted: BTreeSet<u32>,
    merge: Merge<'static>,
    retention: Retention,
    deeper: Deeper,
    builder: Option<TableBuilder>,
    /// Tables that are complete.
    pub(super) outputs: Vec<Arc<Table>>,
    /// Bytes of the entries that were looked at.
    pub(super) done: u64,
}

impl CompactionJob {
    /// Begins to carry out a plan for `version`. `deleted` are local ids that the manifest says are
    /// deleted.
    pub(super) fn new(
        plan: Plan,
        version: &Version,
        deleted: BTreeSet<u32>,
        watermarks: Watermarks,
    ) -> Result<Self, TreeError> {
        let mut sources = Vec::new();
        for run in plan.runs() {
            let reader = Reader::Streaming(Default::default());
            sources.push(Source::Run(RunCursor::seek(run, reader, &[])?));
        }
        Ok(Self {
            deleted,
            merge: Merge::new(sources),
            retention: Retention::new(watermarks),
            deeper: Deeper::new(version, plan.output_level),
            builder: None,
            outputs: Vec::new(),
            done: 0,
            plan,
        })
    }

    /// Goes on for about `budget` bytes, or to the end of a table. Returns whether all is done.
    pub(super) fn step(&mut self, disk: &mut Disk, budget: u64) -> Result<bool, TreeError> {
        let end = self.done.saturating_add(budget);
        while self.done < end {
            let Some((key, value)) = self.merge.entry() else {
                self.end_table(disk)?;
                return Ok(true);
            };
            let deeper = &mut self.deeper;
            let forgets = disk.options.mutants.has(Mutant::TombstoneDroppedEarly);
            let keeps = !self.deleted.contains(&local_id_of(key))
                && self.retention.keeps(key, value, |prefix| forgets || !deeper.may_hold(prefix));
            if keeps {
                let is_next_key =
                    |last: &TableBuilder| prefix_of(last.last_key()) != prefix_of(key);
                match &mut self.builder {
                    Some(full) if full.size() >= disk.options.table_bytes && is_next_key(full) => {
                        // The entry is looked at again: it is the first of the next table.
                        self.retention.forget();
                        self.end_table(disk)?;
                        return Ok(false);
                    }
                    Some(builder) => builder.add(key, value)?,
                    None => self.builder.insert(disk.begin_table()?).add(key, value)?,
                }
            }
            self.done += (key.len() + value.len()) as u64;
            self.merge.advance()?;
        }
        Ok(false)
    }

    fn end_table(&mut self, disk: &Disk) -> Result<(), TreeError> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        let number = builder.number();
        match builder.finish().and_then(|meta| disk.open_table(meta)) {
            Ok(table) => {
                self.outputs.push(table);
                Ok(())
            }
            Err(error) => {
                disk.discard_after(&error, number);
                Err(error)
            }
        }
    }

    /// About how many bytes are left to look at.
    pub(super) fn remaining(&self) -> u64 {
        self.plan.input_bytes().saturating_sub(self.done)
    }

    /// Gives up.
    pub(super) fn abort(self, disk: &Disk, error: &TreeError) {
        let begun = self.builder.map(|builder| builder.number());
        let complete = self.outputs.iter().map(|table| table.meta.number);
        for number in complete.chain(begun) {
            disk.discard_after(error, number);
        }
    }
}

/// The levels below a compaction's output, asked for ascending keys.
#[derive(Debug)]
struct Deeper(Vec<(Run, usize)>);

impl Deeper {
    fn new(version: &Version, output_level: usize) -> Self {
        let levels = output_level + 1..LEVEL_COUNT;
        Self(levels.map(|level| (version.run(level).clone(), 0)).collect())
    }

    /// Whether versions of a key may be there.
    fn may_hold(&mut self, prefix: &[u8]) -> bool {
        self.0.iter_mut().any(|(run, at)| {
            while run.get(*at).is_some_and(|table| prefix_of(&table.meta.largest) < prefix) {
                *at += 1;
            }
            run.get(*at).is_some_and(|table| table.meta.overlaps(prefix, prefix))
        })
    }
}
