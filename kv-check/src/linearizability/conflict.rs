//! The few operations of a key that have no order, whatever the others did.
//!
//! To leave an operation out of an explanation does not mean that it did not happen: a read whose
//! write was left out would have no order by itself, and explain nothing. It means that nothing is
//! known of it any more, neither when it was invoked nor what came of it. So whatever the operations
//! that are left out asked to write may have been written at any moment, as often as anybody likes or
//! not at all, and the key may have been deleted at any moment if one of them was a delete.
//!
//! A set of operations that has no order even so is a *conflict*: it alone shows the violation. The set
//! is as large as it must be, for operations that take part for their values alone are left out.
//! Adding operations to a conflict gives a conflict, since an order of the larger set becomes one of the
//! smaller when each operation that is left out turns into what it wrote. This is what [`minimal()`]
//! needs.
//!
//! The operations are taken as they were when the culprit completed: those that completed later are
//! still open. Before that moment all operations had an order, thus each conflict has the culprit.
//!
//! # How the rest takes part
//!
//! As open operations that were invoked before everything, which the search uses where they help and
//! nowhere else. An order needs at most one of them before each operation of the set, and no more of a
//! value than there are operations that ask for it, hence their number is bounded by that of the set.

use std::collections::BTreeMap;
use std::iter::repeat_n;

use super::problem::Problem;
use super::search::{Answer, search};
use crate::budget::Options;
use crate::history::{Expect, MicroOp, Observed};
use crate::minimal::{Bad, minimal};
use crate::operation::{Operation, Outcome};

/// Steps of each search beyond one for each operation; conflicts are small, so few are needed.
const STEPS_MAX: u64 = 5_000;

/// How many operations on the value that the culprit speaks of are looked at first.
const RELATED_MAX: usize = 4;

/// Finds a minimal conflict with the culprit, the one at whose completion the operations cease to have
/// an order.
pub(crate) fn conflict(operations: &[Operation<'_>], culprit: usize, options: &Options) -> Bad {
    let cut = operations[culprit].completed().map_or(usize::MAX, |completed| completed + 1);
    let steps = options.budget_steps.map_or(STEPS_MAX, |steps| steps.min(STEPS_MAX));
    let options = Options { budget_steps: Some(steps), ..options.clone() };
    let rest = Rest::new(operations, cut);
    let is_bad = |places: &[usize]| {
        let mut set = rest.without(places);
        set.extend(places.iter().map(|place| operations[*place]));
        let problem = Problem::new(&set, cut);
        if problem.impossible_demand().is_some() {
            return Some(true);
        }
        match search(&problem, &options) {
            Answer::Order(_) => Some(false),
            Answer::Impossible { .. } => Some(true),
            Answer::Exhausted => None,
        }
    };
    minimal(by_interest(operations, culprit), is_bad)
}

/// All operations: the culprit, some on the value that it speaks of, then those that completed before
/// it, the last one first, and all others after those.
fn by_interest(operations: &[Operation<'_>], culprit: usize) -> Vec<usize> {
    let cut = operations[culprit].completed().unwrap_or(usize::MAX);
    let invoked = operations.partition_point(|operation| operation.invoked() < cut);
    let (demand, write) = (Needs::of(&operations[culprit]).value, written(&operations[culprit]));
    let is_related = |place: &usize| match (demand, write) {
        (Some(value), _) => written(&operations[*place]) == Some(value),
        (None, Some(value)) => Needs::of(&operations[*place]).value == Some(value),
        (None, None) => false,
    };
    let before = (0..invoked).rev().filter(is_related).take(RELATED_MAX);
    let after = (invoked..operations.len()).filter(is_related).take(1);
    let completion = |place: usize| operations[place].completed().filter(|event| *event < cut);
    let mut completed: Vec<_> = (0..invoked).filter(|place| completion(*place).is_some()).collect();
    completed.sort_by_key(|place| std::cmp::Reverse(completion(*place)));
    let mut is_listed = vec![false; operations.len()];
    let first = std::iter::once(culprit).chain(before).chain(after).chain(completed);
    let all = first.chain(0..operations.len());
    all.filter(|place| !std::mem::replace(&mut is_listed[*place], true)).collect()
}

/// What all operations ask to write.
struct Rest<'k> {
    operations: &'k [Operation<'k>],
    /// What completed from this event on is still open.
    cut: usize,
    /// For each value a request to put it, and who asks for it.
    puts: BTreeMap<&'k str, (MicroOp, Vec<usize>)>,
    /// Who asks for a delete.
    deletes: Vec<usize>,
    delete: MicroOp,
}

