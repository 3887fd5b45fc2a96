//! Reads at a timestamp, and reads of what is newest while it is being written.
//!
//! What would go wrong: a read misses a write that another one at the same timestamp sees, because
//! the write had its timestamp and was not there yet; or it is served at a timestamp that is still to
//! come, and what it saw changes.

use std::time::Duration;

use kv_core::client::Call;
use kv_core::id::{Epoch, NodeId, RequestHandle, ShardId, Timestamp};
use kv_core::node::NodeConfig;
use kv_core::op::{Key, KeyRange, Page, PageLimit, Value};
use kv_core::ring::shard_of;
use kv_core::txn::{Age, TxnWrite};
use kv_core::wire::{AdminRequest, ClientReply, ClientRequest, Refusal};

use crate::support::{Cluster, SHARD, key_of_shard, put_of_shard, write_of_shard};

/// A cluster of three of which `meta` leads the meta group and `other` the shard.
fn apart() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::formed(3);
    let meta = cluster.leader(ShardId::META).expect("somebody leads");
    let other = (1..=3).map(NodeId).find(|id| *id != meta).expect("there are three");
    if cluster.leader(SHARD) != Some(other) {
        let from = cluster.leader(SHARD).expect("somebody leads");
        let request = AdminRequest::TransferLeader { shard: SHARD, to: other };
        cluster.ask(from, ClientRequest::Admin(request));
        cluster.run(Duration::from_millis(300));
    }
    assert_eq!(cluster.leader(SHARD), Some(other));
    cluster.call(put_of_shard("0")).expect("a put is written");
    cluster.replies.clear();
    (cluster, meta, other)
}

fn read_at(at: Timestamp) -> ClientRequest {
    ClientRequest::ReadAt { shard: SHARD, epoch: Epoch(1), at, key: key_of_shard() }
}

fn scan_at(at: Timestamp) -> ClientRequest {
    let range = KeyRange { start: Key::new(""), end: None };
    ClientRequest::ScanAt { shard: SHARD, epoch: Epoch(1), at, range, limit: PageLimit::MAX }
}

fn read() -> ClientRequest {
    ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() }
}

#[track_caller]
fn timestamp(cluster: &mut Cluster, node: NodeId) -> Timestamp {
    match served(cluster, node, ClientRequest::Timestamp) {
        ClientReply::Timestamp(timestamp) => timestamp,
        other => panic!("{other:?}"),
    }
}

/// The answer to a request, which takes some messages.
#[track_caller]
fn served(cluster: &mut Cluster, node: NodeId, request: ClientRequest) -> ClientReply {
    let handle = cluster.ask(node, request);
    cluster.run(Duration::from_millis(20));
    cluster.replies.remove(&handle).expect("it is answered soon")
}

/// The text that a read or a scan of the one key has found.
#[track_caller]
fn text(reply: &ClientReply) -> Option<String> {
    let found = match reply {
        ClientReply::Read(found) => found.clone(),
        ClientReply::Page(Page { rows, next: None }) => rows.first().map(|row| row.found.clone()),
        other => panic!("{other:?}"),
    };
    found.map(|found| {
        let Value::String(bytes) = found.value;
        String::from_utf8(bytes.to_vec()).expect("text was written")
    })
}

#[track_caller]
fn answer(cluster: &mut Cluster, handle: RequestHandle) -> String {
    let reply = cluster.replies.remove(&handle).expect("it was answered");
    text(&reply).expect("the key exists")
}

#[test]
fn what_is_read_at_a_timestamp_stays_what_it_was() {
    let (mut cluster, meta, leader) = apart();
    let before = timestamp(&mut cluster, meta);
    cluster.call(put_of_shard("1")).unwrap();
    // Any node gives timestamps, and of two the later one is higher.
    let after = timestamp(&mut cluster, leader);
    assert!(before < after, "{before} {after}");
    cluster.call(put_of_shard("2")).unwrap();
    for (at, expected) in [(before, "0"), (after, "1"), (before, "0")] {
        for request in [read_at(at), scan_at(at)] {
            let reply = served(&mut cluster, leader, request);
            assert_eq!(text(&reply).as_deref(), Some(expected), "at {at}");
        }
    }
    let reply = served(&mut cluster, leader, read_at(Timestamp(1)));
    assert_eq!(text(&reply), None, "nothing was written then");
}

