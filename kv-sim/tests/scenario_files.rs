//! The scenarios of the repository.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use kv_sim::scenario::load;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
}

#[test]
fn every_scenario_can_be_read_and_can_pass() {
    let mut found = Vec::new();
    files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../sim-scenarios")), &mut found);
    assert!(found.len() >= 6, "{found:?}");
    for path in found {
        let scenario = load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        assert!(
            scenario.safety >= kv_sim::engine::SAFETY_MIN,
            "{} would always be invalid",
            path.display()
        );
    }
}
