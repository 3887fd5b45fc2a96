//! Commits: how they are asked for, repeated and given up.

use std::time::Duration;

use kv_core::client::{Answer, CallError, RouterInput, TxnOp};
use kv_core::id::{NodeId, ShardId, Timestamp};
use kv_core::op::Value;
use kv_core::time::Instant;
use kv_core::txn::{AbortReason, Grant, TxnWrite};
use kv_core::wire::{Refusal, TxnReply, TxnRequest};

use crate::harness::*;

#[test]
fn one_shard_takes_one_request_after_the_locks() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    harness.step(txn, put(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    let sent = harness.sent();
    let TxnRequest::Commit { part, participants, min_commit, .. } = &sent.step else {
        panic!("{sent:?}");
    };
    assert_eq!((sent.shard, sent.grant), (ShardId(1), Some(Grant(5))));
    assert_eq!(part.reads, [key(1)]);
    let write = TxnWrite { key: key(1), value: Some(Value::string("new")) };
    assert_eq!(part.writes, [write]);
    assert_eq!((participants.len(), *min_commit), (0, Timestamp(0)));
    harness.reply(&sent, TxnReply::Committed { commit_ts: Timestamp(90) });
    let committed = Answer::Committed { commit_ts: Some(Timestamp(90)) };
    assert_eq!(harness.result(call), Ok(committed));
    harness.assert_idle();
    assert_eq!(harness.step(txn, get(1)), Err(CallError::NoTransaction));
}

#[test]
fn three_shards_take_one_round_of_two_prepares_and_one_commit() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    assert!(prepares.iter().all(is_prepare), "{prepares:?}");
    let asked: Vec<_> = prepares.iter().map(|sent| (sent.shard.0, sent.grant)).collect();
    assert_eq!(asked, [(2, None), (3, Some(Grant(5)))], "in parallel; no lock was got on s2");
    harness.reply(&prepares[0], good_reply(&prepares[0]));
    assert!(harness.take_sent().is_empty(), "the other has not prepared");
    harness.reply(&prepares[1], good_reply(&prepares[1]));
    let commit = harness.sent();
    assert_eq!(request_of(&commit), request_of(&prepares[0]));
    assert_eq!(request_of(&commit), request_of(&prepares[1]));
    let TxnRequest::Commit { participants, min_commit, part, .. } = &commit.step else {
        panic!("{commit:?}");
    };
    assert_eq!(commit.shard, ShardId(1), "the anchor is written first");
    assert_eq!((part.reads.len(), part.writes.len()), (0, 1));
    assert_eq!(participants, &[ShardId(2), ShardId(3)]);
    assert_eq!(*min_commit, Timestamp(30));
    harness.reply(&commit, good_reply(&commit));
    assert!(matches!(harness.result(call), Ok(Answer::Committed { .. })));
    harness.assert_idle();
}

#[test]
fn transaction_that_did_nothing_needs_no_node() {
    let mut harness = Harness::new();
    harness.is_mute = true;
    for (op, answer) in [
        (TxnOp::Commit, Answer::Committed { commit_ts: None }),
        (TxnOp::Rollback, Answer::RolledBack),
    ] {
        let txn = harness.begin();
        let call = harness.start(txn, op);
        assert_eq!(harness.result(call), Ok(answer));
        harness.assert_idle();
    }
}

#[test]
fn shards_that_were_only_read_take_part_and_the_first_one_decides() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(2)).unwrap();
    harness.step(txn, get(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    let prepare = harness.sent();
    assert!(is_prepare(&prepare) && prepare.shard == ShardId(1), "{prepare:?}");
    harness.reply(&prepare, good_reply(&prepare));
    let commit = harness.sent();
    assert!(is_commit(&commit) && commit.shard == ShardId(2), "{commit:?}");
    harness.reply(&commit, good_reply(&commit));
    assert_eq!(harness.result(call), Ok(Answer::Committed { commit_ts: None }));
}

#[test]
fn abort_of_a_prepare_rolls_the_others_back_and_nothing_is_decided() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    harness.reply(&prepares[1], TxnReply::Aborted(AbortReason::TooOld));
    assert_eq!(harness.done.remove(&call), Some(aborted(AbortReason::TooOld)));
    harness.reply(&prepares[0], good_reply(&prepares[0]));
    assert_eq!(harness.rolled_back(), [2], "the anchor has never heard of it");
    harness.assert_idle();
}

#[test]
fn abort_by_the_anchor_rolls_the_others_back() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    for prepare in harness.take_sent() {
        harness.reply(&prepare, good_reply(&prepare));
    }
    let commit = harness.sent();
    harness.reply(&commit, TxnReply::Aborted(AbortReason::GivenUp));
    assert_eq!(harness.done.remove(&call), Some(aborted(AbortReason::GivenUp)));
    assert_eq!(harness.rolled_back(), [2, 3]);
    harness.assert_idle();
}

