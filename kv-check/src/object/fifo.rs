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
//! Rules 1 and 3 are [`stay`]'s. For rule 2, one value has to come before another if it was added
//! or removed entirely before. Both relations are orders of intervals, and of two pairs in such
//! an order the beginning of one is before the end of the other one; so the shortest cycle of both
//! has two values, and without it the values are put in line one after the other.
//!
//! # From a line of values to an order of calls
//!
//! Additions and removals each come in that line, and a removal is taken as soon as its value was
//! added and nothing that is not yet added was added entirely before it began; else the next
//! value is added. Suppose that the addition of a could not be taken there, since some y not taken
//! ended before it began. Then y is a removal, of a value already added, and the next removal r
//! began before y ended, being before it in the line. But r is not taken because the
//! addition of some b ended before r began, thus before a began to be added: b is before a in the
//! line, and was taken. So it never gets stuck.
//!
//! O(n log n).

use super::stay::{self, Part, Stay};
use super::{Call, QueueAction};
use crate::decision::Decision;

/// Whether the calls have an order; nothing if the rules do not know.
pub(crate) fn decide(calls: &[Call<QueueAction>]) -> Option<Decision> {
    stay::decide(calls, |stays, places| order(calls, stays, places))
}

fn order(calls: &[Call<QueueAction>], stays: &[Stay], places: &mut Vec<usize>) -> Part {
    let spans = stays.iter().map(|stay| {
        let add = (stay.add_invoked, stay.add_completed);
        [add, (stay.remove_invoked, stay.remove_completed)]
    });
    let line = stay::take_first(&spans.collect::<Vec<_>>());
    if line.len() < stays.len() {
        return Part::Impossible;
    }
    let line: Vec<_> = line.into_iter().map(|number| &stays[number]).collect();
    // The earliest end of an addition from each one on.
    let mut earliest = vec![u32::MAX; line.len() + 1];
    for (number, stay) in line.iter().enumerate().rev() {
        earliest[number] = earliest[number + 1].min(calls[stay.add as usize].completed);
    }
    let mut removals = line.iter().filter_map(|stay| stay.remove).peekable();
    let mut waiting = 0;
    for (number, stay) in line.iter().enumerate() {
        let may_go = |place: &u32| calls[*place as usize].invoked < earliest[number];
        while waiting > 0
            && let Some(place) = removals.next_if(may_go)
        {
            places.push(place as usize);
            waiting -= 1;
        }
        places.push(stay.add as usize);
        waiting += 1;
    }
    places.extend(removals.map(|place| place as usize));
    Part::Ordered
}
