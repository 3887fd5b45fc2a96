//! The verdicts after the run.

use std::collections::BTreeMap;

use kv_check::{EventKind, History, MicroOp, Process, Verdict};
use kv_core::id::{NodeId, ShardId};
use kv_core::machine::Transactions;
use kv_core::op::Key;
use kv_core::ring;
use kv_core::storage::StorageDamage;

use super::caller::Caller;
use super::membership::{newest_map, replicas};
use super::replica::Replica;
use super::system::KvSystem;
use crate::engine::{Check, ProcessId, World};

/// What the history promises of a key.
#[derive(Clone, Debug, Default)]
struct Promise {
    /// The highest acknowledged version.
    version: u64,
    /// Whether a delete may have followed the write of that version.
    may_be_absent: bool,
    /// Deletes that have begun.
    delete_count: u64,
    /// Deletes that may still take effect. One without an answer stays open for ever.
    open_delete_count: u64,
    /// For each process with a write to the key that is out: how many deletes had begun before it,
    /// if none of them was open then.
    quiet_since: BTreeMap<Process, u64>,
}

impl Promise {
    fn on_delete(&mut self, kind: EventKind) {
        match kind {
            EventKind::Invoke => {
                self.delete_count += 1;
                self.open_delete_count += 1;
                self.may_be_absent = true;
            }
            EventKind::Ok | EventKind::Fail => self.open_delete_count -= 1,
            EventKind::Info => {}
        }
    }

    fn on_write(&mut self, process: Process, kind: EventKind, version: Option<u64>) {
        if kind == EventKind::Invoke {
            self.quiet_since.remove(&process);
            if self.open_delete_count == 0 {
                self.quiet_since.insert(process, self.delete_count);
            }
        }
        if let (EventKind::Ok, Some(version)) = (kind, version) {
            self.version = self.version.max(version);
            // No delete can have come after a write that ran while there was none.
            if self.quiet_since.get(&process) == Some(&self.delete_count) {
                self.may_be_absent = false;
            }
        }
    }
}

/// Every acknowledged write is there: each replica's newest version of a key is at least the highest
/// that was acknowledged, unless a delete may have followed. What `may_rot` may also be refused.
pub(super) fn durability(
    history: &History,
    world: &World<'_, KvSystem>,
    shard_count: u32,
    may_rot: bool,
) -> Check {
    let name = "durability";
    let mut by_shard: BTreeMap<ShardId, Vec<(Key, Promise)>> = BTreeMap::new();
    for (key, promise) in promises(history) {
        let key = Key::new(key.into_bytes());
        by_shard.entry(ring::shard_of(&key, shard_count)).or_default().push((key, promise));
    }
    let (mut copies, mut damaged) = (0, Vec::new());
    if let Some((server, _)) = world.servers().find(|(_, machine)| machine.is_none()) {
        return Check::skipped(name, format!("{server} is down"));
    }
    for (server, replica) in replicas(world) {
        if replica.is_damaged() {
            continue;
        }
        for shard in replica.node().status().shards.iter().map(|status| status.shard) {
            let promises = by_shard.get(&shard).map_or(&[][..], Vec::as_slice);
            copies += promises.len();
            match broken_promise(replica, shard, promises) {
                Ok(None) => {}
                Ok(Some(broken)) => return Check::fail(name, format!("{server}: {broken}")),
                Err(damage) if may_rot => damaged.push(format!("{server}: {damage}")),
                Err(damage) => return Check::fail(name, format!("{server}: {damage}")),
            }
        }
    }
    let keys: usize = by_shard.values().map(Vec::len).sum();
    let detail = format!("{keys} acknowledged keys, {copies} copies");
    match damaged.is_empty() {
        true => Check::pass(name, detail),
        false => Check::pass(name, format!("{detail}; damage: {}", damaged.join(", "))),
    }
}

/// The first promise about `shard` that the replica does not keep.
fn broken_promise(
    replica: &Replica,
    shard: ShardId,
    promises: &[(Key, Promise)],
) -> Result<Option<String>, StorageDamage> {
    let held: BTreeMap<Key, u64> = replica
        .engine()
        .scan(shard)?
        .into_iter()
        .map(|(key, found)| (key, found.version.0))
        .collect();
    Ok(promises.iter().find_map(|(key, promise)| {
        let found = held.get(key);
        let is_kept = found.map_or(promise.may_be_absent, |found| *found >= promise.version);
        let key = String::from_utf8_lossy(&key.bytes);
        let acknowledged = promise.version;
        (!is_kept)
            .then(|| format!("{key} was acknowledged at version {acknowledged}, is at {found:?}"))
    }))
}

