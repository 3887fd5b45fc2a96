//! Zones against the search, on random histories of registers whose values are unique.
//!
//! Would go wrong without it: a verdict that the search does not share, an order that does not
//! explain the results, or zones that give up where they should know.

use super::super::problem::Problem;
use super::super::search::{Answer, search};
use super::super::tests::{scale, verify_order};
use super::decide;
use crate::budget::Options;
use crate::decision::Decision;
use crate::support::{Rng, Workload, mutate, record};
use crate::{History, operation, write_to};

/// How often zones said what, and how often they did not know.
#[derive(Debug, Default)]
struct Counts {
    holds: u32,
    violated: u32,
    unknown: u32,
}

fn workload(rng: &mut Rng) -> Workload {
    Workload {
        clients: 2 + rng.below(5),
        operations: 2 + rng.below(24),
        keys: 1,
        values: 0,
        unknown: [0, 20, 60][rng.below(3)],
        unknown_max: 6,
        failed: [0, 15][rng.below(2)],
        reported: [100, 80][rng.below(2)],
        versions: 0,
        slow: [0, 60][rng.below(2)],
    }
}

fn text(history: &History) -> String {
    let mut text = Vec::new();
    write_to(history, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Compares both on the history as far as it happened before `cut`.
fn compare(history: &History, cut: usize, seed: u64, counts: &mut Counts) {
    let operations = operation::pair_one(history).unwrap();
    let Some(decision) = decide(&operations, cut) else {
        counts.unknown += 1;
        return;
    };
    let problem = Problem::new(&operations, cut);
    let options = Options { budget_steps: None, ..Options::default() };
    let is_possible = problem.impossible_demand().is_none();
    let holds = is_possible && matches!(search(&problem, &options), Answer::Order(_));
    match decision {
        Decision::Holds(Some(order)) => {
            counts.holds += 1;
            assert!(holds, "seed {seed}, cut {cut}: zones hold in {order:?}\n{}", text(history));
            let number = |place: &usize| {
                problem.ops.iter().position(|op| op.source == *place).map(|at| at as u32)
            };
            // Operations without effect and result are not in the problem.
            let order: Vec<u32> = order.iter().filter_map(number).collect();
            verify_order(&problem, &order, seed);
        }
        Decision::Violated(_) => {
            counts.violated += 1;
            assert!(!holds, "seed {seed}, cut {cut}: zones are violated\n{}", text(history));
        }
        other => panic!("seed {seed}: {other:?}"),
    }
}

#[test]
fn zones_agree_with_the_search() {
    let rounds = scale(6_000, 30_000);
    let mut counts = Counts::default();
    for seed in 0..rounds {
        let mut rng = Rng(seed);
        let workload = workload(&mut rng);
        let mut history = record(&mut rng, &workload);
        compare(&history, usize::MAX, seed, &mut counts);
        compare(&history, rng.below(history.events.len() + 1), seed, &mut counts);
        for _ in 0..2 {
            mutate(&mut rng, &mut history);
            compare(&history, usize::MAX, seed, &mut counts);
        }
    }
    let Counts { holds, violated, unknown } = counts;
    let all = holds + violated + unknown;
    assert!(holds > all / 3 && violated > all / 10 && unknown < all / 2, "{counts:?}");
}
