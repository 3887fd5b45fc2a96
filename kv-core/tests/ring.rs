//! The placement of shards over random histories of nodes that come and go: loads stay below the
//! bound, little moves, and leaders are spread.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::id::{NodeId, ShardId};
use kv_core::ring::{Leadership, Move, moves, place, rebalance, spread_leaders};
use kv_core::rng::Rng;

type Placement = Vec<(ShardId, Vec<NodeId>)>;

const NODES_MAX: usize = 100;
/// Changes of the set of nodes in one history.
const STEPS: usize = 6;

/// Count of random histories: the number that is promised with `KV_TEST_SCALE=full`.
fn history_count() -> u64 {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => 1_000,
        Ok(_) | Err(_) => 200,
    }
}

/// A cluster whose nodes come and go one by one.
struct History {
    rng: Rng,
    nodes: BTreeSet<NodeId>,
    shard_count: u32,
    replica_count: u32,
}

#[derive(Clone, Copy)]
enum Change {
    Add(NodeId),
    Remove,
}

impl History {
    /// Half of the histories are of few nodes, the others of up to 100; ids are small and dense in
    /// some, and large in others. There are at least 16 shards for each node at any time.
    fn new(seed: u64) -> Self {
        let mut rng = Rng::fork(seed, "history");
        let nodes_max = if rng.below(2) == 0 { 12 } else { NODES_MAX as u64 };
        let node_count = 1 + rng.below(nodes_max);
        let replica_count = [1, 3, 5, 7][draw(&mut rng, 4)];
        let peak = (node_count as usize + STEPS).min(NODES_MAX);
        let least = u32::try_from(16 * peak).expect("few nodes").next_power_of_two();
        let shard_count = (least << rng.below(2)).min(2_048);
        let mut history = Self { rng, nodes: BTreeSet::new(), shard_count, replica_count };
        while history.nodes.len() < node_count as usize {
            let id = history.fresh();
            history.nodes.insert(id);
        }
        history
    }

    /// An id that no node has; one that was removed may come back.
    fn fresh(&mut self) -> NodeId {
        let below = if self.replica_count > 4 { 1 << 40 } else { 150 };
        loop {
            let id = NodeId(1 + self.rng.below(below));
            if !self.nodes.contains(&id) {
                return id;
            }
        }
    }

    fn list(&self) -> Vec<NodeId> {
        self.nodes.iter().copied().collect()
    }

    /// Replicas that each shard can have.
    fn replicas(&self) -> usize {
        (self.replica_count as usize).min(self.nodes.len())
    }

    fn place(&self) -> Placement {
        place(&self.list(), self.shard_count, self.replica_count)
    }

    fn rebalance(&self, current: &Placement) -> Placement {
        rebalance(current, &self.list(), self.shard_count, self.replica_count)
    }

    /// One node comes or goes. Every third that goes is the most loaded one.
    fn step(&mut self, current: &Placement) -> Change {
        let grows = match self.nodes.len() {
            1 => true,
            NODES_MAX => false,
            _ => self.rng.below(2) == 0,
        };
        if grows {
            let id = self.fresh();
            self.nodes.insert(id);
            return Change::Add(id);
        }
        let load = load(current, &self.nodes);
        let nodes = self.list();
        let most = nodes.iter().copied().max_by_key(|node| load[node]).expect("there is a node");
        let any = nodes[draw(&mut self.rng, nodes.len())];
        let id = if self.rng.below(3) == 0 { most } else { any };
        self.nodes.remove(&id);
        Change::Remove
    }

    #[track_caller]
    fn check(&self, placement: &Placement) {
        let numbers = placement.iter().map(|(shard, _)| shard.0);
        assert!(numbers.eq(0..=self.shard_count), "every group is placed, in order");
        for (shard, voters) in placement {
            let distinct: BTreeSet<_> = voters.iter().collect();
            assert_eq!(distinct.len(), voters.len(), "{shard} has a voter twice");
            assert_eq!(voters.len(), self.replicas(), "{shard}");
            assert!(voters.iter().all(|voter| self.nodes.contains(voter)), "{shard}: {voters:?}");
        }
        let load = load(placement, &self.nodes);
        let total = self.shard_count as usize * self.replicas();
        let bound = (5 * total).div_ceil(4 * self.nodes.len());
        assert!(load.values().all(|load| *load <= bound), "{load:?} exceeds {bound}");
    }

