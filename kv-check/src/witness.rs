//! What holds is proven: an order of the operations, replayed.
//!
//! Whoever decides that operations have an order may be wrong: the search and the rules are long,
//! and clever for the sake of speed. An order is easy to verify, and this module does it with
//! nothing in common with those who find one but the sequential type, the numbers of values and what
//! an operation did in short, which a test holds against its request and its answer:
//!
//! - each operation that was answered is in it once, and none that failed,
//! - none that completed before another was invoked comes after that one,
//! - each result is what a single copy gives at that place.
//!
//! An order that fails is a defect of this checker. The verdict is then unknown, whatever was
//! decided, and the report says so.
//!
//! O(n).

mod executions;
mod lines;
#[cfg(test)]
mod tests;

use crate::history::{Expect, MicroOp, Observed};
use crate::model::{Action, Seen, State, ValueId, Wanted};
use crate::object::{Call, Object, PENDING};
use crate::operation::{Effect, Operation, Outcome};
pub use executions::ExecutionFlaw;

/// What is wrong with an order. *The verdict is unknown*, as this checker is wrong.
///
/// Operations are named by their place among those of the key or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// A place where there is no operation, or one that failed.
    #[error("there is no operation {0} that took effect")]
    NoOperation(usize),
    /// An operation took effect more than once.
    #[error("operation {0} is in the order twice")]
    Twice(usize),
    /// An operation that was answered is not in the order.
    #[error("operation {0} is not in the order")]
    Missing(usize),
    /// An operation comes after one that was invoked when it had completed.
    #[error("operation {0} comes too late in the order")]
    TooLate(usize),
    /// A single copy would give another result.
    #[error("operation {0} has another result at its place in the order")]
    OtherResult(usize),
}

/// When an operation ran; `completed` is the greatest number if nobody knows.
#[derive(Debug, Clone, Copy)]
struct Span {
    invoked: usize,
    completed: usize,
    /// Whether it must, may or must not be in an order.
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Must,
    May,
    MustNot,
}

