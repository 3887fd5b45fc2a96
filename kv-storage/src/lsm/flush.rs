//! Writing a sealed memtable to a table of level 0.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::error::TreeError;
use super::key::local_id_of;
use super::memtable::{Memtable, Place};
use super::retention::{Retention, Watermarks};
use super::table::{Table, TableBuilder};

/// A memtable that is not written to any more.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) memtable: Arc<Memtable>,
    /// What the caller knows at this point of its log.
    pub(super) metadata: Bytes,
    /// What can be read according to the metadata.
    pub(super) watermarks: Watermarks,
    /// Local ids that were deleted while the memtable was active.
    pub(super) ids_deleted: Vec<u32>,
}

/// A flush in the making.
#[derive(Debug)]
pub(super) struct FlushJob {
    memtable: Arc<Memtable>,
    /// Local ids whose keys are left out.
    deleted: BTreeSet<u32>,
    retention: Retention,
    place: Place,
    /// None until the first entry that is kept.
    builder: Option<TableBuilder>,
    /// Bytes of the entries that were looked at.
    pub(super) done: u64,
}

impl FlushJob {
    pub(super) fn new(sealed: &Sealed, mut deleted: BTreeSet<u32>) -> Self {
        deleted.extend(&sealed.ids_deleted);
        let memtable = sealed.memtable.clone();
        let place = memtable.read().first();
        let retention = Retention::new(sealed.watermarks.clone());
        Self { memtable, deleted, retention, place, builder: None, done: 0 }
    }

    /// Goes on for about `budget` bytes. Returns whether all entries are in the table.
    pub(super) fn step(&mut self, disk: &mut Disk, budget: u64) -> Result<bool, TreeError> {
        let memtable = self.memtable.read();
        let end = self.done.saturating_add(budget);
        while self.done < end {
            let Some((key, value)) = memtable.entry(self.place) else { return Ok(true) };
            self.done += (key.len() + value.len()) as u64;
            let is_deleted = self.deleted.contains(&local_id_of(key));
            // Older versions may be in any table, so a tombstone stays.
            if !is_deleted && self.retention.keeps(key, value, |_| false) {
                let builder = match &mut self.builder {
                    Some(builder) => builder,
                    None => self.builder.insert(disk.begin_table()?),
                };
                builder.add(key, value)?;
            }
            self.place = memtable.next(self.place);
        }
        Ok(memtable.entry(self.place).is_none())
    }

    /// Completes the table. None if nothing was kept.
    pub(super) fn finish(&mut self, disk: &Disk) -> Result<Option<Arc<Table>>, TreeError> {
        let Some(builder) = self.builder.take() else { return Ok(None) };
        let number = builder.number();
        let table = builder.finish().and_then(|meta| disk.open_table(meta));
        table.map(Some).inspect_err(|error| disk.discard_after(error, number))
    }

    /// Gives up.
    pub(super) fn abort(self, disk: &Disk, error: &TreeError) {
        if let Some(builder) = self.builder {
            disk.discard_after(error, builder.number());
        }
    }
}
