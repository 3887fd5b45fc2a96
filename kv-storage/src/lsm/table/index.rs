//! A table's block index in memory.
//!
//! Searching means to compare the target with about fifteen separators. Each separator's first
//! bytes, after what all keys of the table have in common, stand in an array of numbers, so most of
//! those comparisons touch nothing else.

use bytes::Bytes;

use super::super::block::{BlockCursor, common_bytes};
use super::super::error::Malformed;
use super::{TRAILER_BYTES, TableMeta};

/// - Block `i` has the section from `starts[i]` to `starts[i + 1]`.
/// - No key of block `i` is above separator `i`, and all of block `i + 1` are.
#[derive(Debug)]
pub(super) struct Index {
    /// What all keys of the table have in common at the start, in bytes.
    common: usize,
    /// The eight bytes of each separator that follow.
    heads: Vec<u64>,
    /// All separators, one after the other.
    separators: Vec<u8>,
    /// Where each separator ends.
    ends: Vec<u32>,
    starts: Vec<u64>,
    first_key: Bytes,
}

impl Index {
    /// Takes an index section's content, for data blocks that fill the file up to `data_end`.
    pub(super) fn parse(
        content: &[u8],
        data_end: u64,
        meta: &TableMeta,
    ) -> Result<Self, Malformed> {
        let mut cursor = BlockCursor::new(Bytes::copy_from_slice(content))?;
        let mut index = Self {
            common: common_bytes(&meta.smallest, &meta.largest),
            heads: Vec::new(),
            separators: Vec::new(),
            ends: Vec::new(),
            starts: vec![0],
            first_key: meta.smallest.clone(),
        };
        while cursor.advance()? {
            let size = u32::from_le_bytes(cursor.value().try_into().map_err(|_| Malformed)?);
            let start = index.starts.last().copied().unwrap_or_default();
            if (size as usize) < TRAILER_BYTES || start + u64::from(size) > data_end {
                return Err(Malformed);
            }
            index.heads.push(head(cursor.key(), index.common));
            index.separators.extend_from_slice(cursor.key());
            index.ends.push(index.separators.len() as u32);
            index.starts.push(start + u64::from(size));
        }
        let fills = index.starts.last() == Some(&data_end);
        match fills && index.block_count() > 0 {
            true => Ok(index.shrunk()),
            false => Err(Malformed),
        }
    }

    fn shrunk(mut self) -> Self {
        self.heads.shrink_to_fit();
        self.separators.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.starts.shrink_to_fit();
        self
    }

    pub(super) fn block_count(&self) -> usize {
        self.heads.len()
    }

    /// Where the section of a block starts and ends.
    pub(super) fn section(&self, block: usize) -> (u64, u64) {
        (self.starts[block], self.starts[block + 1])
    }

    /// The block that holds the first key that is not below `target`, unless that is the first of
    /// the next one. None if all keys are below.
    pub(super) fn block_for(&self, target: &[u8]) -> Option<usize> {
        if *target <= *self.first_key {
            return Some(0);
        }
        if common_bytes(target, &self.first_key) < self.common {
            // Above the first key and with another beginning: above all.
            return None;
        }
        let want = head(target, self.common);
        // The separators with this head: below them all are smaller, above them all are larger.
        let from = self.heads.partition_point(|head| *head < want);
        let equal = self.heads[from..].partition_point(|head| *head == want);
        let (mut low, mut high) = (from, from + equal);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.separator(middle) < target {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        (low < self.block_count()).then_some(low)
    }

    pub(super) fn memory(&self) -> u64 {
        let words = 8 * (self.heads.capacity() + self.starts.capacity());
        (words + 4 * self.ends.capacity() + self.separators.capacity()) as u64
    }

    fn separator(&self, block: usize) -> &[u8] {
        let start = if block == 0 { 0 } else { self.ends[block - 1] };
        &self.separators[start as usize..self.ends[block] as usize]
    }
}

/// Eight bytes of a key as a number that sorts like them.
fn head(key: &[u8], from: usize) -> u64 {
    let rest = key.get(from..).unwrap_or_default();
    match rest.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(bytes)
        }
    }
}
