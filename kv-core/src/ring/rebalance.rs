//! The placement after nodes were added or removed, and what has to move for it.
//!
//! [`place`](super::place) would answer for the changed set of nodes, too, but the bound makes the
//! places of shards depend on each other: one more node shifts some that have nothing to do with
//! it. So a change starts from what is. In this order,
//!
//! 1. replicas on nodes that stay are kept;
//! 2. what the nodes that left held is placed anew, on the walk of each shard;
//! 3. a node that is new, or far too small, gets its share, from the most loaded;
//! 4. who is still above the bound gives to the least loaded.
//!
//! A node that holds nothing gets its whole fair share, rounded down. Any other is left alone
//! between half the fair share and the bound: evening them out would move replicas for little, and
//! the first placement of many nodes leaves some at three quarters. Step 2 serves nodes that want
//! more first, so a node that replaces another takes its replicas and nothing else moves. Steps 3
//! and 4 move the shards whose walk meets the taker soonest, which are those that the ring alone
//! would give it.
//!
//! Why the end is stable: step 3 takes only from nodes above the fair share, so none becomes small
//! by it, and step 4 only from nodes above the bound. After them no node is a reason for either, so
//! asking again for the same nodes changes nothing.
//!
//! What this leaves out: how the replicas get there. The result is where they shall be in the end.
//! If the nodes change before that, the next change starts from this result, not from where the
//! replicas happen to be: a new node that has got more than half of its share would stay there.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::layout::Layout;
use crate::id::{NodeId, ShardId};

/// The placement on `nodes` that moves little of `current`, which was on other nodes: a pure
/// function, for which the order of neither nodes nor shards matters.
///
/// - Each shard has `min(replica_count, nodes)` distinct voters: those that it keeps, in their
///   order, then the new ones.
/// - No node holds more than `ceil(1.25 * shard_count * replica_count / nodes)` replicas, and none
///   less than half of the fair share, rounded down.
/// - With the same nodes again, nothing changes.
/// - The meta group keeps its voters as long as they are members.
pub fn rebalance(
    current: &[(ShardId, Vec<NodeId>)],
    nodes: &[NodeId],
    shard_count: u32,
    replica_count: u32,
) -> Vec<(ShardId, Vec<NodeId>)> {
    let nodes: BTreeSet<_> = nodes.iter().copied().collect();
    let mut layout = Layout::new(&nodes, shard_count, replica_count);
    let mut meta: &[NodeId] = &[];
    for (shard, voters) in current {
        match shard.0 {
            0 => meta = voters,
            number if number <= shard_count => layout.keep(*shard, voters),
            _ => {}
        }
    }
    let wanted = wanted(&layout);
    layout.fill(&wanted);
    layout.pull(&wanted);
    layout.shed();
    layout.into_placement(meta)
}

/// The least that each node shall hold, at most its fair share.
fn wanted(layout: &Layout) -> BTreeMap<NodeId, usize> {
    let share = layout.fair_share();
    let least = |load: usize| if load == 0 { share } else { share / 2 };
    layout.load().iter().map(|(node, load)| (*node, least(*load))).collect()
}

/// How the voters of one shard change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// The nodes that get a replica, in the order in which the target names them. Each costs a copy
    /// of the shard.
    pub added: Vec<NodeId>,
    /// The nodes that give their replica up, in the order in which the current placement names
    /// them.
    pub removed: Vec<NodeId>,
}

/// What has to change to get from `current` to `target`: the groups whose voters differ, in order.
/// A group that one of the two does not name has no voters there; the order of voters is no
/// difference.
pub fn moves(current: &[(ShardId, Vec<NodeId>)], target: &[(ShardId, Vec<NodeId>)]) -> Vec<Move> {
    let voters_of = |placement: &[(ShardId, Vec<NodeId>)]| -> BTreeMap<_, _> {
        placement.iter().cloned().collect()
    };
    let (current, target) = (voters_of(current), voters_of(target));
    let none = Vec::new();
    let shards: BTreeSet<_> = current.keys().chain(target.keys()).copied().collect();
    let changes = shards.into_iter().map(|shard| {
        let (old, new) =
            (current.get(&shard).unwrap_or(&none), target.get(&shard).unwrap_or(&none));
        Move { shard, added: missing_in(old, new), removed: missing_in(new, old) }
    });
    changes.filter(|change| !(change.added.is_empty() && change.removed.is_empty())).collect()
}

fn missing_in(here: &[NodeId], nodes: &[NodeId]) -> Vec<NodeId> {
    nodes.iter().copied().filter(|node| !here.contains(node)).collect()
}
