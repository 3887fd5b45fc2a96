//! Planted bugs, and the check that finds each.

use super::crash::crash_check;
use super::damage::compaction_check;
use super::model::model_check;
use super::parts::view_check;
use crate::mutants::{Mutant, finds};

#[test]
fn crashes_find_directory_sync_skipped() {
    finds(Mutant::DirectorySyncSkipped, crash_check);
}

#[test]
fn crashes_find_flush_without_applied() {
    finds(Mutant::FlushWithoutApplied, crash_check);
}

#[test]
fn the_model_finds_tombstone_dropped_early() {
    finds(Mutant::TombstoneDroppedEarly, model_check);
}

#[test]
fn the_model_finds_bloom_false_negative() {
    finds(Mutant::BloomFalseNegative, model_check);
}

#[test]
fn damage_finds_checksum_ignored_in_compaction() {
    finds(Mutant::ChecksumIgnoredInCompaction, |mutants| compaction_check(mutants, 37));
}

#[test]
fn views_find_table_deleted_under_view() {
    finds(Mutant::TableDeletedUnderView, view_check);
}
