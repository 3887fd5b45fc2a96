//! What a check of transactions found, as data, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::anomaly::{Anomaly, describe};
use super::execution::{Execution, SERIAL};
use super::history::{TxnHistory, TxnOutcome};
use super::level::{LEVEL_NAMES, Level};
use crate::report::{Verdict, printable};

/// How many anomalies the text shows.
const SHOWN_ANOMALIES_MAX: usize = 3;

/// How many sentences of each, and how many transactions in full.
const SHOWN_SENTENCES_MAX: usize = 4;

/// How many characters of a transaction the text shows.
const SHOWN_CHARS_MAX: usize = 90;

/// What a check of transactions found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TxnReport {
    /// The answer for the level that was asked for.
    pub verdict: Verdict,
    /// The level that was asked for.
    pub level: Level,
    /// How many transactions there are.
    pub transactions: TxnCounts,
    /// How many operations they have.
    pub operations: usize,
    /// How many keys there are.
    pub keys: usize,
    /// What is known about each level, weaker ones before those that imply them.
    pub levels: Vec<LevelVerdict>,
    /// What was found, the worst first.
    pub anomalies: Vec<Anomaly>,
    /// The transactions of the anomalies that the text shows, in full.
    pub involved: Vec<String>,
    /// Orders that were found and replayed; each shows that its level holds, and what follows.
    #[serde(rename = "replayed")]
    pub executions: Vec<Execution>,
    /// Orders that did not pass their replay. Each is a defect of this checker, so that nothing holds
    /// for certain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<String>,
    /// Why levels are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is known about a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LevelVerdict {
    /// Which.
    pub level: Level,
    /// Whether the history keeps it.
    pub verdict: Verdict,
}

/// Numbers of transactions by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TxnCounts {
    /// Those that took effect, as their clients know.
    pub committed: usize,
    /// Those that did not.
    pub aborted: usize,
    /// Those whose clients do not know.
    pub unknown: usize,
}

impl TxnReport {
    pub(super) fn new(history: &TxnHistory, level: Level) -> Self {
        let mut transactions = TxnCounts::default();
        for txn in history.transactions() {
            match txn.outcome {
                TxnOutcome::Committed => transactions.committed += 1,
                TxnOutcome::Aborted => transactions.aborted += 1,
                TxnOutcome::Unknown => transactions.unknown += 1,
            }
        }
        Self {
            verdict: Verdict::Unknown,
            level,
            transactions,
            operations: history.op_count(),
            keys: history.key_count(),
            levels: Vec::new(),
            anomalies: Vec::new(),
            involved: Vec::new(),
            executions: Vec::new(),
            flaws: Vec::new(),
            reason: None,
        }
    }

    /// Nothing is known.
    pub(super) fn unknown(&mut self, reason: String) {
        self.judged(|_| Verdict::Unknown);
        self.reason = Some(reason);
    }

    /// Says for each level what is known.
    pub(super) fn judged(&mut self, judge: impl Fn(Level) -> Verdict) {
        let verdict = |(_, level)| LevelVerdict { level, verdict: judge(level) };
        self.levels = LEVEL_NAMES.into_iter().map(verdict).collect();
        self.verdict = judge(self.level);
    }

    /// Keeps an execution, once it is verified. If it is not one, nothing holds for certain.
    pub(crate) fn prove(&mut self, history: &TxnHistory, execution: Execution) {
        match execution.replay(history) {
            Ok(()) => self.executions.push(execution),
            Err(flaw) => {
                self.flaws.push(format!("the order for {}: {flaw}", execution.level));
                let levels = self.levels.iter_mut().map(|known| &mut known.verdict);
                let verdicts = levels.chain(std::iter::once(&mut self.verdict));
                verdicts.filter(|it| **it == Verdict::Holds).for_each(|it| *it = Verdict::Unknown);
            }
        }
    }

    /// The order that shows that a level holds, if one was found.
    #[must_use]
    pub fn execution(&self, level: Level) -> Option<&Execution> {
        self.executions.iter().find(|execution| execution.level.implies(level))
    }

