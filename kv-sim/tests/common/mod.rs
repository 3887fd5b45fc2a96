//! A toy protocol: a primary that counts, and backups that copy the count. It shows that the engine
//! can simulate something else than the store, and it is small enough to know what the engine
//! should do with it.
//!
//! `n1` is the primary. A client sends it an addition; the primary writes the new count to its
//! disk, then sends it to the backups and answers. A backup writes what it is sent. Nothing is
//! retried on the network except by clients, which ask again after a timeout, so a client's
//! operation may count twice: the toy promises only that an acknowledged count is never lost by the
//! primary, whatever crashes.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "for tests, each of which uses a part of the toy"
)]

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kv_sim::engine::{
    Boot, Check, Draw as _, Input, Io, IoToken, Kind, LinkRng, Machine, Measures, Operations,
    Outbox, Phase, ProcessId, Rng, RunConfig, Step, System, Tracer, Violation, World,
};
use kv_sim::protocol::{Mutant, Protocol};
use kv_sim::scenario::Scenario;

const PRIMARY: ProcessId = ProcessId::Server(0);
const SECOND: u64 = 1_000_000_000;

/// What survives a crash of one server.
#[derive(Debug, Default)]
pub struct Disk {
    pub boots: AtomicU64,
    pub count: AtomicU64,
}

/// Observations from outside of the simulation.
#[derive(Debug, Default)]
pub struct Witness {
    /// Machines made and machines dropped.
    pub made: AtomicU64,
    pub dropped: AtomicU64,
    /// The largest number of steps that a machine remembered when it was dropped, and at its own
    /// first step.
    pub steps_at_drop: AtomicU64,
    pub steps_at_start: AtomicU64,
}

pub enum Note {
    Acknowledged(u64),
    Written(u64),
}

pub struct Server {
    me: ProcessId,
    servers: u16,
    disk: Arc<Disk>,
    witness: Arc<Witness>,
    defect: Defect,
    /// In memory only.
    steps: u64,
    count: u64,
    next_io: u64,
    waiting: Vec<(IoToken, u64, Option<ProcessId>)>,
    beat_at: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.witness.dropped.fetch_add(1, Ordering::Relaxed);
        self.witness.steps_at_drop.fetch_max(self.steps, Ordering::Relaxed);
    }
}

impl Server {
    fn write(&mut self, count: u64, answer: Option<ProcessId>, out: &mut Outbox<Note>) {
        self.next_io += 1;
        let token = IoToken(self.next_io);
        out.record(Kind::StorageRequest, &count.to_le_bytes(), || format!("write {count}"));
        out.start_io(Io { token, bytes: 8, sync: true });
        self.waiting.push((token, count, answer));
        if self.defect == Defect::EarlyAnswer {
            self.answer(count, answer, out);
        }
    }

    fn answer(&self, count: u64, answer: Option<ProcessId>, out: &mut Outbox<Note>) {
        if let Some(client) = answer {
            out.note(Note::Acknowledged(count));
            out.send(client, Bytes::copy_from_slice(&count.to_le_bytes()));
        }
    }

    fn on_written(&mut self, token: IoToken, out: &mut Outbox<Note>) {
        let position = self.waiting.iter().position(|(waiting, ..)| *waiting == token).unwrap();
        let (_, count, answer) = self.waiting.remove(position);
        self.disk.count.fetch_max(count, Ordering::Relaxed);
        out.note(Note::Written(count));
        if self.defect != Defect::EarlyAnswer {
            self.answer(count, answer, out);
        }
        if self.me == PRIMARY {
            for other in (1..self.servers).map(ProcessId::Server) {
                out.send(other, Bytes::copy_from_slice(&count.to_le_bytes()));
            }
        }
    }
}

