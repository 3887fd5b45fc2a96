//! The simulator: runs distributed systems in simulated time, with faults, and checks what they do.
//!
//! [`engine`] is generic: it steps any [`engine::Machine`] and knows nothing of keys and values.
//! [`scenario`] reads what to run. [`cli`] does it, for one seed or for many, and reports.
//!
//! Simulation needs the switch `--cfg madsim`, which the repository's `.cargo/config.toml` sets.
//! Without it (`RUSTFLAGS` in the environment overrides that file) nothing but this crate's exit
//! codes is built, and the program says what to type.

#[cfg(madsim)]
pub mod cli;
#[cfg(madsim)]
pub mod engine;
mod exit;
#[cfg(madsim)]
pub mod kv;
#[cfg(madsim)]
mod measured;
#[cfg(madsim)]
pub mod protocol;
#[cfg(madsim)]
pub mod report;
#[cfg(madsim)]
mod runner;
#[cfg(madsim)]
pub mod scenario;
#[cfg(madsim)]
mod sweep;
#[cfg(madsim)]
mod zoo;

pub use exit::Exit;
