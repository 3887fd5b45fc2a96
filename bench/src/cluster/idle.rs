//! Three nodes with many shards and nothing to do: what that costs.
//!
//! The bytes that nodes exchange are counted by the test
//! `thousand_idle_shards_have_no_timers_and_say_nearly_nothing` of kv-core, where they are the same
//! every time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use super::nodes::NODE_COUNT;
use super::process::{self, Process};
use super::{ours, until_stopped};

/// How long all shards may take to have leaders.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// Pause between two looks at nodes that are not ready: each look costs them something.
const READY_PAUSE: Duration = Duration::from_millis(250);
/// Time for what follows an election to end.
const SETTLING: Duration = Duration::from_secs(15);

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Count of user shards.
    #[arg(long, default_value_t = 1_024)]
    shards: u32,
    /// How long the nodes are watched.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// A `kv-node` that is built already.
    #[arg(long, value_name = "FILE")]
    kv_node: Option<PathBuf>,
    /// Where the nodes put their files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Measures, until done or told to stop. Either way, no process and no file is left over.
pub fn run(args: &Args) -> Result<()> {
    until_stopped(measure(args))
}

async fn measure(args: &Args) -> Result<()> {
    let program = match &args.kv_node {
        Some(program) => program.clone(),
        None => ours::build().await?,
    };
    let dir = super::directory(args.dir.as_ref())?;
    let dir = tempfile::Builder::new().prefix("idle-").tempdir_in(dir)?;
    let addresses = process::addresses(NODE_COUNT)?;
    ensure!(addresses.len() == NODE_COUNT, "too few free ports");
    let begun = Instant::now();
    let mut nodes = vec![];
    for at in 0..NODE_COUNT {
        let mut command = Command::new(&program);
        ours::arguments(&mut command, at, &dir.path().join(format!("node-{at}")), &addresses);
        command.args(["--shards", &args.shards.to_string()]);
        nodes.push(Process::start(command, &dir.path().join(format!("node-{at}.log")))?);
    }
    while ours::state(&addresses, args.shards, true).await?.is_none() {
        ensure!(begun.elapsed() < READY_DEADLINE, "not all shards have leaders");
        sleep(READY_PAUSE).await;
    }
    let start = begun.elapsed();
    sleep(SETTLING).await;
    let cpu = || nodes.iter().map(|node| process::cpu_seconds(&node.id().to_string()));
    let before: Vec<_> = cpu().collect();
    let watched = Instant::now();
    sleep(Duration::from_secs(args.seconds)).await;
    let watched = watched.elapsed().as_secs_f64();
    println!("{} shards have leaders {:.1} s after the start of empty nodes.\n", args.shards, {
        start.as_secs_f64()
    });
    println!("| node | CPU, of one core | resident memory |");
    println!("|---:|---:|---:|");
    for (at, (before, after)) in before.iter().zip(cpu()).enumerate() {
        let share = (after - before) / watched * 100.0;
        println!("| {} | {share:.2} % | {} MiB |", at + 1, resident_mib(nodes[at].id())?);
    }
    Ok(())
}

/// Memory that a process has now.
fn resident_mib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no resident memory is told")? / 1_024)
}
