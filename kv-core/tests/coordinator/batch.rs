//! Batches: commits without a transaction of the user, tried again while they are aborted.

use std::collections::BTreeSet;

use kv_core::client::{Answer, Call, CallError, CallId, TxnOp, check_operations};
use kv_core::id::{NodeId, ShardId, Timestamp};
use kv_core::op::{KEY_BYTES_MAX, Key, Value};
use kv_core::txn::{AbortReason, OPERATIONS_MAX, TxnWrite, WRITE_BYTES_MAX};
use kv_core::wire::{Refusal, TxnReply, TxnRequest};

use crate::harness::*;

fn write(shard: u32, value: Option<&'static str>) -> TxnWrite {
    TxnWrite { key: key(shard), value: value.map(Value::string) }
}

fn over_three_shards() -> Vec<TxnWrite> {
    vec![write(1, Some("a")), write(2, Some("b")), write(3, None)]
}

fn start(harness: &mut Harness, writes: Vec<TxnWrite>) -> CallId {
    let call = Call::WriteBatch { age: AGE, writes };
    let id = harness.router.call(harness.now, call, harness.now + DEADLINE);
    harness.drain();
    id
}

fn committed() -> Result<Answer, CallError> {
    Ok(Answer::Committed { commit_ts: Some(Timestamp(90)) })
}

fn deadlock(sent: &Sent) -> AbortReason {
    AbortReason::Deadlock { cycle: vec![sent.txn] }
}

#[test]
fn batch_on_one_shard_is_one_request() {
    let mut harness = Harness::new();
    let other = TxnWrite { key: key_of(1, 1), value: None };
    let call =
        start(&mut harness, vec![write(1, Some("first")), other.clone(), write(1, Some("a"))]);
    let sent = harness.sent();
    let TxnRequest::Commit { part, participants, .. } = &sent.step else {
        panic!("{sent:?}");
    };
    assert_eq!((sent.shard, sent.grant, participants.len()), (ShardId(1), None, 0));
    assert!(part.reads.is_empty());
    let mut writes = [write(1, Some("a")), other];
    writes.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(part.writes, writes, "the last write of a key counts");
    harness.reply(&sent, good_reply(&sent));
    assert_eq!(harness.result(call), committed());
    harness.assert_idle();
}

#[test]
fn batch_on_three_shards_is_one_round_of_prepares_and_one_commit() {
    let mut harness = Harness::new();
    let call = start(&mut harness, over_three_shards());
    let prepares = harness.take_sent();
    assert!(prepares.iter().all(is_prepare), "{prepares:?}");
    assert_eq!(prepares.iter().map(|sent| sent.shard.0).collect::<Vec<_>>(), [2, 3]);
    prepares.iter().for_each(|prepare| harness.reply(prepare, good_reply(prepare)));
    let commit = harness.sent();
    assert!(is_commit(&commit) && commit.shard == ShardId(1), "the first write is the anchor's");
    harness.reply(&commit, good_reply(&commit));
    assert_eq!(harness.result(call), committed());
    harness.assert_idle();
}

#[test]
fn aborted_batch_is_tried_again_as_another_transaction_of_the_same_age() {
    let mut harness = Harness::new();
    let call = start(&mut harness, over_three_shards());
    let (mut names, mut requests) = (BTreeSet::new(), BTreeSet::new());
    for attempt in 0..4 {
        let prepares = harness.take_sent();
        assert_eq!(prepares.len(), 2, "{prepares:?}");
        // The harness compares the age.
        names.insert(prepares[0].txn);
        requests.insert(request_of(&prepares[0]));
        harness.reply(&prepares[0], good_reply(&prepares[0]));
        let reason = match attempt {
            0 => deadlock(&prepares[1]),
            1 => AbortReason::LockTimeout,
            2 => AbortReason::LocksLost { shard: ShardId(3) },
            _ => {
                harness.reply(&prepares[1], good_reply(&prepares[1]));
                break;
            }
        };
        let before = harness.now;
        harness.reply(&prepares[1], TxnReply::Aborted(reason));
        assert!(!harness.done.contains_key(&call));
        assert_eq!(harness.rolled_back(), [2], "who has prepared is told");
        harness.wait();
        assert!(harness.now > before, "there is a pause");
    }
    assert_eq!((names.len(), requests.len()), (4, 4));
    let commit = harness.sent();
    harness.reply(&commit, good_reply(&commit));
    assert_eq!(harness.result(call), committed());
    harness.assert_idle();
}

#[test]
fn anchor_that_aborts_is_asked_again() {
    let mut harness = Harness::new();
    let call = start(&mut harness, vec![write(2, Some("a"))]);
    let sent = harness.sent();
    harness.reply(&sent, TxnReply::Aborted(deadlock(&sent)));
    harness.wait();
    let again = harness.sent();
    assert_ne!(request_of(&again), request_of(&sent), "another decision");
    harness.reply(&again, good_reply(&again));
    assert_eq!(harness.result(call), committed());
    harness.assert_idle();
}

