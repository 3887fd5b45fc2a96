//! Reads and scans at one moment over real processes: what they see while others write, and what the
//! command line makes of them.
//!
//! What would go wrong: half of a transaction in a page, a key that is lost between two pages, a
//! timestamp below what was acknowledged, a reader that waits for a writer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use std::thread;

use kv_client::ClientError;
use kv_client::blocking::{Client, Snapshot};
use kv_core::client::CallError;
use kv_core::id::Timestamp;
use kv_core::op::{KeyRange, PageLimit, Row, Value};
use kv_core::wire::Refusal;
use kv_tests::cluster::Cluster;
use kv_tests::{build, workspace_root};
use serde_json::{Value as Json, json};

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{stderr}");
    stderr
}

/// All rows of a range, in pages of so many.
fn rows(snapshot: &Snapshot, range: impl Into<KeyRange>, rows: u32) -> Vec<Row> {
    let mut scan = snapshot.scan(range).with_limit(PageLimit { rows, bytes: u32::MAX });
    let mut all = vec![];
    while let Some(page) = scan.next_page().unwrap() {
        assert!(page.len() <= rows as usize);
        all.extend(page);
    }
    all
}

fn keys(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| str::from_utf8(&row.key.bytes).unwrap()).collect()
}

fn put_all(client: &Client, count: u32, value: &str) {
    thread::scope(|scope| {
        for first in 0..8 {
            let put = move || {
                for at in (first..count).step_by(8) {
                    client.put(format!("key{at:04}"), value.to_owned()).unwrap();
                }
            };
            scope.spawn(put);
        }
    });
}

#[test]
fn a_snapshot_sees_one_moment_of_all_shards() {
    const COUNT: u32 = 200;
    let cluster = Cluster::ready();
    let client = cluster.client();
    put_all(&client, COUNT, "old");
    let snapshot = client.begin_read_only().unwrap();
    put_all(&client, COUNT, "new");
    client.delete("key0007").unwrap();
    client.put("key0007a", "new").unwrap();

    let all = rows(&snapshot, .., 7);
    let expected: Vec<_> = (0..COUNT).map(|at| format!("key{at:04}")).collect();
    assert_eq!(keys(&all), expected);
    assert!(all.iter().all(|row| row.found.value == Value::string("old")));
    assert!(all.iter().all(|row| row.found.version <= snapshot.timestamp()));
    assert_eq!(rows(&snapshot, .., 1_000), all, "pages change nothing");
    assert_eq!(snapshot.get("key0007").unwrap().unwrap().value, Value::string("old"));
    assert_eq!(snapshot.get("key0007a").unwrap(), None);

    let now = client.begin_read_only().unwrap();
    assert!(now.timestamp() > snapshot.timestamp());
    let around = rows(&now, "key0006".."key0009", 1);
    assert_eq!(keys(&around), ["key0006", "key0007a", "key0008"]);
    let tail = rows(&now, KeyRange::prefix("key019"), 100);
    assert_eq!(tail.len(), 10);
    let again = client.begin_read_only_at(snapshot.timestamp());
    assert_eq!(rows(&again, .., 1_000), all, "one may come back to it");
}

#[test]
fn no_page_shows_a_part_of_a_transaction_and_no_reader_waits_for_a_writer() {
    const ROUNDS: u32 = 40;
    let cluster = Cluster::ready();
    let client = cluster.client();
    let balances = ["ann", "bob", "cy"].map(|name| format!("balance/{name}"));
    let set = |round: u32| {
        client.transact(|txn| {
            balances.iter().try_for_each(|key| txn.put(key.clone(), round.to_string()))
        })
    };
    set(0).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (1..=ROUNDS).for_each(|round| set(round).unwrap()));
        let mut last = Timestamp(0);
        loop {
            let snapshot = client.begin_read_only().unwrap();
            let rows = rows(&snapshot, KeyRange::prefix("balance/"), 2);
            let founds: Vec<_> = rows.iter().map(|row| &row.found).collect();
            assert_eq!(founds.len(), 3);
            assert!(founds.iter().all(|found| *found == founds[0]), "{founds:?}");
            assert!(founds[0].version >= last, "time goes on");
            last = founds[0].version;
            if founds[0].value == Value::string(ROUNDS.to_string()) {
                return;
            }
        }
    });
    // Locks that stay do not keep a reader waiting.
    let mut holder = client.begin().unwrap();
    holder.get_for_update(balances[0].clone()).unwrap();
    let snapshot = client.begin_read_only().unwrap();
    assert_eq!(rows(&snapshot, KeyRange::prefix("balance/"), 10).len(), 3);
    holder.rollback().unwrap();
}

