//! Transactions without a store: what clients ask for, and what is said of wrong answers.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::client::TxnOp;
use kv_core::id::{ShardId, Term, Timestamp};
use kv_core::node::Event;
use kv_core::op::{Found, Key, Page, Row, Value};
use kv_core::raft::Role;
use kv_core::ring;

use super::attempt::Attempt;
use super::bank::Bank;
use super::contention::{deadlocks, fairness, no_deadlock, no_lost_update};
use super::history::{Fate, TxnRecorder};
use super::judge::{broken_bank, broken_promise, isolation};
use super::lists::{self, LENGTH_MAX};
use super::operations::{Operations, placed_key};
use super::rings::{Ring, RingEvent, Rings};
use super::transaction::{Op, TxnEnd, TxnEvent};
use crate::engine::{CheckVerdict, FaultEdge, FaultKind, ProcessId};
use crate::kv::timeline::Timeline;
use crate::kv::timeline::tests::fault;
use crate::scenario::{Scenario, WorkloadKind};

const KINDS: [&str; 7] =
    ["bank", "list-append", "rw-register", "write-skew", "long-fork", "phantom", "ordered"];

fn scenario(kind: &str) -> Scenario {
    let text = format!("workload.kind = \"{kind}\"\nworkload.clients = 3");
    Scenario::parse(&text, "x").unwrap()
}

/// A store that runs one transaction after the other.
struct Serial {
    held: BTreeMap<Key, Found>,
    clients: Vec<Operations>,
    recorder: TxnRecorder,
    time: u64,
    /// Which commits, by number, are acknowledged and have no effect on some of their keys.
    loses: Option<fn(u64, &Key) -> bool>,
}

impl Serial {
    fn new(kind: &str) -> Self {
        let scenario = scenario(kind);
        let clients =
            (0..3).map(|client| Operations::new(&scenario, client, 7 + u64::from(client)));
        let recorder = TxnRecorder::new(scenario.workload.kind);
        let clients = clients.collect();
        Self { held: BTreeMap::new(), clients, recorder, time: 0, loses: None }
    }

    fn run(mut self, count: u64) -> Self {
        for number in 0..count {
            self.transact((number % 3) as usize);
        }
        self
    }

    fn record(&mut self, client: usize, attempt: &Attempt, end: Option<TxnEnd>) {
        self.time += 1;
        let (process, transaction) = (client as u64, attempt.transaction.clone());
        self.recorder.record(self.time, &TxnEvent { process, transaction, end });
    }

    fn transact(&mut self, client: usize) {
        let mut attempt = Attempt::new(self.clients[client].next());
        self.record(client, &attempt, None);
        let mut writes: BTreeMap<Key, Value> = BTreeMap::new();
        let end = loop {
            match attempt.next_op() {
                TxnOp::Get { key } | TxnOp::GetForUpdate { key } => {
                    let held = self.held.get(&key);
                    let own = writes.get(&key).map(|value| {
                        let version = held.map_or(Timestamp(0), |held| held.version);
                        Found { version, value: value.clone() }
                    });
                    let found = own.or_else(|| held.cloned());
                    self.clients[client].see(&key, found.as_ref());
                    attempt.found.push(found);
                }
                TxnOp::Scan { range, limit } => {
                    assert!(writes.is_empty(), "a scan comes first");
                    let rows = self.held.iter().filter(|(key, _)| range.contains(key));
                    let mut rows: Vec<Row> = rows
                        .map(|(key, found)| Row { key: key.clone(), found: found.clone() })
                        .collect();
                    let at = rows.len().min(limit.rows as usize);
                    let rest = rows.split_off(at);
                    attempt
                        .take_page(Page { rows, next: rest.into_iter().next().map(|row| row.key) });
                }
                TxnOp::Put { key, value } => drop(writes.insert(key, value)),
                TxnOp::Delete { key } => panic!("nobody deletes {key:?}"),
                TxnOp::Commit => break self.commit(&attempt, writes),
                TxnOp::Rollback => break TxnEnd::failed("rolled back"),
            }
        };
        self.record(client, &attempt, Some(end));
    }

    fn commit(&mut self, attempt: &Attempt, writes: BTreeMap<Key, Value>) -> TxnEnd {
        let version = Timestamp(self.time);
        let commit_ts = (!writes.is_empty()).then_some(version);
        for (key, value) in writes {
            if !self.loses.is_some_and(|loses| loses(version.0, &key)) {
                self.held.insert(key, Found { version, value });
            }
        }
        TxnEnd::Committed { found: attempt.found.clone(), commit_ts, at: None }
    }

