//! Small histories with known verdicts.

use std::fmt;

use serde::Serialize;

use super::history::TxnHistory;
use super::level::Level;
use super::{TxnReport, check_transactions};
use crate::budget::Options;
use crate::report::{Verdict, printable};

/// A history with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) history: TxnHistory,
    pub(crate) expected: Expected,
}

/// What is known of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) levels: Vec<(Level, Verdict)>,
    /// Names of anomalies that are in it, maybe among others.
    pub(crate) anomalies: Vec<String>,
}

/// What became of cases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cases {
    /// Holds if all is as it is known to be.
    pub verdict: Verdict,
    /// How many cases there are.
    pub count: usize,
    /// What is not, in sentences.
    pub wrong: Vec<String>,
}

/// Compares each case with what is known of it.
pub(crate) fn check(cases: &[Case], options: &Options) -> Cases {
    let mut wrong = Vec::new();
    for Case { name, history, expected } in cases {
        let report = check_transactions(history, options);
        for (level, verdict) in &expected.levels {
            let found = report.verdict_of(*level);
            if found != *verdict {
                wrong.push(format!("{name}: {level} {found:?}, known is {verdict:?}"));
            }
        }
        wrong.extend(report.flaws.iter().map(|flaw| format!("{name}: {flaw}")));
        let is_missing = |anomaly: &&String| !has(&report, anomaly);
        let missing = expected.anomalies.iter().filter(is_missing);
        wrong.extend(missing.map(|anomaly| format!("{name}: found no {anomaly}")));
    }
    let verdict = if wrong.is_empty() { Verdict::Holds } else { Verdict::Violated };
    Cases { verdict, count: cases.len(), wrong }
}

fn has(report: &TxnReport, anomaly: &str) -> bool {
    report.anomalies.iter().any(|found| found.kind.to_string() == anomaly)
}

impl fmt::Display for Cases {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "cases       {}, of which {} are wrong", self.count, self.wrong.len())?;
        let mut told = self.wrong.iter().take(20).map(|wrong| printable(wrong));
        told.try_for_each(|wrong| writeln!(out, "wrong       {wrong}"))
    }
}
