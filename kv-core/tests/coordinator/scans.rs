//! Scans: how the parts of shards are merged, and what the transaction itself writes over them.

use kv_core::client::{Answer, CallError, TxnHandle, TxnOp};
use kv_core::id::ShardId;
use kv_core::op::{Found, Key, KeyRange, Page, PageLimit, Row, Value};
use kv_core::txn::{AbortReason, Grant, RANGES_PER_SHARD_MAX, VERSION_BUFFERED};
use kv_core::wire::{TxnReply, TxnRequest};

use crate::harness::*;

const GRANT: Grant = Grant(5);

fn scan(rows: u32) -> TxnOp {
    TxnOp::Scan { range: KeyRange::prefix("key"), limit: PageLimit { rows, ..PageLimit::MAX } }
}

fn row(key: Key) -> Row {
    Row { key, found: old().expect("it is there") }
}

fn own(key: Key, text: &'static str) -> Row {
    Row { key, found: Found { version: VERSION_BUFFERED, value: Value::string(text) } }
}

fn scanned(rows: Vec<Row>, next: Option<Key>) -> TxnReply {
    TxnReply::Scanned { grant: GRANT, page: Page { rows, next } }
}

fn is_scan(sent: &Sent) -> bool {
    matches!(sent.step, TxnRequest::Scan { .. })
}

/// The keys that each of these shards has, the first `count` of them.
fn rows_of(shard: u32, count: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..count).map(|at| row(key_of(shard, at))).collect();
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows
}

/// Answers a scan of all three shards: two rows of each.
fn answer_all(harness: &mut Harness) {
    for sent in harness.take_sent() {
        assert!(is_scan(&sent), "{sent:?}");
        harness.reply(&sent, scanned(rows_of(sent.shard.0, 2), None));
    }
}

fn page(harness: &mut Harness, txn: TxnHandle, op: TxnOp) -> Page {
    let call = harness.start(txn, op);
    answer_all(harness);
    match harness.result(call) {
        Ok(Answer::Page(page)) => page,
        other => panic!("a scan is answered by a page: {other:?}"),
    }
}

fn all_rows() -> Vec<Row> {
    let mut rows: Vec<Row> = (1..=3).flat_map(|shard| rows_of(shard, 2)).collect();
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows
}

#[test]
fn every_shard_is_asked_once_and_takes_part() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, scan(100));
    let asked = harness.take_sent();
    assert_eq!(asked.iter().map(|sent| sent.shard.0).collect::<Vec<_>>(), [1, 2, 3]);
    for sent in &asked {
        assert!(harness.done.is_empty(), "it is not all there");
        harness.reply(sent, scanned(rows_of(sent.shard.0, 2), None));
    }
    assert_eq!(harness.result(call), Ok(Answer::Page(Page { rows: all_rows(), next: None })));

    let call = harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    let asked: Vec<_> = prepares.iter().map(|sent| (sent.shard.0, sent.grant)).collect();
    assert_eq!(asked, [(2, Some(GRANT)), (3, Some(GRANT))], "the first one decides");
    for sent in &prepares {
        let TxnRequest::Prepare { part, anchor, .. } = &sent.step else { panic!("{sent:?}") };
        assert_eq!((&part.ranges[..], *anchor), (&[KeyRange::prefix("key")][..], ShardId(1)));
        assert_eq!(part.key_count(), 0);
        harness.reply(sent, good_reply(sent));
    }
    let commit = harness.sent();
    let TxnRequest::Commit { part, participants, .. } = &commit.step else { panic!("{commit:?}") };
    assert_eq!(part.ranges, [KeyRange::prefix("key")]);
    assert_eq!(participants, &[ShardId(2), ShardId(3)]);
    harness.reply(&commit, good_reply(&commit));
    assert_eq!(harness.result(call), Ok(Answer::Committed { commit_ts: None }));
    harness.assert_idle();
}

/// What a transaction has scanned, the session has seen, and was not told when.
#[test]
fn session_has_seen_what_a_transaction_scanned() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let before = harness.router.session_token();
    assert!(before.is_some());
    let call = harness.start(txn, scan(100));
    for sent in harness.take_sent() {
        harness.reply(&sent, scanned(rows_of(sent.shard.0, 2), None));
    }
    assert!(harness.result(call).is_ok());
    assert_eq!(harness.router.session_token(), None);
}

