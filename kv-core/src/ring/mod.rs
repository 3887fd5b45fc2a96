//! The consistent-hash ring: which shard a key belongs to, and which nodes hold a shard.
//!
//! Keys are hashed to a fixed number Q of equal shards; the *ring* places the shards. Every node
//! owns [`VNODES_PER_NODE`] virtual nodes on a circle of 64-bit tokens. A shard has a point on the
//! circle; walking clockwise from there, the first R nodes met hold its replicas, skipping a node
//! that already holds a quarter more than its fair share, which is `Q * R / N` on N nodes:
//! consistent hashing (Karger et al. 1997) with bounded loads (Mirrokni, Thorup, Zadimoghaddam
//! 2018).
//!
//! # First placement and changes
//!
//! [`place`] is the placement of a new cluster, a function of the set of nodes. [`rebalance()`] is
//! the placement after nodes were added or removed, a function of the placement before and the
//! new set of nodes; the meta group stores the placement, so all nodes compute the same. It moves
//! what it must: the replicas of a node that left, and a fair share for one that is new. Placing
//! anew moves more, because the bound makes the places of shards depend on each other
//! (`docs/adr/0002-placement.md` has the figures). [`moves`] names the difference of two
//! placements.
//!
//! [`spread_leaders`] chooses a preferred leader for each group among its voters.
//!
//! Everything here is a pure function of its arguments.
//!
//! # What this leaves out
//!
//! All shards count the same, and all nodes: nothing weighs bytes, requests or the size of a
//! machine, nor keeps the replicas of a shard in different racks. Nothing here moves data or
//! changes the voters of a group.

mod layout;
mod leaders;
mod placement;
mod rebalance;
mod walk;

use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cluster::{ClusterMap, ClusterRecord, ShardEntry};
use crate::id::ShardId;
use crate::op::Key;

pub use leaders::{Leadership, spread_leaders};
pub use placement::place;
pub use rebalance::{Move, moves, rebalance};
pub use walk::VNODES_PER_NODE;

const KEY_SEED: u64 = 1;

/// The user shard of `key`: its hash, or that of the part between the first `{` and the next `}` if
/// there is one and it is not empty, so that related keys can be kept together.
pub fn shard_of(key: &Key, shard_count: u32) -> ShardId {
    let hash =
        xxh3_64_with_seed(hashed_part(&key.bytes), KEY_SEED ^ u64::from(key.keyspace.0) << 8);
    let bucket = hash % u64::from(shard_count.max(1));
    ShardId(1 + u32::try_from(bucket).expect("a bucket is below the shard count"))
}

fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let tail = &key[open + 1..];
    match tail.iter().position(|byte| *byte == b'}') {
        Some(close) if close > 0 => &tail[..close],
        _ => key,
    }
}

/// The map that a cluster starts with.
pub fn initial_map(record: &ClusterRecord) -> ClusterMap {
    let nodes: Vec<_> = record.members.iter().map(|member| member.id).collect();
    let placement = place(&nodes, record.shard_count, record.replica_count);
    let entry = |(shard, voters)| ShardEntry::new(shard, voters);
    ClusterMap::initial(record, placement.into_iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_evenly_and_tagged_keys_stay_together() {
        let mut counts = [0_u32; 16];
        for at in 0..16_000_u32 {
            let key = Key::new(at.to_le_bytes().to_vec());
            counts[shard_of(&key, 16).0 as usize - 1] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let shard = |key: &'static str| shard_of(&Key::new(key), 1_024);
        assert_eq!(shard("{user7}.name"), shard("{user7}.mail"));
        assert_eq!(shard("{user7}.name"), shard("x{user7}"));
        assert_ne!(shard("{}a"), shard("{}b"), "an empty tag does not count");
        assert_ne!(shard("{a"), shard("{b"), "an open tag does not count");
    }
}
