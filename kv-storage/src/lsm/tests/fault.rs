//! Disk calls that fail once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::vfs::{DirLock, VfsFile};

/// Which calls may fail, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Any call, with an I/O error.
    Io,
    /// A call that takes up space, with a full disk.
    NoSpace,
}

/// A disk of which the k-th call fails.
#[derive(Clone, Debug)]
struct Faulty {
    inner: SimDisk,
    fault: Fault,
    calls_left: Arc<AtomicU64>,
    /// Whether the call that failed was a sync.
    is_sync: Arc<AtomicBool>,
}

impl Faulty {
    fn new(inner: SimDisk, fault: Fault, succeed: u64) -> Self {
        let calls_left = Arc::new(AtomicU64::new(succeed + 1));
        Self { inner, fault, calls_left, is_sync: Arc::default() }
    }

    fn call(&self, takes_space: bool) -> io::Result<()> {
        if self.fault == Fault::NoSpace && !takes_space {
            return Ok(());
        }
        let left = self.calls_left.load(Ordering::Relaxed);
        self.calls_left.store(left.wrapping_sub(1), Ordering::Relaxed);
        match (left, self.fault) {
            (1, Fault::Io) => Err(io::Error::other("injected")),
            (1, Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.call(false).inspect_err(|_| self.is_sync.store(true, Ordering::Relaxed))
    }

    fn has_failed(&self) -> bool {
        self.calls_left.load(Ordering::Relaxed) == 0
            || self.calls_left.load(Ordering::Relaxed) > u64::MAX / 2
    }

    fn wrap(&self, file: Box<dyn VfsFile>) -> Box<dyn VfsFile> {
        Box::new(FaultyFile { inner: file, disk: self.clone() })
    }
}

impl Vfs for Faulty {
    fn create(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        self.call(true)?;
        Ok(self.wrap(self.inner.create(path)?))
    }
    fn open(&self, path: &str) -> io::Result<Box<dyn VfsFile>> {
        self.call(false)?;
        Ok(self.wrap(self.inner.open(path)?))
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.call(false)?;
        self.inner.exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.call(false)?;
        self.inner.list(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(false)?;
        self.inner.rename(from, to)
    }
    fn link(&self, existing: &str, new: &str) -> io::Result<()> {
        self.call(true)?;
        self.inner.link(existing, new)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.call(false)?;
        self.inner.remove(path)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.call(true)?;
        self.inner.create_dir(path)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.sync()?;
        self.inner.sync_dir(dir)
    }
    fn free_space(&self) -> io::Result<u64> {
        self.inner.free_space()
    }
    fn lock_dir(&self, dir: &str) -> io::Result<DirLock> {
        self.inner.lock_dir(dir)
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn VfsFile>,
    disk: Faulty,
}

impl VfsFile for FaultyFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.call(false)?;
        self.inner.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.call(offset + bytes.len() as u64 > self.inner.size()?)?;
        self.inner.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync()?;
        self.inner.sync_data()
    }
    fn set_len(&self, size: u64) -> io::Result<()> {
        self.disk.call(true)?;
        self.inner.set_len(size)
    }
    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.disk.call(true)?;
        self.inner.preallocate(size)
    }
    fn size(&self) -> io::Result<u64> {
        self.disk.call(false)?;
        self.inner.size()
    }
}

/// What errors a run met.
#[derive(Debug, Default)]
struct Met {
    retried: u64,
    stopped: u64,
    /// Stops by a failed sync.
    failed_syncs: u64,
}

/// Opens a tree until that works.
fn open_anyhow(disk: &Faulty, met: &mut Met) -> (Tree, u64) {
    loop {
        match open_with(Arc::new(disk.clone()), small_options()) {
            Ok(opened) => return opened,
            Err(TreeError::Corruption(damage)) => panic!("{damage}"),
            Err(_) => met.stopped += 1,
        }
    }
}

/// Checks that an error has the right consequence. Returns whether the tree must be opened anew.
fn must_stop(disk: &Faulty, tree: &mut Tree, error: &TreeError, met: &mut Met) -> bool {
    let is_sync = disk.is_sync.load(Ordering::Relaxed);
    if error.is_retryable() {
        assert!(!is_sync, "a failed sync must not be retried");
        met.retried += 1;
        return false;
    }
    assert!(matches!(error, TreeError::Write(_)), "{error:?}");
    assert_eq!(disk.fault, Fault::Io, "a full disk needs no restart");
    for stopped in [tree.flush_step(1), tree.compact_step(1)] {
        assert!(matches!(stopped, Err(TreeError::Poisoned)));
    }
    met.stopped += 1;
    met.failed_syncs += u64::from(is_sync);
    true
}

/// Runs a workload to its end, opening the tree anew when it says that it must stop.
fn run(disk: &Faulty, history: &History, met: &mut Met) -> Tree {
    let (mut tree, _) = open_anyhow(disk, met);
    for index in 1..=history.index() {
        apply(&mut tree, &history.ops[index as usize - 1]);
        if index.is_multiple_of(9) {
            seal(&mut tree, index, index / 2);
        }
        let step = match index % 2 {
            0 => tree.flush_step(1_500),
            _ => tree.compact_step(2_500),
        };
        let Err(error) = step else { continue };
        if must_stop(disk, &mut tree, &error, met) {
            let answered = answered(&tree);
            let (opened, flushed) = open_anyhow(disk, met);
            assert!(flushed >= answered, "{answered} was answered, but {flushed} is there");
            tree = opened;
            for op in &history.ops[flushed as usize..index as usize] {
                apply(&mut tree, op);
            }
        }
    }
    tree
}

/// The index of the last flush that was answered.
fn answered(tree: &Tree) -> u64 {
    tree.metadata().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn history() -> History {
    let mut rng = Rng::fork(5, "faults");
    let mut history = History::default();
    for index in 0..90 {
        let op = match index {
            50 => Op::RangeDelete(1),
            _ => Op::Write(history.draw_batch(&mut rng, if index < 50 { &[1, 2] } else { &[2] })),
        };
        history.push(op);
    }
    history
}

#[track_caller]
fn fail_every_call(fault: Fault) -> Met {
    let history = history();
    let end = history.index();
    let mut met = Met::default();
    for succeed in 0.. {
        let disk = SimDisk::new();
        let faulty = Faulty::new(disk.clone(), fault, succeed);
        let mut tree = run(&faulty, &history, &mut met);
        let has_failed = faulty.has_failed();
        faulty.calls_left.store(u64::MAX / 4, Ordering::Relaxed);
        let mut rng = Rng::fork(succeed, "check");
        check(&tree.view(), &history, end, end, &mut rng);
        seal(&mut tree, end, end);
        while settle(&mut tree).is_err() {
            let (opened, flushed) = open(&disk).unwrap();
            tree = opened;
            replay(&mut tree, &history, flushed);
            seal(&mut tree, end, end);
        }
        check(&tree.view(), &history, end, end, &mut rng);
        drop(tree);
        disk.crash(&mut rng);
        let (tree, flushed) = open(&disk).unwrap();
        assert_eq!(flushed, end, "everything was flushed");
        check(&tree.view(), &history, end, end, &mut rng);
        if !has_failed {
            break;
        }
    }
    met
}

#[test]
fn an_io_error_at_any_call_loses_nothing() {
    let met = fail_every_call(Fault::Io);
    assert!(met.stopped > 20 && met.retried > 20 && met.failed_syncs > 20, "{met:?}");
}

#[test]
fn a_full_disk_at_any_call_needs_no_restart() {
    let met = fail_every_call(Fault::NoSpace);
    assert!(met.retried > 20, "{met:?}");
    // Opening an empty folder is the only thing that a full disk can refuse.
    assert!(met.stopped < 10, "{met:?}");
}

#[test]
fn a_read_error_is_told_and_passes() {
    let history = history();
    let disk = SimDisk::new();
    let faulty = Faulty::new(disk, Fault::Io, u64::MAX / 4);
    let mut tree = run(&faulty, &history, &mut Met::default());
    seal(&mut tree, history.index(), 0);
    settle(&mut tree).unwrap();
    tree.view.cache.set_capacity(0);
    let end = history.index();
    let key = history.rows(end, end)[0].0.clone();
    faulty.calls_left.store(1, Ordering::Relaxed);
    let error = get(&tree.view(), &key, end).unwrap_err();
    assert!(matches!(&error, TreeError::Read { file, .. } if file.starts_with("tree/table-")));
    check(&tree.view(), &history, end, end, &mut Rng::fork(1, "check"));
}
