//! The command line.

use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use clap::{Args, Parser, Subcommand};

use crate::Exit;
use crate::protocol::{Mutant, Protocol};
use crate::runner::{Job, Loaded, RunError};
use crate::scenario::{LoadError, Scenario, load};
use crate::sweep::Sweep;
use crate::zoo;

/// Seeds are below this, so that every JSON reader can hold them.
const SEED_LIMIT: u64 = 1 << 53;
/// Seeds in which a mutant must be found.
const ZOO_SEEDS: Range<u64> = 0..200;

/// Runs the distributed store in simulation: the same seed and scenario always do the same.
#[derive(Debug, Parser)]
#[command(
    name = "kv-sim",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(
    after_help = "Exit codes: 0 all checks hold, 1 violated, 2 usage or scenario, 3 I/O, 4 the run proves nothing"
)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The scenario to run.
    #[arg(value_name = "SCENARIO.toml", required = true)]
    scenario: Option<PathBuf>,
    /// The seed, 0 to 2^53-1; drawn and printed first if left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..SEED_LIMIT))]
    seed: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write one line for each event.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the history of the clients' operations.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Switch a built-in defect on (needs the feature `mutants`).
    #[arg(long, value_name = "ID")]
    mutant: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many seeds, spread evenly over the scenarios: seed s runs scenario s mod count.
    Sweep {
        /// The seeds, without the last: 0..100.
        #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
        seeds: Range<u64>,
        /// The scenarios.
        #[arg(value_name = "SCENARIO.toml", required = true)]
        scenarios: Vec<PathBuf>,
        /// Runs at a time; as many as there are processors if left out.
        #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
        jobs: Option<u16>,
        /// Print one JSON object for each run.
        #[arg(long)]
        json: bool,
        /// Fail if the first write after a heal takes longer than promised, at the 99th percentile
        /// over the seeds of a scenario.
        #[arg(long)]
        check_heals: bool,
    },
    /// Checks that every built-in defect is found (needs the feature `mutants`).
    Zoo {
        /// Only this one.
        #[arg(long, value_name = "ID")]
        only: Option<String>,
        /// The seeds, without the last; 0..200 if left out.
        #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
        seeds: Option<Range<u64>>,
    },
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let seed = |text: &str| text.parse::<u64>().ok().filter(|seed| *seed <= SEED_LIMIT);
    let range = text.split_once("..").and_then(|(start, end)| Some(seed(start)?..seed(end)?));
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "expected A..B with A below B, B not included".into())
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Scenario(#[from] LoadError),
    #[error("{}", lines(.0))]
    Scenarios(Vec<LoadError>),
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_)
            | Self::Scenario(LoadError::Missing { .. } | LoadError::Wrong { .. }) => Exit::Usage,
            Self::Scenario(LoadError::Unreadable { .. }) | Self::Output(_) => Exit::Io,
            Self::Scenarios(errors)
                if errors.iter().all(|error| matches!(error, LoadError::Unreadable { .. })) =>
            {
                Exit::Io
            }
            Self::Scenarios(_) => Exit::Usage,
            Self::Run(error) => error.exit(),
        }
    }
}

fn lines(errors: &[LoadError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Carries out a command line, its first word being the program's name, and says how to exit.
pub fn run<P: Protocol>(
    protocol: &P,
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors.
            let stream: &mut dyn Write = if error.use_stderr() { err } else { out };
            let _ = write!(stream, "{error}");
            return if error.use_stderr() { Exit::Usage } else { Exit::Holds };
        }
    };
    let result = match cli.command {
        None => run_one(protocol, cli.run, out, err),
        Some(Command::Sweep { seeds, scenarios, jobs, json, check_heals }) => {
            let slots = jobs.map_or_else(processors, usize::from);
            let sweep = Sweep { scenarios: &[], seeds, slots, json, check_heals };
            run_sweep(protocol, &scenarios, sweep, out)
        }
        Some(Command::Zoo { only, seeds }) => {
            run_zoo(protocol, only.as_deref(), &seeds.unwrap_or(ZOO_SEEDS), out)
        }
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(err, "error: {error}");
        error.exit()
    })
}

