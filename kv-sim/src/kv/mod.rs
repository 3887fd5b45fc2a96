//! The key-value store under simulation: the only place of the simulator that names kv-core.
//!
//! A *server* ([`Server`]) has a simulated disk and may run what a production process is
//! ([`Replica`]): a [`Node`](kv_core::node::Node), its log on that disk, and its applied state, driven
//! by the engine instead of tokio. A *client* ([`Client`]) drives the same routing core as the client
//! library, and works off a workload, of single keys or of transactions
//! ([`TxnClient`]), or of sessions that read at replicas ([`SessionClient`]); an
//! *operator* ([`Operator`]) changes the members. All exchange
//! the real frames, encoded and checked.
//!
//! # What is checked
//!
//! After each step of a server: a term of a shard has one leader; a leader commits
//! only by an entry of its own term; what one replica applied at an index, every replica applies
//! there, and comes to the same state; quorums of two configurations in a row overlap, and who leads
//! was not removed. After the run: every acknowledged write is there, versions agree with real time,
//! and the clients' history is linearizable, or strictly serializable if it is one of transactions.

mod availability;
mod caller;
mod client;
mod disks;
mod disturbances;
mod history;
mod invariants;
mod judge;
mod membership;
mod mutants;
mod operator;
mod record;
mod replica;
mod running;
mod server;
mod sessions;
mod system;
mod timeline;
mod txn;
mod version_order;
mod work;
mod workload;

#[cfg(test)]
mod tests;

use kv_storage::mutants::Mutants;

use crate::protocol::{Mutant, Protocol};
use crate::scenario::Scenario;
pub use caller::Caller;
pub use client::Client;
pub use history::ClientEvent;
pub use operator::{Operator, OperatorEvent};
pub use replica::{Applied, Note, Replica};
pub use server::Server;
pub use sessions::{Freshness, SessionClient, SessionEnd, SessionEvent, SessionOp};
pub use system::KvSystem;
pub use txn::{Planter, RingEvent, TxnClient, TxnEvent};

/// The key-value store.
#[derive(Clone, Copy, Debug)]
pub struct KvProtocol;

impl Protocol for KvProtocol {
    type System = KvSystem;

    fn system(
        &self,
        scenario: &Scenario,
        _seed: u64,
        mutant: Option<&str>,
    ) -> Result<KvSystem, String> {
        KvSystem::new(scenario, activate(mutant)?)
    }

    fn mutants(&self) -> &[Mutant] {
        if kv_core::mutants::compiled_in() { mutants::ALL } else { &[] }
    }
}

/// Turns on a mutant of the core, or returns one of the storage.
#[cfg(feature = "mutants")]
fn activate(mutant: Option<&str>) -> Result<Mutants, String> {
    use kv_core::mutants::Mutant as CoreMutant;
    use kv_storage::mutants::Mutant as StorageMutant;

    let of_storage = mutant.and_then(StorageMutant::from_id);
    let of_core = mutant.filter(|_| of_storage.is_none());
    let chosen = of_core.map(|id| CoreMutant::from_id(id).ok_or_else(|| format!("no mutant {id}")));
    kv_core::mutants::activate(chosen.transpose()?);
    Ok(of_storage.map_or(Mutants::NONE, Mutants::only))
}

#[cfg(not(feature = "mutants"))]
fn activate(mutant: Option<&str>) -> Result<Mutants, String> {
    match mutant {
        None => Ok(Mutants::NONE),
        Some(id) => Err(format!("mutant {id} needs a build with --features mutants")),
    }
}
