//! Requests of clients: checks, proposals, and answers.

use alloc::boxed::Box;
use alloc::string::String;

use super::forward::Asker;
use super::locking::Hold;
use super::reading::{Query, Subject};
use super::replica::PendingWrite;
use super::transactions::TxnPlace;
use super::{Node, Output};
use crate::id::{Epoch, LogIndex, NodeId, RequestHandle, SessionId, ShardId};
use crate::machine::Command;
use crate::op::{KEY_BYTES_MAX, Key, KeyRange, VALUE_BYTES_MAX, WriteOp};
use crate::raft::ProposeError;
use crate::ring;
use crate::storage::Outcome;
use crate::txn::{AbortReason, Part, TxnOutcome};
use crate::wire::{
    ClientReply, ClientRequest, ForwardMessage, MapView, NodeRequest, PeerMessage, Refusal,
    TxnReply,
};

/// Bytes of writes that may be proposed and not yet applied, over all shards: what a node holds in
/// memory for clients while a majority cannot be reached.
pub(super) const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How far, in entries of the meta group, a session may be ahead of what this node knows of that
/// group: far more than a replica is behind while clients can open sessions.
const SESSIONS_AHEAD_MAX: u64 = 65_536;

impl Node {
    pub(super) fn on_request(&mut self, handle: RequestHandle, body: ClientRequest) {
        let result = match body {
            ClientRequest::Status => Err(ClientReply::Status(self.status())),
            ClientRequest::Map => Err(self.map_view()),
            ClientRequest::Admin(request) if request.is_for_meta_leader() => {
                return self.on_node_request(handle, NodeRequest::Admin(request));
            }
            ClientRequest::Admin(request) => {
                self.on_admin(handle.into(), request).map_or(Ok(()), Err)
            }
            ClientRequest::OpenSession { nonce } => {
                return self.on_node_request(handle, NodeRequest::OpenSession { nonce });
            }
            ClientRequest::Read { shard, epoch, key } => self
                .check_placement(shard, epoch, &key)
                .and_then(|()| self.start_read(shard, Query::newest(handle, key, None)))
                .map_err(ClientReply::Refused),
            ClientRequest::Timestamp => self.want_timestamp(handle).map_err(ClientReply::Refused),
            ClientRequest::ReadAt { shard, epoch, at, key } => self
                .check_placement(shard, epoch, &key)
                .and_then(|()| self.start_read_at(shard, handle, Subject::Key(key), at))
                .map_err(ClientReply::Refused),
            ClientRequest::ScanAt { shard, epoch, at, range, limit } => self
                .check_range(shard, epoch, &range)
                .map(|()| Subject::Range { range, limit: limit.clamped() })
                .and_then(|subject| self.start_read_at(shard, handle, subject, at))
                .map_err(ClientReply::Refused),
            ClientRequest::ReadReplica { shard, epoch, key, level } => self
                .check_placement(shard, epoch, &key)
                .and_then(|()| self.start_replica_read(shard, handle, key, level))
                .map_err(ClientReply::Refused),
            ClientRequest::Txn { shard, epoch, txn, age, grant, step } => {
                return self.on_txn(handle, TxnPlace { shard, epoch, txn, age, grant }, step);
            }
            ClientRequest::Outcome { epoch, anchor, txn, sequence } => self
                .settle_outcome(handle, anchor, epoch, txn, sequence)
                .map_err(ClientReply::Refused),
            ClientRequest::Write { shard, epoch, request, op } => self
                .check_placement(shard, epoch, op.key())
                .and_then(|()| check_size("value", op.value_size(), VALUE_BYTES_MAX))
                .and_then(|()| self.check_session(request.session))
                .and_then(|()| self.check_space(shard, &op))
                .and_then(|()| self.register(shard, handle.into(), request, op))
                .map_err(ClientReply::Refused),
        };
        if let Err(reply) = result {
            self.reply(handle, reply);
        }
    }

    pub(super) fn reply(&mut self, asker: impl Into<Asker>, body: ClientReply) {
        match asker.into() {
            Asker::Client(handle) => self.outbox.push(Output::Reply { handle, body }),
            Asker::Node { node, boot, number } => {
                let message = ForwardMessage::Reply { boot, number, body };
                self.outbox.send(node, PeerMessage::Forward(message));
            }
        }
    }

    fn map_view(&self) -> ClientReply {
        let Some(mut map) = self.map.clone() else {
            return ClientReply::Refused(Refusal::NotReady);
        };
        for member in &mut map.members {
            member.address = self.address(member.id).unwrap_or_default();
        }
        let leader = |shard: ShardId| match self.replicas.get(&shard) {
            Some(replica) => replica.group.leader(),
            None => self.hinted_leader(shard),
        };
        let shards = map.shards.iter().map(|entry| entry.shard);
        let leaders = shards.filter_map(|shard| Some((shard, leader(shard)?))).collect();
        ClientReply::Map(MapView { map, leaders })
    }

