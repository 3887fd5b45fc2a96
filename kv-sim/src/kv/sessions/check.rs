//! What sessions may see, by the versions that they were told.
//!
//! - **Each session**: it reads its writes and never goes back. A sequential read is as of a timestamp
//!   at or above all that the session wrote and read before; and what it writes gets a version above
//!   all of that.
//! - **Each read at a replica** shows exactly the newest write at or below the timestamp at which it
//!   was read, of all writes that anybody knows of.
//! - **A linearizable read** misses nothing that was acknowledged before it began.
//! - **A stale read** misses nothing that was acknowledged before it began, less the age that it may
//!   have. A replica measures age by its own clock: one that is slow by a part d takes what is older
//!   by 1/(1-d) for as old as that. So much is granted, for the largest drift of the scenario. A
//!   clock that stood still would make it meaningless, so no scenario of this kind freezes clocks.
//! - **Most reads** at replicas are served by followers; that none is fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kv_core::id::{ShardId, Timestamp};
use kv_core::node::Event;
use kv_core::op::{Found, Key, Value};
use kv_core::raft::Role;
use kv_core::ring;

use super::{Freshness, SessionEnd, SessionEvent, SessionOp};
use crate::engine::{Check, FaultSpec, Operations, ProcessId, World};
use crate::kv::membership::replicas;
use crate::kv::system::KvSystem;
use crate::scenario::{Expect, Scenario};

const SESSIONS: &str = "session-guarantees";
const READS: &str = "replica-reads";
const FOLLOWERS: &str = "followers-serve";
const DURABILITY: &str = "durability";

/// What is granted to a stale read beyond its age and the drift of clocks: clocks are read when a
/// message has arrived.
const AGE_SLACK: u64 = 1_000_000;

/// A read that was answered.
#[derive(Debug)]
struct Seen {
    session: u64,
    key: Key,
    freshness: Freshness,
    began: u64,
    /// What the session had seen when it began.
    floor: Timestamp,
    found: Option<Found>,
    at: Option<Timestamp>,
}

impl Seen {
    /// The version that it saw; zero if the key did not exist.
    fn version(&self) -> Timestamp {
        self.found.as_ref().map_or(Timestamp(0), |found| found.version)
    }
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Written(Timestamp),
    /// Nobody was told that it was.
    Open,
}

/// What all sessions did.
#[derive(Debug, Default)]
pub(in super::super) struct SessionRecorder {
    pub(in super::super) operations: Operations,
    /// The events, one a line.
    pub(in super::super) text: String,
    /// When the operation of a session that is out began.
    began: BTreeMap<u64, u64>,
    /// What each session has seen.
    floors: BTreeMap<u64, Timestamp>,
    values: BTreeMap<(Key, u64), Fate>,
    /// When which version of a key was acknowledged, in the order of time.
    acknowledged: BTreeMap<Key, Vec<(u64, Timestamp)>>,
    reads: Vec<Seen>,
    /// Who leads a shard, as far as is known.
    leaders: BTreeSet<(ProcessId, ShardId)>,
    /// Reads at replicas by leaders and by others.
    served: (u64, u64),
    /// The first write that went back behind what its session had seen.
    broken_write: Option<String>,
}

impl SessionRecorder {
    /// A server has told something about itself.
    pub(in super::super) fn on_node_event(&mut self, server: ProcessId, event: &Event) {
        if let Event::RoleChanged { shard, role, .. } = event {
            match role {
                Role::Leader => self.leaders.insert((server, *shard)),
                Role::Follower | Role::PreCandidate | Role::Candidate => {
                    self.leaders.remove(&(server, *shard))
                }
            };
        }
    }

