//! The circle of tokens, and the walk on it that decides which nodes a shard prefers.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{NodeId, ShardId};

/// Virtual nodes of each node: enough that the walk from a point meets the nodes in well-mixed
/// order.
pub const VNODES_PER_NODE: u64 = 64;

const VNODE_SEED: u64 = 2;
const SHARD_SEED: u64 = 3;

/// Tokens of all virtual nodes, clockwise.
///
/// - Ordered by token; tokens that collide are ordered by node id, so every node of the cluster
///   sees the same circle.
pub(super) struct Ring(Vec<(u64, NodeId)>);

impl Ring {
    pub(super) fn new(nodes: &BTreeSet<NodeId>) -> Self {
        let tokens = nodes.iter().flat_map(|node| tokens_of(*node).map(|token| (token, *node)));
        Self::from_tokens(tokens.collect())
    }

    fn from_tokens(mut tokens: Vec<(u64, NodeId)>) -> Self {
        tokens.sort_unstable();
        Self(tokens)
    }

    /// All nodes, each once, in the order in which they are met clockwise from the shard's point.
    pub(super) fn walk(&self, shard: ShardId) -> impl Iterator<Item = NodeId> + '_ {
        self.walk_from(point(shard))
    }

    fn walk_from(&self, point: u64) -> impl Iterator<Item = NodeId> + '_ {
        let start = self.0.partition_point(|(token, _)| *token < point);
        let (before, after) = self.0.split_at(start);
        let mut seen = BTreeSet::new();
        let nodes = after.iter().chain(before).map(|(_, node)| *node);
        nodes.filter(move |node| seen.insert(*node))
    }
}

/// Shards in the order in which their walks meet `node`, the soonest first; ties by shard.
pub(super) fn soonest_first(
    node: NodeId,
    shards: impl Iterator<Item = ShardId>,
) -> impl Iterator<Item = ShardId> {
    let mut tokens: Vec<_> = tokens_of(node).collect();
    tokens.sort_unstable();
    let mut order: Vec<_> = shards.map(|shard| (distance(point(shard), &tokens), shard)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, shard)| shard)
}

/// How far it is clockwise from `point` to the next of `tokens`, which are in order.
fn distance(point: u64, tokens: &[u64]) -> u64 {
    let at = tokens.partition_point(|token| *token < point);
    let next = tokens.get(at).or_else(|| tokens.first());
    next.map_or(u64::MAX, |token| token.wrapping_sub(point))
}

fn point(shard: ShardId) -> u64 {
    xxh3_64_with_seed(&shard.0.to_le_bytes(), SHARD_SEED)
}

fn tokens_of(node: NodeId) -> impl Iterator<Item = u64> {
    (0..VNODES_PER_NODE).map(move |vnode| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&node.0.to_le_bytes());
        bytes[8..].copy_from_slice(&vnode.to_le_bytes());
        xxh3_64_with_seed(&bytes, VNODE_SEED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(tokens: &[(u64, u64)], point: u64) -> Vec<u64> {
        let tokens = tokens.iter().map(|(token, node)| (*token, NodeId(*node)));
        Ring::from_tokens(tokens.collect()).walk_from(point).map(|node| node.0).collect()
    }

    /// No two tokens of real nodes are known to collide, so these are made up.
    #[test]
    fn rule_c64_colliding_tokens_are_met_by_node_id() {
        let colliding = [(50, 3), (50, 1), (20, 2), (50, 2), (70, 3)];
        let mut reversed = colliding;
        reversed.reverse();
        for tokens in [colliding, reversed] {
            assert_eq!(met(&tokens, 40), [1, 2, 3], "from before the collision");
            assert_eq!(met(&tokens, 50), [1, 2, 3], "a token at the point itself is met first");
            assert_eq!(met(&tokens, 51), [3, 2, 1], "from behind it, over the end of the circle");
        }
    }

    #[test]
    fn the_distance_goes_clockwise_over_the_end_of_the_circle() {
        assert_eq!(distance(10, &[10, 30]), 0);
        assert_eq!(distance(11, &[10, 30]), 19);
        assert_eq!(distance(u64::MAX, &[10, 30]), 11);
        assert_eq!(distance(7, &[]), u64::MAX);
    }

    #[test]
    fn the_shard_whose_walk_begins_with_a_node_is_among_its_soonest() {
        let nodes: BTreeSet<_> = (1..=5).map(NodeId).collect();
        let ring = Ring::new(&nodes);
        let shards = || (1..=256).map(ShardId);
        let rank = |shard| ring.walk(shard).position(|node| node == NodeId(3)).unwrap();
        let ranks: Vec<_> = soonest_first(NodeId(3), shards()).map(rank).collect();
        assert_eq!(ranks.len(), 256);
        assert_eq!(ranks[0], 0, "nothing lies between the shard's point and the node's token");
        let (near, far): (usize, usize) = (ranks[..128].iter().sum(), ranks[128..].iter().sum());
        assert!(near < far, "nearer shards meet the node earlier: {near}, {far}");
    }
}
