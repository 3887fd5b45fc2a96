//! Objects of any sequential type: what their operations did, and whether one order explains it.
//!
//! A [`Call`] is an operation with its place in real time. An [`Object`] says what a single copy
//! would do; [`search()`] looks for an order (Wing and Gong 1993, with the memory of Lowe 2017).
//!
//! # What this leaves out
//!
//! Keys with versions, which have a search of their own: see [`crate::check()`].

mod conflict;
pub(crate) mod counter;
pub(crate) mod fifo;
pub(crate) mod grow_set;
pub(crate) mod lifo;
mod mutex;
pub(crate) mod observed;
mod presence;
mod queue;
mod read_window;
mod registers;
mod search;
mod stay;
mod string;
#[cfg(test)]
mod tests;
mod visit;

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU64;

use crate::names::Names;
pub(crate) use conflict::{conflict, conflict_of, conflict_of_groups, with_rest};
pub(crate) use counter::{Counter, CounterAction};
pub(crate) use grow_set::{GrowSet, LastRead, SetAction};
pub(crate) use mutex::{Mutex, MutexAction};
pub(crate) use presence::{Presence, PresenceAction, Touch, decide_part as decide_element};
pub(crate) use queue::{Queue, QueueAction, Removal, Side, by_value, decide_part, silent_part};
pub(crate) use read_window::read_window;
pub(crate) use registers::{Access, Registers};
pub(crate) use search::search;
pub(crate) use string::{StringAction, Text};
pub(crate) use visit::{Visitor, visit_objects};

/// The completion of a call that nobody saw completed.
pub(crate) const PENDING: u32 = u32::MAX;

/// Who made a call, if anybody knows: the number of a process.
///
/// Kept as that number and one, so that it takes no more room; the last number there is counts as
/// nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Caller(Option<NonZeroU64>);

impl Caller {
    /// Its number.
    pub(crate) fn number(self) -> Option<u64> {
        self.0.map(|next| next.get() - 1)
    }
}

impl From<u64> for Caller {
    fn from(number: u64) -> Self {
        Self(NonZeroU64::new(number.wrapping_add(1)))
    }
}

/// Numbers below zero are nobody's.
impl From<i64> for Caller {
    fn from(number: i64) -> Self {
        u64::try_from(number).map_or_else(|_| Self::default(), Self::from)
    }
}

/// An operation with its place in real time.
///
/// `invoked < completed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call<A> {
    /// Who made it.
    pub(crate) caller: Caller,
    /// Position of the invocation in the history: the line where a line is an event, else how many
    /// events are before it.
    pub(crate) invoked: u32,
    /// Position of the completion, or [`PENDING`]: such a call took effect at any later time, or
    /// never.
    pub(crate) completed: u32,
    /// What it did.
    pub(crate) action: A,
}

impl<A> Call<A> {
    /// A call of nobody.
    pub(crate) fn new(invoked: u32, completed: u32, action: A) -> Self {
        Self { caller: Caller::default(), invoked, completed, action }
    }

    /// The call with a part of its action, and the other part.
    pub(crate) fn split<B, C>(self, split: impl FnOnce(A) -> (B, C)) -> (Call<B>, C) {
        let Self { caller, invoked, completed, action } = self;
        let (action, other) = split(action);
        (Call { caller, invoked, completed, action }, other)
    }
}

/// A sequential type.
pub(crate) trait Object {
    /// What a copy of it holds.
    type State: Clone + Eq + Hash;
    /// An operation with its result.
    type Action: fmt::Debug + Clone + Eq + Hash;

    /// What it holds at first.
    fn initial(&self) -> Self::State;

    /// What it holds after `action`, or none if the result is not the one that `action` has.
    fn step(&self, state: &Self::State, action: &Self::Action) -> Option<Self::State>;

    /// The same without a copy of the state, for who has no use for the old one. Whether the result
    /// is the one that `action` has; if not, the state may be anything.
    fn apply(&self, state: &mut Self::State, action: &Self::Action) -> bool {
        let next = self.step(state, action);
        next.is_some_and(|next| {
            *state = next;
            true
        })
    }

    /// About what a state takes in memory, in bytes.
    fn bytes(&self, _state: &Self::State) -> usize {
        size_of::<Self::State>()
    }

    /// Whether `action` changes nothing, wherever it is legal.
    fn is_observation(&self, action: &Self::Action) -> bool;

    /// The value that `action` adds or takes away, if all operations on it can be left out of any
    /// legal sequence and the rest is legal still.
    fn value(&self, _action: &Self::Action) -> Option<u32> {
        None
    }

    /// The request and the result for people, with the names of its values; the result is empty if
    /// there is none to speak of.
    fn describe(&self, action: &Self::Action, names: &Names) -> (String, String);
}

/// Whether nobody was completed before somebody was invoked who stands earlier.
fn respects_real_time<A>(calls: &[Call<A>], order: &[usize]) -> bool {
    let mut latest = 0;
    order.iter().all(|place| {
        let call = &calls[*place];
        latest = latest.max(call.invoked);
        latest < call.completed
    })
}
