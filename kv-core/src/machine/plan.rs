//! Where shards are to move: the plan of the meta group.
//!
//! When the members change, [`choose_goals`] asks the ring for the *goal* of every shard: the voters
//! that it is to have in the end. [`advance`] then gives some shards a *target*, which is their goal
//! for their leaders to carry out, and is called again after each report of such a leader.
//!
//! - Goals follow from the goals before and not from where shards happen to be, so the ring sees
//!   each change of members once, and what is moved is what [`plan`] said. Only a member that takes
//!   over from another one gives up goals for it that nobody has begun with.
//! - At most [`MOVES_MAX`] shards have a target at a time.
//! - A target that was given is carried out, even if the goal is another one by then, unless it
//!   names a member that leaves: half-done moves are worth finishing, and dead members never catch
//!   up.
//! - While a shard's configuration is joint its target stays as it is: no other change can begin.
//! - A member that leaves is dropped once no shard names it, be it only as what a withdrawn target
//!   may still bring in.
//!
//! Every plan ends: between two changes of members a shard is given at most its old target and its
//! goal, each of which takes a bounded number of reports.
//!
//! All of it is a pure function of the map, and so of the log.
//!
//! **What this leaves out:** how large shards and how busy nodes are; every shard counts the same.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::meta;
use crate::cluster::{
    ClusterMap, Member, MemberState, MetaError, REMOVED_MAX, RemovedMember, ShardEntry,
};
use crate::id::{Address, Incarnation, NodeId, ShardId};
use crate::ring::{self, Leadership};

/// Most shards that move at a time. Each move copies a shard's data to a node that serves others
/// meanwhile; four keep a node's disk and links busy without filling them.
pub const MOVES_MAX: usize = 4;

/// A change of the members, to be tried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node joins. It gets the map's next id.
    Add,
    /// A member leaves.
    Remove {
        /// Who.
        id: NodeId,
    },
    /// A member leaves, and another one takes over its replicas.
    Replace {
        /// Who leaves.
        old: NodeId,
        /// Who takes over.
        new: NodeId,
    },
}

/// What is to become of one shard's voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Its voters at present; while its configuration is joint, those after it.
    pub from: Vec<NodeId>,
    /// Its voters in the end.
    pub to: Vec<NodeId>,
}

impl Move {
    /// The nodes that get a replica.
    pub fn added(&self) -> impl Iterator<Item = NodeId> {
        self.to.iter().copied().filter(|node| !self.from.contains(node))
    }

    /// The nodes that give up theirs.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> {
        self.from.iter().copied().filter(|node| !self.to.contains(node))
    }
}

/// What would be moved in all if the members were changed, by shard: what the change causes and what
/// is not finished yet. Nothing is done.
///
/// # Errors
/// [`MetaError`], as the command itself would be refused.
pub fn plan(map: &ClusterMap, change: Change) -> Result<Vec<Move>, MetaError> {
    let mut map = map.clone();
    match change {
        Change::Add => {
            let nobody = (Incarnation(0), Address(String::new()));
            meta::insert_member(&mut map, nobody.0, nobody.1)?;
        }
        Change::Remove { id } => meta::remove_member(&mut map, id)?,
        Change::Replace { old, new } => meta::replace_member(&mut map, old, new)?,
    }
    let unsettled = map.shards.into_iter().filter(|entry| !entry.is_settled_on(&entry.goal));
    let to_move =
        |entry: ShardEntry| Move { shard: entry.shard, from: entry.voters, to: entry.goal };
    Ok(unsettled.map(to_move).collect())
}

/// Asks the ring where every shard is to be, after the members have changed. `replacement` is a
/// member that leaves and the one that takes over its replicas of shards that it is not to have
/// already.
pub(super) fn choose_goals(map: &mut ClusterMap, replacement: Option<(NodeId, NodeId)>) {
    let active: Vec<_> = map.active().collect();
    let goals = map.shards.iter().map(|entry| {
        let goal = entry.goal.clone();
        (entry.shard, replacement.map_or(goal, |(old, new)| base_of_replacement(entry, old, new)))
    });
    let goals: Vec<_> = goals.collect();
    let goals = ring::rebalance(&goals, &active, map.shard_count(), map.replica_count);
    for (entry, (_, goal)) in map.shards.iter_mut().zip(goals) {
        entry.goal = goal;
    }
}

