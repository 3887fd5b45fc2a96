//! What would go wrong: a set, a counter or several registers that are judged differently from what
//! all orders say.

use std::collections::BTreeSet;

use super::*;
use crate::decision::Method;
use crate::judge;

/// A set's history in which elements are added once, or some twice.
fn set_history(draw: &mut Draw, count: u32, is_unique: bool) -> Vec<Call<SetAction>> {
    let mut added = 0;
    let action = |draw: &mut Draw, state: &BTreeSet<u32>| {
        if draw.below(2) == 0 {
            let element = if is_unique { added } else { draw.below(4) };
            added += 1;
            return SetAction::Add(element);
        }
        SetAction::Read(Some(state.iter().copied().collect()))
    };
    simulated(draw, &GrowSet, count, action)
}

/// Lets a read miss an element, find another one, or find one twice; then forgets what pending ones
/// found.
fn spoil_set(draw: &mut Draw, calls: &mut [Call<SetAction>], spoils: bool) {
    let at = draw.below(calls.len() as u32) as usize;
    if let (SetAction::Read(Some(found)), true) = (&mut calls[at].action, spoils) {
        let other = draw.below(1 + found.len() as u32);
        match draw.below(3) {
            0 if (other as usize) < found.len() => drop(found.remove(other as usize)),
            1 if (other as usize) < found.len() => found.push(found[other as usize]),
            _ => found.push(other),
        }
        found.sort_unstable();
    }
    for call in calls.iter_mut().filter(|call| call.completed == PENDING) {
        if let SetAction::Read(found) = &mut call.action {
            *found = None;
        }
    }
}

#[test]
fn sets_are_decided_by_the_order_they_show_as_by_trying_all_orders() {
    let (mut draw, mut held) = (Draw(17), [0, 0]);
    for round in 0..30_000 {
        let (count, is_unique) = (2 + draw.below(7), round % 4 > 0);
        let mut calls = set_history(&mut draw, count, is_unique);
        spoil_set(&mut draw, &mut calls, round % 3 > 0);
        let holds = brute_force(&GrowSet, &calls);
        held[usize::from(holds)] += 1;
        let searched = search(&GrowSet, &calls, &Options::default());
        let decided = grow_set::decide(&calls);
        assert!(decided.is_some() || !is_unique, "{calls:?}");
        for decision in decided.into_iter().chain([searched]) {
            match decision {
                Decision::Holds(Some(order)) => {
                    assert!(holds, "{calls:?}");
                    replay(&GrowSet, &calls, &order);
                    orders::compare_replays(&GrowSet, &calls, order, &mut draw);
                }
                other => assert_eq!((other, holds), (Decision::Violated(()), false), "{calls:?}"),
            }
        }
    }
    assert!(held.iter().all(|count| *count > 5_000), "{held:?}");
}

#[test]
fn the_last_read_of_a_set_alone_is_judged_as_by_trying_all_orders() {
    let (mut draw, mut held) = (Draw(19), [0, 0]);
    for round in 0..30_000 {
        let count = 2 + draw.below(7);
        let mut calls = set_history(&mut draw, count, round % 2 > 0);
        spoil_set(&mut draw, &mut calls, round % 3 > 0);
        let is_read = |call: &&Call<_>| matches!(call.action, SetAction::Read(Some(_)));
        let last = calls.iter().filter(is_read).map(|call| call.completed).max();
        let Some(result) = grow_set::last_read(&calls) else {
            assert_eq!(last, None, "{calls:?}");
            continue;
        };
        calls.retain(|call| !is_read(&call) || Some(call.completed) == last);
        let holds = brute_force(&GrowSet, &calls);
        assert_eq!(result == LastRead::default(), holds, "{result:?} of {calls:?}");
        held[usize::from(holds)] += 1;
    }
    assert!(held.iter().all(|count| *count > 3_000), "{held:?}");
}

#[test]
fn each_read_of_a_counter_is_judged_as_by_trying_all_orders() {
    let (mut draw, mut held) = (Draw(23), [0, 0]);
    for _ in 0..30_000 {
        let count = 2 + draw.below(7);
        // All sums between the bounds can be made of amounts like these.
        let calls: Vec<_> = intervals(&mut draw, count)
            .into_iter()
            .map(|(invoked, completed)| {
                let action = match draw.below(5) {
                    0 => CounterAction::Add(-1),
                    1 | 2 => CounterAction::Add(1),
                    _ if completed == PENDING => CounterAction::Read(None),
                    _ => CounterAction::Read(Some(i64::from(draw.below(4)) - 1)),
                };
                Call::new(invoked, completed, action)
            })
            .collect();
        let wrong: Vec<_> =
            counter::out_of_bounds(&calls).into_iter().map(|wrong| wrong.place).collect();
        for (place, call) in calls.iter().enumerate() {
            if let CounterAction::Read(Some(_)) = call.action {
                let is_add = |call: &&Call<_>| matches!(call.action, CounterAction::Add(_));
                let alone: Vec<_> = calls.iter().filter(is_add).chain([call]).cloned().collect();
                let holds = brute_force(&Counter, &alone);
                assert_eq!(!wrong.contains(&place), holds, "{alone:?}");
                held[usize::from(holds)] += 1;
            }
        }
    }
    assert!(held.iter().all(|count| *count > 10_000), "{held:?}");
}

