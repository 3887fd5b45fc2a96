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

pub(crate) use conflict::{conflict, conflict_of, with_rest};
pub(crate) use counter::{Counter, CounterAction};
pub(crate) use grow_set::{GrowSet, LastRead, SetAction};
pub(crate) use mutex::{Mutex, MutexAction};
pub(crate) use presence::{Presence, PresenceAction, Touch, decide_part as decide_element};
pub(crate) use queue::{Queue, QueueAction, Removal, Side, decide_part, silent_part};
pub(crate) use read_window::read_window;
pub(crate) use registers::{Access, Registers};
pub(crate) use search::search;
pub(crate) use string::{StringAction, Text};
pub(crate) use visit::{Visitor, visit_objects};

/// The completion of a call that nobody saw completed.
pub(crate) const PENDING: u32 = u32::MAX;

/// An operation with its place in real time.
///
/// `invoked < completed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call<A> {
    /// Position of the invocation in the history.
    pub(crate) invoked: u32,
    /// Position of the completion, or [`PENDING`]: such a call took effect at any later time, or
    /// never.
    pub(crate) completed: u32,
    /// What it did.
    pub(crate) action: A,
}

/// A sequential type.
pub(crate) trait Object {
    /// What a copy of it holds.
    type State: Clone + Eq + Hash;
    /// An operation with its result.
    type Action: fmt::Debug + Clone;

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

    /// The request and the result for people; the result is empty if there is none to speak of.
    fn describe(&self, action: &Self::Action) -> (String, String) {
        (format!("{action:?}"), String::new())
    }
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
