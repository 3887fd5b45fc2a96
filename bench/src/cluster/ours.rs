//! `kv-node`: how it is built, started and asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kv_core::id::ShardId;
use kv_core::node::{ShardStatus, Status};
use kv_core::op::Key;
use kv_core::raft::Role;
use kv_core::ring;

use super::nodes::State;

/// Count of shards: the default of `kv-node start`.
pub const SHARD_COUNT: u32 = 16;
/// How long a node may take to say what it is.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);

/// Builds `kv-node` as a user does, without the flags of this repository's simulator, in a target
/// directory of its own: other flags make another build of everything.
pub async fn build() -> Result<PathBuf> {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::env::current_dir()?.join(dir),
        None => bench.join("target"),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = tokio::process::Command::new(cargo)
        .args(["build", "--release", "-p", "kv-node", "--message-format=json"])
        .current_dir(bench.join(".."))
        .env("CARGO_TARGET_DIR", target.join("nodes"))
        .env("RUSTFLAGS", "")
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "kv-node does not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    messages.lines().find_map(executable).context("cargo built no kv-node")
}

fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    Some(message.get("executable")?.as_str()?.into())
}

/// What node `at` is started with.
pub fn arguments(command: &mut Command, at: usize, data: &Path, addresses: &[String]) {
    let peers = addresses.iter().enumerate().map(|(at, address)| format!("{}={address}", at + 1));
    command.args(["start", "--id", &(at + 1).to_string(), "--listen", &addresses[at]]);
    command.args(["--peers", &peers.collect::<Vec<_>>().join(",")]).arg("--data-dir").arg(data);
    command.env_remove("RUST_LOG");
}

/// The shard of a key.
pub fn part(key: &[u8]) -> u32 {
    ring::shard_of(&Key::new(key.to_vec()), SHARD_COUNT).0
}

/// What the nodes say, if they agree; if `is_quiet`, also that all have applied the same.
pub async fn state(
    addresses: &[String],
    shard_count: u32,
    is_quiet: bool,
) -> Result<Option<State>> {
    let client = kv_client::Client::connect(addresses.to_vec())?.with_deadline(STATUS_DEADLINE);
    let mut statuses = vec![];
    for address in addresses {
        match client.status(address).await {
            Ok(status) if status.cluster.is_some() => statuses.push(status),
            Ok(_) | Err(_) => return Ok(None),
        }
    }
    let mut leaders = BTreeMap::new();
    for shard in 0..=shard_count {
        match leader(&statuses, ShardId(shard), is_quiet) {
            Some(at) => leaders.insert(shard, at),
            None => return Ok(None),
        };
    }
    // Group 0 holds no keys.
    leaders.remove(&0);
    let sync_count = statuses.iter().map(|status| status.log.sync_count).sum();
    let last = |shard: &ShardStatus| shard.last.index.0;
    let entry_count = statuses[0].shards.iter().map(last).sum();
    Ok(Some(State { leaders, sync_count, entry_count }))
}

/// The place of the node that leads a shard, if it says so and all replicas follow it.
fn leader(statuses: &[Status], shard: ShardId, is_quiet: bool) -> Option<usize> {
    let replica = |status: &Status| -> Option<ShardStatus> {
        status.shards.iter().find(|replica| replica.shard == shard).cloned()
    };
    let replicas: Option<Vec<_>> = statuses.iter().map(replica).collect();
    let replicas = replicas?;
    let at = replicas.iter().position(|replica| replica.role == Role::Leader)?;
    let follow = |replica: &ShardStatus| {
        replica.leader == Some(statuses[at].node)
            && (!is_quiet || replica.applied_index == replicas[at].last.index)
    };
    replicas.iter().all(follow).then_some(at)
}
