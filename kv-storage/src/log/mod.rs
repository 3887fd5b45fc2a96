//! The write-ahead log: one stream for all groups of a node.
//!
//! # Batches and segments
//!
//! [`Log::append`] writes everything that it is given as one *batch* (one write, one sync) and then
//! answers. A batch holds one *record* for each group that is written to; it counts as a whole or
//! not at all. The stream of batches is cut into *segments*, files `wal-0000000000000001.log` and
//! so on. A segment is begun when the one before it is durable to its end, so only the last one can
//! have a torn tail.
//!
//! A segment is a *spare* first: a file `spare-...log` whose space is claimed. The first batch is
//! written into the spare and synced, then the spare is renamed, then the directory is synced. That
//! batch, the *start* of the segment, says where the stream and every group stand: hard state,
//! floor, last entry. So the start of a segment is whole if the segment has its name, and a segment
//! needs none of the older ones but for entries.
//!
//! # What is not needed any more
//!
//! [`Log::release`] raises the *floor* of groups: entries up to there are not needed. The oldest
//! segments become spares again when nothing is needed of them; what little is needed is copied to
//! the head first. A recycled file is full of old batches. They are no part of the log, because the
//! number of the segment is in every checksum; and because their blocks were written before, a sync
//! has no metadata to write, which halves its time. A fresh segment is not filled first: that would
//! write everything twice until the log has as many segments as it needs.
//!
//! # A full disk
//!
//! Space is claimed before anything is written, a segment at a time. If there is none,
//! [`LogError::NoSpace`] says so, nothing was written, and the log can be used as before. One spare
//! is the *reserve*: an ordinary append never takes it, and is refused while it is missing;
//! [`Log::append_from_reserve`] takes it. The end of each segment is kept for the log's own
//! records, so that a release, which makes room, finds some. When there is space again, the next
//! append claims it.
//!
//! # A torn tail, and damage
//!
//! After a crash the last write may be there in part. That is no loss, since nobody was told that
//! it was durable: it is discarded. Bytes that *were* durable and are damaged now are another
//! matter: the node has promised what they say, and must not go on as if it had not. From the
//! damaged bytes alone the two look the same. So every batch states up to which offset of the
//! stream everything was known durable when it was written, and recovery decides by the highest
//! offset that any whole batch states, also one behind the damage:
//!
//! - Damage below it is corruption. The log is refused, or opened for reading only, and nothing is
//!   changed.
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
//! A discarded batch is made unreadable, durably, before the first append. Beyond that each opening
//! of the log writes under a *life* number above all that it saw: a discarded batch that came back
//! all the same has a smaller one than the batch before it, and is no part of the stream.
//!
//! **What this leaves out:** writing a batch while the one before it is being synced (the format
//! allows for it: a batch then states an offset below its own), and reading entries back.

mod check;
mod format;
mod groups;
mod head;
mod recovery;
mod recycle;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kv_core::codec::DECODED_BYTES_MAX;
use kv_core::id::{Incarnation, LogId, ShardId};
use kv_core::storage::{Append, Entry, GroupWrite, HardState, LogCounters, StorageReply};

pub(crate) use check::check;
pub use format::RecordError;
use format::{BatchBuilder, BatchInfo, FileId};
use groups::GroupState;
use head::Head;
use recovery::Scan;
pub use recovery::{Damage, DamageKind, RecoveryError};
pub use segment::SEGMENT_BYTES;
use segment::{Segment, Spares};

use crate::mutants::Mutants;
use crate::vfs::{DirLock, Vfs};

/// How long a log may be without an append before its driver calls [`Log::write_idle_batch`].
pub const IDLE_BATCH_AFTER: Duration = Duration::from_millis(100);

