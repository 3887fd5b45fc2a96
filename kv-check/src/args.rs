//! What the program is told, and what it answers with.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kv_check::transactions::Level;
use kv_check::{BUDGET_STEPS_DEFAULT, Finding, Format, Options, Stop, Verdict, Workload};

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

impl Exit {
    /// What a finding ends the program with. A checker that has a defect says so, whatever else it
    /// found.
    pub(crate) fn of(finding: &Finding) -> Self {
        match finding.verdict() {
            _ if !finding.flaws().is_empty() => Self::Internal,
            Verdict::Holds => Self::Holds,
            Verdict::Violated => Self::Violated,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    //! What would go wrong: a checker that is wrong ends like one that is right.

    use super::*;
    use kv_check::History;
    use kv_check::Model;
    use kv_check::transactions::{TxnHistory, check_transactions};

    const EXITS: [(Verdict, Exit); 3] = [
        (Verdict::Holds, Exit::Holds),
        (Verdict::Violated, Exit::Violated),
        (Verdict::Unknown, Exit::Unknown),
    ];

    /// Each kind of finding that has flaws, with this verdict and these flaws.
    fn findings(verdict: Verdict, flaws: &[String]) -> [Finding; 3] {
        let mut keys = kv_check::check(&History::new(Model::Kv));
        (keys.verdict, keys.flaws) = (verdict, flaws.to_vec());
        let queue = Format::Violin.read("[1] call dequeue\n[1] return empty\n");
        let queue = queue.expect("a history").check(&Options::default());
        let Finding::Objects(mut objects) = queue else { panic!("a queue is an object") };
        (objects.verdict, objects.flaws) = (verdict, flaws.to_vec());
        let mut transactions = check_transactions(&TxnHistory::new(), &Options::default());
        (transactions.verdict, transactions.flaws) = (verdict, flaws.to_vec());
        let transactions = Finding::Transactions(Box::new(transactions));
        [Finding::Keys(Box::new(keys)), Finding::Objects(objects), transactions]
    }

    #[test]
    fn a_defect_of_the_checker_has_an_exit_code_of_its_own() {
        for (verdict, exit) in EXITS {
            for finding in findings(verdict, &[]) {
                assert_eq!(Exit::of(&finding), exit, "{finding}");
                assert!(!finding.to_string().contains("ERROR"), "{finding}");
            }
            for finding in findings(verdict, &["the order of x".to_owned()]) {
                assert_eq!(Exit::of(&finding) as u8, 5, "{finding}");
                let told = "INTERNAL ERROR of the checker, please report it: the order of x\n";
                assert!(finding.to_string().contains(told), "{finding}");
            }
        }
        assert_eq!(ExitCode::from(Exit::Internal), ExitCode::from(5));
    }
}
