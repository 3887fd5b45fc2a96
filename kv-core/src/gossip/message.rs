//! What gossip sends.
//!
//! An exchange has up to three messages: [`GossipMessage::Digest`], [`GossipMessage::Reply`] and
//! [`GossipMessage::Update`]. News travel as an update that nobody asked for. Small numbers take
//! one byte, so an [`Entry`] takes 6 bytes, and 8 after some days; 50 of them stay far below 700, with
//! the versions of the records too.
//!
//! No message exceeds [`MESSAGE_BYTES_MAX`] bytes.
//!
//! **What this leaves out:** the sender, which stands in the frame.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{
    Address, Epoch, Generation, Heartbeat, Incarnation, NodeId, RecordVersion, ShardId,
};

/// The most bytes of one message: what a node may send in a second on average. A digest of 150
/// nodes fits, and what does not is sent in a later exchange.
pub const MESSAGE_BYTES_MAX: usize = 2_048;

/// A message from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GossipMessage {
    /// "This is what I know." Begins an exchange.
    Digest {
        /// Where the sender can be reached: the receiver may never have heard of it.
        address: Address,
        /// What the sender knows.
        digest: Digest,
    },
    /// Answer to a digest.
    Reply {
        /// What the asker lacks.
        update: Update,
        /// What the answerer lacks.
        wants: Vec<Want>,
    },
    /// What the answerer said it lacks, or news.
    Update(Update),
}

/// How much the sender knows of each node in a range of ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// First id of the range.
    pub first: NodeId,
    /// Last id of the range; none if it has no end. A node in the range that has no entry is
    /// unknown to the sender.
    pub last: Option<NodeId>,
    /// By id.
    pub entries: Vec<Entry>,
    /// The versions of the records, one for each entry, or none at all: records change rarely, so
    /// they need not be compared every time.
    pub versions: Vec<RecordVersion>,
}

impl Digest {
    /// Whether the sender would have listed `node` if it knew it.
    pub fn covers(&self, node: NodeId) -> bool {
        self.first <= node && self.last.is_none_or(|last| node <= last)
    }
}

/// Whether a node is alive, as far as the sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The node that this is about.
    pub node: NodeId,
    /// Its generation.
    pub generation: Generation,
    /// What is said of the node in this generation, on the ground of this heartbeat.
    pub state: MemberState,
    /// Its last known sign of life.
    pub heartbeat: Heartbeat,
}

/// What is believed of a member. Ordered by weight: of two beliefs on the same ground the later one
/// in this order wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// Its heartbeats arrive.
    Alive,
    /// Its heartbeats have stopped for longer than is likely.
    Suspect,
    /// Suspect for so long that it is not worth waiting for. It still belongs to the cluster.
    Down,
    /// It said that it goes, and will not be back in this generation.
    Left,
}

/// Liveness and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Of nodes whose record the receiver holds.
    pub entries: Vec<Entry>,
    /// Of nodes of whose record the receiver lacks something.
    pub deltas: Vec<Delta>,
}

impl Update {
    /// Whether this says nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.deltas.is_empty()
    }
}

/// What changed in one node's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The node. The record is that of this generation.
    pub entry: Entry,
    /// Version of the record after this delta.
    pub version: RecordVersion,
    /// The version that the values add to. 0: they are the whole record.
    pub base: RecordVersion,
    /// All values that changed after `base`, with the version of their last change.
    pub values: Vec<(RecordVersion, Value)>,
}

/// "Send me what I lack of this node."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The node.
    pub node: NodeId,
    /// The generation that the asker knows; 0 if it does not know the node.
    pub generation: Generation,
    /// The version of the record that the asker holds of that generation.
    pub version: RecordVersion,
}

/// One part of what a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Which node it is, and where.
    Endpoint(Endpoint),
    /// What it runs.
    Release(Release),
    /// How much it carries.
    Load(Load),
    /// The newest version of the cluster map that it knows.
    MapVersion(u64),
    /// What it leads.
    Leads(Vec<ShardLead>),
}

/// Which node it is, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Where it can be reached.
    pub address: Address,
}

/// What a node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The newest version of the wire protocol that it speaks.
    pub protocol: u16,
    /// Version of the program, for people.
    pub software: String,
}

/// How much a node carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Replicas on the node.
    pub replica_count: u32,
    /// Those of them that lead.
    pub leader_count: u32,
    /// Bytes of writes that are proposed and not yet applied.
    pub pending_bytes: u64,
    /// Whether its disk is full.
    pub is_full: bool,
}

/// A shard that a node says it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardLead {
    /// The shard.
    pub shard: ShardId,
    /// The placement under which the node leads it.
    pub epoch: Epoch,
}
