//! Who belongs to the cluster, and which nodes hold which shard.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{Address, ClusterId, Epoch, Incarnation, NodeId, ShardId};

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// The life of its data directory that the cluster was formed with, or that joined.
    pub incarnation: Incarnation,
    /// Where peers and clients reach it.
    pub address: Address,
}

/// What a cluster is at its formation. Fixed from then on, and equal on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Drawn at random by the node that formed the cluster.
    pub id: ClusterId,
    /// All members, by id.
    pub members: Vec<Member>,
    /// Count of user shards, a power of two.
    pub shard_count: u32,
    /// Replicas of each shard, odd, at most the number of members.
    pub replica_count: u32,
}

/// Most user shards of a cluster.
pub const SHARD_COUNT_MAX: u32 = 1_024;

impl ClusterRecord {
    /// Whether a cluster can be like this: members by id without repetition, a power of two of
    /// shards, an odd number of replicas that the members can hold.
    pub fn is_valid(&self) -> bool {
        let is_ordered = self.members.windows(2).all(|pair| pair[0].id < pair[1].id);
        let is_numbered = self.members.first().is_some_and(|member| member.id > NodeId(0));
        let member_count = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        is_ordered
            && is_numbered
            && self.shard_count.is_power_of_two()
            && self.shard_count <= SHARD_COUNT_MAX
            && !self.replica_count.is_multiple_of(2)
            && self.replica_count <= member_count
    }
}

/// A node's durable identity: what its data directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the cluster, chosen by the operator.
    pub cluster_name: String,
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// Drawn when the directory was first used.
    pub incarnation: Incarnation,
    /// The cluster that the node belongs to, once it was formed.
    pub cluster: Option<ClusterRecord>,
}

/// Where one shard lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The shard.
    pub shard: ShardId,
    /// Version of this entry.
    pub epoch: Epoch,
    /// The nodes that hold a replica, in order of preference.
    pub voters: Vec<NodeId>,
}

/// Where everything lives. Replicated by the meta group, cached by clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The cluster.
    pub cluster: ClusterId,
    /// All members, by id.
    pub members: Vec<Member>,
    /// All groups by id, the meta group first, then the user shards without a gap.
    pub shards: Vec<ShardEntry>,
}

impl ClusterMap {
    /// Count of user shards.
    pub fn shard_count(&self) -> u32 {
        u32::try_from(self.shards.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The entry of `shard`.
    pub fn entry(&self, shard: ShardId) -> Option<&ShardEntry> {
        self.shards.get(shard.0 as usize)
    }

    /// The member `id`.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}
