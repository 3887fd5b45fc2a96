//! How far a tree is behind, and how fast it must catch up.
//!
//! A flush should be complete when the active memtable is half full, and a compaction of level 0
//! before that has twice as many tables as begin one. From what is left to do, and how much can be
//! written until then, follows how many bytes of work each written byte has to pay. Work that is
//! paid for evenly needs no pause at the end.

use super::tree::Tree;
use super::version::LEVEL_MAX;

/// Work for each byte that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes of work that are left.
    pub work: u64,
    /// Bytes that may be written until they should be done, at least 1 if there is work.
    pub room: u64,
}

impl Share {
    /// The work that is due for `bytes_put` written bytes: none only if none is left.
    pub fn for_bytes(self, bytes_put: u64) -> u64 {
        let due = u128::from(bytes_put) * u128::from(self.work) / u128::from(self.room.max(1));
        // A share that rounds to nothing would never be paid.
        u64::try_from(due).unwrap_or(u64::MAX).min(self.work).max(u64::from(self.work > 0))
    }
}

/// How far a tree is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debt {
    /// Flushes.
    pub flush: Share,
    /// Compactions.
    pub compaction: Share,
    /// How near the tree is to what it can hold, in thousandths: at 0 writes may go at full speed,
    /// at 1000 they should stand still until steps were done.
    pub pressure: u64,
}

pub(super) fn of(tree: &Tree) -> Debt {
    let options = &tree.disk.options;
    let active = tree.view.memtables[0].read().memory();
    let level0 = tree.view.version.level0.len() as u64;
    let (compact, stop) = (options.level0_compact as u64, options.level0_stop as u64);
    // A little room is always left, so that one write never pays for all.
    let room_min = options.memtable_bytes / 64 + 1;
    let flush_room = (options.memtable_bytes / 2).saturating_sub(active).max(room_min);
    let tables_left = (2 * compact).min(stop).saturating_sub(level0).max(1);
    let compaction_room =
        (tables_left * options.memtable_bytes).saturating_sub(active).max(room_min);
    let unflushed = tree.sealed.len() as u64;
    let flush_pressure = match unflushed {
        0 => 0,
        _ => (active * 1000 / options.memtable_bytes.max(1)).max((unflushed - 1) * 1000),
    };
    let level0_pressure =
        level0.saturating_sub(2 * compact) * 1000 / stop.saturating_sub(2 * compact).max(1);
    Debt {
        flush: Share { work: flush_work(tree), room: flush_room },
        compaction: Share { work: compaction_work(tree), room: compaction_room },
        pressure: flush_pressure.max(level0_pressure).min(1000),
    }
}

fn flush_work(tree: &Tree) -> u64 {
    let waiting = tree.sealed.iter().map(|sealed| sealed.memtable.read().content_bytes());
    let done = tree.flush.as_ref().map_or(0, |job| job.done);
    // Completing a flush is work, even when all entries are written or there were none.
    waiting.map(|bytes| bytes + 1).sum::<u64>().saturating_sub(done)
}

/// What is left of the compaction under way, and about what all others that are due will take.
fn compaction_work(tree: &Tree) -> u64 {
    let (version, options) = (&tree.view.version, &tree.disk.options);
    let under_way = tree.compaction.as_ref();
    let targets = version.targets(options);
    let mut work = under_way.map_or(0, |job| job.remaining().max(1));
    let is_under_way = |level| {
        under_way.is_some_and(|job| job.plan.inputs.first().is_some_and(|(from, _)| *from == level))
    };
    if version.level0.len() >= options.level0_compact && !is_under_way(0) {
        let base = version.base_level(options);
        work += version.level_bytes(0) + version.level_bytes(base);
    }
    for (level, target) in targets.iter().enumerate().take(LEVEL_MAX).skip(1) {
        let excess = version.level_bytes(level).saturating_sub(*target);
        // Each byte that goes down meets about half as many as it has room for there.
        work += excess + excess.saturating_mul(options.level_multiplier) / 2;
    }
    work.max(u64::from(tree.is_compaction_due()))
}
