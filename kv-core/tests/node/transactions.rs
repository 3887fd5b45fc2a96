//! Transactions over shards.
//!
//! What would go wrong: half of a transaction takes effect; somebody reads between its halves; a
//! lock is given out over what is prepared; a crash leaves something locked for good; a deadlock
//! lasts, or somebody is aborted without one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, CallId, TxnHandle, TxnOp};
use kv_core::id::{Epoch, NodeId, RequestHandle, RequestId, SessionId, ShardId, Timestamp};
use kv_core::op::{Found, Key, KeyRange, PageLimit, Value, WriteOp};
use kv_core::ring::shard_of;
use kv_core::txn::{
    AbortReason, Age, Grant, LockMode, OPERATIONS_MAX, Part, RANGES_PER_SHARD_MAX, TxnId, TxnWrite,
};
use kv_core::wire::{
    AdminRequest, ClientReply, ClientRequest, OracleMessage, PeerMessage, RaftMessage, Refusal,
    TxnMessage, TxnReply, TxnRequest,
};

use crate::support::Cluster;

/// A key of each user shard.
pub(crate) fn keys() -> Vec<Key> {
    let mut keys = BTreeMap::new();
    for number in 0.. {
        let key = Key::new(format!("k{number}"));
        keys.entry(shard_of(&key, 4)).or_insert(key);
        if keys.len() == 4 {
            break;
        }
    }
    keys.into_values().collect()
}

pub(crate) fn value(text: &str) -> Value {
    Value::string(text.as_bytes().to_vec())
}

/// Transactions of one client of a cluster.
pub(crate) trait Transactions {
    fn begin(&mut self, age: u64) -> TxnHandle;
    fn start_step(&mut self, txn: TxnHandle, op: TxnOp) -> CallId;
    fn step(&mut self, txn: TxnHandle, op: TxnOp) -> Result<Answer, CallError>;
    fn put(&mut self, txn: TxnHandle, key: &Key, text: &str);
    fn lock(&mut self, txn: TxnHandle, key: &Key) -> Result<Option<Found>, CallError>;
    fn commit(&mut self, txn: TxnHandle) -> Result<Answer, CallError>;
    fn get(&mut self, key: &Key) -> Option<String>;
    fn is_quiet(&self) -> bool;
}

impl Transactions for Cluster {
    fn begin(&mut self, age: u64) -> TxnHandle {
        self.router.begin(self.now, Age(age))
    }

    fn start_step(&mut self, txn: TxnHandle, op: TxnOp) -> CallId {
        let deadline = self.now + Duration::from_secs(20);
        let call = self.router.call(self.now, Call::Txn { txn, op }, deadline);
        self.run(Duration::from_millis(5));
        call
    }

    fn step(&mut self, txn: TxnHandle, op: TxnOp) -> Result<Answer, CallError> {
        self.call(Call::Txn { txn, op })
    }

    #[track_caller]
    fn put(&mut self, txn: TxnHandle, key: &Key, text: &str) {
        let op = TxnOp::Put { key: key.clone(), value: value(text) };
        assert_eq!(self.step(txn, op), Ok(Answer::Buffered));
    }

    #[track_caller]
    fn lock(&mut self, txn: TxnHandle, key: &Key) -> Result<Option<Found>, CallError> {
        match self.step(txn, TxnOp::GetForUpdate { key: key.clone() })? {
            Answer::Got(found) => Ok(found),
            other => panic!("a read is answered by what it found: {other:?}"),
        }
    }

    fn commit(&mut self, txn: TxnHandle) -> Result<Answer, CallError> {
        self.step(txn, TxnOp::Commit)
    }

