//! From a history to a report: pair, split by key, search each key, explain what fails.
//!
//! The verdict of a history is the worst of its keys: one violated key violates the history, and a
//! key whose search was given up leaves it unknown.
//! A history that is not well-formed has no operations to speak of, so its verdict is unknown,
//! never that it holds; [`Report::malformed`] says why.
//!
//! # The window of a violation
//!
//! People need to see a handful of operations, not thousands.
//! Shown are the culprit, the last operations that were invoked before it completed, and the last
//! ones that wrote the value it speaks of, in the order of invocation.
//!
//! # What this leaves out
//!
//! Threads: keys are independent and could be searched in parallel, but a checker inside a
//! deterministic simulation must not start any.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::Options;
use crate::decision::Decision;
use crate::history::{Event, Expect, History, MicroOp, Observed, Process};
use crate::linearizability::{self, Violation};
use crate::operation::{self, Operation, Outcome};
use crate::report::{KeyViolation, OperationView, Operations, Report, Verdict};

/// How many operations a violation shows.
const WINDOW_OPERATIONS_MAX: usize = 10;

/// How many of those are there because they wrote the value in question.
const WINDOW_WRITERS_MAX: usize = 2;

/// Checks a history with the default limits.
#[must_use]
pub fn check(history: &History) -> Report {
    check_with(history, &Options::default())
}

/// Checks a history.
#[must_use]
pub fn check_with(history: &History, options: &Options) -> Report {
    let mut report = Report::new(history);
    let operations = match operation::pair(history) {
        Ok(operations) => operations,
        Err(error) => {
            report.malformed = Some(error);
            return report;
        }
    };
    report.operations = count(&operations);
    let mut keys: BTreeMap<&str, Vec<Operation<'_>>> = BTreeMap::new();
    for operation in operations {
        keys.entry(operation.request.key()).or_default().push(operation);
    }
    report.keys = keys.len();
    for (key, operations) in &keys {
        let decided = linearizability::check_key(operations, options);
        *report.methods.entry(decided.method).or_default() += 1;
        match decided.decision {
            Decision::Holds(_) => {}
            Decision::Unknown => report.undecided.push((*key).to_owned()),
            Decision::Violated(violation) => {
                let explanation = Explanation { history, operations, violation: &violation };
                report.violations.push(explanation.key_violation(key));
            }
        }
    }
    report.verdict = match (report.violations.is_empty(), report.undecided.is_empty()) {
        (true, true) => Verdict::Holds,
        (true, false) => Verdict::Unknown,
        (false, _) => Verdict::Violated,
    };
    report
}

fn count(operations: &[Operation<'_>]) -> Operations {
    let mut counts = Operations::default();
    for operation in operations {
        match operation.outcome {
            Outcome::Ok(_) => counts.ok += 1,
            Outcome::Failed => counts.failed += 1,
            Outcome::Unknown => counts.unknown += 1,
        }
    }
    counts
}

/// A violation with all that is needed to explain it.
struct Explanation<'a> {
    history: &'a History,
    operations: &'a [Operation<'a>],
    violation: &'a Violation,
}

impl Explanation<'_> {
    fn key_violation(&self, key: &str) -> KeyViolation {
        let is_write = |place: &&usize| may_write(&self.operations[**place]);
        KeyViolation {
            key: key.to_owned(),
            prefix: self.violation.prefix,
            is_first: self.violation.is_first,
            culprit: self.view(self.violation.culprit),
            last_write: self.violation.order.iter().rev().find(is_write).map(|at| self.view(*at)),
            window: self.window().into_iter().map(|place| self.view(place)).collect(),
        }
    }

    /// Places of the operations to show.
    fn window(&self) -> BTreeSet<usize> {
        let culprit = &self.operations[self.violation.culprit];
        let end = culprit.completed.unwrap_or(usize::MAX);
        let count = self.operations.partition_point(|operation| operation.invoked < end);
        let relevant = || (0..count).rev().filter(|at| !self.is_failed(*at));
        let mut places = BTreeSet::from([self.violation.culprit]);
        if let Some(value) = spoken_of(culprit) {
            let writers = relevant().filter(|at| written(&self.operations[*at]) == Some(value));
            places.extend(writers.take(WINDOW_WRITERS_MAX));
        }
        for place in relevant() {
            if places.len() == WINDOW_OPERATIONS_MAX {
                break;
            }
            places.insert(place);
        }
        places
    }

    fn is_failed(&self, place: usize) -> bool {
        matches!(self.operations[place].outcome, Outcome::Failed)
    }

    fn view(&self, place: usize) -> OperationView {
        let operation = &self.operations[place];
        let event = |position: usize| -> &Event { &self.history.events[position] };
        let result = match operation.outcome {
            Outcome::Ok(answer) => result_text(answer),
            Outcome::Failed => "failed".to_owned(),
            Outcome::Unknown => "unknown".to_owned(),
        };
        let is_known = !matches!(operation.outcome, Outcome::Unknown);
        OperationView {
            process: operation.process,
            index: event(operation.invoked).index,
            operation: request_text(operation.request),
            invoked_ns: event(operation.invoked).time_ns,
            completed_ns: operation.completed.filter(|_| is_known).map(|at| event(at).time_ns),
            result,
        }
    }
}

