//! The bytes of a batch and of the records in it.
//!
//! All numbers are little endian. A batch is a multiple of 8 bytes long and starts at a multiple of
//! 8, so that a reader that lost its place finds the next one by looking at every eighth byte.
//!
//! ```text
//! batch                                        record
//! size  field                                  size  field
//!    4  magic "KVWB"                              4  length of the content
//!    4  format version, 5                         1  type
//!    4  length, header and padding included       3  zero
//!    4  count of records                          4  group, 0 if the record is of all groups
//!    8  incarnation of the directory  \ file      4  crc32c of the 12 bytes before it,
//!    8  number of the segment         / id           the file id, its position, the content
//!    8  position in the file                      *  content
//!    8  offset in the stream
//!    8  stream offset known durable when written
//!    4  life of the log that wrote it
//!    4  crc32c of the 60 bytes before it and of everything after it
//!    *  records
//!  0-7  zeros
//! ```
//!
//! The checksums cover where the bytes belong, so a block that the disk brings from another place,
//! another segment or another node's directory is as damaged as one with a flipped bit. The header
//! keeps its layout in every version: a batch of an unknown version is told from damage.
//!
//! The content of a record is an enum of versions in the encoding of [`kv_core::codec`]. What
//! follows the version depends on the type:
//!
//! - 1, *write*: a [`GroupWrite`].
//! - 2, *start*: the [`GroupMark`] of every group. The first record of a segment, and only that.
//! - 3, *trim*: the [`Trim`] of each group whose floor rises, or that begins anew.
//! - 4, *copy*: a [`GroupCopy`], entries that an older segment holds.

use kv_core::codec::{self, CodecError};
use kv_core::id::{Incarnation, LogId, ShardId};
use kv_core::storage::{Entry, GroupWrite, HardState};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) const FORMAT_VERSION: u32 = 7;
pub(super) const BATCH_HEADER_BYTES: usize = 64;
const RECORD_HEADER_BYTES: usize = 16;
/// Batches start and end at multiples of it.
pub(super) const ALIGNMENT: usize = 8;
const MAGIC: [u8; 4] = *b"KVWB";
const RECORD_WRITE: u8 = 1;
const RECORD_START: u8 = 2;
const RECORD_TRIM: u8 = 3;
const RECORD_COPY: u8 = 4;
/// The group of a record that is of all groups.
const ALL_GROUPS: ShardId = ShardId(0);
/// Where the batch header's checksum stands.
const BATCH_CRC_AT: usize = 60;
/// Where the record header's checksum stands.
const RECORD_CRC_AT: usize = 12;

/// Which file a batch was written to, over all nodes and all times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    /// Of the data directory.
    pub(super) incarnation: Incarnation,
    /// Number of the segment in it.
    pub(super) segment: u64,
}

impl FileId {
    fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.incarnation.0.to_le_bytes());
        out[8..].copy_from_slice(&self.segment.to_le_bytes());
        out
    }
}

/// What a batch says of itself beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchInfo {
    /// The file that it is in.
    pub(super) file: FileId,
    /// Where it starts in the file.
    pub(super) position: u64,
    /// Where it starts in the stream, which is all segments in a row.
    pub(super) offset: u64,
    /// The stream was known to be durable up to here when the batch was written.
    pub(super) durable: u64,
    /// Counts the openings of the log that wrote something. A batch that an opening discarded has a
    /// smaller one than whatever is written later.
    pub(super) life: u32,
}

/// The stored form of a record's content: a version, then the write.
#[derive(Serialize, Deserialize)]
enum StoredRecord<W> {
    V1(W),
}

/// Where a group stands when a segment starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupMark {
    pub(super) shard: ShardId,
    pub(super) hard_state: HardState,
    /// Entries up to here are not needed.
    pub(super) floor: LogId,
    /// The last entry, or the floor.
    pub(super) last: LogId,
}

/// Says that a group needs less than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trim {
    pub(super) shard: ShardId,
    /// Entries up to here are not needed.
    pub(super) floor: LogId,
    /// The last entry after the trim, or the floor. Entries behind it are gone.
    pub(super) last: LogId,
}

impl Trim {
    /// Whether the group begins anew, and only its hard state stays.
    pub(super) fn is_of_everything(&self) -> bool {
        self.floor == LogId::default() && self.last == LogId::default()
    }
}

/// Entries that a group still needs, from a segment that is about to go. They were written before
/// and change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupCopy {
    pub(super) shard: ShardId,
    /// In the order of their indexes, possibly with gaps.
    pub(super) entries: Vec<Entry>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Write(GroupWrite),
    Start(Vec<GroupMark>),
    Trim(Vec<Trim>),
    Copy(GroupCopy),
}

/// Builds one batch after the other in one buffer.
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    bytes: Vec<u8>,
    /// Where the records start in `bytes`.
    records: Vec<usize>,
}

