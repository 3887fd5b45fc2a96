//! The write-ahead log: one stream for all groups of a node.
//!
//! # Batches
//!
//! [`Log::append`] writes everything that it is given as one *batch* (one write, one sync) and then
//! answers. A batch holds one *record* for each group that is written to; it counts as a whole or
//! not at all. The stream of batches is cut into *segments*, files `wal-0000000000000001.log` and
//! so on. A segment is begun (created, and its name made durable) when the one before it is durable
//! to its end, so only the last one can have a torn tail.
//!
//! # A torn tail, and corruption
//!
//! After a crash the last write may be there in part. That is no loss, since nobody was told that
//! it was durable: it is cut off. Bytes that *were* durable and are damaged now are another matter:
//! the node has promised what they say, and must not go on as if it had not. From the damaged bytes
//! alone the two look the same. So every batch states up to which offset of the stream everything
//! was known durable when it was written, and recovery decides by the highest offset that any whole
//! batch states, also one behind the damage:
//!
//! - Damage below it is corruption. The log is not opened, and nothing is changed.
//! - Damage above it is a torn tail. Everything from there on is discarded, whole later batches
//!   included.
//!
//! One window is left. Nothing states the last batch of the stream durable, so if the disk damages
//! just that one, it is taken for torn (one disk alone cannot tell; replicas can).
//! [`IDLE_BATCH_AFTER`] bounds the window in time: a driver then calls [`Log::write_idle_batch`],
//! which states it.
//!
//! # What was discarded stays discarded
//!
//! A tail is cut, and the cut synced, before the first append. Beyond that each opening of the log
//! writes under a *life* number above all that it saw: a discarded batch that came back all the
//! same has a smaller one than the batch before it, and is no part of the stream.
//!
//! **What this leaves out:** removal and reuse of segments, preallocation, writing a batch while
//! the one before it is being synced (the format allows for it: a batch then states an offset below
//! its own).

mod format;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kv_core::codec::DECODED_BYTES_MAX;
use kv_core::id::{Incarnation, LogId, ShardId};
use kv_core::storage::{Append, GroupWrite, LogCounters, RecoveredGroup, StorageReply};

pub use format::RecordError;
use format::{BatchBuilder, BatchInfo, FileId};
pub use recovery::RecoveryError;
use segment::{SEGMENT_BYTES, segment_name};

use crate::vfs::{DirLock, Vfs, VfsFile};

/// How long a log may be without an append before its driver calls [`Log::write_idle_batch`].
pub const IDLE_BATCH_AFTER: Duration = Duration::from_millis(100);

/// The largest batch: far above what a node hands out at once, and far below what a length holds.
pub const BATCH_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Why an append failed. There is no retrying: after a failed write or sync nobody knows what the
/// disk holds.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. What of the batch is durable is unknown. *The node must stop.*
    #[error("the log cannot be written")]
    Io(#[from] io::Error),
    /// An earlier append failed. *Nothing was written; the node must stop.*
    #[error("the log failed before")]
    Poisoned,
    /// A record or the batch is larger than recovery would read. *Nothing was written; the node
    /// must stop.*
    #[error("a batch of {batch_bytes} bytes, its largest record {record_bytes}, is too large")]
    TooLarge {
        /// Size of the batch.
        batch_bytes: usize,
        /// Size of its largest record.
        record_bytes: usize,
    },
}

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogOptions {
    /// Of the data directory.
    pub(crate) incarnation: Incarnation,
    /// Size beyond which a new segment is begun.
    pub(crate) segment_bytes: u64,
}

impl LogOptions {
    /// The options of a log of the directory `incarnation`.
    pub(crate) fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, segment_bytes: SEGMENT_BYTES }
    }
}

/// An open log.
///
/// - Everything before `offset` is durable: each batch is synced before the next is written.
/// - After a failure nothing more is written.
#[derive(Debug)]
pub struct Log {
    vfs: Arc<dyn Vfs>,
    options: LogOptions,
    segment: u64,
    file: Box<dyn VfsFile>,
    /// Where the next batch goes in the segment.
    position: u64,
    /// Where the next batch goes in the stream.
    offset: u64,
    /// Above that of every batch from before this opening.
    life: u32,
    builder: BatchBuilder,
    /// Count of entries of each group, to assert that no write leaves a gap.
    entry_counts: BTreeMap<ShardId, usize>,
    counters: LogCounters,
    /// Whether the last batch has records, which nothing states to be durable yet.
    owes_idle_batch: bool,
    is_poisoned: bool,
    /// Keeps the directory ours.
    _lock: Arc<DirLock>,
}

/// Whether the directory holds any part of a log.
pub(crate) fn exists(vfs: &dyn Vfs) -> io::Result<bool> {
    Ok(!segment::list_segments(vfs)?.is_empty())
}

