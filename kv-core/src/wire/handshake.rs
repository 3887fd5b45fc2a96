//! The first exchange on a connection.
//!
//! The side that connects says what it is and which versions it speaks; the side that accepts
//! answers with the version chosen and its limits, or with the reason for refusing, and then
//! closes. Who is refused changed nothing.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::frame::{FRAME_BODY_BYTES_MAX, PROTOCOL_VERSION};
use crate::id::{ClusterId, Incarnation, NodeId};
use crate::op::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// What the connecting side says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version that it speaks.
    pub version_min: u8,
    /// Highest protocol version that it speaks.
    pub version_max: u8,
    /// Optional features that it knows, one bit each. None exist yet.
    pub features: u64,
    /// Name of the cluster that it wants to reach; none accepts any (clients).
    pub cluster_name: Option<String>,
    /// The peer's identity; none for a client.
    pub peer: Option<PeerHello>,
}

/// Identity of a connecting peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// Its id.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its cluster; none before it is formed.
    pub cluster: Option<ClusterId>,
}

/// What the accepting side answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    /// The connection is open.
    Welcome(Welcome),
    /// The connection is about to be closed.
    Refused(HelloRefusal),
}

/// The terms of an open connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version to speak.
    pub version: u8,
    /// Features that both sides know.
    pub features: u64,
    /// Who accepted.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its cluster; none before it is formed.
    pub cluster: Option<ClusterId>,
    /// Largest key in bytes.
    pub key_bytes_max: u64,
    /// Largest value in bytes.
    pub value_bytes_max: u64,
    /// Largest frame body in bytes.
    pub frame_bytes_max: u64,
}

/// Why a connection is refused. *Nothing was changed.*
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HelloRefusal {
    /// No protocol version in common.
    #[error("this node speaks protocol versions {min} to {max}; upgrade the older side")]
    Version {
        /// Lowest version of the answerer.
        min: u8,
        /// Highest version of the answerer.
        max: u8,
    },
    /// The node belongs to a cluster of another name.
    #[error("this node belongs to the cluster named {name:?}; check the address and --cluster")]
    ClusterName {
        /// Its cluster's name.
        name: String,
    },
    /// Same name, but another cluster.
    #[error("this node belongs to cluster {id}, another one of the same name; check the address")]
    Cluster {
        /// Its cluster.
        id: ClusterId,
    },
    /// The cluster does not know the peer, or knows another life of it.
    #[error("{node} with incarnation {incarnation} is not a member (was its disk wiped?)")]
    NotMember {
        /// The peer.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The first frame was damaged, too long, or no hello.
    #[error("the first frame is not a valid hello: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// Too many connections.
    #[error("this node has as many connections as it accepts; retry later")]
    TooManyConnections,
}

/// What the accepting side knows of itself.
#[derive(Clone, Debug)]
pub struct LocalIdentity {
    /// Its cluster's name.
    pub cluster_name: String,
    /// Its id.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its cluster; none before it is formed.
    pub cluster: Option<ClusterId>,
}

impl LocalIdentity {
    /// Decides about a connection. Membership of a peer's incarnation is checked on each of its
    /// frames, by the node.
    pub fn accept(&self, hello: &Hello) -> HelloReply {
        if hello.version_min > PROTOCOL_VERSION || hello.version_max < PROTOCOL_VERSION {
            let refusal = HelloRefusal::Version { min: PROTOCOL_VERSION, max: PROTOCOL_VERSION };
            return HelloReply::Refused(refusal);
        }
        if hello.cluster_name.as_ref().is_some_and(|name| *name != self.cluster_name) {
            let name = self.cluster_name.clone();
            return HelloReply::Refused(HelloRefusal::ClusterName { name });
        }
        let theirs = hello.peer.as_ref().and_then(|peer| peer.cluster);
        if let (Some(ours), Some(theirs)) = (self.cluster, theirs)
            && ours != theirs
        {
            return HelloReply::Refused(HelloRefusal::Cluster { id: ours });
        }
        HelloReply::Welcome(Welcome {
            version: PROTOCOL_VERSION,
            features: 0,
            node: self.node,
            incarnation: self.incarnation,
            cluster: self.cluster,
            key_bytes_max: KEY_BYTES_MAX as u64,
            value_bytes_max: VALUE_BYTES_MAX as u64,
            frame_bytes_max: FRAME_BODY_BYTES_MAX as u64,
        })
    }
}
