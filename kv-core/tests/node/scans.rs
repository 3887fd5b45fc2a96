//! Scans in transactions that lock.
//!
//! What would go wrong: somebody puts a key into a range that was read (a phantom), or takes one
//! out; a new leader does not know what was scanned; a scan passes a write that is on its way; or
//! it keeps others from writing what it has not read.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, CallId, TxnHandle, TxnOp};
use kv_core::id::{Epoch, NodeId, RequestHandle, RequestId, SessionId, ShardId, Timestamp};
use kv_core::locks::RANGES_MAX;
use kv_core::op::{Key, KeyRange, Page, PageLimit, WriteOp};
use kv_core::ring::shard_of;
use kv_core::txn::{AbortReason, Age, Grant, Part, RANGES_PER_SHARD_MAX, TxnId, TxnWrite};
use kv_core::wire::{ClientReply, ClientRequest, PeerMessage, Refusal, TxnReply, TxnRequest};

use crate::support::Cluster;
use crate::transactions::{Transactions, write};

/// The first keys of one shard that begin with a text, in order.
fn keys_in(shard: ShardId, prefix: &str, count: usize) -> Vec<Key> {
    let keys = (100..).map(|number| Key::new(format!("{prefix}{number}")));
    keys.filter(|key| shard_of(key, 4) == shard).take(count).collect()
}

fn scan(range: KeyRange, rows: u32) -> TxnOp {
    TxnOp::Scan { range, limit: PageLimit { rows, ..PageLimit::MAX } }
}

fn scan_all() -> TxnOp {
    scan(KeyRange::prefix("row"), 1_000)
}

#[track_caller]
fn page(result: Result<Answer, CallError>) -> Page {
    match result {
        Ok(Answer::Page(page)) => page,
        other => panic!("a scan is answered by a page: {other:?}"),
    }
}

fn keys_of(page: &Page) -> Vec<Key> {
    page.rows.iter().map(|row| row.key.clone()).collect()
}

fn start(cluster: &mut Cluster, call: Call) -> CallId {
    let deadline = cluster.now + Duration::from_secs(9);
    cluster.router.call(cluster.now, call, deadline)
}

fn delete(key: &Key) -> Call {
    Call::Write(WriteOp::Delete { key: key.clone() })
}

fn commit_of_reads(cluster: &mut Cluster, txn: TxnHandle) {
    assert_eq!(cluster.commit(txn), Ok(Answer::Committed { commit_ts: None }));
}

/// A cluster that holds `rows`.
fn holding(rows: &[Key]) -> Cluster {
    let mut cluster = Cluster::formed(3);
    for key in rows {
        cluster.call(write(key, "old")).expect("nothing is broken");
    }
    cluster
}

/// Which of the calls have ended.
fn ended(cluster: &mut Cluster, calls: &[CallId]) -> Vec<bool> {
    cluster.run(Duration::from_millis(100));
    calls.iter().map(|call| cluster.done.contains_key(call)).collect()
}

#[test]
fn what_was_scanned_stays_as_it_is_until_the_transaction_has_ended() {
    let keys: Vec<Key> = (1..=4).flat_map(|shard| keys_in(ShardId(shard), "row", 3)).collect();
    let (rows, absent) = keys.split_at(8);
    let mut cluster = holding(rows);
    let txn = cluster.begin(1);
    let before = page(cluster.step(txn, scan_all()));
    let mut expected = rows.to_vec();
    expected.sort();
    assert_eq!((keys_of(&before), &before.next), (expected, &None));

    let inside = [write(&rows[0], "new"), delete(&rows[4]), write(&absent[2], "new")];
    let inside = inside.map(|call| start(&mut cluster, call));
    let outside = [Key::new("ro"), Key::new("rox"), Key::new("s")];
    let outside = outside.map(|key| start(&mut cluster, write(&key, "new")));
    assert_eq!(ended(&mut cluster, &inside), [false; 3], "they are in the range");
    assert_eq!(ended(&mut cluster, &outside), [true; 3], "they are not");
    assert_eq!(page(cluster.step(txn, scan_all())), before, "it reads the same again");
    commit_of_reads(&mut cluster, txn);
    assert_eq!(ended(&mut cluster, &inside), [true; 3]);
}

#[test]
fn page_locks_no_more_than_it_tells() {
    let shard = ShardId(2);
    let keys = keys_in(shard, "row", 7);
    let rows: Vec<Key> = [0, 2, 4, 6].map(|at| keys[at].clone()).to_vec();
    let mut cluster = holding(&rows);
    let leader = cluster.leader(shard).expect("it is led");
    let grant = ask_scan(&mut cluster, leader, shard, 1, KeyRange::from(..), 2);
    let (_, page) = scanned(&mut cluster, grant);
    assert_eq!((keys_of(&page), page.next), (rows[..2].to_vec(), Some(rows[2].clone())));

    // What follows the page is free, from the first row on that is not in it.
    let calls = [write(&keys[1], "in"), write(&keys[3], "gap"), write(&rows[2], "next")];
    let calls = calls.map(|call| start(&mut cluster, call));
    let behind = start(&mut cluster, write(&keys[5], "behind"));
    assert_eq!(ended(&mut cluster, &calls), [false, false, true]);
    assert_eq!(ended(&mut cluster, &[behind]), [true]);
}