/// Design rule 3: what will have been true then is not decided.
#[test]
fn timestamp_that_was_not_issued_is_refused() {
    let (mut cluster, meta, leader) = apart();
    let issued = timestamp(&mut cluster, meta);
    let minute = Timestamp(60_000 << 18);
    for at in [Timestamp(issued.0 + minute.0), Timestamp(u64::MAX - 1), Timestamp::MAX] {
        for request in [read_at(at), scan_at(at)] {
            let reply = served(&mut cluster, leader, request);
            let Some(Refusal::FutureTimestamp { at: refused, newest }) = refusal(reply) else {
                panic!("{at} was not issued")
            };
            assert_eq!(refused, at);
            assert!(newest < at);
        }
    }
}

fn refusal(reply: ClientReply) -> Option<Refusal> {
    match reply {
        ClientReply::Refused(refusal) => Some(refusal),
        _ => None,
    }
}

/// Design rule 2: an answer of the oracle that is on its way may be below the time of the read.
#[test]
fn read_at_a_timestamp_waits_for_timestamps_on_their_way() {
    let (mut cluster, meta, leader) = apart();
    // The write's timestamp is issued, and cannot arrive.
    cluster.cut.push((meta, leader));
    let write = cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(1));
    let at = timestamp(&mut cluster, meta);
    // The third node confirms the leadership.
    let early = cluster.ask(leader, read_at(at));
    cluster.run(Duration::from_millis(30));
    assert!(!cluster.replies.contains_key(&early), "the write may be below {at}");
    cluster.cut.clear();
    cluster.run(Duration::from_millis(500));
    let seen = answer(&mut cluster, early);
    let Some(ClientReply::Written(result)) = cluster.replies.remove(&write) else {
        panic!("the write is answered: {:?}", cluster.replies)
    };
    let kv_core::op::WriteResult::Put { version } = result else { panic!("{result:?}") };
    // It was asked for anew, or it was not: the read agrees.
    assert_eq!(seen == "0", version > at, "{seen} at {at}, written at {version}");
    let later = served(&mut cluster, leader, read_at(at));
    assert_eq!(text(&later).as_deref(), Some(&seen[..]), "the same timestamp shows the same");
}

/// Design rule 2: and so may an entry that is proposed and not committed.
#[test]
fn reads_wait_for_what_is_proposed() {
    let (mut cluster, meta, leader) = apart();
    let followers: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    cluster.stalled.extend(&followers);
    let write = cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(5));
    let at = timestamp(&mut cluster, meta);
    let reads = [read_at(at), scan_at(at), read()].map(|request| cluster.ask(leader, request));
    cluster.run(Duration::from_millis(100));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    for follower in followers {
        cluster.stalled.remove(&follower);
        cluster.resume(follower);
    }
    cluster.run(Duration::from_millis(50));
    assert!(cluster.replies.contains_key(&write));
    for handle in reads {
        assert_eq!(answer(&mut cluster, handle), "v", "the write came before");
    }
}

/// Another read at a timestamp between that of the write and that of a write elsewhere, which was
/// acknowledged before this read came, sees the write.
#[test]
fn read_of_what_is_newest_waits_for_the_timestamp_of_a_write_of_its_key() {
    let (mut cluster, meta, leader) = apart();
    cluster.cut.push((meta, leader));
    cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(1));
    cluster.replies.clear();
    let early = cluster.ask(leader, read());
    // The third node confirms the leadership.
    cluster.run(Duration::from_millis(10));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    cluster.cut.clear();
    cluster.run(Duration::from_millis(500));
    assert_eq!(answer(&mut cluster, early), "v");
}

/// A cluster that remembers eight seconds.
fn forgetful() -> Cluster {
    let mut cluster = Cluster::new(3);
    for id in (1..=3).map(NodeId) {
        let config = NodeConfig { retention: Duration::from_secs(8), ..cluster.config(id) };
        cluster.stop(id);
        cluster.start_with(id, config);
    }
    cluster.run(Duration::from_secs(5));
    cluster
}

