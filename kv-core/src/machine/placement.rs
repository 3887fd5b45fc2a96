//! Stand-in until the ring has these.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::id::{NodeId, ShardId};

pub(super) fn rebalance(
    current: &[(ShardId, Vec<NodeId>)],
    nodes: &[NodeId],
    _shard_count: u32,
    replica_count: u32,
) -> Vec<(ShardId, Vec<NodeId>)> {
    let replicas = (replica_count as usize).min(nodes.len());
    let mut out = current.to_vec();
    let mut load: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for (shard, voters) in &mut out {
        voters.retain(|v| nodes.contains(v));
        voters.truncate(replicas);
        if *shard != ShardId::META {
            voters.iter().for_each(|v| *load.entry(*v).or_default() += 1);
        }
    }
    for (shard, voters) in &mut out {
        while voters.len() < replicas {
            let node = nodes
                .iter()
                .filter(|n| !voters.contains(n))
                .min_by_key(|n| (load[n], **n))
                .copied();
            let node = node.expect("there are enough");
            voters.push(node);
            if *shard != ShardId::META {
                *load.entry(node).or_default() += 1;
            }
        }
    }
    let shards = current.len().saturating_sub(1);
    let bound = (5 * shards * replicas).div_ceil(4 * nodes.len().max(1));
    for (_, voters) in out.iter_mut().skip(1) {
        for voter in voters.clone() {
            if load[&voter] > bound {
                let node = nodes
                    .iter()
                    .filter(|n| !voters.contains(n))
                    .min_by_key(|n| (load[n], **n))
                    .copied();
                if let Some(node) = node.filter(|n| load[n] < bound) {
                    voters.iter_mut().for_each(|v| {
                        if *v == voter {
                            *v = node
                        }
                    });
                    *load.entry(node).or_default() += 1;
                    *load.entry(voter).or_default() -= 1;
                }
            }
        }
    }
    out
}

pub(super) struct Leadership {
    pub voters: Vec<NodeId>,
    pub leader: Option<NodeId>,
}

pub(super) fn spread_leaders(groups: &[Leadership]) -> Vec<Option<NodeId>> {
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut pick = |group: &Leadership| {
        let before = |v: &&NodeId| (load.get(*v).copied().unwrap_or(0), group.leader != Some(**v));
        let leader = group.voters.iter().min_by_key(before).copied();
        leader.inspect(|leader| *load.entry(*leader).or_default() += 1)
    };
    groups.iter().map(|group| pick(group)).collect()
}
