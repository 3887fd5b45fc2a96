//! A graph of transactions whose edges say why one comes before the other.
//!
//! Nodes beyond the transactions are helpers that stand for many edges: real time is a chain of
//! them, see [`super::order`]. An edge into a helper has the kind of all edges that it stands for;
//! edges that leave one are [`Kind::Onward`].
//!
//! Components are those of Tarjan (SICOMP 1972), without recursion. A [`Rule`] says which edges a
//! path may take; if edges against reads must not be adjacent, each node has two states, so that
//! the last edge is known.

/// Why a transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It wrote a version that the other one overwrote.
    Overwritten = 1,
    /// It wrote a version that the other one read.
    Read = 2,
    /// It read a version that the other one overwrote: an anti-dependency.
    Against = 4,
    /// The same process ran it before.
    Process = 8,
    /// It completed before the other one was invoked.
    RealTime = 16,
    /// The rest of an edge through a helper.
    Onward = 32,
}

/// An edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) kind: Kind,
    /// The key that it is about, if it is about one.
    pub(crate) key: u32,
}

/// Edges in the making.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    from: Vec<u32>,
    to: Vec<u32>,
    kinds: Vec<Kind>,
    keys: Vec<u32>,
    /// How many nodes there are.
    pub(crate) nodes: u32,
}

impl Edges {
    pub(crate) fn new(transactions: usize) -> Self {
        Self { nodes: super::history::index(transactions), ..Self::default() }
    }

    /// A new helper.
    pub(crate) fn helper(&mut self) -> u32 {
        self.nodes += 1;
        self.nodes - 1
    }

    /// All edges, to helpers and from them as well.
    pub(crate) fn links(&self) -> impl Iterator<Item = Link> {
        (0..self.from.len()).map(|edge| Link {
            from: self.from[edge],
            to: self.to[edge],
            kind: self.kinds[edge],
            key: self.keys[edge],
        })
    }

    pub(crate) fn add(&mut self, from: u32, to: u32, kind: Kind, key: u32) {
        self.from.push(from);
        self.to.push(to);
        self.kinds.push(kind);
        self.keys.push(key);
    }
}

/// A graph, by the node from which edges go.
#[derive(Debug)]
pub(crate) struct Graph {
    /// How many of the nodes are transactions; they come first.
    pub(crate) transactions: u32,
    begins: Vec<u32>,
    targets: Vec<u32>,
    kinds: Vec<Kind>,
    keys: Vec<u32>,
}

impl Graph {
    pub(crate) fn new(transactions: usize, edges: &Edges) -> Self {
        let (nodes, count) = (edges.nodes as usize, edges.from.len());
        let mut begins = vec![0; nodes + 1];
        for from in &edges.from {
            begins[*from as usize + 1] += 1;
        }
        for node in 0..nodes {
            begins[node + 1] += begins[node];
        }
        let mut next = begins.clone();
        let (mut targets, mut keys) = (vec![0; count], vec![0; count]);
        let mut kinds = vec![Kind::Onward; count];
        for edge in 0..count {
            let place = &mut next[edges.from[edge] as usize];
            targets[*place as usize] = edges.to[edge];
            kinds[*place as usize] = edges.kinds[edge];
            keys[*place as usize] = edges.keys[edge];
            *place += 1;
        }
        let transactions = super::history::index(transactions);
        Self { transactions, begins, targets, kinds, keys }
    }

    pub(crate) fn nodes(&self) -> u32 {
        super::history::index(self.begins.len() - 1)
    }

    /// The edges that leave a node.
    pub(crate) fn leaving(&self, node: u32) -> std::ops::Range<u32> {
        self.begins[node as usize]..self.begins[node as usize + 1]
    }

    pub(crate) fn target(&self, edge: u32) -> u32 {
        self.targets[edge as usize]
    }

    pub(crate) fn kind(&self, edge: u32) -> Kind {
        self.kinds[edge as usize]
    }

    pub(crate) fn key(&self, edge: u32) -> u32 {
        self.keys[edge as usize]
    }
}

/// Which edges a path may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    kinds: u8,
    /// Whether no two edges against reads may follow each other.
    is_spaced: bool,
}

impl Rule {
    pub(crate) fn of(kinds: &[Kind]) -> Self {
        let kinds = kinds.iter().fold(Kind::Onward as u8, |all, kind| all | *kind as u8);
        Self { kinds, is_spaced: false }
    }

    /// The same, but no two edges against reads may follow each other.
    pub(crate) fn spaced(self) -> Self {
        Self { is_spaced: true, ..self }
    }

    pub(crate) fn without(self, kind: Kind) -> Self {
        Self { kinds: self.kinds & !(kind as u8), ..self }
    }

    /// How many states a node has.
    pub(crate) fn states(self) -> u32 {
        1 + u32::from(self.is_spaced)
    }

