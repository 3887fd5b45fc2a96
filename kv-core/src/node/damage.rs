//! A node whose stored data is damaged.
//!
//! It may have promised what it lost: a vote, an entry that a majority counted it for, a value that
//! somebody read. So it becomes *suspect*: it does not vote, lead, confirm, acknowledge or serve,
//! which for the others is as if it were down, and tells whoever asks what is damaged and where.
//!
//! # Repair
//!
//! The node has its store opened anew ([`Output::Reopen`]). The store first makes durable that the
//! data are damaged, in the identity, then sets all of them aside and begins an empty store in
//! another *life* ([`Identity::life`]). The node takes part again, but each of its replicas is suspect
//! until a leader has cleared it ([`raft`](crate::raft), where the protocol is, and why it is sound).
//! It says so with every confirmation that it is asked for ([`Confirmation::suspect`]), and leaders
//! bring it what it lacks, by their logs or by snapshots. Meanwhile a shard that has no leader is
//! refused with the damage: it may be lost, and nobody guesses.
//!
//! When all replicas that the map gives to the node are whole, durably, the repair has ended, and
//! what was set aside is removed. The life stays: a shard that comes to this node later was perhaps
//! here before, so its replica begins suspect, too.
//!
//! A node that belongs to no cluster has nobody to repair it and stays as it is.
//!
//! [`Confirmation::suspect`]: crate::wire::Confirmation::suspect

use super::forward::Asker;
use super::oracle::Oracle;
use super::{Event, Input, Node, Output, Phase, Replica};
use crate::cluster::Identity;
use crate::id::ShardId;
use crate::storage::{StorageDamage, StorageReply, StorageRequest};
use crate::wire::{ClientReply, Refusal};

impl Node {
    /// What is or was damaged, as long as not all of it is repaired.
    pub(super) fn damage(&self) -> Option<&StorageDamage> {
        match &self.phase {
            Phase::Suspect(damage) => Some(damage),
            Phase::Forming(_) | Phase::Running | Phase::Wiped | Phase::Removed => {
                self.identity.repair.as_ref().map(|repair| &repair.damage)
            }
        }
    }

    /// Gives up everything that depends on what is stored.
    pub(super) fn become_suspect(&mut self, damage: StorageDamage) {
        self.outbox.drop_messages();
        self.phase = Phase::Suspect(damage.clone());
        let shards: alloc::vec::Vec<_> = self.replicas.keys().copied().collect();
        for shard in shards {
            let replica = self.replicas.get_mut(&shard).expect("the shard was just listed");
            let (askers, _) = replica.take_waiting();
            askers.into_iter().for_each(|asker| self.refuse_damaged(asker));
        }
        self.stop_taking_part();
        self.outbox.push(Output::Event(Event::Damaged(damage.clone())));
        if self.identity.cluster.is_some() {
            self.outbox.push(Output::Reopen(damage));
        }
    }

    /// Forgets all replicas and peers.
    pub(super) fn stop_taking_part(&mut self) {
        self.give_up_forwards();
        self.pending_bytes = 0;
        let refusal = match self.damage().cloned() {
            Some(damage) => Refusal::Damaged { node: self.config.id, damage },
            None => Refusal::Removed { node: self.config.id },
        };
        for handle in self.stamps.clear().into_iter().chain(self.levels.clear()) {
            self.reply(handle, ClientReply::Refused(refusal.clone()));
        }
        self.oracle = Oracle::new(self.now);
        self.replicas.clear();
        self.links.clear();
        self.snapshots.clear();
        self.touched.clear();
        self.reading.clear();
        self.attention.clear();
        self.deadlines.clear();
        self.rounds.heartbeat_at = None;
        self.hints = None;
    }

    pub(super) fn handle_while_suspect(&mut self, input: Input) {
        let Some(damage) = self.damage().cloned() else {
            return;
        };
        match input {
            Input::Timeout | Input::Receive(_) | Input::Link { .. } => {}
            Input::Request { handle, body } => {
                let refusal = Refusal::Damaged { node: self.config.id, damage };
                self.refuse_request(handle, &body, refusal);
            }
            Input::Stored(
                StorageReply::Read { handle, .. } | StorageReply::Scanned { handle, .. },
            ) => self.refuse_damaged(handle.into()),
            Input::Stored(_) => {}
        }
    }

    /// Tells a client that waits that the node serves nothing. Nodes are told nothing.
    pub(super) fn refuse_damaged(&mut self, asker: Asker) {
        if let (Some(damage), Asker::Client(handle)) = (self.damage().cloned(), asker) {
            let refusal = Refusal::Damaged { node: self.config.id, damage };
            self.reply(handle, ClientReply::Refused(refusal));
        }
    }

    /// What to tell about a shard that lacks a leader, if it may be because of damage here.
    pub(super) fn refusal_of_suspect(&self, shard: ShardId) -> Option<Refusal> {
        let group = &self.replicas.get(&shard)?.group;
        let damage = self.damage()?.clone();
        let is_lost = group.is_suspect() && group.leader().is_none();
        is_lost.then_some(Refusal::Damaged { node: self.config.id, damage })
    }

    /// Ends a repair once every replica that the map gives to this node is whole.
    pub(super) fn end_repair(&mut self) {
        let (Phase::Running, Some(_), Some(map)) = (&self.phase, &self.identity.repair, &self.map)
        else {
            return;
        };
        let me = self.config.id;
        let mut mine = map.shards.iter().filter(|entry| entry.participants().any(|it| it == me));
        if !mine.all(|entry| self.replicas.get(&entry.shard).is_some_and(|it| self.is_whole(it))) {
            return;
        }
        let identity = Identity { repair: None, ..self.identity.clone() };
        self.identity = identity.clone();
        self.outbox.push(Output::Store(StorageRequest::StoreIdentity(identity)));
        self.outbox.push(Output::Event(Event::Repaired));
    }

    fn is_whole(&self, replica: &Replica) -> bool {
        replica.whole_since.is_some_and(|append| self.outbox.is_durable(append))
    }
}
