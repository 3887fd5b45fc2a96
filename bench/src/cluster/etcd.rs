//! etcd: how it is found, started, called and asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::time::timeout;

use super::grpc::{self, Connection, Message};
use super::nodes::State;

/// How long a node may take to say what it is.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);
/// The one part of etcd's keys: there is one Raft group.
pub const PART: u32 = 1;

/// The server, from `$ETCD` or `$PATH`.
pub fn find() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("ETCD") {
        return Some(program.into());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join("etcd")).find(|program| program.is_file())
}

/// What `etcd --version` says first.
pub fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// What node `at` is started with: addresses and places only, everything else as it is by default.
pub fn arguments(
    command: &mut Command,
    at: usize,
    data: &Path,
    addresses: &[String],
    peer_addresses: &[String],
) {
    let members = peer_addresses.iter().enumerate();
    let members: Vec<_> =
        members.map(|(at, address)| format!("node-{at}=http://{address}")).collect();
    let [client, peer] = [addresses, peer_addresses].map(|all| format!("http://{}", all[at]));
    command.args(["--name", &format!("node-{at}"), "--initial-cluster", &members.join(",")]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg("--data-dir").arg(data);
}

/// Writes a key.
pub async fn put(connection: &Connection, key: &[u8], value: &[u8]) -> Result<()> {
    let message = Message::new().bytes(1, key).bytes(2, value);
    connection.call("/etcdserverpb.KV/Put", &message).await?;
    Ok(())
}

/// Reads a key, linearizably, and returns its value.
pub async fn get(connection: &Connection, key: &[u8]) -> Result<Option<Bytes>> {
    let answer = connection.call("/etcdserverpb.KV/Range", &Message::new().bytes(1, key)).await?;
    match grpc::bytes(&grpc::fields(answer)?, 2) {
        Some(found) => Ok(grpc::bytes(&grpc::fields(found)?, 5)),
        None => Ok(None),
    }
}

/// What a member says of itself.
struct Member {
    id: u64,
    leader: u64,
    index: u64,
    applied_index: u64,
}

/// What the nodes say, if they agree; if `is_quiet`, also that all have applied the same.
pub async fn state(addresses: &[String], is_quiet: bool) -> Option<State> {
    let mut members = vec![];
    for address in addresses {
        members.push(timeout(STATUS_DEADLINE, member(address)).await.ok()?.ok()?);
    }
    let leader = members.iter().position(|member| member.id == member.leader)?;
    let agree = |member: &Member| {
        member.leader == members[leader].id
            && (!is_quiet || member.applied_index == members[leader].index)
    };
    let state =
        || State { leaders: BTreeMap::from([(PART, leader)]), sync_count: 0, entry_count: 0 };
    members.iter().all(agree).then(state)
}

async fn member(address: &str) -> Result<Member> {
    let connection = Connection::open(address).await?;
    let answer = connection.call("/etcdserverpb.Maintenance/Status", &Message::new()).await?;
    let fields = grpc::fields(answer)?;
    let header = grpc::fields(grpc::bytes(&fields, 1).unwrap_or_default())?;
    let number = |field| grpc::number(&fields, field);
    let id = grpc::number(&header, 2);
    ensure!(id != 0, "a member without an id");
    Ok(Member { id, leader: number(4), index: number(5), applied_index: number(7) })
}
