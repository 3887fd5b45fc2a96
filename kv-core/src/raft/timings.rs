//! How fast a group moves.

use core::time::Duration;

/// Timers of a node, equal for all its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Between two signs of life of a leader. Default 100 ms.
    pub heartbeat: Duration,
    /// Shortest time without a leader after which a replica campaigns; at least three heartbeats.
    /// Default 1 s.
    pub election_min: Duration,
    /// Longest such time; at least `election_min` and one heartbeat more. Default 2 s.
    pub election_max: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(2_000),
        }
    }
}