/// The largest batch: far above what a node hands out at once, and far below what a length holds.
pub const BATCH_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Why the log did not write.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk is full. *Nothing was written, and the log can be used as before.*
    #[error("there is no room for {needed} more bytes of log")]
    NoSpace {
        /// How many bytes could not be claimed.
        needed: u64,
    },
    /// The disk failed. There is no retrying: after a failed write or sync nobody knows what the
    /// disk holds. What of the batch is durable is unknown. *The node must stop.*
    #[error("the log cannot be written")]
    Io(#[from] io::Error),
    /// Bytes that were durable, and are needed, are damaged. *Nothing was given up; the node must
    /// stop.*
    #[error("the log is damaged")]
    Damaged(#[source] Damage),
    /// An earlier call failed. *Nothing was written; the node must stop.*
    #[error("the log failed before")]
    Poisoned,
    /// The log was damaged when it was opened, and can only be read. *Nothing was written.*
    #[error("the log is damaged and takes no writes")]
    ReadOnly,
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

impl LogError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io(_)
            | Self::Damaged(_)
            | Self::Poisoned
            | Self::ReadOnly
            | Self::TooLarge { .. } => false,
        }
    }

    /// The error of a call, other than a sync, that may have found the disk full.
    fn of_space(error: io::Error, needed: u64) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::NoSpace { needed },
            _ => Self::Io(error),
        }
    }
}

/// What the log holds of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogGroup {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// What the entries follow: entries up to here were released. Zero if none were.
    pub floor: LogId,
    /// The entries behind the floor, without a gap.
    pub entries: Vec<Entry>,
}

/// What an open log takes of the disk, and what it did to bound that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogUsage {
    /// Segments, the one that is being written included.
    pub segment_count: usize,
    /// Files ready to become segments.
    pub spare_count: usize,
    /// Bytes claimed by segments and spares.
    pub bytes: u64,
    /// Segments that became spares since the log was opened.
    pub segments_recycled: u64,
    /// Segments that were removed since the log was opened.
    pub segments_removed: u64,
    /// Segments begun with a recycled file since the log was opened.
    pub segments_reused: u64,
    /// Segments begun with a fresh file since the log was opened.
    pub segments_created: u64,
    /// Entries copied to the head since the log was opened.
    pub entries_copied: u64,
}

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogOptions {
    /// Of the data directory.
    pub(crate) incarnation: Incarnation,
    /// Size of a segment.
    pub(crate) segment_bytes: u64,
    /// Whether to open a damaged log, for reading only.
    pub(crate) accept_damage: bool,
    /// Planted bugs.
    pub(crate) mutants: Mutants,
}

/// What an opening of a log gives.
#[derive(Debug)]
pub(crate) struct OpenedLog {
    pub(crate) log: Log,
    pub(crate) groups: BTreeMap<ShardId, LogGroup>,
    /// What is lost. The groups then hold only what comes before it in the stream.
    pub(crate) damage: Option<Damage>,
}

/// How much of the space a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// Not the reserve, and not the end of a segment.
    Ordinary,
    /// Not the end of a segment.
    Reserved,
    /// Everything.
    Internal,
}

/// Whether a log can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogState {
    Open,
    Poisoned,
    ReadOnly,
}

/// An open log.
///
/// - Everything before `offset` is durable: each batch is synced before the next is written.
/// - After a failure nothing more is written.
#[derive(Debug)]
pub struct Log {
    vfs: Arc<dyn Vfs>,
    options: LogOptions,
    /// The segments before the head, the oldest first.
    segments: VecDeque<Segment>,
    /// None while a directory has no log.
    head: Option<Head>,
    spares: Spares,
    /// Where the next batch goes in the stream.
    offset: u64,
    /// Above that of every batch from before this opening.
    life: u32,
    builder: BatchBuilder,
    /// For the start of a segment, which is written while `builder` holds another batch.
    start_builder: BatchBuilder,
    groups: BTreeMap<ShardId, GroupState>,
    counters: LogCounters,
    usage: LogUsage,
    /// Whether the last batch has records, which nothing states to be durable yet.
    owes_idle_batch: bool,
    state: LogState,
    /// Keeps the directory ours.
    _lock: Arc<DirLock>,
}

/// Whether the directory holds any segment of a log.
pub(crate) fn exists(vfs: &dyn Vfs) -> io::Result<bool> {
    Ok(!segment::list_segments(vfs)?.is_empty())
}

/// Whether the directory holds anything of a log.
pub(crate) fn left_anything(vfs: &dyn Vfs) -> io::Result<bool> {
    Ok(exists(vfs)? || !segment::list_spares(vfs)?.is_empty())
}

/// Whether a file of the root directory is one of a log, by its name.
pub(crate) fn is_file_of_log(name: &str) -> bool {
    segment::segment_number(name).is_some() || segment::is_spare(name)
}

