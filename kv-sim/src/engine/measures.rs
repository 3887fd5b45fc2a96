//! What is measured of a run, beside what is judged.

use std::collections::BTreeMap;

/// Figures of one run. A system that has none leaves them empty.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Measures {
    /// How often each group of replicas got another leader after its first one.
    pub leader_changes: BTreeMap<String, u64>,
    /// Milliseconds from each heal of the network to the first acknowledged write, once for each
    /// part of the data that is served on its own. A heal is the end of a fault that cuts links,
    /// when no other fault lasts.
    pub first_writes_ms: Vec<f64>,
    /// What those should stay below, in milliseconds; none if nothing is promised.
    pub first_write_bound_ms: Option<f64>,
    /// Milliseconds for which transactions waited for each other in a circle, once for each.
    pub deadlocks_ms: Vec<f64>,
    /// Of each of these times the longest in a row in which nothing was broken.
    pub deadlocks_calm_ms: Vec<f64>,
}