impl BatchBuilder {
    /// Starts an empty batch.
    pub(super) fn start(&mut self) {
        self.bytes.clear();
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        self.records.clear();
    }

    /// Adds the write of a group.
    pub(super) fn push(&mut self, write: &GroupWrite) {
        self.push_record(RECORD_WRITE, write.shard, write);
    }

    /// Adds where all groups stand.
    pub(super) fn push_start(&mut self, marks: &[GroupMark]) {
        self.push_record(RECORD_START, ALL_GROUPS, &marks);
    }

    /// Adds trims.
    pub(super) fn push_trims(&mut self, trims: &[Trim]) {
        self.push_record(RECORD_TRIM, ALL_GROUPS, &trims);
    }

    /// Adds a copy.
    pub(super) fn push_copy(&mut self, copy: &GroupCopy) {
        self.push_record(RECORD_COPY, copy.shard, copy);
    }

    fn push_record(&mut self, kind: u8, shard: ShardId, content: &impl Serialize) {
        self.records.push(self.bytes.len());
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4] = kind;
        header[8..12].copy_from_slice(&shard.0.to_le_bytes());
        self.bytes.extend_from_slice(&header);
        codec::encode_into(&StoredRecord::V1(content), &mut self.bytes);
    }

    /// Whether the batch has no record.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Size of the batch, padding included.
    pub(super) fn size(&self) -> usize {
        self.bytes.len().next_multiple_of(ALIGNMENT)
    }

    /// Size of the largest record's content.
    pub(super) fn content_bytes_max(&self) -> usize {
        let ends = self.records.iter().skip(1).copied().chain([self.bytes.len()]);
        let sizes = self.records.iter().zip(ends).map(|(start, end)| end - start);
        sizes.max().map_or(0, |size| size - RECORD_HEADER_BYTES)
    }

    /// Fills in headers and checksums. Returns the bytes to be written.
    pub(super) fn seal(&mut self, info: &BatchInfo) -> &[u8] {
        self.seal_records(info);
        self.bytes.resize(self.size(), 0);
        let length = u32::try_from(self.bytes.len()).expect("the log bounds a batch");
        let header = &mut self.bytes[..BATCH_HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[8..12].copy_from_slice(&length.to_le_bytes());
        header[12..16].copy_from_slice(&(self.records.len() as u32).to_le_bytes());
        header[16..32].copy_from_slice(&info.file.to_bytes());
        header[32..40].copy_from_slice(&info.position.to_le_bytes());
        header[40..48].copy_from_slice(&info.offset.to_le_bytes());
        header[48..56].copy_from_slice(&info.durable.to_le_bytes());
        header[56..60].copy_from_slice(&info.life.to_le_bytes());
        let crc = batch_crc(&self.bytes);
        self.bytes[BATCH_CRC_AT..BATCH_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }

    fn seal_records(&mut self, info: &BatchInfo) {
        let mut end = self.bytes.len();
        for start in self.records.iter().rev() {
            let record = &mut self.bytes[*start..end];
            let length =
                u32::try_from(record.len() - RECORD_HEADER_BYTES).expect("the log bounds a record");
            record[..4].copy_from_slice(&length.to_le_bytes());
            let crc = record_crc(record, info.file, info.position + *start as u64);
            record[RECORD_CRC_AT..RECORD_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            end = *start;
        }
    }
}

fn batch_crc(batch: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&batch[..BATCH_CRC_AT]);
    crc32c::crc32c_append(crc, &batch[BATCH_HEADER_BYTES..])
}

fn record_crc(record: &[u8], file: FileId, position: u64) -> u32 {
    let crc = crc32c::crc32c(&record[..RECORD_CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &file.to_bytes());
    let crc = crc32c::crc32c_append(crc, &position.to_le_bytes());
    crc32c::crc32c_append(crc, &record[RECORD_HEADER_BYTES..])
}

/// Why the bytes at a place are not a batch that belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotABatch {
    /// They are none, or not all of one, or one of another place.
    Damaged,
    /// They are one, whole, in a format of this version.
    UnknownVersion(u32),
}

/// A batch whose checksum, file and position are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    /// What it says of itself.
    pub(super) info: BatchInfo,
    /// How many records it says it has.
    pub(super) record_count: u32,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Takes the batch at `position` of `file`, whose bytes from there to its end are given.
    pub(super) fn parse(bytes: &'a [u8], file: FileId, position: u64) -> Result<Self, NotABatch> {
        let header: &[u8; BATCH_HEADER_BYTES] = bytes.first_chunk().ok_or(NotABatch::Damaged)?;
        // Cheap tests first: a reader that lost its place asks at every eighth byte.
        let here = header[..4] == MAGIC
            && header[16..32] == file.to_bytes()
            && u64_at(header, 32) == position;
        let length = u32_at(header, 8) as usize;
        let fits = length >= BATCH_HEADER_BYTES
            && length.is_multiple_of(ALIGNMENT)
            && length <= bytes.len();
        if !here || !fits || batch_crc(&bytes[..length]) != u32_at(header, BATCH_CRC_AT) {
            return Err(NotABatch::Damaged);
        }
        match u32_at(header, 4) {
            FORMAT_VERSION => {}
            version => return Err(NotABatch::UnknownVersion(version)),
        }
        let info = BatchInfo {
            file,
            position,
            offset: u64_at(header, 40),
            durable: u64_at(header, 48),
            life: u32_at(header, 56),
        };
        Ok(Self { info, record_count: u32_at(header, 12), bytes: &bytes[..length] })
    }

    /// The file of a whole batch of another file, in any version, that stands at `position`.
    pub(super) fn other_file(bytes: &[u8], file: FileId, position: u64) -> Option<FileId> {
        let header = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        let incarnation = Incarnation(u64_at(header, 16));
        let stated = FileId { incarnation, segment: u64_at(header, 24) };
        let is_whole = !matches!(Batch::parse(bytes, stated, position), Err(NotABatch::Damaged));
        (stated != file && is_whole).then_some(stated)
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the records apart, in order.
    pub(super) fn records(&self) -> Result<Vec<Record>, RecordError> {
        self.records_of(|_| true)
    }

    /// Takes those records apart that are of a wanted group, or of all groups.
    pub(super) fn records_of(
        &self,
        wanted: impl Fn(ShardId) -> bool,
    ) -> Result<Vec<Record>, RecordError> {
        let mut at = BATCH_HEADER_BYTES;
        let mut records = Vec::new();
        for _ in 0..self.record_count {
            let (header, content) = self.record_at(at)?;
            if wanted(ShardId(u32_at(header, 8))) {
                records.push(decode(header, content)?);
            }
            at += RECORD_HEADER_BYTES + content.len();
        }
        let padding = self.bytes.get(at..).unwrap_or_default();
        match padding.len() < ALIGNMENT && padding.iter().all(|byte| *byte == 0) {
            true => Ok(records),
            false => Err(RecordError::Damaged),
        }
    }

    /// The header and content of the record at a place in the batch.
    fn record_at(&self, at: usize) -> Result<(&[u8; RECORD_HEADER_BYTES], &[u8]), RecordError> {
        let rest = self.bytes.get(at..).ok_or(RecordError::Damaged)?;
        let (header, _) = rest.split_first_chunk().ok_or(RecordError::Damaged)?;
        let size = RECORD_HEADER_BYTES + u32_at(header, 0) as usize;
        let record = rest.get(..size).ok_or(RecordError::Damaged)?;
        let crc = record_crc(record, self.info.file, self.info.position + at as u64);
        match crc == u32_at(header, RECORD_CRC_AT) {
            true => Ok((header, &record[RECORD_HEADER_BYTES..])),
            false => Err(RecordError::Damaged),
        }
    }
}

fn decode(header: &[u8; RECORD_HEADER_BYTES], content: &[u8]) -> Result<Record, RecordError> {
    if header[5..8] != [0; 3] {
        return Err(RecordError::UnknownType(header[4]));
    }
    let (record, shard) = match header[4] {
        RECORD_WRITE => {
            let write: GroupWrite = decode_content(content)?;
            let shard = write.shard;
            (Record::Write(write), shard)
        }
        RECORD_COPY => {
            let copy: GroupCopy = decode_content(content)?;
            let shard = copy.shard;
            (Record::Copy(copy), shard)
        }
        RECORD_START => (Record::Start(decode_content(content)?), ALL_GROUPS),
        RECORD_TRIM => (Record::Trim(decode_content(content)?), ALL_GROUPS),
        unknown => return Err(RecordError::UnknownType(unknown)),
    };
    match shard.0 == u32_at(header, 8) {
        true => Ok(record),
        false => Err(RecordError::Damaged),
    }
}

fn decode_content<T: DeserializeOwned>(content: &[u8]) -> Result<T, CodecError> {
    let StoredRecord::V1(content) = codec::decode(content)?;
    Ok(content)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Why a record of a batch with a right checksum cannot be read: a newer program wrote it, or a
/// faulty one. *Nothing was changed.*
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its length, checksum or group is wrong. *Nothing was changed.*
    #[error("the record is damaged within a whole batch")]
    Damaged,
    /// This program does not know its type. *Nothing was changed.*
    #[error("unknown record type {0}")]
    UnknownType(u8),
    /// Its content is not an encoding that this program knows. *Nothing was changed.*
    #[error("the record's content is unknown")]
    Content(#[from] CodecError),
    /// Its entries do not follow what the log holds of the group. *Nothing was changed.*
    #[error("the record's entries leave a gap in the group's log")]
    Gap,
    /// It contradicts what the log says before. *Nothing was changed.*
    #[error("the record contradicts the log before it")]
    Contradiction,
}
