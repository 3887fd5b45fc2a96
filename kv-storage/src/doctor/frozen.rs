//! A disk that takes changes and forgets them.

use std::io;
use std::sync::Arc;

use crate::vfs::{DirLock, Vfs, VfsFile};

/// Reads what is on another disk. Changes seem to succeed, but nothing is changed, and a reader
/// does not see them: for opening what writes when it is opened.
#[derive(Debug)]
pub(super) struct Frozen(pub(super) Arc<dyn Vfs>);

/// An open file; none if it was created here.
#[derive(Debug)]
struct FrozenFile(Option<Box<dyn VfsFile>>);

impl Vfs for Frozen {
    fn create(&self, _path: &str) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(FrozenFile(None)))
    }
    fn open(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(FrozenFile(Some(self.0.open(path)?))))
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Ok(())
    }
    fn link(&self, _existing: &str, _new: &str) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
    fn create_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }
    fn free_space(&self) -> io::Result<u64> {
        self.0.free_space()
    }
    fn lock_dir(&self, dir: &str) -> io::Result<DirLock> {
        self.0.lock_dir(dir)
    }
}

impl VfsFile for FrozenFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.as_ref().map_or(Ok(0), |file| file.read_at(offset, buffer))
    }
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }
    fn preallocate(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.0.as_ref().map_or(Ok(0), |file| file.size())
    }
}
