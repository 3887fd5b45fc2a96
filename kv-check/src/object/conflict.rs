//! The few calls of an object that have no order, whatever the others did.
//!
//! As for [keys](crate::linearizability::conflict()), to leave a call out means to forget when it
//! happened: it may have taken effect at any moment, with the result that it had, or not at all. A set
//! of calls that has no order even so is a conflict, and more calls make no order out of none.
//!
//! Of the calls that are left out only those take part that can help: no observations, and of those on
//! values (see [`Object::value`]) only the ones on values that the set speaks of.

use std::collections::BTreeSet;

use super::{Call, Object, PENDING};
use crate::budget::Stop;
use crate::decision::Decision;
use crate::minimal::{Bad, minimal, shortest};

/// Finds a minimal conflict among calls that have no order, as early as there is one.
pub(crate) fn conflict<O: Object>(
    object: &O,
    calls: &[Call<O::Action>],
    stop: &Stop,
    decide: impl Fn(&[Call<O::Action>]) -> Decision,
) -> Bad {
    conflict_of(calls, stop, |places| decide(&with_rest(object, calls, places)))
}

/// The same where `decide` says what comes of the calls at some places, in increasing order, if the
/// others are left out.
pub(crate) fn conflict_of<A>(
    calls: &[Call<A>],
    stop: &Stop,
    decide: impl Fn(&[usize]) -> Decision,
) -> Bad {
    let is_bad = judge(stop, decide);
    let mut list: Vec<usize> = (0..calls.len()).collect();
    list.sort_by_key(|place| (calls[*place].completed, calls[*place].invoked));
    // The last call of the shortest bad part is in every conflict of that part; the others are looked
    // for near to it.
    let length = shortest(&list, &is_bad).unwrap_or(list.len());
    list.truncate(length);
    list.reverse();
    minimal(list, is_bad)
}

/// The same where calls fall into groups: all calls of a group are left out, as long as that can be, and
/// then single ones of the rest. For a search that is the shorter way: of a group that is left out
/// nothing may have happened at any moment.
pub(crate) fn conflict_of_groups<A>(
    calls: &[Call<A>],
    groups: &[Vec<usize>],
    stop: &Stop,
    decide: impl Fn(&[usize]) -> Decision,
) -> Bad {
    let is_bad = judge(stop, decide);
    let union = |numbers: &[usize]| {
        let mut places: Vec<_> =
            numbers.iter().flat_map(|number| groups[*number].iter().copied()).collect();
        places.sort_unstable();
        places
    };
    let end = |number: &usize| groups[*number].iter().map(|place| calls[*place].completed).max();
    let mut list: Vec<usize> = (0..groups.len()).collect();
    list.sort_by_key(end);
    let length = shortest(&list, |numbers| is_bad(&union(numbers))).unwrap_or(list.len());
    list.truncate(length);
    list.reverse();
    let Bad { places: numbers, .. } = minimal(list, |numbers| is_bad(&union(numbers)));
    let mut list = union(&numbers);
    list.sort_by_key(|place| std::cmp::Reverse((calls[*place].completed, calls[*place].invoked)));
    minimal(list, is_bad)
}

/// Whether calls are known to have no order.
fn judge(stop: &Stop, decide: impl Fn(&[usize]) -> Decision) -> impl Fn(&[usize]) -> Option<bool> {
    move |places| {
        if stop.is_stopped() {
            return None;
        }
        match decide(places) {
            Decision::Holds(_) => Some(false),
            Decision::Violated(()) => Some(true),
            Decision::Unknown => None,
        }
    }
}

/// The calls at these places, and the ones of the others that may help them to an order.
pub(crate) fn with_rest<O: Object>(
    object: &O,
    calls: &[Call<O::Action>],
    places: &[usize],
) -> Vec<Call<O::Action>> {
    let values: BTreeSet<u32> =
        places.iter().filter_map(|place| object.value(&calls[*place].action)).collect();
    let helps = |place: &usize| {
        let action = &calls[*place].action;
        let is_spoken_of = object.value(action).is_none_or(|value| values.contains(&value));
        is_spoken_of && !object.is_observation(action)
    };
    let rest = (0..calls.len()).filter(|place| places.binary_search(place).is_err());
    beside(calls, places, rest.filter(helps))
}

