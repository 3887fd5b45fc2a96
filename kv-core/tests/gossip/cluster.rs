//! Fifty nodes: finding each other, noticing a crash, traffic, partitions.

use std::time::Duration;

use kv_core::gossip::{Entry, GossipMessage, MemberState, Update};
use kv_core::id::{Generation, NodeId};

use crate::network::{Network, scale};

/// Nodes of a full cluster.
const COUNT: u64 = 50;

const ALIVE: Option<Option<MemberState>> = Some(Some(MemberState::Alive));
const SUSPECT: Option<Option<MemberState>> = Some(Some(MemberState::Suspect));
const DOWN: Option<Option<MemberState>> = Some(Some(MemberState::Down));

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn one_seed_is_enough_to_find_all() {
    for seed in 0..scale(10, 100) {
        let mut network = Network::new(seed);
        (1..=COUNT).for_each(|node| network.start(node));
        let took = network.run_until_all(seconds(5), Network::are_all_alive);
        assert!(took.is_some(), "seed {seed}: not all have found all");
    }
}

/// One message in ten is lost; a node joins, and later one crashes.
#[test]
fn within_5_seconds_and_with_loss_all_agree_on_a_join_and_all_suspect_a_crashed_node() {
    let (mut joins, mut suspicions) = (vec![], vec![]);
    for seed in 0..scale(20, 200) {
        let mut network = Network::settled(seed, COUNT - 1);
        network.loss_per_mille = 100;
        network.start(COUNT);
        let took = network.run_until_all(seconds(5), |network| {
            network.agreed(COUNT) == ALIVE && network.node(COUNT).members(network.now).count() == 49
        });
        joins.push(took.unwrap_or_else(|| panic!("seed {seed}: no agreement on the join")));
        // The crash comes at any time between two heartbeats, of an old or of a new member.
        network.run(seconds(10) + Duration::from_millis(seed * 37));
        let crashed = if seed.is_multiple_of(4) { COUNT } else { 2 + seed % 40 };
        network.crash(crashed);
        let took = network.run_until_all(seconds(5), |network| network.agreed(crashed) == SUSPECT);
        suspicions.push(took.unwrap_or_else(|| panic!("seed {seed}: not all suspect it")));
    }
    joins.sort();
    suspicions.sort();
    let summary = |times: &[Duration]| (times[times.len() / 2], times[times.len() - 1]);
    println!("median and most: {:?} join, {:?} crash", summary(&joins), summary(&suspicions));
}

#[test]
fn without_loss_nobody_is_suspected_falsely() {
    for seed in 0..scale(1, 3) {
        let mut network = Network::settled(100 + seed, COUNT);
        let begin = network.now;
        // What is counted elsewhere costs most of the time.
        network.is_counting = false;
        network.run(seconds(scale(300, 3_600)));
        assert_eq!(network.accusations(begin).len(), 0, "{:?}", network.accusations(begin).first());
        network.assert_all_alive();
    }
}

/// With the frames around the messages, and while the load of every node changes all the time.
#[test]
fn a_node_sends_at_most_2_kib_per_second() {
    let mut network = Network::settled(7, COUNT);
    // So long that the numbers in the messages have grown, in the full test to that of ten hours.
    network.is_counting = false;
    for minute in 1..=scale(5, 600) {
        for node in 1..=COUNT {
            network.set_load(node, minute);
        }
        network.run(seconds(60));
    }
    network.is_counting = true;
    network.sent_bytes.clear();
    for second in 0..60 {
        for node in 1..=COUNT {
            network.set_load(node, 1_000_000 * second);
        }
        network.run(seconds(1));
    }
    let most = network.sent_bytes.values().max().expect("all send") / 60;
    println!("at most {most} bytes per node and second");
    assert!(most <= 2_048, "{most} bytes per second");
    assert!(most >= 500, "{most} bytes per second: what is measured?");
}

/// For 30 s neither half hears the other; then all forgive.
#[test]
fn rule_c59_after_a_partition_all_agree_that_all_are_alive() {
    for seed in 0..scale(5, 50) {
        let mut network = Network::settled(seed, COUNT);
        network.partition(1..=COUNT / 2);
        network.run(seconds(30));
        let seen = |by: u64, of: u64| network.node(by).state(NodeId(of));
        assert_eq!(seen(1, COUNT), Some(MemberState::Down));
        assert_eq!(seen(COUNT, 1), Some(MemberState::Down));
        assert_eq!(seen(1, 2), Some(MemberState::Alive));
        network.heal();
        let took = network.run_until_all(seconds(5), Network::are_all_alive);
        assert!(took.is_some(), "seed {seed}: still at odds");
        let healed = network.now;
        network.run(seconds(60));
        assert_eq!(network.accusations(healed).len(), 0, "seed {seed}: at odds again");
    }
}

