//! The engine, with a toy protocol.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Defect, Ran, Toy, run, scenario};
use kv_sim::engine::{Check, CheckVerdict, FaultKind, Probes};

/// Every kind of fault at once.
const EVERYTHING: &str = r#"
cluster.nodes = 5
[workload]
clients = 8
rate_per_client = 20
[faults]
crash = { interval_seconds = 5, downtime_seconds = 1 }
power-loss = {}
pause = {}
partition = {}
one-way-partition = {}
delay-spike = {}
loss = {}
duplicate = {}
reorder = {}
swizzle = {}
bridge = {}
majorities-ring = {}
flapping = {}
clock-drift = {}
clock-freeze = {}
clock-jump = {}
slow-disk = {}
"#;

const SHORT: &str = r#"
cluster.nodes = 3
run.safety_seconds = 5
[workload]
clients = 4
rate_per_client = 10
"#;

fn ran(text: &str, seed: u64) -> Ran {
    ran_with(text, seed, |_| {}, |_| {})
}

fn ran_with(
    text: &str,
    seed: u64,
    toy: impl FnOnce(&mut Toy),
    probes: impl FnOnce(&mut Probes),
) -> Ran {
    let scenario = scenario(text);
    let rate = scenario.workload.rate_per_client.unwrap();
    let mut config = scenario.run_config(seed);
    probes(&mut config.probes);
    let mut system = Toy::new(scenario.cluster.nodes, (1e9 / rate) as u64);
    toy(&mut system);
    run(config, system)
}

#[track_caller]
fn check<'a>(ran: &'a Ran, name: &str) -> &'a Check {
    ran.outcome.checks.iter().find(|check| check.name == name).unwrap()
}

#[test]
fn the_same_seed_does_the_same() {
    let first = ran(EVERYTHING, 7);
    // Another seed in between: nothing of it may show in the third run of the process.
    let other = ran(EVERYTHING, 8);
    let third = ran(EVERYTHING, 7);
    assert_eq!(first.outcome, third.outcome);
    assert_ne!(first.outcome.trace_hash, other.outcome.trace_hash);
}

#[test]
fn the_hash_does_not_depend_on_the_build() {
    // Valid in debug and in release; a change of the engine or of the toy changes it.
    let hash = format!("{:016x}", ran(SHORT, 1).outcome.trace_hash);
    assert_eq!(hash, "52e8a70ac2968239");
}

#[test]
fn one_byte_of_one_message_changes_the_hash() {
    let plain = ran(SHORT, 3).outcome;
    let changed = ran_with(SHORT, 3, |_| {}, |probes| probes.corrupt_message = Some(1)).outcome;
    // Only the bytes differ: the toy does not look at what a client sends.
    assert_eq!((plain.messages, plain.events), (changed.messages, changed.events));
    assert_ne!(plain.trace_hash, changed.trace_hash);
}

#[test]
fn one_fault_less_changes_the_hash() {
    let plain = ran(EVERYTHING, 3).outcome;
    let changed = ran_with(EVERYTHING, 3, |_| {}, |probes| probes.skip_strike = Some(4)).outcome;
    assert_ne!(plain.trace_hash, changed.trace_hash);
}

#[test]
fn every_declared_fault_strikes_and_the_toy_survives() {
    for seed in 0..20 {
        let Ran { outcome, .. } = ran(EVERYTHING, seed);
        let failed: Vec<&Check> =
            outcome.checks.iter().filter(|check| check.verdict != CheckVerdict::Pass).collect();
        assert!(failed.is_empty(), "seed {seed}: {failed:?} {:?}", outcome.faults);
        assert_eq!(outcome.faults.len(), 18, "{:?}", outcome.faults);
    }
}

