//! Nodes join, leave, and are told so.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError};
use kv_core::cluster::MemberState;
use kv_core::id::{Incarnation, LogId, LogIndex, NodeId, ShardId, Term};
use kv_core::node::{Event, Input};
use kv_core::op::WriteOp;
use kv_core::wire::{AdminReply, AdminRequest, PeerFrame, PeerMessage, RaftMessage, Refusal};

use crate::cluster::{key, put};
use crate::support::{Cluster, address};

fn admin(cluster: &mut Cluster, request: AdminRequest) -> Result<AdminReply, CallError> {
    match cluster.call(Call::Admin(request))? {
        Answer::Admin(reply) => Ok(reply),
        other => panic!("not an operator's answer: {other:?}"),
    }
}

/// Makes a node a member and starts it.
pub(crate) fn join(cluster: &mut Cluster, number: u64) -> NodeId {
    let incarnation = Incarnation(500 + number);
    let request = AdminRequest::AddNode { incarnation, address: address(NodeId(number)) };
    let first = admin(cluster, request.clone()).expect("nodes can join");
    let AdminReply::NodeAdded { id, cluster: record, map } =
        admin(cluster, request).expect("joining can be repeated")
    else {
        panic!("a node is added");
    };
    assert!(matches!(first, AdminReply::NodeAdded { id: before, .. } if before == id));
    cluster.add_process(id, incarnation, record, map);
    id
}

fn replicas(cluster: &Cluster, id: NodeId) -> Vec<ShardId> {
    cluster.node(id).status().shards.iter().map(|status| status.shard).collect()
}

fn write_all(cluster: &mut Cluster) {
    for at in 0..40 {
        let done = cluster.call(put(&format!("k{at}"), "v"));
        assert!(done.is_ok(), "k{at}: {done:?}");
    }
}

fn read_all(cluster: &mut Cluster) {
    for at in 0..40 {
        let got = cluster.call(Call::Get { key: key(&format!("k{at}")) });
        assert!(matches!(&got, Ok(Answer::Got(Some(_)))), "k{at}: {got:?}");
    }
}

#[test]
fn rule_c51_nodes_join_and_take_over_replicas_and_removed_ones_are_told() {
    let mut cluster = Cluster::formed(3);
    write_all(&mut cluster);
    let four = join(&mut cluster, 4);
    let five = join(&mut cluster, 5);
    assert_eq!((four, five), (NodeId(4), NodeId(5)), "ids go on behind those that there were");
    cluster.run(Duration::from_secs(60));
    let map = cluster.node(NodeId(1)).map().expect("it is formed").clone();
    assert!(!map.is_moving(), "{map:?}");
    assert_eq!(map.members.len(), 5);
    assert!(!replicas(&cluster, four).is_empty() && !replicas(&cluster, five).is_empty());
    for entry in &map.shards {
        assert_eq!((entry.voters.len(), entry.learners.len()), (3, 0), "{entry:?}");
        for id in map.active() {
            let has = replicas(&cluster, id).contains(&entry.shard);
            assert_eq!(has, entry.voters.contains(&id), "{id} of {entry:?}");
        }
    }
    read_all(&mut cluster);

    for id in [1, 2] {
        let request = AdminRequest::RemoveNode { id: NodeId(id), force: false };
        assert_eq!(admin(&mut cluster, request), Ok(AdminReply::Done));
        cluster.run(Duration::from_secs(60));
        assert!(replicas(&cluster, NodeId(id)).is_empty());
        assert!(cluster.events(NodeId(id)).contains(&Event::Removed), "n{id} is told");
    }
    let map = cluster.node(five).map().expect("it is formed").clone();
    let members: Vec<_> = map.members.iter().map(|member| (member.id, member.state)).collect();
    let active = |id| (NodeId(id), MemberState::Active);
    assert_eq!(members, [active(3), active(4), active(5)]);
    read_all(&mut cluster);
    write_all(&mut cluster);
}

#[test]
fn rule_c55_removal_that_would_cost_a_quorum_is_refused_unless_forced() {
    let mut cluster = Cluster::formed(3);
    cluster.run(Duration::from_secs(5));
    let meta = cluster.leader(ShardId::META).expect("somebody leads");
    let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != meta).collect();
    cluster.stop(others[0]);
    cluster.run(Duration::from_secs(5));
    let remove = |force| AdminRequest::RemoveNode { id: others[1], force };
    let refused = admin(&mut cluster, remove(false));
    let is_risk =
        |error: &CallError| matches!(error, CallError::Refused(Refusal::QuorumRisk { .. }));
    assert!(refused.as_ref().is_err_and(is_risk), "{refused:?}");
    assert_eq!(admin(&mut cluster, remove(true)), Ok(AdminReply::Done));
}

