//! The operations that explain a violation: they have no order, and without any one of them they have
//! one.
//!
//! Would go wrong without it: people look for a bug where there is none.
//! What it means to leave an operation out is built here from events, and nothing of the code that
//! looks for the operations is used: see `KeyViolation::window`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use kv_check::{
    Event, EventKind, Expect, Finding, Format, History, KeyViolation, MicroOp, Model, Observed,
    Options, Process, Verdict, check,
};
use support::{Rng, Workload, mutate, record};

/// The events of one operation, its invocation first.
type Operation<'h> = Vec<&'h Event>;

/// The operations on a key in the order of invocation.
fn operations<'h>(history: &'h History, key: &str) -> Vec<Operation<'h>> {
    let mut operations: Vec<Operation<'_>> = Vec::new();
    for event in &history.events {
        if event.kind == EventKind::Invoke {
            operations.push(vec![event]);
        } else {
            let is_mine = |operation: &&mut Operation<'_>| operation[0].process == event.process;
            operations.iter_mut().rev().find(is_mine).unwrap().push(event);
        }
    }
    operations.retain(|operation| operation[0].ops[0].key() == key);
    operations
}

/// The operations whose invocations are in `set`, as they were at `end`, and whatever the others may
/// have written.
fn with_rest(operations: &[Operation<'_>], set: &[u64], end: u64, header: &History) -> History {
    let is_in = |operation: &&Operation<'_>| set.contains(&operation[0].index);
    let mut history = History { header: header.header.clone(), events: Vec::new() };
    let mut process = 1_000;
    for operation in operations.iter().filter(|operation| !is_in(operation)) {
        let free = match &operation[0].ops[0] {
            MicroOp::Put { key, value, .. } | MicroOp::Cas { key, value, .. } => {
                MicroOp::put(key, value)
            }
            MicroOp::Delete { key, .. } => MicroOp::delete(key),
            MicroOp::Get { .. } => continue,
        };
        for _ in 0..=set.len() {
            process += 1;
            history.push(0, Process::Client(process), EventKind::Invoke, vec![free.clone()]);
        }
    }
    let events = operations.iter().filter(is_in).flatten();
    let mut events: Vec<_> = events.filter(|event| event.index <= end).collect();
    events.sort_by_key(|event| event.index);
    for event in events {
        history.push(event.time_ns, event.process, event.kind, event.ops.clone());
    }
    history
}

/// Verifies the window of a violation.
fn verify(history: &History, violation: &KeyViolation, seed: u64) {
    let operations = operations(history, &violation.key);
    let culprit = violation.culprit.index;
    let end = operations.iter().find(|operation| operation[0].index == culprit).unwrap()[1].index;
    let window: Vec<_> = violation.window.iter().map(|view| view.index).collect();
    assert!(violation.is_minimal && window.contains(&culprit), "seed {seed}: {violation:?}");
    let verdict = |set: &[u64]| check(&with_rest(&operations, set, end, history)).verdict;
    assert_eq!(verdict(&window), Verdict::Violated, "seed {seed}: {window:?}");
    for left_out in &window {
        let others: Vec<_> = window.iter().copied().filter(|index| index != left_out).collect();
        assert_eq!(verdict(&others), Verdict::Holds, "seed {seed}: {window:?} less {left_out}");
    }
}

/// Makes histories with one or more wrong results each, verifies their windows and returns the sizes
/// of those; simple ones write each value once and name no versions.
fn run(seeds: u64, operations: usize, is_simple: bool) -> Vec<usize> {
    let mut sizes = Vec::new();
    for seed in 0..seeds {
        let mut rng = Rng(seed);
        let count = 3 + rng.below(operations);
        let mut workload = Workload::small(&mut rng, count);
        if is_simple {
            (workload.values, workload.versions) = (0, 0);
        }
        let mut history = record(&mut rng, &workload);
        for _ in 0..2 {
            mutate(&mut rng, &mut history);
            for violation in check(&history).violations {
                verify(&history, &violation, seed);
                sizes.push(violation.window.len());
            }
        }
    }
    sizes
}

#[test]
fn no_operation_of_a_window_can_be_left_out() {
    let is_full = std::env::var("KV_TEST_SCALE").is_ok_and(|scale| scale == "full");
    let sizes = run(if is_full { 30_000 } else { 3_000 }, 6, false);
    assert!(sizes.len() > 1_000, "{} windows", sizes.len());
    assert!(sizes.iter().any(|size| *size > 3), "no window has more than three");
}

/// The get saw what the cas may have written as long as it was open, over any value that was there.
#[test]
fn an_operation_that_completed_after_the_culprit_may_have_needed_anything() {
    let mut history = History::new(Model::Kv);
    let mut step = |process, kind, op: &MicroOp| {
        let time = history.events.len() as u64;
        history.push(time, Process::Client(process), kind, vec![op.clone()]);
    };
    for value in ["a", "b", "c", "d"] {
        step(0, EventKind::Invoke, &MicroOp::put("k", value));
        step(0, EventKind::Ok, &MicroOp::put("k", value));
    }
    let cas = MicroOp::cas("k", Expect::Value("c".to_owned()), "e");
    let mut refused = cas.clone();
    if let MicroOp::Cas { applied, .. } = &mut refused {
        *applied = Some(false);
    }
    step(3, EventKind::Invoke, &cas);
    step(4, EventKind::Invoke, &MicroOp::get("k"));
    let value = Observed::Value("e".to_owned());
    step(4, EventKind::Ok, &MicroOp::Get { key: "k".to_owned(), value, version: None });
    step(3, EventKind::Ok, &refused);
    let found = check(&history).violations;
    assert_eq!(found.len(), 1);
    verify(&history, &found[0], 0);
}

#[test]
fn a_stop_ends_the_search_for_a_window() {
    let text = "[1] call enqueue(1)\n[1] return\n[2] call dequeue\n[2] return 2\n";
    let recording = Format::Violin.read(text).unwrap();
    let options = Options::default();
    let is_minimal = || match recording.check(&options) {
        Finding::Objects(objects) => objects.windows[0].is_minimal,
        other => panic!("{other}"),
    };
    assert!(is_minimal());
    // The rules of queues take no steps, so there is a verdict all the same.
    options.stop.stop();
    assert!(!is_minimal());
}

#[test]
fn the_window_of_a_long_history_with_unique_values_is_short() {
    let mut sizes = run(150, 150, true);
    sizes.sort_unstable();
    assert!(sizes.len() > 100, "{} windows", sizes.len());
    assert!(sizes[sizes.len() / 2] <= 3 && sizes[sizes.len() * 9 / 10] <= 8, "{sizes:?}");
    run(50, 150, false);
}
