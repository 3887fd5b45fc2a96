//! The boundary to a store: what a node asks of its disk, and what it is told.
//!
//! Storage is an effect with an id. The node hands out [`StorageRequest`]s, a driver executes them
//! and feeds the [`StorageReply`] back through `Node::handle`. The contract of a driver:
//!
//! - [`StorageRequest::Append`]s are executed in the order in which they came and answered in that
//!   order, each only after its bytes are durable. Several may share one sync.
//! - [`StorageRequest::Apply`], [`StorageRequest::Read`] and [`StorageRequest::Scan`] of one shard are
//!   executed in order.
//!   They touch memory and may be answered at once, before the next input.
//! - [`StorageRequest::Release`] comes after every append that was handed out before it, and before
//!   every append that is handed out after it.
//! - The requests about snapshots, [`StorageRequest::RemoveShard`] and the applies of one shard are
//!   executed in order, and answered in that order, but for [`StorageReply::SnapshotInstalled`] and
//!   [`StorageReply::ShardRemoved`], which come when it is durable.
//! - An append for which there is no room is tried again until there is; those behind it wait.
//! - A write or sync that fails for any other reason has no reply: the process must stop. What
//!   reached the disk is unknown.
//! - Stored bytes that are damaged or cannot be read are told ([`StorageReply::Damaged`],
//!   [`ReadError::Damaged`]), and never papered over.
//!
//! A driver cannot send a message too early: the node itself holds back what depends on a write
//! until it is durable.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterMap, Identity, MetaError};
use crate::id::{
    AppendId, LogId, LogIndex, NodeId, RequestHandle, SessionId, ShardId, Term, Timestamp,
};
use crate::machine::{ChunkRefusal, SnapshotChunk, Transactions};
use crate::op::{Found, Key, KeyRange, Page, PageLimit, WriteResult};
use crate::raft::Configuration;
use crate::txn::{Prepared, TxnId, TxnOutcome};

/// One entry of a Raft log. The payload is opaque to Raft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its term and index.
    pub id: LogId,
    /// An encoded [`Command`](crate::machine::Command).
    pub payload: Bytes,
}

/// The part of a Raft group's state that must be durable before anything that depends on it is said
/// (Raft paper, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// Latest term that the replica has seen.
    pub term: Term,
    /// Candidate that got the replica's vote in `term`.
    pub vote: Option<NodeId>,
    /// Highest index known to be committed. May lag: it only spares work after a restart.
    pub commit: LogIndex,
    /// The last life ([`Identity::replica_life`]) in which the replica was whole. If it is not the
    /// present one, the replica may have forgotten what it promised, and is suspect.
    pub life: u64,
    /// If the replica was given up by itself, because its state was not that of the others: the life
    /// that it then began.
    pub quarantine: u64,
    /// Where the log ended that the replica held before it was removed from the group and gave its
    /// log up; zero if it never did. It may have been counted with those entries, so it goes on
    /// voting as if it had them.
    pub forgotten: LogId,
}

impl HardState {
    /// The present life of the replica on a node where that of a replica begins as `first`.
    pub fn present_life(&self, first: u64) -> u64 {
        first.max(self.quarantine)
    }

    /// Whether the replica was not whole yet in its present life.
    pub fn is_suspect(&self, first: u64) -> bool {
        self.life < self.present_life(first)
    }

    /// What stays of a replica that is given up: it goes on in another life, and is suspect.
    pub fn quarantined(self, first: u64) -> Self {
        Self { quarantine: self.present_life(first) + 1, ..self }
    }
}

/// What a replica came to at an index: equal logs make equal hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The last entry that was applied.
    pub index: LogIndex,
    /// The rolling hash over all that was.
    pub hash: u64,
}

/// One group's part of an append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupWrite {
    /// The group.
    pub shard: ShardId,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries with consecutive indexes. They replace every stored entry from the first one's index
    /// on, in one step: there is no separate truncation that a crash could tear off.
    pub entries: Vec<Entry>,
}

/// Writes of all groups that one step of the node produced. Durable as a whole before it is
/// answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Echoed in the reply.
    pub id: AppendId,
    /// At most one write per group.
    pub writes: Vec<GroupWrite>,
}

