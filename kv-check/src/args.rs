//! What the program is told, and what it answers with.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kv_check::transactions::Level;
use kv_check::{BUDGET_STEPS_DEFAULT, Format, Options, Stop, Workload};

/// Checks a recorded history: whether it is linearizable (keys with values, registers, strings, queues,
/// stacks, sets, locks), or whether its transactions keep a level of isolation.
///
/// Exit codes: 0 it holds; 1 it does not; 2 usage, or the history does not parse; 3 the history cannot
/// be read or the report not be written; 4 unknown, the budget is spent;
/// 5 the checker has a defect: an order that it found did not pass its replay.
#[derive(Debug, Parser)]
#[command(name = "kv-check", version)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    /// Something else than to check a history.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// The history's format: json-lines, porcupine-kv, jepsen-log, jepsen-edn, violin or
    /// unit-json. Default: what its first lines look like.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// What a history in EDN is of, for example cas-register, set-full or list-append; a wrong name
    /// lists all. Default: what its events look like.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<Workload>,
    /// The level of isolation that transactions are held to, from read-uncommitted to
    /// strict-serializable.
    #[arg(long, value_name = "LEVEL", default_value_t = Level::StrictSerializable)]
    pub(crate) level: Level,
    /// Search steps per key beyond one for each operation, before giving up. Default: 5,000,000, or no
    /// limit if --budget is given. What a search keeps in memory is limited as well.
    #[arg(long, value_name = "STEPS")]
    budget_steps: Option<u64>,
    /// Time that the check may take, reading apart, before giving up: 500ms, 10s, 2m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) budget: Option<Duration>,
    /// Also write a page for a browser: operations as bars, what is marked, and why.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Also write the orders that prove what holds, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) witness: Option<PathBuf>,
    /// File with the history, or - for standard input.
    #[arg(required = true)]
    pub(crate) history: Option<PathBuf>,
}

impl Arguments {
    /// The limits of the check; `stop` ends it.
    pub(crate) fn options(&self, stop: Stop) -> Options {
        let without_time = || self.budget.is_none().then_some(BUDGET_STEPS_DEFAULT);
        Options { budget_steps: self.budget_steps.or_else(without_time), stop, level: self.level }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("expected a number and ms, s or m, such as 10s".to_owned()),
    };
    let milliseconds = number.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    let milliseconds = milliseconds.ok_or("expected a number that is not that large")?;
    Ok(Duration::from_millis(milliseconds))
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checks histories whose verdicts are known, and says for each whether this checker agrees.
    ///
    /// Exit codes: 0 no row disagrees; 1 one does; 3 a file cannot be read.
    Verify {
        /// Table with the columns path, format and expected_verdict, as comma-separated values.
        manifest: PathBuf,
    },
}

/// All exit codes of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The history is linearizable.
    Holds = 0,
    /// The history is not linearizable.
    Violated = 1,
    /// The arguments or the history make no sense; also what the argument parser exits with.
    Usage = 2,
    /// A file or a stream failed.
    Io = 3,
    /// The budget of steps or of time is spent.
    Unknown = 4,
    /// The checker contradicted itself.
    Internal = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
