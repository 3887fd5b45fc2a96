//! The orders that were found, as JSON lines.
//!
//! Key by key, or object by object, one line for each operation in its order:
//!
//! ```text
//! {"key":"k","position":0,"index":4,"process":1,"operation":"put \"a\"","result":"ok version 1"}
//! ```
//!
//! `index` is that of the event that invoked it: of objects how many events are before it in the text,
//! or its line where each line is an event. Operations
//! of unknown outcome are there if they took effect. What has no order, or was decided without one, has
//! no lines.
//!
//! Of transactions, one line for each, or for each start and each commit:
//!
//! ```text
//! {"level":"serializable","position":0,"transaction":"T1","index":0,"operations":"append x 1"}
//! {"level":"snapshot-isolation","position":2,"step":"start","transaction":"T2","index":1, ...}
//! ```
//!
//! `level` is the strongest one that the order shows.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::explain::{is_initial, view};
use crate::format::{Recorded, Recording};
use crate::history::History;
use crate::names::Names;
use crate::object::{Call, Object, Visitor, visit_objects};
use crate::operation::{self, Operation};
use crate::recording::Finding;
use crate::report::Verdict;
use crate::transactions::{ANYBODY, Execution, LEVEL_NAMES, Level, Step, TxnHistory, name};

/// An operation at its place in an order.
#[derive(Debug, Serialize)]
struct Line<'a> {
    key: &'a str,
    position: usize,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u64>,
    operation: &'a str,
    result: &'a str,
}

/// A transaction, or a part of it, at its place in an execution.
#[derive(Debug, Serialize)]
struct StepLine {
    level: Level,
    position: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'static str>,
    transaction: String,
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u32>,
    operations: String,
}

impl Recording {
    /// Writes the orders that a check of this recording found, as JSON lines.
    ///
    /// # Errors
    /// The error of `out`; what was written before it stays written.
    pub fn write_witness(&self, finding: &Finding, mut out: impl Write) -> io::Result<()> {
        match (&self.0, finding) {
            (Recorded::Keys(history), Finding::Keys(report)) => {
                of_keys(history, &report.witness, &mut out)?;
            }
            (recorded, Finding::Objects(objects)) => {
                let orders = &objects.witness;
                let mut lines = Lines { orders, out: &mut out, written: Ok(()) };
                visit_objects(recorded, &mut lines);
                lines.written?;
            }
            (Recorded::Transactions(history), Finding::Transactions(report)) => {
                if let Some(execution) = report.execution(report.level) {
                    of_execution(history, execution, &mut out)?;
                }
            }
            _ => {}
        }
        out.flush()
    }
}

impl Finding {
    /// Why there is no order that shows all that holds, if something does.
    #[must_use]
    pub fn without_witness(&self) -> Option<String> {
        match self {
            _ if self.verdict() != Verdict::Holds => None,
            Self::Transactions(report) if report.execution(report.level).is_none() => {
                let has_one = |(_, level): &(&str, Level)| level.is_shown_by_order();
                let names = LEVEL_NAMES.iter().filter(|it| has_one(it)).map(|(name, _)| *name);
                let names: Vec<_> = names.collect();
                Some(format!(
                    "{} was decided by the cycles that are not there, and no order shows it; orders \
                     show {}",
                    report.level,
                    names.join(", ")
                ))
            }
            Self::Objects(objects) if objects.witness.len() < objects.count => Some(format!(
                "{} of {} {} were decided without an order, by {}",
                objects.count - objects.witness.len(),
                objects.count,
                objects.kind,
                objects.method.name()
            )),
            Self::Rules(_) => Some("rules look at reads, not at orders".to_owned()),
            Self::Cases(_) => Some("cases are many histories".to_owned()),
            Self::Keys(_) | Self::Objects(_) | Self::Transactions(_) => None,
        }
    }
}

fn of_execution(
    history: &TxnHistory,
    execution: &Execution,
    out: &mut impl Write,
) -> io::Result<()> {
    let level = execution.level;
    for (position, step) in execution.steps.iter().enumerate() {
        let about = &history.transactions()[step.txn() as usize];
        let ops = history.ops(step.txn() as usize).iter();
        let ops: Vec<_> = ops.map(|op| history.op_text(*op)).collect();
        let line = StepLine {
            level,
            position,
            step: match step {
                Step::Run(_) => None,
                Step::Start(_) => Some("start"),
                Step::Commit(_) => Some("commit"),
            },
            transaction: name(step.txn()),
            index: about.invoked,
            process: (about.process != ANYBODY).then_some(about.process),
            operations: ops.join("; "),
        };
        write(out, &line)?;
    }
    Ok(())
}

fn of_keys(
    history: &History,
    orders: &BTreeMap<String, Vec<u64>>,
    out: &mut impl Write,
) -> io::Result<()> {
    // Whatever has an order is well-formed.
    let keys = operation::pair(history).unwrap_or_default().keys;
    let invoked = |operation: &Operation<'_>| history.events[operation.invoked()].index;
    for (key, operations) in &keys {
        let Some(order) = orders.get(*key) else { continue };
        let found = order.iter().filter_map(|index| {
            let place = operations.binary_search_by_key(index, invoked).ok()?;
            Some(&operations[place]).filter(|operation| !is_initial(history, operation))
        });
        for (position, operation) in found.enumerate() {
            let view = view(history, operation);
            let index = view.index;
            let (process, operation) = (Some(view.process), &view.operation[..]);
            let result = &view.result[..];
            write(out, &Line { key, position, index, process, operation, result })?;
        }
    }
    Ok(())
}

/// Writes the orders of objects.
struct Lines<'o, W> {
    orders: &'o BTreeMap<String, Vec<u64>>,
    out: W,
    written: io::Result<()>,
}

impl<W: Write> Visitor for Lines<'_, W> {
    fn visit<O: Object>(
        &mut self,
        object: &O,
        name: &str,
        calls: &[Call<O::Action>],
        names: &Names,
    ) {
        let order = self.orders.get(name).map(Vec::as_slice).unwrap_or_default();
        let calls: BTreeMap<u64, &Call<O::Action>> =
            calls.iter().map(|call| (u64::from(call.invoked), call)).collect();
        for (position, &index) in order.iter().enumerate() {
            let Some(call) = calls.get(&index) else { continue };
            let (operation, result) = object.describe(&call.action, names);
            let (key, operation, result) = (name, &operation[..], &result[..]);
            let process = call.caller.number();
            let line = Line { key, position, index, process, operation, result };
            if self.written.is_ok() {
                self.written = write(&mut self.out, &line);
            }
        }
    }
}

fn write(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
