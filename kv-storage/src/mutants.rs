//! Known bugs, planted on purpose, that the tests must find.
//!
//! A check that finds nothing proves nothing until it is shown that it *would* have found
//! something. Each mutant is one classic mistake of a storage engine. It is chosen where the engine
//! is opened, so two engines of one process can have different ones. Compiled in only for tests and
//! with feature `mutants`; in any other build [`Mutants`] is empty and [`Mutants::has`] a constant.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The tree does not sync its folder before the manifest lists new tables: a crash may lose
    /// their names.
    DirectorySyncSkipped = 1,
    /// A flush leaves the caller's metadata out of its edit: after a crash the tables hold more
    /// than the metadata say is applied.
    FlushWithoutApplied,
    /// A compaction drops tombstones though levels below may hold older versions, which come back.
    TombstoneDroppedEarly,
    /// The last key of a table is missing from its bloom filter, so that a get does not find it.
    BloomFalseNegative,
    /// A compaction does not verify what it reads, and gives damage a valid checksum.
    ChecksumIgnoredInCompaction,
    /// A table is removed although a view may still read it.
    TableDeletedUnderView,
    /// The log is cut at damage, even below what it states to be durable.
    MiddleDamageCut,
    /// The term of the log's entry at what is applied is not compared when a store is opened.
    AppliedTermIgnored,
    /// A snapshot leaves the results of sessions out, so that a retry runs again on the receiver.
    SnapshotWithoutSessions,
    /// A snapshot's installation forgets the old state in an edit of its own.
    InstallInTwoEdits,
    /// Flushes and compactions keep only the newest version of each key, whatever can still be
    /// read.
    VersionCollectedUnderAReader,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::DirectorySyncSkipped,
        Self::FlushWithoutApplied,
        Self::TombstoneDroppedEarly,
        Self::BloomFalseNegative,
        Self::ChecksumIgnoredInCompaction,
        Self::TableDeletedUnderView,
        Self::MiddleDamageCut,
        Self::AppliedTermIgnored,
        Self::SnapshotWithoutSessions,
        Self::InstallInTwoEdits,
        Self::VersionCollectedUnderAReader,
    ];

    /// The name by which it is chosen on the command line.
    pub const fn id(self) -> &'static str {
        match self {
            Self::DirectorySyncSkipped => "directory-sync-skipped",
            Self::FlushWithoutApplied => "flush-without-applied",
            Self::TombstoneDroppedEarly => "tombstone-dropped-early",
            Self::BloomFalseNegative => "bloom-false-negative",
            Self::ChecksumIgnoredInCompaction => "checksum-ignored-in-compaction",
            Self::TableDeletedUnderView => "table-deleted-under-view",
            Self::MiddleDamageCut => "middle-damage-cut",
            Self::AppliedTermIgnored => "applied-term-ignored",
            Self::SnapshotWithoutSessions => "snapshot-without-sessions",
            Self::InstallInTwoEdits => "install-in-two-edits",
            Self::VersionCollectedUnderAReader => "version-collected-under-a-reader",
        }
    }

    /// The mutant named `id`.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.id() == id)
    }
}

/// Which planted bugs an engine has: none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    #[cfg(any(test, feature = "mutants"))]
    bits: u64,
}

impl Mutants {
    /// No planted bugs.
    pub const NONE: Self = Self {
        #[cfg(any(test, feature = "mutants"))]
        bits: 0,
    };

    /// One planted bug.
    #[cfg(any(test, feature = "mutants"))]
    pub const fn only(mutant: Mutant) -> Self {
        Self { bits: 1 << mutant as u8 }
    }

    /// Whether `mutant` was chosen.
    #[cfg(any(test, feature = "mutants"))]
    pub const fn has(self, mutant: Mutant) -> bool {
        self.bits & (1 << mutant as u8) != 0
    }

    /// Whether `mutant` was chosen: never, in a build without mutants.
    #[cfg(not(any(test, feature = "mutants")))]
    #[inline(always)]
    pub const fn has(self, _mutant: Mutant) -> bool {
        false
    }
}

/// Asserts that a check passes, and that it fails with a planted bug.
#[cfg(test)]
#[track_caller]
pub(crate) fn finds(mutant: Mutant, check: impl Fn(Mutants)) {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    check(Mutants::NONE);
    let result = catch_unwind(AssertUnwindSafe(|| check(Mutants::only(mutant))));
    assert!(result.is_err(), "{} was not found", mutant.id());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_has_a_name_and_a_bit_of_its_own() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::from_id(mutant.id()), Some(mutant));
            assert!(!Mutants::NONE.has(mutant));
            let chosen = Mutant::ALL.into_iter().filter(|other| Mutants::only(mutant).has(*other));
            assert_eq!(chosen.collect::<Vec<_>>(), [mutant]);
        }
    }
}