fn run_one<P: Protocol>(
    protocol: &P,
    arguments: RunArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Exit, CliError> {
    let Some(path) = arguments.scenario else {
        return Err(CliError::Usage("no scenario given".into()));
    };
    let loaded = load_one(&path)?;
    if let Some(id) = &arguments.mutant {
        let rest =
            format!("--seed {} {} --mutant {id}", arguments.seed.unwrap_or(0), path.display());
        find_mutant(protocol, id, &rest)?;
    }
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => {
            let seed = RandomState::new().hash_one(std::process::id()) % SEED_LIMIT;
            // The seed must be known even if the run never ends; with --json it must not mix with
            // the object.
            let stream: &mut dyn Write = if arguments.json { err } else { out };
            writeln!(stream, "seed        {seed}")?;
            stream.flush()?;
            seed
        }
    };
    let job = Job {
        trace: arguments.trace.as_deref(),
        history: arguments.history.as_deref(),
        ..Job::new(&loaded, seed, arguments.mutant.as_deref())
    };
    let report = job.run(protocol)?;
    if arguments.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        let next = format!("cargo run -p kv-sim -- sweep --seeds 0..100 {}", path.display());
        write!(out, "{}", report.to_text(&world(&loaded.scenario), &next))?;
    }
    Ok(report.verdict.exit())
}

fn world(scenario: &Scenario) -> String {
    let servers = scenario.cluster.nodes + scenario.cluster.spares;
    format!("{servers} servers, {} clients", scenario.workload.clients)
}

fn load_one(path: &Path) -> Result<Loaded, LoadError> {
    Ok(Loaded { path: path.into(), scenario: load(path)? })
}

/// Does a sweep over the scenarios in these files.
fn run_sweep<P: Protocol>(
    protocol: &P,
    paths: &[PathBuf],
    sweep: Sweep<'_>,
    out: &mut dyn Write,
) -> Result<Exit, CliError> {
    let (scenarios, errors): (Vec<_>, Vec<_>) =
        paths.iter().map(|path| load_one(path)).partition(Result::is_ok);
    if !errors.is_empty() {
        return Err(CliError::Scenarios(errors.into_iter().filter_map(Result::err).collect()));
    }
    let scenarios: Vec<Loaded> = scenarios.into_iter().flatten().collect();
    Ok(Sweep { scenarios: &scenarios, ..sweep }.run(protocol, out)??)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn run_zoo<P: Protocol>(
    protocol: &P,
    only: Option<&str>,
    seeds: &Range<u64>,
    out: &mut dyn Write,
) -> Result<Exit, CliError> {
    let mutants = match only {
        Some(id) => vec![find_mutant(protocol, id, &format!("zoo --only {id}"))?],
        None => {
            need_mutants(protocol, "zoo")?;
            protocol.mutants().to_vec()
        }
    };
    let mutants =
        mutants.into_iter().map(|mutant| Ok((mutant, load_one(&in_repository(mutant.scenario))?)));
    let mutants = mutants.collect::<Result<Vec<_>, LoadError>>()?;
    Ok(zoo::run(protocol, &mutants, seeds, processors(), out)??)
}

/// The path itself from the top of the repository, else the path below the repository that this was
/// built from.
fn in_repository(path: &str) -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(path);
    if Path::new(path).exists() { path.into() } else { built_from }
}

fn need_mutants<P: Protocol>(protocol: &P, rest: &str) -> Result<(), CliError> {
    if protocol.mutants().is_empty() {
        let command = format!("cargo run -p kv-sim --features mutants -- {rest}");
        return Err(CliError::Usage(format!("this build has no mutants; type\n    {command}")));
    }
    Ok(())
}

fn find_mutant<P: Protocol>(protocol: &P, id: &str, rest: &str) -> Result<Mutant, CliError> {
    need_mutants(protocol, rest)?;
    let known = protocol.mutants();
    known.iter().find(|mutant| mutant.id == id).copied().ok_or_else(|| {
        let ids: Vec<&str> = known.iter().map(|mutant| mutant.id).collect();
        CliError::Usage(format!("there is no mutant {id}; there are {}", ids.join(", ")))
    })
}
