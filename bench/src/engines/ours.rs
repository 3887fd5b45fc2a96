//! This project's tree and log.
//!
//! As in a node, a batch is appended to the log and synced, and then handed to a thread that writes
//! it to the tree and lets the tree do its share of flushing and compacting, while the next batch
//! syncs. A put waits when the batch before the last is not in the tree yet, and a read waits until
//! all are. The peers have threads for flushes and compactions as well.
//!
//! The log has no append without a sync. A batch that need not be durable has its entries written
//! to a plain file instead, so that it costs what the peers' unsynced logs cost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use kv_core::id::{
    AppendId, Incarnation, LogId, LogIndex, NodeId, RequestId, SessionId, ShardId, Term, Timestamp,
};
use kv_core::machine::{Command, LocalShardId, StoredKey};
use kv_core::op::{self, Value, WriteOp};
use kv_core::storage::{Append, Entry, GroupWrite};
use kv_storage::log::Log;
use kv_storage::lsm::{Scan, Tree, TreeOptions, Watermarks};
use kv_storage::vfs::OsVfs;
use kv_storage::{OpenOptions, Opened};

use super::{Engine, Key, Sizes};

const SHARD: LocalShardId = LocalShardId(1);

/// The log, and the tree, to which a thread writes.
pub struct Ours {
    log: Log,
    /// Where entries go that need not be durable.
    unsynced: File,
    tree: Arc<Mutex<Tree>>,
    batches: SyncSender<Batch>,
    /// The version up to which the thread has written.
    applied: Arc<AtomicU64>,
    /// The version up to which the tables hold everything.
    flushed: Arc<AtomicU64>,
    /// The version up to which the log has entries.
    logged: u64,
    /// The version up to which the log was released.
    released: u64,
    version: u64,
}

/// Entries that are in the log, up to a version.
struct Batch {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    version: u64,
}

impl Ours {
    pub fn open(dir: &Path, sizes: Sizes) -> Result<Self> {
        let vfs = Arc::new(OsVfs::new(dir)?);
        let options = OpenOptions::new("bench", NodeId(1), Incarnation(1));
        let Opened { log, .. } = kv_storage::open(vfs.clone(), options)?;
        let mut options = TreeOptions::new(1);
        options.cache_bytes = sizes.cache_bytes;
        options.memtable_bytes = sizes.memtable_bytes;
        options.base_level_bytes = 4 * sizes.memtable_bytes;
        // The store has a tree of its own, which stays empty.
        let (tree, _) = Tree::open(vfs, "measured", options)?;
        let tree = Arc::new(Mutex::new(tree));
        let (batches, queue) = sync_channel(1);
        let (applied, flushed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        std::thread::spawn({
            let (tree, applied, flushed) = (tree.clone(), applied.clone(), flushed.clone());
            move || apply_all(&tree, &queue, &applied, &flushed)
        });
        let unsynced = File::create(dir.join("wal-unsynced"))?;
        Ok(Self {
            log,
            unsynced,
            tree,
            batches,
            applied,
            flushed,
            logged: 0,
            released: 0,
            version: 0,
        })
    }

    /// The tree, when it holds everything that was put.
    fn tree(&self) -> MutexGuard<'_, Tree> {
        while self.applied.load(Ordering::Acquire) < self.version {
            std::thread::yield_now();
        }
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, batch: &[(Key, &[u8])]) -> Append {
        let entry = |(number, (key, value)): (usize, &(Key, &[u8]))| {
            let index = self.version + 1 + number as u64;
            let session = SessionId { opened_ts: Timestamp(1), nonce: 0x1234_5678_9abc_def0 };
            let request = RequestId { session, sequence: index, acked_below: index };
            let key = op::Key::new(Bytes::copy_from_slice(key));
            let value = Value::string(Bytes::copy_from_slice(value));
            let op = WriteOp::Put { key, value };
            Entry {
                id: LogId { term: Term(1), index: LogIndex(index) },
                payload: Command::Write { request, op, commit_ts: Timestamp(index) }
                    .encode()
                    .into(),
            }
        };
        let entries = batch.iter().enumerate().map(entry).collect();
        let write = GroupWrite { shard: ShardId(1), hard_state: None, entries };
        Append { id: AppendId(self.version), writes: vec![write] }
    }

