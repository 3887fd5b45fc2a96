//! What happened when: leaders, acknowledged operations, faults.
//!
//! The invariants ask whether anything is wrong, at once. This keeps what is asked only at the end:
//! how well the store served, and when. Times are true times in nanoseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use kv_core::client::Call;
use kv_core::id::ShardId;
use kv_core::node::Event;
use kv_core::raft::Role;
use kv_core::ring;

use super::disturbances::Disturbances;
use super::history::ClientEvent;
use super::txn::TxnEvent;
use crate::engine::{FaultEdge, FaultEvent, FaultKind, Measures, ProcessId};
use crate::scenario::Scenario;

/// A fault from its begin to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) kind: FaultKind,
    pub(super) begin: u64,
    /// The end of the safety phase if the healing ended it.
    pub(super) end: u64,
    /// How often it struck.
    pub(super) strikes: u64,
}

/// A disk that was slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlowDisk {
    pub(super) server: ProcessId,
    pub(super) begin: u64,
    /// The end of the safety phase if the healing ended it.
    pub(super) end: u64,
}

/// The network was healed, and nobody knows yet which shards take writes.
#[derive(Debug)]
struct Heal {
    at: u64,
    /// Shards that acknowledged no write since.
    missing: BTreeSet<ShardId>,
    /// Shards that were asked to write since, or were being asked.
    asked: BTreeSet<ShardId>,
}

/// The safety phase of a run.
#[derive(Debug)]
pub(super) struct Timeline {
    shard_count: u32,
    /// When it ends.
    pub(super) safety: u64,
    /// How soon a shard should take writes once the network is healed: two elections.
    pub(super) settle: u64,
    /// Who was elected when, in order.
    elections: BTreeMap<ShardId, Vec<(u64, ProcessId)>>,
    /// When each shard acknowledged a write, in order.
    writes: BTreeMap<ShardId, Vec<u64>>,
    /// When anything was acknowledged, in order.
    acknowledged: Vec<u64>,
    episodes: Vec<Episode>,
    disturbances: Disturbances,
    slow_disks: Vec<SlowDisk>,
    /// Calls that came to nothing or to nothing certain: when, and why.
    failures: Vec<String>,
    /// Where writes are out, by the process of the history.
    out: BTreeMap<u64, Vec<ShardId>>,
    heal: Option<Heal>,
    /// Times from a heal to the first write of a shard.
    first_writes: Vec<u64>,
}

