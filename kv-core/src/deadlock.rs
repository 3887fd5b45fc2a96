//! Deadlocks: who has to give up so that all others get on.
//!
//! Lock tables tell who waits for whom ([`LockTable::edges`](crate::locks::LockTable::edges)).
//! Owners on a cycle of that graph wait for ever, unless one of them, the *victim*, gives up its
//! locks.
//!
//! The graph falls into *strongly connected components*, within which everybody waits for everybody
//! over some others; no cycle leaves one. In each, a shortest cycle is broken, since it leaves the
//! least choice of a victim, and what is left of the component is looked at in the same way, until
//! there is no cycle. The victim is the youngest on its cycle: it has done the least work, and as it
//! keeps its age when it tries again, it gets old enough to be spared.
//!
//! Components are found by two searches (Kosaraju and Sharir), in linear time: most waits are no
//! deadlock, and that is all they cost. A shortest cycle is found by a breadth-first search from
//! each node of a component in turn.
//!
//! **What this leaves out:** the smallest set of victims, which is hard to find (feedback vertex
//! set); whether the edges were ever true at the same time, which the caller has to confirm.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// The most edges that are looked at: those of two keys with as many waiters as there may be. The
/// others are left for the next time.
pub const EDGES_MAX: usize = 16_384;
/// The most cycles that are found at a time. Their victims give up, and then the next ones are found.
pub const CYCLES_MAX: usize = 64;

/// Owners that wait for each other, and the one that has to give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle<O> {
    /// All of them: each waits for the next one, the last for the first. The victim is the first.
    pub members: Vec<O>,
    /// The youngest of them.
    pub victim: O,
}

/// Finds who has to give up for all cycles to be gone, and which cycle each of them is on. It
/// stops at [`CYCLES_MAX`].
///
/// An edge leads from a waiter to whom it waits for. The youngest is who has the largest `age`,
/// which is a point in time, and of those the largest id.
pub fn find_victims<O: Copy + Ord, A: Ord>(
    edges: impl IntoIterator<Item = (O, O)>,
    age: impl Fn(O) -> A,
) -> Vec<Cycle<O>> {
    let graph = WaitForGraph::new(edges.into_iter().take(EDGES_MAX));
    let mut pending = graph.components();
    let mut cycles = Vec::new();
    while let Some(mut component) = pending.pop_front() {
        let mut members = component.shortest_cycle();
        let youngest = (0..members.len()).max_by_key(|&at| (age(members[at]), members[at]));
        members.rotate_left(youngest.expect("a cycle has members"));
        let victim = members[0];
        component.remove(victim);
        pending.append(&mut component.components());
        cycles.push(Cycle { members, victim });
        if cycles.len() == CYCLES_MAX {
            break;
        }
    }
    cycles
}

/// Who waits for whom.
///
/// - Both maps have the same edges, and every node of an edge.
/// - Nobody waits for itself.
#[derive(Clone)]
struct WaitForGraph<O> {
    /// For whom each node waits.
    waits_for: BTreeMap<O, BTreeSet<O>>,
    /// Who waits for each node.
    waited_for_by: BTreeMap<O, BTreeSet<O>>,
}

impl<O: Copy + Ord> WaitForGraph<O> {
    fn new(edges: impl Iterator<Item = (O, O)>) -> Self {
        let mut graph = Self { waits_for: BTreeMap::new(), waited_for_by: BTreeMap::new() };
        for (waiter, holder) in edges.filter(|(waiter, holder)| waiter != holder) {
            for node in [waiter, holder] {
                graph.waits_for.entry(node).or_default();
                graph.waited_for_by.entry(node).or_default();
            }
            graph.waits_for.entry(waiter).or_default().insert(holder);
            graph.waited_for_by.entry(holder).or_default().insert(waiter);
        }
        graph
    }

    /// Removes a node with its edges, and returns its neighbours.
    fn remove(&mut self, node: O) -> BTreeSet<O> {
        let mut holders = self.waits_for.remove(&node).unwrap_or_default();
        let mut waiters = self.waited_for_by.remove(&node).unwrap_or_default();
        for holder in &holders {
            self.waited_for_by.entry(*holder).or_default().remove(&node);
        }
        for waiter in &waiters {
            self.waits_for.entry(*waiter).or_default().remove(&node);
        }
        holders.append(&mut waiters);
        holders
    }