    fn verdict(&self) -> CheckVerdict {
        isolation(&self.recorder).verdict
    }
}

/// Has a client know that what it works on is there.
fn begin(operations: &mut Operations) {
    let value = Value::string("100".to_owned());
    operations.see(&Key::new("begun"), Some(&Found { version: Timestamp(1), value }));
}

#[test]
fn the_same_seed_gives_the_same_transactions_and_another_one_others() {
    for kind in KINDS {
        let scenario = scenario(kind);
        let list = |client, seed| {
            let mut operations = Operations::new(&scenario, client, seed);
            begin(&mut operations);
            let mut all: Vec<_> = (0..50).map(|_| operations.next()).collect();
            all.extend(operations.final_transactions());
            all
        };
        assert_eq!(list(1, 7), list(1, 7), "{kind}");
        assert_ne!(list(1, 7), list(1, 8), "{kind}");
    }
}

#[test]
fn values_are_written_once_by_all_clients_and_attempts() {
    let scenario = scenario("rw-register");
    let mut values = BTreeSet::new();
    for client in 0..3 {
        let mut operations = Operations::new(&scenario, client, 7);
        for _ in 0..100 {
            let first = operations.next();
            let second = operations.again(&first);
            let unique = first.ops.iter().chain(&second.ops).filter_map(|op| op.unique());
            unique.for_each(|value| assert!(values.insert(value), "{value} is written twice"));
        }
    }
    assert!(values.len() > 300);
}

#[test]
fn keys_lie_on_all_shards() {
    for kind in KINDS {
        let mut operations = Operations::new(&scenario(kind), 0, 7);
        begin(&mut operations);
        let transactions: Vec<_> = (0..300).map(|_| operations.next()).collect();
        let keys = transactions.iter().flat_map(|transaction| &transaction.ops).map(|op| op.key());
        let shards: BTreeSet<_> = keys.map(|key| ring::shard_of(key, 8)).collect();
        assert_eq!(shards.len(), 8, "{kind}");
    }
}

#[test]
fn one_transaction_after_the_other_is_right_whatever_they_do() {
    for kind in KINDS {
        let serial = Serial::new(kind).run(900);
        assert_eq!(serial.verdict(), CheckVerdict::Pass, "{kind}");
        assert_eq!(serial.recorder.versions.judge().verdict, CheckVerdict::Pass, "{kind}");
        assert!(serial.recorder.operations.ok > 800, "{kind}: {:?}", serial.recorder.operations);
        for (key, writes) in &serial.recorder.writes {
            let broken = broken_promise(serial.recorder.kind, writes, serial.held.get(key));
            assert_eq!(broken, None, "{kind}");
        }
    }
}

#[test]
fn what_is_acknowledged_and_has_half_its_effect_is_found() {
    fn loses(version: u64, key: &Key) -> bool {
        let sum: u32 = key.bytes.iter().map(|byte| u32::from(*byte)).sum();
        version > 500 && version.is_multiple_of(5) && sum.is_multiple_of(2)
    }
    for kind in ["bank", "list-append", "rw-register"] {
        let serial = Serial { loses: Some(loses), ..Serial::new(kind) }.run(900);
        assert_eq!(serial.verdict(), CheckVerdict::Fail, "{kind}");
    }
}

#[test]
fn a_bank_with_a_wrong_sum_fails() {
    let mut serial = Serial::new("bank").run(100);
    let bank = Bank::new(8, 8);
    assert_eq!((serial.verdict(), broken_bank(&bank, &serial.held)), (CheckVerdict::Pass, None));
    let account = bank.accounts()[3].clone();
    let more = Found { version: Timestamp(1), value: Value::string("1000") };
    serial.held.insert(account, more);
    assert!(broken_bank(&bank, &serial.held).is_some());
    assert_eq!(serial.run(100).verdict(), CheckVerdict::Fail);
}

#[test]
fn lists_are_full_at_their_length_and_others_take_their_place() {
    let serial = Serial::new("list-append").run(1_500);
    let lengths: Vec<usize> =
        serial.held.values().map(|found| lists::elements(Some(found)).unwrap().len()).collect();
    assert_eq!(lengths.iter().max(), Some(&LENGTH_MAX));
    assert!(lengths.iter().filter(|length| **length == LENGTH_MAX).count() > 8, "{lengths:?}");
    assert!(serial.held.len() > 16);
}

