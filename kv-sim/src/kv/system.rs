//! The store as the engine sees it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_core::cluster::ClusterMap;
use kv_core::id::{Incarnation, NodeId};
use kv_core::node::{Event, Node};
use kv_core::ring;
use kv_core::rng::Rng as CoreRng;
use kv_core::time::Instant;
use kv_core::wire;
use kv_storage::mutants::Mutants;
use kv_storage::vfs::{SimDisk, SimDiskCounters};

use super::availability;
use super::caller::Caller;
use super::client::{Client, quiet};
use super::disks::{self, FullDisks, RESERVE_BYTES, Repairs};
use super::invariants::Invariants;
use super::judge;
use super::membership::{Changes, settled};
use super::operator::Operator;
use super::record::Record;
use super::replica::{Note, address_of};
use super::server::{Server, Settings, empty_identity, node_config};
use super::sessions::SessionClient;
use super::timeline::Timeline;
use super::txn::{Planter, Ring, TxnClient};
use crate::engine::{
    Boot, Check, Draw, FaultEvent, FaultKind, FaultSpec, IoToken, Measures, Operations, ProcessId,
    Rng, Step, System, Violation, World,
};
use crate::scenario::{AvailabilityCheck, Expect, Scenario, WorkloadKind};

/// Calls of a Vfs among which a crash chooses: a write of the log with a new segment and a release,
/// and a step of the engine, make about as many.
const CALLS_PER_WRITE_MAX: u64 = 24;

/// The store: its disks, what the checks remember, and the clients' history.
#[derive(Debug)]
pub struct KvSystem {
    scenario: Scenario,
    mutants: Mutants,
    disks: BTreeMap<ProcessId, SimDisk>,
    /// Servers whose disks are still those that form the cluster, with the ids of their nodes.
    founders: BTreeMap<ProcessId, NodeId>,
    /// The newest map that any server has had.
    map: Option<ClusterMap>,
    changes: Changes,
    invariants: Invariants,
    record: Record,
    quiet: Quiet,
    full_disks: FullDisks,
    repairs: Repairs,
    timeline: Timeline,
}

/// What the liveness phase has shown before the clients began to work again. The engine asks from
/// one thread; the cells are there because it asks through a shared reference.
#[derive(Debug)]
struct Quiet {
    /// How long clients are quiet.
    length: Duration,
    /// When the phase began; 0 before.
    began: AtomicU64,
    /// Whether the replicas were equal once while the clients were quiet.
    seen_equal: AtomicBool,
}

impl Quiet {
    fn new(length: Duration) -> Self {
        Self { length, began: AtomicU64::new(0), seen_equal: AtomicBool::new(false) }
    }

    /// Replicas must become equal by themselves: a new write would hide that they had not.
    fn check(&self, now: u64, equal: &Result<(), String>) -> Result<(), String> {
        let _ = self.began.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let is_quiet = Duration::from_nanos(now - self.began.load(Ordering::Relaxed)) < self.length;
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
        let cluster = &scenario.cluster;
        node_config(cluster, &empty_identity(NodeId(1)))
            .validate()
            .map_err(|errors| errors.to_string())?;
        let servers = (0..cluster.nodes + cluster.spares).map(ProcessId::Server);
        let founders = (0..cluster.nodes).map(ProcessId::Server).zip((1..).map(NodeId));
        let founders = founders.collect();
        Ok(Self {
            scenario: scenario.clone(),
            mutants,
            disks: servers.map(|server| (server, SimDisk::new())).collect(),
            founders,
            map: None,
            changes: Changes::default(),
            invariants: Invariants::default(),
            record: Record::new(scenario),
            quiet: Quiet::new(quiet(scenario)),
            full_disks: FullDisks::default(),
            repairs: Repairs::default(),
            timeline: Timeline::new(scenario),
        })
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

    fn on_node_event(
        &mut self,
        step: Step,
        node: Option<&Node>,
        event: &Event,
    ) -> Result<(), Violation> {
        let Some(node) = node else { return Ok(()) };
        self.check_damage(step.process, event)?;
        self.repairs.on_event(step.process, event);
        match event {
            Event::Joined => {
                if let Some(record) = &node.identity().cluster {
                    self.invariants.on_formed(&ring::initial_map(record));
                }
            }
            Event::MapChanged { version } => {
                let is_new = self.map.as_ref().is_none_or(|map| map.version < *version);
                self.map = node.map().filter(|_| is_new).cloned().or_else(|| self.map.take());
            }
            _ => {}
        }
        self.timeline.on_event(step.now, step.process, event);
        self.record.on_node_event(step.process, event);
        self.invariants.on_event(step.process, node, self.map.as_ref(), event)
    }
}

impl System for KvSystem {
    type Note = Note;
    type Server = Server;
    type Client = Caller;

