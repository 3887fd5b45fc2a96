//! How long nobody can write after the leader was killed.
//!
//! Every part of the keys (a shard of ours, all of etcd) has clients that write to it without
//! pause. The node that leads most parts is killed with SIGKILL. For each part that it led, the
//! longest time between two successful writes around the kill counts, and of the parts the worst:
//! a store of many shards gains nothing from those that another node leads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use tokio::time::sleep;

use super::load::{self, Load, Operation, Success};
use super::nodes::{Cluster, Kind};
use super::{etcd, ours};

/// Connections of the clients: one for every four of etcd's, as a dead one takes all on it along.
const CLIENTS_PER_CONNECTION: usize = 4;
/// How long a call of etcd may wait before another node is asked. A node without a leader keeps
/// calls for seconds, so that waiting longer would make etcd's failover look slower than it is.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long clients run before the kill.
const BEFORE: Duration = Duration::from_millis(1_500);
/// How long clients run after the last part was written to again.
const AFTER: Duration = Duration::from_millis(500);
/// How long that may take.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at what the clients could write.
const PAUSE: Duration = Duration::from_millis(20);

/// Kills the leader once, starts it again, and waits until the cluster is as before. Returns the
/// time without a successful write in milliseconds.
pub async fn kill_leader(cluster: &mut Cluster, client_count: usize) -> Result<f64> {
    let parts: Vec<u32> = cluster.wait_until_ready().await?.leaders.into_keys().collect();
    // At least one client for each part.
    let count = client_count.next_multiple_of(parts.len());
    let clients = cluster.clients(count, count / CLIENTS_PER_CONNECTION, PATIENCE).await?;
    let part = |at: usize| parts[at % parts.len()];
    let with_keys = clients.into_iter().enumerate().map(|(at, client)| {
        let keys: Arc<[Bytes]> = keys_of(cluster.kind(), part(at)).into();
        (client, keys)
    });
    let load = Load::start(with_keys.collect(), Operation::Put);
    load.count();
    sleep(BEFORE).await;
    let leaders = cluster.wait_for_leaders().await?.leaders;
    let leads = |at: usize| leaders.values().filter(|leader| **leader == at).count();
    let victim = (0..cluster.addresses().len()).max_by_key(|at| leads(*at)).unwrap_or(0);
    let killed_at = Instant::now();
    cluster.kill(victim);
    let hit: Vec<u32> =
        parts.iter().copied().filter(|part| leaders.get(part) == Some(&victim)).collect();
    let successes = wait_until_written(&load, &hit, &part, killed_at).await?;
    load.stop().await;
    let gap = hit.iter().map(|hit| longest_gap(&of_part(&successes, &part, *hit), killed_at));
    let gap = gap.max().unwrap_or_default();
    ensure!(!gap.is_zero(), "a part was not written to before the kill");
    cluster.restart(victim)?;
    cluster.wait_until_ready().await?;
    Ok(gap.as_secs_f64() * 1_000.0)
}

fn keys_of(kind: Kind, part: u32) -> Vec<Bytes> {
    let part_of = |key: &Bytes| match kind {
        Kind::Ours => ours::part(key),
        Kind::Etcd | Kind::EtcdTuned => etcd::PART,
    };
    load::keys().into_iter().filter(|key| part_of(key) == part).collect()
}

/// Waits until every part was written to by a call that began after the kill, and a little longer.
async fn wait_until_written(
    load: &Load,
    hit: &[u32],
    part: &impl Fn(usize) -> u32,
    killed_at: Instant,
) -> Result<Vec<Vec<Success>>> {
    while killed_at.elapsed() < RECOVERY_DEADLINE {
        sleep(PAUSE).await;
        let successes = load.successes();
        let is_written = |hit: &u32| {
            of_part(&successes, part, *hit).iter().any(|success| success.begin > killed_at)
        };
        if hit.iter().all(is_written) {
            sleep(AFTER).await;
            return Ok(load.successes());
        }
    }
    let failures = load.failures();
    bail!("nobody could write for {} s: {:?}", RECOVERY_DEADLINE.as_secs(), failures.last())
}

/// Successful writes to one part, by their ends.
fn of_part(successes: &[Vec<Success>], part: &impl Fn(usize) -> u32, wanted: u32) -> Vec<Success> {
    let clients = successes.iter().enumerate().filter(|(at, _)| part(*at) == wanted);
    let mut found: Vec<_> = clients.flat_map(|(_, found)| found.iter().copied()).collect();
    found.sort_by_key(|success| success.end);
    found
}

/// The longest time between two ends, of which the second one is after the kill.
fn longest_gap(successes: &[Success], killed_at: Instant) -> Duration {
    let gaps = successes.windows(2).filter(|pair| pair[1].end > killed_at);
    gaps.map(|pair| pair[1].end - pair[0].end).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_around_the_kill_counts_and_no_longer_one_before_it() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ends = [0, 500, 510, 800, 805];
        let successes = ends.map(|ms| Success { begin: at(ms), end: at(ms) });
        assert_eq!(longest_gap(&successes, at(600)), Duration::from_millis(290));
    }
}
