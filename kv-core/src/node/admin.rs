//! Requests of operators: members, leaders, plans.
//!
//! Whatever changes the members is a command of the meta group, so its leader takes it; another
//! node [sends it on](super::forward). The leader refuses a change that would leave a shard without a quorum of
//! nodes that it can reach, unless the operator insists: nothing else decides about members, and
//! neither silence nor time ever removes one.

use alloc::collections::BTreeSet;
use alloc::string::ToString as _;
use core::time::Duration;

use super::Node;
use super::forward::Asker;
use super::requests::check_size;
use crate::availability::{QuorumRisk, would_lose_quorum};
use crate::id::{NodeId, ShardId};
use crate::machine::plan::{self, Change};
use crate::machine::{Command, MetaCommand};
use crate::storage::Outcome;
use crate::wire::{AdminReply, AdminRequest, ClientReply, Refusal};

/// A node that was not heard of for so long counts as out of reach: three times as long as the meta
/// leader waits between two messages.
const REACHABLE_WITHIN: Duration = Duration::from_secs(3);

/// Longest address of a member: a name of a host has at most 253 bytes.
const ADDRESS_BYTES_MAX: usize = 260;

impl Node {
    /// Takes a request of an operator. Returns the reply, if it is known at once.
    pub(super) fn on_admin(&mut self, asker: Asker, request: AdminRequest) -> Option<ClientReply> {
        let proposed = match request {
            AdminRequest::AddNode { incarnation, address } => {
                check_size("address", address.0.len(), ADDRESS_BYTES_MAX).and_then(|()| {
                    self.propose_members(asker, MetaCommand::AddMember { incarnation, address })
                })
            }
            AdminRequest::RemoveNode { id, force } => self
                .check_members(Change::Remove { id }, force)
                .and_then(|()| self.propose_members(asker, MetaCommand::RemoveMember { id })),
            AdminRequest::ReplaceNode { old, new, force } => {
                let command = MetaCommand::ReplaceMember { old, new };
                self.check_members(Change::Replace { old, new }, force)
                    .and_then(|()| self.propose_members(asker, command))
            }
            AdminRequest::TransferLeader { shard, to } => {
                return Some(self.transfer_leader(shard, to));
            }
            AdminRequest::Plan { change } => return Some(self.plan_change(change)),
            AdminRequest::Join { .. } => return Some(self.refuse_to_join()),
        };
        proposed.err().map(ClientReply::Refused)
    }

    fn propose_members(&mut self, asker: Asker, command: MetaCommand) -> Result<(), Refusal> {
        self.propose(ShardId::META, asker, &Command::Meta(command))
    }

    /// As meta leader: refuses a change that would cost a quorum, unless it is forced.
    fn check_members(&self, change: Change, force: bool) -> Result<(), Refusal> {
        let Some(map) = self.map.as_ref().filter(|_| self.is_meta_leader() && !force) else {
            return Ok(());
        };
        match would_lose_quorum(map, change, &self.reachable()) {
            Some(QuorumRisk::Refused(error)) => Err(Refusal::Meta(error)),
            Some(risk) => Err(Refusal::QuorumRisk { reason: risk.to_string() }),
            None => Ok(()),
        }
    }

    /// The nodes that were heard of lately, this one included.
    fn reachable(&self) -> BTreeSet<NodeId> {
        let is_heard =
            |link: &super::Link| link.heard_at.is_some_and(|at| self.now <= at + REACHABLE_WITHIN);
        let heard = self.links.iter().filter(|(_, link)| is_heard(link)).map(|(node, _)| *node);
        heard.chain([self.config.id]).collect()
    }

    fn transfer_leader(&mut self, shard: ShardId, to: NodeId) -> ClientReply {
        let refusal = self.refusal(shard);
        self.sync_contact(shard);
        let Some(replica) = self.replicas.get_mut(&shard).filter(|replica| replica.is_leader())
        else {
            return ClientReply::Refused(refusal);
        };
        self.touched.insert(shard);
        match replica.group.transfer(self.now, to) {
            Ok(()) => ClientReply::Admin(AdminReply::Done),
            Err(error) => ClientReply::Refused(Refusal::Transfer { reason: error.to_string() }),
        }
    }

    /// Only who belongs to no cluster can join one, and is then asked before there is a core.
    fn refuse_to_join(&self) -> ClientReply {
        ClientReply::Refused(match &self.identity.cluster {
            Some(cluster) => Refusal::Member { node: self.config.id, cluster: cluster.id },
            None => Refusal::NotReady,
        })
    }

    fn plan_change(&self, change: Change) -> ClientReply {
        let Some(map) = &self.map else {
            return ClientReply::Refused(Refusal::NotReady);
        };
        match plan::plan(map, change) {
            Ok(moves) => ClientReply::Admin(AdminReply::Plan { moves }),
            Err(error) => ClientReply::Refused(Refusal::Meta(error)),
        }
    }

    /// What an operator hears of a command that was applied.
    pub(super) fn admin_reply(&self, outcome: Outcome) -> ClientReply {
        match outcome {
            Outcome::MemberAdded { id, map } => {
                let cluster = self.identity.cluster.clone();
                match cluster {
                    Some(cluster) => {
                        let added = AdminReply::NodeAdded { id, cluster, map };
                        ClientReply::Admin(added)
                    }
                    None => ClientReply::Refused(Refusal::NotReady),
                }
            }
            Outcome::MetaRefused(error) => ClientReply::Refused(Refusal::Meta(error)),
            Outcome::None
            | Outcome::Written(_)
            | Outcome::SessionExpired
            | Outcome::Superseded
            | Outcome::SessionOpened(_)
            | Outcome::MapChanged(_)
            | Outcome::BoundRaised { .. }
            | Outcome::WatermarkRaised { .. }
            | Outcome::Prepared { .. }
            | Outcome::Decided { .. }
            | Outcome::Finished { .. }
            | Outcome::Forgotten { .. } => ClientReply::Admin(AdminReply::Done),
        }
    }
}