    fn boot(&mut self, boot: Boot) -> Result<Server, String> {
        let fresh_incarnation = Incarnation(CoreRng::fork(boot.seed, "incarnation").next_u64());
        let settings = Settings {
            cluster: self.scenario.cluster.clone(),
            mutants: self.mutants,
            disk: self.disks[&boot.process].clone(),
            seed: boot.seed,
            founder: self.founders.get(&boot.process).copied(),
        };
        Server::boot(settings, fresh_incarnation, Instant::from_nanos(boot.now))
    }

    fn client(&mut self, boot: Boot) -> Caller {
        match (boot.process, self.scenario.membership()) {
            (ProcessId::Client(index), Some(plan)) if index >= self.scenario.workload.clients => {
                Caller::Operator(Box::new(Operator::new(&self.scenario, plan, boot)))
            }
            _ if self.scenario.workload.kind == WorkloadKind::Deadlock => {
                Caller::Planter(Box::new(Planter::new(&self.scenario, boot)))
            }
            _ if self.scenario.workload.kind == WorkloadKind::Sessions => {
                Caller::SessionClient(Box::new(SessionClient::new(&self.scenario, boot)))
            }
            _ if self.scenario.workload.kind.has_transactions() => {
                Caller::TxnClient(Box::new(TxnClient::new(&self.scenario, boot)))
            }
            _ => Caller::Client(Box::new(Client::new(&self.scenario, boot))),
        }
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
        machine: &Server,
        notes: &mut Vec<Note>,
    ) -> Result<(), Violation> {
        for note in notes.drain(..) {
            match note {
                Note::Node(event) => {
                    let node = machine.replica().map(|replica| replica.node());
                    self.on_node_event(step, node, &event)?;
                }
                Note::Applied(applied) => self.invariants.on_applied(step.process, &applied)?,
                Note::Wiped => {
                    self.founders.remove(&step.process);
                    self.invariants.on_wipe(step.process);
                }
                Note::Misapplied(shard) => self.invariants.on_misapplied(step.process, shard),
                Note::Forgotten(shard) => self.invariants.on_forgotten(step.process, shard),
                Note::Client(_)
                | Note::Txn(_)
                | Note::Session(_)
                | Note::Ring { .. }
                | Note::Timestamp(_)
                | Note::Operator(_) => {}
            }
        }
        Ok(())
    }

    fn after_client_step(
        &mut self,
        step: Step,
        _machine: &Caller,
        notes: &mut Vec<Note>,
    ) -> Result<(), Violation> {
        for note in notes.drain(..) {
            self.record.on_note(step.now, &note);
            match note {
                Note::Client(event) => {
                    self.full_disks.on_client(&event);
                    self.timeline.on_client(step.now, &event);
                }
                Note::Txn(event) => self.timeline.on_txn(step.now, &event),
                Note::Operator(event) => self.changes.on_event(event),
                Note::Node(_)
                | Note::Session(_)
                | Note::Ring { .. }
                | Note::Timestamp(_)
                | Note::Applied(_)
                | Note::Wiped
                | Note::Misapplied(_)
                | Note::Forgotten(_) => {}
            }
        }
        Ok(())
    }

