//! The history checker: how long a verdict takes, on one core.
//!
//! The histories are made here, by a store that works, from a fixed seed; with `--manifest` also
//! those of a table of files that says how long Porcupine took for each. Reading is measured apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use kv_check::{
    EventKind, Expect, Format, History, MicroOp, Model, Observed, Options, Process, Verdict,
    check_with, write_to,
};

use crate::stats::{grouped, median, mix, with_spread};

/// Files that took Porcupine less are over before a clock can tell.
const PORCUPINE_MIN_US: f64 = 1_000.0;

/// A measurement of less time is repeated until it takes this long, and divided.
const ROUND_MIN_SECONDS: f64 = 0.005;

#[derive(clap::Args)]
pub struct Args {
    /// How often everything is measured; the tables show the median of all rounds.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Operations of the largest history.
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// A table of histories with the columns path, format, expected_verdict, porcupine_best_us and
    /// porcupine_median_us, as comma-separated values.
    #[arg(long)]
    manifest: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    println!("## Histories made here\n");
    println!("| history | operations | verdict | ms |\n|---|---|---|---|");
    let many = args.operations;
    let unique = |clients, keys, operations| Shape { clients, keys, operations, values: 0 };
    let few = |clients, operations| Shape { clients, keys: 1, operations, values: 5 };
    let shapes = [
        ("one register, unique values, 10 clients", unique(10, 1, many)),
        ("100 registers, unique values, 10 clients", unique(10, 100, many)),
        ("one register, unique values, 50 clients", unique(50, 1, 10_000)),
        ("one register with cas, 5 values, 5 clients", few(5, 10_000)),
        ("one register with cas, 5 values, 20 clients", few(20, 1_000)),
    ];
    for (name, shape) in &shapes {
        let history = read_back(&shape.record())?;
        let (verdict, times) = checks(args.rounds, || check_with(&history, &options()).verdict);
        let operations = grouped(shape.operations as f64, 0);
        println!("| {name} | {operations} | {verdict} | {} |", with_spread(&times, 2));
    }
    reading(args, &shapes[0].1.record())?;
    args.manifest.as_deref().map_or(Ok(()), |manifest| beside_porcupine(manifest, args.rounds))
}

/// The history as it is in memory once it was read.
fn read_back(history: &History) -> anyhow::Result<History> {
    let mut text = Vec::new();
    write_to(history, &mut text)?;
    Ok(History::read(&text[..])?)
}

fn options() -> Options {
    Options::default()
}

/// The answer, and the milliseconds of each round.
fn checks<T>(rounds: usize, mut check: impl FnMut() -> T) -> (T, Vec<f64>) {
    let start = Instant::now();
    let answer = check();
    let repeats = (ROUND_MIN_SECONDS / start.elapsed().as_secs_f64()).ceil().max(1.0) as u32;
    let round = |_| {
        let start = Instant::now();
        for _ in 0..repeats {
            std::hint::black_box(check());
        }
        start.elapsed().as_secs_f64() * 1e3 / f64::from(repeats)
    };
    (answer, (0..rounds).map(round).collect())
}

fn reading(args: &Args, history: &History) -> anyhow::Result<()> {
    let mut text = Vec::new();
    write_to(history, &mut text)?;
    let text = String::from_utf8(text)?;
    let (events, times) =
        checks(args.rounds, || History::parse(&text).map(|history| history.events.len()));
    let speeds: Vec<f64> = times.iter().map(|ms| text.len() as f64 / 1e3 / ms).collect();
    println!("\n## Reading JSON lines\n\n| events | MB | MB/s |\n|---|---|---|");
    let (events, megabytes) = (grouped(events? as f64, 0), grouped(text.len() as f64 / 1e6, 0));
    println!("| {events} | {megabytes} | {} |", with_spread(&speeds, 0));
    Ok(())
}

/// What is recorded.
struct Shape {
    clients: u64,
    keys: u64,
    operations: u64,
    /// How many different values there are, with cas among the operations; if 0, every write has a
    /// value of its own and there is no cas.
    values: u64,
}

