//! The consistent-hash ring: which shard a key belongs to, and which nodes hold a shard.
//!
//! Keys are hashed to a fixed number of equal shards; the *ring* places the shards. Every node owns
//! [`VNODES_PER_NODE`] virtual nodes on a circle of 64-bit tokens. A shard has a point on the
//! circle; walking clockwise from there, the first nodes met hold its replicas, skipping a node
//! that already has its fair share: consistent hashing (Karger et al. 1997) with bounded loads
//! (Mirrokni, Thorup, Zadimoghaddam 2018). So load is even within 25 %, and adding a node moves
//! about one share.
//!
//! Everything here is a pure function of its arguments: all nodes compute the same placement.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cluster::{ClusterMap, ClusterRecord, ShardEntry};
use crate::id::{NodeId, ShardId};
use crate::op::Key;

/// Virtual nodes of each node: enough that the walk from a point meets the nodes in well-mixed
/// order.
pub const VNODES_PER_NODE: u64 = 64;

const KEY_SEED: u64 = 1;
const VNODE_SEED: u64 = 2;
const SHARD_SEED: u64 = 3;

/// The user shard of `key`: its hash, or that of the part between the first `{` and the next `}` if
/// there is one and it is not empty, so that related keys can be kept together.
pub fn shard_of(key: &Key, shard_count: u32) -> ShardId {
    let hash =
        xxh3_64_with_seed(hashed_part(&key.bytes), KEY_SEED ^ u64::from(key.keyspace.0) << 8);
    let bucket = hash % u64::from(shard_count.max(1));
    ShardId(1 + u32::try_from(bucket).expect("a bucket is below the shard count"))
}

fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let tail = &key[open + 1..];
    match tail.iter().position(|byte| *byte == b'}') {
        Some(close) if close > 0 => &tail[..close],
        _ => key,
    }
}

/// The map that a cluster starts with.
pub fn initial_map(record: &ClusterRecord) -> ClusterMap {
    let nodes: Vec<_> = record.members.iter().map(|member| member.id).collect();
    let placement = place(&nodes, record.shard_count, record.replica_count);
    let entry = |(shard, voters)| ShardEntry::new(shard, voters);
    ClusterMap::initial(record, placement.into_iter().map(entry).collect())
}

/// Replicas of the meta group and of shards `1..=shard_count` on `nodes`, in order of preference.
///
/// Each shard gets `min(replica_count, nodes)` distinct nodes, and no node more than
/// `ceil(1.25 * shard_count * replica_count / nodes)` replicas unless there is no other way.
pub fn place(
    nodes: &[NodeId],
    shard_count: u32,
    replica_count: u32,
) -> Vec<(ShardId, Vec<NodeId>)> {
    let ring = Ring::new(nodes);
    let replicas = (replica_count as usize).min(nodes.len());
    let fair_share_max = load_bound(shard_count as usize, replicas, nodes.len());
    // The meta group does not count towards anybody's load: it is not one of the Q equal shards.
    let meta = (ShardId::META, ring.walk(ShardId::META).take(replicas).collect());
    let mut load: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    let mut placement = Vec::from([meta]);
    for shard in (1..=shard_count).map(ShardId) {
        let voters = place_one(&ring, shard, replicas, fair_share_max, &load);
        for voter in &voters {
            *load.entry(*voter).or_default() += 1;
        }
        placement.push((shard, voters));
    }
    placement
}

fn load_bound(shards: usize, replicas: usize, nodes: usize) -> usize {
    (5 * shards * replicas).div_ceil(4 * nodes.max(1))
}

fn place_one(
    ring: &Ring,
    shard: ShardId,
    replicas: usize,
    fair_share_max: usize,
    load: &BTreeMap<NodeId, usize>,
) -> Vec<NodeId> {
    let mut voters: Vec<NodeId> =
        ring.walk(shard).filter(|node| load[node] < fair_share_max).take(replicas).collect();
    let mut rest: Vec<NodeId> =
        load.keys().copied().filter(|node| !voters.contains(node)).collect();
    rest.sort_by_key(|node| (load[node], *node));
    voters.extend(rest.into_iter().take(replicas - voters.len()));
    voters
}

