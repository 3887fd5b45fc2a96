//! fjall.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use fjall::config::{BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Engine, Key, Sizes};

/// A database with one keyspace.
pub struct Fjall {
    database: Database,
    keyspace: Keyspace,
}

impl Fjall {
    pub fn open(dir: &Path, sizes: Sizes) -> Result<Self> {
        let database = Database::builder(dir)
            .cache_size(sizes.cache_bytes)
            .journal_compression(CompressionType::None)
            .open()?;
        let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
        let keyspace = database.keyspace("bench", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(sizes.memtable_bytes)
                .filter_policy(FilterPolicy::all(bloom))
                .data_block_compression_policy(CompressionPolicy::disabled())
        })?;
        Ok(Self { database, keyspace })
    }
}

impl Engine for Fjall {
    fn put(&mut self, batch: &[(Key, &[u8])], sync: bool) -> Result<()> {
        let mode = sync.then_some(PersistMode::SyncData);
        let mut writes = self.database.batch().durability(mode);
        for (key, value) in batch {
            writes.insert(&self.keyspace, key, *value);
        }
        Ok(writes.commit()?)
    }

    fn get(&mut self, key: &Key) -> Result<Option<usize>> {
        Ok(self.keyspace.get(key)?.map(|value| value.len()))
    }

    fn scan(&mut self, from: &Key, count: usize) -> Result<usize> {
        let (mut rows, mut sum) = (0, 0_usize);
        for row in self.keyspace.range::<&[u8], _>(&from[..]..).take(count) {
            sum += usize::from(row.value()?[0]);
            rows += 1;
        }
        std::hint::black_box(sum);
        Ok(rows)
    }

    fn settle(&mut self) -> Result<()> {
        self.database.persist(PersistMode::SyncAll)?;
        self.keyspace.rotate_memtable_and_wait()?;
        let mut quiet = 0;
        while quiet < 10 {
            let idle =
                self.database.outstanding_flushes() == 0 && self.database.active_compactions() == 0;
            quiet = if idle { quiet + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        self.settle()?;
        self.keyspace.major_compact()?;
        self.settle()
    }

    fn is_log(&self, name: &str) -> bool {
        name.ends_with(".jnl")
    }
}
