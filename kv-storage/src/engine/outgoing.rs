//! Snapshots that are sent elsewhere.
//!
//! A snapshot pins a view of the tree and a copy of the machine, as they are when it is opened, and
//! is then read chunk by chunk ([`kv_core::machine::SnapshotChunk`]) while applying goes on. What is
//! written later may be of an older version than what is there, if a transaction had prepared
//! before, so no version tells the two apart. Therefore the memtable is sealed first, and the view
//! is one of what is sealed.
//!
//! All versions are sent that can still be read here, so that the receiver answers for the past as
//! the sender would. Of a key that was overwritten very often only the newest ones are
//! ([`HISTORY_BYTES_MAX`](kv_core::machine::HISTORY_BYTES_MAX)), and the receiver refuses reads that
//! are older than these.
//!
//! What a view pins takes memory and space on the disk: the memtables that wait for their flush,
//! and the tables of the time when it was opened. So at most [`OPEN_MAX`] are open, and the one that
//! was idle the longest is closed for another. A receiver that comes back later begins anew.
//!
//! A sealed memtable brings the metadata of all shards, so no more than [`SEALED_MAX`] are made by
//! snapshots while the flushes lag behind: a snapshot beyond is one that was closed at once.

use kv_core::id::{LogId, ShardId, Timestamp};
use kv_core::machine::{History, LocalShardId, RowsBuilder, SnapshotChunk};
use kv_core::storage::{SnapshotId, StorageReply};

use super::{Engine, damage_of};
use crate::lsm::{ReadView, TreeError, Visit};
use crate::mutants::Mutant;

/// How many snapshots may be open at once.
pub const OPEN_MAX: usize = 4;
/// With so many sealed memtables no other one is sealed for a snapshot.
pub(super) const SEALED_MAX: usize = OPEN_MAX;

const LOCAL_ID_BYTES: usize = 4;
const VERSION_BYTES: usize = 8;

/// An open snapshot.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: SnapshotId,
    local_id: LocalShardId,
    view: ReadView,
    /// The encoded machine.
    machine: Vec<u8>,
    /// Reads can see what is newer than this, and what was the newest then.
    watermark: Timestamp,
    /// What was before this is not known here.
    readable_from: Timestamp,
    /// Where the next chunk begins.
    position: Position,
    /// The chunk that was read last, with its number: it may have to be sent again.
    current: Option<(u64, SnapshotChunk)>,
}

/// How far a snapshot was read.
#[derive(Debug)]
enum Position {
    /// So many bytes of the machine.
    Machine(usize),
    /// All keys below this.
    Rows(Vec<u8>),
    /// Everything.
    End,
}

impl Outgoing {
    pub(super) fn id(&self) -> SnapshotId {
        self.id
    }

    /// A chunk, if it is the one that was read last, or the one behind it.
    fn read(&mut self, sequence: u64) -> Result<Option<SnapshotChunk>, TreeError> {
        let due = match &self.current {
            Some((number, chunk)) if *number == sequence => return Ok(Some(chunk.clone())),
            Some((number, _)) => number + 1,
            None => 0,
        };
        if sequence != due {
            return Ok(None);
        }
        let chunk = match &self.position {
            Position::Machine(done) => self.read_machine(*done, sequence),
            Position::Rows(from) => self.read_rows(&from.clone(), sequence)?,
            Position::End => return Ok(None),
        };
        self.current = Some((sequence, chunk.clone()));
        Ok(Some(chunk))
    }

    fn read_machine(&mut self, done: usize, sequence: u64) -> SnapshotChunk {
        let (chunk, rest) = SnapshotChunk::of_machine(&self.machine[done..], &self.id, sequence);
        self.position = match rest.len() {
            0 => Position::Rows(self.local_id.0.to_be_bytes().to_vec()),
            left => Position::Machine(self.machine.len() - left),
        };
        chunk
    }

