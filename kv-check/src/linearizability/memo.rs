//! The configurations that the search has seen, none of which it needs to enter again.
//!
//! A configuration is what the past leaves to the future: the state of the key, the answered
//! operations that are linearized, and the open operations that are.
//! The history from there on depends on nothing else, so one visit is enough (Lowe 2017).
//!
//! More than equality is used.
//! Let two configurations have the same value and the same answered operations.
//! If the first used a subset of the open operations of the second, and its knowledge of the
//! version covers that of the second, then whatever order completes the second also completes the
//! first: open operations are never obliged to happen, and the model is monotone.
//! So once the first was searched in vain, the second is in vain too.
//!
//! A subset by *kind* is enough, where open operations of one [`Kind`] want the same and write
//! values that no operation which is left can tell apart.
//! Both configurations have the same horizon, so the same operations of each kind are available,
//! and the first has at least as many of each left as the second.
//! (A kind may be finer in the first configuration, where some open cas that could tell two values
//! apart is not used yet; that cas is not obliged to happen, so the operations serve as well.)
//!
//! A configuration is entered before it is searched, and yet finding it always means that its
//! search is over: each move adds an answered operation, so no configuration is reached from one
//! with the same answered operations.

use std::collections::HashMap;
use std::rc::Rc;

use super::window::Window;
use crate::model::{State, ValueId, Version, Wanted};

/// What the past leaves to the future.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// The state of the key.
    pub(super) state: State,
    /// The answered operations that are linearized.
    pub(super) window: Window,
    /// The open operations that are linearized, in increasing order.
    pub(super) used: Rc<[u32]>,
}

/// What an open operation wants and writes, in numbers that stand for all indistinguishable values.
pub(super) type Kind = (Option<Wanted>, Option<ValueId>);

/// How many open operations of each kind are linearized, by kind.
pub(super) type Used = Vec<(Kind, usize)>;

/// What the configurations of one value and one window know and used.
type Seen = Vec<(Version, Used)>;

/// All configurations that were entered, except those that a better one covers.
#[derive(Debug, Default)]
pub(super) struct Memo {
    // Only ever asked for one key, so the order of the map never matters.
    seen: HashMap<(Option<ValueId>, Window), Seen>,
}

impl Config {
    /// The configuration before the first operation.
    pub(super) fn initial() -> Self {
        Self { state: State::initial(), window: Window::default(), used: Rc::from([]) }
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let lists = size_of_val(self.window.behind()) + size_of_val(&self.used[..]);
        size_of::<Self>() + self.state.bytes() + lists
    }
}

impl Memo {
    /// Enters a configuration that used so many open operations; `false` if searching it is
    /// certainly in vain.
    pub(super) fn enter(&mut self, config: &Config, used: Used) -> bool {
        let key = (config.state.value, config.window.clone());
        let seen = self.seen.entry(key).or_default();
        let version = &config.state.version;
        if seen.iter().any(|(v, u)| v.covers(version) && is_at_most(u, &used)) {
            return false;
        }
        seen.retain(|(v, u)| !(version.covers(v) && is_at_most(&used, u)));
        seen.push((version.clone(), used));
        true
    }
}

/// Whether `few` has no more of any kind than `many`.
fn is_at_most(few: &Used, many: &Used) -> bool {
    let mut rest = many.iter();
    few.len() <= many.len()
        && few.iter().all(|(kind, count)| {
            rest.find(|(other, _)| other == kind).is_some_and(|(_, enough)| count <= enough)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_open_operations_cover_more() {
        let mut memo = Memo::default();
        let mut enter = |values: &[(u32, usize)]| {
            let used = values.iter().map(|(value, count)| ((None, Some(ValueId(*value))), *count));
            memo.enter(&Config::initial(), used.collect())
        };
        assert!(enter(&[(2, 1), (5, 2)]));
        assert!(!enter(&[(2, 1), (4, 1), (5, 2)]));
        assert!(!enter(&[(2, 1), (5, 3)]));
        assert!(enter(&[(2, 1), (5, 1)]));
        assert!(enter(&[(5, 4)]));
        assert!(!enter(&[(2, 1), (5, 4)]));
        assert!(enter(&[]));
        assert!(!enter(&[(5, 1)]));
    }
}