/// What replicas hold of a key, given what was written.
#[track_caller]
fn check_promise(kind: WorkloadKind, writes: &[(u64, Fate)], held: Option<&str>, is_kept: bool) {
    let found = held.map(|text| Found {
        version: Timestamp(1),
        value: Value::string(text.to_owned().into_bytes()),
    });
    let broken = broken_promise(kind, &writes.iter().copied().collect(), found.as_ref());
    assert_eq!(broken.is_none(), is_kept, "{writes:?} {held:?}: {broken:?}");
}

#[test]
fn what_was_committed_is_held_and_nothing_else() {
    use Fate::{Committed, Failed, Unknown};
    let list = WorkloadKind::ListAppend;
    let writes = [(1, Committed), (2, Failed), (3, Unknown), (4, Committed)];
    check_promise(list, &writes, Some("[4,1]"), true);
    check_promise(list, &writes, Some("[1,3,4]"), true);
    check_promise(list, &writes, Some("[1,3]"), false);
    check_promise(list, &writes, Some("[1,2,4]"), false);
    check_promise(list, &writes, Some("[1,4,5]"), false);
    check_promise(list, &writes, Some("1"), false);
    check_promise(list, &writes, None, false);
    check_promise(list, &writes[1..3], None, true);
    let register = WorkloadKind::RwRegister;
    check_promise(register, &writes, Some("4"), true);
    check_promise(register, &writes, Some("3"), true);
    check_promise(register, &writes, Some("2"), false);
    check_promise(register, &writes, Some("[1]"), false);
    check_promise(register, &writes, None, false);
}

#[test]
fn ordered_transactions_lock_what_they_touch_in_one_order() {
    let mut operations = Operations::new(&scenario("ordered"), 0, 7);
    let keys: Vec<Key> = (0..8).map(|at| placed_key("r", at, 8)).collect();
    let mut sizes = BTreeSet::new();
    for _ in 0..200 {
        let transaction = operations.next();
        let place = |key: &Key| keys.iter().position(|it| it == key).unwrap();
        let locks = transaction.ops.iter().filter(|op| op.is_read());
        let places: Vec<usize> = locks.map(|op| place(op.key())).collect();
        assert!(places.is_sorted_by(|one, other| one < other), "{places:?}");
        // What is written was locked right before.
        for ops in transaction.ops.windows(2).filter(|ops| matches!(ops[1], Op::Write { .. })) {
            assert!(matches!(&ops[0], Op::Lock { key } if key == ops[1].key()));
        }
        sizes.insert(places.len());
    }
    assert!(sizes.len() > 2, "{sizes:?}");
}

const SECOND: u64 = 1_000_000_000;

/// Stood for a second.
fn ring() -> Ring {
    Ring {
        shards: (1..=4).map(ShardId).collect(),
        closed_at: 5 * SECOND,
        broken_at: 6 * SECOND,
        is_calm: true,
        committed_count: 3,
        victim_count: 1,
    }
}

/// A run in which something is broken from the beginning until then, and is felt for two seconds more.
fn broken_until(end: u64) -> Timeline {
    let mut timeline = Timeline::new(&scenario("deadlock"));
    timeline.on_fault(0, &fault(FaultKind::Crash, FaultEdge::Begins), 1);
    timeline.on_fault(end, &fault(FaultKind::Crash, FaultEdge::Ends), 0);
    timeline
}

#[test]
fn a_ring_that_stands_too_long_or_breaks_otherwise_is_found() {
    let timeline = broken_until(22 * SECOND);
    let late = |seconds| Ring { broken_at: ring().closed_at + seconds * SECOND, ..ring() };
    let noisy = Ring { is_calm: false, committed_count: 1, victim_count: 0, ..late(15) };
    let cases = [
        (ring(), CheckVerdict::Pass),
        (late(2), CheckVerdict::Fail),
        (Ring { committed_count: 2, victim_count: 2, ..ring() }, CheckVerdict::Fail),
        (Ring { committed_count: 2, ..ring() }, CheckVerdict::Fail),
        (Ring { committed_count: 4, victim_count: 0, ..ring() }, CheckVerdict::Fail),
        (noisy.clone(), CheckVerdict::Pass),
        (Ring { broken_at: late(16).broken_at, ..noisy.clone() }, CheckVerdict::Fail),
    ];
    for (case, verdict) in cases {
        assert_eq!(deadlocks(&[ring(), case.clone()], &timeline).verdict, verdict, "{case:?}");
    }
    assert_eq!(deadlocks(&[noisy], &timeline).verdict, CheckVerdict::Invalid);
}

