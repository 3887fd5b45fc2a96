//! From events to calls: pairing each invocation with its completion.

use std::collections::HashMap;
use std::hash::Hash;

use crate::history::EventKind;
use crate::object::{Call, Caller, PENDING};
use crate::parse::ParseError;

/// Calls in the making. `Id` names who has one open call at a time.
#[derive(Debug)]
pub(super) struct Pairing<Id, A> {
    calls: Vec<Call<A>>,
    /// The open call of each; none where its end said that nobody will ever know.
    open: HashMap<Id, Option<usize>>,
    /// Those that did not happen.
    failed: Vec<usize>,
}

/// Where an event is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// The line where it begins, from 1.
    pub(super) line: usize,
    /// Its position among all events: greater than that of the one before.
    pub(super) position: usize,
}

impl At {
    /// The event of a line that has no other one.
    pub(super) fn line(line: usize) -> Self {
        Self { line, position: line }
    }

    fn position(self) -> Result<u32, ParseError> {
        let position = u32::try_from(self.position).ok().filter(|it| *it < PENDING - 1);
        position.ok_or_else(|| at_line(self.line, format!("expected fewer than {PENDING} events")))
    }
}

impl<Id: Copy + Eq + Hash + std::fmt::Display + Into<Caller>, A> Pairing<Id, A> {
    pub(super) fn new() -> Self {
        Self { calls: Vec::new(), open: HashMap::new(), failed: Vec::new() }
    }

    /// `id` asks for `action`.
    pub(super) fn invoke(&mut self, at: At, id: Id, action: A) -> Result<(), ParseError> {
        let (line, invoked) = (at.line, at.position()?);
        match self.open.insert(id, Some(self.calls.len())) {
            None => {}
            Some(Some(_)) => {
                let what = format!("expected the end of the open call of {id} first");
                return Err(at_line(line, what));
            }
            Some(None) => {
                let what = format!("expected nothing more of {id}, whose last outcome is unknown");
                return Err(at_line(line, what));
            }
        }
        self.calls.push(Call { caller: id.into(), invoked, completed: PENDING, action });
        Ok(())
    }

    /// `id` has its answer. Returns what it asked for.
    pub(super) fn complete(&mut self, at: At, id: Id) -> Result<&mut A, ParseError> {
        let completed = at.position()?;
        let open = self.close(at.line, id)?;
        let call = &mut self.calls[open];
        call.completed = completed;
        Ok(&mut call.action)
    }

    /// What `id` asked for did not happen.
    pub(super) fn fail(&mut self, line: usize, id: Id) -> Result<(), ParseError> {
        let open = self.close(line, id)?;
        self.failed.push(open);
        Ok(())
    }

    /// Nobody will ever know whether what `id` asked for happened.
    pub(super) fn lose(&mut self, line: usize, id: Id) -> Result<(), ParseError> {
        self.close(line, id)?;
        self.open.insert(id, None);
        Ok(())
    }

    fn close(&mut self, line: usize, id: Id) -> Result<usize, ParseError> {
        let open = self.open.remove(&id).flatten();
        open.ok_or_else(|| at_line(line, format!("expected a call of {id} before its end")))
    }

    /// The calls that happened or may have.
    pub(super) fn finish(self) -> Vec<Call<A>> {
        let Self { calls, mut failed, .. } = self;
        failed.sort_unstable();
        let mut failed = failed.into_iter().peekable();
        let happened = |(at, _): &(usize, _)| failed.next_if_eq(at).is_none();
        calls.into_iter().enumerate().filter(happened).map(|(_, call)| call).collect()
    }
}

/// The names of the kinds of events in Jepsen's formats, for people.
pub(super) const KINDS: &str = ":invoke, :ok, :fail or :info";

/// The kind of event that Jepsen calls so.
pub(super) fn kind_of(name: &str) -> Option<EventKind> {
    match name {
        "invoke" => Some(EventKind::Invoke),
        "ok" => Some(EventKind::Ok),
        "fail" => Some(EventKind::Fail),
        "info" => Some(EventKind::Info),
        _ => None,
    }
}

/// An error about a line as a whole.
pub(super) fn at_line(line: usize, expected: String) -> ParseError {
    ParseError { line, column: 1, expected }
}