    /// Nobody holds less than half a share, and a new node holds a whole one.
    #[track_caller]
    fn check_share(&self, change: Change, placement: &Placement) {
        let share = self.shard_count as usize * self.replicas() / self.nodes.len();
        let load = load(placement, &self.nodes);
        assert!(load.values().all(|load| *load >= share / 2), "{load:?}, share {share}");
        if let Change::Add(node) = change {
            assert_eq!(load[&node], share);
        }
    }
}

/// The meta group keeps the voters that are members.
#[track_caller]
fn check_meta(nodes: &BTreeSet<NodeId>, before: &Placement, after: &Placement) {
    let kept = before[0].1.iter().filter(|voter| nodes.contains(voter));
    let kept: Vec<_> = kept.collect();
    assert!(after[0].1.iter().zip(&kept).all(|(new, old)| new == *old), "{kept:?}");
    assert!(after[0].1.len() >= kept.len());
}

fn draw(rng: &mut Rng, below: usize) -> usize {
    usize::try_from(rng.below(below as u64)).expect("a usize fits")
}

fn load(placement: &Placement, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, usize> {
    let mut load: BTreeMap<_, _> = nodes.iter().map(|node| (*node, 0)).collect();
    let shards = placement.iter().filter(|(shard, _)| *shard != ShardId::META);
    for voter in shards.flat_map(|(_, voters)| voters) {
        *load.entry(*voter).or_default() += 1;
    }
    load
}

/// Replicas of user shards on nodes that did not hold the shard before.
fn moved(from: &Placement, to: &Placement) -> usize {
    let shards = moves(from, to).into_iter().filter(|change| change.shard != ShardId::META);
    shards.map(|change| change.added.len()).sum()
}

/// Movement in relation to the ideal, over many changes.
#[derive(Default, Debug)]
struct Movement {
    count: u32,
    sum: f64,
    max: f64,
}

impl Movement {
    #[expect(clippy::cast_precision_loss, reason = "counts of replicas are small")]
    fn record(&mut self, moved: usize, total: usize, node_count: usize) {
        let ratio = moved as f64 * node_count as f64 / total as f64;
        self.count += 1;
        self.sum += ratio;
        self.max = self.max.max(ratio);
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count)
    }
}

#[test]
fn every_first_placement_is_below_the_bound() {
    for seed in 0..history_count() {
        let history = History::new(seed);
        let placement = history.place();
        history.check(&placement);
    }
}

/// A replica moves if it comes to a node that did not hold the shard; ideally one share does, of
/// the larger of the two sets of nodes.
#[test]
fn changes_keep_the_bound_and_move_about_one_share() {
    let (mut added, mut removed) = (Movement::default(), Movement::default());
    for seed in 0..history_count() {
        let mut history = History::new(seed);
        let mut placement = history.place();
        for _ in 0..STEPS {
            let (nodes_before, replicas_before) = (history.nodes.len(), history.replicas());
            let change = history.step(&placement);
            let next = history.rebalance(&placement);
            history.check(&next);
            history.check_share(change, &next);
            check_meta(&history.nodes, &placement, &next);
            assert_eq!(history.rebalance(&next), next, "seed {seed}: asked again, it moves more");
            let moved = moved(&placement, &next);
            let total = history.shard_count as usize * history.replica_count as usize;
            let is_short = replicas_before.min(history.replicas()) < history.replica_count as usize;
            match change {
                Change::Add(_) if is_short => assert_eq!(moved, history.shard_count as usize),
                Change::Remove if is_short => assert_eq!(moved, 0, "all nodes hold all"),
                Change::Add(_) => added.record(moved, total, history.nodes.len()),
                Change::Remove => removed.record(moved, total, nodes_before),
            }
            placement = next;
        }
    }
    for movement in [&added, &removed] {
        assert!(movement.count > 400, "{movement:?}");
        assert!(movement.mean() <= 1.2, "{movement:?}");
        assert!(movement.max <= 2.0, "{movement:?}");
    }
}

/// The reason for `rebalance`: the walk alone, for 64 nodes with one replica of each of 1,024
/// shards, moves too much when a node goes.
#[test]
fn placing_anew_would_move_more_than_is_allowed() {
    let (mut anew, mut kept) = (Movement::default(), Movement::default());
    for seed in 0..40 {
        let mut rng = Rng::fork(seed, "anew");
        let mut nodes: Vec<_> = (0..64).map(|_| NodeId(1 + rng.below(1 << 40))).collect();
        let many = place(&nodes, 1_024, 1);
        nodes.pop();
        anew.record(moved(&many, &place(&nodes, 1_024, 1)), 1_024, 64);
        kept.record(moved(&many, &rebalance(&many, &nodes, 1_024, 1)), 1_024, 64);
    }
    assert!(anew.mean() > 1.2 && anew.max > 2.0, "{anew:?}");
    assert!(kept.mean() <= 1.2 && kept.max <= 1.3, "{kept:?}");
}