impl Timeline {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            shard_count: scenario.cluster.shards,
            safety: scenario.safety,
            settle: 2 * scenario.cluster.election_max,
            elections: BTreeMap::new(),
            writes: BTreeMap::new(),
            acknowledged: Vec::new(),
            episodes: Vec::new(),
            disturbances: Disturbances::new(scenario.cluster.election_max),
            slow_disks: Vec::new(),
            failures: Vec::new(),
            out: BTreeMap::new(),
            heal: None,
            first_writes: Vec::new(),
        }
    }

    /// The shards that hold keys.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..=self.shard_count).map(ShardId)
    }

    /// All shards, the meta group included.
    pub(super) fn groups(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..=self.shard_count).map(ShardId)
    }

    pub(super) fn on_event(&mut self, now: u64, server: ProcessId, event: &Event) {
        if let Event::RoleChanged { shard, role: Role::Leader, .. } = event {
            self.elections.entry(*shard).or_default().push((now, server));
        }
    }

    pub(super) fn on_client(&mut self, now: u64, event: &ClientEvent) {
        if now > self.safety {
            return;
        }
        let shard = match &event.call {
            Call::Write(op) => Some(ring::shard_of(op.key(), self.shard_count)),
            Call::Get { .. }
            | Call::Timestamp
            | Call::GetAt { .. }
            | Call::GetReplica { .. }
            | Call::ScanAt { .. }
            | Call::Status { .. }
            | Call::Map
            | Call::Txn { .. }
            | Call::WriteBatch { .. }
            | Call::Outcome { .. }
            | Call::Admin(_)
            | Call::Join { .. } => None,
        };
        let result = event.result.as_ref().map(|result| result.as_ref().map(|_| ()));
        self.on_operation(now, event.process, shard.into_iter().collect(), result);
    }

    pub(super) fn on_txn(&mut self, now: u64, event: &TxnEvent) {
        if now <= self.safety {
            let shards = event.shards(self.shard_count);
            self.on_operation(now, event.process(), shards, event.outcome());
        }
    }

    /// An operation that writes to `shards` begins, or ends with a result.
    fn on_operation(
        &mut self,
        now: u64,
        process: u64,
        shards: Vec<ShardId>,
        result: Option<Result<(), impl Display>>,
    ) {
        let Some(result) = result else { return self.on_call(process, shards) };
        self.out.remove(&process);
        match result {
            Ok(()) => self.on_acknowledged(now, shards),
            Err(error) => self.failures.push(format!("{:.3} s: {error}", now as f64 / 1e9)),
        }
    }

    fn on_call(&mut self, process: u64, shards: Vec<ShardId>) {
        if let Some(heal) = &mut self.heal {
            heal.asked.extend(&shards);
        }
        self.out.insert(process, shards);
    }

    fn on_acknowledged(&mut self, now: u64, shards: Vec<ShardId>) {
        self.acknowledged.push(now);
        for shard in shards {
            self.writes.entry(shard).or_default().push(now);
            if let Some(heal) = &mut self.heal
                && heal.missing.remove(&shard)
            {
                self.first_writes.push(now - heal.at);
            }
        }
    }

    /// `lasting` faults have begun and have not ended.
    pub(super) fn on_fault(&mut self, now: u64, fault: &FaultEvent, lasting: u32) {
        self.disturbances.on_fault(now, lasting);
        let (kind, end) = (fault.kind, self.safety);
        let open = self.episodes.iter_mut().rev().find(|episode| episode.kind == kind);
        match (fault.edge, open) {
            (FaultEdge::Begins, _) => {
                self.episodes.push(Episode { kind, begin: now, end, strikes: 1 });
            }
            (FaultEdge::Repeats, Some(episode)) => episode.strikes += 1,
            (FaultEdge::Ends, Some(episode)) => episode.end = now,
            (FaultEdge::Repeats | FaultEdge::Ends, None) => {}
        }
        if lasting > 0 {
            self.end_heal(now);
        } else if fault.edge == FaultEdge::Ends && kind.cuts_links() {
            self.end_heal(now);
            let asked = self.out.values().flatten().copied().collect();
            self.heal = Some(Heal { at: now, missing: self.shards().collect(), asked });
        }
    }

    /// What was not written until now counts with the time that it has been missing, if that is
    /// already longer than it should be and anybody asked for it.
    fn end_heal(&mut self, now: u64) {
        let Some(heal) = self.heal.take() else { return };
        let elapsed = now - heal.at;
        if elapsed > self.settle {
            let count = heal.missing.intersection(&heal.asked).count();
            self.first_writes.extend(std::iter::repeat_n(elapsed, count));
        }
    }

    pub(super) fn on_slow(&mut self, now: u64, server: ProcessId, is_slow: bool) {
        if is_slow {
            self.slow_disks.push(SlowDisk { server, begin: now, end: self.safety });
        } else if let Some(slow) =
            self.slow_disks.iter_mut().rev().find(|slow| slow.server == server)
        {
            slow.end = now;
        }
    }

    /// The run is over.
    pub(super) fn finish(&mut self) {
        self.end_heal(self.safety);
    }

    /// Faults of a kind, in order. Kinds whose strikes overlap have no such episodes.
    pub(super) fn episodes(&self, kind: FaultKind) -> impl Iterator<Item = &Episode> {
        self.episodes.iter().filter(move |episode| episode.kind == kind)
    }

    /// Calls that failed, in order, with time and reason.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(super) fn slow_disks(&self) -> &[SlowDisk] {
        &self.slow_disks
    }

    /// Elections of a shard after `begin` and up to `end`.
    pub(super) fn elections(&self, shard: ShardId, begin: u64, end: u64) -> &[(u64, ProcessId)] {
        let all = self.elections.get(&shard).map_or(&[][..], Vec::as_slice);
        let position = |time| all.partition_point(|(at, _)| *at <= time);
        &all[position(begin)..position(end)]
    }

    /// The longest time in a row, of that from `begin` to `end`, in which nothing was broken, and
    /// neither one of `shards` nor the meta group had a new leader, also shortly before.
    pub(super) fn longest_calm(&self, shards: &[ShardId], begin: u64, end: u64) -> u64 {
        let groups = shards.iter().copied().chain([ShardId::META]);
        let since = begin.saturating_sub(self.disturbances.settle());
        let elections = groups.flat_map(|shard| self.elections(shard, since, end));
        self.disturbances.longest_calm(begin, end, elections.map(|(at, _)| *at))
    }

    /// Who was elected last in a shard, as of `now`.
    pub(super) fn leader(&self, shard: ShardId, now: u64) -> Option<ProcessId> {
        self.elections(shard, 0, now).last().map(|(_, server)| *server)
    }

    /// Writes that a shard acknowledged after `begin` and up to `end`.
    pub(super) fn writes(&self, shard: ShardId, begin: u64, end: u64) -> usize {
        self.writes.get(&shard).map_or(0, |times| count(times, begin, end))
    }

    /// Operations acknowledged after `begin` and up to `end`.
    pub(super) fn acknowledged(&self, begin: u64, end: u64) -> usize {
        count(&self.acknowledged, begin, end)
    }

    pub(super) fn measures(&self) -> Measures {
        let changes = |shard: ShardId| {
            let elections = self.elections.get(&shard).map_or(0, Vec::len) as u64;
            (shard.to_string(), elections.saturating_sub(1))
        };
        let milliseconds = |nanos: u64| nanos as f64 / 1e6;
        Measures {
            leader_changes: self.groups().map(changes).collect(),
            first_writes_ms: self.first_writes.iter().copied().map(milliseconds).collect(),
            first_write_bound_ms: Some(milliseconds(self.settle)),
            deadlocks_ms: Vec::new(),
            deadlocks_calm_ms: Vec::new(),
        }
    }
}

