//! Configuration of a node.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::cluster::SHARD_COUNT_MAX;
use crate::gossip::{GossipConfig, GossipConfigError};
use crate::id::{Address, NodeId};
use crate::raft::{LeaseConfig, Limits, Timings};

/// A node's configuration. `cluster_name`, `peers`, `shard_count` and `replica_count` must be equal
/// on all nodes when the cluster is formed; afterwards what was formed holds, and the others are
/// found by the map and by gossip.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node; one of `peers`.
    pub id: NodeId,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Nodes of the cluster with their addresses, this one included: all of them until the cluster
    /// is formed, any of them afterwards.
    pub peers: Vec<(NodeId, Address)>,
    /// Count of user shards: a power of two, 1 to 1,024. Default 16.
    pub shard_count: u32,
    /// Replicas of each shard: odd, at most the number of peers. None: the largest odd number that
    /// is at most the number of peers and at most 7.
    pub replica_count: Option<u32>,
    /// Timers.
    pub timings: Timings,
    /// Reads by lease; none: every read waits for a confirmation. Default none. Must be equal on all
    /// nodes: one without it may help to depose a leader that relies on it.
    pub lease: Option<LeaseConfig>,
    /// How much each replica has on its way.
    pub limits: Limits,
    /// Bytes of a replica's log that are kept for members who are behind, beyond what the node needs
    /// itself; in memory, too. Who lacks more gets a snapshot. Default 8 MiB.
    pub slack_bytes: usize,
    /// The same for all replicas of the node together: each has an equal share, if that is less.
    /// Default 256 MiB.
    pub node_slack_bytes: usize,
    /// How far back what was true can be read, behind the newest write of a shard; older versions
    /// are dropped. Default 10 minutes.
    pub retention: Duration,
    /// Gossip and failure detection.
    pub gossip: GossipConfig,
}

impl NodeConfig {
    /// A configuration with defaults for everything else.
    pub fn new(id: NodeId, cluster_name: &str, peers: Vec<(NodeId, Address)>) -> Self {
        Self {
            id,
            cluster_name: cluster_name.into(),
            peers,
            shard_count: 16,
            replica_count: None,
            timings: Timings::default(),
            lease: None,
            limits: Limits::default(),
            slack_bytes: 8 * 1024 * 1024,
            node_slack_bytes: 256 * 1024 * 1024,
            retention: Duration::from_secs(600),
            gossip: GossipConfig::default(),
        }
    }

    /// The count of replicas that holds: the configured one, or the default for the number of
    /// peers.
    pub fn effective_replica_count(&self) -> u32 {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        let most = peers.min(7);
        let largest_odd = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
        self.replica_count.unwrap_or(largest_odd)
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// All mistakes at once. *Nothing was changed.*
    pub fn validate(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        let mut ids: Vec<_> = self.peers.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if !ids.contains(&self.id) {
            errors.push(ConfigError::SelfMissing { id: self.id });
        }
        for pair in ids.windows(2) {
            if pair[0] == pair[1] {
                errors.push(ConfigError::DuplicatePeer { id: pair[0] });
            }
        }
        if ids.contains(&NodeId(0)) {
            errors.push(ConfigError::ZeroId);
        }
        if !self.shard_count.is_power_of_two() || self.shard_count > SHARD_COUNT_MAX {
            errors.push(ConfigError::ShardCount { shard_count: self.shard_count });
        }
        let replica_count = self.effective_replica_count();
        let peer_count = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        if replica_count.is_multiple_of(2) || replica_count > peer_count {
            errors.push(ConfigError::ReplicaCount { replica_count, peer_count });
        }
        let Timings { heartbeat, election_min, election_max } = self.timings;
        if heartbeat.is_zero()
            || heartbeat * 3 > election_min
            || election_min + heartbeat > election_max
        {
            errors.push(ConfigError::Timings { timings: self.timings });
        }
        if let Some(LeaseConfig { drift_max_ppm }) = self.lease
            && drift_max_ppm > LeaseConfig::DRIFT_MAX_PPM
        {
            errors.push(ConfigError::Lease { drift_max_ppm });
        }
        let gossip = self.gossip.validate().err().map(|errors| errors.0);
        errors.extend(gossip.into_iter().flatten().map(ConfigError::Gossip));
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }
}

/// One mistake in a configuration. *Nothing was changed.*
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The node's own id is not among the peers.
    #[error("the peers do not list this node itself ({id})")]
    SelfMissing {
        /// The node.
        id: NodeId,
    },
    /// A peer is listed twice.
    #[error("{id} is listed twice among the peers")]
    DuplicatePeer {
        /// The peer.
        id: NodeId,
    },
    /// Node ids start at 1.
    #[error("node ids start at 1, not at 0")]
    ZeroId,
    /// Not a power of two in range.
    #[error("the count of shards is a power of two from 1 to 1024, not {shard_count}")]
    ShardCount {
        /// The count.
        shard_count: u32,
    },
    /// Not odd, or more than nodes.
    #[error(
        "the count of replicas is odd and at most the number of nodes ({peer_count}), not {replica_count}"
    )]
    ReplicaCount {
        /// The count.
        replica_count: u32,
        /// The number of nodes.
        peer_count: u32,
    },
    /// No lease lasts with such clocks.
    #[error(
        "leases take clocks that drift by at most 500000 parts per million, not {drift_max_ppm}"
    )]
    Lease {
        /// The drift.
        drift_max_ppm: u32,
    },
    /// The data directory belongs to another node or cluster.
    #[error(
        "the data directory belongs to {node} of cluster {cluster_name:?}; check --id, --cluster and --data-dir"
    )]
    OtherDirectory {
        /// Whose it is.
        node: NodeId,
        /// Of which cluster.
        cluster_name: String,
    },
    /// A tunable of gossip that is out of its range.
    #[error("{0}")]
    Gossip(GossipConfigError),
    /// Timers that cannot work together.
    #[error(
        "timers need heartbeat > 0, election_min >= 3 heartbeats, election_max >= election_min + heartbeat: {timings:?}"
    )]
    Timings {
        /// The timers.
        timings: Timings,
    },
}

/// All mistakes of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl core::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigErrors {}
