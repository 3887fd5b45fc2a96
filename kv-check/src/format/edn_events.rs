//! Jepsen's events in EDN: what every workload's reader begins with.
//!
//! A text holds one vector or list of maps, or one map after the other, tagged or not:
//!
//! ```text
//! {:process 0, :type :invoke, :f :read, :value nil}
//! #jepsen.history.Op{:process 0, :type :ok, :f :read, :value 3, :time 17, :index 1}
//! ```
//!
//! Real time is the order of the text. Events whose `:process` is a keyword are of the nemesis and
//! left out. Other keys say nothing here.

use super::edn::{Edn, Reader};
use super::events::{At, KINDS, kind_of};
use crate::history::EventKind;
use crate::parse::ParseError;

/// An event of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EdnEvent<'t> {
    /// Line where it begins, from 1.
    pub(super) line: usize,
    /// Column where it begins, in bytes from 1.
    pub(super) column: usize,
    /// How many events are before it, those of the nemesis among them.
    pub(super) index: usize,
    /// Who did it; none if the event does not say.
    pub(super) process: Option<u64>,
    /// Which part of an operation it is.
    pub(super) kind: EventKind,
    /// Name of the operation; empty if the event does not say.
    pub(super) f: &'t str,
    /// What was asked for, or found; `nil` if the event does not say.
    pub(super) value: Edn<'t>,
}

/// An event that says nothing.
const NOTHING: EdnEvent<'_> = EdnEvent {
    line: 1,
    column: 1,
    index: 0,
    process: None,
    kind: EventKind::Info,
    f: "",
    value: Edn::Nil,
};

impl<'t> EdnEvent<'t> {
    /// Takes over what a map says. Whether it is the event of a client.
    fn fill(&mut self, entries: Vec<(Edn<'t>, Edn<'t>)>) -> Result<bool, ParseError> {
        let (mut kind, mut f) = (None, None);
        for (key, found) in entries {
            match (key, found) {
                (Edn::Keyword("process"), Edn::Keyword(_)) => return Ok(false),
                (Edn::Keyword("process"), Edn::Number(process)) => {
                    let process = u64::try_from(process);
                    let expected = |_| self.expected("a :process that is not negative");
                    self.process = Some(process.map_err(expected)?);
                }
                (Edn::Keyword("process"), Edn::Nil) => {}
                (Edn::Keyword("process"), _) => {
                    return Err(self.expected("a :process with a number"));
                }
                (Edn::Keyword("type"), Edn::Keyword(found)) => kind = Some(found),
                (Edn::Keyword("f"), Edn::Keyword(found)) => f = Some(found),
                (Edn::Keyword("value"), found) => self.value = found,
                _ => {}
            }
        }
        let Some(kind) = kind else {
            return Err(self.expected("a :type with a keyword"));
        };
        self.f = f.unwrap_or("");
        let other = || self.expected(&format!("a :type of {KINDS}; found :{kind}"));
        self.kind = kind_of(kind).ok_or_else(other)?;
        Ok(true)
    }

    /// An error at the beginning of the event.
    pub(super) fn expected(&self, what: &str) -> ParseError {
        let (line, column) = (self.line, self.column);
        ParseError { line, column, expected: format!("expected {what}") }
    }

    /// Where it is, for calls.
    pub(super) fn at(&self) -> At {
        At { line: self.line, position: self.index }
    }

    /// Who did it, for workloads that need to know.
    pub(super) fn client(&self) -> Result<u64, ParseError> {
        self.process.ok_or_else(|| self.expected("an event with a :process"))
    }
}

/// The events of a text, one after the other. After an error there are no more.
#[derive(Debug)]
pub(super) struct EdnEvents<'t> {
    text: &'t str,
    reader: Reader<'t>,
    /// Whether the events are in a vector or a list that is still to be left.
    is_inside: bool,
    is_done: bool,
    /// How many events were read.
    count: usize,
    /// A place in the text, its line, and where that begins.
    line: (usize, usize, usize),
}

impl<'t> EdnEvents<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let mut reader = Reader::new(text);
        let is_inside = reader.enter();
        Self { text, reader, is_inside, is_done: false, count: 0, line: (0, 1, 0) }
    }

    /// Line and column of a place that is not before the last one that was asked for.
    fn position(&mut self, at: usize) -> (usize, usize) {
        let (from, line, begin) = self.line;
        let between = &self.text.as_bytes()[from..at];
        let count = between.iter().filter(|byte| **byte == b'\n').count();
        let last = between.iter().rposition(|byte| *byte == b'\n');
        let begin = last.map_or(begin, |last| from + last + 1);
        self.line = (at, line + count, begin);
        (line + count, at - begin + 1)
    }

    /// Whether no event is left.
    fn is_at_end(&mut self) -> Result<bool, ParseError> {
        if self.is_done {
            return Ok(true);
        }
        if self.is_inside {
            self.is_done = self.reader.leave();
            if self.is_done && !self.reader.is_at_end() {
                let end = self.reader.skip_space();
                return Err(self.reader.error(end, "nothing behind the events"));
            }
        } else {
            self.is_done = self.reader.is_at_end();
        }
        Ok(self.is_done)
    }

    /// The next event of a client; none at the end.
    fn read(&mut self) -> Result<Option<EdnEvent<'t>>, ParseError> {
        while !self.is_at_end()? {
            let begin = self.reader.skip_space();
            let (line, column) = self.position(begin);
            let mut event = EdnEvent { line, column, index: self.count, ..NOTHING };
            self.count += 1;
            let Edn::Map(entries) = self.reader.value()? else {
                return Err(event.expected("an event"));
            };
            if event.fill(entries)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl<'t> Iterator for EdnEvents<'t> {
    type Item = Result<EdnEvent<'t>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.read();
        self.is_done |= event.is_err();
        event.transpose()
    }
}
