//! Real processes, real files, SIGKILL.
//!
//! What would go wrong: a node that acknowledges before a majority has synced loses keys when all
//! are killed at once; one whose log does not survive a restart loses them even one at a time; a
//! client whose retries are not the same request would still pass here, which is why the simulator
//! checks that.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kv_client::blocking::Client;
use kv_core::op::Value;
use kv_tests::cluster::Cluster;
use kv_tests::{Scale, wait};

/// Writers at a time: enough that appends share a sync.
const WRITER_COUNT: usize = 16;

fn key(number: usize) -> String {
    format!("key-{number:06}")
}

fn value(number: usize) -> String {
    format!("value of {number}, {}", "x".repeat(number % 300))
}

/// Writes this writer's share of the keys, each until it is acknowledged.
fn write_share(client: &Client, writer: usize, key_count: usize, acknowledged: &AtomicUsize) {
    for number in (writer..key_count).step_by(WRITER_COUNT) {
        wait::until("a write to be acknowledged", || client.put(key(number), value(number)).ok());
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads this reader's share of the keys and tells which are not as written.
fn read_share(client: &Client, reader: usize, key_count: usize) -> Vec<String> {
    let is_wrong = |number: &usize| {
        let found = wait::until("a read", || client.get(key(*number)).ok());
        found.map(|found| found.value) != Some(Value::string(value(*number)))
    };
    (reader..key_count).step_by(WRITER_COUNT).filter(is_wrong).map(key).collect()
}

/// The node at place `at` has synced, and not more often than it has written.
fn check_syncs(cluster: &Cluster, at: usize) {
    let log = wait::until("a status", || cluster.status(at)).log;
    assert!(log.sync_count > 0, "node {at} has synced: {log:?}");
    assert!(log.sync_count <= log.batch_count, "node {at} syncs once per batch: {log:?}");
}

/// Two nodes, one after the other, come back at other addresses and are told of one peer only. The
/// third one, which runs all the time, is never told anything by an operator.
#[test]
fn nodes_that_move_are_found_by_one_seed() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let client = cluster.client();
    for at in [1, 2] {
        cluster.kill(at);
        cluster.restart_elsewhere(at, 0);
        cluster.wait_until_ready();
        wait::until("all to know where all are", || {
            let statuses: Option<Vec<_>> =
                (0..cluster.size()).map(|at| cluster.status(at)).collect();
            let mut peers = statuses?.into_iter().flat_map(|status| status.peers);
            let is_known = |address: &str, node: u64| {
                let at = usize::try_from(node - 1).expect("few nodes");
                address == cluster.address(at)
            };
            peers.all(|peer| is_known(&peer.address.0, peer.node.0)).then_some(())
        });
    }
    // The client knew the old addresses; of those only the first node's is still one.
    for number in 0..20 {
        client.put(key(number), value(number)).expect("the client finds the others");
    }
}

#[test]
fn acknowledged_keys_survive_sigkill_of_each_node_and_of_all() {
    let key_count = match Scale::from_env() {
        Scale::Ci => 2_000,
        Scale::Full => 10_000,
    };
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let client = cluster.client();
    let acknowledged = AtomicUsize::new(0);
    let wait_for = |count: usize| {
        wait::until("acknowledged writes", || {
            (acknowledged.load(Ordering::Relaxed) >= count).then_some(())
        });
    };
    thread::scope(|scope| {
        for writer in 0..WRITER_COUNT {
            let (client, acknowledged) = (client.clone(), &acknowledged);
            scope.spawn(move || write_share(&client, writer, key_count, acknowledged));
        }
        for victim in 0..cluster.size() {
            wait_for(key_count * (victim + 1) / 6);
            check_syncs(&cluster, victim);
            cluster.kill(victim);
            // The other two go on without it.
            wait_for(key_count * (victim + 1) / 6 + key_count / 12);
            cluster.restart(victim);
            cluster.wait_until_ready();
        }
        wait_for(key_count * 5 / 6);
        for node in 0..cluster.size() {
            cluster.kill(node);
        }
        for node in 0..cluster.size() {
            cluster.restart(node);
        }
    });
    assert_eq!(acknowledged.load(Ordering::Relaxed), key_count);
    // Nothing is left that only memory knew.
    for node in 0..cluster.size() {
        cluster.kill(node);
        cluster.restart(node);
    }
    cluster.wait_until_ready();
    let wrong: Vec<_> = thread::scope(|scope| {
        let read = |reader| {
            let client = client.clone();
            scope.spawn(move || read_share(&client, reader, key_count))
        };
        let readers: Vec<_> = (0..WRITER_COUNT).map(read).collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect()
    });
    assert!(wrong.is_empty(), "{} of {key_count} keys are lost or wrong: {wrong:?}", wrong.len());
    (0..cluster.size()).for_each(|at| check_syncs(&cluster, at));
}

/// Policies of all threads of a process: 0 for `SCHED_OTHER`, 3 for `SCHED_BATCH` (proc(5)).
fn policies(process: u32) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let policy = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap();
        // The name may contain spaces; the field behind it is the third.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(41 - 3).unwrap().to_owned()
    };
    threads.map(|thread| policy(thread.unwrap())).collect()
}

#[test]
fn all_threads_of_a_node_are_scheduled_as_told() {
    let mut cluster = Cluster::start(1);
    cluster.wait_until_ready();
    assert_eq!(policies(cluster.node(0).child().id()), BTreeSet::from(["3".to_owned()]));
    cluster.kill(0);
    let mut command = cluster.command(0);
    command.args(["--scheduling", "normal"]);
    cluster.start_with(0, command);
    cluster.wait_until_ready();
    assert_eq!(policies(cluster.node(0).child().id()), BTreeSet::from(["0".to_owned()]));
}
