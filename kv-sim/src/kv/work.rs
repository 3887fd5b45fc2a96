//! What waits for a server's disk, and what the disk does at a time.
//!
//! The disk does one write at a time. It takes what waits for the log in order: the appends up to a
//! release, and then the releases, as the log's thread of a production node does. What the engine is
//! asked for goes along, also in order.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use kv_core::cluster::Identity;
use kv_core::id::{LogId, ShardId};
use kv_core::storage::{Append, StorageRequest, WRITE_BYTES_MAX};

/// What a step of the engine writes, for the time that it takes.
const STEP_BYTES: usize = 16 * 1024;

/// What the log is asked for.
#[derive(Debug)]
pub(super) enum LogWork {
    Append(Append),
    Release(ShardId, LogId),
}

/// What waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// In the order in which it must be done.
    pub(super) log: VecDeque<LogWork>,
    pub(super) identity: Option<Identity>,
    /// What the engine is asked for and takes time, and what must not overtake it.
    pub(super) engine: Vec<StorageRequest>,
    /// Whether the log is to state that its end is durable.
    pub(super) idle_batch: bool,
    /// Whether the applied state is to be brought to the disk by a step.
    pub(super) step: bool,
}

/// What the disk does at a time.
#[derive(Debug, Default)]
pub(super) struct Write {
    pub(super) appends: Vec<Append>,
    /// Entries that are needed no more, once the appends are done.
    pub(super) releases: BTreeMap<ShardId, LogId>,
    pub(super) identity: Option<Identity>,
    pub(super) engine: Vec<StorageRequest>,
    pub(super) idle_batch: bool,
    pub(super) step: bool,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.log.is_empty()
            && self.identity.is_none()
            && self.engine.is_empty()
            && !self.idle_batch
            && !self.step
    }

    /// Takes what one write may hold, and leaves the rest: appends up to a release or a size, and
    /// the releases behind them.
    pub(super) fn take_one_write(&mut self) -> Write {
        let mut write = Write {
            identity: self.identity.take(),
            engine: mem::take(&mut self.engine),
            idle_batch: mem::take(&mut self.idle_batch),
            step: mem::take(&mut self.step),
            ..Write::default()
        };
        let mut bytes = 0;
        while let Some(work) = self.log.pop_front() {
            match work {
                LogWork::Append(append) => {
                    bytes += append.size();
                    let is_first = write.appends.is_empty();
                    if !write.releases.is_empty() || !(is_first || bytes <= WRITE_BYTES_MAX) {
                        self.log.push_front(LogWork::Append(append));
                        break;
                    }
                    write.appends.push(append);
                }
                LogWork::Release(shard, floor) => drop(write.releases.insert(shard, floor)),
            }
        }
        write
    }
}

impl Write {
    pub(super) fn bytes(&self) -> usize {
        let step = if self.step { STEP_BYTES } else { 0 };
        let appends = self.appends.iter().map(Append::size).sum::<usize>();
        appends + self.engine.iter().map(request_bytes).sum::<usize>() + step
    }
}

/// What a request of the engine reads or writes, for the time that it takes.
fn request_bytes(request: &StorageRequest) -> usize {
    match request {
        StorageRequest::StageChunk { chunk, .. } => chunk.bytes.len(),
        StorageRequest::ReadSnapshot { .. } => STEP_BYTES,
        _ => 0,
    }
}

/// The shard that a request of the engine is about.
pub(super) fn shard_of(request: &StorageRequest) -> Option<ShardId> {
    match request {
        StorageRequest::Apply { shard, .. }
        | StorageRequest::OpenSnapshot { shard, .. }
        | StorageRequest::DropStaged { shard }
        | StorageRequest::RemoveShard { shard } => Some(*shard),
        StorageRequest::Read(read) => Some(read.shard),
        StorageRequest::Scan(scan) => Some(scan.shard),
        StorageRequest::ReadSnapshot { id, .. }
        | StorageRequest::CloseSnapshot { id }
        | StorageRequest::StageChunk { id, .. }
        | StorageRequest::InstallSnapshot { id } => Some(id.shard),
        StorageRequest::Append(_)
        | StorageRequest::Release { .. }
        | StorageRequest::StoreIdentity(_) => None,
    }
}

/// Whether a request of the engine is done at once, if nothing of its shard waits.
pub(super) fn takes_no_time(request: &StorageRequest) -> bool {
    matches!(
        request,
        StorageRequest::Apply { .. }
            | StorageRequest::Read(_)
            | StorageRequest::Scan(_)
            | StorageRequest::OpenSnapshot { .. }
            | StorageRequest::CloseSnapshot { .. }
    )
}
