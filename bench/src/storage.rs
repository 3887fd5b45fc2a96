//! The storage engine beside its peers: keys of 16 bytes in random order, values of 100.
//!
//! Every engine runs in a process of its own, in an empty directory, with the same memory for
//! blocks and memtables, ten bits of bloom filter for each key, and no compression. Rounds are
//! interleaved, so that a slow hour of the machine meets all alike; the table shows medians.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::engines::{self, Engine, Key, Sizes};
use crate::machine::{self, Probe};
use crate::stats::{mix, with_spread};

const VALUE_BYTES: usize = 100;
const USER_BYTES: u64 = 16 + VALUE_BYTES as u64;
const BATCH: u64 = 64;

/// What to compare.
#[derive(clap::Args)]
pub struct Args {
    /// A tenth of the keys, and memtables of a tenth, and one round.
    #[arg(long)]
    quick: bool,
    /// Count of keys.
    #[arg(long)]
    keys: Option<u64>,
    /// How often every engine runs: 3 times by default, once if quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// Engines, separated by commas. All by default.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Where the engines put their files: on the disk that is to be measured.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One run of one engine.
#[derive(clap::Args)]
pub struct OneArgs {
    #[arg(long)]
    engine: String,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    keys: u64,
    /// Only these phases.
    #[arg(long, value_delimiter = ',')]
    phases: Vec<String>,
}

/// What is measured: name, heading, digits after the point.
const METRICS: [(&str, &str, usize); 17] = [
    ("load_synced", "load, synced (keys/s)", 0),
    ("load_amplification", "bytes written per byte, load", 2),
    ("load_pause", "longest pause, load (ms)", 1),
    ("load_unsynced", "load, unsynced (keys/s)", 0),
    ("get_hit", "get, hit (1/s)", 0),
    ("get_miss", "get, miss (1/s)", 0),
    ("scan", "scan of 100 (rows/s)", 0),
    ("overwrite", "overwrite, synced (keys/s)", 0),
    ("overwrite_amplification", "bytes written per byte, overwrite", 2),
    ("overwrite_pause", "longest pause, overwrite (ms)", 1),
    ("overwrite_p999", "p99.9 of a batch, overwrite (ms)", 2),
    ("left_out", "batches left out: slow disk", 0),
    ("space_settled", "space, settled (of the data)", 2),
    ("space_compacted", "space, compacted (of the data)", 2),
    ("memory_peak", "memory, peak (MiB)", 0),
    ("memory_read", "memory, after reads (MiB)", 0),
    ("memory_budget", "memory, budget (MiB)", 0),
];

/// Runs all engines and prints the table.
pub fn compare(args: &Args) -> Result<()> {
    let keys = args.keys.unwrap_or(if args.quick { 200_000 } else { 2_000_000 });
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1);
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_dir()?.join("target/bench-storage"),
    };
    let chosen: Vec<String> = match args.engines.is_empty() {
        true => {
            if !engines::names().contains(&"rocksdb") {
                println!("RocksDB is left out: librocksdb is not installed (librocksdb-dev).");
            }
            engines::names().into_iter().map(Into::into).collect()
        }
        false => args.engines.clone(),
    };
    let mut found: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for engine in &chosen {
            eprintln!("round {} of {}: {engine}", round + 1, rounds);
            for (metric, value) in run_child(engine, &dir, keys)? {
                found.entry((engine.clone(), metric)).or_default().push(value);
            }
        }
    }
    print_table(&chosen, &found, keys, rounds);
    Ok(())
}

fn run_child(engine: &str, dir: &Path, keys: u64) -> Result<Vec<(String, f64)>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["storage-one", "--engine", engine, "--keys", &keys.to_string(), "--dir"])
        .arg(dir.join(engine))
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{engine} failed: {}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    let parse = |line: &str| {
        let (metric, value) = line.split_once('\t').context("a metric and a value")?;
        Ok((metric.to_owned(), value.parse()?))
    };
    lines.lines().map(parse).collect()
}

