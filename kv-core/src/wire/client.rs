//! Messages between clients and nodes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterMap, ClusterRecord, MetaError, ShardEntry};
use crate::id::{
    Address, ClusterId, Epoch, Incarnation, LogIndex, NodeId, RequestId, SessionId, ShardId,
    Timestamp,
};
use crate::machine::plan::{Change, Move};
use crate::node::Status;
use crate::op::{Found, Key, KeyRange, Page, PageLimit, WriteOp, WriteResult};
use crate::storage::StorageDamage;
use crate::txn::{AbortReason, Age, Grant, LockMode, Part, TxnId};

/// A request on a client connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFrame {
    /// Chosen by the client, echoed in the reply. Replies may come in any order.
    pub correlation: u64,
    /// The request.
    pub body: ClientRequest,
}

/// A reply on a client connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyFrame {
    /// Of the request.
    pub correlation: u64,
    /// The reply.
    pub body: ClientReply,
}

/// What a client asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientRequest {
    /// The cluster map, from any node.
    Map,
    /// Open a session, at the leader of the meta group.
    OpenSession {
        /// Drawn at random by the client. A retry with the same nonce may open a second session,
        /// which is harmless.
        nonce: u64,
    },
    /// A linearizable read of one key, at the leader of its shard.
    Read {
        /// The shard that the client takes the key to be in.
        shard: ShardId,
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// The key.
        key: Key,
    },
    /// A write to one key, at the leader of its shard. Runs exactly once over all retries.
    Write {
        /// The shard that the client takes the key to be in.
        shard: ShardId,
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// Identity of the request, equal in every retry.
        request: RequestId,
        /// The write.
        op: WriteOp,
    },
    /// The node's own view of itself.
    Status,
    /// What an operator asks.
    Admin(AdminRequest),
    /// A step of a transaction, at the leader of a shard.
    Txn {
        /// The shard.
        shard: ShardId,
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// Whose step it is.
        txn: TxnId,
        /// How old the transaction is.
        age: Age,
        /// What the shard's leader has given the transaction with its first lock; none as long as it
        /// has heard of none. If another one is in force there, the locks are lost.
        grant: Option<Grant>,
        /// The step.
        step: TxnRequest,
    },
    /// A timestamp of the oracle, by any node: above that of everything that was acknowledged before
    /// the request was made. What is read at it is one state of all shards.
    Timestamp,
    /// A read of what one key held at a timestamp of the oracle, at the leader of its shard.
    ReadAt {
        /// The shard that the client takes the key to be in.
        shard: ShardId,
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// The timestamp. It must have been issued.
        at: Timestamp,
        /// The key.
        key: Key,
    },
    /// A read of the keys of a range that one shard held at a timestamp of the oracle, at its leader.
    ScanAt {
        /// The shard.
        shard: ShardId,
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// The timestamp. It must have been issued.
        at: Timestamp,
        /// The range.
        range: KeyRange,
        /// How much may be answered at once, if the node does not set narrower limits.
        limit: PageLimit,
    },
    /// How a transaction ended, at the leader of the shard that decides. Asking settles it: if nothing
    /// is decided, the decision to abort is. Answered by [`TxnReply::Committed`] or
    /// [`TxnReply::Aborted`]; refused as [`Refusal::Superseded`] or [`Refusal::SessionExpired`] if it
    /// is forgotten.
    Outcome {
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// The shard that decides.
        anchor: ShardId,
        /// The transaction.
        txn: TxnId,
        /// Number of the decision's request in the session of the transaction.
        sequence: u64,
    },
    /// A read of one key at any replica of its shard, as fresh as the level says. Answered by
    /// [`ClientReply::ReplicaRead`].
    ReadReplica {
        /// The shard that the client takes the key to be in.
        shard: ShardId,
        /// The client's version of the shard's placement.
        epoch: Epoch,
        /// The key.
        key: Key,
        /// How fresh.
        level: ReadLevel,
    },
}