#[test]
fn leadership_is_handed_over_at_a_wish() {
    let mut cluster = Cluster::formed(3);
    let shard = ShardId(1);
    let leader = cluster.leader(shard).expect("somebody leads");
    let to = (1..=3).map(NodeId).find(|id| *id != leader).expect("there are others");
    let request = AdminRequest::TransferLeader { shard, to };
    assert_eq!(admin(&mut cluster, request), Ok(AdminReply::Done));
    cluster.run(Duration::from_millis(50));
    assert_eq!(cluster.leader(shard), Some(to));
    let write = WriteOp::Delete { key: crate::support::key_of_shard() };
    assert!(cluster.call(Call::Write(write)).is_ok());
    cluster.input(to, Input::Timeout);
}

#[test]
fn node_that_the_meta_leader_cannot_reach_asks_others_for_the_map() {
    let mut cluster = Cluster::formed(3);
    let meta = cluster.leader(ShardId::META).expect("somebody leads");
    let deaf = (1..=3).map(NodeId).find(|id| *id != meta).expect("there are others");
    cluster.run(Duration::from_secs(1));
    cluster.cut.push((meta, deaf));
    let four = join(&mut cluster, 4);
    cluster.run(Duration::from_secs(10));
    let map = cluster.node(deaf).map().expect("it is formed");
    assert!(map.member(four).is_some(), "{deaf} knows {:?}", map.members);
}

#[test]
fn removed_node_is_told_by_members_that_it_never_knew() {
    let mut cluster = Cluster::formed(3);
    cluster.run(Duration::from_secs(5));
    cluster.stop(NodeId(1));
    for number in 4..=6 {
        join(&mut cluster, number);
    }
    cluster.run(Duration::from_secs(60));
    for id in 1..=3 {
        let request = AdminRequest::RemoveNode { id: NodeId(id), force: false };
        assert_eq!(admin(&mut cluster, request), Ok(AdminReply::Done));
        cluster.run(Duration::from_secs(60));
    }
    (2..=3).map(NodeId).for_each(|id| cluster.stop(id));
    cluster.start(NodeId(1));
    cluster.run(Duration::from_secs(30));
    assert!(!cluster.events(NodeId(1)).contains(&Event::Removed), "nobody is where it asks");
    // Others run where the members were that it knows.
    for frame in std::mem::take(&mut cluster.sent) {
        if frame.from == NodeId(1) {
            cluster.input(NodeId(4), Input::Receive(frame));
        }
    }
    cluster.run(Duration::from_secs(1));
    assert!(cluster.events(NodeId(1)).contains(&Event::Removed));
}

#[test]
fn replica_that_a_late_append_makes_does_not_stay() {
    let mut cluster = Cluster::formed(3);
    join(&mut cluster, 4);
    cluster.run(Duration::from_secs(60));
    let map = cluster.node(NodeId(1)).map().expect("it is formed").clone();
    assert!(!map.is_moving(), "{map:?}");
    let free = |shard| (1..=4).map(NodeId).find(|id| !replicas(&cluster, *id).contains(&shard));
    let shard = (1..=map.shard_count()).map(ShardId).find(|shard| free(*shard).is_some());
    let shard = shard.expect("three of four nodes hold a shard");
    let to = free(shard).expect("it was just found");
    let from = cluster.leader(shard).expect("somebody leads");

    cluster.sent.clear();
    cluster.run(Duration::from_secs(1));
    let is_between = |frame: &&PeerFrame| (frame.from, frame.to) == (from, to);
    let frame = cluster.sent.iter().find(is_between).expect("they confirm each other").clone();
    let (term, nothing) = (Term(1), LogIndex(0));
    let prev = LogId::default();
    let message =
        RaftMessage::Append { term, prev, commit: nothing, held_by_all: nothing, entries: vec![] };
    let messages = vec![PeerMessage::Raft { shard, message }];
    cluster.input(to, Input::Receive(PeerFrame { messages, ..frame }));
    assert!(replicas(&cluster, to).contains(&shard), "the map may be behind the append");
    cluster.run(Duration::from_secs(5));
    assert!(!replicas(&cluster, to).contains(&shard), "but it is not");
}
