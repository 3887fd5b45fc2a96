//! What a check found, as data, as text and as JSON.
//!
//! The text answers three questions in this order: what was read, what is the verdict, and which
//! operation broke it.
//! It never has more than [`TEXT_LINES_MAX`] lines, so it fits a terminal and the end of a log; all
//! violations with all their operations are in the JSON form.
//!
//! The JSON form is the [`Report`] itself in the names of its fields.
//!
//! # What this leaves out
//!
//! Colours and pictures.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::decision::Method;
use crate::history::{History, Model};
use crate::operation::HistoryError;

/// The most lines that the text form has.
pub const TEXT_LINES_MAX: usize = 25;

/// How many operations of a window the text form shows, beside the culprit.
const WINDOW_LINES_MAX: usize = 10;

/// How many characters of an operation or of a result the text form shows.
const CELL_CHARS_MAX: usize = 40;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// The model of the history.
    pub model: Model,
    /// The name of the history, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many keys there are.
    pub keys: usize,
    /// How many client numbers there are.
    pub processes: usize,
    /// How many faults began.
    pub faults: usize,
    /// How many operations there are, by outcome.
    pub operations: Operations,
    /// How many keys were decided, or given up, by which method.
    pub methods: BTreeMap<Method, usize>,
    /// For each key whose operations have an order that was found and replayed: that order, as the
    /// indexes of the events that invoked them.
    #[serde(serialize_with = "as_count", rename = "replayed")]
    pub witness: BTreeMap<String, Vec<u64>>,
    /// The keys whose operations have no order, by key.
    pub violations: Vec<KeyViolation>,
    /// The keys whose search was given up, by key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub undecided: Vec<String>,
    /// Orders that did not pass their replay. Each is a defect of this checker, so the verdict is
    /// unknown at best.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<String>,
    /// Why the history was not checked at all; never set for a parsed history.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub malformed: Option<HistoryError>,
}

/// The answer of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The history is linearizable.
    Holds,
    /// The history is certainly not linearizable.
    Violated,
    /// The step budget was spent on some key, or the history is malformed.
    Unknown,
}

/// Numbers of operations by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Operations {
    /// Operations that took effect.
    pub ok: usize,
    /// Operations that certainly had no effect.
    pub failed: usize,
    /// Operations that may or may not have taken effect.
    pub unknown: usize,
}

/// A key whose operations have no order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyViolation {
    /// The key.
    pub key: String,
    /// Length of the longest prefix that has an order, in operations of the key that completed with
    /// `ok` or `fail`.
    pub prefix: usize,
    /// The operation whose result fits into no order of what was before.
    /// It may be one that failed, if its effect was seen by another.
    pub culprit: OperationView,
    /// Whether `culprit` is the first such operation; if not, the step budget was spent on the
    /// search for it, and operations between `prefix` and `culprit` may be to blame.
    pub is_first: bool,
    /// The last write in one order of the prefix; `None` if the key is never written in it.
    pub last_write: Option<OperationView>,
    /// The culprit and others that have no order together, in the order of their invocations.
    ///
    /// They have none even if all that the other operations asked to write may have been written at
    /// any moment, as often as anybody likes or not at all, and the same for deletes.
    /// They count as they were when the culprit completed: what completed later is still open.
    pub window: Vec<OperationView>,
    /// Whether the operations of the window have an order, in that sense, once any one of them is
    /// left out. If not, the limit was reached on the way.
    pub is_minimal: bool,
}

/// One operation, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationView {
    /// Number of the client.
    pub process: u64,
    /// `index` of the event that invoked it.
    pub index: u64,
    /// The request without its key.
    pub operation: String,
    /// When it was invoked.
    pub invoked_ns: u64,
    /// When it was answered; `None` if the outcome is unknown.
    pub completed_ns: Option<u64>,
    /// What came of it.
    pub result: String,
}

impl Report {
    /// The report of a history that was not checked yet.
    pub(crate) fn new(history: &History) -> Self {
        Self {
            verdict: Verdict::Unknown,
            model: history.header.model,
            name: history.header.name.clone(),
            keys: 0,
            processes: 0,
            faults: 0,
            operations: Operations::default(),
            methods: BTreeMap::new(),
            witness: BTreeMap::new(),
            flaws: Vec::new(),
            violations: Vec::new(),
            undecided: Vec::new(),
            malformed: None,
        }
    }

