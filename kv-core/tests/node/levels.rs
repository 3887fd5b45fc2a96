//! Reads at any replica: `sequential` and `stale`.
//!
//! What would go wrong: a session misses what it wrote; a read misses a write below the timestamp at
//! which it claims to be; what a stale read sees is older than it may be; a read waits for ever.

use std::time::Duration;

use kv_core::client::{Answer, Call, Level};
use kv_core::id::{Epoch, LogIndex, NodeId, RequestHandle, ShardId, Timestamp};
use kv_core::node::{Input, NodeConfig};
use kv_core::op::{Key, Value, WriteOp};
use kv_core::storage::StorageDamage;
use kv_core::wire::{
    ClientReply, ClientRequest, PeerFrame, PeerMessage, ReadLevel, Refusal, SafeTime,
    SafeTimeMessage,
};

use crate::support::{Cluster, SHARD, key_of_shard, put_of_shard, write_of_shard, written};
use crate::transactions::{Transactions, keys, lead};

const EVER: u32 = 3_600_000;

fn sequential(after: Timestamp) -> ClientRequest {
    read_replica(key_of_shard(), ReadLevel::Sequential { after })
}

fn stale(max_age_ms: u32) -> ClientRequest {
    read_replica(key_of_shard(), ReadLevel::Stale { max_age_ms })
}

fn read_replica(key: Key, level: ReadLevel) -> ClientRequest {
    let shard = kv_core::ring::shard_of(&key, 4);
    ClientRequest::ReadReplica { shard, epoch: Epoch(1), key, level }
}

/// What a replica answered: the text, and at which timestamp.
#[track_caller]
fn text(reply: &ClientReply) -> (String, Timestamp) {
    let ClientReply::ReplicaRead { found: Some(found), at } = reply else {
        panic!("it is served and finds something: {reply:?}")
    };
    assert!(found.version <= *at, "{reply:?}");
    let Value::String(bytes) = &found.value;
    (String::from_utf8_lossy(bytes).into_owned(), *at)
}

#[track_caller]
fn served(cluster: &mut Cluster, node: NodeId, request: ClientRequest) -> (String, Timestamp) {
    let handle = cluster.ask(node, request);
    cluster.run(Duration::from_millis(20));
    answer(cluster, handle)
}

#[track_caller]
fn answer(cluster: &mut Cluster, handle: RequestHandle) -> (String, Timestamp) {
    text(&cluster.replies.remove(&handle).expect("it is answered soon"))
}

#[track_caller]
fn refusal(cluster: &mut Cluster, node: NodeId, request: ClientRequest) -> Refusal {
    let handle = cluster.ask(node, request);
    cluster.run(Duration::from_millis(800));
    match cluster.replies.remove(&handle) {
        Some(ClientReply::Refused(refusal)) => refusal,
        other => panic!("it is refused: {other:?}"),
    }
}

/// Sets the key of [`SHARD`], and returns the version.
#[track_caller]
fn put(cluster: &mut Cluster, text: &str) -> Timestamp {
    match cluster.call(put_of_shard(text)) {
        Ok(Answer::Written(kv_core::op::WriteResult::Put { version })) => version,
        other => panic!("a put is written: {other:?}"),
    }
}

/// The questions and answers about safe times that were sent, from the `skipped`-th frame on.
fn messages(cluster: &Cluster, skipped: usize) -> Vec<(NodeId, SafeTimeMessage)> {
    let frames = cluster.sent[skipped..].iter();
    let messages = frames.flat_map(|frame| frame.messages.iter().map(|it| (frame.from, it)));
    let is_it = |(from, message): (NodeId, &PeerMessage)| match message {
        PeerMessage::SafeTime(message) => Some((from, message.clone())),
        _ => None,
    };
    messages.filter_map(is_it).collect()
}

fn question_count(cluster: &Cluster, skipped: usize) -> usize {
    let messages = messages(cluster, skipped);
    messages.iter().filter(|(_, it)| matches!(it, SafeTimeMessage::Ask { .. })).count()
}

#[test]
fn session_finds_its_write_at_every_replica() {
    let (mut cluster, leader, followers) = written();
    for text in ["2", "3"] {
        let version = put(&mut cluster, text);
        for node in followers.into_iter().chain([leader]) {
            let (seen, at) = served(&mut cluster, node, sequential(version));
            assert_eq!(seen, text, "at n{node}");
            assert!(at >= version, "{at} {version}");
        }
    }
}

