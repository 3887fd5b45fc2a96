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
//! [`faults`] is about everything else that goes wrong on a disk.
//!
//! Everything is a function of the calls and the seeds. A handle is cheap to clone; all clones are
//! the same disk. A disk on which no fault was armed pays nothing for them.
//!
//! **What this leaves out:** a page cache that forgets (what was synced is read from the disk at
//! once), and the space that names take.

mod counters;
mod dir;
mod faults;
mod file;
mod handle;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::rng::Rng;

use super::{DirLock, Vfs, VfsFile, busy, parts, split, split_rename};
pub use counters::SimDiskCounters;
use dir::{Directory, Node};
use faults::{Call, Trouble};
pub use faults::{Delay, DiskFaults, Rot, SimError};
use file::Content;
pub use file::SECTOR_BYTES;
use handle::SimFile;

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
    /// Files whose content was not freed.
    alive: Vec<usize>,
    directories: Vec<Directory>,
    locked: BTreeSet<usize>,
    /// Crashes so far: a handle of an earlier life is stale.
    life: u64,
    /// Calls from this one on fail.
    fail_from: Option<u64>,
    /// The next sync of a file and all calls behind it fail.
    fail_from_sync: bool,
    /// Armed faults.
    trouble: Option<Box<Trouble>>,
    /// Bytes that files may claim together.
    capacity: Option<u64>,
    /// Bytes that files claim: the sum over all of them.
    used: u64,
    counters: SimDiskCounters,
}

#[derive(Debug, Default)]
struct File {
    content: Content,
    /// Bytes for which there is room.
    claimed: u64,
    /// Ranges of which every read fails.
    unreadable: Vec<Range<u64>>,
    /// Shared with every open handle, so that a file without a name lives as long as they do.
    handles: Arc<()>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            alive: Vec::new(),
            directories: vec![Directory::default()],
            locked: BTreeSet::new(),
            life: 0,
            fail_from: None,
            fail_from_sync: false,
            trouble: None,
            capacity: None,
            used: 0,
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

    /// As [`SimDisk::fail_from_call`], from the next sync of a file on: what was written before it is
    /// there in any part.
    pub fn fail_from_sync(&self) {
        self.lock().fail_from_sync = true;
    }

    /// Loses power: `rng` decides what of everything unsynced is kept. All open handles become
    /// stale and all locks are released; calls work again.
    pub fn crash(&self, rng: &mut Rng) {
        let disk = &mut *self.lock();
        disk.counters.crashes += 1;
        disk.life += 1;
        disk.fail_from = None;
        disk.fail_from_sync = false;
        disk.disarm_once();
        disk.locked.clear();
        let mut strays = Vec::new();
        for number in &disk.alive {
            let file = &mut disk.files[*number];
            strays.extend(file.content.crash(rng, &mut disk.counters));
            file.claimed = file.content.size();
        }
        disk.deliver(strays);
        for directory in &mut disk.directories {
            directory.crash(rng, &mut disk.counters);
        }
        disk.free_unnamed(|_| true);
    }

    /// Puts an empty disk in the place of this one, and goes on counting. What was open must have been
    /// dropped.
    pub fn wipe(&self) {
        let disk = &mut *self.lock();
        let (life, capacity, counters) = (disk.life + 1, disk.capacity, disk.counters);
        *disk = Disk { life, capacity, counters, ..Disk::default() };
    }

    /// What the disk did so far.
    pub fn counters(&self) -> SimDiskCounters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call.
    fn start_call(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.lock();
        disk.counters.calls += 1;
        if disk.fail_from.is_some_and(|from| disk.counters.calls >= from) {
            disk.counters.calls_failed += 1;
            return Err(SimError::Io.into());
        }
        Ok(disk)
    }

    /// Lets what waits for the sync of a file begin.
    fn start_sync(&self) {
        let disk = &mut *self.lock();
        if std::mem::take(&mut disk.fail_from_sync) {
            disk.fail_from = Some(disk.counters.calls + 1);
        }
    }

    /// Starts a call to the file system.
    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.start_call()?;
        if disk.trouble.is_some() {
            disk.strike(call, None)?;
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
        let files = &mut self.files;
        self.alive.retain(|number| {
            let is_alive = named.contains(number) || !unused(&files[*number]);
            if !is_alive {
                files[*number].content = Content::default();
                files[*number].claimed = 0;
            }
            is_alive
        });
        self.used = self.alive.iter().map(|number| self.files[*number].claimed).sum();
    }

