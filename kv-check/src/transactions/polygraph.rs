//! Registers whose order of writes nobody saw: which order, if any, leaves no forbidden cycle.
//!
//! Two writes of a key are in one order or the other, and who read one of them comes before the
//! other if that is later: a polygraph (Papadimitriou, JACM 1979). Of each choice, an alternative
//! that closes a cycle is impossible, so the other one is certain, which rules out more (Cobra: Tan
//! et al., OSDI 2020; PolySI: Huang et al., VLDB 2023). What is still open is tried, with the last
//! decision taken back when nothing is possible; each answer is certain, or there is none.
//!
//! # One graph for both
//!
//! For serializability a node is a transaction. For snapshot isolation it has two, start and
//! commit, and starts before it commits. Who wrote what another one read or overwrote commits before
//! that starts; who read what another one overwrote starts before that commits. Such an order of
//! starts and commits is an execution, and the graph has a cycle if and only if there is one without
//! adjacent edges against reads.
//!
//! Reachability is kept as a matrix of bits, so large histories are given up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::graph::{Edges, Kind, Link};
use super::history::Version;
use super::registers::Registers;
use crate::budget::{Options, Stop};

/// More nodes than this are given up: the matrix would take more than 128 MiB.
const NODES_MAX: u64 = 1 << 15;

/// More edges and choices than this are given up.
pub(crate) const EDGES_MAX: u64 = 1 << 24;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Some order leaves no forbidden cycle: this one, of nodes.
    Possible(Vec<u32>),
    /// None does; if a single choice shows it, the cycles that close with either alternative.
    Impossible(Vec<Vec<Link>>),
    /// The budget is spent, or the history is too large.
    Unknown,
}

/// Two writers of a key, the versions that they wrote, and the key.
#[derive(Debug, Clone, Copy)]
struct Choice {
    key: u32,
    writers: [u32; 2],
    versions: [Version; 2],
}

/// Looks for an order of writes; `order` has the edges of processes and of real time that count.
pub(crate) fn solve(
    registers: &Registers<'_>,
    order: &Edges,
    is_snapshot: bool,
    options: &Options,
) -> Answer {
    let states = 1 + u64::from(is_snapshot);
    let count = registers.committed.len() as u64 * states + u64::from(order.nodes) * states;
    if count > NODES_MAX || registers.first_count() > EDGES_MAX {
        return Answer::Unknown;
    }
    let Some(choices) = choices(registers, is_snapshot) else { return Answer::Unknown };
    let nodes = (u64::from(order.nodes) * states) as usize;
    let mut solver = Solver {
        registers,
        is_snapshot,
        nodes,
        words: nodes.div_ceil(64),
        reach: Vec::new(),
        edges: Vec::new(),
        choices,
        steps: options.budget_steps.unwrap_or(u64::MAX),
        stop: options.stop.clone(),
    };
    solver.add_certain(order);
    if !solver.recompute() {
        return Answer::Impossible(Vec::new());
    }
    solver.search()
}

/// All pairs of writers of a key whose order matters; none if there are too many.
fn choices(registers: &Registers<'_>, is_snapshot: bool) -> Option<Vec<Choice>> {
    let mut choices = Vec::new();
    let mut edges = 0;
    for group in registers.writes.chunk_by(|one, other| one.0 == other.0) {
        let readers: Vec<u64> = group
            .iter()
            .map(|write| registers.readers_of(write.0, Some(write.1)).len() as u64)
            .collect();
        let pairs = group.len() as u64;
        edges += pairs * (pairs + readers.iter().sum::<u64>());
        if edges > EDGES_MAX {
            return None;
        }
        for (later, (key, version, writer)) in group.iter().enumerate() {
            for (earlier, (_, other_version, other)) in group[..later].iter().enumerate() {
                // Nothing in a serial execution tells the order of two writes that nobody read.
                if is_snapshot || readers[later] + readers[earlier] > 0 {
                    let (writers, versions) = ([*other, *writer], [*other_version, *version]);
                    choices.push(Choice { key: *key, writers, versions });
                }
            }
        }
    }
    Some(choices)
}

/// An edge between nodes, and what it says; helpers of real time say nothing themselves.
#[derive(Debug, Clone, Copy)]
struct Edge {
    from: u32,
    to: u32,
    link: Link,
}