    #[track_caller]
    fn get(&mut self, key: &Key) -> Option<String> {
        match self.call(Call::Get { key: key.clone() }) {
            Ok(Answer::Got(found)) => found.map(|found| match found.value {
                Value::String(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            }),
            other => panic!("a get is answered: {other:?}"),
        }
    }

    /// Whether nothing is unfinished on any shard of any node.
    fn is_quiet(&self) -> bool {
        let nodes = (1..=3).map(NodeId);
        nodes.flat_map(|id| (1..=4).map(move |shard| (id, ShardId(shard)))).all(|(id, shard)| {
            self.unfinished(id, shard) == kv_core::machine::Transactions::default()
        })
    }
}

#[track_caller]
fn assert_committed(result: Result<Answer, CallError>) {
    assert!(matches!(result, Ok(Answer::Committed { commit_ts: Some(_) })), "{result:?}");
}

#[track_caller]
fn aborted(result: Result<Answer, CallError>) -> AbortReason {
    match result {
        Err(CallError::Aborted(reason)) => reason,
        other => panic!("it is aborted: {other:?}"),
    }
}

pub(crate) fn write(key: &Key, text: &str) -> Call {
    Call::Write(WriteOp::Put { key: key.clone(), value: value(text) })
}

#[test]
fn transaction_over_all_shards_takes_effect_as_a_whole() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let txn = cluster.begin(1);
    for key in &keys {
        assert_eq!(cluster.lock(txn, key), Ok(None));
        cluster.put(txn, key, "new");
    }
    assert_eq!(cluster.get(&keys[0]), None, "nothing is there before the commit");
    assert_committed(cluster.commit(txn));
    for key in &keys {
        assert_eq!(cluster.get(key).as_deref(), Some("new"));
    }
    cluster.run(Duration::from_secs(1));
    assert!(cluster.is_quiet());
}

#[test]
fn rolled_back_transaction_leaves_nothing() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let txn = cluster.begin(1);
    for key in &keys {
        cluster.lock(txn, key).unwrap();
        cluster.put(txn, key, "new");
    }
    assert_eq!(cluster.step(txn, TxnOp::Rollback), Ok(Answer::RolledBack));
    cluster.run(Duration::from_millis(20));
    for key in &keys {
        assert!(cluster.call(write(key, "other")).is_ok(), "nothing is locked");
        assert_eq!(cluster.get(key).as_deref(), Some("other"));
    }
}

#[test]
fn locked_key_is_not_written_and_not_locked_by_others() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let (first, second) = (cluster.begin(1), cluster.begin(2));
    cluster.lock(first, &keys[0]).unwrap();
    let lock = cluster.start_step(second, TxnOp::GetForUpdate { key: keys[0].clone() });
    let deadline = cluster.now + Duration::from_secs(10);
    let put = cluster.router.call(cluster.now, write(&keys[0], "alone"), deadline);
    cluster.run(Duration::from_millis(300));
    assert!(cluster.done.is_empty(), "{:?}", cluster.done);
    assert_eq!(cluster.get(&keys[0]), None, "a reader passes what is not prepared");
    cluster.put(first, &keys[0], "first");
    assert_committed(cluster.commit(first));
    cluster.run(Duration::from_millis(20));
    let Some(Ok(Answer::Got(Some(found)))) = cluster.done.remove(&lock) else {
        panic!("the second has its lock: {:?}", cluster.done)
    };
    assert_eq!(found.value, value("first"));
    cluster.put(second, &keys[0], "second");
    assert_committed(cluster.commit(second));
    cluster.run(Duration::from_millis(1_500));
    assert!(matches!(cluster.done.remove(&put), Some(Ok(Answer::Written(_)))));
    assert_eq!(cluster.get(&keys[0]).as_deref(), Some("alone"), "the order of asking");
}

#[test]
fn shared_locks_do_not_wait_for_each_other() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let (first, second) = (cluster.begin(1), cluster.begin(2));
    for txn in [first, second] {
        let got = cluster.step(txn, TxnOp::Get { key: keys[0].clone() });
        assert_eq!(got, Ok(Answer::Got(None)));
    }
    for txn in [first, second] {
        assert_eq!(cluster.commit(txn), Ok(Answer::Committed { commit_ts: None }));
    }
}

