//! The finding as one page for a browser.
//!
//! One file with everything in it: no other file, no network, and a policy in its head that forbids
//! both. The operations are bars along a line for each process; pointing at one colours those that
//! completed before it began, those that began after it completed, and those that ran beside it.
//! A violation's operations are marked, and listed below.
//!
//! # What of a history is drawn
//!
//! A picture of a million operations shows nothing, and no browser draws it. Of each key or object at
//! most [`BARS_MAX`] operations are drawn: those around what is marked, or else the first ones. Keys
//! are listed with the violated ones first, and no more of them than [`GROUPS_MAX`]. The page says what
//! it leaves out.
//!
//! # Foreign text
//!
//! Keys and values are anything. They are carried as JSON inside of a script element, with each `<` as
//! an escape so that no text can end that element, and the script puts them into the page as text only.

mod bars;
mod keys;
mod objects;
mod transactions;

use std::io::{self, Write};

use serde::Serialize;

use crate::format::{Recorded, Recording};
use crate::recording::Finding;
use crate::report::Verdict;
use bars::Bar;

/// How many operations of a key or an object are drawn.
const BARS_MAX: usize = 400;

/// How many keys or objects are listed.
const GROUPS_MAX: usize = 40;

const TEMPLATE: &str = include_str!("template.html");
const SCRIPT: &str = include_str!("page.js");

/// All that the page shows.
#[derive(Debug, Serialize)]
struct Page {
    /// The verdict in one line.
    headline: String,
    /// `holds`, `violated` or `unknown`.
    verdict: Verdict,
    /// What was read and how it was decided.
    summary: Vec<String>,
    /// Whether events have times, beside their order.
    timed: bool,
    /// What has the positions: an `event`, or a `line` of the file.
    unit: &'static str,
    faults: Vec<Fault>,
    groups: Vec<Group>,
}

/// A fault, from one event to another.
#[derive(Debug, Serialize)]
struct Fault {
    kind: String,
    begin: u64,
    /// The event that ended it, if one did.
    end: Option<u64>,
}

/// One key or object.
#[derive(Debug, Serialize)]
struct Group {
    name: String,
    /// What stands before the name in the list.
    mark: &'static str,
    /// What came of it, and what is not drawn.
    sentences: Vec<String>,
    /// What the marked operations are.
    caption: &'static str,
    /// The names of the processes.
    lanes: Vec<String>,
    bars: Vec<Bar>,
    cycles: Vec<Cycle>,
}

/// Transactions of which each must come before the next one, and the last before the first.
#[derive(Debug, Serialize)]
struct Cycle {
    title: String,
    sentences: Vec<String>,
    nodes: Vec<String>,
}

impl Recording {
    /// Writes the page for what a check of this recording found.
    ///
    /// # Errors
    /// The error of `out`; what was written before it stays written.
    pub fn write_page(&self, finding: &Finding, mut out: impl Write) -> io::Result<()> {
        let page = match (&self.0, finding) {
            (Recorded::Keys(history), Finding::Keys(report)) => keys::page(history, report),
            (Recorded::Transactions(history), Finding::Transactions(report)) => {
                transactions::page(history, report)
            }
            (recorded, finding) => objects::page(recorded, finding),
        };
        // Outside of texts JSON has no `<`.
        let data = serde_json::to_string(&page)?.replace('<', "\\u003c");
        let (before, rest) =
            TEMPLATE.split_once("@DATA@").expect("the template has a place for it");
        let (between, after) = rest.split_once("@SCRIPT@").expect("and for the script");
        for part in [before, &data, between, SCRIPT, after] {
            out.write_all(part.as_bytes())?;
        }
        out.flush()
    }
}

/// The verdict in one line.
fn headline(verdict: Verdict, what: &str) -> String {
    match verdict {
        Verdict::Holds => format!("{what} holds"),
        Verdict::Violated => format!("{what} is VIOLATED"),
        Verdict::Unknown => format!("{what}: unknown"),
    }
}
