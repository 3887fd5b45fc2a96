//! Which cycles a graph has, and a short one of each kind.
//!
//! Whether there is a cycle of some kind is a question of components, in linear time, except for
//! those with exactly one edge against a read, which need a search from each such edge.
//! Within the components a breadth-first search from an edge to its own beginning gives a short
//! cycle to show; what is found is named by what it holds.

use super::graph::{Components, Graph, Kind, Link, Rule};
use super::level::{AnomalyKind, Cycle, Level, Variant};
use crate::budget::{Options, Stop};

/// What cycles there are.
#[derive(Debug, Default)]
pub(crate) struct Cycles {
    /// A short cycle of each kind that was found, from the worst to the mildest; its edges are between
    /// transactions.
    pub(crate) found: Vec<(AnomalyKind, Vec<Link>)>,
    /// Kinds of which nobody knows whether there are some: the steps were used up.
    pub(crate) undecided: Vec<AnomalyKind>,
}

/// Steps of the searches for short cycles to show, besides one for each kind.
const STEPS_TO_SHORTEN: u64 = 2_000_000;

const VARIANTS: [Variant; 3] = [Variant::Item, Variant::Process, Variant::RealTime];

/// The components of a graph with all its edges.
pub(crate) fn whole(graph: &Graph) -> Components {
    Components::new(graph, rule(Cycle::G2, Variant::RealTime), None)
}

/// Finds the cycles of a graph, of which `whole` are the components. The budget is for what needs a
/// search to be decided.
pub(crate) fn cycles(graph: &Graph, whole: &Components, options: &Options) -> Cycles {
    let mut cycles = Cycles::default();
    if !whole.has_cycle() {
        return cycles;
    }
    for cycle in [Cycle::G0, Cycle::G1c, Cycle::GSingle, Cycle::GNonadjacent, Cycle::G2] {
        for variant in VARIANTS {
            cycles.look_for(graph, whole, cycle, variant, options);
        }
    }
    cycles.found.sort_by_key(|(kind, links)| (*kind, links.len()));
    cycles.found.dedup_by_key(|(kind, _)| *kind);
    cycles
}

/// The edges of cycles of a kind, and of those that are worse.
pub(super) fn rule(cycle: Cycle, variant: Variant) -> Rule {
    let mut kinds = vec![Kind::Overwritten];
    kinds.extend((cycle >= Cycle::G1c).then_some(Kind::Read));
    kinds.extend((cycle >= Cycle::GSingle).then_some(Kind::Against));
    kinds.extend((variant >= Variant::Process).then_some(Kind::Process));
    kinds.extend((variant >= Variant::RealTime).then_some(Kind::RealTime));
    let rule = Rule::of(&kinds);
    if cycle == Cycle::GNonadjacent { rule.spaced() } else { rule }
}

impl Cycles {
    /// Whether a cycle was found that is at least as bad in both respects.
    pub(crate) fn has(&self, cycle: Cycle, variant: Variant) -> bool {
        self.found.iter().any(|(kind, _)| match kind {
            AnomalyKind::Cycle(found, used) => *found <= cycle && *used <= variant,
            _ => false,
        })
    }

    /// Whether the cycles rule a level out, or none if nobody knows.
    pub(crate) fn rule_out(&self, level: Level) -> Option<bool> {
        let (cycle, variant) = level.cycles();
        let is_meant = |kind: &AnomalyKind| *kind == AnomalyKind::Cycle(cycle, variant);
        match self.has(cycle, variant) {
            true => Some(true),
            false => (!self.undecided.iter().any(is_meant)).then_some(false),
        }
    }

    /// Looks for cycles of a kind that are no worse ones, and keeps a short one.
    fn look_for(
        &mut self,
        graph: &Graph,
        whole: &Components,
        cycle: Cycle,
        variant: Variant,
        options: &Options,
    ) {
        // One of each kind without further order is worth showing; with it, only what is news.
        if variant > Variant::Item && self.has(cycle, variant) {
            return;
        }
        let rule = rule(cycle, variant);
        let components = Components::new(graph, rule, Some(whole));
        if !components.has_cycle() {
            return;
        }
        // Every cycle that is not of a worse kind has such an edge.
        let first = match cycle {
            Cycle::G0 | Cycle::G1c => match variant {
                Variant::Item if cycle == Cycle::G0 => Kind::Overwritten,
                Variant::Item => Kind::Read,
                Variant::Process => Kind::Process,
                Variant::RealTime => Kind::RealTime,
            },
            Cycle::GSingle | Cycle::GNonadjacent | Cycle::G2 => Kind::Against,
        };
        let back = if cycle == Cycle::GSingle { rule.without(Kind::Against) } else { rule };
        let is_decided = cycle != Cycle::GSingle;
        let mut search = Search::new(graph, &components, rule, back);
        let to_decide = options.budget_steps.unwrap_or(u64::MAX);
        let steps = if is_decided { STEPS_TO_SHORTEN } else { to_decide };
        let found = search.shortest(first, steps, &options.stop);
        match found {
            Some(links) => self.found.push((kind(&links), links)),
            None if search.steps == 0 => self.undecided.push(AnomalyKind::Cycle(cycle, variant)),
            // All cycles of the components are of worse kinds, without such an edge.
            None => assert!(!is_decided || self.has(cycle, variant), "the cycle was shown"),
        }
    }
}

