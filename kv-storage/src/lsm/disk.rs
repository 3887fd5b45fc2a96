//! Where a tree lives, and how its files come and go.

use std::sync::Arc;

use super::error::TreeError;
use super::options::TreeOptions;
use super::table::{Table, TableBuilder, TableLayout, TableMeta, table_path};
use crate::vfs::Vfs;

/// The folder of a tree.
///
/// - No file number is ever used twice.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) folder: String,
    pub(super) options: TreeOptions,
    pub(super) next_number: u64,
}

impl Disk {
    /// Starts a table.
    pub(super) fn begin_table(&mut self) -> Result<TableBuilder, TreeError> {
        let layout =
            TableLayout { folder: &self.folder, number: self.next_number, options: &self.options };
        self.next_number += 1;
        TableBuilder::create(&*self.vfs, layout)
    }

    /// Opens a table that is whole.
    pub(super) fn open_table(&self, meta: TableMeta) -> Result<Arc<Table>, TreeError> {
        Table::open(&*self.vfs, &self.folder, &self.options, meta).map(Arc::new)
    }

    /// Removes a file that a step with this outcome does not need, unless the manifest may list it:
    /// after a failed write nobody knows what it says.
    pub(super) fn discard_after(&self, error: &TreeError, number: u64) {
        match error {
            TreeError::Write(_) | TreeError::Poisoned => {}
            TreeError::Corruption(_) | TreeError::Read { .. } | TreeError::NoSpace(_) => {
                self.discard(number);
            }
        }
    }

    /// Removes a file that no manifest lists. Should that fail, the next opening does it.
    pub(super) fn discard(&self, number: u64) {
        let _ = self.vfs.remove(&table_path(&self.folder, number));
    }
}