#[test]
fn every_retry_of_prepare_and_commit_carries_the_same_request_id() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    let request = request_of(&prepares[0]);
    let hint = Some(NodeId(2));
    harness.refuse(&prepares[0], Refusal::NotLeader { shard: ShardId(2), hint });
    let again = harness.sent();
    assert_eq!((again.to.0.as_str(), &again.step), ("n2", &prepares[0].step));
    harness.reply(&again, good_reply(&again));
    harness.router.handle(harness.now, RouterInput::Unreachable { to: prepares[1].to.clone() });
    harness.wait();
    let again = harness.sent();
    assert_eq!((again.shard, request_of(&again)), (ShardId(3), request));
    harness.reply(&again, good_reply(&again));
    for _ in 0..3 {
        let commit = loop {
            match harness.take_sent().into_iter().find(is_commit) {
                Some(commit) => break commit,
                None => harness.wait(),
            }
        };
        assert_eq!(request_of(&commit), request);
        if harness.now < Instant::ZERO + Duration::from_secs(2) {
            continue; // No answer.
        }
        harness.reply(&commit, good_reply(&commit));
        assert!(harness.result(call).is_ok());
        return harness.assert_idle();
    }
    panic!("the commit was not asked for again");
}

/// Until the transaction has ended, no request may say that its sequence is acknowledged: the shards
/// would forget what they have answered.
#[test]
fn request_of_a_transaction_is_unfinished_until_it_has_ended() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    let sequence = request_of(&prepares[0]).sequence;
    let acked_below = |harness: &mut Harness| {
        let txn = harness.begin();
        harness.step(txn, put(1)).unwrap();
        let call = harness.start(txn, TxnOp::Commit);
        let commit = harness.take_sent().into_iter().find(is_commit).unwrap();
        harness.reply(&commit, good_reply(&commit));
        assert!(harness.result(call).is_ok());
        request_of(&commit).acked_below
    };
    assert_eq!(acked_below(&mut harness), sequence);
    harness.reply(&prepares[0], TxnReply::Aborted(AbortReason::LockTimeout));
    assert!(harness.result(call).is_err());
    harness.rolled_back();
    assert!(acked_below(&mut harness) > sequence);
}

#[test]
fn deadline_of_a_prepare_certainly_aborts() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    harness.reply(&prepares[0], good_reply(&prepares[0]));
    let (sent, result) = harness.starve(call);
    assert_eq!(result, aborted(AbortReason::GivenUp));
    assert!(!sent.iter().any(is_commit), "{sent:?}");
    let told = sent.iter().filter(|sent| sent.step == TxnRequest::Rollback);
    let told: Vec<_> = told.map(|sent| sent.shard.0).collect();
    assert_eq!(told, [2, 3]);
}

#[test]
fn deadline_of_the_commit_has_an_unknown_outcome_and_nothing_is_rolled_back() {
    let mut harness = Harness::new();
    let txn = harness.over_three_shards();
    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    let request = request_of(&prepares[0]);
    prepares.iter().for_each(|prepare| harness.reply(prepare, good_reply(prepare)));
    let (sent, result) = harness.starve(call);
    assert_eq!(result, unknown(ShardId(1), prepares[0].txn, request));
    assert!(!sent.iter().any(|sent| sent.step == TxnRequest::Rollback), "{sent:?}");
    harness.assert_idle();
}

#[test]
fn deadline_of_the_only_shards_commit_has_an_unknown_outcome() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, put(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    let (sent, result) = harness.starve(call);
    let request = request_of(&sent[0]);
    assert_eq!(result, unknown(ShardId(1), sent[0].txn, request));
    harness.assert_idle();
}

#[test]
fn forgotten_session_is_an_abort_only_if_the_commit_was_sent_once() {
    for refusal in [Refusal::SessionExpired, Refusal::Superseded] {
        for is_repeated in [false, true] {
            let mut harness = Harness::new();
            let txn = harness.begin();
            harness.step(txn, put(1)).unwrap();
            let call = harness.start(txn, TxnOp::Commit);
            let mut commit = harness.sent();
            let request = request_of(&commit);
            if is_repeated {
                harness.wait(); // No answer.
                harness.wait(); // The pause.
                commit = harness.sent();
            }
            harness.refuse(&commit, refusal.clone());
            let result = harness.result(call);
            match is_repeated {
                true => assert_eq!(result, unknown(ShardId(1), commit.txn, request)),
                false => assert!(matches!(result, Err(CallError::Aborted(_))), "{result:?}"),
            }
        }
    }
}

#[test]
fn full_disk_fails_the_commit_unless_an_earlier_attempt_may_have_run() {
    let mut harness = Harness::new();
    let no_space = Refusal::NoSpace { node: NodeId(1) };
    let txn = harness.begin();
    harness.step(txn, put(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    let commit = harness.sent();
    harness.refuse(&commit, no_space.clone());
    assert_eq!(harness.done.remove(&call), Some(Err(CallError::Refused(no_space.clone()))));
    assert_eq!(harness.rolled_back(), [1]);

    let txn = harness.begin();
    harness.step(txn, put(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    harness.sent();
    harness.wait(); // No answer.
    harness.wait(); // The pause.
    let commit = harness.sent();
    harness.refuse(&commit, no_space);
    harness.wait();
    let commit = harness.sent();
    harness.reply(&commit, good_reply(&commit));
    assert!(harness.result(call).is_ok());
}

#[test]
fn no_step_disturbs_a_commit_that_was_sent() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, put(1)).unwrap();
    let call = harness.start(txn, TxnOp::Commit);
    let commit = harness.sent();
    assert_eq!(harness.step(txn, TxnOp::Rollback), Err(CallError::NoTransaction));
    harness.reply(&commit, good_reply(&commit));
    assert!(harness.result(call).is_ok());
    harness.assert_idle();
}
