//! Who belongs to the cluster, which nodes hold which shard, and where shards are to move.
//!
//! The [`ClusterMap`] is the state of the meta group. It says where every shard *is*, as the shards'
//! leaders have reported it, and where it is *to be*: its goal, and for some a target, which those
//! leaders carry out. Who votes in a shard is decided in the shard's own log; the map follows it and never
//! leads. [`machine`](crate::machine) has the commands that change the map.
//!
//! # How a target is carried out
//!
//! A leader that finds a target for its shard takes the shard there in steps, each an entry of the
//! shard's log: newcomers become learners, then a joint configuration makes them voters, then it is
//! left. What must hold for the map to stay right:
//!
//! - A step that brings nodes in is begun only from the configuration that the entry names: its
//!   epoch is the entry's. So at most one step can still follow a target that was withdrawn, and
//!   [`ShardEntry::withdrawn`] holds the nodes that this step may bring in. Leaving a joint
//!   configuration brings nobody in and waits for nothing.
//! - Every committed configuration is reported, until the map has its epoch.
//! - A target that names what the shard is already is carried out as well, by the same
//!   configuration under the next epoch: it ends what an older target may still cause.
//!
//! **What this leaves out:** changing the address of a member, and taking back a removal.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{Address, ClusterId, Epoch, Incarnation, LogIndex, NodeId, ShardId};
use crate::storage::StorageDamage;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// The life of its data directory that the cluster was formed with, or that joined.
    pub incarnation: Incarnation,
    /// Where peers and clients reach it.
    pub address: Address,
    /// Whether it is there to stay.
    pub state: MemberState,
}

/// Whether a member is there to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It holds replicas, and gets more.
    Active,
    /// It is being removed: its replicas move away, and it is dropped with the last of them.
    Leaving,
}

/// A member that was dropped. It is remembered so that it can be told, and does not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedMember {
    /// The id that it had; nobody gets it again.
    pub id: NodeId,
    /// The life of its data directory, which is of no use any more.
    pub incarnation: Incarnation,
    /// Where it was reached, and is told if it has missed it.
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

/// Most members of a cluster: every node keeps a link to every other one, and planning weighs all
/// of them against all shards.
pub const MEMBERS_MAX: usize = 256;

/// Most members that are remembered as removed; the oldest are forgotten first. Who was forgotten is
/// a stranger: its id is not given again, and its directory is of another id than it would get.
pub const REMOVED_MAX: usize = 1_024;

impl ClusterRecord {
    /// Whether a cluster can be like this: members by id without repetition, all there to stay, a
    /// power of two of shards, an odd number of replicas that the members can hold.
    pub fn is_valid(&self) -> bool {
        let is_ordered = self.members.windows(2).all(|pair| pair[0].id < pair[1].id);
        let is_numbered = self.members.first().is_some_and(|member| member.id > NodeId(0));
        let is_staying = self.members.iter().all(|member| member.state == MemberState::Active);
        let member_count = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        is_ordered
            && is_numbered
            && is_staying
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
    /// The newest map that the node had when the members last changed: whom to ask after a restart.
    pub map: Option<ClusterMap>,
    /// How often the store was given up because of damage and begun anew.
    pub life: u64,
    /// The repair that is under way.
    pub repair: Option<Repair>,
}

impl Identity {
    /// The life in which replicas are on this store, unless they were given up on it one by one
    /// ([`HardState::quarantine`](crate::storage::HardState::quarantine)): there is room for that
    /// before the next.
    pub fn replica_life(&self) -> u64 {
        self.life << 32
    }

    /// The identity of a store that is to be given up because of `damage`.
    pub fn after_damage(&self, damage: StorageDamage) -> Self {
        let repair = Some(Repair { damage, is_set_aside: false });
        Self { life: self.life + 1, repair, ..self.clone() }
    }
}

/// A store that was given up and is being filled again from other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What was damaged.
    pub damage: StorageDamage,
    /// Whether all of the damaged store was set aside, and an empty one begun. Until then nothing in
    /// the data directory may be taken for data.
    pub is_set_aside: bool,
}

/// Where one shard lives, and where it is to live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the configuration that the entry tells of.
    pub epoch: Epoch,
    /// The nodes that hold a replica and vote, in order of preference. While the configuration is
    /// joint, those that vote after it.
    pub voters: Vec<NodeId>,
    /// While the configuration is joint: the voters before it, by id. Else empty.
    pub outgoing: Vec<NodeId>,
    /// The nodes that get the log and do not vote, by id.
    pub learners: Vec<NodeId>,
    /// The voters that the shard is to have in the end, in order of preference: members that stay,
    /// as the ring chose them when the members last changed.
    pub goal: Vec<NodeId>,
    /// The voters that the shard is to have next, in order of preference, without learners beside
    /// them. The shard's leader carries it out. None if the shard is to stay as it is for the time
    /// being. Not the goal only if that changed while the target was carried out.
    pub target: Option<Vec<NodeId>>,
    /// Nodes of targets that were given at this epoch and withdrawn, by id: a leader that has not
    /// heard of it may still bring them in. Empty once the epoch has grown.
    pub withdrawn: Vec<NodeId>,
    /// The voter that should lead.
    pub leader: Option<NodeId>,
}