    fn explain(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.malformed {
            writeln!(out, "not checked: {error}")?;
        }
        if let Some(first) = self.flaws.first() {
            writeln!(out, "INTERNAL ERROR of the checker, please report it: {first}")?;
        }
        if let Some(first) = self.violations.first() {
            first.explain(out)?;
        }
        if let Some(key) = self.undecided.first() {
            let key = shortened(&format!("{key:?}"));
            writeln!(out, "the budget was spent on {} keys, first {key}", self.undecided.len())?;
        }
        if self.violations.len() > 1 {
            writeln!(out, "next: --json shows all {} violated keys", self.violations.len())
        } else if !self.undecided.is_empty() && self.verdict == Verdict::Unknown {
            writeln!(out, "next: try again with a larger --budget or --budget-steps")
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            writeln!(out, "history:    {}", shortened(&format!("{name:?}")))?;
        }
        let Self { model, keys, processes, faults, .. } = self;
        writeln!(out, "model:      {model}; keys {keys}, processes {processes}, faults {faults}")?;
        let Operations { ok, failed, unknown } = self.operations;
        writeln!(out, "operations: {ok} ok, {failed} failed, {unknown} of unknown outcome")?;
        if !self.methods.is_empty() {
            let methods = self.methods.iter();
            let methods = methods.map(|(method, keys)| format!("{} (keys {keys})", method.name()));
            writeln!(out, "method:     {}", methods.collect::<Vec<_>>().join("; "))?;
        }
        writeln!(out, "verdict:    {}", self.verdict)?;
        if self.verdict == Verdict::Holds && self.witness.len() == *keys {
            writeln!(out, "proof:      an order of the operations of every key, replayed")?;
        }
        self.explain(out)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Holds => "holds (linearizable)",
            Self::Violated => "VIOLATED (not linearizable)",
            Self::Unknown => "unknown",
        })
    }
}

impl KeyViolation {
    fn explain(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, count) = (shortened(&format!("{:?}", self.key)), self.prefix);
        writeln!(out)?;
        writeln!(out, "key {key}: the first {count} completed operations have a legal order,")?;
        if self.is_first {
            writeln!(out, "but none that includes the next one to complete, marked > below.")?;
        } else {
            writeln!(out, "but none that includes all up to the one marked > below.")?;
        }
        match &self.last_write {
            Some(write) => writeln!(out, "The last write of one such order: {write}")?,
            None => writeln!(out, "Nothing writes the key in one such order.")?,
        }
        let (who, less) = match (self.window.len(), self.is_minimal) {
            (1, _) => ("It alone has", ""),
            (_, true) => ("These have", "; without any one of them there is one"),
            (_, false) => ("These have", "; perhaps fewer of them would do"),
        };
        writeln!(out, "{who} no order, whatever else was written and when{less}:")?;
        writeln!(out)?;
        let is_culprit = |view: &OperationView| view.index == self.culprit.index;
        // The last ones, and the culprit, which may have been invoked before them.
        let skipped = self.window.len().saturating_sub(WINDOW_LINES_MAX);
        let shown = |(place, view): &(usize, &OperationView)| *place >= skipped || is_culprit(view);
        for (_, view) in self.window.iter().enumerate().filter(shown) {
            writeln!(out, "{} {view}", if is_culprit(view) { '>' } else { ' ' })?;
        }
        if skipped > 0 {
            writeln!(out, "next: --json shows all {} of them", self.window.len())?;
        }
        Ok(())
    }
}

impl fmt::Display for OperationView {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, result) = (shortened(&self.operation), shortened(&self.result));
        let end = self.completed_ns.map_or_else(|| "...".to_owned(), milliseconds);
        let (start, process) = (milliseconds(self.invoked_ns), self.process);
        write!(out, "process {process}: {operation} => {result} [{start} - {end} ms]")
    }
}

/// Milliseconds with all digits, without floating point.
fn milliseconds(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000)
}

pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}...", printable(&text[..end])),
        None => printable(text),
    }
}

/// The text with escapes for what a terminal would take for orders.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => printable.extend(letter.escape_default()),
            false => printable.push(letter),
        }
    }
    printable
}

/// The map as the number of its entries.
pub(crate) fn as_count<S: Serializer, K, V>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(map.len() as u64)
}

fn as_text<S: Serializer>(error: &Option<HistoryError>, serializer: S) -> Result<S::Ok, S::Error> {
    match error {
        Some(error) => serializer.collect_str(error),
        None => serializer.serialize_none(),
    }
}