    /// The strongly connected components that have a cycle, each a graph of its own.
    fn components(&self) -> VecDeque<Self> {
        let mut components = VecDeque::new();
        let mut left: BTreeSet<O> = self.waits_for.keys().copied().collect();
        for last in self.finish_order().into_iter().rev() {
            // Whoever is left finished before `last`. If it waits for `last` too, it was found while
            // the search was at `last`, and so `last` waits for it.
            let members = take_reachable(&mut left, &self.waited_for_by, last);
            if members.len() > 1 {
                components.push_back(self.only(&members));
            }
        }
        components
    }

    /// All nodes, each after those that it waits for, but for cycles.
    fn finish_order(&self) -> Vec<O> {
        let mut finished = Vec::new();
        let mut seen = BTreeSet::new();
        for root in self.waits_for.keys() {
            if !seen.insert(*root) {
                continue;
            }
            let mut trail = Vec::from([(*root, self.waits_for[root].iter())]);
            while let Some((node, holders)) = trail.last_mut() {
                match holders.find(|holder| seen.insert(**holder)) {
                    Some(holder) => trail.push((*holder, self.waits_for[holder].iter())),
                    None => {
                        finished.push(*node);
                        trail.pop();
                    }
                }
            }
        }
        finished
    }

    /// The part of the graph that has only these nodes.
    fn only(&self, nodes: &BTreeSet<O>) -> Self {
        let part = |edges: &BTreeMap<O, BTreeSet<O>>| {
            nodes.iter().map(|node| (*node, &edges[node] & nodes)).collect()
        };
        Self { waits_for: part(&self.waits_for), waited_for_by: part(&self.waited_for_by) }
    }

    /// A shortest cycle of this component.
    fn shortest_cycle(&self) -> Vec<O> {
        let mut shortest: Option<Vec<O>> = None;
        let mut left = self.clone();
        while let Some(root) = left.waits_for.keys().next().copied() {
            let length_max = shortest.as_ref().map_or(usize::MAX, |cycle| cycle.len() - 1);
            // Nobody waits for itself, so none is shorter than two.
            if length_max < 2 {
                break;
            }
            shortest = left.cycle_through(root, length_max).or(shortest);
            left.remove_and_trim(root);
        }
        shortest.expect("a component has a cycle")
    }

    /// Removes a node, and then all that are on no cycle since they lack edges in or edges out.
    fn remove_and_trim(&mut self, node: O) {
        let is_end = |edges: Option<&BTreeSet<O>>| edges.is_some_and(BTreeSet::is_empty);
        let mut suspects = self.remove(node);
        while let Some(node) = suspects.pop_first() {
            if is_end(self.waits_for.get(&node)) || is_end(self.waited_for_by.get(&node)) {
                suspects.append(&mut self.remove(node));
            }
        }
    }

    /// A shortest cycle that `root` is on, if it has at most `length_max` members.
    fn cycle_through(&self, root: O, length_max: usize) -> Option<Vec<O>> {
        let mut came_from: BTreeMap<O, O> = BTreeMap::new();
        let mut reached = VecDeque::from([(root, 1)]);
        while let Some((node, length)) = reached.pop_front() {
            if length > length_max {
                return None;
            }
            let holders = &self.waits_for[&node];
            if holders.contains(&root) {
                return Some(path(&came_from, root, node));
            }
            for holder in holders {
                if !came_from.contains_key(holder) {
                    came_from.insert(*holder, node);
                    reached.push_back((*holder, length + 1));
                }
            }
        }
        None
    }
}

/// Takes a node out of `left`, and all nodes in it that edges lead to from there.
fn take_reachable<O: Copy + Ord>(
    left: &mut BTreeSet<O>,
    edges: &BTreeMap<O, BTreeSet<O>>,
    from: O,
) -> BTreeSet<O> {
    let mut reached = BTreeSet::new();
    let mut pending = Vec::from([from]);
    while let Some(node) = pending.pop() {
        if left.remove(&node) {
            reached.insert(node);
            pending.extend(&edges[&node]);
        }
    }
    reached
}

