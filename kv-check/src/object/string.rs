//! A string that grows, or is replaced.

use std::rc::Rc;

use super::Object;

/// An operation of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StringAction {
    /// Reads it; `None` if nobody knows what.
    Get(Option<String>),
    /// Replaces it.
    Put(String),
    /// Adds to its end.
    Append(String),
}

/// A string, empty at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text;

impl Object for Text {
    type State = Rc<str>;
    type Action = StringAction;

    fn initial(&self) -> Rc<str> {
        "".into()
    }

    fn step(&self, state: &Rc<str>, action: &StringAction) -> Option<Rc<str>> {
        match action {
            StringAction::Get(Some(seen)) => (**seen == **state).then(|| state.clone()),
            StringAction::Get(None) => Some(state.clone()),
            StringAction::Put(value) => Some(value.as_str().into()),
            StringAction::Append(value) => Some([&**state, value].concat().into()),
        }
    }

    fn is_observation(&self, action: &StringAction) -> bool {
        matches!(action, StringAction::Get(_))
    }
}