/// Bytes of entries that a driver should put into one write at most: beyond it a sync takes longer
/// than an election.
pub const WRITE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Append {
    /// Bytes of the entries, with an allowance for what stands around each.
    pub fn size(&self) -> usize {
        let entries = self.writes.iter().flat_map(|write| &write.entries);
        entries.map(|entry| entry.payload.len() + 64).sum()
    }
}

/// What a node asks of its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageRequest {
    /// Write to the log and sync. Answered by [`StorageReply::Appended`].
    Append(Append),
    /// Apply committed entries to the shard's state machine. Answered by [`StorageReply::Applied`].
    Apply {
        /// The shard.
        shard: ShardId,
        /// The entries that follow the last applied one, without a gap.
        entries: Vec<Entry>,
    },
    /// Read one key. Answered by [`StorageReply::Read`].
    Read(Read),
    /// Read a range of keys. Answered by [`StorageReply::Scanned`].
    Scan(Scan),
    /// The entries of a shard up to `floor` are needed no more, neither by this node, whose applied
    /// state is durable beyond them, nor by any other voter. Has no answer.
    ///
    /// If the log holds another entry there, or ends before it, all its entries are given up, and
    /// it goes on behind `floor`: what was applied came from a snapshot. A `floor` of
    /// [`LogId::default`] gives up everything but the hard state: the replica was removed
    /// ([`StorageReply::ShardRemoved`]), and if it comes back, it must not vote twice in a term.
    Release {
        /// The shard.
        shard: ShardId,
        /// The last entry that is not needed.
        floor: LogId,
    },
    /// Replace the identity file, durably. Answered by [`StorageReply::IdentityStored`]. When a
    /// repair has ended, what was set aside for it is removed.
    StoreIdentity(Identity),
    /// Pin what is applied to a shard, to send it elsewhere. Answered by
    /// [`StorageReply::SnapshotOpened`]. The same snapshot may be opened again.
    OpenSnapshot {
        /// The shard.
        shard: ShardId,
        /// Drawn at random, so that no two snapshots are taken for one another.
        nonce: u64,
    },
    /// Read a chunk of an open snapshot: the one that was read last, or the one behind it. Answered
    /// by [`StorageReply::SnapshotRead`].
    ReadSnapshot {
        /// The snapshot.
        id: SnapshotId,
        /// Number of the chunk, from 0.
        sequence: u64,
    },
    /// The snapshot is needed no more. Has no answer.
    CloseSnapshot {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Take a chunk of another node's snapshot and set it aside. Answered by
    /// [`StorageReply::ChunkStaged`]. The first chunk of a snapshot drops whatever was staged of
    /// another one of the shard; a chunk that was staged before changes nothing.
    StageChunk {
        /// The snapshot.
        id: SnapshotId,
        /// Number of the chunk, from 0.
        sequence: u64,
        /// The chunk.
        chunk: SnapshotChunk,
    },
    /// Make a snapshot of which every chunk was staged the shard's applied state. It counts for
    /// applies and reads at once, and is durable, as a whole, when
    /// [`StorageReply::SnapshotInstalled`] answers it. Only then the node may release the log up to
    /// it, which comes before any append behind it.
    InstallSnapshot {
        /// The snapshot, which holds at least what the shard has applied.
        id: SnapshotId,
    },
    /// Drop what is staged of a shard, if anything is. Has no answer.
    DropStaged {
        /// The shard.
        shard: ShardId,
    },
    /// Forget the applied state of a shard, of which this node has no replica any more, with
    /// everything that is staged of it. Answered by [`StorageReply::ShardRemoved`] when that is
    /// durable. Only then the node may release all of its log, or make a new replica.
    RemoveShard {
        /// The shard.
        shard: ShardId,
    },
}

/// Which snapshot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SnapshotId {
    /// The shard whose state it is.
    pub shard: ShardId,
    /// The last entry that is applied in it.
    pub last: LogId,
    /// Drawn by the node that sends it.
    pub nonce: u64,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ({:016x})", self.shard, self.last, self.nonce)
    }
}

/// A read of one key at one timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The client request that waits for it.
    pub handle: RequestHandle,
    /// The shard that holds the key.
    pub shard: ShardId,
    /// The store must have applied at least this, or refuse: no driver can reorder a read before a
    /// write it must see.
    pub at_least: LogIndex,
    /// The newest version at or below this is read.
    pub timestamp: Timestamp,
    /// The key.
    pub key: Key,
}