fn count(times: &[u64], begin: u64, end: u64) -> usize {
    let position = |time| times.partition_point(|at| *at <= time);
    position(end).saturating_sub(position(begin))
}

#[cfg(test)]
pub(super) mod tests {
    use kv_core::client::Answer;
    use kv_core::id::{Term, Timestamp};
    use kv_core::op::{Key, Value, WriteOp, WriteResult};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    pub(in super::super) fn fault(kind: FaultKind, edge: FaultEdge) -> FaultEvent {
        FaultEvent { kind, edge, detail: String::new() }
    }

    /// A write to a shard.
    pub(in super::super) fn put_key(shard: u32, shard_count: u32) -> Call {
        let keys = (0_u64..).map(|number| Key::new(format!("k{number}").into_bytes()));
        let mut keys = keys.filter(|key| ring::shard_of(key, shard_count) == ShardId(shard));
        Call::Write(WriteOp::Put { key: keys.next().unwrap(), value: Value::string("v") })
    }

    /// A write was acknowledged.
    pub(in super::super) fn reply(process: u64, call: Call) -> ClientEvent {
        let answer = Answer::Written(WriteResult::Put { version: Timestamp(1) });
        ClientEvent { process, call, result: Some(Ok(answer)) }
    }

    fn call(process: u64, call: Call) -> ClientEvent {
        ClientEvent { process, call, result: None }
    }

    /// Two shards, elections of at most two seconds.
    fn timeline() -> Timeline {
        Timeline::new(&Scenario::parse("cluster.shards = 2", "x").unwrap())
    }

    fn heal(timeline: &mut Timeline, begin: u64, end: u64, kind: FaultKind) {
        timeline.on_fault(begin, &fault(kind, FaultEdge::Begins), 1);
        timeline.on_fault(end, &fault(kind, FaultEdge::Ends), 0);
    }

    #[test]
    fn the_first_write_of_each_shard_after_a_heal_is_measured() {
        let mut timeline = timeline();
        timeline.on_client(SECOND, &reply(0, put_key(1, 2)));
        heal(&mut timeline, 2 * SECOND, 5 * SECOND, FaultKind::Partition);
        for (at, shard) in [(6, 1), (7, 1), (8, 2), (9, 2)] {
            timeline.on_client(at * SECOND, &reply(0, put_key(shard, 2)));
        }
        timeline.finish();
        let measures = timeline.measures();
        assert_eq!(measures.first_writes_ms, [1_000.0, 3_000.0]);
        assert_eq!(measures.first_write_bound_ms, Some(4_000.0));
    }

    #[test]
    fn a_heal_is_the_end_of_a_cut_when_nothing_else_lasts() {
        let mut timeline = timeline();
        heal(&mut timeline, SECOND, 2 * SECOND, FaultKind::Pause);
        timeline.on_fault(3 * SECOND, &fault(FaultKind::Pause, FaultEdge::Begins), 1);
        timeline.on_fault(4 * SECOND, &fault(FaultKind::Partition, FaultEdge::Begins), 2);
        timeline.on_fault(5 * SECOND, &fault(FaultKind::Partition, FaultEdge::Ends), 1);
        timeline.on_fault(6 * SECOND, &fault(FaultKind::Pause, FaultEdge::Ends), 0);
        timeline.on_client(7 * SECOND, &reply(0, put_key(1, 2)));
        assert_eq!(timeline.measures().first_writes_ms, [0.0; 0]);
        heal(&mut timeline, 8 * SECOND, 9 * SECOND, FaultKind::Bridge);
        timeline.on_fault(10 * SECOND, &fault(FaultKind::Crash, FaultEdge::Begins), 1);
        timeline.on_client(11 * SECOND, &reply(0, put_key(1, 2)));
        assert_eq!(timeline.measures().first_writes_ms, [0.0; 0], "another fault came between");
    }

    #[test]
    fn a_shard_that_is_asked_and_takes_no_write_counts_with_the_time_it_did_not() {
        let mut timeline = timeline();
        timeline.on_client(SECOND, &call(7, put_key(1, 2)));
        heal(&mut timeline, 2 * SECOND, 50 * SECOND, FaultKind::Swizzle);
        timeline.finish();
        assert_eq!(timeline.measures().first_writes_ms, [10_000.0], "nobody asked shard 2");
    }

    #[test]
    fn leaders_after_the_first_one_are_changes() {
        let mut timeline = timeline();
        let elected = |shard| Event::RoleChanged { shard, term: Term(1), role: Role::Leader };
        for at in 1..=3 {
            timeline.on_event(at, ProcessId::Server(0), &elected(ShardId(2)));
        }
        timeline.on_event(4, ProcessId::Server(0), &elected(ShardId::META));
        let follows = Event::RoleChanged { shard: ShardId(1), term: Term(1), role: Role::Follower };
        timeline.on_event(5, ProcessId::Server(0), &follows);
        let changes = timeline.measures().leader_changes;
        let expected =
            [("s0", 0), ("s1", 0), ("s2", 2)].map(|(shard, count)| (shard.into(), count));
        assert_eq!(changes, BTreeMap::from(expected));
    }
}
