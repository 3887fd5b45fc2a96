//! Whole nodes and a client, in memory: what a user of the core relies on.

use std::time::Duration;

use super::support::{Cluster, SHARD, put_of_shard, write_of_shard};
use kv_core::client::{Answer, Call, CallError};
use kv_core::id::{NodeId, ShardId, Term};
use kv_core::node::{Event, Input, LinkState};
use kv_core::op::{Expect, Found, Key, Value, WriteOp, WriteResult};
use kv_core::raft::Role;
use kv_core::wire::{ClientReply, ClientRequest, PeerMessage, RaftMessage, Refusal};

pub(crate) fn key(name: &str) -> Key {
    Key::new(name.as_bytes().to_vec())
}

fn value(text: &str) -> Value {
    Value::string(text.as_bytes().to_vec())
}

pub(crate) fn put(name: &str, text: &str) -> Call {
    Call::Write(WriteOp::Put { key: key(name), value: value(text) })
}

fn cas(name: &str, expect: Expect, text: &str) -> Call {
    Call::Write(WriteOp::Cas { key: key(name), expect, value: value(text) })
}

fn get(cluster: &mut Cluster, name: &str) -> Option<Found> {
    match cluster.call(Call::Get { key: key(name) }) {
        Ok(Answer::Got(found)) => found,
        other => panic!("{other:?}"),
    }
}

fn write(cluster: &mut Cluster, call: Call) -> WriteResult {
    match cluster.call(call) {
        Ok(Answer::Written(result)) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_operation_works_on_a_fresh_cluster() {
    let mut cluster = Cluster::new(3);
    assert_eq!(get(&mut cluster, "a"), None);
    let WriteResult::Put { version } = write(&mut cluster, put("a", "1")) else { panic!() };
    assert_eq!(get(&mut cluster, "a"), Some(Found { version, value: value("1") }));

    let wrong = write(&mut cluster, cas("a", Expect::Value(value("0")), "2"));
    assert_eq!(wrong, WriteResult::Cas { applied: false, version: Some(version) });
    let right = write(&mut cluster, cas("a", Expect::Version(version), "2"));
    let WriteResult::Cas { applied: true, version: Some(second) } = right else { panic!() };
    assert!(second > version);
    assert_eq!(get(&mut cluster, "a").unwrap().value, value("2"));

    let delete = || Call::Write(WriteOp::Delete { key: key("a") });
    assert_eq!(write(&mut cluster, delete()), WriteResult::Delete { existed: true });
    assert_eq!(write(&mut cluster, delete()), WriteResult::Delete { existed: false });
    let absent = write(&mut cluster, cas("a", Expect::Absent, "3"));
    let WriteResult::Cas { applied: true, version: Some(third) } = absent else { panic!() };
    assert!(third > second, "a version never comes back");
}

#[test]
fn a_single_node_serves() {
    let mut cluster = Cluster::new(1);
    write(&mut cluster, put("a", "1"));
    assert_eq!(get(&mut cluster, "a").unwrap().value, value("1"));
}

#[test]
fn writes_survive_restarts_of_every_node() {
    let mut cluster = Cluster::new(3);
    for at in 0..20 {
        write(&mut cluster, put(&format!("k{at}"), &format!("v{at}")));
    }
    for id in (1..=3).map(NodeId) {
        cluster.stop(id);
    }
    for id in (1..=3).map(NodeId) {
        cluster.start(id);
    }
    for at in 0..20 {
        assert_eq!(get(&mut cluster, &format!("k{at}")).unwrap().value, value(&format!("v{at}")));
    }
}

#[test]
fn replicas_converge_to_equal_states() {
    let mut cluster = Cluster::new(5);
    for at in 0..50 {
        write(&mut cluster, put(&format!("k{at}"), "v"));
    }
    cluster.run(Duration::from_secs(1));
    for shard in (0..=4).map(ShardId) {
        let state = |id| (cluster.applied(id, shard), cluster.state_hash(id, shard));
        for id in (2..=5).map(NodeId) {
            assert_eq!(state(id), state(NodeId(1)), "{shard} on {id}");
        }
    }
}

#[test]
fn restarted_follower_learns_the_commit_index_of_an_idle_leader() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, put("a", "1"));
    cluster.run(Duration::from_secs(1));
    let shard = kv_core::ring::shard_of(&key("a"), 4);
    let leader = cluster.leader(shard).unwrap();
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    let before = cluster.applied(follower, shard);
    cluster.stop(follower);
    cluster.start(follower);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.leader(shard), Some(leader), "nothing else has moved the shard");
    assert_eq!(cluster.applied(follower, shard), before);
}