/// One answer of the leader serves all reads that it suffices; an idle shard costs nothing.
#[test]
fn follower_asks_only_for_what_it_was_not_told() {
    let (mut cluster, _, [follower, _]) = written();
    let version = put(&mut cluster, "2");
    let skipped = cluster.sent.len();
    served(&mut cluster, follower, sequential(version));
    assert_eq!(question_count(&cluster, skipped), 1);
    for request in [sequential(version), sequential(Timestamp(0)), stale(EVER)] {
        assert_eq!(served(&mut cluster, follower, request).0, "2");
    }
    assert_eq!(question_count(&cluster, skipped), 1, "it was told enough");
    let reads = (0..50).map(|_| stale(0)).collect();
    cluster.ask_all(follower, reads);
    cluster.run(Duration::from_millis(20));
    assert_eq!(cluster.replies.len(), 50);
    assert_eq!(question_count(&cluster, skipped), 2, "one for all that came together");
    let skipped = cluster.sent.len();
    cluster.run(Duration::from_secs(2));
    assert_eq!(messages(&cluster, skipped), []);
}

/// What is read at a safe time never changes: a replica that lags answers as of then.
#[test]
fn replica_reads_at_the_safe_time_and_not_what_is_newest() {
    let (mut cluster, leader, [follower, _]) = written();
    let (_, before) = served(&mut cluster, follower, stale(0));
    let version = put(&mut cluster, "2");
    cluster.run(Duration::from_millis(200));
    cluster.cut.extend([(leader, follower), (follower, leader)]);
    let reply = served(&mut cluster, follower, stale(EVER));
    assert_eq!(reply, ("1".to_owned(), before), "it has applied {version}, and was told less");
}

/// Design rule 6: given out when all that is proposed is applied.
#[test]
fn leader_waits_for_what_is_proposed() {
    let (mut cluster, leader, followers) = written();
    cluster.stalled.extend(followers);
    let write = cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(5));
    let read = cluster.ask(leader, stale(0));
    cluster.run(Duration::from_millis(100));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    for follower in followers {
        cluster.resume(follower);
    }
    cluster.run(Duration::from_millis(50));
    let Some(ClientReply::Written(result)) = cluster.replies.remove(&write) else {
        panic!("{:?}", cluster.replies)
    };
    let kv_core::op::WriteResult::Put { version } = result else { panic!("{result:?}") };
    let (seen, at) = answer(&mut cluster, read);
    assert_eq!((seen.as_str(), at > version), ("v", true), "{at} {version}");
}

/// And when leadership was confirmed after the timestamp had come.
#[test]
fn leader_without_a_majority_gives_no_safe_time() {
    let mut cluster = Cluster::with_shape(5, 4, Some(5));
    cluster.run(Duration::from_secs(5));
    let meta = cluster.leader(ShardId::META).expect("somebody leads");
    let leader = (1..=5).map(NodeId).find(|id| *id != meta).expect("there are five");
    lead(&mut cluster, SHARD, leader);
    put(&mut cluster, "1");
    cluster.run(Duration::from_millis(200));
    // It still gets timestamps.
    for other in (1..=5).map(NodeId).filter(|id| *id != meta) {
        cluster.cut.extend([(leader, other), (other, leader)]);
    }
    let handle = cluster.ask(leader, ClientRequest::Timestamp);
    let read = cluster.ask(leader, stale(0));
    cluster.run(Duration::from_millis(300));
    let reply = cluster.replies.remove(&handle);
    assert!(matches!(reply, Some(ClientReply::Timestamp(_))), "{reply:?}");
    assert_eq!(cluster.leader(SHARD), Some(leader));
    assert!(!cluster.replies.contains_key(&read), "{:?}", cluster.replies);
    cluster.run(Duration::from_millis(500));
    let reply = cluster.replies.remove(&read);
    assert!(matches!(reply, Some(ClientReply::Refused(_))), "{reply:?}");
}

