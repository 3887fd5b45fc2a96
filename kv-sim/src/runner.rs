//! Running seeds: each on a fresh thread, several at a time, watched.
//!
//! A thread that has run one simulation never runs another: what a thread did before can show in
//! the order of a library's hash maps. The thread that starts a run waits for it and watches its
//! sign of life. A run that stands still has met a defect that simulated time cannot see (a
//! deadlock, an endless loop): the process says which run it was, and ends.
//!
//! This is the only place where the real clock is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::Exit;
use crate::engine::{self, Finished, System, Tracer, catch};
use crate::protocol::Protocol;
use crate::report::{Report, Subject, Took};
use crate::scenario::Scenario;

/// Without a sign of life for this long a run is given up.
const STALL_MAX: Duration = Duration::from_secs(180);
const STACK_BYTES: usize = 16 << 20;

/// A scenario and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) scenario: Scenario,
}

/// One run to be done.
#[derive(Clone, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) seed: u64,
    pub(crate) mutant: Option<&'a str>,
    pub(crate) trace: Option<&'a Path>,
    pub(crate) history: Option<&'a Path>,
}

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{}: {message}", path.display())]
    Unsuitable { path: PathBuf, message: String },
    #[error("{}: cannot be written: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

impl RunError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unsuitable { .. } => Exit::Usage,
            Self::Unwritable { .. } => Exit::Io,
        }
    }
}

impl<'a> Job<'a> {
    pub(crate) fn new(loaded: &'a Loaded, seed: u64, mutant: Option<&'a str>) -> Self {
        Self { loaded, seed, mutant, trace: None, history: None }
    }

    /// The command that does this run.
    pub(crate) fn command(&self) -> String {
        let path = quoted(&self.loaded.path.display().to_string());
        match self.mutant {
            None => format!("cargo run -p kv-sim -- --seed {} {path}", self.seed),
            Some(id) => {
                format!(
                    "cargo run -p kv-sim --features mutants -- --seed {} {path} --mutant {id}",
                    self.seed
                )
            }
        }
    }

    fn subject(&self) -> Subject {
        let scenario = self.loaded.scenario.name.clone();
        Subject { scenario, seed: self.seed, reproduce: self.command() }
    }

    /// Does the run on a fresh thread, and watches it.
    pub(crate) fn run<P: Protocol>(&self, protocol: &P) -> Result<Report, RunError> {
        let progress = AtomicU64::new(0);
        let (done, result) = mpsc::channel();
        thread::scope(|scope| {
            let body = || {
                let report = catch(|| self.run_here(protocol, &progress))
                    .unwrap_or_else(|panic| Ok(Report::broken(self.subject(), panic)));
                // The watching thread lives until it has received this.
                let _ = done.send(report);
            };
            let thread =
                thread::Builder::new().name(format!("seed-{}", self.seed)).stack_size(STACK_BYTES);
            let Err(error) = thread.spawn_scoped(scope, body) else {
                return self.watch(&result, &progress);
            };
            Ok(Report::broken(self.subject(), format!("no thread for the run: {error}")))
        })
    }

    fn watch(
        &self,
        result: &mpsc::Receiver<Result<Report, RunError>>,
        progress: &AtomicU64,
    ) -> Result<Report, RunError> {
        let mut seen = 0;
        loop {
            match result.recv_timeout(STALL_MAX) {
                Ok(report) => return report,
                Err(RecvTimeoutError::Timeout) => {
                    let before = std::mem::replace(&mut seen, progress.load(Ordering::Relaxed));
                    if before == seen {
                        self.give_up();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Report::broken(
                        self.subject(),
                        "the run ended without a result".into(),
                    ));
                }
            }
        }
    }

    /// A thread cannot be stopped from outside, so the process ends.
    fn give_up(&self) -> ! {
        let seconds = STALL_MAX.as_secs();
        eprintln!("no progress for {seconds} seconds: a deadlock or an endless loop in one step");
        eprintln!("seed        {}", self.seed);
        eprintln!("scenario    {}", self.loaded.scenario.name);
        eprintln!("rerun       {}", self.command());
        std::process::exit(Exit::Violated as i32);
    }

    fn run_here<P: Protocol>(
        &self,
        protocol: &P,
        progress: &AtomicU64,
    ) -> Result<Report, RunError> {
        let (wall, cpu) = (wall_now(), cpu_seconds());
        let scenario = &self.loaded.scenario;
        let system = protocol
            .system(scenario, self.seed, self.mutant)
            .map_err(|message| RunError::Unsuitable { path: self.loaded.path.clone(), message })?;
        let text = self.trace.map(create).transpose()?;
        let tracer = Tracer::new(text.map(|file| Box::new(file) as _));
        let Finished { outcome, system, trace_written } =
            engine::run(&scenario.run_config(self.seed), system, tracer, progress);
        if let Some(path) = self.trace {
            trace_written.map_err(|source| RunError::Unwritable { path: path.into(), source })?;
        }
        if let Some(path) = self.history {
            let mut file = create(path)?;
            let written = system.write_history(&mut file).and_then(|()| file.flush());
            written.map_err(|source| RunError::Unwritable { path: path.into(), source })?;
        }
        let took =
            Took { wall_seconds: wall.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - cpu };
        Ok(Report::new(self.subject(), outcome, took))
    }
}

fn create(path: &Path) -> Result<BufWriter<File>, RunError> {
    let file =
        File::create(path).map_err(|source| RunError::Unwritable { path: path.into(), source })?;
    Ok(BufWriter::new(file))
}

fn quoted(path: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    if path.chars().all(plain) { path.into() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a run takes on the wall is reported, not simulated"
)]
fn wall_now() -> Instant {
    Instant::now()
}

/// Processor time of this thread, asked from the kernel: the C library's function is madsim's
/// inside a simulation.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Does many runs, `slots` at a time, and hands over the results in the order of the runs. `each`
/// may break off: runs that have begun are finished, and nothing further is handed over.
pub(crate) fn run_all<P: Protocol>(
    protocol: &P,
    jobs: &[Job<'_>],
    slots: usize,
    mut each: impl FnMut(usize, Result<Report, RunError>) -> ControlFlow<()>,
) {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..slots.clamp(1, jobs.len().max(1)) {
            let (done, next, stop) = (done.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    if done.send((index, job.run(protocol))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        for (index, result) in results {
            early.insert(index, result);
            while let Some(result) = early.remove(&expected) {
                if each(expected, result).is_break() {
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
                expected += 1;
            }
        }
    });
}