/// The calls at these places, and those of `rest`, which may have happened at any moment or not.
pub(super) fn beside<A: Clone>(
    calls: &[Call<A>],
    places: &[usize],
    rest: impl IntoIterator<Item = usize>,
) -> Vec<Call<A>> {
    let mut set = Vec::new();
    for place in rest {
        let invoked = position(set.len());
        let action = calls[place].action.clone();
        set.push(Call::new(invoked, PENDING, action));
    }
    // Positions stay different: those of the set come after the ones of the rest.
    let mut events: Vec<u32> = places
        .iter()
        .flat_map(|place| [calls[*place].invoked, calls[*place].completed])
        .filter(|event| *event != PENDING)
        .collect();
    events.sort_unstable();
    let first = set.len();
    let number = |event: u32| match event {
        PENDING => PENDING,
        event => position(first + events.partition_point(|known| *known < event)),
    };
    set.extend(places.iter().map(|place| {
        let Call { invoked, completed, action, .. } = &calls[*place];
        Call::new(number(*invoked), number(*completed), action.clone())
    }));
    set
}

fn position(count: usize) -> u32 {
    u32::try_from(count).expect("there are no more events than in the history")
}

#[cfg(test)]
mod tests {
    //! What would go wrong: calls that have an order are said to exclude each other, or more of them
    //! than it takes.

    use super::super::tests::{Draw, brute_force, intervals, queue_action, string_action};
    use super::super::{
        Counter, CounterAction, GrowSet, Presence, PresenceAction, Queue, QueueAction, Removal,
        SetAction, Side, Text, Touch, counter,
    };
    use super::*;
    use crate::budget::Options;
    use crate::format::{QueueRecord, SetRecord};
    use crate::names::Names;
    use crate::window::{self, ObjectWindow};

    /// The calls of a window.
    fn bad<A>(calls: &[Call<A>], window: &ObjectWindow) -> Bad {
        let place = |index: u64| calls.iter().position(|call| u64::from(call.invoked) == index);
        let places = window.calls.iter().filter_map(|call| place(call.index)).collect();
        Bad { places, is_minimal: window.is_minimal }
    }

    /// Whether the calls at these places have an order if all others are left out, by trying all.
    fn by_brute_force<O: Object>(object: &O, calls: &[Call<O::Action>], places: &[usize]) -> bool {
        let rest = (0..calls.len()).filter(|place| !places.contains(place));
        brute_force(object, &beside(calls, places, rest))
    }

    /// Verifies the windows of random calls, which `find` returns for those that are violated.
    fn check<A: Clone + std::fmt::Debug>(
        mut action: impl FnMut(&mut Draw, bool) -> A,
        find: impl Fn(&[Call<A>]) -> Option<Bad>,
        has_order: impl Fn(&[Call<A>], &[usize]) -> bool,
    ) {
        let is_full = std::env::var("KV_TEST_SCALE").is_ok_and(|scale| scale == "full");
        let (mut draw, mut bad, mut larger) = (Draw(3), 0, 0);
        for round in 0..if is_full { 30_000 } else { 2_000 } {
            let count = 2 + draw.below(5);
            let calls: Vec<_> = intervals(&mut draw, count)
                .into_iter()
                .map(|(invoked, completed)| {
                    let action = action(&mut draw, completed == PENDING);
                    Call::new(invoked, completed, action)
                })
                .collect();
            let Some(Bad { places, is_minimal }) = find(&calls) else { continue };
            bad += 1;
            larger += u32::from(places.len() > 1);
            assert!(is_minimal, "round {round}: {calls:?}");
            assert!(!has_order(&calls, &places), "round {round}: {calls:?} {places:?}");
            for left_out in &places {
                let others: Vec<_> = places.iter().copied().filter(|at| at != left_out).collect();
                let text = || format!("round {round}: {calls:?} {places:?} without {left_out}");
                assert!(has_order(&calls, &others), "{}", text());
            }
        }
        assert!(bad > 200 && larger > 50, "{bad} bad, {larger} with more than one call");
    }

    /// The same for an object of which all orders are tried to know whether it is violated.
    fn check_object<O: Object>(
        object: &O,
        action: impl FnMut(&mut Draw, bool) -> O::Action,
        find: impl Fn(&[Call<O::Action>]) -> ObjectWindow,
    ) {
        let find = |calls: &[_]| (!brute_force(object, calls)).then(|| bad(calls, &find(calls)));
        check(action, find, |calls, places| by_brute_force(object, calls, places));
    }

    fn of_queue(side: Side, calls: &[Call<QueueAction>], options: &Options) -> ObjectWindow {
        let (calls, values) = (calls.to_vec(), Names::default());
        window::of_queue(&QueueRecord { side, calls, values }, options)
    }

    #[test]
    fn conflicts_of_queues_and_stacks_are_minimal() {
        let (mut added, options) = (0, Options::default());
        for side in [Side::Oldest, Side::Newest] {
            let action = |draw: &mut Draw, is: bool| queue_action(draw, is, &mut added);
            check_object(&Queue(side), action, |calls| of_queue(side, calls, &options));
        }
    }

