//! A table: an immutable sorted file.
//!
//! ```text
//! part                             section: size  field
//! data blocks, one after the other             *  content, perhaps compressed
//! bloom filter                                 1  0 plain, 1 LZ4
//! block index                                  4  crc32c
//! footer
//! ```
//!
//! Every part but the footer is a *section*. Its checksum covers the content, the byte before the
//! checksum, and the place: owner, number of the table, offset. A section that the disk brings from
//! elsewhere is as damaged as one with a flipped bit. The checksum is verified whenever bytes come
//! from the disk, in compaction too.
//!
//! A compressed section is the content's size (4 bytes, little endian) and an LZ4 block.
//!
//! The block index has one entry for each data block: a key that is not below the block's last and
//! below the next block's first, and the size of the block's section (4 bytes). Sections lie side
//! by side from offset 0 on, so that says where each is. The index and the filter are read when the
//! table is opened and stay in memory.
//!
//! ```text
//! footer: size  field
//!            4  magic "KVTT"
//!            4  format version, 1
//!            8  number of the table
//!            8  offset of the filter's section
//!            8  offset of the index's section
//!            8  offset of the footer
//!            4  zero
//!            4  crc32c of the 44 bytes before it, the owner, the number
//! ```

mod builder;
mod cursor;
mod index;
mod verify;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(super) use builder::{TableBuilder, TableLayout};
pub(super) use cursor::{Reader, Run, RunCursor};
use index::Index;
pub(super) use verify::{Suspect, verify};

use super::block::{self, Lookup};
use super::bloom::Bloom;
use super::cache::{BlockCache, Slots};
use super::error::{Corruption, Malformed, TreeError};
use super::key::{KEY_BYTES_MAX, VALUE_BYTES_MAX, prefix_of};
use super::options::TreeOptions;
use crate::mutants::{Mutant, Mutants};
use crate::vfs::{Vfs, VfsFile};

const MAGIC: [u8; 4] = *b"KVTT";
const FORMAT_VERSION: u32 = 1;
pub(super) const FOOTER_BYTES: usize = 48;
/// What follows the content of a section.
pub(super) const TRAILER_BYTES: usize = 5;
/// More than the largest block: an entry of the largest key and value, and what went before it.
const BLOCK_BYTES_MAX: usize = 2 * (VALUE_BYTES_MAX + KEY_BYTES_MAX);
const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// What the manifest says of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableMeta {
    /// Names the file. Never used twice.
    pub(super) number: u64,
    /// Size of the file.
    pub(super) size: u64,
    /// Count of entries.
    pub(super) entry_count: u64,
    /// The first key.
    pub(super) smallest: Bytes,
    /// The last key.
    pub(super) largest: Bytes,
}

impl TableMeta {
    /// Whether the table may hold versions of a key from `first` to `last`, all prefixes.
    pub(super) fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        prefix_of(&self.smallest) <= last && first <= prefix_of(&self.largest)
    }
}

/// Name of a table's file.
pub(super) fn table_name(number: u64) -> String {
    format!("table-{number:016x}.kvt")
}

/// Where a table's file is.
pub(super) fn table_path(folder: &str, number: u64) -> String {
    super::join(folder, &table_name(number))
}