impl Machine for Server {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        if matches!(input, Input::Start) {
            self.witness.steps_at_start.fetch_max(self.steps, Ordering::Relaxed);
        }
        self.steps += 1;
        match input {
            Input::Deliver { from: client @ ProcessId::Client(_), .. } => {
                self.count += 1;
                assert!(
                    self.defect != Defect::Panic || self.count < 100,
                    "the toy counts to a hundred only"
                );
                self.write(self.count, Some(client), out);
            }
            Input::Deliver { bytes, .. } => {
                let count = u64::from_le_bytes(bytes[..].try_into().unwrap());
                if count > self.count {
                    self.count = count;
                    self.write(count, None, out);
                }
            }
            Input::IoDone(token) => self.on_written(token, out),
            Input::Link { .. } => {}
            Input::Timer if self.defect == Defect::Stuck => {}
            Input::Timer => {
                self.beat_at = now + SECOND;
                if self.me == PRIMARY {
                    self.write(self.count, None, out);
                }
            }
            Input::Start | Input::Phase(_) => self.beat_at = now + SECOND,
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.beat_at)
    }
}

pub struct Client {
    me: ProcessId,
    rng: LinkRng,
    payload: u8,
    pause: u64,
    done: u64,
    deadline: u64,
    asked: bool,
    stopped: bool,
}

impl Machine for Client {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        match input {
            Input::Start => self.deadline = now + self.rng.below(self.pause + 1),
            Input::Phase(phase) => self.stopped = phase == Phase::Liveness,
            Input::Deliver { .. } if self.asked => {
                self.asked = false;
                self.done += 1;
                out.record(Kind::Reply, &self.done.to_le_bytes(), || "added".into());
                self.deadline = now + self.pause;
                if self.pause == 0 && !self.stopped {
                    self.ask(now, out);
                }
            }
            Input::Deliver { .. } | Input::IoDone(_) | Input::Link { .. } => {}
            Input::Timer => self.ask(now, out),
        }
    }

    fn deadline(&self) -> Option<u64> {
        (!self.stopped).then_some(self.deadline)
    }
}

impl Client {
    fn ask(&mut self, now: u64, out: &mut Outbox<Note>) {
        self.asked = true;
        self.deadline = now + SECOND;
        out.record(Kind::Call, &[self.payload], || "add".into());
        out.send(PRIMARY, Bytes::from(vec![self.payload; 64]));
    }
}

/// What is wrong with the toy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defect {
    #[default]
    None,
    Panic,
    EarlyAnswer,
    Stuck,
    NoRestart,
}

#[derive(Default)]
pub struct Toy {
    pub servers: u16,
    pub disks: Vec<Arc<Disk>>,
    pub witness: Arc<Witness>,
    pub defect: Defect,
    pub payload: u8,
    /// Nanoseconds between two additions of a client.
    pub pause: u64,
    /// What it claims to have measured.
    pub measures: Measures,
    acknowledged: u64,
    operations: Operations,
}

impl Toy {
    pub fn new(servers: u16, pause: u64) -> Self {
        let disks = (0..servers).map(|_| Arc::default()).collect();
        Self { servers, disks, pause, ..Self::default() }
    }
}

impl System for Toy {
    type Note = Note;
    type Server = Server;
    type Client = Client;

    fn boot(&mut self, boot: Boot) -> Result<Server, String> {
        let ProcessId::Server(index) = boot.process else { return Err("not a server".into()) };
        if self.defect == Defect::NoRestart && boot.restart_count > 0 {
            return Err("the disk is gone".into());
        }
        let disk = Arc::clone(&self.disks[usize::from(index)]);
        disk.boots.fetch_add(1, Ordering::Relaxed);
        self.witness.made.fetch_add(1, Ordering::Relaxed);
        Ok(Server {
            me: boot.process,
            servers: self.servers,
            count: disk.count.load(Ordering::Relaxed),
            disk,
            witness: Arc::clone(&self.witness),
            defect: self.defect,
            steps: 0,
            next_io: 0,
            waiting: Vec::new(),
            beat_at: boot.now,
        })
    }

    fn client(&mut self, boot: Boot) -> Client {
        Client {
            me: boot.process,
            rng: LinkRng::new(boot.seed, 0),
            payload: self.payload,
            pause: self.pause,
            done: 0,
            deadline: boot.now,
            asked: false,
            stopped: false,
        }
    }

