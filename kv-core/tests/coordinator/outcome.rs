//! Asking for an unknown outcome.
//!
//! What would go wrong: the shard that decides forgets how it ended before its client has asked, or
//! remembers it for ever; the wrong shard is asked; something that is forgotten is told as an abort.

use kv_core::client::{Answer, Call, CallError, CallId, TxnOp, UNKNOWN_AGE_MAX, UNKNOWN_MAX};
use kv_core::id::{Address, ClusterId, RequestId, ShardId, Timestamp};
use kv_core::txn::{AbortReason, OutcomeId, TxnId, TxnOutcome};
use kv_core::wire::{ClientReply, Refusal, ReplyFrame, TxnReply};

use crate::harness::{
    DEADLINE, Harness, good_reply, is_commit, outcome_id, put, request_of, session,
};

/// A commit on the second shard that is not answered.
fn lose_a_commit(harness: &mut Harness) -> OutcomeId {
    let txn = harness.begin();
    harness.step(txn, put(2)).expect("a write is buffered");
    let call = harness.start(txn, TxnOp::Commit);
    let (_, result) = harness.starve(call);
    let Err(CallError::UnknownOutcome { id: Some(id), .. }) = result else {
        panic!("nobody knows how it ended: {result:?}")
    };
    id
}

/// A commit that is answered, and what it acknowledges.
fn commit(harness: &mut Harness) -> u64 {
    let txn = harness.begin();
    harness.step(txn, put(1)).expect("a write is buffered");
    let call = harness.start(txn, TxnOp::Commit);
    let commit = harness.take_sent().into_iter().find(is_commit).expect("it commits");
    harness.reply(&commit, good_reply(&commit));
    assert!(harness.result(call).is_ok());
    request_of(&commit).acked_below
}

/// The id of a commit of another session.
fn other_id() -> OutcomeId {
    let txn = TxnId { session: session(1), number: 4 };
    let request = RequestId { session: session(1), sequence: 9, acked_below: 0 };
    outcome_id(ShardId(3), txn, request)
}

fn ask(harness: &mut Harness, id: OutcomeId) -> (CallId, Address, u64) {
    let call = harness.router.call(harness.now, Call::Outcome { id }, harness.now + DEADLINE);
    harness.drain();
    let (to, correlation, asked) = harness.asked.pop().expect("the shard is asked");
    assert_eq!((asked, harness.asked.len()), (id, 0));
    (call, to, correlation)
}

fn answer(harness: &mut Harness, id: OutcomeId, body: ClientReply) -> Result<Answer, CallError> {
    let (call, from, correlation) = ask(harness, id);
    let reply = ReplyFrame { correlation, body };
    let input = kv_core::client::RouterInput::Receive { from, reply };
    harness.router.handle(harness.now, input);
    harness.result(call)
}

#[test]
fn answer_of_the_anchor_is_told() {
    let mut harness = Harness::new();
    let id = lose_a_commit(&mut harness);
    assert_eq!((id.anchor, id.txn.session), (ShardId(2), session(1)));
    let commit_ts = Timestamp(90);
    let cases = [
        (TxnReply::Committed { commit_ts }, TxnOutcome::Committed { commit_ts }),
        (TxnReply::Aborted(AbortReason::GivenUp), TxnOutcome::Aborted),
    ];
    for (reply, outcome) in cases {
        let told = answer(&mut harness, id, ClientReply::Txn(reply));
        assert_eq!(told, Ok(Answer::Outcome(outcome)));
    }
    harness.assert_idle();
}

#[test]
fn what_is_forgotten_is_told_as_such_and_other_refusals_are_no_answers() {
    let mut harness = Harness::new();
    let id = lose_a_commit(&mut harness);
    for refusal in [Refusal::Superseded, Refusal::SessionExpired] {
        let told = answer(&mut harness, id, ClientReply::Refused(refusal));
        assert_eq!(told, Err(CallError::OutcomeForgotten { id }));
    }
    let (call, from, correlation) = ask(&mut harness, id);
    let reply = ReplyFrame { correlation, body: ClientReply::Refused(Refusal::Overloaded) };
    harness.router.handle(harness.now, kv_core::client::RouterInput::Receive { from, reply });
    let (_, result) = harness.starve(call);
    assert!(matches!(result, Err(CallError::Unavailable { .. })), "{result:?}");
    assert!(harness.asked.len() > 1, "it was asked again");
}

/// Any process may ask, also one that has no session.
#[test]
fn no_session_is_needed() {
    let mut harness = Harness::new();
    let id = other_id();
    let told = answer(&mut harness, id, ClientReply::Txn(TxnReply::Aborted(AbortReason::GivenUp)));
    assert_eq!(told, Ok(Answer::Outcome(TxnOutcome::Aborted)));
}

/// Nobody is asked about what was not given out here, as it would be settled as aborted.
#[test]
fn wrong_ids_are_refused_and_nobody_is_asked() {
    let id = other_id();
    let request = RequestId { session: session(1), sequence: 9, acked_below: 0 };
    let [mut other_sequence, mut meta, mut no_shard] = [id; 3];
    other_sequence.sequence = 8;
    meta.anchor = ShardId::META;
    no_shard.anchor = ShardId(4);
    let of_another_cluster = OutcomeId::new(ClusterId(2), id.anchor, id.txn, request);
    let wrong = [of_another_cluster, other_sequence, meta, no_shard];
    for id in wrong {
        let mut harness = Harness::new();
        let call = harness.router.call(harness.now, Call::Outcome { id }, harness.now + DEADLINE);
        assert_eq!(harness.result(call), Err(CallError::WrongOutcomeId { id }));
        assert_eq!(harness.asked, []);
        harness.assert_idle();
    }
}

#[test]
fn unknown_outcome_is_not_acknowledged_until_it_is_told() {
    let mut harness = Harness::new();
    let id = lose_a_commit(&mut harness);
    assert_eq!(commit(&mut harness), id.sequence);
    let told = answer(&mut harness, id, ClientReply::Txn(TxnReply::Aborted(AbortReason::GivenUp)));
    assert!(told.is_ok());
    assert!(commit(&mut harness) > id.sequence);
}

#[test]
fn unknown_outcome_is_given_up_when_it_is_old() {
    let mut harness = Harness::new();
    let id = lose_a_commit(&mut harness);
    for _ in 0..UNKNOWN_AGE_MAX {
        assert_eq!(commit(&mut harness), id.sequence);
    }
    assert!(commit(&mut harness) > id.sequence);
}

#[test]
fn so_many_unknown_outcomes_are_kept() {
    let mut harness = Harness::new();
    let ids: Vec<_> = (0..UNKNOWN_MAX).map(|_| lose_a_commit(&mut harness)).collect();
    assert_eq!(commit(&mut harness), ids[0].sequence);
    lose_a_commit(&mut harness);
    assert_eq!(commit(&mut harness), ids[1].sequence);
}