fn promises(history: &History) -> BTreeMap<String, Promise> {
    let mut promises: BTreeMap<String, Promise> = BTreeMap::new();
    for event in &history.events {
        match event.ops.first() {
            Some(MicroOp::Delete { key, .. }) => {
                promises.entry(key.clone()).or_default().on_delete(event.kind);
            }
            Some(MicroOp::Put { key, version, .. } | MicroOp::Cas { key, version, .. }) => {
                let promise = promises.entry(key.clone()).or_default();
                promise.on_write(event.process, event.kind, *version);
            }
            Some(MicroOp::Get { .. }) | None => {}
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

/// Whether all clients were served once nothing is broken.
pub(super) fn served(world: &World<'_, KvSystem>) -> Result<(), String> {
    match world.clients().find(|(_, caller): &(ProcessId, &Caller)| !caller.is_done()) {
        Some((client, _)) => Err(format!("{client} still waits for its last calls")),
        None => Ok(()),
    }
}

/// Whether every client got its calls answered or refused, now that nothing changes any more.
pub(super) fn refused(world: &World<'_, KvSystem>) -> Result<(), String> {
    let waits = |caller: &Caller| !caller.is_done() && !caller.was_refused();
    match world.clients().find(|(_, caller)| waits(caller)) {
        Some((client, _)) => Err(format!("{client} still waits for an answer")),
        None => Ok(()),
    }
}

/// Whether all is well once nothing is broken: one leader per shard, all replicas equal, all that was
/// damaged repaired, and all transactions finished.
pub(super) fn equal_replicas(world: &World<'_, KvSystem>) -> Result<(), String> {
    let map = newest_map(world).ok_or("no server knows the map")?;
    let replicas = replicas(world).map(|(_, replica)| (replica.node().identity().node, replica));
    let replicas: BTreeMap<NodeId, &Replica> =
        replicas.filter(|(node, _)| map.member(*node).is_some()).collect();
    if let Some((node, _)) = replicas.iter().find(|(_, replica)| replica.is_damaged()) {
        return Err(format!("{node} is not repaired"));
    }
    for entry in &map.shards {
        let states = entry.voters.iter().map(|voter| {
            let replica = replicas.get(voter).ok_or_else(|| format!("{voter} is down"))?;
            let engine = replica.engine();
            Ok((engine.applied(entry.shard), engine.state_hash(entry.shard)))
        });
        let states: Vec<_> = states.collect::<Result<_, String>>()?;
        if states.iter().any(|state| *state != states[0]) {
            return Err(format!("the replicas of {} have applied {states:?}", entry.shard));
        }
        for voter in &entry.voters {
            finished(replicas[voter], entry.shard)?;
        }
        one_leader(&replicas, entry.shard)?;
    }
    Ok(())
}

/// No transaction is between two steps: what one waits for comes without new work.
fn finished(replica: &Replica, shard: ShardId) -> Result<(), String> {
    let Transactions { prepared, decided } = replica.engine().transactions(shard);
    match (prepared.keys().next(), decided.keys().next()) {
        (Some(txn), _) => Err(format!("{txn} is prepared in {shard} and waits for its decision")),
        (None, Some(txn)) => Err(format!("{txn} is decided in {shard} and waits for participants")),
        (None, None) => Ok(()),
    }
}

/// All replicas of `shard` are of one term, know the same leader, and have applied its whole log.
fn one_leader(replicas: &BTreeMap<NodeId, &Replica>, shard: ShardId) -> Result<(), String> {
    let statuses = replicas.values().flat_map(|replica| replica.node().status().shards);
    let mut views = statuses
        .filter(|status| status.shard == shard)
        .map(|status| (status.term, status.leader, status.last.index, status.applied_index));
    let Some(first @ (_, Some(_), last, applied)) = views.next() else {
        return Err(format!("{shard} has no leader"));
    };
    match views.find(|view| *view != first) {
        None if last == applied => Ok(()),
        None => Err(format!("{shard} has applied {applied} of {last}")),
        Some(other) => Err(format!("the replicas of {shard} differ: {first:?} and {other:?}")),
    }
}
