//! Transactions in the state machine. What would go wrong: a part that is prepared twice or takes
//! effect twice, a commit behind an abort, or replicas that differ after the same log.

use std::collections::BTreeMap;
use std::convert::Infallible;

use kv_core::id::{LogId, RequestId, SessionId, ShardId, Timestamp};
use kv_core::machine::{Command, Machine, Newest, ReadView, SESSIONS_PER_SHARD_MAX};
use kv_core::op::{Key, KeyRange, Value, WriteOp};
use kv_core::storage::{Entry, Outcome};
use kv_core::txn::{Decided, Decision, Part, Prepared, TxnId, TxnOutcome, TxnWrite};
use proptest::prelude::*;

const ANCHOR: ShardId = ShardId(9);
const ABORTED: TxnOutcome = TxnOutcome::Aborted;

#[derive(Clone, Default)]
struct View(BTreeMap<Key, Newest>);

impl ReadView for View {
    type Error = Infallible;

    fn newest(&self, key: &Key, at: Timestamp) -> Result<Option<Newest>, Infallible> {
        Ok(self.0.get(key).filter(|(version, _)| *version <= at).cloned())
    }
}

/// A machine with its keys and values, which is stored and read back before every entry.
#[derive(Clone, Default)]
struct Shard {
    machine: Machine,
    view: View,
}

impl Shard {
    fn apply(&mut self, command: &Command) -> Outcome {
        let reopened = Machine::decode(&self.machine.encode()).expect("it was encoded");
        assert_eq!(reopened, self.machine);
        self.machine = reopened;
        let LogId { term, index } = self.machine.applied();
        let id = LogId { term, index: index.next() };
        let entry = Entry { id, payload: command.encode().into() };
        let Ok((batch, outcome)) = self.machine.apply(&self.view, &entry);
        for write in batch.writes {
            self.view.0.insert(write.key, (write.version, write.value));
        }
        outcome
    }

    /// What is stored under a key: version and value.
    fn get(&self, key: &str) -> Option<(u64, Option<Value>)> {
        self.view
            .0
            .get(&Key::new(key.to_owned()))
            .map(|(version, value)| (version.0, value.clone()))
    }

    fn prepared_count(&self) -> usize {
        self.machine.transactions().prepared.len()
    }
}

fn request(sequence: u64, acked_below: u64) -> RequestId {
    let session = SessionId { opened_ts: Timestamp(5), nonce: 7 };
    RequestId { session, sequence, acked_below }
}

fn txn(number: u64) -> TxnId {
    TxnId { session: request(1, 1).session, number }
}

fn write(key: &str) -> TxnWrite {
    TxnWrite { key: Key::new(key.to_owned()), value: Some(Value::string("t")) }
}

fn range() -> KeyRange {
    KeyRange::from("scan".."scar")
}

fn part(key: &str) -> Part {
    Part { reads: vec![Key::new("read")], writes: vec![write(key)], ranges: vec![range()] }
}

/// Request and transaction have the same number.
fn prepare(number: u64, key: &str) -> Command {
    let (request, txn) = (request(number, 1), txn(number));
    Command::Prepare { request, txn, anchor: ANCHOR, part: part(key), floor: Timestamp(0) }
}

fn commit(number: u64, ts: u64, key: &str, participants: &[u32]) -> Command {
    let participants = participants.iter().map(|shard| ShardId(*shard)).collect();
    let (commit_ts, writes) = (Timestamp(ts), vec![write(key)]);
    let decision = Decision::Commit { commit_ts, writes, participants };
    Command::Decide { request: request(number, 1), txn: txn(number), decision }
}

fn fence(number: u64) -> Command {
    let (request, txn) = (request(number, 1), txn(number));
    Command::Decide { request, txn, decision: Decision::Abort }
}

fn finish(number: u64, outcome: TxnOutcome) -> Command {
    Command::Finish { txn: txn(number), outcome }
}

fn committed(ts: u64) -> TxnOutcome {
    TxnOutcome::Committed { commit_ts: Timestamp(ts) }
}

fn decided(number: u64, outcome: TxnOutcome, participants: &[u32]) -> Outcome {
    let participants = participants.iter().map(|shard| ShardId(*shard)).collect();
    Outcome::Decided { txn: txn(number), outcome, participants }
}

fn finished(number: u64) -> Outcome {
    Outcome::Finished { txn: txn(number) }
}

fn put(request: RequestId, key: &str, ts: u64) -> Command {
    let op = WriteOp::Put { key: Key::new(key.to_owned()), value: Value::string("p") };
    Command::Write { request, op, commit_ts: Timestamp(ts) }
}

/// Acknowledges all requests below `below`.
fn acknowledge(shard: &mut Shard, below: u64, ts: u64) {
    shard.apply(&put(request(below, below), "acknowledged", ts));
}

