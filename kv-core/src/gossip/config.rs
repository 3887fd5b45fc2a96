//! Configuration of gossip.

use alloc::vec::Vec;
use core::time::Duration;

/// Tunables of gossip and of the failure detector. Nodes may differ in them.
///
/// The module documentation of [`gossip`](super) says how the defaults go together.
#[derive(Clone, Debug, PartialEq)]
pub struct GossipConfig {
    /// What all other times are measured in. Default 1 s, 10 ms to 60 s.
    pub interval: Duration,
    /// Heartbeats of a node per interval; with each of them it begins an exchange. Default 2, 1 to
    /// 8.
    pub fanout: u32,
    /// Phi from which a member is suspected; from half of it on it is probed. Default 8, 1 to 100.
    pub phi_threshold: f64,
    /// The least standard deviation that the detector assumes. Default a fifth of the interval; at
    /// least a hundredth of it, at most ten of it.
    pub deviation_min: Duration,
    /// What is taken off every silence. Default a quarter of the interval, at most ten of it.
    pub acceptable_pause: Duration,
    /// Times between heartbeats that the detector keeps per member. Default 200, 10 to 10,000.
    pub window: usize,
    /// For how long nobody is suspected that was just heard of, or is back. Default 3 intervals, at
    /// most 100.
    pub grace: Duration,
    /// How long a suspicion lasts before the member is down. Default 10 intervals, 1 to 1,000.
    pub down_after: Duration,
    /// The least time between two changes of the load that are told. Default 10 intervals; at least
    /// one. A shorter one costs traffic with every change on every node.
    pub load_interval: Duration,
    /// How long a forgotten member is kept out. Default 1 h; at least 10 intervals.
    pub tombstone_time: Duration,
}

impl GossipConfig {
    /// The defaults, in proportion to `interval`.
    pub fn with_interval(interval: Duration) -> Self {
        Self {
            interval,
            fanout: 2,
            phi_threshold: 8.0,
            deviation_min: interval / 5,
            acceptable_pause: interval / 4,
            window: 200,
            grace: interval * 3,
            down_after: interval * 10,
            load_interval: interval * 10,
            tombstone_time: Duration::from_secs(3_600),
        }
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// All mistakes at once. *Nothing was changed.*
    pub fn validate(&self) -> Result<(), GossipConfigErrors> {
        let mut errors = Vec::new();
        let mut check = |is_good: bool, field: &'static str, range: &'static str| {
            if !is_good {
                errors.push(GossipConfigError { field, range });
            }
        };
        let interval = self.interval;
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        check((ms(10)..=s(60)).contains(&interval), "interval", "from 10 ms to 60 s");
        check((1..=8).contains(&self.fanout), "fanout", "from 1 to 8");
        let threshold = 1.0..=100.0;
        check(threshold.contains(&self.phi_threshold), "phi_threshold", "from 1 to 100");
        let deviation = interval / 100..=interval * 10;
        check(
            deviation.contains(&self.deviation_min),
            "deviation_min",
            "from a hundredth of the interval to ten intervals",
        );
        check(self.acceptable_pause <= interval * 10, "acceptable_pause", "at most ten intervals");
        check((10..=10_000).contains(&self.window), "window", "from 10 to 10,000");
        check(self.grace <= interval * 100, "grace", "at most 100 intervals");
        let down_after = interval..=interval * 1_000;
        check(down_after.contains(&self.down_after), "down_after", "from 1 to 1,000 intervals");
        check(self.load_interval >= interval, "load_interval", "at least one interval");
        check(self.tombstone_time >= interval * 10, "tombstone_time", "at least ten intervals");
        if errors.is_empty() { Ok(()) } else { Err(GossipConfigErrors(errors)) }
    }
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self::with_interval(Duration::from_secs(1))
    }
}

/// A value out of its range. *Nothing was changed.*
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} of gossip must be {range}")]
pub struct GossipConfigError {
    /// The field of [`GossipConfig`].
    pub field: &'static str,
    /// What it may be.
    pub range: &'static str,
}

/// All mistakes of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipConfigErrors(pub Vec<GossipConfigError>);

impl core::fmt::Display for GossipConfigErrors {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl core::error::Error for GossipConfigErrors {}
