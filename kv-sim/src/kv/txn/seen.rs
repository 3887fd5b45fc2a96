//! What reads saw, compared with when writes were committed.
//!
//! Versions are timestamps of one oracle, so there is no need to search for an order: a read at a
//! timestamp sees, of each key, the newest write at or below it, and nothing else. Any other read, be
//! it of a single key or under a lock, sees at least what was at or below the highest timestamp that
//! anybody had heard of when it began, as a version or to read at: whatever reads at that timestamp sees
//! it too.
//!
//! This finds at one read what shows in no cycle before several others came at the right moments.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::id::Timestamp;
use kv_core::op::{Found, Key};

use super::transaction::{Op, Transaction};
use crate::engine::Check;

const NAME: &str = "reads-by-timestamp";

/// A read of one key.
#[derive(Debug)]
struct Seen {
    key: Key,
    /// What it saw; zero if the key did not exist.
    version: u64,
    /// It must not miss what was written at or below this.
    bound: u64,
    /// Whether it must not see anything above it either.
    is_exact: bool,
}

/// What was read and written by transactions that were committed.
#[derive(Debug, Default)]
pub(super) struct SeenVersions {
    writes: BTreeMap<Key, BTreeSet<u64>>,
    reads: Vec<Seen>,
}

impl SeenVersions {
    /// A transaction was committed. `heard` is the highest timestamp that anybody had heard of when
    /// it began, and `at` the one that it read at.
    pub(super) fn on_committed(
        &mut self,
        transaction: &Transaction,
        found: &[Option<Found>],
        (commit_ts, at): (Option<Timestamp>, Option<Timestamp>),
        heard: u64,
    ) {
        let mut written: BTreeSet<&Key> = BTreeSet::new();
        let mut results = found.iter();
        for op in &transaction.ops {
            let key = op.key();
            if op.is_read() {
                let version = results.next().and_then(Option::as_ref).map_or(0, |it| it.version.0);
                // What it has written itself has no version yet.
                if !written.contains(key) {
                    let (bound, is_exact) = (at.map_or(heard, |at| at.0), at.is_some());
                    self.reads.push(Seen { key: key.clone(), version, bound, is_exact });
                }
            } else if !matches!(op, Op::Open { read, .. } if matches!(found.get(*read), Some(Some(_))))
            {
                written.insert(key);
            }
        }
        if let Some(commit_ts) = commit_ts {
            for key in written {
                self.writes.entry(key.clone()).or_default().insert(commit_ts.0);
            }
        }
    }

    /// No read missed what it must have seen, or saw what it cannot have.
    pub(super) fn judge(&self) -> Check {
        match self.reads.iter().find_map(|seen| self.broken(seen)) {
            Some(broken) => Check::fail(NAME, broken),
            None => {
                let exact = self.reads.iter().filter(|seen| seen.is_exact).count();
                Check::pass(NAME, format!("{} reads, {exact} at a timestamp", self.reads.len()))
            }
        }
    }

    fn broken(&self, seen: &Seen) -> Option<String> {
        let Seen { key, version, bound, is_exact } = seen;
        let name = String::from_utf8_lossy(&key.bytes);
        if *is_exact && version > bound {
            return Some(format!("a read at {bound} saw {name} at {version}"));
        }
        let writes = self.writes.get(key)?;
        let missed = writes.range(version + 1..).next().filter(|missed| *missed <= bound)?;
        let kind = if *is_exact { "at" } else { "after" };
        Some(format!("a read {kind} {bound} saw {name} at {version} and missed {missed}"))
    }
}
