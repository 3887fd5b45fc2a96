//! The store as the engine sees it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_core::id::{Address, Incarnation, NodeId};
use kv_core::node::{Event, Limits, NodeConfig};
use kv_core::rng::Rng as CoreRng;
use kv_core::time::Instant;
use kv_core::wire;
use kv_storage::OpenOptions;
use kv_storage::mutants::Mutants;
use kv_storage::vfs::{SimDisk, SimDiskCounters};

use super::availability;
use super::client::{Client, QUIET};
use super::disks::{
    self, FullDisks, RESERVE_BYTES, Repairs, SEGMENT_BYTES, SLACK_BYTES, tree_options,
};
use super::history::Recorder;
use super::invariants::Invariants;
use super::judge;
use super::replica::{Note, node_id, timings};
use super::server::{Home, Server};
use super::timeline::Timeline;
use crate::engine::{
    Boot, Check, Draw, FaultEvent, FaultKind, FaultSpec, IoToken, Measures, Operations, ProcessId,
    Rng, Step, System, Violation, World,
};
use crate::scenario::{AvailabilityCheck, Expect, Scenario};

const CLUSTER_NAME: &str = "sim";

/// Calls of a Vfs among which a crash chooses: a write of the log with a new segment and a release,
/// and a step of the engine, make about as many.
const CALLS_PER_WRITE_MAX: u64 = 24;

/// The store: its disks, what the checks remember, and the clients' history.
#[derive(Debug)]
pub struct KvSystem {
    scenario: Scenario,
    mutants: Mutants,
    disks: BTreeMap<ProcessId, SimDisk>,
    invariants: Invariants,
    recorder: Recorder,
    quiet: Quiet,
    full_disks: FullDisks,
    repairs: Repairs,
    timeline: Timeline,
}

/// What the liveness phase has shown before the clients began to work again. The engine asks from
/// one thread; the cells are there because it asks through a shared reference.
#[derive(Debug, Default)]
struct Quiet {
    /// When the phase began; 0 before.
    began: AtomicU64,
    /// Whether the replicas were equal once while the clients were quiet.
    seen_equal: AtomicBool,
}

impl Quiet {
    /// Replicas must become equal by themselves: a new write would hide that they had not.
    fn check(&self, now: u64, equal: &Result<(), String>) -> Result<(), String> {
        let _ = self.began.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let is_quiet = Duration::from_nanos(now - self.began.load(Ordering::Relaxed)) < QUIET;
        if is_quiet && equal.is_ok() {
            self.seen_equal.store(true, Ordering::Relaxed);
        }
        match self.seen_equal.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("the replicas did not become equal without new work".into()),
        }
    }
}

impl KvSystem {
    /// A cluster of empty disks.
    pub(super) fn new(scenario: &Scenario, mutants: Mutants) -> Result<Self, String> {
        let system = Self {
            scenario: scenario.clone(),
            mutants,
            disks: (0..scenario.cluster.nodes)
                .map(|index| (ProcessId::Server(index), SimDisk::new()))
                .collect(),
            invariants: Invariants::default(),
            recorder: Recorder::new(scenario.workload.kind),
            quiet: Quiet::default(),
            full_disks: FullDisks::default(),
            repairs: Repairs::default(),
            timeline: Timeline::new(scenario),
        };
        system.config(NodeId(1)).validate().map_err(|errors| errors.to_string())?;
        Ok(system)
    }

    fn config(&self, id: NodeId) -> NodeConfig {
        let cluster = &self.scenario.cluster;
        let nodes = (1..=u64::from(cluster.nodes)).map(NodeId);
        let peers = nodes.map(|node| (node, Address(node.to_string()))).collect();
        NodeConfig {
            shard_count: cluster.shards,
            replica_count: cluster.replicas,
            timings: timings(cluster),
            limits: Limits { slack_bytes: SLACK_BYTES, ..Limits::default() },
            ..NodeConfig::new(id, CLUSTER_NAME, peers)
        }
    }
}

impl KvSystem {
    /// A server may call its data damaged only if its disk was.
    fn check_damage(&self, server: ProcessId, event: &Event) -> Result<(), Violation> {
        match event {
            Event::Damaged(damage) if self.disks[&server].counters().bits_rotten == 0 => {
                let detail = format!("{server} on a disk that did nothing wrong: {damage}");
                Err(Violation { check: "false-damage", detail })
            }
            _ => Ok(()),
        }
    }
}

impl System for KvSystem {
    type Note = Note;
    type Server = Server;
    type Client = Client;

    fn boot(&mut self, boot: Boot) -> Result<Server, String> {
        let id = node_id(boot.process);
        let fresh_incarnation = Incarnation(CoreRng::fork(boot.seed, "incarnation").next_u64());
        let options = OpenOptions {
            log_segment_bytes: SEGMENT_BYTES,
            tree: tree_options(self.mutants),
            ..OpenOptions::new(CLUSTER_NAME, id, fresh_incarnation)
        };
        let (disk, config) = (self.disks[&boot.process].clone(), self.config(id));
        let home = Home { disk, options, config, seed: boot.seed };
        Server::boot(home, Instant::from_nanos(boot.now))
    }

    fn client(&mut self, boot: Boot) -> Client {
        Client::new(&self.scenario, boot)
    }

