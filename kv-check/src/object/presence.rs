//! One element of a set: whether it is there.
//!
//! The elements of a set do not know of each other, so its history has an order exactly if that of
//! each element has (Herlihy and Wing 1990, theorem 1).

use super::{Call, Object, search};
use crate::budget::Options;
use crate::decision::Decision;
use crate::names::Names;

/// What is done with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Touch {
    /// Adds it; the result is whether it was not there.
    Add,
    /// Removes it; the result is whether it was there.
    Remove,
    /// Looks; the result is whether it is there.
    Contains,
}

/// An operation on an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PresenceAction {
    pub(crate) touch: Touch,
    /// The result; none if nobody knows.
    pub(crate) found: Option<bool>,
}

/// An element, not there at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Presence;

impl Object for Presence {
    /// Whether it is there.
    type State = bool;
    type Action = PresenceAction;

    fn initial(&self) -> bool {
        false
    }

    fn step(&self, state: &bool, action: &PresenceAction) -> Option<bool> {
        let (result, next) = match action.touch {
            Touch::Add => (!*state, true),
            Touch::Remove => (*state, false),
            Touch::Contains => (*state, *state),
        };
        action.found.is_none_or(|found| found == result).then_some(next)
    }

    fn is_observation(&self, action: &PresenceAction) -> bool {
        action.touch == Touch::Contains || action.found == Some(false)
    }

    fn describe(&self, action: &PresenceAction, _: &Names) -> (String, String) {
        let request = match action.touch {
            Touch::Add => "add",
            Touch::Remove => "remove",
            Touch::Contains => "contains",
        };
        let result = action.found.map_or_else(|| "unknown".to_owned(), |found| found.to_string());
        (request.to_owned(), result)
    }
}

/// Decides about the calls at these places if nobody knew what the others found.
pub(crate) fn decide_part(
    calls: &[Call<PresenceAction>],
    places: &[usize],
    options: &Options,
) -> Decision {
    let mut part = calls.to_vec();
    for (place, call) in part.iter_mut().enumerate() {
        if places.binary_search(&place).is_err() {
            call.action.found = None;
        }
    }
    // Who only looks and does not say what was found says nothing.
    part.retain(|call| call.action.touch != Touch::Contains || call.action.found.is_some());
    search(&Presence, &part, options)
}
