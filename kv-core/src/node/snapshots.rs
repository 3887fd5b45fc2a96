//! Snapshots on their way: from a leader to a member that lacks entries which no log has any more.
//!
//! The leader's store pins what is applied and hands out numbered chunks; each is sent, staged by
//! the receiver's store and acknowledged before the next one leaves, so a snapshot has one chunk on
//! the way and none of it is in memory as a whole. A chunk or an answer that got lost is noticed by
//! time, and the chunk is sent again. When the last one is staged, the receiver's store makes all of
//! them the shard's state in one step; then its group goes on from there and tells the leader.
//!
//! A snapshot is given up when the leadership ends, when the receiver refuses a chunk (it has lost
//! what it had staged, or wants no snapshot any more), or when it does not answer for long. If it
//! still needs one, another one begins from the start.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Node, Output};
use crate::id::{LogIndex, NodeId, ShardId, Term};
use crate::machine::{ChunkRefusal, SnapshotChunk};
use crate::storage::{InstalledState, SnapshotId, StorageRequest};
use crate::time::Instant;
use crate::wire::{PeerMessage, SnapshotMessage};

/// Snapshots that a node sends at a time: each costs reads of the disk, and one that is sent at full
/// speed is of more use than several that are not.
const SENDING_MAX: usize = 2;

/// How often a chunk is sent again before the snapshot is given up.
const RESENDS_MAX: u32 = 30;

/// A chunk is sent again after so many heartbeats without an answer.
const PATIENCE_HEARTBEATS: u32 = 3;

/// All snapshots of a node.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    sending: BTreeMap<(ShardId, NodeId), Sending>,
    receiving: BTreeMap<ShardId, Receiving>,
}

/// A snapshot that is being sent.
#[derive(Debug)]
struct Sending {
    term: Term,
    nonce: u64,
    /// Known once the store has opened it.
    id: Option<SnapshotId>,
    sequence: u64,
    /// The chunk that is on its way.
    chunk: Option<SnapshotChunk>,
    /// When it was last sent, or when the store was asked.
    sent_at: Instant,
    resend_count: u32,
}

/// A snapshot that is being received.
#[derive(Debug)]
struct Receiving {
    id: SnapshotId,
    from: NodeId,
    /// Number of the last chunk of all, once it is known.
    last: Option<u64>,
    /// Whether the store was told to install it.
    is_installing: bool,
}

impl Snapshots {
    /// Forgets everything: nothing is stored or sent any more.
    pub(super) fn clear(&mut self) {
        self.sending.clear();
        self.receiving.clear();
    }

    /// The replica of `shard` is gone.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.receiving.remove(&shard);
        self.sending.retain(|(of, _), _| *of != shard);
    }

    /// Up to where the log of `shard` must be kept behind snapshots that are sent.
    fn oldest(&self, shard: ShardId) -> Option<LogIndex> {
        let of_shard = self.sending.range((shard, NodeId(0))..=(shard, NodeId(u64::MAX)));
        of_shard.filter_map(|(_, sending)| Some(sending.id?.last.index)).min()
    }

    /// The sending that `id` is of, with its receiver.
    fn sending_mut(&mut self, id: &SnapshotId) -> Option<(NodeId, &mut Sending)> {
        let key = |(key, sending): &(&(ShardId, NodeId), &Sending)| {
            key.0 == id.shard && sending.nonce == id.nonce
        };
        let (_, to) = self.sending.iter().find(key).map(|(key, _)| *key)?;
        Some((to, self.sending.get_mut(&(id.shard, to))?))
    }
}

impl Node {
    /// Begins and ends sending snapshots of `shard`, as its members need them.
    pub(super) fn update_snapshots(&mut self, shard: ShardId) {
        if self.replicas.get(&shard).is_some_and(|replica| replica.group.misses_snapshot()) {
            self.sync_contact(shard);
        }
        let Some(replica) = self.replicas.get(&shard) else {
            return;
        };
        let term = replica.group.term();
        let needed = replica.group.needs_snapshot(self.now);
        let of_shard = (shard, NodeId(0))..=(shard, NodeId(u64::MAX));
        let superfluous = self
            .snapshots
            .sending
            .range(of_shard)
            .filter(|((_, to), sending)| sending.term != term || !needed.contains(to));
        let superfluous: Vec<_> = superfluous.map(|((_, to), _)| *to).collect();
        superfluous.into_iter().for_each(|to| self.end_sending(shard, to));
        for to in needed {
            let is_room = self.snapshots.sending.len() < SENDING_MAX;
            if is_room && !self.snapshots.sending.contains_key(&(shard, to)) {
                self.begin_sending(shard, to, term);
            }
        }
    }

