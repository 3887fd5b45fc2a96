//! The key-value store under simulation: the only place of the simulator that names kv-core.
//!
//! A *server* ([`Replica`]) is what a production process is: a [`Node`](kv_core::node::Node), its
//! log on a simulated disk, and its applied state, driven by the engine instead of tokio. A
//! *client* ([`Client`]) drives the same routing core as the client library, and works off a
//! workload. Both exchange the real frames, encoded and checked.
//!
//! # What is checked
//!
//! After each step of a server: a term of a shard has one leader; a leader commits
//! only by an entry of its own term; what one replica applied at an index, every replica applies
//! there, and comes to the same state. After the run: every acknowledged write is
//! there, and the clients' history is linearizable.

mod client;
mod history;
mod invariants;
mod judge;
mod replica;
mod system;
mod workload;

#[cfg(test)]
mod tests;

use kv_core::mutants::Mutant as CoreMutant;

use crate::protocol::{Mutant, Protocol};
use crate::scenario::Scenario;
pub use client::Client;
pub use history::ClientEvent;
pub use replica::{Applied, Note, Replica};
pub use system::KvSystem;

/// The key-value store.
#[derive(Clone, Copy, Debug)]
pub struct KvProtocol;

/// Where each mutant is to be found, and by which check.
const MUTANTS: [Mutant; 5] = [
    Mutant {
        id: CoreMutant::VoteNotPersisted.id(),
        summary: "a vote is told before it is durable, and forgotten by a restart",
        scenario: "sim-scenarios/smoke/power-loss.toml",
        check: "one-leader-per-term",
    },
    Mutant {
        id: CoreMutant::OldTermCommitted.id(),
        summary: "an entry of an older term is committed by counting replicas",
        scenario: "sim-scenarios/smoke/crash-restart.toml",
        check: "commit-rule",
    },
    Mutant {
        id: CoreMutant::UnconfirmedRead.id(),
        summary: "a linearizable read is served without confirming leadership",
        scenario: "sim-scenarios/smoke/partition.toml",
        check: "linearizability",
    },
    Mutant {
        id: CoreMutant::AcknowledgedBeforeSync.id(),
        summary: "an append is acknowledged before it is durable",
        scenario: "sim-scenarios/smoke/power-loss.toml",
        check: "same-entries",
    },
    Mutant {
        id: CoreMutant::SessionTableIgnored.id(),
        summary: "a retried request runs again",
        scenario: "sim-scenarios/smoke/lossy-network.toml",
        check: "linearizability",
    },
];

impl Protocol for KvProtocol {
    type System = KvSystem;

    fn system(
        &self,
        scenario: &Scenario,
        _seed: u64,
        mutant: Option<&str>,
    ) -> Result<KvSystem, String> {
        activate(mutant)?;
        KvSystem::new(scenario)
    }

    fn mutants(&self) -> &[Mutant] {
        if kv_core::mutants::compiled_in() { &MUTANTS } else { &[] }
    }
}

#[cfg(feature = "mutants")]
fn activate(mutant: Option<&str>) -> Result<(), String> {
    let chosen = mutant.map(|id| CoreMutant::from_id(id).ok_or_else(|| format!("no mutant {id}")));
    kv_core::mutants::activate(chosen.transpose()?);
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn activate(mutant: Option<&str>) -> Result<(), String> {
    match mutant {
        None => Ok(()),
        Some(id) => Err(format!("mutant {id} needs a build with --features mutants")),
    }
}
