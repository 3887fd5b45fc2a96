//! Batches: the writes of a file at once, perhaps under conditions.
//!
//! Unlike a file of `kv txn` it is no sequence of steps: first what must hold, then what is done, and
//! behind a line `else` what is done if it does not hold. All of it happens at one moment.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt as _;

use kv_client::{Compare, Op, WriteBatch};
use kv_core::id::Timestamp;
use kv_core::txn::OPERATIONS_MAX;
use serde_json::json;

use crate::args::{BatchArgs, Format};
use crate::commands::{Session, say, text_of};
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::{repl, txn};

/// What a line asks to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Get { key: Vec<u8> },
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
}

/// A line.
enum Line {
    If(Compare),
    Do(Action),
    Else,
}

/// A file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    /// What must hold.
    compares: Vec<Compare>,
    /// What is done if it does.
    then: Vec<Action>,
    /// What is done if it does not; none if the file does not say.
    otherwise: Option<Vec<Action>>,
}

/// The lines that there are.
const FORMS: &str = "a batch takes if-value KEY VALUE, if-version KEY V, if-absent KEY, put KEY VALUE, \
                     delete KEY, get KEY and else";

/// `kv batch`: everything in the file, or nothing.
pub(crate) fn run(
    session: &Session,
    args: &BatchArgs,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let bytes = txn::read_bytes(&args.file).map_err(Failure::Usage)?;
    let batch = parse(&bytes).map_err(Failure::Usage)?;
    match batch.writes_alone() {
        Some(writes) => txn::print_committed(session, session.client.write_batch(writes)?, out),
        None => run_conditional(session, batch, out),
    }
}

fn run_conditional(
    session: &Session,
    batch: Batch,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let otherwise = batch.otherwise.unwrap_or_default();
    let ops = |actions: &[Action]| actions.iter().cloned().map(Action::into_op).collect();
    let result = session.client.txn(batch.compares, ops(&batch.then), ops(&otherwise))?;
    let branch = if result.is_met { &batch.then } else { &otherwise };
    let keys = branch.iter().filter_map(Action::read_key);
    for (key, found) in keys.zip(&result.found) {
        session.print_found(key, found.as_ref(), out)?;
    }
    print_end(session, result.is_met, result.version, out)
}

/// Tells which branch was done.
fn print_end(
    session: &Session,
    is_met: bool,
    version: Option<Timestamp>,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match (session.format, version) {
        (Format::Json, version) => {
            let version = version.map(text_of);
            writeln!(out, "{}", json!({ "committed": true, "met": is_met, "version": version }))?;
        }
        (Format::Text, Some(version)) => writeln!(out, "committed, version {version}")?,
        (Format::Text, None) if is_met => writeln!(out, "committed")?,
        (Format::Text, None) => {}
    }
    if is_met {
        return Ok(ExitCode::Done);
    }
    if session.format == Format::Text {
        say("the conditions do not hold");
    }
    Ok(ExitCode::No)
}

impl Action {
    fn into_op(self) -> Op {
        match self {
            Self::Get { key } => Op::get(key),
            Self::Put { key, value } => Op::put(key, value),
            Self::Delete { key } => Op::delete(key),
        }
    }

    fn read_key(&self) -> Option<&[u8]> {
        match self {
            Self::Get { key } => Some(key),
            Self::Put { .. } | Self::Delete { .. } => None,
        }
    }
}

impl Batch {
    /// Its writes, if it is nothing else.
    fn writes_alone(&self) -> Option<WriteBatch> {
        if !self.compares.is_empty() || self.otherwise.is_some() {
            return None;
        }
        let mut batch = WriteBatch::new();
        for action in self.then.iter().cloned() {
            match action {
                Action::Get { .. } => return None,
                Action::Put { key, value } => batch.put(key, value),
                Action::Delete { key } => batch.delete(key),
            };
        }
        Some(batch)
    }

    /// Takes one more line. Conditions, and what is done in either case, may be so many each; together
    /// with the keys that they compare the client counts them.
    fn add(&mut self, line: Line) -> Result<(), String> {
        match (line, &mut self.otherwise) {
            (Line::If(compare), None) if self.then.is_empty() => self.compares.push(compare),
            (Line::If(_), _) => return Err("conditions come first".into()),
            (Line::Do(action), None) => self.then.push(action),
            (Line::Do(action), Some(otherwise)) => otherwise.push(action),
            (Line::Else, Some(_)) => return Err("there is one else".into()),
            (Line::Else, None) if self.compares.is_empty() => {
                return Err("else comes after conditions".into());
            }
            (Line::Else, None) => self.otherwise = Some(vec![]),
        }
        let otherwise_count = self.otherwise.as_ref().map_or(0, Vec::len);
        let count = self.compares.len().max(self.then.len()).max(otherwise_count);
        if count > OPERATIONS_MAX {
            return Err(format!("more than {OPERATIONS_MAX} operations"));
        }
        Ok(())
    }
}

