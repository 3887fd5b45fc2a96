//! A string that grows, or is replaced.

use std::rc::Rc;

use super::Object;
use crate::names::Names;

/// An operation of a string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    type State = Rc<String>;
    type Action = StringAction;

    fn initial(&self) -> Rc<String> {
        Rc::default()
    }

    fn step(&self, state: &Rc<String>, action: &StringAction) -> Option<Rc<String>> {
        let mut state = state.clone();
        self.apply(&mut state, action).then_some(state)
    }

    fn apply(&self, state: &mut Rc<String>, action: &StringAction) -> bool {
        match action {
            StringAction::Get(Some(seen)) => return *seen == **state,
            StringAction::Get(None) => {}
            StringAction::Put(value) => *state = Rc::new(value.clone()),
            StringAction::Append(value) => Rc::make_mut(state).push_str(value),
        }
        true
    }

    fn describe(&self, action: &StringAction, _: &Names) -> (String, String) {
        match action {
            StringAction::Get(None) => ("get".to_owned(), "unknown".to_owned()),
            StringAction::Get(Some(seen)) => ("get".to_owned(), format!("{seen:?}")),
            StringAction::Put(value) => (format!("put {value:?}"), String::new()),
            StringAction::Append(value) => (format!("append {value:?}"), String::new()),
        }
    }

    fn bytes(&self, state: &Self::State) -> usize {
        state.len()
    }

    fn is_observation(&self, action: &StringAction) -> bool {
        matches!(action, StringAction::Get(_))
    }
}
