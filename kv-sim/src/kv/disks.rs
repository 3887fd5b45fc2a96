//! The servers' disks: how the store lies on them, and what the faults of disks do to it.
//!
//! Everything is small, so that a minute of work seals memtables, flushes, compacts and recycles
//! segments many times.

use std::collections::BTreeSet;

use kv_core::client::{Answer, CallError};
use kv_core::node::Event;
use kv_core::op::WriteResult;
use kv_core::wire::Refusal;
use kv_storage::ASIDE_PREFIX;
use kv_storage::engine::TREE_FOLDER;
use kv_storage::lsm::TreeOptions;
use kv_storage::mutants::Mutants;
use kv_storage::vfs::{SimDisk, Vfs};

use super::history::ClientEvent;
use crate::engine::{Check, Draw, ProcessId, Rng};

/// Size of a segment of the log.
pub(super) const SEGMENT_BYTES: u64 = 64 * 1024;
/// Free space below which a disk counts as full.
pub(super) const RESERVE_BYTES: u64 = 512 * 1024;
/// What logs keep for members who are behind: little, so that who was away for long needs a
/// snapshot.
pub(super) const SLACK_BYTES: usize = 16 * 1024;
/// Bits that rot at once, at most.
const BITS_MAX: u64 = 8;
/// Places that are looked at for one that is not zero: what was never written does not matter.
const TRIES: u32 = 64;

/// How the applied state lies on a disk.
pub(super) fn tree_options(mutants: Mutants) -> TreeOptions {
    TreeOptions {
        memtable_bytes: 64 * 1024,
        cache_bytes: 16 * 1024,
        block_bytes: 1024,
        table_bytes: 32 * 1024,
        base_level_bytes: 128 * 1024,
        level0_compact: 2,
        mutants,
        ..TreeOptions::new(0)
    }
}

/// Changes some bits of one file of a server. None if it has none yet.
pub(super) fn rot(disk: &SimDisk, rng: &mut Rng) -> Option<String> {
    let in_tree = |name: String| format!("{TREE_FOLDER}/{name}");
    let tables = disk.list(TREE_FOLDER).unwrap_or_default().into_iter().map(in_tree);
    let names = disk.list("").unwrap_or_default().into_iter().chain(tables);
    let is_data = |name: &String| {
        let is_aside = name.contains(ASIDE_PREFIX);
        (name.starts_with("wal-") || name.ends_with(".kvt")) && !is_aside
    };
    let files: Vec<String> = names.filter(is_data).collect();
    if files.is_empty() {
        return None;
    }
    let path = &files[rng.index(files.len())];
    let mut rotten = 0;
    for _ in 0..rng.between(1, BITS_MAX) {
        rotten += u32::from(rot_one(disk, path, rng));
    }
    (rotten > 0).then(|| format!("{rotten} bits of {path}"))
}

fn rot_one(disk: &SimDisk, path: &str, rng: &mut Rng) -> bool {
    let Ok(file) = disk.open(path) else { return false };
    let size = file.size().unwrap_or(0);
    for _ in 0..TRIES {
        let mut byte = [0];
        let offset = rng.below(size.max(1));
        let is_there = file.read_at(offset, &mut byte).is_ok_and(|count| count == 1);
        if is_there && byte != [0] {
            return disk.rot(path, offset, rng.below(8) as u8).is_ok();
        }
    }
    false
}

/// Damage that was noticed, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    damaged: Vec<String>,
    repaired: u64,
}

impl Repairs {
    pub(super) fn on_event(&mut self, server: ProcessId, event: &Event) {
        match event {
            Event::Damaged(damage) => self.damaged.push(format!("{server}: {damage}")),
            Event::Repaired => self.repaired += 1,
            _ => {}
        }
    }

    /// Damage was noticed: who does not notice any proves nothing about it.
    pub(super) fn judge(&self) -> Check {
        let (found, repaired) = (self.damaged.len(), self.repaired);
        match self.damaged.is_empty() {
            true => Check::invalid("damage", "no server has noticed any"),
            false => Check::pass(
                "damage",
                format!("{repaired} repairs; {found} times damaged: {}", self.damaged.join("; ")),
            ),
        }
    }
}

/// What clients saw of full disks.
#[derive(Debug, Default)]
pub(super) struct FullDisks {
    full: BTreeSet<ProcessId>,
    /// Whether all disks are full.
    all: bool,
    refused: u64,
    /// Reads and deletes that were served while all disks were full.
    served: u64,
}

impl FullDisks {
    pub(super) fn set(&mut self, server: ProcessId, is_full: bool, count: usize) {
        if is_full {
            self.full.insert(server);
        } else {
            self.full.remove(&server);
        }
        self.all = self.full.len() == count;
    }

    pub(super) fn on_client(&mut self, event: &ClientEvent) {
        match &event.result {
            Some(Err(CallError::Refused(Refusal::NoSpace { .. }))) => self.refused += 1,
            Some(Ok(Answer::Got(_) | Answer::Written(WriteResult::Delete { .. }))) if self.all => {
                self.served += 1;
            }
            _ => {}
        }
    }

    /// Whether it was shown that a full disk refuses writes and nothing else.
    pub(super) fn judge(&self) -> Check {
        let Self { refused, served, .. } = self;
        let detail = format!(
            "{refused} writes refused; {served} reads and deletes served while all disks were full"
        );
        match *refused > 0 {
            true => Check::pass("full-disk", detail),
            false => Check::invalid("full-disk", detail),
        }
    }
}
