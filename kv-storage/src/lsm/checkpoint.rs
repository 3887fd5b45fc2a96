//! A checkpoint: the tables of a tree under second names, with a manifest of their own.
//!
//! Tables never change, so a hard link is as good as a copy and costs nothing. It keeps the bytes
//! when the tree has long removed its own name for them.

use super::disk::Disk;
use super::error::TreeError;
use super::manifest::{Edit, Manifest, first_place};
use super::table::table_path;
use super::version::Version;

/// Writes a checkpoint to a folder that is not there yet.
pub(super) fn write(
    disk: &Disk,
    version: &Version,
    folder: &str,
    whole: &Edit,
) -> Result<(), TreeError> {
    let vfs = &*disk.vfs;
    vfs.create_dir(folder).map_err(TreeError::from_write)?;
    for (_, table) in version.tables() {
        vfs.link(table.path(), &table_path(folder, table.meta.number))
            .map_err(TreeError::from_write)?;
    }
    // The tables have their names before a manifest lists them.
    vfs.sync_dir(folder).map_err(TreeError::Write)?;
    Manifest::create(vfs, folder, first_place(disk.options.owner), whole)?;
    let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
    vfs.sync_dir(parent).map_err(TreeError::Write)
}
