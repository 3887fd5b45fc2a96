//! One key's operations, prepared for the search.
//!
//! Preparation does three things once so that the search need not do them at each step.
//!
//! - It splits the operations into *answered* ones, which every order must contain, and *open* ones
//!   of unknown outcome, which an order may contain.
//!   Operations that failed are gone, and so are open reads: they have no effect and no result, so
//!   an order with one is an order without it.
//! - It turns values into small numbers.
//!   All values that no operation observes or expects get the same number, [`NAMELESS`]: no
//!   operation can tell them apart, so neither need the search.
//! - It finds, for each position, the earliest completion and the lowest version cap of the
//!   answered operations from there on.
//!
//! # Cut histories
//!
//! To explain a violation the search runs on prefixes of the history.
//! A prefix ends at an event: operations invoked later are not in it, and those completed later are
//! open in it, whatever the full history says of them.

use std::collections::{BTreeSet, HashMap};

use super::window::Window;
use crate::history::{Expect, MicroOp, Observed};
use crate::model::{Action, Seen, ValueId, Wanted};
use crate::operation::{Operation, Outcome};

/// The number of all values that no operation can tell apart.
pub(super) const NAMELESS: ValueId = ValueId(0);

/// An operation of the key.
#[derive(Debug, Clone)]
pub(super) struct Op {
    /// Position of the invocation in the history.
    pub(super) invoked: usize,
    /// Position of the completion; `usize::MAX` if the operation is open.
    pub(super) completed: usize,
    /// What it did if it was linearized.
    pub(super) action: Action,
    /// What it may have done instead, if its completion does not say.
    pub(super) alternative: Option<Action>,
    /// Position in the list of operations that the problem was made from.
    pub(super) source: usize,
}

/// All operations of one key up to some event.
#[derive(Debug)]
pub(super) struct Problem {
    /// The answered operations, then the open ones, each in the order of invocation.
    pub(super) ops: Vec<Op>,
    /// How many operations are answered.
    pub(super) answered: u32,
    /// How many different values there are.
    pub(super) value_count: usize,
    /// One above the greatest version that any operation names, 0 if none does.
    pub(super) version_limit: u64,
    /// What open cas want.
    open_wanted: BTreeSet<Wanted>,
    /// Whether an open cas wants some version.
    is_version_wanted: bool,
    earliest_completion: Vec<usize>,
    lowest_cap: Vec<u64>,
}

impl Problem {
    /// Prepares the operations, as far as they happened before the event at `cut`.
    pub(super) fn new(operations: &[Operation<'_>], cut: usize) -> Self {
        let visible = operations.iter().enumerate().filter(|(_, op)| op.invoked() < cut);
        let visible: Vec<_> = visible.map(|(source, op)| (source, cut_short(op, cut))).collect();
        let values = Values::new(visible.iter().map(|(_, op)| op));
        let made = visible.iter().filter_map(|(source, op)| values.op(*source, op));
        let (mut ops, open): (Vec<_>, Vec<_>) = made.partition(|op| op.completed < usize::MAX);
        let answered = ops.len();
        let earliest_completion = suffix_minima(&ops, usize::MAX, |op| op.completed);
        let lowest_cap = suffix_minima(&ops, u64::MAX, Op::version_cap);
        let open_wanted: BTreeSet<_> = open.iter().filter_map(|op| op.action.wanted()).collect();
        ops.extend(open);
        let version_max = ops.iter().flat_map(Op::actions).filter_map(Action::version_max).max();
        Self {
            version_limit: version_max.map_or(0, |version| version.saturating_add(1)),
            answered: u32::try_from(answered).expect("a history has fewer than 2^32 operations"),
            value_count: values.numbers.len() + 1,
            is_version_wanted: open_wanted.iter().any(|w| matches!(w, Wanted::Version(_))),
            open_wanted,
            ops,
            earliest_completion,
            lowest_cap,
        }
    }

    /// The operation with the given number.
    pub(super) fn op(&self, number: u32) -> &Op {
        &self.ops[number as usize]
    }

    /// The numbers of the open operations.
    pub(super) fn open(&self) -> std::ops::Range<u32> {
        let count =
            u32::try_from(self.ops.len()).expect("a history has fewer than 2^32 operations");
        self.answered..count
    }

    /// Whether some open cas may follow an operation that leaves `value`.
    pub(super) fn is_wanted_by_open(&self, value: Option<ValueId>) -> bool {
        let wanted = value.map_or(Wanted::Absent, Wanted::Value);
        self.open_wanted.contains(&wanted) || (value.is_some() && self.is_version_wanted)
    }

    /// The earliest completion among the answered operations that are not in `window`.
    ///
    /// Only operations invoked before it may come next, as all others must follow that operation.
    pub(super) fn horizon(&self, window: &Window) -> usize {
        let behind = window.behind().iter().map(|op| self.op(*op).completed);
        behind.fold(self.earliest_completion[window.frontier() as usize], usize::min)
    }

    /// The lowest version cap among the answered operations that are not in `window`.
    pub(super) fn version_cap(&self, window: &Window) -> u64 {
        let behind = window.behind().iter().map(|op| self.op(*op).version_cap());
        behind.fold(self.lowest_cap[window.frontier() as usize], u64::min)
    }

    /// The answered operations that may come next after `window`.
    pub(super) fn enabled(&self, window: &Window, horizon: usize) -> Vec<u32> {
        let beyond = window.frontier()..self.answered;
        let beyond = beyond.take_while(|op| self.op(*op).invoked < horizon);
        window.behind().iter().copied().chain(beyond).collect()
    }

    /// Completion of the first operation that demands a value which nothing can have written in
    /// time.
    pub(super) fn impossible_demand(&self) -> Option<usize> {
        let mut first_writer = vec![usize::MAX; self.value_count];
        for op in &self.ops {
            for value in op.actions().filter_map(Action::written) {
                let first = &mut first_writer[value.0 as usize];
                *first = op.invoked.min(*first);
            }
        }
        let is_impossible = |op: &&Op| {
            op.demanded().is_some_and(|value| first_writer[value.0 as usize] > op.completed)
        };
        let answered = &self.ops[..self.answered as usize];
        answered.iter().filter(is_impossible).map(|op| op.completed).min()
    }
}

impl Op {
    /// Everything that the operation may have done.
    pub(super) fn actions(&self) -> impl Iterator<Item = &Action> {
        std::iter::once(&self.action).chain(&self.alternative)
    }