#[test]
fn nodes_that_join_together_get_a_share_each() {
    let nodes: Vec<_> = (1..=9).map(NodeId).collect();
    let before = place(&nodes[..6], 128, 3);
    let after = rebalance(&before, &nodes, 128, 3);
    let load = load(&after, &nodes.iter().copied().collect());
    assert!(nodes[6..].iter().all(|node| load[node] == 128 * 3 / 9), "{load:?}");
    assert_eq!(moved(&before, &after), 3 * (128 * 3 / 9), "nothing moves between the old ones");
}

/// Nobody is far too small here, so nobody asks for a share.
#[test]
fn a_node_above_the_bound_gives_what_is_too_much_to_the_least_loaded() {
    let nodes: Vec<_> = (1..=4).map(NodeId).collect();
    let holders = [(NodeId(1), 38), (NodeId(2), 8), (NodeId(3), 9), (NodeId(4), 9)];
    let holders = holders.iter().flat_map(|(node, count)| std::iter::repeat_n(vec![*node], *count));
    let before: Placement = (1..).map(ShardId).zip(holders).collect();
    let after = rebalance(&before, &nodes, 64, 1);
    let load = load(&after, &nodes.iter().copied().collect());
    // The bound is ceil(1.25 * 64 / 4), and the 18 that are too many make the others even.
    assert_eq!(load.into_values().collect::<Vec<_>>(), [20, 15, 15, 14]);
    assert_eq!(moved(&before, &after), 18);
    assert_eq!(rebalance(&after, &nodes, 64, 1), after);
}

#[test]
fn a_node_that_replaces_another_takes_its_share_and_nothing_else_moves() {
    let nodes: Vec<_> = (1..=7).map(NodeId).collect();
    let before = place(&nodes[..6], 128, 3);
    let after = rebalance(&before, &nodes[1..], 128, 3);
    let lost = load(&before, &nodes.iter().copied().collect())[&NodeId(1)];
    assert_eq!(moved(&before, &after), lost.max(128 * 3 / 6));
}

#[test]
fn rule_c64_more_replicas_than_nodes_put_every_shard_on_every_node() {
    let nodes: Vec<_> = (1..=5).map(NodeId).collect();
    let mut placement = place(&nodes[..2], 16, 5);
    for count in [3, 4, 5, 2, 1, 5] {
        placement = rebalance(&placement, &nodes[..count], 16, 5);
        for (shard, voters) in &placement {
            let mut voters = voters.clone();
            voters.sort_unstable();
            assert_eq!(voters, nodes[..count], "{shard}");
        }
    }
    assert_eq!(place(&nodes[..2], 16, 5)[1].1.len(), 2);
}

#[test]
fn neither_the_order_nor_foreign_entries_of_the_arguments_matter() {
    let nodes: Vec<_> = (1..=7).map(NodeId).collect();
    let before = place(&nodes[..6], 32, 3);
    let expected = rebalance(&before, &nodes, 32, 3);
    let mut reordered = before.clone();
    reordered.reverse();
    reordered.push((ShardId(99), vec![NodeId(1)]));
    for (_, voters) in &mut reordered {
        let first = voters[0];
        voters.extend([first, NodeId(77)]);
    }
    let mut reversed = nodes.clone();
    reversed.reverse();
    reversed.push(NodeId(7));
    assert_eq!(rebalance(&reordered, &reversed, 32, 3), expected);
    assert_eq!(place(&reversed, 32, 3), place(&nodes, 32, 3));
    let fewer = rebalance(&before, &nodes[..6], 32, 1);
    let firsts_stay = fewer[1..].iter().zip(&before[1..]).filter(|(new, old)| new.1[0] == old.1[0]);
    assert!(firsts_stay.count() > 16, "of more voters than replicas, the first are kept");
}

#[test]
fn moves_name_what_differs() {
    let placement = |voters: &[(u32, &[u64])]| -> Placement {
        let voters = voters.iter().map(|(shard, voters)| {
            (ShardId(*shard), voters.iter().map(|voter| NodeId(*voter)).collect())
        });
        voters.collect()
    };
    let current = placement(&[(0, &[1, 2]), (1, &[1, 2]), (2, &[3]), (4, &[1, 2])]);
    let target = placement(&[(0, &[2, 1]), (1, &[2, 3]), (3, &[4]), (4, &[1, 2])]);
    let change = |shard, added: &[u64], removed: &[u64]| Move {
        shard: ShardId(shard),
        added: added.iter().map(|node| NodeId(*node)).collect(),
        removed: removed.iter().map(|node| NodeId(*node)).collect(),
    };
    let expected = [change(1, &[3], &[1]), change(2, &[], &[3]), change(3, &[4], &[])];
    assert_eq!(moves(&current, &target), expected);
    assert_eq!(moves(&target, &target), []);
}

