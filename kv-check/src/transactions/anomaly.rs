//! Anomalies that were found, with an example of each kind in sentences.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::{ANYBODY, TxnHistory};
use super::level::{AnomalyKind, Level};

/// Anomalies of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// Which.
    pub kind: AnomalyKind,
    /// How many were found; of cycles, only one is looked for.
    pub count: usize,
    /// The first, as sentences.
    pub sentences: Vec<String>,
    /// The places of the transactions in it.
    pub transactions: Vec<usize>,
}

/// All anomalies of a history, by kind.
#[derive(Debug, Default)]
pub(crate) struct Anomalies(BTreeMap<AnomalyKind, Anomaly>);

impl Anomalies {
    /// Counts an anomaly between transactions; what it is in words is asked once for each kind.
    pub(crate) fn add(
        &mut self,
        kind: AnomalyKind,
        transactions: &[u32],
        sentences: impl FnOnce() -> Vec<String>,
    ) {
        let anomaly = self.0.entry(kind).or_insert_with(|| {
            let transactions = transactions.iter().map(|txn| *txn as usize).collect();
            Anomaly { kind, count: 0, sentences: sentences(), transactions }
        });
        anomaly.count += 1;
    }

    pub(crate) fn has(&self, kind: AnomalyKind) -> bool {
        self.0.contains_key(&kind)
    }

    /// Whether one of them rules a level out.
    pub(crate) fn forbid(&self, level: Level) -> bool {
        self.0.keys().any(|kind| level.forbids(*kind))
    }

    pub(crate) fn into_vec(self) -> Vec<Anomaly> {
        self.0.into_values().collect()
    }
}

/// The name of a transaction for people.
pub(crate) fn name(txn: u32) -> String {
    format!("T{}", u64::from(txn) + 1)
}

/// A transaction with its operations, for people, cut to so many characters.
pub(crate) fn describe(history: &TxnHistory, txn: usize, chars_max: usize) -> String {
    let about = &history.transactions()[txn];
    let mut text = String::new();
    for op in history.ops(txn) {
        let space = if text.is_empty() { "" } else { "; " };
        text += space;
        text += &history.op_text(*op);
        if text.chars().count() > chars_max {
            text = text.chars().take(chars_max).chain("..".chars()).collect();
            break;
        }
    }
    match about.process {
        ANYBODY => format!("T{}: {text}", txn + 1),
        process => format!("T{} of process {process}: {text}", txn + 1),
    }
}