#[test]
fn a_timestamp_that_was_not_issued_is_refused() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    client.put("k", "v").unwrap();
    let future = client.begin_read_only_at(Timestamp(u64::MAX - 1));
    for error in [
        future.get("k").unwrap_err(),
        future.page(.., PageLimit { rows: 1, bytes: 1 }).unwrap_err(),
    ] {
        let ClientError::Call { call: CallError::Refused(refusal), .. } = &error else {
            panic!("{error}");
        };
        assert!(matches!(refusal, Refusal::FutureTimestamp { .. }), "{refusal}");
        assert!(!error.is_retryable());
    }
    let said = check(&cluster.kv(&["scan", "--at", "18446744073709551614"], ""), 2, "");
    assert!(said.contains("was not issued yet"), "{said}");
    assert!(said.contains("Nothing was changed. Give --at a version"), "{said}");
}

#[test]
fn the_command_line_scans_in_text_and_in_json() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    client.put("a/1", "one").unwrap();
    client.put("a/2", "two").unwrap();
    client.put("b", "three").unwrap();
    check(&cluster.kv(&["scan"], ""), 0, "a/1\tone\na/2\ttwo\nb\tthree\n");
    check(&cluster.kv(&["scan", "--prefix", "a/"], ""), 0, "a/1\tone\na/2\ttwo\n");
    check(&cluster.kv(&["scan", "--from", "a/2", "--to", "b"], ""), 0, "a/2\ttwo\n");
    check(&cluster.kv(&["scan", "--limit", "1"], ""), 0, "a/1\tone\n");
    check(&cluster.kv(&["scan", "--prefix", "c"], ""), 0, "");
    check(&cluster.kv(&[], "scan --prefix b\n"), 0, "b\tthree\n");
    let output = cluster.kv(&["--output", "json", "scan", "--prefix", "a/"], "");
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<Json> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let values: Vec<_> = printed.iter().map(|row| (&row["key"], &row["value"])).collect();
    assert_eq!(values, [(&json!("a/1"), &json!("one")), (&json!("a/2"), &json!("two"))]);
    assert!(printed.iter().all(|row| row["version"].is_string()), "{printed:?}");
}

#[test]
fn what_was_overwritten_is_read_at_its_version() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let version = client.put("price", "7").unwrap().to_string();
    client.put("price", "8").unwrap();
    client.put("later", "1").unwrap();
    check(&cluster.kv(&["get", "price", "--at", &version], ""), 0, "7\n");
    check(&cluster.kv(&["get", "later", "--at", &version], ""), 1, "");
    check(&cluster.kv(&["scan", "--at", &version], ""), 0, "price\t7\n");
    let output = cluster.kv(&["--output", "json", "scan", "--at", &version], "");
    let printed: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, json!({ "key": "price", "value": "7", "version": version }));
}

#[test]
fn who_closes_the_pipe_has_seen_enough() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let value = "v".repeat(100_000);
    for at in 0..100 {
        client.put(format!("key{at:03}"), value.clone()).unwrap();
    }
    let mut command = build::kv();
    command.args(["--endpoints", &cluster.endpoints(), "scan"]);
    let mut scan = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(scan.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, format!("key000\t{value}\n"));
    let output = scan.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn the_scans_of_the_guide_print_what_it_says() {
    let cluster = Cluster::ready();
    let page = fs::read_to_string(workspace_root().join("docs/guide/transactions.md")).unwrap();
    let block = |mark: &str| {
        let (_, rest) = page.split_once(&format!("```{mark}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let printed = cluster.kv(&[], &block("scans"));
    let stdout = String::from_utf8(printed.stdout).unwrap();
    let lines = stdout.lines().map(|line| match line.starts_with("ok, version") {
        true => "ok, version",
        false => line,
    });
    assert_eq!(lines.collect::<Vec<_>>(), block("scanned").lines().collect::<Vec<_>>());
}
