//! EDN, as much of it as histories need: nil, booleans, whole numbers, strings, keywords, symbols,
//! lists, vectors, sets and maps; tags are skipped.

use crate::parse::ParseError;

/// How deep values may be nested.
const DEPTH_MAX: usize = 64;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// A reader of one value after the other.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// A place in the text, and its line.
    line: (usize, usize),
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0, line: (0, 1) }
    }

    /// Where the next value begins, if there is one; else the end.
    pub(super) fn skip_space(&mut self) -> usize {
        loop {
            let rest = &self.text[self.at..];
            let begin = rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
            self.at = self.text.len() - begin.len();
            if !begin.starts_with(';') {
                return self.at;
            }
            self.at += begin.find('\n').unwrap_or(begin.len());
        }
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_space() == self.text.len()
    }

    /// The line of a place that is not before the last one that was asked for.
    pub(super) fn line(&mut self, at: usize) -> usize {
        let (from, line) = self.line;
        self.line = (at, line + self.text[from..at].matches('\n').count());
        self.line.1
    }

    /// An error at a place in the text.
    pub(super) fn error(&self, at: usize, expected: &str) -> ParseError {
        let before = &self.text[..at];
        let line = 1 + before.matches('\n').count();
        let column = 1 + at - before.rfind('\n').map_or(0, |end| end + 1);
        ParseError { line, column, expected: format!("expected {expected}") }
    }

    /// Enters a list or vector, for a reader of its elements. Whether there is one.
    pub(super) fn enter(&mut self) -> bool {
        let begin = self.skip_space();
        let enters = self.text[begin..].starts_with(['[', '(']);
        self.at += usize::from(enters);
        enters
    }

    /// Leaves it, if that is what comes next.
    pub(super) fn leave(&mut self) -> bool {
        let begin = self.skip_space();
        let leaves = self.text[begin..].starts_with([']', ')']);
        self.at += usize::from(leaves);
        leaves
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
        let rest = &self.text[begin..];
        let Some(first) = rest.chars().next() else {
            return Err(self.error(begin, "a value, found the end"));
        };
        match first {
            '"' => self.string(begin),
            '[' => self.sequence(1, ']', depth).map(Edn::Sequence),
            '(' => self.sequence(1, ')', depth).map(Edn::Sequence),
            '{' => self.map(begin, depth),
            '#' if rest.starts_with("#{") => self.sequence(2, '}', depth).map(Edn::Sequence),
            '#' => {
                self.word(begin + 1);
                self.nested(depth + 1)
            }
            _ => self.atom(begin),
        }
    }

    fn string(&mut self, begin: usize) -> Result<Edn<'t>, ParseError> {
        let inside = &self.text[begin + 1..];
        let end = inside.find('"').ok_or_else(|| self.error(begin, "a string with an end"))?;
        self.at = begin + end + 2;
        Ok(Edn::Text(&inside[..end]))
    }

    fn sequence(
        &mut self,
        skipped: usize,
        end: char,
        depth: usize,
    ) -> Result<Vec<Edn<'t>>, ParseError> {
        self.at += skipped;
        let mut values = Vec::new();
        loop {
            let at = self.skip_space();
            if self.text[at..].starts_with(end) {
                self.at += 1;
                return Ok(values);
            }
            values.push(self.nested(depth + 1)?);
        }
    }

    fn map(&mut self, begin: usize, depth: usize) -> Result<Edn<'t>, ParseError> {
        let mut values = self.sequence(1, '}', depth)?.into_iter();
        let mut entries = Vec::with_capacity(values.len() / 2);
        while let Some(key) = values.next() {
            let value = values.next().ok_or_else(|| self.error(begin, "a value for each key"))?;
            entries.push((key, value));
        }
        Ok(Edn::Map(entries))
    }

    fn atom(&mut self, begin: usize) -> Result<Edn<'t>, ParseError> {
        let word = self.word(begin);
        if word.is_empty() {
            return Err(self.error(begin, "a value"));
        }
        if let Some(name) = word.strip_prefix(':') {
            return Ok(Edn::Keyword(name));
        }
        let is_number =
            word.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit());
        match word {
            "nil" => Ok(Edn::Nil),
            _ if is_number => {
                let digits = word.strip_suffix('N').unwrap_or(word);
                let number = digits.parse().map_err(|_| self.error(begin, "a whole number"))?;
                Ok(Edn::Number(number))
            }
            _ => Ok(Edn::Symbol(word)),
        }
    }

    /// The word that begins at `begin`.
    fn word(&mut self, begin: usize) -> &'t str {
        let rest = &self.text[begin..];
        let is_end = |c: char| c.is_whitespace() || ",;\"[](){}".contains(c);
        let word = &rest[..rest.find(is_end).unwrap_or(rest.len())];
        self.at = begin + word.len();
        word
    }
}
