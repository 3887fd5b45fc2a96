//! A snapshot: the state of one shard, as a stream of chunks.
//!
//! A snapshot is what a shard holds at one applied entry: the [`Machine`](super::Machine), with the
//! results of all sessions, and all versions of every key that can still be read, tombstones
//! included. Of a key that was overwritten very often the oldest ones are left out, and the snapshot
//! says from when on the past is whole. It is *logical*: rows and not files, so the receiver's tables
//! owe nothing to the sender's. It travels as numbered [`SnapshotChunk`]s, and a chunk is checked
//! before anything is made of it.
//!
//! # The content of a chunk
//!
//! ```text
//!    1  version, 3
//!    1  kind: 0 a piece of the machine, 1 rows
//!    *  the piece, or the rows
//!
//! rows: 8  timestamp from which on they tell everything, little endian
//!       then for each row, in the order of the stored keys
//!       4  length of the key, little endian
//!       4  length of the value, little endian
//!       *  the stored key without its local id, so that it fits any store; its version included
//!       *  the stored value
//! ```
//!
//! The pieces of the machine come first and are put together in order. Then come chunks of rows, in
//! the order of the keys and of each key the newest version first, at least one chunk, which may be
//! empty. The versions of one key are all in one chunk, so that whoever takes it has them at once. A
//! chunk has at most [`CHUNK_BYTES_MAX`] bytes, or a single key with versions of at most
//! [`HISTORY_BYTES_MAX`], or with only one.
//!
//! # The checksum
//!
//! It covers the content and its place: which snapshot, which number, and whether it is the last.
//! So a chunk of another snapshot is as wrong as one with a flipped bit, and no flipped bit ends a
//! snapshot early.
//!
//! **What this leaves out:** compression, and chunks that can be fetched in any order.

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::id::{LogIndex, Timestamp};
use crate::storage::SnapshotId;

/// Size of a chunk's content, unless a single row is larger: what a link carries as one frame
/// without keeping control messages waiting.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Size of all versions of a key that are sent, unless the newest one alone is larger.
pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;
/// The largest encoded machine that a snapshot may bring: twice what all sessions with all results
/// take.
pub const MACHINE_BYTES_MAX: usize = 256 * 1024 * 1024;

const VERSION: u8 = 3;
const KIND_MACHINE: u8 = 0;
const KIND_ROWS: u8 = 1;
/// Version and kind.
const HEAD_BYTES: usize = 2;
/// From when on rows tell everything.
const READABLE_FROM_BYTES: usize = 8;
/// The lengths of a row.
const LENGTHS_BYTES: usize = 8;

/// One piece of a snapshot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// The content.
    pub bytes: Bytes,
    /// xxh3 of the content, with a hash of its place as seed.
    pub checksum: u64,
    /// Whether the snapshot ends here.
    pub is_last: bool,
}

impl core::fmt::Debug for SnapshotChunk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { bytes, checksum, is_last } = self;
        let end = if *is_last { ", last" } else { "" };
        write!(f, "SnapshotChunk({} bytes, {checksum:016x}{end})", bytes.len())
    }
}

/// What a chunk brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkContent {
    /// The next piece of the encoded machine.
    Machine(Bytes),
    /// The next rows.
    Rows {
        /// What their keys held before this timestamp may not be among them.
        readable_from: Timestamp,
        /// The rows.
        rows: Vec<SnapshotRow>,
    },
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// The stored key without its local id.
    pub key: Bytes,
    /// The stored value.
    pub value: Bytes,
}

/// Why a chunk was not taken. *What is staged stays as it was.*
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkRefusal {
    /// Another chunk is due.
    #[error("chunk {due} is due")]
    OutOfOrder {
        /// Its number: 0 if nothing of this snapshot is staged.
        due: u64,
    },
    /// The chunk is damaged, or belongs elsewhere.
    #[error("the checksum is wrong")]
    WrongChecksum,
    /// The content has a version that this program does not know.
    #[error("the content has version {0}")]
    UnknownVersion(u8),
    /// The checksum is right, but the content makes no sense.
    #[error("the content is {0}")]
    Malformed(&'static str),
    /// The shard has applied more than the snapshot holds.
    #[error("the shard has applied {applied}")]
    Outdated {
        /// What it has applied.
        applied: LogIndex,
    },
}

impl SnapshotChunk {
    /// The next piece of an encoded machine, and what is left of it.
    pub fn of_machine<'a>(machine: &'a [u8], id: &SnapshotId, sequence: u64) -> (Self, &'a [u8]) {
        let size = machine.len().min(CHUNK_BYTES_MAX - HEAD_BYTES);
        let (piece, rest) = machine.split_at(size);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + size);
        bytes.extend_from_slice(&[VERSION, KIND_MACHINE]);
        bytes.extend_from_slice(piece);
        (Self::sealed(bytes, id, sequence, false), rest)
    }

    fn sealed(bytes: Vec<u8>, id: &SnapshotId, sequence: u64, is_last: bool) -> Self {
        let checksum = checksum(&bytes, id, sequence, is_last);
        Self { bytes: bytes.into(), checksum, is_last }
    }

    /// What the chunk brings, as number `sequence` of the snapshot `id`.
    ///
    /// # Errors
    /// [`ChunkRefusal`] if it is damaged or belongs elsewhere.
    pub fn open(&self, id: &SnapshotId, sequence: u64) -> Result<ChunkContent, ChunkRefusal> {
        if checksum(&self.bytes, id, sequence, self.is_last) != self.checksum {
            return Err(ChunkRefusal::WrongChecksum);
        }
        decode(&self.bytes)
    }
}

