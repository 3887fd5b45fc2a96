//! What the commands of the meta group do to the cluster's map.
//!
//! Each command changes the map or is refused with a reason; if it changed anything, the plan
//! goes on from there ([`plan`](super::plan)). A copy of a command, however late, does no harm: members
//! are known by their incarnation, who is gone is not removed again, and reports are known by their
//! epoch.
//!
//! The map follows what the shards' own logs say and is the authority for nothing but members and
//! targets: a report is taken even if it names voters that nobody asked for.
//!
//! **What this leaves out:** who may propose a command and when; that is the meta leader's business.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::MetaCommand;
use super::plan::{advance, choose_goals};
use crate::cluster::{ClusterMap, MEMBERS_MAX, Member, MemberState, MetaError};
use crate::id::{Address, Incarnation, LogIndex, NodeId, SessionId, ShardId, Timestamp};
use crate::raft::Configuration;
use crate::ring;
use crate::storage::Outcome;

/// What the command of the entry at `index` does to the map.
pub(super) fn apply(
    map: &mut Option<ClusterMap>,
    index: LogIndex,
    command: MetaCommand,
) -> Outcome {
    let changed = match command {
        MetaCommand::OpenSession { nonce } => {
            let opened_ts = Timestamp(index.0);
            return Outcome::SessionOpened(SessionId { opened_ts, nonce });
        }
        MetaCommand::Bootstrap { record } => {
            // Two leaders in a row may both have proposed it; the first one in the log holds.
            let map = map.get_or_insert_with(|| {
                let mut map = ring::initial_map(&record);
                advance(&mut map);
                map.version = index;
                map
            });
            return Outcome::MapChanged(map.clone());
        }
        MetaCommand::AddMember { incarnation, address } => {
            return change(map, index, |map| add_member(map, incarnation, address))
                .map_or_else(Outcome::MetaRefused, |(id, map)| Outcome::MemberAdded { id, map });
        }
        MetaCommand::RemoveMember { id } => change(map, index, |map| remove_member(map, id)),
        MetaCommand::ReplaceMember { old, new } => {
            change(map, index, |map| replace_member(map, old, new))
        }
        MetaCommand::Placed { shard, configuration } => change(map, index, |map| {
            place(map, shard, &configuration);
            Ok(())
        }),
    };
    changed.map_or_else(Outcome::MetaRefused, |((), map)| Outcome::MapChanged(map))
}

/// Changes the map by `command`, which changes nothing if it fails, and goes on with the plan if it did.
fn change<T>(
    map: &mut Option<ClusterMap>,
    index: LogIndex,
    command: impl FnOnce(&mut ClusterMap) -> Result<T, MetaError>,
) -> Result<(T, ClusterMap), MetaError> {
    let map = map.as_mut().ok_or(MetaError::NotFormed)?;
    let before = map.clone();
    let result = command(map)?;
    if *map != before {
        advance(map);
        map.version = index;
    }
    Ok((result, map.clone()))
}

fn add_member(
    map: &mut ClusterMap,
    incarnation: Incarnation,
    address: Address,
) -> Result<NodeId, MetaError> {
    if let Some(member) = map.members.iter().find(|member| member.incarnation == incarnation) {
        return Ok(member.id);
    }
    if let Some(removed) = map.removed.iter().find(|removed| removed.incarnation == incarnation) {
        return Err(MetaError::RemovedMember { id: removed.id });
    }
    insert_member(map, incarnation, address)
}

/// Makes a node a member under an id that nobody had before.
pub(super) fn insert_member(
    map: &mut ClusterMap,
    incarnation: Incarnation,
    address: Address,
) -> Result<NodeId, MetaError> {
    if map.members.len() >= MEMBERS_MAX {
        return Err(MetaError::TooManyMembers);
    }
    let id = map.next_node;
    // The largest number is never given, so that there is always one above those that were.
    map.next_node = NodeId(id.0.checked_add(1).ok_or(MetaError::IdsExhausted)?);
    map.members.push(Member { id, incarnation, address, state: MemberState::Active });
    choose_goals(map, None);
    Ok(id)
}

/// Lets a member leave. One that leaves already goes on doing so.
pub(super) fn remove_member(map: &mut ClusterMap, id: NodeId) -> Result<(), MetaError> {
    check_member(map, id)?;
    if map.active().all(|active| active == id) {
        return Err(MetaError::LastMember { id });
    }
    if map.is_active(id) {
        leave(map, id);
        choose_goals(map, None);
    }
    Ok(())
}

/// Lets `old` leave in favour of `new`. If it leaves already, its replicas have found other places.
pub(super) fn replace_member(
    map: &mut ClusterMap,
    old: NodeId,
    new: NodeId,
) -> Result<(), MetaError> {
    check_member(map, old)?;
    check_member(map, new)?;
    if old == new {
        return Err(MetaError::SameMember { id: old });
    }
    if !map.is_active(new) {
        return Err(MetaError::LeavingMember { id: new });
    }
    if map.is_active(old) {
        leave(map, old);
        choose_goals(map, Some((old, new)));
    }
    Ok(())
}

fn check_member(map: &ClusterMap, id: NodeId) -> Result<(), MetaError> {
    if map.member(id).is_some() {
        Ok(())
    } else if map.is_removed(id) {
        Err(MetaError::RemovedMember { id })
    } else {
        Err(MetaError::UnknownMember { id })
    }
}

fn leave(map: &mut ClusterMap, id: NodeId) {
    let leaving = map.members.iter_mut().filter(|member| member.id == id);
    leaving.for_each(|member| member.state = MemberState::Leaving);
}

/// Takes what a shard's leader reports, unless the map knows of something newer.
fn place(map: &mut ClusterMap, shard: ShardId, configuration: &Configuration) {
    let Some(entry) = map.shards.get_mut(shard.0 as usize) else {
        return;
    };
    if configuration.epoch <= entry.epoch || configuration.voters.is_empty() {
        return;
    }
    let preference = entry.target.as_ref().unwrap_or(&entry.voters);
    entry.voters = in_order(&configuration.voters, preference);
    entry.epoch = configuration.epoch;
    entry.outgoing = configuration.outgoing.iter().copied().collect();
    entry.learners = configuration.learners.iter().copied().collect();
    // A leader goes on from an epoch only if the map has it, and then it has the map's target.
    entry.withdrawn.clear();
}

/// `nodes` in the order of `preference`; those that it does not hold follow by id.
fn in_order(nodes: &BTreeSet<NodeId>, preference: &[NodeId]) -> Vec<NodeId> {
    let first = preference.iter().filter(|node| nodes.contains(node));
    let rest = nodes.iter().filter(|node| !preference.contains(node));
    first.chain(rest).copied().collect()
}
