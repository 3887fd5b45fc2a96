//! From a set of empty nodes to a cluster.
//!
//! A cluster is formed once, by the node with the lowest id, when *all* listed nodes report that
//! they belong to none. It draws the cluster's id and records everybody's incarnation, and makes
//! that durable before it tells anybody. The others ask until they are told; a node that finds its
//! own incarnation in the record makes it durable and starts. An answer counts only for the very
//! process that asked: an old one may speak of a time before its sender had joined. So a majority of wiped nodes can
//! never form a second cluster beside the first, and a node whose disk was wiped finds another
//! incarnation in the record, and stays out.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Event, Node, Output, Phase};
use crate::cluster::{ClusterRecord, Identity, Member, MemberState};
use crate::id::{ClusterId, Incarnation, NodeId};
use crate::storage::StorageRequest;
use crate::time::Instant;
use crate::wire::{FormationMessage, PeerFrame, PeerMessage};

/// A node that belongs to no cluster yet.
///
/// - Nothing but formation messages is taken or sent.
#[derive(Debug)]
pub(super) struct Formation {
    /// Nodes that reported that they belong to no cluster.
    empty: BTreeMap<NodeId, Incarnation>,
    /// The cluster that is being made durable.
    storing: Option<ClusterRecord>,
    /// When to ask the others again.
    pub(super) query_at: Instant,
}

impl Formation {
    pub(super) fn new(now: Instant) -> Self {
        Self { empty: BTreeMap::new(), storing: None, query_at: now }
    }
}

impl Node {
    /// Asks all others which life is theirs and whether they belong to a cluster.
    pub(super) fn on_formation_timeout(&mut self, now: Instant) {
        let Phase::Forming(formation) = &mut self.phase else {
            return;
        };
        if now < formation.query_at {
            return;
        }
        formation.query_at = now + self.config.timings.heartbeat;
        let query = FormationMessage::Query { nonce: self.rounds.boot };
        for (peer, _) in self.config.peers.iter().filter(|(peer, _)| *peer != self.config.id) {
            self.outbox.send(*peer, PeerMessage::Formation(query.clone()));
        }
        self.form_if_all_are_empty();
    }

    /// Takes a frame while this node belongs to no cluster.
    pub(super) fn on_frame_while_forming(&mut self, frame: PeerFrame) {
        let (from, incarnation) = (frame.from, frame.from_incarnation);
        for message in frame.messages {
            let PeerMessage::Formation(message) = message else {
                continue;
            };
            match message {
                FormationMessage::Query { nonce } => self.answer_query(from, nonce),
                FormationMessage::Status { nonce, .. } if nonce != self.rounds.boot => {}
                FormationMessage::Status { cluster: None, .. } => self.on_empty(from, incarnation),
                FormationMessage::Status { cluster: Some(cluster), .. } => {
                    self.on_formed(from, cluster);
                }
            }
        }
    }

    fn on_empty(&mut self, from: NodeId, incarnation: Incarnation) {
        if let Phase::Forming(formation) = &mut self.phase {
            formation.empty.insert(from, incarnation);
        }
        self.form_if_all_are_empty();
    }

    fn form_if_all_are_empty(&mut self) {
        let is_lowest = self.config.peers.iter().all(|(peer, _)| self.config.id <= *peer);
        let Phase::Forming(formation) = &mut self.phase else {
            return;
        };
        if !is_lowest || formation.storing.is_some() {
            return;
        }
        formation.empty.insert(self.config.id, self.identity.incarnation);
        let members: Option<Vec<Member>> = self
            .config
            .peers
            .iter()
            .map(|(id, address)| {
                let incarnation = *formation.empty.get(id)?;
                let (address, state) = (address.clone(), MemberState::Active);
                Some(Member { id: *id, incarnation, address, state })
            })
            .collect();
        let Some(mut members) = members else {
            return;
        };
        members.sort_unstable_by_key(|member| member.id);
        let id = ClusterId(u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64()));
        self.store_cluster(ClusterRecord {
            id,
            members,
            shard_count: self.config.shard_count,
            replica_count: self.config.effective_replica_count(),
        });
    }

    fn on_formed(&mut self, from: NodeId, cluster: ClusterRecord) {
        if !cluster.is_valid() {
            return self.outbox.push(Output::Event(Event::InvalidCluster { from }));
        }
        let me = cluster.members.iter().find(|member| member.id == self.config.id);
        let is_me = me.is_some_and(|member| member.incarnation == self.identity.incarnation);
        let Phase::Forming(formation) = &self.phase else {
            return;
        };
        if !is_me {
            self.phase = Phase::Wiped;
            self.outbox.push(Output::Event(Event::WipedNode));
        } else if formation.storing.is_none() {
            self.store_cluster(cluster);
        }
    }

    fn store_cluster(&mut self, cluster: ClusterRecord) {
        if let Phase::Forming(formation) = &mut self.phase {
            formation.storing = Some(cluster.clone());
        }
        let identity = Identity { cluster: Some(cluster), ..self.identity.clone() };
        self.outbox.push(Output::Store(StorageRequest::StoreIdentity(identity)));
    }

    /// The record is durable: the node is a member.
    pub(super) fn on_identity_stored(&mut self) {
        let Phase::Forming(Formation { storing: Some(cluster), .. }) = &mut self.phase else {
            return;
        };
        self.identity.cluster = Some(cluster.clone());
        self.start_replicas(BTreeMap::new());
        self.outbox.push(Output::Event(Event::Joined));
    }

    /// Answers a node that belongs to no cluster, or not any more, with what this one belongs to.
    /// Who is about to belong to one says nothing.
    pub(super) fn answer_query(&mut self, to: NodeId, nonce: u64) {
        if matches!(&self.phase, Phase::Forming(Formation { storing: Some(_), .. })) {
            return;
        }
        let cluster = self.identity.cluster.clone();
        let status = FormationMessage::Status { nonce, cluster };
        self.outbox.send(to, PeerMessage::Formation(status));
    }
}
