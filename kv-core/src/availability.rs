//! How many failures a shard can bear, and whether a change of members can be carried out.
//!
//! A majority decides in a shard, and while its configuration is joint a majority of both sides
//! does. So the failures that a shard survives are those that the weaker side survives: its voters
//! that are reachable, less a majority of all its voters.
//!
//! Who is reachable is known by whoever asks, as a guess; nothing here decides anything by itself.
//!
//! **What this leaves out:** whether the reachable voters hold all that is committed. Those that lag
//! count like the others.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::cluster::{ClusterMap, MetaError, ShardEntry};
use crate::id::{NodeId, ShardId};
use crate::machine::plan::{self, Change};

/// How many of the reachable nodes may fail, whichever they are, before the shard has no quorum.
/// None if it has none already.
pub fn survives(entry: &ShardEntry, reachable: &BTreeSet<NodeId>) -> Option<usize> {
    let incoming = slack(&entry.voters, reachable)?;
    if !entry.is_joint() {
        return Some(incoming);
    }
    Some(incoming.min(slack(&entry.outgoing, reachable)?))
}

/// Reachable voters beyond a majority; none if there is no majority.
fn slack(voters: &[NodeId], reachable: &BTreeSet<NodeId>) -> Option<usize> {
    let majority = voters.len() / 2 + 1;
    let reached = voters.iter().filter(|voter| reachable.contains(voter)).count();
    reached.checked_sub(majority)
}

/// Why a change of members should not be begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumRisk {
    /// The change itself is refused.
    #[error(transparent)]
    Refused(#[from] MetaError),
    /// The shard would have to move and cannot decide to: its voters are not reachable.
    #[error("{shard} has no quorum: {} unreachable", names(unreachable))]
    NoQuorum {
        /// The shard.
        shard: ShardId,
        /// Its voters that are not reachable, by id.
        unreachable: Vec<NodeId>,
    },
    /// The voters that the shard would get cannot decide, neither while the move ends nor after it.
    #[error(
        "{shard} would have no quorum among its new voters: {} unreachable",
        names(unreachable)
    )]
    NoQuorumAfter {
        /// The shard.
        shard: ShardId,
        /// Its new voters that are not reachable, by id.
        unreachable: Vec<NodeId>,
    },
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a change of members would leave some shard that it moves without a quorum of reachable
/// voters, halfway or in the end. The first risk by shard; none if the change can be carried out.
///
/// Every move goes through a joint configuration in which the voters before and those after must
/// agree, so it is enough to look at both. A node that joins counts as reachable: it is there to
/// ask.
pub fn would_lose_quorum(
    map: &ClusterMap,
    change: Change,
    reachable: &BTreeSet<NodeId>,
) -> Option<QuorumRisk> {
    let mut reachable = reachable.clone();
    if change == Change::Add {
        reachable.insert(map.next_node);
    }
    let moves = match plan::plan(map, change) {
        Ok(moves) => moves,
        Err(error) => return Some(QuorumRisk::Refused(error)),
    };
    let unreachable = |voters: BTreeSet<NodeId>| voters.difference(&reachable).copied().collect();
    moves.iter().find_map(|step| {
        let shard = step.shard;
        let entry = map.entry(shard)?;
        if survives(entry, &reachable).is_none() {
            let voters = entry.voters.iter().chain(&entry.outgoing).copied().collect();
            let unreachable = unreachable(voters);
            return Some(QuorumRisk::NoQuorum { shard, unreachable });
        }
        let unreachable = || unreachable(step.to.iter().copied().collect());
        let is_lost = slack(&step.to, &reachable).is_none();
        is_lost.then(|| QuorumRisk::NoQuorumAfter { shard, unreachable: unreachable() })
    })
}