    fn crash(
        &mut self,
        server: ProcessId,
        machine: &mut Server,
        in_flight: &[IoToken],
        rng: &mut Rng,
    ) {
        self.invariants.on_crash(server);
        let disk = &self.disks[&server];
        if !in_flight.is_empty() {
            if rng.chance(500_000) {
                disk.fail_from_sync();
            } else {
                disk.fail_from_call(rng.below(CALLS_PER_WRITE_MAX));
            }
            machine.crash_during_io();
        }
        disk.crash(&mut CoreRng::fork(rng.next_u64(), "crash"));
    }

    fn after_server_step(
        &mut self,
        step: Step,
        _machine: &Server,
        notes: &mut Vec<Note>,
    ) -> Result<(), Violation> {
        for note in notes.drain(..) {
            match note {
                Note::Node(event) => {
                    self.check_damage(step.process, &event)?;
                    self.repairs.on_event(step.process, &event);
                    self.timeline.on_event(step.now, step.process, &event);
                    self.invariants.on_event(step.process, &event)?;
                }
                Note::Applied(applied) => self.invariants.on_applied(step.process, &applied)?,
                Note::Client(_) => {}
            }
        }
        Ok(())
    }

    fn after_client_step(
        &mut self,
        step: Step,
        _machine: &Client,
        notes: &mut Vec<Note>,
    ) -> Result<(), Violation> {
        for note in notes.drain(..) {
            if let Note::Client(event) = note {
                self.full_disks.on_client(&event);
                self.timeline.on_client(step.now, &event);
                self.recorder.record(step.now, &event);
            }
        }
        Ok(())
    }

    fn on_fault(&mut self, now: u64, fault: &FaultEvent, lasting: u32) {
        self.timeline.on_fault(now, fault, lasting);
        self.recorder.history.push_fault(now, &fault.kind.to_string());
    }

    fn rot(&mut self, server: ProcessId, rng: &mut Rng) -> Option<String> {
        disks::rot(&self.disks[&server], rng)
    }

    fn set_full(&mut self, server: ProcessId, is_full: bool, rng: &mut Rng) {
        let disk = &self.disks[&server];
        disk.set_capacity(is_full.then(|| disk.used_space() + rng.below(RESERVE_BYTES)));
        self.full_disks.set(server, is_full, self.disks.len());
    }

    fn set_slow(&mut self, now: u64, server: ProcessId, is_slow: bool) {
        self.timeline.on_slow(now, server, is_slow);
    }

    fn fault_count(&self, kind: FaultKind) -> Option<u64> {
        let sum = |count: fn(SimDiskCounters) -> u64| {
            Some(self.disks.values().map(|disk| count(disk.counters())).sum())
        };
        match kind {
            FaultKind::BitRot => sum(|counters| counters.bits_rotten),
            FaultKind::TornWrite => {
                sum(|counters| counters.torn + counters.zeroed + counters.reordered)
            }
            _ => None,
        }
    }

    fn leaders(&self) -> Vec<ProcessId> {
        self.invariants.leaders()
    }

    fn converged(&self, world: &World<'_, Self>) -> Result<(), String> {
        if self.scenario.expect == Expect::Refusal {
            return judge::refused(world);
        }
        let equal = judge::equal_replicas(world);
        let became_equal = self.quiet.check(world.now(), &equal);
        equal.and(became_equal).and_then(|()| judge::served(world))
    }

    fn finish(&mut self, world: &World<'_, Self>) -> Vec<Check> {
        let history = &self.recorder.history;
        let shard_count = self.scenario.cluster.shards;
        let kinds = || self.scenario.faults.iter().map(FaultSpec::kind);
        let may_rot = kinds().any(|kind| kind == FaultKind::BitRot);
        let mut checks = vec![
            Check::pass("one-leader-per-term", "no term of a shard had two"),
            Check::pass("commit-rule", "every leader committed by an entry of its own term"),
            Check::pass("contradiction", "nobody said what cannot be true"),
            Check::pass("same-entries", "all replicas applied the same"),
            Check::pass("same-states", "and came to the same states"),
            match self.scenario.expect {
                _ if !world.is_complete() => Check::skipped("durability", "the run ended before"),
                Expect::Convergence => judge::durability(history, world, shard_count, may_rot),
                Expect::Refusal => Check::skipped("durability", "what is damaged is not there"),
            },
            judge::linearizability(history),
        ];
        for kind in kinds() {
            match kind {
                FaultKind::BitRot => checks.push(self.repairs.judge()),
                FaultKind::DiskFull => checks.push(self.full_disks.judge()),
                _ => {}
            }
        }
        self.timeline.finish();
        let judge = |check: &AvailabilityCheck| match world.is_complete() {
            true => availability::judge(*check, &self.timeline),
            false => Check::skipped(check.fault().name(), "the run ended before"),
        };
        checks.extend(self.scenario.checks.iter().map(judge));
        checks
    }

    fn measures(&self) -> Measures {
        self.timeline.measures()
    }

    fn operations(&self) -> Operations {
        self.recorder.operations
    }

    fn write_history(&self, out: &mut dyn io::Write) -> io::Result<()> {
        kv_check::write_to(&self.recorder.history, out)
    }

    fn describe(from: ProcessId, _to: ProcessId, bytes: &[u8]) -> String {
        match wire::decode(bytes) {
            Ok(frame) => format!("from {from}: {frame:?}"),
            Err(error) => format!("from {from}: {error}"),
        }
    }
}
