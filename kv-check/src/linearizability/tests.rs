//! The two searches against each other, on histories that are too large for brute force.
//!
//! Would go wrong without it: the breadth-first search only gets what the depth-first one could not
//! decide, so a mistake in it would not show on small histories.

use super::breadth::BreadthFirst;
use super::depth::DepthFirst;
use super::moves::Walk;
use super::problem::Problem;
use super::search::Answer;
use crate::budget::Options;
use crate::model::State;
use crate::support::{Rng, Workload, mutate, record};
use crate::{History, operation};

fn workload(rng: &mut Rng) -> Workload {
    Workload {
        clients: 2 + rng.below(4),
        operations: 4 + rng.below(30),
        keys: 1,
        values: rng.below(4),
        unknown: [0, 20, 60][rng.below(3)],
        unknown_max: 8,
        failed: rng.below(15),
        reported: [100, 80][rng.below(2)],
        versions: [0, 50, 100][rng.below(3)],
        slow: [0, 60][rng.below(2)],
    }
}

/// Whether an order exists; verifies that both searches say so, and the order itself.
fn is_linearizable(history: &History, seed: u64) -> bool {
    let operations = operation::pair(history).unwrap();
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
        let workload = workload(&mut rng);
        let mut history = record(&mut rng, &workload);
        assert!(is_linearizable(&history, seed), "seed {seed}: a correct store recorded it");
        for _ in 0..2 {
            mutate(&mut rng, &mut history);
            violated += u32::from(!is_linearizable(&history, seed));
        }
    }
    assert!(violated > 1_000, "mutations make enough wrong histories: {violated}");
}