/// What the messages of a commit cost, oracle and replication included.
fn cost(cluster: &Cluster, skipped: usize) -> (usize, usize, usize) {
    let (mut requests, mut appends, mut finishes) = (0, 0, 0);
    for frame in &cluster.sent[skipped..] {
        for message in &frame.messages {
            match message {
                PeerMessage::Oracle(OracleMessage::Request { .. }) => requests += 1,
                PeerMessage::Raft { message: RaftMessage::Append { entries, .. }, .. } => {
                    appends += usize::from(!entries.is_empty());
                }
                PeerMessage::Txn(TxnMessage::Finish { .. }) => finishes += 1,
                _ => {}
            }
        }
    }
    (requests, appends, finishes)
}

/// Hands the leadership of a shard to a node.
pub(crate) fn lead(cluster: &mut Cluster, shard: ShardId, to: NodeId) {
    let from = cluster.leader(shard).expect("somebody leads");
    if from != to {
        cluster.ask(from, ClientRequest::Admin(AdminRequest::TransferLeader { shard, to }));
        cluster.run(Duration::from_millis(300));
    }
    assert_eq!(cluster.leader(shard), Some(to));
}

#[test]
fn commit_on_one_shard_costs_a_request_to_the_oracle_and_one_replication() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let meta = cluster.leader(ShardId::META).unwrap();
    let other = (1..=3).map(NodeId).find(|id| *id != meta).unwrap();
    lead(&mut cluster, shard_of(&keys[0], 4), other);
    cluster.call(write(&keys[0], "warm")).expect("the bound is raised");
    let txn = cluster.begin(1);
    cluster.lock(txn, &keys[0]).unwrap();
    cluster.put(txn, &keys[0], "new");
    cluster.run(Duration::from_millis(300));
    let skipped = cluster.sent.len();
    let call = cluster.start_step(txn, TxnOp::Commit);
    assert!(cluster.done.contains_key(&call));
    assert_eq!(cost(&cluster, skipped), (1, 2, 0));
}

#[test]
fn commit_on_three_shards_is_answered_after_prepare_oracle_and_decision() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let meta = cluster.leader(ShardId::META).unwrap();
    let other = (1..=3).map(NodeId).find(|id| *id != meta).unwrap();
    for key in &keys[..3] {
        lead(&mut cluster, shard_of(key, 4), other);
    }
    cluster.call(write(&keys[0], "warm")).expect("the bound is raised");
    let txn = cluster.begin(1);
    for key in &keys[..3] {
        cluster.lock(txn, key).unwrap();
        cluster.put(txn, key, "new");
    }
    cluster.run(Duration::from_millis(300));
    let skipped = cluster.sent.len();
    let deadline = cluster.now + Duration::from_secs(5);
    let commit = Call::Txn { txn, op: TxnOp::Commit };
    let call = cluster.router.call(cluster.now, commit, deadline);
    let committed_of = |cluster: &Cluster| cluster.done.contains_key(&call);
    while !committed_of(&cluster) {
        cluster.run(Duration::from_millis(1));
    }
    // Two preparations and a decision to two followers each, then two ends and a note of them.
    let (requests, appends, _) = cost(&cluster, skipped);
    assert_eq!(requests, 1);
    assert!((6..=12).contains(&appends), "{appends}");
}

