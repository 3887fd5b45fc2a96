//! What a log holds when it is opened.
//!
//! [`scan`] reads all segments and changes nothing. [`repair`] then cuts a torn tail and makes
//! everything that was read durable, before anybody is told of it.

use std::collections::BTreeMap;
use std::io;

use kv_core::id::{Incarnation, LogIndex, ShardId};
use kv_core::storage::{GroupWrite, RecoveredGroup};

use super::format::{ALIGNMENT, Batch, FileId, NotABatch, RecordError};
use super::segment::{FIRST_SEGMENT, list_segments, segment_name};
use crate::vfs::{Vfs, VfsFile, read_all};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Bytes that were durable are damaged. The node must not go on from what is left: it may have
    /// promised what it lost. *Nothing was changed.*
    #[error("{file} is corrupt at byte {position}: the stream was durable up to offset {durable}")]
    Corrupt {
        /// The segment's name.
        file: String,
        /// Where the damage starts.
        position: u64,
        /// The highest durable stream offset that the log states, as far as known.
        durable: u64,
    },
    /// A segment is gone although a later one exists. *Nothing was changed.*
    #[error("{file} is missing, but later parts of the log exist")]
    MissingSegment {
        /// The segment's name.
        file: String,
    },
    /// A segment holds batches of another directory, or of another segment: it was brought from
    /// elsewhere. *Nothing was changed.*
    #[error("{file} belongs elsewhere, as its batch at byte {position} says")]
    Foreign {
        /// The segment's name.
        file: String,
        /// Where the batch starts.
        position: u64,
    },
    /// A newer program wrote the log. *Nothing was changed.*
    #[error(
        "{file} has a batch of format version {version} at byte {position}; known is version 1"
    )]
    UnknownVersion {
        /// The segment's name.
        file: String,
        /// Where the batch starts.
        position: u64,
        /// Its version.
        version: u32,
    },
    /// A whole batch holds a record that this program cannot read. *Nothing was changed.*
    #[error("{file} holds an unreadable record in the batch at byte {position}")]
    Record {
        /// The segment's name.
        file: String,
        /// Where the batch starts.
        position: u64,
        /// What is wrong with the record.
        #[source]
        source: RecordError,
    },
    /// The disk failed. *At most a torn tail was cut.*
    #[error("the disk failed while the log was read")]
    Io(#[from] io::Error),
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scan {
    /// The durable state of every group.
    pub(super) groups: BTreeMap<ShardId, RecoveredGroup>,
    /// The last segment; none in an empty directory.
    pub(super) segment: Option<u64>,
    /// Where its valid content ends.
    pub(super) position: u64,
    /// The stream's end.
    pub(super) offset: u64,
    /// Above the life of every batch that was seen, discarded ones included.
    pub(super) next_life: u32,
    /// Whether the last batch has records, so that nothing after it states them durable.
    pub(super) ends_with_records: bool,
}

/// Reads all segments of the directory `incarnation`.
pub(super) fn scan(vfs: &dyn Vfs, incarnation: Incarnation) -> Result<Scan, RecoveryError> {
    let mut scanner = Scanner::new(incarnation);
    let segments = list_segments(vfs)?;
    let mut bytes = Vec::new();
    for (expected, segment) in (FIRST_SEGMENT..).zip(&segments) {
        if *segment != expected {
            return Err(RecoveryError::MissingSegment { file: segment_name(expected) });
        }
        read_all(&*vfs.open(&segment_name(*segment))?, &mut bytes)?;
        scanner.read_segment(*segment, &bytes, segments.last() == Some(segment))?;
    }
    Ok(scanner.found)
}

/// Cuts what follows the valid content and makes the rest durable: whoever wrote it may have died
/// before the sync. Returns the last segment, which is created in an empty directory.
pub(super) fn repair(vfs: &dyn Vfs, found: &Scan) -> io::Result<(u64, Box<dyn VfsFile>)> {
    let Some(segment) = found.segment else {
        let file = vfs.create(&segment_name(FIRST_SEGMENT))?;
        vfs.sync_dir("")?;
        return Ok((FIRST_SEGMENT, file));
    };
    let file = vfs.open(&segment_name(segment))?;
    if file.size()? > found.position {
        file.set_len(found.position)?;
    }
    file.sync_data()?;
    vfs.sync_dir("")?;
    Ok((segment, file))
}

/// Follows the chain of batches through the segments.
struct Scanner {
    incarnation: Incarnation,
    found: Scan,
    /// Life of the last batch of the chain.
    life: u32,
}

impl Scanner {
    fn new(incarnation: Incarnation) -> Self {
        let found = Scan {
            groups: BTreeMap::new(),
            segment: None,
            position: 0,
            offset: 0,
            next_life: 1,
            ends_with_records: false,
        };
        Self { incarnation, found, life: 0 }
    }

    fn read_segment(
        &mut self,
        segment: u64,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), RecoveryError> {
        let file = FileId { incarnation: self.incarnation, segment };
        self.found.segment = Some(segment);
        self.found.position = 0;
        loop {
            let position = self.found.position;
            let rest = &bytes[position as usize..];
            match Batch::parse(rest, file, position) {
                _ if rest.is_empty() => return Ok(()),
                Ok(batch) if self.continues(&batch) => self.take(&batch)?,
                Err(NotABatch::Damaged) if Batch::is_foreign(rest, file, position) => {
                    let file = self.file_name();
                    return Err(RecoveryError::Foreign { file, position });
                }
                Ok(_) | Err(NotABatch::Damaged) if is_last => {
                    return self.judge_tail(file, rest);
                }
                // A segment is only begun when the one before it is durable to its end.
                Ok(_) | Err(NotABatch::Damaged) => return Err(self.corrupt(self.found.offset)),
                Err(NotABatch::UnknownVersion(version)) => {
                    return Err(self.unknown_version(position, version));
                }
            }
        }
    }

    /// Whether a valid batch is the next one of the stream, and not one that was discarded when an
    /// earlier opening cut the log.
    fn continues(&self, batch: &Batch<'_>) -> bool {
        batch.info.offset == self.found.offset && batch.info.life >= self.life
    }

    fn take(&mut self, batch: &Batch<'_>) -> Result<(), RecoveryError> {
        let found = &mut self.found;
        batch.records().and_then(|writes| replay(&mut found.groups, writes)).map_err(|source| {
            let file = segment_name(batch.info.file.segment);
            RecoveryError::Record { file, position: batch.info.position, source }
        })?;
        found.position += batch.size() as u64;
        found.offset += batch.size() as u64;
        found.ends_with_records = batch.record_count > 0;
        found.next_life = found.next_life.max(batch.info.life.saturating_add(1));
        self.life = batch.info.life;
        Ok(())
    }

    /// The chain ends before the last segment does. Decides whether that is a torn tail, by looking
    /// for batches further on that state more to have been durable.
    fn judge_tail(&mut self, file: FileId, rest: &[u8]) -> Result<(), RecoveryError> {
        let mut durable = self.found.offset;
        let mut at = 0;
        while at < rest.len() {
            let position = self.found.position + at as u64;
            match Batch::parse(&rest[at..], file, position) {
                Ok(batch) => {
                    durable = durable.max(batch.info.durable);
                    let life = batch.info.life.saturating_add(1);
                    self.found.next_life = self.found.next_life.max(life);
                    at += batch.size();
                }
                Err(NotABatch::UnknownVersion(version)) => {
                    return Err(self.unknown_version(position, version));
                }
                Err(NotABatch::Damaged) => at += ALIGNMENT,
            }
        }
        if durable > self.found.offset { Err(self.corrupt(durable)) } else { Ok(()) }
    }

    fn corrupt(&self, durable: u64) -> RecoveryError {
        let position = self.found.position;
        RecoveryError::Corrupt { file: self.file_name(), position, durable }
    }

    fn unknown_version(&self, position: u64, version: u32) -> RecoveryError {
        RecoveryError::UnknownVersion { file: self.file_name(), position, version }
    }

    fn file_name(&self) -> String {
        segment_name(self.found.segment.unwrap_or(FIRST_SEGMENT))
    }
}

/// Applies the writes of one batch to what was recovered so far.
fn replay(
    groups: &mut BTreeMap<ShardId, RecoveredGroup>,
    writes: Vec<GroupWrite>,
) -> Result<(), RecordError> {
    for write in writes {
        let group = groups.entry(write.shard).or_default();
        group.hard_state = write.hard_state.unwrap_or(group.hard_state);
        let Some(first) = write.entries.first() else { continue };
        if !follows(&write, group.entries.len()) {
            return Err(RecordError::Gap);
        }
        group.entries.truncate(first.id.index.prev().0 as usize);
        group.entries.extend(write.entries);
    }
    Ok(())
}

/// Whether the entries of `write` have consecutive indexes and leave no gap after a log of
/// `entry_count` entries.
pub(super) fn follows(write: &GroupWrite, entry_count: usize) -> bool {
    let Some(first) = write.entries.first().map(|entry| entry.id.index) else { return true };
    let starts = first >= LogIndex(1) && first <= LogIndex(entry_count as u64 + 1);
    let indexes = write.entries.iter().map(|entry| entry.id.index.0);
    starts && indexes.eq(first.0..first.0 + write.entries.len() as u64)
}
