//! What a log holds when it is opened.
//!
//! [`scan`] reads all segments and changes nothing. [`repair`] then makes a torn tail unreadable
//! and everything that was read durable, before anybody is told of it.

use std::collections::VecDeque;
use std::io;

use kv_core::id::{Incarnation, LogIndex, ShardId};

use super::LogOptions;
use super::format::{
    ALIGNMENT, BATCH_HEADER_BYTES, Batch, FileId, GroupMark, NotABatch, Record, RecordError,
};
use super::replay::{Held, Replay};
use super::segment::{FIRST_SEGMENT, Segment, list_segments, segment_name};
use crate::mutants::{Mutant, Mutants};
use crate::vfs::{Vfs, VfsFile, read_all};

/// What is read at a time to find the place that cannot be read.
const BLOCK_BYTES: usize = 4096;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Something that was durable is lost. The node must not go on from what is left: it may have
    /// promised what it lost. *Nothing was changed.*
    #[error("the log is damaged")]
    Damaged(#[from] Damage),
    /// A segment holds batches of another directory: it was brought from elsewhere. *Nothing was
    /// changed.*
    #[error("{file} belongs elsewhere, as its batch at byte {position} says")]
    Foreign {
        /// The segment's name.
        file: String,
        /// Where the batch starts.
        position: u64,
    },
    /// A newer or older program wrote the log. *Nothing was changed.*
    #[error(
        "{file} has a batch of format version {version} at byte {position}; known is version 2"
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
    /// The disk is full: there is no room for the first segment. *Nothing of the log was changed.*
    #[error("there is no room for a segment of {needed} bytes")]
    NoSpace {
        /// How many bytes could not be claimed.
        needed: u64,
    },
    /// The disk failed. *At most a torn tail was made unreadable.*
    #[error("the disk failed while the log was opened")]
    Io(#[from] io::Error),
}

/// Something that was durable and is not there any more. *Nothing was changed.*
#[derive(Debug, thiserror::Error)]
#[error("{file} is damaged at byte {position}: {kind}")]
pub struct Damage {
    /// The segment's name.
    pub file: String,
    /// Where the damage starts.
    pub position: u64,
    /// What is wrong there.
    #[source]
    pub kind: DamageKind,
}

/// What is wrong with a damaged log.
#[derive(Debug, thiserror::Error)]
pub enum DamageKind {
    /// The bytes are not those that were written. *Nothing was changed.*
    #[error("the bytes there are not those that were durable, up to offset {durable} of the log")]
    Corrupt {
        /// The highest durable stream offset that the log states, as far as known.
        durable: u64,
    },
    /// The disk does not give the bytes back. *Nothing was changed.*
    #[error("the bytes there cannot be read")]
    Unreadable(#[source] io::Error),
    /// The segment is gone although a later one exists. *Nothing was changed.*
    #[error("the file is missing, but later parts of the log exist")]
    Missing,
    /// The segment holds what belongs to another segment. *Nothing was changed.*
    #[error("the file holds the start of segment {found}")]
    Misplaced {
        /// The number of that segment.
        found: u64,
    },
    /// The log lacks entries that it should hold: the file, or a copy of what was in it, is gone.
    /// *Nothing was changed.*
    #[error("entries of group {shard} from index {index} on were there, or were copied from there")]
    Incomplete {
        /// The group.
        shard: ShardId,
        /// Index of the first entry that is missing.
        index: LogIndex,
    },
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The durable state of every group.
    pub(super) held: Held,
    /// Every segment, in order; none in an empty directory.
    pub(super) segments: VecDeque<Segment>,
    /// The stream's end.
    pub(super) offset: u64,
    /// Above the life of every batch that was seen, discarded ones included.
    pub(super) next_life: u32,
    /// Whether the last batch has records, so that nothing after it states them durable.
    pub(super) ends_with_records: bool,
    /// Where whole batches stand that are discarded, in the last segment.
    discarded: Vec<u64>,
    /// What is lost. Only what comes before it in the stream was read then.
    pub(super) damage: Option<Damage>,
}

/// Reads all segments of the directory. Damage is an error unless it is accepted.
pub(super) fn scan(vfs: &dyn Vfs, options: LogOptions) -> Result<Scan, RecoveryError> {
    scan_segments(vfs, options, &list_segments(vfs)?)
}

/// [`scan`] of these segments, as if the first of them were the oldest.
pub(super) fn scan_segments(
    vfs: &dyn Vfs,
    options: LogOptions,
    segments: &[u64],
) -> Result<Scan, RecoveryError> {
    let LogOptions { incarnation, accept_damage, mutants, .. } = options;
    let mut scanner = Scanner::new(incarnation, mutants);
    match scanner.read(vfs, segments) {
        Err(RecoveryError::Damaged(damage)) if accept_damage => {
            scanner.found.damage = Some(damage);
        }
        result => result?,
    }
    let Scanner { mut found, replay, .. } = scanner;
    found.held = replay.finish();
    if let (Some((shard, index)), None) = (found.held.missing, &found.damage) {
        let damage = incomplete(&found.segments, shard, index);
        if !accept_damage {
            return Err(damage.into());
        }
        found.damage = Some(damage);
    }
    Ok(found)
}

fn incomplete(segments: &VecDeque<Segment>, shard: ShardId, index: LogIndex) -> Damage {
    let oldest = segments.front().map_or(FIRST_SEGMENT, |segment| segment.number);
    let file = segment_name(oldest.saturating_sub(1));
    Damage { file, position: 0, kind: DamageKind::Incomplete { shard, index } }
}

/// Makes discarded batches unreadable and the rest durable: whoever wrote it may have died before
/// the sync. Returns the last segment.
pub(super) fn repair(vfs: &dyn Vfs, last: u64, found: &Scan) -> io::Result<Box<dyn VfsFile>> {
    let file = vfs.open(&segment_name(last))?;
    for position in &found.discarded {
        file.write_at(*position, &[0; BATCH_HEADER_BYTES])?;
    }
    file.sync_data()?;
    vfs.sync_dir("")?;
    Ok(file)
}

/// Follows the chain of batches through the segments.
struct Scanner {
    incarnation: Incarnation,
    mutants: Mutants,
    found: Scan,
    replay: Replay,
    /// The segment that is being read.
    segment: u64,
    /// Where its next batch is due.
    position: u64,
    /// Life of the last batch of the chain.
    life: u32,
}

impl Scanner {
    fn new(incarnation: Incarnation, mutants: Mutants) -> Self {
        let found = Scan { next_life: 1, ..Scan::default() };
        let replay = Replay::default();
        Self { incarnation, mutants, found, replay, segment: FIRST_SEGMENT, position: 0, life: 0 }
    }

    fn read(&mut self, vfs: &dyn Vfs, segments: &[u64]) -> Result<(), RecoveryError> {
        let Some((first, last)) = segments.first().zip(segments.last()) else { return Ok(()) };
        let mut bytes = Vec::new();
        for (expected, segment) in (*first..).zip(segments) {
            if *segment != expected {
                let (file, kind) = (segment_name(expected), DamageKind::Missing);
                return Err(Damage { file, position: 0, kind }.into());
            }
            read_segment(vfs, *segment, &mut bytes)?;
            self.read_start(*segment, &bytes)?;
            self.follow(&bytes, segment == last)?;
        }
        Ok(())
    }

    /// Reads the first batch of a segment, which says where the stream and every group stand.
    fn read_start(&mut self, segment: u64, bytes: &[u8]) -> Result<(), RecoveryError> {
        let file = FileId { incarnation: self.incarnation, segment };
        let parsed = Batch::parse(bytes, file, 0);
        if let Err(NotABatch::UnknownVersion(version)) = parsed {
            return Err(self.unknown_version(segment, 0, version));
        }
        let Some(batch) = parsed.ok().filter(|batch| batch.info.life >= self.life) else {
            return Err(self.no_start(file, bytes));
        };
        let is_first = self.found.segments.is_empty();
        if !is_first && batch.info.offset != self.found.offset {
            // The segment before was durable to its end when this one was begun.
            let durable = batch.info.offset.max(self.found.offset);
            return Err(self.corrupt(self.segment, self.position, durable).into());
        }
        self.segment = segment;
        self.position = 0;
        self.found.offset = batch.info.offset;
        let marks = start_marks(&batch).map_err(|source| self.record_error(source))?;
        match is_first {
            true => self.replay.begin(marks),
            false => self.replay.check(&marks).map_err(|source| self.record_error(source))?,
        }
        self.found.ends_with_records = false;
        let (number, size) = (segment, bytes.len() as u64);
        self.found.segments.push_back(Segment { number, size, end: 0 });
        self.pass(&batch);
        Ok(())
    }

    /// Why a segment does not begin as it should. The start of a segment is durable before the
    /// segment has its name.
    fn no_start(&self, file: FileId, bytes: &[u8]) -> RecoveryError {
        let name = segment_name(file.segment);
        match Batch::other_file(bytes, file, 0) {
            Some(other) if other.incarnation != self.incarnation => {
                RecoveryError::Foreign { file: name, position: 0 }
            }
            Some(other) => {
                let kind = DamageKind::Misplaced { found: other.segment };
                Damage { file: name, position: 0, kind }.into()
            }
            None => self.corrupt(file.segment, 0, self.found.offset).into(),
        }
    }

    /// Follows the chain behind the first batch, as far as it goes.
    fn follow(&mut self, bytes: &[u8], is_last: bool) -> Result<(), RecoveryError> {
        let file = FileId { incarnation: self.incarnation, segment: self.segment };
        loop {
            let position = self.position;
            let rest = bytes.get(position as usize..).unwrap_or_default();
            match Batch::parse(rest, file, position) {
                Ok(batch) if self.continues(&batch) => self.take(&batch)?,
                Err(NotABatch::UnknownVersion(version)) => {
                    return Err(self.unknown_version(self.segment, position, version));
                }
                Ok(_) | Err(NotABatch::Damaged) => {
                    // A recycled file shows batches of the segments that it was before.
                    let other = Batch::other_file(rest, file, position);
                    if other.is_some_and(|other| other.incarnation != self.incarnation) {
                        let file = segment_name(self.segment);
                        return Err(RecoveryError::Foreign { file, position });
                    }
                    return if is_last { self.judge_tail(file, rest) } else { Ok(()) };
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
        let segment = self.segment;
        batch
            .records()
            .and_then(|records| {
                records.into_iter().try_for_each(|record| self.replay.take(record, segment))
            })
            .map_err(|source| self.record_error(source))?;
        self.found.ends_with_records = batch.record_count > 0;
        self.pass(batch);
        Ok(())
    }

    /// Moves behind a batch of the chain.
    fn pass(&mut self, batch: &Batch<'_>) {
        self.position += batch.size() as u64;
        self.found.offset += batch.size() as u64;
        self.found.next_life = self.found.next_life.max(batch.info.life.saturating_add(1));
        self.life = batch.info.life;
        if let Some(segment) = self.found.segments.back_mut() {
            segment.end = self.position;
        }
    }

    /// The chain ends before the last segment does. Decides whether that is a torn tail, by looking
    /// for batches further on that state more to have been durable.
    fn judge_tail(&mut self, file: FileId, rest: &[u8]) -> Result<(), RecoveryError> {
        let mut durable = self.found.offset;
        let mut at = 0;
        while at < rest.len() {
            let position = self.position + at as u64;
            match Batch::parse(&rest[at..], file, position) {
                Ok(batch) => {
                    durable = durable.max(batch.info.durable);
                    let life = batch.info.life.saturating_add(1);
                    self.found.next_life = self.found.next_life.max(life);
                    self.found.discarded.push(position);
                    at += batch.size();
                }
                Err(NotABatch::UnknownVersion(version)) => {
                    return Err(self.unknown_version(self.segment, position, version));
                }
                Err(NotABatch::Damaged) => at += ALIGNMENT,
            }
        }
        match durable > self.found.offset && !self.mutants.has(Mutant::MiddleDamageCut) {
            true => Err(self.corrupt(self.segment, self.position, durable).into()),
            false => Ok(()),
        }
    }

    fn corrupt(&self, segment: u64, position: u64, durable: u64) -> Damage {
        let kind = DamageKind::Corrupt { durable };
        Damage { file: segment_name(segment), position, kind }
    }

    fn unknown_version(&self, segment: u64, position: u64, version: u32) -> RecoveryError {
        RecoveryError::UnknownVersion { file: segment_name(segment), position, version }
    }

    fn record_error(&self, source: RecordError) -> RecoveryError {
        RecoveryError::Record { file: segment_name(self.segment), position: self.position, source }
    }
}

/// The one record of a segment's first batch.
fn start_marks(batch: &Batch<'_>) -> Result<Vec<GroupMark>, RecordError> {
    match <[Record; 1]>::try_from(batch.records()?) {
        Ok([Record::Start(marks)]) => Ok(marks),
        Ok(_) | Err(_) => Err(RecordError::Contradiction),
    }
}

/// Reads a whole segment into `bytes`.
pub(super) fn read_segment(
    vfs: &dyn Vfs,
    segment: u64,
    bytes: &mut Vec<u8>,
) -> Result<(), RecoveryError> {
    let name = segment_name(segment);
    let file = vfs.open(&name)?;
    if read_all(&*file, bytes).is_ok() {
        return Ok(());
    }
    let size = file.size()?;
    bytes.resize(size as usize, 0);
    for (block, position) in bytes.chunks_mut(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES)) {
        if let Err(error) = file.read_at(position, block) {
            let kind = DamageKind::Unreadable(error);
            return Err(Damage { file: name, position, kind }.into());
        }
    }
    Ok(())
}
