//! Full disks, and logs that are released.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError};
use kv_core::id::{NodeId, Round};
use kv_core::node::{Event, Input, NodeConfig};
use kv_core::op::{Expect, Value, WriteOp, WriteResult};
use kv_core::storage::StorageReply;
use kv_core::wire::{ClientReply, PeerMessage, Refusal};

use super::frames::frame;
use super::support::{Cluster, SHARD, key_of_shard, put_of_shard, write_of_shard};

fn delete() -> Call {
    Call::Write(WriteOp::Delete { key: key_of_shard() })
}

fn cas() -> Call {
    let (expect, value) = (Expect::Value(Value::string("1")), Value::string("2"));
    Call::Write(WriteOp::Cas { key: key_of_shard(), expect, value })
}

/// A cluster with one value, its leader, and the others.
fn formed(count: u64) -> (Cluster, NodeId, Vec<NodeId>) {
    let mut cluster = Cluster::formed(count);
    assert!(cluster.call(put_of_shard("1")).is_ok());
    let leader = cluster.leader(SHARD).expect("the shard is led");
    let others = (1..=count).map(NodeId).filter(|id| *id != leader).collect();
    (cluster, leader, others)
}

fn set_full(cluster: &mut Cluster, node: NodeId, is_full: bool) {
    cluster.input(node, Input::Stored(StorageReply::Space { is_full }));
    assert_eq!(cluster.node(node).status().is_full, is_full);
    assert_eq!(cluster.events(node).last(), Some(&Event::SpaceChanged { is_full }));
    // A leader hears of it with the next confirmation.
    cluster.run(Duration::from_millis(300));
}

fn no_space(node: NodeId) -> Result<Answer, CallError> {
    Err(CallError::Refused(Refusal::NoSpace { node }))
}

#[test]
fn full_leader_takes_only_what_makes_room_until_there_is_some() {
    let (mut cluster, leader, _) = formed(3);
    set_full(&mut cluster, leader, true);
    assert_eq!(cluster.call(put_of_shard("2")), no_space(leader));
    assert_eq!(cluster.call(cas()), no_space(leader));
    let read = cluster.call(Call::Get { key: key_of_shard() });
    assert!(matches!(&read, Ok(Answer::Got(Some(found))) if found.value == Value::string("1")));
    let deleted = Ok(Answer::Written(WriteResult::Delete { existed: true }));
    assert_eq!(cluster.call(delete()), deleted);
    assert_eq!(cluster.leader(SHARD), Some(leader), "it still leads");
    set_full(&mut cluster, leader, false);
    assert!(cluster.call(put_of_shard("2")).is_ok());
}

#[test]
fn full_follower_does_not_hinder_while_a_majority_has_room() {
    let (mut cluster, _, others) = formed(3);
    set_full(&mut cluster, others[0], true);
    assert!(cluster.call(put_of_shard("2")).is_ok());
    set_full(&mut cluster, others[1], true);
    let refused = cluster.call(put_of_shard("3"));
    assert!(
        matches!(refused, Err(CallError::Refused(Refusal::NoSpace { node })) if others.contains(&node)),
        "{refused:?}"
    );
    assert!(cluster.call(delete()).is_ok());
    set_full(&mut cluster, others[0], false);
    assert!(cluster.call(put_of_shard("3")).is_ok());
}

/// Also who does not know the asker's list, and so confirms nothing, says that it is full.
#[test]
fn every_confirmation_says_whether_the_disk_is_full() {
    let (mut cluster, leader, others) = formed(3);
    let full = others[0];
    set_full(&mut cluster, full, true);
    let asked = (boot_of(&cluster, leader), Round(u64::MAX));
    for (boot, version) in [(asked.0, u64::MAX), (asked.0 ^ 1, 1)] {
        let ask = PeerMessage::Confirm { boot, round: asked.1, version, leads: None };
        let ask = frame(&cluster, leader, full, ask);
        cluster.input(full, Input::Receive(ask));
        let last = cluster.sent.iter().rfind(|frame| frame.from == full);
        let answer = last.expect("it answers").messages.iter().find_map(|message| match message {
            PeerMessage::Confirmed(answer) => Some(answer),
            _ => None,
        });
        assert_eq!(answer.map(|answer| (answer.version, answer.is_full)), Some((0, true)));
    }
}

