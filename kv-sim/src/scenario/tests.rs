use super::*;
use crate::engine::MemberChange;

#[test]
fn an_empty_file_is_a_scenario() {
    let scenario = Scenario::parse("", "empty").unwrap();
    assert_eq!(scenario.name, "empty");
    assert_eq!((scenario.cluster.nodes, scenario.cluster.shards), (5, 8));
    assert_eq!((scenario.safety, scenario.liveness), (60_000_000_000, 30_000_000_000));
    assert_eq!(scenario.disk, DiskProfile::default());
    assert!(scenario.faults.is_empty());
}

#[test]
fn every_key_is_read() {
    let text = r#"
name = "all"
description = "everything"
cluster.nodes = 3
cluster.spares = 2
cluster.shards = 4
cluster.replicas = 3
cluster.heartbeat_ms = 50
cluster.election_min_ms = 200
cluster.election_max_ms = 400
run = { safety_seconds = 61, liveness_seconds = 1.5 }
[workload]
kind = "kv"
clients = 2
rate_per_client = 2.5
keys = 7
value_bytes = 100
operation_timeout_ms = 250
mix = { put = 3 }
[network]
latency_min_us = 10
latency_mean_us = 20
latency_max_us = 300
[[network.link]]
from = "c2"
to = "n3"
latency_min_us = 1
latency_max_us = 2
[disk]
sync_min_us = 5
sync_max_us = 5
[faults]
crash = { interval_seconds = 4, downtime_seconds = 1, target = "leader", storm_rate = 0.5 }
power-loss = {}
pause = { target = "leader" }
partition = { kinds = ["leader"] }
one-way-partition = { target = "leader", direction = "inbound" }
delay-spike = {}
loss = { rate = 0.25 }
duplicate = {}
reorder = { delay_max_ms = 3 }
swizzle = { step_seconds = 0.5 }
bridge = { duration_seconds = 3 }
flapping = { period_ms = 700, target = "leader" }
clock-drift = { drift_max = 0.25 }
clock-freeze = {}
clock-jump = { ahead_seconds = 7 }
slow-disk = { delay_ms = 80, target = "leader" }
membership = { kinds = ["add", "remove"], nodes_min = 2, nodes_max = 4, changes = 9, moves_min = 3 }
"#;
    let scenario = Scenario::parse(text, "x").unwrap();
    let workload = &scenario.workload;
    assert_eq!((workload.kind, workload.clients, workload.keys), (WorkloadKind::Kv, 2, 7));
    assert_eq!(workload.rate_per_client, Some(2.5));
    assert_eq!((workload.value_bytes, workload.operation_timeout), (100, 250_000_000));
    assert_eq!(workload.mix, Mix { get: 0, put: 3, delete: 0, cas: 0 });
    assert_eq!(scenario.cluster.replicas, Some(3));
    assert_eq!(scenario.liveness, 1_500_000_000);
    assert_eq!(scenario.network.latency, Latency { min: 10_000, mean: Some(20_000), max: 300_000 });
    let link = LinkProfile {
        from: ProcessId::Client(1),
        to: ProcessId::Server(2),
        latency: Latency { min: 1_000, mean: None, max: 2_000 },
    };
    assert_eq!(scenario.network.links, [link]);
    assert_eq!(scenario.disk.sync, Latency { min: 5_000, mean: None, max: 5_000 });
    let kinds: Vec<&str> = scenario.faults.iter().map(|fault| fault.kind().name()).collect();
    let expected = "crash power-loss pause partition one-way-partition delay-spike loss duplicate reorder \
         swizzle bridge flapping clock-drift clock-freeze clock-jump slow-disk \
         membership";
    assert_eq!(kinds.join(" "), expected);
    let crash = FaultSpec::Crash {
        interval: 4_000_000_000,
        downtime: 1_000_000_000,
        target: crate::engine::Target::Leader,
        storm: 500_000,
    };
    assert_eq!(scenario.faults[0], crash);
    assert_eq!(scenario.faults[6], FaultSpec::Loss { rate: 250_000 });
    let (second, target) = (1_000_000_000, crate::engine::Target::Leader);
    let pause = FaultSpec::Pause { interval: 8 * second, duration: 3 * second, target };
    assert_eq!(scenario.faults[2], pause);
    let one_way = FaultSpec::OneWayPartition {
        interval: 8 * second,
        duration: 4 * second,
        target,
        direction: crate::engine::Direction::Inbound,
    };
    assert_eq!(scenario.faults[4], one_way);
    let rest = [
        FaultSpec::Swizzle { interval: 5 * second, step: second / 2 },
        FaultSpec::Bridge { interval: 8 * second, duration: 3 * second },
        FaultSpec::Flapping {
            interval: 8 * second,
            duration: 10 * second,
            period: second * 7 / 10,
            target,
        },
        FaultSpec::ClockDrift { interval: 4 * second, drift_max: 250_000 },
        FaultSpec::ClockFreeze { interval: 6 * second, duration: 3 * second },
        FaultSpec::ClockJump { interval: 6 * second, ahead: 7 * second },
        FaultSpec::SlowDisk {
            interval: 10 * second,
            duration: 10 * second,
            delay: 80_000_000,
            target,
        },
        FaultSpec::Membership(Membership {
            interval: 5 * second,
            kinds: vec![MemberChange::Add, MemberChange::Remove],
            nodes_min: 2,
            nodes_max: 4,
            changes: Some(9),
            moves_min: 3,
        }),
    ];
    assert_eq!(scenario.faults[9..], rest);
    assert!(scenario.checks.is_empty());
}

