//! What binds a protocol to the command line.

use crate::engine::System;
use crate::scenario::Scenario;

/// A protocol that scenarios can be run on.
pub trait Protocol: Sync {
    /// Its simulation.
    type System: System;

    /// Makes the system of one run. The error says why the scenario does not suit the protocol.
    fn system(
        &self,
        scenario: &Scenario,
        seed: u64,
        mutant: Option<&str>,
    ) -> Result<Self::System, String>;

    /// The mutants that are built in.
    fn mutants(&self) -> &[Mutant] {
        &[]
    }
}

/// A defect that can be switched on, to see whether the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its name.
    pub id: &'static str,
    /// What it does wrong.
    pub summary: &'static str,
    /// The scenario in which it is to be found: a path below the repository.
    pub scenario: &'static str,
    /// The check that is to find it.
    pub check: &'static str,
}
