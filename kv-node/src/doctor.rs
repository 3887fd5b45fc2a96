//! `kv-node doctor`: what a data directory holds and what is wrong with it, while no node uses it.
//!
//! Nothing is changed and nothing is repaired. It verifies every checksum first and then measures
//! the disk, so that a disk that is about to fail is read before it is written.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_storage::doctor::{self, DoctorError, Finding, GroupReport, Part, Probe, Report};
use kv_storage::vfs::{OsVfs, Vfs};

use crate::args::DoctorArgs;
use crate::error::{ExitCode, NodeError};

/// Above this a sync is so slow that elections and clients notice: a quarter of a heartbeat.
const SYNC_SLOW: Duration = Duration::from_millis(25);

/// Examines a directory and prints what it finds. Returns how the process ends.
///
/// # Errors
/// [`NodeError`] if the directory cannot be examined. *Nothing was changed.*
pub(crate) fn run(args: &DoctorArgs) -> Result<std::process::ExitCode, NodeError> {
    let path = &args.data_dir;
    let unusable = |source| NodeError::DataDir { path: path.clone(), source };
    // Opening a missing directory would make it.
    if !path.is_dir() {
        return Err(unusable(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no such directory",
        )));
    }
    let vfs: Arc<dyn Vfs> = Arc::new(OsVfs::new(path.clone()).map_err(unusable)?);
    let report = doctor::check(vfs.clone()).map_err(|error| refused(path, error))?;
    let mut out = io::stdout().lock();
    print_report(&mut out, &report).map_err(unusable)?;
    if args.skip_probe {
        writeln!(out, "disk       not measured").map_err(unusable)?;
    } else {
        let begin = Instant::now();
        match doctor::probe(&*vfs, &mut || begin.elapsed()) {
            Ok(probe) => print_probe(&mut out, &probe).map_err(unusable)?,
            Err(error @ DoctorError::NoSpace { .. }) => {
                writeln!(out, "disk       not measured: {error}").map_err(unusable)?;
            }
            Err(error) => return Err(refused(path, error)),
        }
    }
    print_findings(&mut out, &report.findings).map_err(unusable)?;
    Ok(match report.findings.is_empty() {
        true => std::process::ExitCode::SUCCESS,
        false => ExitCode::Damaged.into(),
    })
}

fn refused(path: &Path, source: DoctorError) -> NodeError {
    NodeError::Doctor { path: path.to_owned(), source }
}

fn print_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    match &report.identity {
        None => writeln!(out, "identity   none"),
        Some(identity) => {
            let cluster = match &identity.cluster {
                Some(record) => format!("cluster {}", record.id),
                None => "no cluster yet".into(),
            };
            let (node, name) = (identity.node, &identity.cluster_name);
            writeln!(out, "identity   {node} of {name:?}, {cluster}")
        }
    }?;
    print_part(out, "log", &report.log)?;
    print_part(out, "tree", &report.tree)?;
    for (shard, GroupReport { floor, last, applied }) in &report.groups {
        let applied = applied.map_or("unknown".into(), |applied| applied.to_string());
        writeln!(
            out,
            "{:<10} log from {floor} to {last}, applied and flushed {applied}",
            shard.to_string()
        )?;
    }
    Ok(())
}

fn print_part(out: &mut dyn Write, name: &str, part: &Part) -> io::Result<()> {
    let Part { file_count, bytes_verified } = part;
    writeln!(out, "{name:<10} {file_count} files, {bytes_verified} bytes verified")
}

fn print_probe(out: &mut dyn Write, probe: &Probe) -> io::Result<()> {
    let Probe { sequential_bytes_per_second, append_median, append_p99, append_max } = probe;
    let millis = |time: &Duration| time.as_secs_f64() * 1e3;
    writeln!(
        out,
        "disk       sync of 4 KiB: median {:.2} ms, 99 % {:.2} ms, longest {:.2} ms; sequential writing {} MB/s",
        millis(append_median),
        millis(append_p99),
        millis(append_max),
        sequential_bytes_per_second / 1_000_000,
    )?;
    if *append_p99 > SYNC_SLOW {
        writeln!(
            out,
            "           slow: every write of a client waits for a sync on a majority of the nodes"
        )?;
    }
    Ok(())
}

fn print_findings(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    for Finding { file, offset, what, meaning, advice } in findings {
        writeln!(out, "\nFOUND      {file}, byte {offset}: {what}")?;
        writeln!(out, "means      {meaning}")?;
        writeln!(out, "do         {advice}")?;
    }
    match findings.len() {
        0 => writeln!(out, "verdict    nothing is wrong with what is stored"),
        count => writeln!(out, "\nverdict    {count} found"),
    }
}
