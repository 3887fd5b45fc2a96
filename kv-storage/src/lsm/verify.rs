//! Verifying a tree that is not open: all of it, and without changing anything.
//!
//! Opening a tree stops at the first damage, and reading finds only the damage that it meets. Who
//! wants to know how bad it is, before a repair or to decide whether one is needed, asks here.
//!
//! If the manifest is damaged, nobody knows which tables count, so every file with the name of a
//! table is verified. Otherwise only those that it lists are: any other is a leftover.

use std::io;

use super::error::{Corruption, TreeError};
use super::manifest;
use super::open::{damaged, replay, table_number};
use super::table::{self, Suspect};
use crate::vfs::Vfs;

/// How many damaged places are told one by one.
pub const DAMAGE_MAX: usize = 10_000;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// What is damaged, the first [`DAMAGE_MAX`] places.
    pub damage: Vec<Corruption>,
    /// Count of all damaged places.
    pub damage_count: u64,
    /// Files that were looked at: the manifest and tables.
    pub file_count: u64,
    /// Bytes that were read of them.
    pub bytes_read: u64,
    /// Files with the name of a table that the manifest does not list: leftovers of a crash, which
    /// the next opening removes. They were not looked at.
    pub leftover_count: u64,
}

impl Verification {
    fn report(&mut self, damage: Corruption) {
        self.damage_count += 1;
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(damage);
        }
    }
}

/// Verifies the manifest and every table of the tree in `folder`, which must not be open, past the
/// first damage. Changes nothing. `owner` is that of [`TreeOptions`](super::TreeOptions::owner). A
/// folder without a tree has no damage.
///
/// # Errors
/// [`TreeError::Read`]: the disk cannot read a file.
pub fn verify(vfs: &dyn Vfs, folder: &str, owner: u64) -> Result<Verification, TreeError> {
    let mut verification = Verification::default();
    let names = match vfs.list(folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(verification),
        Err(source) => return Err(TreeError::Read { file: folder.to_owned(), source }),
    };
    let numbers: Vec<u64> = names.iter().filter_map(|name| table_number(name)).collect();
    let found = manifest::read(vfs, folder, owner).and_then(|found| match found {
        Some(found) => replay(folder, found.edits).map(Some),
        None if numbers.is_empty() => Ok(None),
        None => Err(damaged(folder, "there are tables but no manifest")),
    });
    if names.iter().any(|name| name == manifest::NAME) {
        verification.file_count += 1;
        verification.bytes_read += manifest_bytes(vfs, folder)?;
    }
    let suspects: Vec<_> = match found {
        Ok(None) => return Ok(verification),
        Ok(Some(state)) => {
            let is_leftover = |number: &&u64| !state.tables.contains_key(number);
            verification.leftover_count = numbers.iter().filter(is_leftover).count() as u64;
            state.tables.into_iter().map(|(number, (_, meta))| (number, Some(meta))).collect()
        }
        Err(TreeError::Corruption(damage)) => {
            verification.report(damage);
            numbers.into_iter().map(|number| (number, None)).collect()
        }
        Err(error) => return Err(error),
    };
    for (number, listed) in &suspects {
        let suspect = Suspect { folder, owner, number: *number, listed: listed.as_ref() };
        verification.file_count += 1;
        let bytes_read = table::verify(vfs, suspect, &mut |damage| verification.report(damage))?;
        verification.bytes_read += bytes_read;
    }
    Ok(verification)
}

fn manifest_bytes(vfs: &dyn Vfs, folder: &str) -> Result<u64, TreeError> {
    let path = super::join(folder, manifest::NAME);
    let size = vfs.open(&path).and_then(|file| file.size());
    size.map_err(|source| TreeError::Read { file: path, source })
}
