//! The applied state of all shards.
//!
//! A [`Tree`] holds the keys and values of every shard in their stored form, and each shard has its
//! [`Machine`], which decides what an entry does. [`Engine::apply`] and [`Engine::read`] answer at
//! once; they write to memory only.
//!
//! # What is durable
//!
//! The log is: whatever is in memory here can be applied again. When the memtable is large, or much
//! of the log was applied to it, it is *sealed*, together with the machines as they are at that
//! moment, and written to the disk in steps ([`Engine::work`]). Both become durable in one edit of
//! the tree's manifest, so the tables and what the machines say is applied always belong together;
//! after a crash the log is applied from there on. When a flush is complete,
//! [`StorageReply::Flushed`] says how far, and the node may let go of the log before it.
//!
//! # Which versions are kept
//!
//! Each shard can be read at any timestamp from the watermark of its machine on, and what only an
//! older read could see is dropped on the way to the disk. The memtable is sealed with the watermarks
//! of the machines that it is sealed with, and its flush goes by these. A compaction goes by those of
//! the last flush, never by what the machines say in memory: a crash takes them back to the flush,
//! and from there on a read between the two watermarks is answered.
//!
//! What is staged of a snapshot is kept as its machine says. Local ids whose shard was forgotten are
//! deleted anyway.
//!
//! # Snapshots
//!
//! A shard can be sent elsewhere while applying goes on ([`Engine::open_snapshot`]), and the state
//! of a shard can come from elsewhere: it is set aside chunk by chunk ([`Engine::stage_chunk`]), and
//! takes the place of the old one in one edit of the manifest ([`Engine::install_snapshot`]).
//!
//! # Damage and a full disk
//!
//! Damaged tables make the engine answer everything with the damage, from then on. On a full disk
//! the steps wait, and applying goes on in memory: what is committed is applied.

mod outgoing;
mod reading;
mod staging;
mod stored;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kv_core::id::{LogId, LogIndex, ShardId, Timestamp};
use kv_core::machine::{LocalShardId, Machine, StoredKey, Transactions, WriteBatch, encode_value};
use kv_core::raft::Configuration;
use kv_core::storage::{Entry, Outcome, StateHash, StorageDamage, StorageReply, StorageRequest};

use crate::lsm::{Corruption, Tree, TreeError, TreeOptions, TreeStats};
use crate::mutants::Mutants;
use crate::store::recovered::Held;
use crate::vfs::Vfs;
pub use outgoing::OPEN_MAX;
use outgoing::Outgoing;
use reading::ShardView;
use staging::Staged;
use stored::State;

/// The tree's folder in the data directory.
pub const TREE_FOLDER: &str = "tree";

/// A flush is due when so many times the size of a memtable were applied from the log, even if the
/// memtable is small: entries may write nothing, and overwrite one another, and the log would grow.
const LOG_PER_MEMTABLE: u64 = 4;
/// One shard's state, beside its keys and values.
#[derive(Debug)]
struct Shard {
    /// Its number in the tree.
    local_id: LocalShardId,
    machine: Machine,
    /// The entry at which its state came from elsewhere; [`LogId::default`] if it never did.
    installed: LogId,
    /// Below this the shard cannot be read, whatever its watermark: the snapshot that brought the
    /// state here left something older out. Zero if it did not, or none did. It is this replica's
    /// alone, so that a read can be refused here that another replica answers.
    readable_from: Timestamp,
}

/// A sealed memtable.
#[derive(Debug)]
struct Sealed {
    /// What is applied in it.
    applied: BTreeMap<ShardId, LogId>,
    /// What is told when it is durable, beside that.
    replies: Vec<StorageReply>,
}

/// The state machines of a node, with their keys and values.
///
/// - `sealed` has an element for each sealed memtable, and says what is durable with it.
/// - After damage nothing is changed any more.
#[derive(Debug)]
pub struct Engine {
    /// None if it could not be opened.
    tree: Option<Tree>,
    /// What made the engine give up.
    damage: Option<StorageDamage>,
    state: State,
    /// Snapshots that are sent elsewhere, the one that was idle the longest first.
    outgoing: VecDeque<Outgoing>,
    /// Snapshots that are coming.
    staged: BTreeMap<ShardId, Staged>,
    sealed: VecDeque<Sealed>,
    /// What is told when the memtable that is being written to is durable. If there is any, the
    /// memtable is to be sealed soon.
    unsealed_replies: Vec<StorageReply>,
    /// Whether keys were deleted at the opening, so that a seal is due.
    has_leftovers: bool,
    /// Bytes applied since the last [`Engine::work`].
    unpaid_bytes: u64,
    /// Bytes of log that were applied since the memtable was begun.
    unsealed_log_bytes: u64,
    /// How many of them are enough for a flush.
    seal_log_bytes: u64,
    /// Whether the last step found no room.
    is_full: bool,
    mutants: Mutants,
}

