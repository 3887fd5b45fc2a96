//! Is there one order of the operations that explains all results?
//!
//! A history of a key is linearizable if its operations can be put into one sequence such that
//!
//! - each operation that completed before another was invoked comes before that one,
//! - each result is what the sequential [model](crate::model) gives at that place,
//! - each operation that completed with `ok` is in it, none that failed is, and an operation of
//!   unknown outcome may be, anywhere after its invocation (Herlihy & Wing 1990).
//!
//! Linearizability is local: a history of many keys is linearizable if each key's part is, so keys
//! are checked one by one (Herlihy & Wing 1990; as a partition of the search: Horn & Kroening
//! 2015).
//!
//! # Zones
//!
//! If all values are unique and there are no versions, [`zones`] decide in O(n log n), except for
//! a few entangled cases. The rest is for the search.
//!
//! # Versions
//!
//! If versions are reported, they order the writes, and [`versions`] finds an order in O(n log n)
//! where no result is to be guessed. That there is none is for the search to say.
//!
//! # The search
//!
//! The problem is NP-complete in general, yet easy for what databases really do.
//! [`mod@search`] looks through the possible sequences (Wing & Gong 1993) and remembers the
//! configurations that it has seen, since two sequences of the same operations that end in the same
//! state have the same future (Lowe 2017).
//! What keeps it small is spread over the files:
//!
//! - [`window`]: the set of linearized operations as a frontier and a few exceptions, so that a
//!   configuration is as large as the concurrency, not as the history.
//! - [`memo`]: a configuration is also skipped if one that is at least as good was seen.
//! - [`moves`]: reads are taken at once, and an operation of unknown outcome is only tried where
//!   the next operation needs it.
//! - [`counters`]: a value that is still demanded must not be overwritten for good, and values that
//!   nobody asks for any more are all the same.
//! - [`depth`] and [`breadth`]: one is quick to find an order, the other to prove that there is
//!   none.
//! - [`problem`]: the preparation.
//!
//! Nothing here depends on time, unless somebody stops the search, or on the order of a hash map:
//! equal histories take equal steps, so a step budget gives the same verdict on every machine.
//!
//! # Explaining a violation
//!
//! That a search failed explains nothing.
//! But prefixes of a linearizable history are linearizable, hence each violation has one completion
//! at which it becomes one: the *culprit*.
//! All operations completed before it have an order, and with it there is none.
//! It is found by searching prefixes, first in growing steps from where the search certainly got
//! to, then by halving.
//!
//! # What this leaves out
//!
//! Transactions over several keys, which are not local in this sense, and a proof for a violation
//! beyond the culprit.

mod breadth;
mod conflict;
mod counters;
mod depth;
mod memo;
mod moves;
mod problem;
mod search;
mod versions;
mod window;
mod zones;

#[cfg(test)]
mod tests;

use crate::budget::Options;
use crate::decision::{Decided, Decision, Method};
use crate::operation::{Operation, Outcome};
pub(crate) use conflict::conflict;
use problem::Problem;
use search::{Answer, search};
pub(crate) use window::Window;

/// How many searches of prefixes may spend their budget before a violation is reported as it is.
const EXHAUSTED_PROBES_MAX: u32 = 3;

/// Where a history stops having an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Place of the culprit among the operations of the key.
    pub(crate) culprit: usize,
    /// How many operations completed with `ok` or `fail` before the culprit did; they have an
    /// order.
    pub(crate) prefix: usize,
    /// Such an order, as places among the operations of the key.
    pub(crate) order: Vec<usize>,
    /// Whether the culprit is the first one.
    /// If not, the budget was spent on the way: the history has no order up to the culprit, and
    /// `prefix` is only the longest one for which an order was found.
    pub(crate) is_first: bool,
}

