//! What follows from the map: whom the node knows, and of which shards it has replicas.
//!
//! The meta group's log decides about members and targets, and its leader pushes every new map to
//! all nodes, and once a second its version, which whoever is behind answers by asking for the map.
//! Whoever it does not reach hears of the version by gossip and asks another node ([`hints`](super::hints)).
//! A node keeps the newest map in its identity, so that after a restart it finds the members that
//! there are, even if none of those of the formation is left.
//!
//! # Replicas come and go
//!
//! A replica is made when a leader sends something for a shard that the node has none of: empty,
//! without voters, and so unable to campaign; it learns from the log or from a snapshot who takes
//! part. It is removed when the map has a newer configuration of the shard than the replica's own
//! log, or the same, and it does not name the node: that configuration was committed without it, and
//! no later one that the replica knows of brings it back. What it promised stays, for ever: its term
//! and vote, and where its log ended, which are durable before anything of it is given up. For it may
//! still be asked for its vote, by one who knows nothing of the newer configuration, and the entries
//! of that were perhaps committed with its help.
//!
//! # Who is not told
//!
//! Every node gossips with the members that it knows. So a node that was removed finds out even if
//! it has nothing else to say: it is told so by whoever it talks to, and does nothing from then on.
//! The members that it knows may have been removed, too, and others may run where they were: those
//! tell it as well, and a newer map of the own cluster is believed whoever sends it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::link::Link;
use super::replica::Replica;
use super::{Event, Node, Output, Phase};
use crate::cluster::{ClusterMap, Identity};
use crate::id::{AppendId, LogId, LogIndex, NodeId, ShardId};
use crate::mutants::{self, Mutant};
use crate::raft::{Configuration, Group, GroupConfig, Role};
use crate::ring;
use crate::rng::Rng;
use crate::storage::{HardState, RecoveredGroup, StorageRequest};
use crate::wire::{MapMessage, PeerFrame, PeerMessage};

/// How often the meta leader tells its map's version, in heartbeats.
const TELL_MAP_HEARTBEATS: u32 = 10;

/// A replica that is on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removing {
    /// What stays of it.
    hard_state: HardState,
    /// The append that makes it durable; only then the rest may go.
    append: AppendId,
}

impl Node {
    /// Who takes part in the group of `shard` if its log has never said otherwise.
    pub(super) fn initial_configuration(&self, shard: ShardId) -> Configuration {
        let record = self.identity.cluster.as_ref().expect("a running node belongs to a cluster");
        let map = ring::initial_map(record);
        let voters = map.entry(shard).map(|entry| entry.voters.clone()).unwrap_or_default();
        Configuration::initial(voters)
    }

    /// Makes a replica of `shard` from what its store has of it.
    pub(super) fn add_replica(&mut self, shard: ShardId, mut recovered: RecoveredGroup) {
        let configuration = match recovered.configuration.take() {
            Some(configuration) => configuration,
            None if recovered.is_removed => Configuration::default(),
            None => self.initial_configuration(shard),
        };
        let config = GroupConfig {
            shard,
            me: self.config.id,
            configuration,
            timings: self.config.timings,
            has_leases: self.config.lease.is_some(),
            limits: self.config.limits,
            life: self.identity.replica_life(),
        };
        let transactions = core::mem::take(&mut recovered.transactions);
        self.replica_count += 1;
        let label = alloc::format!("{shard}/{}", self.replica_count);
        let group = Group::new(config, recovered, Rng::fork(self.start.seed, &label), self.now);
        self.replicas.insert(shard, Replica::new(group, transactions));
        self.touched.insert(shard);
    }

    /// A leader sends something for a shard that this node has no replica of: makes an empty one.
    pub(super) fn add_empty_replica(&mut self, shard: ShardId) {
        let is_known = self.map.as_ref().is_some_and(|map| map.entry(shard).is_some());
        if is_known && !self.replicas.contains_key(&shard) && !self.removing.contains_key(&shard) {
            // What was committed then is not in the log that begins now.
            let hard_state = self.removed.get(&shard).copied().unwrap_or_default();
            let hard_state = HardState { commit: LogIndex(0), ..hard_state };
            // Who is suspect may get the log from its first entry on, and then nobody says who took
            // part at first; and it cannot campaign before it has all of it.
            let is_removed = !hard_state.is_suspect(self.identity.replica_life());
            let recovered = RecoveredGroup { hard_state, is_removed, ..RecoveredGroup::default() };
            self.add_replica(shard, recovered);
        }
    }