    fn on_fault(&mut self, now: u64, fault: &FaultEvent, lasting: u32) {
        self.timeline.on_fault(now, fault, lasting);
        self.record.push_fault(now, fault.kind);
    }

    fn rot(&mut self, server: ProcessId, rng: &mut Rng) -> Option<String> {
        disks::rot(&self.disks[&server], rng)
    }

    fn set_full(&mut self, server: ProcessId, is_full: bool, rng: &mut Rng) {
        let disk = &self.disks[&server];
        disk.set_capacity(is_full.then(|| disk.used_space() + rng.below(RESERVE_BYTES)));
        self.full_disks.set(server, is_full, self.disks.len());
    }

    fn misapply(&mut self, machine: &mut Server) {
        machine.misapply();
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
            FaultKind::Membership => Some(self.changes.sum()),
            FaultKind::Misapply => Some(self.invariants.misapplied()),
            _ => None,
        }
    }

    fn is_member(&self, server: ProcessId) -> bool {
        let address = address_of(server);
        match &self.map {
            None => self.founders.contains_key(&server),
            Some(map) => map.members.iter().any(|member| member.address == address),
        }
    }

    fn leaders(&self) -> Vec<ProcessId> {
        self.invariants.leaders()
    }

    fn converged(&self, world: &World<'_, Self>) -> Result<(), String> {
        if self.scenario.expect == Expect::Refusal {
            return judge::refused(world);
        }
        let changes = self.scenario.membership().map_or(Ok(()), |_| settled(world));
        let equal = changes.and_then(|()| judge::equal_replicas(world));
        let became_equal = self.quiet.check(world.now(), &equal);
        equal.and(became_equal).and_then(|()| judge::served(world))
    }

    fn finish(&mut self, world: &World<'_, Self>) -> Vec<Check> {
        let kinds = || self.scenario.faults.iter().map(FaultSpec::kind);
        let mut checks = vec![
            Check::pass("one-leader-per-term", "no term of a shard had two"),
            Check::pass("commit-rule", "every leader committed by an entry of its own term"),
            Check::pass("contradiction", "nobody said what cannot be true"),
            Check::pass("same-entries", "all replicas applied the same"),
            Check::pass("same-states", "and came to the same states"),
            Check::pass("quorums-overlap", "no two quorums could decide at once"),
            Check::pass("members-lead", "who led was a voter and knew it"),
            Check::pass("one-life-per-node", "nobody took part without its data"),
        ];
        checks.extend(self.record.judge(&self.scenario, &self.timeline, world));
        for kind in kinds() {
            match kind {
                FaultKind::BitRot => checks.push(self.repairs.judge()),
                FaultKind::DiskFull => checks.push(self.full_disks.judge()),
                FaultKind::Misapply => checks.push(self.invariants.judge_misapplied()),
                _ => {}
            }
        }
        if let Some(plan) = self.scenario.membership() {
            checks.push(self.changes.judge(plan, &self.invariants));
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
        let rings = self.record.rings();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let calm = |ring: &Ring| milliseconds(ring.calm(&self.timeline));
        Measures {
            deadlocks_ms: rings.iter().map(|ring| milliseconds(ring.lasted())).collect(),
            deadlocks_calm_ms: rings.iter().map(calm).collect(),
            ..self.timeline.measures()
        }
    }

    fn operations(&self) -> Operations {
        self.record.operations()
    }

    fn write_history(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.record.write_to(out)
    }

    fn describe(from: ProcessId, _to: ProcessId, bytes: &[u8]) -> String {
        match wire::decode(bytes) {
            Ok(frame) => format!("from {from}: {frame:?}"),
            Err(error) => format!("from {from}: {error}"),
        }
    }
}
