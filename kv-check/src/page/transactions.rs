//! The page of transactions.

use std::collections::BTreeSet;

use super::bars::{Bar, Run};
use super::{Cycle, Group, Page, headline};
use crate::transactions::{ANYBODY, NEVER, TxnHistory, TxnOutcome, TxnReport, describe};

/// How many characters of a transaction are shown.
const TEXT_CHARS_MAX: usize = 300;

/// The page for what a check of the transactions found.
pub(super) fn page(history: &TxnHistory, report: &TxnReport) -> Page {
    let text = report.to_string();
    // What was found follows below.
    let summary = text.lines().take_while(|line| !line.starts_with("anomaly"));
    let anomalies = report.anomalies.iter().filter(|anomaly| report.level.forbids(anomaly.kind));
    let groups = if report.anomalies.is_empty() {
        vec![group(history, "all transactions".to_owned(), &BTreeSet::new())]
    } else {
        let group = |anomaly: &crate::transactions::Anomaly| {
            let nodes = anomaly.transactions.iter().map(|txn| format!("T{}", txn + 1)).collect();
            let txns = anomaly.transactions.iter().copied().collect();
            let mut group = group(history, anomaly.kind.to_string(), &txns);
            let (title, sentences) = (anomaly.kind.to_string(), anomaly.sentences.clone());
            group.cycles.push(Cycle { title, sentences, nodes });
            group
        };
        anomalies.map(group).collect()
    };
    Page {
        headline: headline(report.verdict, &report.level.to_string()),
        verdict: report.verdict,
        summary: summary.filter(|line| !line.starts_with("verdict")).map(str::to_owned).collect(),
        timed: false,
        unit: "event",
        faults: Vec::new(),
        groups,
    }
}

fn group(history: &TxnHistory, name: String, marked: &BTreeSet<usize>) -> Group {
    let runs = history.transactions().iter().enumerate().map(|(place, txn)| {
        let begin = u64::from(txn.invoked);
        let is_open = txn.completed == NEVER || txn.outcome == TxnOutcome::Unknown;
        let end = (!is_open).then_some(u64::from(txn.completed));
        let (outcome, result) = match txn.outcome {
            TxnOutcome::Committed => ("ok", "committed"),
            TxnOutcome::Aborted => ("failed", "aborted"),
            TxnOutcome::Unknown => ("unknown", "unknown"),
        };
        let bar = Bar {
            lane: 0,
            begin,
            end,
            begin_time: begin,
            end_time: end,
            text: describe(history, place, TEXT_CHARS_MAX),
            result: result.to_owned(),
            outcome,
            window: marked.contains(&place),
            culprit: false,
            position: None,
        };
        let process = (txn.process != ANYBODY).then_some(u64::from(txn.process));
        Run { process, bar }
    });
    let mut group = Group::new(name, "", Vec::new(), runs.collect());
    group.caption = "The transactions in it:";
    group
}
