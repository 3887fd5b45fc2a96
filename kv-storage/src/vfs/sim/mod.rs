//! A disk in memory that forgets what was not synced.
//!
//! A file keeps its durable bytes and its pending writes apart, a directory its durable names and
//! its pending changes. Reads see everything, as a page cache would show it. [`SimDisk::crash`]
//! then decides, by seed, what of the pending part reached the disk: each write is kept, dropped,
//! torn at sector boundaries, or leaves only the size it grew the file to; a later write may be
//! kept though an earlier one is lost. Names are treated likewise, in order for each name.
//!
//! A simulator that wants to crash *within* a storage call uses [`SimDisk::fail_from_call`]: the
//! call runs until its k-th disk operation fails, its caller is thrown away, and the crash resolves
//! what it left behind.
//!
//! Everything is a function of the calls and the seeds. A handle is cheap to clone; all clones are
//! the same disk.
//!
//! **What this leaves out:** bytes that rot or go astray, a disk that lies about a sync, a full
//! disk.

mod dir;
mod file;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::rng::Rng;

use super::{DirLock, Vfs, VfsFile, busy, parts, split, split_rename};
use dir::{Directory, Node};
use file::Content;
pub use file::SECTOR_BYTES;

/// What a simulated disk did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDiskCounters {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Calls that failed because of [`SimDisk::fail_from_call`].
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
}

/// A simulated disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Disk>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

/// - `directories[0]` is the root.
/// - Numbers of files and directories are never used again.
#[derive(Debug)]
struct Disk {
    files: Vec<File>,
    directories: Vec<Directory>,
    locked: BTreeSet<usize>,
    /// Crashes so far: a handle of an earlier life is stale.
    life: u64,
    /// Calls from this one on fail.
    fail_from: Option<u64>,
    counters: SimDiskCounters,
}

#[derive(Debug, Default)]
struct File {
    content: Content,
    /// Shared with every open handle, so that a file without a name lives as long as they do.
    handles: Arc<()>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            directories: vec![Directory::default()],
            locked: BTreeSet::new(),
            life: 0,
            fail_from: None,
            counters: SimDiskCounters::default(),
        }
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `succeed` more calls through and fails every later one with an I/O error that changes
    /// nothing, until the next crash.
    pub fn fail_from_call(&self, succeed: u64) {
        let mut disk = self.lock();
        disk.fail_from = Some(disk.counters.calls + succeed + 1);
    }

    /// Loses power: `rng` decides what of everything unsynced is kept. All open handles become
    /// stale and all locks are released; calls work again.
    pub fn crash(&self, rng: &mut Rng) {
        let disk = &mut *self.lock();
        disk.counters.crashes += 1;
        disk.life += 1;
        disk.fail_from = None;
        disk.locked.clear();
        for file in &mut disk.files {
            file.content.crash(rng, &mut disk.counters);
        }
        for directory in &mut disk.directories {
            directory.crash(rng, &mut disk.counters);
        }
        disk.free_unnamed(|_| true);
    }

    /// What the disk did so far.
    pub fn counters(&self) -> SimDiskCounters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a call.
    fn call(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.lock();
        disk.counters.calls += 1;
        if disk.fail_from.is_some_and(|from| disk.counters.calls >= from) {
            disk.counters.calls_failed += 1;
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(disk)
    }

    fn handle(&self, disk: &Disk, file: usize) -> Box<dyn VfsFile> {
        let handle = disk.files[file].handles.clone();
        Box::new(SimFile { disk: self.clone(), file, life: disk.life, _handle: handle })
    }
}

