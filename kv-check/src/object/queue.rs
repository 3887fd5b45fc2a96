//! A queue or a stack of values.

use super::Object;

/// Where values are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the oldest is: a queue.
    Oldest,
    /// Where the newest is: a stack.
    Newest,
}

/// What a removal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// This value.
    Value(u32),
    /// Nothing was there.
    Empty,
    /// Nobody knows.
    Unknown,
}

/// An operation of a queue or a stack. Values are numbers; equal ones are equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    type State = Vec<u32>;
    type Action = QueueAction;

    fn initial(&self) -> Vec<u32> {
        Vec::new()
    }

    fn step(&self, state: &Vec<u32>, action: &QueueAction) -> Option<Vec<u32>> {
        let mut state = state.clone();
        let next = match self.0 {
            Side::Oldest => state.first(),
            Side::Newest => state.last(),
        };
        match (action, next) {
            (QueueAction::Add(value), _) => {
                state.push(*value);
                return Some(state);
            }
            (QueueAction::Remove(Removal::Empty | Removal::Unknown), None) => return Some(state),
            (QueueAction::Remove(Removal::Unknown), Some(_)) => {}
            (QueueAction::Remove(Removal::Value(value)), Some(next)) if value == next => {}
            (QueueAction::Remove(_), _) => return None,
        }
        match self.0 {
            Side::Oldest => state.remove(0),
            Side::Newest => state.remove(state.len() - 1),
        };
        Some(state)
    }

    fn is_observation(&self, action: &QueueAction) -> bool {
        matches!(action, QueueAction::Remove(Removal::Empty))
    }
}
