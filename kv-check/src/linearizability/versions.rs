//! Keys whose versions are reported: an order from the versions, without a search.
//!
//! Versions of a key grow with every write. So a version is a place in the order: that of the write
//! which took it and, behind it, of the gets that saw it; together they are a *group*. The
//! operations that name no version are put between and into the groups in one pass:
//!
//! - A write of unknown outcome is taken if a get saw its value at a version that no other write
//!   reports.
//! - What changes nothing (a read that found nothing, a refused cas) is taken as soon as it is
//!   right and nothing that is left completed before it was invoked.
//! - A delete is taken between two groups, and no sooner than it must be: if it completed before
//!   some operation of the next group was invoked, or if the key has to be absent there. Of several
//!   the one that completed first is taken, and one of unknown outcome if there is no other.
//!
//! Every operation is replayed as it is taken, in the [model](crate::model) and in real time. So
//! what comes out is an order even where the rule guesses, and if nothing comes out, nothing is
//! known.
//!
//! O(n log n) for the sort by version; the rest is as many steps as there are operations, times
//! those that wait, which are at most the concurrent ones and those that found nothing.
//!
//! # What this leaves out
//!
//! Writes that took effect without telling their version, and that no order exists: both are for
//! the search.

use super::problem::Problem;
use crate::model::{Action, Seen, State, Wanted};

/// The numbers of all answered operations in an order, and of the open ones that it needs; none if
/// the rule finds none.
pub(super) fn order(problem: &Problem) -> Option<Vec<u32>> {
    if problem.version_limit == 0 {
        return None;
    }
    let sorted = Sorted::new(problem)?;
    [false, true].into_iter().find_map(|is_eager| sorted.order(problem, is_eager))
}
/// An operation that names the version which it wrote or saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    version: u64,
    /// A get comes behind the write.
    is_get: bool,
    op: u32,
}

/// The answered operations by what the rule does with them.
#[derive(Debug, Default)]
struct Sorted {
    /// In the order that the rule gives them.
    members: Vec<Member>,
    /// Those that change nothing and name no version that they found, by invocation.
    others: Vec<u32>,
    /// Those that perhaps found something, by invocation.
    deletes: Vec<u32>,
}

impl Sorted {
    /// None if some operation is not for the rule.
    fn new(problem: &Problem) -> Option<Self> {
        let mut sorted = Self::default();
        for op in 0..problem.answered {
            let found = problem.op(op);
            if found.alternative.is_some() {
                return None;
            }
            let mut member = |version: Option<u64>, is_get| {
                sorted.members.push(Member { version: version?, is_get, op });
                Some(())
            };
            match found.action {
                Action::Get { version: Some(version), .. } => member(Some(version), true)?,
                Action::Put { version, .. } | Action::CasApplied { version, .. } => {
                    member(version, false)?;
                }
                Action::Get { version: None, .. }
                | Action::CasRefused { .. }
                | Action::Delete { existed: Some(false) } => sorted.others.push(op),
                Action::Delete { .. } => sorted.deletes.push(op),
            }
        }
        sorted.members.sort_unstable();
        Some(sorted)
    }

    /// The order, with deletes either as early or as late as possible.
    fn order(&self, problem: &Problem, is_eager: bool) -> Option<Vec<u32>> {
        let mut replay = Replay::new(problem, self, is_eager);
        let groups = self.groups(problem)?;
        let completed = |op: &u32| problem.op(*op).completed;
        // From each operation on; at the end nothing is left.
        let mut horizons = vec![usize::MAX];
        for op in groups.iter().flatten().rev() {
            let horizon = completed(op).min(horizons[horizons.len() - 1]);
            horizons.push(horizon);
        }
        for group in &groups {
            replay.gap(group, *horizons.last()?)?;
            for op in group {
                replay.observe(horizons.pop()?, problem.op(*op).invoked)?;
                replay.take(*op)?;
            }
        }
        replay.gap(&[], usize::MAX)?;
        replay.observe(usize::MAX, usize::MAX)?;
        Some(replay.order)
    }

    /// The operations of each version, the write first.
    fn groups(&self, problem: &Problem) -> Option<Vec<Vec<u32>>> {
        let mut writers = open_writers(problem);
        let mut groups = Vec::new();
        for group in self.members.chunk_by(|one, other| one.version == other.version) {
            let mut ops: Vec<u32> = group.iter().map(|member| member.op).collect();
            if group[0].is_get {
                let value = ops.iter().find_map(|op| seen_value(&problem.op(*op).action))?;
                ops.insert(0, writers[value].take()?);
            }
            groups.push(ops);
        }
        Some(groups)
    }
}

/// For each value that can be told from others, an open operation that writes it.
fn open_writers(problem: &Problem) -> Vec<Option<u32>> {
    let mut writers = vec![None; problem.value_count];
    for op in problem.open().rev() {
        if let Some(value) = problem.op(op).action.written() {
            writers[value.0 as usize] = Some(op);
        }
    }
    writers
}

