//! A server whose store may have to be opened anew: what a node asks for when its data are damaged.
//!
//! The old node and everything that its store had not done are given up, the data directory is
//! opened again, told of the damage, and another node goes on, in the same process: it keeps its
//! clock, and the clients that wait are told.

use std::ops::Deref;
use std::sync::Arc;

use kv_core::node::{Node, NodeConfig};
use kv_core::rng::Rng as CoreRng;
use kv_core::storage::{Recovered, StorageDamage};
use kv_core::time::Instant;
use kv_storage::OpenOptions;
use kv_storage::vfs::SimDisk;

use super::replica::{Note, Replica};
use crate::engine::{Input, Machine, Outbox};

/// What a server starts from.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) disk: SimDisk,
    pub(super) options: OpenOptions,
    pub(super) config: NodeConfig,
    /// Makes the random draws of this life.
    pub(super) seed: u64,
}

impl Home {
    fn open(&self, now: Instant, damage: Option<StorageDamage>) -> Result<Replica, String> {
        let options = OpenOptions { damage, ..self.options.clone() };
        let mut opened = kv_storage::open(Arc::new(self.disk.clone()), options)
            .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
        let identity = opened.identity.identity().clone();
        let life = identity.life;
        let nothing = Recovered { identity, groups: Default::default(), damage: None };
        let recovered = std::mem::replace(&mut opened.recovered, nothing);
        let seed = CoreRng::fork(self.seed, &format!("life {life}")).next_u64();
        let node = Node::new(self.config.clone(), recovered, seed, now)
            .map_err(|errors| errors.to_string())?;
        Ok(Replica::new(node, opened, self.disk.clone()))
    }
}

/// One life of a server.
#[derive(Debug)]
pub struct Server {
    home: Home,
    /// None only while it is opened anew.
    replica: Option<Replica>,
}

impl Server {
    pub(super) fn boot(home: Home, now: Instant) -> Result<Self, String> {
        let replica = Some(home.open(now, None)?);
        Ok(Self { home, replica })
    }

    pub(super) fn crash_during_io(&mut self) {
        self.replica.iter_mut().for_each(Replica::crash_during_io);
    }

    fn reopen(&mut self, now: u64, damage: StorageDamage, out: &mut Outbox<Note>) {
        let old = self.replica.take().expect("a server has a replica between two steps");
        let rest = old.give_up(&damage, out);
        let opened = self.home.open(Instant::from_nanos(now), Some(damage));
        let mut replica = opened.expect("a directory that was open can be opened again");
        replica.go_on_after(rest);
        replica.handle(now, Input::Start, out);
        self.replica = Some(replica);
    }
}

impl Deref for Server {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        self.replica.as_ref().expect("a server has a replica between two steps")
    }
}

impl Machine for Server {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        let replica = self.replica.as_mut().expect("a server has a replica between two steps");
        replica.handle(now, input, out);
        if let Some(damage) = replica.take_damage() {
            self.reopen(now, damage, out);
        }
    }

    fn deadline(&self) -> Option<u64> {
        self.replica.as_ref().and_then(Machine::deadline)
    }
}
