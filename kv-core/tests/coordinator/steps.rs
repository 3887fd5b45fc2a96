//! Reads, writes, beats and rollbacks.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, RouterInput, RouterOutput, TxnOp};
use kv_core::id::{Address, NodeId, ShardId, Timestamp};
use kv_core::op::{Found, KEY_BYTES_MAX, Key, VALUE_BYTES_MAX, Value, WriteOp};
use kv_core::time::Instant;
use kv_core::txn::{
    AbortReason, Grant, LockMode, OPERATIONS_MAX, TxnId, VERSION_BUFFERED, WRITE_BYTES_MAX,
};
use kv_core::wire::{ClientReply, Refusal, ReplyFrame, TxnReply, TxnRequest};

use crate::harness::*;

#[test]
fn key_is_read_once_and_own_writes_are_seen_without_a_request() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, get(1));
    let sent = harness.sent();
    assert_eq!(sent.step, TxnRequest::Lock { key: key(1), mode: LockMode::Shared });
    assert_eq!((sent.txn, sent.grant), (TxnId { session: session(1), number: 1 }, None));
    harness.reply(&sent, locked());
    assert_eq!(harness.result(call), Ok(Answer::Got(old())));

    let call = harness.start(txn, get(1));
    assert!(harness.take_sent().is_empty(), "it was read already");
    assert_eq!(harness.result(call), Ok(Answer::Got(old())));

    assert_eq!(harness.step(txn, put(2)), Ok(Answer::Buffered));
    let own = Found { version: VERSION_BUFFERED, value: Value::string("new") };
    for op in [get(2), TxnOp::GetForUpdate { key: key(2) }] {
        let call = harness.start(txn, op);
        assert!(harness.take_sent().is_empty(), "it is its own write");
        assert_eq!(harness.result(call), Ok(Answer::Got(Some(own.clone()))));
    }
    let call = harness.start(txn, TxnOp::Delete { key: key(2) });
    assert!(harness.take_sent().is_empty());
    assert_eq!(harness.result(call), Ok(Answer::Buffered));
    assert_eq!(harness.step(txn, get(2)), Ok(Answer::Got(None)));
}

#[test]
fn upgrade_asks_again_and_shows_the_grant_of_the_first_lock() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    let call = harness.start(txn, TxnOp::GetForUpdate { key: key(1) });
    let sent = harness.sent();
    assert_eq!(sent.step, TxnRequest::Lock { key: key(1), mode: LockMode::Exclusive });
    assert_eq!(sent.grant, Some(Grant(5)));
    harness.reply(&sent, locked());
    assert_eq!(harness.result(call), Ok(Answer::Got(old())));
    for op in [TxnOp::GetForUpdate { key: key(1) }, get(1)] {
        let call = harness.start(txn, op);
        assert!(harness.take_sent().is_empty(), "the stronger lock is there");
        assert_eq!(harness.result(call), Ok(Answer::Got(old())));
    }
    let call = harness.start(txn, get(2));
    let sent = harness.sent();
    assert_eq!(sent.grant, None, "each shard gives one of its own");
    harness.reply(&sent, locked());
    assert!(harness.result(call).is_ok());
}

/// Whoever waits is asked whether it still does. It asks again at once, with the grant that shows that
/// it knows of the wait; if another leader has given one before, it does not.
#[test]
fn step_that_waits_is_repeated_with_the_grant() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, get(1));
    let first = harness.sent();
    harness.reply(&first, TxnReply::Waiting { grant: Grant(5) });
    let second = harness.sent();
    assert_eq!((second.grant, &second.step), (Some(Grant(5)), &first.step));
    harness.reply(&first, TxnReply::Waiting { grant: Grant(6) });
    assert!(harness.take_sent().is_empty(), "it waits elsewhere");
    harness.reply(&second, locked());
    assert_eq!(harness.result(call), Ok(Answer::Got(old())));
}

#[test]
fn commit_that_waits_is_repeated_with_the_grant() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, put(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    let first = harness.sent();
    assert!(is_commit(&first) && first.grant.is_none());
    harness.reply(&first, TxnReply::Waiting { grant: Grant(5) });
    let second = harness.sent();
    assert_eq!((second.grant, &second.step), (Some(Grant(5)), &first.step));
    let commit_ts = Timestamp(50);
    harness.reply(&second, TxnReply::Committed { commit_ts });
    assert_eq!(harness.result(call), Ok(Answer::Committed { commit_ts: Some(commit_ts) }));
}

