//! The open tree: writing, and the steps that keep it in shape.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kv_core::id::Timestamp;

use super::checkpoint;
use super::compaction::{self, CompactionJob, Plan, PlanKind};
use super::debt::{self, Debt};
use super::disk::Disk;
use super::error::TreeError;
use super::flush::{FlushJob, Sealed};
use super::key::{KEY_BYTES_MAX, KEY_BYTES_MIN, VALUE_BYTES_MAX, local_id_of};
use super::manifest::{Edit, Manifest};
use super::memtable::{Memtable, Pool};
use super::open::{self, Found};
use super::options::TreeOptions;
use super::retention::Watermarks;
use super::stats::{TreeCounters, TreeStats};
use super::table::{Table, TableMeta};
use super::view::{Page, ReadView, Scan};
use crate::mutants::Mutant;
use crate::vfs::Vfs;

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// About how many bytes of entries were dealt with.
    pub bytes_done: u64,
    /// Whether there is more of the same to do.
    pub is_more_due: bool,
}

/// A log-structured merge tree in one folder.
///
/// - `view.memtables` are the active memtable and then the sealed ones, the newest first; `sealed`
///   are the same, the oldest first.
/// - After a failed write nothing more is written.
#[derive(Debug)]
pub struct Tree {
    pub(super) disk: Disk,
    pub(super) manifest: Manifest,
    pub(super) view: ReadView,
    /// Where memtables get their memory.
    pub(super) pool: Arc<Pool>,
    pub(super) sealed: VecDeque<Sealed>,
    /// Local ids that were deleted since the last seal.
    pub(super) active_ids_deleted: Vec<u32>,
    /// Local ids that the manifest says are deleted.
    pub(super) ids_deleted: BTreeSet<u32>,
    /// From which number on tables hold none of their keys: they were begun later.
    pub(super) clean_from: BTreeMap<u32, u64>,
    /// The metadata of the last flush.
    pub(super) metadata: Bytes,
    /// From when on the versions of each local id can be read according to the metadata.
    watermarks: Watermarks,
    pub(super) flush: Option<FlushJob>,
    pub(super) compaction: Option<CompactionJob>,
    /// Tables that are no part of the tree any more, but perhaps of a view.
    pub(super) retired: Vec<Arc<Table>>,
    is_full_compaction_wanted: bool,
    is_poisoned: bool,
    pub(super) counters: TreeCounters,
}

impl Tree {
    /// Opens the tree in `folder`, or begins an empty one, and returns the metadata of the last
    /// flush, empty if there was none. The caller has locked the folder.
    ///
    /// # Errors
    /// [`TreeError`]. If it is [`TreeError::Corruption`], *nothing was changed.*
    pub fn open(
        vfs: Arc<dyn Vfs>,
        folder: &str,
        options: TreeOptions,
    ) -> Result<(Self, Bytes), TreeError> {
        let Found { disk, manifest, version, ids_deleted, metadata } =
            open::open(vfs, folder, options)?;
        let pool = Arc::new(Pool::new(options.memtable_bytes));
        let clean_from = ids_deleted.iter().map(|id| (*id, disk.next_number)).collect();
        let tree = Self {
            view: ReadView {
                memtables: vec![Arc::new(Memtable::new(pool.clone()))],
                version: Arc::new(version),
                deleted: Arc::new(ids_deleted.clone()),
                cache: Arc::new(super::cache::BlockCache::new(options.cache_bytes)),
            },
            pool,
            disk,
            manifest,
            sealed: VecDeque::new(),
            active_ids_deleted: Vec::new(),
            ids_deleted,
            clean_from,
            metadata: metadata.clone(),
            // Nothing is dropped before the owner has said what can be.
            watermarks: Watermarks::everywhere(Timestamp(0)),
            flush: None,
            compaction: None,
            retired: Vec::new(),
            is_full_compaction_wanted: false,
            is_poisoned: false,
            counters: TreeCounters::default(),
        };
        tree.share_cache();
        Ok((tree, metadata))
    }

