//! What isolation keeps apart: the ten anomalies that are told apart in the literature, as scripts.
//!
//! Two or three transactions take turns, on keys of shards of their own: `a` holds 10, `b` holds 20,
//! `c` and `d` are absent. A line is a step and what comes of it:
//!
//! ```text
//! t1 get a -> 10          what a read finds; "none" if nothing
//! t1 lock a -> 10         the same for update
//! t1 scan -> a=10 b=20    all keys that exist
//! t1 put a 11             is kept by the coordinator until the commit
//! t1 commit -> committed
//! t2 get a -> waits       for a lock
//! t2 -> 11                what the step that waited came to
//! t2 commit -> gives way  in a deadlock
//! a -> 11                 what is there
//! ```
//!
//! The older a transaction, the lower its number. Reads lock what they read, so most of what would be
//! an anomaly ends in a wait, or in a deadlock in which the younger one gives way.
//!
//! Two of the ten are about sets that a condition selects. They are read by scans, which lock what
//! is absent too.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, CallId, TxnHandle, TxnOp};
use kv_core::op::{Key, KeyRange, Page, PageLimit, Row, Value};
use kv_core::txn::AbortReason;

use crate::support::Cluster;
use crate::transactions::{Transactions, keys, value, write};

/// A step that has not ended by then waits for somebody.
const WAITS: Duration = Duration::from_millis(30);
/// Whoever waited goes on within so long, a deadlock included.
const GOES_ON: Duration = Duration::from_secs(1);

struct Script {
    cluster: Cluster,
    keys: BTreeMap<String, Key>,
    txns: BTreeMap<String, TxnHandle>,
    /// Steps that wait.
    waiting: BTreeMap<String, CallId>,
}

