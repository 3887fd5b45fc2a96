//! What would go wrong: an order that does not exist, or one that is missed.

mod collections;
mod orders;

use super::*;
use crate::budget::Options;
use crate::decision::Decision;

/// Draws numbers, the same for the same seed.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(end)).expect("below a u32")
    }
}

/// Random intervals: an event order of `count` calls of which some stay pending.
pub(super) fn intervals(draw: &mut Draw, count: u32) -> Vec<(u32, u32)> {
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
pub(super) fn brute_force<O: Object>(object: &O, calls: &[Call<O::Action>]) -> bool {
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
                Call::new(invoked, completed, action)
            })
            .collect();
        let holds = brute_force(object, &calls);
        good += u32::from(holds);
        match search(object, &calls, &Options::default()) {
            Decision::Holds(order) => {
                assert!(holds);
                let order = order.expect("a search says which");
                replay(object, &calls, &order);
                orders::compare_replays(object, &calls, order, &mut draw);
            }
            Decision::Violated(()) => assert!(!holds),
            Decision::Unknown => panic!("these are small"),
        }
        also(&calls, holds);
    }
    assert!((3_000..27_000).contains(&good), "{good} of 30000 hold: not both kinds are tested");
    good
}

pub(super) fn string_action(draw: &mut Draw, is_pending: bool) -> StringAction {
    let text = ["", "a", "b", "ab"][draw.below(4) as usize];
    match draw.below(4) {
        0 => StringAction::Put(text.into()),
        1 => StringAction::Append(["a", "b"][draw.below(2) as usize].into()),
        _ => StringAction::Get((!is_pending).then(|| text.into())),
    }
}