fn txn_id(number: u64) -> TxnId {
    TxnId { session: SessionId { opened_ts: Timestamp(1), nonce: 1 }, number }
}

fn step_of(shard: ShardId, number: u64, step: TxnRequest) -> ClientRequest {
    step_with(shard, number, None, step)
}

fn step_with(shard: ShardId, number: u64, grant: Option<Grant>, step: TxnRequest) -> ClientRequest {
    let (epoch, txn, age) = (Epoch(0), txn_id(number), Age(number));
    ClientRequest::Txn { shard, epoch, txn, age, grant, step }
}

fn ask_scan(
    cluster: &mut Cluster,
    leader: NodeId,
    shard: ShardId,
    number: u64,
    range: KeyRange,
    rows: u32,
) -> RequestHandle {
    let limit = PageLimit { rows, ..PageLimit::MAX };
    cluster.ask(leader, step_of(shard, number, TxnRequest::Scan { range, limit }))
}

#[track_caller]
fn scanned(cluster: &mut Cluster, asked: RequestHandle) -> (Grant, Page) {
    cluster.run(Duration::from_millis(50));
    match cluster.replies.remove(&asked) {
        Some(ClientReply::Txn(TxnReply::Scanned { grant, page })) => (grant, page),
        other => panic!("the scan is answered: {other:?}"),
    }
}

/// Rows come and go while a scan waits for what its probe has found.
#[test]
fn page_is_what_is_there_under_the_lock_and_ends_with_it() {
    let shard = ShardId(2);
    let keys = keys_in(shard, "row", 6);
    let rows: Vec<Key> = [0, 2, 4].map(|at| keys[at].clone()).to_vec();
    for removes in [false, true] {
        let mut cluster = holding(&rows);
        let leader = cluster.leader(shard).expect("it is led");
        let txn = cluster.begin(1);
        cluster.lock(txn, &keys[1]).expect("it is free");
        cluster.lock(txn, &rows[1]).expect("it is free");
        let asked = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from(..), 2);
        cluster.run(Duration::from_millis(50));
        assert!(cluster.replies.is_empty(), "it waits for the locks");
        let expected = if removes {
            assert!(cluster.step(txn, TxnOp::Delete { key: rows[1].clone() }).is_ok());
            (vec![rows[0].clone()], Some(rows[2].clone()))
        } else {
            cluster.put(txn, &keys[1], "between");
            (keys[..2].to_vec(), Some(rows[1].clone()))
        };
        assert!(cluster.commit(txn).is_ok());
        let (_, page) = scanned(&mut cluster, asked);
        assert_eq!((keys_of(&page), page.next), expected, "removes: {removes}");
    }
}

/// A scan that is asked for again while it waits, although the store would tell another end by
/// then.
#[test]
fn repetition_of_a_scan_is_the_same_wait() {
    let shard = ShardId(2);
    let keys = keys_in(shard, "row", 4);
    let mut cluster = holding(&keys);
    let leader = cluster.leader(shard).expect("it is led");
    let txn = cluster.begin(1);
    cluster.lock(txn, &keys[0]).expect("it is free");
    let first = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from(..), 2);
    cluster.run(Duration::from_millis(50));
    cluster.call(delete(&keys[2])).expect("it is behind the page");
    let mut last = first;
    for _ in 0..3 {
        cluster.run(Duration::from_secs(3));
        let asked = cluster.replies.remove(&last);
        let is_asked = matches!(asked, Some(ClientReply::Txn(TxnReply::Waiting { .. })));
        assert!(is_asked, "{asked:?}");
        last = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from(..), 2);
    }
    cluster.run(Duration::from_millis(200));
    let Some(ClientReply::Txn(TxnReply::Waiting { grant })) = cluster.replies.remove(&last) else {
        panic!("it is asked whether it waits")
    };
    let limit = PageLimit { rows: 2, ..PageLimit::MAX };
    let again = TxnRequest::Scan { range: KeyRange::from(..), limit };
    last = cluster.ask(leader, step_with(shard, 9, Some(grant), again));
    cluster.run(Duration::from_millis(600));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    cluster.run(Duration::from_millis(300));
    let reply = cluster.replies.remove(&last);
    let timeout = ClientReply::Txn(TxnReply::Aborted(AbortReason::LockTimeout));
    assert_eq!(reply, Some(timeout), "10 s after the first one");
    commit_of_reads(&mut cluster, txn);
}

