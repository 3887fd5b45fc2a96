//! What becomes of changes of the members.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::cluster::{ClusterMap, MemberState};
use kv_core::id::{NodeId, ShardId};

use super::invariants::Invariants;
use super::operator::OperatorEvent;
use super::replica::{Replica, server_at};
use super::system::KvSystem;
use crate::engine::{Check, MemberChange, Membership, ProcessId, World};

/// What operators have achieved.
#[derive(Debug, Default)]
pub(super) struct Changes {
    complete: BTreeMap<MemberChange, u64>,
    returned: u64,
    refused: u64,
}

impl Changes {
    pub(super) fn on_event(&mut self, event: OperatorEvent) {
        match event {
            OperatorEvent::Changed { change, returned } => {
                *self.complete.entry(change).or_default() += 1;
                self.returned += u64::from(returned);
            }
            OperatorEvent::Refused => self.refused += 1,
        }
    }

    fn count(&self, change: MemberChange) -> u64 {
        self.complete.get(&change).copied().unwrap_or_default()
    }

    /// Changes that are complete.
    pub(super) fn sum(&self) -> u64 {
        self.complete.values().sum()
    }

    /// Whether enough changed to prove anything.
    pub(super) fn judge(&self, plan: &Membership, invariants: &Invariants) -> Check {
        let name = "changes";
        let kinds = plan.kinds.iter();
        let counts = kinds.map(|kind| format!("{} {}", kind.name(), self.count(*kind)));
        let counts: Vec<_> = counts.collect();
        let Self { returned, refused, .. } = self;
        let (moves, configurations) = (invariants.moves(), invariants.configurations());
        let detail = format!(
            "{}; {returned} servers returned, {refused} requests refused; shards got other voters \
             {moves} times, by {configurations} configurations",
            counts.join(", ")
        );
        let is_missing = plan.kinds.iter().any(|kind| self.count(*kind) == 0);
        let is_short = plan.changes.is_some_and(|changes| self.sum() < u64::from(changes));
        match is_missing || is_short || moves < plan.moves_min {
            true => Check::invalid(name, format!("too few: {detail}")),
            false => Check::pass(name, detail),
        }
    }
}

/// Servers that run a node.
pub(super) fn replicas<'a>(
    world: &'a World<'_, KvSystem>,
) -> impl Iterator<Item = (ProcessId, &'a Replica)> {
    world.servers().filter_map(|(server, machine)| Some((server, machine?.replica()?)))
}

/// The newest map that anybody has.
pub(super) fn newest_map<'a>(world: &'a World<'_, KvSystem>) -> Option<&'a ClusterMap> {
    let maps = replicas(world).filter_map(|(_, replica)| replica.node().map());
    maps.max_by_key(|map| map.version)
}

/// Whether all changes are over: nothing moves, every member runs where it is to, knows the newest
/// map and has just the replicas that the map says, and nobody else has any.
pub(super) fn settled(world: &World<'_, KvSystem>) -> Result<(), String> {
    let map = newest_map(world).ok_or("no server knows the map")?;
    if let Some(entry) = map.shards.iter().find(|entry| !entry.is_settled_on(&entry.goal)) {
        return Err(format!("{} still moves: {entry:?}", entry.shard));
    }
    if let Some(member) = map.members.iter().find(|it| it.state == MemberState::Leaving) {
        return Err(format!("{} has not left", member.id));
    }
    for (server, replica) in replicas(world) {
        let node = replica.node().identity().node;
        let member = map.member(node).filter(|member| server_at(&member.address) == server);
        let held: BTreeSet<ShardId> =
            replica.node().status().shards.iter().map(|status| status.shard).collect();
        let names = |node: NodeId| {
            let named = map.shards.iter().filter(move |entry| entry.names(node));
            named.map(|entry| entry.shard).collect::<BTreeSet<_>>()
        };
        let expected = member.map(|_| names(node)).unwrap_or_default();
        if held != expected {
            return Err(format!("{node} on {server} has {held:?}, not {expected:?}"));
        }
        let version = replica.node().map().map(|map| map.version);
        if member.is_some() && version != Some(map.version) {
            return Err(format!("{node} has map {version:?}, not {}", map.version));
        }
    }
    let is_there = |id: NodeId| replicas(world).any(|(_, it)| it.node().identity().node == id);
    match map.members.iter().find(|member| !is_there(member.id)) {
        Some(member) => Err(format!("{} does not run", member.id)),
        None => Ok(()),
    }
}
