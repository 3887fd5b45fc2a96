//! The files that a log consists of.

use std::io;

use crate::vfs::Vfs;

/// Number of the first segment.
pub(super) const FIRST_SEGMENT: u64 = 1;
/// A segment that a further batch would make larger than this is followed by a new one: 32 MiB.
/// Large enough that beginning one is rare, small enough to be read into memory when the log is
/// opened. A batch that is larger by itself has a segment of its own.
pub(super) const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;

/// The file name of a segment.
pub(super) fn segment_name(number: u64) -> String {
    format!("wal-{number:016x}.log")
}

/// The numbers of all segments of the root directory, in order.
pub(super) fn list_segments(vfs: &dyn Vfs) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<_> = vfs.list("")?.iter().filter_map(|name| parse_name(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}
