//! What a node refuses to start with, before it writes anything.
//!
//! What would go wrong: a node that starts on another one's data speaks in its name and breaks
//! promises that it does not know of; two processes on one directory destroy it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kv_tests::cluster::Cluster;
use kv_tests::process::Process;
use kv_tests::{build, ports, wait};

/// Every file below `dir` with its content.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all
}

fn start(id: u16, cluster: &str, dir: &Path) -> Command {
    let ports = ports::free(3);
    let peers: Vec<_> =
        ports.iter().zip(1..).map(|(port, id)| format!("{id}=127.0.0.1:{port}")).collect();
    let mut command = build::kv_node();
    command.args(["start", "--id", &id.to_string(), "--cluster", cluster]);
    command.args(["--listen", &format!("127.0.0.1:{}", ports[0]), "--peers", &peers.join(",")]);
    command.arg("--data-dir").arg(dir);
    command
}

/// The command ends by itself with `code`, and says what stands in `says`.
#[track_caller]
fn check(command: Command, code: i32, says: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(command, &dir.path().join("log"));
    let status = process.wait();
    let log = process.log();
    assert_eq!(status.code(), Some(code), "{log}");
    for part in says {
        assert!(log.contains(part), "{log} does not say {part:?}");
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_as_it_is() {
    let mut cluster = Cluster::start(1);
    cluster.wait_until_ready();
    cluster.client().put("k", "v").unwrap();
    let dir = cluster.data_dir(0);

    check(start(1, "kv", &dir), 3, &["in use"]);
    cluster.client().put("k", "w").unwrap();

    assert!(cluster.node(0).signal("TERM").success(), "SIGTERM ends a node well");
    let before = content(&dir);
    assert!(before.len() >= 2, "an identity and a log: {:?}", before.keys());
    check(start(1, "other", &dir), 2, &["belongs to cluster \"kv\""]);
    check(start(2, "kv", &dir), 2, &["belongs to node n1"]);
    let identity = dir.join("IDENTITY");
    fs::rename(&identity, cluster.path("IDENTITY")).unwrap();
    check(start(1, "kv", &dir), 3, &["no file IDENTITY"]);
    fs::rename(cluster.path("IDENTITY"), &identity).unwrap();
    assert!(content(&dir) == before, "nothing was written");
}

#[test]
fn mistakes_are_all_listed_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut open = start(1, "kv", &dir);
    open.args(["--admin", "0.0.0.0:9"]);
    check(open, 2, &["--insecure"]);
    let mut wrong = build::kv_node();
    wrong.args(["start", "--id", "1", "--listen", "0.0.0.0:1", "--peers", "1=here,x"]);
    wrong.arg("--data-dir").arg(&dir);
    check(wrong, 2, &["\"1=here\"", "\"x\"", "--listen"]);
    check(start(7, "kv", &dir), 2, &["n7"]);
    assert!(!dir.exists(), "nothing was made");
}

#[test]
fn an_address_in_use_is_refused_before_anything_is_made() {
    let cluster = Cluster::start(1);
    cluster.wait_until_ready();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let address = cluster.address(0);
    let mut command = build::kv_node();
    command.args(["start", "--id", "1", "--listen", &address, "--peers", &format!("1={address}")]);
    command.arg("--data-dir").arg(&dir);
    check(command, 3, &[&format!("cannot listen on {address}")]);
    assert!(!dir.exists(), "nothing was made");
}

/// Inverts a byte of the first segment of a node's log, far before its end.
fn damage_log(dir: &Path) -> String {
    let name = "wal-0000000000000001.log";
    let path = dir.join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[300] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    name.to_owned()
}

/// The doctor ends with `code` and says what stands in `says`.
#[track_caller]
fn check_doctor(dir: &Path, code: i32, says: &[&str]) {
    let mut command = build::kv_node();
    let output = command.args(["doctor", "--skip-probe", "--data-dir"]).arg(dir).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "{text} does not say {part:?}");
    }
}

/// A node that went on with what is left of its log would break promises that it has forgotten;
/// one that stopped without a word would leave the operator to guess.
#[test]
fn a_damaged_node_says_so_counts_for_nothing_and_is_repaired_by_the_others() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let client = cluster.client();
    for number in 0..20 {
        client.put(format!("k{number}"), format!("v{number}")).unwrap();
    }
    cluster.kill(2);
    let dir = cluster.data_dir(2);
    check_doctor(&dir, 0, &["nothing is wrong"]);
    let name = damage_log(&dir);
    let before = content(&dir);
    check_doctor(&dir, 1, &[&name, "start the node", "1 found"]);
    assert!(content(&dir) == before, "the doctor changes nothing");

    // With one whole node there is no majority that could say what the damaged one has lost.
    cluster.kill(1);
    cluster.restart(2);
    let damage = wait::until("the damaged node answers", || cluster.status(2)).damage;
    let damage = damage.expect("the node knows that it is damaged");
    assert_eq!(damage.file, name);
    assert!(damage.offset <= 300, "{damage}");
    assert!(dir.join(format!("damaged-0-{name}")).exists(), "its data are kept");

    cluster.restart(1);
    wait::until("the node is repaired", || {
        cluster.status(2).filter(|status| status.damage.is_none())
    });
    assert!(!dir.join(format!("damaged-0-{name}")).exists(), "nobody needs them any more");
    cluster.kill(0);
    for number in 0..20 {
        let found = client.get(format!("k{number}")).unwrap().unwrap();
        assert_eq!(found.value, kv_core::op::Value::string(format!("v{number}")));
        client.put(format!("k{number}"), "new").unwrap();
    }
}

#[test]
fn the_doctor_refuses_a_directory_that_is_missing_or_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none");
    check_doctor(&missing, 3, &["there is no such directory"]);
    assert!(!missing.exists());
    let cluster = Cluster::start(1);
    cluster.wait_until_ready();
    check_doctor(&cluster.data_dir(0), 3, &["in use"]);
}