impl Shape {
    /// Lets clients act in random turns on a store that does everything at once.
    fn record(&self) -> History {
        let mut history = History::new(Model::Kv);
        let mut store: Vec<Observed> = vec![Observed::Absent; self.keys as usize];
        let mut clients: Vec<Option<(usize, MicroOp, bool)>> = vec![None; self.clients as usize];
        let (mut seed, mut begun, mut open) = (1, 0, 0_u32);
        while begun < self.operations || open > 0 {
            seed = mix(seed);
            let client = seed % self.clients;
            let process = Process::Client(client);
            let time = history.events.len() as u64 * 1_000;
            let slot = &mut clients[client as usize];
            *slot = match slot.take() {
                None if begun == self.operations => None,
                None => {
                    let (key, request) = self.request(begun, mix(seed));
                    (begun, open) = (begun + 1, open + 1);
                    history.push(time, process, EventKind::Invoke, vec![request.clone()]);
                    Some((key, request, false))
                }
                Some((key, mut op, false)) => {
                    apply(&mut store[key], &mut op);
                    Some((key, op, true))
                }
                Some((_, op, true)) => {
                    open -= 1;
                    history.push(time, process, EventKind::Ok, vec![op]);
                    None
                }
            };
        }
        history
    }

    fn request(&self, number: u64, random: u64) -> (usize, MicroOp) {
        let key = random % self.keys;
        let name = format!("key{key}");
        let value = |random: u64| match self.values {
            0 => format!("value{number}"),
            values => (random % values).to_string(),
        };
        let op = match random >> 32 & 3 {
            0 | 1 => MicroOp::get(&name),
            2 if self.values > 0 => {
                MicroOp::cas(&name, Expect::Value(value(random >> 40)), &value(random >> 48))
            }
            _ => MicroOp::put(&name, &value(random >> 40)),
        };
        (key as usize, op)
    }
}

fn apply(held: &mut Observed, op: &mut MicroOp) {
    match op {
        MicroOp::Get { value, .. } => *value = held.clone(),
        MicroOp::Put { value, .. } => *held = Observed::Value(value.clone()),
        MicroOp::Cas { expect: Expect::Value(old), value, applied, .. } => {
            let is_met = matches!(held, Observed::Value(held) if held == old);
            *applied = Some(is_met);
            if is_met {
                *held = Observed::Value(value.clone());
            }
        }
        MicroOp::Cas { .. } | MicroOp::Delete { .. } => {}
    }
}

/// A row of the manifest with times.
struct Row<'a> {
    path: &'a str,
    best_us: f64,
    median_us: f64,
}

impl<'a> Row<'a> {
    /// A row that counts; others have no times, or too short ones, or no verdict.
    fn of(line: &'a str) -> Option<Self> {
        // A line with quotes is of a file that Porcupine was not asked about.
        let [path, _, format, _, verdict, best, median, _] =
            line.split(',').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let (best_us, median_us) = (best.parse().ok()?, median.parse().ok()?);
        let counts = matches!(verdict, "linearizable" | "NOT linearizable")
            && format != "violin atomic-stack"
            && median_us > PORCUPINE_MIN_US;
        counts.then_some(Self { path, best_us, median_us })
    }
}

fn beside_porcupine(manifest: &Path, rounds: usize) -> anyhow::Result<()> {
    let table = fs::read_to_string(manifest).context("cannot read the manifest")?;
    let folder = manifest.parent().unwrap_or_else(|| Path::new(""));
    println!("\n## Beside Porcupine\n");
    println!(
        "| file | verdict | best, us | median, us | Porcupine: best | median | times faster |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut ratios = Vec::new();
    for row in table.lines().filter_map(Row::of) {
        let text = fs::read_to_string(folder.join(row.path)).context(row.path.to_owned())?;
        let recording = Format::detect(&text).read(&text).context(row.path.to_owned())?;
        let (verdict, times) = checks(rounds, || recording.check(&options()).verdict());
        let best = times.iter().copied().fold(f64::INFINITY, f64::min) * 1e3;
        let middle = median(&times) * 1e3;
        // Nothing is gained by giving up.
        let is_decided = verdict != Verdict::Unknown;
        let ratio = if is_decided { row.median_us / middle } else { 0.0 };
        ratios.push(ratio);
        let name = row.path.rsplit('/').next().unwrap_or(row.path);
        println!(
            "| {name} | {verdict} | {} | {} | {} | {} | {} |",
            grouped(best, 1),
            grouped(middle, 1),
            grouped(row.best_us, 1),
            grouped(row.median_us, 1),
            grouped(ratio, 1),
        );
    }
    let logs: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    let mean = (logs / ratios.len() as f64).exp();
    let worst = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let count = ratios.len();
    println!("\n{count} files: {} times faster in the geometric mean,", grouped(mean, 1));
    println!("{} times in the worst case.", grouped(worst, 1));
    Ok(())
}