/// A decision may have been told to its client before a participant knows it: who reads there waits.
#[test]
fn reader_waits_for_a_prepared_transaction() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    cluster.call(write(&keys[0], "warm")).unwrap();
    // Both leaders are on nodes of their own, and hear nothing of one another.
    let anchor = cluster.leader(shard_of(&keys[0], 4)).expect("somebody leads");
    let other = (1..=3).map(NodeId).find(|id| *id != anchor).expect("there are three");
    let shard = shard_of(&keys[1], 4);
    lead(&mut cluster, shard, other);
    let txn = cluster.begin(2);
    for key in &keys[..2] {
        cluster.lock(txn, key).unwrap();
        cluster.put(txn, key, "new");
    }
    cluster.loses = Box::new(|_, message| matches!(message, PeerMessage::Txn(_)));
    assert_committed(cluster.commit(txn));
    assert_eq!(cluster.get(&keys[0]).as_deref(), Some("new"));
    let read = ClientRequest::Read { shard, epoch: Epoch(1), key: keys[1].clone() };
    cluster.replies.clear();
    let handle = cluster.ask(other, read);
    cluster.run(Duration::from_millis(400));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    cluster.loses = Box::new(|_, _| false);
    cluster.run(Duration::from_millis(600));
    let Some(ClientReply::Read(Some(found))) = cluster.replies.remove(&handle) else {
        panic!("the reader is served without asking again: {:?}", cluster.replies)
    };
    assert_eq!(found.value, value("new"));
}

/// Four transactions of which each holds a key and waits for that of the next one. The first is the
/// youngest.
fn plant_ring(cluster: &mut Cluster) -> (Vec<TxnHandle>, Vec<CallId>) {
    let keys = keys();
    let txns: Vec<_> = (0..4).map(|age| cluster.begin(10 - age)).collect();
    for (txn, key) in txns.iter().zip(&keys) {
        cluster.lock(*txn, key).expect("it is free");
    }
    let mut calls = Vec::new();
    for (at, txn) in txns.iter().enumerate() {
        let key = keys[(at + 1) % 4].clone();
        calls.push(cluster.start_step(*txn, TxnOp::GetForUpdate { key }));
    }
    (txns, calls)
}

#[test]
fn deadlock_over_shards_is_broken_within_a_second_by_the_youngest() {
    let mut cluster = Cluster::formed(3);
    let (txns, calls) = plant_ring(&mut cluster);
    cluster.run(Duration::from_millis(980));
    let reason = aborted(cluster.done.remove(&calls[0]).expect("the youngest is told"));
    let AbortReason::Deadlock { cycle } = &reason else { panic!("{reason:?}") };
    assert_eq!(cycle.len(), 4, "{reason:?}");
    // The one that waited for it goes on, and the others once that has committed.
    for at in [3, 2, 1] {
        cluster.run(Duration::from_millis(50));
        let answer = cluster.done.remove(&calls[at]);
        assert!(matches!(answer, Some(Ok(Answer::Got(None)))), "{at}: {answer:?}");
        cluster.commit(txns[at]).unwrap();
    }
}

/// A poll that is lost costs a moment, and does not spoil what the others have answered.
#[test]
fn deadlock_is_broken_though_the_first_copy_of_each_poll_is_lost() {
    let mut cluster = Cluster::formed(3);
    let mut polled = BTreeSet::new();
    cluster.loses = Box::new(move |to, message| match message {
        PeerMessage::Txn(TxnMessage::Poll { poll }) => polled.insert((to, *poll)),
        _ => false,
    });
    let (_, calls) = plant_ring(&mut cluster);
    cluster.run(Duration::from_millis(1_300));
    let reason = aborted(cluster.done.remove(&calls[0]).expect("the youngest is told"));
    assert!(matches!(reason, AbortReason::Deadlock { .. }), "{reason:?}");
}

#[test]
fn who_waits_without_a_cycle_is_not_aborted() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let txns: Vec<_> = (0..5).map(|age| cluster.begin(age)).collect();
    for key in &keys {
        cluster.lock(txns[0], key).unwrap();
    }
    let waits: Vec<_> = txns[1..]
        .iter()
        .zip(&keys)
        .map(|(txn, key)| {
            (*txn, cluster.start_step(*txn, TxnOp::GetForUpdate { key: key.clone() }))
        })
        .collect();
    cluster.run(Duration::from_secs(3));
    assert!(cluster.done.is_empty(), "{:?}", cluster.done);
    cluster.commit(txns[0]).unwrap();
    cluster.run(Duration::from_millis(50));
    for (_, call) in waits {
        assert_eq!(cluster.done.remove(&call), Some(Ok(Answer::Got(None))));
    }
}

