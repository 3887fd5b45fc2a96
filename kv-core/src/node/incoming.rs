//! What comes from other nodes, and requests that this one cannot take: who may say what to whom.

use super::{Event, IgnoreReason, Node, Output, Phase};
use crate::id::{NodeId, RequestHandle};
use crate::wire::{
    ClientReply, ClientRequest, FormationMessage, PeerFrame, PeerMessage, RaftMessage, Refusal,
};

impl Node {
    pub(super) fn refuse_request(
        &mut self,
        handle: RequestHandle,
        body: &ClientRequest,
        refusal: Refusal,
    ) {
        let reply = match body {
            ClientRequest::Status => ClientReply::Status(self.status()),
            ClientRequest::Map
            | ClientRequest::OpenSession { .. }
            | ClientRequest::Read { .. }
            | ClientRequest::Timestamp
            | ClientRequest::ReadAt { .. }
            | ClientRequest::ScanAt { .. }
            | ClientRequest::ReadReplica { .. }
            | ClientRequest::Write { .. }
            | ClientRequest::Txn { .. }
            | ClientRequest::Outcome { .. }
            | ClientRequest::Admin(_) => ClientReply::Refused(refusal),
        };
        self.reply(handle, reply);
    }

    pub(super) fn on_frame(&mut self, frame: PeerFrame) {
        match (self.reason_to_ignore(&frame), &self.phase) {
            (Some(reason), _) => {
                self.ignored_frame_count += 1;
                let from = frame.from;
                self.outbox.push(Output::Event(Event::FrameIgnored { from, reason }));
                match reason {
                    IgnoreReason::UnknownSender | IgnoreReason::WrongReceiver => {
                        self.on_frame_of_stranger(frame);
                    }
                    // A wiped node is to learn that it is one.
                    IgnoreReason::WrongIncarnation if frame.cluster.is_none() => {
                        self.on_frame_of_outsider(frame);
                    }
                    IgnoreReason::WrongIncarnation | IgnoreReason::WrongCluster => {}
                }
            }
            (None, Phase::Forming(_)) => self.on_frame_while_forming(frame),
            (None, Phase::Running) if frame.cluster.is_none() => self.on_frame_of_outsider(frame),
            (None, Phase::Running) => {
                if let Some(link) = self.links.get_mut(&frame.from) {
                    link.heard_at = Some(self.now);
                }
                for message in frame.messages {
                    self.on_peer_message(frame.from, message);
                }
            }
            (None, Phase::Wiped | Phase::Removed | Phase::Suspect(_)) => {}
        }
    }

    /// As a member: takes a frame of a node that belongs to no cluster.
    fn on_frame_of_outsider(&mut self, frame: PeerFrame) {
        for message in frame.messages {
            if let PeerMessage::Formation(FormationMessage::Query { nonce }) = message {
                self.answer_query(frame.from, nonce);
            }
        }
    }

    fn reason_to_ignore(&self, frame: &PeerFrame) -> Option<IgnoreReason> {
        let is_listed = match &self.map {
            Some(_) => self.links.contains_key(&frame.from),
            None => self.config.peers.iter().any(|(peer, _)| *peer == frame.from),
        };
        let ours = self.identity.cluster.as_ref().map(|cluster| cluster.id);
        let link = self.links.get(&frame.from);
        if frame.to != self.config.id || frame.from == self.config.id {
            Some(IgnoreReason::WrongReceiver)
        } else if !is_listed {
            Some(IgnoreReason::UnknownSender)
        } else if ours.is_some() && frame.cluster.is_some() && frame.cluster != ours {
            Some(IgnoreReason::WrongCluster)
        } else if link.is_some_and(|link| link.incarnation != frame.from_incarnation) {
            Some(IgnoreReason::WrongIncarnation)
        } else {
            None
        }
    }

    fn on_peer_message(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Formation(_) => {}
            PeerMessage::Confirm { boot, round, version, leads } => {
                self.on_confirm(from, boot, round, version, leads);
            }
            PeerMessage::Confirmed(confirmation) => self.on_confirmed(from, confirmation),
            PeerMessage::Map(message) => self.on_map_message(from, message),
            PeerMessage::Snapshot(message) => self.on_snapshot_message(from, message),
            PeerMessage::Forward(message) => self.on_forward(from, message),
            PeerMessage::Gossip(message) => self.on_gossip(from, message),
            PeerMessage::Txn(message) => self.on_txn_message(Some(from), message),
            PeerMessage::Oracle(message) => self.on_oracle_message(from, message),
            PeerMessage::SafeTime(message) => self.on_safe_time_message(from, message),
            PeerMessage::Diverged { shard, term, index, majority } => {
                self.on_diverged(from, shard, term, index, majority);
            }
            PeerMessage::Raft { shard, message } => {
                if matches!(message, RaftMessage::Append { .. }) {
                    self.add_empty_replica(shard);
                }
                // Any message may end what this replica knows of a leader that holds a lease.
                if matches!(message, RaftMessage::Vote { .. }) || self.config.lease.is_some() {
                    self.sync_contact(shard);
                }
                if let Some(replica) = self.replicas.get_mut(&shard) {
                    replica.group.on_message(self.now, from, message);
                    self.touched.insert(shard);
                }
            }
        }
    }
}
