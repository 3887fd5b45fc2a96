//! How fast a group moves.

use core::time::Duration;

use crate::mutants::{self, Mutant};

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

/// Share of a second, in parts per million.
const MILLION: u32 = 1_000_000;

/// A lease ends so much earlier than it could: nothing that is computed from it is that exact.
const LEASE_MARGIN: Duration = Duration::from_millis(10);

/// Lets leaders read without asking anybody, on the word of clocks (Raft thesis 6.4.1). Must be
/// equal on all nodes of a cluster.
///
/// Who confirms a leader helps to elect nobody else for [`Timings::election_min`] by its own clock.
/// So a leader whom a majority confirmed is the only one for [`LeaseConfig::length`] by its clock,
/// counted from when it *asked* for that; if no clock is worse than stated here. Otherwise a read
/// may miss a write that was acknowledged before it. Writes never depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// By how much the monotonic clock of any node may run fast or slow, in parts per million; at
    /// most [`LeaseConfig::DRIFT_MAX_PPM`]. A clock that stands still or leaps, as that of a virtual
    /// machine which is suspended, is worse than any bound.
    pub drift_max_ppm: u32,
}

impl LeaseConfig {
    /// With clocks that are worse no lease lasts.
    pub const DRIFT_MAX_PPM: u32 = 500_000;

    /// How long a lease lasts. While it does by the leader's clock, were it as slow as can be,
    /// `election_min` has not passed by a voter's clock, were it as fast as can be.
    pub fn length(self, election_min: Duration) -> Duration {
        if mutants::is_active(Mutant::LeaseIgnoresDrift) {
            return election_min;
        }
        let ppm = self.drift_max_ppm.min(MILLION);
        let length = election_min * (MILLION - ppm) / (MILLION + ppm);
        length.saturating_sub(LEASE_MARGIN)
    }
}