/// The coordinator is gone: what it had locked is free again within the time of three beats, and what
/// it had prepared is decided.
#[test]
fn nothing_stays_locked_when_the_coordinator_is_gone() {
    for is_preparing in [false, true] {
        let (mut cluster, keys) = (Cluster::formed(3), keys());
        let txn = cluster.begin(1);
        for key in &keys {
            cluster.lock(txn, key).unwrap();
            cluster.put(txn, key, "new");
        }
        if is_preparing {
            // The preparations arrive, and no answer does.
            let deadline = cluster.now + Duration::from_secs(20);
            let commit = Call::Txn { txn, op: TxnOp::Commit };
            cluster.router.call(cluster.now, commit, deadline);
            cluster.forget_router_after(3);
            cluster.run(Duration::from_millis(30));
            assert!(!cluster.is_quiet(), "they have prepared");
        } else {
            cluster.forget_router_after(0);
        }
        cluster.run(Duration::from_millis(5_500));
        assert!(cluster.is_quiet());
        for key in &keys {
            assert!(cluster.call(write(key, "other")).is_ok());
            assert_eq!(cluster.get(key).as_deref(), Some("other"));
        }
    }
}

/// A new leader holds the locks of what its shard has prepared, and ends it.
#[test]
fn prepared_transaction_survives_the_crash_of_every_leader() {
    for crashed in 1..=3 {
        let (mut cluster, keys) = (Cluster::formed(3), keys());
        cluster.call(write(&keys[0], "warm")).unwrap();
        let txn = cluster.begin(1);
        for key in &keys {
            cluster.lock(txn, key).unwrap();
            cluster.put(txn, key, "new");
        }
        cluster.loses = Box::new(|_, message| matches!(message, PeerMessage::Txn(_)));
        assert_committed(cluster.commit(txn));
        cluster.flush(NodeId(crashed));
        cluster.stop(NodeId(crashed));
        cluster.loses = Box::new(|_, _| false);
        cluster.run(Duration::from_secs(5));
        cluster.start(NodeId(crashed));
        cluster.run(Duration::from_secs(4));
        for key in &keys {
            assert_eq!(cluster.get(key).as_deref(), Some("new"), "n{crashed} crashed");
        }
        assert!(cluster.is_quiet(), "n{crashed} crashed");
    }
}

#[test]
fn locks_are_lost_with_the_leadership() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let txn = cluster.begin(1);
    cluster.lock(txn, &keys[0]).unwrap();
    cluster.put(txn, &keys[0], "new");
    let shard = shard_of(&keys[0], 4);
    let old = cluster.leader(shard).unwrap();
    let new = (1..=3).map(NodeId).find(|id| *id != old).unwrap();
    lead(&mut cluster, shard, new);
    cluster.call(write(&keys[0], "other")).expect("nothing is locked there");
    let reason = aborted(cluster.commit(txn));
    assert_eq!(reason, AbortReason::LeaderChanged { shard });
    assert_eq!(cluster.get(&keys[0]).as_deref(), Some("other"));
}

/// A step that no client of ours makes up, of the first transaction of a session.
fn step_of(shard: ShardId, grant: Option<Grant>, step: TxnRequest) -> ClientRequest {
    let (epoch, txn, age) = (Epoch(1), TxnId { session: session(), number: 1 }, Age(9));
    ClientRequest::Txn { shard, epoch, txn, age, grant, step }
}

fn session() -> SessionId {
    SessionId { opened_ts: Timestamp(1), nonce: 1 }
}

fn request() -> RequestId {
    RequestId { session: session(), sequence: 1, acked_below: 1 }
}

