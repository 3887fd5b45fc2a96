//! What the records of a log amount to.
//!
//! The oldest segment may begin anywhere in a group's log: the record at its start says where each
//! group stood. Entries that a group still needed from before stand in a copy further on, so in
//! between there may be holes, and at the end there must be none.

use std::collections::BTreeMap;

use kv_core::id::{LogId, LogIndex, ShardId};
use kv_core::storage::{Entry, GroupWrite, HardState};

use super::LogGroup;
use super::format::{GroupCopy, GroupMark, Record, RecordError, Trim};
use super::groups::GroupState;

/// Everything read so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    groups: BTreeMap<ShardId, ReplayedGroup>,
}

/// One group.
///
/// - All entries lie above the floor and not above the last one.
#[derive(Debug, Default)]
struct ReplayedGroup {
    hard_state: HardState,
    floor: LogId,
    last: LogId,
    /// The entries read so far, each with the segment that holds it.
    entries: BTreeMap<LogIndex, (Entry, u64)>,
}

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) groups: BTreeMap<ShardId, LogGroup>,
    pub(super) states: BTreeMap<ShardId, GroupState>,
    /// The first entry that should be there and is not.
    pub(super) missing: Option<(ShardId, LogIndex)>,
}

impl Replay {
    /// Takes the start of the oldest segment.
    pub(super) fn begin(&mut self, marks: Vec<GroupMark>) {
        let group = |mark: GroupMark| {
            let GroupMark { shard, hard_state, floor, last } = mark;
            (shard, ReplayedGroup { hard_state, floor, last, entries: BTreeMap::new() })
        };
        self.groups = marks.into_iter().map(group).collect();
    }

    /// Compares the start of a later segment with what was read up to there.
    pub(super) fn check(&self, marks: &[GroupMark]) -> Result<(), RecordError> {
        let groups = self.groups.iter().filter(|(_, group)| !group.is_blank());
        let agrees = groups.map(|(shard, group)| group.mark(*shard)).eq(marks.iter().cloned());
        if agrees { Ok(()) } else { Err(RecordError::Contradiction) }
    }

    /// Takes a record that stands in `segment`.
    pub(super) fn take(&mut self, record: Record, segment: u64) -> Result<(), RecordError> {
        match record {
            Record::Write(write) => self.group(write.shard).write(write, segment),
            Record::Copy(copy) => self.group(copy.shard).copy(copy, segment),
            Record::Trim(trims) => {
                trims.iter().try_for_each(|trim| self.group(trim.shard).trim(trim))
            }
            // Only the first record of a segment is one.
            Record::Start(_) => Err(RecordError::Contradiction),
        }
    }

    fn group(&mut self, shard: ShardId) -> &mut ReplayedGroup {
        self.groups.entry(shard).or_default()
    }

    /// Everything read. Of a group with a hole, only what comes before the hole.
    pub(super) fn finish(self) -> Held {
        let mut held = Held::default();
        for (shard, mut group) in self.groups {
            if group.is_blank() {
                continue;
            }
            if let Some(index) = group.first_missing() {
                held.missing.get_or_insert((shard, index));
                group.entries.split_off(&index);
            }
            let ReplayedGroup { hard_state, floor, entries, .. } = group;
            let state = GroupState::recovered(hard_state, floor, entries.values());
            let entries = entries.into_values().map(|(entry, _)| entry).collect();
            held.states.insert(shard, state);
            held.groups.insert(shard, LogGroup { hard_state, floor, entries });
        }
        held
    }
}

impl ReplayedGroup {
    fn is_blank(&self) -> bool {
        self.hard_state == HardState::default() && self.last == LogId::default()
    }

    fn mark(&self, shard: ShardId) -> GroupMark {
        GroupMark { shard, hard_state: self.hard_state, floor: self.floor, last: self.last }
    }

    fn write(&mut self, write: GroupWrite, segment: u64) -> Result<(), RecordError> {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        let Some(first) = write.entries.first().map(|entry| entry.id.index) else { return Ok(()) };
        if !follows(&write.entries, self.floor.index, self.last.index) {
            return Err(RecordError::Gap);
        }
        if first <= self.last.index {
            self.entries.split_off(&first);
        }
        for entry in write.entries {
            self.last = entry.id;
            self.entries.insert(entry.id.index, (entry, segment));
        }
        Ok(())
    }

    fn copy(&mut self, copy: GroupCopy, segment: u64) -> Result<(), RecordError> {
        for entry in copy.entries {
            let index = entry.id.index;
            let is_needed = self.floor.index < index && index <= self.last.index;
            let old = self.entries.get(&index);
            if !is_needed || old.is_some_and(|(old, _)| *old != entry) {
                return Err(RecordError::Contradiction);
            }
            self.entries.insert(index, (entry, segment));
        }
        Ok(())
    }

    fn trim(&mut self, trim: &Trim) -> Result<(), RecordError> {
        let rises = trim.floor.index > self.floor.index && trim.last.index >= trim.floor.index;
        if !rises && !trim.is_of_everything() {
            return Err(RecordError::Contradiction);
        }
        self.entries = self.entries.split_off(&LogIndex(trim.floor.index.0.saturating_add(1)));
        self.entries.split_off(&LogIndex(trim.last.index.0.saturating_add(1)));
        (self.floor, self.last) = (trim.floor, trim.last);
        Ok(())
    }

    fn first_missing(&self) -> Option<LogIndex> {
        let found = self.entries.keys().map(|index| index.0);
        let expected = self.floor.index.0 + 1..=self.last.index.0;
        let gap = found.zip(expected.clone()).find(|(found, expected)| found != expected);
        match gap {
            Some((_, expected)) => Some(LogIndex(expected)),
            None => expected.skip(self.entries.len()).map(LogIndex).next(),
        }
    }
}

/// Whether entries have consecutive indexes above `floor` and leave no gap behind `last`.
pub(super) fn follows(entries: &[Entry], floor: LogIndex, last: LogIndex) -> bool {
    let Some(first) = entries.first().map(|entry| entry.id.index) else { return true };
    let starts = first > floor && first.0 <= last.0.saturating_add(1);
    let indexes = entries.iter().map(|entry| entry.id.index.0);
    starts && indexes.eq(first.0..first.0.saturating_add(entries.len() as u64))
}