/// Empty lines, and those that begin with `#`, say nothing.
fn parse(bytes: &[u8]) -> Result<Batch, String> {
    let mut batch = Batch::default();
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let parsed = parse_line(text).map_err(|error| format!("line {line}: {error}"))?;
        let Some(parsed) = parsed else { continue };
        batch.add(parsed).map_err(|error| format!("line {line}: {error}"))?;
    }
    Ok(batch)
}

fn parse_line(text: &[u8]) -> Result<Option<Line>, String> {
    let text = str::from_utf8(text).map_err(|_| "not UTF-8")?.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let words: Vec<Vec<u8>> =
        repl::split(text)?.into_iter().map(|word| OsString::from(word).into_vec()).collect();
    let bytes_at = |at: usize| words.get(at).map_or(0, Vec::len);
    txn::check_sizes(bytes_at(1), bytes_at(2))?;
    let line = match words.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"put", key, value] => Line::Do(Action::Put { key: key.into(), value: value.into() }),
        [b"delete", key] => Line::Do(Action::Delete { key: key.into() }),
        [b"get", key] => Line::Do(Action::Get { key: key.into() }),
        [b"if-value", key, value] => Line::If(Compare::value(key.to_vec(), value.to_vec())),
        [b"if-version", key, version] => {
            let version = str::from_utf8(version).ok().and_then(|version| version.parse().ok());
            let version = version.map(Timestamp).ok_or("a version is a number")?;
            Line::If(Compare::version(key.to_vec(), version))
        }
        [b"if-absent", key] => Line::If(Compare::absent(key.to_vec())),
        [b"else"] => Line::Else,
        _ => return Err(FORMS.to_owned()),
    };
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use kv_core::op::KEY_BYTES_MAX;

    use super::*;

    fn put(key: &str, value: &str) -> Action {
        Action::Put { key: key.into(), value: value.into() }
    }

    #[test]
    fn a_file_has_conditions_and_two_branches() {
        let text = b"# take it\nif-absent lock\nif-value state 'all idle'\nif-version n 7\n\
                     put lock -1\ndelete state\nelse\nget lock\n";
        let expected = Batch {
            compares: vec![
                Compare::absent("lock"),
                Compare::value("state", "all idle"),
                Compare::version("n", Timestamp(7)),
            ],
            then: vec![put("lock", "-1"), Action::Delete { key: "state".into() }],
            otherwise: Some(vec![Action::Get { key: "lock".into() }]),
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn writes_alone_are_a_plain_batch() {
        let mut batch = WriteBatch::new();
        batch.put("a", "1").delete("b");
        let written = parse(b"put a 1\ndelete b\n").map(|parsed| parsed.writes_alone());
        assert_eq!(written, Ok(Some(batch)));
        for other in [&b"put a 1\nget b\n"[..], b"if-absent a\nput a 1\n"] {
            assert_eq!(parse(other).map(|parsed| parsed.writes_alone()), Ok(None));
        }
    }

    #[track_caller]
    fn check_wrong(file: &[u8], expected: &str) {
        let error = parse(file).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_wrong_line_is_named() {
        check_wrong(b"put a\n", "line 1: a batch takes");
        check_wrong(b"put a 1\ncas a 1 2\n", "line 2: a batch takes");
        check_wrong(b"if-absent a b\n", "line 1: a batch takes");
        check_wrong(b"if-version a x\n", "line 1: a version is a number");
        check_wrong(b"put a 1\nif-absent b\n", "line 2: conditions come first");
        check_wrong(b"if-absent a\nelse\nif-absent b\n", "line 3: conditions come first");
        check_wrong(b"put a 1\nelse\n", "line 2: else comes after conditions");
        check_wrong(b"if-absent a\nelse\nelse\n", "line 3: there is one else");
        check_wrong(b"put 'a 1\n", "line 1: a quote is not closed");
        check_wrong(b"\nput \xff 1\n", "line 2: not UTF-8");
        let long = [b"put a 1\ndelete ", "k".repeat(KEY_BYTES_MAX + 1).as_bytes()].concat();
        check_wrong(&long, "line 2: 8193 bytes of key exceed");
        let many = b"delete a\n".repeat(OPERATIONS_MAX + 1);
        check_wrong(&many, "line 10001: more than 10000 operations");
        let many_else = [b"if-absent a\nelse\n", &many[..]].concat();
        check_wrong(&many_else, "line 10003: more than 10000 operations");
        let many_conditions = b"if-absent a\n".repeat(OPERATIONS_MAX + 1);
        check_wrong(&many_conditions, "line 10001: more than 10000 operations");
    }

    #[test]
    fn each_branch_may_have_as_many_operations_as_a_transaction() {
        let most = b"get a\n".repeat(OPERATIONS_MAX);
        let file = [b"if-absent a\n", &most[..], b"else\n", &most[..]].concat();
        let batch = parse(&file).unwrap();
        assert_eq!(batch.then.len(), OPERATIONS_MAX);
        assert_eq!(batch.otherwise.map(|otherwise| otherwise.len()), Some(OPERATIONS_MAX));
    }
}