#[test]
fn lock_of_another_grant_than_the_first_one_is_no_lock() {
    let shard = ShardId(1);
    let cases = [
        (Grant(6), AbortReason::LocksLost { shard }),
        (Grant(6 << 32), AbortReason::LeaderChanged { shard }),
    ];
    for (grant, reason) in cases {
        let mut harness = Harness::new();
        let txn = harness.begin();
        harness.step(txn, get(1)).unwrap();
        let call = harness.start(txn, TxnOp::Get { key: key_of(1, 1) });
        let sent = harness.sent();
        harness.reply(&sent, TxnReply::Locked { grant, found: None });
        assert_eq!(harness.done.remove(&call), Some(Err(CallError::Aborted(reason))));
        assert_eq!(harness.rolled_back(), [1]);
        harness.assert_idle();
    }
}

#[test]
fn abort_of_a_lock_rolls_the_others_back() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    harness.step(txn, get(2)).unwrap();
    let call = harness.start(txn, get(3));
    let sent = harness.sent();
    harness.reply(&sent, TxnReply::Aborted(AbortReason::LockTimeout));
    assert_eq!(harness.done.remove(&call), Some(aborted(AbortReason::LockTimeout)));
    assert_eq!(harness.rolled_back(), [1, 2]);
    harness.assert_idle();
    assert_eq!(harness.step(txn, get(1)), Err(CallError::NoTransaction));
}

#[test]
fn deadline_of_a_lock_ends_the_transaction_and_nothing_was_changed() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, get(1));
    let (sent, result) = harness.starve(call);
    assert_eq!(result, Err(CallError::Unavailable { last: None }));
    assert_eq!(harness.now, Instant::ZERO + DEADLINE);
    let locks = sent.iter().filter(|sent| matches!(sent.step, TxnRequest::Lock { .. }));
    assert!(locks.count() > 2, "it was asked for again: {sent:?}");
    assert_eq!(sent.last().unwrap().step, TxnRequest::Rollback);
    assert_eq!(harness.step(txn, get(1)), Err(CallError::NoTransaction));
}

#[test]
fn deadline_before_the_map_is_there_leaves_nothing() {
    let mut harness = Harness::new();
    harness.is_mute = true;
    let txn = harness.begin();
    let call = harness.start(txn, get(1));
    let (sent, result) = harness.starve(call);
    assert_eq!(result, Err(CallError::Unavailable { last: None }));
    assert!(sent.is_empty(), "{sent:?}");
}

#[test]
fn other_transactions_of_a_lost_session_hear_of_it_with_their_next_step() {
    let mut harness = Harness::new();
    let (first, second, unnamed) = (harness.begin(), harness.begin(), harness.begin());
    harness.step(first, get(1)).unwrap();
    harness.step(second, get(2)).unwrap();
    harness.step(unnamed, put(3)).unwrap();
    let call = harness.start(first, get(3));
    let sent = harness.sent();
    harness.refuse(&sent, Refusal::SessionExpired);
    let reason = |shard| aborted(AbortReason::LocksLost { shard: ShardId(shard) });
    assert_eq!(harness.done.remove(&call), Some(reason(3)));
    let mut told = harness.rolled_back();
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3]);
    assert_eq!(harness.step(second, TxnOp::Commit), reason(2));
    assert_eq!(harness.step(second, TxnOp::Commit), Err(CallError::NoTransaction));
    assert!(harness.step(unnamed, TxnOp::Commit).is_ok(), "no node had heard of it");
}

/// The beats that are sent until `until`, each answered well.
fn beats_until(harness: &mut Harness, until: Duration) -> Vec<(u64, u32)> {
    let mut beats = Vec::new();
    while harness.router.poll_timeout().is_some_and(|at| at <= Instant::ZERO + until) {
        harness.wait();
        for sent in harness.take_sent() {
            assert_eq!(sent.step, TxnRequest::Beat, "{sent:?}");
            beats.push((harness.now.as_nanos() / 1_000_000, sent.shard.0));
            harness.reply(&sent, TxnReply::Alive);
        }
    }
    beats
}

