//! Timestamps: who issues them, who may use them, and what a write costs.
//!
//! What would go wrong: two leaders issue the same timestamp, or a deposed one a lower one than has
//! been seen; a write gets a timestamp that was asked for before it came, and is ordered before what
//! its client has already read; a cut link stalls a node for good.

use std::collections::BTreeSet;
use std::time::Duration;

use kv_core::client::{Answer, Call};
use kv_core::id::{NodeId, ShardId, Term, Timestamp};
use kv_core::node::{Input, TimerReason};
use kv_core::op::{Key, Value, WriteOp, WriteResult};
use kv_core::wire::{
    AdminRequest, ClientReply, ClientRequest, Elsewhere, Issued, OracleMessage, PeerMessage,
    RaftMessage, Receipt,
};

use crate::frames::frame;
use crate::support::{Cluster, SHARD, UNIX_TIME, put_of_shard, write_of_shard};

const META: ShardId = ShardId::META;

/// Puts to a key and returns its version.
#[track_caller]
fn put(cluster: &mut Cluster, key: &str) -> Timestamp {
    let op = WriteOp::Put { key: Key::new(key.to_owned()), value: Value::string("v") };
    match cluster.call(Call::Write(op)) {
        Ok(Answer::Written(WriteResult::Put { version })) => version,
        other => panic!("a put is written: {other:?}"),
    }
}

/// A cluster of three of which `meta` leads the meta group and `other` the shard, and who is left.
fn apart() -> (Cluster, NodeId, NodeId, NodeId) {
    let mut cluster = Cluster::formed(3);
    let meta = cluster.leader(META).expect("somebody leads");
    let nodes = (1..=3).map(NodeId);
    let other = nodes.clone().find(|id| *id != meta).expect("there are three");
    if cluster.leader(SHARD) != Some(other) {
        let from = cluster.leader(SHARD).expect("somebody leads");
        let request = AdminRequest::TransferLeader { shard: SHARD, to: other };
        cluster.ask(from, ClientRequest::Admin(request));
        cluster.run(Duration::from_millis(300));
    }
    assert_eq!((cluster.leader(META), cluster.leader(SHARD)), (Some(meta), Some(other)));
    let rest = nodes.into_iter().find(|id| ![meta, other].contains(id)).expect("there are three");
    (cluster, meta, other, rest)
}

/// What was said about timestamps since the first `skipped` frames.
fn spoken(cluster: &Cluster, skipped: usize) -> Vec<(NodeId, NodeId, OracleMessage)> {
    let mut spoken = Vec::new();
    for frame in &cluster.sent[skipped..] {
        for message in &frame.messages {
            if let PeerMessage::Oracle(message) = message {
                spoken.push((frame.from, frame.to, message.clone()));
            }
        }
    }
    spoken
}

/// The result of the only write that was asked directly.
#[track_caller]
fn version(cluster: &mut Cluster) -> Timestamp {
    match cluster.replies.pop_first() {
        Some((_, ClientReply::Written(WriteResult::Put { version }))) => version,
        other => panic!("the write is answered: {other:?}"),
    }
}

#[test]
fn versions_grow_over_all_shards_and_follow_the_clock() {
    let mut cluster = Cluster::formed(3);
    let mut last = Timestamp(0);
    for at in 0..40 {
        let version = put(&mut cluster, &format!("k{at}"));
        assert!(version > last, "{version} after {last}");
        last = version;
    }
    let shown = Duration::from_millis(last.millis());
    let clock = UNIX_TIME + Duration::from_nanos(cluster.now.as_nanos());
    let age = clock.saturating_sub(shown);
    assert!(shown <= clock && age < Duration::from_millis(20), "{shown:?} at {clock:?}");
}

