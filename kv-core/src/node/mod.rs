//! A node.

mod config;
mod io;
mod status;

pub use config::{ConfigError, ConfigErrors, NodeConfig, Timings};
pub use io::{Budget, Event, IgnoreReason, Input, Output, TimerReason};
pub use status::{ShardStatus, Status};

use crate::cluster::{ClusterMap, Identity};
use crate::storage::Recovered;
use crate::time::Instant;

/// One node.
#[derive(Debug)]
pub struct Node {}

impl Node {
    /// A node with what its store recovered. `seed` makes its random draws: production takes it from the operating
    /// system, the simulator from the run's seed. Also to be drained after.
    ///
    /// # Errors
    /// If the configuration cannot work, or is not that of the data directory. *Nothing was changed.*
    pub fn new(
        _config: NodeConfig,
        _recovered: Recovered,
        _seed: u64,
        _now: Instant,
    ) -> Result<Self, ConfigErrors> {
        unimplemented!()
    }

    /// Takes one input. Total: never fails, never blocks. Drain [`Node::poll_output`] afterwards.
    pub fn handle(&mut self, _now: Instant, _input: Input) {
        unimplemented!()
    }

    /// The next output, none when drained.
    pub fn poll_output(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// When to call again with [`Input::Timeout`]. After a drain it lies ahead of the last `now`.
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        unimplemented!()
    }

    /// How much a driver may still feed.
    pub fn budget(&self) -> Budget {
        unimplemented!()
    }

    /// The node's view of itself.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Who the node is.
    pub fn identity(&self) -> &Identity {
        unimplemented!()
    }

    /// The newest map that the node knows; none before the cluster is formed.
    pub fn map(&self) -> Option<&ClusterMap> {
        unimplemented!()
    }
}