fn counter_action(draw: &mut Draw, is_pending: bool) -> CounterAction {
    match draw.below(5) {
        0 => CounterAction::Add(-1),
        1 | 2 => CounterAction::Add(i64::from(1 + draw.below(2))),
        _ if is_pending => CounterAction::Read(None),
        _ => CounterAction::Read(Some(i64::from(draw.below(5)) - 1)),
    }
}

#[test]
fn counters_are_searched_as_by_trying_all_orders() {
    let mut by_bounds = 0;
    compare(&Counter, counter_action, |calls, holds| {
        let (decided, notes) = judge::counter(calls, &Options::default());
        assert_eq!(matches!(decided.decision, Decision::Holds(Some(_))), holds, "{calls:?}");
        assert_eq!(decided.decision == Decision::Violated(()), !holds, "{calls:?}");
        assert_eq!(notes.is_empty(), holds);
        by_bounds += u32::from(decided.method == Method::Bounds);
    });
    assert!((3_000..27_000).contains(&by_bounds), "{by_bounds}");
}

/// Each read alone could find what it found, but they contradict each other.
#[test]
fn reads_of_a_counter_agree_on_an_order() {
    let call = Call::new;
    let read = |found| CounterAction::Read(Some(found));
    let mut calls = vec![
        call(0, 9, CounterAction::Add(1)),
        call(1, 10, CounterAction::Add(2)),
        call(2, 3, read(1)),
        call(4, 5, read(2)),
    ];
    let judge = |calls: &[Call<_>], steps| {
        let options = Options { budget_steps: Some(steps), ..Options::default() };
        let (decided, notes) = judge::counter(calls, &options);
        (decided.decision, notes)
    };
    let bounds = "each read is within its bounds, but";
    let none = vec![format!("{bounds} no order explains all of them")];
    assert_eq!(judge(&calls, 100), (Decision::Violated(()), none));
    calls[3].action = read(3);
    assert_eq!(judge(&calls, 100), (Decision::Holds(Some(vec![0, 2, 1, 3])), vec![]));
    calls.extend((11..41).map(|at| call(at, PENDING, CounterAction::Add(2))));
    calls.push(call(50, 51, read(4)));
    let given_up = vec![format!("{bounds} the search for an order of all was given up")];
    assert_eq!(judge(&calls, 0), (Decision::Unknown, given_up));
}

#[test]
fn a_counter_says_what_a_read_could_find() {
    let call = |(at, action): (u32, CounterAction)| Call::new(2 * at, 2 * at + 1, action);
    let actions =
        [CounterAction::Add(i64::MAX), CounterAction::Add(i64::MAX), CounterAction::Read(Some(1))];
    let mut calls: Vec<_> = (0..).zip(actions).map(call).collect();
    calls[1].completed = PENDING;
    let max = i128::from(i64::MAX);
    let wrong = counter::OutOfBounds { place: 2, found: 1, low: max, high: 2 * max };
    assert_eq!(counter::out_of_bounds(&calls), [wrong]);
}

#[test]
fn elements_of_sets_are_searched_as_by_trying_all_orders() {
    let action = |draw: &mut Draw, is_pending: bool| {
        let touch = [Touch::Add, Touch::Remove, Touch::Contains][draw.below(3) as usize];
        let is_known = !is_pending && draw.below(4) > 0;
        PresenceAction { touch, found: is_known.then(|| draw.below(2) == 0) }
    };
    compare(&Presence, action, |_, _| {});
}

#[test]
fn registers_are_searched_as_by_trying_all_orders() {
    let action = |draw: &mut Draw, is_pending: bool| {
        let access = |draw: &mut Draw| {
            let (register, value) = (draw.below(2), i64::from(draw.below(2)));
            match draw.below(3) {
                0 => Access::Write(register, value),
                _ => Access::Read(register, (!is_pending).then_some(value)),
            }
        };
        (0..=draw.below(2)).map(|_| access(draw)).collect()
    };
    compare(&Registers(2), action, |_, _| {});
}