    /// Takes a map, if it is newer than the one at hand.
    pub(super) fn learn_map(&mut self, map: ClusterMap) {
        self.is_bootstrapped = true;
        let held = self.map.as_ref();
        if held.is_some_and(|held| held.cluster != map.cluster || held.version >= map.version) {
            return;
        }
        if map.is_removed(self.config.id) {
            return self.become_removed();
        }
        let before = self.map.replace(map);
        self.follow_members();
        let map = self.map.clone().expect("it was just learned");
        if self.is_meta_leader() {
            let known = before.iter().chain([&map]).flat_map(|map| &map.members);
            let nodes: BTreeSet<NodeId> = known.map(|member| member.id).collect();
            for node in nodes.into_iter().filter(|node| *node != self.config.id) {
                self.outbox.send(node, PeerMessage::Map(MapMessage::Map(map.clone())));
            }
        }
        if before.is_none_or(|before| before.members != map.members) {
            let identity = Identity { map: Some(map.clone()), ..self.identity.clone() };
            self.identity = identity.clone();
            self.outbox.push(Output::Store(StorageRequest::StoreIdentity(identity)));
        }
        self.outbox.push(Output::Event(Event::MapChanged { version: map.version }));
        self.remove_replicas();
        self.touched.extend(self.replicas.keys().copied());
    }

    /// Keeps a link to every other member.
    fn follow_members(&mut self) {
        let Some(map) = &self.map else {
            return;
        };
        let me = self.config.id;
        let members = map.members.iter().filter(|member| member.id != me);
        let members: Vec<_> = members.map(|member| (member.id, member.incarnation)).collect();
        // What a link knows is lost with it.
        let left = self.links.iter();
        let left = left.filter(|(node, link)| !members.contains(&(**node, link.incarnation)));
        let led: Vec<_> = left.flat_map(|(_, link)| link.their_shards()).collect();
        led.into_iter().for_each(|shard| self.sync_contact(shard));
        self.links.retain(|node, link| members.contains(&(*node, link.incarnation)));
        for (node, incarnation) in members {
            self.links.entry(node).or_insert_with(|| Link::new(incarnation));
        }
        self.follow_members_by_gossip();
        self.is_leads_stale = true;
    }

    /// Removes the replicas that this node is not to have any more.
    fn remove_replicas(&mut self) {
        let (Some(map), me) = (&self.map, self.config.id) else {
            return;
        };
        let superfluous = self.replicas.iter().filter(|(shard, replica)| {
            // Who has no configuration has nothing else either, and was made by a late message.
            let own = replica.group.configuration();
            let is_gone = |epoch| epoch > own.epoch || (epoch == own.epoch && !own.is_member(me));
            let entry = map.entry(**shard);
            let stays = replica.is_leader() && mutants::is_active(Mutant::RemovedLeaderStays);
            entry.is_some_and(|entry| is_gone(entry.epoch) && !entry.names(me) && !stays)
        });
        let superfluous: Vec<_> = superfluous.map(|(shard, _)| *shard).collect();
        superfluous.into_iter().for_each(|shard| self.remove_replica(shard));
    }

    fn remove_replica(&mut self, shard: ShardId) {
        if let Some(hard_state) = self.drop_replica(shard) {
            self.give_up(shard, hard_state);
            self.outbox.push(Output::Event(Event::ReplicaRemoved { shard }));
        }
    }

    /// Ends a replica, and returns what must stay of it.
    pub(super) fn drop_replica(&mut self, shard: ShardId) -> Option<HardState> {
        self.refuse_waiting(shard);
        self.refuse_levels(shard);
        let replica = self.replicas.remove(&shard)?;
        replica.filed_deadline.map(|at| self.deadlines.remove(&(at, shard)));
        for link in self.links.values_mut() {
            link.unsettle(shard);
            link.untold.remove(&shard);
        }
        self.attention.remove(&shard);
        self.snapshots.forget(shard);
        let (term, role) = (replica.group.term(), Role::Follower);
        if replica.is_leader() {
            self.outbox.push(Output::Event(Event::RoleChanged { shard, term, role }));
        }
        self.is_leads_stale = true;
        Some(replica.group.hard_state_without_log())
    }

