//! From a violation to what people see of it.
//!
//! People need to see a handful of operations, not thousands.
//! Shown are the culprit, the last operations that were invoked before it completed, and the last
//! ones that wrote the value it speaks of, in the order of invocation.

use std::collections::BTreeSet;

use crate::history::{Event, Expect, History, MicroOp, Observed};
use crate::linearizability::Violation;
use crate::operation::{Operation, Outcome};
use crate::report::{KeyViolation, OperationView};

/// How many operations a violation shows.
const WINDOW_OPERATIONS_MAX: usize = 10;

/// How many of those are there because they wrote the value in question.
const WINDOW_WRITERS_MAX: usize = 2;

/// A violation with all that is needed to explain it.
pub(crate) struct Explanation<'a> {
    pub(crate) history: &'a History,
    pub(crate) operations: &'a [Operation<'a>],
    pub(crate) violation: &'a Violation,
}

impl Explanation<'_> {
    pub(crate) fn key_violation(&self, key: &str) -> KeyViolation {
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
        view(self.history, &self.operations[place])
    }
}

/// The operation for people.
pub(crate) fn view(history: &History, operation: &Operation<'_>) -> OperationView {
    let event = |position: usize| -> &Event { &history.events[position] };
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
