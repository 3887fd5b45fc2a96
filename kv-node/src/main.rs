//! `kv-node`: one node of the key-value store, on tokio.
//!
//! This is the production driver of [`kv_core::node::Node`]. It owns the sockets, the clock and the
//! disk, feeds what happens into the node and carries out what the node puts out. It makes no
//! protocol decision: those are in kv-core, where the simulator tests them.
//!
//! - [`executor`]: one thread per node owns the core and calls it. Start reading there.
//! - [`disk`]: two more threads per node own the log, which makes many appends durable with one
//!   sync, and the applied state.
//! - [`listener`]: accepts connections of peers and clients. [`links`]: connections to the peers.
//!   [`frames`]: bytes.
//! - [`join`]: from an empty data directory to a member of a cluster that is there.
//! - [`admin`]: status over HTTP.
//! - [`dev`]: several nodes in one process, to try things out.
//! - [`doctor`]: what a data directory holds, and what is wrong with it.
//!
//! A panic anywhere aborts the process: a node that is half dead would be worse than one that is
//! dead, because others would go on counting on it.
//!
//! **What this leaves out:** TLS and authentication (so nothing listens beyond this machine without
//! `--insecure`), and executors on more than one core.

mod admin;
mod args;
mod counters;
mod dev;
mod disk;
mod doctor;
mod error;
mod executor;
mod frames;
mod join;
mod links;
mod listener;
mod random;
mod run;
mod scheduling;
mod settings;

use std::io::IsTerminal as _;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command};
use crate::error::NodeError;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    start_logging();
    abort_on_panic();
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kv-node: {}", error::chain(&error));
            error.exit_code().into()
        }
    }
}

fn run(args: Args) -> Result<std::process::ExitCode, NodeError> {
    if kv_core::mutants::compiled_in() {
        return Err(NodeError::Mutants);
    }
    match args.command {
        Command::Start(args) => {
            scheduling::choose(args.scheduling);
            run::start(args.into())?;
        }
        Command::Dev(args) => dev::run(&args)?,
        Command::Doctor(args) => return doctor::run(&args),
    }
    Ok(std::process::ExitCode::SUCCESS)
}

fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            "{panic}\nthis is a bug; the process stops at once and can be started again"
        );
        std::process::abort();
    }));
}
