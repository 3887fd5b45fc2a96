//! The search for an order of one key's operations.
//!
//! Two searches share the moves of [`super::moves`].
//! The [depth-first](super::depth) one is quick where an order exists, and also where everything
//! that was tried in vain is near the culprit; the [breadth-first](super::breadth) one is quick
//! where much was tried in vain.
//! Which of them a history needs shows only when it is searched, so they take turns, each time with
//! several times the steps, until one ends or the budget is spent.
//! Starting anew each turn costs a small part of the last turn.
//! Both are complete, so whichever ends first is right.

use super::breadth::BreadthFirst;
use super::depth::DepthFirst;
use super::moves::Walk;
use super::problem::Problem;
use crate::budget::Options;

/// Steps of the first turn for each operation; a sequential history needs one.
const TURN_STEPS_PER_OPERATION: u64 = 4;

/// Steps of the first turn that even the shortest history gets.
const TURN_STEPS_MIN: u64 = 20_000;

/// How much longer the breadth-first search may take in a turn, as it looks at more in each place.
const BREADTH_FACTOR: u64 = 4;

/// How much longer each turn is than the one before.
const TURN_FACTOR: u64 = 8;

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// An order exists; these are the numbers of its operations.
    Order(Vec<u32>),
    /// No order exists.
    /// All operations completed before the event at `reached` still have one.
    Impossible {
        /// Position of an event.
        reached: usize,
    },
    /// The step budget is spent.
    Exhausted,
}

/// Searches with what `options` allow.
pub(super) fn search(problem: &Problem, options: &Options) -> Answer {
    let operations = u64::from(problem.answered) + 1;
    let mut left = options.steps(problem.answered as usize + 1);
    let mut turn = operations * TURN_STEPS_PER_OPERATION + TURN_STEPS_MIN;
    while !left.is_spent() {
        let depth = left.part(turn);
        let breadth = left.part(turn.saturating_mul(BREADTH_FACTOR));
        let answer = match DepthFirst::new(Walk::new(problem, depth)).run() {
            Answer::Exhausted => BreadthFirst::new(Walk::new(problem, breadth)).run(),
            answer => answer,
        };
        if answer != Answer::Exhausted {
            return answer;
        }
        turn = turn.saturating_mul(TURN_FACTOR);
    }
    Answer::Exhausted
}