#[test]
fn a_put_costs_one_request_to_the_oracle_and_one_round_of_replication() {
    let (mut cluster, meta, leader, _) = apart();
    cluster.call(put_of_shard("warm")).expect("the bound is raised");
    cluster.run(Duration::from_millis(300));
    let skipped = cluster.sent.len();
    cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(5));
    version(&mut cluster);
    let (mut requests, mut replies, mut appends) = (0, 0, 0);
    for frame in &cluster.sent[skipped..] {
        for message in &frame.messages {
            match message {
                PeerMessage::Oracle(OracleMessage::Request { count, .. }) => {
                    assert_eq!((frame.from, frame.to, *count), (leader, meta, 1));
                    requests += 1;
                }
                PeerMessage::Oracle(OracleMessage::Reply { .. }) => replies += 1,
                PeerMessage::Raft { message: RaftMessage::Append { entries, .. }, .. } => {
                    appends += usize::from(!entries.is_empty());
                }
                _ => {}
            }
        }
    }
    assert_eq!((requests, replies, appends), (1, 1, 2), "and one append to each follower");
}

#[test]
fn one_request_serves_all_shards_of_a_node() {
    let (mut cluster, _, leader, _) = apart();
    let skipped = cluster.sent.len();
    cluster.ask_all(leader, (1..=5).map(write_of_shard).collect());
    cluster.run(Duration::from_millis(5));
    let counts =
        spoken(&cluster, skipped).into_iter().filter_map(|(_, _, message)| match message {
            OracleMessage::Request { count, .. } => Some(count),
            OracleMessage::Reply { .. } => None,
        });
    assert_eq!(counts.collect::<Vec<_>>(), [5]);
    assert_eq!(cluster.replies.len(), 5);
}

/// Design rule 1: a timestamp serves only work that was registered before it was asked for.
#[test]
fn work_that_comes_while_a_request_is_out_is_asked_for_by_another() {
    let (mut cluster, meta, leader, _) = apart();
    cluster.cut.push((meta, leader));
    cluster.ask(leader, write_of_shard(1));
    let skipped = cluster.sent.len();
    cluster.ask(leader, write_of_shard(2));
    let asks = spoken(&cluster, skipped);
    let number = |(_, _, message): &(NodeId, NodeId, OracleMessage)| match message {
        OracleMessage::Request { number, count, .. } => (*number, *count),
        OracleMessage::Reply { .. } => panic!("the link is cut"),
    };
    assert_eq!(asks.iter().map(number).collect::<Vec<_>>(), [(2, 1)]);
    cluster.cut.clear();
    cluster.run(Duration::from_millis(200));
    assert_eq!(cluster.replies.len(), 2);
}

/// The answer to an abandoned request was issued before work that came after it: using it would put
/// that work before what its client has already seen.
#[test]
fn late_answer_to_an_abandoned_request_is_dropped() {
    let (mut cluster, meta, leader, rest) = apart();
    cluster.call(put_of_shard("warm")).expect("the bound is raised");
    cluster.cut.extend([(meta, leader), (rest, leader)]);
    let skipped = cluster.sent.len();
    cluster.ask(leader, write_of_shard(1));
    // Frames on a cut link are lost, so the late one is told by hand.
    cluster.run(Duration::from_millis(1));
    let (_, _, late) = spoken(&cluster, skipped)
        .into_iter()
        .find(|(from, _, _)| *from == meta)
        .expect("it answers in vain");
    cluster.run(Duration::from_millis(1_500));
    assert!(cluster.timers.contains(&(leader, TimerReason::Oracle)));
    assert!(cluster.replies.is_empty(), "nothing was heard");
    let frame = frame(&cluster, meta, leader, PeerMessage::Oracle(late.clone()));
    cluster.input(leader, Input::Receive(frame));
    cluster.cut.clear();
    cluster.run(Duration::from_millis(300));
    let OracleMessage::Reply { result: Ok(Issued { first, .. }), .. } = late else {
        panic!("{late:?}")
    };
    let version = version(&mut cluster);
    assert!(version > first, "{version} is of another request than {first}");
}

