//! A checker of histories: are they linearizable, and which levels of isolation do transactions keep?
//!
//! A simulator or a client records a [`History`] of keys; [`check()`] decides whether some sequential
//! order of its operations explains all results, and the [`Report`] names the operation that broke it
//! if not. [`Format::read`] takes the histories of other programs, of keys and of other objects;
//! [`transactions::check_transactions`] decides about transactions.
//!
//! ```
//! use kv_check::{EventKind, History, MicroOp, Model, Process, Verdict, check};
//!
//! let mut history = History::new(Model::Kv);
//! let client = Process::Client(1);
//! let read = |value: &str| {
//!     let line = format!(r#"{{"op":"get","key":"k","value":{value}}}"#);
//!     serde_json::from_str::<MicroOp>(&line).expect("a micro-operation")
//! };
//! history.push(10, client, EventKind::Invoke, vec![MicroOp::put("k", "v")]);
//! history.push(20, client, EventKind::Ok, vec![MicroOp::put("k", "v")]);
//! history.push(30, client, EventKind::Invoke, vec![MicroOp::get("k")]);
//! history.push(40, client, EventKind::Ok, vec![read("null")]);
//! assert_eq!(check(&history).verdict, Verdict::Violated);
//! ```
//!
//! # Where things are
//!
//! - [`history`]: the types of a history and its JSON form; [`parse`]: reading it.
//! - `operation`: pairs events into operations and refuses what is not well-formed.
//! - `model`: what a single copy of one key would do.
//! - `linearizability`: zones of unique values, or the search, per key.
//! - `object`: queues, strings and other types; [`mod@format`]: histories of other programs.
//! - `decision`: what came of a key, and how.
//! - `witness`: replays the orders that were found; `explain` and `window`: what people see of a
//!   violation.
//! - `page`: the finding for a browser.
//! - `check`: runs it over all keys; [`report`]: the result and its text.
//! - `budget`: when a search is given up.
//! - [`transactions`]: which levels of isolation transactions keep.
//!
//! # What this leaves out
//!
//! Range reads, and weaker promises than linearizability for single operations.

// The generator of histories in `tests/support` is shared with unit tests and names the crate.
#[cfg(test)]
extern crate self as kv_check;

mod budget;
mod check;
mod decision;
mod explain;
pub mod format;
pub mod history;
mod intern;
mod judge;
mod linearizability;
mod minimal;
mod model;
mod names;
mod object;
mod operation;
mod page;
pub mod parse;
mod recording;
pub mod report;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
pub mod transactions;
mod window;
mod witness;

pub use budget::{BUDGET_STEPS_DEFAULT, Options, Stop};
pub use check::{check, check_with};
pub use decision::Method;
pub use format::{Format, Recording, Workload};
pub use history::{
    Event, EventKind, Expect, Header, History, MicroOp, Model, Observed, Process, write_to,
};
pub use operation::{HistoryError, Problem};
pub use parse::{ParseError, ReadError};
pub use recording::{Finding, Objects};
pub use report::{KeyViolation, OperationView, Operations, Report, Verdict};
pub use window::{CallView, ObjectWindow};
