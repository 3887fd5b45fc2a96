//! Examining a data directory that no node uses.
//!
//! Opening a directory stops at the first damage, repairs a torn tail, and reads of the tables only
//! what it needs. [`check`] verifies everything, goes on behind damage, and changes nothing. What
//! it finds is told in words for whoever has to decide what to do. [`probe()`] measures the disk.
//!
//! # What is verified
//!
//! - the file `IDENTITY`,
//! - every batch of every segment of the log, and the groups that they come to,
//! - the tree's manifest, and every block of every table that it lists,
//! - that log and applied state fit each other, as the next start of the node will ask.
//!
//! Everything is bound to the incarnation in `IDENTITY`, so without that file nothing else can be
//! verified. Spares of the log hold nothing, and leftovers of the tree neither.
//!
//! **What this leaves out:** repair. What was durable comes back from the other replicas only.

mod findings;
mod frozen;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kv_core::cluster::Identity;
use kv_core::id::{LogId, ShardId};
use kv_core::storage::StorageDamage;

pub use findings::Finding;
use frozen::Frozen;
pub use probe::{PROBE_BYTES, PROBE_FILE, Probe, probe};

use crate::engine::{Engine, TREE_FOLDER};
use crate::identity::{self, IDENTITY_FILE, IdentityError};
use crate::log::{self, LogGroup};
use crate::lsm::{self, TreeError, TreeOptions};
use crate::mutants::Mutants;
use crate::store::recovered::{self, Held};
use crate::vfs::{DirLock, Vfs};

/// Why a directory could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// A process uses the directory: the node must be stopped first. *Nothing was changed.*
    #[error("the data directory is in use")]
    InUse(#[source] io::Error),
    /// Too little room to measure the disk. *Nothing was changed.*
    #[error("measuring the disk needs {needed} bytes of free space")]
    NoSpace {
        /// How many bytes must be free.
        needed: u64,
    },
    /// The disk failed. *Nothing was changed.*
    #[error("the data directory cannot be read")]
    Io(#[from] io::Error),
}

/// What was verified of one part of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Files that were read: segments, or manifest and tables.
    pub file_count: u64,
    /// Bytes that are what was written, or are damaged and told in a finding. In the log: up to the
    /// last whole batch of each segment.
    pub bytes_verified: u64,
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupReport {
    /// The log holds nothing up to here.
    pub floor: LogId,
    /// The last entry of the log, or the floor.
    pub last: LogId,
    /// The last entry that the tables hold; none if they could not be opened.
    pub applied: Option<LogId>,
}

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose directory it is; none if that is not known, or the directory is empty.
    pub identity: Option<Identity>,
    /// The file `IDENTITY`.
    pub identity_file: Part,
    /// The log.
    pub log: Part,
    /// The tree of the applied state.
    pub tree: Part,
    /// Every group. If the log is damaged, as far as it could be read.
    pub groups: BTreeMap<ShardId, GroupReport>,
    /// Everything that is wrong; nothing if the node can be started.
    pub findings: Vec<Finding>,
}

/// Verifies the root of `vfs` as a data directory. Changes nothing.
///
/// # Errors
/// [`DoctorError`]. What is merely damaged is a [`Finding`].
pub fn check(vfs: Arc<dyn Vfs>) -> Result<Report, DoctorError> {
    let _lock = lock(&*vfs)?;
    let mut report = Report::default();
    match identity::read(&*vfs) {
        Ok(Some(identity)) => report.identity = Some(identity),
        Ok(None) if log::left_anything(&*vfs)? || vfs.exists(TREE_FOLDER)? => {
            report.findings.push(findings::identity_missing());
        }
        Ok(None) => {}
        Err(IdentityError::Io(error)) => return Err(error.into()),
        Err(error) => report.findings.push(findings::identity(&error)),
    }
    let Some(identity) = report.identity.clone() else { return Ok(report) };
    let bytes_verified = vfs.open(IDENTITY_FILE)?.size()?;
    report.identity_file = Part { file_count: 1, bytes_verified };
    if identity.cluster.is_some() && !log::exists(&*vfs)? {
        report.findings.push(findings::log_missing());
    }
    let logs = report.check_log(&*vfs, &identity)?;
    let applied = report.check_tree(&vfs, &identity);
    report.join(logs, applied);
    Ok(report)
}