impl Log {
    /// Opens the log of a directory that the caller has locked, and returns what it holds.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        lock: Arc<DirLock>,
        options: LogOptions,
    ) -> Result<OpenedLog, RecoveryError> {
        let mut found = recovery::scan(&*vfs, options)?;
        let (groups, damage) = (std::mem::take(&mut found.held.groups), found.damage.take());
        let mut log = Self::unopened(vfs, lock, options, &mut found);
        match damage {
            Some(_) => log.state = LogState::ReadOnly,
            None => log.make_ready(&found)?,
        }
        Ok(OpenedLog { log, groups, damage })
    }

    fn unopened(
        vfs: Arc<dyn Vfs>,
        lock: Arc<DirLock>,
        options: LogOptions,
        found: &mut Scan,
    ) -> Self {
        Self {
            vfs,
            options,
            segments: std::mem::take(&mut found.segments),
            head: None,
            spares: Spares::default(),
            offset: found.offset,
            life: found.next_life,
            builder: BatchBuilder::default(),
            start_builder: BatchBuilder::default(),
            groups: std::mem::take(&mut found.held.states),
            counters: LogCounters::default(),
            usage: LogUsage::default(),
            owes_idle_batch: found.ends_with_records,
            state: LogState::Open,
            _lock: lock,
        }
    }

    /// Makes what was found durable, and room for more.
    fn make_ready(&mut self, found: &Scan) -> Result<(), RecoveryError> {
        let last = self.segments.back().map(|segment| segment.number);
        let file = match last {
            Some(last) => Some(recovery::repair(&*self.vfs, last, found)?),
            None => None,
        };
        self.spares = Spares::find(&*self.vfs, self.options.segment_bytes)?;
        match (file, self.segments.pop_back()) {
            (Some(file), Some(Segment { number, size, end, .. })) => {
                self.head = Some(Head { file, number, position: end, size });
            }
            _ => self.begin_segment(0, Urgency::Internal).map_err(opening_error)?,
        }
        // A node with a full disk must start all the same: to serve reads, and to make room.
        match self.hold_reserve() {
            Ok(()) | Err(LogError::NoSpace { .. }) => Ok(()),
            Err(error) => Err(opening_error(error)),
        }
    }

    /// Writes the appends as one batch and syncs it. Returns one [`StorageReply::Appended`] for
    /// each, in order. Appends without any write are answered without touching the disk.
    ///
    /// # Errors
    /// [`LogError::NoSpace`]: nothing was written, and the log can be used as before. After any
    /// other error it writes nothing more. *The node must stop.*
    ///
    /// # Panics
    /// If the entries of a write are not consecutive or leave a gap in the group's log.
    pub fn append(&mut self, appends: &[Append]) -> Result<Vec<StorageReply>, LogError> {
        self.append_as(appends, Urgency::Ordinary)
    }

    /// [`Log::append`] for what must be written on a full disk too, such as what makes room: it may
    /// take the reserve.
    ///
    /// # Errors
    /// As [`Log::append`].
    ///
    /// # Panics
    /// As [`Log::append`].
    pub fn append_from_reserve(
        &mut self,
        appends: &[Append],
    ) -> Result<Vec<StorageReply>, LogError> {
        self.append_as(appends, Urgency::Reserved)
    }

    fn append_as(
        &mut self,
        appends: &[Append],
        urgency: Urgency,
    ) -> Result<Vec<StorageReply>, LogError> {
        self.check_usable()?;
        let writes = || appends.iter().flat_map(|append| &append.writes);
        self.builder.start();
        for write in writes() {
            self.groups.entry(write.shard).or_default().plan(write);
            self.builder.push(write);
        }
        if !self.builder.is_empty() {
            let result = self.write_batch(urgency);
            let segment = self.head_number();
            for write in writes() {
                let group = self.groups.entry(write.shard).or_default();
                match result {
                    Ok(()) => group.write(write, segment),
                    Err(_) => group.forget_plan(),
                }
            }
            result?;
        }
        Ok(appends.iter().map(|append| appended(append, self.counters)).collect())
    }

    /// States that everything is durable, by an empty batch, if that is not stated yet. To be
    /// called when nothing was appended for [`IDLE_BATCH_AFTER`]. Returns whether it is stated now
    /// and was not before; on a full disk it may have to wait.
    ///
    /// # Errors
    /// [`LogError`], and then the log writes nothing more. *The node must stop.*
    pub fn write_idle_batch(&mut self) -> Result<bool, LogError> {
        self.check_usable()?;
        if !self.owes_idle_batch {
            return Ok(false);
        }
        self.builder.start();
        match self.write_batch(Urgency::Internal) {
            Err(LogError::NoSpace { .. }) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// What the log did since it was opened.
    pub fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Whether the log was damaged when it was opened: it takes no writes.
    pub fn is_read_only(&self) -> bool {
        self.state == LogState::ReadOnly
    }

    /// Whether [`Log::write_idle_batch`] would write.
    pub fn owes_idle_batch(&self) -> bool {
        self.owes_idle_batch && self.state == LogState::Open
    }

    /// What the log takes of the disk.
    pub fn usage(&self) -> LogUsage {
        let segments: u64 = self.segments.iter().map(|segment| segment.size).sum();
        let head = self.head.as_ref().map_or(0, |head| head.size);
        LogUsage {
            segment_count: self.segments.len() + usize::from(self.head.is_some()),
            spare_count: self.spares.len(),
            bytes: segments + head + self.spares.bytes(),
            ..self.usage
        }
    }

    /// Whether the reserve is there. Ordinary appends are refused while it is not and cannot be
    /// had.
    pub fn has_reserve(&self) -> bool {
        self.spares.len() > 0
    }

    /// The groups that need something of the oldest segment but one that is not being written:
    /// until their floors rise, the log only grows.
    pub fn groups_in_oldest_segment(&self) -> Vec<ShardId> {
        let Some(oldest) = self.segments.front() else { return Vec::new() };
        let pins =
            |(shard, group): (&ShardId, &GroupState)| group.needs(oldest.number).map(|_| *shard);
        self.groups.iter().filter_map(pins).collect()
    }

    fn check_usable(&self) -> Result<(), LogError> {
        match self.state {
            LogState::Open => Ok(()),
            LogState::Poisoned => Err(LogError::Poisoned),
            LogState::ReadOnly => Err(LogError::ReadOnly),
        }
    }

    /// Runs what changes the disk. Whatever fails for another reason than a full disk is the end.
    fn guarded<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        // Taken back only when everything went well.
        self.state = LogState::Poisoned;
        let result = run(self);
        if matches!(result, Ok(_) | Err(LogError::NoSpace { .. })) {
            self.state = LogState::Open;
        }
        result
    }

    /// Writes and syncs what is in the builder.
    fn write_batch(&mut self, urgency: Urgency) -> Result<(), LogError> {
        self.guarded(|log| {
            let size = log.check_size()?;
            if urgency == Urgency::Ordinary {
                log.hold_reserve()?;
            }
            if !log.fits(size, urgency) {
                log.begin_segment(size, urgency)?;
            }
            log.write_built(size)
        })?;
        self.owes_idle_batch = !self.builder.is_empty();
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

    fn write_built(&mut self, size: u64) -> Result<(), LogError> {
        let head = self.head.as_mut().expect("a log that is open has a head");
        let file = FileId { incarnation: self.options.incarnation, segment: head.number };
        let bytes = self.builder.seal(&BatchInfo {
            file,
            position: head.position,
            offset: self.offset,
            durable: self.offset,
            life: self.life,
        });
        // The space was claimed, but a file system that copies on write may want more. A part of a
        // batch that it took is no batch, and the next batch overwrites its header.
        head.file
            .write_at(head.position, bytes)
            .map_err(|error| LogError::of_space(error, size))?;
        head.file.sync_data()?;
        head.position += size;
        self.note_batch(size);
        Ok(())
    }

    fn note_batch(&mut self, size: u64) {
        self.offset += size;
        self.counters.batch_count += 1;
        self.counters.sync_count += 1;
        self.counters.bytes_written += size;
    }
}

fn opening_error(error: LogError) -> RecoveryError {
    match error {
        LogError::NoSpace { needed } => RecoveryError::NoSpace { needed },
        LogError::Io(error) => error.into(),
        LogError::Damaged(damage) => damage.into(),
        LogError::Poisoned | LogError::ReadOnly | LogError::TooLarge { .. } => {
            io::Error::other(error).into()
        }
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
