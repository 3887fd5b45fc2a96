//! Planted bugs, and the check that finds each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::damage::middle_check;
use super::join::reset_check;
use crate::mutants::{Mutant, Mutants};

/// Asserts that a check passes, and fails on a directory with a planted bug.
#[track_caller]
fn finds(mutant: Mutant, check: impl Fn(Mutants)) {
    check(Mutants::NONE);
    let result = catch_unwind(AssertUnwindSafe(|| check(Mutants::only(mutant))));
    assert!(result.is_err(), "{} was not found", mutant.id());
}

#[test]
fn damaged_bytes_find_middle_damage_cut() {
    finds(Mutant::MiddleDamageCut, middle_check);
}

#[test]
fn a_reset_finds_applied_term_ignored() {
    finds(Mutant::AppliedTermIgnored, reset_check);
}