#[test]
fn scan_waits_for_a_put_on_its_way_and_for_a_lock_on_a_key() {
    let shard = ShardId(2);
    let keys = keys_in(shard, "row", 3);
    let mut cluster = holding(&keys[..1]);
    let leader = cluster.leader(shard).expect("it is led");
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    // The put is in the log of the leader, and nobody else takes it for a while.
    cluster.stalled.extend(others.iter().copied());
    let put = start(&mut cluster, write(&keys[1], "new"));
    cluster.run(Duration::from_millis(50));
    let asked = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from(..), 10);
    cluster.run(Duration::from_millis(50));
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    assert!(!cluster.done.contains_key(&put));
    others.iter().for_each(|id| cluster.resume(*id));
    let (grant, page) = scanned(&mut cluster, asked);
    assert_eq!(keys_of(&page), keys[..2]);
    cluster.ask(leader, step_with(shard, 9, Some(grant), TxnRequest::Rollback));
    cluster.run(Duration::from_millis(10));

    let txn = cluster.begin(1);
    cluster.lock(txn, &keys[2]).expect("nobody holds it");
    let asked = ask_scan(&mut cluster, leader, shard, 8, KeyRange::from(..), 10);
    cluster.run(Duration::from_millis(50));
    assert!(cluster.replies.keys().all(|reply| *reply != asked), "the key is locked");
    cluster.put(txn, &keys[2], "third");
    assert!(cluster.commit(txn).is_ok());
    assert_eq!(keys_of(&scanned(&mut cluster, asked).1), keys);
}

/// A late copy of a scan of a transaction that has ended, whose probe is out when it is rolled
/// back.
#[test]
fn probe_brings_no_ended_transaction_back() {
    let shard = ShardId(2);
    let keys = keys_in(shard, "row", 2);
    let mut cluster = holding(&keys);
    let leader = cluster.leader(shard).expect("it is led");
    cluster.stalled.insert(leader);
    let asked = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from(..), 10);
    cluster.ask(leader, step_of(shard, 9, TxnRequest::Rollback));
    cluster.resume(leader);
    cluster.run(Duration::from_millis(50));
    let lost = ClientReply::Txn(TxnReply::Aborted(AbortReason::LocksLost { shard }));
    assert_eq!(cluster.replies.remove(&asked), Some(lost));
    let put = start(&mut cluster, write(&keys[0], "free"));
    assert_eq!(ended(&mut cluster, &[put]), [true]);
}

/// What a participant has prepared is locked by its next leader, ranges included, until the anchor
/// has told how it ended.
#[test]
fn prepared_range_is_locked_by_the_next_leader() {
    let (shard, anchor) = (ShardId(2), ShardId(1));
    let keys = keys_in(shard, "row", 3);
    let mut cluster = holding(&keys[..1]);
    let leader = cluster.leader(shard).expect("it is led");
    let range = KeyRange::prefix("row");
    let asked = ask_scan(&mut cluster, leader, shard, 9, range.clone(), 10);
    let (grant, _) = scanned(&mut cluster, asked);
    let request = RequestId { session: txn_id(9).session, sequence: 1, acked_below: 1 };
    let part = Part { ranges: vec![range], ..Part::default() };
    let prepare = TxnRequest::Prepare { request, anchor, part };
    cluster.loses = Box::new(|_, message| matches!(message, PeerMessage::Txn(_)));
    let asked = cluster.ask(leader, step_with(shard, 9, Some(grant), prepare));
    cluster.run(Duration::from_millis(50));
    let reply = cluster.replies.remove(&asked);
    assert!(matches!(reply, Some(ClientReply::Txn(TxnReply::Prepared { .. }))), "{reply:?}");

    cluster.stop(leader);
    cluster.run(Duration::from_secs(3));
    assert!(cluster.leader(shard).is_some_and(|next| next != leader));
    let outside = keys_in(shard, "s", 1).remove(0);
    let free = start(&mut cluster, write(&outside, "new"));
    let inside = [write(&keys[1], "phantom"), delete(&keys[0])];
    let inside = inside.map(|call| start(&mut cluster, call));
    cluster.run(Duration::from_secs(2));
    assert_eq!(ended(&mut cluster, &[free]), [true]);
    assert_eq!(ended(&mut cluster, &inside), [false; 2], "the range is locked");
    cluster.loses = Box::new(|_, _| false);
    cluster.run(Duration::from_secs(2));
    assert_eq!(ended(&mut cluster, &inside), [true; 2], "the transaction has ended");
}