#[test]
fn a_killed_leader_is_replaced() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, put("a", "1"));
    let shard = kv_core::ring::shard_of(&key("a"), 4);
    let leader = cluster.leader(shard).unwrap();
    cluster.stop(leader);
    write(&mut cluster, put("a", "2"));
    assert_eq!(get(&mut cluster, "a").unwrap().value, value("2"));
    assert_ne!(cluster.leader(shard), Some(leader));
}

#[test]
fn rule_a7_leader_without_quorum_steps_down_and_its_clients_hear_it() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, put("a", "1"));
    for at in 1..=3 {
        for other in 1..=3 {
            cluster.cut.push((NodeId(at), NodeId(other)));
        }
    }
    let lost = cluster.call(put("a", "2"));
    assert!(matches!(lost, Err(CallError::UnknownOutcome { .. })), "{lost:?}");
    let read = cluster.call(Call::Get { key: key("a") });
    assert!(matches!(read, Err(CallError::Unavailable { .. })), "{read:?}");
    for shard in (0..=4).map(ShardId) {
        assert_eq!(cluster.leader(shard), None);
    }
}

#[test]
fn deposed_leader_lets_go_of_all_that_waits() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, put("a", "1"));
    let leader = cluster.leader(kv_core::ring::shard_of(&key("a"), 4)).unwrap();
    for other in (1..=3).map(NodeId) {
        cluster.cut.extend([(leader, other), (other, leader)]);
    }
    let deadline = cluster.now + Duration::from_secs(30);
    cluster.router.call(cluster.now, put("a", "2"), deadline);
    cluster.run(Duration::from_millis(5));
    assert!(cluster.node(leader).status().pending_bytes > 0, "the write waits for a majority");
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.node(leader).status().pending_bytes, 0);
}

#[test]
fn rule_a5_cut_off_follower_does_not_disturb_when_it_comes_back() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, put("a", "1"));
    let shard = kv_core::ring::shard_of(&key("a"), 4);
    let leader = cluster.leader(shard).unwrap();
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    let term = |cluster: &Cluster| {
        let status = cluster.node(leader).status();
        status.shards.iter().find(|status| status.shard == shard).unwrap().term
    };
    let before = term(&cluster);
    for other in (1..=3).map(NodeId) {
        cluster.cut.extend([(follower, other), (other, follower)]);
    }
    // Not so long that the leadership is handed to the voter that the map prefers.
    cluster.run(Duration::from_secs(5));
    cluster.cut.clear();
    cluster.run(Duration::from_secs(3));
    assert_eq!((cluster.leader(shard), term(&cluster)), (Some(leader), before));
}

#[test]
fn rule_c54_wiped_node_stays_out_and_the_cluster_is_not_formed_again() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, put("a", "1"));
    for id in (1..=2).map(NodeId) {
        cluster.stop(id);
        cluster.wipe(id);
        cluster.start(id);
    }
    cluster.run(Duration::from_secs(10));
    for id in (1..=2).map(NodeId) {
        assert!(cluster.events(id).contains(&Event::WipedNode), "{id}");
        assert!(cluster.node(id).status().shards.is_empty());
    }
    let read = cluster.call(Call::Get { key: key("a") });
    assert!(matches!(read, Err(CallError::Unavailable { .. })), "{read:?}");
}

#[test]
fn oversized_key_and_value_are_refused() {
    let mut cluster = Cluster::new(1);
    let long = Key::new(vec![b'x'; kv_core::op::KEY_BYTES_MAX + 1]);
    let refused = cluster.call(Call::Get { key: long });
    assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
    let large = Value::string(vec![0; kv_core::op::VALUE_BYTES_MAX + 1]);
    let refused = cluster.call(Call::Write(WriteOp::Put { key: key("a"), value: large }));
    assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
}

/// Who follow the leader of `shard`.
fn followers(leader: NodeId) -> Vec<NodeId> {
    (1..=3).map(NodeId).filter(|id| *id != leader).collect()
}

/// Whom `id` takes for the leader of `shard`.
fn believed(cluster: &Cluster, id: NodeId, shard: ShardId) -> Option<NodeId> {
    let shards = cluster.node(id).status().shards;
    shards.into_iter().find(|status| status.shard == shard)?.leader
}