/// A transaction over two shards is committed, and the second does not know it. Returns who leads
/// that, a follower of it, its key, and when the transaction committed.
fn in_doubt() -> (Cluster, NodeId, NodeId, Key, Timestamp) {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let anchor = cluster.leader(SHARD).expect("somebody leads");
    let mut others = (1..=3).map(NodeId).filter(|id| *id != anchor);
    let (leader, follower) = (others.next().expect("one"), others.next().expect("two"));
    lead(&mut cluster, ShardId(2), leader);
    cluster.call(crate::transactions::write(&keys[1], "old")).expect("it is written");
    let txn = cluster.begin(1);
    for key in &keys[..2] {
        cluster.lock(txn, key).expect("it is free");
        cluster.put(txn, key, "new");
    }
    cluster.loses = Box::new(|_, message| matches!(message, PeerMessage::Txn(_)));
    let Ok(Answer::Committed { commit_ts: Some(commit_ts) }) = cluster.commit(txn) else {
        panic!("it commits")
    };
    (cluster, leader, follower, keys[1].clone(), commit_ts)
}

/// What is prepared may have been acknowledged: who wants what is as new as that waits.
#[test]
fn safe_time_ends_below_what_is_prepared() {
    let (mut cluster, leader, follower, key, commit_ts) = in_doubt();
    cluster.replies.clear();
    for node in [leader, follower] {
        let level = ReadLevel::Sequential { after: Timestamp(0) };
        let (seen, at) = served(&mut cluster, node, read_replica(key.clone(), level));
        assert_eq!(seen, "old", "at n{node}");
        assert!(at < commit_ts, "{at} {commit_ts}");
    }
    let levels = [ReadLevel::Sequential { after: commit_ts }, ReadLevel::Stale { max_age_ms: 0 }];
    let nodes = [leader, follower];
    let asked =
        nodes.map(|node| levels.map(|level| cluster.ask(node, read_replica(key.clone(), level))));
    cluster.run(Duration::from_millis(300));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    cluster.loses = Box::new(|_, _| false);
    cluster.run(Duration::from_millis(390));
    for handle in asked.into_iter().flatten() {
        let (seen, at) = answer(&mut cluster, handle);
        assert_eq!((seen.as_str(), at >= commit_ts), ("new", true));
    }
}

/// A read that can be served is not kept from it by one that has to wait.
#[test]
fn modest_read_does_not_wait_for_a_demanding_one() {
    let (mut cluster, _, follower, key, commit_ts) = in_doubt();
    cluster.replies.clear();
    let after = |after| read_replica(key.clone(), ReadLevel::Sequential { after });
    let demanding = read_replica(key.clone(), ReadLevel::Stale { max_age_ms: 0 });
    cluster.ask_all(follower, vec![after(commit_ts), after(Timestamp(0)), demanding]);
    cluster.run(Duration::from_millis(50));
    let replies: Vec<_> = cluster.replies.values().map(text).collect();
    assert!(matches!(&replies[..], [(seen, _)] if seen == "old"), "{replies:?}");
}

/// An answer, as a leader could have sent it.
fn answer_frame(
    cluster: &Cluster,
    (from, to): (NodeId, NodeId),
    (boot, number): (u64, u64),
    told: SafeTime,
) -> PeerFrame {
    let sent = cluster.sent.iter().rev().find(|frame| (frame.from, frame.to) == (from, to));
    let frame = sent.expect("they talk").clone();
    let answer = SafeTimeMessage::Answer { shard: SHARD, boot, number, result: Ok(told) };
    PeerFrame { messages: vec![PeerMessage::SafeTime(answer)], ..frame }
}

/// A follower that is cut off from the leader and has asked it; the boot and number of its question.
fn cut_off() -> (Cluster, NodeId, [NodeId; 2], RequestHandle, (u64, u64)) {
    let (mut cluster, leader, followers) = written();
    cluster.run(Duration::from_millis(200));
    let skipped = cluster.sent.len();
    cluster.cut.extend([(leader, followers[0]), (followers[0], leader)]);
    let read = cluster.ask(followers[0], stale(0));
    let asked = messages(&cluster, skipped);
    let [(_, SafeTimeMessage::Ask { boot, number, .. })] = asked[..] else { panic!("{asked:?}") };
    (cluster, leader, followers, read, (boot, number))
}

