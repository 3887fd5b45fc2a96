//! The operating system's file system.
//!
//! `sync_data` is `fdatasync`, which also makes a changed size durable (it skips only what is not
//! needed to read the data back, such as times). `sync_dir` is `fsync` of the directory. The lock
//! is `flock` of the directory itself: it needs no file of its own, so looking at a directory that
//! turns out to be somebody else's leaves no trace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{DirLock, Vfs, VfsFile, parts, split, split_rename};

/// A directory of the operating system's file system.
#[derive(Clone, Debug)]
pub struct OsVfs {
    root: PathBuf,
}

impl OsVfs {
    /// The directory `root`, which is created, durably, if it is missing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        create_dir_durably(&root)?;
        Ok(Self { root })
    }

    fn path(&self, path: &str) -> io::Result<PathBuf> {
        Ok(self.root.join(parts(path)?.iter().collect::<PathBuf>()))
    }

    /// The path of something that has a name, which the root has not.
    fn named(&self, path: &str) -> io::Result<PathBuf> {
        split(path)?;
        self.path(path)
    }
}

fn create_dir_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    create_dir_durably(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::open(parent)?.sync_all()
}

impl Vfs for OsVfs {
    fn create(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        Ok(Box::new(OsFile(options.open(self.named(path)?)?)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.named(path)?)?;
        Ok(Box::new(OsFile(file)))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.path(path)?.try_exists()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir)?)? {
            // A name that is not UTF-8 is not one of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        split_rename(from, to)?;
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn link(&self, existing: &str, new: &str) -> io::Result<()> {
        fs::hard_link(self.named(existing)?, self.named(new)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.named(path)?)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir(self.named(path)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir)?)?.sync_all()
    }

    fn free_space(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn lock_dir(&self, dir: &str) -> io::Result<DirLock> {
        let handle = File::open(self.path(dir)?)?;
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirLock::new(handle)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(super::busy()),
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct OsFile(File);

impl OsFile {
    /// Claims space on a file system that knows no other way.
    fn fill_with_zeros(&self, size: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut at = self.0.metadata()?.len();
        while at < size {
            let len = (size - at).min(ZEROS.len() as u64);
            self.0.write_all_at(&ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

impl VfsFile for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.fill_with_zeros(size),
            result => Ok(result?),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
