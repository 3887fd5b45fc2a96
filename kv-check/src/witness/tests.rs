//! What would go wrong: an order that proves nothing passes.

use super::*;
use crate::budget::Options;
use crate::check::check;
use crate::history::{EventKind, History, Model, Process};
use crate::object::{Queue, QueueAction, Removal, Side};
use crate::support::{Rng, Workload, record};
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
    let operations = operation::pair(&history).unwrap();
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
    let call = |invoked, completed, action| Call { invoked, completed, action };
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
        let operations = operation::pair(&history).unwrap();
        let decided = linearizability::check_key(&operations, &Options::default());
        let crate::decision::Decision::Holds(Some(order)) = decided.decision else { continue };
        assert_eq!(replay_key(&operations, &order), Ok(()), "seed {seed}");
        let place = rng.below(order.len().max(1));
        let Some(&moved) = order.get(place) else { continue };
        let mut less = order.clone();
        less.remove(place);
        let is_open = matches!(operations[moved].outcome, Outcome::Unknown);
        assert!(is_open || replay_key(&operations, &less) == Err(Flaw::Missing(moved)));
        let is_before = |one: usize, other: usize| {
            let completed = operations[one].completed.unwrap_or(usize::MAX);
            let is_known = matches!(operations[one].outcome, Outcome::Ok(_));
            is_known && completed < operations[other].invoked
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
    let operations = operation::pair(&history).unwrap();
    let mut report = check(&history);
    assert_eq!((report.witness["k"].len(), report.flaws.len()), (3, 0));
    report.holds(&history, "k", &operations, Some(&[1, 0, 2]));
    report.judge();
    assert_eq!(report.verdict, crate::Verdict::Unknown);
    let text = report.to_string();
    let expected = "INTERNAL ERROR of the checker, please report it: the order of key \"k\": \
                    operation 0 comes too late in the order";
    assert!(text.contains(expected), "{text}");
}
