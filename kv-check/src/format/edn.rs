//! EDN, as much of it as histories need: nil, booleans, whole numbers, strings, keywords, symbols,
//! lists, vectors, sets and maps; tags are skipped.
//!
//! Every byte is looked at once, and a value borrows its words from the text.

use std::fmt;

use crate::parse::ParseError;

/// How deep values may be nested.
const DEPTH_MAX: usize = 64;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Edn<'t> {
    /// `nil`
    Nil,
    /// A whole number.
    Number(i64),
    /// A string without its quotes, escapes as they stand.
    Text(&'t str),
    /// A keyword without its colon.
    Keyword(&'t str),
    /// Anything else that is one word.
    Symbol(&'t str),
    /// A list, a vector or a set.
    Sequence(Vec<Self>),
    /// A map, in its order.
    Map(Vec<(Self, Self)>),
}

impl<'t> Edn<'t> {
    /// The value of a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        let is_key = |name: &Self| matches!(name, Self::Keyword(name) if *name == key);
        entries.iter().find(|(name, _)| is_key(name)).map(|(_, value)| value)
    }
}

/// As it is written, but for commas, tags and what kind of sequence it is.
impl fmt::Display for Edn<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = |at: usize| if at > 0 { " " } else { "" };
        match self {
            Self::Nil => out.write_str("nil"),
            Self::Number(number) => number.fmt(out),
            Self::Text(text) => write!(out, "\"{text}\""),
            Self::Keyword(word) => write!(out, ":{word}"),
            Self::Symbol(word) => out.write_str(word),
            Self::Sequence(values) => {
                out.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    write!(out, "{}{value}", space(at))?;
                }
                out.write_str("]")
            }
            Self::Map(entries) => {
                out.write_str("{")?;
                for (at, (key, value)) in entries.iter().enumerate() {
                    write!(out, "{}{key} {value}", space(at))?;
                }
                out.write_str("}")
            }
        }
    }
}

/// A reader of one value after the other.
#[derive(Debug, Clone)]
pub(super) struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// The byte at the place of reading, or none at the end.
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Where the next value begins, if there is one; else the end.
    pub(super) fn skip_space(&mut self) -> usize {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => self.at += 1,
                b';' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                _ => break,
            }
        }
        self.at
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_space() == self.text.len()
    }

    /// An error at a place in the text. Reads all before it: not for every value.
    pub(super) fn error(&self, at: usize, expected: &str) -> ParseError {
        let before = &self.text[..at];
        let line = 1 + before.matches('\n').count();
        let column = 1 + at - before.rfind('\n').map_or(0, |end| end + 1);
        ParseError { line, column, expected: format!("expected {expected}") }
    }

    /// Takes what comes next, if it begins with one of these. Whether it does.
    fn take(&mut self, any: [u8; 2]) -> bool {
        self.skip_space();
        let takes = self.peek().is_some_and(|byte| any.contains(&byte));
        self.at += usize::from(takes);
        takes
    }

    /// Enters a list or vector, for a reader of its elements. Whether there is one.
    pub(super) fn enter(&mut self) -> bool {
        self.take([b'[', b'('])
    }

    /// Leaves it, if that is what comes next.
    pub(super) fn leave(&mut self) -> bool {
        self.take([b']', b')'])
    }

    /// The next value.
    pub(super) fn value(&mut self) -> Result<Edn<'t>, ParseError> {
        self.nested(0)
    }

    fn nested(&mut self, depth: usize) -> Result<Edn<'t>, ParseError> {
        let begin = self.skip_space();
        if depth > DEPTH_MAX {
            return Err(self.error(begin, "values that are not nested as deep"));
        }
        let Some(first) = self.peek() else {
            return Err(self.error(begin, "a value, found the end"));
        };
        match first {
            b'"' => self.string(begin),
            b'[' => self.sequence(1, b']', depth).map(Edn::Sequence),
            b'(' => self.sequence(1, b')', depth).map(Edn::Sequence),
            b'{' => self.map(begin, depth),
            b'#' => match self.text.as_bytes().get(begin + 1) {
                Some(b'{') => self.sequence(2, b'}', depth).map(Edn::Sequence),
                Some(b'_') => Err(self.error(begin, "a value that is not discarded")),
                _ => {
                    self.at += 1;
                    self.word();
                    self.nested(depth + 1)
                }
            },
            _ => self.atom(begin),
        }
    }

    /// A string. A backslash keeps a quote behind it inside.
    fn string(&mut self, begin: usize) -> Result<Edn<'t>, ParseError> {
        let mut end = begin + 1;
        loop {
            match self.text.as_bytes().get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return Err(self.error(begin, "a string with an end")),
            }
        }
        self.at = end + 1;
        Ok(Edn::Text(&self.text[begin + 1..end]))
    }

    fn sequence(
        &mut self,
        skipped: usize,
        end: u8,
        depth: usize,
    ) -> Result<Vec<Edn<'t>>, ParseError> {
        self.at += skipped;
        let mut values = Vec::new();
        loop {
            self.skip_space();
            if self.peek() == Some(end) {
                self.at += 1;
                return Ok(values);
            }
            values.push(self.nested(depth + 1)?);
        }
    }

    fn map(&mut self, begin: usize, depth: usize) -> Result<Edn<'t>, ParseError> {
        self.at += 1;
        // As many as an event has.
        let mut entries = Vec::with_capacity(8);
        loop {
            self.skip_space();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(Edn::Map(entries));
            }
            let key = self.nested(depth + 1)?;
            self.skip_space();
            if self.peek() == Some(b'}') {
                return Err(self.error(begin, "a value for each key"));
            }
            entries.push((key, self.nested(depth + 1)?));
        }
    }

    fn atom(&mut self, begin: usize) -> Result<Edn<'t>, ParseError> {
        let word = self.word();
        match word.as_bytes() {
            [] => Err(self.error(begin, "a value")),
            [b':', ..] => Ok(Edn::Keyword(&word[1..])),
            b"nil" => Ok(Edn::Nil),
            [b'0'..=b'9', ..] | [b'+' | b'-', b'0'..=b'9', ..] => {
                let digits = word.strip_suffix('N').unwrap_or(word);
                // A fraction or a number that is too large is as good as any other word: it
                // matters only where a whole number is expected, which says so.
                Ok(digits.parse().map_or(Edn::Symbol(word), Edn::Number))
            }
            _ => Ok(Edn::Symbol(word)),
        }
    }

    /// The word that comes next. Characters like `\"` are words.
    fn word(&mut self) -> &'t str {
        let begin = self.at;
        let rest = &self.text[begin..];
        let escaped = if rest.starts_with('\\') { rest.chars().nth(1) } else { None };
        self.at += escaped.map_or(0, |escaped| 1 + escaped.len_utf8());
        let bytes = &self.text.as_bytes()[self.at..];
        let is_end = |byte: &u8| {
            byte.is_ascii_whitespace()
                || matches!(byte, b',' | b';' | b'"' | b'[' | b']' | b'(' | b')' | b'{' | b'}')
        };
        self.at += bytes.iter().position(is_end).unwrap_or(bytes.len());
        &self.text[begin..self.at]
    }
}
