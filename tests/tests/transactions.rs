//! Transactions over real processes: what is committed on several shards, what is not, and what the
//! command line says of it.
//!
//! What would go wrong: a commit that reaches one shard of two, an attempt that is counted twice, a
//! dropped transaction that keeps others waiting, an abort that a script takes for a success.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::future::Future;
use std::process::Output;
use std::thread;
use std::time::Duration;

use kv_client::blocking::Transaction;
use kv_client::{ClientError, Transaction as AsyncTransaction, WriteBatch};
use kv_core::op::{Found, Key, KeyRange, PageLimit, Value};
use kv_core::ring;
use kv_tests::cluster::Cluster;
use kv_tests::workspace_root;
use serde_json::{Value as Json, json};

/// Shards of a cluster of the tests.
const SHARD_COUNT: u32 = 16;

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = printed.lines().map(without_version).collect();
    assert_eq!(lines.join("\n"), stdout, "{stderr}");
    stderr
}

fn without_version(line: &str) -> &str {
    line.split_once(", version ").map_or(line, |(before, _)| before)
}

#[test]
fn a_file_takes_effect_on_all_shards_or_on_none() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let shards = ["a", "bee", "c"].map(|key| ring::shard_of(&Key::new(key), SHARD_COUNT));
    assert!(shards[0] != shards[1] && shards[1] != shards[2], "{shards:?}");

    let file = cluster.path("steps");
    fs::write(&file, "# both\nput a 1\nput bee 2\nget a\ncas --absent c 'three 3'\n").unwrap();
    let file = file.to_str().unwrap();
    check(&cluster.kv(&["txn", "--file", file], ""), 0, "ok\nok\n1\nok\ncommitted");
    cluster.check_values(&[("a", Some("1")), ("bee", Some("2")), ("c", Some("three 3"))]);
    let versions = ["a", "bee", "c"].map(|key| client.get(key).unwrap().unwrap().version);
    assert!(versions.iter().all(|version| *version == versions[0]), "one commit: {versions:?}");

    // The condition no longer holds, so nothing before it counts either.
    let said = check(&cluster.kv(&["txn", "--file", file], ""), 1, "");
    assert!(said.contains("line 5: cas not applied: the key is at version "), "{said}");
    assert!(said.contains("Nothing was changed."), "{said}");
    cluster.check_values(&[("a", Some("1")), ("bee", Some("2"))]);
    assert_eq!(client.get("a").unwrap().unwrap().version, versions[0]);

    // A line that is wrong is found before anything is sent.
    let said = check(&cluster.kv(&["txn", "--file", "-"], "put a 7\nputt bee 7\n"), 2, "");
    assert!(said.contains("line 2: unrecognized subcommand 'putt'"), "{said}");
    cluster.check_values(&[("a", Some("1"))]);

    let steps = "get-for-update a\ndelete bee\nget missing\n";
    let output = cluster.kv(&["--output", "json", "txn", "--file", "-"], steps);
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Json> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let read = json!({ "key": "a", "value": "1", "version": versions[0].to_string() });
    let missing = json!({ "key": "missing", "value": null, "version": null });
    assert_eq!(answers[..3], [read, json!({ "key": "bee", "buffered": true }), missing]);
    assert_eq!(answers[3]["committed"], json!(true));
    assert!(answers[3]["version"].is_string(), "{answers:?}");
    cluster.check_values(&[("bee", None)]);
}

#[test]
fn a_block_at_the_prompt_is_one_transaction() {
    let cluster = Cluster::ready();
    let block = "begin\nput a 1\nget a\nput bee 2\ncommit\n";
    let printed = "begun\nok\n1\n(not committed)\nok\ncommitted";
    check(&cluster.kv(&[], block), 0, printed);
    cluster.check_values(&[("a", Some("1")), ("bee", Some("2"))]);

    let block = "begin\nput a 7\nrollback\nput bee 8\n";
    check(&cluster.kv(&[], block), 0, "begun\nok\nrolled back\nok");
    cluster.check_values(&[("a", Some("1")), ("bee", Some("8"))]);

    let said = check(&cluster.kv(&[], "begin\nput a 7\n"), 2, "begun\nok");
    assert!(said.contains("was not committed"), "{said}");
    cluster.check_values(&[("a", Some("1"))]);
    assert_eq!(cluster.kv(&[], "commit\n").status.code(), Some(2));
}