fn leaderships(placement: &Placement, leaders: &[Option<NodeId>]) -> Vec<Leadership> {
    let leaders = leaders.iter().copied().chain(std::iter::repeat(None));
    let groups = placement.iter().zip(leaders);
    groups.map(|((_, voters), leader)| Leadership { voters: voters.clone(), leader }).collect()
}

fn led(leaders: &[Option<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut led = BTreeMap::new();
    for leader in leaders.iter().flatten() {
        *led.entry(*leader).or_default() += 1;
    }
    led
}

#[test]
fn leaders_stay_even_while_nodes_come_and_go() {
    for seed in 0..history_count() / 4 {
        let mut history = History::new(seed);
        let mut placement = history.place();
        let mut leaders = Vec::new();
        for _ in 0..STEPS {
            let groups = leaderships(&placement, &leaders);
            leaders = spread_leaders(&groups);
            for (group, leader) in groups.iter().zip(&leaders) {
                assert!(group.voters.contains(&leader.unwrap()));
            }
            assert_eq!(spread_leaders(&leaderships(&placement, &leaders)), leaders);
            let led = led(&leaders);
            if history.replicas() > 1 {
                assert_eq!(led.len(), history.nodes.len(), "everybody leads something");
                let (most, least) = (led.values().max().unwrap(), led.values().min().unwrap());
                assert!(most - least <= 1, "seed {seed}: {led:?}");
            }
            history.step(&placement);
            placement = history.rebalance(&placement);
        }
    }
}

/// Sum of squares of the counts, and count of leaders that change: less is better, in this order.
fn cost(groups: &[Leadership], leaders: &[Option<NodeId>]) -> (usize, usize) {
    let squares = led(leaders).values().map(|count| count * count).sum();
    let pairs = groups.iter().zip(leaders);
    (squares, pairs.filter(|(group, leader)| group.leader != **leader).count())
}

fn best_cost(groups: &[Leadership], chosen: &mut Vec<Option<NodeId>>) -> (usize, usize) {
    let Some(group) = groups.get(chosen.len()) else {
        return cost(groups, chosen);
    };
    let costs = group.voters.iter().map(|voter| {
        chosen.push(Some(*voter));
        let cost = best_cost(groups, chosen);
        chosen.pop();
        cost
    });
    costs.min().expect("every group has a voter")
}

#[test]
fn leaders_are_as_even_as_the_best_of_all_choices() {
    let (mut least_changes, mut surplus) = (0, 0);
    for seed in 0..400 {
        let mut rng = Rng::fork(seed, "leaders");
        let groups: Vec<_> = (0..2 + rng.below(5))
            .map(|_| {
                let mut voters: Vec<_> = (1..=5).map(NodeId).collect();
                while voters.len() > 3 || (voters.len() > 1 && rng.below(2) == 0) {
                    voters.remove(draw(&mut rng, voters.len()));
                }
                let leader = voters[draw(&mut rng, voters.len().div_ceil(2))];
                Leadership { voters, leader: (rng.below(4) > 0).then_some(leader) }
            })
            .collect();
        let (squares, changed) = cost(&groups, &spread_leaders(&groups));
        let best = best_cost(&groups, &mut Vec::new());
        assert_eq!(squares, best.0, "seed {seed}: {groups:?}");
        least_changes += best.1;
        surplus += changed - best.1;
    }
    assert!(surplus * 20 <= least_changes, "{surplus} changes beyond {least_changes}");
}

#[test]
fn only_the_leaders_of_overloaded_nodes_change() {
    let voters: Vec<_> = (1..=3).map(NodeId).collect();
    let group = |leader| Leadership { voters: voters.clone(), leader: Some(NodeId(leader)) };
    let groups: Vec<_> = [1, 1, 1, 1, 2, 2, 3].map(group).into();
    let leaders = spread_leaders(&groups).into_iter().map(|leader| leader.unwrap().0);
    assert_eq!(leaders.collect::<Vec<_>>(), [3, 1, 1, 1, 2, 2, 3]);
    let none = Leadership { voters: Vec::new(), leader: Some(NodeId(1)) };
    assert_eq!(spread_leaders(&[none]), [None], "a leader that is no voter does not count");
}