impl Engine {
    /// Opens the applied state below the root of `vfs`, or begins an empty one.
    ///
    /// # Errors
    /// [`TreeError`]. *Nothing was changed.* What is damaged can be opened with
    /// [`Engine::damaged`].
    pub(crate) fn open(vfs: Arc<dyn Vfs>, options: TreeOptions) -> Result<Self, TreeError> {
        let seal_log_bytes = LOG_PER_MEMTABLE * options.memtable_bytes;
        let (mut tree, metadata) = Tree::open(vfs, TREE_FOLDER, options)?;
        let (state, leftovers) = stored::decode(&metadata).map_err(malformed)?;
        leftovers.iter().for_each(|staged| tree.range_delete(staged.0));
        tree.set_watermarks(state.watermarks([], options.mutants));
        Ok(Self {
            tree: Some(tree),
            state,
            seal_log_bytes,
            has_leftovers: !leftovers.is_empty(),
            mutants: options.mutants,
            ..Self::empty()
        })
    }

    /// An engine that holds nothing and answers everything with the damage.
    pub(crate) fn damaged(damage: StorageDamage) -> Self {
        Self { damage: Some(damage), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            tree: None,
            damage: None,
            state: State::default(),
            outgoing: VecDeque::new(),
            staged: BTreeMap::new(),
            sealed: VecDeque::new(),
            unsealed_replies: Vec::new(),
            has_leftovers: false,
            unpaid_bytes: 0,
            unsealed_log_bytes: 0,
            seal_log_bytes: u64::MAX,
            is_full: false,
            mutants: Mutants::NONE,
        }
    }

    /// Carries out one of the requests that are the engine's: all but appends, releases, and changes
    /// of the identity.
    ///
    /// # Panics
    /// If it is one of the others, or as the function for it does: the node must stop.
    pub fn execute(&mut self, request: &StorageRequest) -> Option<StorageReply> {
        match request {
            StorageRequest::Apply { shard, entries } => Some(self.apply(*shard, entries)),
            StorageRequest::Read(read) => Some(self.read(read)),
            StorageRequest::Scan(scan) => Some(self.scan_page(scan)),
            StorageRequest::OpenSnapshot { shard, nonce } => {
                Some(self.open_snapshot(*shard, *nonce))
            }
            StorageRequest::ReadSnapshot { id, sequence } => {
                Some(self.read_snapshot(*id, *sequence))
            }
            StorageRequest::CloseSnapshot { id } => {
                self.close_snapshot(*id);
                None
            }
            StorageRequest::StageChunk { id, sequence, chunk } => {
                Some(self.stage_chunk(*id, *sequence, chunk))
            }
            StorageRequest::InstallSnapshot { id } => self.install_snapshot(*id),
            StorageRequest::DropStaged { shard } => {
                self.drop_staged(*shard);
                None
            }
            StorageRequest::RemoveShard { shard } => self.remove_shard(*shard),
            StorageRequest::Append(_)
            | StorageRequest::Release { .. }
            | StorageRequest::StoreIdentity(_) => panic!("not for the engine: {request:?}"),
        }
    }

    /// Applies entries to a shard. Returns [`StorageReply::Applied`], or [`StorageReply::Damaged`]
    /// if what they depend on cannot be read.
    ///
    /// # Panics
    /// If the entries do not follow the last applied one, or hold what this program does not know:
    /// the node must stop.
    pub fn apply(&mut self, shard: ShardId, entries: &[Entry]) -> StorageReply {
        let (None, Some(tree)) = (&self.damage, &mut self.tree) else {
            return self.damage_reply();
        };
        let state = self.state.shard_or_new(shard);
        let log_bytes = entries.iter().map(|entry| entry.payload.len() as u64 + 64);
        self.unsealed_log_bytes += log_bytes.sum::<u64>();
        match apply_to(tree, state, entries) {
            Ok(Applied { outcomes, states, bytes }) => {
                self.unpaid_bytes += bytes;
                StorageReply::Applied { shard, applied: state.machine.applied(), outcomes, states }
            }
            Err(error) => {
                self.damage = Some(damage_of(error));
                self.damage_reply()
            }
        }
    }