#[test]
fn a_block_and_a_file_scan_with_what_they_have_written() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    for key in ["row/a", "row/b", "row/c", "rows"] {
        client.put(key, "old").unwrap();
    }
    let block = "begin\nput row/b new\ndelete row/c\nput row/d more\nscan --prefix row/\n\
                 scan --from row/b --limit 2\ncommit\n";
    let rows = "row/a\told\nrow/b\tnew\nrow/d\tmore\nrow/b\tnew\nrow/d\tmore";
    check(&cluster.kv(&[], block), 0, &format!("begun\nok\nok\nok\n{rows}\ncommitted"));
    let file = "scan --to row/b\nput row/e 5\nscan --from row/d --to rows\n";
    let rows = "row/a\told\nok\nrow/d\tmore\nrow/e\t5";
    let printed = cluster.kv(&["txn", "--file", "-"], file);
    check(&printed, 0, &format!("{rows}\ncommitted"));
    let printed = cluster.kv(&["--output", "json", "txn", "--file", "-"], "scan --from row/e\n");
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.starts_with("{\"key\":\"row/e\",\"value\":\"5\",\"version\":"), "{printed}");
    check(&cluster.kv(&[], "begin\nscan --at 7\nrollback\n"), 0, "begun\nrolled back");
}

#[test]
fn nothing_comes_into_what_a_transaction_has_scanned() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    for at in 0..20 {
        client.put(format!("row/{at:02}"), "old").unwrap();
    }
    let mut txn = client.begin().unwrap();
    let pages = |txn: &mut Transaction| {
        let mut scan = txn.scan(KeyRange::prefix("row/"));
        scan = scan.with_limit(PageLimit { rows: 7, bytes: u32::MAX });
        let mut rows = vec![];
        while let Some(page) = scan.next_page().unwrap() {
            assert!(page.len() <= 7);
            rows.extend(page);
        }
        rows
    };
    let before = pages(&mut txn);
    assert_eq!(before.len(), 20);
    let other = client.clone();
    let put = thread::spawn(move || other.put("row/055", "phantom"));
    client.put("elsewhere", "free").unwrap();
    assert_eq!(pages(&mut txn), before);
    let page = txn.page("row/05".."row/07", PageLimit::MAX).unwrap();
    assert_eq!(page.rows, before[5..7]);
    assert!(!put.is_finished(), "it waits for the end");
    txn.put("row/00", "new").unwrap();
    let version = txn.commit().unwrap().expect("it has written");
    assert!(put.join().unwrap().unwrap() > version);
}

#[test]
fn an_abort_says_that_a_retry_is_safe() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let mut holder = client.begin().unwrap();
    assert!(holder.get_for_update("a").unwrap().is_none());
    let steps = "put bee 2\nget a\n";
    let file = ["--timeout", "60", "txn", "--retries", "0", "--file", "-"];
    // Both wait for the lock longer than anybody may.
    thread::scope(|scope| {
        let from_file = scope.spawn(|| cluster.kv(&file, steps));
        // What follows the abort in the block is not run by itself.
        let block = "begin\nput bee 2\nget a\nput bee 3\ncommit\n";
        let said = check(&cluster.kv(&["--timeout", "60"], block), 1, "begun\nok");
        let why = "the transaction was aborted: a lock was not free in time";
        assert!(said.contains(why), "{said}");
        assert!(said.contains("Nothing was changed. To run it again"), "{said}");
        let said = check(&from_file.join().unwrap(), 5, "");
        assert!(said.contains(why), "{said}");
    });
    cluster.check_values(&[("bee", None)]);
    holder.put("a", "1").unwrap();
    holder.commit().unwrap();
    check(&cluster.kv(&file, steps), 0, "ok\n1\ncommitted");
}

/// The blocks of a page that are marked so, in order, with their marks.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = vec![];
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(mark) = line.strip_prefix("```") {
            let content: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((mark.to_owned(), content.join("\n")));
        }
    }
    blocks
}

/// A line of the page's output, in which versions are left out.
fn without_any_version(line: &str) -> &str {
    match line.strip_prefix("(version") {
        Some(_) => "(version)",
        None => line.find(", version").map_or(line, |at| &line[..at + ", version".len()]),
    }
}

