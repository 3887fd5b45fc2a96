//! What would go wrong: an order that proves nothing passes.

use super::*;
use crate::budget::Options;
use crate::check::check;
use crate::history::{EventKind, History, Model, Process};
use crate::object::{Queue, QueueAction, Removal, Side};
use crate::support::{Rng, Workload, mutate, record};
use crate::transactions::{Execution, Level, NEVER, Step, Txn, TxnHistory, TxnOp, TxnOutcome};
use crate::{linearizability, operation};

/// `put a` and `put b` one after the other, a read of `b` beside the second, a put that failed and
/// one of unknown outcome.
fn history() -> History {
    let mut history = History::new(Model::Kv);
    let mut at = 0;
    let mut push = |process: u64, kind: EventKind, op: MicroOp| {
        at += 1;
        history.push(at, Process::Client(process), kind, vec![op]);
    };
    push(1, EventKind::Invoke, MicroOp::put("k", "a"));
    push(1, EventKind::Ok, MicroOp::put("k", "a"));
    push(1, EventKind::Invoke, MicroOp::put("k", "b"));
    push(2, EventKind::Invoke, MicroOp::get("k"));
    push(1, EventKind::Ok, MicroOp::put("k", "b"));
    let value = Observed::Value("b".to_owned());
    push(2, EventKind::Ok, MicroOp::Get { key: "k".to_owned(), value, version: None });
    push(3, EventKind::Invoke, MicroOp::put("k", "c"));
    push(3, EventKind::Fail, MicroOp::put("k", "c"));
    push(4, EventKind::Invoke, MicroOp::put("k", "d"));
    history
}

#[track_caller]
fn check_key(order: &[usize], expected: Result<(), Flaw>) {
    let history = history();
    let operations = operation::pair_one(&history).unwrap();
    assert_eq!(replay_key(&operations, order), expected);
}

#[test]
fn an_order_of_a_key_has_everything_once_in_real_time_with_its_result() {
    check_key(&[0, 1, 2], Ok(()));
    check_key(&[0, 1, 2, 4], Ok(()));
    check_key(&[0, 1, 2, 2], Err(Flaw::Twice(2)));
    check_key(&[0, 1], Err(Flaw::Missing(2)));
    check_key(&[0, 1, 2, 3], Err(Flaw::NoOperation(3)));
    check_key(&[0, 1, 2, 5], Err(Flaw::NoOperation(5)));
    check_key(&[0, 2, 1], Err(Flaw::OtherResult(2)));
    check_key(&[0, 1, 4, 2], Err(Flaw::TooLate(2)));
    check_key(&[1, 0, 2], Err(Flaw::TooLate(0)));
}

#[test]
fn an_order_of_an_object_is_held_to_the_same() {
    let call = |invoked, completed, action| Call::new(invoked, completed, action);
    let calls = [
        call(0, 3, QueueAction::Add(1)),
        call(1, 4, QueueAction::Add(2)),
        call(5, 6, QueueAction::Remove(Removal::Value(2))),
        call(7, PENDING, QueueAction::Remove(Removal::Unknown)),
    ];
    let replay = |order: &[usize]| replay_calls(&Queue(Side::Oldest), &calls, order);
    assert_eq!(replay(&[1, 0, 2]), Ok(()));
    assert_eq!(replay(&[1, 0, 2, 3]), Ok(()));
    assert_eq!(replay(&[0, 1, 2]), Err(Flaw::OtherResult(2)));
    assert_eq!(replay(&[1, 2, 0]), Err(Flaw::TooLate(0)));
    assert_eq!(replay(&[1, 0]), Err(Flaw::Missing(2)));
}

