//! Builds the programs under test, once per test process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::workspace_root;

/// The program `kv-node`.
pub fn kv_node() -> Command {
    program("kv-node")
}

/// The program `kv`, without endpoints from the environment of the test.
pub fn kv() -> Command {
    let mut command = program("kv");
    command.env_remove("KV_ENDPOINTS");
    command
}

/// The cargo that runs this test.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace_root());
    command
}

/// The simulator, built as by somebody whose environment sets `RUSTFLAGS`, which overrides the
/// repository's switch. In a target directory of its own: other flags make another build of
/// everything.
///
/// # Panics
/// If it does not build.
pub fn simulator_without_switch() -> Command {
    let target = workspace_root().join("target").join("no-switch");
    let mut command = cargo();
    command.args(["build", "-p", "kv-sim", "--message-format=json"]);
    command.env("RUSTFLAGS", "--cfg something_else").env("CARGO_TARGET_DIR", target);
    let programs = executables(command);
    Command::new(&programs["kv-sim"])
}

fn program(name: &str) -> Command {
    static PROGRAMS: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(build);
    Command::new(programs.get(name).unwrap_or_else(|| panic!("cargo built no {name}")))
}

/// Builds in the profile of the test itself; the target directory is inherited.
fn build() -> BTreeMap<String, PathBuf> {
    let mut command = cargo();
    command.args(["build", "-p", "kv-node", "-p", "kv-cli", "--message-format=json"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    executables(command)
}

fn executables(mut command: Command) -> BTreeMap<String, PathBuf> {
    let output = command.stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo builds the programs under test");
    String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect()
}

fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), path.into()))
}
