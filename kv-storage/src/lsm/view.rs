//! Reading a tree.
//!
//! A [`ReadView`] is a pinned version: memtables and tables. While it lives, no table of it is
//! deleted. Whether the active memtable is part of it is for the tree to say: if it is, later writes
//! to that become visible in it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kv_core::id::Timestamp;

use super::bloom;
use super::cache::BlockCache;
use super::error::TreeError;
use super::key::{VERSION_BYTES, is_tombstone, local_id_of, prefix_of, seek_key, version_of};
use super::memtable::{Memtable, MemtableGuard};
use super::merge::{Merge, Source};
use super::retention::{Retention, Watermarks};
use super::table::{Reader, RunCursor};
use super::version::Version;

/// Entries that one page of a scan looks at, about: a scan over tombstones, or over versions that
/// are newer than it, finds little and must not keep everybody waiting.
pub(super) const PAGE_ENTRIES_MAX: usize = 100_000;

/// Versions of one key that a walk passes one by one; then it seeks, for a key that is written all the
/// time has any number of them.
const VERSIONS_PASSED_MAX: usize = 16;

/// A pinned version of the tree. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadView {
    /// The newest first. In the tree's own view the first one is active.
    pub(super) memtables: Vec<Arc<Memtable>>,
    pub(super) version: Arc<Version>,
    /// Local ids whose keys are deleted.
    pub(super) deleted: Arc<BTreeSet<u32>>,
    pub(super) cache: Arc<BlockCache>,
}

/// What to scan.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Where to start: all stored keys without versions that are not below it.
    pub from: &'a [u8],
    /// Where to end: below this. None is the end of everything.
    pub to: Option<&'a [u8]>,
    /// The newest version at or below this counts.
    pub at: Timestamp,
}

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The stored key without its version.
    pub prefix: Bytes,
    /// The newest version.
    pub version: Timestamp,
    /// The stored value, which is no tombstone.
    pub value: Bytes,
}

/// What a visitor of versions wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The next older version of the key, or the next key.
    Version,
    /// The next key.
    Key,
    /// Nothing.
    Nothing,
}

/// A part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys that exist, in order.
    pub rows: Vec<Row>,
    /// Where to go on, as [`Scan::from`]. None if the scan is complete.
    pub next: Option<Vec<u8>>,
}

impl ReadView {
    /// The newest version at or below `at` of the key whose stored form without version is
    /// `prefix`: its version and its stored value, which may be a tombstone.
    ///
    /// # Errors
    /// [`TreeError::Corruption`] or [`TreeError::Read`]. *Nothing was changed.*
    pub fn get(
        &self,
        prefix: &[u8],
        at: Timestamp,
    ) -> Result<Option<(Timestamp, Bytes)>, TreeError> {
        let mut target = Vec::with_capacity(prefix.len() + VERSION_BYTES);
        seek_key(prefix, at, &mut target);
        if !self.deleted.is_empty() && self.deleted.contains(&local_id_of(&target)) {
            return Ok(None);
        }
        // Newer places hold newer versions of a key, so the first version found is the newest.
        for memtable in &self.memtables {
            if let Some((version, value)) = memtable.read().get(&target, prefix.len()) {
                return Ok(Some((Timestamp(version), value)));
            }
        }
        let hash = bloom::hash(prefix);
        for run in self.version.runs() {
            let table = match run.len() {
                1 => 0,
                _ => run.partition_point(|table| *table.meta.largest < *target),
            };
            let Some(table) = run.get(table) else { continue };
            let may_be_here = table.meta.overlaps(prefix, prefix) && table.may_contain(hash);
            if !may_be_here {
                continue;
            }
            if let Some((version, value)) = table.get(&target, prefix.len(), &self.cache)? {
                return Ok(Some((Timestamp(version), value)));
            }
        }
        Ok(None)
    }

    /// Calls `visit` with the stored key and the stored value of each key that exists in a scan, in
    /// order, until it breaks.
    ///
    /// # Errors
    /// [`TreeError::Corruption`] or [`TreeError::Read`]. *Nothing was changed.*
    pub fn scan_with(
        &self,
        scan: Scan<'_>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let visit = |merge: &Merge<'_>| match merge.entry() {
            Some((key, value)) => visit(key, value),
            None => ControlFlow::Break(()),
        };
        self.walk(scan, usize::MAX, visit).map(|_| ())
    }

