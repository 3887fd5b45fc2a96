//! Executions: orders of transactions that show that a level holds.
//!
//! For serializability that is an order of all transactions that took effect, each of which sees
//! what those before it left behind. For snapshot isolation it is an order of their starts and
//! commits: each sees what was committed when it started, and no two that wrote the same key ran
//! at the same time. Weaker levels forbid what no execution of this kind shows, so there is none
//! for them unless a stronger level holds.
//!
//! Where lists give all edges, an order that suits them is such an execution. It is replayed before
//! anybody hears of it, see `witness`.

use serde::{Serialize, Serializer};

use super::cycle::rule;
use super::graph::{Components, Edges, Graph, Kind};
use super::history::index;
use super::level::{Cycle, Level};

/// What happens in an execution, with the place of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A transaction starts and commits, with nothing in between.
    Run(u32),
    /// It sees what is committed, and does all that it does.
    Start(u32),
    /// What it wrote can be seen.
    Commit(u32),
}

/// An order that shows that a level holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Which level.
    pub level: Level,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// The levels of serial executions, those first that imply the others.
pub(crate) const SERIAL: [Level; 3] =
    [Level::StrictSerializable, Level::StrongSessionSerializable, Level::Serializable];

/// The levels of snapshot isolation, those first that imply the others.
pub(crate) const SNAPSHOT: [Level; 3] = [
    Level::StrongSnapshotIsolation,
    Level::StrongSessionSnapshotIsolation,
    Level::SnapshotIsolation,
];

impl Step {
    /// The place of the transaction.
    #[must_use]
    pub fn txn(self) -> u32 {
        match self {
            Self::Run(txn) | Self::Start(txn) | Self::Commit(txn) => txn,
        }
    }
}

/// As the name of its level.
impl Serialize for Execution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.level.serialize(serializer)
    }
}

impl Execution {
    /// One after the other along the edges of a graph that has no cycle that the level forbids.
    pub(crate) fn serial(graph: &Graph, level: Level, committed: &[bool]) -> Self {
        let rule = rule(Cycle::G2, level.cycles().1);
        let nodes = Components::new(graph, rule, None).order();
        Self::of_nodes(level, &nodes, committed)
    }

    /// Starts and commits along the edges of such a graph.
    ///
    /// A transaction has two nodes, its start and its commit, and an edge against a read goes from
    /// the start to the commit, any other from the commit to the start. A helper has two as well,
    /// for what comes into it by an edge against a read and for the rest, as that says where the
    /// edges that leave it begin and end.
    pub(crate) fn snapshot(graph: &Graph, level: Level, committed: &[bool]) -> Self {
        let rule = rule(Cycle::G2, level.cycles().1);
        let mut edges = Edges::new(2 * graph.nodes() as usize);
        let is_txn = |node: u32| node < graph.transactions;
        for node in 0..graph.nodes() {
            if is_txn(node) {
                edges.add(2 * node, 2 * node + 1, Kind::Onward, 0);
            }
            for edge in graph.leaving(node) {
                let (kind, target) = (graph.kind(edge), graph.target(edge));
                if rule.step(0, kind).is_none() {
                    continue;
                }
                for half in [0, 1] {
                    if is_txn(node) && (kind == Kind::Against) != (half == 0) {
                        continue;
                    }
                    let other = if is_txn(target) { 1 - half } else { half };
                    edges.add(2 * node + half, 2 * target + other, Kind::Onward, 0);
                }
            }
        }
        let halves = Graph::new(edges.nodes as usize, &edges);
        let nodes = Components::new(&halves, rule, None).order();
        Self::of_nodes(level, &nodes, committed)
    }

    /// From nodes in their order, which are those of transactions or of their starts and commits.
    /// There may be others; and transactions that took no effect are left out.
    pub(crate) fn of_nodes(level: Level, nodes: &[u32], committed: &[bool]) -> Self {
        let is_serial = level.cycles().0 == Cycle::G2;
        let step = |node: &u32| {
            let step = match (is_serial, node % 2) {
                (true, _) => Step::Run(*node),
                (false, 0) => Step::Start(node / 2),
                (false, _) => Step::Commit(node / 2),
            };
            let is_committed =
                step.txn() < index(committed.len()) && committed[step.txn() as usize];
            is_committed.then_some(step)
        };
        Self { level, steps: nodes.iter().filter_map(step).collect() }
    }
}
