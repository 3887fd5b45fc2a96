//! Writing a table.

use bytes::Bytes;

use super::super::block::{BlockBuilder, common_bytes};
use super::super::bloom;
use super::super::error::TreeError;
use super::super::key::prefix_of;
use super::super::options::TreeOptions;
use super::{FOOTER_BYTES, Footer, LZ4, PLAIN, TRAILER_BYTES, TableMeta, section_crc, table_path};
use crate::mutants::Mutant;
use crate::vfs::{Vfs, VfsFile};

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 256 * 1024;
/// How much is written before it is synced, so that no sync takes long.
const SYNC_BYTES: u64 = 2 * 1024 * 1024;

/// Which table to build and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLayout<'a> {
    /// Where the file goes.
    pub(crate) folder: &'a str,
    /// Its number.
    pub(crate) number: u64,
    /// Block size, filter, compression.
    pub(crate) options: &'a TreeOptions,
}

/// A table in the making. Keys come in ascending order.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    file: Box<dyn VfsFile>,
    number: u64,
    options: TreeOptions,
    block: BlockBuilder,
    index: BlockBuilder,
    /// Of every key, without its version.
    hashes: Vec<u64>,
    /// Sections that wait to be written.
    buffer: Vec<u8>,
    /// The last block's section, until the key is known that separates it from the next.
    unindexed: Option<u32>,
    /// Everything before it is written.
    written: u64,
    synced: u64,
    entry_count: u64,
    smallest: Vec<u8>,
    largest: Vec<u8>,
}

impl TableBuilder {
    /// Creates the file.
    pub(crate) fn create(vfs: &dyn Vfs, layout: TableLayout<'_>) -> Result<Self, TreeError> {
        Ok(Self {
            file: vfs
                .create(&table_path(layout.folder, layout.number))
                .map_err(TreeError::from_write)?,
            number: layout.number,
            options: *layout.options,
            block: BlockBuilder::default(),
            index: BlockBuilder::default(),
            hashes: Vec::new(),
            buffer: Vec::with_capacity(WRITE_BYTES + 2 * layout.options.block_bytes),
            unindexed: None,
            written: 0,
            synced: 0,
            entry_count: 0,
            smallest: Vec::new(),
            largest: Vec::new(),
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Size of the data so far.
    pub(crate) fn size(&self) -> u64 {
        self.written + (self.buffer.len() + self.block.size()) as u64
    }

    pub(crate) fn last_key(&self) -> &[u8] {
        self.block.last_key()
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TreeError> {
        if let Some(size) = self.unindexed.take() {
            let separator = separator(self.block.last_key(), key);
            self.index.add(separator, &size.to_le_bytes(), 1);
        }
        let is_first = self.entry_count == 0;
        if is_first {
            self.smallest.extend_from_slice(key);
        }
        if is_first || prefix_of(key) != prefix_of(self.block.last_key()) {
            self.hashes.push(bloom::hash(prefix_of(key)));
        }
        self.block.add(key, value, self.options.restart_interval);
        self.entry_count += 1;
        if self.block.size() >= self.options.block_bytes {
            self.end_block()?;
        }
        Ok(())
    }

    /// Writes the rest and syncs. The file's name is not durable yet.
    pub(crate) fn finish(mut self) -> Result<TableMeta, TreeError> {
        assert!(self.entry_count > 0, "a table holds something");
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.largest.extend_from_slice(self.block.last_key());
        if let Some(size) = self.unindexed.take() {
            self.index.add(&self.largest, &size.to_le_bytes(), 1);
        }
        if self.options.mutants.has(Mutant::BloomFalseNegative) {
            self.hashes.pop();
        }
        let filter_at = self.offset();
        let filter = bloom::build(&self.hashes, self.options.bloom_bits_per_key);
        self.push_section(&filter, false);
        let index_at = self.offset();
        let mut index = std::mem::take(&mut self.index);
        self.push_section(index.finish(), false);
        let footer = Footer { filter_at, index_at, at: self.offset() };
        self.buffer.extend_from_slice(&footer.encode(self.options.owner, self.number));
        self.write()?;
        self.file.sync_data().map_err(TreeError::Write)?;
        Ok(TableMeta {
            number: self.number,
            size: footer.at + FOOTER_BYTES as u64,
            entry_count: self.entry_count,
            smallest: Bytes::from(self.smallest),
            largest: Bytes::from(self.largest),
        })
    }

    fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn end_block(&mut self) -> Result<(), TreeError> {
        let before = self.offset();
        let mut block = std::mem::take(&mut self.block);
        self.push_section(block.finish(), self.options.compression);
        block.clear();
        self.block = block;
        self.unindexed = Some((self.offset() - before) as u32);
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
            if self.written - self.synced >= SYNC_BYTES {
                self.file.sync_data().map_err(TreeError::Write)?;
                self.synced = self.written;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), TreeError> {
        self.file.write_at(self.written, &self.buffer).map_err(TreeError::from_write)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn push_section(&mut self, content: &[u8], compress: bool) {
        let offset = self.offset();
        let start = self.buffer.len();
        let kind = match compress.then(|| lz4_flex::block::compress(content)) {
            // What does not shrink is kept as it is.
            Some(compressed) if compressed.len() + 4 < content.len() => {
                self.buffer.extend_from_slice(&(content.len() as u32).to_le_bytes());
                self.buffer.extend_from_slice(&compressed);
                LZ4
            }
            Some(_) | None => {
                self.buffer.extend_from_slice(content);
                PLAIN
            }
        };
        self.buffer.push(kind);
        let crc = section_crc(self.options.owner, self.number, offset, &self.buffer[start..]);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        debug_assert!(self.buffer.len() - start >= TRAILER_BYTES);
    }
}

/// The shortest start of `next` that is above `last`, which is below it; `last` itself if that is
/// shorter.
fn separator<'a>(last: &'a [u8], next: &'a [u8]) -> &'a [u8] {
    let common = common_bytes(last, next);
    // One byte more than they share is above `last`, but must stay below `next`.
    match next.get(..common + 1) {
        Some(short) if short.len() < next.len() && short.len() < last.len() => short,
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_separator_separates(
            keys in proptest::collection::btree_set(
                proptest::collection::vec(0_u8..3, 1..12), 2..3),
        ) {
            let keys: Vec<_> = keys.into_iter().collect();
            let separator = separator(&keys[0], &keys[1]);
            prop_assert!(*keys[0] <= *separator && *separator < *keys[1]);
        }
    }
}
