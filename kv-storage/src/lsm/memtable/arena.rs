//! Keys and values, one after the other, in chunks that never move.
//!
//! ```text
//! size  field
//!    4  bytes of the key, native order
//!    4  bytes of the value
//!    *  key
//!    *  value
//! ```

use super::pool::Pool;

/// Size of a chunk, unless one entry needs more or it is one of the first, which are smaller, so
/// that a small memtable takes little memory.
pub(super) const CHUNK_BYTES: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 20;
const FIRST_CHUNK_BYTES: usize = 4096;
const HEADER_BYTES: usize = 8;

/// Where an entry is: number of the chunk, then the offset in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntryAt(u32);

const _: () = assert!(FIRST_CHUNK_BYTES << 8 == CHUNK_BYTES);

#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    memory: u64,
    content: u64,
}

impl Arena {
    pub(super) fn push(&mut self, key: &[u8], value: &[u8], pool: &Pool) -> EntryAt {
        let size = HEADER_BYTES + key.len() + value.len();
        if self.chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < size) {
            let usual = FIRST_CHUNK_BYTES << self.chunks.len().min(8);
            let capacity = size.max(usual);
            self.chunks.push(match capacity {
                CHUNK_BYTES => pool.chunk(),
                _ => Vec::with_capacity(capacity),
            });
            self.memory += capacity as u64;
        }
        let number = self.chunks.len() - 1;
        assert!(number < 1 << (u32::BITS - CHUNK_BITS), "a memtable is sealed long before 4 GiB");
        let chunk = &mut self.chunks[number];
        let at = EntryAt(((number as u32) << CHUNK_BITS) | chunk.len() as u32);
        chunk.extend_from_slice(&(key.len() as u32).to_ne_bytes());
        chunk.extend_from_slice(&(value.len() as u32).to_ne_bytes());
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value);
        self.content += (key.len() + value.len()) as u64;
        at
    }

    pub(super) fn entry(&self, at: EntryAt) -> (&[u8], &[u8]) {
        let chunk = &self.chunks[(at.0 >> CHUNK_BITS) as usize];
        let entry = &chunk[at.0 as usize & (CHUNK_BYTES - 1)..];
        let size = |at: usize| {
            entry[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize)
        };
        let (key, value) = (size(0), size(4));
        entry[HEADER_BYTES..HEADER_BYTES + key + value].split_at(key)
    }

    pub(super) fn key(&self, at: EntryAt) -> &[u8] {
        self.entry(at).0
    }

    /// The chunks, for whoever takes them over.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.chunks)
    }

    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    pub(super) fn content_bytes(&self) -> u64 {
        self.content
    }
}