#[test]
fn all_errors_are_listed_with_their_places() {
    let text = r#"nmae = "x"
[cluster]
nodes = 0
shards = 12
replicas = 4
heartbeat_ms = "fast"
  election_min_ms = 200
[workload]
kind = "queue"
mix = { get = 0 }
clients = 1.5
[network]
latency_min_us = 5000
[[network.link]]
from = "n9"
[faults.loss]
rate = 1.5
[faults.partition]
kinds = ["one", "third", 3]
[faults.meteor]
[run]
safety_seconds = -1
"#;
    let problems = Scenario::parse(text, "x").unwrap_err();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        "1:1: unknown key `nmae`: did you mean `name`?",
        "3:9: `cluster.nodes` must be from 1 to 100",
        "4:1: `cluster.shards` must be a power of two, not 12",
        "5:1: `cluster.replicas` must be odd and at most the number of nodes, 5",
        "6:16: `cluster.heartbeat_ms` must be a whole number or a fraction, not of type string",
        "7:3: `cluster.election_min_ms` must be at least three heartbeats",
        "9:8: `workload.kind` must be one of \"register\", \"kv\", \"bank\", \"list-append\", \"rw-register\", \
         \"write-skew\", \"long-fork\", \"causal-reverse\", \"phantom\", \"deadlock\", \"ordered\", \
         \"hot-keys\", \"sessions\", not \"queue\"",
        "10:1: `workload.mix` must give at least one operation a weight above 0",
        "11:11: `workload.clients` must be a whole number, not of type float",
        "12:1: `network.latency_max_us` must not be below `latency_min_us`",
        "14:1: `network.link.latency_max_us` must not be below `latency_min_us`",
        "14:1: `network.link.to` is missing",
        "15:1: `network.link.from` must be a server, n1 to n5, or a client, c1 to c10",
        "17:8: `faults.loss.rate` must be from 0.0001 to 0.5",
        "19:17: `faults.partition.kinds` must be one of \"one\", \"minority\", \"halves\", \"leader\", \
         \"random\", not \"third\"",
        "19:26: `faults.partition.kinds` must be a string, not of type integer",
        "20:9: unknown key `faults.meteor`",
        "22:18: `run.safety_seconds` must be from 1 to 36000",
    ];
    assert_eq!(lines, expected, "\n{}\n", lines.join("\n"));
}

#[test]
fn a_broken_file_names_the_place_and_goes_on() {
    let problems = Scenario::parse("name = \nnodes = 5\n", "x").unwrap_err();
    assert_eq!(problems[0].line, 1, "{problems:?}");
    assert!(
        problems.iter().any(|problem| problem.to_string().starts_with("2:1: unknown key `nodes`")),
        "{problems:?}"
    );
}

#[test]
fn a_missing_file_names_the_nearest() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("happy.toml"), "").unwrap();
    let error = load(&directory.path().join("hapy.toml")).unwrap_err().to_string();
    assert!(
        error.contains("no such scenario; did you mean") && error.contains("happy.toml?"),
        "{error}"
    );
    let error = load(&directory.path().join("smoke/happi.toml")).unwrap_err().to_string();
    assert!(error.contains("happy.toml?"), "{error}");
}

