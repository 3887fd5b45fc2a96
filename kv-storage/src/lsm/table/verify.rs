//! Reading a whole table only to find damage.

use std::io;

use bytes::Bytes;

use super::super::block::BlockCursor;
use super::super::bloom::Bloom;
use super::super::error::{Corruption, TreeError};
use super::index::Index;
use super::{FOOTER_BYTES, Footer, Place, TableMeta, table_path};
use crate::vfs::Vfs;

/// Which table to verify.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect<'a> {
    /// Where the file is.
    pub(crate) folder: &'a str,
    /// Owner of the tree.
    pub(crate) owner: u64,
    /// Number of the table.
    pub(crate) number: u64,
    /// What the manifest says of it, if that is known.
    pub(crate) listed: Option<&'a TableMeta>,
}

/// Verifies everything in a table and reports all damage. Returns how many bytes were read.
pub(crate) fn verify(
    vfs: &dyn Vfs,
    suspect: Suspect<'_>,
    report: &mut dyn FnMut(Corruption),
) -> Result<u64, TreeError> {
    let path = table_path(suspect.folder, suspect.number);
    let damage = |offset, what| Corruption { file: path.clone(), offset, what };
    let file = match vfs.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report(damage(0, "the table is missing"));
            return Ok(0);
        }
        Err(source) => return Err(TreeError::Read { file: path, source }),
    };
    let place = Place { file: &*file, path: &path, owner: suspect.owner, number: suspect.number };
    let size = file.size().map_err(|source| place.unreadable(source))?;
    if let Some(meta) = suspect.listed
        && meta.size != size
    {
        report(damage(size.min(meta.size), "the table has another size than the manifest says"));
    }
    let Some(footer) = found(Footer::read(&place, size), report)? else {
        return Ok(size.min(FOOTER_BYTES as u64));
    };
    let filter = found(place.section(footer.filter_at, footer.index_at), report)?;
    if filter.is_some_and(|filter| Bloom::parse(filter).is_err()) {
        found::<()>(Err(place.malformed(footer.filter_at)), report)?;
    }
    let read = size - footer.filter_at;
    let Some(index) = read_index(&place, footer, suspect.listed, report)? else {
        return Ok(read);
    };
    verify_blocks(&place, &index, suspect.listed, report)?;
    Ok(size)
}

/// Reads the index, if that is whole.
fn read_index(
    place: &Place<'_>,
    footer: Footer,
    listed: Option<&TableMeta>,
    report: &mut dyn FnMut(Corruption),
) -> Result<Option<Index>, TreeError> {
    let Some(content) = found(place.section(footer.index_at, footer.at), report)? else {
        return Ok(None);
    };
    let unknown = TableMeta {
        number: place.number,
        size: footer.at + FOOTER_BYTES as u64,
        entry_count: 0,
        smallest: Bytes::new(),
        largest: Bytes::new(),
    };
    let index = Index::parse(&content, footer.filter_at, listed.unwrap_or(&unknown));
    found(index.map_err(|_| place.malformed(footer.index_at)), report)
}

/// Verifies each data block, that keys ascend, and that the manifest tells the truth of them.
fn verify_blocks(
    place: &Place<'_>,
    index: &Index,
    listed: Option<&TableMeta>,
    report: &mut dyn FnMut(Corruption),
) -> Result<(), TreeError> {
    let mut entry_count = 0;
    let mut last = Vec::new();
    let mut is_whole = true;
    for number in 0..index.block_count() {
        let (start, end) = index.section(number);
        let Some(block) = found(place.section(start, end), report)? else {
            is_whole = false;
            continue;
        };
        match count_entries(block.into(), &mut last) {
            Some(count) => entry_count += count,
            None => {
                is_whole = false;
                found::<()>(Err(place.malformed(start)), report)?;
            }
        }
    }
    let Some(meta) = listed.filter(|_| is_whole) else { return Ok(()) };
    if meta.entry_count != entry_count || *meta.largest != *last {
        let what = "the table holds other entries than the manifest says";
        report(Corruption { file: place.path.to_owned(), offset: 0, what });
    }
    Ok(())
}

/// Counts the entries of a block. `last` is the key before it, and then its last key. None if they
/// are not in order, or not entries.
fn count_entries(block: Bytes, last: &mut Vec<u8>) -> Option<u64> {
    let mut entries = BlockCursor::new(block).ok()?;
    let mut count = 0;
    while entries.advance().ok()? {
        if entries.key() <= last.as_slice() {
            return None;
        }
        last.clear();
        last.extend_from_slice(entries.key());
        count += 1;
    }
    Some(count)
}

/// Takes damage out of a result and reports it.
fn found<T>(
    result: Result<T, TreeError>,
    report: &mut dyn FnMut(Corruption),
) -> Result<Option<T>, TreeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(TreeError::Corruption(damage)) => {
            report(damage);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
