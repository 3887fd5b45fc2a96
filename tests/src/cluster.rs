//! A cluster of real `kv-node` processes on this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kv_client::blocking::Client;
use kv_core::node::Status;
use kv_core::op::Value;
use kv_core::raft::Role;
use tempfile::TempDir;

use crate::process::Process;
use crate::{build, ports, wait};

/// How long one call may take: an election on a busy machine, several times over.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a question may take whose failure is an answer, too.
const SHORT_DEADLINE: Duration = Duration::from_millis(500);

/// A cluster in a temporary directory. Its processes end with it.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    /// How many nodes form it; those behind them join.
    formed: usize,
    ports: Vec<u16>,
    nodes: Vec<Option<Process>>,
    client: Client,
}

impl Cluster {
    /// Starts `count` nodes with ids from 1.
    ///
    /// # Panics
    /// If anything goes wrong.
    pub fn start(count: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports = ports::free(count);
        let endpoints = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let client = Client::connect(endpoints).expect("a client").with_deadline(DEADLINE);
        let formed = usize::from(count);
        let mut cluster = Self { dir, formed, ports, nodes: vec![], client };
        for at in 0..usize::from(count) {
            cluster.nodes.push(None);
            cluster.restart(at);
        }
        cluster
    }

    /// Three nodes that serve.
    ///
    /// # Panics
    /// If anything goes wrong.
    pub fn ready() -> Self {
        let cluster = Self::start(3);
        cluster.wait_until_ready();
        cluster
    }

    /// Runs `kv` with something on its standard input.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn kv(&self, args: &[&str], input: &str) -> Output {
        let mut command = build::kv();
        command.args(["--endpoints", &self.endpoints()]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kv starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("kv reads");
        drop(stdin);
        child.wait_with_output().expect("kv ends")
    }

    /// Checks what keys hold; none if they do not exist.
    ///
    /// # Panics
    /// If one holds something else.
    #[track_caller]
    pub fn check_values(&self, expected: &[(&str, Option<&str>)]) {
        for (key, value) in expected {
            let found = self.client.get(key.to_string()).expect("a get is answered");
            let found = found.map(|found| found.value);
            assert_eq!(found, value.map(|value| Value::string(value.to_owned())), "{key}");
        }
    }

    /// Starts another node, which joins by itself (`--join`), or waits for `kv cluster add-node`.
    /// Returns its place.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_another(&mut self, joins: bool) -> usize {
        let at = self.ports.len();
        self.ports.extend(ports::free(1));
        self.nodes.push(None);
        if joins {
            self.restart(at);
        } else {
            self.start_with(at, self.waiting_command(at));
        }
        at
    }

    /// Starts the node at place `at`, which is not running, by another command than its own.
    ///
    /// # Panics
    /// If it is running.
    pub fn start_with(&mut self, at: usize, command: Command) {
        assert!(self.nodes[at].is_none(), "a node runs once");
        let log = self.dir.path().join(format!("node-{}.log", at + 1));
        self.nodes[at] = Some(Process::start(command, &log));
    }

    /// A client of the cluster, shared by all who ask.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Count of nodes.
    pub fn size(&self) -> usize {
        self.ports.len()
    }

    /// Address of the node at place `at`.
    pub fn address(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.ports[at])
    }

    /// Addresses of all nodes, for `--endpoints`.
    pub fn endpoints(&self) -> String {
        (0..self.size()).map(|at| self.address(at)).collect::<Vec<_>>().join(",")
    }

    /// Data directory of the node at place `at`.
    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("node-{}", at + 1))
    }

    /// The node at place `at`.
    ///
    /// # Panics
    /// If it is not running.
    pub fn node(&mut self, at: usize) -> &mut Process {
        self.nodes[at].as_mut().expect("the node runs")
    }

    /// Starts the node at place `at`, which is not running.
    ///
    /// # Panics
    /// If it is.
    pub fn restart(&mut self, at: usize) {
        self.start_with(at, self.command(at));
    }

    /// Starts the node at place `at`, which is not running, at another address. It is told of the
    /// node at place `seed`, and of no other one.
    ///
    /// # Panics
    /// If it is running, or no port is free.
    pub fn restart_elsewhere(&mut self, at: usize, seed: usize) {
        assert!(self.nodes[at].is_none(), "a node runs once");
        self.ports[at] = ports::free(1)[0];
        let peers = [at, seed].map(|at| format!("{}={}", at + 1, self.address(at)));
        let mut command = self.waiting_command(at);
        command.args(["--id", &(at + 1).to_string(), "--peers", &peers.join(",")]);
        self.start_with(at, command);
    }

    /// Kills the node at place `at` with SIGKILL.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill(&mut self, at: usize) {
        let mut node = self.nodes[at].take().expect("the node runs");
        node.kill();
    }

    /// Ends the node at place `at` with SIGTERM.
    ///
    /// # Panics
    /// If it is not running, or does not end well.
    pub fn stop(&mut self, at: usize) {
        let mut node = self.nodes[at].take().expect("the node runs");
        assert!(node.signal("TERM").success(), "a node ends well");
    }

    /// What starts the node at place `at`.
    pub fn command(&self, at: usize) -> Command {
        if at >= self.formed {
            return self.joining_command(at);
        }
        let peers = (0..self.formed).map(|at| format!("{}={}", at + 1, self.address(at)));
        let mut command = self.waiting_command(at);
        command.args(["--id", &(at + 1).to_string()]);
        command.args(["--peers", &peers.collect::<Vec<_>>().join(",")]);
        command
    }

    /// What starts the node at place `at` as one that joins.
    pub fn joining_command(&self, at: usize) -> Command {
        let seeds: Vec<_> = (0..self.formed).map(|at| self.address(at)).collect();
        let mut command = self.waiting_command(at);
        command.args(["--join", &seeds.join(",")]);
        command
    }

    /// What starts the node at place `at` as one that goes by its data directory alone.
    pub fn waiting_command(&self, at: usize) -> Command {
        let mut command = build::kv_node();
        command.args(["start", "--listen", &self.address(at), "--data-dir"]);
        command.arg(self.data_dir(at));
        // A test writes little, and may run where not much is free.
        command.args(["--disk-reserve", "64"]);
        command
    }

    /// What the node at place `at` says of itself; none if it says nothing.
    pub fn status(&self, at: usize) -> Option<Status> {
        self.client.with_deadline(SHORT_DEADLINE).status(&self.address(at)).ok()
    }

    /// Waits until every node answers and every shard has a leader that all its replicas follow.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn wait_until_ready(&self) {
        wait::until("a leader of every shard that all follow", || {
            let statuses: Option<Vec<_>> = (0..self.size()).map(|at| self.status(at)).collect();
            statuses.filter(|statuses| is_ready(statuses))
        });
    }

    /// A file in the cluster's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }
}

fn is_ready(statuses: &[Status]) -> bool {
    let shards = || statuses.iter().flat_map(|status| &status.shards);
    statuses.iter().all(|status| status.cluster.is_some() && !status.shards.is_empty())
        && shards().all(|replica| {
            let leads = |shard: &kv_core::node::ShardStatus, node| {
                shard.shard == replica.shard
                    && shard.role == Role::Leader
                    && Some(node) == replica.leader
            };
            statuses.iter().any(|other| other.shards.iter().any(|shard| leads(shard, other.node)))
        })
}
