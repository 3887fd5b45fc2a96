//! Queues, stacks and sets as Violin records them.
//!
//! ```text
//! # @object atomic-queue
//! [1] call add(2)
//! [2] call remove
//! [1] return
//! [2] return 2
//! ```
//!
//! The number in brackets is that of the operation, which has one call and at most one return, or that
//! of a thread, which has many. The methods are `add` and `remove`, `enqueue` and `dequeue`, `push` and
//! `pop`; those of an `atomic-set` are `add(2)`, `remove(2)` and `contains(2)`, which return `true` or
//! `false`.

use std::collections::{BTreeMap, HashMap};

use super::events::{At, Pairing, at_line};
use super::{QueueRecord, Recorded};
use crate::names::Names;
use crate::object::{Call, Caller, PresenceAction, QueueAction, Removal, Side, Touch};
use crate::parse::ParseError;

pub(super) fn read(text: &str) -> Result<Recorded, ParseError> {
    let is_set = |line: &str| object_of(line) == Some("atomic-set");
    if text.lines().take_while(|line| !line.trim().starts_with('[')).any(is_set) {
        return read_set(text);
    }
    let mut reader = Reader {
        side: None,
        is_named: false,
        values: HashMap::new(),
        names: Names::default(),
        pairing: Pairing::new(),
    };
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        match line.starts_with('#') {
            true => reader.comment(number, line)?,
            false if line.is_empty() => {}
            false => reader.event(number, line)?,
        }
    }
    let (side, mut calls) = (reader.side.unwrap_or(Side::Oldest), reader.pairing.finish());
    forget_operations(&mut calls);
    Ok(Recorded::Queue(QueueRecord { side, calls, values: reader.names }))
}

/// Forgets who made calls, if the numbers in brackets are those of operations: no number has two.
fn forget_operations<A>(calls: &mut [Call<A>]) {
    let mut callers: Vec<_> = calls.iter().map(|call| call.caller).collect();
    callers.sort_unstable();
    if callers.windows(2).all(|pair| pair[0] != pair[1]) {
        for call in calls {
            call.caller = Caller::default();
        }
    }
}

/// What a comment says that the history is of.
fn object_of(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix('#')?.trim().strip_prefix("@object")?.trim())
}

/// The number of the operation, whether it is called or returns, and the rest.
fn event(number: usize, line: &str) -> Result<(u64, bool, &str), ParseError> {
    let expected = || at_line(number, "expected '[ID] call METHOD' or '[ID] return'".into());
    let rest = line.strip_prefix('[').ok_or_else(expected)?;
    let (id, rest) = rest.split_once(']').ok_or_else(expected)?;
    let id = id.trim().parse().map_err(|_| expected())?;
    let (kind, rest) = rest.trim().split_once(' ').unwrap_or_else(|| (rest.trim(), ""));
    match kind {
        "call" => Ok((id, true, rest.trim())),
        "return" => Ok((id, false, rest.trim())),
        _ => Err(expected()),
    }
}

/// A set, element by element.
fn read_set(text: &str) -> Result<Recorded, ParseError> {
    let mut pairing: Pairing<u64, (&str, PresenceAction)> = Pairing::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (id, is_call, rest) = event(number, line)?;
        let expected = |what: &str| at_line(number, format!("expected {what}"));
        if is_call {
            let parts = rest
                .split_once('(')
                .and_then(|(method, rest)| Some((method.trim(), rest.strip_suffix(')')?.trim())));
            let (touch, element) = match parts {
                Some(("add" | "insert", element)) => (Touch::Add, element),
                Some(("remove" | "delete", element)) => (Touch::Remove, element),
                Some(("contains", element)) => (Touch::Contains, element),
                _ => return Err(expected("add(VALUE), remove(VALUE) or contains(VALUE)")),
            };
            pairing.invoke(
                At::line(number),
                id,
                (element, PresenceAction { touch, found: None }),
            )?;
        } else {
            let (_, action) = pairing.complete(At::line(number), id)?;
            action.found = match rest {
                "true" => Some(true),
                "false" => Some(false),
                "" => None,
                _ => return Err(expected("true, false or nothing")),
            };
        }
    }
    let mut elements = BTreeMap::<_, Vec<_>>::new();
    let mut calls = pairing.finish();
    forget_operations(&mut calls);
    for call in calls {
        let (call, element) = call.split(|(element, action)| (action, element));
        elements.entry(element).or_default().push(call);
    }
    let named = elements.into_iter().map(|(element, calls)| (element.to_owned(), calls));
    Ok(Recorded::Elements(named.collect()))
}

struct Reader<'t> {
    /// As far as the text has said it.
    side: Option<Side>,
    /// Whether its first line says it.
    is_named: bool,
    values: HashMap<&'t str, u32>,
    names: Names,
    pairing: Pairing<u64, QueueAction>,
}

impl<'t> Reader<'t> {
    fn comment(&mut self, number: usize, comment: &str) -> Result<(), ParseError> {
        let Some(object) = object_of(comment) else { return Ok(()) };
        self.side = Some(match object {
            "atomic-queue" => Side::Oldest,
            "atomic-stack" => Side::Newest,
            other => {
                let what =
                    format!("expected atomic-queue, atomic-stack or atomic-set; found {other:?}");
                return Err(at_line(number, what));
            }
        });
        self.is_named = true;
        Ok(())
    }

    fn event(&mut self, number: usize, line: &'t str) -> Result<(), ParseError> {
        let (id, is_call, rest) = event(number, line)?;
        if is_call {
            let action = self.action(number, rest)?;
            return self.pairing.invoke(At::line(number), id, action);
        }
        let found = self.found(rest);
        match (self.pairing.complete(At::line(number), id)?, found) {
            (QueueAction::Remove(removal), found) => *removal = found,
            (QueueAction::Add(_), Removal::Unknown) => {}
            (QueueAction::Add(_), _) => {
                return Err(at_line(number, "expected no value: this adds one".into()));
            }
        }
        Ok(())
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
            (true, _) if argument == "empty" => {
                let what = "expected a value other than empty, which says that nothing was found";
                Err(at_line(number, what.into()))
            }
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
        *self.values.entry(value).or_insert_with(|| {
            self.names.push(value);
            next
        })
    }
}
