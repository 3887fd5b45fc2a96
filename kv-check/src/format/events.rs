//! From events to calls: pairing each invocation with its completion.

use std::collections::HashMap;
use std::hash::Hash;

use crate::object::{Call, PENDING};
use crate::parse::ParseError;

/// Calls in the making; a position for each event. `Id` names who has one open call at a time.
#[derive(Debug)]
pub(super) struct Pairing<Id, A> {
    calls: Vec<Call<A>>,
    open: HashMap<Id, usize>,
    position: u32,
}

impl<Id: Copy + Eq + Hash + std::fmt::Display, A> Pairing<Id, A> {
    pub(super) fn new() -> Self {
        Self { calls: Vec::new(), open: HashMap::new(), position: 0 }
    }

    fn next(&mut self, line: usize) -> Result<u32, ParseError> {
        let position = self.position;
        if position == PENDING - 1 {
            return Err(at_line(line, format!("expected at most {position} events")));
        }
        self.position += 1;
        Ok(position)
    }

    /// `id` asks for `action`.
    pub(super) fn invoke(&mut self, line: usize, id: Id, action: A) -> Result<(), ParseError> {
        let invoked = self.next(line)?;
        if self.open.insert(id, self.calls.len()).is_some() {
            return Err(at_line(line, format!("expected the end of the open call of {id} first")));
        }
        self.calls.push(Call { invoked, completed: PENDING, action });
        Ok(())
    }

    /// `id` has its answer. Returns what it asked for.
    pub(super) fn complete(&mut self, line: usize, id: Id) -> Result<&mut A, ParseError> {
        let completed = self.next(line)?;
        let Some(open) = self.open.remove(&id) else {
            return Err(at_line(line, format!("expected a call of {id} before its end")));
        };
        let call = &mut self.calls[open];
        call.completed = completed;
        Ok(&mut call.action)
    }

    pub(super) fn finish(self) -> Vec<Call<A>> {
        self.calls
    }
}

/// An error about a line as a whole.
pub(super) fn at_line(line: usize, expected: String) -> ParseError {
    ParseError { line, column: 1, expected }
}
