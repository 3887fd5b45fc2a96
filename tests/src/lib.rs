//! What tests that cross crates share: the programs under test, processes, and waiting.
//!
//! The tests themselves are in `tests/tests/`. They run the real programs, which they build first:
//! a test run of the workspace does not build another package's binaries.
//!
//! Nothing here sleeps to let something happen: everything that takes time is polled until it is
//! so, or a deadline passes and the test fails with what it waited for.

pub mod build;
pub mod cluster;
pub mod ports;
pub mod process;
pub mod raw;
pub mod wait;

use std::path::{Path, PathBuf};

/// The root of the workspace.
///
/// # Panics
/// If the package was moved.
pub fn workspace_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the package is a folder of the workspace").to_owned()
}

/// How much a long test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Enough to notice a mistake within a minute. The default.
    Ci,
    /// What the project promises.
    Full,
}

impl Scale {
    /// From `KV_TEST_SCALE`: `ci` or `full`.
    ///
    /// # Panics
    /// On any other value: a typo must not make a test weaker.
    pub fn from_env() -> Self {
        match std::env::var("KV_TEST_SCALE").as_deref() {
            Err(_) | Ok("ci") => Self::Ci,
            Ok("full") => Self::Full,
            Ok(other) => panic!("KV_TEST_SCALE is ci or full, not {other:?}"),
        }
    }
}
