//! The moves from one configuration to the next.
//!
//! An answered operation may come next if it was invoked before the *horizon*, the earliest
//! completion among the answered operations that are left.
//! Each move adds exactly one answered operation, with the open operations before it that it needs.
//!
//! # Free observations
//!
//! An operation that never changes the key (a get, a cas that was refused, a delete that found
//! nothing), is legal at the configuration and teaches nothing new about the version, may be taken
//! without trying anything else.
//! Proof: take any order that completes the configuration and move the operation to the front.
//! It is legal there, and as it changes the key neither there nor at its old place, everything else
//! sees the same states; real time is respected because it is enabled.
//!
//! # Open operations
//!
//! An open operation is only tried when the very next operation needs it.
//! Proof: take an order that completes the configuration with as few open operations as any.
//! Let `u` be an open operation in it that leads from state `s` to `s'`, and `y` the one after,
//! that leads from `s'` to `s''`.
//! There is such a `y`, as a last `u` could be left out.
//! If `y` were legal from `s` and ended in a state that covers `s''`, then `u` could be left out,
//! as the model is monotone: a contradiction.
//! So every open operation is followed at once by one that is illegal without it, or that ends in
//! another state.
//! Hence a move is a *chain* of open operations, each of which makes the next one possible, and an
//! answered operation at the end.
//! By the same argument a chain never returns to a state that it had before.
//! In practice chains are short: only a cas can follow within a chain, as any other write makes the
//! one before it superfluous.
//!
//! Moving a free observation to the front, as above, keeps the number of open operations, so both
//! arguments hold together.
//!
//! Open operations that wanted the same and write values which no operation that is left can tell
//! apart are interchangeable: open operations have no completion to respect, so if both are
//! available, their places in an order can be swapped.
//! Only the first of them is tried.
//!
//! # Dead ends
//!
//! Two kinds are seen before they are walked into.
//! A write must not replace a value that an operation still demands and that no operation will
//! write again ([`Counters::is_held`]).
//! And the version of the key must not pass one that an operation that is left still names
//! ([`Problem::version_cap`]).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::counters::Counters;
use super::memo::{Config, Kind, Used};
use super::problem::Problem;
use crate::budget::Steps;
use crate::model::{Action, State, ValueId, Version};

/// A chain of open operations and one answered operation, to be taken together.
#[derive(Debug)]
pub(super) struct Move {
    /// The open operations with the states that they lead to.
    chain: Vec<(u32, State)>,
    /// The answered operation.
    op: u32,
    /// The state that it leads to.
    state: State,
}

impl Move {
    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let links = self.chain.iter().map(|(_, state)| size_of::<u32>() + state.bytes());
        size_of::<Self>() + self.state.bytes() + links.sum::<usize>()
    }
}

/// Where chains are built.
#[derive(Debug)]
struct Frame<'c> {
    config: &'c Config,
    horizon: usize,
    /// See [`Problem::version_cap`].
    cap: u64,
    /// The values that the operations at the end of a chain need; `None` if any value may serve.
    needs: Option<BTreeSet<Option<ValueId>>>,
}

/// A chain under construction.
#[derive(Debug, Clone)]
struct Chain {
    links: Vec<(u32, State)>,
    /// The state before the last link.
    before: State,
}

/// A place in the search: the operations linearized so far, and what that leaves.
#[derive(Debug)]
pub(super) struct Walk<'p> {
    pub(super) problem: &'p Problem,
    counters: Counters,
    /// The operations linearized since the walk began.
    pub(super) order: Vec<u32>,
    /// The steps that may still be taken.
    pub(super) steps: Steps,
}

impl<'p> Walk<'p> {
    /// Begins a walk at the first configuration.
    pub(super) fn new(problem: &'p Problem, steps: Steps) -> Self {
        let counters = Counters::new(problem);
        Self { problem, counters, order: Vec::new(), steps }
    }

    /// Accounts for operations that were linearized, or not any more, in some other way than by a
    /// move from here.
    pub(super) fn jump(&mut self, taken: &[u32], put_back: &[u32]) {
        for op in put_back {
            self.counters.put_back(self.problem.op(*op));
        }
        for op in taken {
            self.counters.take(self.problem.op(*op));
        }
    }