/// What is kept of an operation in short must mean the same as its request and its answer.
#[test]
fn what_an_operation_did_in_short_is_what_it_did() {
    let mut counts = [0; 3];
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let workload = Workload { keys: 1, ..Workload::small(&mut rng, 30) };
        let mut history = record(&mut rng, &workload);
        mutate(&mut rng, &mut history);
        for operation in operation::pair_one(&history).unwrap() {
            for operation in [operation, operation.without_outcome()] {
                let readings = readings(&operation);
                assert_eq!(readings, readings_of_all(&operation), "seed {seed}: {operation:?}");
                counts[readings.iter().flatten().count()] += 1;
            }
        }
    }
    assert!(counts[1] > 1_000 && counts[2] > 100, "{counts:?}");
}

/// What a correct store did has an order; with one operation less, or one at another place where
/// real time forbids it, it is none.
#[test]
fn no_changed_order_passes() {
    for seed in 0..2_000 {
        let mut rng = Rng(seed);
        let workload = Workload {
            clients: 3,
            operations: 12,
            keys: 1,
            values: rng.below(3),
            unknown: 20,
            unknown_max: 3,
            failed: 10,
            reported: 90,
            versions: 50,
            slow: 30,
        };
        let history = record(&mut rng, &workload);
        let operations = operation::pair_one(&history).unwrap();
        let decided = linearizability::check_key(&operations, &Options::default());
        let crate::decision::Decision::Holds(Some(order)) = decided.decision else { continue };
        assert_eq!(replay_key(&operations, &order), Ok(()), "seed {seed}");
        let place = rng.below(order.len().max(1));
        let Some(&moved) = order.get(place) else { continue };
        let mut less = order.clone();
        less.remove(place);
        let is_open = matches!(operations[moved].outcome(), Outcome::Unknown);
        assert!(is_open || replay_key(&operations, &less) == Err(Flaw::Missing(moved)));
        let is_before = |one: usize, other: usize| {
            let completed = operations[one].completed().unwrap_or(usize::MAX);
            let is_known = matches!(operations[one].outcome(), Outcome::Ok(_));
            is_known && completed < operations[other].invoked()
        };
        for to in 0..=less.len() {
            let mut other = less.clone();
            other.insert(to, moved);
            let (before, after) = (&less[..to], &less[to..]);
            let is_late = after.iter().any(|later| is_before(*later, moved))
                || before.iter().any(|earlier| is_before(moved, *earlier));
            if is_late {
                assert!(replay_key(&operations, &other).is_err(), "seed {seed}: {other:?}");
            }
        }
    }
}

#[test]
fn a_wrong_order_is_reported_and_leaves_the_verdict_unknown() {
    let history = history();
    let operations = operation::pair_one(&history).unwrap();
    let mut report = check(&history);
    assert_eq!((report.witness["k"].len(), report.flaws.len()), (3, 0));
    report.holds(&history, "k", &operations, Some(vec![1, 0, 2]));
    report.judge();
    assert_eq!(report.verdict, crate::Verdict::Unknown);
    let text = report.to_string();
    let expected = "INTERNAL ERROR of the checker, please report it: the order of key \"k\": \
                    operation 0 comes too late in the order";
    assert!(text.contains(expected), "{text}");
}

/// T1 writes x and T2 reads it later; T3 overwrites it beside T4, which overwrites it too; T5 aborted.
fn transactions() -> TxnHistory {
    let mut history = TxnHistory::new();
    let key = history.key("x");
    let [old, one, three, four, five] =
        ["old", "1", "3", "4", "5"].map(|value| history.version(key, value));
    let mut push = |process, invoked, completed, outcome, ops: &[TxnOp]| {
        history.push(Txn { process, invoked, completed, outcome }, ops).unwrap();
    };
    let ok = TxnOutcome::Committed;
    push(0, 0, 1, ok, &[TxnOp::Read(key, Some(old)), TxnOp::Write(one)]);
    push(1, 2, 5, ok, &[TxnOp::Read(key, Some(one))]);
    push(0, 3, 6, ok, &[TxnOp::Write(three)]);
    push(2, 4, NEVER, TxnOutcome::Unknown, &[TxnOp::Write(four)]);
    push(3, 7, 8, TxnOutcome::Aborted, &[TxnOp::Write(five)]);
    push(1, 9, 10, ok, &[TxnOp::Read(key, Some(three)), TxnOp::Read(key, Some(three))]);
    history
}

