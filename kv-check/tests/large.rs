//! Large and contended histories within a step budget.
//!
//! Would go wrong without it: a pruning rule that stops working makes the checker slow or
//! undecided, which no small history shows.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use kv_check::{EventKind, History, MicroOp, Model, Observed, Process, Report, Verdict, check};
use support::{Rng, Workload, mutate, record};

const CONTENDED: Workload = Workload {
    clients: 20,
    operations: 4_000,
    keys: 1,
    values: 0,
    unknown: 4,
    unknown_max: 60,
    failed: 2,
    reported: 100,
    versions: 100,
    slow: 50,
};

#[track_caller]
fn holds(workload: &Workload, seeds: u64) {
    for seed in 0..seeds {
        let history = record(&mut Rng(seed), workload);
        let start = Instant::now();
        assert_eq!(check(&history).verdict, Verdict::Holds, "seed {seed}");
        let time = start.elapsed();
        if std::env::var("KV_CHECK_TIMES").is_ok() {
            println!("seed {seed}: {} events in {time:?}", history.events.len());
        }
    }
}

#[track_caller]
fn is_decided(workload: &Workload, seeds: u64, changes: usize) {
    let mut violated = 0;
    for seed in 0..seeds {
        let mut rng = Rng(seed);
        let mut history = record(&mut rng, workload);
        for _ in 0..changes {
            mutate(&mut rng, &mut history);
        }
        let start = Instant::now();
        let report = check(&history);
        let time = start.elapsed();
        if std::env::var("KV_CHECK_TIMES").is_ok() {
            println!("seed {seed}: {:?} in {time:?}", report.verdict);
        }
        assert_ne!(report.verdict, Verdict::Unknown, "seed {seed}");
        violated += u64::from(report.verdict == Verdict::Violated);
    }
    assert!(violated > 0, "some changes are wrong");
}

#[test]
fn contention_with_versions() {
    holds(&CONTENDED, 5);
    is_decided(&CONTENDED, 10, 1);
}

#[test]
fn contention_with_unique_values() {
    let workload = Workload { versions: 0, ..CONTENDED };
    holds(&workload, 5);
    is_decided(&workload, 10, 1);
}

#[test]
fn contention_with_few_values() {
    let workload = Workload { versions: 0, values: 5, operations: 1_500, ..CONTENDED };
    holds(&workload, 5);
    // Fewer clients, as a proof that no order exists must look at all orders of what is concurrent;
    // and more changes, as most do no harm where values repeat.
    is_decided(&Workload { clients: 6, ..workload }, 10, 30);
}

/// One key, `count` operations one after the other, now and then two at once; the last read sees
/// `last`.
fn mostly_sequential(count: u64, last: Option<&str>) -> History {
    let mut history = History::new(Model::Register);
    let mut current = Observed::Absent;
    let mut event = |process, kind, op| {
        let time_ns = history.events.len() as u64;
        history.push(time_ns, Process::Client(process), kind, vec![op]);
    };
    for number in 0..count / 2 {
        let value = format!("v{number}");
        let put = MicroOp::Put { key: "k".into(), value: value.clone(), version: Some(number) };
        event(1, EventKind::Invoke, MicroOp::put("k", &value));
        if number % 10 == 0 {
            event(2, EventKind::Invoke, MicroOp::get("k"));
            event(2, EventKind::Ok, get(current, None));
        }
        event(1, EventKind::Ok, put);
        current = Observed::Value(value);
        event(1, EventKind::Invoke, MicroOp::get("k"));
        event(1, EventKind::Ok, get(current.clone(), Some(number)));
    }
    if let Some(last) = last {
        event(1, EventKind::Invoke, MicroOp::get("k"));
        event(1, EventKind::Ok, get(Observed::Value(last.into()), None));
    }
    history
}

fn get(value: Observed, version: Option<u64>) -> MicroOp {
    MicroOp::Get { key: "k".into(), value, version }
}

#[track_caller]
fn timed(history: &History, limit: Duration) -> Report {
    let start = Instant::now();
    let report = check(history);
    let time = start.elapsed();
    if std::env::var("KV_CHECK_TIMES").is_ok() {
        println!("{} events: {:?} in {time:?}", history.events.len(), report.verdict);
    }
    assert!(time < limit, "a check took {time:?}");
    report
}

#[test]
fn many_sequential_operations() {
    // The limit is far above the usual times, so that only a broken search fails on a busy machine.
    let limit = Duration::from_secs(20);
    assert_eq!(timed(&mostly_sequential(300_000, None), limit).verdict, Verdict::Holds);
    for (stale, why) in [("v49998", "a stale read"), ("v1", "an old read"), ("?", "no write")] {
        let report = timed(&mostly_sequential(100_000, Some(stale)), limit);
        assert_eq!(report.verdict, Verdict::Violated, "{why}");
        assert_eq!(report.violations[0].prefix, 105_000, "{why}: all but the last read");
        assert!(report.violations[0].is_first, "{why}");
    }
}
