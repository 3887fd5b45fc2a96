//! Planted bugs, and the check that finds each.

use super::damage::middle_check;
use super::install::install_check;
use super::join::reset_check;
use crate::mutants::{Mutant, finds};

#[test]
fn damaged_bytes_find_middle_damage_cut() {
    finds(Mutant::MiddleDamageCut, middle_check);
}

#[test]
fn a_reset_finds_applied_term_ignored() {
    finds(Mutant::AppliedTermIgnored, reset_check);
}

#[test]
fn a_crash_finds_install_in_two_edits() {
    finds(Mutant::InstallInTwoEdits, install_check);
}