/// The targets of edges, by the node that they leave.
struct Leaving {
    begins: Vec<usize>,
    targets: Vec<u32>,
}

impl Leaving {
    fn new(nodes: usize, edges: &[Edge]) -> Self {
        let mut begins = vec![0; nodes + 1];
        edges.iter().for_each(|edge| begins[edge.from as usize + 1] += 1);
        for node in 0..nodes {
            begins[node + 1] += begins[node];
        }
        let (mut next, mut targets) = (begins.clone(), vec![0; edges.len()]);
        for edge in edges {
            targets[next[edge.from as usize]] = edge.to;
            next[edge.from as usize] += 1;
        }
        Self { begins, targets }
    }

    fn targets(&self, node: u32) -> &[u32] {
        &self.targets[self.begins[node as usize]..self.begins[node as usize + 1]]
    }
}

fn is_time_to_guess(decisions: usize) -> bool {
    decisions == 0 || decisions.is_power_of_two()
}

struct Solver<'a> {
    registers: &'a Registers<'a>,
    is_snapshot: bool,
    nodes: usize,
    words: usize,
    /// For each node, a bit for each that can be reached from it.
    reach: Vec<u64>,
    edges: Vec<Edge>,
    choices: Vec<Choice>,
    steps: u64,
    stop: Stop,
}

/// A choice that was decided without being certain.
struct Decision {
    choice: usize,
    /// How many edges there were before.
    edges: usize,
    /// Which of the alternatives is assumed.
    first: usize,
    is_second: bool,
}