    /// Whether an open operation is available before `horizon`.
    pub(super) fn has_open(&self, horizon: usize) -> bool {
        self.problem.open().next().is_some_and(|op| self.problem.op(op).invoked < horizon)
    }

    /// The configuration after a move, or `None` if that is a dead end.
    pub(super) fn take(&mut self, config: &Config, next: Move) -> Option<Config> {
        let mut used = Rc::clone(&config.used);
        if !next.chain.is_empty() {
            let mut all: Vec<u32> = used.iter().copied().collect();
            all.extend(next.chain.iter().map(|(op, _)| *op));
            all.sort_unstable();
            used = all.into();
        }
        let mut value = config.state.value;
        for (op, state) in &next.chain {
            value = self.linearize(*op, value, state)?;
        }
        self.linearize(next.op, value, &next.state)?;
        let state = self.canonical(next.state);
        let window = config.window.with(next.op);
        let is_possible = state.next_version_min() <= self.problem.version_cap(&window);
        is_possible.then_some(Config { state, window, used })
    }

    /// Appends `op` to the order; `None` if it replaces a value that must stay.
    fn linearize(
        &mut self,
        op: u32,
        before: Option<ValueId>,
        after: &State,
    ) -> Option<Option<ValueId>> {
        self.counters.take(self.problem.op(op));
        self.order.push(op);
        let is_lost = before != after.value && self.counters.is_held(before);
        (!is_lost).then_some(after.value)
    }

    /// Takes back all operations of the order but the first `depth`.
    pub(super) fn undo(&mut self, depth: usize) {
        for op in self.order.drain(depth..) {
            self.counters.put_back(self.problem.op(op));
        }
    }

    /// The state in which everything that no operation can tell apart is the same.
    fn canonical(&self, mut state: State) -> State {
        state.value = state.value.map(|value| self.counters.canonical(value));
        if let Version::AtLeast { floor, .. } = &mut state.version {
            // No operation names a version from the limit up, so how far it is does not show.
            *floor = self.problem.version_limit.min(*floor);
        }
        state
    }

    /// The move to be made at once, if there is one; see the module.
    pub(super) fn free_observation(&self, state: &State, enabled: &[u32]) -> Option<Move> {
        let is_free = |number: &&u32| {
            let op = self.problem.op(**number);
            // Of two readings the first is a write, so such an operation is never free.
            op.action.is_observation() && state.step(&op.action).as_ref() == Some(state)
        };
        let op = enabled.iter().find(is_free).copied()?;
        Some(Move { chain: Vec::new(), op, state: state.clone() })
    }

    /// The moves without open operations, those with the earliest completion last.
    pub(super) fn plain_moves(&self, state: &State, enabled: &[u32]) -> Vec<Move> {
        let mut moves = Vec::new();
        for &op in enabled {
            let ends = self.problem.op(op).actions().filter_map(|action| state.step(action));
            moves.extend(ends.map(|state| Move { chain: Vec::new(), op, state }));
        }
        moves.sort_by_key(|next| std::cmp::Reverse(self.problem.op(next.op).completed));
        moves
    }

    /// All moves from `config` that begin with an open operation which the next one needs.
    pub(super) fn open_moves(&mut self, config: &Config) -> Vec<Move> {
        let mut moves = Vec::new();
        // Any write is a dead end if the value must stay, and nothing writes that value again.
        if self.counters.is_held(config.state.value) {
            return moves;
        }
        let horizon = self.problem.horizon(&config.window);
        let cap = self.problem.version_cap(&config.window);
        let mut enabled = self.problem.enabled(&config.window, horizon);
        enabled.retain(|op| self.is_needy(*op, &config.state));
        if enabled.is_empty() {
            return moves;
        }
        let frame = Frame { config, horizon, cap, needs: self.needs(&enabled) };
        let start = Chain { links: Vec::new(), before: config.state.clone() };
        let mut unfinished = vec![start];
        while let Some(chain) = unfinished.pop() {
            if !self.steps.take() {
                return Vec::new();
            }
            if !chain.links.is_empty() {
                self.finish_chain(&chain, &enabled, &mut moves);
            }
            self.extend_chain(&frame, &chain, &mut unfinished);
        }
        moves
    }

