//! A walk over the entries of a run.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::super::block::BlockCursor;
use super::super::cache::BlockCache;
use super::super::error::TreeError;
use super::Table;

/// How much a compaction reads at once.
const SPAN_BYTES: u64 = 128 * 1024;

/// Tables that follow each other without overlap: a level, or one table of level 0.
pub(crate) type Run = Arc<Vec<Arc<Table>>>;

/// Where a walk gets its blocks from.
#[derive(Debug)]
pub(crate) enum Reader<'a> {
    /// From the cache, which keeps what it did not have.
    Cached(&'a BlockCache),
    /// From the disk, many at once and past the cache: a compaction needs each only once.
    Streaming(VecDeque<Bytes>),
}

/// A walk over the entries of a run.
///
/// - It stands on an entry, or at the end.
#[derive(Debug)]
pub(crate) struct RunCursor<'a> {
    run: Run,
    reader: Reader<'a>,
    table: usize,
    block: usize,
    entries: Option<BlockCursor>,
}

impl<'a> RunCursor<'a> {
    /// A walk that starts at the first key that is not below `target`.
    pub(crate) fn seek(run: Run, reader: Reader<'a>, target: &[u8]) -> Result<Self, TreeError> {
        let table = run.partition_point(|table| *table.meta.largest < *target);
        let block = run.get(table).and_then(|table| table.index.block_for(target)).unwrap_or(0);
        let mut cursor = Self { run, reader, table, block, entries: None };
        if !cursor.load()? {
            return Ok(cursor);
        }
        let found = cursor.entries.as_mut().map(|entries| entries.seek(target));
        match found {
            Some(Ok(false)) => cursor.enter_next_block()?,
            Some(Err(_)) => return Err(cursor.malformed()),
            Some(Ok(true)) | None => {}
        }
        Ok(cursor)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.entries.is_none()
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.entries.as_ref().map_or(&[], BlockCursor::key)
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.entries.as_ref().map_or(&[], BlockCursor::value)
    }

    pub(crate) fn value_bytes(&self) -> Bytes {
        self.entries.as_ref().map_or_else(Bytes::new, BlockCursor::value_bytes)
    }

    /// Goes to the next entry.
    pub(crate) fn advance(&mut self) -> Result<(), TreeError> {
        match self.entries.as_mut().map(BlockCursor::advance) {
            Some(Ok(true)) | None => Ok(()),
            Some(Ok(false)) => self.enter_next_block(),
            Some(Err(_)) => Err(self.malformed()),
        }
    }

    fn enter_next_block(&mut self) -> Result<(), TreeError> {
        self.block += 1;
        if self.run.get(self.table).is_some_and(|table| self.block == table.index.block_count()) {
            self.table += 1;
            self.block = 0;
        }
        if !self.load()? {
            return Ok(());
        }
        match self.entries.as_mut().map(BlockCursor::advance) {
            Some(Ok(true)) | None => Ok(()),
            // No block is empty.
            Some(Ok(false) | Err(_)) => Err(self.malformed()),
        }
    }

    /// Gets the block at which the walk is. Returns false at the end of the run.
    fn load(&mut self) -> Result<bool, TreeError> {
        let Some(table) = self.run.get(self.table) else {
            self.entries = None;
            return Ok(false);
        };
        let block = match &mut self.reader {
            Reader::Cached(cache) => table.cached_block(self.block, cache)?,
            Reader::Streaming(ahead) => {
                if ahead.is_empty() {
                    ahead.extend(table.span(self.block, SPAN_BYTES)?);
                }
                ahead.pop_front().unwrap_or_default()
            }
        };
        let is_block = match &mut self.entries {
            Some(entries) => entries.reset(block),
            None => BlockCursor::new(block).map(|entries| self.entries = Some(entries)),
        };
        is_block.map_err(|_| self.malformed())?;
        Ok(true)
    }

    fn malformed(&self) -> TreeError {
        self.run[self.table].malformed(self.block)
    }
}
