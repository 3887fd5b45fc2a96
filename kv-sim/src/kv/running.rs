//! A node that runs, and whose store may have to be opened anew: what it asks for when its data are
//! damaged.
//!
//! The old node and everything that its store had not done are given up, the data directory is
//! opened again, told of the damage, and another node goes on, in the same process: it keeps its
//! clock, and the clients that wait are told.

use kv_core::storage::StorageDamage;
use kv_core::time::Instant;

use super::replica::{Note, Replica};
use super::server::Settings;
use crate::engine::{Input, Machine, Outbox};

/// A node that runs on a server, with what it takes to open its disk anew.
#[derive(Debug)]
pub(super) struct Running {
    settings: Settings,
    /// None only while it is opened anew.
    replica: Option<Replica>,
}

impl Running {
    pub(super) fn new(settings: Settings, replica: Replica) -> Self {
        Self { settings, replica: Some(replica) }
    }

    /// The node, with its disk.
    pub(super) fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("a node has a store between two steps")
    }

    /// Has the node's store apply something else than what is in its log, when it next can.
    pub(super) fn misapply(&mut self) {
        self.replica.iter_mut().for_each(Replica::misapply);
    }

    /// Carries out what the disk was doing, as far as the disk lets it: the process is about to die.
    pub(super) fn crash_during_io(&mut self) {
        self.replica.iter_mut().for_each(Replica::crash_during_io);
    }

    fn reopen(&mut self, now: u64, damage: StorageDamage, out: &mut Outbox<Note>) {
        let old = self.replica.take().expect("a node has a store between two steps");
        let incarnation = old.node().identity().incarnation;
        let rest = old.give_up(&damage, out);
        let opened = self.settings.open(incarnation, Some(damage));
        let opened = opened.expect("a directory that was open can be opened again");
        let replica = self.settings.start(opened, Instant::from_nanos(now), 0);
        let mut replica = replica.expect("who was a member can start");
        replica.go_on_after(rest);
        replica.handle(now, Input::Start, out);
        self.replica = Some(replica);
    }
}

impl Machine for Running {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        let replica = self.replica.as_mut().expect("a node has a store between two steps");
        replica.handle(now, input, out);
        if let Some(damage) = replica.take_damage() {
            self.reopen(now, damage, out);
        }
    }

    fn deadline(&self) -> Option<u64> {
        self.replica().deadline()
    }
}
