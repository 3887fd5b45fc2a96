//! Reading a history from JSON lines.
//!
//! The reader trusts nothing: any bytes give a history or an error with a position, never a panic.
//! It is strict on purpose.
//! An unknown field is refused, because a misspelt `existed` would quietly turn an observation into
//! none and the history would hold for the wrong reason; for the same reason an empty line or a
//! line that was cut off is an error and not the end.
//!
//! Each line is parsed alone, so the line of an error is exact and its column is that of the JSON
//! reader.
//! After the last line the events are paired once to find what no single line shows, such as a
//! client that has two open operations; such an error has the line of the event and column 1.
//!
//! # What this leaves out
//!
//! Recovery: the first error ends the reading, as the lines after it have no certain meaning.

use std::io::{self, BufRead};

use serde::Deserialize;

use crate::history::{Event, FORMAT_VERSION, Header, History};
use crate::operation;

/// Why a text is not a history. *Nothing was read.*
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {expected}")]
pub struct ParseError {
    /// Line of the offending text, counted from 1.
    pub line: usize,
    /// Column in bytes, counted from 1; 1 if the line as a whole is wrong.
    pub column: usize,
    /// What was expected there, and what was found if that is short.
    pub expected: String,
}

/// Why a history could not be read from a stream. *Nothing was read.*
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream failed. *Nothing was read.*
    #[error("cannot read the history")]
    Io(#[source] io::Error),
    /// The stream is not a history. *Nothing was read; reading again gives the same.*
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl History {
    /// Reads a well-formed history from a text.
    ///
    /// # Errors
    ///
    /// The position of the first thing that does not belong into a history.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut lines = Lines::default();
        for line in text.lines() {
            lines.push(line.as_bytes())?;
        }
        lines.finish()
    }

    /// Reads a well-formed history from a stream.
    ///
    /// # Errors
    ///
    /// The error of the stream, or the position of the first thing that does not belong into a
    /// history.
    pub fn read(mut input: impl BufRead) -> Result<Self, ReadError> {
        let mut lines = Lines::default();
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line).map_err(ReadError::Io)? > 0 {
            lines.push(line.trim_ascii_end())?;
            line.clear();
        }
        Ok(lines.finish()?)
    }
}

/// What was read so far.
#[derive(Default)]
struct Lines {
    header: Option<Header>,
    events: Vec<Event>,
}

impl Lines {
    fn push(&mut self, line: &[u8]) -> Result<(), ParseError> {
        if self.header.is_some() {
            let number = line_of(self.events.len());
            self.events.push(json(line, number, "an event")?);
        } else {
            self.header = Some(header(line)?);
        }
        Ok(())
    }

    fn finish(self) -> Result<History, ParseError> {
        let header = match self.header {
            Some(header) => header,
            None => header(b"")?,
        };
        let history = History { header, events: self.events };
        match operation::verify(&history) {
            Ok(()) => Ok(history),
            Err(error) => Err(whole_line(line_of(error.event), error.problem.to_string())),
        }
    }
}

/// The line of the event at `position`: lines count from 1 and the header comes first.
fn line_of(position: usize) -> usize {
    position + 2
}

fn header(line: &[u8]) -> Result<Header, ParseError> {
    let header: Header = json(line, 1, r#"a header like {"version":1,"model":"kv"}"#)?;
    if header.version == FORMAT_VERSION {
        return Ok(header);
    }
    let found = header.version;
    Err(whole_line(1, format!("expected `version` {FORMAT_VERSION}; found {found}")))
}

fn json<'l, T: Deserialize<'l>>(
    line: &'l [u8],
    number: usize,
    what: &str,
) -> Result<T, ParseError> {
    if line.is_empty() {
        return Err(whole_line(number, format!("expected {what}; found an empty line")));
    }
    serde_json::from_slice(line).map_err(|error| {
        let reason = error.to_string();
        // The position in the text is that within one line, which would mislead beside ours.
        let reason = reason.rsplit_once(" at line ").map_or(&*reason, |(reason, _)| reason);
        let expected = format!("expected {what}: {reason}");
        ParseError { line: number, column: error.column().max(1), expected }
    })
}

fn whole_line(line: usize, expected: String) -> ParseError {
    ParseError { line, column: 1, expected }
}
