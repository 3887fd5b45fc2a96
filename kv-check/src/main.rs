//! `kv-check`: reads a history, prints whether it is linearizable.
//!
//! Standard output carries the report and nothing else; errors go to standard error.
//! The exit code is the verdict, see [`Exit`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use kv_check::{BUDGET_STEPS_DEFAULT, History, Options, ReadError, Report, Verdict, check_with};

/// Checks whether a recorded history of key-value operations is linearizable.
///
/// Exit codes: 0 it is; 1 it is not; 2 usage, or the history does not parse; 3 the history cannot
/// be read or the report not be written; 4 unknown, the step budget is spent.
#[derive(Debug, Parser)]
#[command(name = "kv-check", version)]
struct Arguments {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Search steps per key beyond one for each operation, before giving up.
    #[arg(long, value_name = "STEPS", default_value_t = BUDGET_STEPS_DEFAULT)]
    budget_steps: u64,
    /// File with the history as JSON lines, or - for standard input.
    history: PathBuf,
}

/// All exit codes of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// The history is linearizable.
    Holds = 0,
    /// The history is not linearizable.
    Violated = 1,
    /// The arguments or the history make no sense; also what the argument parser exits with.
    Usage = 2,
    /// A file or a stream failed.
    Io = 3,
    /// The step budget is spent.
    Unknown = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn main() -> ExitCode {
    let exit = run(&Arguments::parse()).unwrap_or_else(|error| {
        // Nobody is left to tell if standard error is closed as well.
        let _ = writeln!(io::stderr(), "kv-check: {error:#}");
        match error.downcast_ref::<ReadError>() {
            Some(ReadError::Parse(_)) => Exit::Usage,
            Some(ReadError::Io(_)) | None => Exit::Io,
        }
    });
    exit.into()
}

fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let history = read(&arguments.history)?;
    let options = Options { budget_steps: Some(arguments.budget_steps) };
    let report = check_with(&history, &options);
    print(&report, arguments.json).context("cannot write the report")?;
    Ok(match report.verdict {
        Verdict::Holds => Exit::Holds,
        Verdict::Violated => Exit::Violated,
        Verdict::Unknown => Exit::Unknown,
    })
}

fn read(path: &Path) -> anyhow::Result<History> {
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Box::new(BufReader::new(file))
    };
    History::read(input).with_context(|| path.display().to_string())
}

/// Prints the report; a reader that went away early has seen what it wanted.
fn print(report: &Report, is_json: bool) -> io::Result<()> {
    let text = if is_json { serde_json::to_string(report)? + "\n" } else { report.to_string() };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
