//! The checker against brute force on thousands of small histories.
//!
//! Would go wrong without it: a pruning rule of the search that drops the only legal order (a false
//! alarm) or a model that accepts what no store could have answered (a missed bug).
//! The brute force below shares no code with the checker: it tries all orders of all subsets over
//! all keys at once, with concrete versions.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kv_check::{Event, EventKind, Expect, History, MicroOp, Observed, Process, Verdict, check};
use support::{Rng, Workload, mutate, record};

struct Op<'h> {
    invoked: usize,
    completed: usize,
    request: &'h MicroOp,
    answer: Option<&'h MicroOp>,
}

/// A key: what it holds, and the last version it took.
type Held = (Option<(String, u64)>, Option<u64>);

struct Brute<'h> {
    ops: Vec<Op<'h>>,
    version_max: u64,
    dead: BTreeSet<(u32, Vec<(String, Held)>)>,
}

fn is_linearizable(history: &History) -> bool {
    let ops = operations(history);
    let versions = history.events.iter().flat_map(|event| &event.ops).flat_map(versions);
    let version_max = versions.max().unwrap_or(0);
    Brute { ops, version_max, dead: BTreeSet::new() }.search(0, &BTreeMap::new())
}

fn operations(history: &History) -> Vec<Op<'_>> {
    let mut ops: Vec<Op<'_>> = Vec::new();
    let mut open: BTreeMap<Process, usize> = BTreeMap::new();
    for (at, event) in history.events.iter().enumerate() {
        if event.kind == EventKind::Invoke {
            open.insert(event.process, ops.len());
            let request = &event.ops[0];
            ops.push(Op { invoked: at, completed: usize::MAX, request, answer: None });
        } else if event.kind == EventKind::Ok {
            let op = &mut ops[open[&event.process]];
            (op.completed, op.answer) = (at, Some(&event.ops[0]));
        } else if event.kind == EventKind::Fail {
            // Completed before it was invoked: never to be taken.
            ops[open[&event.process]].completed = 0;
        }
    }
    ops.retain(|op| op.completed > 0);
    ops
}

fn versions(op: &MicroOp) -> Vec<u64> {
    match op {
        MicroOp::Get { version, .. } | MicroOp::Put { version, .. } => {
            version.iter().copied().collect()
        }
        MicroOp::Cas { expect: Expect::Version(expect), version, .. } => {
            version.iter().copied().chain([*expect]).collect()
        }
        MicroOp::Cas { version, .. } => version.iter().copied().collect(),
        MicroOp::Delete { .. } => Vec::new(),
    }
}

impl Brute<'_> {
    fn search(&mut self, taken: u32, store: &BTreeMap<String, Held>) -> bool {
        let left = |at: usize| taken & (1 << at) == 0;
        let answered = |at: usize| self.ops[at].completed < usize::MAX;
        if (0..self.ops.len()).all(|at| !left(at) || !answered(at)) {
            return true;
        }
        let place = (taken, store.clone().into_iter().collect::<Vec<_>>());
        if self.dead.contains(&place) {
            return false;
        }
        for at in (0..self.ops.len()).filter(|at| left(*at)) {
            let precedes = |other: usize| self.ops[other].completed < self.ops[at].invoked;
            if (0..self.ops.len()).any(|other| left(other) && precedes(other)) {
                continue;
            }
            let key = self.ops[at].request.key().to_owned();
            let held = store.get(&key).cloned().unwrap_or_default();
            for next in self.outcomes(&self.ops[at], &held) {
                let mut store = store.clone();
                store.insert(key.clone(), next);
                if self.search(taken | 1 << at, &store) {
                    return true;
                }
            }
        }
        self.dead.insert(place);
        false
    }

    /// Everything that one concrete state can become.
    fn outcomes(&self, op: &Op<'_>, held: &Held) -> Vec<Held> {
        let (current, last) = held;
        match (op.request, op.answer) {
            (MicroOp::Get { .. }, None) => vec![held.clone()],
            (_, Some(MicroOp::Get { value, version, .. })) => {
                let value_fits = match value {
                    Observed::NotReported => true,
                    Observed::Absent => current.is_none(),
                    Observed::Value(value) => current.as_ref().is_some_and(|(v, _)| v == value),
                };
                let version_fits =
                    version.is_none_or(|v| current.as_ref().is_some_and(|(_, held)| *held == v));
                if value_fits && version_fits { vec![held.clone()] } else { vec![] }
            }
            (MicroOp::Put { value, .. }, answer) => {
                let version = answer.and_then(|answer| versions(answer).first().copied());
                self.writes(*last, Some(value), version)
            }
            (MicroOp::Delete { .. }, answer) => {
                if let Some(MicroOp::Delete { existed: Some(existed), .. }) = answer
                    && *existed != current.is_some()
                {
                    return vec![];
                }
                match current {
                    Some(_) => self.writes(*last, None, None),
                    None => vec![held.clone()],
                }
            }
            (MicroOp::Cas { expect, value, .. }, answer) => {
                let is_met = match expect {
                    Expect::Value(value) => current.as_ref().is_some_and(|(v, _)| v == value),
                    Expect::Version(version) => current.as_ref().is_some_and(|(_, v)| v == version),
                    Expect::Absent => current.is_none(),
                };
                let (applied, version) = match answer {
                    Some(MicroOp::Cas { applied, version, .. }) => (*applied, *version),
                    _ => (None, None),
                };
                let says = applied.or_else(|| version.map(|_| true));
                match is_met {
                    _ if says.is_some_and(|says| says != is_met) => vec![],
                    true => self.writes(*last, Some(value), version),
                    false => vec![held.clone()],
                }
            }
            (MicroOp::Get { .. }, Some(_)) => unreachable!("answers match their requests"),
        }
    }

    fn writes(&self, last: Option<u64>, value: Option<&String>, version: Option<u64>) -> Vec<Held> {
        let least = last.map_or(0, |last| last + 1);
        // Versions above all that the history names are alike, so one of them stands for all.
        let range = least..=least.max(self.version_max + 1);
        let fitting = range.filter(|v| version.is_none_or(|version| version == *v));
        fitting.map(|v| (value.map(|value| (value.clone(), v)), Some(v))).collect()
    }
}