    /// The state after an edge that is taken in `state`, if it may be taken. State 1 means that
    /// the last edge was one against a read.
    pub(crate) fn step(self, state: u32, kind: Kind) -> Option<u32> {
        match kind {
            _ if self.kinds & kind as u8 == 0 => None,
            _ if !self.is_spaced => Some(0),
            Kind::Onward => Some(state),
            Kind::Against => (state == 0).then_some(1),
            _ => Some(0),
        }
    }
}

/// The component of a node that was not looked at.
const OUTSIDE: u32 = u32::MAX;

/// Strongly connected components of the states of nodes.
#[derive(Debug)]
pub(crate) struct Components {
    states: u32,
    of: Vec<u32>,
    is_cyclic: Vec<bool>,
}

impl Components {
    /// Those of a graph; only inside the cyclic ones of `within`, if given, whose paths may take
    /// at least the same edges and whose nodes have one state.
    pub(crate) fn new(graph: &Graph, rule: Rule, within: Option<&Self>) -> Self {
        let count = (graph.nodes() * rule.states()) as usize;
        let (index, low) = (vec![0; count], vec![0; count]);
        let found = Self { states: rule.states(), of: vec![OUTSIDE; count], is_cyclic: Vec::new() };
        let (stack, path) = (Vec::new(), Vec::new());
        let mut tarjan = Tarjan { graph, rule, within, index, low, next: 1, stack, path, found };
        for node in 0..graph.nodes() {
            if within.is_none_or(|within| within.is_inside(node, 0)) {
                for state in 0..rule.states() {
                    tarjan.visit(node * rule.states() + state);
                }
            }
        }
        tarjan.found
    }

    /// Whether there is a cycle at all.
    pub(crate) fn has_cycle(&self) -> bool {
        self.is_cyclic.contains(&true)
    }

    /// The nodes, each with one state, so that all edges lead onwards.
    ///
    /// Components are numbered backwards. If there is a cycle, no such order exists, and some nodes are
    /// not in this one or are there twice.
    pub(crate) fn order(&self) -> Vec<u32> {
        let mut order = vec![0; self.of.len()];
        for (node, component) in (0..).zip(&self.of) {
            order[self.of.len() - 1 - *component as usize] = node;
        }
        order
    }

    /// Whether a node in a state is on a cycle.
    pub(crate) fn is_inside(&self, node: u32, state: u32) -> bool {
        let component = self.of[(node * self.states + state) as usize];
        component != OUTSIDE && self.is_cyclic[component as usize]
    }

    /// Whether two nodes in states are on one cycle.
    pub(crate) fn share(&self, one: (u32, u32), other: (u32, u32)) -> bool {
        let of = |(node, state)| self.of[(node * self.states + state) as usize];
        self.is_inside(one.0, one.1) && of(one) == of(other)
    }
}

struct Tarjan<'a> {
    graph: &'a Graph,
    rule: Rule,
    within: Option<&'a Components>,
    /// Order of discovery from 1, or 0.
    index: Vec<u32>,
    low: Vec<u32>,
    next: u32,
    stack: Vec<u32>,
    /// The way from the root, each with its next edge.
    path: Vec<(u32, u32)>,
    found: Components,
}

impl Tarjan<'_> {
    fn visit(&mut self, root: u32) {
        if self.index[root as usize] != 0 {
            return;
        }
        self.enter(root);
        while let Some((at, edge)) = self.path.last_mut() {
            let (at, node) = (*at, *at / self.rule.states());
            if *edge == self.graph.leaving(node).end {
                self.path.pop();
                self.leave(at);
                continue;
            }
            let taken = *edge;
            *edge += 1;
            let Some(target) = self.follow(at, taken) else { continue };
            if self.index[target as usize] == 0 {
                self.enter(target);
            } else if self.found.of[target as usize] == OUTSIDE {
                let low = self.low[at as usize].min(self.index[target as usize]);
                self.low[at as usize] = low;
            }
        }
    }

    /// Where an edge leads, if it may be taken.
    fn follow(&self, at: u32, edge: u32) -> Option<u32> {
        let states = self.rule.states();
        let state = self.rule.step(at % states, self.graph.kind(edge))?;
        let target = self.graph.target(edge);
        let is_within = |within: &Components| within.share((at / states, 0), (target, 0));
        self.within.is_none_or(is_within).then_some(target * states + state)
    }

    fn enter(&mut self, at: u32) {
        self.index[at as usize] = self.next;
        self.low[at as usize] = self.next;
        self.next += 1;
        self.stack.push(at);
        self.path.push((at, self.graph.leaving(at / self.rule.states()).start));
    }

    fn leave(&mut self, at: u32) {
        let low = self.low[at as usize];
        if let Some((parent, _)) = self.path.last() {
            let parent = &mut self.low[*parent as usize];
            *parent = (*parent).min(low);
        }
        if low != self.index[at as usize] {
            return;
        }
        let component = super::history::index(self.found.is_cyclic.len());
        let mut members = 0;
        while let Some(member) = self.stack.pop() {
            self.found.of[member as usize] = component;
            members += 1;
            if member == at {
                break;
            }
        }
        self.found.is_cyclic.push(members > 1);
    }
}