/// The index of a safe time says what a replica must have applied.
#[test]
fn replica_waits_until_the_index_is_applied() {
    let (mut cluster, leader, [follower, _], read, asked) = cut_off();
    let version = put(&mut cluster, "2");
    let safe = version.after(1);
    let told = SafeTime { safe, index: cluster.applied(leader, SHARD), issued: safe };
    assert!(cluster.applied(follower, SHARD) < told.index, "it lacks the write");
    let frame = answer_frame(&cluster, (leader, follower), asked, told);
    cluster.input(follower, Input::Receive(frame));
    cluster.run(Duration::from_millis(100));
    assert!(!cluster.replies.contains_key(&read), "{:?}", cluster.replies);
    cluster.cut.clear();
    cluster.run(Duration::from_millis(400));
    assert_eq!(answer(&mut cluster, read), ("2".to_owned(), safe));
}

/// Only to the question that is out, from who was asked, and in this process.
#[test]
fn answer_counts_only_for_the_question_that_asked() {
    let (mut cluster, leader, [follower, third], read, (boot, number)) = cut_off();
    let safe = Timestamp(u64::MAX - 1);
    let told = SafeTime { safe, index: LogIndex(1), issued: safe };
    let wrong = [
        ((leader, follower), (boot ^ 1, number)),
        ((leader, follower), (boot, number + 1)),
        ((leader, follower), (boot, number - 1)),
        ((third, follower), (boot, number)),
    ];
    for (way, asked) in wrong {
        let frame = answer_frame(&cluster, way, asked, told);
        cluster.input(follower, Input::Receive(frame));
        cluster.run(Duration::from_millis(1));
        assert!(!cluster.replies.contains_key(&read), "{way:?} {asked:?}");
    }
    let frame = answer_frame(&cluster, (leader, follower), (boot, number), told);
    cluster.input(follower, Input::Receive(frame));
    assert_eq!(answer(&mut cluster, read), ("1".to_owned(), safe));
}

/// On a slow network an answer comes after the question was repeated, and counts all the same.
#[test]
fn answer_counts_however_long_it_takes() {
    let (mut cluster, leader, [follower, _], read, (boot, number)) = cut_off();
    let skipped = cluster.sent.len();
    cluster.run(Duration::from_millis(450));
    let asked = messages(&cluster, skipped);
    let number_of = |message: &SafeTimeMessage| match message {
        SafeTimeMessage::Ask { number, .. } => *number,
        SafeTimeMessage::Answer { .. } => panic!("only a leader answers"),
    };
    let numbers: Vec<_> = asked.iter().map(|(_, message)| number_of(message)).collect();
    assert_eq!(numbers, [number, number], "it is repeated");
    let safe = Timestamp(u64::MAX - 1);
    let told = SafeTime { safe, index: LogIndex(1), issued: safe };
    let frame = answer_frame(&cluster, (leader, follower), (boot, number), told);
    cluster.input(follower, Input::Receive(frame));
    assert_eq!(answer(&mut cluster, read), ("1".to_owned(), safe));
}

/// Age is counted from when the question was asked, by the clock of the replica.
#[test]
fn stale_read_is_served_without_the_leader_until_it_is_too_old() {
    let (mut cluster, leader, [follower, third]) = written();
    served(&mut cluster, follower, stale(0));
    put(&mut cluster, "2");
    for other in [leader, third] {
        cluster.cut.extend([(other, follower), (follower, other)]);
    }
    cluster.run(Duration::from_millis(100));
    assert_eq!(served(&mut cluster, follower, stale(1_000)).0, "1");
    cluster.run(Duration::from_millis(1_000));
    let refused = refusal(&mut cluster, follower, stale(1_000));
    assert!(matches!(refused, Refusal::NotLeader { .. }), "{refused}");
    assert_eq!(served(&mut cluster, follower, stale(10_000)).0, "1");
    cluster.cut.clear();
    cluster.run(Duration::from_secs(1));
    assert_eq!(served(&mut cluster, follower, stale(1_000)).0, "2");
}