/// What the leader calls its process.
fn boot_of(cluster: &Cluster, leader: NodeId) -> u64 {
    let frames = cluster.sent.iter().rev().filter(|frame| frame.from == leader);
    let boot = frames.flat_map(|frame| &frame.messages).find_map(|message| match message {
        PeerMessage::Confirm { boot, .. } => Some(*boot),
        _ => None,
    });
    boot.expect("a leader asks")
}

#[test]
fn five_nodes_bear_two_that_are_full() {
    let (mut cluster, leader, others) = formed(5);
    for other in &others[..2] {
        set_full(&mut cluster, *other, true);
    }
    assert!(cluster.call(put_of_shard("2")).is_ok());
    set_full(&mut cluster, others[2], true);
    let refused = cluster.call(put_of_shard("3"));
    assert!(matches!(refused, Err(CallError::Refused(Refusal::NoSpace { .. }))), "{refused:?}");
    assert_eq!(cluster.leader(SHARD), Some(leader));
}

#[test]
fn new_leader_hears_from_full_followers_before_long() {
    let (mut cluster, leader, others) = formed(5);
    for other in &others[..3] {
        set_full(&mut cluster, *other, true);
    }
    cluster.stop(leader);
    cluster.run(Duration::from_secs(5));
    let next = cluster.leader(SHARD).unwrap();
    assert_ne!(next, leader);
    let refused = cluster.request(next, write_of_shard(1));
    assert!(matches!(refused, ClientReply::Refused(Refusal::NoSpace { .. })), "{refused:?}");
}

#[test]
fn flushed_logs_are_released_and_all_restart_from_what_was_flushed() {
    let (mut cluster, _, _) = formed(3);
    cluster.run(Duration::from_secs(1));
    let ids: Vec<_> = (1..=3).map(NodeId).collect();
    for id in &ids {
        cluster.flush(*id);
        let (floor, last) = cluster.stored_log(*id, SHARD);
        assert_eq!(floor, last, "an idle group keeps nothing");
    }
    assert!(cluster.call(put_of_shard("2")).is_ok());
    let hashes: Vec<_> = ids.iter().map(|id| cluster.state_hash(*id, SHARD)).collect();
    for id in &ids {
        cluster.stop(*id);
    }
    for id in &ids {
        cluster.start(*id);
    }
    let read = cluster.call(Call::Get { key: key_of_shard() });
    assert!(matches!(&read, Ok(Answer::Got(Some(found))) if found.value == Value::string("2")));
    cluster.run(Duration::from_secs(1));
    let after: Vec<_> = ids.iter().map(|id| cluster.state_hash(*id, SHARD)).collect();
    assert!(after.windows(2).all(|pair| pair[0] == pair[1]), "{after:?}");
    assert_ne!(hashes[0], after[0], "a new term has a no-op");
}

#[test]
fn what_was_flushed_before_all_held_it_is_released_when_they_do() {
    let (mut cluster, leader, others) = formed(3);
    let absent = others[0];
    cluster.stop(absent);
    assert!(cluster.call(put_of_shard("2")).is_ok());
    cluster.run(Duration::from_secs(1));
    for id in [leader, others[1]] {
        cluster.flush(id);
        let (floor, last) = cluster.stored_log(id, SHARD);
        assert!(floor < last, "{absent} lacks the last entry");
    }
    cluster.start(absent);
    cluster.run(Duration::from_secs(2));
    for id in [leader, others[1]] {
        let (floor, last) = cluster.stored_log(id, SHARD);
        assert_eq!(floor, last, "without another flush");
    }
}

#[test]
fn what_is_kept_for_the_absent_is_shared_by_all_replicas_of_the_node() {
    let (mut cluster, _, _) = formed(3);
    let ids: Vec<_> = (1..=3).map(NodeId).collect();
    let replica_count = cluster.node(ids[0]).status().shards.len();
    for id in &ids {
        cluster.stop(*id);
        let config = cluster.config(*id);
        let node_slack_bytes = 1_000 * replica_count;
        cluster.start_with(*id, NodeConfig { node_slack_bytes, ..config });
    }
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader(SHARD).unwrap();
    let absent = ids.iter().find(|id| **id != leader).unwrap();
    cluster.stop(*absent);
    for _ in 0..10 {
        assert!(cluster.call(put_of_shard(&"x".repeat(600))).is_ok());
    }
    cluster.run(Duration::from_secs(1));
    cluster.flush(leader);
    let (floor, last) = cluster.stored_log(leader, SHARD);
    assert_eq!(last.index.0 - floor.index.0, 2, "a thousand bytes, and whole entries");
}