    /// What the level that was asked for is shown by, if it holds.
    fn proof(&self) -> Option<String> {
        let execution = self.execution(self.level).map(|execution| execution.level);
        match execution {
            _ if self.verdict != Verdict::Holds => None,
            Some(level) if SERIAL.contains(&level) => {
                Some(format!("an order of all transactions, replayed as {level}"))
            }
            Some(level) => Some(format!("an order of starts and commits, replayed as {level}")),
            None => Some("no forbidden cycle; no order shows this level".to_owned()),
        }
    }

    /// Adds what was found.
    pub(super) fn found(&mut self, history: &TxnHistory, anomalies: Vec<Anomaly>) {
        let is_relevant = |anomaly: &&Anomaly| self.level.forbids(anomaly.kind);
        let relevant = anomalies.iter().filter(is_relevant);
        let txns = relevant.take(1).flat_map(|anomaly| &anomaly.transactions);
        let mut txns: Vec<usize> = txns.copied().collect();
        txns.sort_unstable();
        txns.dedup();
        let describe = |txn: &usize| describe(history, *txn, SHOWN_CHARS_MAX);
        self.involved = txns.iter().take(SHOWN_SENTENCES_MAX).map(describe).collect();
        self.anomalies = anomalies;
    }

    /// What is known about a level.
    #[must_use]
    pub fn verdict_of(&self, level: Level) -> Verdict {
        let found = self.levels.iter().find(|known| known.level == level);
        found.map_or(Verdict::Unknown, |known| known.verdict)
    }

    /// The names of the levels of which this is known.
    fn names(&self, verdict: Verdict) -> String {
        let levels = self.levels.iter().filter(|known| known.verdict == verdict);
        levels.map(|known| known.level.name()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for TxnReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, operations, keys, .. } = self;
        let TxnCounts { committed, aborted, unknown } = transactions;
        writeln!(
            out,
            "history     {committed} committed, {aborted} aborted, {unknown} unknown transactions, \
             {operations} operations, {keys} keys"
        )?;
        writeln!(out, "level       {}", self.level)?;
        let verdict = match self.verdict {
            Verdict::Holds => "holds",
            Verdict::Violated => "VIOLATED",
            Verdict::Unknown => "unknown",
        };
        writeln!(out, "verdict     {verdict}")?;
        if let Some(proof) = self.proof() {
            writeln!(out, "proof       {proof}")?;
        }
        if let Some(first) = self.flaws.first() {
            writeln!(out, "INTERNAL ERROR of the checker, please report it: {first}")?;
        }
        if let Some(reason) = &self.reason {
            writeln!(out, "because     {}", printable(reason))?;
        }
        for (what, verdict) in [
            ("holds", Verdict::Holds),
            ("ruled out", Verdict::Violated),
            ("undecided", Verdict::Unknown),
        ] {
            let names = self.names(verdict);
            if !names.is_empty() {
                writeln!(out, "{what:11} {names}")?;
            }
        }
        for anomaly in self.anomalies.iter().take(SHOWN_ANOMALIES_MAX) {
            let (kind, count) = (anomaly.kind.to_string(), anomaly.count);
            let times = if count > 1 { format!(", {count} times") } else { String::new() };
            writeln!(out, "anomaly     {kind}{times}")?;
            for sentence in anomaly.sentences.iter().take(SHOWN_SENTENCES_MAX) {
                writeln!(out, "            {}", printable(sentence))?;
            }
            let more = anomaly.sentences.len().saturating_sub(SHOWN_SENTENCES_MAX);
            if more > 0 {
                writeln!(out, "            and {more} more edges back to the first")?;
            }
        }
        let more = self.anomalies.iter().skip(SHOWN_ANOMALIES_MAX);
        let more: Vec<String> = more.map(|anomaly| anomaly.kind.to_string()).collect();
        if !more.is_empty() {
            writeln!(out, "also        {}", more.join(", "))?;
        }
        for txn in &self.involved {
            writeln!(out, "where       {}", printable(txn))?;
        }
        Ok(())
    }
}