    /// Every file that has a name, with one of its paths, in the order of the paths.
    fn named_files(&self) -> Vec<(String, usize)> {
        let mut files = Vec::new();
        let mut waiting = vec![(String::new(), 0)];
        while let Some((path, dir)) = waiting.pop() {
            for name in self.directories[dir].names() {
                let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                match self.directories[dir].get(&name) {
                    Some(Node::File(file)) => files.push((below, file)),
                    Some(Node::Dir(dir)) => waiting.push((below, dir)),
                    None => {}
                }
            }
        }
        files.sort();
        files.dedup_by_key(|(_, file)| *file);
        files
    }

    fn free_space(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used))
    }

    /// Claims space of a file up to `end`, or as far as there is room. Returns how far.
    fn claim(&mut self, file: usize, end: u64) -> u64 {
        let claimed = self.files[file].claimed;
        if end <= claimed {
            return end;
        }
        let grown = (end - claimed).min(self.free_space());
        self.files[file].claimed += grown;
        self.used += grown;
        claimed + grown
    }

    fn unclaim(&mut self, file: usize, size: u64) {
        let claimed = &mut self.files[file].claimed;
        self.used -= claimed.saturating_sub(size);
        *claimed = size.min(*claimed);
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let reach = if bytes.is_empty() { end } else { self.claim(file, end) };
        let part = &bytes[..reach.saturating_sub(offset) as usize];
        self.counters.bytes_written += part.len() as u64;
        let file = &mut self.files[file];
        file.content.write(offset, part);
        if !file.unreadable.is_empty() {
            file.make_readable(offset..reach.max(offset));
        }
        if reach < end {
            self.counters.no_space += 1;
            return Err(SimError::NoSpace.into());
        }
        Ok(())
    }

    fn write_astray(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        let to = self.stray_target(Call::Write, file, offset);
        self.counters.writes_misdirected += 1;
        self.counters.bytes_written += bytes.len() as u64;
        self.claim(file, offset + bytes.len() as u64);
        self.files[file].content.write_astray(offset, bytes, to);
    }

    /// How much of a failing write is done.
    fn draw_part(&mut self, len: usize) -> usize {
        self.trouble.as_mut().map_or(0, |trouble| trouble.rng.below(len as u64 + 1) as usize)
    }

    fn preallocate(&mut self, file: usize, size: u64) -> io::Result<()> {
        if size.saturating_sub(self.files[file].claimed) > self.free_space() {
            self.counters.no_space += 1;
            return Err(SimError::NoSpace.into());
        }
        self.claim(file, size);
        let content = &mut self.files[file].content;
        if content.size() < size {
            content.set_len(size);
        }
        Ok(())
    }
}

impl File {
    fn is_unreadable(&self, offset: u64, len: usize) -> bool {
        let end = offset + len as u64;
        self.unreadable.iter().any(|range| range.start < end && offset < range.end)
    }

    /// Takes `written` out of what cannot be read.
    fn make_readable(&mut self, written: Range<u64>) {
        let parts = self.unreadable.drain(..).flat_map(|range| {
            let before = range.start..range.end.min(written.start);
            let after = range.start.max(written.end)..range.end;
            [before, after].into_iter().filter(|part| part.start < part.end)
        });
        self.unreadable = parts.collect();
    }
}

impl Vfs for SimDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.call(Call::Change)?;
        let file = disk.files.len();
        disk.name(path, Node::File(file))?;
        disk.files.push(File::default());
        disk.alive.push(file);
        Ok(self.handle(&disk, file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.call(Call::Look)?;
        let file = disk.file(path)?;
        Ok(self.handle(&disk, file))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let mut disk = self.call(Call::Look)?;
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
        let mut disk = self.call(Call::Look)?;
        let dir = disk.directory(dir)?;
        Ok(disk.directories[dir].names())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.call(Call::Change)?;
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
        let mut disk = self.call(Call::Change)?;
        let file = disk.file(existing)?;
        disk.name(new, Node::File(file))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut disk = self.call(Call::Change)?;
        disk.file(path)?;
        let (directory, name) = disk.place(path)?;
        directory.remove(name);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.call(Call::Change)?;
        let number = disk.directories.len();
        disk.name(path, Node::Dir(number))?;
        disk.directories.push(Directory::default());
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut disk = self.call(Call::SyncDir)?;
        let dir = disk.directory(dir)?;
        disk.counters.syncs += 1;
        if disk.directories[dir].sync() {
            disk.free_unnamed(|file| Arc::strong_count(&file.handles) == 1);
        }
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        Ok(self.call(Call::Look)?.free_space())
    }

    fn lock_dir(&self, dir: &str) -> io::Result<DirLock> {
        let mut disk = self.call(Call::Look)?;
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
