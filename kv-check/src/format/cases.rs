//! Small histories with the verdicts that are known of them, in one JSON array.
//!
//! ```text
//! [{"name": "skew", "ser": false, "si": true, "sessions": [
//!    [{"committed": true, "events": [["w", "x", 1], ["r", "y", 0]]}], ..]},
//!  {"name": "G2", "anomalies": ["G2-item"], "not_": ["repeatable-read"], "ops": [
//!    {"process": 0, "type": "ok", "txn": "ax1ry"}, ..]}]
//! ```
//!
//! `sessions` are of registers, whose order in real time is not known; 0 is the initial value unless
//! it was written. `ops` are of lists, one after the other: `ax1` appends 1 to x, `rx12` read 1 and 2.
//! `ser` and `si` keep the order of sessions.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::parse::ParseError;
use crate::report::Verdict;
use crate::transactions::{
    Case, Expected, HistoryFull, Level, NEVER, Txn, TxnHistory, TxnOp, TxnOutcome,
};

/// A case as it stands in the text.
#[derive(Deserialize)]
struct Stored {
    name: String,
    #[serde(default)]
    sessions: Vec<Vec<StoredTxn>>,
    ser: Option<bool>,
    si: Option<bool>,
    #[serde(default)]
    ops: Vec<StoredOp>,
    #[serde(default)]
    anomalies: Vec<String>,
    #[serde(default)]
    not_: Vec<String>,
}

#[derive(Deserialize)]
struct StoredTxn {
    committed: bool,
    events: Vec<(char, String, i64)>,
}

#[derive(Deserialize)]
struct StoredOp {
    process: u32,
    r#type: String,
    txn: String,
}

/// Reads all cases of a text.
pub(super) fn read(text: &str) -> Result<Vec<Case>, ParseError> {
    let cases: Vec<Stored> = serde_json::from_str(text).map_err(|error| ParseError {
        line: error.line().max(1),
        column: error.column().max(1),
        expected: format!("expected an array of cases: {error}"),
    })?;
    cases.into_iter().map(|case| case.read().map_err(|why| wrong(&case.name, &why))).collect()
}

/// An error about a case; where it stands in the text is not known any more.
fn wrong(case: &str, what: &str) -> ParseError {
    ParseError { line: 1, column: 1, expected: format!("expected {what} in the case {case:?}") }
}

impl Stored {
    fn read(&self) -> Result<Case, String> {
        let full = |full: HistoryFull| full.to_string();
        let events = || self.sessions.iter().flatten().flat_map(|txn| &txn.events);
        if let Some((other, ..)) = events().find(|(op, ..)| !matches!(op, 'r' | 'w')) {
            return Err(format!("r or w, not {other},"));
        }
        let (history, expected) = if self.sessions.is_empty() {
            (self.lists()?, Expected { levels: self.levels()?, anomalies: self.anomalies.clone() })
        } else {
            let known = [
                (Level::StrongSessionSerializable, self.ser),
                (Level::StrongSessionSnapshotIsolation, self.si),
            ];
            let verdict = |holds| if holds { Verdict::Holds } else { Verdict::Violated };
            let known = known.into_iter();
            let levels =
                known.filter_map(|(level, holds)| Some((level, verdict(holds?)))).collect();
            (self.registers().map_err(full)?, Expected { levels, anomalies: Vec::new() })
        };
        Ok(Case { name: self.name.clone(), history, expected })
    }

    /// What is said of levels; a case without anomalies is serializable.
    fn levels(&self) -> Result<Vec<(Level, Verdict)>, String> {
        if self.anomalies.is_empty() {
            return Ok(vec![(Level::Serializable, Verdict::Holds)]);
        }
        self.not_.iter().map(|name| Ok((name.parse()?, Verdict::Violated))).collect()
    }

    fn registers(&self) -> Result<TxnHistory, HistoryFull> {
        let txns = || self.sessions.iter().flatten().flat_map(|txn| &txn.events);
        let zeros: BTreeSet<&str> = txns()
            .filter(|(op, _, value)| *op == 'w' && *value == 0)
            .map(|(_, key, _)| key.as_str())
            .collect();
        let mut history = TxnHistory::new();
        for (process, session) in (0..).zip(&self.sessions) {
            // The transactions of a round are concurrent, and come after those of the one before.
            for (round, txn) in (0..).zip(session) {
                let (invoked, completed) = (2 * round, 2 * round + 1);
                let op = |(op, name, value): &(char, String, i64)| {
                    let key = history.key(name);
                    if *op == 'r' && *value == 0 && !zeros.contains(name.as_str()) {
                        return TxnOp::Read(key, None);
                    }
                    let version = history.version(key, &value.to_string());
                    if *op == 'r' { TxnOp::Read(key, Some(version)) } else { TxnOp::Write(version) }
                };
                let ops: Vec<_> = txn.events.iter().map(op).collect();
                let outcome =
                    if txn.committed { TxnOutcome::Committed } else { TxnOutcome::Aborted };
                history.push(Txn { process, invoked, completed, outcome }, &ops)?;
            }
        }
        Ok(history)
    }

    fn lists(&self) -> Result<TxnHistory, String> {
        let mut history = TxnHistory::new();
        for (number, op) in (0..).zip(&self.ops) {
            let (outcome, completed) = match op.r#type.as_str() {
                "ok" => (TxnOutcome::Committed, 2 * number + 1),
                "fail" => (TxnOutcome::Aborted, 2 * number + 1),
                "info" => (TxnOutcome::Unknown, NEVER),
                other => return Err(format!("a type of ok, fail or info, not {other},")),
            };
            let ops = list_ops(&mut history, &op.txn)?;
            let txn = Txn { process: op.process, invoked: 2 * number, completed, outcome };
            history.push(txn, &ops).map_err(|full| full.to_string())?;
        }
        Ok(history)
    }
}

/// `ax1rx12`: letters of operation and key, and digits, each a value.
fn list_ops(history: &mut TxnHistory, text: &str) -> Result<Vec<TxnOp>, String> {
    let expected = || format!("operations like ax1 and rx12, not {text:?},");
    let mut ops = Vec::new();
    let mut rest = text;
    while let Some(op) = rest.chars().next() {
        let key = rest[op.len_utf8()..].chars().next().ok_or_else(expected)?;
        rest = &rest[op.len_utf8() + key.len_utf8()..];
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let key = history.key(&key.to_string());
        let values: Vec<_> =
            rest[..digits].chars().map(|digit| history.version(key, &digit.to_string())).collect();
        rest = &rest[digits..];
        ops.push(match (op, values.as_slice()) {
            ('a', [value]) => TxnOp::Append(*value),
            ('r', values) => {
                TxnOp::ReadList(key, history.list(values).map_err(|full| full.to_string())?)
            }
            _ => return Err(expected()),
        });
    }
    Ok(ops)
}