/// Makes the table forget the session of the requests.
fn expire(shard: &mut Shard) {
    for opened in 6..=SESSIONS_PER_SHARD_MAX as u64 + 6 {
        let session = SessionId { opened_ts: Timestamp(opened), nonce: 1 };
        let request = RequestId { session, sequence: 1, acked_below: 1 };
        let payload = put(request, "of others", 1_000 + opened).encode().into();
        let LogId { term, index } = shard.machine.applied();
        let entry = Entry { id: LogId { term, index: index.next() }, payload };
        let Ok(_) = shard.machine.apply(&shard.view, &entry);
    }
}

#[test]
fn prepare_keeps_the_part_and_promises_a_least_timestamp() {
    let mut shard = Shard::default();
    shard.apply(&put(request(9, 1), "k", 40));
    let min_commit = Timestamp(41);
    let kept = Prepared { request: request(1, 1), anchor: ANCHOR, part: part("k"), min_commit };
    let prepared = Some(Box::new(kept.clone()));
    let outcome = Outcome::Prepared { txn: txn(1), min_commit, prepared };
    assert_eq!(shard.apply(&prepare(1, "k")), outcome);
    assert_eq!(shard.machine.transactions().prepared, [(txn(1), kept)].into());
    assert_eq!(shard.get("k"), Some((40, Some(Value::string("p")))), "nothing is written");
    shard.apply(&put(request(10, 1), "other", 50));
    let retry = Outcome::Prepared { txn: txn(1), min_commit, prepared: None };
    assert_eq!(shard.apply(&prepare(1, "k")), retry);
    assert_eq!(shard.prepared_count(), 1);
}

#[test]
fn finish_writes_below_the_newest_write_and_once() {
    let mut shard = Shard::default();
    shard.apply(&put(request(9, 1), "k", 40));
    shard.apply(&prepare(1, "k"));
    shard.apply(&put(request(10, 1), "other", 50));
    assert_eq!(shard.apply(&finish(1, committed(45))), finished(1));
    assert_eq!(shard.get("k"), Some((45, Some(Value::string("t")))));
    assert_eq!(shard.machine.newest(), Timestamp(50));
    assert_eq!(shard.prepared_count(), 0);
    shard.apply(&put(request(11, 1), "k", 60));
    assert_eq!(shard.apply(&finish(1, committed(45))), finished(1), "nothing is written again");
    assert_eq!(shard.get("k"), Some((60, Some(Value::string("p")))));
}

#[test]
fn finish_above_the_newest_write_raises_it() {
    let mut shard = Shard::default();
    shard.apply(&prepare(1, "k"));
    shard.apply(&finish(1, committed(45)));
    assert_eq!(shard.machine.newest(), Timestamp(45));
}

#[test]
fn aborted_part_writes_nothing() {
    let mut shard = Shard::default();
    shard.apply(&prepare(1, "k"));
    assert_eq!(shard.apply(&finish(1, ABORTED)), finished(1));
    assert_eq!((shard.get("k"), shard.prepared_count()), (None, 0));
    assert_eq!(shard.apply(&finish(2, committed(3))), finished(2), "it never prepared");
}

#[test]
fn late_prepare_after_finish_prepares_nothing() {
    let mut shard = Shard::default();
    shard.apply(&prepare(1, "k"));
    shard.apply(&finish(1, ABORTED));
    let min_commit = Timestamp(1);
    let copy = Outcome::Prepared { txn: txn(1), min_commit, prepared: None };
    assert_eq!(shard.apply(&prepare(1, "k")), copy);
    acknowledge(&mut shard, 2, 10);
    assert_eq!(shard.apply(&prepare(1, "k")), Outcome::Superseded);
    expire(&mut shard);
    assert_eq!(shard.apply(&prepare(1, "k")), Outcome::SessionExpired);
    assert_eq!(shard.prepared_count(), 0);
}

#[test]
fn commit_writes_once_and_is_kept_until_all_have_heard() {
    let mut shard = Shard::default();
    let commit = commit(1, 10, "k", &[2, 3]);
    assert_eq!(shard.apply(&commit), decided(1, committed(10), &[2, 3]));
    assert_eq!(shard.get("k"), Some((10, Some(Value::string("t")))));
    let participants = vec![ShardId(2), ShardId(3)];
    let kept = Decided { commit_ts: Timestamp(10), participants };
    assert_eq!(shard.machine.transactions().decided, [(txn(1), kept)].into());
    shard.apply(&put(request(9, 1), "k", 20));
    assert_eq!(shard.apply(&commit), decided(1, committed(10), &[]));
    let forget = Command::Forget { txns: vec![txn(1), txn(8)] };
    let forgotten = Outcome::Forgotten { txns: vec![txn(1), txn(8)] };
    assert_eq!(shard.apply(&forget), forgotten);
    assert!(shard.machine.transactions().decided.is_empty());
    assert_eq!(shard.apply(&commit), decided(1, committed(10), &[]));
    assert_eq!(shard.get("k"), Some((20, Some(Value::string("p")))), "a copy writes nothing");
}

