//! Opening a tree: reading what its manifest says, and removing what it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::error::{Corruption, TreeError};
use super::key::KEY_BYTES_MIN;
use super::key::prefix_of;
use super::manifest::{self, Edit, Manifest};
use super::options::TreeOptions;
use super::table::TableMeta;
use super::version::{LEVEL_COUNT, Version};
use crate::vfs::Vfs;

/// What a folder held.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) disk: Disk,
    pub(super) manifest: Manifest,
    pub(super) version: Version,
    pub(super) ids_deleted: BTreeSet<u32>,
    pub(super) metadata: Bytes,
}

/// What all edits of a manifest come to.
///
/// - No two tables of a level from 1 on have versions of the same key.
#[derive(Debug, Default)]
pub(super) struct State {
    next_number: u64,
    /// Tables with their levels, by number.
    pub(super) tables: BTreeMap<u64, (u8, TableMeta)>,
    ids_deleted: BTreeSet<u32>,
    metadata: Bytes,
}

/// Opens the tree in a folder, or begins an empty one.
pub(super) fn open(
    vfs: Arc<dyn Vfs>,
    folder: &str,
    options: TreeOptions,
) -> Result<Found, TreeError> {
    let names = begin_folder(&*vfs, folder)?;
    let mut found = manifest::read(&*vfs, folder, options.owner)?;
    let (state, place) = match &mut found {
        Some(found) => {
            let place = manifest::place_after(options.owner, found.number);
            (replay(folder, std::mem::take(&mut found.edits))?, place)
        }
        None if names.iter().any(|name| table_number(name).is_some()) => {
            let what = "there are tables but no manifest";
            return Err(damaged(folder, what));
        }
        None => {
            (State { next_number: 1, ..State::default() }, manifest::first_place(options.owner))
        }
    };
    let mut disk = Disk { vfs, folder: folder.to_owned(), options, next_number: state.next_number };
    let version = open_tables(&disk, &state)?;
    // A file that is there by an opening that was forgotten must not be met again.
    let last = names.iter().filter_map(|name| table_number(name)).max().unwrap_or(0);
    disk.next_number = disk.next_number.max(last + 1);
    let State { ids_deleted, metadata, tables, .. } = state;
    // What a process that died left in the manifest may not be durable; a new one is.
    let whole = whole(&version, disk.next_number, &ids_deleted, &metadata);
    let manifest = match (Manifest::create(&*disk.vfs, folder, place, &whole), &found) {
        // A tree on a full disk must be readable, and go on when there is room.
        (Err(TreeError::NoSpace(_)), Some(found)) => {
            Manifest::resume(&*disk.vfs, folder, options.owner, found)?
        }
        (result, _) => result?,
    };
    let leftovers = names.iter().filter_map(|name| table_number(name));
    for number in leftovers.filter(|number| !tables.contains_key(number)) {
        disk.discard(number);
    }
    Ok(Found { disk, manifest, version, ids_deleted, metadata })
}

/// The edit that describes a whole tree.
pub(super) fn whole(
    version: &Version,
    next_number: u64,
    ids_deleted: &BTreeSet<u32>,
    metadata: &Bytes,
) -> Edit {
    Edit {
        next_number,
        added: version
            .tables()
            .map(|(level, table)| super::tree::listed(level, &table.meta))
            .collect(),
        metadata: Some(metadata.clone()),
        ids_deleted: ids_deleted.iter().copied().collect(),
        ..Edit::default()
    }
}

/// Makes sure that the folder is there, durably, and lists it.
fn begin_folder(vfs: &dyn Vfs, folder: &str) -> Result<Vec<String>, TreeError> {
    let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
    let unreadable = |source| TreeError::Read { file: folder.to_owned(), source };
    if !folder.is_empty() && !vfs.exists(folder).map_err(unreadable)? {
        vfs.create_dir(folder).map_err(TreeError::from_write)?;
    }
    vfs.sync_dir(parent).map_err(TreeError::Write)?;
    vfs.list(folder).map_err(unreadable)
}

/// Applies all edits of a manifest in `folder`, which must make sense one after the other.
pub(super) fn replay(folder: &str, edits: Vec<Edit>) -> Result<State, TreeError> {
    let mut state = State::default();
    for edit in edits {
        state.next_number = state.next_number.max(edit.next_number);
        for number in &edit.removed {
            if state.tables.remove(number).is_none() {
                return Err(damaged(folder, "the manifest removes a table that it does not have"));
            }
        }
        for (level, meta) in edit.added {
            let is_table = usize::from(level) < LEVEL_COUNT
                && meta.smallest.len() >= KEY_BYTES_MIN
                && meta.largest.len() >= KEY_BYTES_MIN
                && meta.smallest <= meta.largest
                && meta.number < state.next_number;
            if !is_table || state.tables.insert(meta.number, (level, meta)).is_some() {
                return Err(damaged(folder, "the manifest adds what is no new table"));
            }
        }
        state.ids_deleted.extend(&edit.ids_deleted);
        state.ids_deleted.retain(|id| !edit.ids_purged.contains(id));
        if let Some(metadata) = edit.metadata {
            state.metadata = metadata;
        }
    }
    match (1..LEVEL_COUNT).all(|level| is_sorted(&state, level)) {
        true => Ok(state),
        false => Err(damaged(folder, "tables of a level overlap")),
    }
}

/// Whether no two tables of a level have versions of the same key.
fn is_sorted(state: &State, level: usize) -> bool {
    let tables = state.tables.values().filter(|(found, _)| usize::from(*found) == level);
    let mut run: Vec<_> = tables.map(|(_, meta)| meta).collect();
    run.sort_by(|a, b| a.smallest.cmp(&b.smallest));
    run.windows(2).all(|pair| prefix_of(&pair[0].largest) < prefix_of(&pair[1].smallest))
}

fn open_tables(disk: &Disk, state: &State) -> Result<Version, TreeError> {
    let open =
        |(level, meta): &(u8, TableMeta)| Ok((usize::from(*level), disk.open_table(meta.clone())?));
    let tables: Result<Vec<_>, TreeError> = state.tables.values().map(open).collect();
    Ok(Version::default().with(&BTreeSet::new(), tables?))
}

/// The number in a table's name.
pub(super) fn table_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("table-")?.strip_suffix(".kvt")?;
    match digits.len() {
        16 => u64::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// Damage to the manifest of which the place is not known.
pub(super) fn damaged(folder: &str, what: &'static str) -> TreeError {
    Corruption { file: super::join(folder, manifest::NAME), offset: 0, what }.into()
}
