//! Stacks whose values are pushed once: decided by rules, without a search.
//!
//! The pop of a value that never is popped is thought to be there, after everything else; values
//! that stay are popped then, the newest first. What finds nothing is [`stay`]'s. The rest is a word
//! of pushes and pops in which pairs nest like brackets. If such a word explains a history, then
//! without some of its values it explains the history without them. So two ways to make a history
//! smaller never lose an answer:
//!
//! - *The bottom.* A value whose push was invoked before any operation was completed, and whose pop
//!   was completed after all were invoked, can go around everything: if the others have an order, so
//!   have all.
//! - *A cut.* If each operation of some values was invoked before any of the other values was
//!   completed, the ones can go before the others: if both parts have an order, so has the whole.
//!
//! And one of them is always there, if there is an order: its word begins with the push of a value.
//! If the pop is at the end, the value is a bottom; else the word is cut behind that pop.
//!
//! To find a cut, let s of a value be the invocation of the later, and f the completion of the
//! earlier of its operations. Values A go before values B if the greatest s of A is before the
//! smallest f of B. Given such a cut, move all values with an s that is no greater than that to A.
//! If something is left in B, the values sorted by s are cut there. If not, the greatest s of A is
//! that of all values; then the values whose f comes after it can go behind the others; and if there
//! are no others, every operation is concurrent with every other one, and every value a bottom.
//!
//! The ways to decide a stack in polynomial time are those of Abdulla, Grahn, Jonsson, Krishna and
//! Mishra ("Efficient linearizability monitoring", PLDI 2025) and of Lee and Mathur ("Efficient
//! decrease-and-conquer linearizability monitoring", 2024). Here all bottoms are taken at once and all
//! cuts made at once, so each value is looked at as often as cuts nest around it. The steps are
//! counted.

use super::stay::{self, Part, Stay};
use super::{Call, QueueAction};
use crate::budget::Steps;
use crate::decision::Decision;

/// So many values are looked at in the time of one step of a search.
const VALUES_PER_STEP: usize = 64;

/// How often values are looked through for bottoms before they are sorted for that: most often there
/// is one, or none.
const SCANS_MAX: usize = 3;

/// Whether the calls have an order; nothing if the rules do not know.
pub(crate) fn decide(calls: &[Call<QueueAction>], mut steps: Steps) -> Option<Decision> {
    stay::decide(calls, |stays, places| order(stays, places, &mut steps))
}

/// What is still to be done.
enum Task {
    /// A call is put into the order.
    Take(u32),
    /// Values are ordered that are sorted by s.
    Order(Vec<Stay>),
}

fn order(stays: &[Stay], places: &mut Vec<usize>, steps: &mut Steps) -> Part {
    let mut tasks = vec![Task::Order(stays.to_vec())];
    while let Some(task) = tasks.pop() {
        let mut values = match task {
            Task::Take(place) => {
                places.push(place as usize);
                continue;
            }
            Task::Order(values) => values,
        };
        let cost = 1 + values.len() / VALUES_PER_STEP;
        if steps.part(cost as u64).is_spent() {
            return Part::Spent;
        }
        take_bottoms(&mut values, places, &mut tasks);
        if values.is_empty() {
            continue;
        }
        let parts = cut(values);
        if parts.len() == 1 {
            return Part::Impossible;
        }
        tasks.extend(parts.into_iter().map(Task::Order));
    }
    Part::Ordered
}

/// Takes the pushes of all values that go around the others, and leaves their pops to be done.
fn take_bottoms(values: &mut Vec<Stay>, places: &mut Vec<usize>, tasks: &mut Vec<Task>) {
    let mut take = |stay: &Stay| {
        places.push(stay.add as usize);
        tasks.extend(stay.remove.map(Task::Take));
    };
    for _ in 0..SCANS_MAX {
        let Some(latest) = values.last().map(|stay| stay.remove_invoked) else { return };
        let first = values.iter().fold(u32::MAX, |first, stay| first.min(stay.add_completed));
        let count = values.len();
        values.retain(|stay| {
            let is_bottom = stay.add_invoked < first && latest < stay.remove_completed;
            if is_bottom {
                take(stay);
            }
            !is_bottom
        });
        if values.len() == count {
            return;
        }
    }
    let spans = values.iter().map(|stay| {
        // The end comes after all beginnings if it comes first when time runs backwards.
        [(stay.add_invoked, stay.add_completed), (!stay.remove_completed, !stay.remove_invoked)]
    });
    let mut is_left = vec![true; values.len()];
    for number in stay::take_first(&spans.collect::<Vec<_>>()) {
        is_left[number] = false;
        take(&values[number]);
    }
    let mut is_left = is_left.into_iter();
    values.retain(|_| is_left.next() == Some(true));
}

/// Cuts values into parts, the last one first. One part if there is no cut.
fn cut(mut values: Vec<Stay>) -> Vec<Vec<Stay>> {
    let latest = values[values.len() - 1].remove_invoked;
    let mut parts = Vec::new();
    let mut earliest = u32::MAX;
    for number in (1..values.len()).rev() {
        earliest = earliest.min(values[number].add_completed);
        if values[number - 1].remove_invoked < earliest {
            parts.push(values.split_off(number));
        }
    }
    if parts.is_empty() {
        let (behind, before): (Vec<_>, Vec<_>) =
            values.iter().partition(|stay| stay.add_completed > latest);
        if !behind.is_empty() && !before.is_empty() {
            return vec![behind, before];
        }
    }
    parts.push(values);
    parts
}
