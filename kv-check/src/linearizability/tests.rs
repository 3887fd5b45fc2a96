//! The two searches against each other, on histories that are too large for brute force.
//!
//! Would go wrong without it: the breadth-first search only gets what the depth-first one could not
//! decide, so a mistake in it would not show on small histories.

use super::breadth::BreadthFirst;
use super::depth::DepthFirst;
use super::moves::Walk;
use super::problem::Problem;
use super::search::{Answer, search};
use super::versions;
use crate::budget::Options;
use crate::model::State;
use crate::support::{Rng, Workload, mutate, record};
use crate::{History, operation};

#[test]
fn what_would_keep_too_much_in_memory_is_given_up() {
    let workload = Workload {
        keys: 1,
        values: 2,
        unknown: 0,
        versions: 0,
        ..Workload::small(&mut Rng(1), 30)
    };
    let history = record(&mut Rng(1), &workload);
    let operations = operation::pair_one(&history).unwrap();
    let problem = Problem::new(&operations, usize::MAX);
    let walk = |kept| {
        let mut steps = Options::default().steps(operations.len());
        steps.keep(kept);
        Walk::new(&problem, steps)
    };
    for search in [
        |walk: Walk<'_>| DepthFirst::new(walk).run(),
        |walk: Walk<'_>| BreadthFirst::new(walk).run(),
    ] {
        assert!(matches!(search(walk(0)), Answer::Order(_)));
        assert_eq!(search(walk(1 << 28)), Answer::Exhausted);
    }
}

/// Whether an order exists; verifies that both searches say so, and the order itself.
fn is_linearizable(history: &History, seed: u64) -> bool {
    let operations = operation::pair_one(history).unwrap();
    let problem = Problem::new(&operations, usize::MAX);
    let unlimited = Options { budget_steps: None, ..Options::default() };
    let depth = DepthFirst::new(Walk::new(&problem, unlimited.steps(0))).run();
    let breadth = BreadthFirst::new(Walk::new(&problem, unlimited.steps(0))).run();
    match (&depth, &breadth) {
        (Answer::Order(one), Answer::Order(other)) => {
            verify_order(&problem, one, seed);
            verify_order(&problem, other, seed);
            true
        }
        (Answer::Impossible { .. }, Answer::Impossible { .. }) => false,
        _ => panic!("seed {seed}: depth-first {depth:?}, breadth-first {breadth:?}"),
    }
}

/// How much a heavy test does: the first number, or the second one with `KV_TEST_SCALE=full`.
pub(super) fn scale(few: u64, many: u64) -> u64 {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => many,
        _ => few,
    }
}

/// Replays an order with each operation once, in real time, and legal in some reading.
pub(super) fn verify_order(problem: &Problem, order: &[u32], seed: u64) {
    let mut states = vec![State::initial()];
    let mut latest_invocation = 0;
    for number in order {
        let op = problem.op(*number);
        latest_invocation = latest_invocation.max(op.invoked);
        assert!(op.completed > latest_invocation, "seed {seed}: real time in {order:?}");
        states = states
            .iter()
            .flat_map(|state| op.actions().filter_map(|action| state.step(action)))
            .collect();
    }
    assert!(!states.is_empty(), "seed {seed}: {order:?} is legal");
    let mut numbers = order.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), order.len(), "seed {seed}: each operation once");
    let answered = numbers.iter().filter(|op| **op < problem.answered).count();
    assert_eq!(answered, problem.answered as usize, "seed {seed}: all that were answered");
}

#[test]
fn both_searches_agree_and_their_orders_are_legal() {
    let mut violated = 0;
    for seed in 0..4_000 {
        let mut rng = Rng(seed);
        let operations = 4 + rng.below(30);
        let workload =
            Workload { keys: 1, unknown_max: 8, ..Workload::small(&mut rng, operations) };
        let mut history = record(&mut rng, &workload);
        assert!(is_linearizable(&history, seed), "seed {seed}: a correct store recorded it");
        for _ in 0..2 {
            mutate(&mut rng, &mut history);
            violated += u32::from(!is_linearizable(&history, seed));
        }
    }
    assert!(violated > 1_000, "mutations make enough wrong histories: {violated}");
}

/// How often the rule of versions found an order, and how often only the search did.
#[derive(Debug, Default)]
struct Found {
    by_versions: u32,
    by_search: u32,
    none: u32,
}

/// Compares the rule of versions with the search, as far as the history happened before `cut`.
fn compare_versions(history: &History, cut: usize, seed: u64, found: &mut Found) {
    let operations = operation::pair_one(history).unwrap();
    let problem = Problem::new(&operations, cut);
    let options = Options { budget_steps: None, ..Options::default() };
    let holds = problem.impossible_demand().is_none()
        && matches!(search(&problem, &options), Answer::Order(_));
    match versions::order(&problem) {
        Some(order) => {
            verify_order(&problem, &order, seed);
            assert!(holds, "seed {seed}, cut {cut}: the search finds no order like {order:?}");
            found.by_versions += 1;
        }
        None if holds => found.by_search += 1,
        None => found.none += 1,
    }
}

#[test]
fn versions_order_what_the_search_orders() {
    let mut found = [Found::default(), Found::default()];
    for seed in 0..scale(6_000, 30_000) {
        let mut rng = Rng(seed);
        // Half of the histories tell all versions, as a store that works does.
        let is_told = rng.percent(50);
        let workload = Workload {
            keys: 1,
            operations: 2 + rng.below(40),
            values: [0, 0, 3][rng.below(3)],
            reported: if is_told { 100 } else { 80 },
            versions: if is_told { 100 } else { 80 },
            unknown: [0, 5, 20][rng.below(3)],
            ..Workload::small(&mut rng, 0)
        };
        let mut history = record(&mut rng, &workload);
        let found = &mut found[usize::from(is_told)];
        let cut = rng.below(history.events.len() + 1);
        compare_versions(&history, usize::MAX, seed, found);
        compare_versions(&history, cut, seed, found);
        mutate(&mut rng, &mut history);
        compare_versions(&history, usize::MAX, seed, found);
    }
    let [_, Found { by_versions, by_search, none }] = found;
    assert!(by_versions > 3 * by_search && none > by_versions / 10, "{found:?}");
}