/// Also those that only ever take part in what other shards decide.
#[test]
fn watermarks_rise_with_the_decisions_of_other_shards() {
    let mut cluster = forgetful();
    let other = (0..).map(|at| Key::new(format!("k{at}")));
    let mut other = other.filter(|key| shard_of(key, 4) == ShardId(2));
    let keys = [key_of_shard(), other.next().expect("every shard has keys")];
    let batch = |text: &str| {
        let value = Some(Value::string(text.to_owned()));
        let writes = keys.iter().map(|key| TxnWrite { key: key.clone(), value: value.clone() });
        Call::WriteBatch { age: Age(1), writes: writes.collect() }
    };
    cluster.call(batch("0")).unwrap();
    let old = timestamp(&mut cluster, NodeId(1));
    for text in ["1", "2", "3", "4", "5"] {
        cluster.run(Duration::from_secs(2));
        cluster.call(batch(text)).unwrap();
    }
    cluster.run(Duration::from_secs(1));
    for (key, shard) in keys.into_iter().zip([SHARD, ShardId(2)]) {
        let leader = cluster.leader(shard).expect("somebody leads");
        let request = ClientRequest::ReadAt { shard, epoch: Epoch(1), at: old, key };
        let reply = served(&mut cluster, leader, request);
        assert!(matches!(refusal(reply), Some(Refusal::SnapshotTooOld { .. })), "{shard}");
    }
}

/// What is older than the retention cannot be read any more, and what is younger can.
#[test]
fn leaders_raise_the_watermark_with_their_writes() {
    let mut cluster = forgetful();
    cluster.call(put_of_shard("0")).unwrap();
    let leader = cluster.leader(SHARD).expect("somebody leads");
    let old = timestamp(&mut cluster, leader);
    for text in ["1", "2", "3", "4", "5"] {
        cluster.run(Duration::from_secs(2));
        cluster.call(put_of_shard(text)).unwrap();
    }
    let reply = served(&mut cluster, leader, read_at(old));
    let Some(Refusal::SnapshotTooOld { at, oldest }) = refusal(reply) else {
        panic!("it is ten seconds old")
    };
    assert_eq!(at, old);
    let age = |timestamp: Timestamp| (timestamp.millis() - old.millis()) / 1_000;
    assert!((1..=2).contains(&age(oldest)), "{} s after the first", age(oldest));
    let reply = served(&mut cluster, leader, read_at(oldest));
    assert!(matches!(text(&reply).as_deref(), Some("0" | "1")), "{reply:?}");
    let applied = |id| cluster.applied(id, SHARD);
    assert!(
        (1..=3).map(NodeId).all(|id| applied(id).0 < 16),
        "a step of the watermark is an eighth"
    );
}

/// A range that ends before it begins, as no client of ours asks for, is no reason to panic.
#[test]
fn scan_of_an_inverted_range_is_refused() {
    let (mut cluster, meta, leader) = apart();
    let at = timestamp(&mut cluster, meta);
    for end in ["a", "z"] {
        let range = KeyRange { start: Key::new("z"), end: Some(Key::new(end)) };
        let ClientRequest::ScanAt { shard, epoch, limit, .. } = scan_at(at) else { unreachable!() };
        let request = ClientRequest::ScanAt { shard, epoch, at, range, limit };
        let reply = served(&mut cluster, leader, request);
        assert!(matches!(refusal(reply), Some(Refusal::InvalidStep { .. })), "to {end}");
    }
}

/// A shard that does not exist, or the one without keys, is no reason to wait.
#[test]
fn scan_of_no_shard_is_refused() {
    let (mut cluster, meta, leader) = apart();
    let at = timestamp(&mut cluster, meta);
    for shard in [ShardId::META, ShardId(99)] {
        let ClientRequest::ScanAt { epoch, range, limit, .. } = scan_at(at) else { unreachable!() };
        let request = ClientRequest::ScanAt { shard, epoch, at, range, limit };
        let reply = served(&mut cluster, leader, request);
        assert!(matches!(refusal(reply), Some(Refusal::InvalidStep { .. })), "{shard}");
    }
}
