//! What gossip tells the node, and what the node makes of it.
//!
//! Every member runs [`Gossip`]. Its messages travel in the frames between the nodes, and it knows
//! whom the map names: Raft decides who is a member, and gossip follows. What comes of it are hints,
//! each of which is checked elsewhere or does no harm if it is wrong:
//!
//! - *somebody has a newer map*: this node asks for it. So a node that the meta leader does not reach
//!   learns the map from any other one. A map proves itself by its version.
//! - *a member is reached elsewhere*: the driver is told ([`Output::Connect`]). Who answers there
//!   proves itself by id, cluster and incarnation.
//! - *a member leads a shard*: whoever asks for the map or has something to report is sent there, and
//!   sent on if that is out of date.
//! - *a member is silent*: operators see it in the node's [`Status`](super::Status).
//!
//! **What this leaves out:** every decision. No placement, quorum or membership ever follows from
//! silence.

use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::time::Duration;

use super::status::PeerStatus;
use super::{Event, Node, Output};
use crate::gossip::{
    self, Gossip, GossipMessage, Introduction, Load, MemberState, Release, ShardLead,
    detector::PHI_MAX,
};
use crate::id::{Address, Generation, LogIndex, NodeId, ShardId};
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::{MapMessage, PROTOCOL_VERSION, PeerMessage};

/// How long the answer of one who seems to have a newer map is waited for.
const MAP_PATIENCE: Duration = Duration::from_millis(500);

/// Gossip of a member of a cluster.
#[derive(Debug)]
pub(super) struct Hints {
    gossip: Gossip,
    /// No newer map is asked for before.
    ask_at: Instant,
}

impl Node {
    /// Begins to gossip, as a member of the cluster.
    pub(super) fn start_gossip(&mut self) {
        let own = Introduction {
            node: self.config.id,
            generation: Generation(1),
            incarnation: self.identity.incarnation,
            address: self.default_address(self.config.id).unwrap_or_default(),
            release: Release {
                protocol: PROTOCOL_VERSION.into(),
                software: env!("CARGO_PKG_VERSION").to_string(),
            },
        };
        let config = self.config.gossip.clone();
        let gossip = Gossip::new(config, own, Vec::new(), self.start.seed, self.now);
        let gossip = gossip.expect("the configuration was checked with the node's");
        self.hints = Some(Hints { gossip, ask_at: self.now });
        self.follow_members_by_gossip();
    }

    /// Gossips with whom the map names, and with nobody else.
    pub(super) fn follow_members_by_gossip(&mut self) {
        let seeds: Vec<_> =
            self.links.keys().filter_map(|node| self.default_address(*node)).collect();
        if let Some(hints) = &mut self.hints {
            let members: Vec<_> = self.links.keys().copied().collect();
            hints.gossip.retain_members(self.now, &members);
            hints.gossip.set_seeds(seeds);
        }
    }

    /// When gossip has something to do.
    pub(super) fn gossip_timeout(&self) -> Option<Instant> {
        self.hints.as_ref()?.gossip.poll_timeout()
    }

    pub(super) fn on_gossip_timeout(&mut self) {
        if self.gossip_timeout().is_none_or(|at| self.now < at) {
            return;
        }
        self.tell_of_itself();
        if let Some(hints) = &mut self.hints {
            hints.gossip.on_timeout(self.now);
        }
        self.take_hints();
    }

    /// A member gossips.
    pub(super) fn on_gossip(&mut self, from: NodeId, message: GossipMessage) {
        if let GossipMessage::Digest { address, .. } = &message {
            // By its own word, and sooner than its record can say so.
            self.on_moved(from, address.clone());
        }
        if let Some(hints) = &mut self.hints {
            hints.gossip.handle(self.now, from, message);
        }
        self.take_hints();
        self.ask_for_newer_map();
    }

    /// Puts together what the others are to know of this node.
    fn tell_of_itself(&mut self) {
        let leads = self.replicas.iter().filter(|(_, replica)| replica.is_leader());
        let leads: Vec<_> = leads
            .map(|(shard, replica)| ShardLead {
                shard: *shard,
                epoch: replica.group.configuration().epoch,
            })
            .collect();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let load = Load {
            replica_count: count(self.replicas.len()),
            leader_count: count(leads.len()),
            pending_bytes: self.pending_bytes as u64,
            is_full: self.is_full,
        };
        let version = self.map_version();
        if let Some(hints) = &mut self.hints {
            hints.gossip.set_load(load);
            hints.gossip.set_leads(leads);
            hints.gossip.set_map_version(version.0);
        }
    }

