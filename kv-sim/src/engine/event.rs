//! The event queue: what happens next.
//!
//! A binary heap of small keys `(time, sequence)`; the events themselves lie in a slab and do not
//! move while the heap is sorted. Two events at one time happen in the order in which they were
//! scheduled, so the order is total and the same in every run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: u64,
    sequence: u64,
    slot: u32,
}

/// Events by time, then by the order in which they were scheduled.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Key>>,
    slab: Vec<Option<E>>,
    free: Vec<u32>,
    sequence: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), slab: Vec::new(), free: Vec::new(), sequence: 0 }
    }

    /// Schedules an event at `time`.
    pub(crate) fn push(&mut self, time: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = Some(event);
                slot
            }
            None => {
                let slot =
                    u32::try_from(self.slab.len()).expect("fewer than 2^32 events are waiting");
                self.slab.push(Some(event));
                slot
            }
        };
        self.heap.push(Reverse(Key { time, sequence: self.sequence, slot }));
        self.sequence += 1;
    }

    /// Takes the next event, if it is due by `limit`.
    pub(crate) fn pop_until(&mut self, limit: u64) -> Option<(u64, E)> {
        if self.heap.peek()?.0.time > limit {
            return None;
        }
        let Reverse(key) = self.heap.pop()?;
        let event = self.slab[key.slot as usize].take().expect("a key has its event");
        self.free.push(key.slot);
        Some((key.time, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_order_of_scheduling() {
        let mut queue = Queue::new();
        for (time, name) in [(5, "c"), (3, "a"), (5, "d"), (3, "b"), (9, "late")] {
            queue.push(time, name);
        }
        let mut seen = Vec::new();
        while let Some((time, name)) = queue.pop_until(5) {
            seen.push(format!("{time}{name}"));
        }
        assert_eq!(seen, ["3a", "3b", "5c", "5d"]);
        // The slots are reused in another order than they were filled in at first; the order of the
        // events is not theirs.
        for name in ["e", "f", "g", "h"] {
            queue.push(6, name);
        }
        let tied: Vec<&str> =
            std::iter::from_fn(|| queue.pop_until(6)).map(|(_, name)| name).collect();
        assert_eq!(tied, ["e", "f", "g", "h"]);
        assert_eq!(queue.slab.len(), 5);
    }
}
