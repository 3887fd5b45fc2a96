//! What a simulated disk did, and what it did wrong.

/// What a simulated disk did since it was made.
///
/// A test that arms a fault looks here for whether it struck: a fault that never happens tests
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDiskCounters {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Calls that failed because of [`fail_from_call`](super::SimDisk::fail_from_call) or
    /// [`fail_once`](super::SimDisk::fail_once).
    pub calls_failed: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Crashes.
    pub crashes: u64,
    /// Unsynced writes and size changes that a crash kept.
    pub kept: u64,
    /// Unsynced writes and size changes that a crash dropped.
    pub dropped: u64,
    /// Unsynced writes of which a crash kept some sectors.
    pub torn: u64,
    /// Unsynced writes of which a crash kept only the size.
    pub zeroed: u64,
    /// Unsynced writes and size changes that a crash kept though it lost an earlier one of the
    /// file.
    pub reordered: u64,
    /// Unsynced changes of names that a crash kept.
    pub names_kept: u64,
    /// Unsynced changes of names that a crash dropped.
    pub names_dropped: u64,
    /// Unsynced changes of names that a crash kept though it lost an earlier one of the directory.
    pub names_reordered: u64,
    /// Reads that failed: by rate, or because they touched a range that cannot be read.
    pub read_errors: u64,
    /// Writes that failed by rate, [`fail_once`](super::SimDisk::fail_once) not included.
    pub write_errors: u64,
    /// Syncs that failed, but not because of [`fail_from_call`](super::SimDisk::fail_from_call) or a
    /// read-only disk. A file is clean after it; a directory is as it was.
    pub sync_errors: u64,
    /// Writes and size changes that a failed sync lost.
    pub sync_dropped: u64,
    /// Bits that changed at rest.
    pub bits_rotten: u64,
    /// Reads that returned bytes of another place.
    pub reads_misdirected: u64,
    /// Writes that reached the disk at another place.
    pub writes_misdirected: u64,
    /// Calls refused because the disk was full.
    pub no_space: u64,
    /// Calls refused because the disk was read-only.
    pub read_only: u64,
    /// Calls that were slow.
    pub delays: u64,
    /// Calls during which the disk stalled.
    pub stalls: u64,
}