    fn crash(&mut self, _: ProcessId, server: &mut Server, in_flight: &[IoToken], rng: &mut Rng) {
        assert_eq!(
            in_flight.len(),
            server.waiting.len(),
            "what is in flight is what the machine waits for"
        );
        for (_, count, _) in server.waiting.drain(..) {
            // A write in flight may have reached the disk; those behind it have not.
            if !rng.chance(500_000) {
                break;
            }
            server.disk.count.fetch_max(count, Ordering::Relaxed);
        }
    }

    fn after_server_step(
        &mut self,
        step: Step,
        server: &Server,
        notes: &mut Vec<Note>,
    ) -> Result<(), Violation> {
        for note in notes.drain(..) {
            if let Note::Acknowledged(count) = note {
                self.acknowledged = self.acknowledged.max(count);
                self.operations.ok += 1;
            }
        }
        if step.process == PRIMARY && server.count < self.acknowledged {
            let detail = format!(
                "{} was acknowledged, the primary is at {}",
                self.acknowledged, server.count
            );
            return Err(Violation { check: "durability", detail });
        }
        Ok(())
    }

    fn after_client_step(
        &mut self,
        _: Step,
        _: &Client,
        _: &mut Vec<Note>,
    ) -> Result<(), Violation> {
        Ok(())
    }

    fn leaders(&self) -> Vec<ProcessId> {
        vec![PRIMARY]
    }

    fn converged(&self, world: &World<'_, Self>) -> Result<(), String> {
        let counts: Vec<u64> =
            world.servers().filter_map(|(_, server)| Some(server?.count)).collect();
        let equal = counts.len() == usize::from(self.servers)
            && counts.iter().all(|count| *count == counts[0]);
        if equal { Ok(()) } else { Err(format!("counts {counts:?}")) }
    }

    fn finish(&mut self, _: &World<'_, Self>) -> Vec<Check> {
        vec![Check::pass("durability", format!("{} acknowledged", self.acknowledged))]
    }

    fn operations(&self) -> Operations {
        self.operations
    }

    fn measures(&self) -> Measures {
        self.measures.clone()
    }

    fn write_history(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.acknowledged)
    }
}

/// The toy on the command line.
pub struct ToyProtocol;

impl Protocol for ToyProtocol {
    type System = Toy;

    fn system(&self, scenario: &Scenario, _seed: u64, mutant: Option<&str>) -> Result<Toy, String> {
        if scenario.description == "unsuitable" {
            return Err("the toy does not like it".into());
        }
        let pause = scenario.workload.rate_per_client.map_or(0, |rate| (1e9 / rate) as u64);
        let defect = match mutant {
            Some("early-answer") => Defect::EarlyAnswer,
            Some("no-restart") => Defect::NoRestart,
            _ => Defect::None,
        };
        let measures = Measures {
            first_writes_ms: vec![1.0; if scenario.description == "heals" { 98 } else { 0 }],
            first_write_bound_ms: Some(10.0),
            ..Measures::default()
        };
        let mut toy = Toy { defect, measures, ..Toy::new(scenario.cluster.nodes, pause) };
        if scenario.description == "heals" {
            toy.measures.first_writes_ms.extend([11.0; 2]);
        }
        Ok(toy)
    }

    fn mutants(&self) -> &[Mutant] {
        &[
            Mutant {
                id: "early-answer",
                summary: "answers before the write has ended",
                scenario: "kv-sim/tests/scenarios/crash.toml",
                check: "durability",
            },
            Mutant {
                id: "no-restart",
                summary: "cannot start again",
                scenario: "kv-sim/tests/scenarios/crash.toml",
                check: "durability",
            },
        ]
    }
}

/// A run on a fresh thread.
pub struct Ran {
    pub outcome: kv_sim::engine::Outcome,
    pub toy: Toy,
}

pub fn run(config: RunConfig, toy: Toy) -> Ran {
    let body = move || {
        let finished = kv_sim::engine::run(&config, toy, Tracer::new(None), &AtomicU64::new(0));
        Ran { outcome: finished.outcome, toy: finished.system }
    };
    std::thread::spawn(body).join().unwrap()
}

pub fn scenario(text: &str) -> Scenario {
    Scenario::parse(text, "test").unwrap()
}