#[test]
fn empty_range_needs_no_node() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let range = KeyRange::from("b".."a");
    let call = harness.start(txn, TxnOp::Scan { range, limit: PageLimit::MAX });
    assert!(harness.take_sent().is_empty());
    assert_eq!(harness.result(call), Ok(Answer::Page(Page::default())));
    assert_eq!(harness.step(txn, TxnOp::Commit), Ok(Answer::Committed { commit_ts: None }));
    harness.assert_idle();
}

#[test]
fn own_writes_are_put_in_replaced_and_removed() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let (replaced, removed, absent) = (key_of(1, 0), key_of(2, 1), key_of(3, 5));
    for (key, text) in [(&replaced, "new"), (&absent, "more"), (&Key::new("kez"), "outside")] {
        let op = TxnOp::Put { key: key.clone(), value: Value::string(text) };
        harness.step(txn, op).unwrap();
    }
    for key in [removed.clone(), key_of(2, 7)] {
        harness.step(txn, TxnOp::Delete { key }).unwrap();
    }
    let mut expected = all_rows();
    expected.retain(|row| row.key != removed && row.key != replaced);
    expected.extend([own(replaced, "new"), own(absent, "more")]);
    expected.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(page(&mut harness, txn, scan(100)), Page { rows: expected, next: None });
}

/// The shards' page holds two rows and ends before the third; own writes lie on both sides.
#[test]
fn page_with_own_writes_is_cut_to_its_limit_and_ends_where_the_shards_page_does() {
    let keys: Vec<Key> = all_rows().into_iter().map(|row| row.key).collect();
    let between = Key::new([&keys[0].bytes[..], b"+"].concat());
    let behind = Key::new([&keys[2].bytes[..], b"+"].concat());
    for (put, expected, next) in [
        (&behind, vec![row(keys[0].clone()), row(keys[1].clone())], &keys[2]),
        (&between, vec![row(keys[0].clone()), own(between.clone(), "own")], &keys[1]),
    ] {
        let mut harness = Harness::new();
        let txn = harness.begin();
        let op = TxnOp::Put { key: put.clone(), value: Value::string("own") };
        harness.step(txn, op).unwrap();
        let page = page(&mut harness, txn, scan(2));
        assert_eq!(page, Page { rows: expected, next: Some(next.clone()) });
    }
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, TxnOp::Delete { key: keys[0].clone() }).unwrap();
    let page = page(&mut harness, txn, scan(2));
    let expected = Page { rows: vec![row(keys[1].clone())], next: Some(keys[2].clone()) };
    assert_eq!(page, expected, "a deleted row may leave a page shorter");
}

/// Each shard has locked what its own page told, however short the merged page is.
#[test]
fn what_the_shards_have_locked_is_what_takes_part() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, scan(1));
    let mut ends = Vec::new();
    for sent in harness.take_sent() {
        let rows = rows_of(sent.shard.0, 2);
        ends.push(rows[1].key.clone());
        harness.reply(&sent, scanned(rows[..1].to_vec(), Some(rows[1].key.clone())));
    }
    assert!(matches!(harness.result(call), Ok(Answer::Page(page)) if page.rows.len() == 1));
    // What lies within what is locked is not listed a second time.
    let narrow = KeyRange { start: Key::new("key"), end: Some(Key::new("key0")) };
    let call = harness.start(txn, TxnOp::Scan { range: narrow, limit: PageLimit::MAX });
    for sent in harness.take_sent() {
        harness.reply(&sent, scanned(Vec::new(), None));
    }
    assert!(harness.result(call).is_ok());
    harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    assert_eq!(prepares.len(), 2);
    for sent in prepares {
        let TxnRequest::Prepare { part, .. } = &sent.step else { panic!("{sent:?}") };
        let end = Some(ends[sent.shard.0 as usize - 1].clone());
        assert_eq!(part.ranges, [KeyRange { start: Key::new("key"), end }]);
    }
}