/// The checksum of a section at a place.
fn section_crc(owner: u64, number: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&owner.to_le_bytes());
    place[8..16].copy_from_slice(&number.to_le_bytes());
    place[16..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

/// An open table.
#[derive(Debug)]
pub(super) struct Table {
    /// What the manifest says of it.
    pub(super) meta: TableMeta,
    path: String,
    owner: u64,
    mutants: Mutants,
    file: Box<dyn VfsFile>,
    index: Index,
    bloom: Bloom,
    slots: Arc<Slots>,
}

impl Table {
    /// Opens a table that the manifest lists.
    pub(super) fn open(
        vfs: &dyn Vfs,
        folder: &str,
        options: &TreeOptions,
        meta: TableMeta,
    ) -> Result<Self, TreeError> {
        let owner = options.owner;
        let path = table_path(folder, meta.number);
        let file = match vfs.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corruption(&path, 0, "the table is missing"));
            }
            Err(source) => return Err(TreeError::Read { file: path, source }),
        };
        let place = Place { file: &*file, path: &path, owner, number: meta.number };
        let size = file.size().map_err(|source| place.unreadable(source))?;
        if size != meta.size {
            let what = "the table has another size than the manifest says";
            return Err(corruption(&path, size.min(meta.size), what));
        }
        let footer = Footer::read(&place, size)?;
        let filter = place.section(footer.filter_at, footer.index_at)?;
        let bloom = Bloom::parse(filter).map_err(|_| place.malformed(footer.filter_at))?;
        let content = place.section(footer.index_at, footer.at)?;
        let index = Index::parse(&content, footer.filter_at, &meta)
            .map_err(|_| place.malformed(footer.index_at))?;
        let slots = Arc::new(Slots::new(index.block_count()));
        Ok(Self { meta, path, owner, mutants: options.mutants, file, index, bloom, slots })
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Memory that the table takes while it is open.
    pub(super) fn memory(&self) -> u64 {
        self.index.memory() + self.bloom.memory() + self.slots.memory()
    }

    /// Whether a key with this hash may be here.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.bloom.may_contain(hash)
    }

    /// The version and the stored value at the first entry that is not below `target`, if that
    /// still is a version of the key whose prefix the first `prefix_bytes` bytes are.
    pub(super) fn get(
        &self,
        target: &[u8],
        prefix_bytes: usize,
        cache: &BlockCache,
    ) -> Result<Option<(u64, Bytes)>, TreeError> {
        let Some(first) = self.index.block_for(target) else { return Ok(None) };
        for number in first..self.index.block_count() {
            let block = self.cached_block(number, cache)?;
            match block::find(&block, target, prefix_bytes).map_err(|_| self.malformed(number))? {
                Lookup::Found(found) => {
                    let value = block.slice(found.value);
                    return Ok(Some((!found.inverted_version, value)));
                }
                Lookup::OtherKey => return Ok(None),
                Lookup::Below => {}
            }
        }
        Ok(None)
    }

    /// Verifies every block.
    pub(super) fn verify(&self) -> Result<u64, TreeError> {
        for number in 0..self.index.block_count() {
            self.block(number)?;
        }
        Ok(self.index.block_count() as u64)
    }

    fn cached_block(&self, number: usize, cache: &BlockCache) -> Result<Bytes, TreeError> {
        if let Some(block) = cache.lookup(&self.slots, number) {
            return Ok(block);
        }
        let block = self.block(number)?;
        cache.insert(&self.slots, number, block.clone());
        Ok(block)
    }

    fn block(&self, number: usize) -> Result<Bytes, TreeError> {
        let (start, end) = self.index.section(number);
        Ok(self.place().section(start, end)?.into())
    }

    /// Reads the blocks from `first` on, as many as fit into `bytes_max` and at least one.
    fn span(&self, first: usize, bytes_max: u64) -> Result<Vec<Bytes>, TreeError> {
        let (start, mut end) = self.index.section(first);
        let mut last = first;
        while last + 1 < self.index.block_count() {
            let (_, next) = self.index.section(last + 1);
            if next - start > bytes_max {
                break;
            }
            (last, end) = (last + 1, next);
        }
        let place = self.place();
        let bytes = Bytes::from(place.read(start, end)?);
        let block = |number| {
            let (from, to) = self.index.section(number);
            let section = bytes.slice((from - start) as usize..(to - start) as usize);
            if self.mutants.has(Mutant::ChecksumIgnoredInCompaction) {
                return Ok(section.slice(..section.len().saturating_sub(TRAILER_BYTES)));
            }
            place.open_section(from, section)
        };
        (first..=last).map(block).collect()
    }

    fn malformed(&self, block: usize) -> TreeError {
        self.place().malformed(self.index.section(block).0)
    }

    fn place(&self) -> Place<'_> {
        let Self { file, path, owner, .. } = self;
        Place { file: &**file, path, owner: *owner, number: self.meta.number }
    }
}

/// Where the parts after the data blocks are.
#[derive(Clone, Copy, Debug)]
struct Footer {
    filter_at: u64,
    index_at: u64,
    at: u64,
}

