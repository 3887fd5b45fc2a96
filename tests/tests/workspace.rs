//! The shape of the workspace.
//!
//! The architecture is a statement about what knows what. A dependency that is not on this list
//! breaks it: a core that knows its store, a checker that shares code with what it checks, a
//! production program with the simulator in it.

use std::collections::BTreeSet;

use kv_tests::build;
use serde_json::Value;

/// Who depends on whom, of any kind.
const EDGES: [(&str, &str); 13] = [
    ("kv-storage", "kv-core"),
    ("kv-client", "kv-core"),
    ("kv-node", "kv-core"),
    ("kv-node", "kv-storage"),
    ("kv-sim", "kv-core"),
    ("kv-sim", "kv-storage"),
    ("kv-sim", "kv-check"),
    ("kv-cli", "kv-core"),
    ("kv-cli", "kv-client"),
    ("kv-tests", "kv-core"),
    ("kv-tests", "kv-storage"),
    ("kv-tests", "kv-client"),
    ("kv-tests", "kv-check"),
];

fn packages() -> Vec<Value> {
    let output = build::cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let Value::Array(packages) = metadata["packages"].take() else { panic!("no packages") };
    packages
}

fn name(value: &Value) -> String {
    value["name"].as_str().expect("everything has a name").to_owned()
}

/// Every dependency of every package of the workspace.
fn dependencies() -> BTreeSet<(String, String)> {
    let of = |package: &Value| {
        let from = name(package);
        let all = package["dependencies"].as_array().expect("a list").clone();
        all.into_iter().map(move |dependency| (from.clone(), name(&dependency)))
    };
    packages().iter().flat_map(of).collect()
}

#[test]
fn crates_depend_on_each_other_as_designed_and_not_otherwise() {
    let members: BTreeSet<_> = packages().iter().map(name).collect();
    let actual: BTreeSet<_> =
        dependencies().into_iter().filter(|(_, to)| members.contains(to)).collect();
    let expected: BTreeSet<_> =
        EDGES.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    let surplus: Vec<_> = actual.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&actual).collect();
    assert!(surplus.is_empty(), "edges that are not allowed: {surplus:?}");
    assert!(missing.is_empty(), "edges that the design names and nobody needs: {missing:?}");
}

#[test]
fn only_the_simulator_knows_madsim() {
    let users: Vec<_> =
        dependencies().into_iter().filter(|(_, to)| to.starts_with("madsim")).collect();
    assert!(users.iter().all(|(from, _)| from == "kv-sim"), "{users:?}");
}

#[test]
fn nobody_but_the_simulator_can_turn_the_planted_bugs_on() {
    for package in packages() {
        let features = &package["features"];
        let holds = features.get("mutants").is_some();
        let allowed = ["kv-core", "kv-storage", "kv-sim"].contains(&name(&package).as_str());
        assert!(!holds || allowed, "{} has a feature `mutants`", name(&package));
        let default = features["default"].as_array().cloned().unwrap_or_default();
        assert!(default.is_empty(), "{} turns on {default:?} by default", name(&package));
    }
}
