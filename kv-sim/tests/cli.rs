//! The command line, with a toy protocol.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ffi::OsString;
use std::path::Path;

use common::ToyProtocol;
use kv_sim::Exit;

struct Typed {
    exit: Exit,
    out: String,
    err: String,
}

fn path(name: &str) -> String {
    format!("{}/tests/scenarios/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn kv_sim(arguments: &[&str]) -> Typed {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = std::iter::once("kv-sim").chain(arguments.iter().copied()).map(OsString::from);
    let exit = kv_sim::cli::run(&ToyProtocol, words, &mut out, &mut err);
    Typed { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_run_passes_and_says_so() {
    let typed = kv_sim(&["--seed", "3", &path("happy.toml")]);
    assert_eq!(typed.exit, Exit::Holds, "{}{}", typed.out, typed.err);
    assert!(typed.out.lines().count() <= 25, "{}", typed.out);
    assert!(typed.out.contains("verdict     pass"), "{}", typed.out);
    assert!(typed.out.contains("3 servers, 10 clients; 60.1 simulated seconds"), "{}", typed.out);
}

#[test]
fn a_seed_that_is_left_out_is_drawn_and_printed_first() {
    let typed = kv_sim(&[&path("happy.toml")]);
    let seed = typed.out.lines().next().unwrap().strip_prefix("seed        ").unwrap();
    assert!(typed.out.contains(&format!("(seed {seed})")), "{}", typed.out);
    let typed = kv_sim(&["--json", &path("happy.toml")]);
    assert_eq!(typed.out.lines().count(), 1);
    assert!(typed.err.starts_with("seed        "), "{}", typed.err);
}

#[test]
fn json_is_one_object_and_repeats() {
    let one = json(&kv_sim(&["--json", "--seed", "9", &path("crash.toml")]).out);
    let again = json(&kv_sim(&["--json", "--seed", "9", &path("crash.toml")]).out);
    assert_eq!(one["verdict"], "pass", "{one}");
    assert_eq!(one["trace_hash"], again["trace_hash"]);
    assert_eq!(one["trace_hash"].as_str().unwrap().len(), 16);
    assert!(one["faults"]["leader-crash"].as_u64() > Some(0), "{one}");
    assert!(one["cpu_seconds"].as_f64() > Some(0.0), "{one}");
    let reproduce = one["reproduce"].as_str().unwrap();
    assert!(reproduce.starts_with("cargo run -p kv-sim -- --seed 9 /"), "{reproduce}");
}

#[test]
fn a_sweep_spreads_the_seeds_and_equals_single_runs() {
    let (happy, crash) = (path("happy.toml"), path("crash.toml"));
    let typed = kv_sim(&["sweep", "--seeds", "4..9", &happy, &crash, "--jobs", "2", "--json"]);
    assert_eq!(typed.exit, Exit::Holds, "{}{}", typed.out, typed.err);
    let runs: Vec<_> = typed.out.lines().map(json).collect();
    let what: Vec<String> = runs
        .iter()
        .map(|run| format!("{} {}", run["seed"], run["scenario"].as_str().unwrap()))
        .collect();
    assert_eq!(what, ["4 toy-happy", "5 toy-crash", "6 toy-happy", "7 toy-crash", "8 toy-happy"]);
    let alone = json(&kv_sim(&["--json", "--seed", "7", &crash]).out);
    assert_eq!(alone["trace_hash"], runs[3]["trace_hash"]);
    let text = kv_sim(&["sweep", "--seeds", "4..9", &happy, &crash]).out;
    assert!(text.lines().count() <= 25 && text.contains("verdict     pass"), "{text}");
}

#[test]
fn a_violation_exits_1_and_ends_with_the_rerun() {
    let failing = (0..50).map(|seed: u32| {
        kv_sim(&["--mutant", "early-answer", "--seed", &seed.to_string(), &path("crash.toml")])
    });
    let typed = failing.into_iter().find(|typed| typed.exit != Exit::Holds).unwrap();
    assert_eq!(typed.exit, Exit::Violated, "{}", typed.out);
    let last = typed.out.lines().last().unwrap();
    assert!(
        last.starts_with("rerun       cargo run -p kv-sim --features mutants -- --seed "),
        "{last}"
    );
    assert!(last.ends_with("--mutant early-answer"), "{last}");
}

#[test]
fn the_zoo_says_what_was_found() {
    let typed = kv_sim(&["zoo", "--only", "early-answer", "--seeds", "0..50"]);
    assert_eq!(typed.exit, Exit::Holds, "{}{}", typed.out, typed.err);
    assert!(typed.out.starts_with("found   early-answer"), "{}", typed.out);
    let typed = kv_sim(&["zoo", "--only", "no-restart", "--seeds", "0..2"]);
    assert_eq!(typed.exit, Exit::Violated);
    assert!(typed.out.starts_with("MISSED  no-restart"), "{}", typed.out);
    assert!(
        typed.out.contains("not by durability in seeds 0..2; another check failed: cargo run"),
        "{}",
        typed.out
    );
    assert_eq!(kv_sim(&["zoo", "--only", "unicorn"]).exit, Exit::Usage);
}

#[test]
fn bad_command_lines_exit_2() {
    let happy = path("happy.toml");
    for arguments in [
        &[][..],
        &["--seed", "9007199254740992", &happy],
        &["--seed", "-1", &happy],
        &["--mutant", "unicorn", &happy],
        &["sweep", "--seeds", "5..5", &happy],
        &["sweep", "--seeds", "5", &happy],
        &["sweep", "--seeds", "0..5"],
        &["sweep", "--seeds", "0..5", "--jobs", "0", &happy],
        &["--sed", "5", &happy],
    ] {
        let typed = kv_sim(arguments);
        assert_eq!(typed.exit, Exit::Usage, "{arguments:?}: {}", typed.out);
        assert!(!typed.err.is_empty(), "{arguments:?}");
    }
    assert_eq!(kv_sim(&["--help"]).exit, Exit::Holds);
}

#[test]
fn bad_scenarios_exit_2_with_all_errors() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let wrong = file("wrong.toml", "run.safety_second = 5\ncluster.nodes = 0\n");
    let typed = kv_sim(&["--seed", "1", &wrong]);
    assert_eq!(typed.exit, Exit::Usage);
    assert!(
        typed.err.contains("wrong.toml:1:5: unknown key `run.safety_second`: did you mean"),
        "{}",
        typed.err
    );
    assert!(
        typed.err.contains("wrong.toml:2:17: `cluster.nodes` must be from 1 to 100"),
        "{}",
        typed.err
    );
    let typed = kv_sim(&["sweep", "--seeds", "0..4", &wrong, &path("hapy.toml")]);
    assert_eq!(typed.exit, Exit::Usage);
    assert!(
        typed.err.contains("wrong.toml:2:17") && typed.err.contains("happy.toml?"),
        "{}",
        typed.err
    );
    let unsuitable = file("unsuitable.toml", "description = \"unsuitable\"");
    assert_eq!(kv_sim(&["--seed", "1", &unsuitable]).exit, Exit::Usage);
    assert_eq!(kv_sim(&["sweep", "--seeds", "0..3", &unsuitable]).exit, Exit::Usage);
}

#[test]
fn a_run_that_proves_nothing_exits_4() {
    let directory = tempfile::tempdir().unwrap();
    let short = directory.path().join("short.toml");
    std::fs::write(&short, "run.safety_seconds = 2\nworkload.rate_per_client = 5\n").unwrap();
    let short = short.display().to_string();
    let typed = kv_sim(&["--seed", "1", &short]);
    assert_eq!(typed.exit, Exit::NoVerdict, "{}", typed.out);
    assert!(typed.out.contains("invalid validity"), "{}", typed.out);
    assert_eq!(kv_sim(&["sweep", "--seeds", "0..3", &short]).exit, Exit::NoVerdict);
}

#[test]
fn slow_first_writes_are_told_and_fail_a_sweep_that_checks_them() {
    let directory = tempfile::tempdir().unwrap();
    let heals = directory.path().join("heals.toml");
    std::fs::write(&heals, "description = \"heals\"\nworkload.rate_per_client = 5\n").unwrap();
    let heals = heals.display().to_string();
    let plain = kv_sim(&["sweep", "--seeds", "0..2", &heals]);
    assert_eq!(plain.exit, Exit::Holds, "{}{}", plain.out, plain.err);
    let told = "first write after heal: median 1 ms, p99 11 ms (bound 10 = 2 x election_max), 200";
    assert!(plain.out.contains(told), "{}", plain.out);
    let checked = kv_sim(&["sweep", "--seeds", "0..2", &heals, "--check-heals"]);
    assert_eq!(checked.exit, Exit::Violated);
    let verdict = "verdict     FAIL: the first write after a heal takes too long";
    assert!(checked.out.contains(verdict), "{}", checked.out);
    let happy = kv_sim(&["sweep", "--seeds", "0..2", &path("happy.toml"), "--check-heals"]);
    assert_eq!(happy.exit, Exit::Holds, "what was not measured is not too slow: {}", happy.out);
}

#[test]
fn trace_and_history_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let (trace, history) = (directory.path().join("trace"), directory.path().join("history"));
    let text = |path: &Path| path.display().to_string();
    let happy = path("happy.toml");
    let typed =
        kv_sim(&["--seed", "1", "--trace", &text(&trace), "--history", &text(&history), &happy]);
    assert_eq!(typed.exit, Exit::Holds);
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(trace.starts_with("0.000000000 n1 start life 1\n"), "{}", &trace[..200]);
    assert!(trace.contains(" n1 deliver from c3, 64 bytes\n"));
    assert!(std::fs::read_to_string(history).unwrap().trim().parse::<u64>().unwrap() >= 1_000);
    let nowhere = text(&directory.path().join("no/such/directory"));
    let typed = kv_sim(&["--seed", "1", "--trace", &nowhere, &happy]);
    assert_eq!(typed.exit, Exit::Io, "{}", typed.err);
}