/// What is wrong with a scenario, line by line.
fn wrong(text: &str) -> Vec<String> {
    let problems = Scenario::parse(text, "x").err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn values_of_the_later_faults_are_bounded() {
    let text = r#"[faults.one-way-partition]
target = "follower"
direction = "both"
[faults.clock-drift]
drift_max = 0.6
[faults.clock-jump]
ahead_seconds = -1
[faults.flapping]
period_ms = 0
[faults.swizzle]
duration_seconds = 3
[faults.slow-disk]
delay_ms = "long"
"#;
    let expected = [
        "2:10: `faults.one-way-partition.target` must be one of \"any\", \"leader\", not \"follower\"",
        "3:13: `faults.one-way-partition.direction` must be one of \"any\", \"inbound\", \"outbound\", \
         not \"both\"",
        "5:13: `faults.clock-drift.drift_max` must be from 0.000001 to 0.5",
        "7:17: `faults.clock-jump.ahead_seconds` must be from 0.001 to 60",
        "9:13: `faults.flapping.period_ms` must be from 0.001 to 60000",
        "11:1: unknown key `faults.swizzle.duration_seconds`",
        "13:12: `faults.slow-disk.delay_ms` must be a whole number or a fraction, not of type string",
    ];
    let lines = wrong(text);
    assert_eq!(lines, expected, "\n{}\n", lines.join("\n"));
}

#[test]
fn faults_that_need_more_servers_say_so() {
    let text = "cluster.nodes = 2\n[faults.bridge]\n[faults.majorities-ring]\n";
    let expected = [
        "2:2: `faults` declares bridge, which needs 3 nodes",
        "2:2: `faults` declares majorities-ring, which needs 4 nodes",
    ];
    assert_eq!(wrong(text), expected);
    assert!(wrong("cluster.nodes = 4\n[faults.bridge]\n[faults.majorities-ring]\n").is_empty());
}

#[test]
fn a_check_of_availability_needs_its_fault_and_no_other() {
    let text = "run.checks = [\"bridge\", \"speed\"]\nfaults.crash = {}\n";
    let expected = [
        "1:1: `run` checks \"bridge\", so `faults.bridge` must be there",
        "1:1: `run` checks \"bridge\", so `faults.crash` must not be there",
        "1:25: `run.checks` must be one of \"bridge\", \"majorities-ring\", \"flapping\", \
         \"one-way-partition\", \"slow-disk\", \"membership\", not \"speed\"",
    ];
    let lines = wrong(text);
    assert_eq!(lines, expected, "\n{}\n", lines.join("\n"));
    let few = "cluster.replicas = 3\nrun.checks = [\"bridge\"]\nfaults.bridge = {}\n";
    let expected =
        ["2:1: `run` checks \"bridge\", so `cluster.replicas` must be the number of nodes"];
    assert_eq!(wrong(few), expected);
    let scenario =
        Scenario::parse("run.checks = [\"slow-disk\"]\nfaults.slow-disk = {}", "x").unwrap();
    assert_eq!(scenario.checks, [AvailabilityCheck::SlowDisk]);
}

#[test]
fn changes_of_members_need_room() {
    let text = "cluster.nodes = 3\n[faults.membership]\nnodes_min = 4\nnodes_max = 3\n";
    let expected = [
        "2:2: `faults` declares membership with \"replace\", which needs a spare server",
        "2:2: `faults` declares membership, where nodes_min (4), nodes (3), nodes_max (3) and all \
         servers (3) must not fall",
    ];
    let lines = wrong(text);
    assert_eq!(lines, expected, "\n{}\n", lines.join("\n"));
    let text = "cluster.nodes = 3\ncluster.spares = 1\n[faults.membership]\nnodes_max = 3\n";
    let scenario = Scenario::parse(text, "x").unwrap();
    let plan = scenario.membership().unwrap();
    assert_eq!((plan.nodes_min, plan.nodes_max, plan.changes), (3, 3, None));
    let config = scenario.run_config(1);
    assert_eq!((config.servers, config.clients), (4, 11), "an operator is behind the clients");
}

#[test]
fn a_workload_of_transactions_has_keys_of_its_own() {
    let text = r#"[workload]
kind = "bank"
keys = 1
mix = { get = 1 }
operations_max = 2
"#;
    let expected = [
        "3:1: `workload.keys` must be from 2 to 1000, which are the accounts of a bank",
        "4:1: `workload.mix` means nothing for the kind \"bank\"",
        "5:1: `workload.operations_max` means nothing for the kind \"bank\"",
    ];
    assert_eq!(wrong(text), expected);
    let none = "workload.operations_max = 0\nworkload.kind = \"list-append\"";
    assert!(wrong(none)[0].contains("must be from 1 to 100"), "{:?}", wrong(none));
    let kv = "workload.operations_max = 3";
    assert!(wrong(kv)[0].contains("means nothing for the kind \"register\""), "{:?}", wrong(kv));
    let alone = "workload.abandon_rate = 0.1";
    assert!(wrong(alone)[0].contains("means nothing for the kind \"register\""));
    let scans = "workload.kind = \"ordered\"\nworkload.scan_rate = 0.5";
    assert!(wrong(scans)[0].contains("means nothing for the kind \"ordered\""));
    let bank = "workload.kind = \"bank\"\nworkload.scan_rate = 0.5";
    assert_eq!(Scenario::parse(bank, "x").unwrap().workload.scan_rate, 500_000);
    let odd = "workload.kind = \"write-skew\"\nworkload.keys = 3";
    assert!(wrong(odd)[0].contains("must be even"), "{:?}", wrong(odd));
    let forks = "workload.kind = \"long-fork\"\nworkload.keys = 3";
    assert!(wrong(forks)[0].contains("means nothing"), "{:?}", wrong(forks));
    let text = "workload.kind = \"rw-register\"\nworkload.abandon_rate = 0.1";
    let scenario = Scenario::parse(text, "x").unwrap();
    let workload = &scenario.workload;
    assert_eq!(workload.abandon_rate, 100_000);
    assert!(workload.kind.has_transactions());
    assert_eq!((workload.keys, workload.operations_max), (16, 5));
}