/// The part of a history that is about one key, up to but without the event at `end`.
fn part(history: &History, key: &str, end: usize) -> History {
    let is_about = |event: &&Event| event.ops.first().is_some_and(|op| op.key() == key);
    let events = history.events[..end].iter().filter(is_about).cloned().collect();
    History { header: history.header.clone(), events }
}

/// The first `prefix` operations have an order, and with the culprit there is none.
fn verify_violations(history: &History, seed: u64) {
    for violation in check(history).violations {
        let invoked = history.events.iter().position(|e| e.index == violation.culprit.index);
        let invoked = invoked.unwrap();
        let process = history.events[invoked].process;
        let later = |event: &Event| event.process == process;
        let end = invoked + 1 + history.events[invoked + 1..].iter().position(later).unwrap();
        let before = part(history, &violation.key, end);
        let is_completion = |event: &&Event| matches!(event.kind, EventKind::Ok | EventKind::Fail);
        let answered = before.events.iter().filter(is_completion).count();
        assert_eq!(violation.prefix, answered, "seed {seed}: completions before the culprit");
        assert!(is_linearizable(&before), "seed {seed}: before the culprit an order exists");
        let with = part(history, &violation.key, end + 1);
        assert!(!is_linearizable(&with), "seed {seed}: with the culprit none exists");
    }
}

#[track_caller]
fn compare(history: &History, seed: u64) -> bool {
    let expected = if is_linearizable(history) { Verdict::Holds } else { Verdict::Violated };
    let report = check(history);
    let found = report.verdict;
    if found != expected {
        let mut text = Vec::new();
        kv_check::write_to(history, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        panic!("seed {seed}: expected {expected:?}, found {found:?} for\n{text}");
    }
    if found == Verdict::Holds {
        assert_eq!((report.witness.len(), &report.flaws[..]), (report.keys, &[][..]));
        report.witness.values().for_each(|order| verify_witness(history, order, seed));
    }
    expected == Verdict::Holds
}

/// The operations one after the other in the order of the witness still hold.
fn verify_witness(history: &History, order: &[u64], seed: u64) {
    let mut sequence = History { header: history.header.clone(), events: Vec::new() };
    for (number, index) in (0..).zip(order) {
        let at = history.events.iter().position(|event| event.index == *index).unwrap();
        let process = history.events[at].process;
        let mut events = history.events[at..].iter().filter(|event| event.process == process);
        for kind in [EventKind::Invoke, EventKind::Ok] {
            // One of unknown outcome took effect, and nobody knows what it saw.
            let event = events.next().filter(|event| event.kind == kind);
            if let Some(op) = event.and_then(|event| event.ops.first()) {
                sequence.push(number, Process::Client(number), kind, vec![op.clone()]);
            }
        }
    }
    assert!(is_linearizable(&sequence), "seed {seed}: the witness {order:?} is an order");
}

#[test]
fn agrees_with_brute_force() {
    let rounds = std::env::var("KV_CHECK_ROUNDS").map_or(30_000, |rounds| rounds.parse().unwrap());
    let mut violated = 0;
    for seed in 0..rounds {
        let mut rng = Rng(seed);
        // Few, as all their orders are tried.
        let operations = 3 + rng.below(5);
        let workload =
            Workload { clients: 2 + rng.below(3), ..Workload::small(&mut rng, operations) };
        let mut history = record(&mut rng, &workload);
        assert!(compare(&history, seed), "seed {seed}: what a correct store does is linearizable");
        for _ in 0..3 {
            mutate(&mut rng, &mut history);
            if !compare(&history, seed) {
                violated += 1;
                verify_violations(&history, seed);
            }
        }
    }
    assert!(violated > rounds / 2, "mutations make enough wrong histories: {violated}");
}
