//! Moving replicas: leaders carry out the targets that the map gives their shards.
//!
//! A target is carried out in steps, each an entry of the shard's log: the newcomers become
//! learners; when they have caught up, one joint change makes the target the voters; the group
//! leaves the joint configuration by itself. Before each step the map must have the configuration
//! that the step starts from (see [`cluster`](crate::cluster)), so the leader reports every committed
//! configuration to the meta leader until it finds it in the map.
//!
//! All of it is in the logs, so whoever leads next goes on where the last one was.
//!
//! Leaders also hand over to the voter that the map prefers, one shard at a time and as long as
//! nobody misses anybody, and to any other one when their own disk is slow.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use super::Node;
use crate::cluster::ShardEntry;
use crate::id::{Epoch, NodeId, ShardId};
use crate::machine::{Command, MetaCommand};
use crate::raft::Configuration;
use crate::time::Instant;
use crate::wire::{MapMessage, PeerMessage};

/// How often a configuration is reported until the map has it.
const REPORT_INTERVAL: Duration = Duration::from_millis(300);
/// How long a leadership is left where it is before it is handed to the preferred voter: elections
/// settle first, and who fails again and again, or is half cut off, does not get it back at once.
const PREFERENCE_PAUSE: Duration = Duration::from_secs(300);
/// How long a leadership is left where it is before a slow disk ends it.
const SLOW_PAUSE: Duration = Duration::from_secs(2);
/// How long a disk counts as slow after a write that took too long.
const SLOW_MEMORY: Duration = Duration::from_secs(10);
/// How long a write to the log may take before the leaderships go elsewhere.
const SLOW_SYNC: Duration = Duration::from_millis(500);

impl Node {
    /// Once per heartbeat: takes the shards that this node leads one step towards their targets.
    pub(super) fn advance_moves(&mut self) {
        let Some(map) = &self.map else {
            return;
        };
        let leads = |entry: &&ShardEntry| {
            self.replicas.get(&entry.shard).is_some_and(|replica| {
                let epoch = replica.group.configuration().epoch;
                let is_due = entry.target.is_some() || epoch != entry.epoch;
                replica.is_leader() && is_due
            })
        };
        let due: Vec<ShardEntry> = map.shards.iter().filter(leads).cloned().collect();
        due.iter().for_each(|entry| self.advance_move(entry));
    }

    fn advance_move(&mut self, entry: &ShardEntry) {
        let shard = entry.shard;
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        if !replica.group.is_configuration_committed() {
            return;
        }
        let configuration = replica.group.configuration().clone();
        if configuration.epoch > entry.epoch {
            return self.report_placement(shard, configuration);
        }
        let Some(target) = &entry.target else {
            return;
        };
        if configuration.epoch < entry.epoch || configuration.is_joint() {
            return;
        }
        let voters: BTreeSet<NodeId> = target.iter().copied().collect();
        let newcomers = &voters - &configuration.voters;
        let is_same = voters == configuration.voters && configuration.learners.is_empty();
        let proposed = if is_same {
            replica.group.propose_same(self.now)
        } else if newcomers != configuration.learners && !newcomers.is_empty() {
            replica.group.propose_change(self.now, configuration.voters, newcomers)
        } else {
            replica.group.propose_change(self.now, voters, BTreeSet::new())
        };
        // What cannot be done yet is tried again with the next heartbeat.
        if proposed.is_ok() {
            self.touched.insert(shard);
        }
    }

