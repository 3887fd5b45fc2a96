//! What writes and commits cost: messages, in order, exactly.
//!
//! What would go wrong: a commit that asks the oracle twice, prepares one shard after the other, or
//! replicates more than it must before its client is answered.
//!
//! All leaders are on one node, which is not that of the oracle, so that every message is one between
//! nodes. A letter stands for what is sent to all followers of a shard, or to the leader of the meta
//! group.

use std::time::Duration;

use kv_core::client::{Call, TxnHandle, TxnOp};
use kv_core::id::{Epoch, NodeId, RequestId, SessionId, ShardId, Timestamp};
use kv_core::machine::Command;
use kv_core::op::{Key, WriteOp};
use kv_core::ring::shard_of;
use kv_core::txn::{Age, TxnWrite};
use kv_core::wire::{
    ClientReply, ClientRequest, OracleMessage, PeerFrame, PeerMessage, RaftMessage, TxnMessage,
    TxnRequest,
};

use crate::support::Cluster;
use crate::transactions::{Transactions, lead, value, write};

const SHARD_COUNT: u32 = 8;
/// Followers of each shard.
const FOLLOWER_COUNT: usize = 2;

/// A cluster whose user shards are all led from one node, and a key of each.
fn prepare_cluster() -> (Cluster, Vec<Key>) {
    let mut cluster = Cluster::with_shape(3, SHARD_COUNT, None);
    cluster.run(Duration::from_secs(5));
    let meta = cluster.leader(ShardId::META).expect("somebody leads");
    let leader = (1..=3).map(NodeId).find(|id| *id != meta).expect("there are three");
    let mut keys = Vec::new();
    for shard in (1..=SHARD_COUNT).map(ShardId) {
        let mut candidates = (0..).map(|number| Key::new(format!("k{number}")));
        let is_there = |key: &Key| shard_of(key, SHARD_COUNT) == shard;
        keys.push(candidates.find(is_there).expect("every shard has keys"));
        lead(&mut cluster, shard, leader);
    }
    for key in &keys {
        cluster.call(write(key, "warm")).expect("nothing is broken");
    }
    (cluster, keys)
}

/// The kind of an entry.
fn letter_of(payload: &[u8]) -> Option<char> {
    match Command::decode(payload).expect("leaders propose commands") {
        Command::Write { .. } => Some('w'),
        Command::Prepare { .. } => Some('p'),
        Command::Decide { .. } => Some('d'),
        Command::Finish { .. } => Some('f'),
        Command::Forget { .. } => Some('g'),
        Command::Noop
        | Command::RaiseBound(_)
        | Command::RaiseWatermark { .. }
        | Command::Meta(_)
        | Command::Configuration(_) => None,
    }
}

/// What a message says that belongs to a write: an entry for each follower, the question to the
/// oracle and its answer, and a follower's `a` for having an entry.
fn letters_of(message: &PeerMessage) -> Vec<char> {
    match message {
        PeerMessage::Raft { message: RaftMessage::Append { entries, .. }, .. } => {
            entries.iter().filter_map(|(_, payload)| letter_of(payload)).collect()
        }
        PeerMessage::Oracle(OracleMessage::Request { .. }) => vec!['o'],
        PeerMessage::Raft { message: RaftMessage::AppendAccepted { .. }, .. } => vec!['a'],
        PeerMessage::Txn(TxnMessage::Finish { .. }) => vec!['!'],
        _ => Vec::new(),
    }
}

fn letters(frames: &[PeerFrame]) -> String {
    frames.iter().flat_map(|frame| &frame.messages).flat_map(letters_of).collect()
}

/// What a call costs: what the client sends, and the letters of what nodes have sent before they
/// answered it, and afterwards without acknowledgements, until all is quiet.
fn cost_of(cluster: &mut Cluster, call: Call) -> (Vec<&'static str>, [String; 2]) {
    cluster.run(Duration::from_millis(300));
    let (sent, requested) = (cluster.sent.len(), cluster.requested.len());
    cluster.call(call).expect("nothing is broken");
    let answered_at = cluster.answered_at;
    cluster.run(Duration::from_secs(1));
    let requests = cluster.requested[requested..].iter().map(|request| match request {
        ClientRequest::Write { .. } => "write",
        ClientRequest::Txn { step: TxnRequest::Prepare { .. }, .. } => "prepare",
        ClientRequest::Txn { step: TxnRequest::Commit { .. }, .. } => "commit",
        other => panic!("it costs a {other:?}"),
    });
    let (before, after) = cluster.sent[sent..].split_at(answered_at - sent);
    (requests.collect(), [letters(before), letters(after).replace('a', "")])
}