/// Somebody says good-bye in the name of a node that stays. No heartbeat outdoes that.
#[test]
fn rule_c59_a_false_farewell_is_refuted_in_a_new_generation() {
    let mut network = Network::settled(3, COUNT);
    let state = MemberState::Left;
    network.act(1, |gossip, now| {
        let known = gossip.member(now, NodeId(4)).expect("a member");
        let (node, generation, heartbeat) = (known.node, known.generation, known.heartbeat);
        let lie = Entry { node, generation, state, heartbeat };
        let update = Update { entries: vec![lie], deltas: vec![] };
        gossip.handle(now, NodeId(2), GossipMessage::Update(update));
        assert_eq!(gossip.state(NodeId(4)), Some(state));
    });
    let took = network.run_until_all(seconds(5), |network| {
        network.are_all_alive() && network.node(4).generation() == Generation(2)
    });
    assert!(took.is_some());
    let known = network.node(9).member(network.now, NodeId(4)).expect("a member");
    assert_eq!(known.generation, Generation(2));
}

/// The others know later heartbeats than a new process gives.
#[test]
fn rule_c59_a_restarted_node_outdoes_its_earlier_process() {
    let mut network = Network::settled(4, 10);
    network.crash(6);
    network.run(seconds(30));
    assert_eq!(network.agreed(6), DOWN);
    network.start(6);
    assert!(network.run_until_all(seconds(5), Network::are_all_alive).is_some());
    assert!(network.node(6).generation() > Generation(1));
    let begin = network.now;
    network.run(seconds(60));
    assert_eq!(network.accusations(begin).len(), 0);
}

/// A dead member is down for good, but nobody removes it, and it may come back.
#[test]
fn rule_c58_down_is_not_removed() {
    let mut network = Network::settled(5, 10);
    network.crash(6);
    network.run(seconds(900));
    assert_eq!(network.agreed(6), DOWN);
    for (id, gossip) in network.running() {
        assert_eq!(gossip.members(network.now).count(), 9, "{id} forgot a member");
    }
    network.start(6);
    assert!(network.run_until_all(seconds(5), Network::are_all_alive).is_some());
}

/// A node that hears nobody takes all others for down. It says so to its owner and draws no other
/// conclusion: it counts the same members, and gives itself no other state.
#[test]
fn rule_c57_a_lonely_node_only_hints() {
    let mut network = Network::settled(6, 5);
    network.partition([3]);
    network.run(seconds(60));
    let states: Vec<_> = network.node(3).members(network.now).map(|it| it.state).collect();
    assert_eq!(states, [MemberState::Down; 4]);
    assert_eq!(network.node(3).generation(), Generation(1));
    network.heal();
    assert!(network.run_until_all(seconds(5), Network::are_all_alive).is_some());
}

/// All forget a removed node but one, which still tells of it, as does the removed node itself.
#[test]
fn what_is_told_of_a_removed_node_does_not_bring_it_back() {
    let mut network = Network::settled(8, 10);
    let rest: Vec<_> = (1..=10).filter(|node| *node != 7).map(NodeId).collect();
    for node in (1..=10).filter(|node| ![2, 7].contains(node)) {
        network.act(node, |gossip, now| gossip.retain_members(now, &rest));
    }
    network.run(seconds(120));
    for (id, gossip) in network.running().filter(|(id, _)| ![2, 7].contains(&id.0)) {
        assert_eq!(gossip.state(NodeId(7)), None, "{id} took it back");
        assert_eq!(gossip.members(network.now).count(), 8, "{id}");
    }
    assert!(network.node(2).state(NodeId(7)).is_some(), "somebody still tells of it");
    // The owners take the node in again.
    let all: Vec<_> = (1..=10).map(NodeId).collect();
    for node in 1..=10 {
        network.act(node, |gossip, now| gossip.retain_members(now, &all));
    }
    assert!(network.run_until_all(seconds(15), Network::are_all_alive).is_some());
}

#[test]
fn who_leaves_is_not_suspected() {
    let mut network = Network::settled(9, 20);
    let begin = network.now;
    network.act(5, |gossip, _| gossip.leave());
    assert_eq!(network.node(5).poll_timeout(), None);
    let left = Some(Some(MemberState::Left));
    assert!(network.run_until_all(seconds(2), |network| network.agreed(5) == left).is_some());
    network.run(seconds(60));
    assert_eq!(network.agreed(5), left);
    let accused = network.accusations(begin);
    assert!(accused.iter().all(|it| it.state == MemberState::Left), "{accused:?}");
}

#[test]
fn what_a_node_tells_of_itself_reaches_all() {
    let mut network = Network::settled(10, 20);
    network.set_load(5, 4_711);
    network.act(5, |gossip, _| gossip.set_map_version(12));
    network.run(seconds(15));
    for (id, gossip) in network.running().filter(|(id, _)| id.0 != 5) {
        let known = gossip.member(network.now, NodeId(5)).expect("a member");
        assert_eq!((known.load.pending_bytes, known.map_version), (4_711, 12), "{id}");
        assert_eq!(known.endpoint.address.0, "10.0.0.5:7400");
        assert_eq!(known.release.protocol, 7);
    }
}

/// The same seed gives the same run, to the last byte.
#[test]
fn a_run_is_a_function_of_its_seed() {
    let run = |seed| {
        let mut network = Network::settled(seed, 20);
        network.loss_per_mille = 100;
        network.crash(3);
        network.run(seconds(20));
        (network.sent_bytes.clone(), format!("{:?}", network.reports))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
