//! `kv`: the command line of the key-value store.
//!
//! With a command it runs that and exits; without one it reads commands from a prompt. Every answer
//! goes to standard output and every error to standard error, so that output can be piped. The exit
//! code tells what became of the command ([`exit::ExitCode`]): above all, whether anything was
//! changed.

mod args;
mod batch;
mod commands;
mod exit;
mod failure;
mod members;
mod moves;
mod output;
mod repl;
mod scan;
mod shards;
mod status;
mod txn;

use clap::Parser as _;

use crate::args::Args;
use crate::commands::Session;
use crate::exit::ExitCode;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let code = match Session::open(&args) {
        Err(error) => {
            eprintln!("kv: {error:#}");
            ExitCode::Unreachable
        }
        Ok(session) => match args.command {
            Some(command) => session.execute(command),
            None => repl::run(&session),
        },
    };
    code.into()
}
