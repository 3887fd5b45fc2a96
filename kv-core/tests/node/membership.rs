//! Nodes join, leave, and are told so.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError};
use kv_core::cluster::MemberState;
use kv_core::id::{Incarnation, LogId, LogIndex, NodeId, ShardId, Term};
use kv_core::node::{Event, Input};
use kv_core::op::WriteOp;
use kv_core::wire::{
    AdminReply, AdminRequest, PeerFrame, PeerMessage, RaftMessage, Refusal, VoteKind,
};

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

/// A shard with a node that had a replica of it and has none any more, and its leader.
fn moved_away(cluster: &mut Cluster) -> (ShardId, NodeId, NodeId) {
    join(cluster, 4);
    cluster.run(Duration::from_secs(60));
    let map = cluster.node(NodeId(1)).map().expect("it is formed").clone();
    assert!(!map.is_moving(), "{map:?}");
    let left = |shard| (1..=3).map(NodeId).find(|id| !replicas(cluster, *id).contains(&shard));
    let mut shards = (1..=map.shard_count()).map(ShardId);
    let found = shards.find_map(|shard| Some((shard, left(shard)?)));
    let (shard, node) = found.expect("the fourth node took something over");
    let leader = cluster.leader(shard).expect("somebody leads");
    (shard, node, leader)
}

/// What `to` answers to a message about a shard, perhaps after it has made something durable.
fn tell(
    cluster: &mut Cluster,
    (from, to): (NodeId, NodeId),
    shard: ShardId,
    message: RaftMessage,
) -> Vec<RaftMessage> {
    let is_between = |frame: &&PeerFrame| (frame.from, frame.to) == (from, to);
    let frame = cluster.sent.iter().rfind(is_between).expect("they confirm each other").clone();
    let skipped = cluster.sent.len();
    let messages = vec![PeerMessage::Raft { shard, message }];
    cluster.input(to, Input::Receive(PeerFrame { messages, ..frame }));
    let answers = cluster.sent[skipped..].iter().filter(|frame| frame.from == to);
    let answers = answers.flat_map(|frame| &frame.messages).filter_map(|message| match message {
        PeerMessage::Raft { shard: of, message } if *of == shard => Some(message.clone()),
        _ => None,
    });
    answers.collect()
}

fn late_append() -> RaftMessage {
    let (term, prev, commit) = (Term(1), LogId::default(), LogIndex(0));
    RaftMessage::Append { term, prev, commit, held_by_all: commit, entries: vec![] }
}

#[test]
fn replica_that_a_late_append_makes_does_not_stay() {
    let mut cluster = Cluster::formed(3);
    let (shard, node, leader) = moved_away(&mut cluster);
    tell(&mut cluster, (leader, node), shard, late_append());
    assert!(replicas(&cluster, node).contains(&shard), "the map may be behind the append");
    cluster.run(Duration::from_secs(5));
    assert!(!replicas(&cluster, node).contains(&shard), "but it is not");
}

/// The configuration that left it out was perhaps committed with its help, and a candidate that has
/// not heard of that must not be elected with its help, too.
#[test]
fn rule_a4_removed_replica_votes_as_if_it_still_had_its_log() {
    let mut cluster = Cluster::formed(3);
    let (shard, node, leader) = moved_away(&mut cluster);
    // What was promised is durable.
    cluster.stop(node);
    cluster.start(node);
    cluster.run(Duration::from_secs(5));
    let ask = |cluster: &mut Cluster, term, last| {
        tell(cluster, (leader, node), shard, late_append());
        // The late append is a sign of life of a leader, but for this kind.
        let vote = RaftMessage::Vote { term: Term(term), last, kind: VoteKind::Transfer };
        let answers = tell(cluster, (leader, node), shard, vote);
        let granted = answers.iter().find_map(|answer| match answer {
            RaftMessage::VoteReply { granted, .. } => Some(*granted),
            _ => None,
        });
        granted.expect("who is asked answers")
    };
    let behind = LogId { term: Term(1), index: LogIndex(1) };
    assert!(!ask(&mut cluster, 1_000, behind));
    let ahead = LogId { term: Term(1_000), index: LogIndex(1) };
    assert!(ask(&mut cluster, 1_001, ahead));
}