/// Such a read would wait for ever; and it delays nobody.
#[test]
fn timestamp_that_a_client_made_up_is_refused() {
    let (mut cluster, leader, [follower, _]) = written();
    for node in [leader, follower] {
        for after in [Timestamp(u64::MAX - 1), Timestamp::MAX] {
            let made_up = cluster.ask(node, sequential(after));
            let honest = cluster.ask(node, stale(0));
            cluster.run(Duration::from_millis(30));
            assert_eq!(answer(&mut cluster, honest).0, "1");
            let reply = cluster.replies.remove(&made_up);
            let Some(ClientReply::Refused(Refusal::FutureTimestamp { at, newest })) = reply else {
                panic!("{reply:?}")
            };
            assert!(at == after && newest < after);
        }
    }
}

#[test]
fn node_without_a_replica_refuses() {
    let mut cluster = Cluster::with_shape(4, 4, Some(3));
    cluster.run(Duration::from_secs(5));
    put(&mut cluster, "1");
    let has_it = |cluster: &Cluster, id| cluster.applied(id, SHARD) > LogIndex(0);
    let without = (1..=4).map(NodeId).find(|id| !has_it(&cluster, *id)).expect("three of four");
    let refused = refusal(&mut cluster, without, stale(EVER));
    assert!(matches!(refused, Refusal::WrongEpoch { .. } | Refusal::NotReady), "{refused}");
}

/// What it has may lack anything; the index of a safe time says nothing about it.
#[test]
fn replica_that_lost_its_data_refuses() {
    let (mut cluster, leader, [follower, third]) = written();
    // It hears the leader, who does not hear it and so cannot clear it.
    cluster.cut.extend([(third, follower), (follower, third), (follower, leader)]);
    let (file, what) = ("kv.log".to_owned(), "nothing".to_owned());
    cluster.reopen(follower, StorageDamage { file, offset: 0, what });
    cluster.run(Duration::from_millis(300));
    let handle = cluster.ask(follower, stale(EVER));
    let reply = cluster.replies.remove(&handle);
    assert!(matches!(reply, Some(ClientReply::Refused(_))), "{reply:?}");
}

/// A safe time that lies below what is remembered is of no use: another one is asked for.
#[test]
fn safe_time_that_is_forgotten_is_replaced() {
    let mut cluster = Cluster::new(3);
    for id in (1..=3).map(NodeId) {
        let config = NodeConfig { retention: Duration::from_secs(8), ..cluster.config(id) };
        cluster.stop(id);
        cluster.start_with(id, config);
    }
    cluster.run(Duration::from_secs(5));
    put(&mut cluster, "0");
    let leader = cluster.leader(SHARD).expect("somebody leads");
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).expect("there are three");
    let (_, before) = served(&mut cluster, follower, sequential(Timestamp(0)));
    for text in ["1", "2", "3", "4", "5"] {
        cluster.run(Duration::from_secs(2));
        put(&mut cluster, text);
    }
    let skipped = cluster.sent.len();
    let (seen, at) = served(&mut cluster, follower, sequential(Timestamp(0)));
    assert_eq!(seen, "5");
    assert!(at > before);
    assert_eq!(question_count(&cluster, skipped), 1);
}

/// What waits is bounded.
#[test]
fn replica_takes_so_many_reads_and_no_more() {
    let (mut cluster, leader, [follower, third]) = written();
    for other in [leader, third] {
        cluster.cut.extend([(other, follower), (follower, other)]);
    }
    let reads = (0..65_536).map(|_| stale(0)).collect();
    cluster.ask_all(follower, reads);
    assert!(cluster.replies.is_empty());
    let handle = cluster.ask(follower, stale(0));
    let reply = cluster.replies.remove(&handle);
    assert_eq!(reply, Some(ClientReply::Refused(Refusal::Overloaded)));
    cluster.run(Duration::from_millis(800));
    assert_eq!(cluster.replies.len(), 65_536, "each is told to go elsewhere");
    cluster.replies.clear();
    cluster.cut.clear();
    cluster.run(Duration::from_secs(1));
    assert_eq!(served(&mut cluster, follower, stale(0)).0, "1");
}

fn get_replica(level: Level) -> Call {
    Call::GetReplica { key: key_of_shard(), level }
}