/// The nodes from `first` to `last` by which the latter was reached.
fn path<O: Copy + Ord>(came_from: &BTreeMap<O, O>, first: O, last: O) -> Vec<O> {
    let mut nodes = Vec::from([last]);
    let mut node = last;
    while node != first {
        node = came_from[&node];
        nodes.push(node);
    }
    nodes.reverse();
    nodes
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    /// The victims among owners that are the younger, the larger their id is.
    fn cycles(edges: &[(u8, u8)]) -> Vec<Vec<u8>> {
        find_victims(edges.iter().copied(), |_| 0).into_iter().map(|c| c.members).collect()
    }

    #[test]
    fn the_youngest_of_a_cycle_is_its_victim() {
        let ages = [30, 10, 20];
        let found = find_victims([(0, 1), (1, 2), (2, 0)], |owner: usize| ages[owner]);
        assert_eq!(found, [Cycle { members: vec![0, 1, 2], victim: 0 }]);
        assert_eq!(cycles(&[(0, 1), (1, 2), (2, 0)]), [[2, 0, 1]]);
    }

    #[test]
    fn a_shortest_cycle_is_broken_first_and_may_break_others() {
        // 3 is on both cycles; 4 is younger, but spared.
        assert_eq!(cycles(&[(1, 2), (2, 4), (4, 3), (3, 1), (3, 2), (2, 3)]), [[3, 2]]);
    }

    #[test]
    fn each_component_has_its_victim() {
        let edges = [(1, 2), (2, 1), (2, 3), (3, 4), (4, 5), (5, 3), (5, 6)];
        assert_eq!(cycles(&edges), [vec![2, 1], vec![5, 3, 4]]);
    }

    #[test]
    fn nobody_waits_for_itself() {
        assert!(cycles(&[(1, 1)]).is_empty());
        assert_eq!(cycles(&[(1, 1), (1, 2), (2, 1)]), [[2, 1]]);
    }

    #[test]
    fn edges_beyond_the_bound_are_left_for_later() {
        let last = u32::try_from(EDGES_MAX).unwrap();
        let ring = |length: u32| (0..length).map(move |at| (at, (at + 1) % length));
        let found = find_victims(ring(last), |owner| owner);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].members.len(), EDGES_MAX);
        assert!(find_victims(ring(last + 1), |owner| owner).is_empty());
    }

    #[test]
    fn cycles_beyond_the_bound_are_left_for_later() {
        let pairs = (0..100).flat_map(|at| [(2 * at, 2 * at + 1), (2 * at + 1, 2 * at)]);
        assert_eq!(find_victims(pairs, |owner: i32| owner).len(), CYCLES_MAX);
    }

    /// The lengths of shortest paths between all nodes, itself included (Floyd and Warshall).
    fn path_lengths(edges: &[(u8, u8)]) -> BTreeMap<(u8, u8), usize> {
        let nodes: BTreeSet<u8> = edges.iter().flat_map(|(from, to)| [*from, *to]).collect();
        let mut lengths: BTreeMap<(u8, u8), usize> = BTreeMap::new();
        lengths.extend(edges.iter().filter(|(from, to)| from != to).map(|edge| (*edge, 1)));
        for via in &nodes {
            for from in &nodes {
                for to in &nodes {
                    let Some(first) = lengths.get(&(*from, *via)) else { continue };
                    let Some(second) = lengths.get(&(*via, *to)) else { continue };
                    let length = first + second;
                    let shortest = lengths.entry((*from, *to)).or_insert(length);
                    *shortest = length.min(*shortest);
                }
            }
        }
        lengths
    }

    /// The length of a shortest cycle among those that are connected with a node both ways.
    fn shortest_length(edges: &[(u8, u8)], member: u8) -> Option<usize> {
        let lengths = path_lengths(edges);
        let is_near =
            |node| lengths.contains_key(&(member, node)) && lengths.contains_key(&(node, member));
        let round = lengths.iter().filter(|((from, to), _)| from == to && is_near(*from));
        round.map(|(_, length)| *length).min()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

        #[test]
        fn victims_are_as_few_as_the_rule_allows_and_leave_no_cycle(
            edges in prop::collection::vec((0_u8..10, 0_u8..10), 0..24),
            ages in prop::collection::vec(0_u8..4, 10),
        ) {
            let age = |owner: u8| ages[usize::from(owner)];
            let mut left = edges.clone();
            for Cycle { members, victim } in find_victims(edges, age) {
                prop_assert_eq!(Some(members.len()), shortest_length(&left, victim));
                let next = members.iter().cycle().skip(1);
                for edge in members.iter().copied().zip(next.copied()) {
                    prop_assert!(left.contains(&edge), "{:?} is not in {:?}", edge, left);
                }
                let youngest = members.iter().copied().max_by_key(|member| (age(*member), *member));
                prop_assert_eq!(Some(victim), youngest);
                prop_assert_eq!(members[0], victim);
                left.retain(|(from, to)| *from != victim && *to != victim);
            }
            prop_assert!(path_lengths(&left).keys().all(|(from, to)| from != to), "{:?}", left);
        }
    }
}