    fn begin_sending(&mut self, shard: ShardId, to: NodeId, term: Term) {
        let nonce = self.rng.next_u64();
        let sending = Sending {
            term,
            nonce,
            id: None,
            sequence: 0,
            chunk: None,
            sent_at: self.now,
            resend_count: 0,
        };
        self.snapshots.sending.insert((shard, to), sending);
        self.outbox.push(Output::Store(StorageRequest::OpenSnapshot { shard, nonce }));
    }

    fn end_sending(&mut self, shard: ShardId, to: NodeId) {
        let Some(Sending { id, .. }) = self.snapshots.sending.remove(&(shard, to)) else {
            return;
        };
        if let Some(id) = id {
            self.outbox.push(Output::Store(StorageRequest::CloseSnapshot { id }));
        }
        self.pin_log(shard);
    }

    fn pin_log(&mut self, shard: ShardId) {
        let oldest = self.snapshots.oldest(shard);
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.group.pin(oldest);
        }
    }

    /// The store has pinned a snapshot.
    pub(super) fn on_snapshot_opened(&mut self, id: SnapshotId) {
        let Some((to, sending)) = self.snapshots.sending_mut(&id) else {
            // Given up meanwhile.
            return self.outbox.push(Output::Store(StorageRequest::CloseSnapshot { id }));
        };
        if id.last.index == LogIndex(0) {
            return self.end_sending(id.shard, to);
        }
        sending.id = Some(id);
        self.outbox.push(Output::Store(StorageRequest::ReadSnapshot { id, sequence: 0 }));
        self.pin_log(id.shard);
    }

    /// The store has read a chunk.
    pub(super) fn on_snapshot_read(
        &mut self,
        id: SnapshotId,
        sequence: u64,
        chunk: Option<SnapshotChunk>,
    ) {
        let now = self.now;
        let Some((to, sending)) = self.snapshots.sending_mut(&id) else {
            return;
        };
        match chunk {
            Some(chunk) if sequence == sending.sequence => {
                sending.chunk = Some(chunk);
                sending.resend_count = 0;
                sending.sent_at = now;
                self.send_chunk(id.shard, to);
            }
            Some(_) => {}
            None => self.end_sending(id.shard, to),
        }
    }

    fn send_chunk(&mut self, shard: ShardId, to: NodeId) {
        let Some(Sending { term, id: Some(id), sequence, chunk: Some(chunk), .. }) =
            self.snapshots.sending.get(&(shard, to))
        else {
            return;
        };
        let (term, id, sequence, chunk) = (*term, *id, *sequence, chunk.clone());
        let message = SnapshotMessage::Chunk { term, id, sequence, chunk };
        self.outbox.send(to, PeerMessage::Snapshot(message));
    }

    /// Sends again what was not answered, and gives up who does not answer for long.
    pub(super) fn resend_chunks(&mut self) {
        let patience: Duration = self.config.timings.heartbeat * PATIENCE_HEARTBEATS;
        let now = self.now;
        let late = self.snapshots.sending.iter_mut().filter_map(|(key, sending)| {
            let is_late = sending.chunk.is_some() && now >= sending.sent_at + patience;
            if is_late {
                sending.sent_at = now;
                sending.resend_count += 1;
            }
            is_late.then_some((*key, sending.resend_count > RESENDS_MAX))
        });
        let late: Vec<_> = late.collect();
        for ((shard, to), is_lost) in late {
            if is_lost {
                self.end_sending(shard, to);
            } else {
                self.send_chunk(shard, to);
            }
        }
    }

    /// A peer sends a chunk, or answers one.
    pub(super) fn on_snapshot_message(&mut self, from: NodeId, message: SnapshotMessage) {
        match message {
            SnapshotMessage::Chunk { term, id, sequence, chunk } => {
                self.on_chunk(from, term, id, sequence, chunk);
            }
            SnapshotMessage::Staged { id, sequence } => self.on_chunk_taken(from, &id, sequence),
            SnapshotMessage::Refused { id } => {
                if self.snapshots.sending_mut(&id).is_some_and(|(to, _)| to == from) {
                    self.end_sending(id.shard, from);
                    self.touched.insert(id.shard);
                }
            }
        }
    }

    /// The receiver has staged a chunk: reads the next one. After the last one there is only to wait
    /// for the receiver's group.
    fn on_chunk_taken(&mut self, from: NodeId, id: &SnapshotId, sequence: u64) {
        let Some((to, sending)) = self.snapshots.sending_mut(id) else {
            return;
        };
        if to != from || sequence != sending.sequence {
            return;
        }
        sending.resend_count = 0;
        if sending.chunk.as_ref().is_some_and(|chunk| !chunk.is_last) {
            sending.chunk = None;
            sending.sequence += 1;
            let sequence = sending.sequence;
            self.outbox.push(Output::Store(StorageRequest::ReadSnapshot { id: *id, sequence }));
        }
    }

    fn on_chunk(
        &mut self,
        from: NodeId,
        term: Term,
        id: SnapshotId,
        sequence: u64,
        chunk: SnapshotChunk,
    ) {
        self.add_empty_replica(id.shard);
        let Some(replica) = self.replicas.get_mut(&id.shard) else {
            return;
        };
        self.touched.insert(id.shard);
        if let Some(receiving) = self.snapshots.receiving.get(&id.shard)
            && receiving.is_installing
        {
            if receiving.id == id {
                let staged = SnapshotMessage::Staged { id, sequence };
                self.outbox.send(from, PeerMessage::Snapshot(staged));
            }
            return;
        }
        if !replica.group.on_snapshot_offer(self.now, from, term, id.last) {
            return;
        }
        let receiving = self.snapshots.receiving.entry(id.shard).or_insert(Receiving {
            id,
            from,
            last: None,
            is_installing: false,
        });
        if receiving.id != id {
            *receiving = Receiving { id, from, last: None, is_installing: false };
        }
        if chunk.is_last {
            receiving.last = Some(sequence);
        }
        self.outbox.push(Output::Store(StorageRequest::StageChunk { id, sequence, chunk }));
    }

    /// The store has staged a chunk, or refused it.
    pub(super) fn on_chunk_staged(
        &mut self,
        id: SnapshotId,
        sequence: u64,
        result: Result<(), ChunkRefusal>,
    ) {
        let receiving = self.snapshots.receiving.get_mut(&id.shard);
        let Some(receiving) = receiving.filter(|receiving| receiving.id == id) else {
            return;
        };
        let from = receiving.from;
        if result.is_err() {
            if !receiving.is_installing {
                self.snapshots.receiving.remove(&id.shard);
            }
            let refused = SnapshotMessage::Refused { id };
            return self.outbox.send(from, PeerMessage::Snapshot(refused));
        }
        self.outbox.send(from, PeerMessage::Snapshot(SnapshotMessage::Staged { id, sequence }));
        if receiving.last == Some(sequence)
            && !receiving.is_installing
            && let Some(replica) = self.replicas.get_mut(&id.shard)
            && replica.group.begin_install(id.last)
        {
            receiving.is_installing = true;
            self.outbox.push(Output::Store(StorageRequest::InstallSnapshot { id }));
        }
    }

    /// The snapshot is the shard's state, durably.
    pub(super) fn on_snapshot_installed(&mut self, id: SnapshotId, state: InstalledState) {
        let SnapshotId { shard, last, .. } = id;
        self.snapshots.receiving.remove(&shard);
        if let Some(map) = state.map {
            self.learn_map(map);
        }
        let initial = self.initial_configuration(shard);
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let configuration = state.configuration.unwrap_or(initial);
        replica.group.on_installed(self.now, last, configuration);
        replica.locking.install(state.transactions);
        replica.store_applied = last.index;
        replica.flushed = last.index;
        self.outbox.push(Output::Store(StorageRequest::Release { shard, floor: last }));
        self.touched.insert(shard);
    }
}
