//! A node's view of itself.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::gossip::{MemberState, Release};
use crate::id::{Address, ClusterId, Incarnation, LogId, LogIndex, NodeId, ShardId, Term};
use crate::raft::{Configuration, Role};
use crate::storage::{LogCounters, StorageDamage};

/// A node's view of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its cluster's name.
    pub cluster_name: String,
    /// Its cluster; none before it is formed.
    pub cluster: Option<ClusterId>,
    /// What of its stored data is damaged, or was and is being repaired. Until that has begun, `shards`
    /// is empty.
    pub damage: Option<Box<StorageDamage>>,
    /// Whether its disk is so full that only what makes room is written.
    pub is_full: bool,
    /// Its replicas, by shard.
    pub shards: Vec<ShardStatus>,
    /// What it believes of the other members, by id.
    pub peers: Vec<PeerStatus>,
    /// Its log since the process started.
    pub log: Box<LogCounters>,
    /// Frames that it dropped since the process started.
    pub ignored_frame_count: u64,
    /// Bytes of writes that are proposed and not yet applied.
    pub pending_bytes: u64,
}

/// What a node believes of another member. None of it decides anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member.
    pub node: NodeId,
    /// Where it is reached.
    pub address: Address,
    /// Its state; none if nothing was heard of it since the process started.
    pub state: Option<MemberState>,
    /// Hundredths of phi: how surprising its silence is.
    pub phi_hundredths: u32,
    /// What it runs.
    pub release: Release,
    /// The newest version of the map that it is known to have.
    pub map_version: LogIndex,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// The replica's role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who it takes for the leader.
    pub leader: Option<NodeId>,
    /// Who takes part, as far as this replica knows.
    pub configuration: Configuration,
    /// Its last entry.
    pub last: LogId,
    /// What it knows to be committed.
    pub commit_index: LogIndex,
    /// What it has applied.
    pub applied_index: LogIndex,
    /// Whether it lost its data and is being repaired.
    pub is_suspect: bool,
}
