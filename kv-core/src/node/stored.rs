//! What the store answers: appends that are durable, entries that are applied, what was read.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::reading::Content;
use super::{Event, Node, Output};
use crate::id::{AppendId, LogId, ShardId};
use crate::storage::{StorageReply, StorageRequest};

impl Node {
    pub(super) fn on_stored(&mut self, reply: StorageReply) {
        match reply {
            StorageReply::Appended { id, written, counters } => {
                self.note_append_time(id);
                self.log_counters = counters;
                self.outbox.on_durable(id);
                self.on_appended(id, written);
                self.give_up_removed(id);
            }
            StorageReply::Applied { shard, applied, outcomes, states } => {
                if let Some(replica) = self.replicas.get_mut(&shard) {
                    replica.store_applied = applied.index;
                    self.touched.insert(shard);
                }
                self.on_own_states(shard, states);
                for (index, outcome) in outcomes {
                    self.on_outcome(shard, index, outcome);
                }
            }
            StorageReply::Read { handle, result } => match self.levels.take_served(handle) {
                Some(served) => self.on_replica_read(served, result),
                None => self.on_read(handle, result.map(Content::Found)),
            },
            StorageReply::Scanned { handle, result } => {
                self.on_read(handle, result.map(Content::Page));
            }
            StorageReply::Flushed { applied } => self.on_flushed(&applied),
            StorageReply::Space { is_full } => {
                self.is_full = is_full;
                self.outbox.push(Output::Event(Event::SpaceChanged { is_full }));
            }
            StorageReply::Damaged(damage) => self.become_suspect(damage),
            StorageReply::IdentityStored => self.on_identity_stored(),
            StorageReply::SnapshotOpened { id } => self.on_snapshot_opened(id),
            StorageReply::SnapshotRead { id, sequence, chunk } => {
                self.on_snapshot_read(id, sequence, chunk);
            }
            StorageReply::ChunkStaged { id, sequence, result } => {
                self.on_chunk_staged(id, sequence, result);
            }
            StorageReply::SnapshotInstalled { id, state } => self.on_snapshot_installed(id, state),
            StorageReply::ShardRemoved { shard } => self.on_shard_removed(shard),
        }
    }

    /// The applied state is durable: gives up the entries that nobody needs.
    fn on_flushed(&mut self, applied: &BTreeMap<ShardId, LogId>) {
        for (shard, flushed) in applied {
            if let Some(replica) = self.replicas.get_mut(shard) {
                replica.flushed = flushed.index;
                self.release(*shard);
            }
        }
    }

    /// Gives up what was flushed before everybody held it, once everybody holds all of it, or once it
    /// is far more than the slack: a node without room has nothing more to flush.
    pub(super) fn release_late(&mut self, shard: ShardId) {
        if let Some(replica) = self.replicas.get(&shard)
            && replica.group.is_release_due(replica.flushed, self.slack_bytes())
        {
            self.release(shard);
        }
    }

    fn release(&mut self, shard: ShardId) {
        let slack_bytes = self.slack_bytes();
        if let Some(replica) = self.replicas.get_mut(&shard)
            && let Some(floor) = replica.group.release(replica.flushed, slack_bytes)
        {
            self.outbox.push(Output::Store(StorageRequest::Release { shard, floor }));
        }
    }

    /// What each replica's log may keep for members who are behind.
    fn slack_bytes(&self) -> usize {
        let share = self.config.node_slack_bytes / self.replicas.len().max(1);
        self.config.slack_bytes.min(share)
    }

    fn on_appended(&mut self, id: AppendId, written: Vec<(ShardId, LogId)>) {
        for (shard, last) in written {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.on_appended(self.now, id, last);
                self.touched.insert(shard);
            }
        }
    }
}
