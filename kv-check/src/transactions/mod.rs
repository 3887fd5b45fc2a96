//! Transactions: which levels of isolation a history keeps.
//!
//! [`check_transactions`] takes what transactions read and wrote, [`TxnHistory`], and says for each
//! [`Level`] whether it holds, is ruled out, or is not decided, with an example of each anomaly.
//!
//! Lists that are appended to show the order of their versions, so everything follows in linear
//! time (`appends`). The result is a graph of transactions; levels forbid its cycles (`cycle`).
//!
//! # Why it holds
//!
//! If the graph with all edges has no cycle, its topological order is a serial execution: each read
//! comes after the writers of what it saw and before the next one, and real time is kept. So
//! "holds" for the levels of serializability is as certain as "violated", and for weaker ones it
//! follows.
//!
//! # What this leaves out
//!
//! Predicates: reads are of single keys.

mod anomaly;
mod append_edges;
mod append_story;
mod appends;
mod cycle;
mod graph;
mod history;
mod level;
mod order;
mod report;
#[cfg(test)]
mod tests;

pub use anomaly::Anomaly;
pub(crate) use anomaly::describe;
pub use history::{
    ANYBODY, HistoryFull, KeyId, List, NEVER, Txn, TxnHistory, TxnOp, TxnOutcome, Version,
};
pub use level::{AnomalyKind, Cycle, LEVEL_NAMES, Level, Variant};
pub use report::{LevelVerdict, TxnCounts, TxnReport};

use crate::budget::Options;
use crate::report::Verdict;
use anomaly::Anomalies;
use appends::Appends;
use cycle::{Cycles, cycles};
use graph::{Edges, Graph};

/// Checks which levels of isolation a history keeps; the verdict is that for the level of the
/// options. Their budget bounds what is not linear.
#[must_use]
pub fn check_transactions(history: &TxnHistory, options: &Options) -> TxnReport {
    let mut report = TxnReport::new(history, options.level);
    match Appends::new(history) {
        Ok(appends) => judge_lists(appends, options, &mut report),
        Err(reason) => report.unknown(reason),
    }
    report
}

fn judge_lists(mut appends: Appends<'_>, options: &Options, report: &mut TxnReport) {
    let history = appends.history;
    let transactions = history.transactions().len();
    let mut edges = Edges::new(transactions);
    appends.add_edges(&mut edges);
    order::add_edges(history, &appends.committed, &mut edges);
    let graph = Graph::new(transactions, &edges);
    drop(edges);
    let cycles = cycles(&graph, options);
    let mut anomalies = std::mem::take(&mut appends.anomalies);
    for (kind, links) in &cycles.found {
        let involved: Vec<u32> = links.iter().map(|link| link.from).collect();
        let sentences = || links.iter().map(|link| appends.sentence(link)).collect();
        anomalies.add(*kind, &involved, sentences);
    }
    let is_ordered = appends.unordered.is_empty();
    let judge = |level| judge(level, &anomalies, &cycles, is_ordered);
    report.judged(judge);
    report.found(history, anomalies.into_vec());
}

/// What is known about a level. `is_ordered` says that the order of all versions that matter is
/// known.
fn judge(level: Level, anomalies: &Anomalies, cycles: &Cycles, is_ordered: bool) -> Verdict {
    let is_serial = !cycles.has(Cycle::G2, level.cycles().1);
    let is_doubtful = anomalies.has(AnomalyKind::IncompatibleOrder)
        || (!is_ordered && !is_serial && level.needs_order());
    match cycles.rule_out(level) {
        _ if anomalies.forbid(level) => Verdict::Violated,
        Some(true) => Verdict::Violated,
        Some(false) if !is_doubtful => Verdict::Holds,
        _ => Verdict::Unknown,
    }
}