#[test]
fn batch_that_is_aborted_up_to_its_deadline_says_why() {
    let mut harness = Harness::new();
    let call = start(&mut harness, vec![write(1, Some("a"))]);
    let mut attempts = 0;
    while !harness.done.contains_key(&call) {
        for sent in harness.take_sent() {
            attempts += 1;
            harness.reply(&sent, TxnReply::Aborted(AbortReason::LockTimeout));
        }
        if !harness.done.contains_key(&call) {
            harness.wait();
        }
    }
    assert!((20..200).contains(&attempts), "{attempts} attempts with pauses");
    assert_eq!(harness.result(call), aborted(AbortReason::LockTimeout));
    harness.assert_idle();
}

#[test]
fn deadline_of_a_batch_is_unknown_once_the_anchor_was_asked_and_an_abort_before() {
    let mut harness = Harness::new();
    let call = start(&mut harness, vec![write(1, Some("a"))]);
    let (sent, result) = harness.starve(call);
    assert_eq!(result, unknown(ShardId(1), sent[0].txn, request_of(&sent[0])));
    assert!(!sent.iter().any(|sent| sent.step == TxnRequest::Rollback));
    harness.assert_idle();

    let call = start(&mut harness, over_three_shards());
    let (_, result) = harness.starve(call);
    assert_eq!(result, aborted(AbortReason::GivenUp));
}

#[test]
fn refused_batch_is_not_tried_again() {
    let mut harness = Harness::new();
    let no_space = Refusal::NoSpace { node: NodeId(1) };
    let call = start(&mut harness, vec![write(1, Some("a"))]);
    let sent = harness.sent();
    harness.refuse(&sent, no_space.clone());
    assert_eq!(harness.result(call), Err(CallError::Refused(no_space)));
    assert_eq!(harness.rolled_back(), [1]);
    harness.assert_idle();
}

#[test]
fn batch_without_a_map_waits_for_one_and_goes_on_in_a_new_session() {
    let mut harness = Harness::new();
    harness.is_mute = true;
    let call = start(&mut harness, vec![write(1, Some("a"))]);
    assert!(harness.take_sent().is_empty());
    harness.is_mute = false;
    harness.wait(); // No map came.
    harness.wait(); // The pause.
    let sent = harness.sent();
    harness.refuse(&sent, Refusal::SessionExpired);
    assert!(!harness.done.contains_key(&call), "the only copy certainly did nothing");
    harness.take_sent(); // A rollback, of which nobody needs to hear.
    harness.wait();
    let again = harness.take_sent().into_iter().find(is_commit).expect("it is tried again");
    harness.reply(&again, good_reply(&again));
    assert_eq!(harness.result(call), committed());
}

#[test]
fn batch_of_nothing_asks_nobody() {
    let mut harness = Harness::new();
    harness.is_mute = true;
    let call = start(&mut harness, vec![]);
    assert_eq!(harness.result(call), Ok(Answer::Committed { commit_ts: None }));
    harness.assert_idle();
}

#[test]
fn batch_that_is_too_large_asks_nobody() {
    let delete = |number: usize| TxnWrite { key: Key::new(number.to_string()), value: None };
    let put = |number: usize, bytes| TxnWrite {
        key: Key::new(number.to_string()),
        value: Some(Value::string(vec![0; bytes])),
    };
    let long = TxnWrite { key: Key::new(vec![0; KEY_BYTES_MAX + 1]), value: None };
    let half = WRITE_BYTES_MAX / 2;
    let batches = [
        ((0..=OPERATIONS_MAX).map(delete).collect(), "10001 operations exceed what"),
        (vec![put(1, half), put(2, half)], "16777218 bytes exceed what"),
        (vec![put(1, half + 1)], "8388609 bytes of value exceed"),
        (vec![long], "8193 bytes of key exceed"),
    ];
    for (writes, expected) in batches {
        let mut harness = Harness::new();
        harness.is_mute = true;
        let call = start(&mut harness, writes);
        let error = harness.result(call).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        harness.assert_idle();
    }
    let writes = (0..OPERATIONS_MAX).map(delete).collect();
    let mut harness = Harness::new();
    start(&mut harness, writes);
    assert!(harness.take_sent().iter().all(is_prepare));
}

#[test]
fn operations_are_checked_as_a_router_would() {
    let put = |bytes| TxnOp::Put { key: key(1), value: Value::string(vec![0; bytes]) };
    let half = WRITE_BYTES_MAX / 2;
    assert_eq!(check_operations(&[get(1), put(half), put(half)]), Ok(()), "the last one counts");
    let get = vec![get(1); OPERATIONS_MAX + 1];
    assert!(matches!(check_operations(&get), Err(CallError::TxnTooLarge { size: 10_001, .. })));
    assert_eq!(check_operations(&get[1..]), Ok(()));
}

/// The first attempt was aborted, and of the second one nobody has heard: why the first one was is
/// worth knowing.
#[test]
fn batch_that_nobody_answers_any_more_says_why_it_was_aborted_before() {
    let mut harness = Harness::new();
    let call = start(&mut harness, vec![write(1, Some("a"))]);
    let sent = harness.sent();
    harness.refuse(&sent, Refusal::Removed { node: NodeId(1) });
    harness.is_mute = true;
    harness.reply(&sent, TxnReply::Aborted(AbortReason::LockTimeout));
    let (sent, result) = harness.starve(call);
    assert_eq!((sent.len(), result), (0, aborted(AbortReason::LockTimeout)));
}
