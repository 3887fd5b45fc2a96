//! The first placement: nobody holds anything yet.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::layout::Layout;
use crate::id::{NodeId, ShardId};

/// Replicas of the meta group and of shards `1..=shard_count` on `nodes`, in order of preference.
///
/// A pure function of the set of nodes. Each shard gets `min(replica_count, nodes)` distinct nodes,
/// and no node more than `ceil(1.25 * shard_count * replica_count / nodes)` replicas.
pub fn place(
    nodes: &[NodeId],
    shard_count: u32,
    replica_count: u32,
) -> Vec<(ShardId, Vec<NodeId>)> {
    let nodes: BTreeSet<_> = nodes.iter().copied().collect();
    let mut layout = Layout::new(&nodes, shard_count, replica_count);
    layout.fill(&BTreeMap::new());
    layout.shed();
    layout.into_placement(&[])
}