/// A commit of one key, which was read before if there is a grant.
fn commit_of(key: &Key, grant: Option<Grant>) -> ClientRequest {
    let writes = vec![TxnWrite { key: key.clone(), value: Some(value("first")) }];
    let reads = grant.map(|_| key.clone()).into_iter().collect();
    let (part, participants) = (Part { reads, writes, ranges: Vec::new() }, Vec::new());
    let (request, min_commit) = (request(), Timestamp(0));
    let step = TxnRequest::Commit { request, part, participants, min_commit };
    step_of(shard_of(key, 4), grant, step)
}

/// A copy of the first lock was delayed until the locks had fallen, and others have written: who goes
/// on with what it read before must not commit.
#[test]
fn late_copy_of_the_first_lock_brings_no_lost_locks_back() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let (key, shard) = (keys[0].clone(), shard_of(&keys[0], 4));
    let leader = cluster.leader(shard).expect("somebody leads");
    let mode = LockMode::Exclusive;
    let lock = step_of(shard, None, TxnRequest::Lock { key: key.clone(), mode });
    let first = cluster.ask(leader, lock.clone());
    cluster.run(Duration::from_millis(50));
    let reply = cluster.replies.remove(&first);
    let Some(ClientReply::Txn(TxnReply::Locked { grant, .. })) = reply else { panic!("{reply:?}") };
    cluster.run(Duration::from_secs(4));
    assert!(cluster.call(write(&key, "other")).is_ok(), "its locks have fallen");
    cluster.ask(leader, lock);
    cluster.run(Duration::from_millis(50));
    cluster.replies.clear();
    let commit = cluster.ask(leader, commit_of(&key, Some(grant)));
    cluster.run(Duration::from_millis(50));
    let reply = cluster.replies.remove(&commit);
    assert!(matches!(reply, Some(ClientReply::Txn(TxnReply::Aborted(_)))), "{reply:?}");
    assert_eq!(cluster.get(&key).as_deref(), Some("other"));
}

/// A copy of the first lock of a transaction that has ended, whose coordinator knows nothing of it:
/// it would keep others waiting, or be in a deadlock with them.
#[test]
fn late_copy_of_a_lock_brings_no_ended_transaction_back() {
    for is_committed in [false, true] {
        let (mut cluster, keys) = (Cluster::formed(3), keys());
        let (key, shard) = (keys[0].clone(), shard_of(&keys[0], 4));
        let leader = cluster.leader(shard).expect("somebody leads");
        let mode = LockMode::Exclusive;
        let lock = step_of(shard, None, TxnRequest::Lock { key: key.clone(), mode });
        let first = cluster.ask(leader, lock.clone());
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&first);
        let Some(ClientReply::Txn(TxnReply::Locked { grant, .. })) = reply else {
            panic!("{reply:?}")
        };
        let end = match is_committed {
            true => commit_of(&key, Some(grant)),
            false => step_of(shard, Some(grant), TxnRequest::Rollback),
        };
        cluster.ask(leader, end);
        cluster.run(Duration::from_millis(50));
        let copy = cluster.ask(leader, lock);
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&copy);
        let lost = aborted_reply(AbortReason::LocksLost { shard });
        assert_eq!(reply, Some(lost), "committed: {is_committed}");
        let begun = cluster.now;
        cluster.call(write(&key, "free")).expect("nobody holds it");
        assert!(cluster.now < begun + Duration::from_millis(50));
    }
}

/// What a coordinator is told that is asked whether it waits.
#[track_caller]
fn grant_of_wait(cluster: &mut Cluster, asked: RequestHandle) -> Grant {
    cluster.run(Duration::from_millis(200));
    match cluster.replies.remove(&asked) {
        Some(ClientReply::Txn(TxnReply::Waiting { grant })) => grant,
        other => panic!("it is to be asked: {other:?}"),
    }
}