    /// Tells the meta leader what holds in a shard.
    fn report_placement(&mut self, shard: ShardId, configuration: Configuration) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        if self.now < replica.reported_at + REPORT_INTERVAL {
            return;
        }
        replica.reported_at = self.now;
        if self.is_meta_leader() {
            return self.on_placed(shard, configuration);
        }
        if let Some(leader) = self.meta_leader() {
            let message = MapMessage::Placed { shard, configuration };
            self.outbox.send(leader, PeerMessage::Map(message));
        }
    }

    /// As meta leader: a shard's leader reports what holds there.
    pub(super) fn on_placed(&mut self, shard: ShardId, configuration: Configuration) {
        let is_new = |epoch: Option<Epoch>| epoch.is_some_and(|epoch| epoch < configuration.epoch);
        let held = self.map.as_ref().and_then(|map| map.entry(shard)).map(|entry| entry.epoch);
        let term = self.replicas.get(&ShardId::META).map(|replica| replica.group.term());
        let proposed = self.placing.get(&shard).copied();
        let is_proposed = proposed.is_some_and(|(at, epoch, until)| {
            Some(at) == term && epoch >= configuration.epoch && self.now < until
        });
        if !is_new(held) || is_proposed || !self.is_meta_leader() {
            return;
        }
        let until = self.now + REPORT_INTERVAL * 10;
        let placing = term.map(|term| (term, configuration.epoch, until));
        self.placing.extend(placing.map(|placing| (shard, placing)));
        let command = MetaCommand::Placed { shard, configuration };
        self.propose_meta(command);
    }

    /// As meta leader: proposes a command that nobody waits for.
    fn propose_meta(&mut self, command: MetaCommand) {
        let payload = Command::Meta(command).encode();
        if let Some(meta) = self.replicas.get_mut(&ShardId::META) {
            // What is not taken is reported again.
            let _ = meta.group.propose(self.now, payload.into());
            self.touched.insert(ShardId::META);
        }
    }

    /// Once per heartbeat: hands leaderships to where they should be.
    pub(super) fn balance_leaders(&mut self) {
        if self.is_disk_slow() {
            let shards: Vec<_> = self.led_since(SLOW_PAUSE);
            for shard in shards {
                self.sync_contact(shard);
                let replica = self.replicas.get_mut(&shard);
                let replica = replica.expect("the shard was just listed");
                let is_well = |node| !self.links.get(&node).is_some_and(|link| link.is_unfit);
                let group = &replica.group;
                let well = group.best_successor(self.now, is_well);
                // Any disk is better than one that is known to be slow.
                if let Some(to) = well.or_else(|| group.best_successor(self.now, |_| true)) {
                    let _ = replica.group.transfer(self.now, to);
                    self.touched.insert(shard);
                }
            }
            return;
        }
        if self.is_unfit() {
            return;
        }
        let preferred = |shard: &ShardId| Some((*shard, self.map.as_ref()?.entry(*shard)?.leader?));
        let shards = self.led_since(PREFERENCE_PAUSE);
        let wish = shards.iter().filter_map(preferred).find(|(_, to)| *to != self.config.id);
        let Some((shard, to)) = wish else {
            return;
        };
        self.sync_contact(shard);
        if !self.links.get(&to).is_some_and(|link| link.is_unfit)
            && let Some(replica) = self.replicas.get_mut(&shard)
            && !replica.group.configuration().is_joint()
            && replica.group.holds_committed(to)
        {
            // Who is not able to lead now may be with the next heartbeat.
            let _ = replica.group.transfer(self.now, to);
            self.touched.insert(shard);
        }
    }

    /// Shards that this node has led for at least so long.
    fn led_since(&self, at_least: Duration) -> Vec<ShardId> {
        let is_settled = |replica: &super::Replica| {
            replica.is_leader() && self.now >= replica.role_since + at_least
        };
        let led = self.replicas.iter().filter(|(_, replica)| is_settled(replica));
        led.map(|(shard, _)| *shard).collect()
    }

    /// Whether this node should be given no leadership. Who is being repaired has enough to do. Who
    /// does not hear another leader may have lost its links to more, and a leadership is not worth
    /// the risk of another election.
    pub(super) fn is_unfit(&self) -> bool {
        let oldest = self.now - self.config.timings.election_max;
        self.is_disk_slow()
            || self.identity.repair.is_some()
            || self.links.values().any(|link| link.is_missed(oldest))
    }

    /// Whether the oldest write to the log that is not durable has been on its way for too long, or
    /// was, a moment ago.
    pub(super) fn is_disk_slow(&self) -> bool {
        let is_late = |begun: &Instant| self.now >= *begun + SLOW_SYNC;
        self.appends_begun.values().next().is_some_and(is_late) || self.now < self.slow_until
    }

    /// An append is durable: notes how long it took.
    pub(super) fn note_append_time(&mut self, id: crate::id::AppendId) {
        if let Some(begun) = self.appends_begun.remove(&id)
            && self.now >= begun + SLOW_SYNC
        {
            self.slow_until = self.now + SLOW_MEMORY;
        }
    }
}