/// Checks the operations of one key, in the order of their invocations.
///
/// Each search may spend what `options` allow.
pub(crate) fn check_key(operations: &[Operation<'_>], options: &Options) -> Decided<Violation> {
    match zones::decide(operations, usize::MAX) {
        Some(Decision::Holds(order)) => Decision::Holds(order).by(Method::Zones),
        Some(Decision::Violated(shown)) => {
            let key = Key::new(operations, options);
            let suspect = key.completed_before(shown);
            Decision::Violated(key.narrow(0, &[suspect + 1, suspect])).by(Method::Zones)
        }
        Some(Decision::Unknown) | None => by_order(operations, options),
    }
}

fn by_order(operations: &[Operation<'_>], options: &Options) -> Decided<Violation> {
    let whole = Problem::new(operations, usize::MAX);
    if let Some(order) = versions::order(&whole) {
        return Decision::Holds(Some(sources(&whole, &order))).by(Method::Versions);
    }
    by_search(operations, &whole, options).by(Method::Search)
}

fn by_search(
    operations: &[Operation<'_>],
    whole: &Problem,
    options: &Options,
) -> Decision<Violation> {
    let key = Key::new(operations, options);
    if let Some(event) = whole.impossible_demand() {
        // Most likely the demand is the culprit, and all before it is fine.
        let suspect = key.completed_before(event);
        return Decision::Violated(key.narrow(0, &[suspect + 1, suspect]));
    }
    match search(whole, options) {
        Answer::Order(order) => Decision::Holds(Some(sources(whole, &order))),
        Answer::Exhausted => Decision::Unknown,
        Answer::Impossible { reached } => {
            let good = key.completed_before(reached);
            Decision::Violated(key.narrow(good, &[]))
        }
    }
}

/// The places of the operations in the list that the problem was made from.
fn sources(problem: &Problem, order: &[u32]) -> Vec<usize> {
    order.iter().map(|op| problem.op(*op).source).collect()
}

/// What is known of a prefix.
enum Probe {
    Order(Vec<usize>),
    Impossible,
    Exhausted,
}

/// The operations of one key and their prefixes.
struct Key<'k> {
    operations: &'k [Operation<'k>],
    /// Events that complete an operation with a known outcome, and the operation's place; in order.
    /// A failure belongs here: it takes away a write that something may have read.
    completions: Vec<(usize, usize)>,
    options: &'k Options,
}

impl<'k> Key<'k> {
    fn new(operations: &'k [Operation<'k>], options: &'k Options) -> Self {
        let completion = |(place, operation): (usize, &Operation<'_>)| match operation.outcome() {
            Outcome::Ok(_) | Outcome::Failed => operation.completed().map(|event| (event, place)),
            Outcome::Unknown => None,
        };
        let mut completions: Vec<_> =
            operations.iter().enumerate().filter_map(completion).collect();
        completions.sort_unstable();
        Self { operations, completions, options }
    }

    fn completed_before(&self, event: usize) -> usize {
        self.completions.partition_point(|(completion, _)| *completion < event)
    }

    /// Finds the culprit, given that all operations together have no order.
    ///
    /// The prefix of `good` completions has an order; the prefixes of `hints` are tried first.
    fn narrow(&self, mut good: usize, hints: &[usize]) -> Violation {
        let mut bad = self.completions.len();
        // Probes stay below this: at it the answer is not an order, proven or not.
        let mut ceiling = bad;
        let mut hints = hints.iter().copied();
        let mut order = None;
        let mut stride = 1;
        let mut exhausted = 0;
        while good + 1 < ceiling && exhausted < EXHAUSTED_PROBES_MAX {
            // Far from the culprit the steps grow; past half of the rest they halve it.
            let planned = (good + stride).min(good.midpoint(ceiling));
            let hint = hints.find(|hint| (good + 1..ceiling).contains(hint));
            let probe = hint.unwrap_or(planned);
            match self.probe(probe) {
                Probe::Order(found) => {
                    (good, order) = (probe, Some(found));
                    stride *= 2;
                }
                Probe::Impossible => (bad, ceiling) = (probe, probe),
                Probe::Exhausted => {
                    ceiling = probe;
                    exhausted += 1;
                }
            }
        }
        let is_first = good + 1 == bad;
        let order = order.unwrap_or_else(|| match self.probe(good) {
            Probe::Order(found) => found,
            // Certainly the budget: `good` is known to have an order.
            Probe::Impossible | Probe::Exhausted => Vec::new(),
        });
        Violation { culprit: self.completions[bad - 1].1, prefix: good, order, is_first }
    }

    /// Searches the prefix that ends with the given number of completions.
    ///
    /// The order is one of places among the operations of the key.
    fn probe(&self, count: usize) -> Probe {
        // The cut is right after the last completion, so that later invocations do not take part.
        let cut = count.checked_sub(1).map_or(0, |last| self.completions[last].0 + 1);
        match zones::decide(self.operations, cut) {
            Some(Decision::Holds(Some(order))) => return Probe::Order(order),
            Some(Decision::Violated(_)) => return Probe::Impossible,
            _ => {}
        }
        let problem = Problem::new(self.operations, cut);
        if let Some(order) = versions::order(&problem) {
            return Probe::Order(sources(&problem, &order));
        }
        if problem.impossible_demand().is_some() {
            return Probe::Impossible;
        }
        match search(&problem, self.options) {
            Answer::Order(order) => Probe::Order(sources(&problem, &order)),
            Answer::Impossible { .. } => Probe::Impossible,
            Answer::Exhausted => Probe::Exhausted,
        }
    }
}