/// A copy of a lock that came late waits at who leads by now, and its coordinator, which has its lock
/// and goes on, knows nothing of it: nobody is in a deadlock with it. Only with the grant it is a wait.
#[test]
fn wait_of_which_the_coordinator_knows_nothing_is_in_no_deadlock() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let lock = |key: &Key, grant| {
        let (key, mode) = (key.clone(), LockMode::Exclusive);
        step_of(shard_of(&key, 4), grant, TxnRequest::Lock { key, mode })
    };
    let leaders =
        [&keys[0], &keys[1]].map(|key| cluster.leader(shard_of(key, 4)).expect("somebody leads"));
    let held = cluster.ask(leaders[1], lock(&keys[1], None));
    let other = cluster.begin(1);
    cluster.lock(other, &keys[0]).expect("it is free");
    assert!(matches!(
        cluster.replies.remove(&held),
        Some(ClientReply::Txn(TxnReply::Locked { .. }))
    ));
    let copy = cluster.ask(leaders[0], lock(&keys[0], None));
    let waits = cluster.start_step(other, TxnOp::GetForUpdate { key: keys[1].clone() });
    cluster.run(Duration::from_millis(1_500));
    assert_eq!(cluster.done.get(&waits), None, "nobody is aborted");
    let grant = grant_of_wait(&mut cluster, copy);
    let known = cluster.ask(leaders[0], lock(&keys[0], Some(grant)));
    cluster.run(Duration::from_millis(900));
    let reply = cluster.replies.remove(&known);
    let is_broken =
        matches!(&reply, Some(ClientReply::Txn(TxnReply::Aborted(AbortReason::Deadlock { .. }))));
    assert!(is_broken, "{reply:?}");
}

fn aborted_reply(reason: AbortReason) -> ClientReply {
    ClientReply::Txn(TxnReply::Aborted(reason))
}

/// What could never end is refused, whatever a client sends.
#[test]
fn steps_that_could_never_end_are_refused() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let shard = shard_of(&keys[0], 4);
    let leader = cluster.leader(shard).expect("somebody leads");
    let writes = vec![TxnWrite { key: keys[0].clone(), value: None }];
    let part = Part { writes, ..Part::default() };
    let other = ShardId(1 + shard.0 % 4);
    let prepare = |request, anchor| TxnRequest::Prepare { request, anchor, part: part.clone() };
    let commit = |participants, min_commit| {
        let (request, part) = (request(), part.clone());
        TxnRequest::Commit { request, part, participants, min_commit: Timestamp(min_commit) }
    };
    let foreign = SessionId { opened_ts: Timestamp(1), nonce: 2 };
    let crowd = Part { reads: vec![keys[0].clone(); OPERATIONS_MAX], ..part.clone() };
    let ranges = vec![KeyRange::from(..); RANGES_PER_SHARD_MAX + 1];
    let ranges = Part { ranges, ..part.clone() };
    let inverted = KeyRange::from("b".."a");
    let scan = TxnRequest::Scan { range: inverted.clone(), limit: PageLimit::MAX };
    let inverted = Part { ranges: vec![inverted], ..part.clone() };
    let steps = vec![
        scan,
        TxnRequest::Prepare { request: request(), anchor: other, part: ranges },
        TxnRequest::Prepare { request: request(), anchor: other, part: inverted },
        prepare(request(), shard),
        prepare(request(), ShardId(5)),
        prepare(request(), ShardId::META),
        prepare(RequestId { session: foreign, ..request() }, other),
        TxnRequest::Prepare { request: request(), anchor: other, part: crowd },
        commit(vec![shard], 0),
        commit(vec![ShardId(9)], 0),
        commit(vec![other; 5], 0),
        commit(Vec::new(), u64::MAX),
    ];
    for (at, step) in steps.into_iter().enumerate() {
        let handle = cluster.ask(leader, step_of(shard, None, step));
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&handle);
        let is_refused = matches!(reply, Some(ClientReply::Refused(Refusal::InvalidStep { .. })));
        assert!(is_refused, "{at}: {reply:?}");
    }
    assert!(cluster.call(write(&keys[0], "free")).is_ok());
    assert!(cluster.is_quiet());
}

