//! The engines under one interface.

mod fjall;
mod ours;
mod redb;
#[cfg(has_rocksdb)]
mod rocks;

use std::path::Path;

use anyhow::{Result, bail};

/// A key.
pub type Key = [u8; 16];

/// How much memory an engine may take for what.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// For cached blocks.
    pub cache_bytes: u64,
    /// For a memtable.
    pub memtable_bytes: u64,
}

/// What each engine can do.
pub trait Engine {
    /// Writes a batch, atomically; durable on return if `sync`.
    fn put(&mut self, batch: &[(Key, &[u8])], sync: bool) -> Result<()>;
    /// Size of the newest value of a key.
    fn get(&mut self, key: &Key) -> Result<Option<usize>>;
    /// Reads up to `count` rows from a key on, values included. Returns how many there were.
    fn scan(&mut self, from: &Key, count: usize) -> Result<usize>;
    /// Lets all background work that is due end.
    fn settle(&mut self) -> Result<()>;
    /// Merges everything as far as the engine can.
    fn compact(&mut self) -> Result<()>;
    /// Whether files of this name are a log that can be cut after a settle.
    fn is_log(&self, name: &str) -> bool {
        let _ = name;
        false
    }
    /// Anything worth telling.
    fn report(&self) -> String {
        String::new()
    }
}

/// Names of the engines in this build.
pub fn names() -> Vec<&'static str> {
    let mut names = vec!["ours", "fjall", "redb"];
    if cfg!(has_rocksdb) {
        names.push("rocksdb");
    }
    names
}

/// Opens an engine in an empty directory.
pub fn open(name: &str, dir: &Path, sizes: Sizes) -> Result<Box<dyn Engine>> {
    Ok(match name {
        "ours" => Box::new(ours::Ours::open(dir, sizes)?),
        "fjall" => Box::new(fjall::Fjall::open(dir, sizes)?),
        "redb" => Box::new(redb::Redb::open(dir, sizes)?),
        #[cfg(has_rocksdb)]
        "rocksdb" => Box::new(rocks::Rocks::open(dir, sizes)?),
        _ => bail!("there is no engine {name} in this build"),
    })
}