impl Solver<'_> {
    /// The nodes of an edge between transactions.
    fn edge(&self, link: Link) -> Edge {
        let Link { from, to, kind, .. } = link;
        if !self.is_snapshot {
            return Edge { from, to, link };
        }
        let transactions = self.registers.committed.len() as u32;
        // Helpers have one node in use, as whatever goes through them does so at once.
        let is_helper = |node: u32| node >= transactions;
        let (from, to) = match kind {
            Kind::Against => (2 * from, 2 * to + 1),
            _ => (2 * from + u32::from(!is_helper(from)), 2 * to),
        };
        Edge { from, to, link }
    }

    fn add_certain(&mut self, order: &Edges) {
        if self.is_snapshot {
            for txn in 0..self.registers.committed.len() as u32 {
                let link = Link { from: txn, to: txn, kind: Kind::Onward, key: 0 };
                self.edges.push(Edge { from: 2 * txn, to: 2 * txn + 1, link });
            }
        }
        let links: Vec<_> = self.registers.certain().chain(order.links()).collect();
        for link in links {
            let edge = self.edge(link);
            self.edges.push(edge);
        }
    }

    /// Computes from the edges what can be reached. Whether there is no cycle.
    fn recompute(&mut self) -> bool {
        let leaving = Leaving::new(self.nodes, &self.edges);
        let order = self.topological(&leaving);
        self.reach.clear();
        self.reach.resize(self.nodes * self.words, 0);
        for node in order.iter().rev() {
            for target in leaving.targets(*node) {
                self.take_over(*node as usize, *target as usize);
            }
        }
        self.spend(self.edges.len() as u64);
        order.len() == self.nodes
    }

    /// The nodes, each after those that precede it, and as early as its transaction was invoked;
    /// a commit follows its start if it can. Without those on cycles and behind them.
    fn topological(&self, leaving: &Leaving) -> Vec<u32> {
        let mut entering = vec![0u32; self.nodes];
        self.edges.iter().for_each(|edge| entering[edge.to as usize] += 1);
        let transactions = self.registers.history.transactions();
        let when = |node: u32| {
            let txn = if self.is_snapshot { node / 2 } else { node };
            let is_commit = self.is_snapshot && node % 2 == 1;
            let txn = transactions.get(txn as usize).filter(|_| !is_commit);
            Reverse((txn.map_or(0, |txn| txn.invoked), node))
        };
        let is_first = |node: &u32| entering[*node as usize] == 0;
        let mut ready: BinaryHeap<_> = (0..self.nodes as u32).filter(is_first).map(when).collect();
        let mut order = Vec::with_capacity(self.nodes);
        while let Some(Reverse((_, node))) = ready.pop() {
            order.push(node);
            for target in leaving.targets(node) {
                entering[*target as usize] -= 1;
                if entering[*target as usize] == 0 {
                    ready.push(when(*target));
                }
            }
        }
        order
    }

    /// Decides all that is open by one order of the nodes, or else by the other alternative. Whether
    /// that closes no cycle; if it does, nothing is decided.
    fn guess(&mut self) -> bool {
        let certain = self.edges.len();
        let mut places = vec![0; self.nodes];
        let order = self.topological(&Leaving::new(self.nodes, &self.edges));
        (0..).zip(order).for_each(|(place, node)| places[node as usize] = place);
        let states = 1 + u32::from(self.is_snapshot);
        let place = |txn: u32| places[(txn * states + states - 1) as usize];
        for at in 0..self.choices.len() {
            let choice = self.choices[at];
            if [0, 1].iter().any(|first| self.is_implied(choice, *first)) {
                continue;
            }
            let first = usize::from(place(choice.writers[1]) < place(choice.writers[0]));
            let possible = [first, 1 - first].into_iter().find(|it| self.is_possible(choice, *it));
            let is_taken = possible.is_some_and(|first| self.take(choice, first));
            if !is_taken || self.steps == 0 {
                self.edges.truncate(certain);
                self.recompute();
                return false;
            }
        }
        true
    }

    fn is_possible(&self, choice: Choice, first: usize) -> bool {
        self.obstacle(choice, first).is_none()
    }

    /// Pays for so many unions of rows.
    fn spend(&mut self, unions: u64) {
        let steps = 1 + unions * self.words as u64 / 4096;
        self.steps = if self.stop.is_stopped() { 0 } else { self.steps.saturating_sub(steps) };
    }

    /// What is reached from `target`, and itself, is reached from `node`.
    fn take_over(&mut self, node: usize, target: usize) {
        let (node_row, target_row) = (node * self.words, target * self.words);
        for word in 0..self.words {
            self.reach[node_row + word] |= self.reach[target_row + word];
        }
        self.reach[node_row + target / 64] |= 1 << (target % 64);
    }

    fn reaches(&self, from: u32, to: u32) -> bool {
        let (from, to) = (from as usize, to as usize);
        self.reach[from * self.words + to / 64] & (1 << (to % 64)) != 0
    }

    /// Adds an edge. Whether it closes no cycle.
    fn add(&mut self, edge: Edge) -> bool {
        let Edge { from, to, .. } = edge;
        if from == to || self.reaches(to, from) {
            return false;
        }
        if self.reaches(from, to) {
            return true;
        }
        self.edges.push(edge);
        for node in 0..self.nodes {
            if node == from as usize || self.reaches(node as u32, from) {
                self.take_over(node, to as usize);
            }
        }
        self.spend(self.nodes as u64);
        true
    }

    /// The edges that an alternative of a choice adds: `first` is the place of the earlier writer.
    fn alternative(&self, choice: Choice, first: usize) -> impl Iterator<Item = Edge> {
        let (from, to, key) = (choice.writers[first], choice.writers[1 - first], choice.key);
        let readers = self.registers.readers_of(key, Some(choice.versions[first]));
        let readers = readers.iter().map(|read| read.2).filter(move |reader| *reader != to);
        let over = readers.map(move |from| Link { from, to, kind: Kind::Against, key });
        let write = Link { from, to, kind: Kind::Overwritten, key };
        std::iter::once(write).chain(over).map(|link| self.edge(link))
    }

    /// The first edge of an alternative that closes a cycle.
    fn obstacle(&self, choice: Choice, first: usize) -> Option<Edge> {
        self.alternative(choice, first).find(|edge| self.reaches(edge.to, edge.from))
    }

    fn is_implied(&self, choice: Choice, first: usize) -> bool {
        self.alternative(choice, first).all(|edge| self.reaches(edge.from, edge.to))
    }

    fn take(&mut self, choice: Choice, first: usize) -> bool {
        let edges: Vec<_> = self.alternative(choice, first).collect();
        edges.into_iter().all(|edge| self.add(edge))
    }

    /// Adds what is certain, until nothing more is. The choice that has no alternative, if one has
    /// none.
    fn propagate(&mut self) -> Result<(), Choice> {
        let mut changes = true;
        while changes && self.steps > 0 {
            changes = false;
            self.spend(self.choices.len() as u64);
            for at in 0..self.choices.len() {
                let choice = self.choices[at];
                let possible = [0, 1].map(|first| self.is_possible(choice, first));
                let certain = match possible {
                    [true, true] => continue,
                    [false, false] => return Err(choice),
                    [is_first, _] => usize::from(!is_first),
                };
                if !self.is_implied(choice, certain) {
                    changes = true;
                    if !self.take(choice, certain) {
                        return Err(choice);
                    }
                }
            }
        }
        Ok(())
    }

    fn search(&mut self) -> Answer {
        let mut decisions: Vec<Decision> = Vec::new();
        loop {
            let conflict = self.propagate();
            if self.steps == 0 {
                return Answer::Unknown;
            }
            match conflict {
                Err(choice) if decisions.is_empty() => {
                    let cycles = [0, 1].map(|first| self.cycle(choice, first));
                    return Answer::Impossible(cycles.into_iter().flatten().collect());
                }
                Err(_) => {
                    if !self.turn_back(&mut decisions) {
                        return Answer::Impossible(Vec::new());
                    }
                }
                // Deep in the search, a guess is worth its time only now and then.
                Ok(()) if is_time_to_guess(decisions.len()) && self.guess() => {
                    return self.possible();
                }
                Ok(()) => {
                    let Some((choice, first)) = self.pick() else { return self.possible() };
                    let edges = self.edges.len();
                    decisions.push(Decision { choice, edges, first, is_second: false });
                    // Both alternatives are possible, but the edges of one may not be together; the
                    // next round shows that.
                    self.take(self.choices[choice], first);
                }
            }
        }
    }

    /// All that matters is decided, so every order of the nodes will do.
    fn possible(&self) -> Answer {
        Answer::Possible(self.topological(&Leaving::new(self.nodes, &self.edges)))
    }

    /// A choice that is still open, and the alternative to try first: whose writer ended first.
    fn pick(&self) -> Option<(usize, usize)> {
        let is_open =
            |choice: &Choice| [0, 1].iter().all(|first| !self.is_implied(*choice, *first));
        let at = self.choices.iter().position(is_open)?;
        let transactions = self.registers.history.transactions();
        let completed = self.choices[at].writers.map(|txn| transactions[txn as usize].completed);
        Some((at, usize::from(completed[1] < completed[0])))
    }

    /// Takes back decisions up to one whose other alternative was not tried. Whether there is one.
    fn turn_back(&mut self, decisions: &mut Vec<Decision>) -> bool {
        while let Some(decision) = decisions.pop() {
            let Decision { choice, edges, first, is_second } = decision;
            if is_second {
                continue;
            }
            self.edges.truncate(edges);
            self.recompute();
            let first = 1 - first;
            decisions.push(Decision { choice, edges, first, is_second: true });
            self.take(self.choices[choice], first);
            return true;
        }
        false
    }

    /// The cycle that an alternative closes.
    fn cycle(&self, choice: Choice, first: usize) -> Option<Vec<Link>> {
        let edge = self.obstacle(choice, first)?;
        let mut links = vec![edge.link];
        let transactions = self.registers.committed.len() as u32;
        let is_told = |link: &Link| link.kind != Kind::Onward;
        for link in self.path(edge.to, edge.from).into_iter().filter(is_told) {
            links.push(link);
        }
        // Real time goes through helpers, up to the beginning of the next edge.
        for at in 0..links.len() {
            if links[at].to >= transactions {
                links[at].to = links[(at + 1) % links.len()].from;
            }
        }
        Some(links)
    }

    /// The links of a shortest path.
    fn path(&self, from: u32, to: u32) -> Vec<Link> {
        let mut leaving: Vec<Vec<usize>> = vec![Vec::new(); self.nodes];
        for (at, edge) in self.edges.iter().enumerate() {
            leaving[edge.from as usize].push(at);
        }
        let mut parents = vec![None; self.nodes];
        let mut queue = std::collections::VecDeque::from([from]);
        while let Some(node) = queue.pop_front().filter(|node| *node != to) {
            for at in &leaving[node as usize] {
                let target = self.edges[*at].to;
                if target != from && parents[target as usize].is_none() {
                    parents[target as usize] = Some(*at);
                    queue.push_back(target);
                }
            }
        }
        let mut links = Vec::new();
        let mut node = to;
        while let Some(at) = parents[node as usize].filter(|_| node != from) {
            links.push(self.edges[at].link);
            node = self.edges[at].from;
        }
        links.reverse();
        links
    }
}
