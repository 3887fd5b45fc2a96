//! From a history to a report: pair, split by key, search each key, explain what fails.
//!
//! The verdict of a history is the worst of its keys: one violated key violates the history, and a
//! key whose search was given up leaves it unknown.
//! A history that is not well-formed has no operations to speak of, so its verdict is unknown,
//! never that it holds; [`Report::malformed`] says why.
//!
//! # What this leaves out
//!
//! Threads: keys are independent and could be searched in parallel, but a checker inside a
//! deterministic simulation must not start any.

use crate::budget::Options;
use crate::decision::Decision;
use crate::explain::Explanation;
use crate::history::History;
use crate::linearizability;
use crate::operation::{self, Operation, Paired};
use crate::report::{Operations, Report, Verdict};
use crate::witness;

/// Checks a history with the default limits.
#[must_use]
pub fn check(history: &History) -> Report {
    check_with(history, &Options::default())
}

/// Checks a history.
#[must_use]
pub fn check_with(history: &History, options: &Options) -> Report {
    let mut report = Report::new(history);
    let Paired { keys, processes, faults, ok, failed, unknown } = match operation::pair(history) {
        Ok(paired) => paired,
        Err(error) => {
            report.malformed = Some(error);
            return report;
        }
    };
    report.operations = Operations { ok, failed, unknown };
    (report.keys, report.processes, report.faults) = (keys.len(), processes, faults);
    for (key, operations) in &keys {
        let decided = linearizability::check_key(operations, options);
        *report.methods.entry(decided.method).or_default() += 1;
        match decided.decision {
            Decision::Holds(order) => report.holds(history, key, operations, order),
            Decision::Unknown => report.undecided.push((*key).to_owned()),
            Decision::Violated(violation) => {
                let explanation =
                    Explanation { history, operations, violation: &violation, options };
                report.violations.push(explanation.key_violation(key));
            }
        }
    }
    report.judge();
    report
}

impl Report {
    /// Sums up what came of the keys.
    pub(crate) fn judge(&mut self) {
        let is_decided = self.undecided.is_empty() && self.flaws.is_empty();
        self.verdict = match (self.violations.is_empty(), is_decided) {
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::Unknown,
            (false, _) => Verdict::Violated,
        };
    }

    /// Keeps the order of the operations of `key`, once it is verified.
    pub(crate) fn holds(
        &mut self,
        history: &History,
        key: &str,
        operations: &[Operation<'_>],
        order: Option<Vec<usize>>,
    ) {
        let Some(order) = order else { return };
        if let Err(flaw) = witness::replay_key(operations, &order) {
            self.flaws.push(format!("the order of key {key:?}: {flaw}"));
            return;
        }
        // Indexes increase, so if the last one is the position of its event, all are.
        let is_counted = history.next_index() == history.events.len() as u64;
        let index = |place: usize| match operations[place].invoked() {
            position if is_counted => position as u64,
            position => history.events[position].index,
        };
        self.witness.insert(key.to_owned(), order.into_iter().map(index).collect());
    }
}