/// Design rule 4: a leader uses only timestamps asked for in its own term. In between another leader
/// may have written at later ones.
#[test]
fn timestamp_of_an_earlier_term_is_not_used() {
    let (mut cluster, meta, leader, rest) = apart();
    cluster.call(put_of_shard("warm")).expect("the bound is raised");
    cluster.cut.push((meta, leader));
    let skipped = cluster.sent.len();
    cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(1));
    let (_, _, late) = spoken(&cluster, skipped)
        .into_iter()
        .find(|(from, _, _)| *from == meta)
        .expect("it answers in vain");
    hand_over(&mut cluster, leader, rest);
    assert!(matches!(cluster.replies.pop_first(), Some((_, ClientReply::Refused(_)))));
    cluster.replies.clear();
    cluster.ask(rest, write_of_shard(2));
    cluster.run(Duration::from_millis(2));
    let between = version(&mut cluster);
    hand_over(&mut cluster, rest, leader);
    cluster.replies.clear();
    cluster.ask(leader, write_of_shard(3));
    assert!(!cluster.timers.contains(&(leader, TimerReason::Oracle)), "the request is out");
    let frame = frame(&cluster, meta, leader, PeerMessage::Oracle(late));
    cluster.input(leader, Input::Receive(frame));
    cluster.cut.clear();
    cluster.run(Duration::from_millis(300));
    assert!(version(&mut cluster) > between);
}

/// Hands the leadership of [`SHARD`] over, within a few milliseconds.
#[track_caller]
fn hand_over(cluster: &mut Cluster, from: NodeId, to: NodeId) {
    cluster.ask(from, ClientRequest::Admin(AdminRequest::TransferLeader { shard: SHARD, to }));
    cluster.run(Duration::from_millis(5));
    assert_eq!(cluster.leader(SHARD), Some(to));
}

#[test]
fn answer_to_an_earlier_process_is_dropped() {
    let (mut cluster, meta, leader, rest) = apart();
    cluster.cut.extend([(meta, leader), (rest, leader)]);
    let skipped = cluster.sent.len();
    cluster.ask(leader, write_of_shard(1));
    let (_, _, asked) = spoken(&cluster, skipped).remove(0);
    let OracleMessage::Request { number, boot, .. } = asked else { panic!("{asked:?}") };
    let boot = boot + 1;
    let receipt = Receipt { term: Term(1), count: 1 };
    let result = Ok(Issued { first: Timestamp(7), receipt });
    let reply = OracleMessage::Reply { asker: leader, boot, number, result };
    let frame = frame(&cluster, meta, leader, PeerMessage::Oracle(reply));
    cluster.input(leader, Input::Receive(frame));
    cluster.cut.clear();
    cluster.run(Duration::from_millis(300));
    assert!(version(&mut cluster) > Timestamp(7));
}

#[test]
fn cut_link_to_the_oracle_is_gone_around() {
    let (mut cluster, meta, leader, rest) = apart();
    cluster.cut.extend([(meta, leader), (leader, meta)]);
    let skipped = cluster.sent.len();
    cluster.ask(leader, write_of_shard(1));
    cluster.run(Duration::from_millis(80));
    version(&mut cluster);
    let passed_on = spoken(&cluster, skipped).into_iter().any(|(from, to, message)| {
        let is_relayed = matches!(message, OracleMessage::Request { is_relayed: true, .. });
        (from, to, is_relayed) == (rest, meta, true)
    });
    assert!(passed_on);
}

