//! Snapshots that come from elsewhere, and shards that go.
//!
//! The rows of a snapshot are *staged* under a local id of their own: they go through the memtable
//! to tables like any other, and nobody reads them. *Installing* maps the shard to that local id,
//! in memory, and ends the memtable. What the flush of that memtable makes durable in one edit of
//! the manifest is all of it: the rows that are not in tables yet, the new machine, the new local
//! id, and the end of the old one. So a crash leaves the shard as it was or as it is now, whatever
//! was applied in between included.
//!
//! A crash also ends what is staged: the metadata of every flush list the local ids, and whoever
//! opens the tree deletes their keys. Removing a shard works like installing nothing.
//!
//! A snapshot brings every version that can be read, and says from when on they are all there: before
//! that the shard cannot be read here.
//!
//! Places of the tree are read in the order of their age, so no older version of a key may come to a
//! newer place. Therefore the versions of a key are in one chunk, and a chunk goes to one memtable.

use kv_core::id::{ShardId, Timestamp};
use kv_core::machine::{
    ChunkContent, ChunkRefusal, LocalShardId, MACHINE_BYTES_MAX, Machine, SnapshotChunk,
    SnapshotRow, StoredKey, decode_value,
};
use kv_core::storage::{InstalledState, SnapshotId, StorageReply};

use super::{Engine, Shard};
use crate::lsm::{KEY_BYTES_MAX, Tree, VALUE_BYTES_MAX};
use crate::mutants::Mutant;

/// What is staged of a shard.
///
/// - All rows up to `last_prefix` are in the tree, under `local_id`.
#[derive(Debug)]
pub(super) struct Staged {
    id: SnapshotId,
    pub(super) local_id: LocalShardId,
    /// Number of the chunk that is due.
    due: u64,
    /// The machine, as far as it has come; empty when it is complete.
    pieces: Vec<u8>,
    /// The machine, once it is complete.
    machine: Option<Box<Machine>>,
    /// The last key, without local id and version.
    last_prefix: Vec<u8>,
    /// Before this the rows may not tell what was true.
    readable_from: Timestamp,
    is_complete: bool,
}

/// What a chunk adds, once it is found to be right.
enum Step {
    Piece(Vec<u8>),
    Rows {
        /// If these are the first rows.
        machine: Option<Box<Machine>>,
        rows: Vec<SnapshotRow>,
        readable_from: Timestamp,
        is_last: bool,
    },
}

impl Staged {
    fn new(id: SnapshotId, local_id: LocalShardId) -> Self {
        Self {
            id,
            local_id,
            due: 0,
            pieces: Vec::new(),
            machine: None,
            last_prefix: Vec::new(),
            readable_from: Timestamp(0),
            is_complete: false,
        }
    }

    /// Judges the chunk that is due.
    fn check(&self, content: ChunkContent, is_last: bool) -> Result<Step, ChunkRefusal> {
        let malformed = |what| Err(ChunkRefusal::Malformed(what));
        match content {
            _ if self.is_complete => malformed("behind the last chunk"),
            ChunkContent::Machine(_) if is_last || self.machine.is_some() => {
                malformed("a piece of the machine in a wrong place")
            }
            ChunkContent::Machine(piece) if self.pieces.len() + piece.len() > MACHINE_BYTES_MAX => {
                malformed("more of the machine than there can be")
            }
            ChunkContent::Machine(piece) => Ok(Step::Piece(piece.into())),
            ChunkContent::Rows { readable_from, rows } => {
                let machine = match self.machine {
                    Some(_) => None,
                    None => Some(Box::new(self.decode_machine()?)),
                };
                let known = machine.as_ref().or(self.machine.as_ref());
                let newest = known.map(|machine| machine.newest()).unwrap_or_default();
                self.check_rows(&rows, newest)?;
                if readable_from > newest {
                    return malformed("of a time that is yet to come");
                }
                Ok(Step::Rows { machine, rows, readable_from, is_last })
            }
        }
    }

    fn decode_machine(&self) -> Result<Machine, ChunkRefusal> {
        match Machine::decode(&self.pieces) {
            Ok(machine) if machine.applied() == self.id.last => Ok(machine),
            Ok(_) => Err(ChunkRefusal::Malformed("a machine of another entry")),
            Err(_) => Err(ChunkRefusal::Malformed("behind no machine")),
        }
    }

    /// `newest` is the newest version that any row may have.
    fn check_rows(&self, rows: &[SnapshotRow], newest: Timestamp) -> Result<(), ChunkRefusal> {
        let mut before: Option<&[u8]> = None;
        for row in rows {
            let is_behind = match before {
                Some(before) => row.key[..] > *before,
                None => prefix_of(&row.key) > &self.last_prefix[..],
            };
            if !is_row(row, newest) || !is_behind {
                return Err(ChunkRefusal::Malformed("a row that is none"));
            }
            before = Some(&row.key);
        }
        Ok(())
    }

    /// Takes the chunk that is due. Returns how many bytes were written.
    fn take(&mut self, step: Step, tree: &mut Tree) -> u64 {
        self.due += 1;
        let (rows, is_last) = match step {
            Step::Piece(piece) => {
                self.pieces.extend_from_slice(&piece);
                return 0;
            }
            Step::Rows { machine, rows, readable_from, is_last } => {
                if machine.is_some() {
                    (self.machine, self.pieces) = (machine, Vec::new());
                }
                self.readable_from = self.readable_from.max(readable_from);
                (rows, is_last)
            }
        };
        self.is_complete = is_last;
        let stored = |row: &SnapshotRow| (stored_key(self.local_id, &row.key), row.value.clone());
        let batch: Vec<_> = rows.iter().map(stored).collect();
        tree.write(&batch);
        if let Some(row) = rows.last() {
            self.last_prefix = prefix_of(&row.key).to_vec();
        }
        batch.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    /// Its rows that reads at this timestamp or later cannot see are dropped.
    pub(super) fn watermark(&self) -> Timestamp {
        self.machine.as_ref().map_or(Timestamp(0), |machine| machine.watermark())
    }
}

fn stored_key(local_id: LocalShardId, key: &[u8]) -> Vec<u8> {
    let mut stored = local_id.0.to_be_bytes().to_vec();
    stored.extend_from_slice(key);
    stored
}

/// A key without its version.
fn prefix_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(8)]
}