impl ShardEntry {
    /// The entry that `shard` starts with.
    pub fn new(shard: ShardId, voters: Vec<NodeId>) -> Self {
        Self {
            shard,
            epoch: Epoch(1),
            goal: voters.clone(),
            voters,
            outgoing: Vec::new(),
            learners: Vec::new(),
            target: None,
            withdrawn: Vec::new(),
            leader: None,
        }
    }

    /// Whether a change of voters is halfway.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Who takes part in the shard as far as the map knows: voters of both sides, then learners. A
    /// node may appear twice while the configuration is joint.
    pub fn participants(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied()
    }

    /// Whether the node takes part, is to take part, or may come to take part.
    pub fn names(&self, node: NodeId) -> bool {
        let target = self.target.iter().flatten();
        self.participants().chain(target.chain(&self.withdrawn).copied()).any(|id| id == node)
    }

    /// Whether the shard is at rest with exactly these voters, and nothing can follow from a
    /// withdrawn target.
    pub fn is_settled_on(&self, voters: &[NodeId]) -> bool {
        !self.is_joint()
            && self.learners.is_empty()
            && self.withdrawn.is_empty()
            && is_same_set(&self.voters, voters)
    }
}

/// Whether the two lists, each without repetition, hold the same nodes.
fn is_same_set(one: &[NodeId], other: &[NodeId]) -> bool {
    one.len() == other.len() && one.iter().all(|node| other.contains(node))
}

/// Where everything lives. Replicated by the meta group, cached by clients.
///
/// - A function of the meta group's log alone, and of the cluster's record before its first entry.
/// - `version` grows with every change, so of two maps the newer one is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The cluster.
    pub cluster: ClusterId,
    /// Index of the meta group's entry that made it what it is; 0 for the map that every node makes
    /// from the cluster's record before it has heard of any entry.
    pub version: LogIndex,
    /// All members, by id.
    pub members: Vec<Member>,
    /// Members that were dropped, at most [`REMOVED_MAX`], in the order in which they were.
    pub removed: Vec<RemovedMember>,
    /// The id that the next member gets; above all that were ever given.
    pub next_node: NodeId,
    /// Replicas that each shard has as soon as there are as many active members. Fixed at the
    /// formation.
    pub replica_count: u32,
    /// All groups by id, the meta group first, then the user shards without a gap.
    pub shards: Vec<ShardEntry>,
}

impl ClusterMap {
    /// The map that a cluster starts with. `shards` holds an entry for every group, by id.
    pub fn initial(record: &ClusterRecord, shards: Vec<ShardEntry>) -> Self {
        let last = record.members.iter().map(|member| member.id.0).max().unwrap_or(0);
        Self {
            cluster: record.id,
            version: LogIndex(0),
            members: record.members.clone(),
            removed: Vec::new(),
            next_node: NodeId(last.saturating_add(1)),
            replica_count: record.replica_count,
            shards,
        }
    }

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

    /// Whether the node is a member that is there to stay.
    pub fn is_active(&self, id: NodeId) -> bool {
        self.member(id).is_some_and(|member| member.state == MemberState::Active)
    }

    /// The members that are there to stay, by id.
    pub fn active(&self) -> impl Iterator<Item = NodeId> {
        let active = self.members.iter().filter(|member| member.state == MemberState::Active);
        active.map(|member| member.id)
    }

    /// Where the node is reached, also one that was dropped, as far as that is remembered.
    pub fn address(&self, id: NodeId) -> Option<&Address> {
        let removed = self.removed.iter().find(|removed| removed.id == id);
        let member = self.member(id).map(|member| &member.address);
        member.or_else(|| removed.map(|removed| &removed.address))
    }

    /// Whether the node was a member and was dropped, as far as that is remembered.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.iter().any(|removed| removed.id == id)
    }

    /// Whether anything is still to be moved.
    pub fn is_moving(&self) -> bool {
        self.shards.iter().any(|entry| !entry.is_settled_on(&entry.goal))
    }
}

/// Why the meta group did not carry out a command. A function of its log alone. *Nothing was
/// changed.*
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MetaError {
    /// The first command has not been applied yet. Retry later.
    #[error("the cluster has no map yet")]
    NotFormed,
    /// There never was such a member, or it is forgotten.
    #[error("{id} is not a member")]
    UnknownMember {
        /// Who was named.
        id: NodeId,
    },
    /// The member was removed, and its data directory with it: it returns only as a new member,
    /// with an empty directory.
    #[error("{id} was removed")]
    RemovedMember {
        /// The id that it had.
        id: NodeId,
    },
    /// Without it nobody would be left to hold the data.
    #[error("{id} is the last member that stays")]
    LastMember {
        /// Who was to be removed.
        id: NodeId,
    },
    /// A member that leaves cannot take over from another one.
    #[error("{id} is leaving itself")]
    LeavingMember {
        /// Who was to take over.
        id: NodeId,
    },
    /// A member cannot take over from itself.
    #[error("{id} cannot replace itself")]
    SameMember {
        /// Who was named twice.
        id: NodeId,
    },
    /// No more members fit.
    #[error("the cluster has {MEMBERS_MAX} members, which is the most")]
    TooManyMembers,
    /// The ids of the first members were chosen so large that none is left above them.
    #[error("no id is left for another member")]
    IdsExhausted,
}