#[track_caller]
fn got(cluster: &mut Cluster, level: Level) -> Option<String> {
    match cluster.call(get_replica(level)) {
        Ok(Answer::GotReplica { found, at }) => {
            assert!(cluster.router.session_token().is_some_and(|token| token >= at));
            found.map(|found| match found.value {
                Value::String(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            })
        }
        other => panic!("a replica answers: {other:?}"),
    }
}

/// The client carries what its session has seen, and spreads its reads.
#[test]
fn client_reads_its_writes_at_all_replicas() {
    let (mut cluster, _, _) = written();
    let skipped = cluster.sent.len();
    for round in 0..20 {
        let text = round.to_string();
        let version = put(&mut cluster, &text);
        assert!(cluster.router.session_token() >= Some(version));
        assert_eq!(got(&mut cluster, Level::Sequential).as_deref(), Some(&text[..]));
    }
    let asked = messages(&cluster, skipped);
    let asked = asked.iter().filter(|(_, it)| matches!(it, SafeTimeMessage::Ask { .. }));
    let askers: std::collections::BTreeSet<_> = asked.map(|(from, _)| *from).collect();
    assert_eq!(askers.len(), 2, "both followers are read");
}

/// Who sees that nothing is there is not told since when.
#[test]
fn client_does_not_go_back_behind_a_read_that_found_nothing() {
    let (mut cluster, _, followers) = written();
    for node in followers {
        served(&mut cluster, node, sequential(Timestamp(0)));
    }
    let key = key_of_shard();
    cluster.call(Call::Write(WriteOp::Delete { key: key.clone() })).expect("it is deleted");
    assert_eq!(cluster.router.session_token(), None, "the delete told no timestamp");
    for _ in 0..5 {
        assert_eq!(got(&mut cluster, Level::Sequential), None, "every follower knows an older one");
    }
    put(&mut cluster, "2");
    assert_eq!(got(&mut cluster, Level::Stale { max_age: Duration::ZERO }).as_deref(), Some("2"));
    cluster.call(Call::Write(WriteOp::Delete { key: key.clone() })).expect("it is deleted");
    // Another session sees only that it is gone.
    cluster.forget_router_after(0);
    assert_eq!(cluster.call(Call::Get { key }), Ok(Answer::Got(None)));
    assert_eq!(cluster.router.session_token(), None);
    for _ in 0..5 {
        assert_eq!(got(&mut cluster, Level::Sequential), None);
    }
}

/// A token says all that another session has to know.
#[test]
fn session_goes_on_elsewhere() {
    let (mut cluster, _, followers) = written();
    for node in followers {
        served(&mut cluster, node, sequential(Timestamp(0)));
    }
    put(&mut cluster, "2");
    let token = cluster.router.session_token().expect("the put told its version");
    cluster.forget_router_after(0);
    cluster.router.join_session(token);
    for _ in 0..5 {
        assert_eq!(got(&mut cluster, Level::Sequential).as_deref(), Some("2"));
    }
}

/// One replica that cannot serve does not keep the client from being served.
#[test]
fn client_goes_on_to_another_replica() {
    let (mut cluster, leader, [follower, third]) = written();
    for other in [leader, third] {
        cluster.cut.extend([(other, follower), (follower, other)]);
    }
    let before = cluster.now;
    for _ in 0..10 {
        let fresh = Level::Stale { max_age: Duration::ZERO };
        assert_eq!(got(&mut cluster, fresh).as_deref(), Some("1"));
    }
    let took = cluster.now.saturating_since(before);
    assert!(took < Duration::from_secs(8), "{took:?} of the cluster's own clock");
    cluster.stop(follower);
    for _ in 0..10 {
        assert_eq!(got(&mut cluster, Level::Sequential).as_deref(), Some("1"));
    }
}

#[test]
fn value_of_a_key_that_was_never_written_is_nothing() {
    let (mut cluster, _, [follower, _]) = written();
    let other = (0..).map(|at| Key::new(format!("x{at}")));
    let mut other = other.filter(|key| kv_core::ring::shard_of(key, 4) == SHARD);
    let key = other.next().expect("every shard has keys");
    let level = ReadLevel::Sequential { after: Timestamp(0) };
    let handle = cluster.ask(follower, read_replica(key, level));
    cluster.run(Duration::from_millis(20));
    let reply = cluster.replies.remove(&handle);
    assert!(matches!(reply, Some(ClientReply::ReplicaRead { found: None, .. })), "{reply:?}");
}
