//! Batches and transactions with conditions over real processes.
//!
//! What would go wrong: a batch of which one shard takes a part, batches that lock the same keys in
//! different orders and never end, a condition that is judged at another moment than the writes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::Duration;

use kv_client::{ClientError, Compare, Op, TxnResult, WriteBatch};
use kv_core::id::ShardId;
use kv_core::op::{Key, Value};
use kv_core::ring;
use kv_tests::cluster::Cluster;

#[test]
fn a_batch_takes_effect_on_all_shards_at_one_version() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    client.put("c", "old").unwrap();
    let shards = ["a", "bee", "c"].map(|key| ring::shard_of(&Key::new(key), 16));
    assert!(shards[0] != shards[1] && shards[1] != shards[2], "{shards:?}");
    assert!(!shards.contains(&ShardId::META));
    let mut batch = WriteBatch::new();
    batch.put("a", "0").put("bee", "2").delete("c").put("a", "1");
    let version = client.write_batch(batch).unwrap();
    cluster.check_values(&[("a", Some("1")), ("bee", Some("2")), ("c", None)]);
    let versions = ["a", "bee"].map(|key| Some(client.get(key).unwrap().unwrap().version));
    assert_eq!(versions, [version, version]);
    assert_eq!(client.write_batch(WriteBatch::new()).unwrap(), None);

    let mut large = WriteBatch::new();
    (0..3).for_each(|at| {
        large.put(format!("large{at}"), vec![0; 8 << 20]);
    });
    let error = client.write_batch(large).unwrap_err();
    assert!(error.to_string().contains("bytes exceed what a transaction may have"), "{error}");
    cluster.check_values(&[("large0", None)]);
}

#[test]
fn batches_in_any_order_of_keys_all_end_and_none_is_torn() {
    const ROUNDS: u32 = 5;
    let cluster = Cluster::ready();
    let client = cluster.client().with_deadline(Duration::from_secs(120));
    thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut keys = ["a", "bee", "c"];
                    keys.rotate_left(thread % 3);
                    let mut batch = WriteBatch::new();
                    keys.iter().for_each(|key| {
                        batch.put(*key, format!("{thread}/{round}"));
                    });
                    client.write_batch(batch).unwrap();
                }
            });
        }
    });
    let found = ["a", "bee", "c"].map(|key| client.get(key).unwrap().unwrap());
    assert!(found.iter().all(|it| *it == found[0]), "one batch was the last: {found:?}");
}

#[test]
fn conditions_choose_the_branch_at_one_moment() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let take = |who: &'static str| {
        client.txn(
            vec![Compare::absent("lock"), Compare::value("state", "idle")],
            vec![Op::put("lock", who), Op::get("lock"), Op::get("state")],
            vec![Op::get("lock")],
        )
    };
    let values = |result: &TxnResult| -> Vec<_> {
        result.found.iter().map(|found| found.as_ref().map(|found| found.value.clone())).collect()
    };
    let nothing = take("ann").unwrap();
    assert_eq!((nothing.is_met, &nothing.found[..], nothing.version), (false, &[None][..], None));
    client.put("state", "idle").unwrap();
    let taken = take("ann").unwrap();
    assert!(taken.is_met);
    assert_eq!(values(&taken), [Some(Value::string("ann")), Some(Value::string("idle"))]);
    let held = client.get("lock").unwrap().unwrap();
    assert_eq!(Some(held.version), taken.version);
    let late = take("bob").unwrap();
    assert!(!late.is_met);
    assert_eq!(late.found, [Some(held.clone())]);

    let compare = vec![Compare::version("lock", held.version)];
    let freed = client.txn(compare.clone(), vec![Op::delete("lock")], vec![]).unwrap();
    assert!(freed.is_met && freed.found.is_empty());
    assert!(!client.txn(compare, vec![], vec![]).unwrap().is_met);
    cluster.check_values(&[("lock", None), ("state", Some("idle"))]);
}

