//! The applied state of all shards.
//!
//! One `Memtable` holds the keys and values of every shard in their stored form, and each shard has
//! its [`Machine`], which decides what an entry does. [`Engine::apply`] and [`Engine::read`] answer
//! at once.
//!
//! # Only the newest version
//!
//! Reads of the past do not exist yet, so the retention watermark of a shard is its newest applied
//! entry: a write replaces the older versions of its key, and a delete removes the key. Dropping
//! the tombstone at once is sound because nothing depends on it. Apply treats a tombstone as
//! absence; a version is the index of its entry, so it grows on every key whether or not the store
//! remembers the last one; and a read at or above the watermark sees the same either way. A read
//! below it cannot be answered truthfully, so [`Engine::read`] asserts that there is none.
//!
//! **What this leaves out:** tables on disk. The state is rebuilt by applying the log from its
//! start.

mod memtable;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kv_core::id::{LogId, ShardId, Timestamp};
use kv_core::machine::{self, LocalShardId, Machine, ReadView, WriteBatch};
use kv_core::op::{Found, Key, Value};
use kv_core::storage::{Entry, Read, ReadRefused, StorageReply};

use memtable::Memtable;

/// The state machines of a node, with their keys and values.
#[derive(Debug, Default)]
pub struct Engine {
    memtable: Memtable,
    /// A shard is here from its first applied entry on.
    machines: BTreeMap<ShardId, Machine>,
}

/// One shard's keys.
struct ShardView<'a> {
    memtable: &'a Memtable,
    shard: LocalShardId,
}

impl ReadView for ShardView<'_> {
    fn newest(&self, key: &Key, at: Timestamp) -> Option<(Timestamp, Option<Value>)> {
        self.memtable.newest(self.shard, key, at)
    }
}

impl Engine {
    /// An engine that has applied nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies entries to a shard. Returns [`StorageReply::Applied`].
    ///
    /// # Panics
    /// If the entries do not follow the last applied one, or hold what this program does not know:
    /// the node must stop.
    pub fn apply(&mut self, shard: ShardId, entries: &[Entry]) -> StorageReply {
        let local = local_id(shard);
        let machine = self.machines.entry(shard).or_default();
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let view = ShardView { memtable: &self.memtable, shard: local };
            let (batch, outcome) = machine.apply(&view, entry);
            write(&mut self.memtable, local, batch);
            outcomes.push((entry.id.index, outcome));
        }
        StorageReply::Applied { shard, applied: machine.applied(), outcomes }
    }

    /// Reads one key. Returns [`StorageReply::Read`], refused if the shard has not applied what the
    /// read must see.
    ///
    /// # Panics
    /// If the read is done at a timestamp below the last applied entry's index: what was true then
    /// is no longer known.
    pub fn read(&self, read: &Read) -> StorageReply {
        let applied = self.applied(read.shard).index;
        let result = if applied < read.at_least {
            Err(ReadRefused { at_least: read.at_least, applied })
        } else {
            assert!(read.timestamp.0 >= applied.0, "only the newest versions can be read");
            let view = ShardView { memtable: &self.memtable, shard: local_id(read.shard) };
            Ok(machine::read(&view, &read.key, read.timestamp))
        };
        StorageReply::Read { handle: read.handle, result }
    }

    /// The last entry applied to a shard.
    pub fn applied(&self, shard: ShardId) -> LogId {
        self.machines.get(&shard).map(Machine::applied).unwrap_or_default()
    }

    /// The rolling hash over everything applied to a shard. Replicas that applied the same entries
    /// agree on it.
    pub fn state_hash(&self, shard: ShardId) -> u64 {
        self.machines.get(&shard).map_or_else(|| Machine::new().state_hash(), Machine::state_hash)
    }

    /// A shard's keys with their newest values, in order.
    pub fn scan(&self, shard: ShardId) -> impl Iterator<Item = (Key, Found)> {
        self.memtable.scan(local_id(shard))
    }
}

/// The number under which a shard's keys are stored. A shard's content is never replaced as a whole
/// yet, so it is the shard's own.
fn local_id(shard: ShardId) -> LocalShardId {
    LocalShardId(shard.0)
}

fn write(memtable: &mut Memtable, shard: LocalShardId, batch: WriteBatch) {
    for write in batch.writes {
        memtable.write(shard, &write);
    }
}
