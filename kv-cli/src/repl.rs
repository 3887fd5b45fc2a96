//! The prompt.
//!
//! Between `begin` and `commit` or `rollback` is a *block*: its commands are steps of a transaction.
//! If one fails the transaction is over, but the block is not: what follows in it is refused, so that
//! no line that was meant for the transaction runs by itself. A person who mistypes a line may type it
//! again; in a script it ends the transaction.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Parser as _;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use kv_client::blocking::Transaction;

use crate::args::{Line, LineCommand};
use crate::commands::Session;
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::txn::{self, Step};

/// Whether the prompt is in a transaction.
enum Block {
    /// It is in none.
    None,
    /// It is in this one.
    Open(Transaction),
    /// It is in one that has failed.
    Failed,
}

/// Reads and runs commands until the input ends or `exit`. With a person at the keyboard it then
/// ends well; a script that is piped in gets the exit code of its last command.
pub(crate) fn run(session: &Session) -> ExitCode {
    let mut editor = match DefaultEditor::new() {
        Ok(editor) => editor,
        Err(error) => {
            complain(&format!("the prompt cannot be shown: {error}"));
            return ExitCode::Usage;
        }
    };
    let is_interactive = io::stdin().is_terminal();
    let mut last = ExitCode::Done;
    let mut block = Block::None;
    loop {
        let prompt = if matches!(block, Block::None) { "kv> " } else { "kv (transaction)> " };
        match editor.readline(prompt) {
            Ok(line) => match run_line(session, &mut block, &line) {
                Some(code) => {
                    last = code;
                    if code == ExitCode::Usage && !is_interactive {
                        give_up(&mut block);
                    }
                }
                None => break,
            },
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => {
                complain(&format!("the input cannot be read: {error}"));
                return ExitCode::Usage;
            }
        }
    }
    if let Block::Open(txn) = block {
        // If that fails, its locks fall by themselves a little later.
        let _ = txn.rollback();
        complain("the transaction was not committed: it is rolled back, and nothing was changed");
        last = ExitCode::Usage;
    }
    if is_interactive { ExitCode::Done } else { last }
}

/// A line of a script could not be taken: what is left of its transaction is not to take effect.
fn give_up(block: &mut Block) {
    if let Block::Open(_) = block
        && let Block::Open(txn) = std::mem::replace(block, Block::Failed)
    {
        // If that fails, its locks fall by themselves a little later.
        let _ = txn.rollback();
        complain("the transaction is rolled back, and nothing was changed");
    }
}

/// Runs one line; none if it asks for the end.
fn run_line(session: &Session, block: &mut Block, line: &str) -> Option<ExitCode> {
    let words = match split(line) {
        Ok(words) => words,
        Err(message) => {
            complain(message);
            return Some(ExitCode::Usage);
        }
    };
    match words.first().map(String::as_str) {
        None => return Some(ExitCode::Done),
        Some("exit" | "quit") => return None,
        Some(_) => {}
    }
    match Line::try_parse_from(words) {
        Ok(line) => Some(execute(session, block, line.command)),
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; neither matters if it is
            // closed.
            let _ = error.print();
            Some(if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done })
        }
    }
}

fn execute(session: &Session, block: &mut Block, command: LineCommand) -> ExitCode {
    match (command, &mut *block) {
        (LineCommand::Other(command), Block::None) => session.execute(command),
        (LineCommand::Begin, Block::None) => {
            // What follows is in the block, even if the transaction could not be begun.
            *block = Block::Failed;
            session.answer("txn", |out| {
                *block = Block::Open(session.client.begin()?);
                txn::print_word(session, "begun", out)
            })
        }
        (_, Block::None) => refuse(session, "there is no transaction; begin starts one"),
        (LineCommand::Begin, _) => refuse(session, "there is a transaction already"),
        (LineCommand::Commit, _) => end(session, block, true),
        (LineCommand::Rollback, _) => end(session, block, false),
        (_, Block::Failed) => {
            refuse(session, "the transaction has failed and is over; leave it by rollback")
        }
        (command, Block::Open(txn)) => {
            let step = match Step::new(command) {
                Ok(step) => step,
                Err(message) => return refuse(session, &message),
            };
            let mut is_failed = false;
            let code = session.answer("txn", |out| {
                let result = txn::run_step(session, txn, &step, out);
                is_failed = result.is_err();
                result
            });
            if is_failed {
                *block = Block::Failed;
            }
            code
        }
    }
}

/// Ends a block.
fn end(session: &Session, block: &mut Block, is_commit: bool) -> ExitCode {
    match (std::mem::replace(block, Block::None), is_commit) {
        (Block::Open(txn), true) => session.answer("txn", |out| {
            let version = txn.commit()?;
            txn::print_committed(session, version, out)
        }),
        (Block::Open(txn), false) => session.answer("txn", |out| {
            txn.rollback()?;
            txn::print_word(session, "rolled_back", out)
        }),
        (Block::None | Block::Failed, true) => {
            let why = "the transaction had failed before; nothing is committed";
            session.answer("txn", |_| Err(Failure::RolledBack(why.to_owned())))
        }
        (Block::None | Block::Failed, false) => {
            session.answer("txn", |out| txn::print_word(session, "rolled_back", out))
        }
    }
}

fn refuse(session: &Session, message: &str) -> ExitCode {
    session.answer("txn", |_| Err(Failure::Usage(message.to_owned())))
}

fn complain(message: &str) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(io::stderr(), "kv: {message}");
}

/// Splits a line into words at white space. Quotes of either kind keep it, a backslash takes the
/// next character as it is, also within double quotes.
pub(crate) fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("a backslash stands at the end of the line")?;
                word.get_or_insert_default().push(next);
            }
            (_, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (_, None) if char.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        assert_eq!(split(line).unwrap(), expected, "{line}");
    }

    #[test]
    fn words_are_split_as_in_a_shell() {
        check("", &[]);
        check("  put  a b ", &["put", "a", "b"]);
        check(r#"put "a b" 'c d'"#, &["put", "a b", "c d"]);
        check(r#"put a"b"'c' ''"#, &["put", "abc", ""]);
        check(r#"a\ b "\"" '\' '"'"#, &["a b", "\"", "\\", "\""]);
        assert!(split("\"a").is_err());
        assert!(split("a\\").is_err());
    }
}
