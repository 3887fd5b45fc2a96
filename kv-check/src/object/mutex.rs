//! A lock that one holds at a time.

use super::Object;
use crate::names::Names;

/// An operation of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MutexAction {
    /// Takes it, which nobody held.
    Acquire,
    /// Gives it back, which somebody held.
    Release,
}

/// A lock, free at first. Who holds it does not matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mutex;

impl Object for Mutex {
    /// Whether somebody holds it.
    type State = bool;
    type Action = MutexAction;

    fn initial(&self) -> bool {
        false
    }

    fn step(&self, state: &bool, action: &MutexAction) -> Option<bool> {
        let is_acquire = *action == MutexAction::Acquire;
        (*state != is_acquire).then_some(is_acquire)
    }

    fn is_observation(&self, _: &MutexAction) -> bool {
        false
    }

    fn describe(&self, action: &MutexAction, _: &Names) -> (String, String) {
        let request = match action {
            MutexAction::Acquire => "acquire",
            MutexAction::Release => "release",
        };
        (request.to_owned(), String::new())
    }
}