/// A transaction that has locked and written a key of each of the first shards.
fn begin_over(cluster: &mut Cluster, keys: &[Key]) -> TxnHandle {
    let txn = cluster.begin(1);
    for key in keys {
        cluster.lock(txn, key).expect("nobody else locks");
        cluster.put(txn, key, "new");
    }
    txn
}

#[test]
fn put_costs_a_question_to_the_oracle_and_one_round_of_replication() {
    let (mut cluster, keys) = prepare_cluster();
    let cost = cost_of(&mut cluster, write(&keys[0], "new"));
    assert_eq!(cost, (vec!["write"], ["owwaa".into(), String::new()]));
}

#[test]
fn commit_on_one_shard_costs_as_much_as_a_put() {
    let (mut cluster, keys) = prepare_cluster();
    let txn = begin_over(&mut cluster, &keys[..1]);
    let commit = Call::Txn { txn, op: TxnOp::Commit };
    let expected = (vec!["commit"], ["oddaa".into(), String::new()]);
    assert_eq!(cost_of(&mut cluster, commit), expected);
    let writes = vec![TxnWrite { key: keys[0].clone(), value: Some(value("batch")) }];
    let batch = Call::WriteBatch { age: Age(2), writes };
    assert_eq!(cost_of(&mut cluster, batch), expected);
}

/// On `count` shards: all preparations at once, then the oracle, then the decision, which answers the
/// client in the step that tells the participants; and in the end one entry that forgets.
#[track_caller]
fn check_commit(cost: &(Vec<&'static str>, [String; 2]), count: usize) {
    let mut requests = vec!["prepare"; count - 1];
    requests.push("commit");
    let all = |letter: &str, shards: usize| letter.repeat(shards * FOLLOWER_COUNT);
    let [before, after] = &cost.1;
    let (prepared, decided) = before.split_once('o').expect("the oracle is asked");
    assert_eq!(cost.0, requests, "{count} shards");
    // No preparation waits for another one.
    assert_eq!(prepared, all("p", count - 1) + &all("a", count - 1), "{count} shards");
    // The leaders of the participants are on the same node, so they are told without a message.
    let ends = all("d", 1) + &all("f", count - 1);
    assert_eq!(decided.replace('a', ""), ends, "{count} shards");
    assert_eq!(*after, all("g", 1), "{count} shards");
}

#[test]
fn commit_on_several_shards_costs_one_round_of_preparations_the_oracle_and_one_decision() {
    let (mut cluster, keys) = prepare_cluster();
    for count in 2..=5 {
        let txn = begin_over(&mut cluster, &keys[..count]);
        let cost = cost_of(&mut cluster, Call::Txn { txn, op: TxnOp::Commit });
        check_commit(&cost, count);
        let new = |key: &Key| TxnWrite { key: key.clone(), value: Some(value("batch")) };
        let writes = keys[..count].iter().map(new).collect();
        let cost = cost_of(&mut cluster, Call::WriteBatch { age: Age(2), writes });
        check_commit(&cost, count);
    }
}

/// One question to the oracle serves all that has come to a node when it leaves.
#[test]
fn writes_of_one_step_share_a_question_to_the_oracle() {
    let (mut cluster, keys) = prepare_cluster();
    cluster.run(Duration::from_millis(300));
    let (sent, leader) = (cluster.sent.len(), cluster.leader(ShardId(1)).expect("somebody leads"));
    let session = SessionId { opened_ts: Timestamp(1), nonce: 1 };
    let ask = |(key, sequence): (&Key, u64)| ClientRequest::Write {
        shard: shard_of(key, SHARD_COUNT),
        epoch: Epoch(1),
        request: RequestId { session, sequence, acked_below: 1 },
        op: WriteOp::Put { key: key.clone(), value: value("new") },
    };
    let requests = keys[..4].iter().zip(1..).map(ask).collect();
    cluster.ask_all(leader, requests);
    cluster.run(Duration::from_millis(50));
    let is_written = |reply: &ClientReply| matches!(reply, ClientReply::Written(_));
    assert_eq!(cluster.replies.values().filter(|reply| is_written(reply)).count(), 4);
    let (written, acknowledged) = ("w".repeat(8), "a".repeat(8));
    assert_eq!(letters(&cluster.sent[sent..])[..17], format!("o{written}{acknowledged}"));
}
