//! Transactions: the steps of a block at the prompt, and of a file.
//!
//! A file is read and checked as a whole before anything is sent, and its answers are printed when
//! it is committed: what an aborted attempt has read is nothing to act upon.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use clap::Parser as _;
use kv_client::blocking::Transaction;
use kv_client::{CasResult, ClientError, Consistency};
use kv_core::client::{CallError, PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use kv_core::id::Timestamp;
use kv_core::op::{Found, KEY_BYTES_MAX, KeyRange, PageLimit, Row, VALUE_BYTES_MAX};
use kv_core::txn::{OPERATIONS_MAX, OutcomeId, TxnOutcome};
use serde_json::json;

use crate::args::{CAS_FORMS, Cas, Command, Format, Line, LineCommand, ScanArgs, TxnArgs};
use crate::commands::{Session, text_of};
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::{output, repl, scan};

/// The longest file: more than fills any transaction.
const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// One operation of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reads a key.
    Get {
        /// The key.
        key: Vec<u8>,
        /// Whether it is going to be written.
        is_for_update: bool,
    },
    /// Sets a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Sets a key if it is as expected.
    Cas(Cas),
    /// Reads a range.
    Scan {
        /// The range.
        range: KeyRange,
        /// How many keys, at most.
        limit: u64,
    },
}

/// What a step answered.
enum Answer {
    Found(Option<Found>),
    Buffered,
    Cas(CasResult),
    Rows(Vec<Row>),
}

impl Step {
    /// The step that a command stands for, or why it stands for none.
    pub(crate) fn new(command: LineCommand) -> Result<Self, String> {
        let step = match command {
            LineCommand::GetForUpdate { key } => {
                Self::Get { key: key.into_vec(), is_for_update: true }
            }
            LineCommand::Other(Command::Get { at: Some(_), .. }) => {
                return Err(
                    "a transaction reads what is, not what was: get takes no --at in it".into()
                );
            }
            LineCommand::Other(Command::Get { consistency, .. })
                if consistency != Consistency::Linearizable =>
            {
                return Err(
                    "a transaction locks what it reads: get takes no --consistency in it".into()
                );
            }
            LineCommand::Other(Command::Get { key, at: None, .. }) => {
                Self::Get { key: key.into_vec(), is_for_update: false }
            }
            LineCommand::Other(Command::Put { key, value }) => {
                Self::Put { key: key.into_vec(), value: value.into_vec() }
            }
            LineCommand::Other(Command::Delete { key }) => Self::Delete { key: key.into_vec() },
            LineCommand::Other(Command::Cas(cas)) => Self::Cas(cas.parse().ok_or(CAS_FORMS)?),
            LineCommand::Begin | LineCommand::Commit | LineCommand::Rollback => {
                return Err("begin, commit and rollback have no place here".to_owned());
            }
            LineCommand::Other(Command::Scan(ScanArgs { at: Some(_), .. })) => {
                return Err(
                    "a transaction reads what is, not what was: scan takes no --at in it".into()
                );
            }
            LineCommand::Other(Command::Scan(args)) => {
                Self::Scan { range: scan::range(&args), limit: args.limit.unwrap_or(u64::MAX) }
            }
            LineCommand::Other(
                Command::Cluster { .. }
                | Command::Txn(_)
                | Command::Batch(_)
                | Command::Outcome { .. },
            ) => {
                return Err(
                    "a transaction takes get, get-for-update, scan, put, delete and cas".into()
                );
            }
        };
        step.check_size()?;
        Ok(step)
    }

    /// The key that it is about; of a scan the first one.
    fn key(&self) -> &[u8] {
        match self {
            Self::Get { key, .. } | Self::Put { key, .. } | Self::Delete { key } => key,
            Self::Cas(cas) => &cas.key,
            Self::Scan { range, .. } => &range.start.bytes,
        }
    }

    fn check_size(&self) -> Result<(), String> {
        let value_bytes = match self {
            Self::Put { value, .. } => value.len(),
            Self::Cas(cas) => cas.value.len(),
            Self::Get { .. } | Self::Delete { .. } | Self::Scan { .. } => 0,
        };
        let end_bytes = match self {
            Self::Scan { range, .. } => range.end.as_ref().map_or(0, |end| end.bytes.len()),
            Self::Get { .. } | Self::Put { .. } | Self::Delete { .. } | Self::Cas(_) => 0,
        };
        check_sizes(self.key().len().max(end_bytes), value_bytes)
    }

