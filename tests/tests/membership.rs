//! Members that come and go, as operators see it: real processes, real commands, SIGKILL.
//!
//! What would go wrong: a replica that counts before it has caught up loses acknowledged writes when
//! the old ones go; a move that only its leader knows of never ends when that leader dies; a client
//! that knows only the nodes of the formation has nobody to ask once they are gone; a node whose disk
//! was wiped forgets what it promised if it may come back under its old id.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kv_client::blocking::Client;
use kv_core::cluster::ClusterMap;
use kv_core::op::Value;
use kv_tests::cluster::Cluster;
use kv_tests::{Scale, build, wait};
use serde_json::{Value as Json, json};

/// Clients that read and write at a time.
const CLIENT_COUNT: usize = 8;
/// What a call may take at most, whatever happens to the cluster.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs `kv` against the nodes at the places `at`.
fn kv(cluster: &Cluster, at: &[usize], args: &[&str]) -> Output {
    let endpoints: Vec<_> = at.iter().map(|at| cluster.address(*at)).collect();
    build::kv().args(["--endpoints", &endpoints.join(",")]).args(args).output().unwrap()
}

/// Runs `kv cluster` and expects that it ends with `code` and says `parts`, on either output.
#[track_caller]
fn check(cluster: &Cluster, at: &[usize], args: &[&str], code: i32, parts: &[&str]) {
    let output = kv(cluster, at, &[&["cluster"], args].concat());
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?} does not say {part:?}:\n{said}");
    }
}