#[test]
fn shards_that_hold_locks_hear_a_beat_each_second_between_calls_too() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, put(3)).unwrap();
    assert_eq!(harness.router.poll_timeout(), Some(Instant::ZERO + Duration::from_secs(60)));
    harness.step(txn, get(1)).unwrap();
    harness.step(txn, get(2)).unwrap();
    let beats = beats_until(&mut harness, Duration::from_millis(2_500));
    assert_eq!(beats, [(1_000, 1), (1_000, 2), (2_000, 1), (2_000, 2)]);

    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    prepares.iter().for_each(|prepare| harness.reply(prepare, good_reply(prepare)));
    let commit = harness.sent();
    harness.wait();
    let sent = harness.take_sent();
    let beats: Vec<_> = sent.iter().map(|sent| (sent.shard.0, sent.step.clone())).collect();
    assert_eq!(beats, [(1, TxnRequest::Beat), (2, TxnRequest::Beat)], "during the commit too");
    harness.reply(&sent[0], TxnReply::Aborted(AbortReason::LocksLost { shard: ShardId(1) }));
    harness.reply(&commit, good_reply(&commit));
    assert!(harness.result(call).is_ok(), "a beat that crosses the commit finds no locks");
    harness.assert_idle();
}

#[test]
fn beat_that_fails_is_not_sent_again_before_the_next_one() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    harness.wait();
    let beat = harness.sent();
    harness.refuse(&beat, Refusal::NotLeader { shard: ShardId(1), hint: Some(NodeId(3)) });
    assert!(harness.take_sent().is_empty());
    harness.wait();
    assert_eq!(harness.now, Instant::ZERO + Duration::from_secs(2));
    assert_eq!(harness.sent().to, Address("n3".into()), "what it learned is used");
}

#[test]
fn abort_heard_by_a_beat_is_told_with_the_next_step() {
    let mut harness = Harness::new();
    for is_rollback in [false, true] {
        let txn = harness.begin();
        harness.step(txn, get(1)).unwrap();
        harness.step(txn, get(2)).unwrap();
        harness.wait();
        let beats = harness.take_sent();
        let reason = AbortReason::Deadlock { cycle: Vec::new() };
        harness.reply(&beats[0], TxnReply::Aborted(reason.clone()));
        assert_eq!(harness.rolled_back(), [2], "s1 knows it already");
        let op = if is_rollback { TxnOp::Rollback } else { get(1) };
        let expected = if is_rollback { Ok(Answer::RolledBack) } else { aborted(reason) };
        assert_eq!(harness.step(txn, op), expected);
        harness.assert_idle();
    }
}

#[test]
fn rollback_ends_at_once_and_is_attempted_three_times() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    let call = harness.start(txn, TxnOp::Rollback);
    assert_eq!(harness.done.remove(&call), Some(Ok(Answer::RolledBack)));
    for hint in [2, 3, 2] {
        let sent = loop {
            match harness.take_sent().pop() {
                Some(sent) => break sent,
                None => harness.wait(),
            }
        };
        assert_eq!(sent.step, TxnRequest::Rollback);
        let hint = Some(NodeId(hint));
        harness.refuse(&sent, Refusal::NotLeader { shard: ShardId(1), hint });
    }
    harness.assert_idle();
}

#[test]
fn key_value_and_transaction_have_limits_and_exceeding_one_ends_it() {
    let put = |key: &[u8], bytes: usize| TxnOp::Put {
        key: Key::new(key.to_vec()),
        value: Value::string(vec![0; bytes]),
    };
    let long_key = vec![b'k'; KEY_BYTES_MAX + 1];
    for (op, what) in [
        (put(&long_key, 1), "key"),
        (TxnOp::Get { key: Key::new(long_key.clone()) }, "key"),
        (put(b"k", VALUE_BYTES_MAX + 1), "value"),
    ] {
        let mut harness = Harness::new();
        let txn = harness.begin();
        harness.step(txn, get(1)).unwrap();
        let call = harness.start(txn, op);
        let result = harness.done.remove(&call).unwrap();
        let is_expected = matches!(&result,
            Err(CallError::Refused(Refusal::TooLarge { what: told, .. })) if told == what);
        assert!(is_expected, "{result:?}");
        assert_eq!(harness.rolled_back(), [1]);
        harness.assert_idle();
    }
    let mut harness = Harness::new();
    let txn = harness.begin();
    let half = WRITE_BYTES_MAX / 2;
    for _ in 0..3 {
        assert!(harness.step(txn, put(b"a", half - 1)).is_ok(), "one write replaces another");
    }
    assert!(harness.step(txn, put(b"b", half - 1)).is_ok(), "as much as fits");
    let expected = CallError::TxnTooLarge {
        what: "bytes".into(),
        size: WRITE_BYTES_MAX as u64 + 1,
        size_max: WRITE_BYTES_MAX as u64,
    };
    assert_eq!(harness.step(txn, put(b"c", 0)), Err(expected));
    harness.assert_idle();

    let txn = harness.begin();
    for _ in 0..OPERATIONS_MAX {
        assert!(harness.step(txn, put(b"a", 1)).is_ok());
    }
    let result = harness.step(txn, put(b"a", 1));
    assert!(matches!(result, Err(CallError::TxnTooLarge { .. })), "{result:?}");
    harness.assert_idle();
}

