//! Nodes whose stored data is damaged: silent to their peers, honest to their clients.

use std::time::Duration;

use kv_core::client::{Answer, Call};
use kv_core::id::{Epoch, LogIndex, NodeId, RequestHandle};
use kv_core::node::{Event, Input};
use kv_core::op::Value;
use kv_core::storage::{ReadError, StorageDamage, StorageReply};
use kv_core::wire::{ClientReply, ClientRequest, Refusal};

use super::support::{Cluster, SHARD, key_of_shard, put_of_shard, write_of_shard};

fn damage() -> StorageDamage {
    StorageDamage { file: "log/1".into(), offset: 32, what: "a wrong checksum".into() }
}

fn refused(node: NodeId) -> ClientReply {
    ClientReply::Refused(Refusal::Damaged { node, damage: damage() })
}

fn read() -> ClientRequest {
    ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() }
}

/// The node says nothing to peers, wants no timer, and tells every client what is damaged.
fn check_suspect(cluster: &mut Cluster, node: NodeId) {
    let sent_before = cluster.sent.iter().filter(|frame| frame.from == node).count();
    cluster.run(Duration::from_secs(5));
    let sent = cluster.sent.iter().filter(|frame| frame.from == node).count();
    assert_eq!(sent, sent_before, "a suspect node is silent");
    assert_eq!(cluster.node(node).poll_timeout(), None);
    for body in
        [read(), write_of_shard(99), ClientRequest::Map, ClientRequest::OpenSession { nonce: 1 }]
    {
        assert_eq!(cluster.request(node, body.clone()), refused(node), "{body:?}");
    }
    let ClientReply::Status(status) = cluster.request(node, ClientRequest::Status) else {
        panic!("a status is always told");
    };
    assert_eq!((status.damage, status.shards.len()), (Some(Box::new(damage())), 0));
    assert_eq!(status.pending_bytes, 0);
    let told = cluster.events(node).iter().filter(|event| **event == Event::Damaged(damage()));
    assert_eq!(told.count(), 1);
}

#[test]
fn node_that_starts_with_damaged_data_takes_part_in_nothing_and_the_others_serve() {
    let mut cluster = Cluster::formed(3);
    let node = cluster.leader(SHARD).unwrap();
    cluster.stop(node);
    cluster.damage(node, damage());
    cluster.start(node);
    assert!(cluster.call(put_of_shard("1")).is_ok());
    check_suspect(&mut cluster, node);
    assert!(cluster.leader(SHARD).is_some_and(|leader| leader != node));
    assert!(matches!(
        cluster.call(Call::Get { key: key_of_shard() }),
        Ok(Answer::Got(Some(found))) if found.value == Value::string("1")
    ));
}

/// A leader with requests in every stage: handed to the store, waiting for a majority, waiting for
/// the disk.
fn busy_leader() -> (Cluster, NodeId, Vec<RequestHandle>) {
    let mut cluster = Cluster::formed(3);
    assert!(cluster.call(put_of_shard("1")).is_ok());
    let leader = cluster.leader(SHARD).expect("the shard is led");
    cluster.stalled.insert(leader);
    let mut handles = vec![cluster.ask(leader, read())];
    cluster.run(Duration::from_millis(20));
    for other in (1..=3).map(NodeId) {
        cluster.cut.extend([(leader, other), (other, leader)]);
    }
    handles.extend([1, 2].map(|sequence| cluster.ask(leader, write_of_shard(sequence))));
    handles.extend([(); 2].map(|()| cluster.ask(leader, read())));
    assert!(cluster.replies.is_empty(), "all of them wait: {:?}", cluster.replies);
    (cluster, leader, handles)
}

fn check_answers(cluster: &Cluster, leader: NodeId, handles: &[RequestHandle]) {
    for handle in handles {
        assert_eq!(cluster.replies.get(handle), Some(&refused(leader)), "{handle}");
    }
}

#[test]
fn damaged_leader_answers_all_that_wait_exactly_once_and_the_others_take_over() {
    let (mut cluster, leader, handles) = busy_leader();
    cluster.input(leader, Input::Stored(StorageReply::Damaged(damage())));
    check_answers(&cluster, leader, &handles[1..]);
    assert_eq!(cluster.replies.len(), handles.len() - 1, "the store still has a read");
    cluster.input(leader, Input::Stored(StorageReply::Damaged(damage())));
    cluster.cut.clear();
    // Late answers of the store: appends, and the read. Its answer cannot be trusted any more.
    cluster.resume(leader);
    check_answers(&cluster, leader, &handles);
    cluster.flush(leader);
    cluster.input(leader, Input::Stored(StorageReply::Space { is_full: true }));
    check_suspect(&mut cluster, leader);
    assert!(cluster.call(put_of_shard("2")).is_ok());
    assert!(cluster.leader(SHARD).is_some_and(|other| other != leader));
    assert_eq!(cluster.replies.len(), handles.len());
}

#[test]
fn read_that_meets_damage_makes_the_node_suspect_and_is_answered_like_the_rest() {
    let (mut cluster, leader, handles) = busy_leader();
    let result = Err(ReadError::Damaged(damage()));
    cluster.input(leader, Input::Stored(StorageReply::Read { handle: handles[0], result }));
    check_answers(&cluster, leader, &handles);
    cluster.cut.clear();
    check_suspect(&mut cluster, leader);
}

#[test]
fn what_was_held_back_for_an_append_is_never_sent_by_a_damaged_node() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    cluster.stalled.insert(follower);
    assert_eq!(cluster.call(put_of_shard("1")).err(), None, "two of three are enough");
    let stored = cluster.stored_log(follower, SHARD);
    cluster.input(follower, Input::Stored(StorageReply::Damaged(damage())));
    let sent_before = cluster.sent.iter().filter(|frame| frame.from == follower).count();
    cluster.resume(follower);
    assert_ne!(cluster.stored_log(follower, SHARD), stored, "an append was acknowledged late");
    let sent = cluster.sent.iter().filter(|frame| frame.from == follower).count();
    assert_eq!(sent, sent_before, "its acknowledgement does not leave");
    check_suspect(&mut cluster, follower);
    assert!(cluster.call(put_of_shard("2")).is_ok());
}

#[test]
fn frames_that_the_driver_has_not_taken_are_dropped() {
    let mut cluster = Cluster::formed(3);
    let node = cluster.leader(SHARD).unwrap();
    assert_eq!(cluster.frames_after_damage(node, write_of_shard(1), damage()), 0);
}

#[test]
fn log_of_a_group_with_a_suspect_node_is_kept_from_where_that_node_stopped() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    cluster.input(follower, Input::Stored(StorageReply::Damaged(damage())));
    let (_, held) = cluster.stored_log(follower, SHARD);
    for at in 0..5 {
        assert!(cluster.call(put_of_shard(&at.to_string())).is_ok());
    }
    cluster.run(Duration::from_secs(1));
    cluster.flush(leader);
    let (floor, last) = cluster.stored_log(leader, SHARD);
    assert!(floor.index > LogIndex(0) && floor.index <= held.index, "{floor}, {held}");
    assert!(last.index >= LogIndex(held.index.0 + 5));
}