/// How fresh what a replica answers must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadLevel {
    /// It holds every write up to a timestamp: the last one that a session has seen.
    Sequential {
        /// The timestamp. It must have been issued; zero asks for nothing.
        after: Timestamp,
    },
    /// It holds every write that was acknowledged before so much time passed until the replica got
    /// the request, by the monotonic clock of the replica.
    Stale {
        /// How much, in milliseconds.
        max_age_ms: u32,
    },
}

/// A step of a transaction on one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnRequest {
    /// Lock a key of the shard, and read it. A repetition finds it locked. Answered by
    /// [`TxnReply::Locked`] or [`TxnReply::Aborted`].
    Lock {
        /// The key.
        key: Key,
        /// How.
        mode: LockMode,
    },
    /// The coordinator is alive. Answered by [`TxnReply::Alive`] or [`TxnReply::Aborted`].
    Beat,
    /// The transaction is over and was not committed: free its locks. A participant that has
    /// prepared asks the anchor. Answered by [`TxnReply::RolledBack`].
    Rollback,
    /// Make the part durable, and keep its locks until the anchor has decided. Locks what is written
    /// and is not locked yet. Runs once. Answered by [`TxnReply::Prepared`] or
    /// [`TxnReply::Aborted`].
    Prepare {
        /// Identity of the decision over all retries.
        request: RequestId,
        /// The shard that decides.
        anchor: ShardId,
        /// The part.
        part: Part,
    },
    /// Decide to commit, as the anchor or as the only shard. Locks what is written and is not locked
    /// yet. Runs once: a repetition hears how it ended. Answered by [`TxnReply::Committed`] or
    /// [`TxnReply::Aborted`].
    Commit {
        /// Identity of the decision over all retries.
        request: RequestId,
        /// The part on this shard.
        part: Part,
        /// The other shards, all of which have prepared.
        participants: Vec<ShardId>,
        /// The highest of what they answered.
        min_commit: Timestamp,
    },
    /// Lock a range of keys against writers, as far as a page of it goes, and read that page. A
    /// repetition finds it locked. Answered by [`TxnReply::Scanned`] or [`TxnReply::Aborted`].
    Scan {
        /// The range.
        range: KeyRange,
        /// How much may be answered at once, if the node does not set narrower limits.
        limit: PageLimit,
    },
}

/// How a step of a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnReply {
    /// The key is locked.
    Locked {
        /// To be shown with all further steps on the shard.
        grant: Grant,
        /// What it holds; none if it does not exist.
        found: Option<Found>,
    },
    /// The transaction has its locks on the shard.
    Alive,
    /// It has none any more, or soon will have none.
    RolledBack,
    /// The part is durable, and locked until the anchor has decided.
    Prepared {
        /// The least commit timestamp that the shard can take.
        min_commit: Timestamp,
    },
    /// The transaction took effect, on all of its shards.
    Committed {
        /// At this timestamp.
        commit_ts: Timestamp,
    },
    /// The transaction took no effect, and will not.
    Aborted(AbortReason),
    /// The keys of the range are locked up to where the page goes on, those that do not exist
    /// included.
    Scanned {
        /// To be shown with all further steps on the shard.
        grant: Grant,
        /// Those that exist.
        page: Page,
    },
    /// The step waits for a lock, and this attempt of it is over: who still wants it repeats it at
    /// once, and keeps its place in the queue.
    Waiting {
        /// To be shown with all further steps on the shard, this one included.
        grant: Grant,
    },
}

/// What an operator asks of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Make a node a member, at the leader of the meta group. A repetition finds it to be one.
    AddNode {
        /// The life of its data directory.
        incarnation: Incarnation,
        /// Where peers and clients reach it.
        address: Address,
    },
    /// Let a member leave, at the leader of the meta group: its replicas move away, then it is
    /// dropped.
    RemoveNode {
        /// Who.
        id: NodeId,
        /// Also if a shard would lose its quorum by it.
        force: bool,
    },
    /// Let a member leave whose replicas another one takes over, at the leader of the meta group.
    ReplaceNode {
        /// Who leaves.
        old: NodeId,
        /// Who takes over.
        new: NodeId,
        /// Also if a shard would lose its quorum by it.
        force: bool,
    },
    /// Hand the leadership of a shard over, at its leader.
    TransferLeader {
        /// The shard.
        shard: ShardId,
        /// The voter that is to lead.
        to: NodeId,
    },
    /// What a change of members would move, from any node. Nothing is done.
    Plan {
        /// The change.
        change: Change,
    },
    /// Ask to become a member of a cluster, at a node that belongs to none and waits.
    Join {
        /// Where the cluster is: some of its members.
        seeds: Vec<Address>,
    },
}

