//! From a violation to what people see of it.
//!
//! People need to see a handful of operations, not thousands: those of a minimal
//! [conflict](crate::linearizability::conflict()), in the order of invocation.

use crate::budget::Options;
use crate::history::{Event, Expect, History, MicroOp, Observed, Process};
use crate::linearizability::{Violation, conflict};
use crate::minimal::Bad;
use crate::operation::{Operation, Outcome};
use crate::report::{KeyViolation, OperationView};

/// A violation with all that is needed to explain it.
pub(crate) struct Explanation<'a> {
    pub(crate) history: &'a History,
    pub(crate) operations: &'a [Operation<'a>],
    pub(crate) violation: &'a Violation,
    pub(crate) options: &'a Options,
}

impl Explanation<'_> {
    pub(crate) fn key_violation(&self, key: &str) -> KeyViolation {
        let is_initial = |place: usize| is_initial(self.history, &self.operations[place]);
        let is_write =
            |place: &&usize| may_write(&self.operations[**place]) && !is_initial(**place);
        let initial = (0..self.operations.len().min(1)).filter(|place| is_initial(*place)).count();
        let Bad { places, is_minimal } =
            conflict(self.operations, self.violation.culprit, self.options);
        let shown = places.into_iter().filter(|place| !is_initial(*place));
        KeyViolation {
            key: key.to_owned(),
            prefix: self.violation.prefix.saturating_sub(initial),
            is_first: self.violation.is_first,
            culprit: self.view(self.violation.culprit),
            last_write: self.violation.order.iter().rev().find(is_write).map(|at| self.view(*at)),
            window: shown.map(|place| self.view(place)).collect(),
            is_minimal,
        }
    }

    fn view(&self, place: usize) -> OperationView {
        view(self.history, &self.operations[place])
    }
}

/// Whether the operation only stands for the value that was there at first.
pub(crate) fn is_initial(history: &History, operation: &Operation<'_>) -> bool {
    history.events[operation.invoked()].is_initial()
}

/// The operation for people.
pub(crate) fn view(history: &History, operation: &Operation<'_>) -> OperationView {
    let event = |position: usize| -> &Event { &history.events[position] };
    let result = match operation.outcome() {
        Outcome::Ok(answer) => result_text(answer),
        Outcome::Failed => "failed".to_owned(),
        Outcome::Unknown => "unknown".to_owned(),
    };
    let is_known = !matches!(operation.outcome(), Outcome::Unknown);
    let invocation = event(operation.invoked());
    // Invocation and completion of what stands for the first value, if there is such a thing.
    let is_counted = !invocation.is_initial();
    let invented = if is_counted && event(0).is_initial() { 2 } else { 0 };
    let process = match invocation.process {
        Process::Client(number) => number,
        Process::Nemesis => unreachable!("operations are those of clients"),
    };
    OperationView {
        process,
        index: invocation.index - invented,
        operation: request_text(operation.request),
        invoked_ns: invocation.time_ns,
        completed_ns: operation.completed().filter(|_| is_known).map(|at| event(at).time_ns),
        result,
    }
}

fn may_write(operation: &Operation<'_>) -> bool {
    let request = operation.request;
    match operation.outcome() {
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
