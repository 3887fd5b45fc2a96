//! redb.

use std::path::Path;

use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase as _, TableDefinition};

use super::{Engine, Key, Sizes};

const TABLE: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("bench");

/// A database with one table.
pub struct Redb(Database);

impl Redb {
    pub fn open(dir: &Path, sizes: Sizes) -> Result<Self> {
        let mut builder = Database::builder();
        builder.set_cache_size(sizes.cache_bytes as usize);
        let database = builder.create(dir.join("bench.redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        Ok(Self(database))
    }
}

impl Engine for Redb {
    fn put(&mut self, batch: &[(Key, &[u8])], sync: bool) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        let durability = if sync { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in batch {
                table.insert(key, *value)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&mut self, key: &Key) -> Result<Option<usize>> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| value.value().len()))
    }

    fn scan(&mut self, from: &Key, count: usize) -> Result<usize> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let (mut rows, mut sum) = (0, 0_usize);
        for row in table.range::<&Key>(from..)?.take(count) {
            sum += usize::from(row?.1.value()[0]);
            rows += 1;
        }
        std::hint::black_box(sum);
        Ok(rows)
    }

    fn settle(&mut self) -> Result<()> {
        self.put(&[], true)
    }

    fn compact(&mut self) -> Result<()> {
        self.0.compact()?;
        Ok(())
    }
}