/// A read of the keys of a range that exist at one timestamp, as far as a page holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The client request that waits for it.
    pub handle: RequestHandle,
    /// The shard.
    pub shard: ShardId,
    /// The store must have applied at least this, or refuse.
    pub at_least: LogIndex,
    /// The newest versions at or below this are read.
    pub timestamp: Timestamp,
    /// The range.
    pub range: KeyRange,
    /// How much the page may hold.
    pub limit: PageLimit,
}

/// What a node is told by its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageReply {
    /// The append, and every one before it, is durable.
    Appended {
        /// Which append.
        id: AppendId,
        /// For each group with entries in the append: the last entry written. An append that was
        /// since overwritten is recognised by its term (a late acknowledgement must not count for
        /// other entries at the same index).
        written: Vec<(ShardId, LogId)>,
        /// The log's counters after the append.
        counters: LogCounters,
    },
    /// The entries are applied.
    Applied {
        /// The shard.
        shard: ShardId,
        /// The last applied entry.
        applied: LogId,
        /// What each entry did, in order.
        outcomes: Vec<(LogIndex, Outcome)>,
        /// The states at those of the entries at which replicas are compared
        /// ([`Machine::checkpoint`](crate::machine::Machine::checkpoint)), in order.
        states: Vec<StateHash>,
    },
    /// The read was done or refused.
    Read {
        /// The client request.
        handle: RequestHandle,
        /// The newest version, none if the key does not exist there.
        result: Result<Option<Found>, ReadError>,
    },
    /// The scan was done or refused.
    Scanned {
        /// The client request.
        handle: RequestHandle,
        /// The keys.
        result: Result<Page, ReadError>,
    },
    /// The identity is durable.
    IdentityStored,
    /// The applied state is durable up to here, without the log.
    Flushed {
        /// The last applied entry that is durable, of each shard.
        applied: BTreeMap<ShardId, LogId>,
    },
    /// Whether the disk is so full that only what makes room should be written. Told when it
    /// changes; at first it is not.
    Space {
        /// Whether less than the reserve is left.
        is_full: bool,
    },
    /// The store can carry out nothing more: stored bytes are damaged.
    Damaged(StorageDamage),
    /// The snapshot is open, unless nothing is applied.
    SnapshotOpened {
        /// The snapshot. If the shard has applied nothing, `last` is [`LogId::default`], and it is
        /// not open.
        id: SnapshotId,
    },
    /// A chunk was read.
    SnapshotRead {
        /// The snapshot.
        id: SnapshotId,
        /// Number of the chunk.
        sequence: u64,
        /// The chunk. None if the snapshot is not open, or not any more, or has come elsewhere: it
        /// must be opened anew, under another nonce.
        chunk: Option<SnapshotChunk>,
    },
    /// A chunk was staged, or not.
    ChunkStaged {
        /// The snapshot.
        id: SnapshotId,
        /// Number of the chunk.
        sequence: u64,
        /// Why not.
        result: Result<(), ChunkRefusal>,
    },
    /// The snapshot is the shard's applied state, durably.
    SnapshotInstalled {
        /// The snapshot.
        id: SnapshotId,
        /// What a node has to know of it.
        state: InstalledState,
    },
    /// The applied state of the shard is forgotten, durably. What the log holds is not.
    ShardRemoved {
        /// The shard.
        shard: ShardId,
    },
}

/// What a node has to know of a state that came from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledState {
    /// Who takes part in the group; none if that was never changed.
    pub configuration: Option<Configuration>,
    /// The map, if it is the state of the meta group.
    pub map: Option<ClusterMap>,
    /// Its unfinished transactions.
    pub transactions: Transactions,
}

/// Why the store did not read. *Nothing was read.*
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store has not applied what the read must see.
    #[error("the read needs index {at_least}, the shard has applied {applied}")]
    NotApplied {
        /// What the read asked for.
        at_least: LogIndex,
        /// What the store has.
        applied: LogIndex,
    },
    /// What was true at the timestamp is no longer known for sure: it lies below the watermark.
    #[error("the read is too old: the shard remembers what was true from {oldest} on")]
    TooOld {
        /// The oldest timestamp that can be read.
        oldest: Timestamp,
    },
    /// The stored bytes are damaged or cannot be read.
    #[error(transparent)]
    Damaged(StorageDamage),
}

