//! The simulator without its switch.
//!
//! What would go wrong: somebody has `RUSTFLAGS` set, which overrides the repository's own
//! configuration; the simulator then runs on real time and real randomness, or does not compile,
//! and nobody says why.

use kv_tests::build;

#[test]
fn simulator_without_its_switch_says_what_to_type() {
    let mut program = build::simulator_without_switch();
    let output = program.arg("--help").output().expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("env -u RUSTFLAGS cargo run -p kv-sim"), "{told}");
}