    fn run(&self, txn: &mut Transaction) -> Result<Answer, ClientError> {
        match self {
            Self::Get { key, is_for_update: false } => txn.get(key.clone()).map(Answer::Found),
            Self::Get { key, is_for_update: true } => {
                txn.get_for_update(key.clone()).map(Answer::Found)
            }
            Self::Put { key, value } => {
                txn.put(key.clone(), value.clone()).map(|()| Answer::Buffered)
            }
            Self::Delete { key } => txn.delete(key.clone()).map(|()| Answer::Buffered),
            Self::Cas(Cas { key, expect, value }) => {
                txn.cas(key.clone(), expect.clone(), value.clone()).map(Answer::Cas)
            }
            Self::Scan { range, limit } => rows(txn, range, *limit).map(Answer::Rows),
        }
    }

    fn print(
        &self,
        answer: &Answer,
        session: &Session,
        out: &mut dyn Write,
    ) -> Result<ExitCode, Failure> {
        match answer {
            Answer::Found(found) => session.print_found(self.key(), found.as_ref(), out),
            Answer::Cas(result) => session.print_cas(self.key(), *result, out),
            Answer::Rows(rows) => {
                rows.iter().try_for_each(|row| scan::print_row(row, session.format, out))?;
                Ok(ExitCode::Done)
            }
            Answer::Buffered => {
                match session.format {
                    Format::Text => writeln!(out, "ok")?,
                    Format::Json => {
                        let answer = json!({ "key": output::bytes(self.key()), "buffered": true });
                        writeln!(out, "{answer}")?;
                    }
                }
                Ok(ExitCode::Done)
            }
        }
    }
}

/// The first rows of a range.
fn rows(txn: &mut Transaction, range: &KeyRange, limit: u64) -> Result<Vec<Row>, ClientError> {
    let (mut range, mut rows) = (range.clone(), vec![]);
    while (rows.len() as u64) < limit {
        let left = u32::try_from(limit - rows.len() as u64).unwrap_or(u32::MAX);
        let limit = PageLimit { rows: left.min(PAGE_ROWS_MAX), bytes: PAGE_BYTES_MAX };
        let page = txn.page(range.clone(), limit)?;
        rows.extend(page.rows);
        match page.next {
            Some(next) => range.start = next,
            None => break,
        }
    }
    Ok(rows)
}

/// Runs one step at the prompt.
pub(crate) fn run_step(
    session: &Session,
    txn: &mut Transaction,
    step: &Step,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let answer = step.run(txn)?;
    step.print(&answer, session, out)
}

/// Tells of a commit. `version` is that of what was written.
pub(crate) fn print_committed(
    session: &Session,
    version: Option<Timestamp>,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match (session.format, version) {
        (Format::Text, Some(version)) => writeln!(out, "committed, version {version}")?,
        (Format::Text, None) => writeln!(out, "committed")?,
        (Format::Json, version) => {
            let answer = json!({ "committed": true, "version": version.map(text_of) });
            writeln!(out, "{answer}")?;
        }
    }
    Ok(ExitCode::Done)
}

/// `kv outcome`: how a transaction ended.
pub(crate) fn print_outcome(
    session: &Session,
    id: &OutcomeId,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match session.client.outcome(id)? {
        TxnOutcome::Committed { commit_ts } => print_committed(session, Some(commit_ts), out),
        TxnOutcome::Aborted => {
            match session.format {
                Format::Text => writeln!(out, "aborted")?,
                Format::Json => writeln!(out, "{}", json!({ "committed": false }))?,
            }
            Ok(ExitCode::Aborted)
        }
    }
}

/// Tells that a transaction is where `word` says.
pub(crate) fn print_word(
    session: &Session,
    word: &str,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match session.format {
        Format::Text => writeln!(out, "{}", word.replace('_', " "))?,
        Format::Json => writeln!(out, "{}", json!({ word: true }))?,
    }
    Ok(ExitCode::Done)
}

/// `kv txn --file`: all steps of the file, then the commit.
pub(crate) fn run_file(
    session: &Session,
    args: &TxnArgs,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let steps = read(&args.file).map_err(Failure::Usage)?;
    let mut refusal = None;
    let body = |txn: &mut Transaction| {
        let mut answers = vec![];
        for (line, step) in &steps {
            let answer = step.run(txn)?;
            if let Answer::Cas(CasResult { applied: false, version }) = answer {
                refusal = Some(not_applied(*line, version));
                // Any error that is no abort ends the transaction without a commit.
                let call = CallError::NoTransaction;
                return Err(ClientError::Call { call, connections: vec![] });
            }
            answers.push(answer);
        }
        Ok(answers)
    };
    let retries = args.retries.unwrap_or(u32::MAX);
    let (answers, version) = match session.client.transact_with_retries(retries, body) {
        Ok(committed) => committed,
        Err(error) => return Err(refusal.unwrap_or(Failure::Client(error))),
    };
    for ((_, step), answer) in steps.iter().zip(&answers) {
        step.print(answer, session, out)?;
    }
    print_committed(session, version, out)
}