impl Log {
    /// Opens the log of a directory that the caller has locked, and returns what it holds.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        lock: Arc<DirLock>,
        options: LogOptions,
    ) -> Result<(Self, BTreeMap<ShardId, RecoveredGroup>), RecoveryError> {
        let found = recovery::scan(&*vfs, options.incarnation)?;
        let (segment, file) = recovery::repair(&*vfs, &found)?;
        let entry_counts =
            found.groups.iter().map(|(shard, group)| (*shard, group.entries.len())).collect();
        let log = Self {
            vfs,
            options,
            segment,
            file,
            position: found.position,
            offset: found.offset,
            life: found.next_life,
            builder: BatchBuilder::default(),
            entry_counts,
            counters: LogCounters::default(),
            owes_idle_batch: found.ends_with_records,
            is_poisoned: false,
            _lock: lock,
        };
        Ok((log, found.groups))
    }

    /// Writes the appends as one batch and syncs it. Returns one [`StorageReply::Appended`] for
    /// each, in order. Appends without any write are answered without touching the disk.
    ///
    /// # Errors
    /// [`LogError`], and then the log writes nothing more. *The node must stop.*
    ///
    /// # Panics
    /// If the entries of a write are not consecutive or leave a gap in the group's log.
    pub fn append(&mut self, appends: &[Append]) -> Result<Vec<StorageReply>, LogError> {
        self.builder.start();
        let mut record_count = 0;
        for write in appends.iter().flat_map(|append| &append.writes) {
            self.note_entries(write);
            self.builder.push(write);
            record_count += 1;
        }
        if record_count > 0 {
            self.write_batch()?;
            self.owes_idle_batch = true;
        } else if self.is_poisoned {
            return Err(LogError::Poisoned);
        }
        Ok(appends.iter().map(|append| appended(append, self.counters)).collect())
    }

    /// States that everything is durable, by an empty batch, if that is not stated yet. To be
    /// called when nothing was appended for [`IDLE_BATCH_AFTER`]. Returns whether a batch was
    /// written.
    ///
    /// # Errors
    /// [`LogError`], and then the log writes nothing more. *The node must stop.*
    pub fn write_idle_batch(&mut self) -> Result<bool, LogError> {
        if !self.owes_idle_batch {
            return Ok(false);
        }
        self.builder.start();
        self.write_batch()?;
        self.owes_idle_batch = false;
        Ok(true)
    }

    /// What the log did since it was opened.
    pub fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Whether [`Log::write_idle_batch`] would write.
    pub fn owes_idle_batch(&self) -> bool {
        self.owes_idle_batch
    }

    /// Asserts that recovery will accept the write, as it would have to refuse the log otherwise.
    fn note_entries(&mut self, write: &GroupWrite) {
        let count = self.entry_counts.entry(write.shard).or_default();
        assert!(recovery::follows(write, *count), "the entries of a write leave no gap");
        if let Some(last) = write.entries.last() {
            *count = last.id.index.0 as usize;
        }
    }

    /// Writes and syncs what is in the builder.
    fn write_batch(&mut self) -> Result<(), LogError> {
        if self.is_poisoned {
            return Err(LogError::Poisoned);
        }
        // Taken back only when everything went well.
        self.is_poisoned = true;
        let size = self.check_size()?;
        if self.position > 0 && self.position + size > self.options.segment_bytes {
            self.begin_segment()?;
        }
        let file = FileId { incarnation: self.options.incarnation, segment: self.segment };
        let bytes = self.builder.seal(&BatchInfo {
            file,
            position: self.position,
            offset: self.offset,
            durable: self.offset,
            life: self.life,
        });
        self.file.write_at(self.position, bytes)?;
        self.file.sync_data()?;
        self.position += size;
        self.offset += size;
        self.counters.batch_count += 1;
        self.counters.sync_count += 1;
        self.counters.bytes_written += size;
        self.is_poisoned = false;
        Ok(())
    }

    fn check_size(&self) -> Result<u64, LogError> {
        let batch_bytes = self.builder.size();
        let record_bytes = self.builder.content_bytes_max();
        match batch_bytes > BATCH_BYTES_MAX || record_bytes > DECODED_BYTES_MAX {
            true => Err(LogError::TooLarge { batch_bytes, record_bytes }),
            false => Ok(batch_bytes as u64),
        }
    }

    /// Begins the next segment. The one before it is durable to its end.
    fn begin_segment(&mut self) -> io::Result<()> {
        self.file = self.vfs.create(&segment_name(self.segment + 1))?;
        self.vfs.sync_dir("")?;
        self.segment += 1;
        self.position = 0;
        Ok(())
    }
}

fn appended(append: &Append, counters: LogCounters) -> StorageReply {
    let last = |write: &GroupWrite| -> Option<(ShardId, LogId)> {
        write.entries.last().map(|entry| (write.shard, entry.id))
    };
    StorageReply::Appended {
        id: append.id,
        written: append.writes.iter().filter_map(last).collect(),
        counters,
    }
}