impl Disk {
    fn directory(&mut self, path: &str) -> io::Result<usize> {
        let mut at = 0;
        for part in parts(path)? {
            at = match self.directories[at].get(part) {
                Some(Node::Dir(next)) => next,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(at)
    }

    /// The directory that holds `path`, and the name there.
    fn place<'a>(&mut self, path: &'a str) -> io::Result<(&mut Directory, &'a str)> {
        let (dir, name) = split(path)?;
        let dir = self.directory(dir)?;
        Ok((&mut self.directories[dir], name))
    }

    fn file(&mut self, path: &str) -> io::Result<usize> {
        let (directory, name) = self.place(path)?;
        match directory.get(name) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Gives `node` a name that must be free.
    fn name(&mut self, path: &str, node: Node) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        match directory.get(name) {
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                directory.insert(name, node);
                Ok(())
            }
        }
    }

    /// Frees the content of files that no name leads to and for which `unused` holds.
    fn free_unnamed(&mut self, unused: impl Fn(&File) -> bool) {
        let nodes = self.directories.iter().flat_map(Directory::nodes);
        let named: BTreeSet<usize> = nodes
            .filter_map(|node| match node {
                Node::File(file) => Some(file),
                Node::Dir(_) => None,
            })
            .collect();
        for (number, file) in self.files.iter_mut().enumerate() {
            if !named.contains(&number) && unused(file) {
                file.content = Content::default();
            }
        }
    }
}

impl Vfs for SimDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.call()?;
        let file = disk.files.len();
        disk.name(path, Node::File(file))?;
        disk.files.push(File::default());
        Ok(self.handle(&disk, file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.call()?;
        let file = disk.file(path)?;
        Ok(self.handle(&disk, file))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let mut disk = self.call()?;
        if path.is_empty() {
            return Ok(true);
        }
        match disk.place(path) {
            Ok((directory, name)) => Ok(directory.get(name).is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut disk = self.call()?;
        let dir = disk.directory(dir)?;
        Ok(disk.directories[dir].names())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        let (_, from_name, to_name) = split_rename(from, to)?;
        disk.file(from)?;
        let (directory, _) = disk.place(from)?;
        if matches!(directory.get(to_name), Some(Node::Dir(_))) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from_name != to_name {
            directory.rename(from_name, to_name);
        }
        Ok(())
    }

    fn link(&self, existing: &str, new: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        let file = disk.file(existing)?;
        disk.name(new, Node::File(file))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        disk.file(path)?;
        let (directory, name) = disk.place(path)?;
        directory.remove(name);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        let number = disk.directories.len();
        disk.name(path, Node::Dir(number))?;
        disk.directories.push(Directory::default());
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        let dir = disk.directory(dir)?;
        disk.counters.syncs += 1;
        if disk.directories[dir].sync() {
            disk.free_unnamed(|file| Arc::strong_count(&file.handles) == 1);
        }
        Ok(())
    }

    fn lock_dir(&self, dir: &str) -> io::Result<DirLock> {
        let mut disk = self.call()?;
        let dir = disk.directory(dir)?;
        match disk.locked.insert(dir) {
            true => Ok(DirLock::new(LockGuard { disk: self.clone(), dir, life: disk.life })),
            false => Err(busy()),
        }
    }
}

struct LockGuard {
    disk: SimDisk,
    dir: usize,
    life: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.life == self.life {
            disk.locked.remove(&self.dir);
        }
    }
}

/// An open file. Dropping it syncs nothing.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    life: u64,
    _handle: Arc<()>,
}

impl SimFile {
    fn with<T>(&self, run: impl FnOnce(&mut Content, &mut SimDiskCounters) -> T) -> io::Result<T> {
        let disk = &mut *self.disk.call()?;
        if disk.life != self.life {
            return Err(io::Error::other("the file was opened before a crash"));
        }
        Ok(run(&mut disk.files[self.file].content, &mut disk.counters))
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|content, counters| {
            let count = content.read(offset, buffer);
            counters.bytes_read += count as u64;
            count
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|content, counters| {
            counters.bytes_written += bytes.len() as u64;
            content.write(offset, bytes);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|content, counters| {
            counters.syncs += 1;
            content.sync();
        })
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.with(|content, _| content.set_len(size))
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.with(|content, _| {
            if content.size() < size {
                content.set_len(size);
            }
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|content, _| content.size())
    }
}