impl AdminRequest {
    /// Whether the leader of the meta group carries it out.
    pub(crate) fn is_for_meta_leader(&self) -> bool {
        match self {
            Self::AddNode { .. } | Self::RemoveNode { .. } | Self::ReplaceNode { .. } => true,
            Self::TransferLeader { .. } | Self::Plan { .. } | Self::Join { .. } => false,
        }
    }
}

/// What an operator hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    /// Answer to `AddNode`.
    NodeAdded {
        /// The id that the node has from now on.
        id: NodeId,
        /// What the cluster was formed as.
        cluster: ClusterRecord,
        /// The map, with the node.
        map: ClusterMap,
    },
    /// It is decided, or begun; what follows from it goes on by itself.
    Done,
    /// Answer to `Plan`.
    Plan {
        /// Which shards would move.
        moves: Vec<Move>,
    },
    /// Answer to `Join`: the node is a member, durably, and starts.
    Joined {
        /// The id that it was given.
        id: NodeId,
        /// The cluster.
        cluster: ClusterId,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientReply {
    /// Answer to `Map`.
    Map(MapView),
    /// Answer to `OpenSession`.
    SessionOpened(SessionId),
    /// Answer to `Read` and `ReadAt`; none if the key does not exist.
    Read(Option<Found>),
    /// Answer to `Write`: it ran.
    Written(WriteResult),
    /// Answer to `Status`.
    Status(Status),
    /// The request was not carried out.
    Refused(Refusal),
    /// Answer to `Admin`.
    Admin(AdminReply),
    /// Answer to `Txn` and `Outcome`.
    Txn(TxnReply),
    /// Answer to `Timestamp`.
    Timestamp(Timestamp),
    /// Answer to `ScanAt`.
    Page(Page),
    /// Answer to `ReadReplica`.
    ReplicaRead {
        /// What the key held; none if it did not exist.
        found: Option<Found>,
        /// When: the newest version at or below this was read.
        at: Timestamp,
    },
}

/// A map together with what the node believes of leaders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapView {
    /// The map.
    pub map: ClusterMap,
    /// The leaders that the node knows. A hint, possibly stale.
    pub leaders: Vec<(ShardId, NodeId)>,
}

