//! What came of one key or one object, and how.
//!
//! Every way to decide says the same three things: whether the operations have an order, which
//! one if it found one, and by which method. What holds can then be replayed, whoever said so.

use serde::Serialize;

/// How a key or an object is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By a search for an order.
    Search,
    /// By the times between which a register certainly held each of its values.
    Zones,
    /// By the versions of a key, which grow with every write.
    Versions,
    /// By the rules that forbid an order of the operations of a queue.
    QueueRules,
    /// By the rules by which a history of a stack is made smaller.
    StackRules,
    /// By the order of writes that strings show.
    ObservedOrder,
    /// By the last read alone.
    LastRead,
    /// By what each read could find at least and at most.
    Bounds,
}

/// Whether the operations of a key or an object have an order; `V` says why they have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision<V = ()> {
    /// An order exists: this one, unless the method finds none.
    ///
    /// Its elements are places in the list of operations. Each operation that was answered is in it
    /// once, and those of unknown outcome that took effect.
    Holds(Option<Vec<usize>>),
    /// No order exists.
    Violated(V),
    /// The step budget was spent first.
    Unknown,
}

/// A decision and how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided<V = ()> {
    /// How.
    pub(crate) method: Method,
    /// What came of it.
    pub(crate) decision: Decision<V>,
}

impl Method {
    /// The method in the words of a report, to follow "by".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Search => "a search for an order",
            Self::Zones => "zones of unique values",
            Self::Versions => "the order of versions",
            Self::QueueRules => "the rules of queues",
            Self::StackRules => "the rules of stacks",
            Self::ObservedOrder => "the order of writes that is observed",
            Self::LastRead => "the last read",
            Self::Bounds => "the bounds of each read",
        }
    }
}

impl<V> Decision<V> {
    /// The decision, made by `method`.
    pub(crate) fn by(self, method: Method) -> Decided<V> {
        Decided { method, decision: self }
    }
}
