//! Nodes that lost what they had stored: they get it back from the others, and count for nothing
//! before.

use std::time::Duration;

use kv_core::id::{Epoch, NodeId};
use kv_core::node::Event;
use kv_core::storage::StorageDamage;
use kv_core::wire::{ClientReply, ClientRequest, Refusal};

use super::support::{Cluster, SHARD, check_value, key_of_shard, put_of_shard, written};

fn damage() -> StorageDamage {
    StorageDamage { file: "log/1".into(), offset: 32, what: "a wrong checksum".into() }
}

fn is_suspect(cluster: &Cluster, node: NodeId) -> bool {
    let shards = cluster.node(node).status().shards;
    shards.iter().find(|shard| shard.shard == SHARD).is_none_or(|shard| shard.is_suspect)
}

fn cut(cluster: &mut Cluster, node: NodeId) {
    for other in (1..=3).map(NodeId) {
        cluster.cut.extend([(node, other), (other, node)]);
    }
}

#[test]
fn node_that_lost_everything_is_repaired_and_counts_again() {
    let (mut cluster, leader, [node, other]) = written();
    cluster.reopen(node, damage());
    assert!(is_suspect(&cluster, node));
    assert_eq!(cluster.node(node).status().damage, Some(Box::new(damage())));
    cluster.run(Duration::from_secs(2));
    let told = |event: &Event| cluster.events(node).iter().filter(|it| *it == event).count();
    assert_eq!((told(&Event::Damaged(damage())), told(&Event::Repaired)), (1, 1));
    let status = cluster.node(node).status();
    assert_eq!(status.damage, None);
    assert_eq!(status.shards.iter().filter(|shard| shard.is_suspect).count(), 0);
    for shard in status.shards.iter().map(|status| status.shard) {
        assert_eq!(cluster.state_hash(node, shard), cluster.state_hash(leader, shard), "{shard}");
    }
    // Whole for good: another start makes nothing of what was.
    cluster.stop(node);
    cluster.start(node);
    assert!(!is_suspect(&cluster, node));
    cluster.stop(other);
    assert!(cluster.call(put_of_shard("2")).is_ok());
    cluster.stop(leader);
    cluster.start(other);
    check_value(&mut cluster, "2");
}

/// The only copy of a write that the others may read is on the leader: neither its loss may be
/// hidden, nor may the other one be believed that has never heard of it.
#[test]
fn peer_that_missed_a_write_repairs_nobody() {
    let (mut cluster, leader, [node, stale]) = written();
    cut(&mut cluster, stale);
    assert!(cluster.call(put_of_shard("2")).is_ok());
    cluster.reopen(node, damage());
    cluster.stop(leader);
    cluster.cut.clear();
    cluster.run(Duration::from_secs(10));
    assert_eq!(cluster.leader(SHARD), None);
    assert!(is_suspect(&cluster, node));
    let read = ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() };
    let refusal = Refusal::Damaged { node, damage: damage() };
    assert_eq!(cluster.request(node, read), ClientReply::Refused(refusal));
    cluster.start(leader);
    check_value(&mut cluster, "2");
    cluster.run(Duration::from_secs(2));
    assert!(!is_suspect(&cluster, node));
}

#[test]
fn suspect_is_no_part_of_a_majority_and_a_restart_does_not_make_it_one() {
    let (mut cluster, leader, [node, other]) = written();
    cluster.stop(other);
    cluster.reopen(node, damage());
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(SHARD), None, "{leader} reaches nobody that counts");
    cluster.stop(node);
    cluster.start(node);
    cluster.run(Duration::from_secs(5));
    assert!(is_suspect(&cluster, node));
    assert_eq!(cluster.leader(SHARD), None);
    cluster.start(other);
    cluster.run(Duration::from_secs(5));
    assert!(!is_suspect(&cluster, node));
    check_value(&mut cluster, "1");
}

#[test]
fn majority_that_lost_everything_is_refused_for_good() {
    let (mut cluster, _, lost) = written();
    lost.into_iter().for_each(|node| cluster.reopen(node, damage()));
    cluster.run(Duration::from_secs(10));
    for node in lost {
        assert!(is_suspect(&cluster, node));
        let read = ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() };
        let refusal = Refusal::Damaged { node, damage: damage() };
        assert_eq!(cluster.request(node, read), ClientReply::Refused(refusal));
    }
    assert_eq!(cluster.leader(SHARD), None);
}

#[test]
fn node_that_is_damaged_again_begins_another_life() {
    let (mut cluster, leader, [node, _]) = written();
    cluster.reopen(node, damage());
    cluster.run(Duration::from_millis(20));
    cluster.reopen(node, damage());
    assert!(is_suspect(&cluster, node));
    cluster.run(Duration::from_secs(2));
    assert!(!is_suspect(&cluster, node));
    assert_eq!(cluster.state_hash(node, SHARD), cluster.state_hash(leader, SHARD));
}
