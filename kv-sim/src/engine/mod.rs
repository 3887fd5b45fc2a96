//! The generic engine: deterministic simulation of servers with disks and of clients, on a network
//! with faults.
//!
//! A run is a function of the code, the configuration and the seed. Everything that could differ
//! from one execution to the next is decided here, from streams of random numbers that all come
//! from the seed: which message arrives when, how long a disk takes, what a clock shows, what
//! breaks.
//!
//! # How to simulate a protocol
//!
//! Write each process as a [`Machine`]: it takes one input at a time, says what it wants done, and
//! names its next deadline. It never waits, never asks for the time and never draws randomness from
//! anywhere but the seed that it is given. Then write a [`System`]: it makes the machines, keeps
//! the disks, and checks.
//!
//! # What happens when
//!
//! There is one queue of events. A message that is sent becomes an event at the time of its
//! arrival; a storage operation becomes an event at the time of its end, and is carried out only
//! then; a deadline becomes an event at its time. Between two events nothing happens, so a minute
//! of simulated time costs what its events cost.
//!
//! madsim supplies the life cycle of the servers (each is one of its nodes), virtual time to any
//! library that asks for it, and a guard against ambient randomness. The network, the disks' timing
//! and the clocks are the engine's own.
//!
//! # The two phases
//!
//! In the *safety* phase the declared faults strike, and nothing may be wrong at any time. Then all
//! faults are healed and the *liveness* phase begins: the system must converge within a budget of
//! simulated time. A run that is too short, does too little, or in which a declared fault did not
//! strike is invalid: it proves nothing.
//!
//! # What this leaves out
//!
//! The contents of disks (the system's), bandwidth and bounded queues of links, corrupted bytes,
//! clients that die.

mod clock;
mod disk_timing;
mod driver;
mod event;
mod fault;
mod lifecycle;
mod machine;
mod measures;
mod network;
mod panic;
mod rng;
mod run;
mod system;
mod trace;

pub use clock::ClockProfile;
pub use disk_timing::DiskProfile;
pub use fault::{
    Direction, FaultEdge, FaultEvent, FaultKind, FaultSpec, MemberChange, Membership, Shape,
    Target, Victims,
};
pub use machine::{Input, Io, IoToken, Machine, Outbox, Phase, ProcessId};
pub use measures::Measures;
pub use network::{LinkProfile, NetworkProfile};
pub(crate) use panic::catch;
pub use rng::{Draw, Latency, LinkRng, MILLION, Rng, fork_seed};
pub use run::{ACKNOWLEDGED_MIN, Outcome, Probes, RunConfig, SAFETY_MIN};
pub use run::{Finished, run};
pub use system::{Boot, Check, CheckVerdict, Operations, Step, System, Violation, World};
pub use trace::{Kind, Tracer};
