//! The breadth-first search: quick to prove that there is no order.
//!
//! A depth-first search that fails has entered everything that can be reached, and in an unlucky
//! sequence: it meets a configuration that used many open operations first and the better one that
//! used few of them later, again and again.
//! This search goes in *layers* instead.
//! Each move adds one answered operation, so the configurations with `n` of them are exactly those
//! that a move leads to from the layer before.
//! A layer is sorted so that better configurations come first, and thus each one that a better one
//! covers is dropped before it is looked at.
//! A [`Memo`] is needed for one layer at a time only.
//!
//! Where an order exists, the depth-first search mostly needs far fewer steps, which is why it goes
//! first.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::memo::{Config, Memo, Used};
use super::moves::Walk;
use super::search::Answer;
use super::window::Window;
use crate::model::Version;

/// A configuration of a layer.
#[derive(Debug)]
struct Node {
    config: Config,
    used: Used,
    /// The place of its last operation in [`BreadthFirst::past`].
    last: Option<usize>,
}

/// The search of one problem.
#[derive(Debug)]
pub(super) struct BreadthFirst<'p> {
    walk: Walk<'p>,
    /// All operations that any order so far contains, each with the place of the one before it.
    past: Vec<(u32, Option<usize>)>,
    /// The operations that the counters of the walk take for linearized.
    counted: (Window, Rc<[u32]>),
    reached: usize,
}

impl<'p> BreadthFirst<'p> {
    /// Prepares the search.
    pub(super) fn new(walk: Walk<'p>) -> Self {
        let Config { window, used, .. } = Config::initial();
        Self { walk, past: Vec::new(), counted: (window, used), reached: 0 }
    }

    /// Runs the search to its end.
    pub(super) fn run(mut self) -> Answer {
        let mut layer = vec![Node { config: Config::initial(), used: Used::new(), last: None }];
        for _ in 0..self.walk.problem.answered {
            let mut next = Vec::new();
            for node in &layer {
                self.expand(node, &mut next);
                if self.walk.steps.is_spent() {
                    return Answer::Exhausted;
                }
            }
            layer = best_of(next);
            self.walk.steps.let_go();
        }
        match layer.first() {
            Some(node) => Answer::Order(self.order(node.last)),
            None => Answer::Impossible { reached: self.reached },
        }
    }

    /// Adds the configurations that a move leads to.
    fn expand(&mut self, node: &Node, next: &mut Vec<Node>) {
        self.walk.steps.take();
        self.jump(&node.config);
        let config = &node.config;
        let horizon = self.walk.problem.horizon(&config.window);
        self.reached = self.reached.max(horizon);
        let enabled = self.walk.problem.enabled(&config.window, horizon);
        let moves = match self.walk.free_observation(&config.state, &enabled) {
            Some(free) => vec![free],
            None => {
                let mut moves = self.walk.plain_moves(&config.state, &enabled);
                if self.walk.has_open(horizon) {
                    moves.extend(self.walk.open_moves(config));
                }
                moves
            }
        };
        for step in moves {
            if let Some(config) = self.walk.take(config, step) {
                let used = self.walk.used_by_kind(&config.used);
                self.walk.steps.keep(config.bytes());
                let last = self.remember(node.last);
                next.push(Node { config, used, last });
            }
            self.walk.undo(0);
            if self.walk.steps.is_spent() {
                return;
            }
        }
    }

    /// Enters the operations of the last move into the past.
    fn remember(&mut self, before: Option<usize>) -> Option<usize> {
        let mut last = before;
        for op in &self.walk.order {
            self.past.push((*op, last));
            last = Some(self.past.len() - 1);
        }
        last
    }

    /// Makes the counters of the walk those of `config`.
    fn jump(&mut self, config: &Config) {
        let (window, used) = &self.counted;
        let touched = window.behind().iter().chain(config.window.behind()).copied();
        let (low, high) = (window.frontier(), config.window.frontier());
        let between = low.min(high)..low.max(high);
        let answered: BTreeSet<u32> = touched.chain(between).collect();
        let all = used.iter().chain(config.used.iter()).copied();
        let all: BTreeSet<u32> = answered.into_iter().chain(all).collect();
        let was = |op: &u32| window.contains(*op) || used.binary_search(op).is_ok();
        let will = |op: &u32| config.window.contains(*op) || config.used.binary_search(op).is_ok();
        let taken: Vec<u32> = all.iter().filter(|op| will(op) && !was(op)).copied().collect();
        let put_back: Vec<u32> = all.iter().filter(|op| was(op) && !will(op)).copied().collect();
        self.walk.jump(&taken, &put_back);
        self.counted = (config.window.clone(), Rc::clone(&config.used));
    }

    fn order(&self, last: Option<usize>) -> Vec<u32> {
        let mut order = Vec::new();
        let mut place = last;
        while let Some((op, before)) = place.map(|at| self.past[at]) {
            order.push(op);
            place = before;
        }
        order.reverse();
        order
    }
}

/// The configurations of a layer that no other one covers.
fn best_of(mut layer: Vec<Node>) -> Vec<Node> {
    // Whatever covers a configuration used no more and knows no more, so it comes before.
    layer.sort_by_key(|node| {
        let used: usize = node.used.iter().map(|(_, count)| count).sum();
        let knowledge = match &node.config.state.version {
            Version::AtLeast { floor, excluded } => (0, *floor, excluded.len()),
            Version::Exactly(version) => (1, *version, 0),
        };
        (used, knowledge)
    });
    let mut memo = Memo::default();
    layer.retain(|node| memo.enter(&node.config, node.used.clone()));
    layer
}