    /// Adds entries, stored keys with stored values, in memory: they are durable with the flush of
    /// the memtable that they go to. A new version of a key is later than all versions of it that
    /// are there; writing the same version again is allowed and changes nothing but the value.
    ///
    /// # Panics
    /// If a key is no stored key, a key or value is too long, or its local id is deleted.
    pub fn write<K: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, batch: &[(K, V)]) {
        for (key, value) in batch {
            let (key, value) = (key.as_ref(), value.as_ref());
            assert!((KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()), "a key is bounded");
            assert!(value.len() <= VALUE_BYTES_MAX, "a value is bounded");
            let is_deleted = self.view.deleted.contains(&local_id_of(key));
            assert!(!is_deleted, "a deleted local id is never used again");
            self.counters.bytes_put += (key.len() + value.len()) as u64;
        }
        self.view.memtables[0].write(batch);
    }

    /// Deletes all keys of a local id, which is never used again. Durable with the flush of the
    /// active memtable, and visible at once, except to views that are older.
    pub fn range_delete(&mut self, local_id: u32) {
        self.active_ids_deleted.push(local_id);
        let mut deleted = (*self.view.deleted).clone();
        deleted.insert(local_id);
        self.view.deleted = Arc::new(deleted);
    }

    /// Pins what is there.
    pub fn view(&self) -> ReadView {
        self.view.clone()
    }

    /// Pins what is sealed or in tables: nothing that is written later becomes visible in it.
    pub fn sealed_view(&self) -> ReadView {
        let mut view = self.view.clone();
        view.memtables.remove(0);
        view
    }

    /// Whether nothing was written since the last seal.
    pub fn is_active_empty(&self) -> bool {
        self.view.memtables[0].read().content_bytes() == 0
    }

    /// [`ReadView::get`] in what is there.
    ///
    /// # Errors
    /// As there.
    pub fn get(
        &self,
        prefix: &[u8],
        at: Timestamp,
    ) -> Result<Option<(Timestamp, Bytes)>, TreeError> {
        self.view.get(prefix, at)
    }

    /// [`ReadView::scan`] in what is there.
    ///
    /// # Errors
    /// As there.
    pub fn scan(
        &self,
        scan: Scan<'_>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Page, TreeError> {
        self.view.scan(scan, rows_max, bytes_max)
    }

    /// Whether the active memtable is as large as it should get.
    pub fn should_seal(&self) -> bool {
        self.view.memtables[0].read().memory() >= self.disk.options.memtable_bytes
    }

    /// Says what the metadata that the tree was opened with say: that nobody reads below these.
    pub fn set_watermarks(&mut self, watermarks: Watermarks) {
        self.watermarks = watermarks;
    }

    /// Ends the active memtable. `metadata` is what the caller knows at this point of its log; it
    /// becomes durable together with everything that was written so far.
    ///
    /// From this point of the log on nobody reads below `watermarks`, which the metadata must know.
    /// What only such a read could see is dropped by the flush, which makes the metadata durable
    /// with it, and by compactions that begin after it. So after a crash, when the caller is back at
    /// metadata of which the watermarks may be lower, nothing is missing above those.
    pub fn seal(&mut self, metadata: Bytes, watermarks: Watermarks) {
        let memtable = self.view.memtables[0].clone();
        let ids_deleted = std::mem::take(&mut self.active_ids_deleted);
        self.sealed.push_back(Sealed { memtable, metadata, watermarks, ids_deleted });
        self.view.memtables.insert(0, Arc::new(Memtable::new(self.pool.clone())));
    }

    /// Count of memtables that wait for their flush.
    pub fn sealed_count(&self) -> usize {
        self.sealed.len()
    }

    /// Goes on with writing the oldest sealed memtable to a table, for about `budget` bytes.
    ///
    /// # Errors
    /// [`TreeError`]. The memtable stays as it is, and its flush begins anew.
    pub fn flush_step(&mut self, budget: u64) -> Result<Progress, TreeError> {
        self.check_poison()?;
        self.collect();
        let Some(sealed) = self.sealed.front() else { return Ok(Progress::default()) };
        let mut job = match self.flush.take() {
            Some(job) => job,
            None => FlushJob::new(sealed, self.ids_deleted.clone()),
        };
        let before = job.done;
        let result = match job.step(&mut self.disk, budget) {
            Ok(true) => self.complete_flush(&mut job),
            result => result,
        };
        let bytes_done = job.done - before;
        match result {
            Ok(true) => self.counters.flush_count += 1,
            Ok(false) => self.flush = Some(job),
            Err(error) => {
                job.abort(&self.disk, &error);
                return Err(self.failed(error));
            }
        }
        Ok(Progress { bytes_done, is_more_due: !self.sealed.is_empty() })
    }

    /// Makes a flushed memtable, its metadata and its range deletions durable in one edit.
    fn complete_flush(&mut self, job: &mut FlushJob) -> Result<bool, TreeError> {
        let table = job.finish(&self.disk)?;
        let sealed = self.sealed.front().expect("a flush has its memtable");
        let watermarks = sealed.watermarks.clone();
        let forgets = self.disk.options.mutants.has(Mutant::FlushWithoutApplied);
        let edit = Edit {
            metadata: (!forgets).then(|| sealed.metadata.clone()),
            ids_deleted: sealed.ids_deleted.clone(),
            ..Edit::default()
        };
        let number = table.as_ref().map(|table| table.meta.number);
        let added = table.into_iter().map(|table| (0, table)).collect();
        if let Err(error) = self.install(edit, added) {
            number.into_iter().for_each(|number| self.disk.discard_after(&error, number));
            return Err(error);
        }
        self.watermarks = watermarks;
        self.sealed.pop_front();
        self.view.memtables.pop();
        Ok(true)
    }

    /// Goes on with the compaction that is due, for about `budget` bytes. Also deletes tables of
    /// which the last view is gone.
    ///
    /// # Errors
    /// [`TreeError`]. The tree stays as it is, and the compaction begins anew.
    pub fn compact_step(&mut self, budget: u64) -> Result<Progress, TreeError> {
        self.check_poison()?;
        self.collect();
        let Some(mut job) = self.compaction_job()? else {
            return Ok(Progress { bytes_done: 0, is_more_due: self.is_compaction_due() });
        };
        let before = job.done;
        let result = match job.step(&mut self.disk, budget) {
            Ok(true) => self.complete_compaction(&job),
            result => result,
        };
        let bytes_done = job.done - before;
        if !matches!(result, Ok(false)) {
            self.end_of_compaction();
        }
        match result {
            Ok(true) => {
                self.counters.compaction_count += 1;
                drop(job);
                self.collect();
            }
            Ok(false) => {
                self.compaction = Some(job);
                self.share_cache();
            }
            Err(error) => {
                job.abort(&self.disk, &error);
                return Err(self.failed(error));
            }
        }
        Ok(Progress { bytes_done, is_more_due: self.is_compaction_due() })
    }

    /// Whether [`Tree::compact_step`] has anything to do.
    pub fn is_compaction_due(&self) -> bool {
        self.compaction.is_some()
            || self.is_full_compaction_wanted
            || self.plan().is_some()
            || self.purgeable_ids().next().is_some()
    }

    /// Deleted local ids that no table holds any more.
    pub(super) fn purgeable_ids(&self) -> impl Iterator<Item = u32> {
        let version = &self.view.version;
        let is_held = |(id, from): (&u32, &u64)| version.may_hold(*id, *from);
        self.clean_from.iter().filter(move |id| !is_held(*id)).map(|(id, _)| *id)
    }

    /// Makes the following compaction steps bring everything to the last level, which takes as much
    /// space again while it goes on. After an error it must be requested again.
    pub fn request_full_compaction(&mut self) {
        self.is_full_compaction_wanted = true;
    }

    /// The compaction under way, or the next one. Plans that need no merge are carried out here.
    fn compaction_job(&mut self) -> Result<Option<CompactionJob>, TreeError> {
        if let Some(job) = self.compaction.take() {
            return Ok(Some(job));
        }
        let full = match std::mem::take(&mut self.is_full_compaction_wanted) {
            true => compaction::full(&self.view.version),
            false => None,
        };
        let Some(plan) = full.or_else(|| self.plan()) else {
            self.purge_ids()?;
            return Ok(None);
        };
        if plan.kind == PlanKind::Merge {
            let (deleted, watermarks) = (self.ids_deleted.clone(), self.watermarks.clone());
            return CompactionJob::new(plan, &self.view.version, deleted, watermarks).map(Some);
        }
        let added = match plan.kind {
            PlanKind::Move => {
                let tables = plan.inputs.iter().map(|(_, table)| table.clone());
                tables.map(|table| (plan.output_level, table)).collect()
            }
            PlanKind::Drop | PlanKind::Merge => Vec::new(),
        };
        let edit = Edit { removed: numbers(&plan), ..Edit::default() };
        self.install(edit, added).map_err(|error| self.failed(error))?;
        Ok(None)
    }

    fn plan(&self) -> Option<Plan> {
        compaction::pick(
            &self.view.version,
            &self.disk.options,
            &self.ids_deleted,
            &self.clean_from,
        )
    }

    /// Exchanges the tables of a compaction in one edit.
    fn complete_compaction(&mut self, job: &CompactionJob) -> Result<bool, TreeError> {
        let level = job.plan.output_level;
        let added = job.outputs.iter().map(|table| (level, table.clone())).collect();
        self.install(Edit { removed: numbers(&job.plan), ..Edit::default() }, added)?;
        Ok(true)
    }

    /// How far the tree is behind, for slowing down writes.
    pub fn debt(&self) -> Debt {
        debt::of(self)
    }

    /// Does the steps that are due after `bytes_put` bytes were written, a share of the work that
    /// is left which grows as the time for it runs out. A caller that does this after every write,
    /// and seals when it should, never waits long.
    ///
    /// # Errors
    /// As [`Tree::flush_step`] and [`Tree::compact_step`].
    pub fn pay(&mut self, bytes_put: u64) -> Result<Progress, TreeError> {
        let Debt { flush, compaction, .. } = self.debt();
        let mut done = Progress::default();
        let mut due = flush.for_bytes(bytes_put);
        if due > 0 {
            let step = self.flush_step(due)?;
            done = step;
        }
        due = compaction.for_bytes(bytes_put);
        while due > 0 {
            let step = self.compact_step(due)?;
            done.bytes_done += step.bytes_done;
            done.is_more_due |= step.is_more_due;
            // A step may end early, at the end of a table.
            due = if step.is_more_due { due.saturating_sub(step.bytes_done.max(1)) } else { 0 };
        }
        Ok(done)
    }

    /// Gives the tables of the last flush and compaction a second name in a new folder, which then
    /// is a tree of its own, without what is only in memory. Its metadata are those of the last
    /// flush.
    ///
    /// # Errors
    /// [`TreeError`]. *The tree was not changed; the folder may be there in part.*
    pub fn checkpoint(&self, folder: &str) -> Result<(), TreeError> {
        self.check_poison()?;
        let version = &self.view.version;
        let whole = open::whole(version, self.disk.next_number, &self.ids_deleted, &self.metadata);
        checkpoint::write(&self.disk, version, folder, &whole)
    }

    /// The metadata of the last flush.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// What the tree consists of.
    pub fn stats(&self) -> TreeStats {
        TreeStats::of(self)
    }

    fn check_poison(&self) -> Result<(), TreeError> {
        if self.is_poisoned { Err(TreeError::Poisoned) } else { Ok(()) }
    }

    /// Notes that an error means that nobody knows what is durable.
    pub(super) fn failed(&mut self, error: TreeError) -> TreeError {
        self.is_poisoned |= matches!(error, TreeError::Write(_));
        error
    }
}

fn numbers(plan: &Plan) -> Vec<u64> {
    plan.inputs.iter().map(|(_, table)| table.meta.number).collect()
}

/// An entry of an edit's list of tables.
pub(super) fn listed(level: usize, meta: &TableMeta) -> (u8, TableMeta) {
    (level as u8, meta.clone())
}
