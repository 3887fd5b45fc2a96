//! Three processes of one store, started anew in an empty directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::process::{self, Process};
use super::{etcd, ours};

/// Nodes of each cluster.
pub const NODE_COUNT: usize = 3;
/// How long a cluster may take to get ready: longer than any election or recovery here.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at a cluster that is not ready yet.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// A store, and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kv-node`, as it is by default.
    Ours,
    /// etcd, as it is by default.
    Etcd,
    /// etcd with timers that find a dead leader sooner.
    EtcdTuned,
}

impl Kind {
    /// How tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Etcd => "etcd",
            Self::EtcdTuned => "etcd, heartbeat 50 ms, election 500 ms",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `kv-node`.
    pub ours: PathBuf,
    /// `etcd`; none if it is not to be measured.
    pub etcd: Option<PathBuf>,
}

/// What is known of a cluster that is ready.
pub struct State {
    /// The node that leads each part of the keys. A part is a shard of ours, and all of etcd.
    pub leaders: BTreeMap<u32, usize>,
    /// Syncs of all nodes' logs since they started; 0 where that is not known.
    pub sync_count: u64,
    /// Entries in the logs of all groups; 0 where that is not known.
    pub entry_count: u64,
}

/// A cluster. Its processes and its files go with it.
pub struct Cluster {
    kind: Kind,
    program: PathBuf,
    /// For clients.
    addresses: Vec<String>,
    /// For each other; ours uses one address for both.
    peer_addresses: Vec<String>,
    processes: Vec<Option<Process>>,
    /// Behind the processes, so that it is removed after they have ended.
    dir: TempDir,
}

impl Cluster {
    /// Starts all nodes, with their files somewhere below `dir`, and waits until they are ready.
    pub async fn start(kind: Kind, programs: &Programs, dir: &Path) -> Result<Self> {
        let program = match kind {
            Kind::Ours => programs.ours.clone(),
            Kind::Etcd | Kind::EtcdTuned => programs.etcd.clone().context("there is no etcd")?,
        };
        let mut addresses = process::addresses(2 * NODE_COUNT)?;
        ensure!(addresses.len() == 2 * NODE_COUNT, "too few free ports");
        let peer_addresses = addresses.split_off(NODE_COUNT);
        let dir = tempfile::Builder::new().prefix("cluster-").tempdir_in(dir)?;
        let processes = (0..NODE_COUNT).map(|_| None).collect();
        let mut cluster = Self { kind, program, addresses, peer_addresses, processes, dir };
        for at in 0..NODE_COUNT {
            cluster.restart(at)?;
        }
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Which store it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where clients connect.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Starts a node that is not running.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        let data = self.dir.path().join(format!("node-{at}"));
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Ours => ours::arguments(&mut command, at, &data, &self.addresses),
            Kind::Etcd | Kind::EtcdTuned => {
                etcd::arguments(&mut command, at, &data, &self.addresses, &self.peer_addresses);
            }
        }
        if self.kind == Kind::EtcdTuned {
            command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        }
        let log = self.dir.path().join(format!("node-{at}.log"));
        self.processes[at] = Some(Process::start(command, &log)?);
        Ok(())
    }

    /// Kills a node with SIGKILL, and waits for its end.
    pub fn kill(&mut self, at: usize) {
        self.processes[at] = None;
    }

    /// Process ids of the nodes that run.
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().flatten().map(Process::id).collect()
    }

    /// Seconds of CPU time that the nodes that run have taken so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.process_ids().iter().map(|id| process::cpu_seconds(&id.to_string())).sum()
    }

    /// Waits until every node runs, all agree on who leads, and none is behind. Nobody may write.
    pub async fn wait_until_ready(&self) -> Result<State> {
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline {
            if let Some(state) = self.state(true).await? {
                return Ok(state);
            }
            sleep(READY_PAUSE).await;
        }
        bail!("a cluster was not ready after {} s", READY_DEADLINE.as_secs())
    }

    /// Waits until all agree on who leads.
    pub async fn wait_for_leaders(&self) -> Result<State> {
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline {
            if let Some(state) = self.state(false).await? {
                return Ok(state);
            }
            sleep(READY_PAUSE).await;
        }
        bail!("a cluster had no leader for {} s", READY_DEADLINE.as_secs())
    }

    async fn state(&self, is_quiet: bool) -> Result<Option<State>> {
        Ok(match self.kind {
            Kind::Ours => ours::state(&self.addresses, ours::SHARD_COUNT, is_quiet).await?,
            Kind::Etcd | Kind::EtcdTuned => etcd::state(&self.addresses, is_quiet).await,
        })
    }

    /// `count` clients over `connection_count` connections, or sets of them, with the time after
    /// which one of etcd turns to another node.
    pub async fn clients(
        &self,
        count: usize,
        connection_count: usize,
        patience: Duration,
    ) -> Result<Vec<Client>> {
        let mut roots = vec![];
        for at in 0..connection_count.clamp(1, count.max(1)) {
            roots.push(match self.kind {
                Kind::Ours => Client::ours(&self.addresses)?,
                Kind::Etcd | Kind::EtcdTuned => Client::etcd(&self.addresses, at, patience).await?,
            });
        }
        Ok((0..count).map(|at| roots[at % roots.len()].clone()).collect())
    }
}