/// A commit shows what it has scanned, and is not one if the lock of that is lost.
#[test]
fn commit_needs_the_locks_of_what_was_scanned() {
    let shard = ShardId(2);
    let keys = keys_in(shard, "row", 1);
    let mut cluster = holding(&[]);
    let leader = cluster.leader(shard).expect("it is led");
    let asked = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from("a".."b"), 10);
    let (grant, _) = scanned(&mut cluster, asked);
    for (range, is_held) in [("a".."c", false), ("a".."az", true)] {
        let ranges = vec![KeyRange::from(range)];
        let writes = vec![TxnWrite { key: keys[0].clone(), value: None }];
        let part = Part { ranges, writes, ..Part::default() };
        // The first one is answered by an abort that is written down, under its own request.
        let sequence = if is_held { 2 } else { 1 };
        let request = RequestId { session: txn_id(9).session, sequence, acked_below: 1 };
        let (participants, min_commit) = (Vec::new(), Timestamp(0));
        let commit = TxnRequest::Commit { request, part, participants, min_commit };
        let asked = cluster.ask(leader, step_with(shard, 9, Some(grant), commit));
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&asked);
        let is_committed = matches!(reply, Some(ClientReply::Txn(TxnReply::Committed { .. })));
        assert_eq!(is_committed, is_held, "{reply:?}");
    }
}

/// What is prepared is what the leader has locked, not what the coordinator says: so no replica
/// ever has more ranges to lock than the leader had, and there is room for all of them.
#[test]
fn prepared_are_the_locks_that_the_leader_holds() {
    let shard = ShardId(2);
    let mut cluster = holding(&[]);
    let leader = cluster.leader(shard).expect("it is led");
    for end in ["c", "d"] {
        ask_scan(&mut cluster, leader, shard, 9, KeyRange::from("a"..end), 10);
    }
    let asked = ask_scan(&mut cluster, leader, shard, 9, KeyRange::from("b".."c"), 10);
    let (grant, _) = scanned(&mut cluster, asked);
    let ranges = ["b", "c", "d"].map(|end| KeyRange::from("a"..end)).to_vec();
    let part = Part { ranges, ..Part::default() };
    let request = RequestId { session: txn_id(9).session, sequence: 1, acked_below: 1 };
    let prepare = TxnRequest::Prepare { request, anchor: ShardId(1), part };
    cluster.loses = Box::new(|_, message| matches!(message, PeerMessage::Txn(_)));
    cluster.ask(leader, step_with(shard, 9, Some(grant), prepare));
    cluster.run(Duration::from_millis(50));
    let prepared = cluster.unfinished(leader, shard).prepared;
    let part = &prepared[&txn_id(9)].part;
    assert_eq!(part.ranges, ["c", "d"].map(|end| KeyRange::from("a"..end)));
}

#[test]
fn ranges_that_are_locked_are_limited() {
    let shard = ShardId(2);
    let mut cluster = holding(&[]);
    let leader = cluster.leader(shard).expect("it is led");
    let of_txn = 2 * RANGES_PER_SHARD_MAX;
    let range = |at: usize| KeyRange::from(format!("{at:05}")..format!("{at:05}+"));
    let refusal = |cluster: &mut Cluster, asked| {
        cluster.run(Duration::from_millis(50));
        match cluster.replies.remove(&asked).expect("it is answered") {
            ClientReply::Txn(TxnReply::Scanned { .. }) => None,
            ClientReply::Refused(refusal) => Some(refusal),
            other => panic!("{other:?}"),
        }
    };
    for at in 0..RANGES_MAX {
        ask_scan(&mut cluster, leader, shard, (at / of_txn) as u64, range(at), 10);
        if (at + 1) % of_txn == 0 {
            cluster.run(Duration::from_millis(50));
        }
        if at + 1 == of_txn {
            let asked = ask_scan(&mut cluster, leader, shard, 0, range(at + 1), 10);
            let refused = refusal(&mut cluster, asked);
            let is_final = matches!(refused, Some(Refusal::InvalidStep { .. }));
            assert!(is_final, "one transaction has too many: {refused:?}");
        }
    }
    cluster.run(Duration::from_millis(50));
    let is_scanned =
        |reply: &ClientReply| matches!(reply, ClientReply::Txn(TxnReply::Scanned { .. }));
    assert_eq!(cluster.replies.len(), RANGES_MAX);
    assert!(cluster.replies.values().all(is_scanned));
    cluster.replies.clear();
    let asked = ask_scan(&mut cluster, leader, shard, 99, range(0), 10);
    assert_eq!(refusal(&mut cluster, asked), Some(Refusal::Overloaded), "all have too many");
    cluster.ask(leader, step_of(shard, 0, TxnRequest::Rollback));
    let asked = ask_scan(&mut cluster, leader, shard, 99, range(0), 10);
    assert_eq!(refusal(&mut cluster, asked), None);
}