    /// Whether the client and this node agree on where the key lives.
    pub(super) fn check_placement(
        &self,
        shard: ShardId,
        epoch: Epoch,
        key: &Key,
    ) -> Result<(), Refusal> {
        check_size("key", key.bytes.len(), KEY_BYTES_MAX)?;
        let map = self.map.as_ref().ok_or(Refusal::NotReady)?;
        let expected = ring::shard_of(key, map.shard_count());
        if shard != expected {
            return Err(Refusal::WrongShard { expected, named: shard });
        }
        self.check_epoch(shard, epoch)
    }

    /// The same for a range of keys, each of which may be in any shard.
    pub(super) fn check_range(
        &self,
        shard: ShardId,
        epoch: Epoch,
        range: &KeyRange,
    ) -> Result<(), Refusal> {
        for key in [&range.start].into_iter().chain(&range.end) {
            check_size("key", key.bytes.len(), KEY_BYTES_MAX)?;
        }
        let map = self.map.as_ref().ok_or(Refusal::NotReady)?;
        if shard == ShardId::META || shard.0 > map.shard_count() {
            return Err(Refusal::InvalidStep { reason: alloc::format!("{shard} holds no keys") });
        }
        if range.is_empty() {
            return Err(Refusal::InvalidStep { reason: "the range ends before it begins".into() });
        }
        self.check_epoch(shard, epoch)
    }

    pub(super) fn check_epoch(&self, shard: ShardId, epoch: Epoch) -> Result<(), Refusal> {
        let map = self.map.as_ref().ok_or(Refusal::NotReady)?;
        if self.replicas.contains_key(&shard) {
            // Its own log says who serves it; the map may be behind, here or there.
            return Ok(());
        }
        let entry = map.entry(shard).ok_or(Refusal::NotReady)?;
        if epoch > entry.epoch {
            return Err(Refusal::NotReady);
        }
        if epoch < entry.epoch {
            return Err(Refusal::WrongEpoch { entry: Box::new(entry.clone()) });
        }
        Ok(())
    }

    /// Refuses sessions that cannot have been opened yet, as far as this node can tell: they are of
    /// another cluster or forged, and would push the sessions of this one out of the table for good.
    pub(super) fn check_session(&self, session: SessionId) -> Result<(), Refusal> {
        let Some(meta) = self.replicas.get(&ShardId::META) else {
            return Ok(());
        };
        let latest = meta.store_applied.0.saturating_add(SESSIONS_AHEAD_MAX);
        if session.opened_ts.0 > latest { Err(Refusal::SessionExpired) } else { Ok(()) }
    }

    /// As leader: refuses what takes space while this node's disk is full, or those of so many
    /// followers that without them there is no majority. Fullness is judged here and never when
    /// entries are applied: what is committed is applied everywhere.
    fn check_space(&self, shard: ShardId, op: &WriteOp) -> Result<(), Refusal> {
        let makes_room = matches!(op, WriteOp::Delete { .. });
        if makes_room { Ok(()) } else { self.check_room(shard) }
    }

    /// The same for what a transaction wants to write.
    pub(super) fn check_txn_space(&self, shard: ShardId, part: &Part) -> Result<(), Refusal> {
        let makes_room = part.writes.iter().all(|write| write.value.is_none());
        if makes_room { Ok(()) } else { self.check_room(shard) }
    }

    fn check_room(&self, shard: ShardId) -> Result<(), Refusal> {
        let Some(replica) = self.replicas.get(&shard).filter(|replica| replica.is_leader()) else {
            return Ok(());
        };
        if self.is_full {
            return Err(Refusal::NoSpace { node: self.config.id });
        }
        let is_full = |voter: NodeId| self.links.get(&voter).is_some_and(|link| link.is_full);
        let configuration = replica.group.configuration();
        if configuration.is_quorum(|voter| !is_full(voter)) {
            return Ok(());
        }
        match configuration.all_voters().find(|voter| is_full(*voter)) {
            Some(node) => Err(Refusal::NoSpace { node }),
            None => Ok(()),
        }
    }

    /// Why this node cannot serve `shard`.
    pub(super) fn refusal(&self, shard: ShardId) -> Refusal {
        if let Some(refusal) = self.refusal_of_suspect(shard) {
            return refusal;
        }
        let entry = self.map.as_ref().and_then(|map| map.entry(shard));
        match (self.replicas.get(&shard), entry) {
            (Some(replica), _) => Refusal::NotLeader { shard, hint: replica.group.leader() },
            (None, Some(entry)) => Refusal::WrongEpoch { entry: Box::new(entry.clone()) },
            (None, None) => Refusal::NotReady,
        }
    }