#[test]
fn commit_on_one_shard_is_not_kept() {
    let mut shard = Shard::default();
    assert_eq!(shard.apply(&commit(1, 10, "k", &[])), decided(1, committed(10), &[]));
    assert!(shard.machine.transactions().decided.is_empty());
}

#[test]
fn commit_of_a_given_up_or_forgotten_request_writes_nothing() {
    let mut shard = Shard::default();
    acknowledge(&mut shard, 2, 10);
    assert_eq!(shard.apply(&commit(1, 20, "k", &[2])), Outcome::Superseded);
    expire(&mut shard);
    assert_eq!(shard.apply(&commit(3, 9_000, "k", &[2])), Outcome::SessionExpired);
    assert_eq!(shard.get("k"), None);
    assert!(shard.machine.transactions().decided.is_empty());
}

#[test]
fn late_commit_after_the_fence_does_nothing() {
    let mut shard = Shard::default();
    for _ in 0..2 {
        assert_eq!(shard.apply(&fence(1)), decided(1, ABORTED, &[]));
    }
    assert_eq!(shard.apply(&commit(1, 10, "k", &[2])), decided(1, ABORTED, &[]));
    acknowledge(&mut shard, 2, 11);
    assert_eq!(
        shard.apply(&fence(1)),
        Outcome::Superseded,
        "a client may not take it for an abort"
    );
    assert_eq!(shard.apply(&commit(1, 20, "k", &[2])), Outcome::Superseded);
    assert_eq!(shard.get("k"), None);
}

#[test]
fn fence_finds_the_commit_as_long_as_somebody_may_ask() {
    let mut shard = Shard::default();
    shard.apply(&commit(1, 10, "k", &[2]));
    assert_eq!(shard.apply(&fence(1)), decided(1, committed(10), &[]));
    acknowledge(&mut shard, 2, 20);
    assert_eq!(shard.apply(&fence(1)), decided(1, committed(10), &[]), "the result is gone");
    expire(&mut shard);
    assert_eq!(shard.apply(&fence(1)), decided(1, committed(10), &[]), "so is the session");
    shard.apply(&Command::Forget { txns: vec![txn(1)] });
    assert_eq!(shard.apply(&fence(1)), Outcome::SessionExpired, "nobody is prepared any more");
}

#[test]
fn fence_after_all_have_heard_finds_the_result() {
    let mut shard = Shard::default();
    shard.apply(&commit(1, 10, "k", &[2]));
    shard.apply(&Command::Forget { txns: vec![txn(1)] });
    assert_eq!(shard.apply(&fence(1)), decided(1, committed(10), &[]));
}

/// The ids come from clients: the same one for something else runs nothing, and harms nobody.
#[test]
fn request_ids_of_another_kind_or_transaction_are_refused() {
    let id = request(1, 1);
    let of = |command: Command, number| match command {
        Command::Prepare { request, anchor, part, .. } => {
            Command::Prepare { request, txn: txn(number), anchor, part, floor: Timestamp(0) }
        }
        Command::Decide { request, decision, .. } => {
            Command::Decide { request, txn: txn(number), decision }
        }
        other => other,
    };
    let commands = [put(id, "a", 10), prepare(1, "b"), commit(1, 10, "c", &[])];
    for (at, first) in commands.iter().enumerate() {
        let mut shard = Shard::default();
        shard.apply(first);
        for (other, second) in commands.iter().enumerate() {
            if at != other {
                assert_eq!(shard.apply(second), Outcome::Superseded, "{first:?}, {second:?}");
            }
            if other > 0 {
                assert_eq!(shard.apply(&of(second.clone(), 6)), Outcome::Superseded);
            }
        }
        assert_eq!(shard.apply(&of(fence(1), 6)), Outcome::Superseded);
    }
    let mut shard = Shard::default();
    shard.apply(&prepare(1, "k"));
    let again = Command::Prepare {
        request: request(2, 1),
        txn: txn(1),
        anchor: ANCHOR,
        part: part("other"),
        floor: Timestamp(0),
    };
    assert_eq!(shard.apply(&again), Outcome::Superseded, "it is prepared already");
}

#[test]
fn parts_go_into_the_hash() {
    let hashes = ["a", "b"].map(|key| {
        let mut shard = Shard::default();
        shard.apply(&prepare(1, key));
        shard.machine.state_hash()
    });
    assert_ne!(hashes[0], hashes[1]);
}

