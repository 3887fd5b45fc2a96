//! One run: from a configuration to an outcome.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;

use madsim::runtime::Runtime;

use super::clock::ClockProfile;
use super::disk_timing::DiskProfile;
use super::driver::Driver;
use super::fault::{FaultKind, FaultSpec};
use super::measures::Measures;
use super::network::NetworkProfile;
use super::panic::catch;
use super::system::{Check, Operations, System, Violation};
use super::trace::Tracer;

/// Simulated time of a safety phase below which a run proves nothing, in nanoseconds.
pub const SAFETY_MIN: u64 = 60_000_000_000;
/// Acknowledged operations below which a run proves nothing.
pub const ACKNOWLEDGED_MIN: u64 = 1_000;

/// Everything that a run depends on, beside the code. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Where all randomness of the run comes from.
    pub seed: u64,
    /// How many servers.
    pub servers: u16,
    /// How many clients.
    pub clients: u16,
    /// How long the safety phase lasts.
    pub safety: u64,
    /// How long the system may take to converge in the liveness phase.
    pub liveness: u64,
    /// The network without its faults.
    pub network: NetworkProfile,
    /// The disks.
    pub disk: DiskProfile,
    /// The clocks.
    pub clocks: ClockProfile,
    /// The declared faults.
    pub faults: Vec<FaultSpec>,
    /// Small changes that tests make.
    pub probes: Probes,
}

/// Changes to a run that are too small to matter to anything but the trace hash, which must notice
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// Flips a bit of the first byte of this message, counted from 1.
    pub corrupt_message: Option<u64>,
    /// Leaves out this strike of a fault, counted from 1 over all kinds.
    pub skip_strike: Option<u64>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Simulated time, both phases, in nanoseconds.
    pub simulated: u64,
    /// Events taken from the queue.
    pub events: u64,
    /// Messages delivered.
    pub messages: u64,
    /// What became of the clients' operations.
    pub operations: Operations,
    /// How often each kind of fault struck: every declared kind, and those that follow from them.
    pub faults: BTreeMap<FaultKind, u64>,
    /// What was measured.
    pub measures: Measures,
    /// What was checked.
    pub checks: Vec<Check>,
    /// The hash over all that happened.
    pub trace_hash: u64,
}

/// What is left of a run.
#[derive(Debug)]
pub struct Finished<S> {
    /// What it came to.
    pub outcome: Outcome,
    /// The system, with the history that it recorded.
    pub system: S,
    /// Whether the text trace could be written.
    pub trace_written: io::Result<()>,
}

/// Runs a simulation from beginning to end. At most one on a thread, ever: what a thread has done
/// before can show in the order of a hash map of a library. `progress` grows as long as the run
/// gets on.
pub fn run<S: System>(
    config: &RunConfig,
    system: S,
    tracer: Tracer,
    progress: &AtomicU64,
) -> Finished<S> {
    assert!(config.servers > 0, "a world without servers has nothing to simulate");
    let runtime = Runtime::with_seed_and_config(config.seed, madsim::Config::default());
    let mut driver = runtime.block_on(async {
        let mut driver = Driver::new(config, system, tracer, progress);
        driver.run().await;
        driver
    });
    let checks = judge(config, &mut driver);
    runtime.block_on(driver.shut_down());
    let faults = fault_counts(&driver);
    let system = driver.system.take().expect("the system is lent out only while a server starts");
    let outcome = Outcome {
        simulated: driver.now,
        events: driver.events,
        messages: driver.messages,
        operations: system.operations(),
        faults,
        measures: system.measures(),
        checks,
        trace_hash: driver.outbox.tracer.hash(),
    };
    Finished { outcome, system, trace_written: driver.outbox.tracer.close() }
}

fn fault_counts<S: System>(driver: &Driver<'_, S>) -> BTreeMap<FaultKind, u64> {
    let mut counts = driver.fault_counts.clone();
    for (kind, count) in &mut counts {
        let told = driver.system.as_ref().and_then(|system| system.fault_count(*kind));
        *count = told.unwrap_or(*count);
    }
    let network = &driver.network;
    for (kind, fault) in [
        (FaultKind::Loss, network.loss),
        (FaultKind::Duplicate, network.duplication),
        (FaultKind::Reorder, network.reordering),
    ] {
        if let Some(count) = counts.get_mut(&kind) {
            *count = fault.count;
        }
    }
    counts
}

/// The engine's own checks and the system's.
fn judge<S: System>(config: &RunConfig, driver: &mut Driver<'_, S>) -> Vec<Check> {
    let mut checks = vec![
        Check::pass("panic", "no step panicked"),
        Check::pass("recovery", "every server could start"),
        Check::pass("progress", "time never stood still"),
        driver
            .convergence
            .clone()
            .unwrap_or_else(|| Check::skipped("convergence", "the run ended before")),
    ];
    let mut system =
        driver.system.take().expect("the system is lent out only while a server starts");
    let finished = {
        let world = driver.world();
        catch(|| system.finish(&world))
    };
    match finished {
        Ok(more) => checks.extend(more),
        Err(panic) => {
            driver.violation.get_or_insert(Violation { check: "panic", detail: panic });
        }
    }
    let operations = system.operations();
    driver.system = Some(system);
    match &driver.violation {
        Some(violation) => set(&mut checks, Check::fail(violation.check, violation.detail.clone())),
        None => checks.push(validity(config, operations, &fault_counts(driver))),
    }
    checks
}

/// Replaces the check of this name, or adds it.
fn set(checks: &mut Vec<Check>, check: Check) {
    match checks.iter_mut().find(|other| other.name == check.name) {
        Some(other) => *other = check,
        None => checks.push(check),
    }
}

/// Whether the run did enough to prove something.
fn validity(
    config: &RunConfig,
    operations: Operations,
    faults: &BTreeMap<FaultKind, u64>,
) -> Check {
    let mut reasons = Vec::new();
    if config.safety < SAFETY_MIN {
        let seconds = config.safety / 1_000_000_000;
        reasons.push(format!(
            "a safety phase of {seconds} s is below {} s",
            SAFETY_MIN / 1_000_000_000
        ));
    }
    if operations.ok < ACKNOWLEDGED_MIN {
        reasons.push(format!(
            "{} acknowledged operations are fewer than {ACKNOWLEDGED_MIN}",
            operations.ok
        ));
    }
    let silent = faults.iter().filter(|(_, count)| **count == 0);
    reasons.extend(silent.map(|(kind, _)| format!("{kind} is declared and did not strike")));
    if faults.contains_key(&FaultKind::Crash) && !faults.contains_key(&FaultKind::LeaderCrash) {
        reasons.push("no leader crashed".into());
    }
    if reasons.is_empty() {
        Check::pass("validity", "long enough, enough work, every declared fault struck")
    } else {
        Check::invalid("validity", reasons.join("; "))
    }
}