pub(super) fn queue_action(draw: &mut Draw, is_pending: bool, added: &mut u32) -> QueueAction {
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

/// A history that holds: random calls, taken in a random order that respects real time, with the
/// results that they have in it. Pending ones may be left out.
fn simulated<O: Object>(
    draw: &mut Draw,
    object: &O,
    count: u32,
    mut action: impl FnMut(&mut Draw, &O::State) -> O::Action,
) -> Vec<Call<O::Action>> {
    let intervals = intervals(draw, count);
    let mut actions: Vec<Option<O::Action>> = intervals.iter().map(|_| None).collect();
    let mut state = object.initial();
    loop {
        let left: Vec<_> = (0..intervals.len()).filter(|at| actions[*at].is_none()).collect();
        let first = left.iter().map(|at| intervals[*at].1).min().unwrap_or(PENDING);
        let may: Vec<_> = left.into_iter().filter(|at| intervals[*at].0 < first).collect();
        if may.is_empty() {
            break;
        }
        let at = may[draw.below(may.len() as u32) as usize];
        let asked = action(draw, &state);
        if intervals[at].1 != PENDING || draw.below(2) == 0 {
            state = object.step(&state, &asked).expect("it has the result of the state");
        }
        actions[at] = Some(asked);
    }
    let calls = intervals.into_iter().zip(actions);
    let call = |((invoked, completed), action): (_, Option<_>)| {
        let action = action.expect("all were taken");
        Call::new(invoked, completed, action)
    };
    calls.map(call).collect()
}

/// A write of a new piece, or a read.
fn unique_action(draw: &mut Draw, state: &str, pieces: &mut u32, puts: bool) -> StringAction {
    let piece = format!("{pieces};");
    match draw.below(8) {
        0 if puts => {
            *pieces += 1;
            StringAction::Put(piece)
        }
        1..=3 => {
            *pieces += 1;
            StringAction::Append(piece)
        }
        _ => StringAction::Get(Some(state.to_owned())),
    }
}

/// Changes what one read found: to what another one found, or by a piece that is lost, there
/// twice, misplaced or foreign.
fn spoil(draw: &mut Draw, calls: &mut [Call<StringAction>]) {
    let is_read = |at: &usize| matches!(calls[*at].action, StringAction::Get(Some(_)));
    let reads: Vec<_> = (0..calls.len()).filter(is_read).collect();
    if reads.is_empty() {
        return;
    }
    let [one, other] = [0; 2].map(|_| reads[draw.below(reads.len() as u32) as usize]);
    let StringAction::Get(Some(found)) = calls[other].action.clone() else { return };
    let mut pieces: Vec<_> = found.split_inclusive(';').collect();
    let at = draw.below(1 + pieces.len() as u32) as usize;
    match draw.below(4) {
        0 if at < pieces.len() => drop(pieces.remove(at)),
        1 if at < pieces.len() => pieces.push(pieces[at]),
        2 => pieces.insert(at, ["0;", "1;", "2;", "x"][draw.below(4) as usize]),
        _ => {}
    }
    calls[one].action = StringAction::Get(Some(pieces.concat()));
}

/// Forgets the results of pending calls.
fn forget(calls: &mut [Call<StringAction>]) {
    for call in calls.iter_mut().filter(|call| call.completed == PENDING) {
        if let StringAction::Get(found) = &mut call.action {
            *found = None;
        }
    }
}

#[test]
fn strings_are_decided_by_the_order_they_show_as_by_trying_all_orders() {
    let (mut draw, mut held) = (Draw(3), [0, 0]);
    for round in 0..30_000 {
        let (count, mut pieces) = (2 + draw.below(7), 0);
        let puts = draw.below(2) == 0;
        let action = |draw: &mut Draw, state: &std::rc::Rc<String>| {
            unique_action(draw, state, &mut pieces, puts)
        };
        let mut calls = simulated(&mut draw, &Text, count, action);
        if round % 3 > 0 {
            spoil(&mut draw, &mut calls);
        }
        forget(&mut calls);
        let holds = brute_force(&Text, &calls);
        held[usize::from(holds)] += 1;
        match observed::decide(&calls) {
            Some(Decision::Holds(Some(order))) => {
                assert!(holds, "{calls:?}");
                replay(&Text, &calls, &order);
            }
            Some(Decision::Violated(())) => assert!(!holds, "{calls:?}"),
            other => panic!("{other:?} of {calls:?}"),
        }
    }
    assert!(held.iter().all(|count| *count > 7_000), "{held:?}");
}

#[test]
fn strings_with_a_lost_piece_are_rejected() {
    let (mut draw, mut rejected) = (Draw(5), 0);
    for _ in 0..300 {
        let mut pieces = 0;
        let action = |draw: &mut Draw, state: &std::rc::Rc<String>| {
            unique_action(draw, state, &mut pieces, false)
        };
        let mut calls = simulated(&mut draw, &Text, 200, action);
        forget(&mut calls);
        assert!(matches!(observed::decide(&calls), Some(Decision::Holds(_))), "{calls:?}");
        let at = draw.below(200) as usize;
        let StringAction::Get(Some(found)) = &calls[at].action else { continue };
        let piece = found.split_inclusive(';').next_back().unwrap_or_default().to_owned();
        let is_it = |call: &&Call<_>| call.action == StringAction::Append(piece.clone());
        let written = calls.iter().find(is_it).map(|call| call.completed);
        if written.is_some_and(|written| written < calls[at].invoked) {
            let lost = found[..found.len() - piece.len()].to_owned();
            calls[at].action = StringAction::Get(Some(lost));
            assert_eq!(observed::decide(&calls), Some(Decision::Violated(())), "{calls:?}");
            rejected += 1;
        }
    }
    assert!(rejected > 50, "{rejected}");
}

/// A long history of a queue or a stack that holds.
fn long_history(draw: &mut Draw, side: Side) -> Vec<Call<QueueAction>> {
    let mut added = 0;
    simulated(draw, &Queue(side), 300, |draw, state| {
        if draw.below(2) == 0 {
            added += 1;
            return QueueAction::Add(added);
        }
        let next = if side == Side::Oldest { state.front() } else { state.back() };
        QueueAction::Remove(next.map_or(Removal::Empty, |next| Removal::Value(*next)))
    })
}

#[test]
fn long_queues_and_stacks_hold_and_do_not_with_a_value_that_is_lost() {
    for side in [Side::Oldest, Side::Newest] {
        let (mut draw, mut rejected) = (Draw(29), 0);
        for _ in 0..100 {
            let mut calls = long_history(&mut draw, side);
            calls.retain(|call| call.completed != PENDING);
            let at = draw.below(calls.len() as u32) as usize;
            let lost = calls[at].action;
            // Without the pending ones it may not hold; if it does, then not without an addition.
            if agree_if_it_holds(side, &calls) && matches!(lost, QueueAction::Add(_)) {
                calls.remove(at);
                let QueueAction::Add(value) = lost else { continue };
                let is_removal =
                    |call: &Call<_>| call.action == QueueAction::Remove(Removal::Value(value));
                let is_removed = calls.iter().any(is_removal);
                assert_eq!(agree_if_it_holds(side, &calls), !is_removed);
                rejected += u32::from(is_removed);
            }
        }
        assert!(rejected > 10, "{rejected}");
    }
}

/// Whether rules say that it holds, by an order that is replayed.
fn agree_if_it_holds(side: Side, calls: &[Call<QueueAction>]) -> bool {
    let rules = match side {
        Side::Oldest => fifo::decide(calls),
        Side::Newest => lifo::decide(calls, Options::default().steps(calls.len())),
    };
    let Some(Decision::Holds(Some(order))) = rules else { return false };
    replay(&Queue(side), calls, &order);
    true
}

#[test]
fn deep_stacks_are_popped_in_the_order_of_their_depth() {
    let history = |pops: &mut dyn Iterator<Item = u32>| {
        let pops = pops.map(|value| QueueAction::Remove(Removal::Value(value)));
        let actions = (0..50).map(QueueAction::Add).chain(pops);
        let call = |(at, action): (u32, _)| Call::new(2 * at, 2 * at + 1, action);
        (0..).zip(actions).map(call).collect::<Vec<_>>()
    };
    assert!(agree_if_it_holds(Side::Newest, &history(&mut (0..50).rev())));
    let mut wrong: Vec<_> = (0..50).rev().collect();
    wrong.swap(40, 41);
    assert!(!agree_if_it_holds(Side::Newest, &history(&mut wrong.into_iter())));
    assert!(agree_if_it_holds(Side::Oldest, &history(&mut (0..50))));
}

#[test]
fn ambiguous_pieces_are_left_to_the_search() {
    let write = |piece: &str| StringAction::Append(piece.to_owned());
    let decided = |pieces: &[&str]| {
        let call = |(at, piece): (u32, &&str)| Call::new(2 * at, 2 * at + 1, write(piece));
        observed::decide(&(0..).zip(pieces).map(call).collect::<Vec<_>>()).is_some()
    };
    assert!(decided(&["ab", "b", "ac"]));
    assert!(!decided(&["ab", "b", "abc"]));
    assert!(!decided(&["b", "a", "b"]));
    assert!(!decided(&[""]));
    let get = Call::new(0, 1, StringAction::Get(None));
    assert_eq!(observed::decide(&[get]), None);
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

/// Compares rules with the known answer. Returns whether they know it.
fn agree(side: Side, calls: &[Call<QueueAction>], holds: bool) -> bool {
    let rules = match side {
        Side::Oldest => fifo::decide(calls),
        Side::Newest => lifo::decide(calls, Options::default().steps(calls.len())),
    };
    match &rules {
        Some(Decision::Holds(Some(order))) => {
            assert!(holds, "{calls:?}");
            replay(&Queue(side), calls, order);
        }
        Some(Decision::Violated(())) => assert!(!holds, "{calls:?}"),
        Some(other) => panic!("{other:?} of {calls:?}"),
        None => {}
    }
    rules.is_some()
}

fn queues_are_decided(side: Side) {
    let (mut added, mut decided) = (0, [0, 0]);
    let action = |draw: &mut Draw, is: bool| queue_action(draw, is, &mut added);
    compare(&Queue(side), action, |calls, holds| {
        decided[usize::from(holds)] += u32::from(agree(side, calls, holds));
    });
    assert!(decided.iter().all(|count| *count > 3_000), "{decided:?}");
    let (mut draw, mut held) = (Draw(11), [0, 0]);
    for round in 0..30_000 {
        let (count, mut added) = (2 + draw.below(8), 0);
        let action = |draw: &mut Draw, state: &std::collections::VecDeque<u32>| {
            if draw.below(2) == 0 {
                added += 1;
                return QueueAction::Add(added);
            }
            let next = if side == Side::Oldest { state.front() } else { state.back() };
            QueueAction::Remove(next.map_or(Removal::Empty, |next| Removal::Value(*next)))
        };
        let mut calls = simulated(&mut draw, &Queue(side), count, action);
        if round % 3 > 0 {
            swap_removals(&mut draw, &mut calls);
        }
        for call in calls.iter_mut().filter(|call| call.completed == PENDING) {
            if let QueueAction::Remove(removal) = &mut call.action {
                *removal = Removal::Unknown;
            }
        }
        let holds = brute_force(&Queue(side), &calls);
        held[usize::from(holds)] += u32::from(agree(side, &calls, holds));
    }
    assert!(held.iter().all(|count| *count > 4_000), "{held:?}");
}

/// Lets two removals find what the other one found, or one find nothing.
fn swap_removals(draw: &mut Draw, calls: &mut [Call<QueueAction>]) {
    let is_removal = |at: &usize| matches!(calls[*at].action, QueueAction::Remove(_));
    let removals: Vec<_> = (0..calls.len()).filter(is_removal).collect();
    if removals.is_empty() {
        return;
    }
    let [one, other] = [0; 2].map(|_| removals[draw.below(removals.len() as u32) as usize]);
    if one == other {
        calls[one].action = QueueAction::Remove(Removal::Empty);
    } else {
        let found = calls[one].action;
        calls[one].action = std::mem::replace(&mut calls[other].action, found);
    }
}

#[test]
fn stacks_are_searched_and_decided_by_rules_as_by_trying_all_orders() {
    queues_are_decided(Side::Newest);
}

#[test]
fn queues_are_searched_and_decided_by_rules_as_by_trying_all_orders() {
    queues_are_decided(Side::Oldest);
}

#[test]
fn a_stack_that_needs_more_steps_than_there_are_is_given_up() {
    let rounds = 0..40;
    // Each value is pushed after a pair that leaves a cut, so each nests one deeper.
    let actions = rounds.clone().flat_map(|round| {
        let value = 2 * round;
        [
            QueueAction::Add(value),
            QueueAction::Add(value + 1),
            QueueAction::Remove(Removal::Value(value + 1)),
        ]
    });
    let calls: Vec<_> =
        (0..).zip(actions).map(|(at, action)| Call::new(2 * at, 2 * at + 1, action)).collect();
    let decide = |steps| {
        let options = Options { budget_steps: Some(steps), ..Options::default() };
        lifo::decide(&calls, options.steps(0))
    };
    assert_eq!(decide(60), Some(Decision::Unknown));
    assert!(matches!(decide(1_000), Some(Decision::Holds(_))));
}

/// A register whose states are said to be large.
struct Large;

impl Object for Large {
    type State = u32;
    type Action = (bool, u32);

    fn initial(&self) -> u32 {
        0
    }

    fn step(&self, state: &u32, (is_write, value): &(bool, u32)) -> Option<u32> {
        (*is_write || state == value).then_some(*value)
    }

    fn bytes(&self, _: &u32) -> usize {
        1 << 24
    }

    fn is_observation(&self, (is_write, _): &(bool, u32)) -> bool {
        !is_write
    }

    fn describe(&self, _: &(bool, u32), _: &Names) -> (String, String) {
        Default::default()
    }
}

#[test]
fn memory_is_bounded_and_what_has_no_choice_takes_none() {
    let call = |invoked, completed, action| Call::new(invoked, completed, action);
    let one_by_one: Vec<_> = (0..1_000).map(|at| call(2 * at, 2 * at + 1, (true, at))).collect();
    let options = Options::default();
    assert!(matches!(search(&Large, &one_by_one, &options), Decision::Holds(_)));
    let mut beside: Vec<_> = (0..12).map(|at| call(at, 100 + at, (true, at))).collect();
    beside.push(call(200, 201, (false, 99)));
    assert_eq!(search(&Large, &beside, &options), Decision::Unknown);
}

#[test]
fn what_does_not_end_is_given_up() {
    let add = |at| Call::new(at, 100 + at, QueueAction::Add(at));
    let mut calls: Vec<_> = (0..20).map(add).collect();
    let action = QueueAction::Remove(Removal::Value(99));
    calls.push(Call::new(200, 201, action));
    let options = Options { budget_steps: Some(1_000), ..Options::default() };
    assert_eq!(search(&Queue(Side::Oldest), &calls, &options), Decision::Unknown);
}
