//! How fast a disk is, as the log and the tables use it.

use std::io;
use std::time::Duration;

use kv_core::rng::Rng;

use super::{DoctorError, lock};
use crate::vfs::{Vfs, VfsFile};

/// The file that is written.
pub const PROBE_FILE: &str = "doctor-probe.tmp";
/// Size of the file: more than a drive's own cache hides.
pub const PROBE_BYTES: u64 = 64 << 20;
/// Size of a sequential write.
const CHUNK_BYTES: usize = 1 << 20;
/// Size of a synced write.
const APPEND_BYTES: usize = 4 << 10;
/// Count of synced writes.
const APPEND_COUNT: usize = 200;

/// What a disk can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Bytes per second of sequential writes of 1 MiB with one sync at the end.
    pub sequential_bytes_per_second: u64,
    /// Half of the writes of 4 KiB, each synced, took at most this long.
    pub append_median: Duration,
    /// 99 % of them took at most this long.
    pub append_p99: Duration,
    /// The slowest took this long.
    pub append_max: Duration,
}

/// Measures the disk of a directory that no node uses, with a temporary file, which is removed even
/// after an error. `clock` tells the time since some moment.
///
/// The synced writes go to space that was written before, as those of the log do.
///
/// # Errors
/// [`DoctorError`]. *Nothing of the directory was changed.*
pub fn probe(vfs: &dyn Vfs, clock: &mut dyn FnMut() -> Duration) -> Result<Probe, DoctorError> {
    let _lock = lock(vfs)?;
    // A tool that fills a disk to measure it does harm.
    if vfs.free_space()? < 2 * PROBE_BYTES {
        return Err(DoctorError::NoSpace { needed: 2 * PROBE_BYTES });
    }
    remove_if_there(vfs)?;
    let result = measure(vfs, clock);
    let removed = remove_if_there(vfs);
    let probe = result?;
    removed?;
    Ok(probe)
}

fn remove_if_there(vfs: &dyn Vfs) -> io::Result<()> {
    match vfs.remove(PROBE_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn measure(vfs: &dyn Vfs, clock: &mut dyn FnMut() -> Duration) -> io::Result<Probe> {
    let file = vfs.create(PROBE_FILE)?;
    // Nothing that a drive could compress.
    let mut rng = Rng::fork(0, "probe");
    let chunk: Vec<u8> = (0..CHUNK_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let start = clock();
    for offset in (0..PROBE_BYTES).step_by(CHUNK_BYTES) {
        file.write_at(offset, &chunk)?;
    }
    file.sync_data()?;
    let nanos = clock().saturating_sub(start).as_nanos().max(1);
    let per_second = u128::from(PROBE_BYTES) * 1_000_000_000 / nanos;
    let mut times = Vec::with_capacity(APPEND_COUNT);
    for number in 0..APPEND_COUNT {
        times.push(append(&*file, (number * APPEND_BYTES) as u64, &chunk[..APPEND_BYTES], clock)?);
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    Ok(Probe {
        sequential_bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
        append_median: at(50),
        append_p99: at(99),
        append_max: at(100),
    })
}

fn append(
    file: &dyn VfsFile,
    offset: u64,
    bytes: &[u8],
    clock: &mut dyn FnMut() -> Duration,
) -> io::Result<Duration> {
    let start = clock();
    file.write_at(offset, bytes)?;
    file.sync_data()?;
    Ok(clock().saturating_sub(start))
}
