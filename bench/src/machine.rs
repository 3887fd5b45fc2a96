//! What the operating system says of this process and of the disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that this process caused to be written to the disk.
pub fn bytes_written() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

/// Resident memory without files, and the peak of all of it, in bytes.
pub fn memory() -> (u64, u64) {
    (1024 * field("/proc/self/status", "RssAnon:"), 1024 * field("/proc/self/status", "VmHWM:"))
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Space that the files below a directory take.
pub fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A thread that writes 4 KiB and syncs, over and over, and notes when that took long: a pause at
/// such a time is the disk's.
pub struct Probe {
    slow: Arc<Mutex<Vec<(Instant, Instant)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Starts to probe the disk that holds `dir`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let path: PathBuf = dir.join("probe");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        let (slow, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (slow, stop) = (slow.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let _ = file.write_all_at(&[7; 4096], 0).and_then(|()| file.sync_data());
                    if start.elapsed() > Duration::from_millis(25)
                        && let Ok(mut slow) = slow.lock()
                    {
                        slow.push((start, Instant::now()));
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                let _ = fs::remove_file(path);
            }
        });
        Ok(Self { slow, stop, thread: Some(thread) })
    }

    /// Stops, and returns the times at which the disk was slow.
    pub fn stop(mut self) -> Vec<(Instant, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.slow.lock().map(|slow| slow.clone()).unwrap_or_default()
    }
}