    pub(in super::super) fn record(&mut self, now: u64, event: &SessionEvent, shard_count: u32) {
        let SessionEvent { session, op, end } = event;
        let line = format_args!("{now} s{session} {op:?} {end:?}\n");
        self.text.write_fmt(line).expect("a text takes everything");
        let floor = self.floors.get(session).copied().unwrap_or_default();
        let began = self.began.get(session).copied().unwrap_or(now);
        match (op, end) {
            (SessionOp::Write { keys, value }, None) => {
                self.began.insert(*session, now);
                let open = keys.iter().map(|key| ((key.clone(), *value), Fate::Open));
                self.values.extend(open);
            }
            (SessionOp::Read { .. }, None) => {
                self.began.insert(*session, now);
            }
            (SessionOp::Write { keys, value }, Some(SessionEnd::Written { version })) => {
                self.operations.ok += 1;
                if *version <= floor {
                    let broken = format!("s{session} wrote at {version} after it had seen {floor}");
                    self.broken_write.get_or_insert(broken);
                }
                self.raise(*session, *version);
                for key in keys {
                    self.values.insert((key.clone(), *value), Fate::Written(*version));
                    self.acknowledged.entry(key.clone()).or_default().push((now, *version));
                }
            }
            (SessionOp::Read { key, freshness }, Some(SessionEnd::Read { found, at, by })) => {
                self.operations.ok += 1;
                let (session, key, freshness) = (*session, key.clone(), *freshness);
                if at.is_some() {
                    let shard = ring::shard_of(&key, shard_count);
                    match self.leaders.contains(&(*by, shard)) {
                        true => self.served.0 += 1,
                        false => self.served.1 += 1,
                    }
                }
                let (found, at) = (found.clone(), *at);
                let seen = Seen { session, key, freshness, began, floor, found, at };
                self.raise(session, seen.version().max(at.unwrap_or_default()));
                self.reads.push(seen);
            }
            (_, Some(SessionEnd::Unknown)) => self.operations.unknown += 1,
            (_, Some(_)) => self.operations.failed += 1,
        }
    }

    fn raise(&mut self, session: u64, to: Timestamp) {
        let floor = self.floors.entry(session).or_default();
        *floor = (*floor).max(to);
    }

    /// The highest version of a key that had been acknowledged before a moment.
    fn newest_before(&self, key: &Key, moment: u64) -> Timestamp {
        let all = self.acknowledged.get(key).into_iter().flatten();
        let before = all.take_while(|(at, _)| *at < moment);
        before.map(|(_, version)| *version).max().unwrap_or_default()
    }

    /// All versions of each key that anybody was told of.
    fn versions(&self) -> BTreeMap<&Key, BTreeSet<Timestamp>> {
        let mut versions: BTreeMap<&Key, BTreeSet<Timestamp>> = BTreeMap::new();
        for (key, acknowledged) in &self.acknowledged {
            let of = versions.entry(key).or_default();
            of.extend(acknowledged.iter().map(|(_, version)| *version));
        }
        for seen in self.reads.iter().filter(|seen| seen.found.is_some()) {
            versions.entry(&seen.key).or_default().insert(seen.version());
        }
        versions
    }

    /// The session went on from what it had seen.
    pub(super) fn judge_sessions(&self) -> Check {
        if let Some(broken) = &self.broken_write {
            return Check::fail(SESSIONS, broken.clone());
        }
        let is_sequential = |seen: &&Seen| seen.freshness == Freshness::Sequential;
        let mut sequential = self.reads.iter().filter(is_sequential);
        match sequential.clone().find(|seen| seen.at.is_none_or(|at| at < seen.floor)) {
            Some(Seen { session, key, at, floor, .. }) => {
                let key = name(key);
                let at = at.unwrap_or_default();
                let detail = format!("s{session} read {key} at {at} after it had seen {floor}");
                Check::fail(SESSIONS, detail)
            }
            None => {
                let detail = format!(
                    "{} sessions, {} sequential reads",
                    self.floors.len(),
                    sequential.by_ref().count()
                );
                Check::pass(SESSIONS, detail)
            }
        }
    }

    /// Every read shows what it must, and nothing that it cannot.
    pub(super) fn judge_reads(&self, drift_max: u32) -> Check {
        let versions = self.versions();
        let broken = self.reads.iter().find_map(|seen| {
            self.broken_value(seen)
                .or_else(|| broken_at(seen, versions.get(&seen.key)))
                .or_else(|| self.missed(seen, drift_max))
                .map(|broken| format!("s{} read {} and {broken}", seen.session, name(&seen.key)))
        });
        match broken {
            Some(broken) => Check::fail(READS, broken),
            None => Check::pass(READS, format!("{} reads", self.reads.len())),
        }
    }

    /// What is wrong with the value, which somebody must have written under that version.
    fn broken_value(&self, seen: &Seen) -> Option<String> {
        let Found { version, value: Value::String(bytes) } = seen.found.as_ref()?;
        let value = str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
        let fate = value.and_then(|value: u64| self.values.get(&(seen.key.clone(), value)));
        match fate {
            Some(Fate::Open) => None,
            Some(Fate::Written(written)) if written == version => None,
            Some(Fate::Written(written)) => {
                Some(format!("saw at {version} what was written at {written}"))
            }
            None => Some(format!("saw {bytes:?} at {version}, which nobody wrote")),
        }
    }

