//! Transactions as Jepsen records them in EDN, for Elle.
//!
//! ```text
//! {:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:r :y nil]]}
//! {:process 0, :type :ok,     :f :txn, :value [[:append :x 1] [:r :y [2 3]]]}
//! ```
//!
//! What was read is in the `:ok`; there `nil` is an empty list. A `:fail` is aborted. Of an
//! `:info`, and of what has no end, nobody will ever know.
//! Events without a `:process` are of one client.

use std::collections::BTreeMap;

use super::edn::Edn;
use super::edn_events::{EdnEvent, EdnEvents};
use crate::history::EventKind;
use crate::parse::ParseError;
use crate::transactions::{ANYBODY, NEVER, Txn, TxnHistory, TxnOp, TxnOutcome};

/// Whether an event tells that the keys hold lists.
pub(super) fn is_of_lists(event: &EdnEvent<'_>) -> bool {
    let Edn::Sequence(ops) = &event.value else { return false };
    let is_of_list = |op: &Edn<'_>| match op {
        Edn::Sequence(parts) => {
            matches!(
                parts[..],
                [Edn::Keyword("append"), ..] | [Edn::Keyword("r"), _, Edn::Sequence(_)]
            )
        }
        _ => false,
    };
    matches!(event.f, "txn" | "") && ops.iter().any(is_of_list)
}

/// Reads transactions.
pub(super) fn read_lists(text: &str) -> Result<TxnHistory, ParseError> {
    let mut reading =
        Reading { history: TxnHistory::new(), open: BTreeMap::new(), name: String::new() };
    for (position, event) in (0..).zip(EdnEvents::new(text)) {
        let event = event?;
        if position >= NEVER - 1 {
            return Err(event.expected("fewer than 2^32 events"));
        }
        reading.event(&event, position)?;
    }
    reading.finish()
}

/// Transactions in the making.
struct Reading {
    history: TxnHistory,
    /// The open transaction of each process.
    open: BTreeMap<Option<u64>, Open>,
    /// Room for the name of a key or a value.
    name: String,
}

/// A transaction that has no end yet.
struct Open {
    invoked: u32,
    process: u32,
    /// What it asked for, without results.
    ops: Vec<TxnOp>,
}

impl Reading {
    fn event(&mut self, event: &EdnEvent<'_>, position: u32) -> Result<(), ParseError> {
        if !matches!(event.f, "txn" | "") {
            return Err(event.expected("an :f of :txn"));
        }
        if event.kind == EventKind::Invoke {
            let ops = self.ops(event, false)?;
            let process = process(event)?;
            let open = Open { invoked: position, process, ops };
            return match self.open.insert(event.process, open) {
                None => Ok(()),
                Some(_) => Err(event.expected("the end of the open transaction of this process")),
            };
        }
        let Some(open) = self.open.remove(&event.process) else {
            return Err(event.expected("a transaction of this process before its end"));
        };
        let Open { invoked, process, mut ops } = open;
        let (outcome, completed) = match event.kind {
            EventKind::Ok => (TxnOutcome::Committed, position),
            EventKind::Fail => (TxnOutcome::Aborted, position),
            EventKind::Info | EventKind::Invoke => (TxnOutcome::Unknown, NEVER),
        };
        if event.kind == EventKind::Ok {
            let done = self.ops(event, true)?;
            let is_same = |(asked, done): (&TxnOp, &TxnOp)| {
                asked.written() == done.written()
                    && self.history.key_of_op(*asked) == self.history.key_of_op(*done)
            };
            if ops.len() != done.len() || !ops.iter().zip(&done).all(is_same) {
                return Err(event.expected("the operations that this process invoked"));
            }
            ops = done;
        }
        let txn = Txn { process, invoked, completed, outcome };
        self.history.push(txn, &ops).map_err(|full| event.expected(&full.to_string()))
    }

    /// The operations of an event, with what they read if it is an end.
    fn ops(&mut self, event: &EdnEvent<'_>, is_end: bool) -> Result<Vec<TxnOp>, ParseError> {
        let Edn::Sequence(ops) = &event.value else {
            return Err(event.expected("a :value with the operations of a transaction"));
        };
        ops.iter().map(|op| self.op(event, op, is_end)).collect()
    }

    fn op(
        &mut self,
        event: &EdnEvent<'_>,
        op: &Edn<'_>,
        is_end: bool,
    ) -> Result<TxnOp, ParseError> {
        let expected = "an operation like [:append :x 1] or [:r :x [1]]";
        let Edn::Sequence(parts) = op else { return Err(event.expected(expected)) };
        let [Edn::Keyword(f), key, value] = parts.as_slice() else {
            return Err(event.expected(expected));
        };
        self.name(event, key)?;
        let key = self.history.key(&self.name);
        let mut version = |value: &Edn<'_>| {
            self.name(event, value)?;
            Ok(self.history.version(key, &self.name))
        };
        Ok(match (*f, value) {
            ("append", value) => TxnOp::Append(version(value)?),
            ("r", Edn::Sequence(elements)) if is_end => {
                let elements: Vec<_> = elements.iter().map(version).collect::<Result<_, _>>()?;
                let list = self.history.list(&elements);
                TxnOp::ReadList(key, list.map_err(|full| event.expected(&full.to_string()))?)
            }
            ("r", value) if !is_end || *value == Edn::Nil => {
                let list = self.history.list(&[]);
                TxnOp::ReadList(key, list.map_err(|full| event.expected(&full.to_string()))?)
            }
            _ => return Err(event.expected(expected)),
        })
    }

    /// Takes down the name of a key or a value.
    fn name(&mut self, event: &EdnEvent<'_>, value: &Edn<'_>) -> Result<(), ParseError> {
        use std::fmt::Write as _;
        self.name.clear();
        match value {
            Edn::Number(number) => {
                write!(self.name, "{number}").expect("a text takes everything");
            }
            Edn::Text(text) => {
                write!(self.name, "\"{text}\"").expect("a text takes everything");
            }
            Edn::Keyword(word) | Edn::Symbol(word) => self.name.push_str(word),
            Edn::Nil | Edn::Sequence(_) | Edn::Map(_) => {
                return Err(event.expected("keys and values that are numbers, words or texts"));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<TxnHistory, ParseError> {
        for open in self.open.into_values() {
            let (process, invoked, outcome) = (open.process, open.invoked, TxnOutcome::Unknown);
            let txn = Txn { process, invoked, completed: NEVER, outcome };
            self.history.push(txn, &open.ops).map_err(|full| ParseError {
                line: 1,
                column: 1,
                expected: full.to_string(),
            })?;
        }
        Ok(self.history)
    }
}

fn process(event: &EdnEvent<'_>) -> Result<u32, ParseError> {
    let Some(process) = event.process else { return Ok(ANYBODY) };
    let process = u32::try_from(process).ok().filter(|process| *process != ANYBODY);
    process.ok_or_else(|| event.expected("a :process below 2^32"))
}
