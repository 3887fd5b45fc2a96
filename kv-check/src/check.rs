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

use std::collections::BTreeMap;

use crate::budget::Options;
use crate::decision::Decision;
use crate::explain::Explanation;
use crate::history::{History, Process};
use crate::linearizability;
use crate::operation::{self, Operation, Outcome, PerClient};
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
    let operations = match operation::pair(history) {
        Ok(operations) => operations,
        Err(error) => {
            report.malformed = Some(error);
            return report;
        }
    };
    report.operations = count(&operations);
    let keys = by_key(operations);
    report.keys = keys.len();
    for (key, operations) in &keys {
        let decided = linearizability::check_key(operations, options);
        *report.methods.entry(decided.method).or_default() += 1;
        match decided.decision {
            Decision::Holds(order) => report.holds(history, key, operations, order.as_deref()),
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

/// The operations of each key, sorted by key.
fn by_key(operations: Vec<Operation<'_>>) -> Vec<(&str, Vec<Operation<'_>>)> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for operation in &operations {
        if counts.len() <= operation.key as usize {
            counts.push((operation.request.key(), 0));
        }
        counts[operation.key as usize].1 += 1;
    }
    if let [(only, _)] = counts[..] {
        return vec![(only, operations)];
    }
    let parts = counts.into_iter().map(|(key, count)| (key, Vec::with_capacity(count)));
    let mut parts: Vec<_> = parts.collect();
    for operation in operations {
        parts[operation.key as usize].1.push(operation);
    }
    parts.sort_unstable_by_key(|(key, _)| *key);
    parts
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
        order: Option<&[usize]>,
    ) {
        let Some(order) = order else { return };
        match witness::replay_key(operations, order) {
            Ok(()) => {
                let index = |place: &usize| history.events[operations[*place].invoked].index;
                self.witness.insert(key.to_owned(), order.iter().map(index).collect());
            }
            Err(flaw) => self.flaws.push(format!("the order of key {key:?}: {flaw}")),
        }
    }
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

/// How many different clients there are, and how many faults began.
pub(crate) fn clients_and_faults(history: &History) -> (usize, usize) {
    let mut clients: PerClient<bool> = PerClient::default();
    let mut count = 0;
    let mut switches: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &history.events {
        match event.process {
            Process::Client(number) => {
                count += usize::from(!std::mem::replace(clients.of(number), true));
            }
            Process::Nemesis => *switches.entry(&event.f).or_default() += 1,
        }
    }
    // Every second event of a kind ends the fault that the one before it began.
    (count, switches.values().map(|count| count.div_ceil(2)).sum())
}
