//! What a directory must hold, told another way than the product does: logs as lists, and the state
//! of a shard as a map.

use bytes::Bytes;
use kv_core::id::{KeyspaceId, LogIndex, RequestId, SessionId, Term, Timestamp};
use kv_core::machine::Command;
use kv_core::op::{Expect, Found, Key, Value, WriteOp, WriteResult};
use kv_core::storage::{HardState, Outcome, RecoveredGroup};

use super::*;
use crate::log::LogGroup;

pub(super) type Logs = BTreeMap<ShardId, LogGroup>;
pub(super) type Floors = BTreeMap<ShardId, LogId>;

/// The last entry of a log, or its floor.
pub(super) fn last_of(log: &LogGroup) -> LogId {
    log.entries.last().map_or(log.floor, |entry| entry.id)
}

/// The entries behind an index.
pub(super) fn behind(log: &LogGroup, index: LogIndex) -> &[Entry] {
    &log.entries[(index.0 - log.floor.index.0) as usize..]
}

/// A log after a write.
pub(super) fn model_write(log: &mut LogGroup, write: &GroupWrite) {
    log.hard_state = write.hard_state.unwrap_or(log.hard_state);
    let Some(first) = write.entries.first() else { return };
    log.entries.retain(|entry| entry.id.index < first.id.index);
    log.entries.extend(write.entries.iter().cloned());
}

/// A log after a release.
pub(super) fn model_release(log: &mut LogGroup, floor: LogId) {
    log.entries.retain(|entry| entry.id.index > floor.index);
    log.floor = floor;
}

/// What must be recovered of these logs.
pub(super) fn expected(logs: &Logs, applied: &Floors) -> BTreeMap<ShardId, RecoveredGroup> {
    let group = |(shard, log): (&ShardId, &LogGroup)| {
        let applied = applied.get(shard).copied().unwrap_or_default();
        let mut log = log.clone();
        if log.entries.iter().any(|entry| entry.id.index == applied.index && entry.id != applied) {
            // Only if the disk lost the end of the log: the rest is not what was applied.
            (log.floor, log.entries) = (applied, Vec::new());
        }
        let commit = log.hard_state.commit.max(applied.index).min(last_of(&log).index);
        let hard_state = HardState { commit, ..log.hard_state };
        let LogGroup { floor, entries, .. } = log;
        let group = RecoveredGroup {
            transactions: Default::default(),
            hard_state,
            floor,
            entries,
            applied,
            configuration: None,
            is_removed: false,
        };
        (group != RecoveredGroup::default()).then_some((*shard, group))
    };
    logs.iter().filter_map(group).collect()
}

/// What the entries of a shard amount to.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) applied: LogId,
    pub(super) keys: BTreeMap<Key, Found>,
    /// What can still be read of each key; none is a deletion.
    versions: BTreeMap<Key, BTreeMap<Timestamp, Option<Value>>>,
    /// From when on.
    pub(super) watermark: Timestamp,
    /// The last request, and what it did: its copy does the same, and nothing more.
    last: Option<(Bytes, Outcome)>,
}

impl State {
    pub(super) fn apply(&mut self, entry: &Entry) -> Outcome {
        assert_eq!(entry.id.index, self.applied.index.next());
        self.applied = entry.id;
        if let Some((payload, outcome)) = &self.last
            && *payload == entry.payload
        {
            return outcome.clone();
        }
        match Command::decode(&entry.payload).unwrap() {
            Command::Write { op, commit_ts, .. } => {
                let key = op.key().clone();
                let before = self.keys.get(&key).cloned();
                let outcome = Outcome::Written(self.write(commit_ts, op));
                self.last = Some((entry.payload.clone(), outcome.clone()));
                let after = self.keys.get(&key);
                if before.as_ref() != after {
                    let value = after.map(|found| found.value.clone());
                    self.versions.entry(key).or_default().insert(commit_ts, value);
                }
                outcome
            }
            Command::RaiseWatermark { watermark } => {
                self.watermark = self.watermark.max(watermark);
                self.forget();
                Outcome::WatermarkRaised { watermark: self.watermark }
            }
            _ => Outcome::None,
        }
    }

    /// Forgets what only reads below the watermark could see.
    fn forget(&mut self) {
        for versions in self.versions.values_mut() {
            let seen = versions.range(..=self.watermark).next_back().map(|(version, _)| *version);
            versions.retain(|version, _| seen.is_none_or(|seen| *version >= seen));
        }
    }

    /// The keys as a scan at a timestamp gives them.
    pub(super) fn rows_at(&self, at: Timestamp) -> Vec<(Key, Found)> {
        let row = |(key, versions): (&Key, &BTreeMap<Timestamp, Option<Value>>)| {
            let (version, value) = versions.range(..=at).next_back()?;
            Some((key.clone(), Found { version: *version, value: value.clone()? }))
        };
        self.versions.iter().filter_map(row).collect()
    }