    fn read_rows(&mut self, from: &[u8], sequence: u64) -> Result<SnapshotChunk, TreeError> {
        let to = (self.local_id.0 + 1).to_be_bytes();
        let mut rows = RowsBuilder::new(self.readable_from);
        // The key that is being collected, and what is sent of it.
        let (mut current, mut history) = (Vec::new(), History::default());
        let mut is_full = false;
        self.view.visit_versions((from, &to), self.watermark, |key, value| {
            let (prefix, version) = split(key);
            if prefix != current {
                if !history.is_empty() && !rows.push(&history) {
                    is_full = true;
                    return Visit::Nothing;
                }
                (current, history) = (prefix.to_vec(), History::default());
            }
            let is_pushed = history.push(&key[LOCAL_ID_BYTES..], value, version);
            if is_pushed { Visit::Version } else { Visit::Key }
        })?;
        if !is_full && !history.is_empty() {
            is_full = !rows.push(&history);
        }
        let next = is_full.then_some(current);
        let is_last = next.is_none();
        self.position = next.map_or(Position::End, Position::Rows);
        Ok(rows.seal(&self.id, sequence, is_last))
    }
}

impl Engine {
    /// Opens a snapshot of what is applied to a shard. Returns [`StorageReply::SnapshotOpened`], or
    /// [`StorageReply::Damaged`]. If the flushes lag too far behind, it is closed at once.
    pub fn open_snapshot(&mut self, shard: ShardId, nonce: u64) -> StorageReply {
        if self.damage.is_some() {
            return self.damage_reply();
        }
        let is_same = |it: &&Outgoing| it.id.shard == shard && it.id.nonce == nonce;
        if let Some(open) = self.outgoing.iter().find(is_same) {
            return StorageReply::SnapshotOpened { id: open.id };
        }
        let id = SnapshotId { shard, last: self.applied(shard), nonce };
        if id.last != LogId::default()
            && let Some(open) = self.pin(id)
        {
            if self.outgoing.len() == OPEN_MAX {
                self.outgoing.pop_front();
            }
            self.outgoing.push_back(open);
        }
        StorageReply::SnapshotOpened { id }
    }

    /// Pins what is applied to a shard, which is sealed for that. None if too much is sealed.
    fn pin(&mut self, id: SnapshotId) -> Option<Outgoing> {
        let tree = self.tree.as_ref()?;
        if !tree.is_active_empty() {
            if tree.sealed_count() >= SEALED_MAX {
                return None;
            }
            self.seal();
        }
        let view = self.tree.as_ref()?.sealed_view();
        let state = self.state.shards.get(&id.shard)?;
        let mut machine = state.machine.encode();
        if self.mutants.has(Mutant::SnapshotWithoutSessions) {
            machine.truncate(first_part(&machine));
        }
        Some(Outgoing {
            id,
            local_id: state.local_id,
            view,
            machine,
            watermark: state.machine.watermark(),
            readable_from: state.readable_from,
            position: Position::Machine(0),
            current: None,
        })
    }

    /// Reads a chunk of an open snapshot. Returns [`StorageReply::SnapshotRead`], or
    /// [`StorageReply::Damaged`] if what it depends on cannot be read.
    pub fn read_snapshot(&mut self, id: SnapshotId, sequence: u64) -> StorageReply {
        if self.damage.is_some() {
            return self.damage_reply();
        }
        let Some(at) = self.outgoing.iter().position(|open| open.id == id) else {
            return StorageReply::SnapshotRead { id, sequence, chunk: None };
        };
        let mut open = self.outgoing.remove(at).expect("it was found there");
        let chunk = open.read(sequence);
        // The last one is the one that was used last.
        self.outgoing.push_back(open);
        match chunk {
            Ok(chunk) => StorageReply::SnapshotRead { id, sequence, chunk },
            Err(error) => {
                self.damage = Some(damage_of(error));
                self.damage_reply()
            }
        }
    }

    /// Closes a snapshot, if it is open.
    pub fn close_snapshot(&mut self, id: SnapshotId) {
        self.outgoing.retain(|open| open.id != id);
    }
}

/// A stored key without its version, and the version.
fn split(key: &[u8]) -> (&[u8], Timestamp) {
    let (prefix, version) = key.split_last_chunk::<VERSION_BYTES>().expect("a stored key has one");
    (prefix, Timestamp(!u64::from_be_bytes(*version)))
}

/// Where the first part of an encoded machine ends, behind which sessions and transactions come.
fn first_part(machine: &[u8]) -> usize {
    machine.first_chunk().map_or(0, |size| 4 + u32::from_le_bytes(*size) as usize)
}