/// A chunk of rows in the making.
#[derive(Debug)]
pub struct RowsBuilder {
    readable_from: Timestamp,
    /// The rows, as they are sent.
    bytes: Vec<u8>,
}

impl RowsBuilder {
    /// A chunk without rows. What was before `readable_from` is not known where it comes from.
    pub fn new(readable_from: Timestamp) -> Self {
        Self { readable_from, bytes: Vec::new() }
    }

    /// Adds the versions of a key, if there is room for all of them. There always is for the first
    /// key.
    pub fn push(&mut self, history: &History) -> bool {
        let is_first = self.bytes.is_empty();
        let size = HEAD_BYTES + READABLE_FROM_BYTES + self.bytes.len() + history.bytes.len();
        if !is_first && size > CHUNK_BYTES_MAX {
            return false;
        }
        self.bytes.extend_from_slice(&history.bytes);
        self.readable_from = self.readable_from.max(history.readable_from);
        true
    }

    /// The chunk as number `sequence` of the snapshot `id`.
    pub fn seal(self, id: &SnapshotId, sequence: u64, is_last: bool) -> SnapshotChunk {
        let mut bytes = [VERSION, KIND_ROWS].to_vec();
        bytes.extend_from_slice(&self.readable_from.0.to_le_bytes());
        bytes.extend_from_slice(&self.bytes);
        SnapshotChunk::sealed(bytes, id, sequence, is_last)
    }
}

/// The versions of one key that are sent: the newest ones, without a gap.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Their rows.
    bytes: Vec<u8>,
    /// Of the last one.
    oldest: Timestamp,
    /// The oldest one if there were more; zero if these are all.
    readable_from: Timestamp,
}

impl History {
    /// Whether it has no version.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds the next older version. If there is no room for it, the key has no older ones for those
    /// that it is sent to, and the answer is false. There always is for the first one.
    pub fn push(&mut self, key: &[u8], value: &[u8], version: Timestamp) -> bool {
        let size = self.bytes.len() + LENGTHS_BYTES + key.len() + value.len();
        if !self.is_empty() && size > HISTORY_BYTES_MAX {
            self.readable_from = self.oldest;
            return false;
        }
        for part in [key, value] {
            let size = u32::try_from(part.len()).expect("keys and values are far below 4 GiB");
            self.bytes.extend_from_slice(&size.to_le_bytes());
        }
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.oldest = version;
        true
    }
}

fn checksum(bytes: &[u8], id: &SnapshotId, sequence: u64, is_last: bool) -> u64 {
    let mut place = [0; 37];
    place[..4].copy_from_slice(&id.shard.0.to_le_bytes());
    place[4..12].copy_from_slice(&id.last.term.0.to_le_bytes());
    place[12..20].copy_from_slice(&id.last.index.0.to_le_bytes());
    place[20..28].copy_from_slice(&id.nonce.to_le_bytes());
    place[28..36].copy_from_slice(&sequence.to_le_bytes());
    place[36] = is_last.into();
    xxh3_64_with_seed(bytes, xxh3_64(&place))
}

fn decode(bytes: &Bytes) -> Result<ChunkContent, ChunkRefusal> {
    match bytes.first_chunk() {
        Some([VERSION, KIND_MACHINE]) => Ok(ChunkContent::Machine(bytes.slice(HEAD_BYTES..))),
        Some([VERSION, KIND_ROWS]) => rows(bytes.slice(HEAD_BYTES..)),
        Some([VERSION, _]) => Err(ChunkRefusal::Malformed("of no known kind")),
        Some([version, _]) => Err(ChunkRefusal::UnknownVersion(*version)),
        None => Err(ChunkRefusal::Malformed("too short")),
    }
}

fn rows(mut rest: Bytes) -> Result<ChunkContent, ChunkRefusal> {
    let too_short = ChunkRefusal::Malformed("too short");
    let readable_from = *rest.first_chunk::<READABLE_FROM_BYTES>().ok_or(too_short)?;
    let readable_from = Timestamp(u64::from_le_bytes(readable_from));
    rest = rest.split_off(READABLE_FROM_BYTES);
    let mut rows = Vec::new();
    while !rest.is_empty() {
        rows.push(row(&mut rest).ok_or(ChunkRefusal::Malformed("a row that ends early"))?);
    }
    Ok(ChunkContent::Rows { readable_from, rows })
}

/// Takes the next row.
fn row(rest: &mut Bytes) -> Option<SnapshotRow> {
    let (sizes, _) = rest.split_first_chunk::<LENGTHS_BYTES>()?;
    let [a, b, c, d, e, f, g, h] = *sizes;
    let key_bytes = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let value_bytes = usize::try_from(u32::from_le_bytes([e, f, g, h])).ok()?;
    let end = key_bytes.checked_add(value_bytes)?.checked_add(LENGTHS_BYTES)?;
    if end > rest.len() {
        return None;
    }
    let mut row = rest.split_to(end).split_off(LENGTHS_BYTES);
    let value = row.split_off(key_bytes);
    Some(SnapshotRow { key: row, value })
}