    #[test]
    fn conflicts_of_queues_and_stacks_with_values_that_nobody_saw_removed_are_minimal() {
        let (mut added, options) = (0, Options::default());
        for side in [Side::Oldest, Side::Newest] {
            let action = |draw: &mut Draw, is: bool| match draw.below(5) {
                0 => QueueAction::Remove(Removal::Unknown),
                _ => queue_action(draw, is, &mut added),
            };
            check_object(&Queue(side), action, |calls| of_queue(side, calls, &options));
        }
    }

    #[test]
    fn conflicts_of_strings_are_minimal() {
        check_object(&Text, string_action, |calls| {
            window::of_text("k", calls, &Options::default())
        });
    }

    fn set_action(draw: &mut Draw, is_pending: bool) -> SetAction {
        match draw.below(2) {
            0 => SetAction::Add(draw.below(5)),
            _ if is_pending || draw.below(8) == 0 => SetAction::Read(None),
            _ => {
                let mut found: Vec<_> = (0..draw.below(3)).map(|_| draw.below(6)).collect();
                found.sort_unstable();
                SetAction::Read(Some(found))
            }
        }
    }

    fn record(calls: &[Call<SetAction>], is_full: bool) -> SetRecord {
        SetRecord { calls: calls.to_vec(), elements: Names::default(), is_full }
    }

    #[test]
    fn conflicts_of_sets_are_minimal() {
        let options = Options::default();
        check_object(&GrowSet, set_action, |calls| {
            window::of_set(calls, &record(calls, true), &options)
        });
    }

    #[test]
    fn conflicts_of_the_last_read_of_a_set_are_minimal() {
        let find = |calls: &[Call<_>]| {
            let record = record(calls, false);
            let last = window::calls_of_set(&record);
            let find = || bad(calls, &window::of_set(&last, &record, &Options::default()));
            (!brute_force(&GrowSet, &last)).then(find)
        };
        let has_order =
            |calls: &[Call<_>], places: &[usize]| by_brute_force(&GrowSet, calls, places);
        check(set_action, find, has_order);
    }

    #[test]
    fn conflicts_of_reads_of_counters_are_minimal() {
        // All sums between the bounds can be made of amounts like these.
        let action = |draw: &mut Draw, is_pending: bool| match draw.below(6) {
            0 | 1 => CounterAction::Add(-1),
            2..4 => CounterAction::Add(1),
            _ if is_pending => CounterAction::Read(None),
            _ => CounterAction::Read(Some(i64::from(draw.below(7)) - 3)),
        };
        check(action, of_read, |calls, places| {
            brute_force(&Counter, &beside(calls, places, begun(calls, places)))
        });
    }

    fn of_read(calls: &[Call<CounterAction>]) -> Option<Bad> {
        window::of_counter(calls).map(|window| bad(calls, &window))
    }

    /// What else had begun when the last read among these was completed.
    fn begun(calls: &[Call<CounterAction>], places: &[usize]) -> Vec<usize> {
        let reads = places.iter().map(|place| &calls[*place]);
        let mut reads = reads.filter(|call| matches!(call.action, CounterAction::Read(_)));
        let end = reads.next_back().map_or(PENDING, |read| read.completed);
        let is_rest = |place: &usize| !places.contains(place) && calls[*place].invoked < end;
        (0..calls.len()).filter(is_rest).collect()
    }

    #[test]
    fn conflicts_of_reads_of_counters_with_other_amounts_are_minimal_by_their_bounds() {
        let action = |draw: &mut Draw, is_pending: bool| match draw.below(3) {
            0 | 1 => CounterAction::Add(i64::from(draw.below(15)) - 7),
            _ if is_pending => CounterAction::Read(None),
            _ => CounterAction::Read(Some(i64::from(draw.below(15)) - 7)),
        };
        check(action, of_read, |calls, places| {
            counter::out_of_bounds(&beside(calls, places, begun(calls, places))).is_empty()
        });
    }

    #[test]
    fn conflicts_of_elements_are_minimal() {
        let action = |draw: &mut Draw, is_pending: bool| {
            let touch = [Touch::Add, Touch::Remove, Touch::Contains][draw.below(3) as usize];
            let is_known = !is_pending && draw.below(4) > 0;
            PresenceAction { touch, found: is_known.then(|| draw.below(2) == 0) }
        };
        let find = |calls: &[Call<_>]| {
            let find = || bad(calls, &window::of_element("1", calls, &Options::default()));
            (!brute_force(&Presence, calls)).then(find)
        };
        check(action, find, |calls, places| {
            let mut forgotten = calls.to_vec();
            for (_, call) in (0..).zip(&mut forgotten).filter(|(at, _)| !places.contains(at)) {
                call.action.found = None;
            }
            brute_force(&Presence, &forgotten)
        });
    }
}
