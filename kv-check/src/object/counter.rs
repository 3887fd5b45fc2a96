//! A counter: amounts are added, and the sum is read.
//!
//! Each read can be judged alone, as Jepsen does: it found at least what was surely there, and at most
//! what possibly was. If a read takes effect at some moment, an addition that is completed by then
//! surely did; one that has begun and is not completed possibly did, which may lower the sum as well.
//! So at each moment the sum has a least and a greatest value, and the bounds of a read are the
//! least and the greatest of the moments within it.
//!
//! A read that is out of bounds rules the history out. If there is none, that all of them agree on one
//! order is still to be shown, by the search for it: which amounts make a sum is as hard as the
//! subsets of sums, so with many additions that nobody saw completed it may be given up.

use super::{Call, Object, PENDING};
use crate::names::Names;

/// An operation of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CounterAction {
    /// Adds an amount, which may be below zero.
    Add(i64),
    /// Reads the sum; `None` if nobody knows what.
    Read(Option<i64>),
}

/// A counter, 0 at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counter;

impl Object for Counter {
    type State = i128;
    type Action = CounterAction;

    fn initial(&self) -> i128 {
        0
    }

    fn step(&self, state: &i128, action: &CounterAction) -> Option<i128> {
        match action {
            CounterAction::Add(amount) => Some(state + i128::from(*amount)),
            CounterAction::Read(found) => {
                found.is_none_or(|found| i128::from(found) == *state).then_some(*state)
            }
        }
    }

    fn is_observation(&self, action: &CounterAction) -> bool {
        matches!(action, CounterAction::Read(_))
    }

    fn describe(&self, action: &CounterAction, _: &Names) -> (String, String) {
        match action {
            CounterAction::Add(amount) => (format!("add {amount}"), String::new()),
            CounterAction::Read(None) => ("read".to_owned(), "unknown".to_owned()),
            CounterAction::Read(Some(found)) => ("read".to_owned(), found.to_string()),
        }
    }
}

/// A read that found what it could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfBounds {
    /// Its place.
    pub(crate) place: usize,
    /// What it found.
    pub(crate) found: i64,
    /// The least it could.
    pub(crate) low: i128,
    /// The most it could.
    pub(crate) high: i128,
}

/// The reads of a counter, 0 at first, that are out of bounds, as they were completed.
///
/// O(n log n).
pub(crate) fn out_of_bounds(calls: &[Call<CounterAction>]) -> Vec<OutOfBounds> {
    let mut events: Vec<_> = (0..calls.len())
        .flat_map(|place| [(calls[place].invoked, place), (calls[place].completed, place)])
        .filter(|(position, _)| *position != PENDING)
        .collect();
    events.sort_unstable();
    // What is completed, and of amounts below zero and above what is under way.
    let (mut done, mut below, mut above) = (0_i128, 0_i128, 0_i128);
    let (mut lows, mut highs) = (Extremes::default(), Extremes::default());
    let mut found_wrong = Vec::new();
    for (position, place) in events {
        let call = &calls[place];
        match call.action {
            CounterAction::Add(amount) => {
                let amount = i128::from(amount);
                let open = if amount < 0 { &mut below } else { &mut above };
                if position == call.invoked {
                    *open += amount;
                } else {
                    *open -= amount;
                    done += amount;
                }
            }
            CounterAction::Read(Some(found)) if position == call.completed => {
                // Those of highs are turned around.
                let (low, high) = (lows.least(call.invoked), -highs.least(call.invoked));
                if !(low..=high).contains(&i128::from(found)) {
                    found_wrong.push(OutOfBounds { place, found, low, high });
                }
            }
            CounterAction::Read(_) => {}
        }
        lows.push(position, done + below);
        highs.push(position, -(done + above));
    }
    found_wrong
}

/// The least value since any moment, of values that come one after the other.
#[derive(Default)]
struct Extremes(Vec<(u32, i128)>);

impl Extremes {
    fn push(&mut self, position: u32, value: i128) {
        // Whoever is greater and older is never the least again.
        while self.0.pop_if(|(_, last)| *last >= value).is_some() {}
        self.0.push((position, value));
    }

    /// Since `position`, which had a value.
    fn least(&self, position: u32) -> i128 {
        self.0[self.0.partition_point(|(at, _)| *at < position)].1
    }
}
