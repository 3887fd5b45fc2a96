//! What an open log knows of each group: everything but the entries.
//!
//! A group's entries are described by *runs*: entries with consecutive indexes, of one term, in one
//! segment. That is enough to assert that no write leaves a gap, to tell the term at a floor, and
//! to know which segments still hold something that is needed.

use std::collections::VecDeque;

use kv_core::id::{LogId, LogIndex, ShardId, Term};
use kv_core::storage::{Entry, GroupWrite, HardState};

use super::format::{GroupMark, Trim};

/// What an entry takes in a record beside its payload, roughly.
const ENTRY_BYTES: u64 = 16;

/// Entries in a row, of one term, in one segment.
#[derive(Clone, Debug)]
struct Run {
    first: u64,
    /// The index after the last one.
    end: u64,
    term: Term,
    segment: u64,
    /// What the entries take in the segment, roughly.
    bytes: u64,
}

impl Run {
    /// Keeps the entries from `first` to before `end`.
    fn narrow(&mut self, first: u64, end: u64) {
        self.bytes = self.bytes / (self.end - self.first) * (end - first);
        (self.first, self.end) = (first, end);
    }
}

/// One group.
///
/// - The runs cover the indexes from the one after the floor to the last one, without a gap.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupState {
    hard_state: HardState,
    /// Entries up to here are not needed.
    floor: LogId,
    runs: VecDeque<Run>,
    /// The last index, once the batch that is being built is written.
    planned_last: LogIndex,
}

impl GroupState {
    /// A group as recovery found it. Each entry comes with the segment that holds it.
    pub(super) fn recovered<'a>(
        hard_state: HardState,
        floor: LogId,
        entries: impl Iterator<Item = &'a (Entry, u64)>,
    ) -> Self {
        let mut group = Self { hard_state, floor, ..Self::default() };
        entries.for_each(|(entry, segment)| group.push(entry, *segment));
        group.planned_last = group.last().index;
        group
    }

    /// Whether nothing was ever said of the group.
    pub(super) fn is_blank(&self) -> bool {
        self.hard_state == HardState::default() && self.last() == LogId::default()
    }

    /// The last entry, or the floor.
    pub(super) fn last(&self) -> LogId {
        let last = |run: &Run| LogId { term: run.term, index: LogIndex(run.end - 1) };
        self.runs.back().map_or(self.floor, last)
    }

    /// Takes a write into the batch that is being built.
    ///
    /// # Panics
    /// If recovery would refuse the write.
    pub(super) fn plan(&mut self, write: &GroupWrite) {
        let fits = super::replay::follows(&write.entries, self.floor.index, self.planned_last);
        assert!(fits, "the entries of a write leave no gap");
        if let Some(last) = write.entries.last() {
            self.planned_last = last.id.index;
        }
    }

    /// Forgets what was planned: the batch was not written.
    pub(super) fn forget_plan(&mut self) {
        self.planned_last = self.last().index;
    }

    /// Notes a write that is durable in `segment`.
    pub(super) fn write(&mut self, write: &GroupWrite, segment: u64) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        let Some(first) = write.entries.first() else { return };
        self.cut(first.id.index.0);
        write.entries.iter().for_each(|entry| self.push(entry, segment));
    }

    fn push(&mut self, entry: &Entry, segment: u64) {
        let index = entry.id.index.0;
        let bytes = entry.payload.len() as u64 + ENTRY_BYTES;
        match self.runs.back_mut() {
            Some(run) if run.term == entry.id.term && run.segment == segment => {
                run.end = index + 1;
                run.bytes += bytes;
            }
            _ => {
                let term = entry.id.term;
                self.runs.push_back(Run { first: index, end: index + 1, term, segment, bytes });
            }
        }
    }

    /// Forgets the entries from `index` on.
    fn cut(&mut self, index: u64) {
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut().filter(|run| run.end > index) {
            run.narrow(run.first, index);
        }
    }

    /// What becomes of the group if nothing up to `floor` is needed. None if that changes nothing.
    ///
    /// If the entry at the floor has another term, the log has diverged from what the floor stands
    /// for, and so has everything behind it. A floor of zero gives up everything.
    pub(super) fn trim_to(&self, shard: ShardId, floor: LogId) -> Option<Trim> {
        if floor == LogId::default() {
            return (self.last() != floor).then_some(Trim { shard, floor, last: floor });
        }
        if floor.index <= self.floor.index {
            return None;
        }
        let agrees = self.term_at(floor.index) == Some(floor.term);
        Some(Trim { shard, floor, last: if agrees { self.last() } else { floor } })
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let run = self.runs.iter().find(|run| (run.first..run.end).contains(&index.0))?;
        Some(run.term)
    }

    /// Notes a trim that is durable.
    pub(super) fn trim(&mut self, trim: &Trim) {
        self.cut(trim.last.index.0 + 1);
        let first = trim.floor.index.0 + 1;
        while self.runs.front().is_some_and(|run| run.end <= first) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut().filter(|run| run.first < first) {
            run.narrow(first, run.end);
        }
        self.floor = trim.floor;
        self.forget_plan();
    }

    /// What the group needs of a segment, in bytes, roughly. None if it needs nothing.
    pub(super) fn needs(&self, segment: u64) -> Option<u64> {
        let bytes = self.runs.iter().filter(|run| run.segment == segment).map(|run| run.bytes);
        bytes.reduce(|sum, bytes| sum + bytes)
    }

    /// Whether the group needs this entry of a segment.
    pub(super) fn needs_entry(&self, segment: u64, id: LogId) -> bool {
        self.runs.iter().any(|run| {
            run.segment == segment
                && run.term == id.term
                && (run.first..run.end).contains(&id.index.0)
        })
    }

    /// Notes that everything that was needed of one segment was copied to another.
    pub(super) fn move_runs(&mut self, from: u64, to: u64) {
        self.runs.iter_mut().filter(|run| run.segment == from).for_each(|run| run.segment = to);
    }

    /// The group's state as the start of a segment tells it.
    pub(super) fn mark(&self, shard: ShardId) -> GroupMark {
        GroupMark { shard, hard_state: self.hard_state, floor: self.floor, last: self.last() }
    }
}