#[test]
fn a_ring_that_stands_while_nothing_is_broken_any_more_is_found() {
    // It stands from 5 s to 10 s.
    let noisy = Ring { is_calm: false, broken_at: 10 * SECOND, ..ring() };
    let judge = |end: u64, count: usize| {
        let mut rings = vec![ring(); count - 1];
        rings.push(noisy.clone());
        deadlocks(&rings, &broken_until(end)).verdict
    };
    assert_eq!(judge(4 * SECOND, 100), CheckVerdict::Fail, "4 s of calm are too long for any");
    assert_eq!(judge(5 * SECOND, 100), CheckVerdict::Pass, "3 s are not, for one of a hundred");
    assert_eq!(judge(5 * SECOND, 99), CheckVerdict::Fail);
    assert_eq!(judge(7 * SECOND, 2), CheckVerdict::Pass);
    let mut moved = broken_until(SECOND);
    let role = Event::RoleChanged { shard: ShardId(3), term: Term(2), role: Role::Leader };
    moved.on_event(8 * SECOND, ProcessId::Server(0), &role);
    let elsewhere = Ring { shards: vec![ShardId(1), ShardId(2)], ..ring() };
    assert_eq!(moved.longest_calm(&elsewhere.shards, 5 * SECOND, 10 * SECOND), 5 * SECOND);
    assert_eq!(moved.longest_calm(&ring().shards, 5 * SECOND, 10 * SECOND), 3 * SECOND);
}

#[test]
fn rings_are_made_of_what_happens_to_them() {
    let mut rings = Rings::default();
    let closed = |shards: [u32; 2], is_calm| {
        let shards = shards.into_iter().map(ShardId).collect();
        RingEvent::Closed { shards, is_calm }
    };
    let ended = |committed_count, victim_count| RingEvent::Ended { committed_count, victim_count };
    rings.on_event(1, 7, &closed([1, 2], true));
    rings.on_event(2, 8, &closed([3, 4], false));
    rings.on_event(5, 7, &RingEvent::Broken);
    rings.on_event(6, 8, &RingEvent::Broken);
    assert_eq!(rings.ended(), []);
    rings.on_event(9, 8, &ended(2, 0));
    rings.on_event(11, 7, &ended(1, 1));
    let ring = |shards: [u32; 2], closed_at, broken_at, is_calm| Ring {
        shards: shards.into_iter().map(ShardId).collect(),
        closed_at,
        broken_at,
        is_calm,
        committed_count: 1,
        victim_count: 1,
    };
    let noisy = Ring { committed_count: 2, victim_count: 0, ..ring([3, 4], 2, 6, false) };
    assert_eq!(rings.ended(), [noisy, ring([1, 2], 1, 5, true)]);
}

#[test]
fn who_is_told_of_a_deadlock_is_found() {
    let mut serial = Serial::new("ordered").run(30);
    assert_eq!(no_deadlock(&serial.recorder).verdict, CheckVerdict::Pass);
    let attempt = Attempt::new(serial.clients[0].next());
    let end = TxnEnd::Failed { reason: "deadlock".into(), is_deadlock: true };
    serial.record(0, &attempt, Some(end));
    assert_eq!(no_deadlock(&serial.recorder).verdict, CheckVerdict::Fail);
}

#[test]
fn a_client_that_gets_less_than_a_third_of_the_median_is_found() {
    let judge = |slowest| {
        // The last one goes on under another number after an unknown outcome.
        let counts = [(0, 90), (1, slowest), (2, 60), (5, 30)];
        fairness(&counts.into_iter().collect(), 3).verdict
    };
    assert_eq!(judge(30), CheckVerdict::Pass);
    assert_eq!(judge(29), CheckVerdict::Fail);
    let few = [(0, 5), (1, 5), (2, 5)].into_iter().collect();
    assert_eq!(fairness(&few, 3).verdict, CheckVerdict::Invalid);
}

#[test]
fn two_that_overwrite_the_same_are_found() {
    let mut serial = Serial::new("hot-keys").run(100);
    assert_eq!(no_lost_update(&serial.recorder).verdict, CheckVerdict::Pass);
    serial.loses = Some(|_, _| true);
    assert_eq!(no_lost_update(&serial.run(10).recorder).verdict, CheckVerdict::Fail);
}