/// Stored bytes that are not what was written, or that the disk does not give back. The node may
/// have promised what they said, so it must not go on as if they had never been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{file} is damaged at byte {offset}: {what}")]
pub struct StorageDamage {
    /// The file, below the data directory.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What was found there.
    pub what: String,
}

/// Counters of a node's log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCounters {
    /// Batches written. A batch holds one or more appends.
    pub batch_count: u64,
    /// Syncs done: at most one per batch.
    pub sync_count: u64,
    /// Bytes written, headers included.
    pub bytes_written: u64,
}

/// What applying one entry did. A function of the log alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to tell anybody.
    None,
    /// A write ran, now or when an earlier copy of the same request was applied.
    Written(WriteResult),
    /// The request's session is unknown here and may have been forgotten: it did not run now, and
    /// nobody can tell whether an earlier copy did.
    SessionExpired,
    /// A late copy of a request that its client had already given up: it did not run.
    Superseded,
    /// The meta group opened a session.
    SessionOpened(SessionId),
    /// The meta group has this map. It may be the one before, if the command was a copy.
    MapChanged(ClusterMap),
    /// A node is a member, from now on or already.
    MemberAdded {
        /// Its id.
        id: NodeId,
        /// The map with it.
        map: ClusterMap,
    },
    /// The meta group did not carry out a command. *Nothing was changed.*
    MetaRefused(MetaError),
    /// The leader that proposed it may issue the timestamps above `before`, up to `bound`.
    BoundRaised {
        /// The bound before.
        before: Timestamp,
        /// The bound from here on.
        bound: Timestamp,
    },
    /// What was true below the watermark may be forgotten.
    WatermarkRaised {
        /// The oldest timestamp that can be read from here on.
        watermark: Timestamp,
    },
    /// A transaction has prepared here, now or when an earlier copy was applied.
    Prepared {
        /// Which transaction.
        txn: TxnId,
        /// The least commit timestamp that the shard can take.
        min_commit: Timestamp,
        /// What the shard keeps of it from here on; none if it was an earlier copy, whose
        /// transaction may have ended since.
        prepared: Option<Box<Prepared>>,
    },
    /// A transaction is decided here, now or by an earlier entry.
    Decided {
        /// Which transaction.
        txn: TxnId,
        /// How.
        outcome: TxnOutcome,
        /// Who is to hear of it; empty unless this entry has committed it.
        participants: Vec<ShardId>,
    },
    /// A transaction that had prepared here has ended, or had ended before.
    Finished {
        /// Which transaction.
        txn: TxnId,
    },
    /// Of these transactions nobody has to hear any more.
    Forgotten {
        /// The transactions.
        txns: Vec<TxnId>,
    },
}

impl Outcome {
    /// The meta group's map after the entry, if the entry was about it.
    pub fn map(&self) -> Option<&ClusterMap> {
        match self {
            Self::MapChanged(map) | Self::MemberAdded { map, .. } => Some(map),
            Self::None
            | Self::Written(_)
            | Self::SessionExpired
            | Self::Superseded
            | Self::SessionOpened(_)
            | Self::MetaRefused(_)
            | Self::BoundRaised { .. }
            | Self::WatermarkRaised { .. }
            | Self::Prepared { .. }
            | Self::Decided { .. }
            | Self::Finished { .. }
            | Self::Forgotten { .. } => None,
        }
    }
}

/// What one group's log held when the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// What the log follows: entries up to here were released.
    pub floor: LogId,
    /// The log behind the floor, without a gap.
    pub entries: Vec<Entry>,
    /// The last entry that the store's applied state holds, at or behind the floor, and at or
    /// before the last entry.
    pub applied: LogId,
    /// Who takes part as of that entry; none if it was never changed.
    pub configuration: Option<Configuration>,
    /// The unfinished transactions as of that entry.
    pub transactions: Transactions,
    /// Whether the replica was removed from this node and has not come back: nothing is left of it
    /// but the hard state.
    pub is_removed: bool,
}

/// What a store held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who the directory belongs to.
    pub identity: Identity,
    /// Every group with durable state. Incomplete if the store is damaged.
    pub groups: BTreeMap<ShardId, RecoveredGroup>,
    /// What was found damaged, if anything was. If the identity says that it was set aside, the
    /// store begins anew in another life; if not, it carries out nothing.
    pub damage: Option<StorageDamage>,
}