/// What the goal of a shard follows from when `new` replaces `old`: its goal so far, but without
/// what `new` was to get and nobody has begun with, and with `new` in the place of `old`. So a node
/// that has just joined has room for the replicas of the one that it is to replace.
fn base_of_replacement(entry: &ShardEntry, old: NodeId, new: NodeId) -> Vec<NodeId> {
    let is_begun = entry.target.is_some() || entry.participants().any(|node| node == new);
    let is_planned = entry.goal.contains(&new) && !is_begun;
    let mut base = if is_planned { entry.voters.clone() } else { entry.goal.clone() };
    if !base.contains(&new) {
        base.iter_mut().filter(|node| **node == old).for_each(|node| *node = new);
    }
    base
}

/// Gives and withdraws targets, drops who has left, and chooses preferred leaders.
pub(super) fn advance(map: &mut ClusterMap) {
    end_targets(map);
    give_targets(map);
    drop_members(map);
    prefer_leaders(map);
}

/// Clears targets that are reached and withdraws those that name a member that does not stay.
fn end_targets(map: &mut ClusterMap) {
    let active: Vec<_> = map.active().collect();
    for entry in map.shards.iter_mut().filter(|entry| !entry.is_joint()) {
        let Some(target) = entry.target.take() else {
            continue;
        };
        if entry.is_settled_on(&target) {
            continue;
        }
        if target.iter().all(|node| active.contains(node)) {
            entry.target = Some(target);
        } else {
            withdraw(entry, &target);
        }
    }
}

fn withdraw(entry: &mut ShardEntry, target: &[NodeId]) {
    let known: Vec<_> = entry.participants().collect();
    entry.withdrawn.extend(target.iter().filter(|node| !known.contains(node)));
    entry.withdrawn.sort_unstable();
    entry.withdrawn.dedup();
}

/// Gives targets to those shards that need one most, as far as there may be more.
fn give_targets(map: &mut ClusterMap) {
    let has_target = |entry: &&ShardEntry| entry.target.is_some();
    let free = MOVES_MAX.saturating_sub(map.shards.iter().filter(has_target).count());
    let needs_one = |entry: &&ShardEntry| {
        entry.target.is_none() && !entry.is_joint() && !entry.is_settled_on(&entry.goal)
    };
    let needy = map.shards.iter().filter(needs_one);
    let mut needy: Vec<_> = needy.map(|entry| (urgency(map, entry), entry.shard)).collect();
    needy.sort_unstable();
    for (_, shard) in needy.into_iter().take(free) {
        let entry = &mut map.shards[shard.0 as usize];
        entry.target = Some(entry.goal.clone());
    }
}

/// Which shards get targets first; the lowest value does.
///
/// The meta group is before all: without it nothing can be moved, so it must be the first to get
/// back the failures that it can bear. It is small, and does not keep the others waiting for long.
fn urgency(map: &ClusterMap, entry: &ShardEntry) -> u8 {
    let is_halfway = !entry.learners.is_empty() || !entry.withdrawn.is_empty();
    let lacks_replicas = entry.voters.len() < map.replica_count as usize
        || entry.voters.iter().any(|voter| !map.is_active(*voter));
    match (entry.shard == ShardId::META, is_halfway, lacks_replicas) {
        (true, _, _) => 0,
        (_, true, _) => 1,
        (_, _, true) => 2,
        (false, false, false) => 3,
    }
}

/// Drops the members that leave and that no shard names.
fn drop_members(map: &mut ClusterMap) {
    let ClusterMap { members, removed, shards, .. } = map;
    members.retain(|member| {
        let stays = member.state == MemberState::Active
            || shards.iter().any(|entry| entry.names(member.id));
        if !stays {
            let Member { id, incarnation, ref address, .. } = *member;
            removed.push(RemovedMember { id, incarnation, address: address.clone() });
        }
        stays
    });
    let excess = removed.len().saturating_sub(REMOVED_MAX);
    removed.drain(..excess);
}

/// Spreads leaders over the voters that stay; over all voters where none does.
fn prefer_leaders(map: &mut ClusterMap) {
    let groups = map.shards.iter().map(|entry| {
        let stay = entry.voters.iter().copied().filter(|voter| map.is_active(*voter));
        let stay: Vec<_> = stay.collect();
        let voters = if stay.is_empty() { entry.voters.clone() } else { stay };
        Leadership { voters, leader: entry.leader }
    });
    let leaders = ring::spread_leaders(&groups.collect::<Vec<_>>());
    for (entry, leader) in map.shards.iter_mut().zip(leaders) {
        entry.leader = leader;
    }
}