    /// What was acknowledged in time and is not seen.
    fn missed(&self, seen: &Seen, drift_max: u32) -> Option<String> {
        let moment = match seen.freshness {
            Freshness::Linearizable => seen.began,
            Freshness::Stale(max_age) => {
                let age = u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX);
                let real = u128::from(age) * 1_000_000 / u128::from(1_000_000 - drift_max);
                let real = u64::try_from(real).unwrap_or(u64::MAX);
                seen.began.saturating_sub(real.saturating_add(AGE_SLACK))
            }
            Freshness::Sequential => return None,
        };
        let newest = self.newest_before(&seen.key, moment);
        let version = seen.version();
        (version < newest).then(|| {
            let freshness = seen.freshness;
            format!("saw {version}, {freshness:?}, and missed {newest}, acknowledged before")
        })
    }

    /// Reads at replicas are what followers are for.
    pub(super) fn judge_followers(&self) -> Check {
        let (by_leaders, by_followers) = self.served;
        let detail = format!("{by_followers} reads by followers, {by_leaders} by leaders");
        match by_followers > by_leaders {
            true => Check::pass(FOLLOWERS, detail),
            false => Check::fail(FOLLOWERS, detail),
        }
    }

    /// Every replica holds at least the newest version of each key that was acknowledged.
    fn durability(&self, scenario: &Scenario, world: &World<'_, KvSystem>) -> Check {
        if let Some((server, _)) = world.servers().find(|(_, machine)| machine.is_none()) {
            return Check::skipped(DURABILITY, format!("{server} is down"));
        }
        let mut copies = 0;
        for (server, replica) in replicas(world).filter(|(_, replica)| !replica.is_damaged()) {
            for shard in replica.node().status().shards.iter().map(|status| status.shard) {
                let held: BTreeMap<Key, Found> = match replica.engine().scan(shard) {
                    Ok(held) => held.into_iter().collect(),
                    Err(damage) => return Check::fail(DURABILITY, format!("{server}: {damage}")),
                };
                let is_here = |key: &&Key| ring::shard_of(key, scenario.cluster.shards) == shard;
                for key in self.acknowledged.keys().filter(is_here) {
                    copies += 1;
                    let promised = self.newest_before(key, u64::MAX);
                    let version = held.get(key).map(|found| found.version);
                    if version.is_none_or(|version| version < promised) {
                        let key = name(key);
                        let detail = format!("{server}: {key} is at {version:?} of {promised}");
                        return Check::fail(DURABILITY, detail);
                    }
                }
            }
        }
        Check::pass(DURABILITY, format!("{} keys, {copies} copies", self.acknowledged.len()))
    }
}

/// A read at a timestamp shows the newest version at or below it.
fn broken_at(seen: &Seen, versions: Option<&BTreeSet<Timestamp>>) -> Option<String> {
    let (at, version) = (seen.at?, seen.version());
    if version > at {
        return Some(format!("saw {version} at {at}, which is earlier"));
    }
    let missed = versions?.range(version.after(1)..).next().filter(|missed| **missed <= at)?;
    Some(format!("saw {version} at {at} and missed {missed}"))
}

fn name(key: &Key) -> String {
    String::from_utf8_lossy(&key.bytes).into_owned()
}

/// The largest drift of a clock in a scenario, in a million.
fn drift_max(scenario: &Scenario) -> u32 {
    let drifts = scenario.faults.iter().filter_map(|fault| match fault {
        FaultSpec::ClockDrift { drift_max, .. } => Some(*drift_max),
        _ => None,
    });
    drifts.max().unwrap_or(0)
}

/// What is checked of sessions.
pub(in super::super) fn judge(
    recorder: &SessionRecorder,
    scenario: &Scenario,
    world: &World<'_, KvSystem>,
) -> Vec<Check> {
    let durability = match scenario.expect {
        _ if !world.is_complete() => Check::skipped(DURABILITY, "the run ended before"),
        Expect::Convergence => recorder.durability(scenario, world),
        Expect::Refusal => Check::skipped(DURABILITY, "what is damaged is not there"),
    };
    let mut checks = vec![
        durability,
        Check::skipped("linearizability", "versions are compared instead"),
        recorder.judge_sessions(),
        recorder.judge_reads(drift_max(scenario)),
    ];
    if world.is_complete() {
        checks.push(recorder.judge_followers());
    }
    checks
}