#[test]
fn an_execution_is_held_to_its_level() {
    use ExecutionFlaw::{
        Missing, NoProof, NoTransaction, NotAlone, OtherResult, OutOfTurn, Overwrites, TooLate,
    };
    use Step::{Commit, Run, Start};
    let history = transactions();
    let expect = |level, steps: &[Step], expected: Result<(), ExecutionFlaw>| {
        let steps = steps.to_vec();
        assert_eq!(
            Execution { level, steps: steps.clone() }.replay(&history),
            expected,
            "{steps:?}"
        );
    };
    let strict = Level::StrictSerializable;
    expect(strict, &[Run(0), Run(1), Run(2), Run(5)], Ok(()));
    expect(strict, &[Run(0), Run(1), Run(3), Run(2), Run(5)], Ok(()));
    expect(strict, &[Run(0), Run(1), Run(2), Run(5), Run(3)], Ok(()));
    expect(strict, &[Run(0), Run(1), Run(2)], Err(Missing(5)));
    expect(strict, &[Run(0), Run(1), Run(2), Run(2)], Err(OutOfTurn(2)));
    expect(strict, &[Run(0), Run(1), Run(2), Run(4)], Err(NoTransaction(4)));
    expect(strict, &[Run(0), Run(1), Run(2), Run(6)], Err(NoTransaction(6)));
    expect(strict, &[Run(0), Run(2), Run(1)], Err(OtherResult(1)));
    expect(strict, &[Run(1)], Err(OtherResult(1)));
    expect(strict, &[Run(2), Run(0)], Err(OtherResult(0)));
    expect(strict, &[Run(3), Run(2), Run(5)], Err(Missing(0)));
    expect(strict, &[Start(0), Commit(0)], Err(NotAlone(0)));
    expect(Level::ReadCommitted, &[], Err(NoProof(Level::ReadCommitted)));
    let snapshot = Level::SnapshotIsolation;
    expect(
        snapshot,
        &[Run(0), Start(1), Start(2), Commit(2), Start(5), Commit(5), Commit(1)],
        Ok(()),
    );
    expect(snapshot, &[Commit(0)], Err(OutOfTurn(0)));
    expect(snapshot, &[Run(0), Commit(0)], Err(OutOfTurn(0)));
    expect(snapshot, &[Run(0), Run(1), Run(2), Run(5), Start(3)], Err(Missing(3)));
    expect(snapshot, &[Run(0), Start(2), Run(3), Commit(2)], Err(Overwrites(2)));
    let late = [Run(0), Start(1), Run(2), Run(5), Commit(1)];
    expect(snapshot, &late, Ok(()));
    expect(Level::StrongSessionSnapshotIsolation, &late, Err(TooLate(1)));
    expect(Level::StrongSnapshotIsolation, &late, Err(TooLate(1)));
}

/// A value that nobody wrote is what a key held at first, but only one of them, and only at first.
#[test]
fn a_key_holds_one_value_at_first() {
    let replay = |reads: &[&str], written: &str| {
        let mut history = TxnHistory::new();
        let key = history.key("x");
        let written = TxnOp::Write(history.version(key, written));
        let read = |value| TxnOp::Read(key, Some(history.version(key, value)));
        let mut ops: Vec<_> = reads.iter().copied().map(read).collect();
        ops.insert(ops.len() - 1, written);
        let outcome = TxnOutcome::Committed;
        history.push(Txn { process: 0, invoked: 0, completed: 1, outcome }, &ops).unwrap();
        Execution { level: Level::Serializable, steps: vec![Step::Run(0)] }.replay(&history)
    };
    assert_eq!(replay(&["old", "old", "new"], "new"), Ok(()));
    for wrong in [["old", "older", "new"], ["new", "new", "new"], ["old", "old", "old"]] {
        assert_eq!(replay(&wrong, "new"), Err(ExecutionFlaw::OtherResult(0)), "{wrong:?}");
    }
}