/// Why a node did not carry out a request. Unless a variant says otherwise, *this attempt changed
/// nothing*; an earlier attempt with the same request id may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The node is not the shard's leader, or ceased to be it while the request waited. *A write
    /// may still take effect; retry with the same request id.*
    #[error("not the leader of {shard}{}", hint.map(|node| alloc::format!("; ask {node}")).unwrap_or_default())]
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Who the node takes for the leader.
        hint: Option<NodeId>,
    },
    /// The client's map is old, or the node holds no replica of the shard.
    #[error("{} is placed elsewhere ({})", entry.shard, entry.epoch)]
    WrongEpoch {
        /// The node's entry for the shard.
        entry: Box<ShardEntry>,
    },
    /// The node's map is older than the client's, or it has none yet.
    #[error("the node belongs to no formed cluster yet")]
    NotReady,
    /// The session is unknown and may have been forgotten. *Whether an earlier attempt took effect
    /// is unknown.*
    #[error("the session has expired")]
    SessionExpired,
    /// A late copy of a request that the client had already given up.
    #[error("the request was already given up by its client")]
    Superseded,
    /// The node has as much unfinished work as it may hold. Retry later.
    #[error("the node is overloaded")]
    Overloaded,
    /// The disks of the shard's leader or of too many of its followers are full. Deletes are still
    /// taken; other writes once there is room again.
    #[error("no space is left on the disk of {node}; delete something or make room")]
    NoSpace {
        /// The leader of the shard, or a follower whose disk is full.
        node: NodeId,
    },
    /// What the node has stored is damaged. It serves nothing until it is repaired. *A write may
    /// still take effect; retry with the same request id at another node.*
    #[error("{node} has damaged data and serves nothing: {damage}")]
    Damaged {
        /// The node.
        node: NodeId,
        /// What is damaged.
        damage: StorageDamage,
    },
    /// The key or value exceeds a limit. A retry cannot succeed.
    #[error("{bytes} bytes of {what} exceed the limit of {bytes_max}")]
    TooLarge {
        /// "key" or "value".
        what: alloc::string::String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The bytes on the connection are no valid frame. It is closed: where the next frame would
    /// start is unknown. *Requests on it that were not answered may have taken effect.*
    #[error("malformed frame: {reason}; the connection is closed")]
    Malformed {
        /// What is wrong with it.
        reason: alloc::string::String,
    },
    /// The node was removed from the cluster. Others have what it had; *a write may still take
    /// effect; retry with the same request id there.*
    #[error("{node} was removed from the cluster; ask another node")]
    Removed {
        /// The node.
        node: NodeId,
    },
    /// The meta group did not carry out a change of the members.
    #[error(transparent)]
    Meta(MetaError),
    /// A change of the members would cost some shard its quorum.
    #[error(
        "{reason}; with --force it is done all the same, and what has no quorum cannot be used until nodes return"
    )]
    QuorumRisk {
        /// Which shard, and which nodes.
        reason: alloc::string::String,
    },
    /// A leadership is not handed over.
    #[error("the leadership stays: {reason}")]
    Transfer {
        /// Why.
        reason: alloc::string::String,
    },
    /// The key does not belong to the shard that the request names. A retry cannot succeed.
    #[error("the key belongs to {expected}, not to {named}")]
    WrongShard {
        /// The shard of the key.
        expected: ShardId,
        /// The shard that the request names.
        named: ShardId,
    },
    /// The node is asked to join a cluster and belongs to one.
    #[error(
        "this is {node}, a member of cluster {cluster}; a node belongs to one cluster for good"
    )]
    Member {
        /// The node.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The request was sent on to the leader of the meta group, and not answered in time. *It may
    /// have been carried out, or may still be.*
    #[error("{node} did not answer what was sent on to it; it may have been carried out")]
    Unanswered {
        /// Whom it was sent on to.
        node: NodeId,
    },
    /// The replicas of the shard came to different states, and none has a majority. It is not served
    /// until an operator has decided. *A write may still take effect.*
    #[error(
        "the replicas of {shard} differ after entry {index} and none is right by majority; \
         it is not served, see the nodes' logs"
    )]
    Diverged {
        /// The shard.
        shard: ShardId,
        /// The entry after which they were compared.
        index: LogIndex,
    },
    /// A step of a transaction asks for what cannot be. A retry cannot succeed.
    #[error("this cannot be part of a transaction: {reason}")]
    InvalidStep {
        /// What is wrong with it.
        reason: alloc::string::String,
    },
    /// A read at a timestamp comes too late. A retry cannot succeed; a new read-only transaction can.
    #[error(
        "what was true at {at} is forgotten, {oldest} is the oldest timestamp that can be read; \
         begin anew"
    )]
    SnapshotTooOld {
        /// What was to be read at.
        at: Timestamp,
        /// The oldest timestamp that the shard can be read at.
        oldest: Timestamp,
    },
    /// A read at a timestamp that the oracle has not issued yet: what will have been true then is
    /// not decided.
    #[error("timestamp {at} was not issued yet, {newest} was; take one from the cluster")]
    FutureTimestamp {
        /// What was to be read at.
        at: Timestamp,
        /// A timestamp that was issued.
        newest: Timestamp,
    },
}