    fn take_hints(&mut self) {
        while let Some(output) = self.hints.as_mut().and_then(|hints| hints.gossip.poll_output()) {
            match output {
                gossip::Output::Send { to, message } => {
                    let node = to.node.or_else(|| self.member_at(&to.address));
                    if let Some(node) = node.filter(|node| self.links.contains_key(node)) {
                        self.outbox.send(node, PeerMessage::Gossip(message));
                    }
                }
                gossip::Output::Changed { node, state } => {
                    let is_down = state == MemberState::Down;
                    if is_down && mutants::is_active(Mutant::GossipDecidesPlacement) {
                        self.replicas.values_mut().for_each(|it| it.group.leave_out(node));
                    }
                    self.outbox.push(Output::Event(Event::PeerChanged { node, state }));
                }
                gossip::Output::Moved { node, address } => self.on_moved(node, address),
            }
        }
    }

    /// The member whose default address this is: seeds are given to gossip by address.
    fn member_at(&self, address: &Address) -> Option<NodeId> {
        let is_at = |node: &NodeId| self.default_address(*node).as_ref() == Some(address);
        self.links.keys().copied().find(is_at)
    }

    /// A member says, or is said, to be reached at `address`.
    fn on_moved(&mut self, node: NodeId, address: Address) {
        let is_known = self.address(node).as_ref() == Some(&address);
        if let Some(link) = self.links.get_mut(&node)
            && !is_known
            && address.0.len() <= gossip::ADDRESS_BYTES_MAX
        {
            link.address = Some(address.clone());
            self.outbox.push(Output::Connect { peer: node, address });
        }
    }

    /// Where a node is reached as far as this node knows: by what was heard, else by the
    /// configuration, else by the map.
    pub(super) fn address(&self, node: NodeId) -> Option<Address> {
        let heard = self.links.get(&node).and_then(|link| link.address.clone());
        heard.or_else(|| self.default_address(node))
    }

    /// Where a node is reached if gossip has not said otherwise. Who started this node knows better
    /// than the map, in which addresses never change.
    fn default_address(&self, node: NodeId) -> Option<Address> {
        let configured = self.config.peers.iter().find(|(peer, _)| *peer == node);
        let member = || self.map.as_ref()?.member(node);
        configured
            .map(|(_, address)| address.clone())
            .or_else(|| member().map(|member| member.address.clone()))
    }

    /// Asks for the map if a member has a newer one, the one that was heard of last.
    fn ask_for_newer_map(&mut self) {
        let version = self.map_version();
        let Some(hints) = self.hints.as_mut().filter(|hints| self.now >= hints.ask_at) else {
            return;
        };
        let newer = hints.gossip.members_with_newer_map(version.0);
        let heard_at = |node: &NodeId| self.links.get(node).and_then(|link| link.heard_at);
        if let Some(node) = newer.filter(|node| heard_at(node).is_some()).max_by_key(heard_at) {
            hints.ask_at = self.now + MAP_PATIENCE;
            self.outbox.send(node, PeerMessage::Map(MapMessage::Have { version }));
        }
    }

    /// Version of the newest map that the node knows.
    pub(super) fn map_version(&self) -> LogIndex {
        self.map.as_ref().map(|map| map.version).unwrap_or_default()
    }

    /// Who says that it leads `shard`. Not necessarily so.
    pub(super) fn hinted_leader(&self, shard: ShardId) -> Option<NodeId> {
        let node = self.hints.as_ref()?.gossip.leader_of(shard)?;
        self.links.contains_key(&node).then_some(node)
    }

    /// What this node believes of the other members.
    pub(super) fn peer_statuses(&self) -> Vec<PeerStatus> {
        let of = |node: NodeId| {
            let known = self.hints.as_ref().and_then(|hints| hints.gossip.member(self.now, node));
            let phi = known.as_ref().map_or(0.0, |known| known.phi);
            PeerStatus {
                node,
                address: self.address(node).unwrap_or_default(),
                state: known.as_ref().map(|known| known.state),
                // In range: phi is from 0 to 1,000.
                phi_hundredths: (phi.clamp(0.0, PHI_MAX) * 100.0) as u32,
                release: known.as_ref().map(|known| known.release.clone()).unwrap_or_default(),
                map_version: LogIndex(known.map_or(0, |known| known.map_version)),
            }
        };
        self.links.keys().map(|node| of(*node)).collect()
    }
}