fn not_applied(line: usize, version: Option<Timestamp>) -> Failure {
    let why = match version {
        Some(Timestamp(0)) => "the transaction itself has written the key".to_owned(),
        Some(version) => format!("the key is at version {version}"),
        None => "the key does not exist".to_owned(),
    };
    Failure::RolledBack(format!("line {line}: cas not applied: {why}"))
}

/// The steps of a file, each with the number of its line.
fn read(path: &Path) -> Result<Vec<(usize, Step)>, String> {
    parse(&read_bytes(path)?)
}

/// What a file holds; `-` is standard input.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let mut bytes = vec![];
    let source: io::Result<Box<dyn Read>> = if path.as_os_str() == "-" {
        Ok(Box::new(io::stdin().lock()))
    } else {
        File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
    };
    let limit = FILE_BYTES_MAX + 1;
    source
        .and_then(|source| source.take(limit).read_to_end(&mut bytes))
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown} has more than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// What is larger than the store takes is refused with its line, before anything is asked.
pub(crate) fn check_sizes(key_bytes: usize, value_bytes: usize) -> Result<(), String> {
    let sizes = [("key", key_bytes, KEY_BYTES_MAX), ("value", value_bytes, VALUE_BYTES_MAX)];
    match sizes.into_iter().find(|(_, bytes, bytes_max)| bytes > bytes_max) {
        Some((what, bytes, bytes_max)) => {
            Err(format!("{bytes} bytes of {what} exceed the limit of {bytes_max}"))
        }
        None => Ok(()),
    }
}

/// Empty lines, and those that begin with `#`, are no steps.
fn parse(bytes: &[u8]) -> Result<Vec<(usize, Step)>, String> {
    let mut steps = vec![];
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let step = parse_line(text).map_err(|error| format!("line {line}: {error}"))?;
        steps.extend(step.map(|step| (line, step)));
        if steps.len() > OPERATIONS_MAX {
            return Err(format!("line {line}: more than {OPERATIONS_MAX} operations"));
        }
    }
    Ok(steps)
}

fn parse_line(text: &[u8]) -> Result<Option<Step>, String> {
    let text = str::from_utf8(text).map_err(|_| "not UTF-8")?.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let line = Line::try_parse_from(repl::split(text)?).map_err(|error| {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    })?;
    Step::new(line.command).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_step_per_line_and_may_have_remarks() {
        let steps = parse(b"# from one to the other\n\nget a\n get-for-update 'b c'\nput d -1\n");
        let get = |key: &str, is_for_update| Step::Get { key: key.into(), is_for_update };
        let put = Step::Put { key: "d".into(), value: "-1".into() };
        let expected = vec![(3, get("a", false)), (4, get("b c", true)), (5, put)];
        assert_eq!(steps, Ok(expected));
    }

    #[track_caller]
    fn check_wrong(file: &[u8], expected: &str) {
        let error = parse(file).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_wrong_line_is_named() {
        check_wrong(b"get a\nfetch b\n", "line 2: unrecognized subcommand 'fetch'");
        check_wrong(b"put a\n", "line 1: the following required arguments");
        check_wrong(b"get a\nget 'b\n", "line 2: a quote is not closed");
        check_wrong(b"cas a b\n", "line 1: cas takes");
        check_wrong(b"\n\nget \xff\n", "line 3: not UTF-8");
        check_wrong(b"put a b\ncommit\n", "line 2: begin, commit and rollback");
        check_wrong(b"cluster status\n", "line 1: a transaction takes");
        check_wrong(b"scan --at 7\n", "line 1: a transaction reads what is");
        check_wrong(b"scan a\n", "line 1: unexpected argument");
        check_wrong(b"get --at 7 a\n", "line 1: a transaction reads what is");
        let long = [b"get a\nput ", "k".repeat(KEY_BYTES_MAX + 1).as_bytes(), b" v"].concat();
        check_wrong(&long, "line 2: 8193 bytes of key exceed");
        let long = [b"scan --to ", "k".repeat(KEY_BYTES_MAX + 1).as_bytes()].concat();
        check_wrong(&long, "line 1: 8193 bytes of key exceed");
        let many = b"get a\n".repeat(OPERATIONS_MAX + 1);
        check_wrong(&many, "line 10001: more than 10000 operations");
    }
}