/// Whoever passes a request on may have heard of the leader long ago, so the request of another one
/// confirms nothing; and nobody passes on what was passed on.
#[test]
fn request_that_was_passed_on_confirms_nothing() {
    let (mut cluster, meta, leader, rest) = apart();
    cluster.call(put_of_shard("warm")).expect("the bound is raised");
    let term = cluster.term(meta, META);
    cluster.cut.extend([(meta, leader), (meta, rest), (leader, meta), (rest, meta)]);
    let skipped = cluster.sent.len();
    let (boot, number, count, is_relayed) = (1, 1, 1, true);
    let follows = Some(Receipt { term, count: 0 });
    let request = |asker| {
        PeerMessage::Oracle(OracleMessage::Request {
            asker,
            boot,
            number,
            count,
            follows,
            is_relayed,
        })
    };
    for (from, to) in [(rest, meta), (leader, rest)] {
        let frame = frame(&cluster, from, to, request(if from == rest { leader } else { from }));
        cluster.input(to, Input::Receive(frame));
    }
    cluster.run(Duration::from_millis(20));
    let said = spoken(&cluster, skipped);
    let answers = |node| said.iter().filter(move |(from, _, _)| *from == node).map(|it| &it.2);
    assert_eq!(answers(meta).count(), 0, "{said:?}");
    let is_refusal = |it: &OracleMessage| {
        matches!(it, OracleMessage::Reply { result: Err(Elsewhere { .. }), .. })
    };
    assert!(answers(rest).count() == 1 && answers(rest).all(is_refusal), "{said:?}");
}

/// Design 7: leadership is confirmed after the request arrived. A leader of which nobody knows
/// whether it still is one issues nothing.
#[test]
fn deposed_oracle_issues_nothing() {
    let (mut cluster, meta, leader, rest) = apart();
    cluster.call(put_of_shard("warm")).expect("the bound is raised");
    // The old leader is alone, and does not know it yet.
    cluster.cut.extend([(meta, leader), (meta, rest), (leader, meta), (rest, meta)]);
    let skipped = cluster.sent.len();
    let (asker, boot, number, count) = (rest, 1, 1, 1);
    let in_term = |term| Some(Receipt { term: Term(term), count: 0 });
    for follows in [None, in_term(0), in_term(99)] {
        let is_relayed = false;
        let request = OracleMessage::Request { asker, boot, number, count, follows, is_relayed };
        let frame = frame(&cluster, rest, meta, PeerMessage::Oracle(request));
        cluster.input(meta, Input::Receive(frame));
    }
    cluster.run(Duration::from_secs(3));
    assert_ne!(cluster.leader(META), Some(meta));
    let of_old = spoken(&cluster, skipped).into_iter().filter(|(from, _, _)| *from == meta);
    for (_, _, message) in of_old {
        let OracleMessage::Reply { result, .. } = &message else { continue };
        assert!(matches!(result, Err(Elsewhere { .. })), "{message:?}");
    }
    put(&mut cluster, "k1");
}

#[test]
fn timestamps_grow_from_leader_to_leader_whatever_their_clocks_say() {
    let mut cluster = Cluster::formed(3);
    let mut seen = BTreeSet::new();
    let mut last = Timestamp(0);
    for _ in 0..6 {
        for at in 0..5 {
            let version = put(&mut cluster, &format!("k{at}"));
            assert!(version > last && seen.insert(version));
            last = version;
        }
        let old = cluster.leader(META).expect("somebody leads");
        cluster.stop(old);
        cluster.run(Duration::from_secs(3));
        // Who starts again reads its wall clock anew, as this harness has it: in step.
        cluster.start(old);
        cluster.run(Duration::from_secs(1));
    }
}

#[test]
fn idle_cluster_raises_no_bound() {
    let mut cluster = Cluster::formed(3);
    put(&mut cluster, "k");
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader(META).expect("somebody leads");
    let before = cluster.applied(leader, META);
    cluster.run(Duration::from_secs(30));
    assert_eq!(cluster.applied(leader, META), before);
}

#[test]
fn request_for_no_or_too_many_timestamps_is_ignored() {
    let (mut cluster, meta, leader, _) = apart();
    let skipped = cluster.sent.len();
    for count in [0, kv_core::oracle::COUNT_MAX + 1, u32::MAX] {
        let (asker, boot, number, follows, is_relayed) = (leader, 1, 1, None, false);
        let request = OracleMessage::Request { asker, boot, number, count, follows, is_relayed };
        let frame = frame(&cluster, leader, meta, PeerMessage::Oracle(request));
        cluster.input(meta, Input::Receive(frame));
    }
    cluster.run(Duration::from_secs(1));
    assert!(spoken(&cluster, skipped).iter().all(|(from, _, _)| *from != meta));
}