impl Report {
    /// Returns the groups, if the log is whole.
    fn check_log(
        &mut self,
        vfs: &dyn Vfs,
        identity: &Identity,
    ) -> Result<Option<BTreeMap<ShardId, LogGroup>>, DoctorError> {
        let found = log::check(vfs, identity.incarnation)?;
        let (file_count, bytes_verified) = (found.file_count, found.bytes_verified);
        self.log = Part { file_count, bytes_verified };
        self.findings.extend(found.errors.iter().map(findings::log));
        for (shard, group) in &found.groups {
            let last = group.entries.last().map_or(group.floor, |entry| entry.id);
            self.groups.insert(*shard, GroupReport { floor: group.floor, last, applied: None });
        }
        Ok(found.errors.is_empty().then_some(found.groups))
    }

    /// Returns what is applied, if the tree is whole.
    fn check_tree(
        &mut self,
        vfs: &Arc<dyn Vfs>,
        identity: &Identity,
    ) -> Option<BTreeMap<ShardId, Held>> {
        let owner = identity.incarnation.0;
        let before = self.findings.len();
        match lsm::verify(&**vfs, TREE_FOLDER, owner) {
            Ok(found) => {
                let (file_count, bytes_verified) = (found.file_count, found.bytes_read);
                self.tree = Part { file_count, bytes_verified };
                self.findings.extend(found.damage.into_iter().map(|it| findings::tree(it.into())));
            }
            Err(error) => self.findings.push(findings::tree(error)),
        }
        if self.findings.len() > before {
            return None;
        }
        match self.open_tree(vfs, owner) {
            Ok(held) => Some(held),
            Err(error) => {
                self.findings.push(findings::tree(error));
                None
            }
        }
    }

    fn open_tree(
        &self,
        vfs: &Arc<dyn Vfs>,
        owner: u64,
    ) -> Result<BTreeMap<ShardId, Held>, TreeError> {
        let is_there = vfs.exists(TREE_FOLDER);
        let unreadable = |source| TreeError::Read { file: TREE_FOLDER.into(), source };
        if !is_there.map_err(unreadable)? {
            return Ok(BTreeMap::new());
        }
        let frozen = Arc::new(Frozen(vfs.clone()));
        Ok(Engine::open(frozen, TreeOptions::new(owner))?.held())
    }

    /// Compares each group's log with what is applied, if both are whole.
    fn join(
        &mut self,
        logs: Option<BTreeMap<ShardId, LogGroup>>,
        held: Option<BTreeMap<ShardId, Held>>,
    ) {
        let Some(held) = held else { return };
        for shard in held.iter().filter(|(_, held)| !held.is_removed).map(|(shard, _)| shard) {
            self.groups.entry(*shard).or_default();
        }
        for (shard, group) in &mut self.groups {
            group.applied = Some(held.get(shard).map(|held| held.applied).unwrap_or_default());
        }
        let Some(mut logs) = logs else { return };
        for shard in self.groups.keys() {
            let log = BTreeMap::from([(*shard, logs.remove(shard).unwrap_or_default())]);
            let held = held.get(shard).map(|held| (*shard, *held)).into_iter().collect();
            match recovered::join(log, &held, Mutants::NONE) {
                Ok(joined) if joined.resets.is_empty() => {}
                Ok(joined) => {
                    let is_removed = joined.resets.values().any(|id| *id == LogId::default());
                    self.findings.push(findings::reset(*shard, is_removed));
                }
                Err(StorageDamage { file, offset, what }) => {
                    self.findings.push(findings::join(file, offset, what));
                }
            }
        }
    }
}

fn lock(vfs: &dyn Vfs) -> Result<DirLock, DoctorError> {
    vfs.lock_dir("").map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => DoctorError::InUse(error),
        _ => DoctorError::Io(error),
    })
}
