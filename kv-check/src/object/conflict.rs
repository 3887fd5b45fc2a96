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
    let is_bad = |places: &[usize]| {
        if stop.is_stopped() {
            return None;
        }
        match decide(&with_rest(object, calls, places)) {
            Decision::Holds(_) => Some(false),
            Decision::Violated(()) => Some(true),
            Decision::Unknown => None,
        }
    };
    let mut list: Vec<usize> = (0..calls.len()).collect();
    list.sort_by_key(|place| (calls[*place].completed, calls[*place].invoked));
    // The last call of the shortest bad part is in every conflict of that part; the others are looked
    // for near to it.
    let length = shortest(&list, is_bad).unwrap_or(list.len());
    list.truncate(length);
    list.reverse();
    minimal(list, is_bad)
}

/// The calls at these places, and the ones of the others that may help them to an order.
pub(super) fn with_rest<O: Object>(
    object: &O,
    calls: &[Call<O::Action>],
    places: &[usize],
) -> Vec<Call<O::Action>> {
    let values: BTreeSet<u32> =
        places.iter().filter_map(|place| object.value(&calls[*place].action)).collect();
    let helps = |action: &O::Action| {
        let is_spoken_of = object.value(action).is_none_or(|value| values.contains(&value));
        is_spoken_of && !object.is_observation(action)
    };
    let mut set = Vec::new();
    for (place, call) in calls.iter().enumerate() {
        if places.binary_search(&place).is_err() && helps(&call.action) {
            let invoked = position(set.len());
            set.push(Call { invoked, completed: PENDING, action: call.action.clone() });
        }
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
        let Call { invoked, completed, action } = &calls[*place];
        Call { invoked: number(*invoked), completed: number(*completed), action: action.clone() }
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
    use super::super::{Queue, Side, Text, decide_part, observed, search};
    use super::*;
    use crate::budget::Options;

    /// Verifies the conflicts of random calls by searches for orders.
    fn check<O: Object>(
        object: &O,
        mut action: impl FnMut(&mut Draw, bool) -> O::Action,
        decide: impl Fn(&[Call<O::Action>]) -> Option<Decision>,
    ) {
        let by_search = |calls: &[_]| search(object, calls, &Options::default());
        let (mut draw, mut bad, mut larger) = (Draw(3), 0, 0);
        for round in 0..2_000 {
            let count = 2 + draw.below(5);
            let calls: Vec<_> = intervals(&mut draw, count)
                .into_iter()
                .map(|(invoked, completed)| {
                    let action = action(&mut draw, completed == PENDING);
                    Call { invoked, completed, action }
                })
                .collect();
            if brute_force(object, &calls) {
                continue;
            }
            bad += 1;
            let found = conflict(object, &calls, &Stop::default(), |set| {
                decide(set).unwrap_or_else(|| by_search(set))
            });
            let Bad { places, is_minimal } = &found;
            larger += u32::from(places.len() > 1);
            assert!(is_minimal, "round {round}: {calls:?}");
            let alone: Vec<_> = places.iter().map(|place| calls[*place].clone()).collect();
            assert!(!brute_force(object, &alone), "round {round}: {alone:?}");
            let rest = |places: &[usize]| by_search(&with_rest(object, &calls, places));
            assert_eq!(rest(places), Decision::Violated(()), "round {round}: {calls:?} {places:?}");
            for left_out in places {
                let others: Vec<_> = places.iter().copied().filter(|at| at != left_out).collect();
                let holds = matches!(rest(&others), Decision::Holds(_));
                assert!(holds, "round {round}: {calls:?} {places:?} without {left_out}");
            }
        }
        assert!(bad > 200 && larger > 50, "{bad} bad, {larger} with more than one call");
    }

    #[test]
    fn conflicts_of_queues_and_stacks_are_minimal() {
        let mut added = 0;
        let mut action = |draw: &mut Draw, is: bool| queue_action(draw, is, &mut added);
        for side in [Side::Oldest, Side::Newest] {
            let options = Options::default();
            check(&Queue(side), &mut action, |calls| decide_part(side, calls, &options));
        }
    }

    #[test]
    fn conflicts_of_strings_are_minimal() {
        check(&Text, string_action, observed::decide);
    }
}
