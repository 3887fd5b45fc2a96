//! What a protocol supplies to be simulated.
//!
//! The engine steps processes, moves messages and injects faults; it knows nothing of what the
//! processes are for. A [`System`] makes the processes, keeps what survives a crash of theirs (the
//! disks), and judges what they do: after each step, at the end of the run, and on whether they
//! have converged once all faults are healed.

use std::fmt;
use std::io;
use std::sync::MutexGuard;

use super::fault::{FaultEvent, FaultKind};
use super::machine::{IoToken, Machine, ProcessId};
use super::measures::Measures;
use super::rng::Rng;

/// A protocol under simulation.
pub trait System: Send + Sized + 'static {
    /// What machines tell [`System::after_server_step`] and [`System::after_client_step`].
    type Note: Send + 'static;
    /// A server.
    type Server: Machine<Note = Self::Note>;
    /// A client.
    type Client: Machine<Note = Self::Note>;

    /// Starts a life of a server, from whatever its disk holds. An error is a failed check named
    /// `recovery`.
    fn boot(&mut self, boot: Boot) -> Result<Self::Server, String>;

    /// Makes a client.
    fn client(&mut self, boot: Boot) -> Self::Client;

    /// A server crashes. Its machine is dropped right after this call. `in_flight` names the
    /// storage operations whose time was not over, in order: each may have been carried out in
    /// part. Here unsynced data is lost.
    fn crash(
        &mut self,
        server: ProcessId,
        machine: &mut Self::Server,
        in_flight: &[IoToken],
        rng: &mut Rng,
    );

    /// A server took a step. All notes are to be taken out of `notes`; what is left is dropped.
    fn after_server_step(
        &mut self,
        step: Step,
        machine: &Self::Server,
        notes: &mut Vec<Self::Note>,
    ) -> Result<(), Violation>;

    /// A client took a step.
    fn after_client_step(
        &mut self,
        step: Step,
        machine: &Self::Client,
        notes: &mut Vec<Self::Note>,
    ) -> Result<(), Violation>;

    /// A fault begins, goes on or ends. `lasting` faults have begun and not ended after that, those
    /// left out that strike single messages. The healing at the end of the safety phase is not told.
    fn on_fault(&mut self, _now: u64, _fault: &FaultEvent, _lasting: u32) {}

    /// Changes bits of what is durable on a server's disk, up or down. Says which; none if there is
    /// nothing yet.
    fn rot(&mut self, _server: ProcessId, _rng: &mut Rng) -> Option<String> {
        None
    }

    /// Fills a server's disk, or makes room on it. May be told again what is so already.
    fn set_full(&mut self, _server: ProcessId, _is_full: bool, _rng: &mut Rng) {}

    /// Makes a server apply something else than what is in its log, when it next can.
    fn misapply(&mut self, _machine: &mut Self::Server) {}

    /// A server's disk becomes slow, or is itself again. The engine takes care of the time that it
    /// takes; checks may want to know. The healing at the end of the safety phase is not told.
    fn set_slow(&mut self, _now: u64, _server: ProcessId, _is_slow: bool) {}

    /// How often a kind of fault struck, where only the system can tell.
    fn fault_count(&self, _kind: FaultKind) -> Option<u64> {
        None
    }

    /// The servers that lead something at the moment: some faults aim at them.
    fn leaders(&self) -> Vec<ProcessId>;

    /// Whether the others count on the server: crashes and pauses leave a majority of those.
    fn is_member(&self, _server: ProcessId) -> bool {
        true
    }

    /// In the liveness phase: whether everything is as it should be when nothing is broken any
    /// more. The error says what is missing.
    fn converged(&self, world: &World<'_, Self>) -> Result<(), String>;

    /// Judges the whole run. Called once, after the last step, outside of simulated time.
    fn finish(&mut self, world: &World<'_, Self>) -> Vec<Check>;

    /// What became of the clients' operations so far.
    fn operations(&self) -> Operations;

    /// What was measured beside the verdicts. Asked for once, after the last step.
    fn measures(&self) -> Measures {
        Measures::default()
    }

    /// Writes the history of the clients' operations.
    fn write_history(&self, out: &mut dyn io::Write) -> io::Result<()>;

    /// A message in words, for the text trace.
    fn describe(from: ProcessId, _to: ProcessId, bytes: &[u8]) -> String {
        format!("from {from}, {} bytes", bytes.len())
    }
}

/// The start of one life of a process.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Who.
    pub process: ProcessId,
    /// How many lives the process had before.
    pub restart_count: u32,
    /// Seeds the random generators of this life.
    pub seed: u64,
    /// The process's own clock.
    pub now: u64,
}

/// One step of a process.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Who took it.
    pub process: ProcessId,
    /// True time, in nanoseconds since the start of the run.
    pub now: u64,
}

/// Something that must never be so. The run ends at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the check that found it.
    pub check: &'static str,
    /// What was seen, and what was expected.
    pub detail: String,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckVerdict {
    /// It holds.
    Pass,
    /// It is violated.
    Fail,
    /// The run did not show enough to tell.
    Invalid,
    /// It was not made, because the run had ended before.
    Skipped,
}

impl fmt::Display for CheckVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Invalid => "invalid",
            Self::Skipped => "skipped",
        })
    }
}

/// One check of a run, and what it came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// Its name, stable over releases.
    pub name: String,
    /// What it came to.
    pub verdict: CheckVerdict,
    /// What it looked at or what it found.
    pub detail: String,
}

impl Check {
    /// A check that holds.
    pub fn pass(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: CheckVerdict::Pass, detail: detail.into() }
    }

    /// A check that is violated.
    pub fn fail(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: CheckVerdict::Fail, detail: detail.into() }
    }

    /// A check that was not made.
    pub fn skipped(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: CheckVerdict::Skipped, detail: detail.into() }
    }

    /// A check that could not tell.
    pub fn invalid(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: CheckVerdict::Invalid, detail: detail.into() }
    }
}

/// What became of the clients' operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Operations {
    /// Acknowledged.
    pub ok: u64,
    /// Ended without effect.
    pub failed: u64,
    /// Ended without anybody knowing whether they took effect.
    pub unknown: u64,
}

/// All processes, between two steps.
pub struct World<'a, S: System> {
    pub(crate) now: u64,
    pub(crate) is_complete: bool,
    pub(crate) servers: Vec<MutexGuard<'a, Option<S::Server>>>,
    pub(crate) clients: Vec<&'a S::Client>,
}

impl<S: System> World<'_, S> {
    /// True time, in nanoseconds since the start of the run.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Whether the run came to its end. One that a violation ended early leaves replicas that had no
    /// time to catch up.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Every server; none for one that is down.
    pub fn servers(&self) -> impl Iterator<Item = (ProcessId, Option<&S::Server>)> {
        self.servers
            .iter()
            .enumerate()
            .map(|(index, slot)| (ProcessId::Server(index as u16), slot.as_ref()))
    }

    /// Every client.
    pub fn clients(&self) -> impl Iterator<Item = (ProcessId, &S::Client)> {
        self.clients
            .iter()
            .enumerate()
            .map(|(index, client)| (ProcessId::Client(index as u16), *client))
    }
}

impl<S: System> fmt::Debug for World<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now).finish_non_exhaustive()
    }
}