#[test]
fn a_killed_server_loses_its_memory_and_is_rebuilt_from_its_disk() {
    let ran = ran(
        "cluster.nodes = 3\nworkload = { clients = 4, rate_per_client = 20 }\nfaults.power-loss = {}",
        5,
    );
    let losses = ran.outcome.faults[&FaultKind::PowerLoss];
    assert!(losses > 0);
    let witness = Arc::clone(&ran.toy.witness);
    // Each server was made once at first and once after each loss; each of them was dropped with
    // what it had in memory.
    let made = witness.made.load(Ordering::Relaxed);
    assert_eq!(made, 3 * (losses + 1));
    assert_eq!(witness.dropped.load(Ordering::Relaxed), made);
    assert!(witness.steps_at_drop.load(Ordering::Relaxed) > 0);
    assert_eq!(witness.steps_at_start.load(Ordering::Relaxed), 0);
    for disk in &ran.toy.disks {
        assert_eq!(disk.boots.load(Ordering::Relaxed), losses + 1);
        assert!(
            disk.count.load(Ordering::Relaxed) >= 1_000,
            "the count lives on through the losses"
        );
    }
    assert_eq!(check(&ran, "durability").verdict, CheckVerdict::Pass);
    assert_eq!(check(&ran, "convergence").verdict, CheckVerdict::Pass);
}

#[test]
fn an_answer_before_the_write_has_ended_is_caught() {
    let caught = (0..20).any(|seed| {
        let ran = ran_with(EVERYTHING, seed, |toy| toy.defect = Defect::EarlyAnswer, |_| {});
        check(&ran, "durability").verdict == CheckVerdict::Fail
    });
    assert!(caught);
}

#[test]
fn a_panic_is_a_failed_check() {
    let ran = ran_with(SHORT, 1, |toy| toy.defect = Defect::Panic, |_| {});
    let check = check(&ran, "panic");
    assert_eq!(check.verdict, CheckVerdict::Fail);
    assert!(
        check.detail.starts_with("n1: ")
            && check.detail.ends_with(": the toy counts to a hundred only"),
        "{check:?}"
    );
}

#[test]
fn a_server_that_cannot_start_is_a_failed_check() {
    let ran = ran_with(EVERYTHING, 1, |toy| toy.defect = Defect::NoRestart, |_| {});
    let check = check(&ran, "recovery");
    assert_eq!(check.verdict, CheckVerdict::Fail);
    assert!(check.detail.ends_with("cannot start: the disk is gone"), "{check:?}");
}

#[test]
fn a_deadline_that_never_lies_ahead_is_a_failed_check() {
    let ran = ran_with(SHORT, 1, |toy| toy.defect = Defect::Stuck, |_| {});
    assert_eq!(check(&ran, "progress").verdict, CheckVerdict::Fail);
}

#[test]
fn a_short_run_proves_nothing() {
    let ran = ran(SHORT, 1);
    let check = check(&ran, "validity");
    assert_eq!(check.verdict, CheckVerdict::Invalid);
    assert!(
        check.detail.contains("5 s is below 60 s") && check.detail.contains("fewer than 1000"),
        "{check:?}"
    );
}

#[test]
fn one_more_client_does_not_move_the_faults() {
    let strikes = |clients: u32| {
        let text = EVERYTHING.replace("clients = 8", &format!("clients = {clients}"));
        let faults = ran(&text, 2).outcome.faults;
        (faults[&FaultKind::PowerLoss], faults[&FaultKind::DelaySpike])
    };
    assert_eq!(strikes(8), strikes(9));
}

#[test]
fn one_more_kind_of_fault_does_not_move_the_others() {
    let strikes = |text: &str| {
        let faults = ran(text, 2).outcome.faults;
        (faults[&FaultKind::PowerLoss], faults[&FaultKind::DelaySpike])
    };
    let (fewer, more) = EVERYTHING.split_once("swizzle").unwrap();
    assert_eq!(strikes(fewer), strikes(&format!("{fewer}swizzle{more}")));
}

#[test]
fn clocks_that_stand_still_or_leap_move_the_timers() {
    // One server that beats once in a second, and a client that asks for nothing.
    let events = |faults: &str| {
        let world = "cluster.nodes = 1\nworkload = { clients = 1, rate_per_client = 0.01 }\n";
        ran(&format!("{world}{faults}"), 4).outcome.events
    };
    let steady = events("");
    let freeze = "faults.clock-freeze = { interval_seconds = 0.1, duration_seconds = 30 }";
    let frozen = events(freeze);
    let leaping = events("faults.clock-jump = { interval_seconds = 0.5, ahead_seconds = 2 }");
    assert!(steady > 100, "{steady}");
    assert!(frozen < steady / 4, "{frozen} of {steady}");
    assert!(leaping > steady * 2, "{leaping} of {steady}");
}
