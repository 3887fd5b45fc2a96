//! Making a step part of the tree, and removing what it no longer needs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::TreeError;
use super::manifest::{Edit, Manifest};
use super::open;
use super::table::Table;
use super::tree::Tree;
use crate::mutants::Mutant;

impl Tree {
    /// Makes an edit durable, and then the tree what it says. Tables are removed before others are
    /// added, so a moved table may be in both lists.
    pub(super) fn install(
        &mut self,
        mut edit: Edit,
        added: Vec<(usize, Arc<Table>)>,
    ) -> Result<(), TreeError> {
        edit.next_number = self.disk.next_number;
        edit.added =
            added.iter().map(|(level, table)| (*level as u8, table.meta.clone())).collect();
        let skips_sync = self.disk.options.mutants.has(Mutant::DirectorySyncSkipped);
        if !added.is_empty() && !skips_sync {
            self.disk.vfs.sync_dir(&self.disk.folder).map_err(TreeError::Write)?;
        }
        let removed: BTreeSet<u64> = edit.removed.iter().copied().collect();
        // A compaction that is under way may still write keys that are deleted from here on.
        let clean_from = match self.compaction {
            None => self.disk.next_number,
            Some(_) => u64::MAX,
        };
        let version = self.view.version.with(&removed, added);
        let mut ids_deleted = self.ids_deleted.clone();
        ids_deleted.extend(&edit.ids_deleted);
        ids_deleted.retain(|id| !edit.ids_purged.contains(id));
        let metadata = edit.metadata.clone().unwrap_or_else(|| self.metadata.clone());
        if self.manifest.has_room_for(&edit) {
            self.manifest.append(&edit)?;
        } else {
            let whole = open::whole(&version, self.disk.next_number, &ids_deleted, &metadata);
            let place = self.manifest.next_place();
            self.manifest = Manifest::create(&*self.disk.vfs, &self.disk.folder, place, &whole)?;
        }
        let stay: BTreeSet<u64> = version.tables().map(|(_, table)| table.meta.number).collect();
        let before = self.view.version.tables().map(|(_, table)| table);
        self.retired.extend(before.filter(|table| !stay.contains(&table.meta.number)).cloned());
        self.view.version = Arc::new(version);
        let mut visible = ids_deleted.clone();
        visible.extend(self.sealed.iter().flat_map(|sealed| &sealed.ids_deleted));
        visible.extend(&self.active_ids_deleted);
        self.view.deleted = Arc::new(visible);
        self.clean_from.extend(edit.ids_deleted.iter().map(|id| (*id, clean_from)));
        self.clean_from.retain(|id, _| ids_deleted.contains(id));
        (self.ids_deleted, self.metadata) = (ids_deleted, metadata);
        self.share_cache();
        Ok(())
    }

    /// Forgets deleted local ids that no table holds any more.
    pub(super) fn purge_ids(&mut self) -> Result<(), TreeError> {
        let ids_purged: Vec<_> = self.purgeable_ids().collect();
        if ids_purged.is_empty() {
            return Ok(());
        }
        let edit = Edit { ids_purged, ..Edit::default() };
        self.install(edit, Vec::new()).map_err(|error| self.failed(error))
    }

    /// Notes that tables which are begun from here on hold no deleted keys.
    pub(super) fn end_of_compaction(&mut self) {
        let next = self.disk.next_number;
        self.clean_from.values_mut().for_each(|from| *from = next.min(*from));
    }

    /// Removes tables that nobody reads any more. A file that cannot be removed stays until the
    /// next opening.
    pub(super) fn collect(&mut self) {
        let disk = &self.disk;
        self.retired.retain(|table| {
            let is_read = Arc::strong_count(table) > 1
                && !disk.options.mutants.has(Mutant::TableDeletedUnderView);
            if !is_read {
                disk.discard(table.meta.number);
            }
            is_read
        });
    }

    /// Gives blocks what filters and indexes leave of the budget, those of tables that are not
    /// part of the tree yet, or any more, included.
    pub(super) fn share_cache(&self) {
        let listed = self.view.version.tables().map(|(_, table)| table);
        let begun = self.compaction.iter().flat_map(|job| &job.outputs);
        let all = listed.chain(begun).chain(&self.retired);
        let pinned: u64 = all.map(|table| table.memory()).sum();
        let budget = self.disk.options.cache_bytes;
        self.view.cache.set_capacity(budget.saturating_sub(pinned).max(budget / 8));
    }
}
