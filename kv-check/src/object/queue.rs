//! A queue or a stack of values.

use std::collections::{HashMap, HashSet, VecDeque};

use super::conflict::beside;
use super::{Call, Object, fifo, lifo};
use crate::budget::Options;
use crate::decision::Decision;
use crate::names::Names;

/// Where values are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the oldest is: a queue.
    Oldest,
    /// Where the newest is: a stack.
    Newest,
}

/// What a removal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Removal {
    /// This value.
    Value(u32),
    /// Nothing was there.
    Empty,
    /// Nobody knows.
    Unknown,
}

/// An operation of a queue or a stack. Values are numbers, equal ones are equal values; there
/// is an array as long as the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QueueAction {
    /// Adds a value.
    Add(u32),
    /// Removes one.
    Remove(Removal),
}

/// A queue or a stack, empty at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue(pub(crate) Side);

impl Object for Queue {
    /// The values, the oldest first.
    type State = VecDeque<u32>;
    type Action = QueueAction;

    fn initial(&self) -> VecDeque<u32> {
        VecDeque::new()
    }

    fn step(&self, state: &VecDeque<u32>, action: &QueueAction) -> Option<VecDeque<u32>> {
        let mut state = state.clone();
        self.apply(&mut state, action).then_some(state)
    }

    fn apply(&self, state: &mut VecDeque<u32>, action: &QueueAction) -> bool {
        let next = match (action, self.0) {
            (QueueAction::Add(value), _) => {
                state.push_back(*value);
                return true;
            }
            (QueueAction::Remove(_), Side::Oldest) => state.pop_front(),
            (QueueAction::Remove(_), Side::Newest) => state.pop_back(),
        };
        match (action, next) {
            (QueueAction::Remove(Removal::Value(value)), Some(next)) => *value == next,
            (QueueAction::Remove(Removal::Value(_)), None) => false,
            (QueueAction::Remove(Removal::Empty), next) => next.is_none(),
            (QueueAction::Remove(Removal::Unknown) | QueueAction::Add(_), _) => true,
        }
    }

    fn value(&self, action: &QueueAction) -> Option<u32> {
        match action {
            QueueAction::Add(value) | QueueAction::Remove(Removal::Value(value)) => Some(*value),
            QueueAction::Remove(Removal::Empty | Removal::Unknown) => None,
        }
    }

    fn describe(&self, action: &QueueAction, names: &Names) -> (String, String) {
        let (add, remove) = match self.0 {
            Side::Oldest => ("enqueue", "dequeue"),
            Side::Newest => ("push", "pop"),
        };
        match action {
            QueueAction::Add(value) => (format!("{add} {}", names.of(*value)), String::new()),
            QueueAction::Remove(Removal::Value(value)) => {
                (remove.to_owned(), names.of(*value).into())
            }
            QueueAction::Remove(Removal::Empty) => (remove.to_owned(), "empty".to_owned()),
            QueueAction::Remove(Removal::Unknown) => (remove.to_owned(), "unknown".to_owned()),
        }
    }

    fn bytes(&self, state: &Self::State) -> usize {
        size_of_val(state.as_slices().0) + size_of_val(state.as_slices().1)
    }

    fn is_observation(&self, action: &QueueAction) -> bool {
        matches!(action, QueueAction::Remove(Removal::Empty))
    }
}

/// Decides about some calls and the [rest](super::conflict()) of a history; nothing if the rules do not
/// know.
///
/// A removal that may have happened or not is foreign to the rules if another one found the same value.
pub(crate) fn decide_part(
    side: Side,
    calls: &[Call<QueueAction>],
    options: &Options,
) -> Option<Decision> {
    let mut removed = HashSet::new();
    let is_twice = calls.iter().any(|call| match call.action {
        QueueAction::Remove(Removal::Value(value)) => !removed.insert(value),
        QueueAction::Remove(Removal::Empty | Removal::Unknown) | QueueAction::Add(_) => false,
    });
    match side {
        _ if is_twice => None,
        Side::Oldest => fifo::decide(calls),
        Side::Newest => lifo::decide(calls, options.steps(calls.len())),
    }
}

/// The places of the calls on each value, and of each other call alone.
pub(crate) fn by_value(calls: &[Call<QueueAction>]) -> Vec<Vec<usize>> {
    let (mut groups, mut numbers): (Vec<Vec<usize>>, _) = (Vec::new(), HashMap::new());
    for (place, call) in calls.iter().enumerate() {
        let next = groups.len();
        let value = Queue(Side::Oldest).value(&call.action);
        let number = value.map_or(next, |value| *numbers.entry(value).or_insert(next));
        if number == next {
            groups.push(Vec::new());
        }
        groups[number].push(place);
    }
    groups
}

/// The calls at these places, and those of the others that may help them to an order where some do not
/// say what they removed.
///
/// Such a removal may need a value that the set does not speak of. But of those values no more can help
/// than the set has such removals: if another call removes one, or none does, leave out both. And no
/// more of such removals can help than there are values to remove that the set speaks of.
pub(crate) fn silent_part(calls: &[Call<QueueAction>], places: &[usize]) -> Vec<Call<QueueAction>> {
    let value_at = |place: usize| Queue(Side::Oldest).value(&calls[place].action);
    let is_silent = |place: usize| calls[place].action == QueueAction::Remove(Removal::Unknown);
    let spoken: HashSet<u32> = places.iter().filter_map(|place| value_at(*place)).collect();
    let mut fodder = places.iter().filter(|place| is_silent(**place)).count();
    let is_spoken = |call: &&Call<_>| match call.action {
        QueueAction::Add(value) => spoken.contains(&value),
        QueueAction::Remove(_) => false,
    };
    let mut silent = calls.iter().filter(is_spoken).count();
    let takes_one = |left: &mut usize| {
        let is_left = *left > 0;
        *left -= usize::from(is_left);
        is_left
    };
    let mut helps = |place: &usize| match calls[*place].action {
        QueueAction::Add(value) => spoken.contains(&value) || takes_one(&mut fodder),
        QueueAction::Remove(Removal::Value(value)) => spoken.contains(&value),
        QueueAction::Remove(Removal::Unknown) => takes_one(&mut silent),
        QueueAction::Remove(Removal::Empty) => false,
    };
    let rest = (0..calls.len()).filter(|place| places.binary_search(place).is_err());
    let rest: Vec<_> = rest.filter(|place| helps(place)).collect();
    beside(calls, places, rest)
}