impl Footer {
    fn encode(self, owner: u64, number: u64) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&number.to_le_bytes());
        out[16..24].copy_from_slice(&self.filter_at.to_le_bytes());
        out[24..32].copy_from_slice(&self.index_at.to_le_bytes());
        out[32..40].copy_from_slice(&self.at.to_le_bytes());
        let crc = section_crc(owner, number, self.at, &out[..FOOTER_BYTES - 4]);
        out[FOOTER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn read(place: &Place<'_>, size: u64) -> Result<Self, TreeError> {
        let Some(at) = size.checked_sub(FOOTER_BYTES as u64) else {
            return Err(corruption(place.path, 0, "the table is shorter than its footer"));
        };
        let bytes = place.read(at, size)?;
        let u64_at =
            |at: usize| bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
        let footer = Self { filter_at: u64_at(16), index_at: u64_at(24), at };
        let expected = footer.encode(place.owner, place.number);
        if bytes[..4] == MAGIC && bytes[4..8] != FORMAT_VERSION.to_le_bytes() {
            let crc = section_crc(place.owner, place.number, at, &bytes[..FOOTER_BYTES - 4]);
            if bytes[FOOTER_BYTES - 4..] == crc.to_le_bytes() {
                return Err(corruption(
                    place.path,
                    at,
                    "the table has a format of a later version",
                ));
            }
        }
        match bytes == expected && footer.filter_at < footer.index_at && footer.index_at < at {
            true => Ok(footer),
            false => Err(corruption(place.path, at, "the footer's checksum is wrong")),
        }
    }
}

/// What a section's checksum covers besides its bytes, and what an error names.
struct Place<'a> {
    file: &'a dyn VfsFile,
    path: &'a str,
    owner: u64,
    number: u64,
}

impl Place<'_> {
    /// Reads the bytes from `start` to `end`, which lie in the file.
    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, TreeError> {
        let mut bytes = vec![0; (end - start) as usize];
        let count =
            self.file.read_at(start, &mut bytes).map_err(|source| self.unreadable(source))?;
        match count == bytes.len() {
            true => Ok(bytes),
            false => Err(corruption(self.path, start + count as u64, "the file ends early")),
        }
    }

    fn section(&self, start: u64, end: u64) -> Result<Vec<u8>, TreeError> {
        let mut bytes = self.read(start, end)?;
        match self.verified(start, &bytes)? {
            PLAIN => {
                bytes.truncate(bytes.len() - TRAILER_BYTES);
                Ok(bytes)
            }
            _ => {
                decompress(&bytes[..bytes.len() - TRAILER_BYTES]).map_err(|_| self.malformed(start))
            }
        }
    }

    /// Verifies a section that was read along with others.
    fn open_section(&self, start: u64, section: Bytes) -> Result<Bytes, TreeError> {
        let content = ..section.len().saturating_sub(TRAILER_BYTES);
        match self.verified(start, &section)? {
            PLAIN => Ok(section.slice(content)),
            _ => decompress(&section[content]).map(Bytes::from).map_err(|_| self.malformed(start)),
        }
    }

    /// How the content of a section is stored, if its checksum is right.
    fn verified(&self, start: u64, section: &[u8]) -> Result<u8, TreeError> {
        let Some((covered, crc)) = section.split_last_chunk::<4>() else {
            return Err(self.malformed(start));
        };
        if section_crc(self.owner, self.number, start, covered).to_le_bytes() != *crc {
            return Err(corruption(self.path, start, "the checksum is wrong"));
        }
        match covered.last() {
            Some(kind @ (&PLAIN | &LZ4)) => Ok(*kind),
            Some(_) | None => Err(self.malformed(start)),
        }
    }

    fn malformed(&self, offset: u64) -> TreeError {
        corruption(self.path, offset, "the checksum is right, but the content makes no sense")
    }

    fn unreadable(&self, source: io::Error) -> TreeError {
        TreeError::Read { file: self.path.to_owned(), source }
    }
}

fn decompress(stored: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (size, compressed) = stored.split_first_chunk::<4>().ok_or(Malformed)?;
    let size = u32::from_le_bytes(*size) as usize;
    // LZ4 cannot shrink by more than a factor of 255.
    if size > BLOCK_BYTES_MAX || size / 255 > compressed.len() {
        return Err(Malformed);
    }
    let content = lz4_flex::block::decompress(compressed, size).map_err(|_| Malformed)?;
    match content.len() == size {
        true => Ok(content),
        false => Err(Malformed),
    }
}

fn corruption(file: &str, offset: u64, what: &'static str) -> TreeError {
    Corruption { file: file.to_owned(), offset, what }.into()
}
