//! What the operations that are not yet linearized will still do to each value.
//!
//! Three numbers per value, kept up to date as operations are linearized and taken back:
//!
//! - *writers*: operations that may set the key to the value.
//! - *demands*: answered operations that need the key to have the value.
//! - *mentions*: operations that can tell the value from others.
//!
//! They answer two questions at once which the search would otherwise answer by trying.
//! A value with demands but without writers must not be overwritten, for it never comes back.
//! A value without mentions is as good as any other such value.

use super::problem::{NAMELESS, Op, Problem};
use crate::model::{Action, ValueId};

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    writers: u32,
    demands: u32,
    mentions: u32,
}

/// The numbers of all values.
#[derive(Debug)]
pub(super) struct Counters {
    of: Vec<Count>,
}

impl Counters {
    /// Counts all operations of the problem.
    pub(super) fn new(problem: &Problem) -> Self {
        let mut counters = Self { of: vec![Count::default(); problem.value_count] };
        for op in &problem.ops {
            counters.put_back(op);
        }
        counters
    }

    /// Accounts for `op` being linearized.
    pub(super) fn take(&mut self, op: &Op) {
        self.each(op, |count| *count -= 1);
    }

    /// Accounts for `op` not being linearized any more.
    pub(super) fn put_back(&mut self, op: &Op) {
        self.each(op, |count| *count += 1);
    }

    /// Whether the key must keep `value`: it is still demanded and nothing will write it again.
    pub(super) fn is_held(&self, value: Option<ValueId>) -> bool {
        value.is_some_and(|value| {
            let count = self.of[value.0 as usize];
            count.demands > 0 && count.writers == 0
        })
    }

    /// The number that stands for `value` from here on.
    pub(super) fn canonical(&self, value: ValueId) -> ValueId {
        if self.of[value.0 as usize].mentions == 0 { NAMELESS } else { value }
    }

    fn each(&mut self, op: &Op, change: impl Fn(&mut u32)) {
        let mut at = |value: Option<ValueId>, field: fn(&mut Count) -> &mut u32| {
            if let Some(value) = value {
                change(field(&mut self.of[value.0 as usize]));
            }
        };
        // Two readings of one cas write and mention the same value, which counts once.
        at(op.action.written(), |count| &mut count.writers);
        at(op.action.mentioned(), |count| &mut count.mentions);
        if op.completed < usize::MAX {
            at(op.demanded(), |count| &mut count.demands);
        }
        debug_assert!(op.alternative.as_ref().and_then(Action::written).is_none());
    }
}