    pub(super) fn propose(
        &mut self,
        shard: ShardId,
        asker: Asker,
        command: &Command,
    ) -> Result<(), Refusal> {
        self.propose_holding(shard, Some(asker), command, Hold::Nothing)
    }

    /// Proposes what keeps something locked until it is applied.
    pub(super) fn propose_holding(
        &mut self,
        shard: ShardId,
        asker: Option<Asker>,
        command: &Command,
        hold: Hold,
    ) -> Result<(), Refusal> {
        self.check_states(shard)?;
        let refusal = self.refusal(shard);
        let payload = command.encode();
        let bytes = payload.len();
        let Some(replica) = self.replicas.get_mut(&shard).filter(|replica| replica.is_leader())
        else {
            return Err(refusal);
        };
        // What ends transactions is small, and frees what others wait for with the budget in hand.
        if asker.is_some() && self.pending_bytes + bytes > PENDING_BYTES_MAX {
            return Err(Refusal::Overloaded);
        }
        let id = replica.group.propose(self.now, payload.into()).map_err(|error| match error {
            ProposeError::NotLeader { hint } => Refusal::NotLeader { shard, hint },
            ProposeError::Full => Refusal::Overloaded,
        })?;
        replica.pending.insert(id.index, PendingWrite { asker, bytes, hold });
        self.pending_bytes += bytes;
        self.touched.insert(shard);
        Ok(())
    }

    /// The entry at `index` was applied: answers who proposed it.
    pub(super) fn on_outcome(&mut self, shard: ShardId, index: LogIndex, outcome: Outcome) {
        if let Some(map) = outcome.map() {
            self.learn_map(map.clone());
        }
        if let Outcome::BoundRaised { before, bound } = outcome {
            self.on_bound_raised(index, before, bound);
        }
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        replica.locking.note(&outcome);
        if let Outcome::WatermarkRaised { watermark } = outcome {
            replica.watermark = replica.watermark.max(watermark);
        }
        if matches!(outcome, Outcome::Finished { .. }) {
            self.start_unblocked(shard);
        }
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let Some(PendingWrite { asker, bytes, hold }) = replica.pending.remove(&index) else {
            return;
        };
        self.pending_bytes -= bytes;
        replica.locking.end(&hold);
        self.on_ended(shard, &hold, &outcome);
        let Some(asker) = asker else { return };
        let reply = match outcome {
            Outcome::Written(result) => ClientReply::Written(result),
            Outcome::SessionOpened(session) => ClientReply::SessionOpened(session),
            Outcome::SessionExpired => ClientReply::Refused(Refusal::SessionExpired),
            Outcome::Superseded => ClientReply::Refused(Refusal::Superseded),
            Outcome::Prepared { min_commit, .. } => {
                ClientReply::Txn(TxnReply::Prepared { min_commit })
            }
            Outcome::Decided { outcome: TxnOutcome::Committed { commit_ts }, .. } => {
                ClientReply::Txn(TxnReply::Committed { commit_ts })
            }
            Outcome::Decided { outcome: TxnOutcome::Aborted, .. } => {
                let reason = match hold {
                    Hold::Abort(reason) => reason,
                    Hold::Nothing
                    | Hold::InFlight(_)
                    | Hold::Write(_)
                    | Hold::Txn(_)
                    | Hold::Resolve { .. }
                    | Hold::Finish { .. } => AbortReason::GivenUp,
                };
                ClientReply::Txn(TxnReply::Aborted(reason))
            }
            outcome @ (Outcome::None
            | Outcome::MapChanged(_)
            | Outcome::MemberAdded { .. }
            | Outcome::MetaRefused(_)
            | Outcome::BoundRaised { .. }
            | Outcome::WatermarkRaised { .. }
            | Outcome::Finished { .. }
            | Outcome::Forgotten { .. }) => self.admin_reply(outcome),
        };
        self.reply(asker, reply);
    }

    /// The leadership of `shard` is over: whoever waits must ask another node.
    pub(super) fn refuse_waiting(&mut self, shard: ShardId) {
        if shard == ShardId::META {
            self.close_oracle();
        }
        self.drop_safe_questions(shard);
        let refusal = self.refusal(shard);
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let (askers, bytes) = replica.take_waiting();
        self.pending_bytes -= bytes;
        self.stamps.forget(shard);
        self.reading.remove(&shard);
        for asker in askers {
            self.reply(asker, ClientReply::Refused(refusal.clone()));
        }
    }
}

pub(super) fn check_size(what: &str, bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Refusal::TooLarge {
        what: String::from(what),
        bytes: bytes as u64,
        bytes_max: bytes_max as u64,
    })
}
