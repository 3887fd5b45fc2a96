//! Which voter of each group should lead, so that all nodes lead about as many.
//!
//! This is an assignment of groups to their voters, a *semi-matching*, and the most even one is
//! found as in Harvey, Ladner, Lovász and Tamir, 2003: as long as some node leads at least two
//! groups more than another, and leaderships can be passed on from the one to the other (over
//! nodes between them that take one and give one), they are. When no such path is left, no
//! assignment is more even.
//!
//! Each path is a shortest one, so few leaders change; that no choice as even changes fewer is not
//! promised.
//!
//! What this leaves out: load is counted in groups, not in requests; and how a leadership gets
//! there. The result is a preference, and whoever leads meanwhile is as good for safety.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::id::NodeId;

/// Who can lead a group, and who does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The nodes that can.
    pub voters: Vec<NodeId>,
    /// The preferred leader so far, or the one there is. Counts only if it is a voter.
    pub leader: Option<NodeId>,
}

/// The preferred leader of each group, in the order of `groups`; `None` only without voters.
///
/// A pure function:
///
/// - The counts of leaderships are as even as the voters allow: no other choice has a smaller
///   maximum, nor a smaller sum of squares.
/// - A leader changes only on a way from a node that leads at least two groups more than another.
/// - With the result as the leaders so far, nothing changes.
pub fn spread_leaders(groups: &[Leadership]) -> Vec<Option<NodeId>> {
    let mut spread = Spread::new(groups);
    spread.assign();
    while spread.improve() {}
    spread.leaders
}

struct Spread<'a> {
    groups: &'a [Leadership],
    leaders: Vec<Option<NodeId>>,
    /// Count of groups that each voter of any group leads.
    load: BTreeMap<NodeId, usize>,
}

/// How a node can be relieved of a leadership: it gives this group's to that node.
struct Handover {
    group: usize,
    from: NodeId,
}

impl<'a> Spread<'a> {
    fn new(groups: &'a [Leadership]) -> Self {
        let valid = |group: &Leadership| group.leader.filter(|node| group.voters.contains(node));
        let leaders: Vec<_> = groups.iter().map(valid).collect();
        let voters = groups.iter().flat_map(|group| &group.voters);
        let mut load: BTreeMap<_, _> = voters.map(|voter| (*voter, 0)).collect();
        for leader in leaders.iter().flatten() {
            *load.entry(*leader).or_default() += 1;
        }
        Self { groups, leaders, load }
    }

    /// Gives each group without a leader the voter that leads least; ties by order of preference.
    fn assign(&mut self) {
        for at in 0..self.groups.len() {
            if self.leaders[at].is_none() {
                let voters = self.groups[at].voters.iter();
                if let Some(voter) = voters.min_by_key(|voter| self.load[voter]) {
                    self.lead(at, *voter);
                }
            }
        }
    }

    /// Makes the counts of two nodes more equal, the most loaded node that can be relieved first.
    fn improve(&mut self) -> bool {
        let mut loaded: Vec<_> = self.load.iter().map(|(node, load)| (*load, *node)).collect();
        loaded.sort_unstable_by_key(|(load, node)| (core::cmp::Reverse(*load), *node));
        let least = loaded.last().map_or(0, |(load, _)| *load);
        loaded.into_iter().any(|(load, node)| load >= least + 2 && self.relieve(node))
    }

    /// Passes a leadership on from `node` to the nearest of the least loaded nodes that can be
    /// reached, if that leads at least two less.
    fn relieve(&mut self, node: NodeId) -> bool {
        let (order, from) = self.reachable(node);
        let Some(least) = order.into_iter().min_by_key(|node| self.load[node]) else {
            return false;
        };
        if self.load[&least] + 2 > self.load[&node] {
            return false;
        }
        let mut to = least;
        while to != node {
            let handover = &from[&to];
            self.lead(handover.group, to);
            to = handover.from;
        }
        true
    }

    /// The nodes to which leaderships can be passed on from `node`, the nearest first, and which
    /// handover leads to each.
    fn reachable(&self, node: NodeId) -> (Vec<NodeId>, BTreeMap<NodeId, Handover>) {
        let (mut order, mut from) = (Vec::new(), BTreeMap::new());
        let mut queue = VecDeque::from([node]);
        while let Some(giver) = queue.pop_front() {
            for (group, _) in self.leaders.iter().enumerate().filter(|(_, l)| **l == Some(giver)) {
                for taker in &self.groups[group].voters {
                    if *taker != node && !from.contains_key(taker) {
                        from.insert(*taker, Handover { group, from: giver });
                        order.push(*taker);
                        queue.push_back(*taker);
                    }
                }
            }
        }
        (order, from)
    }

    fn lead(&mut self, group: usize, node: NodeId) {
        if let Some(before) = self.leaders[group].replace(node) {
            self.change(before, |load| load - 1);
        }
        self.change(node, |load| load + 1);
    }

    fn change(&mut self, node: NodeId, change: impl Fn(usize) -> usize) {
        let load = self.load.get_mut(&node).expect("only voters lead");
        *load = change(*load);
    }
}
