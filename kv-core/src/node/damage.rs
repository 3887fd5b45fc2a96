//! A node whose stored data is damaged.
//!
//! It may have promised what it lost: a vote, an entry that a majority counted it for, a value that
//! somebody read. So it becomes *suspect*: it does not vote, lead, confirm, acknowledge or serve,
//! which for the others is as if it were down, and tells whoever asks what is damaged and where.
//! (Protocol-aware recovery: Alagappan et al., "Protocol-Aware Recovery for Consensus-Based
//! Storage", FAST 2018: truncating at the damage can lose what was acknowledged.)
//!
//! **What this leaves out:** repair from the other replicas. A suspect node stays one until its data
//! is mended.

use super::forward::Asker;
use super::{Event, Input, Node, Output, Phase};
use crate::storage::{StorageDamage, StorageReply};
use crate::wire::{ClientReply, Refusal};

impl Node {
    /// What is damaged, if anything is.
    pub(super) fn damage(&self) -> Option<&StorageDamage> {
        match &self.phase {
            Phase::Suspect(damage) => Some(damage),
            Phase::Forming(_) | Phase::Running | Phase::Wiped | Phase::Removed => None,
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
        self.outbox.push(Output::Event(Event::Damaged(damage)));
    }

    /// Forgets all replicas and peers.
    pub(super) fn stop_taking_part(&mut self) {
        self.give_up_forwards();
        self.pending_bytes = 0;
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
            Input::Stored(StorageReply::Read { handle, .. }) => self.refuse_damaged(handle.into()),
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
}