fn may_write(operation: &Operation<'_>) -> bool {
    let request = operation.request;
    match operation.outcome {
        Outcome::Failed => false,
        Outcome::Unknown => !matches!(request, MicroOp::Get { .. }),
        Outcome::Ok(answer) => !matches!(
            answer,
            MicroOp::Get { .. }
                | MicroOp::Delete { existed: Some(false), .. }
                | MicroOp::Cas { applied: Some(false), .. }
        ),
    }
}

fn written<'h>(operation: &Operation<'h>) -> Option<&'h str> {
    match operation.request {
        MicroOp::Put { value, .. } | MicroOp::Cas { value, .. } => Some(value),
        MicroOp::Get { .. } | MicroOp::Delete { .. } => None,
    }
}

/// The value that the result of the operation is about.
fn spoken_of<'h>(operation: &Operation<'h>) -> Option<&'h str> {
    match operation.outcome {
        Outcome::Ok(
            MicroOp::Get { value: Observed::Value(value), .. }
            | MicroOp::Cas { expect: Expect::Value(value), .. },
        ) => Some(value),
        _ => None,
    }
}

fn request_text(request: &MicroOp) -> String {
    match request {
        MicroOp::Get { .. } => "get".to_owned(),
        MicroOp::Put { value, .. } => format!("put {value:?}"),
        MicroOp::Delete { .. } => "delete".to_owned(),
        MicroOp::Cas { expect: Expect::Value(old), value, .. } => {
            format!("cas {old:?} -> {value:?}")
        }
        MicroOp::Cas { expect: Expect::Version(version), value, .. } => {
            format!("cas version {version} -> {value:?}")
        }
        MicroOp::Cas { expect: Expect::Absent, value, .. } => format!("cas absent -> {value:?}"),
    }
}

fn result_text(answer: &MicroOp) -> String {
    match answer {
        MicroOp::Get { value: Observed::Absent, .. } => "absent".to_owned(),
        MicroOp::Get { value: Observed::NotReported, version, .. } => with_version("ok", *version),
        MicroOp::Get { value: Observed::Value(value), version, .. } => {
            with_version(&format!("{value:?}"), *version)
        }
        MicroOp::Put { version, .. } => with_version("ok", *version),
        MicroOp::Delete { existed: None, .. } => "ok".to_owned(),
        MicroOp::Delete { existed: Some(true), .. } => "existed".to_owned(),
        MicroOp::Delete { existed: Some(false), .. } => "did not exist".to_owned(),
        MicroOp::Cas { applied: None, version, .. } => with_version("ok", *version),
        MicroOp::Cas { applied: Some(true), version, .. } => with_version("applied", *version),
        MicroOp::Cas { applied: Some(false), .. } => "not applied".to_owned(),
    }
}

fn with_version(text: &str, version: Option<u64>) -> String {
    version.map_or_else(|| text.to_owned(), |version| format!("{text} version {version}"))
}

/// How many different clients there are, and how many faults began.
pub(crate) fn clients_and_faults(history: &History) -> (usize, usize) {
    let mut clients = BTreeSet::new();
    let mut switches: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &history.events {
        match event.process {
            Process::Client(number) => {
                clients.insert(number);
            }
            Process::Nemesis => *switches.entry(&event.f).or_default() += 1,
        }
    }
    // Every second event of a kind ends the fault that the one before it began.
    (clients.len(), switches.values().map(|count| count.div_ceil(2)).sum())
}
