//! When a search is given up.
//!
//! A search counts its steps, so that a verdict under a limit of steps is the same on every machine.
//! Who would rather limit the time looks at a clock of his own and calls [`Stop::stop`] from another
//! thread: nothing in this library reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::transactions::Level;

/// Steps of one search beyond one for each operation, unless [`Options`] say otherwise.
///
/// Real histories need few, since a wrong turn shows after a handful of steps; this many take some
/// seconds and less than a gigabyte.
pub const BUDGET_STEPS_DEFAULT: u64 = 5_000_000;

/// Limits of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Steps that the search of one key may take beyond one for each of its operations; `None` for
    /// no limit.
    /// Steps are counted, not time, so that the verdict is the same everywhere.
    pub budget_steps: Option<u64>,
    /// Ends the search from outside; nobody does so by default.
    pub stop: Stop,
    /// The level of isolation that transactions are held to.
    pub level: Level,
}

impl Default for Options {
    fn default() -> Self {
        let (budget_steps, stop) = (Some(BUDGET_STEPS_DEFAULT), Stop::default());
        Self { budget_steps, stop, level: Level::StrictSerializable }
    }
}

impl Options {
    /// What one search of so many operations may spend.
    pub(crate) fn steps(&self, operations: usize) -> Steps {
        let left =
            self.budget_steps.map_or(u64::MAX, |steps| steps.saturating_add(operations as u64));
        Steps { left, kept_bytes: 0, stop: self.stop.clone() }
    }
}

/// Ends all searches that were given a copy of it, whatever is left of their steps.
///
/// A check that is stopped answers soon, and what was not decided by then is unknown.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the searches.
    pub fn stop(&self) {
        // Nothing else is handed over with the flag, so its order among other accesses is free.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the searches shall end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Two are the same if stopping one stops the other.
impl PartialEq for Stop {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stop {}

/// What the configurations that a search keeps may take, about, in bytes; beyond that it is given up
/// like one without steps, since states can be as large as the history.
const KEPT_BYTES_MAX: u64 = 1 << 28;

/// The steps that a search has left.
#[derive(Debug)]
pub(crate) struct Steps {
    left: u64,
    kept_bytes: u64,
    stop: Stop,
}

impl Steps {
    /// Pays for one step; `false` if there is none left.
    pub(crate) fn take(&mut self) -> bool {
        if self.stop.is_stopped() {
            self.left = 0;
        }
        let is_paid = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_paid
    }

    /// Pays for what is kept in memory; there are no steps left if that is too much.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.kept_bytes = self.kept_bytes.saturating_add(bytes as u64);
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.left = 0;
        }
    }

    /// Nothing of what was paid for is kept any more.
    pub(crate) fn let_go(&mut self) {
        self.kept_bytes = 0;
    }

    /// Whether the next one cannot be paid.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Takes out at most `count` of them, for a part of the search.
    pub(crate) fn part(&mut self, count: u64) -> Self {
        if self.stop.is_stopped() {
            self.left = 0;
        }
        let left = self.left.min(count);
        self.left -= left;
        Self { left, kept_bytes: 0, stop: self.stop.clone() }
    }
}