fn seen_value(action: &Action) -> Option<usize> {
    match action {
        Action::Get { seen: Seen::Value(value), .. } => Some(value.0 as usize),
        _ => None,
    }
}

/// Operations that wait until they fit, in the order of their invocations.
struct Waiting<'w> {
    all: &'w [u32],
    /// How many of them were let in.
    entered: usize,
    /// Those of them that are not taken.
    left: Vec<u32>,
}

impl<'w> Waiting<'w> {
    fn new(all: &'w [u32]) -> Self {
        Self { all, entered: 0, left: Vec::new() }
    }

    /// Lets those in that were invoked before the event at `end`.
    fn enter(&mut self, problem: &Problem, end: usize) {
        let next = self.all[self.entered..].iter().copied();
        let count = self.left.len();
        self.left.extend(next.take_while(|op| problem.op(*op).invoked < end));
        self.entered += self.left.len() - count;
    }
}

/// The order so far.
struct Replay<'p> {
    problem: &'p Problem,
    order: Vec<u32>,
    state: State,
    /// The latest invocation in the order.
    latest: usize,
    others: Waiting<'p>,
    deletes: Waiting<'p>,
    open_deletes: Vec<u32>,
    /// Whether deletes are taken as early as possible.
    is_eager: bool,
}

impl<'p> Replay<'p> {
    fn new(problem: &'p Problem, sorted: &'p Sorted, is_eager: bool) -> Self {
        let is_delete = |op: &u32| matches!(problem.op(*op).action, Action::Delete { .. });
        Self {
            problem,
            order: Vec::with_capacity(problem.answered as usize),
            state: State::initial(),
            latest: 0,
            others: Waiting::new(&sorted.others),
            deletes: Waiting::new(&sorted.deletes),
            open_deletes: problem.open().rev().filter(is_delete).collect(),
            is_eager,
        }
    }

    /// Appends an operation if it is legal and nothing in the order was invoked after it completed.
    fn take(&mut self, op: u32) -> Option<()> {
        let taken = self.problem.op(op);
        self.latest = self.latest.max(taken.invoked);
        if taken.completed < self.latest {
            return None;
        }
        self.state = self.state.step(&taken.action)?;
        self.order.push(op);
        Some(())
    }

    /// Takes what changes nothing, is right, and may come before all that completes from `horizon`
    /// on; none if something would be left that completed before `next`, when what comes next was
    /// invoked.
    fn observe(&mut self, horizon: usize, next: usize) -> Option<()> {
        let problem = self.problem;
        self.others.enter(problem, horizon);
        self.deletes.enter(problem, horizon);
        let waiting = std::mem::take(&mut self.others.left);
        // What comes next completes from here on.
        let completions = self.deletes.left.iter().map(|op| problem.op(*op).completed);
        let mut first = completions.fold(horizon, usize::min);
        for other in waiting {
            let op = problem.op(other);
            if op.invoked < first && self.state.step(&op.action).is_some() {
                self.take(other)?;
            } else {
                first = first.min(op.completed);
                self.others.left.push(other);
            }
        }
        let is_late = |op: &u32| problem.op(*op).completed < next;
        (!self.others.left.iter().any(is_late)).then_some(())
    }

    /// Takes the deletes that have to be between what was taken and the next group, from which on
    /// operations complete at `horizon`.
    ///
    /// The group is empty at the end, when everything has to be there.
    fn gap(&mut self, group: &[u32], horizon: usize) -> Option<()> {
        let problem = self.problem;
        let ops = || group.iter().map(|op| problem.op(*op));
        let due = ops().map(|op| op.invoked).max().unwrap_or(usize::MAX);
        self.observe(horizon, self.latest)?;
        let is_due = |op: &u32| problem.op(*op).completed < due;
        let wanted = ops().next().and_then(|first| first.action.wanted());
        let needs_absence = |op: &u32| problem.op(*op).action.needed() == Some(None) && is_due(op);
        let has_to_be_absent = wanted == Some(Wanted::Absent)
            || self.others.left.iter().any(needs_absence)
            || self.is_eager && wanted.is_none() && !self.deletes.left.is_empty();
        if has_to_be_absent && self.state.value.is_some() {
            self.delete(horizon)?;
        }
        while self.deletes.left.iter().any(is_due) {
            self.delete(horizon)?;
        }
        Some(())
    }

    /// Takes the delete that completed first or, if there is none, one of unknown outcome.
    fn delete(&mut self, horizon: usize) -> Option<()> {
        let problem = self.problem;
        let left = self.deletes.left.iter().enumerate();
        let first = left.min_by_key(|(_, op)| problem.op(**op).completed);
        let delete = match first.map(|(place, _)| place) {
            Some(place) => self.deletes.left.remove(place),
            None => self.open_deletes.pop_if(|op| problem.op(*op).invoked < horizon)?,
        };
        self.take(delete)?;
        self.observe(horizon, self.latest)
    }
}