/// Only a client that breaks the protocol can bring it about: nodes outlive it.
#[test]
fn finish_below_the_promise_writes_nothing() {
    let mut shard = Shard::default();
    shard.apply(&put(request(9, 1), "k", 40));
    shard.apply(&prepare(1, "other"));
    shard.apply(&finish(1, committed(40)));
    assert_eq!(shard.get("other"), None);
    assert_eq!(shard.prepared_count(), 0);
}

#[test]
#[should_panic(expected = "a decision comes in the order of its timestamp")]
fn decision_below_the_newest_write_stops_the_node() {
    let mut shard = Shard::default();
    shard.apply(&put(request(9, 1), "k", 40));
    shard.apply(&commit(1, 40, "other", &[]));
}

#[test]
#[should_panic(expected = "a commit timestamp exceeds the key's newest version")]
fn write_under_a_lock_stops_the_node() {
    let mut shard = Shard::default();
    shard.apply(&prepare(1, "k"));
    shard.apply(&put(request(9, 1), "k", 40));
    shard.apply(&finish(1, committed(30)));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_commands_and_parts() {
    let forget = Command::Forget { txns: vec![txn(1)] };
    let commands = [
        ("prepare", prepare(1, "k")),
        ("commit", commit(1, 10, "k", &[2])),
        ("fence", fence(1)),
        ("finish", finish(1, committed(10))),
        ("abort", finish(1, ABORTED)),
        ("forget", forget),
        ("raise watermark", Command::RaiseWatermark { watermark: Timestamp(7) }),
    ];
    let lines = commands.map(|(name, it)| format!("{name}: {}", hex(&it.encode())));
    let mut shard = Shard::default();
    shard.apply(&prepare(1, "k"));
    shard.apply(&commit(2, 10, "l", &[2]));
    shard.apply(&put(request(3, 1), "m", 20));
    shard.apply(&Command::RaiseWatermark { watermark: Timestamp(7) });
    let machine = format!("machine: {}", hex(&shard.machine.encode()));
    insta::assert_snapshot!([lines.join("\n"), machine].join("\n"));
}

/// Steps of up to six transactions, in any order. Timestamps are filled in.
fn step() -> impl Strategy<Value = Command> {
    let key = |number: u64| format!("k{number}");
    let number = || 1_u64..7;
    prop_oneof![
        number().prop_map(move |it| prepare(it, &key(it))),
        number().prop_map(move |it| commit(it, 0, &key(it), &[2])),
        number().prop_map(fence),
        number().prop_map(|it| finish(it, ABORTED)),
        number().prop_map(|it| finish(it, committed(0))),
        number().prop_map(|it| Command::Forget { txns: vec![txn(it)] }),
        (10_u64..20, 1_u64..12).prop_map(|(it, acked)| put(request(it, acked), "w", 0)),
    ]
}

/// As a proposer would.
fn stamped(command: &Command, shard: &Shard) -> Command {
    let next = Timestamp(shard.machine.newest().0 + 3);
    let mut command = command.clone();
    match &mut command {
        Command::Write { commit_ts, .. } => *commit_ts = next,
        Command::Decide { decision: Decision::Commit { commit_ts, .. }, .. } => *commit_ts = next,
        Command::Finish { txn, outcome: TxnOutcome::Committed { commit_ts } } => {
            let prepared = shard.machine.transactions().prepared.get(txn);
            // Not below what its key has, which others write without a lock here.
            let newest = shard.view.0.get(&Key::new(format!("k{}", txn.number)));
            let newest = newest.map_or(0, |(version, _)| version.0 + 1);
            *commit_ts = prepared.map_or(next, |it| it.min_commit.max(Timestamp(newest)));
        }
        _ => {}
    }
    command
}

proptest! {
    /// Equal logs make equal machines, stored in between or not, and a node's copy of the
    /// unfinished transactions is that of the machine.
    #[test]
    fn equal_logs_make_equal_machines(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut one, mut other) = (Shard::default(), Machine::new());
        let mut copy = kv_core::machine::Transactions::default();
        let mut view = View::default();
        for step in &steps {
            let command = stamped(step, &one);
            let id = LogId { index: other.applied().index.next(), ..other.applied() };
            let outcome = one.apply(&command);
            let entry = Entry { id, payload: command.encode().into() };
            let Ok((batch, same)) = other.apply(&view, &entry);
            for write in batch.writes {
                view.0.insert(write.key, (write.version, write.value));
            }
            copy.note(&outcome);
            prop_assert_eq!(outcome, same);
            prop_assert_eq!(&copy, one.machine.transactions());
        }
        prop_assert_eq!(one.machine.state_hash(), other.state_hash());
        prop_assert_eq!(one.machine, other);
        prop_assert_eq!(one.view.0, view.0);
    }
}
