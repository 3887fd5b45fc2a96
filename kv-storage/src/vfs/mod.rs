//! What storage asks of a disk.
//!
//! Everything that this crate stores goes through [`Vfs`] and [`VfsFile`], so that the simulator
//! can put a disk underneath that forgets what was not synced. The contract is the weakest one that
//! real file systems give:
//!
//! - Written bytes and a changed size are durable after [`VfsFile::sync_data`] and not before.
//!   Until then a crash may keep, drop, tear or reorder them.
//! - A created, renamed, linked or removed *name* is durable after [`Vfs::sync_dir`] of its
//!   directory. Syncing the file does not make its name durable, and the reverse.
//! - A rename within a directory is atomic: a crash leaves the old or the new name, never neither.
//! - Closing a file makes nothing durable.
//! - After a failed sync nobody knows what is durable, and asking again does not help
//!   (the kernel may have dropped the dirty pages): the caller must stop.
//! - Space is certain only where it was claimed ([`VfsFile::preallocate`]) or written before. Any
//!   other change may find the disk full.
//! - What was durable may be damaged, and a read or write may go astray. Whoever stores bytes says
//!   in a checksum what they are and where they belong.
//!
//! Paths are relative to a root and separated by `/`; the empty path is the root itself.
//!
//! There is no append call: every writer here knows its position, and says it.
//!
//! **What this leaves out:** asynchronous and direct I/O.

mod os;
mod sim;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;

pub use os::OsVfs;
pub use sim::{Delay, DiskFaults, Rot, SECTOR_BYTES, SimDisk, SimDiskCounters, SimError};

/// A file system below one root directory.
pub trait Vfs: fmt::Debug + Send + Sync {
    /// Creates an empty file and opens it. Fails if the name is taken.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or the disk's.
    fn create(&self, path: &str) -> io::Result<Box<dyn VfsFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or the disk's.
    fn open(&self, path: &str) -> io::Result<Box<dyn VfsFile>>;

    /// Whether the path names a file or directory.
    ///
    /// # Errors
    /// The disk's.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or the disk's.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Gives a file another name in the same directory, replacing what had that name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], [`io::ErrorKind::InvalidInput`] for another directory, or the
    /// disk's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Gives a file a second name. Fails if the name is taken.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], [`io::ErrorKind::AlreadyExists`], or the disk's.
    fn link(&self, existing: &str, new: &str) -> io::Result<()>;

    /// Removes a file's name. Its content goes with the last name and the last open handle.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or the disk's.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Creates a directory. Its parent must exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], [`io::ErrorKind::NotFound`], or the disk's.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The disk's; what is durable is unknown then.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// How many bytes can still be claimed. An estimate: others may use the disk too.
    ///
    /// # Errors
    /// The disk's.
    fn free_space(&self) -> io::Result<u64>;

    /// Takes a directory for exclusive use, until the lock is dropped or the process ends. Never
    /// waits, and writes nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] if somebody else holds it, or the disk's.
    fn lock_dir(&self, dir: &str) -> io::Result<DirLock>;
}

/// An open file.
pub trait VfsFile: fmt::Debug + Send + Sync {
    /// Reads into `buffer` from `offset` on. Returns how much was read: less than asked only at the
    /// end of the file.
    ///
    /// # Errors
    /// The disk's.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file as needed. A hole reads as zeros.
    ///
    /// # Errors
    /// The disk's; some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable, and the size with it.
    ///
    /// # Errors
    /// The disk's; what is durable is unknown then.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or grows it with zeros.
    ///
    /// # Errors
    /// The disk's.
    fn set_len(&self, size: u64) -> io::Result<()>;

    /// Claims space so that the file has at least `size` bytes, the new ones zero. Writes within
    /// that size find room from then on.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], and then nothing was claimed, or the disk's.
    fn preallocate(&self, size: u64) -> io::Result<()>;

    /// The file's size in bytes.
    ///
    /// # Errors
    /// The disk's.
    fn size(&self) -> io::Result<u64>;
}

/// A held directory. Dropping it lets the directory go.
pub struct DirLock {
    /// Whatever releases the lock when dropped.
    _guard: Box<dyn Any + Send + Sync>,
}

impl DirLock {
    /// A lock that is held as long as `guard` lives.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self { _guard: Box::new(guard) }
    }
}

impl fmt::Debug for DirLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirLock")
    }
}

/// Reads a whole file into `out`, whose content is replaced.
///
/// # Errors
/// The disk's.
pub fn read_all(file: &dyn VfsFile, out: &mut Vec<u8>) -> io::Result<()> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    out.clear();
    out.resize(size, 0);
    let read = file.read_at(0, out)?;
    out.truncate(read);
    Ok(())
}

/// The parts of a path, refusing whatever could lead out of the root.
fn parts(path: &str) -> io::Result<Vec<&str>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<_> = path.split('/').collect();
    match parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain relative path")),
        false => Ok(parts),
    }
}

/// The directory and the name that a path consists of.
fn split(path: &str) -> io::Result<(&str, &str)> {
    parts(path)?;
    match path.rsplit_once('/') {
        Some(split) => Ok(split),
        None if path.is_empty() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the root has no name"))
        }
        None => Ok(("", path)),
    }
}

/// The directory and both names of a rename.
fn split_rename<'a>(from: &'a str, to: &'a str) -> io::Result<(&'a str, &'a str, &'a str)> {
    let (from_dir, from) = split(from)?;
    let (to_dir, to) = split(to)?;
    match from_dir == to_dir {
        true => Ok((from_dir, from, to)),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "rename stays in a directory")),
    }
}

/// The error of a directory that somebody else holds.
fn busy() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "the directory is locked by another process")
}
