//! A placement in the making: who holds what, how much everybody holds, and the steps that both
//! the first placement and every later one are made of.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::walk::{self, Ring};
use crate::id::{NodeId, ShardId};

/// The replicas of shards `1..=Q` on a set of nodes.
///
/// - The voters of a shard are distinct and members.
/// - `load` has an entry for every member, and counts what `voters` says.
pub(super) struct Layout {
    ring: Ring,
    /// Voters of shard `1 + i`, those that it had before first.
    voters: Vec<Vec<NodeId>>,
    /// Count of replicas on each member.
    load: BTreeMap<NodeId, usize>,
    /// What each shard shall have: R, or all nodes if there are fewer.
    replica_count: usize,
}

impl Layout {
    /// Nothing placed yet.
    pub(super) fn new(nodes: &BTreeSet<NodeId>, shard_count: u32, replica_count: u32) -> Self {
        Self {
            ring: Ring::new(nodes),
            voters: (0..shard_count).map(|_| Vec::new()).collect(),
            load: nodes.iter().map(|node| (*node, 0)).collect(),
            replica_count: (replica_count as usize).min(nodes.len()),
        }
    }

    /// Takes the voters of `shard` that are members, without repetition. If there are more than a
    /// shard shall have, the first of them.
    pub(super) fn keep(&mut self, shard: ShardId, voters: &[NodeId]) {
        for voter in voters {
            let is_new = self.load.contains_key(voter) && !self.voters(shard).contains(voter);
            if is_new && self.voters(shard).len() < self.replica_count {
                self.add(shard, *voter);
            }
        }
    }

    /// Gives every shard the replicas that it lacks.
    ///
    /// The first nodes on its walk get them that hold less than `wanted` says; then the first that
    /// are below the bound; and if there are none, the least loaded of the others, ties by node id.
    pub(super) fn fill(&mut self, wanted: &BTreeMap<NodeId, usize>) {
        for shard in self.shards() {
            while self.voters(shard).len() < self.replica_count {
                let node = self.next_on_walk(shard, wanted);
                self.add(shard, node);
            }
        }
    }

    fn next_on_walk(&self, shard: ShardId, wanted: &BTreeMap<NodeId, usize>) -> NodeId {
        let bound = self.bound();
        let is_free = |node: &NodeId| !self.voters(shard).contains(node);
        let is_wanting =
            wanted.iter().any(|(node, wanted)| is_free(node) && self.load[node] < *wanted);
        let wanting = is_wanting
            .then(|| self.ring.walk(shard).filter(is_free))
            .and_then(|mut walk| walk.find(|node| self.load[node] < wanted[node]));
        let below = || self.ring.walk(shard).filter(is_free).find(|node| self.load[node] < bound);
        let least = || self.load.keys().copied().filter(is_free).min_by_key(|node| self.load[node]);
        wanting.or_else(below).or_else(least).expect("a shard has at most as many voters as nodes")
    }

    /// Brings every node to what it is wanted to hold; the most loaded give.
    ///
    /// Nobody may be wanted to hold more than the fair share, so whoever gives keeps it.
    pub(super) fn pull(&mut self, wanted: &BTreeMap<NodeId, usize>) {
        for (node, wanted) in wanted {
            if self.load[node] < *wanted {
                let mut order = self.soonest_first(*node);
                while self.load[node] < *wanted {
                    self.transfer(self.most_loaded(), *node, &mut order);
                }
            }
        }
    }

    /// Relieves the nodes that are above the bound; the least loaded take.
    pub(super) fn shed(&mut self) {
        while self.load.values().any(|load| *load > self.bound()) {
            let to = self.least_loaded();
            let mut order = self.soonest_first(to);
            self.transfer(self.most_loaded(), to, &mut order);
        }
    }

    /// Moves one replica between two nodes: of the shards that `from` holds and `to` does not, the
    /// one whose walk meets `to` soonest.
    fn transfer(&mut self, from: NodeId, to: NodeId, order: &mut Vec<ShardId>) {
        assert!(self.load[&from] > self.load[&to], "a replica moves from the fuller node");
        let is_movable = |shard: &ShardId| {
            let voters = self.voters(*shard);
            voters.contains(&from) && !voters.contains(&to)
        };
        let at = order.iter().position(is_movable);
        let shard = order.remove(at.expect("who holds more holds something that the other lacks"));
        self.voters[index(shard)].retain(|voter| *voter != from);
        self.count(from, |load| load - 1);
        self.add(shard, to);
    }

    fn soonest_first(&self, node: NodeId) -> Vec<ShardId> {
        walk::soonest_first(node, self.shards()).collect()
    }

    fn add(&mut self, shard: ShardId, node: NodeId) {
        self.voters[index(shard)].push(node);
        self.count(node, |load| load + 1);
    }

    fn count(&mut self, node: NodeId, change: impl Fn(usize) -> usize) {
        let load = self.load.get_mut(&node).expect("only members hold replicas");
        *load = change(*load);
    }

    /// Ties go to the lower id.
    fn most_loaded(&self) -> NodeId {
        let by_load = |(node, load): &(&NodeId, &usize)| (**load, core::cmp::Reverse(**node));
        self.load.iter().max_by_key(by_load).map(|(node, _)| *node).expect("there is a node")
    }

    /// Ties go to the lower id.
    fn least_loaded(&self) -> NodeId {
        let by_load = |(_, load): &(&NodeId, &usize)| **load;
        self.load.iter().min_by_key(by_load).map(|(node, _)| *node).expect("there is a node")
    }

    /// Count of replicas on each member.
    pub(super) fn load(&self) -> &BTreeMap<NodeId, usize> {
        &self.load
    }

    /// What each node would hold if all held the same, rounded down.
    pub(super) fn fair_share(&self) -> usize {
        self.voters.len() * self.replica_count / self.load.len().max(1)
    }

    /// The most that a node may hold: a quarter more than the fair share, rounded up.
    fn bound(&self) -> usize {
        load_bound(self.voters.len(), self.replica_count, self.load.len())
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..=u32::try_from(self.voters.len()).unwrap_or(u32::MAX)).map(ShardId)
    }

    fn voters(&self, shard: ShardId) -> &[NodeId] {
        &self.voters[index(shard)]
    }

    /// The voters of the meta group: those of `current` that are members, then the next on its
    /// walk. It counts towards nobody's load: it is not one of the Q equal shards.
    fn meta(&self, current: &[NodeId]) -> Vec<NodeId> {
        let mut voters = Vec::with_capacity(self.replica_count);
        let members = current.iter().copied().filter(|node| self.load.contains_key(node));
        for node in members.chain(self.ring.walk(ShardId::META)) {
            if voters.len() < self.replica_count && !voters.contains(&node) {
                voters.push(node);
            }
        }
        voters
    }

    /// All groups in order; the meta group keeps what it can of `meta`.
    pub(super) fn into_placement(self, meta: &[NodeId]) -> Vec<(ShardId, Vec<NodeId>)> {
        let meta = (ShardId::META, self.meta(meta));
        let shards = self.shards().zip(self.voters);
        core::iter::once(meta).chain(shards).collect()
    }
}

fn index(shard: ShardId) -> usize {
    shard.0 as usize - 1
}

/// `ceil(1.25 * shards * replicas / nodes)`.
pub(super) fn load_bound(shards: usize, replicas: usize, nodes: usize) -> usize {
    (5 * shards * replicas).div_ceil(4 * nodes.max(1))
}
