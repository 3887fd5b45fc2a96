//! Reading a table key by key, and collecting everything that is wrong.
//!
//! A [`Reader`] walks one table of the file. Each key is asked for once, with its default and the
//! values that make sense; a wrong one is noted, with its place, and the default is used to go on.
//! What was never asked for is unknown. So one look at a file finds all its errors.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use crate::engine::MILLION;

/// Something wrong in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// The problems found so far, by their offset in the file.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<(usize, String)>>);

impl Problems {
    pub(crate) fn add(&self, offset: usize, message: String) {
        self.0.borrow_mut().push((offset, message));
    }

    /// All of them, in the order of the file.
    pub(crate) fn into_list(self, text: &str) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems
            .into_iter()
            .map(|(offset, message)| {
                let before = text.get(..offset).unwrap_or(text);
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|char| *char != '\n').count() + 1;
                Problem { line, column, message }
            })
            .collect()
    }
}

/// Walks one table.
pub(crate) struct Reader<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    /// With a dot at its end, empty for the root.
    path: String,
    problems: &'a Problems,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(table: &'a Spanned<DeTable<'a>>, problems: &'a Problems) -> Self {
        Self {
            table: table.get_ref(),
            span: table.span(),
            path: String::new(),
            problems,
            known: Vec::new(),
        }
    }

    /// Reads a table that is not there: every key has its default.
    pub(crate) fn absent<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let empty = DeTable::new();
        let path = String::new();
        let mut reader = Reader {
            table: &empty,
            span: self.span.clone(),
            path,
            problems: self.problems,
            known: Vec::new(),
        };
        read(&mut reader)
    }

    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Where a key stands, or the table if it does not.
    fn offset(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.span.start, |(key, _)| key.span().start)
    }

    /// Notes a problem with a key that may be valid by itself.
    pub(crate) fn fail(&self, key: &str, message: impl fmt::Display) {
        self.problems.add(self.offset(key), format!("`{}{key}` {message}", self.path));
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, message: impl fmt::Display) {
        self.problems.add(value.span().start, format!("`{}{key}` {message}", self.path));
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = value.get_ref().type_str();
        self.wrong(key, value, format_args!("must be {expected}, not of type {found}"));
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A whole number, none if it is not there.
    pub(crate) fn optional_integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.find(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fitting = number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| range.contains(number));
        if fitting.is_none() {
            self.wrong(
                key,
                value,
                format_args!("must be from {} to {}", range.start(), range.end()),
            );
        }
        fitting
    }

    /// A whole number.
    pub(crate) fn integer(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        self.optional_integer(key, range).unwrap_or(default)
    }

    /// A number with or without a fraction, none if it is not there.
    pub(crate) fn optional_number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        let value = self.find(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64)
            }
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => {
                self.wrong_type(key, value, "a whole number or a fraction");
                return None;
            }
        };
        let fitting = number.filter(|number| range.contains(number));
        if fitting.is_none() {
            self.wrong(
                key,
                value,
                format_args!("must be from {} to {}", range.start(), range.end()),
            );
        }
        fitting
    }

    /// A time given in `unit` nanoseconds, as nanoseconds.
    pub(crate) fn time(
        &mut self,
        key: &'static str,
        default: f64,
        unit: f64,
        range: RangeInclusive<f64>,
    ) -> u64 {
        (self.optional_number(key, range).unwrap_or(default) * unit) as u64
    }

    /// A share between 0 and 1, in a million.
    pub(crate) fn rate(
        &mut self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> u32 {
        (self.optional_number(key, range).unwrap_or(default) * f64::from(MILLION)) as u32
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.find(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string");
        }
        text
    }

    /// One of several words.
    pub(crate) fn choice<T: Clone>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let Some(value) = self.find(key) else { return default };
        self.chosen(key, value, choices).unwrap_or(default)
    }

    fn chosen<T: Clone>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Some(word) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a string");
            return None;
        };
        let choice = choices.iter().find(|(name, _)| *name == word);
        if choice.is_none() {
            let names: Vec<String> =
                choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.wrong(
                key,
                value,
                format_args!("must be one of {}, not \"{word}\"", names.join(", ")),
            );
        }
        choice.map(|(_, choice)| choice.clone())
    }

    /// A list of one or more of several words; all of them if it is not there.
    pub(crate) fn choices<T: Clone>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Vec<T> {
        let chosen = self.optional_choices(key, choices);
        if chosen.is_empty() {
            choices.iter().map(|(_, choice)| choice.clone()).collect()
        } else {
            chosen
        }
    }

    /// A list of one or more of several words; none of them if it is not there.
    pub(crate) fn optional_choices<T: Clone>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Vec<T> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return Vec::new();
        };
        let chosen: Vec<T> =
            list.iter().filter_map(|item| self.chosen(key, item, choices)).collect();
        if list.is_empty() {
            self.wrong(key, value, "must name at least one");
        }
        chosen
    }

    /// A table, read by `read` if it is there.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let value = self.find(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return None;
        };
        Some(self.inner(key, table, value.span(), read))
    }

    /// A list of tables.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Self) -> T,
    ) -> Vec<T> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables");
            return Vec::new();
        };
        let mut items = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_table() {
                Some(table) => items.push(self.inner(key, table, item.span(), &mut read)),
                None => self.wrong_type(key, item, "a table"),
            }
        }
        items
    }

    fn inner<T>(
        &self,
        key: &str,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let path = format!("{}{key}.", self.path);
        let mut reader = Reader { table, span, path, problems: self.problems, known: Vec::new() };
        let result = read(&mut reader);
        reader.finish();
        result
    }

    /// Notes every key that was not asked for.
    pub(crate) fn finish(self) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let hint = nearest(name, self.known.iter().copied())
                    .first()
                    .map(|near| format!(": did you mean `{near}`?"));
                let message =
                    format!("unknown key `{}{name}`{}", self.path, hint.unwrap_or_default());
                self.problems.add(key.span().start, message);
            }
        }
    }
}
