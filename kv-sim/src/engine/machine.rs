//! The processes of a simulated world, and what they may do.

use std::fmt;

use bytes::Bytes;

use super::trace::{Kind, Tracer};

/// One process, counted from 0 within its kind and printed from 1: `n1` is the first server, `c1`
/// the first client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProcessId {
    /// A server: it has a disk, and it can crash, restart and pause.
    Server(u16),
    /// A client: it lives through the whole run.
    Client(u16),
}

impl ProcessId {
    /// One number for both kinds, for the trace.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Server(index) => u32::from(index),
            Self::Client(index) => 0x1_0000 + u32::from(index),
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(index) => write!(f, "n{}", u32::from(*index) + 1),
            Self::Client(index) => write!(f, "c{}", u32::from(*index) + 1),
        }
    }
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Faults happen; nothing may be wrong.
    Safety,
    /// All faults are healed and all servers run; the system must converge within a budget.
    Liveness,
}

/// Names a storage operation of one server. Chosen by the machine, unique within one life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoToken(pub u64);

/// A storage operation whose simulated time begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// Its name.
    pub token: IoToken,
    /// How much is written.
    pub bytes: u64,
    /// Whether it waits for the disk: the time of a sync is drawn, else only the bytes count.
    pub sync: bool,
}

/// What happens to a machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The first input of a life.
    Start,
    /// The run enters another phase. Only clients hear of it.
    Phase(Phase),
    /// A message has arrived.
    Deliver {
        /// Who sent it.
        from: ProcessId,
        /// All of it.
        bytes: Bytes,
    },
    /// The connection to a server broke off because its process ended, or stands again.
    Link {
        /// The server.
        peer: ProcessId,
        /// Whether it stands.
        is_up: bool,
    },
    /// The time of [`Machine::deadline`] has come.
    Timer,
    /// The simulated time of a storage operation is over: the machine carries it out, for real, in
    /// this very step.
    IoDone(IoToken),
}

/// One process of the simulated world.
pub trait Machine: Send + 'static {
    /// What the machine tells the system's checks.
    type Note: Send + 'static;

    /// Takes one input. `now` is this process's own clock, in nanoseconds.
    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Self::Note>);

    /// When to call again with [`Input::Timer`], on this process's own clock.
    /// After a timer was handled the deadline must lie ahead, or time would stand still.
    fn deadline(&self) -> Option<u64>;
}

/// What a machine wants done. Filled during one step.
pub struct Outbox<N> {
    pub(crate) sends: Vec<(ProcessId, Bytes)>,
    pub(crate) ios: Vec<Io>,
    pub(crate) notes: Vec<N>,
    pub(crate) tracer: Tracer,
    pub(crate) now: u64,
    pub(crate) process: ProcessId,
}

impl<N> Outbox<N> {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self {
            sends: Vec::new(),
            ios: Vec::new(),
            notes: Vec::new(),
            tracer,
            now: 0,
            process: ProcessId::Server(0),
        }
    }

    /// Sends a message. It may be lost, duplicated, delayed or overtaken, as the scenario says.
    pub fn send(&mut self, to: ProcessId, bytes: Bytes) {
        self.sends.push((to, bytes));
    }

    /// Starts a storage operation: [`Input::IoDone`] follows when its time is over. Only servers
    /// have a disk.
    pub fn start_io(&mut self, io: Io) {
        self.ios.push(io);
    }

    /// Tells the system's checks something. They see it right after this step.
    pub fn note(&mut self, note: N) {
        self.notes.push(note);
    }

    /// Adds something to the trace: a storage request or its result, a client's call or its reply.
    /// `bytes` is all that the hash sees; `describe` is called only when a text trace is written.
    pub fn record(&mut self, kind: Kind, bytes: &[u8], describe: impl FnOnce() -> String) {
        self.tracer.event(self.now, self.process.into(), kind, bytes, describe);
    }
}

impl<N> fmt::Debug for Outbox<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("sends", &self.sends.len())
            .field("ios", &self.ios)
            .finish_non_exhaustive()
    }
}