impl<'k> Rest<'k> {
    fn new(operations: &'k [Operation<'k>], cut: usize) -> Self {
        let mut puts: BTreeMap<&str, (MicroOp, Vec<usize>)> = BTreeMap::new();
        let mut deletes = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            match operation.request {
                MicroOp::Put { value, .. } | MicroOp::Cas { value, .. } => {
                    let put = || (MicroOp::put(operation.request.key(), value), Vec::new());
                    puts.entry(value).or_insert_with(put).1.push(place);
                }
                MicroOp::Delete { .. } => deletes.push(place),
                MicroOp::Get { .. } => {}
            }
        }
        Self { operations, cut, puts, deletes, delete: MicroOp::delete("") }
    }

    /// What those that are not at `places` may have done to help these to an order.
    fn without(&self, places: &[usize]) -> Vec<Operation<'_>> {
        let is_left_out = |who: &[usize]| who.iter().any(|at| places.binary_search(at).is_err());
        let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut something, mut nothing) = (0, 0);
        for place in places {
            let needs = Needs::until(&self.operations[*place], self.cut);
            something += usize::from(needs.something);
            nothing += usize::from(needs.nothing);
            if let Some(value) = needs.value {
                *asked.entry(value).or_default() += 1;
            }
        }
        let mut rest: Vec<(&MicroOp, usize)> = Vec::new();
        for (value, count) in asked {
            let put = self.puts.get(value).filter(|(_, who)| is_left_out(who));
            rest.extend(put.map(|(put, _)| (put, count)));
        }
        if something > 0 {
            // Two values serve all who want any, or any but a certain one.
            let values = self.puts.values().filter(|(_, who)| is_left_out(who)).take(2);
            rest.extend(values.map(|(put, _)| (put, something)));
        }
        if is_left_out(&self.deletes) {
            rest.push((&self.delete, nothing));
        }
        rest.into_iter().flat_map(|(request, count)| repeat_n(request, count)).map(free).collect()
    }
}

/// An operation of which nothing is known but what it asks for.
fn free(request: &MicroOp) -> Operation<'_> {
    Operation::open(0, request)
}

/// The value that the operation asks to write.
fn written<'h>(operation: &Operation<'h>) -> Option<&'h str> {
    match operation.request {
        MicroOp::Put { value, .. } | MicroOp::Cas { value, .. } => Some(value),
        MicroOp::Get { .. } | MicroOp::Delete { .. } => None,
    }
}

/// What the key may have to hold before an operation.
#[derive(Debug, Clone, Copy, Default)]
struct Needs<'h> {
    /// This value.
    value: Option<&'h str>,
    /// Any value, or any but a certain one.
    something: bool,
    /// No value.
    nothing: bool,
}

impl<'h> Needs<'h> {
    /// Those of an operation that is still open if it completed from `cut` on.
    fn until(operation: &Operation<'h>, cut: usize) -> Self {
        if operation.completed().is_some_and(|completed| completed < cut) {
            return Self::of(operation);
        }
        Self::of(&operation.without_outcome())
    }

    fn of(operation: &Operation<'h>) -> Self {
        let answer = match operation.outcome() {
            Outcome::Ok(answer) => answer,
            Outcome::Failed | Outcome::Unknown => operation.request,
        };
        match answer {
            MicroOp::Get { value: Observed::Value(value), .. } => {
                Self { value: Some(value), ..Self::default() }
            }
            MicroOp::Get { value: Observed::Absent, .. } => {
                Self { nothing: true, ..Self::default() }
            }
            MicroOp::Get { version, .. } => {
                Self { something: version.is_some(), ..Self::default() }
            }
            MicroOp::Put { .. } => Self::default(),
            MicroOp::Delete { existed, .. } => Self {
                value: None,
                something: *existed == Some(true),
                nothing: *existed == Some(false),
            },
            MicroOp::Cas { expect, applied, .. } => {
                let is_refused = *applied == Some(false);
                let value = match expect {
                    Expect::Value(value) if !is_refused => Some(value.as_str()),
                    _ => None,
                };
                // Which of these it is depends on what it expects; one too many does no harm.
                Self { value, something: true, nothing: true }
            }
        }
    }
}