    /// Gives up what is stored of a shard that has no replica here any more, but for this.
    pub(super) fn give_up(&mut self, shard: ShardId, hard_state: HardState) {
        let append = self.write_hard_state(shard, hard_state);
        self.removing.insert(shard, Removing { hard_state, append });
    }

    /// Appends up to `id` are durable: gives up the replicas of which that says all that must stay.
    pub(super) fn give_up_removed(&mut self, id: AppendId) {
        for (shard, _) in self.removing.iter().filter(|(_, removing)| removing.append == id) {
            self.outbox.push(Output::Store(StorageRequest::RemoveShard { shard: *shard }));
        }
    }

    /// The applied state of a removed replica is gone: so may its log be, but for its hard state.
    pub(super) fn on_shard_removed(&mut self, shard: ShardId) {
        if let Some(Removing { hard_state, .. }) = self.removing.remove(&shard) {
            self.removed.insert(shard, hard_state);
            let floor = LogId::default();
            self.outbox.push(Output::Store(StorageRequest::Release { shard, floor }));
        }
    }

    /// This node is no member any more, and never will be under this id.
    fn become_removed(&mut self) {
        let shards: Vec<_> = self.replicas.keys().copied().collect();
        shards.into_iter().for_each(|shard| self.refuse_waiting(shard));
        self.outbox.drop_messages();
        self.stop_taking_part();
        self.phase = Phase::Removed;
        self.outbox.push(Output::Event(Event::Removed));
    }

    /// Whether this node leads the meta group.
    pub(super) fn is_meta_leader(&self) -> bool {
        self.replicas.get(&ShardId::META).is_some_and(Replica::is_leader)
    }

    /// As meta leader, now and then: tells all nodes which map is the newest.
    pub(super) fn tell_map_version(&mut self) {
        let pause = self.config.timings.heartbeat * TELL_MAP_HEARTBEATS;
        if !self.is_meta_leader() || self.now < self.map_told_at + pause {
            return;
        }
        self.map_told_at = self.now;
        self.remove_replicas();
        let version = self.map_version();
        let nodes: Vec<_> = self.links.keys().copied().collect();
        for node in nodes {
            self.outbox.send(node, PeerMessage::Map(MapMessage::Version { version }));
        }
    }

    /// A frame of no member, or for another node: whoever was removed is told so, and whoever knows of
    /// a newer map is believed.
    pub(super) fn on_frame_of_stranger(&mut self, frame: PeerFrame) {
        let ours = self.identity.cluster.as_ref().map(|cluster| cluster.id);
        if ours.is_none() || frame.cluster != ours || !matches!(self.phase, Phase::Running) {
            return;
        }
        if self.map.as_ref().is_some_and(|map| map.is_removed(frame.from)) {
            return self.send_map(frame.from);
        }
        if frame.to != self.config.id {
            return;
        }
        for message in frame.messages {
            if let PeerMessage::Map(MapMessage::Map(map)) = message {
                self.learn_map(map);
            }
        }
    }

    /// A peer says something about maps.
    pub(super) fn on_map_message(&mut self, from: NodeId, message: MapMessage) {
        let own = self.map_version();
        match message {
            MapMessage::Version { version } => {
                self.meta_leader = Some(from);
                // Also a sign of life: the meta leader knows by it who can be reached.
                self.outbox.send(from, PeerMessage::Map(MapMessage::Have { version: own }));
                if version < own {
                    self.send_map(from);
                } else if version == own {
                    // A message that came after this map may have made a replica that it denies.
                    self.remove_replicas();
                }
            }
            MapMessage::Have { version } if version < own => self.send_map(from),
            MapMessage::Have { .. } => {}
            MapMessage::Map(map) => self.learn_map(map),
            MapMessage::Placed { shard, configuration } => {
                self.on_placed(shard, configuration);
            }
        }
    }

    /// Sends the map, also to who is no member any more and has to be told.
    pub(super) fn send_map(&mut self, to: NodeId) {
        if let Some(map) = self.map.clone() {
            self.outbox.send(to, PeerMessage::Map(MapMessage::Map(map)));
        }
    }
}
