//! The depth-first search: quick to find an order where there is one.
//!
//! It keeps a stack of *choices* and always goes on from the last.
//! At each configuration one of three things happens.
//!
//! - A free observation is taken and nothing else is tried, see [`super::moves`].
//! - *A forced move.* There is at most one move and no open operation is available: it is taken
//!   without a choice to come back to, so sequential stretches cost neither memory nor hashing.
//! - *A choice.* The configuration is entered into the [`Memo`], and its moves are tried one by
//!   one, those with the earliest completion first and those with open operations last.
//!
//! Nothing is recursive, so the depth of a history does not matter.

use super::memo::{Config, Memo};
use super::moves::{Move, Walk};
use super::search::Answer;

/// A configuration with more than one way out.
#[derive(Debug)]
struct Choice {
    config: Config,
    /// How long the order was when the configuration was reached.
    depth: usize,
    /// The moves not yet tried, the next one last.
    moves: Vec<Move>,
    /// Whether the moves with open operations are still to be made.
    is_narrow: bool,
}

/// The search of one problem.
#[derive(Debug)]
pub(super) struct DepthFirst<'p> {
    walk: Walk<'p>,
    memo: Memo,
    choices: Vec<Choice>,
    reached: usize,
}

impl<'p> DepthFirst<'p> {
    /// Prepares the search.
    pub(super) fn new(walk: Walk<'p>) -> Self {
        Self { walk, memo: Memo::default(), choices: Vec::new(), reached: 0 }
    }

    /// Runs the search to its end.
    pub(super) fn run(mut self) -> Answer {
        let mut current = Config::initial();
        while !current.window.is_full(self.walk.problem.answered) {
            if !self.walk.steps.take() {
                return Answer::Exhausted;
            }
            match self.advance(current).or_else(|| self.backtrack()) {
                Some(next) => current = next,
                // A chain that was not built because the budget ran out is not a proof.
                None if self.walk.steps.is_spent() => return Answer::Exhausted,
                None => return Answer::Impossible { reached: self.reached },
            }
        }
        Answer::Order(self.walk.order)
    }

    /// Leaves `config` by its only move, or makes it a choice to be tried by [`Self::backtrack`].
    fn advance(&mut self, config: Config) -> Option<Config> {
        let horizon = self.walk.problem.horizon(&config.window);
        self.reached = self.reached.max(horizon);
        let enabled = self.walk.problem.enabled(&config.window, horizon);
        if let Some(free) = self.walk.free_observation(&config.state, &enabled) {
            return self.walk.take(&config, free);
        }
        let mut moves = self.walk.plain_moves(&config.state, &enabled);
        let is_narrow = self.walk.has_open(horizon);
        if moves.len() <= 1 && !is_narrow {
            return moves.pop().and_then(|only| self.walk.take(&config, only));
        }
        let used = self.walk.used_by_kind(&config.used);
        if self.memo.enter(&config, used) {
            // Once in the memory, and once to come back to it.
            let choices: usize = moves.iter().map(Move::bytes).sum();
            self.walk.steps.keep(2 * config.bytes() + choices);
            let depth = self.walk.order.len();
            self.choices.push(Choice { config, depth, moves, is_narrow });
        }
        None
    }

    /// Returns to the last choice that has a move left, and takes it.
    fn backtrack(&mut self) -> Option<Config> {
        loop {
            let mut choice = self.choices.pop()?;
            self.walk.undo(choice.depth);
            if choice.moves.is_empty() && choice.is_narrow {
                choice.is_narrow = false;
                choice.moves = self.walk.open_moves(&choice.config);
            }
            let Some(next) = choice.moves.pop() else {
                continue;
            };
            let taken = self.walk.take(&choice.config, next);
            if choice.is_narrow || !choice.moves.is_empty() {
                self.choices.push(choice);
            }
            if taken.is_some() {
                return taken;
            }
        }
    }
}
