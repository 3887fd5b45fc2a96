//! Reads by lease: a leader that a majority confirmed lately need not ask again.
//!
//! The lease begins when the round that a majority has confirmed was *begun*, before anybody can
//! have confirmed it, and lasts for [`LeaseConfig::length`](super::LeaseConfig::length). It holds
//! for a shard, because it is the shard's voters that confirm. A read is good if the lease holds at
//! some moment after the read arrived. The process may have stood still since the step's time was
//! taken, so the lease is looked at again when the store has answered; if it is over by then, the
//! read starts anew and waits for a round like any other.

use super::Node;
use crate::id::{RequestHandle, Round, ShardId};
use crate::op::{Found, Key};
use crate::storage::ReadError;
use crate::txn::Grant;
use crate::wire::{ClientReply, TxnReply};

/// A read that was let go because a lease held.
#[derive(Debug)]
pub(super) struct LeaseRead {
    pub(super) shard: ShardId,
    pub(super) key: Key,
    /// What the transaction is told that has locked the key.
    pub(super) locked: Option<Grant>,
}

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

    /// The store has answered a read.
    pub(super) fn on_read(
        &mut self,
        handle: RequestHandle,
        result: Result<Option<Found>, ReadError>,
    ) {
        let lease_read = self.lease_reads.remove(&handle);
        let locked = self.locking_reads.remove(&handle);
        match (result, lease_read) {
            (Ok(_), Some(LeaseRead { shard, key, locked })) if !self.has_lease(shard) => {
                if let Err(refusal) = self.start_read(shard, handle, key, locked) {
                    self.reply(handle, ClientReply::Refused(refusal));
                }
            }
            (Ok(found), _) => {
                let reply = match locked {
                    Some(grant) => ClientReply::Txn(TxnReply::Locked { grant, found }),
                    None => ClientReply::Read(found),
                };
                self.reply(handle, reply);
            }
            (Err(ReadError::Damaged(damage)), _) => {
                self.become_suspect(damage);
                self.refuse_damaged(handle.into());
            }
            (Err(error @ (ReadError::NotApplied { .. } | ReadError::TooOld { .. })), _) => {
                panic!("a read is handed out only when its index is applied: {error}")
            }
        }
    }
}
