//! What would go wrong: an order that does not exist, or one that is missed.

use super::*;
use crate::budget::Options;
use crate::decision::Decision;

/// Draws numbers, the same for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(end)).expect("below a u32")
    }
}

/// Random intervals: an event order of `count` calls of which some stay pending.
fn intervals(draw: &mut Draw, count: u32) -> Vec<(u32, u32)> {
    let mut calls: Vec<(u32, u32)> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for position in 0.. {
        let begins = (calls.len() as u32) < count && (open.is_empty() || draw.below(2) == 0);
        if begins {
            open.push(calls.len());
            calls.push((position, PENDING));
        } else if open.is_empty() || (calls.len() as u32 == count && draw.below(8) == 0) {
            return calls;
        } else {
            let ended = open.swap_remove(draw.below(open.len() as u32) as usize);
            calls[ended].1 = position;
        }
    }
    calls
}

/// Whether some order explains the calls, by trying all.
fn brute_force<O: Object>(object: &O, calls: &[Call<O::Action>]) -> bool {
    fn go<O: Object>(object: &O, calls: &[Call<O::Action>], taken: u32, state: &O::State) -> bool {
        let left = || (0..calls.len()).filter(|at| taken & (1 << at) == 0);
        if left().all(|at| calls[at].completed == PENDING) {
            return true;
        }
        let first = left().map(|at| calls[at].completed).min().unwrap_or(PENDING);
        left().filter(|at| calls[*at].invoked < first).any(|at| {
            let next = object.step(state, &calls[at].action);
            next.is_some_and(|next| go(object, calls, taken | (1 << at), &next))
        })
    }
    go(object, calls, 0, &object.initial())
}

/// Checks an order by replaying it.
fn replay<O: Object>(object: &O, calls: &[Call<O::Action>], order: &[usize]) {
    let mut state = object.initial();
    for (place, at) in order.iter().enumerate() {
        state = object.step(&state, &calls[*at].action).expect("each result is explained");
        let later = &order[place + 1..];
        assert!(later.iter().all(|later| calls[*later].completed > calls[*at].invoked));
    }
    let missing = (0..calls.len()).filter(|at| !order.contains(at));
    assert!(missing.into_iter().all(|at| calls[at].completed == PENDING));
}

/// Compares the search with all orders. Returns how many histories held.
fn compare<O: Object>(
    object: &O,
    mut action: impl FnMut(&mut Draw, bool) -> O::Action,
    mut also: impl FnMut(&[Call<O::Action>], bool),
) -> u32 {
    let (mut draw, mut good) = (Draw(7), 0);
    for _ in 0..30_000 {
        let count = 2 + draw.below(6);
        let intervals = intervals(&mut draw, count);
        let calls: Vec<_> = intervals
            .into_iter()
            .map(|(invoked, completed)| {
                let action = action(&mut draw, completed == PENDING);
                Call { invoked, completed, action }
            })
            .collect();
        let holds = brute_force(object, &calls);
        good += u32::from(holds);
        match search(object, &calls, &Options::default()) {
            Decision::Holds(order) => {
                assert!(holds);
                replay(object, &calls, &order.expect("a search says which"));
            }
            Decision::Violated(()) => assert!(!holds),
            Decision::Unknown => panic!("these are small"),
        }
        also(&calls, holds);
    }
    assert!((3_000..27_000).contains(&good), "{good} of 30000 hold: not both kinds are tested");
    good
}

fn string_action(draw: &mut Draw, is_pending: bool) -> StringAction {
    let text = ["", "a", "b", "ab"][draw.below(4) as usize];
    match draw.below(4) {
        0 => StringAction::Put(text.into()),
        1 => StringAction::Append(["a", "b"][draw.below(2) as usize].into()),
        _ => StringAction::Get((!is_pending).then(|| text.into())),
    }
}

fn queue_action(draw: &mut Draw, is_pending: bool, added: &mut u32) -> QueueAction {
    if draw.below(2) == 0 {
        *added += 1;
        return QueueAction::Add(*added % 8);
    }
    QueueAction::Remove(match draw.below(6) {
        _ if is_pending => Removal::Unknown,
        0 => Removal::Empty,
        // Any of the values that were added lately, or will be.
        number => Removal::Value((*added + number + 5) % 8),
    })
}

#[test]
fn strings_are_searched_as_by_trying_all_orders() {
    compare(&Text, string_action, |_, _| {});
}

#[test]
fn locks_are_searched_as_by_trying_all_orders() {
    let action = |draw: &mut Draw, _| match draw.below(2) {
        0 => MutexAction::Acquire,
        _ => MutexAction::Release,
    };
    compare(&Mutex, action, |_, _| {});
}

#[test]
fn stacks_are_searched_as_by_trying_all_orders() {
    let mut added = 0;
    compare(&Queue(Side::Newest), |draw, is| queue_action(draw, is, &mut added), |_, _| {});
}

#[test]
fn queues_are_searched_and_decided_by_rules_as_by_trying_all_orders() {
    let (mut added, mut decided) = (0, [0, 0]);
    let action = |draw: &mut Draw, is: bool| queue_action(draw, is, &mut added);
    compare(&Queue(Side::Oldest), action, |calls, holds| {
        if let Some(verdict) = fifo::decide(calls) {
            let expected = if holds { Decision::Holds(None) } else { Decision::Violated(()) };
            assert_eq!(verdict, expected, "{calls:?}");
            decided[usize::from(holds)] += 1;
        }
    });
    assert!(decided.iter().all(|count| *count > 3_000), "{decided:?}");
}

#[test]
fn what_does_not_end_is_given_up() {
    let add = |at| Call { invoked: at, completed: 100 + at, action: QueueAction::Add(at) };
    let mut calls: Vec<_> = (0..20).map(add).collect();
    let action = QueueAction::Remove(Removal::Value(99));
    calls.push(Call { invoked: 200, completed: 201, action });
    let options = Options { budget_steps: Some(1_000), ..Options::default() };
    assert_eq!(search(&Queue(Side::Oldest), &calls, &options), Decision::Unknown);
}
