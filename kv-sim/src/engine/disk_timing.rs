//! How long a server's disk takes.
//!
//! A server has one disk, and a disk does one thing at a time: an operation starts when the one
//! before it has ended. What is written lies elsewhere (with the [`System`](super::System)); here
//! is only the time it takes. An operation is *executed when it ends*: until then a crash finds it
//! in flight, and nothing of it has been promised to anybody.

use std::collections::VecDeque;

use super::machine::{Io, IoToken};
use super::rng::{Latency, Rng};

/// How fast the disks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskProfile {
    /// Time of a sync.
    pub sync: Latency,
    /// Time of each byte written, in picoseconds.
    pub byte_picos: u64,
}

impl Default for DiskProfile {
    /// A sync of about a millisecond, 500 MB/s.
    fn default() -> Self {
        Self {
            sync: Latency { min: 200_000, mean: Some(1_000_000), max: 20_000_000 },
            byte_picos: 2_000,
        }
    }
}

/// One server's disk queue.
#[derive(Debug)]
pub(crate) struct DiskQueue {
    rng: Rng,
    free_at: u64,
    in_flight: VecDeque<IoToken>,
    /// What a fault adds to each sync.
    extra: u64,
}

impl DiskQueue {
    pub(crate) fn new(seed: u64, server: u64) -> Self {
        Self {
            rng: Rng::fork(seed, "disk", server),
            free_at: 0,
            in_flight: VecDeque::new(),
            extra: 0,
        }
    }

    /// Queues an operation and says when it ends.
    pub(crate) fn start(&mut self, now: u64, io: Io, profile: &DiskProfile) -> u64 {
        let sync = if io.sync { profile.sync.draw(&mut self.rng) + self.extra } else { 0 };
        let write = io.bytes.saturating_mul(profile.byte_picos) / 1_000;
        self.free_at = self.free_at.max(now) + sync + write;
        self.in_flight.push_back(io.token);
        self.free_at
    }

    /// Makes syncs that begin later take longer.
    pub(crate) fn slow(&mut self, extra: u64) {
        self.extra += extra;
    }

    /// Takes that back again.
    pub(crate) fn quicken(&mut self, extra: u64) {
        self.extra = self.extra.saturating_sub(extra);
    }

    /// Takes all of it back.
    pub(crate) fn heal(&mut self) {
        self.extra = 0;
    }

    /// An operation has ended.
    pub(crate) fn end(&mut self, token: IoToken) {
        let ended = self.in_flight.pop_front();
        assert_eq!(ended, Some(token), "operations end in the order in which they were started");
    }

    /// The server has crashed: what was in flight, in order. The queue is empty afterwards.
    pub(crate) fn crash(&mut self, now: u64) -> Vec<IoToken> {
        self.free_at = now;
        self.in_flight.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_queue_behind_one_another() {
        let profile =
            DiskProfile { sync: Latency { min: 100, mean: None, max: 100 }, byte_picos: 1_000 };
        let mut disk = DiskQueue::new(1, 0);
        let io = |token, bytes, sync| Io { token: IoToken(token), bytes, sync };
        assert_eq!(disk.start(0, io(1, 10, true), &profile), 110);
        assert_eq!(disk.start(50, io(2, 0, true), &profile), 210);
        disk.end(IoToken(1));
        assert_eq!(disk.start(500, io(3, 5, false), &profile), 505);
        assert_eq!(disk.crash(501), [IoToken(2), IoToken(3)]);
        assert_eq!(disk.start(501, io(4, 0, false), &profile), 501);
    }

    #[test]
    fn a_slow_disk_adds_to_each_sync_and_to_nothing_else() {
        let profile =
            DiskProfile { sync: Latency { min: 100, mean: None, max: 100 }, byte_picos: 1_000 };
        let mut disk = DiskQueue::new(1, 0);
        let io = |token, bytes, sync| Io { token: IoToken(token), bytes, sync };
        disk.slow(1_000);
        assert_eq!(disk.start(0, io(1, 0, true), &profile), 1_100);
        assert_eq!(disk.start(2_000, io(2, 7, false), &profile), 2_007);
        disk.quicken(1_000);
        assert_eq!(disk.start(3_000, io(3, 0, true), &profile), 3_100);
        disk.slow(1_000);
        disk.heal();
        assert_eq!(disk.start(4_000, io(4, 0, true), &profile), 4_100);
    }
}
