//! A directory, what was done to it, and what it must hold because of that.

use bytes::Bytes;
use kv_core::id::{KeyspaceId, LogIndex, RequestHandle, Timestamp};
use kv_core::op::{Found, Key, KeyRange, PageLimit};
use kv_core::storage::{Outcome, Read, Scan};

use super::model::{
    Applied, Drawer, Floors, Logs, Shard, State, behind, expected, last_of, model_release,
    model_write,
};
use super::*;
use crate::log::LogUsage;
use crate::mutants::Mutants;

pub(super) const SHARDS: [ShardId; 4] = [ShardId(0), ShardId(1), ShardId(2), ShardId(u32::MAX)];

/// Options under which a few hundred entries fill several segments and levels.
pub(super) fn small_options(mutants: Mutants) -> OpenOptions {
    let tree = TreeOptions {
        memtable_bytes: 4 << 10,
        cache_bytes: 4 << 10,
        block_bytes: 256,
        restart_interval: 3,
        table_bytes: 4 << 10,
        base_level_bytes: 8 << 10,
        level_multiplier: 3,
        level0_compact: 2,
        level0_stop: 6,
        mutants,
        ..TreeOptions::new(0)
    };
    OpenOptions { log_segment_bytes: 8 << 10, tree, ..options() }
}

/// Why the process must stop.
#[derive(Debug)]
pub(super) enum Stop {
    Open(OpenError),
    Log(LogError),
    Tree(TreeError),
    Damaged(StorageDamage),
}

/// What a run went through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// Entries appended or applied, and keys read.
    pub(super) operations: u64,
    pub(super) flushes: u64,
    pub(super) compactions: u64,
    pub(super) recycled: u64,
    pub(super) copied: u64,
    pub(super) reopened: u64,
    pub(super) overwritten: u64,
    /// Openings that found what was not answered.
    pub(super) ahead: u64,
    pub(super) no_space: u64,
}

/// A directory.
///
/// - `logs` are what was acknowledged. With `pending` over them they are what they become if the
///   call that is under way, or failed, took effect.
pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) options: OpenOptions,
    pub(super) draw: Drawer,
    pub(super) store: Option<Opened>,
    pub(super) logs: Logs,
    pub(super) pending: Logs,
    pub(super) shards: BTreeMap<ShardId, Shard>,
    /// The logs after each change, if they are wanted.
    pub(super) history: Option<Vec<Logs>>,
    pub(super) met: Met,
}

/// A timestamp at which a shard in this state can be read.
fn draw_at(rng: &mut Rng, state: &State) -> Timestamp {
    let span = state.applied.index.0.saturating_sub(state.watermark.0);
    Timestamp(state.watermark.0 + rng.below(span + 2))
}

