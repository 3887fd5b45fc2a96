//! Queues whose values are added once: decided by rules, without a search.
//!
//! A history without pending removals is linearizable as a queue exactly if none of these is there
//! (Henzinger, Sezgin and Vafeiadis, "Aspect-oriented linearizability proofs", CONCUR 2013):
//!
//! 1. A value is removed that was not added, or before it was, or twice.
//! 2. One value was added entirely before another, and the other was removed entirely before the
//!    one, which perhaps never was.
//! 3. A removal found nothing, and at every moment of it something was there for certain: some value
//!    whose addition was complete and whose removal had not begun.
//!
//! A pending removal may have had no effect. So if the rest is linearizable, all of it is; if not,
//! the rules do not know.
//!
//! O(n log n).

use std::collections::HashMap;

use super::{Call, PENDING, QueueAction, Removal};
use crate::decision::Decision;

/// One value: positions of the events of its addition and removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stay {
    add_invoked: u32,
    /// At most the end of the removal, if there is one.
    add_completed: u32,
    /// [`PENDING`] if it is never removed.
    remove_invoked: u32,
    remove_completed: u32,
}

/// Whether the calls have an order, without saying which; none if the rules do not know.
pub(crate) fn decide(calls: &[Call<QueueAction>]) -> Option<Decision> {
    let mut stays = HashMap::new();
    for call in calls {
        if let QueueAction::Add(value) = call.action {
            let stay = Stay {
                add_invoked: call.invoked,
                add_completed: call.completed,
                remove_invoked: PENDING,
                remove_completed: PENDING,
            };
            if stays.insert(value, stay).is_some() {
                return None;
            }
        }
    }
    let (mut empties, mut is_unsure, mut is_good) = (Vec::new(), false, true);
    for call in calls {
        match call.action {
            QueueAction::Remove(Removal::Value(value)) => {
                is_good &= stays.get_mut(&value).is_some_and(|stay| stay.remove(call));
            }
            QueueAction::Remove(Removal::Empty) => empties.push((call.invoked, call.completed)),
            QueueAction::Remove(Removal::Unknown) if call.completed == PENDING => is_unsure = true,
            QueueAction::Remove(Removal::Unknown) => return None,
            QueueAction::Add(_) => {}
        }
    }
    let is_there = |stay: &Stay| stay.add_completed != PENDING || stay.is_removed();
    let stays: Vec<_> = stays.into_values().filter(is_there).collect();
    let is_good = is_good && is_in_order(&stays) && has_empty_moments(&stays, &empties);
    match (is_good, is_unsure) {
        (true, _) => Some(Decision::Holds(None)),
        (false, false) => Some(Decision::Violated(())),
        (false, true) => None,
    }
}

impl Stay {
    /// Whether it can be removed by `call`.
    fn remove(&mut self, call: &Call<QueueAction>) -> bool {
        let is_first = !self.is_removed();
        (self.remove_invoked, self.remove_completed) = (call.invoked, call.completed);
        self.add_completed = self.add_completed.min(call.completed);
        is_first && self.add_invoked < call.completed
    }

    fn is_removed(&self) -> bool {
        self.remove_invoked != PENDING
    }
}

/// Rule 2.
fn is_in_order(stays: &[Stay]) -> bool {
    let mut by_add: Vec<_> = stays.iter().collect();
    by_add.sort_unstable_by_key(|stay| stay.add_completed);
    let mut removed: Vec<_> = stays.iter().filter(|stay| stay.is_removed()).collect();
    removed.sort_unstable_by_key(|stay| stay.add_invoked);
    let mut earlier = by_add.into_iter().peekable();
    // The latest that the removal of a value began which was added entirely before.
    let mut latest = 0;
    removed.into_iter().all(|stay| {
        while let Some(before) = earlier.next_if(|other| other.add_completed < stay.add_invoked) {
            latest = latest.max(before.remove_invoked);
        }
        latest < stay.remove_completed
    })
}

/// Rule 3.
fn has_empty_moments(stays: &[Stay], empties: &[(u32, u32)]) -> bool {
    let certain = stays.iter().filter(|stay| stay.add_completed < stay.remove_invoked);
    let mut certain: Vec<_> =
        certain.map(|stay| (stay.add_completed, stay.remove_invoked)).collect();
    certain.sort_unstable();
    let mut covered: Vec<(u32, u32)> = Vec::new();
    for (begin, end) in certain {
        match covered.last_mut() {
            Some(last) if begin < last.1 => last.1 = last.1.max(end),
            _ => covered.push((begin, end)),
        }
    }
    empties.iter().all(|(invoked, completed)| {
        let before = covered.partition_point(|(begin, _)| begin < invoked);
        before == 0 || covered[before - 1].1 < *completed
    })
}