fn print_table(
    engines: &[String],
    found: &BTreeMap<(String, String), Vec<f64>>,
    keys: u64,
    rounds: usize,
) {
    println!("{keys} keys of 16 bytes, values of {VALUE_BYTES}, medians of {rounds} rounds.\n");
    println!("| measured | {} |", engines.join(" | "));
    println!("| --- |{}", " ---: |".repeat(engines.len()));
    for (metric, heading, digits) in METRICS {
        let cell = |engine: &String| match found.get(&(engine.clone(), metric.to_owned())) {
            Some(values) => with_spread(values, digits),
            None => "-".to_owned(),
        };
        let cells: Vec<_> = engines.iter().map(cell).collect();
        println!("| {heading} | {} |", cells.join(" | "));
    }
}

fn key(number: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(number).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A key that is not there, beside one that is.
fn absent_key(number: u64) -> Key {
    let mut key = key(number);
    key[8] = 0xaa;
    key
}

/// The workload's state.
struct Run {
    engine: Box<dyn Engine>,
    dir: PathBuf,
    keys: u64,
    /// Incompressible bytes that values are cut from.
    pool: Vec<u8>,
    random: u64,
}

impl Run {
    fn below(&mut self, bound: u64) -> u64 {
        self.random = mix(self.random);
        ((u128::from(self.random) * u128::from(bound)) >> 64) as u64
    }

    /// Puts `count` keys in batches. Returns when each batch began and ended.
    fn put(
        &mut self,
        count: u64,
        sync: bool,
        mut number: impl FnMut(&mut Self, u64) -> u64,
    ) -> Result<Vec<(Instant, Instant)>> {
        let mut times = Vec::with_capacity((count / BATCH + 1) as usize);
        let mut done = 0;
        while done < count {
            let size = BATCH.min(count - done);
            let picks: Vec<_> = (done..done + size).map(|at| (number(self, at), at)).collect();
            let values = picks.iter().map(|(number, at)| {
                let from = mix(number ^ (at << 32)) as usize % (self.pool.len() - VALUE_BYTES);
                (key(*number), &self.pool[from..from + VALUE_BYTES])
            });
            let batch: Vec<_> = values.collect();
            let start = Instant::now();
            self.engine.put(&batch, sync)?;
            times.push((start, Instant::now()));
            done += size;
        }
        Ok(times)
    }

    fn load(&mut self, sync: bool, name: &str) -> Result<()> {
        let (written, start) = (machine::bytes_written(), Instant::now());
        let probe = sync.then(|| Probe::start(&self.dir)).transpose()?;
        let times = self.put(self.keys, sync, |_, at| at)?;
        tell(name, rate(self.keys, start));
        if let Some(probe) = probe {
            tell("load_pause", pauses(&times, &probe.stop()).longest_ms);
            self.engine.settle()?;
            let written = machine::bytes_written() - written;
            tell("load_amplification", written as f64 / (self.keys * USER_BYTES) as f64);
        }
        Ok(())
    }

    fn gets(&mut self) -> Result<()> {
        let count = self.keys / 4;
        for pass in ["get_warm", "get_hit"] {
            let start = Instant::now();
            for _ in 0..count {
                let key = key(self.below(self.keys));
                ensure!(self.engine.get(&key)? == Some(VALUE_BYTES), "a key is missing");
            }
            tell(pass, rate(count, start));
        }
        let start = Instant::now();
        for _ in 0..count {
            let key = absent_key(self.below(self.keys));
            ensure!(self.engine.get(&key)?.is_none(), "a key is there that was never written");
        }
        tell("get_miss", rate(count, start));
        Ok(())
    }

    fn scans(&mut self) -> Result<()> {
        let (start, mut rows) = (Instant::now(), 0);
        for _ in 0..self.keys / 100 {
            let from = key(self.below(self.keys));
            rows += self.engine.scan(&from, 100)? as u64;
        }
        tell("scan", rate(rows, start));
        Ok(())
    }

    fn overwrite(&mut self) -> Result<()> {
        let (written, start) = (machine::bytes_written(), Instant::now());
        let probe = Probe::start(&self.dir)?;
        let times = self.put(self.keys, true, |run, _| run.below(run.keys))?;
        tell("overwrite", rate(self.keys, start));
        let pauses = pauses(&times, &probe.stop());
        tell("overwrite_pause", pauses.longest_ms);
        tell("overwrite_p999", pauses.p999_ms);
        tell("left_out", pauses.left_out as f64);
        self.engine.settle()?;
        let written = machine::bytes_written() - written;
        tell("overwrite_amplification", written as f64 / (self.keys * USER_BYTES) as f64);
        Ok(())
    }

    /// Space that the engine takes, without its log, for each byte of the data.
    fn space(&self) -> f64 {
        let logs = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let logs = logs.filter(|entry| self.engine.is_log(&entry.file_name().to_string_lossy()));
        let log_bytes: u64 =
            logs.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum();
        let all = machine::disk_bytes(&self.dir);
        all.saturating_sub(log_bytes) as f64 / (self.keys * USER_BYTES) as f64
    }
}

/// Runs the phases of one engine and prints what was measured, a line each.
pub fn run_one(args: &OneArgs) -> Result<()> {
    let data = args.keys * USER_BYTES;
    let memtable_bytes = ((64 << 20) * args.keys / 2_000_000).max(1 << 20);
    let sizes = Sizes { cache_bytes: data / 10, memtable_bytes };
    tell("memory_budget", mib(sizes.cache_bytes + 2 * memtable_bytes));
    let wants = |phase: &str| args.phases.is_empty() || args.phases.iter().any(|p| p == phase);
    let pool: Vec<u8> = (0..1 << 17).flat_map(|at: u64| mix(at).to_le_bytes()).collect();
    let open = |dir: PathBuf| -> Result<Run> {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let engine = engines::open(&args.engine, &dir, sizes)?;
        Ok(Run { engine, dir, keys: args.keys, pool: pool.clone(), random: 12345 })
    };
    let (before, _) = machine::memory();
    let mut run = open(args.dir.clone())?;
    run.load(!args.phases.contains(&"load_unsynced".to_owned()), "load_synced")?;
    note("load", before);
    run.engine.settle()?;
    note("settled", before);
    if wants("get") {
        run.gets()?;
    }
    if wants("scan") {
        run.scans()?;
    }
    tell("memory_read", mib(machine::memory().0.saturating_sub(before)));
    eprintln!("{}", run.engine.report());
    if wants("overwrite") {
        note("reads", before);
        run.overwrite()?;
        note("overwrite", before);
        tell("space_settled", run.space());
        run.engine.compact()?;
        std::thread::sleep(Duration::from_millis(200));
        tell("space_compacted", run.space());
        tell("memory_peak", mib(machine::memory().1.saturating_sub(before)));
    }
    eprintln!("{}", run.engine.report());
    drop(run);
    fs::remove_dir_all(&args.dir)?;
    if wants("unsynced") {
        let mut run = open(args.dir.clone())?;
        run.load(false, "load_unsynced")?;
        drop(run);
        fs::remove_dir_all(&args.dir)?;
    }
    Ok(())
}

/// How long batches took.
struct Pauses {
    longest_ms: f64,
    p999_ms: f64,
    left_out: usize,
}

/// Leaves out batches at whose time the disk itself was slow.
fn pauses(times: &[(Instant, Instant)], slow: &[(Instant, Instant)]) -> Pauses {
    let is_slow = |from: Instant, to: Instant| slow.iter().any(|(a, b)| from < *b && *a < to);
    let kept: Vec<_> = times.iter().filter(|(from, to)| !is_slow(*from, *to)).collect();
    let mut took: Vec<_> = kept.iter().map(|(from, to)| *to - *from).collect();
    took.sort();
    let at = |share: f64| {
        let index = (took.len() as f64 * share) as usize;
        took.get(index.min(took.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1000.0)
    };
    Pauses { longest_ms: at(1.0), p999_ms: at(0.999), left_out: times.len() - kept.len() }
}

/// Tells what memory a phase came to.
fn note(phase: &str, before: u64) {
    let (resident, peak) = machine::memory();
    let [resident, peak] = [resident, peak].map(|bytes| mib(bytes.saturating_sub(before)));
    eprintln!("memory after {phase}: {resident:.1} MiB, peak so far {peak:.1} MiB");
}

fn rate(count: u64, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn tell(metric: &str, value: f64) {
    println!("{metric}\t{value}");
}
