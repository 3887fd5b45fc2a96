//! The verdicts after a run with transactions.

use std::collections::BTreeMap;

use kv_check::transactions::TxnReport;
use kv_check::{Finding, Format, Options, Verdict};
use kv_core::id::ShardId;
use kv_core::op::{Found, Key};
use kv_core::ring;

use super::bank::{self, Bank};
use super::contention;
use super::history::{Fate, TxnRecorder};
use super::lists;
use super::operations::text_of;
use crate::engine::{Check, World};
use crate::kv::membership::replicas;
use crate::kv::replica::Replica;
use crate::kv::system::KvSystem;
use crate::kv::timeline::Timeline;
use crate::scenario::{Expect, Scenario, WorkloadKind};

/// What is checked instead of what is promised to single keys.
pub(in super::super) fn judge(
    recorder: &TxnRecorder,
    scenario: &Scenario,
    timeline: &Timeline,
    world: &World<'_, KvSystem>,
) -> Vec<Check> {
    let durability = match scenario.expect {
        _ if !world.is_complete() => Check::skipped(DURABILITY, "the run ended before"),
        Expect::Convergence => durability(recorder, scenario, world),
        Expect::Refusal => Check::skipped(DURABILITY, "what is damaged is not there"),
    };
    let mut checks = vec![
        durability,
        Check::skipped("linearizability", "all that clients did was in transactions"),
        isolation(recorder),
        recorder.versions.judge(),
        recorder.seen.judge(),
    ];
    if world.is_complete() {
        checks.extend(contention::judge(recorder, scenario, timeline));
    }
    checks
}

const DURABILITY: &str = "durability";

/// The transactions are strictly serializable, or what a bank shows of that.
pub(super) fn isolation(recorder: &TxnRecorder) -> Check {
    let name = match recorder.kind {
        WorkloadKind::Bank => "constant-sum",
        _ => "strict-serializability",
    };
    if recorder.kind == WorkloadKind::HotKeys {
        return Check::skipped(name, "so many at a time take too long to put into an order");
    }
    let recording = match Format::JepsenEdn.read_as(&recorder.text, recorder.workload()) {
        Ok(recording) => recording,
        Err(error) => return Check::fail(name, format!("the history cannot be read: {error}")),
    };
    let finding = recording.check(&Options::default());
    match (finding.verdict(), &finding) {
        (Verdict::Holds, _) => {
            Check::pass(name, format!("{} transactions", recorder.operations.ok))
        }
        (Verdict::Violated, Finding::Transactions(report)) => Check::fail(name, anomaly(report)),
        (Verdict::Violated, Finding::Rules(rules)) => {
            let examples = rules.rules.iter().flat_map(|rule| rule.examples.clone());
            Check::fail(name, examples.collect::<Vec<_>>().join("; "))
        }
        (Verdict::Violated, _) => Check::fail(name, "violated"),
        (Verdict::Unknown, _) => Check::invalid(name, "the search ran out of its budget"),
    }
}

/// The worst that was found, in words.
fn anomaly(report: &TxnReport) -> String {
    match report.anomalies.first() {
        Some(worst) => format!("{}: {}", worst.kind, worst.sentences.join("; ")),
        None => "no order explains what was read".into(),
    }
}

/// What committed transactions wrote is on every replica, and what others wrote is not.
fn durability(recorder: &TxnRecorder, scenario: &Scenario, world: &World<'_, KvSystem>) -> Check {
    if let Some((server, _)) = world.servers().find(|(_, machine)| machine.is_none()) {
        return Check::skipped(DURABILITY, format!("{server} is down"));
    }
    let shard_count = scenario.cluster.shards;
    let (mut copies, mut everything) = (0, BTreeMap::new());
    for (server, replica) in replicas(world).filter(|(_, replica)| !replica.is_damaged()) {
        for shard in replica.node().status().shards.iter().map(|status| status.shard) {
            let held = match held(replica, shard) {
                Ok(held) => held,
                Err(damage) => return Check::fail(DURABILITY, format!("{server}: {damage}")),
            };
            let mine = recorder.writes.iter();
            for (key, writes) in mine.filter(|(key, _)| ring::shard_of(key, shard_count) == shard) {
                copies += 1;
                if let Some(broken) = broken_promise(recorder.kind, writes, held.get(key)) {
                    let key = String::from_utf8_lossy(&key.bytes);
                    return Check::fail(DURABILITY, format!("{server}: {key} {broken}"));
                }
            }
            everything.extend(held);
        }
    }
    if recorder.kind == WorkloadKind::Bank {
        let bank = Bank::new(scenario.workload.keys, shard_count);
        if let Some(broken) = broken_bank(&bank, &everything) {
            return Check::fail(DURABILITY, broken);
        }
    }
    Check::pass(DURABILITY, format!("{} keys, {copies} copies", recorder.writes.len()))
}

fn held(replica: &Replica, shard: ShardId) -> Result<BTreeMap<Key, Found>, String> {
    let all = replica.engine().scan(shard).map_err(|damage| damage.to_string())?;
    Ok(all.into_iter().collect())
}

/// What is wrong with the value that a replica holds, given what was written.
pub(super) fn broken_promise(
    kind: WorkloadKind,
    writes: &BTreeMap<u64, Fate>,
    found: Option<&Found>,
) -> Option<String> {
    let committed = || writes.iter().filter(|(_, fate)| **fate == Fate::Committed);
    let text = found.map_or("nothing", |found| text_of(found).unwrap_or("not text"));
    let held = match (kind, found) {
        (_, None) => Vec::new(),
        (WorkloadKind::ListAppend, Some(_)) => match lists::elements(found) {
            Ok(list) => list,
            Err(text) => return Some(format!("is {text}, which is no list")),
        },
        (_, Some(_)) => match text.parse() {
            Ok(value) => vec![value],
            Err(_) => return Some(format!("is {text}, which is no number")),
        },
    };
    let is_lost = |value: &u64| match kind {
        WorkloadKind::ListAppend => !held.contains(value),
        _ => held.is_empty(),
    };
    if let Some((value, _)) = committed().find(|(value, _)| is_lost(value)) {
        return Some(format!("has lost {value}, which was committed; it is {text}"));
    }
    let is_wrong =
        |value: &&u64| !matches!(writes.get(value), Some(Fate::Committed | Fate::Unknown));
    held.iter().find(is_wrong).map(|value| format!("holds {value}, which nobody has committed"))
}

/// What is wrong with the sum of what all accounts hold.
pub(super) fn broken_bank(bank: &Bank, held: &BTreeMap<Key, Found>) -> Option<String> {
    let balances = bank.accounts().iter().map(|key| held.get(key).and_then(bank::balance));
    let sum = balances.map(Option::unwrap_or_default).sum::<i64>();
    (sum != bank.total()).then(|| format!("accounts hold {sum} instead of {}", bank.total()))
}