/// Verifies an order of the operations of a key.
pub(crate) fn replay_key(operations: &[Operation<'_>], order: &[usize]) -> Result<(), Flaw> {
    let mut copy = Copy { states: vec![State::initial()], spare: Vec::new() };
    let span = |place: usize| Span::of_operation(&operations[place]);
    real_time(operations.len(), span, order, |place| copy.apply(&operations[place]))
}

/// Verifies an order of the calls of an object.
pub(crate) fn replay_calls<O: Object>(
    object: &O,
    calls: &[Call<O::Action>],
    order: &[usize],
) -> Result<(), Flaw> {
    let mut state = object.initial();
    let span = |place: usize| Span::of_call(&calls[place]);
    real_time(calls.len(), span, order, |place| object.apply(&mut state, &calls[place].action))
}

/// Verifies who is in the order, the order of those that did not run at the same time, and with
/// `apply` whether each result is the one that the operation has there.
fn real_time(
    count: usize,
    span: impl Fn(usize) -> Span,
    order: &[usize],
    mut apply: impl FnMut(usize) -> bool,
) -> Result<(), Flaw> {
    let mut is_taken = vec![false; count];
    let (mut latest_invoked, mut result) = (0, Ok(()));
    for &place in order {
        let taken = is_taken.get_mut(place).ok_or(Flaw::NoOperation(place))?;
        if std::mem::replace(taken, true) {
            return Err(Flaw::Twice(place));
        }
        let span = span(place);
        if span.part == Part::MustNot {
            return Err(Flaw::NoOperation(place));
        }
        if span.completed < latest_invoked {
            return Err(Flaw::TooLate(place));
        }
        latest_invoked = latest_invoked.max(span.invoked);
        // Who comes too late or not at all explains why others have another result.
        if result.is_ok() && !apply(place) {
            result = Err(Flaw::OtherResult(place));
        }
    }
    if order.len() == count {
        // Each was there once, so none is missing.
        return result;
    }
    let missing = |place: &usize| !is_taken[*place] && span(*place).part == Part::Must;
    (0..count).find(missing).map_or(result, |place| Err(Flaw::Missing(place)))
}

impl Span {
    fn of_operation(operation: &Operation<'_>) -> Self {
        let (part, completed) = match operation.outcome() {
            Outcome::Ok(_) => (Part::Must, operation.completed().unwrap_or(usize::MAX)),
            Outcome::Unknown => (Part::May, usize::MAX),
            Outcome::Failed => (Part::MustNot, usize::MAX),
        };
        Self { invoked: operation.invoked(), completed, part }
    }

    fn of_call<A>(call: &Call<A>) -> Self {
        let (part, completed) = match call.completed {
            PENDING => (Part::May, usize::MAX),
            completed => (Part::Must, completed as usize),
        };
        Self { invoked: call.invoked as usize, completed, part }
    }
}

/// A single copy of a key.
///
/// A result that is left out, as whether a cas applied, may leave several states possible.
struct Copy {
    states: Vec<State>,
    /// Room for the next ones.
    spare: Vec<State>,
}

impl Copy {
    /// Whether any state is possible afterwards.
    fn apply(&mut self, operation: &Operation<'_>) -> bool {
        let readings = readings(operation);
        if let ([state], [Some(action), None]) = (&mut self.states[..], &readings) {
            let next = state.step(action);
            let is_possible = next.is_some();
            *state = next.unwrap_or_else(State::initial);
            return is_possible;
        }
        let mut after = std::mem::take(&mut self.spare);
        after.clear();
        for state in &self.states {
            for action in readings.iter().flatten() {
                let next = state.step(action);
                after.extend(next.filter(|next| !after.iter().any(|known| known.covers(next))));
            }
        }
        self.spare = std::mem::replace(&mut self.states, after);
        !self.states.is_empty()
    }
}

/// What the operation may have done.
fn readings(operation: &Operation<'_>) -> [Option<Action>; 2] {
    let action = match operation.effect {
        Effect::Get => Action::Get { seen: Seen::Anything, version: None },
        Effect::SawNothing => Action::Get { seen: Seen::Absent, version: None },
        Effect::SawValue => {
            Action::Get { seen: Seen::Value(ValueId(operation.sees)), version: None }
        }
        Effect::Put => Action::Put { value: ValueId(operation.writes), version: None },
        Effect::Delete(existed) => Action::Delete { existed },
        Effect::Cas(_) | Effect::Versioned => return readings_of_all(operation),
    };
    [Some(action), None]
}

/// What the operation may have done, from its request and its answer.
fn readings_of_all(operation: &Operation<'_>) -> [Option<Action>; 2] {
    let (answer, is_known) = match operation.outcome() {
        Outcome::Ok(answer) => (answer, true),
        Outcome::Failed | Outcome::Unknown => (operation.request, false),
    };
    let (seen, written) = (ValueId(operation.sees), ValueId(operation.writes));
    match answer {
        MicroOp::Get { value, version, .. } => {
            let seen = match value {
                Observed::Value(_) if is_known => Seen::Value(seen),
                Observed::Absent if is_known => Seen::Absent,
                _ => Seen::Anything,
            };
            [Some(Action::Get { seen, version: version.filter(|_| is_known) }), None]
        }
        MicroOp::Put { version, .. } => {
            let version = version.filter(|_| is_known);
            [Some(Action::Put { value: written, version }), None]
        }
        MicroOp::Delete { existed, .. } => {
            [Some(Action::Delete { existed: existed.filter(|_| is_known) }), None]
        }
        MicroOp::Cas { expect, applied, version, .. } => {
            let wanted = match expect {
                Expect::Value(_) => Wanted::Value(seen),
                Expect::Version(version) => Wanted::Version(*version),
                Expect::Absent => Wanted::Absent,
            };
            let version = version.filter(|_| is_known);
            let applied = applied.filter(|_| is_known).or_else(|| version.map(|_| true));
            let happened = Action::CasApplied { wanted, value: written, version };
            let refused = Action::CasRefused { wanted };
            [
                (applied != Some(false)).then_some(happened),
                (applied != Some(true)).then_some(refused),
            ]
        }
    }
}