    fn write(&mut self, version: Timestamp, op: WriteOp) -> WriteResult {
        match op {
            WriteOp::Put { key, value } => {
                self.keys.insert(key, Found { version, value });
                WriteResult::Put { version }
            }
            WriteOp::Delete { key } => {
                WriteResult::Delete { existed: self.keys.remove(&key).is_some() }
            }
            WriteOp::Cas { key, expect, value } => {
                let found = self.keys.get(&key);
                let applied = match &expect {
                    Expect::Absent => found.is_none(),
                    Expect::Version(version) => found.is_some_and(|it| it.version == *version),
                    Expect::Value(value) => found.is_some_and(|it| it.value == *value),
                };
                if applied {
                    self.keys.insert(key.clone(), Found { version, value });
                }
                let version = self.keys.get(&key).map(|found| found.version);
                WriteResult::Cas { applied, version }
            }
        }
    }

    /// The keys as a scan gives them.
    pub(super) fn rows(&self) -> Vec<(Key, Found)> {
        self.keys.iter().map(|(key, found)| (key.clone(), found.clone())).collect()
    }
}

/// An entry that was applied, and what the engine said then.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) entry: Entry,
    pub(super) outcome: Outcome,
    /// The hash of the state after it, where it was asked for.
    pub(super) hash: Option<u64>,
}

/// A shard, as it was flushed, and what was applied since.
#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    pub(super) flushed: State,
    pub(super) since: Vec<Applied>,
    pub(super) state: State,
}

impl Shard {
    /// Notes that everything up to `upto` is durable.
    pub(super) fn flush(&mut self, upto: LogId) {
        let count = upto.index.0.saturating_sub(self.flushed.applied.index.0) as usize;
        for applied in self.since.drain(..count) {
            self.flushed.apply(&applied.entry);
        }
        assert!(count == 0 || self.flushed.applied == upto, "nothing else was flushed");
    }

    /// The state at an index, which is flushed or later.
    pub(super) fn state_at(&self, index: LogIndex) -> State {
        let mut state = self.flushed.clone();
        let since = self.since.iter().take_while(|applied| applied.entry.id.index <= index);
        since.for_each(|applied| drop(state.apply(&applied.entry)));
        state
    }
}

/// Draws the entries of all groups.
#[derive(Debug)]
pub(super) struct Drawer {
    pub(super) rng: Rng,
    sequence: u64,
    term: u64,
    /// Keys of each shard.
    pub(super) key_count: u64,
    pub(super) value_bytes_max: u64,
}

impl Drawer {
    pub(super) fn new(seed: u64) -> Self {
        let rng = Rng::fork(seed, "directory");
        Self { rng, sequence: 0, term: 1, key_count: 40, value_bytes_max: 200 }
    }

    pub(super) fn key(&mut self) -> Key {
        let bytes = format!("key{:04}", self.rng.below(self.key_count)).into();
        Key { keyspace: KeyspaceId(self.rng.below(2) as u32), bytes }
    }

    fn value(&mut self) -> Value {
        match self.rng.below(4) {
            0 => Value::string(format!("v{}", self.rng.below(3))),
            _ => {
                let count = self.rng.below(self.value_bytes_max);
                Value::string((0..count).map(|_| self.rng.next_u64() as u8).collect::<Vec<_>>())
            }
        }
    }

    fn command(&mut self, index: u64) -> Command {
        let (key, value) = (self.key(), self.value());
        let op = match self.rng.below(11) {
            0 => return Command::Noop,
            10 => {
                let watermark = Timestamp(index - self.rng.below(index.min(60)));
                return Command::RaiseWatermark { watermark };
            }
            1..6 => WriteOp::Put { key, value },
            6..8 => WriteOp::Delete { key },
            8 => WriteOp::Cas { key, expect: Expect::Absent, value },
            _ => match self.rng.below(2) {
                0 => WriteOp::Cas { key, expect: Expect::Value(Value::string("v1")), value },
                _ => {
                    let version = Timestamp(index - self.rng.below(index.min(20)));
                    WriteOp::Cas { key, expect: Expect::Version(version), value }
                }
            },
        };
        self.sequence += 1;
        let session = SessionId { opened_ts: Timestamp(1), nonce: 7 };
        let (sequence, acked_below) = (self.sequence, self.sequence);
        let request = RequestId { session, sequence, acked_below };
        Command::Write { request, op, commit_ts: Timestamp(index) }
    }

    /// A write to a group of which entries up to `applied` must stay.
    pub(super) fn write(
        &mut self,
        shard: ShardId,
        log: &LogGroup,
        applied: LogIndex,
    ) -> GroupWrite {
        let last = last_of(log).index.0;
        let overwritten = match last.saturating_sub(applied.0) {
            count if count > 0 && self.rng.below(6) == 0 => 1 + self.rng.below(count),
            _ => 0,
        };
        self.term += u64::from(overwritten > 0);
        let first = last - overwritten + 1;
        let mut before = log.entries.iter().rev().nth(overwritten as usize).cloned();
        let mut entries: Vec<Entry> = Vec::new();
        for index in first..first + self.rng.below(5) {
            let payload = match before {
                Some(entry) if self.rng.below(8) == 0 => entry.payload,
                _ => self.command(index).encode().into(),
            };
            let entry = Entry { id: LogId::new(self.term, index), payload };
            before = Some(entry.clone());
            entries.push(entry);
        }
        let vote = Some(NodeId(1 + self.rng.below(3)));
        let hard_state = HardState {
            term: Term(self.term),
            vote,
            commit: applied,
            life: 0,
            quarantine: 0,
            forgotten: LogId::default(),
        };
        let hard_state = (self.rng.below(3) == 0).then_some(hard_state);
        GroupWrite { shard, hard_state, entries }
    }
}
