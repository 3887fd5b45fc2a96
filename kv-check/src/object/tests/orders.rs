//! What would go wrong: an order that was found wrongly passes its replay, and "holds" is said.

use super::*;
use crate::witness;

/// Changes an order, and compares its replay with what an order is.
pub(super) fn compare_replays<O: Object>(
    object: &O,
    calls: &[Call<O::Action>],
    mut order: Vec<usize>,
    draw: &mut Draw,
) {
    assert_eq!(witness::replay_calls(object, calls, &order), Ok(()), "{calls:?}: {order:?}");
    let count = order.len() as u32;
    let (one, other) = (draw.below(count.max(1)) as usize, draw.below(count.max(1)) as usize);
    match draw.below(5) {
        0 => order.insert(other, draw.below(calls.len() as u32 + 1) as usize),
        _ if order.is_empty() => {}
        1 => drop(order.remove(one)),
        2 => order.push(order[one]),
        _ => order.swap(one, other),
    }
    let is_one = is_order(object, calls, &order);
    let replayed = witness::replay_calls(object, calls, &order);
    assert_eq!(replayed.is_ok(), is_one, "{calls:?}: {order:?} {replayed:?}");
}

/// Whether an order has every completed call once, and any other at most once, after all that were
/// completed before it was invoked, and each has its result there.
fn is_order<O: Object>(object: &O, calls: &[Call<O::Action>], order: &[usize]) -> bool {
    let places = |at: usize| order.iter().filter(|place| **place == at).count();
    let is_there =
        |at: usize| places(at) == 1 || (places(at) == 0 && calls[at].completed == PENDING);
    if order.iter().any(|at| *at >= calls.len()) || !(0..calls.len()).all(is_there) {
        return false;
    }
    let is_late = |one: usize, other: usize| calls[other].completed < calls[one].invoked;
    let mut pairs = (0..order.len())
        .flat_map(|place| order[place + 1..].iter().map(move |other| (order[place], *other)));
    if pairs.any(|(one, other)| is_late(one, other)) {
        return false;
    }
    let step = |state: O::State, at: &usize| object.step(&state, &calls[*at].action);
    order.iter().try_fold(object.initial(), step).is_some()
}
