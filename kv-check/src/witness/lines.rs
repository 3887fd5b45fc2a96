//! The orders that were found, as JSON lines.
//!
//! Key by key, or object by object, one line for each operation in its order:
//!
//! ```text
//! {"key":"k","position":0,"index":4,"process":1,"operation":"put \"a\"","result":"ok version 1"}
//! ```
//!
//! `index` is that of the event that invoked it, or its position where events have no index. Operations
//! of unknown outcome are there if they took effect. What has no order, or was decided without one, has
//! no lines.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::explain::view;
use crate::format::{Recorded, Recording};
use crate::history::History;
use crate::object::{Call, Object, Visitor, visit_objects};
use crate::operation::{self, Operation};
use crate::recording::Finding;

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
            _ => {}
        }
        out.flush()
    }
}

fn of_keys(
    history: &History,
    orders: &BTreeMap<String, Vec<u64>>,
    out: &mut impl Write,
) -> io::Result<()> {
    // Whatever has an order is well-formed.
    let operations = operation::pair(history).unwrap_or_default();
    let invoked = |operation: &Operation<'_>| history.events[operation.invoked].index;
    for (key, order) in orders {
        for (position, &index) in order.iter().enumerate() {
            let Ok(place) = operations.binary_search_by_key(&index, invoked) else { continue };
            let view = view(history, &operations[place]);
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
    fn visit<O: Object>(&mut self, object: &O, name: &str, calls: &[Call<O::Action>]) {
        let order = self.orders.get(name).map(Vec::as_slice).unwrap_or_default();
        let calls: BTreeMap<u64, &Call<O::Action>> =
            calls.iter().map(|call| (u64::from(call.invoked), call)).collect();
        for (position, &index) in order.iter().enumerate() {
            let Some(call) = calls.get(&index) else { continue };
            let (operation, result) = object.describe(&call.action);
            let (key, operation, result) = (name, &operation[..], &result[..]);
            let line = Line { key, position, index, process: None, operation, result };
            if self.written.is_ok() {
                self.written = write(&mut self.out, &line);
            }
        }
    }
}

fn write(out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