#[track_caller]
fn status(cluster: &Cluster, at: &[usize]) -> Json {
    let output = kv(cluster, at, &["--output", "json", "cluster", "status"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn map(client: &Client) -> ClusterMap {
    wait::until("a map", || client.map().ok()).map
}

/// Clients that write and read what they wrote, until they are told to stop.
struct Load {
    stop: AtomicBool,
    written: AtomicUsize,
    acknowledged: Mutex<BTreeMap<String, String>>,
    failed: Mutex<Vec<String>>,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            acknowledged: Mutex::new(BTreeMap::new()),
            failed: Mutex::new(Vec::new()),
        }
    }

    /// One client's work. Every call has to end well within its deadline.
    fn run(&self, client: &Client, number: usize) {
        let client = client.with_deadline(CALL_DEADLINE);
        let fail = |what: String| self.failed.lock().unwrap().push(what);
        for round in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // Some keys are written again and again.
            let key = format!("key-{number}-{}", round % 500);
            let value = format!("{round}, {}", "x".repeat(round % 200));
            match client.put(key.clone(), value.clone()) {
                Ok(_) => {
                    self.written.fetch_add(1, Ordering::Relaxed);
                    self.acknowledged.lock().unwrap().insert(key.clone(), value.clone());
                }
                Err(error) => fail(format!("put {key}: {error}")),
            }
            match client.get(key.clone()) {
                Ok(Some(found)) if found.value == Value::string(value) => {}
                Ok(found) => fail(format!("get {key}: {found:?}")),
                Err(error) => fail(format!("get {key}: {error}")),
            }
        }
    }

    /// Waits for `count` more acknowledged writes.
    fn go_on(&self, count: usize) {
        let goal = self.written.load(Ordering::Relaxed) + count;
        wait::until("more acknowledged writes", || {
            (self.written.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }
}

/// Waits until a shard is being moved, and kills the node that leads it. Returns its place.
fn kill_leader_of_a_move(cluster: &mut Cluster, client: &Client, places: &[usize]) -> usize {
    let victim = wait::until("a leader whose shard is being moved", || {
        let map = client.map().ok()?.map;
        let moving =
            map.shards.iter().filter(|entry| !entry.learners.is_empty() || entry.is_joint());
        let shards: Vec<_> = moving.map(|entry| entry.shard).collect();
        let leads = |at: &&usize| {
            let status = cluster.status(**at);
            status.is_some_and(|status| {
                let mut held = status.shards.iter();
                held.any(|held| {
                    held.role == kv_core::raft::Role::Leader && shards.contains(&held.shard)
                })
            })
        };
        places.iter().find(leads).copied()
    });
    cluster.kill(victim);
    victim
}

fn wait_until_settled(client: &Client, member_count: usize) {
    wait::until("all shards to be moved", || {
        let map = client.map().ok()?.map;
        (map.members.len() == member_count && !map.is_moving()).then_some(())
    });
}

#[test]
fn rule_c51_members_change_under_load_and_sigkill_without_a_failed_call() {
    let (pause, rounds) = match Scale::from_env() {
        Scale::Ci => (300, 1),
        Scale::Full => (5_000, 3),
    };
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let client = cluster.client();
    let load = Load::new();
    thread::scope(|scope| {
        for number in 0..CLIENT_COUNT {
            let (load, client) = (&load, client.clone());
            scope.spawn(move || load.run(&client, number));
        }
        // The clients end, whatever happens here.
        let _stop = StopAtEnd(&load);
        load.go_on(pause);
        let mut members = vec![0, 1, 2];
        for _ in 0..rounds {
            members = grow_and_shrink(&mut cluster, &client, &load, &members, pause);
        }
        let output = kv(&cluster, &members, &["cluster", "status"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("every shard survives 1 more failure"), "{said}");
    });
    let failed = load.failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} calls failed: {failed:#?}", failed.len());
    let wrong: Vec<_> = load
        .acknowledged
        .into_inner()
        .unwrap()
        .into_iter()
        .filter(|(key, value)| {
            let found = wait::until("a read", || client.get(key.clone()).ok());
            found.map(|found| found.value) != Some(Value::string(value.clone()))
        })
        .collect();
    assert!(wrong.is_empty(), "lost or wrong: {wrong:?}");
}

struct StopAtEnd<'a>(&'a Load);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// From three members to five and back to three, of which one was there before.
fn grow_and_shrink(
    cluster: &mut Cluster,
    client: &Client,
    load: &Load,
    members: &[usize],
    pause: usize,
) -> Vec<usize> {
    let mut all = members.to_vec();
    all.push(cluster.start_another(true));
    let victim = kill_leader_of_a_move(cluster, client, members);
    load.go_on(pause / 3);
    cluster.restart(victim);
    wait_until_settled(client, 4);
    let fifth = cluster.start_another(false);
    let address = cluster.address(fifth);
    wait::until("an answer of the empty node", || cluster.status(fifth));
    check(cluster, members, &["add-node", &address], 0, &["joins the cluster", "is a member"]);
    all.push(fifth);
    wait_until_settled(client, 5);
    load.go_on(pause);
    let ids = map(client).members.iter().map(|member| member.id).collect::<Vec<_>>();
    let stays = &all[2..];
    for (at, id) in [(all[0], ids[0]), (all[1], ids[1])] {
        let id = id.to_string();
        check(cluster, stays, &["remove-node", &id], 0, &["leaves", "is no member any more"]);
        wait::until("the removed node to be told", || {
            cluster.node(at).log().contains("was removed from the cluster").then_some(())
        });
        cluster.stop(at);
        load.go_on(pause / 3);
    }
    stays.to_vec()
}

#[test]
fn operators_are_told_what_happens_and_why_not() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let all = &[0, 1, 2];
    check(&cluster, all, &["plan", "add-node"], 0, &["the next node would be n4", "shards move"]);
    check(
        &cluster,
        all,
        &["plan", "remove-node", "3"],
        0,
        &["s0    n1 n2 n3 -> n1 n2", "17 shards move", "survives 0 failures, before 1"],
    );
    let unknown = &["n9 is not a member", "Nothing was changed"];
    check(&cluster, all, &["remove-node", "9"], 2, unknown);
    check(&cluster, all, &["remove-node", "9", "--force"], 2, unknown);
    check(&cluster, all, &["replace-node", "1", "n9"], 2, unknown);
    check(&cluster, all, &["replace-node", "1", "1"], 2, &["n1 cannot replace itself"]);
    check(&cluster, all, &["transfer-leader", "1", "9"], 2, unknown);
    check(&cluster, all, &["transfer-leader", "99", "1"], 2, &["there is no shard s99"]);
    check(&cluster, all, &["remove-node", "one"], 2, &["not a node's id, like n2 or 2"]);
    let other = cluster.address(1);
    check(&cluster, all, &["add-node", &other], 0, &["n2 was a member already"]);

    let before = status(&cluster, all);
    let shards = before["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 17);
    assert!(shards.iter().all(|shard| shard["survives"] == json!(1)), "{before}");
    let to = if shards[5]["leader"] == json!(1) { "n2" } else { "n1" };
    check(&cluster, all, &["transfer-leader", "s5", to], 0, &[&format!("{to} leads s5")]);

    cluster.kill(2);
    let rest = &[0, 1];
    check(&cluster, rest, &["status"], 0, &["17 survive no further failure", "is unreachable"]);
    let risk = &["would have no quorum among its new voters: n3 unreachable", "--force"];
    check(&cluster, rest, &["remove-node", "2"], 2, risk);
    check(
        &cluster,
        rest,
        &["remove-node", "n2", "--force", "--no-wait"],
        0,
        &["n2 leaves the cluster", "--force: s0 would have no quorum", "decided"],
    );
    // Whoever is asked may not have heard of it yet.
    wait::until("a node to tell that n2 leaves", || {
        let after = status(&cluster, rest);
        (after["nodes"][1]["state"] == json!("leaving")).then_some(())
    });
}

#[test]
fn a_node_with_a_wiped_disk_returns_as_a_new_member() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let client = cluster.client();
    client.put("k", "v").unwrap();
    cluster.kill(2);
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    cluster.restart(2);
    wait::until("the wiped node to be told", || {
        cluster.node(2).log().contains("run 'kv cluster replace-node 3 NEW'").then_some(())
    });
    check(&cluster, &[0, 1], &["status"], 0, &["is not the member that was there"]);
    // The advice is followed, with a crash in between.
    cluster.kill(2);
    cluster.start_with(2, cluster.joining_command(2));
    wait::until("the new member", || (map(&client).members.len() == 4).then_some(()));
    cluster.kill(2);
    cluster.start_with(2, cluster.joining_command(2));
    let done = ["n3 leaves the cluster, and n4 takes over", "n3 is no member any more"];
    check(&cluster, &[0, 1], &["replace-node", "3", "4"], 0, &done);
    let members: Vec<_> = map(&client).members.iter().map(|member| member.id.0).collect();
    assert_eq!(members, [1, 2, 4], "an id is given once");
    // Members start by their data directory alone.
    for at in 0..3 {
        cluster.kill(at);
        cluster.start_with(at, cluster.waiting_command(at));
    }
    cluster.wait_until_ready();
    assert_eq!(client.get("k").unwrap().unwrap().value, Value::string("v"));
}