#[test]
fn a_leader_whose_process_ended_is_replaced_before_an_election_timeout() {
    let mut cluster = Cluster::formed(3);
    let old = cluster.leader(SHARD).unwrap();
    cluster.stop(old);
    for id in followers(old) {
        cluster.input(id, Input::Link { peer: old, state: LinkState::Down });
    }
    cluster.run(Duration::from_millis(500));
    let new = cluster.leader(SHARD).unwrap();
    assert_ne!(new, old);
    assert_eq!(cluster.call(put_of_shard("v")).map(|_| ()), Ok(()));
}

#[test]
fn a_leader_that_is_connected_again_is_followed_at_once() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let follower = followers(leader)[0];
    cluster.input(follower, Input::Link { peer: leader, state: LinkState::Down });
    assert_eq!(believed(&cluster, follower, SHARD), None);
    cluster.input(leader, Input::Link { peer: follower, state: LinkState::Up });
    cluster.run(Duration::ZERO);
    assert_eq!(believed(&cluster, follower, SHARD), Some(leader));
}

#[test]
fn a_connection_that_broke_off_on_one_side_deposes_nobody() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let term = |cluster: &Cluster| {
        cluster
            .node(leader)
            .status()
            .shards
            .iter()
            .find(|status| status.shard == SHARD)
            .map(|status| status.term)
    };
    let before = term(&cluster);
    let follower = followers(leader)[0];
    cluster.cut = vec![(leader, follower), (follower, leader)];
    cluster.input(follower, Input::Link { peer: leader, state: LinkState::Down });
    cluster.run(Duration::from_secs(3));
    cluster.cut.clear();
    cluster.run(Duration::from_secs(3));
    assert_eq!((cluster.leader(SHARD), term(&cluster)), (Some(leader), before));
}

#[test]
fn writes_of_one_step_share_an_append_to_each_follower() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let before = cluster.sent.len();
    cluster.ask_all(leader, (1..=3).map(write_of_shard).collect());
    cluster.run(Duration::from_millis(1));
    let messages = cluster.sent[before..].iter().flat_map(|frame| &frame.messages);
    let counts = messages.filter_map(|message| match message {
        PeerMessage::Raft { message: RaftMessage::Append { entries, .. }, .. } => {
            Some(entries.len())
        }
        _ => None,
    });
    let to_the_shard = counts.filter(|count| *count == 3).count();
    assert_eq!(to_the_shard, 2, "they share a request for timestamps, too");
    cluster.run(Duration::from_millis(100));
    let is_written = |reply: &ClientReply| matches!(reply, ClientReply::Written(_));
    assert_eq!(cluster.replies.values().filter(|reply| is_written(reply)).count(), 3);
}

/// What waits for a leadership that begins and ends within one step belongs to no later one: another
/// leader's entry may come to stand where the request's was, and its outcome is not the request's.
#[test]
fn request_to_a_leader_of_a_single_step_is_refused() {
    let mut cluster = Cluster::formed(3);
    let old = cluster.leader(ShardId::META).unwrap();
    let [one, other] = followers(old)[..] else { panic!("there are three") };
    let term = |cluster: &Cluster| {
        let shards = cluster.node(one).status().shards;
        shards.iter().find(|it| it.shard == ShardId::META).map(|it| (it.term, it.role)).unwrap()
    };
    // Alone, it asks for pre-votes, and gets one after all.
    cluster.cut = vec![(old, one), (other, one), (one, old), (one, other)];
    cluster.run(Duration::from_secs(3));
    let (before, role) = term(&cluster);
    assert_eq!(role, Role::PreCandidate);
    let vote = |from: NodeId, term: Term, pre: bool, granted: bool, cluster: &Cluster| {
        let message = RaftMessage::VoteReply { term, pre, granted };
        let message = PeerMessage::Raft { shard: ShardId::META, message };
        Input::Receive(crate::frames::frame(cluster, from, one, message))
    };
    let granted = vote(other, before.next(), true, true, &cluster);
    cluster.input(one, granted);
    assert_eq!(term(&cluster), (before.next(), Role::Candidate));
    let won = vote(other, before.next(), false, true, &cluster);
    let lost = vote(old, before.next().next(), false, false, &cluster);
    let handle = cluster.ask_within(one, won, ClientRequest::OpenSession { nonce: 9 }, lost);
    assert_eq!(term(&cluster), (before.next().next(), Role::Follower));
    let reply = cluster.replies.remove(&handle);
    assert!(
        matches!(reply, Some(ClientReply::Refused(Refusal::NotLeader { .. }))),
        "nobody leads: {reply:?}"
    );
}
