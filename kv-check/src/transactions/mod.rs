//! Transactions: which levels of isolation a history keeps.
//!
//! [`check_transactions`] takes what transactions read and wrote, [`TxnHistory`], and says for each
//! [`Level`] whether it holds, is ruled out, or is not decided, with an example of each anomaly.
//!
//! Lists that are appended to show the order of their versions, so everything follows in linear
//! time (`appends`). The result is a graph of transactions; levels forbid its cycles (`cycle`).
//! Registers that are overwritten do not show the order of writes (`registers`), so an order is
//! looked for that leaves no forbidden cycle (`polygraph`).
//!
//! # Why it holds
//!
//! If the graph with all edges has no cycle, its topological order is a serial execution: each read
//! comes after the writers of what it saw and before the next one, and real time is kept. So
//! "holds" for the levels of serializability is as certain as "violated", and for weaker ones it
//! follows. An [`Execution`] is that order, replayed before anybody hears of it.
//!
//! # What this leaves out
//!
//! Predicates: reads are of single keys.

mod anomaly;
mod append_edges;
mod append_story;
mod appends;
mod cases;
mod cycle;
mod execution;
mod graph;
mod history;
mod judge;
mod level;
mod order;
mod polygraph;
mod registers;
mod report;
mod rules;
mod sessions;
#[cfg(test)]
mod tests;

pub use anomaly::Anomaly;
pub(crate) use anomaly::{describe, name};
pub use cases::Cases;
pub use execution::{Execution, Step};
pub use history::{
    ANYBODY, HistoryFull, KeyId, List, NEVER, Txn, TxnHistory, TxnOp, TxnOutcome, Version,
};
pub use level::{AnomalyKind, Cycle, LEVEL_NAMES, Level, Variant};
pub use report::{LevelVerdict, TxnCounts, TxnReport};
pub use rules::{Rule, Rules};

pub(crate) use cases::{Case, Expected, check as check_cases};
pub(crate) use history::index;
pub(crate) use rules::{Balances, Group, bank, long_fork};
pub(crate) use sessions::session_guarantees;

use crate::budget::Options;
pub use crate::witness::ExecutionFlaw;
use appends::Appends;
use registers::Registers;

/// Checks which levels of isolation a history keeps; the verdict is that for the level of the
/// options. Their budget bounds what is not linear.
#[must_use]
pub fn check_transactions(history: &TxnHistory, options: &Options) -> TxnReport {
    let mut report = TxnReport::new(history, options.level);
    let is_of_lists = |op: &TxnOp| matches!(op, TxnOp::Append(_) | TxnOp::ReadList(..));
    let lists = history.all_ops().iter().filter(|op| is_of_lists(op)).count();
    let done = if lists == history.op_count() {
        Appends::new(history).map(|appends| judge::lists(appends, options, &mut report))
    } else if lists == 0 {
        Registers::new(history).and_then(|it| judge::registers(it, options, &mut report))
    } else {
        Err("a history has either lists or registers".to_owned())
    };
    if let Err(reason) = done {
        report.unknown(reason);
    }
    report
}