    /// Calls `visit` with the stored key and the stored value of each version of each key from `from`
    /// on and below `to` that a read at `watermark` or later can see, tombstones included, in order.
    ///
    /// # Errors
    /// [`TreeError::Corruption`] or [`TreeError::Read`]. *Nothing was changed.*
    pub fn visit_versions(
        &self,
        (from, to): (&[u8], &[u8]),
        watermark: Timestamp,
        mut visit: impl FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<(), TreeError> {
        let guards: Vec<_> = self.memtables.iter().map(|memtable| memtable.read()).collect();
        let mut merge = self.merge(&guards, from)?;
        let mut retention = Retention::new(Watermarks::everywhere(watermark));
        // The key of the last version that is not kept, and how many of it came by in a row.
        let mut passed = (Vec::new(), 0);
        let mut target = Vec::new();
        while let Some((key, value)) = merge.entry().filter(|(key, _)| *key < to) {
            let is_deleted = self.deleted.contains(&local_id_of(key));
            let next = if !is_deleted && retention.keeps(key, value, |_| true) {
                passed.0.clear();
                visit(key, value)
            } else {
                if passed.0 != prefix_of(key) {
                    passed = (prefix_of(key).to_vec(), 0);
                }
                passed.1 += 1;
                if passed.1 < VERSIONS_PASSED_MAX { Visit::Version } else { Visit::Key }
            };
            match next {
                Visit::Version => merge.advance()?,
                Visit::Nothing => return Ok(()),
                Visit::Key => {
                    seek_key(prefix_of(key), Timestamp(0), &mut target);
                    merge = self.merge(&guards, &target)?;
                    while merge.entry().is_some_and(|(key, _)| *key == target) {
                        merge.advance()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Scans up to `rows_max` keys, and up to `bytes_max` bytes of keys and values but at least one
    /// key. A page over much that does not exist ends early, perhaps without any key.
    ///
    /// # Errors
    /// [`TreeError::Corruption`] or [`TreeError::Read`]. *Nothing was changed.*
    pub fn scan(
        &self,
        scan: Scan<'_>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Page, TreeError> {
        self.scan_bounded(scan, rows_max, bytes_max, PAGE_ENTRIES_MAX)
    }

    /// [`ReadView::scan`] that looks at about `entries_max` entries.
    pub(super) fn scan_bounded(
        &self,
        scan: Scan<'_>,
        rows_max: usize,
        bytes_max: usize,
        entries_max: usize,
    ) -> Result<Page, TreeError> {
        let mut page = Page::default();
        let mut bytes = 0;
        let next = self.walk(scan, entries_max, |merge| {
            let Some((key, value)) = merge.entry() else { return ControlFlow::Break(()) };
            let prefix = prefix_of(key);
            bytes += prefix.len() + value.len();
            if page.rows.len() == rows_max || (bytes > bytes_max && !page.rows.is_empty()) {
                page.next = Some(prefix.to_vec());
                return ControlFlow::Break(());
            }
            page.rows.push(Row {
                prefix: Bytes::copy_from_slice(prefix),
                version: Timestamp(version_of(key)),
                value: merge.value_bytes(),
            });
            ControlFlow::Continue(())
        })?;
        page.next = page.next.or(next);
        Ok(page)
    }

    /// Calls `visit` at each entry that a scan shows. After `entries_max` entries the walk ends with
    /// the key that they belong to; where it is to go on is returned then.
    fn walk(
        &self,
        scan: Scan<'_>,
        entries_max: usize,
        mut visit: impl FnMut(&Merge<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        let guards: Vec<_> = self.memtables.iter().map(|memtable| memtable.read()).collect();
        let mut merge = self.merge(&guards, scan.from)?;
        // The key of the last entry, and whether its version for this scan was found.
        let mut current: Option<Vec<u8>> = None;
        let mut is_decided = false;
        let (mut entry_count, mut passed_count) = (0, 0);
        let mut target = Vec::new();
        while let Some((key, value)) = merge.entry() {
            if scan.to.is_some_and(|to| key >= to) {
                return Ok(None);
            }
            let prefix = prefix_of(key);
            if current.as_deref() != Some(prefix) {
                // Whoever goes on begins with a whole key, so at least one was dealt with.
                if entry_count >= entries_max {
                    return Ok(Some(prefix.to_vec()));
                }
                let current = current.get_or_insert_default();
                current.clear();
                current.extend_from_slice(prefix);
                (is_decided, passed_count) = (false, 0);
            }
            entry_count += 1;
            passed_count += 1;
            if !is_decided && version_of(key) <= scan.at.0 {
                (is_decided, passed_count) = (true, 0);
                let exists = !is_tombstone(value) && !self.deleted.contains(&local_id_of(key));
                if exists && visit(&merge).is_break() {
                    return Ok(None);
                }
            }
            if passed_count == VERSIONS_PASSED_MAX {
                let at = if is_decided { Timestamp(0) } else { scan.at };
                seek_key(prefix_of(key), at, &mut target);
                merge = self.merge(&guards, &target)?;
            } else {
                merge.advance()?;
            }
        }
        Ok(None)
    }

    /// All entries from a key on.
    fn merge<'a>(
        &'a self,
        guards: &'a [MemtableGuard<'a>],
        from: &[u8],
    ) -> Result<Merge<'a>, TreeError> {
        let mut sources = Vec::with_capacity(guards.len() + self.version.level0.len() + 2);
        sources.extend(guards.iter().map(|guard| Source::Memtable(guard, guard.seek(from))));
        for run in self.version.runs() {
            let reader = Reader::Cached(&self.cache);
            sources.push(Source::Run(RunCursor::seek(run.clone(), reader, from)?));
        }
        Ok(Merge::new(sources))
    }

    /// Verifies every block of every table. Returns how many there are.
    ///
    /// # Errors
    /// [`TreeError::Corruption`] or [`TreeError::Read`]. *Nothing was changed.*
    pub fn verify(&self) -> Result<u64, TreeError> {
        self.version.tables().map(|(_, table)| table.verify()).sum()
    }
}