/// Moves the owner of a pair of keys on, if nobody else has.
async fn count_up(client: kv_client::Client) -> Result<(), ClientError> {
    loop {
        let number = |found: Option<kv_core::op::Found>| -> u64 {
            let Some(Value::String(bytes)) = found.map(|found| found.value) else { return 0 };
            str::from_utf8(&bytes).unwrap().parse().unwrap()
        };
        let old = number(client.get("a").await?);
        let compare = match old {
            0 => vec![Compare::absent("a"), Compare::absent("bee")],
            _ => ["a", "bee"].map(|key| Compare::value(key, old.to_string())).to_vec(),
        };
        let new = (old + 1).to_string();
        let then = vec![Op::put("bee", new.clone()), Op::put("a", new)];
        if client.txn(compare, then, vec![]).await?.is_met {
            return Ok(());
        }
    }
}

#[test]
fn every_conditional_increment_counts_once() {
    let cluster = Cluster::ready();
    let endpoints = vec![cluster.address(0), cluster.address(1)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = kv_client::Client::connect(endpoints).unwrap();
        let client = client.with_deadline(Duration::from_secs(60));
        let tasks: Vec<_> = (0..6).map(|_| tokio::spawn(count_up(client.clone()))).collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let mut batch = WriteBatch::new();
        batch.put("c", "done");
        tokio::spawn(async move { client.write_batch(batch).await }).await.unwrap().unwrap();
    });
    cluster.check_values(&[("a", Some("6")), ("bee", Some("6")), ("c", Some("done"))]);
}

/// What `kv batch` prints to standard output, without versions, and its exit code.
fn run(cluster: &Cluster, args: &[&str], lines: &str) -> (i32, String) {
    let output = cluster.kv(args, lines);
    let printed = String::from_utf8(output.stdout).unwrap();
    let words = |line: &str| line.split_once(", version ").map_or(line, |it| it.0).to_owned();
    let printed: Vec<_> = printed.lines().map(words).collect();
    (output.status.code().unwrap(), printed.join("\n"))
}

#[test]
fn a_batch_on_the_command_line_takes_effect_at_once_or_not_at_all() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    let batch = |lines: &str| run(&cluster, &["batch"], lines);
    let committed = |code: i32| (code, "committed".to_owned());
    assert_eq!(batch("# three shards\nput a 1\nput bee 'two 2'\nput c 3\n"), committed(0));
    cluster.check_values(&[("a", Some("1")), ("bee", Some("two 2")), ("c", Some("3"))]);
    let versions = ["a", "bee", "c"].map(|key| client.get(key).unwrap().unwrap().version);
    assert!(versions.iter().all(|version| *version == versions[0]), "one commit: {versions:?}");

    let file = cluster.path("batch");
    let lines = "if-value a 1\nif-absent d\nput d 4\ndelete c\nget d\nelse\nget d\nget a\n";
    std::fs::write(&file, lines).unwrap();
    let from_file = ["batch", "--file", file.to_str().unwrap()];
    assert_eq!(run(&cluster, &from_file, ""), (0, "4\ncommitted".to_owned()));
    cluster.check_values(&[("c", None), ("d", Some("4"))]);
    assert_eq!(run(&cluster, &from_file, ""), (1, "4\n1".to_owned()));

    assert_eq!(batch("if-absent a\nput bee 9\n"), (1, String::new()));
    assert_eq!(batch("if-version a 1\nput bee 9\nelse\nput c 5\n"), committed(1));
    assert_eq!(batch(&format!("if-version a {}\nput d 6\n", versions[0])), committed(0));
    let values = [("bee", Some("two 2")), ("c", Some("5")), ("d", Some("6"))];
    cluster.check_values(&values);

    // A line that is wrong is found before anything is sent.
    assert_eq!(batch("put a 7\nputt bee 7\n"), (2, String::new()));
    cluster.check_values(&[("a", Some("1"))]);

    let output = cluster.kv(&["--output", "json", "batch"], "if-absent a\nput a 9\n");
    let printed = String::from_utf8(output.stdout).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let expected = serde_json::json!({ "committed": true, "met": false, "version": null });
    assert_eq!((output.status.code(), answer), (Some(1), expected));
}
