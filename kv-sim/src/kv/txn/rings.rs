//! What became of rings of transactions that waited for each other.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::id::ShardId;

use crate::kv::timeline::Timeline;

/// What happens to the ring of a client, which has one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingEvent {
    /// The last of its transactions has asked for the key of the next one.
    Closed {
        /// The shards of its keys: as many as there are transactions in it.
        shards: Vec<ShardId>,
        /// Whether nothing breaks from here on.
        is_calm: bool,
    },
    /// The client has heard for the first time that one of them goes on or has ended.
    Broken,
    /// All of them have ended.
    Ended {
        /// How many committed.
        committed_count: usize,
        /// How many gave way, in a deadlock of just as many transactions.
        victim_count: usize,
    },
}

/// What became of a ring that was closed. Times are true times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Ring {
    /// The shards of its keys: as many as there are transactions in it.
    pub(super) shards: Vec<ShardId>,
    pub(super) closed_at: u64,
    pub(super) broken_at: u64,
    /// Whether nothing was broken meanwhile.
    pub(super) is_calm: bool,
    /// How many committed.
    pub(super) committed_count: usize,
    /// How many gave way, in a deadlock of just as many transactions.
    pub(super) victim_count: usize,
}

impl Ring {
    /// Transactions in it.
    pub(super) fn size(&self) -> usize {
        self.shards.len()
    }

    /// How long it stood.
    pub(in super::super) fn lasted(&self) -> Duration {
        Duration::from_nanos(self.broken_at - self.closed_at)
    }

    /// How long of that in a row nothing was broken.
    pub(in super::super) fn calm(&self, timeline: &Timeline) -> Duration {
        let calm = timeline.longest_calm(&self.shards, self.closed_at, self.broken_at);
        Duration::from_nanos(calm)
    }
}

/// The rings of a run.
#[derive(Debug, Default)]
pub(in super::super) struct Rings {
    /// Those whose transactions have not all ended, by client.
    open: BTreeMap<u64, Ring>,
    ended: Vec<Ring>,
}

impl Rings {
    pub(in super::super) fn on_event(&mut self, now: u64, client: u64, event: &RingEvent) {
        match event {
            RingEvent::Closed { shards, is_calm } => {
                let ring = Ring {
                    shards: shards.clone(),
                    closed_at: now,
                    broken_at: now,
                    is_calm: *is_calm,
                    committed_count: 0,
                    victim_count: 0,
                };
                self.open.insert(client, ring);
            }
            RingEvent::Broken => {
                if let Some(ring) = self.open.get_mut(&client) {
                    ring.broken_at = now;
                }
            }
            RingEvent::Ended { committed_count, victim_count } => {
                let ended = self.open.remove(&client).map(|ring| Ring {
                    committed_count: *committed_count,
                    victim_count: *victim_count,
                    ..ring
                });
                self.ended.extend(ended);
            }
        }
    }

    /// Those that were closed and have ended.
    pub(in super::super) fn ended(&self) -> &[Ring] {
        &self.ended
    }
}
