//! Reads by lease: a leader that a majority confirmed lately need not ask again.
//!
//! The lease begins when the round that a majority has confirmed was *begun*, before anybody can
//! have confirmed it, and lasts for [`LeaseConfig::length`](super::LeaseConfig::length). It holds
//! for a shard, because it is the shard's voters that confirm. A read is good if the lease holds at
//! some moment after the read arrived. The process may have stood still since the step's time was
//! taken, so the lease is looked at again when the store has answered; if it is over by then, the
//! read starts anew and waits for a round like any other.

use super::Node;
use crate::id::{Round, ShardId};

impl Node {
    /// Whether this node leads `shard` and nobody else can.
    pub(super) fn has_lease(&self, shard: ShardId) -> bool {
        let Some(lease) = self.config.lease else {
            return false;
        };
        if !self.replicas.get(&shard).is_some_and(|replica| replica.group.may_hold_lease()) {
            return false;
        }
        let begun_at = match self.confirmed_round(shard) {
            Round(u64::MAX) => Some(self.now),
            round => self.rounds.begun_at(round),
        };
        let length = lease.length(self.config.timings.election_min);
        begun_at.is_some_and(|begun_at| self.now < begun_at + length)
    }
}
