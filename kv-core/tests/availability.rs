//! How many failures shards bear, and which changes of members would cost a quorum.

use std::collections::BTreeSet;

use kv_core::availability::{QuorumRisk, survives, would_lose_quorum};
use kv_core::cluster::{ClusterMap, ClusterRecord, Member, MemberState, MetaError, ShardEntry};
use kv_core::id::{Address, ClusterId, Incarnation, NodeId, ShardId};
use kv_core::machine::plan::Change;

fn ids(text: &str) -> Vec<NodeId> {
    let id = |id: &str| NodeId(id.parse().expect("ids are numbers"));
    text.split_whitespace().map(id).collect()
}

/// `voters` or `voters & outgoing`, who is reachable, and what is left to fail.
#[track_caller]
fn check_survives(configuration: &str, reachable: &str, expected: Option<usize>) {
    let (voters, outgoing) = configuration.split_once('&').unwrap_or((configuration, ""));
    let entry = ShardEntry {
        outgoing: ids(outgoing),
        learners: ids("9"),
        ..ShardEntry::new(ShardId(1), ids(voters))
    };
    let reachable: BTreeSet<_> = ids(reachable).into_iter().collect();
    assert_eq!(survives(&entry, &reachable), expected, "{configuration}, reachable {reachable:?}");
}

#[test]
fn rule_c56_failures_that_a_shard_survives() {
    check_survives("1", "1", Some(0));
    check_survives("1", "9", None);
    check_survives("1 2", "1 2", Some(0));
    check_survives("1 2", "1", None);
    check_survives("1 2 3", "1 2 3", Some(1));
    check_survives("1 2 3", "2 3", Some(0));
    check_survives("1 2 3", "3 9", None);
    check_survives("1 2 3 4", "1 2 3 4", Some(1));
    check_survives("1 2 3 4", "1 2 3", Some(0));
    check_survives("1 2 3 4", "1 2", None);
    check_survives("1 2 3 4 5", "1 2 3 4 5 9", Some(2));
    check_survives("1 2 3 4 5", "1 2 3", Some(0));
    // Joint: the weaker side decides.
    check_survives("1 2 4 & 1 2 3", "1 2 3 4", Some(1));
    check_survives("1 2 4 & 1 2 3", "1 2 3", Some(0));
    check_survives("1 2 4 & 1 2 3", "1 2 4", Some(0));
    check_survives("4 5 6 & 1 2 3", "1 2 3 4", None);
    check_survives("4 5 6 & 1 2 3", "1 4 5 6", None);
    check_survives("1 2 3 4 5 & 1", "1 2 3 4 5", Some(0));
    check_survives("1 & 1 2 3", "1 2 3", Some(0));
}

/// A map of one user shard on all of `nodes`, each with a replica.
fn map(nodes: u64, replica_count: u32) -> ClusterMap {
    let member = |id| Member {
        id: NodeId(id),
        incarnation: Incarnation(id),
        address: Address(format!("n{id}")),
        state: MemberState::Active,
    };
    let members = (1..=nodes).map(member).collect();
    kv_core::ring::initial_map(&ClusterRecord {
        id: ClusterId(1),
        members,
        shard_count: 1,
        replica_count,
    })
}

#[track_caller]
fn check_risk(map: &ClusterMap, change: Change, reachable: &str, expected: Option<QuorumRisk>) {
    let reachable: BTreeSet<_> = ids(reachable).into_iter().collect();
    assert_eq!(would_lose_quorum(map, change, &reachable), expected, "{reachable:?}");
}

#[test]
fn rule_c55_a_change_that_would_lose_quorum_is_told() {
    let remove = |id| Change::Remove { id: NodeId(id) };
    let shard = ShardId::META;
    let stuck = |nodes| Some(QuorumRisk::NoQuorum { shard, unreachable: ids(nodes) });
    let after = |nodes| Some(QuorumRisk::NoQuorumAfter { shard, unreachable: ids(nodes) });

    let three = map(3, 3);
    check_risk(&three, remove(3), "1 2 3", None);
    check_risk(&three, remove(3), "1 2", None);
    // With n2 down, n3 is what holds the shard up.
    check_risk(&three, remove(3), "1 3", after("2"));
    check_risk(&three, remove(3), "1", stuck("2 3"));
    check_risk(&three, Change::Add, "1 2 3", None);
    let refused = QuorumRisk::Refused(MetaError::UnknownMember { id: NodeId(7) });
    check_risk(&three, remove(7), "1 2 3", Some(refused));

    let five = map(5, 5);
    check_risk(&five, remove(5), "1 2 3 4", None);
    check_risk(&five, remove(5), "1 2 3", None);
    check_risk(&five, remove(5), "1 2 5", after("3 4"));
    check_risk(&five, remove(5), "1 2", stuck("3 4 5"));

    let two = map(2, 1);
    // The only replica of something that moves cannot be asked.
    let home = two.shards[0].voters[0];
    let other = if home == NodeId(1) { "2" } else { "1" };
    check_risk(&two, Change::Remove { id: home }, other, stuck(&home.0.to_string()));
}

#[test]
fn rule_c55_a_joint_shard_needs_both_sides() {
    let mut map = map(4, 3);
    for entry in &mut map.shards {
        entry.voters = ids("1 2 4");
        entry.outgoing = ids("1 2 3");
        entry.goal = ids("1 2 4");
        entry.target = Some(ids("1 2 4"));
    }
    let remove = Change::Remove { id: NodeId(3) };
    check_risk(&map, remove, "1 2", None);
    let shard = ShardId::META;
    let unreachable = ids("2 3");
    check_risk(&map, remove, "1 4", Some(QuorumRisk::NoQuorum { shard, unreachable }));
}