struct Ring {
    /// Tokens of all virtual nodes, in order.
    tokens: Vec<(u64, NodeId)>,
    node_count: usize,
}

impl Ring {
    fn new(nodes: &[NodeId]) -> Self {
        let mut tokens: Vec<_> = nodes
            .iter()
            .flat_map(|node| (0..VNODES_PER_NODE).map(|vnode| (vnode_token(*node, vnode), *node)))
            .collect();
        // Tokens that collide are ordered by node id.
        tokens.sort_unstable();
        Self { tokens, node_count: nodes.len() }
    }

    /// All nodes, each once, in the order in which they are met clockwise from the shard's point.
    fn walk(&self, shard: ShardId) -> impl Iterator<Item = NodeId> + '_ {
        let point = xxh3_64_with_seed(&shard.0.to_le_bytes(), SHARD_SEED);
        let start = self.tokens.partition_point(|(token, _)| *token < point);
        let (before, after) = self.tokens.split_at(start);
        let mut seen = Vec::with_capacity(self.node_count);
        after.iter().chain(before).filter_map(move |(_, node)| {
            let is_new = !seen.contains(node);
            if is_new {
                seen.push(*node);
            }
            is_new.then_some(*node)
        })
    }
}

fn vnode_token(node: NodeId, vnode: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&node.0.to_le_bytes());
    bytes[8..].copy_from_slice(&vnode.to_le_bytes());
    xxh3_64_with_seed(&bytes, VNODE_SEED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn every_shard_has_distinct_replicas_and_no_node_exceeds_its_share() {
        for count in 1..=12 {
            for replica_count in [1, 3, 5, 7] {
                for shard_count in [1, 8, 64] {
                    check_placement(count, shard_count, replica_count);
                }
            }
        }
    }

    fn check_placement(node_count: u64, shard_count: u32, replica_count: u32) {
        let placement = place(&nodes(node_count), shard_count, replica_count);
        assert_eq!(placement.len(), shard_count as usize + 1);
        let replicas = (replica_count as usize).min(usize::try_from(node_count).unwrap());
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (shard, voters) in &placement {
            let mut distinct = voters.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), replicas, "{shard} on {node_count} nodes");
            for voter in voters.iter().filter(|_| *shard != ShardId::META) {
                *load.entry(*voter).or_default() += 1;
            }
        }
        let bound =
            load_bound(shard_count as usize, replicas, usize::try_from(node_count).unwrap());
        assert!(load.values().all(|load| *load <= bound), "{load:?} exceeds {bound}");
    }

    #[test]
    fn placement_does_not_depend_on_the_order_of_the_nodes() {
        let mut reversed = nodes(7);
        reversed.reverse();
        assert_eq!(place(&nodes(7), 16, 3), place(&reversed, 16, 3));
    }

    #[test]
    fn a_new_node_moves_about_its_share() {
        let (before, after) = (place(&nodes(9), 256, 3), place(&nodes(10), 256, 3));
        let moved = before
            .iter()
            .zip(&after)
            .map(|((_, old), (_, new))| new.iter().filter(|node| !old.contains(node)).count());
        let moved: usize = moved.sum();
        // A share is 256 * 3 / 10 = 77 replicas; rebalancing under the bound moves some more.
        assert!(moved < 2 * 77, "{moved} of 768 replicas moved");
    }

    #[test]
    fn keys_spread_evenly_and_tagged_keys_stay_together() {
        let mut counts = [0_u32; 16];
        for at in 0..16_000_u32 {
            let key = Key::new(at.to_le_bytes().to_vec());
            counts[shard_of(&key, 16).0 as usize - 1] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let shard = |key: &'static str| shard_of(&Key::new(key), 1_024);
        assert_eq!(shard("{user7}.name"), shard("{user7}.mail"));
        assert_eq!(shard("{user7}.name"), shard("x{user7}"));
        assert_ne!(shard("{}a"), shard("{}b"), "an empty tag does not count");
        assert_ne!(shard("{a"), shard("{b"), "an open tag does not count");
    }
}