    /// Whether an open operation right before may serve the operation.
    ///
    /// A write that is legal in `state` ends no worse there than after another write, and one that
    /// is not for its version is not after another write either.
    fn is_needy(&self, number: u32, state: &State) -> bool {
        let op = self.problem.op(number);
        match op.action {
            Action::Put { .. } | Action::Delete { existed: None } => false,
            Action::Delete { existed: Some(true) } | Action::CasApplied { .. } => {
                op.alternative.is_some() || state.step(&op.action).is_none()
            }
            Action::Get { .. } | Action::CasRefused { .. } | Action::Delete { .. } => true,
        }
    }

    /// The values that the operations need; `None` if any value may serve.
    fn needs(&self, enabled: &[u32]) -> Option<BTreeSet<Option<ValueId>>> {
        let need = |number: &u32| {
            let op = self.problem.op(*number);
            if op.alternative.is_some() { None } else { op.action.needed() }
        };
        enabled.iter().map(need).collect()
    }

    /// Adds the moves that end `chain` with an answered operation.
    fn finish_chain(&self, chain: &Chain, enabled: &[u32], moves: &mut Vec<Move>) {
        let state = chain.end();
        for &op in enabled {
            let actions = || self.problem.op(op).actions();
            for end in actions().filter_map(|action| state.step(action)) {
                if !is_reached_without(&chain.before, actions(), &end) {
                    moves.push(Move { chain: chain.links.clone(), op, state: end });
                }
            }
        }
    }

    /// Adds the chains that are one open operation longer.
    fn extend_chain(&self, frame: &Frame<'_>, chain: &Chain, longer: &mut Vec<Chain>) {
        let mut tried = BTreeSet::new();
        for number in self.problem.open() {
            let op = self.problem.op(number);
            if op.invoked >= frame.horizon {
                break;
            }
            let is_taken = frame.config.used.binary_search(&number).is_ok()
                || chain.links.iter().any(|(link, _)| *link == number);
            if is_taken || !self.is_useful(op.action.written(), frame) {
                continue;
            }
            if !tried.insert(self.kind(&op.action)) {
                continue;
            }
            let Some(end) = chain.end().step(&op.action) else { continue };
            let is_possible = end.next_version_min() <= frame.cap;
            if is_possible && !chain.is_vain(&op.action, &end, &frame.config.state) {
                let mut links = chain.links.clone();
                links.push((number, end));
                longer.push(Chain { links, before: chain.end().clone() });
            }
        }
    }

    /// Whether a key that has `value` serves an operation that may come next, or an open cas.
    fn is_useful(&self, value: Option<ValueId>, frame: &Frame<'_>) -> bool {
        self.problem.is_wanted_by_open(value)
            || frame.needs.as_ref().is_none_or(|needs| needs.contains(&value))
    }

    /// Counts open operations by kind.
    pub(super) fn used_by_kind(&self, used: &[u32]) -> Used {
        let mut counts = BTreeMap::new();
        for op in used {
            *counts.entry(self.kind(&self.problem.op(*op).action)).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    fn kind(&self, action: &Action) -> Kind {
        (action.wanted(), action.written().map(|value| self.counters.canonical(value)))
    }
}

impl Chain {
    fn end(&self) -> &State {
        self.links.last().map_or(&self.before, |(_, state)| state)
    }

    /// Whether an order with fewer open operations is as good as one that adds `action` here.
    fn is_vain(&self, action: &Action, end: &State, start: &State) -> bool {
        let mut earlier = std::iter::once(start).chain(self.links.iter().map(|(_, state)| state));
        let is_return = earlier.any(|state| state.covers(end));
        let is_independent =
            !self.links.is_empty() && is_reached_without(&self.before, [action], end);
        is_return || is_independent
    }
}

/// Whether one of `actions` leads from `before` to a state that covers `end`.
fn is_reached_without<'a>(
    before: &State,
    actions: impl IntoIterator<Item = &'a Action>,
    end: &State,
) -> bool {
    let mut ends = actions.into_iter().filter_map(|action| before.step(action));
    ends.any(|reached| reached.covers(end))
}