impl Script {
    fn new() -> Self {
        let names = ["a", "b", "c", "d"].map(String::from);
        let keys: BTreeMap<String, Key> = names.into_iter().zip(keys()).collect();
        let mut cluster = Cluster::formed(3);
        for (name, text) in [("a", "10"), ("b", "20")] {
            cluster.call(write(&keys[name], text)).expect("nothing is broken");
        }
        Self { cluster, keys, txns: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Starts a step of a transaction, which begins with its first one.
    fn start(&mut self, txn: &str, op: TxnOp) -> CallId {
        let age = txn[1..].parse().expect("transactions are numbered");
        let begin = || self.cluster.begin(age);
        let txn = *self.txns.entry(txn.into()).or_insert_with(begin);
        let deadline = self.cluster.now + Duration::from_secs(20);
        self.cluster.router.call(self.cluster.now, Call::Txn { txn, op }, deadline)
    }

    /// What a page shows, by the names of the keys.
    fn rows(&self, page: &Page) -> String {
        assert_eq!(page.next, None, "a page has room for four");
        let name = |key: &Key| self.keys.iter().find(|(_, of)| *of == key).map(|(name, _)| name);
        let text = |row: &Row| {
            format!("{}={}", name(&row.key).expect("it is one of the four"), text(&row.found.value))
        };
        let mut rows: Vec<String> = page.rows.iter().map(text).collect();
        rows.sort();
        if rows.is_empty() { "none".into() } else { rows.join(" ") }
    }

    /// What a call has come to within some time.
    fn end_of(&mut self, call: CallId, within: Duration) -> Option<String> {
        let end = self.cluster.now + within;
        loop {
            match self.cluster.done.remove(&call) {
                Some(Ok(Answer::Page(page))) => return Some(self.rows(&page)),
                Some(result) => return Some(words(result)),
                None => {}
            }
            if self.cluster.now >= end {
                return None;
            }
            self.cluster.run(Duration::from_millis(1));
        }
    }

    /// Does one line, and returns what comes of it.
    fn step(&mut self, line: &str, expected: &str) -> String {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let key = |name: &str| self.keys[name].clone();
        let op = match parts[1..] {
            ["get", name] => TxnOp::Get { key: key(name) },
            ["lock", name] => TxnOp::GetForUpdate { key: key(name) },
            ["scan"] => TxnOp::Scan { range: KeyRange::prefix("k"), limit: PageLimit::MAX },
            ["put", name, text] => TxnOp::Put { key: key(name), value: value(text) },
            ["commit"] => TxnOp::Commit,
            ["rollback"] => TxnOp::Rollback,
            [] if self.waiting.contains_key(parts[0]) => {
                let call = self.waiting.remove(parts[0]).expect("it is there");
                return self.end_of(call, GOES_ON).unwrap_or_else(|| "waits".into());
            }
            [] => return self.cluster.get(&key(parts[0])).unwrap_or_else(|| "none".into()),
            _ => panic!("no step: {line}"),
        };
        let call = self.start(parts[0], op);
        let within = if expected == "gives way" { GOES_ON } else { WAITS };
        self.end_of(call, within).unwrap_or_else(|| {
            self.waiting.insert(parts[0].into(), call);
            "waits".into()
        })
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn words(result: Result<Answer, CallError>) -> String {
    match result {
        Ok(Answer::Got(None)) => "none".into(),
        Ok(Answer::Got(Some(found))) => text(&found.value),
        Ok(Answer::Buffered) => String::new(),
        Ok(Answer::Committed { .. }) => "committed".into(),
        Ok(Answer::RolledBack) => "rolled back".into(),
        Err(CallError::Aborted(AbortReason::Deadlock { .. })) => "gives way".into(),
        other => format!("{other:?}"),
    }
}

/// Runs a script. Nobody waits at its end.
#[track_caller]
fn check(text: &str) {
    let mut script = Script::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (step, expected) = line.split_once("->").unwrap_or((line, ""));
        assert_eq!(script.step(step, expected.trim()), expected.trim(), "{line}");
    }
    assert!(script.waiting.is_empty(), "{:?}", script.waiting.keys());
}

/// Writes of two transactions are mixed.
#[test]
fn g0_dirty_write() {
    check(
        "t1 put a 11
         t2 put a 12
         t1 put b 21
         t1 commit -> committed
         a -> 11
         b -> 21
         t2 put b 22
         t2 commit -> committed
         a -> 12
         b -> 22",
    );
    // Who locks first what it writes keeps the other from the first key on.
    check(
        "t1 lock a -> 10
         t2 lock a -> waits
         t1 put a 11
         t1 put b 21
         t1 commit -> committed
         t2 -> 11
         t2 put a 12
         t2 put b 22
         t2 commit -> committed
         a -> 12
         b -> 22",
    );
}

/// What was rolled back is read.
#[test]
fn g1a_aborted_read() {
    check(
        "t1 put a 101
         t2 get a -> 10
         t1 rollback -> rolled back
         t2 get a -> 10
         t2 commit -> committed
         a -> 10",
    );
    check(
        "t1 lock a -> 10
         t1 put a 101
         t2 get a -> waits
         t1 rollback -> rolled back
         t2 -> 10
         t2 commit -> committed",
    );
}

/// A value is read that its writer overwrites before it commits.
#[test]
fn g1b_intermediate_read() {
    check(
        "t1 lock a -> 10
         t1 put a 101
         t2 get a -> waits
         t1 put a 11
         t1 commit -> committed
         t2 -> 11
         t2 commit -> committed",
    );
    check(
        "t1 put a 101
         t2 get a -> 10
         t1 put a 11
         t1 commit -> waits
         t2 get a -> 10
         t2 commit -> committed
         t1 -> committed
         a -> 11",
    );
}

/// Two transactions read what the other one has written.
#[test]
fn g1c_circular_information_flow() {
    check(
        "t1 put a 11
         t2 put b 22
         t1 get b -> 20
         t2 get a -> 10
         t1 commit -> waits
         t2 commit -> gives way
         t1 -> committed
         a -> 11
         b -> 20",
    );
}

/// Of a transaction that was seen a part is not seen any more.
#[test]
fn otv_observed_transaction_vanishes() {
    check(
        "t1 lock a -> 10
         t1 put a 11
         t1 put b 19
         t2 lock a -> waits
         t1 commit -> committed
         t2 -> 11
         t3 get a -> waits
         t2 put a 12
         t2 put b 18
         t2 commit -> committed
         t3 -> 12
         t3 get b -> 18
         t3 get a -> 12
         t3 commit -> committed",
    );
}

/// A set is read twice, and the second time there is more in it.
#[test]
fn pmp_predicate_many_preceders() {
    check(
        "t1 scan -> a=10 b=20
         t2 put c 30
         t2 commit -> waits
         t1 scan -> a=10 b=20
         t1 get c -> none
         t1 commit -> committed
         t2 -> committed
         c -> 30",
    );
    // Who overwrites what a set consists of sees what came into it.
    check(
        "t1 scan -> a=10 b=20
         t2 put c 30
         t2 commit -> waits
         t1 put a 11
         t1 put d 40
         t1 commit -> committed
         t2 -> committed
         t3 scan -> a=11 b=20 c=30 d=40
         t3 commit -> committed",
    );
    // A scan waits for who has locked a key of the set, though it does not exist.
    check(
        "t1 lock a -> 10
         t1 lock c -> none
         t2 scan -> waits
         t1 put c 30
         t1 commit -> committed
         t2 -> a=10 b=20 c=30
         t2 put c 31
         t2 scan -> a=10 b=20 c=31
         t2 commit -> committed
         c -> 31",
    );
}

/// Two read the same value and overwrite it, and one of the writes is lost.
#[test]
fn p4_lost_update() {
    check(
        "t1 get a -> 10
         t2 get a -> 10
         t1 put a 11
         t2 put a 12
         t1 commit -> waits
         t2 commit -> gives way
         t1 -> committed
         a -> 11",
    );
    check(
        "t1 lock a -> 10
         t2 lock a -> waits
         t1 put a 11
         t1 commit -> committed
         t2 -> 11
         t2 put a 12
         t2 commit -> committed
         a -> 12",
    );
}

/// One key is read before a transaction and another one after it.
#[test]
fn g_single_read_skew() {
    check(
        "t1 get a -> 10
         t2 get a -> 10
         t2 get b -> 20
         t2 put a 12
         t2 put b 18
         t2 commit -> waits
         t1 get b -> waits
         t1 -> 20
         t2 -> gives way
         t1 commit -> committed
         a -> 10
         b -> 20",
    );
}

/// Two read the same two keys, and each overwrites another one of them.
#[test]
fn g2_item_write_skew() {
    check(
        "t1 get a -> 10
         t1 get b -> 20
         t2 get a -> 10
         t2 get b -> 20
         t1 put a 11
         t2 put b 21
         t1 commit -> waits
         t2 commit -> gives way
         t1 -> committed
         a -> 11
         b -> 20",
    );
}

/// Two read the same set, and each puts something into it.
#[test]
fn g2_anti_dependency_cycle() {
    check(
        "t1 scan -> a=10 b=20
         t2 scan -> a=10 b=20
         t1 put c 30
         t2 put d 42
         t1 commit -> waits
         t2 commit -> gives way
         t1 -> committed
         c -> 30
         d -> none",
    );
    // A third one has read the half of the set that is on other shards, and waits for the rest.
    check(
        "t1 scan -> a=10 b=20
         t2 put c 30
         t2 commit -> waits
         t3 scan -> waits
         t1 put d 40
         t1 commit -> waits
         t3 -> gives way
         t1 -> committed
         t2 -> committed
         c -> 30
         d -> 40",
    );
}