/// The name of a cycle, by its edges.
fn kind(links: &[Link]) -> AnomalyKind {
    let has = |kind| links.iter().any(|link| link.kind == kind);
    let is_against = |place: usize| links[place % links.len()].kind == Kind::Against;
    let against = (0..links.len()).filter(|place| is_against(*place)).count();
    let is_adjacent = (0..links.len()).any(|place| is_against(place) && is_against(place + 1));
    let cycle = match against {
        0 if has(Kind::Read) => Cycle::G1c,
        0 => Cycle::G0,
        1 => Cycle::GSingle,
        _ if is_adjacent => Cycle::G2,
        _ => Cycle::GNonadjacent,
    };
    let variant = match (has(Kind::RealTime), has(Kind::Process)) {
        (true, _) => Variant::RealTime,
        (false, true) => Variant::Process,
        (false, false) => Variant::Item,
    };
    AnomalyKind::Cycle(cycle, variant)
}

/// A search for short cycles.
struct Search<'a> {
    graph: &'a Graph,
    components: &'a Components,
    /// For the edge that a cycle begins with.
    rule: Rule,
    /// For the others.
    back: Rule,
    /// For each state of a node, the number of the search that reached it.
    reached: Vec<u32>,
    number: u32,
    /// For each state of a node that was reached: from where, and by which edge.
    parents: Vec<(u32, u32)>,
    steps: u64,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, components: &'a Components, rule: Rule, back: Rule) -> Self {
        let count = (graph.nodes() * rule.states()) as usize;
        let (reached, parents) = (vec![0; count], vec![(0, 0); count]);
        Self { graph, components, rule, back, reached, number: 0, parents, steps: 0 }
    }

    /// A short cycle with an edge of this kind. The first search is not limited by `steps`, if an
    /// edge inside a component is sure to be on a cycle.
    fn shortest(&mut self, first: Kind, steps: u64, stop: &Stop) -> Option<Vec<Link>> {
        self.steps = steps;
        let mut best: Option<Vec<Link>> = None;
        for node in 0..self.graph.transactions {
            for edge in self.graph.leaving(node) {
                if self.graph.kind(edge) != first || !self.is_inside(node, edge) {
                    continue;
                }
                let length_max = best.as_ref().map_or(usize::MAX, |best| best.len() - 1);
                if let Some(links) = self.cycle(node, edge, length_max) {
                    best = Some(links);
                }
                if stop.is_stopped() {
                    self.steps = 0;
                }
                if self.steps == 0 || best.as_ref().is_some_and(|best| best.len() <= 2) {
                    return best;
                }
            }
        }
        best
    }

    fn is_inside(&self, node: u32, edge: u32) -> bool {
        let target = self.graph.target(edge);
        let kind = self.graph.kind(edge);
        let state = self.rule.step(0, kind);
        state.is_some_and(|state| self.components.share((node, 0), (target, state)))
    }

    /// The shortest cycle that begins with an edge and has at most so many links.
    fn cycle(&mut self, node: u32, edge: u32, length_max: usize) -> Option<Vec<Link>> {
        let states = self.rule.states();
        let state = self.rule.step(0, self.graph.kind(edge))?;
        let (begin, goal) = (self.graph.target(edge) * states + state, node * states);
        self.number += 1;
        self.reached[begin as usize] = self.number;
        self.parents[begin as usize] = (goal, edge);
        let (mut layer, mut next) = (vec![begin], Vec::new());
        let mut length = 1;
        while !layer.is_empty() && length < length_max {
            for at in layer.drain(..) {
                for edge in self.graph.leaving(at / states) {
                    self.steps = self.steps.saturating_sub(1);
                    let kind = self.graph.kind(edge);
                    let Some(state) = self.back.step(at % states, kind) else { continue };
                    let target = self.graph.target(edge);
                    let at_target = target * states + state;
                    if self.reached[at_target as usize] == self.number
                        || !self.components.share((node, 0), (target, state))
                    {
                        continue;
                    }
                    self.reached[at_target as usize] = self.number;
                    self.parents[at_target as usize] = (at, edge);
                    if at_target == goal {
                        return Some(self.links(goal, begin));
                    }
                    next.push(at_target);
                }
            }
            std::mem::swap(&mut layer, &mut next);
            length += 1;
        }
        None
    }

    /// The edges from `begin` back to `goal` and on to `begin`, as links between transactions.
    fn links(&self, goal: u32, begin: u32) -> Vec<Link> {
        let states = self.rule.states();
        let mut edges = Vec::new();
        let mut at = goal;
        while at != begin {
            let (parent, edge) = self.parents[at as usize];
            edges.push((parent / states, edge));
            at = parent;
        }
        let (parent, edge) = self.parents[begin as usize];
        edges.push((parent / states, edge));
        edges.reverse();
        let mut links: Vec<Link> = Vec::new();
        for (node, edge) in edges {
            let to = self.graph.target(edge);
            match links.last_mut() {
                Some(last) if node >= self.graph.transactions => last.to = to,
                _ => {
                    let (kind, key) = (self.graph.kind(edge), self.graph.key(edge));
                    links.push(Link { from: node, to, kind, key });
                }
            }
        }
        links
    }
}
