//! Reads at any replica, with the real programs.
//!
//! What would go wrong: a session does not find what it wrote, or what another one wrote whose token it
//! has; the guide says what is not so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::Duration;

use kv_client::{ClientError, Consistency};
use kv_core::client::CallError;
use kv_core::id::Timestamp;
use kv_core::op::{Found, Value};
use kv_core::wire::Refusal;
use kv_tests::cluster::Cluster;
use kv_tests::workspace_root;

fn text(found: Option<Found>) -> Option<String> {
    let Value::String(bytes) = found?.value;
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

const LEVELS: [Consistency; 3] = [
    Consistency::Linearizable,
    Consistency::Sequential,
    Consistency::Stale { max_age: Duration::ZERO },
];

#[test]
fn a_session_finds_what_it_wrote_on_every_node() {
    let cluster = Cluster::ready();
    let client = cluster.client();
    for round in 0..20 {
        let key = format!("key{}", round % 3);
        client.put(key.clone(), round.to_string()).unwrap();
        for level in LEVELS {
            let found = text(client.get_with(key.clone(), level).unwrap());
            assert_eq!(found, Some(round.to_string()), "{level}");
        }
    }
    client.delete("key0").unwrap();
    for level in LEVELS {
        assert_eq!(client.get_with("key0", level).unwrap(), None, "{level}");
    }
}

#[test]
fn a_token_carries_a_session_to_another_client() {
    let cluster = Cluster::ready();
    let (one, other) = (cluster.client(), cluster.client());
    for round in 0..10 {
        one.put("key", round.to_string()).unwrap();
        other.join_session(one.session_token().unwrap()).unwrap();
        let found = other.get_with("key", Consistency::Sequential).unwrap();
        assert_eq!(text(found), Some(round.to_string()));
    }
    one.delete("key").unwrap();
    // The delete told no version: the token is taken from the oracle.
    other.join_session(one.session_token().unwrap()).unwrap();
    assert_eq!(other.get_with("key", Consistency::Sequential).unwrap(), None);
    other.join_session(Timestamp(u64::MAX - 1)).unwrap();
    let error = other.get_with("key", Consistency::Sequential).unwrap_err();
    let ClientError::Call { call: CallError::Refused(refusal), .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(refusal, Refusal::FutureTimestamp { .. }), "{refusal}");
}

#[test]
fn a_level_that_makes_no_sense_is_explained() {
    let cluster = Cluster::ready();
    for (args, expected) in [
        (&["get", "k", "--consistency", "eventual"][..], "not linearizable, sequential, or stale:"),
        (&["get", "k", "--consistency", "stale:5"], "like stale:5s"),
        (&["get", "k", "--consistency", "stale:5s", "--at", "7"], "cannot be used with"),
    ] {
        let printed = cluster.kv(args, "");
        assert_eq!(printed.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8(printed.stderr).unwrap();
        assert!(said.contains(expected), "{said}");
    }
    let printed = cluster.kv(&[], "begin\nget k --consistency sequential\nrollback\n");
    let said = String::from_utf8(printed.stderr).unwrap();
    assert!(said.contains("get takes no --consistency"), "{said}");
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
    let page = fs::read_to_string(workspace_root().join("docs/guide/consistency.md")).unwrap();
    let block = |mark: &str| {
        let (_, rest) = page.split_once(&format!("```{mark}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let printed = cluster.kv(&[], &block("session"));
    let stdout = String::from_utf8(printed.stdout).unwrap();
    let lines: Vec<_> = stdout.lines().map(without_any_version).collect();
    assert_eq!(lines, block("output").lines().collect::<Vec<_>>());
    for line in block("sh").lines() {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        let code = cluster.kv(&words, "").status.code();
        assert_eq!(code, Some(1), "{line}: the key does not exist");
    }
}