/// Whether a shard whose newest version is `newest` can hold this row.
fn is_row(SnapshotRow { key, value }: &SnapshotRow, newest: Timestamp) -> bool {
    let stored = StoredKey(stored_key(LocalShardId(0), key));
    let is_bounded = stored.0.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX;
    let version = stored.decode().map(|(_, _, version)| version);
    let is_applied = version.is_ok_and(|version| version <= newest);
    is_bounded && is_applied && decode_value(value).is_ok()
}

impl Engine {
    /// Sets a chunk of a snapshot aside. Returns [`StorageReply::ChunkStaged`], or
    /// [`StorageReply::Damaged`].
    pub fn stage_chunk(
        &mut self,
        id: SnapshotId,
        sequence: u64,
        chunk: &SnapshotChunk,
    ) -> StorageReply {
        if self.damage.is_some() {
            return self.damage_reply();
        }
        let result = self.try_stage(id, sequence, chunk);
        StorageReply::ChunkStaged { id, sequence, result }
    }

    fn try_stage(
        &mut self,
        id: SnapshotId,
        sequence: u64,
        chunk: &SnapshotChunk,
    ) -> Result<(), ChunkRefusal> {
        let applied = self.applied(id.shard).index;
        if id.last.index < applied {
            return Err(ChunkRefusal::Outdated { applied });
        }
        let content = chunk.open(&id, sequence)?;
        let known = self.staged.get(&id.shard).filter(|staged| staged.id == id);
        let due = known.map_or(0, |staged| staged.due);
        if sequence > due {
            return Err(ChunkRefusal::OutOfOrder { due });
        }
        if sequence < due {
            return Ok(());
        }
        let step = match known {
            Some(staged) => staged.check(content, chunk.is_last)?,
            None => Staged::new(id, LocalShardId(0)).check(content, chunk.is_last)?,
        };
        if due == 0 {
            self.drop_staged(id.shard);
            let staged = Staged::new(id, self.state.draw_local_id());
            self.staged.insert(id.shard, staged);
        }
        if let (Some(staged), Some(tree)) = (self.staged.get_mut(&id.shard), &mut self.tree) {
            self.unpaid_bytes += staged.take(step, tree);
        }
        Ok(())
    }

    /// Drops what is staged of a shard, if anything is.
    pub fn drop_staged(&mut self, shard: ShardId) {
        if let Some(staged) = self.staged.remove(&shard) {
            self.delete_keys(staged.local_id);
        }
    }

    /// Makes a snapshot of which every chunk was staged the state of its shard. What the next flush
    /// makes durable includes it; [`Engine::work`] does that next, and says so by
    /// [`StorageReply::SnapshotInstalled`]. Returns [`StorageReply::Damaged`] or nothing.
    ///
    /// # Panics
    /// If a chunk is missing, or the shard has applied more: the node must stop.
    pub fn install_snapshot(&mut self, id: SnapshotId) -> Option<StorageReply> {
        if self.damage.is_some() {
            return Some(self.damage_reply());
        }
        let staged = self.staged.remove(&id.shard).filter(|it| it.id == id && it.is_complete);
        let staged = staged.expect("a snapshot is installed when all of it was staged");
        let machine = staged.machine.expect("a snapshot without a machine is not complete");
        let applied = self.applied(id.shard).index;
        assert!(applied <= id.last.index, "what is applied never goes back");
        let old = self.state.shards.remove(&id.shard);
        old.into_iter().for_each(|old| self.delete_keys(old.local_id));
        if self.mutants.has(Mutant::InstallInTwoEdits) {
            self.seal();
        }
        let state = InstalledState {
            transactions: machine.transactions().clone(),
            configuration: machine.configuration().cloned(),
            map: machine.map().cloned(),
        };
        let shard = Shard {
            local_id: staged.local_id,
            installed: id.last,
            readable_from: staged.readable_from,
            machine: *machine,
        };
        self.state.shards.insert(id.shard, shard);
        self.state.removed.remove(&id.shard);
        self.unsealed_replies.push(StorageReply::SnapshotInstalled { id, state });
        None
    }

    /// Forgets a shard. Durable with the next flush, which [`Engine::work`] does next; it then says
    /// [`StorageReply::ShardRemoved`]. Returns [`StorageReply::Damaged`] or nothing.
    pub fn remove_shard(&mut self, shard: ShardId) -> Option<StorageReply> {
        if self.damage.is_some() {
            return Some(self.damage_reply());
        }
        self.drop_staged(shard);
        self.outgoing.retain(|open| open.id().shard != shard);
        if let Some(old) = self.state.shards.remove(&shard) {
            self.delete_keys(old.local_id);
        }
        self.state.removed.insert(shard);
        self.unsealed_replies.push(StorageReply::ShardRemoved { shard });
        None
    }

    fn delete_keys(&mut self, local_id: LocalShardId) {
        if let Some(tree) = &mut self.tree {
            tree.range_delete(local_id.0);
        }
    }
}