#[test]
fn transaction_that_its_user_forgot_is_rolled_back_after_a_minute() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    let mut told = Vec::new();
    while harness.router.poll_timeout().is_some() {
        harness.wait();
        for sent in harness.take_sent() {
            harness.reply(&sent, good_reply(&sent));
            told.push(sent.step);
        }
    }
    assert_eq!(harness.now, Instant::ZERO + Duration::from_secs(60));
    assert_eq!(told.pop(), Some(TxnRequest::Rollback));
    assert_eq!(told, vec![TxnRequest::Beat; 59]);
    assert_eq!(harness.step(txn, get(1)), Err(CallError::NoTransaction));
}

#[test]
fn step_that_comes_while_another_is_out_ends_the_transaction() {
    let mut harness = Harness::new();
    for (op, expected) in
        [(get(2), aborted(AbortReason::GivenUp)), (TxnOp::Rollback, Ok(Answer::RolledBack))]
    {
        let txn = harness.begin();
        let first = harness.start(txn, get(1));
        let lock = harness.sent();
        let second = harness.start(txn, op);
        assert_eq!(harness.done.remove(&first), Some(aborted(AbortReason::GivenUp)));
        assert_eq!(harness.done.remove(&second), Some(expected));
        assert_eq!(harness.rolled_back(), [1]);
        harness.reply(&lock, locked());
        harness.assert_idle();
    }
}

#[test]
fn answers_of_another_kind_are_as_none() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, get(1));
    let lock = harness.sent();
    for body in [
        ClientReply::Txn(TxnReply::Alive),
        ClientReply::Txn(TxnReply::Prepared { min_commit: Timestamp(1) }),
        ClientReply::Txn(TxnReply::Committed { commit_ts: Timestamp(1) }),
        ClientReply::Read(None),
    ] {
        harness.reply_body(&lock, body);
        assert!(harness.done.is_empty() && harness.take_sent().is_empty());
    }
    harness.reply(&lock, locked());
    assert_eq!(harness.result(call), Ok(Answer::Got(old())));

    let op = WriteOp::Put { key: key(1), value: Value::string("v") };
    let write = harness.router.call(harness.now, Call::Write(op), harness.now + DEADLINE);
    let Some(RouterOutput::Send { to, request }) = harness.router.poll_output() else {
        panic!("the write is sent");
    };
    let body = ClientReply::Txn(TxnReply::Committed { commit_ts: Timestamp(1) });
    let reply = ReplyFrame { correlation: request.correlation, body };
    harness.router.handle(harness.now, RouterInput::Receive { from: to, reply });
    harness.drain();
    assert!(!harness.done.contains_key(&write));
}

/// A lock may be free only after the next attempt was sent, and its holder is told of the first one.
#[test]
fn late_answer_to_a_step_counts_and_a_late_refusal_does_not() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, get(1));
    let first = harness.sent();
    harness.wait(); // No answer.
    harness.wait(); // The pause.
    let second = harness.sent();
    harness.refuse(&first, Refusal::SessionExpired);
    assert!(harness.done.is_empty(), "an attempt that was given up");
    let foreign = Sent { to: Address("n9".into()), ..first.clone() };
    harness.reply(&foreign, TxnReply::Locked { grant: Grant(1), found: None });
    assert!(harness.done.is_empty(), "nobody asked n9");
    harness.reply(&first, locked());
    assert_eq!(harness.result(call), Ok(Answer::Got(old())));
    harness.reply(&second, TxnReply::Aborted(AbortReason::TooOld));
    assert!(harness.step(txn, TxnOp::Commit).is_ok(), "the step has ended");
}