    /// The value that the key must have before the operation.
    pub(super) fn demanded(&self) -> Option<ValueId> {
        self.certain(Action::demanded)
    }

    /// The largest [`crate::model::State::next_version_min`] from which the operation may be legal.
    fn version_cap(&self) -> u64 {
        self.certain(|action| Some(action.version_cap())).unwrap_or(u64::MAX)
    }

    /// A demand of the operation, if there is but one thing that it may have done.
    fn certain<T>(&self, demand: impl Fn(&Action) -> Option<T>) -> Option<T> {
        if self.alternative.is_some() { None } else { demand(&self.action) }
    }
}

fn cut_short<'h>(operation: &Operation<'h>, cut: usize) -> Operation<'h> {
    let is_later = operation.completed().is_some_and(|completed| completed >= cut);
    if is_later { operation.without_outcome() } else { *operation }
}

fn suffix_minima<T: Copy + Ord>(ops: &[Op], end: T, of: impl Fn(&Op) -> T) -> Vec<T> {
    let mut minima = vec![end; ops.len() + 1];
    for (place, op) in ops.iter().enumerate().rev() {
        minima[place] = of(op).min(minima[place + 1]);
    }
    minima
}

/// The numbers of the values that some operation can tell from others.
struct Values<'h> {
    // Only ever asked for one value, so the order of the map never matters.
    numbers: HashMap<&'h str, ValueId>,
}

impl<'h> Values<'h> {
    fn new<'o>(operations: impl Iterator<Item = &'o Operation<'h>>) -> Self
    where
        'h: 'o,
    {
        let mut numbers = HashMap::new();
        for value in operations.filter_map(named_value) {
            let next = u32::try_from(numbers.len() + 1).expect("fewer values than operations");
            numbers.entry(value).or_insert(ValueId(next));
        }
        Self { numbers }
    }

    fn number(&self, value: &str) -> ValueId {
        self.numbers.get(value).copied().unwrap_or(NAMELESS)
    }

    fn wanted(&self, expect: &Expect) -> Wanted {
        match expect {
            Expect::Value(value) => Wanted::Value(self.number(value)),
            Expect::Version(version) => Wanted::Version(*version),
            Expect::Absent => Wanted::Absent,
        }
    }

    fn op(&self, source: usize, operation: &Operation<'_>) -> Option<Op> {
        let (action, alternative, completed) = match operation.outcome() {
            Outcome::Failed => return None,
            Outcome::Unknown => (self.effect(operation.request)?, None, usize::MAX),
            Outcome::Ok(answer) => {
                let completed = operation.completed().unwrap_or(usize::MAX);
                let (action, alternative) = self.answer(answer);
                (action, alternative, completed)
            }
        };
        let invoked = operation.invoked();
        Some(Op { invoked, completed, action, alternative, source })
    }

    /// What a request of unknown outcome does if it does anything.
    fn effect(&self, request: &MicroOp) -> Option<Action> {
        Some(match request {
            MicroOp::Get { .. } => return None,
            MicroOp::Put { value, .. } => Action::Put { value: self.number(value), version: None },
            MicroOp::Delete { .. } => Action::Delete { existed: Some(true) },
            MicroOp::Cas { expect, value, .. } => self.applied(expect, value, None),
        })
    }

    fn applied(&self, expect: &Expect, value: &str, version: Option<u64>) -> Action {
        let (wanted, value) = (self.wanted(expect), self.number(value));
        Action::CasApplied { wanted, value, version }
    }

    fn answer(&self, answer: &MicroOp) -> (Action, Option<Action>) {
        match answer {
            MicroOp::Get { value, version, .. } => {
                let seen = match value {
                    Observed::NotReported => Seen::Anything,
                    Observed::Absent => Seen::Absent,
                    Observed::Value(value) => Seen::Value(self.number(value)),
                };
                (Action::Get { seen, version: *version }, None)
            }
            MicroOp::Put { value, version, .. } => {
                (Action::Put { value: self.number(value), version: *version }, None)
            }
            MicroOp::Delete { existed, .. } => (Action::Delete { existed: *existed }, None),
            MicroOp::Cas { expect, value, applied, version, .. } => {
                let refused = Action::CasRefused { wanted: self.wanted(expect) };
                let happened = self.applied(expect, value, *version);
                match (applied, version) {
                    (Some(false), _) => (refused, None),
                    (Some(true), _) | (None, Some(_)) => (happened, None),
                    (None, None) => (happened, Some(refused)),
                }
            }
        }
    }
}

/// The value that the operation tells from others.
fn named_value<'h>(operation: &Operation<'h>) -> Option<&'h str> {
    match (operation.outcome(), operation.request) {
        (Outcome::Failed, _) => None,
        (Outcome::Ok(MicroOp::Get { value: Observed::Value(value), .. }), _)
        | (_, MicroOp::Cas { expect: Expect::Value(value), .. }) => Some(value),
        _ => None,
    }
}
