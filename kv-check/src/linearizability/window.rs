//! The set of linearized operations as a sliding window.
//!
//! Number the answered operations of a key by invocation.
//! A search that linearizes operations in an order that respects real time has, at any moment,
//! linearized everything far in the past and nothing far in the future, so a bit set over the whole
//! history says almost nothing.
//! What it says fits into a base and the few exceptions around it.
//!
//! The base here is the *frontier*, one past the last operation that is linearized, and the
//! exceptions are the operations that were *left behind* it.
//! The usual mirror image, a base at the first operation that is not linearized and bits for those
//! beyond it that are, grows without limit while one slow operation holds the base: with the
//! frontier as the base that operation is one exception, however many others overtake it.
//!
//! # Invariants
//!
//! - `behind` is in increasing order and below `frontier`, and `frontier - 1` is linearized, so
//!   equal sets have equal windows.
//! - All operations left behind were open when operation `frontier - 1` was invoked: their
//!   completions come later, else they would have to precede it.
//!   So there are fewer of them than there are clients, and each of them may be taken next.

/// Which answered operations are linearized.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    frontier: u32,
    behind: Vec<u32>,
}

impl Window {
    /// One past the last operation that is linearized.
    pub(crate) fn frontier(&self) -> u32 {
        self.frontier
    }

    /// The operations below the frontier that are not linearized.
    pub(crate) fn behind(&self) -> &[u32] {
        &self.behind
    }

    /// Whether `op` is linearized.
    pub(crate) fn contains(&self, op: u32) -> bool {
        op < self.frontier && self.behind.binary_search(&op).is_err()
    }

    /// Whether exactly the first `count` operations are linearized.
    pub(crate) fn is_full(&self, count: u32) -> bool {
        self.frontier == count && self.behind.is_empty()
    }

    /// The set with `op` added, which must not be in it.
    pub(crate) fn with(&self, op: u32) -> Self {
        let mut behind = self.behind.clone();
        if op >= self.frontier {
            behind.extend(self.frontier..op);
            return Self { frontier: op + 1, behind };
        }
        behind.retain(|left| *left != op);
        assert!(behind.len() < self.behind.len(), "an operation is linearized once");
        Self { frontier: self.frontier, behind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_taking_does_not_show() {
        let forwards = [0, 1, 2, 3].iter().fold(Window::default(), |set, op| set.with(*op));
        let backwards = [3, 1, 2, 0].iter().fold(Window::default(), |set, op| set.with(*op));
        assert_eq!(forwards, backwards);
        assert!(forwards.is_full(4));
    }

    #[test]
    fn a_slow_operation_is_one_exception() {
        let window = (1..10_000).fold(Window::default(), |set, op| set.with(op));
        assert_eq!((window.frontier(), window.behind()), (10_000, &[0][..]));
        assert!(!window.is_full(10_000));
    }
}
