//! Reads and scans, at the newest versions or at a timestamp of the past.
//!
//! A shard can be read from its machine's watermark on: below it flushes and compactions may have
//! dropped what was true. Nor can it be read where the snapshot that brought it here, if one did, left
//! something out. Whoever asks for more is refused, and never answered with what merely happens to be
//! left.

use kv_core::id::{LogIndex, ShardId, Timestamp};
use kv_core::machine::{self, LocalShardId, Newest, ReadView, StoredKey, decode_value};
use kv_core::op::{Found, Key, KeyRange, Page, PageLimit, Row};
use kv_core::storage::{Read, ReadError, Scan, StorageDamage, StorageReply};

use super::{Engine, Shard, damage_of, malformed};
use crate::lsm::{self, Tree, TreeError};

/// Rows of a whole shard that are fetched at a time.
const ALL_ROWS: u32 = 1_000;
const ALL_BYTES: u32 = 1 << 20;

/// One shard's keys.
pub(super) struct ShardView<'a> {
    pub(super) tree: &'a Tree,
    pub(super) local_id: LocalShardId,
}

impl ReadView for ShardView<'_> {
    type Error = TreeError;

    fn newest(&self, key: &Key, at: Timestamp) -> Result<Option<Newest>, TreeError> {
        let Some((version, value)) = self.tree.get(&StoredKey::prefix(self.local_id, key), at)?
        else {
            return Ok(None);
        };
        let value = decode_value(&value).map_err(|_| malformed("a value that is none"))?;
        Ok(Some((version, value)))
    }
}

impl ShardView<'_> {
    /// The keys of a range that exist at a timestamp, as far as a page goes.
    fn page(&self, range: &KeyRange, at: Timestamp, limit: PageLimit) -> Result<Page, TreeError> {
        let from = StoredKey::prefix(self.local_id, &range.start);
        let to = match &range.end {
            Some(end) => StoredKey::prefix(self.local_id, end),
            None => (self.local_id.0 + 1).to_be_bytes().into(),
        };
        self.stored_page(&from, &to, at, limit)
    }

    /// The page of what lies between two places of the tree.
    fn stored_page(
        &self,
        from: &[u8],
        to: &[u8],
        at: Timestamp,
        limit: PageLimit,
    ) -> Result<Page, TreeError> {
        let scan = lsm::Scan { from, to: Some(to), at };
        let (rows_max, bytes_max) = (limit.rows.max(1) as usize, limit.bytes as usize);
        let lsm::Page { rows, next } = self.tree.scan(scan, rows_max, bytes_max)?;
        let rows = rows.iter().map(decode_row).collect::<Result<_, _>>()?;
        let next = next.as_deref().map(decode_prefix).transpose()?;
        Ok(Page { rows, next })
    }

    /// All keys with their newest values.
    fn all(&self) -> Result<Vec<(Key, Found)>, TreeError> {
        let mut from = self.local_id.0.to_be_bytes().to_vec();
        let to = (self.local_id.0 + 1).to_be_bytes();
        let limit = PageLimit { rows: ALL_ROWS, bytes: ALL_BYTES };
        let mut found = Vec::new();
        loop {
            let page = self.stored_page(&from, &to, Timestamp::MAX, limit)?;
            found.extend(page.rows.into_iter().map(|row| (row.key, row.found)));
            match page.next {
                Some(next) => from = StoredKey::prefix(self.local_id, &next),
                None => return Ok(found),
            }
        }
    }
}

fn decode_row(row: &lsm::Row) -> Result<Row, TreeError> {
    let value = decode_value(&row.value).ok().flatten();
    let value = value.ok_or_else(|| malformed("a row that is none"))?;
    let found = Found { version: row.version, value };
    Ok(Row { key: decode_prefix(&row.prefix)?, found })
}

/// The key of which all stored versions begin like this.
fn decode_prefix(prefix: &[u8]) -> Result<Key, TreeError> {
    let stored = StoredKey([prefix, &[0; 8]].concat());
    let decoded = stored.decode().map_err(|_| malformed("a row that is none"))?;
    Ok(decoded.1)
}

impl Engine {
    /// Reads one key. Returns [`StorageReply::Read`], refused if the shard has not applied what the
    /// read must see, if it is too old, or if what is stored is damaged.
    pub fn read(&mut self, read: &Read) -> StorageReply {
        let result = self.try_read(read);
        StorageReply::Read { handle: read.handle, result: self.noting_damage(result) }
    }

    fn try_read(&self, read: &Read) -> Result<Option<Found>, ReadError> {
        let Some(view) = self.view_at(read.shard, read.at_least, read.timestamp)? else {
            return Ok(None);
        };
        machine::read(&view, &read.key, read.timestamp).map_err(damaged)
    }

    /// Scans a part of a range. Returns [`StorageReply::Scanned`], refused like a read.
    ///
    /// A page over keys that do not exist at the timestamp ends early, perhaps without any.
    pub fn scan_page(&mut self, scan: &Scan) -> StorageReply {
        let result = self.try_scan(scan);
        StorageReply::Scanned { handle: scan.handle, result: self.noting_damage(result) }
    }

    fn try_scan(&self, scan: &Scan) -> Result<Page, ReadError> {
        let Some(view) = self.view_at(scan.shard, scan.at_least, scan.timestamp)? else {
            return Ok(Page::default());
        };
        view.page(&scan.range, scan.timestamp, scan.limit).map_err(damaged)
    }

    /// What a read of a shard at a timestamp sees, if it may; none if nothing was ever applied.
    fn view_at(
        &self,
        shard: ShardId,
        at_least: LogIndex,
        timestamp: Timestamp,
    ) -> Result<Option<ShardView<'_>>, ReadError> {
        let (None, Some(tree)) = (&self.damage, &self.tree) else {
            return Err(ReadError::Damaged(self.damage.clone().expect("no tree without a reason")));
        };
        let applied = self.applied(shard).index;
        if applied < at_least {
            return Err(ReadError::NotApplied { at_least, applied });
        }
        let Some(shard) = self.state.shards.get(&shard) else { return Ok(None) };
        let oldest = shard.oldest();
        if timestamp < oldest {
            return Err(ReadError::TooOld { oldest });
        }
        Ok(Some(ShardView { tree, local_id: shard.local_id }))
    }

    /// Gives up if what is stored turned out to be damaged.
    fn noting_damage<T>(&mut self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        if let Err(ReadError::Damaged(damage)) = &result {
            self.damage = Some(damage.clone());
        }
        result
    }

    /// A shard's keys with their newest values, in order.
    ///
    /// # Errors
    /// [`StorageDamage`] if what is stored cannot be read.
    pub fn scan(&self, shard: ShardId) -> Result<Vec<(Key, Found)>, StorageDamage> {
        let (Some(tree), Some(shard)) = (&self.tree, self.state.shards.get(&shard)) else {
            return self.damage.clone().map_or(Ok(Vec::new()), Err);
        };
        ShardView { tree, local_id: shard.local_id }.all().map_err(damage_of)
    }
}

impl Shard {
    /// The oldest timestamp at which the shard can be read here.
    fn oldest(&self) -> Timestamp {
        self.machine.watermark().max(self.readable_from)
    }
}

fn damaged(error: TreeError) -> ReadError {
    ReadError::Damaged(damage_of(error))
}
