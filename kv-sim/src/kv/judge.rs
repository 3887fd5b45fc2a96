//! The verdicts after the run.

use std::collections::BTreeMap;

use kv_check::{EventKind, History, MicroOp, Verdict};
use kv_core::id::{NodeId, ShardId};
use kv_core::ring;

use super::client::Client;
use super::replica::Replica;
use super::system::KvSystem;
use crate::engine::{Check, ProcessId, World};

/// What an acknowledged write promises of its key.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// The highest acknowledged version.
    version: u64,
    /// Whether the key may have been deleted since.
    may_be_absent: bool,
}

/// Every acknowledged write is there: each replica's newest version of a key is at least the
/// highest that was acknowledged, unless a delete may have followed.
pub(super) fn durability(
    history: &History,
    world: &World<'_, KvSystem>,
    shard_count: u32,
) -> Check {
    let name = "durability";
    let promises = promises(history);
    let mut seen = 0_u64;
    for (server, replica) in world.servers() {
        let Some(replica) = replica else {
            return Check::skipped(name, format!("{server} is down"));
        };
        for shard in (1..=shard_count).map(ShardId) {
            let held: BTreeMap<String, u64> = replica
                .engine()
                .scan(shard)
                .map(|(key, found)| {
                    (String::from_utf8_lossy(&key.bytes).into_owned(), found.version.0)
                })
                .collect();
            let is_replica = replica
                .node()
                .map()
                .and_then(|map| map.entry(shard))
                .is_some_and(|entry| entry.voters.contains(&super::replica::node_id(server)));
            if !is_replica {
                continue;
            }
            for (key, promise) in &promises {
                let id = kv_core::op::Key::new(key.clone().into_bytes());
                if ring::shard_of(&id, shard_count) != shard {
                    continue;
                }
                seen += 1;
                let is_kept = match held.get(key) {
                    Some(version) => *version >= promise.version,
                    None => promise.may_be_absent,
                };
                if !is_kept {
                    let found = held.get(key);
                    return Check::fail(
                        name,
                        format!(
                            "{key} was acknowledged at version {}; {server} has {found:?}",
                            promise.version
                        ),
                    );
                }
            }
        }
    }
    Check::pass(name, format!("{} acknowledged keys, {seen} copies", promises.len()))
}

fn promises(history: &History) -> BTreeMap<String, Promise> {
    let mut promises: BTreeMap<String, Promise> = BTreeMap::new();
    for event in &history.events {
        let Some(operation) = event.ops.first() else {
            continue;
        };
        match (operation, event.kind) {
            (MicroOp::Delete { key, .. }, EventKind::Invoke) => {
                promises.entry(key.clone()).or_default().may_be_absent = true;
            }
            (
                MicroOp::Put { key, version: Some(version), .. }
                | MicroOp::Cas { key, version: Some(version), applied: Some(true), .. },
                EventKind::Ok,
            ) => {
                let promise = promises.entry(key.clone()).or_default();
                promise.version = promise.version.max(*version);
            }
            _ => {}
        }
    }
    promises.retain(|_, promise| promise.version > 0);
    promises
}

/// The clients' history is linearizable.
pub(super) fn linearizability(history: &History) -> Check {
    let name = "linearizability";
    let report = kv_check::check(history);
    match report.verdict {
        Verdict::Holds => {
            Check::pass(name, format!("{} keys, {} operations", report.keys, report.operations.ok))
        }
        Verdict::Violated => {
            let keys: Vec<_> =
                report.violations.iter().map(|violation| violation.key.as_str()).take(5).collect();
            Check::fail(name, format!("no order explains what was read of {}", keys.join(", ")))
        }
        Verdict::Unknown => Check::invalid(name, "the search ran out of its budget"),
    }
}

/// Whether all is well once nothing is broken: one leader per shard, all replicas equal, all
/// clients served.
pub(super) fn convergence(world: &World<'_, KvSystem>) -> Result<(), String> {
    let waiting = world.clients().find(|(_, client): &(ProcessId, &Client)| !client.is_done());
    if let Some((client, _)) = waiting {
        return Err(format!("{client} still waits for its last reads"));
    }
    let replicas: BTreeMap<NodeId, &Replica> = world
        .servers()
        .filter_map(|(server, replica)| Some((super::replica::node_id(server), replica?)))
        .collect();
    let map = replicas.values().find_map(|replica| replica.node().map());
    let map = map.ok_or("no server knows the map")?;
    for entry in &map.shards {
        let statuses = entry.voters.iter().map(|voter| {
            let replica = replicas.get(voter).ok_or_else(|| format!("{voter} is down"))?;
            let engine = replica.engine();
            Ok((engine.applied(entry.shard), engine.state_hash(entry.shard)))
        });
        let states: Vec<_> = statuses.collect::<Result<_, String>>()?;
        if states.iter().any(|state| *state != states[0]) {
            return Err(format!("the replicas of {} have applied {states:?}", entry.shard));
        }
        one_leader(&replicas, entry.shard)?;
    }
    Ok(())
}

fn one_leader(replicas: &BTreeMap<NodeId, &Replica>, shard: ShardId) -> Result<(), String> {
    let mut leaders = Vec::new();
    for (node, replica) in replicas {
        let status = replica.node().status();
        let shard = status.shards.into_iter().find(|status| status.shard == shard);
        if shard.is_some_and(|status| status.role == kv_core::raft::Role::Leader) {
            leaders.push(*node);
        }
    }
    match leaders.len() {
        1 => Ok(()),
        _ => Err(format!("{shard} is led by {leaders:?}")),
    }
}
