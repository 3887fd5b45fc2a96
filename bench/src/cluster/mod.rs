//! Three nodes beside three of etcd, on one machine: throughput, and failover.
//!
//! Each round starts every cluster anew in an empty directory on the same disk, one after the
//! other, fills in the keys, and measures writes and then linearizable reads. Rounds are
//! interleaved, so that a slow hour of the machine meets all alike; tables show medians.
//! Both stores sync before they acknowledge a write. Both are asked by the same closed-loop
//! clients, in this process; ours through `kv-client`, etcd through as little gRPC as it takes.
//!
//! # What this leaves out
//!
//! Networks: everything is on the loopback interface. More machines: nodes and clients share the
//! cores of one, so that what is compared is mostly CPU time per operation.

mod client;
mod etcd;
mod failover;
mod grpc;
pub mod idle;
mod load;
mod nodes;
mod ours;
mod process;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use self::load::Operation;
use self::nodes::{Cluster, Kind, Programs};
use self::report::{Failover, Report, Sample};

/// Time after which a client of etcd gives a call up while throughput is measured.
const PATIENCE: Duration = Duration::from_secs(10);
/// Kills of one cluster in a row, before it is the next one's turn.
const KILLS_IN_A_ROW: usize = 3;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How often the throughput of each store is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes, after a second to warm up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Clients that ask without pause.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections, or sets of them, that clients of ours share.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Connections that clients of etcd share, spread over its nodes.
    #[arg(long, default_value_t = 16)]
    etcd_connections: usize,
    /// Kills of each store's leader.
    #[arg(long, default_value_t = 9)]
    kills: usize,
    /// Kill nobody.
    #[arg(long)]
    skip_failover: bool,
    /// Measure only ours.
    #[arg(long)]
    no_etcd: bool,
    /// A `kv-node` that is built already, for instance to compare two of them.
    #[arg(long, value_name = "FILE")]
    kv_node: Option<PathBuf>,
    /// Where to write everything that was measured, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the nodes put their files: on the disk that is to be measured.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Measures, until done or told to stop. Either way, no process and no file is left over.
pub fn run(args: &Args) -> Result<()> {
    until_stopped(compare(args))
}

/// Runs `measure` to its end, or until this process is told to stop.
fn until_stopped(measure: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            result = measure => result,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("told to stop"),
        }
    })
}

/// Where nodes put their files, made if it is not there.
fn directory(chosen: Option<&PathBuf>) -> Result<PathBuf> {
    let dir = match chosen {
        Some(dir) => dir.clone(),
        None => std::env::current_dir()?.join("target"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

async fn compare(args: &Args) -> Result<()> {
    let ours = match &args.kv_node {
        Some(program) => program.clone(),
        None => ours::build().await?,
    };
    let programs = Programs { ours, etcd: etcd_program(args) };
    let dir = directory(args.dir.as_ref())?;
    let mut report = Report::new(args.clients);
    if let Some(etcd) = &programs.etcd {
        report.etcd_version = Some(etcd::version(etcd)?);
    }
    throughput(args, &programs, &dir, &mut report).await?;
    if !args.skip_failover {
        failover(args, &programs, &dir, &mut report).await?;
    }
    report.print();
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{:#}\n", report.json()))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn etcd_program(args: &Args) -> Option<PathBuf> {
    let found = if args.no_etcd { None } else { etcd::find() };
    if found.is_none() && !args.no_etcd {
        println!(
            "etcd is left out: it is not installed (apt-get install etcd-server), \
             or set ETCD to its path.\n"
        );
    }
    found
}

async fn throughput(
    args: &Args,
    programs: &Programs,
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
    let kinds =
        if programs.etcd.is_some() { vec![Kind::Ours, Kind::Etcd] } else { vec![Kind::Ours] };
    for round in 0..args.rounds {
        for kind in &kinds {
            eprintln!("round {} of {}: {}", round + 1, args.rounds, kind.name());
            let cluster = Cluster::start(*kind, programs, dir).await?;
            eprintln!("  processes {:?}", cluster.process_ids());
            let connections = match kind {
                Kind::Ours => args.connections,
                Kind::Etcd | Kind::EtcdTuned => args.etcd_connections,
            };
            let clients = cluster.clients(args.clients, connections, PATIENCE).await?;
            load::fill(&clients).await?;
            for operation in [Operation::Put, Operation::Get] {
                let duration = Duration::from_secs(args.seconds);
                let sample = sample(&cluster, &clients, operation, duration).await?;
                eprintln!("  {operation:?}: {:.0} per second", sample.measured.rate);
                report.samples.push(sample);
            }
        }
    }
    Ok(())
}

async fn sample(
    cluster: &Cluster,
    clients: &[client::Client],
    operation: Operation,
    duration: Duration,
) -> Result<Sample> {
    let state = cluster.wait_until_ready().await?;
    let mut before = (0.0, 0.0);
    let measured = load::measure(clients, operation, duration, || {
        before = (cluster.cpu_seconds(), process::cpu_seconds("self"));
    });
    let measured = measured.await;
    let cpu = (cluster.cpu_seconds() - before.0, process::cpu_seconds("self") - before.1);
    let after = cluster.wait_until_ready().await?;
    let per_operation = |seconds: f64| seconds * 1e6 / measured.count.max(1) as f64;
    Ok(Sample {
        kind: cluster.kind(),
        operation,
        server_cpu_us: per_operation(cpu.0),
        client_cpu_us: per_operation(cpu.1),
        sync_count: after.sync_count - state.sync_count,
        entry_count: after.entry_count - state.entry_count,
        measured,
    })
}

async fn failover(args: &Args, programs: &Programs, dir: &Path, report: &mut Report) -> Result<()> {
    let kinds = match programs.etcd {
        Some(_) => vec![Kind::Ours, Kind::Etcd, Kind::EtcdTuned],
        None => vec![Kind::Ours],
    };
    for first in (0..args.kills).step_by(KILLS_IN_A_ROW) {
        for kind in &kinds {
            let mut cluster = Cluster::start(*kind, programs, dir).await?;
            for kill in first..args.kills.min(first + KILLS_IN_A_ROW) {
                let gap_ms = failover::kill_leader(&mut cluster, args.clients).await?;
                eprintln!("kill {} of {}: {}: {gap_ms:.0} ms", kill + 1, args.kills, kind.name());
                report.failovers.push(Failover { kind: *kind, gap_ms });
            }
        }
    }
    Ok(())
}