    /// Lets go of the log that the tables have, as a node does after a flush, so that segments are
    /// written again instead of filled with zeros.
    fn release(&mut self) -> Result<()> {
        let flushed = self.flushed.load(Ordering::Acquire).min(self.logged);
        if flushed > self.released {
            let floor = LogId { term: Term(1), index: LogIndex(flushed) };
            self.log.release(&BTreeMap::from([(ShardId(1), floor)]))?;
            self.released = flushed;
        }
        Ok(())
    }

    fn prefix(key: &Key) -> Vec<u8> {
        StoredKey::prefix(SHARD, &op::Key::new(Bytes::copy_from_slice(key)))
    }

    fn work_off(&self) -> Result<()> {
        let mut tree = self.tree();
        while tree.flush_step(1 << 20)?.is_more_due {}
        while tree.is_compaction_due() {
            tree.compact_step(1 << 20)?;
        }
        Ok(())
    }
}

/// Writes batches to the tree, and does the share of work that they owe.
fn apply_all(
    tree: &Mutex<Tree>,
    queue: &Receiver<Batch>,
    applied: &AtomicU64,
    flushed: &AtomicU64,
) {
    while let Ok(batch) = queue.recv() {
        let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = apply(&mut tree, &batch) {
            eprintln!("the tree failed: {error:?}");
            std::process::exit(1);
        }
        if let Ok(version) = <[u8; 8]>::try_from(&tree.metadata()[..]) {
            flushed.store(u64::from_le_bytes(version), Ordering::Release);
        }
        applied.store(batch.version, Ordering::Release);
    }
}

fn apply(tree: &mut Tree, batch: &Batch) -> Result<()> {
    tree.write(&batch.entries);
    if tree.should_seal() {
        // The pace makes this rare.
        while tree.sealed_count() > 0 {
            tree.flush_step(1 << 20)?;
        }
        seal(tree, batch.version);
    }
    let sizes = batch.entries.iter().map(|(key, value)| key.len() + value.len());
    tree.pay(sizes.sum::<usize>() as u64)?;
    Ok(())
}

/// Ends the memtable; nobody reads anything but the newest versions.
fn seal(tree: &mut Tree, version: u64) {
    let metadata = Bytes::copy_from_slice(&version.to_le_bytes());
    tree.seal(metadata, Watermarks::everywhere(Timestamp(version)));
}

impl Engine for Ours {
    fn put(&mut self, batch: &[(Key, &[u8])], sync: bool) -> Result<()> {
        let append = self.append(batch);
        if sync {
            self.log.append(&[append])?;
            self.logged = self.version + batch.len() as u64;
            self.release()?;
        } else {
            let entries = append.writes.iter().flat_map(|write| &write.entries);
            let bytes: Vec<u8> = entries.flat_map(|entry| entry.payload.iter().copied()).collect();
            self.unsynced.write_all(&bytes)?;
        }
        let mut entries = Vec::with_capacity(batch.len());
        for (key, value) in batch {
            self.version += 1;
            let mut stored_key = Self::prefix(key);
            stored_key.extend_from_slice(&(!self.version).to_be_bytes());
            let mut stored_value = Vec::with_capacity(value.len() + 1);
            stored_value.push(1);
            stored_value.extend_from_slice(value);
            entries.push((stored_key, stored_value));
        }
        let batch = Batch { entries, version: self.version };
        self.batches.send(batch).context("the tree has failed")
    }

    fn get(&mut self, key: &Key) -> Result<Option<usize>> {
        let found = self.tree().get(&Self::prefix(key), Timestamp(self.version))?;
        Ok(found.filter(|(_, value)| **value != [0]).map(|(_, value)| value.len() - 1))
    }

    fn scan(&mut self, from: &Key, count: usize) -> Result<usize> {
        let from = Self::prefix(from);
        let scan = Scan { from: &from, to: None, at: Timestamp(self.version) };
        let (mut rows, mut sum) = (0, 0_usize);
        self.tree().view().scan_with(scan, |_, value| {
            sum += usize::from(value[1]);
            rows += 1;
            if rows == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        std::hint::black_box(sum);
        Ok(rows)
    }

    fn settle(&mut self) -> Result<()> {
        seal(&mut self.tree(), self.version);
        self.work_off()
    }

    fn compact(&mut self) -> Result<()> {
        self.tree().request_full_compaction();
        self.work_off()?;
        if self.tree().stats().level_tables[0] > 0 {
            bail!("a full compaction leaves nothing in level 0");
        }
        Ok(())
    }

    fn is_log(&self, name: &str) -> bool {
        name.starts_with("wal-") || name.starts_with("spare-")
    }

    fn report(&self) -> String {
        format!("{:?}", self.tree().stats())
    }
}