/// A coordinator repeats its commit, which waits for a lock by now, and gives way: it was decided
/// before.
#[test]
fn repeated_commit_that_gives_way_hears_how_it_was_decided() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let key = keys[0].clone();
    let shard = shard_of(&key, 4);
    let commit = commit_of(&key, None);
    let leader = cluster.leader(shard).expect("somebody leads");
    let first = cluster.ask(leader, commit.clone());
    cluster.run(Duration::from_millis(50));
    let decided = cluster.replies.remove(&first);
    assert!(matches!(decided, Some(ClientReply::Txn(TxnReply::Committed { .. }))), "{decided:?}");
    let other = cluster.begin(1);
    cluster.lock(other, &key).expect("nobody holds it");
    let second = cluster.ask(leader, commit.clone());
    let grant = grant_of_wait(&mut cluster, second);
    let ClientRequest::Txn { step, .. } = commit else { panic!("{commit:?}") };
    let third = cluster.ask(leader, step_of(shard, Some(grant), step));
    cluster.run(Duration::from_secs(3));
    assert!(cluster.replies.is_empty(), "it waits: {:?}", cluster.replies);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.replies.remove(&third), decided);
}

/// Why a step finds no locks: their leader is gone, or it heard nothing of the coordinator. Also the
/// commit, which goes through the log, and also a beat.
#[test]
fn lost_locks_are_told_with_their_reason() {
    for leader_changes in [false, true] {
        let (mut cluster, keys) = (Cluster::formed(3), keys());
        let (key, shard) = (keys[0].clone(), shard_of(&keys[0], 4));
        let old = cluster.leader(shard).expect("somebody leads");
        let mode = LockMode::Exclusive;
        let lock = step_of(shard, None, TxnRequest::Lock { key: key.clone(), mode });
        let handle = cluster.ask(old, lock);
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&handle);
        let Some(ClientReply::Txn(TxnReply::Locked { grant, .. })) = reply else {
            panic!("{reply:?}")
        };
        let reason = if leader_changes {
            let new = (1..=3).map(NodeId).find(|id| *id != old).expect("there are three");
            lead(&mut cluster, shard, new);
            AbortReason::LeaderChanged { shard }
        } else {
            cluster.run(Duration::from_secs(4));
            AbortReason::LocksLost { shard }
        };
        let leader = cluster.leader(shard).expect("somebody leads");
        let beat = step_of(shard, Some(grant), TxnRequest::Beat);
        let handles = [beat, commit_of(&key, Some(grant))].map(|step| cluster.ask(leader, step));
        cluster.run(Duration::from_millis(50));
        for handle in handles {
            let reply = cluster.replies.remove(&handle);
            assert_eq!(reply, Some(aborted_reply(reason.clone())));
        }
    }
}

/// The youngest of two commits that wait for each other hears of the cycle, though its end goes
/// through the log.
#[test]
fn commit_that_gives_way_in_a_deadlock_hears_of_the_cycle() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let (old, young) = (cluster.begin(1), cluster.begin(2));
    for (txn, locked, written) in [(old, 0, 1), (young, 1, 0)] {
        cluster.lock(txn, &keys[locked]).unwrap();
        cluster.put(txn, &keys[written], "new");
    }
    // The anchors are the keys that are written: the waits are those of the decisions.
    let calls = [old, young].map(|txn| cluster.start_step(txn, TxnOp::Commit));
    cluster.run(Duration::from_secs(2));
    let reason = aborted(cluster.done.remove(&calls[1]).expect("the youngest is told"));
    let AbortReason::Deadlock { cycle } = &reason else { panic!("{reason:?}") };
    assert_eq!(cycle.len(), 2, "{reason:?}");
    assert_committed(cluster.done.remove(&calls[0]).expect("the other one goes on"));
}