/// The page is full before one of the shards has answered its second part: what that shard locks is
/// known before the transaction goes on.
#[test]
fn shard_that_is_out_is_waited_for_when_the_page_is_full() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let rows = rows_of(1, 2);
    let call = harness.start(txn, scan(2));
    let (near, far) = (rows[0].key.clone(), Key::new("keyz"));
    for sent in harness.take_sent() {
        let next = [Some(near.clone()), Some(far.clone()), None][sent.shard.0 as usize - 1].clone();
        harness.reply(&sent, scanned(Vec::new(), next));
    }
    let asked = harness.take_sent();
    assert_eq!(asked.iter().map(|sent| sent.shard.0).collect::<Vec<_>>(), [1, 2]);
    harness.reply(&asked[0], scanned(rows.clone(), None));
    assert!(harness.done.is_empty(), "a shard is locking what it was asked for");
    harness.reply(&asked[1], scanned(Vec::new(), None));
    let page = Page { rows, next: Some(far.clone()) };
    assert_eq!(harness.result(call), Ok(Answer::Page(page)));
    harness.start(txn, TxnOp::Commit);
    let prepares = harness.take_sent();
    let TxnRequest::Prepare { part, .. } = &prepares[0].step else { panic!("{prepares:?}") };
    let end = KeyRange::prefix("key").end;
    let first = KeyRange { start: Key::new("key"), end: Some(far.clone()) };
    assert_eq!(part.ranges, [first, KeyRange { start: far, end }]);
}

#[test]
fn second_answer_to_a_part_and_answers_to_other_parts_count_for_nothing() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, scan(100));
    let asked = harness.take_sent();
    // Nobody answers in time, and all are asked again.
    while harness.sent.len() < 3 {
        harness.wait();
    }
    let again = harness.take_sent();
    // A page that cannot be the answer: it has keys of another shard, or goes on where it began.
    harness.reply(&again[0], scanned(rows_of(2, 2), None));
    harness.reply(&again[0], scanned(Vec::new(), Some(Key::new("key"))));
    for sent in asked.iter().chain(&again) {
        assert!(is_scan(sent), "{sent:?}");
        harness.reply(sent, scanned(rows_of(sent.shard.0, 2), None));
    }
    assert_eq!(harness.result(call), Ok(Answer::Page(Page { rows: all_rows(), next: None })));
    for sent in &again {
        harness.reply(sent, scanned(rows_of(sent.shard.0, 1), None));
    }
    assert!(harness.done.is_empty());
    assert!(harness.take_sent().is_empty());
}

#[test]
fn abort_of_one_part_ends_all_of_them() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    let call = harness.start(txn, scan(100));
    let asked = harness.take_sent();
    harness.reply(&asked[0], scanned(rows_of(1, 2), None));
    harness.reply(&asked[1], TxnReply::Aborted(AbortReason::LockTimeout));
    assert_eq!(harness.done.remove(&call), Some(aborted(AbortReason::LockTimeout)));
    assert_eq!(harness.rolled_back(), [1, 3]);
    harness.reply(&asked[2], scanned(rows_of(3, 2), None));
    harness.assert_idle();
}

#[test]
fn another_grant_than_before_is_no_lock() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    harness.step(txn, get(1)).unwrap();
    let call = harness.start(txn, scan(100));
    let asked = harness.take_sent();
    assert_eq!(asked[0].grant, Some(GRANT));
    let page = Page::default();
    harness.reply(&asked[0], TxnReply::Scanned { grant: Grant(6), page });
    let reason = AbortReason::LocksLost { shard: ShardId(1) };
    assert_eq!(harness.done.remove(&call), Some(aborted(reason)));
}

#[test]
fn ranges_of_one_shard_are_limited() {
    let mut harness = Harness::new();
    let txn = harness.begin();
    for number in 0..=RANGES_PER_SHARD_MAX {
        let range = KeyRange::from(format!("key{number:04}")..format!("key{number:04}+"));
        let result = harness.step(txn, TxnOp::Scan { range, limit: PageLimit::MAX });
        if number < RANGES_PER_SHARD_MAX {
            assert_eq!(result, Ok(Answer::Page(Page::default())));
        } else {
            assert!(matches!(result, Err(CallError::TxnTooLarge { .. })), "{result:?}");
        }
    }
    assert_eq!(harness.step(txn, get(1)), Err(CallError::NoTransaction));
}
