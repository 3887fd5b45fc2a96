//! Processes that end with this one, ports for them, and the CPU time that they took.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};

/// Clock ticks per second in `/proc`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Ports are taken from below the range from which Linux gives ports to outgoing connections, so
/// that none is taken while its node is down.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A running process; killed with SIGKILL when dropped.
pub struct Process(Child);

impl Process {
    /// Starts `command`; what it prints is added to the file `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds of CPU time that a process has taken so far; `self` is this one.
pub fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the times are the 12th and 13th behind it.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let times =
        behind.split_whitespace().skip(11).take(2).filter_map(|time| time.parse::<f64>().ok());
    times.sum::<f64>() / TICKS_PER_SECOND
}

/// `count` addresses on this machine that nobody uses.
pub fn addresses(count: usize) -> Result<Vec<String>> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut held = vec![];
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = (start.wrapping_add(u32::from(step)) % PORTS.len() as u32) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", PORTS.start + offset)) {
            held.push(listener);
        }
        if held.len() == count {
            break;
        }
    }
    let addresses: std::io::Result<Vec<_>> =
        held.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect();
    addresses.context("no free ports")
}
