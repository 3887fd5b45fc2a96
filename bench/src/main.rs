//! Measurements, each a subcommand that prints a Markdown table.

mod engines;
mod machine;
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
    /// The storage engine beside fjall, redb and RocksDB.
    Storage(storage::Args),
    /// One phase set of one engine, in a process of its own.
    #[command(hide = true)]
    StorageOne(storage::OneArgs),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Storage(args) => storage::compare(&args),
        Command::StorageOne(args) => storage::run_one(&args),
    }
}