    fn damage_reply(&self) -> StorageReply {
        StorageReply::Damaged(self.damage.clone().expect("an engine gives up for a reason"))
    }

    /// What made the engine give up, if anything did.
    pub fn damage(&self) -> Option<&StorageDamage> {
        self.damage.as_ref()
    }

    /// The last entry applied to a shard.
    pub fn applied(&self, shard: ShardId) -> LogId {
        self.state.shards.get(&shard).map(|shard| shard.machine.applied()).unwrap_or_default()
    }

    /// The last entry applied to each shard.
    pub fn all_applied(&self) -> BTreeMap<ShardId, LogId> {
        self.state.shards.iter().map(|(shard, state)| (*shard, state.machine.applied())).collect()
    }

    /// What the applied state says of each shard that is or was here.
    pub(crate) fn held(&self) -> BTreeMap<ShardId, Held> {
        let removed = self.state.removed.iter();
        let removed = removed.map(|shard| (*shard, Held { is_removed: true, ..Held::default() }));
        let held = |(shard, state): (&ShardId, &Shard)| {
            let (applied, installed) = (state.machine.applied(), state.installed);
            (*shard, Held { applied, installed, is_removed: false })
        };
        removed.chain(self.state.shards.iter().map(held)).collect()
    }

    /// Who takes part in a shard's group as of its last applied entry; none if that was never
    /// changed.
    pub fn configuration(&self, shard: ShardId) -> Option<&Configuration> {
        self.state.shards.get(&shard)?.machine.configuration()
    }

    /// The transactions of a shard that are between two steps as of its last applied entry.
    pub fn transactions(&self, shard: ShardId) -> Transactions {
        let shard = self.state.shards.get(&shard);
        shard.map(|shard| shard.machine.transactions().clone()).unwrap_or_default()
    }

    /// The rolling hash over everything applied to a shard. Replicas that applied the same entries
    /// agree on it.
    pub fn state_hash(&self, shard: ShardId) -> u64 {
        let hash = |shard: &Shard| shard.machine.state_hash();
        self.state.shards.get(&shard).map_or_else(|| Machine::new().state_hash(), hash)
    }

    /// What the tree consists of; none if it could not be opened.
    pub fn stats(&self) -> Option<TreeStats> {
        self.tree.as_ref().map(Tree::stats)
    }
}

/// What entries did.
#[derive(Debug, Default)]
struct Applied {
    outcomes: Vec<(LogIndex, Outcome)>,
    states: Vec<StateHash>,
    /// How many bytes that took.
    bytes: u64,
}

fn apply_to(tree: &mut Tree, shard: &mut Shard, entries: &[Entry]) -> Result<Applied, TreeError> {
    let mut applied = Applied::default();
    for entry in entries {
        let view = ShardView { tree, local_id: shard.local_id };
        let (batch, outcome) = shard.machine.apply(&view, entry)?;
        applied.bytes += write(tree, shard.local_id, &batch);
        applied.outcomes.push((entry.id.index, outcome));
        applied.states.extend(shard.machine.checkpoint());
    }
    Ok(applied)
}

fn write(tree: &mut Tree, local_id: LocalShardId, batch: &WriteBatch) -> u64 {
    let mut bytes = 0;
    for write in &batch.writes {
        let key = StoredKey::encode(local_id, &write.key, write.version);
        let value = encode_value(write.value.as_ref());
        bytes += (key.0.len() + value.len()) as u64;
        tree.write(&[(key.0, value)]);
    }
    bytes
}

/// Bytes with a right checksum that this program cannot have written.
fn malformed(what: &'static str) -> TreeError {
    Corruption { file: TREE_FOLDER.into(), offset: 0, what }.into()
}

/// A tree that cannot be read is as good as damaged: the node cannot know what it has promised.
pub(crate) fn damage_of(error: TreeError) -> StorageDamage {
    match error {
        TreeError::Corruption(Corruption { file, offset, what }) => {
            StorageDamage { file, offset, what: what.into() }
        }
        TreeError::Read { file, source } => {
            StorageDamage { file, offset: 0, what: format!("cannot be read: {source}") }
        }
        TreeError::NoSpace(_) | TreeError::Write(_) | TreeError::Poisoned => {
            StorageDamage { file: TREE_FOLDER.into(), offset: 0, what: error.to_string() }
        }
    }
}
