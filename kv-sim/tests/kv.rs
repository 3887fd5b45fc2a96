//! The store in the simulator: equal seeds make equal runs, and the least change shows.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::thread;

use kv_sim::engine::{self, Probes, Tracer};
use kv_sim::kv::KvProtocol;
use kv_sim::protocol::Protocol as _;
use kv_sim::scenario::Scenario;

const SMOKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sim-scenarios/smoke");
const SEED: u64 = 3;

fn scenario_path(name: &str) -> String {
    format!("{SMOKE}/{name}.toml")
}

/// The trace hashes that a command prints, one per run.
fn hashes(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let report = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    lines.lines().map(|line| report(line)["trace_hash"].as_str().unwrap().to_owned()).collect()
}

fn kv_sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-sim"));
    command.args(arguments);
    command
}

#[test]
fn equal_seeds_make_equal_runs_in_every_process() {
    let path = scenario_path("crash-restart");
    let seed = SEED.to_string();
    let alone = hashes(&mut kv_sim(&["--seed", &seed, &path, "--json"]));
    let sweep =
        |jobs| hashes(&mut kv_sim(&["sweep", "--seeds", "1..4", &path, "--jobs", jobs, "--json"]));
    let (one, two) = (sweep("1"), sweep("2"));
    assert_eq!(one.len(), 3);
    assert_eq!(one, two, "one after the other, and two at a time");
    assert_eq!(alone[0], one[2], "alone, and third in a process");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = kv_sim(&["--seed", &seed, &path, "--json"]);
    command
        .current_dir(elsewhere.path())
        .env_clear()
        .env("SOME_VARIABLE", "1")
        .env("TZ", "Asia/Tokyo");
    assert_eq!(hashes(&mut command), alone, "in another directory and environment");
    assert_ne!(one[0], one[1], "another seed makes another run");
}

/// The hash of a run, and how many messages and strikes it had, with small changes.
fn run(name: &str, probes: Probes) -> (u64, u64) {
    let path = scenario_path(name);
    let text = std::fs::read_to_string(Path::new(&path)).unwrap();
    let scenario = Scenario::parse(&text, name).unwrap();
    let body = move || {
        let system = KvProtocol.system(&scenario, SEED, None).unwrap();
        let config = engine::RunConfig { probes, ..scenario.run_config(SEED) };
        let finished = engine::run(&config, system, Tracer::new(None), &AtomicU64::new(0));
        (finished.outcome.trace_hash, finished.outcome.messages)
    };
    thread::spawn(body).join().unwrap()
}

#[test]
fn one_changed_byte_or_one_left_out_fault_changes_the_hash() {
    let unchanged = run("partition", Probes::default());
    assert_eq!(unchanged, run("partition", Probes::default()));
    let corrupted = Probes { corrupt_message: Some(unchanged.1 / 2), ..Probes::default() };
    assert_ne!(unchanged.0, run("partition", corrupted).0, "one payload byte");
    let skipped = Probes { skip_strike: Some(2), ..Probes::default() };
    assert_ne!(unchanged.0, run("partition", skipped).0, "one fault");
}

#[test]
fn history_of_a_run_is_what_the_checker_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.jsonl");
    let file = file.to_str().unwrap();
    let path = scenario_path("lossy-network");
    let output = kv_sim(&["--seed", "5", &path, "--history", file, "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let history = kv_check::History::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
    let checked = kv_check::check(&history);
    assert_eq!(checked.verdict, kv_check::Verdict::Holds);
    assert_eq!(report["operations"]["ok"].as_u64(), Some(checked.operations.ok as u64));
    assert!(checked.faults > 0, "the delay spikes stand in the history");
}

#[test]
fn mutants_need_their_build() {
    if cfg!(feature = "mutants") {
        return;
    }
    for arguments in [&["zoo"][..], &["--mutant", "unconfirmed-read", &scenario_path("happy")]] {
        let output = kv_sim(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("--features mutants"), "{told}");
    }
}

/// Whether a run of this scenario fails, which may only be for stale reads.
fn has_stale_reads(path: &Path, seed: u64) -> bool {
    let path = path.to_str().unwrap();
    let output = kv_sim(&["--seed", &seed.to_string(), path, "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = |check: &&serde_json::Value| check["verdict"] == "fail";
    let failed: Vec<_> = report["checks"].as_array().unwrap().iter().filter(failed).collect();
    assert_eq!(output.status.code(), Some(i32::from(!failed.is_empty())), "{report}");
    failed.iter().for_each(|check| assert_eq!(check["name"], "linearizability", "{check}"));
    !failed.is_empty()
}

/// The negative control of the promise of leases. Within the bound of drift no seed may fail, which
/// sweeps see to; beyond it some must, or the faults of that scenario show nothing.
#[test]
fn rule_a17_stale_reads_by_leases_are_found_on_clocks_that_are_worse_than_allowed() {
    let control =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../sim-scenarios/control/lease-beyond-bound.toml");
    let seed = (0..100).find(|seed| has_stale_reads(Path::new(control), *seed));
    let seed = seed.expect("100 seeds are enough");
    let text = std::fs::read_to_string(control).unwrap();
    let (beyond, within) = ("lease_drift_max_ppm = 10000\n", "lease_drift_max_ppm = 500000\n");
    assert!(text.contains(beyond));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease-within-bound.toml");
    std::fs::write(&path, text.replace(beyond, within)).unwrap();
    for seed in 0..=seed {
        assert!(!has_stale_reads(&path, seed), "only the bound differs");
    }
}
