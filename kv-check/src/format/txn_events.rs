//! Transactions as Jepsen records them in EDN, for Elle.
//!
//! ```text
//! {:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:r :y nil]]}
//! {:process 0, :type :ok,     :f :txn, :value [[:append :x 1] [:r :y [2 3]]]}
//! ```
//!
//! What was read is in the `:ok`; there `nil` is an empty list, or a register that nothing was
//! written to. A `:fail` is aborted. Of an `:info`, and of what has no end, nobody will ever know.
//! Events without a `:process` are of one client.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::edn::Edn;
use super::edn_events::{EdnEvent, EdnEvents};
use crate::history::EventKind;
use crate::parse::ParseError;
use crate::transactions::{ANYBODY, NEVER, Txn, TxnHistory, TxnOp, TxnOutcome};

/// What the keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Lists: `:append` and `:r`.
    Lists,
    /// Registers: `:w` and `:r`.
    Registers,
}

/// What a text tells of its keys by one event, if it does.
pub(super) fn keys_of(event: &EdnEvent<'_>) -> Option<Keys> {
    let (Edn::Sequence(ops), "txn" | "") = (&event.value, event.f) else { return None };
    ops.iter().find_map(|op| {
        let Edn::Sequence(parts) = op else { return None };
        match parts[..] {
            [Edn::Keyword("append"), ..] | [Edn::Keyword("r"), _, Edn::Sequence(_)] => {
                Some(Keys::Lists)
            }
            [Edn::Keyword("w"), ..] | [Edn::Keyword("r"), _, Edn::Number(_)] => {
                Some(Keys::Registers)
            }
            _ => None,
        }
    })
}

/// Reads transactions.
pub(super) fn read(text: &str, keys: Keys) -> Result<TxnHistory, ParseError> {
    let mut reading =
        Reading { keys, history: TxnHistory::new(), open: BTreeMap::new(), name: String::new() };
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
    keys: Keys,
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
        let expected = match self.keys {
            Keys::Lists => "an operation like [:append :x 1] or [:r :x [1]]",
            Keys::Registers => "an operation like [:w :x 1] or [:r :x 1]",
        };
        let Edn::Sequence(parts) = op else { return Err(event.expected(expected)) };
        let [Edn::Keyword(f), key, value] = parts.as_slice() else {
            return Err(event.expected(expected));
        };
        self.name(event, key)?;
        let key = self.history.key(&self.name);
        let keys = self.keys;
        let mut version = |value: &Edn<'_>| {
            self.name(event, value)?;
            Ok(self.history.version(key, &self.name))
        };
        Ok(match (*f, keys, value) {
            ("append", Keys::Lists, value) => TxnOp::Append(version(value)?),
            ("w", Keys::Registers, value) => TxnOp::Write(version(value)?),
            ("r", Keys::Registers, Edn::Nil) => TxnOp::Read(key, None),
            ("r", Keys::Registers, value) if is_end => TxnOp::Read(key, Some(version(value)?)),
            ("r", Keys::Registers, _) => TxnOp::Read(key, None),
            ("r", Keys::Lists, Edn::Sequence(elements)) if is_end => {
                let elements: Vec<_> = elements.iter().map(version).collect::<Result<_, _>>()?;
                let list = self.history.list(&elements);
                TxnOp::ReadList(key, list.map_err(|full| event.expected(&full.to_string()))?)
            }
            ("r", Keys::Lists, value) if !is_end || *value == Edn::Nil => {
                let list = self.history.list(&[]);
                TxnOp::ReadList(key, list.map_err(|full| event.expected(&full.to_string()))?)
            }
            _ => return Err(event.expected(expected)),
        })
    }

    /// Takes down the name of a key or a value.
    fn name(&mut self, event: &EdnEvent<'_>, value: &Edn<'_>) -> Result<(), ParseError> {
        self.name.clear();
        write_name(&mut self.name, event, value)
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

/// The name of a key, an account or a value.
///
/// Different ones have different names: only keywords begin with a letter, or else a colon, texts
/// begin with a quotation mark and symbols with an apostrophe.
pub(super) fn name_of(event: &EdnEvent<'_>, value: &Edn<'_>) -> Result<String, ParseError> {
    let mut name = String::new();
    write_name(&mut name, event, value)?;
    Ok(name)
}

fn write_name(name: &mut String, event: &EdnEvent<'_>, value: &Edn<'_>) -> Result<(), ParseError> {
    match value {
        Edn::Number(number) => write!(name, "{number}").expect("a text takes everything"),
        Edn::Text(text) => write!(name, "\"{text}\"").expect("a text takes everything"),
        Edn::Keyword(word) if word.starts_with(char::is_alphabetic) => name.push_str(word),
        Edn::Keyword(word) => write!(name, ":{word}").expect("a text takes everything"),
        Edn::Symbol(word) => write!(name, "'{word}").expect("a text takes everything"),
        Edn::Nil | Edn::Sequence(_) | Edn::Map(_) => {
            return Err(event.expected("keys and values that are numbers, words or texts"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::edn_events::EdnEvents;

    #[test]
    fn keywords_symbols_numbers_and_texts_are_different_keys() {
        let text = "{:type :invoke, :value [:x x \"x\" 1 :1 :'x]}";
        let event = EdnEvents::new(text).next().unwrap().unwrap();
        let Edn::Sequence(keys) = &event.value else { panic!("{event:?}") };
        let names: Vec<_> = keys.iter().map(|key| name_of(&event, key).unwrap()).collect();
        assert_eq!(names, ["x", "'x", "\"x\"", "1", ":1", ":'x"]);
    }
}
