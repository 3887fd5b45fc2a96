//! Queues and stacks as Violin records them.
//!
//! ```text
//! # @object atomic-queue
//! [1] call add(2)
//! [2] call remove
//! [1] return
//! [2] return 2
//! ```
//!
//! The number in brackets is that of the operation, which has one call and at most one return. The
//! methods are `add` and `remove`, `enqueue` and `dequeue`, `push` and `pop`.

use std::collections::HashMap;

use super::Recorded;
use super::events::{Pairing, at_line};
use crate::object::{QueueAction, Removal, Side};
use crate::parse::ParseError;

pub(super) fn read(text: &str) -> Result<Recorded, ParseError> {
    let mut reader =
        Reader { side: None, values: HashMap::new(), pairing: Pairing::new(), is_named: false };
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        match line.strip_prefix('#') {
            Some(comment) => reader.comment(number, comment)?,
            None if line.is_empty() => {}
            None => reader.event(number, line)?,
        }
    }
    Ok(Recorded::Queue(reader.side.unwrap_or(Side::Oldest), reader.pairing.finish()))
}

struct Reader<'t> {
    /// As far as the text has said it.
    side: Option<Side>,
    /// Whether its first line says it.
    is_named: bool,
    values: HashMap<&'t str, u32>,
    pairing: Pairing<u64, QueueAction>,
}

impl<'t> Reader<'t> {
    fn comment(&mut self, number: usize, comment: &str) -> Result<(), ParseError> {
        let Some(object) = comment.trim().strip_prefix("@object") else { return Ok(()) };
        self.side = Some(match object.trim() {
            "atomic-queue" => Side::Oldest,
            "atomic-stack" => Side::Newest,
            other => {
                let what = format!("expected atomic-queue or atomic-stack; found {other:?}");
                return Err(at_line(number, what));
            }
        });
        self.is_named = true;
        Ok(())
    }

    fn event(&mut self, number: usize, line: &'t str) -> Result<(), ParseError> {
        let expected = || at_line(number, "expected '[ID] call METHOD' or '[ID] return'".into());
        let rest = line.strip_prefix('[').ok_or_else(expected)?;
        let (id, rest) = rest.split_once(']').ok_or_else(expected)?;
        let id = id.trim().parse().map_err(|_| expected())?;
        let (kind, rest) = rest.trim().split_once(' ').unwrap_or_else(|| (rest.trim(), ""));
        match kind {
            "call" => {
                let action = self.action(number, rest.trim())?;
                self.pairing.invoke(number, id, action)
            }
            "return" => {
                let found = self.found(rest.trim());
                let action = self.pairing.complete(number, id)?;
                match (action, found) {
                    (QueueAction::Remove(removal), found) => *removal = found,
                    (QueueAction::Add(_), Removal::Unknown) => {}
                    (QueueAction::Add(_), _) => {
                        return Err(at_line(number, "expected no value: this adds one".into()));
                    }
                }
                Ok(())
            }
            _ => Err(expected()),
        }
    }

    fn action(&mut self, number: usize, call: &'t str) -> Result<QueueAction, ParseError> {
        let (method, argument) = call.split_once('(').unwrap_or((call, ")"));
        let argument = argument.strip_suffix(')').map(str::trim);
        let argument = argument.ok_or_else(|| at_line(number, "expected ')' at the end".into()))?;
        let (side, adds) = match method.trim() {
            "add" => (None, true),
            "remove" => (None, false),
            "enqueue" => (Some(Side::Oldest), true),
            "dequeue" => (Some(Side::Oldest), false),
            "push" => (Some(Side::Newest), true),
            "pop" => (Some(Side::Newest), false),
            other => {
                let what = "add, remove, enqueue, dequeue, push or pop";
                return Err(at_line(number, format!("expected {what}; found {other:?}")));
            }
        };
        if let (Some(side), false) = (side, self.is_named) {
            self.side = Some(side);
        }
        match (adds, argument.is_empty()) {
            (true, false) => Ok(QueueAction::Add(self.value(argument))),
            (false, true) => Ok(QueueAction::Remove(Removal::Unknown)),
            (true, true) => Err(at_line(number, format!("expected {method}(VALUE)"))),
            (false, false) => Err(at_line(number, format!("expected {method} without a value"))),
        }
    }

    fn found(&mut self, value: &'t str) -> Removal {
        match value {
            "" => Removal::Unknown,
            "empty" => Removal::Empty,
            value => Removal::Value(self.value(value)),
        }
    }

    fn value(&mut self, value: &'t str) -> u32 {
        let next = u32::try_from(self.values.len()).expect("fewer values than lines");
        *self.values.entry(value).or_insert(next)
    }
}