#[test]
fn the_examples_of_the_guide_print_what_it_says() {
    let cluster = Cluster::ready();
    cluster.client().put("balance/ann", "100").unwrap();
    let path = workspace_root().join("docs/guide/transactions.md");
    let blocks = blocks(&fs::read_to_string(path).unwrap());
    let mut count = 0;
    for (input, output) in blocks.iter().zip(&blocks[1..]) {
        let args: &[&str] = match input.0.as_str() {
            "session" => &[],
            "steps" => &["txn", "--file", "-"],
            "batch" => &["batch"],
            _ => continue,
        };
        let printed = cluster.kv(args, &format!("{}\n", input.1));
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let printed = String::from_utf8(printed.stdout).unwrap();
        let printed: Vec<_> = printed.lines().map(without_any_version).collect();
        assert_eq!((output.0.as_str(), output.1.as_str()), ("output", &*printed.join("\n")));
        count += 1;
    }
    assert_eq!(count, 3, "the examples are found");
    cluster.check_values(&[("balance/ann", Some("60")), ("balance/bob", Some("40"))]);
    cluster.check_values(&[("lock", Some("ann")), ("state", Some("busy"))]);
}

fn number(found: Option<Found>) -> u64 {
    let Some(Found { value: Value::String(bytes), .. }) = found else {
        return 0;
    };
    str::from_utf8(&bytes).unwrap().parse().unwrap()
}

fn increment_both(txn: &mut Transaction) -> Result<(), ClientError> {
    for key in ["a", "bee"] {
        let count = number(txn.get_for_update(key)?) + 1;
        txn.put(key, count.to_string())?;
    }
    Ok(())
}

/// Reads first and locks for the write only then, so that two of these wait for each other.
fn increment_both_carelessly(txn: &mut Transaction) -> Result<(), ClientError> {
    let counts = [number(txn.get("bee")?), number(txn.get("a")?)];
    txn.put("bee", (counts[0] + 1).to_string())?;
    txn.put("a", (counts[1] + 1).to_string())?;
    Ok(())
}

#[test]
fn every_increment_of_two_counters_counts_once() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 10;
    let cluster = Cluster::ready();
    let client = cluster.client().with_deadline(Duration::from_secs(120));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = &client;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let body = if thread == 0 { increment_both_carelessly } else { increment_both };
                    client.transact(body).unwrap();
                }
            });
        }
    });
    let sum = (THREADS * ROUNDS).to_string();
    cluster.check_values(&[("a", Some(&sum)), ("bee", Some(&sum))]);
}

#[test]
fn a_dropped_transaction_frees_its_locks() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let mut dropped = client.begin().unwrap();
    dropped.get_for_update("a").unwrap();
    dropped.put("a", "dropped").unwrap();
    drop(dropped);
    client.put("a", "plain").unwrap();
    cluster.check_values(&[("a", Some("plain"))]);
}

/// A task may move between threads.
fn spawnable<F: Future + Send + 'static>(future: F) -> F {
    future
}

async fn increment(txn: &mut AsyncTransaction) -> Result<(), ClientError> {
    let count = number(txn.get_for_update("a").await?) + 1;
    txn.put("a", count.to_string()).await
}

#[test]
fn transactions_run_as_tasks() {
    let cluster = Cluster::ready();
    let endpoints = vec![cluster.address(0), cluster.address(1)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = kv_client::Client::connect(endpoints).unwrap();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let client = client.with_deadline(Duration::from_secs(60));
                tokio::spawn(spawnable(async move { client.transact(increment).await }))
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(number(client.get("a").await.unwrap()), 4);
    });
}

/// The majority is gone while a batch is on its way; later, another process asks how it ended.
#[test]
fn an_unknown_outcome_is_settled_by_asking() {
    let mut cluster = Cluster::ready();
    let client = cluster.client();
    client.put("a", "old").unwrap();
    cluster.kill(1);
    cluster.kill(2);
    let mut batch = WriteBatch::new();
    batch.put("a", "new");
    let error = client.with_deadline(Duration::from_secs(3)).write_batch(batch).unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    let id = error.outcome_id().expect("it can be asked for").to_string();

    let nobody = cluster.kv(&["outcome", &id, "--timeout", "1"], "");
    let stderr = check(&nobody, 3, "");
    assert!(stderr.contains("How the transaction ended is not told"), "{stderr}");
    cluster.restart(1);
    cluster.restart(2);
    cluster.wait_until_ready();
    let told = cluster.kv(&["outcome", &id], "");
    let code = told.status.code().unwrap();
    let value = match code {
        0 => "new",
        5 => "old",
        other => panic!("exit code {other}: {told:?}"),
    };
    cluster.check_values(&[("a", Some(value))]);
    assert_eq!(cluster.kv(&["outcome", &id], ""), told, "it never changes");
    let stderr = check(&cluster.kv(&["outcome", "s1-2-3"], ""), 2, "");
    assert!(stderr.contains("s3-17-00000000deadbeef-4-9-2dde84a8"), "{stderr}");
}