/// Everything that a shard held at a timestamp, by pages of random sizes.
fn read_past(
    engine: &mut Engine,
    shard: ShardId,
    timestamp: Timestamp,
    rng: &mut Rng,
) -> Result<Vec<(Key, Found)>, Stop> {
    let (handle, at_least) = (RequestHandle(1), LogIndex(0));
    let first = Key { keyspace: KeyspaceId(0), bytes: Bytes::new() };
    let mut range = KeyRange { start: first, end: None };
    let mut found = Vec::new();
    loop {
        let limit = PageLimit { rows: 1 + rng.below(30) as u32, bytes: rng.below(3_000) as u32 };
        let scan = Scan { handle, shard, at_least, timestamp, range: range.clone(), limit };
        let page = match engine.scan_page(&scan) {
            StorageReply::Scanned { result: Err(ReadError::Damaged(damage)), .. } => {
                return Err(Stop::Damaged(damage));
            }
            StorageReply::Scanned { result, .. } => result.unwrap(),
            other => panic!("not the reply to a scan: {other:?}"),
        };
        found.extend(page.rows.into_iter().map(|row| (row.key, row.found)));
        match page.next {
            Some(next) => range.start = next,
            None => return Ok(found),
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, mutants: Mutants) -> Self {
        Self {
            disk: SimDisk::new(),
            options: small_options(mutants),
            draw: Drawer::new(seed),
            store: None,
            logs: Logs::new(),
            pending: Logs::new(),
            shards: SHARDS.into_iter().map(|shard| (shard, Shard::default())).collect(),
            history: None,
            met: Met::default(),
        }
    }

    pub(super) fn store(&mut self) -> &mut Opened {
        self.store.as_mut().unwrap()
    }

    /// Ends the process.
    pub(super) fn close(&mut self) {
        let Some(store) = self.store.take() else { return };
        let LogUsage { segments_recycled, entries_copied, .. } = store.log.usage();
        self.met.recycled += segments_recycled;
        self.met.copied += entries_copied;
        self.met.compactions += store.engine.stats().map_or(0, |it| it.counters.compaction_count);
    }

    /// Starts a process: what it finds must be what was acknowledged, or that and the last call.
    /// Then applies again what was applied before.
    pub(super) fn open(&mut self) -> Result<(), Stop> {
        self.close();
        let opened = open(Arc::new(self.disk.clone()), self.options.clone()).map_err(Stop::Open)?;
        if let Some(damage) = opened.recovered.damage {
            return Err(Stop::Damaged(damage));
        }
        let applied = opened.engine.all_applied();
        let found = &opened.recovered.groups;
        if *found != expected(&self.logs, &applied) {
            let mut logs = self.logs.clone();
            logs.append(&mut self.pending.clone());
            assert_eq!(*found, expected(&logs, &applied), "neither acknowledged nor under way");
            self.logs = logs;
            self.met.ahead += 1;
        }
        self.pending.clear();
        self.met.reopened += 1;
        self.store = Some(opened);
        SHARDS.into_iter().try_for_each(|shard| self.catch_up(shard))
    }

    /// Compares the state of a shard with the model, at what the tables held and at what was
    /// applied before the process started.
    fn catch_up(&mut self, shard: ShardId) -> Result<(), Stop> {
        let engine = &mut self.store.as_mut().unwrap().engine;
        let model = self.shards.get_mut(&shard).unwrap();
        let found = engine.applied(shard);
        assert!(found.index >= model.flushed.applied.index, "what was flushed stays");
        let state = model.state_at(found.index);
        assert_eq!(state.applied, found, "only what was applied is in the tables");
        assert_eq!(engine.scan(shard).map_err(Stop::Damaged)?, state.rows(), "at {found}");
        // What could be read at the flush can be read again, whatever was compacted since.
        let at = draw_at(&mut self.draw.rng, &state);
        assert_eq!(read_past(engine, shard, at, &mut self.draw.rng)?, state.rows_at(at));
        let count = found.index.0 - model.flushed.applied.index.0;
        for Applied { entry, outcome, hash } in model.since.iter().skip(count as usize) {
            let reply = engine.apply(shard, std::slice::from_ref(entry));
            let outcomes = vec![(entry.id.index, outcome.clone())];
            match reply {
                StorageReply::Damaged(damage) => return Err(Stop::Damaged(damage)),
                reply => {
                    assert_applied(reply, shard, entry.id, outcomes);
                }
            }
            assert!(hash.is_none_or(|hash| hash == engine.state_hash(shard)), "at {}", entry.id);
        }
        assert_eq!(engine.scan(shard).map_err(Stop::Damaged)?, model.state.rows());
        Ok(())
    }

    /// Appends to some groups, in one batch.
    pub(super) fn append(&mut self) -> Result<(), Stop> {
        assert!(self.pending.is_empty());
        let mut appends = Vec::new();
        for _ in 0..1 + self.draw.rng.below(2) {
            let mut writes = Vec::new();
            for shard in SHARDS {
                if self.draw.rng.below(3) == 0 {
                    let known = self.pending.get(&shard).or_else(|| self.logs.get(&shard));
                    let mut log = known.cloned().unwrap_or_default();
                    let applied = self.shards[&shard].state.applied.index;
                    let write = self.draw.write(shard, &log, applied);
                    let first = write.entries.first().map(|entry| entry.id.index);
                    let overwrites = first.is_some_and(|first| first <= last_of(&log).index);
                    self.met.overwritten += u64::from(overwrites);
                    self.met.operations += write.entries.len() as u64;
                    model_write(&mut log, &write);
                    self.pending.insert(shard, log);
                    writes.push(write);
                }
            }
            appends.push(Append { id: AppendId(self.met.operations), writes });
        }
        let result =
            self.store().log.append(&appends).map(|replies| assert_answers(&appends, &replies));
        self.settle_log(result)
    }

    /// Takes the outcome of a call that makes `pending` of the logs.
    fn settle_log<T>(&mut self, result: Result<T, LogError>) -> Result<(), Stop> {
        match result {
            Ok(_) => {
                self.logs.append(&mut self.pending);
                if let Some(history) = &mut self.history {
                    history.push(self.logs.clone());
                }
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                self.pending.clear();
                self.met.no_space += 1;
                Ok(())
            }
            Err(error) => Err(Stop::Log(error)),
        }
    }

    /// Applies some of the next entries of a shard.
    pub(super) fn apply(&mut self, shard: ShardId, count_max: u64) -> Result<(), Stop> {
        let engine = &mut self.store.as_mut().unwrap().engine;
        let model = self.shards.get_mut(&shard).unwrap();
        let Some(log) = self.logs.get(&shard) else { return Ok(()) };
        let next = behind(log, model.state.applied.index);
        let entries = &next[..next.len().min(count_max as usize)];
        let Some(last) = entries.last() else { return Ok(()) };
        let mut outcomes = Vec::new();
        let mut state = model.state.clone();
        outcomes.extend(entries.iter().map(|entry| (entry.id.index, state.apply(entry))));
        let reply = engine.apply(shard, entries);
        if let StorageReply::Damaged(damage) = reply {
            return Err(Stop::Damaged(damage));
        }
        assert_applied(reply, shard, last.id, outcomes.clone());
        model.state = state;
        self.met.operations += entries.len() as u64;
        for (entry, (index, outcome)) in entries.iter().zip(outcomes) {
            let hash = (index == last.id.index).then(|| engine.state_hash(shard));
            model.since.push(Applied { entry: entry.clone(), outcome, hash });
        }
        Ok(())
    }

    pub(super) fn apply_all(&mut self) -> Result<(), Stop> {
        SHARDS.into_iter().try_for_each(|shard| self.apply(shard, u64::MAX))
    }

    pub(super) fn read(&mut self) -> Result<(), Stop> {
        let (shard, key) = (self.draw_shard(), self.draw.key());
        let state = &self.shards[&shard].state;
        let (handle, at_least) = (RequestHandle(1), state.applied.index);
        let timestamp = match self.draw.rng.below(3) {
            0 => Timestamp::MAX,
            1 => Timestamp(self.draw.rng.below(state.applied.index.0 + 2)),
            _ => draw_at(&mut self.draw.rng, state),
        };
        let expected = match timestamp {
            Timestamp::MAX => Ok(state.keys.get(&key).cloned()),
            at if at < state.watermark => Err(ReadError::TooOld { oldest: state.watermark }),
            at => Ok(state.rows_at(at).into_iter().find(|row| row.0 == key).map(|row| row.1)),
        };
        let read = Read { handle, shard, at_least, timestamp, key };
        self.met.operations += 1;
        match self.store().engine.read(&read) {
            StorageReply::Read { result: Err(ReadError::Damaged(damage)), .. } => {
                Err(Stop::Damaged(damage))
            }
            StorageReply::Read { result, .. } => {
                assert_eq!(result, expected);
                Ok(())
            }
            other => panic!("not the reply to a read: {other:?}"),
        }
    }

    pub(super) fn work(&mut self) -> Result<(), Stop> {
        let result = self.store().engine.work();
        self.met.no_space += u64::from(self.store().engine.is_full());
        self.settle_tree(result)
    }

    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let result = self.store().engine.flush();
        self.settle_tree(result)
    }

    fn settle_tree(&mut self, result: Result<Vec<StorageReply>, TreeError>) -> Result<(), Stop> {
        let replies = match result {
            Ok(replies) => replies,
            Err(TreeError::NoSpace(_)) => {
                self.met.no_space += 1;
                return Ok(());
            }
            Err(error) => return Err(Stop::Tree(error)),
        };
        for reply in replies {
            match reply {
                StorageReply::Flushed { applied } => {
                    self.met.flushes += 1;
                    let flush = |(shard, upto)| self.shards.get_mut(&shard).unwrap().flush(upto);
                    applied.into_iter().for_each(flush);
                }
                StorageReply::Damaged(damage) => return Err(Stop::Damaged(damage)),
                other => panic!("not a reply of upkeep: {other:?}"),
            }
        }
        Ok(())
    }

    /// Releases some of what was flushed.
    pub(super) fn release(&mut self) -> Result<(), Stop> {
        let mut floors = Floors::new();
        for (shard, log) in &self.logs {
            let flushed = self.shards[shard].flushed.applied;
            let count = flushed.index.0.saturating_sub(log.floor.index.0);
            let floor = match self.draw.rng.below(4) {
                _ if count == 0 => continue,
                0 => continue,
                1 => log.entries[self.draw.rng.below(count) as usize].id,
                _ => flushed,
            };
            floors.insert(*shard, floor);
        }
        self.release_to(&floors)
    }

    pub(super) fn release_to(&mut self, floors: &Floors) -> Result<(), Stop> {
        assert!(self.pending.is_empty());
        for (shard, floor) in floors {
            let mut log = self.logs[shard].clone();
            model_release(&mut log, *floor);
            self.pending.insert(*shard, log);
        }
        let result = self.store().log.release(floors);
        self.settle_log(result)
    }

    pub(super) fn idle(&mut self) -> Result<(), Stop> {
        let result = self.store().log.write_idle_batch();
        self.settle_log(result)
    }

    fn draw_shard(&mut self) -> ShardId {
        SHARDS[self.draw.rng.below(SHARDS.len() as u64) as usize]
    }

    /// Does anything a node does, short of dying.
    pub(super) fn step(&mut self) -> Result<(), Stop> {
        match self.draw.rng.below(40) {
            0..14 => self.append(),
            14..24 => {
                let (shard, count) = (self.draw_shard(), 1 + self.draw.rng.below(12));
                self.apply(shard, count)?;
                self.work()
            }
            24..29 => self.read(),
            29..35 => self.work(),
            35 => self.flush(),
            36..39 => self.release(),
            _ => self.idle(),
        }
    }
}

fn assert_answers(appends: &[Append], replies: &[StorageReply]) {
    let ids = replies.iter().map(|reply| match reply {
        StorageReply::Appended { id, .. } => *id,
        other => panic!("not the reply to an append: {other:?}"),
    });
    assert!(ids.eq(appends.iter().map(|append| append.id)));
}

#[track_caller]
fn assert_applied(
    reply: StorageReply,
    shard: ShardId,
    applied: LogId,
    outcomes: Vec<(LogIndex, Outcome)>,
) {
    let StorageReply::Applied { states, .. } = &reply else {
        panic!("entries are applied: {reply:?}");
    };
    let states = states.clone();
    assert_eq!(reply, StorageReply::Applied { shard, applied, outcomes, states });
}
