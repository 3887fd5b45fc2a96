//! Measurements, each a subcommand that prints Markdown tables.

mod check;
mod cluster;
#[cfg(feature = "storage-peers")]
mod engines;
#[cfg(feature = "storage-peers")]
mod machine;
mod stats;
#[cfg(feature = "storage-peers")]
mod storage;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures this project beside its peers")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The history checker: verdicts and reading, and beside Porcupine.
    Check(check::Args),
    /// Three nodes on this machine beside three of etcd: throughput and failover.
    Cluster(cluster::Args),
    /// Three nodes with many shards and nothing to do: CPU time and memory.
    Idle(cluster::idle::Args),
    /// The storage engine beside fjall, redb and RocksDB.
    #[cfg(feature = "storage-peers")]
    Storage(storage::Args),
    /// One phase set of one engine, in a process of its own.
    #[cfg(feature = "storage-peers")]
    #[command(hide = true)]
    StorageOne(storage::OneArgs),
    /// The storage engine beside fjall, redb and RocksDB; needs `--features storage-peers`.
    #[cfg(not(feature = "storage-peers"))]
    Storage {
        /// Whatever was typed behind it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _rest: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Idle(args) => cluster::idle::run(&args),
        #[cfg(feature = "storage-peers")]
        Command::Storage(args) => storage::compare(&args),
        #[cfg(feature = "storage-peers")]
        Command::StorageOne(args) => storage::run_one(&args),
        #[cfg(not(feature = "storage-peers"))]
        Command::Storage { .. } => anyhow::bail!(
            "this build has no peers to measure the storage beside; type\n  \
             cargo run --release --manifest-path bench/Cargo.toml --features storage-peers -- storage"
        ),
    }
}
