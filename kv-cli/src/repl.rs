//! The prompt.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Parser as _;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::Line;
use crate::commands::Session;
use crate::exit::ExitCode;

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
    loop {
        match editor.readline("kv> ") {
            Ok(line) => match run_line(session, &line) {
                Some(code) => last = code,
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
    if is_interactive { ExitCode::Done } else { last }
}

/// Runs one line; none if it asks for the end.
fn run_line(session: &Session, line: &str) -> Option<ExitCode> {
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
        Ok(line) => Some(session.execute(line.command)),
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; neither matters if it is
            // closed.
            let _ = error.print();
            Some(if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done })
        }
    }
}

fn complain(message: &str) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(io::stderr(), "kv: {message}");
}

/// Splits a line into words at white space. Quotes of either kind keep it, a backslash takes the
/// next character as it is, also within double quotes.
fn split(line: &str) -> Result<Vec<String>, &'static str> {
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
