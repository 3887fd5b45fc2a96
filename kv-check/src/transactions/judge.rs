//! From what a history shows to what is known about each level.

use super::anomaly::Anomalies;
use super::appends::Appends;
use super::cycle::{Cycles, cycles, whole};
use super::execution::{Execution, SERIAL, SNAPSHOT};
use super::graph::{Components, Edges, Graph, Link};
use super::level::{AnomalyKind, Cycle, LEVEL_NAMES, Level, Variant};
use super::order;
use super::polygraph::{Answer, EDGES_MAX, solve};
use super::registers::Registers;
use super::report::TxnReport;
use crate::budget::Options;
use crate::report::Verdict;

/// Adds the cycles to the anomalies, in sentences.
fn tell(cycles: &Cycles, anomalies: &mut Anomalies, sentence: impl Fn(&Link) -> String) {
    for (kind, links) in &cycles.found {
        let involved: Vec<u32> = links.iter().map(|link| link.from).collect();
        anomalies.add(*kind, &involved, || links.iter().map(&sentence).collect());
    }
}

/// Judges lists.
pub(crate) fn lists(mut appends: Appends<'_>, options: &Options, report: &mut TxnReport) {
    let history = appends.history;
    let transactions = history.transactions().len();
    let mut edges = Edges::new(transactions);
    appends.add_edges(&mut edges);
    order::add_edges(history, &appends.committed, Variant::RealTime, &mut edges);
    let graph = Graph::new(transactions, &edges);
    drop(edges);
    let whole = whole(&graph);
    let cycles = cycles(&graph, &whole, options);
    let mut anomalies = std::mem::take(&mut appends.anomalies);
    tell(&cycles, &mut anomalies, |link| appends.sentence(link));
    let is_ordered = appends.unordered.is_empty();
    let mut known = Known::default();
    for (_, level) in LEVEL_NAMES {
        match of_lists(level, &anomalies, &cycles, is_ordered) {
            Verdict::Holds => known.holds.push(level),
            Verdict::Violated => known.violated.push(level),
            Verdict::Unknown => {}
        }
    }
    report.judged(|level| known.of(level));
    for execution in executions(&graph, &whole, &appends.committed, report) {
        report.prove(history, execution);
    }
    report.found(history, anomalies.into_vec());
}

/// Executions for what holds: one for the strongest level of serial ones, and one for the strongest
/// of snapshot isolation, unless that follows.
fn executions(
    graph: &Graph,
    whole: &Components,
    committed: &[bool],
    report: &TxnReport,
) -> Vec<Execution> {
    let holds = |level: &Level| report.verdict_of(*level) == Verdict::Holds;
    let serial = SERIAL.into_iter().find(holds);
    let is_news = |level: &Level| serial.is_none_or(|serial| !serial.implies(*level));
    let snapshot = SNAPSHOT.into_iter().find(holds).filter(is_news);
    let serial = serial.map(|level| match level {
        // All edges count, and have been looked at before.
        Level::StrictSerializable => Execution::of_nodes(level, &whole.order(), committed),
        _ => Execution::serial(graph, level, committed),
    });
    let snapshot = snapshot.map(|level| Execution::snapshot(graph, level, committed));
    serial.into_iter().chain(snapshot).collect()
}

/// Whether reads that contradict their own transaction may hide an anomaly that the level forbids: no
/// edge is drawn for what they saw from outside.
fn hides_reads(level: Level, anomalies: &Anomalies) -> bool {
    level != Level::ReadUncommitted && anomalies.has(AnomalyKind::Internal)
}

/// What is known about a level of lists. `is_ordered` says that the order of all versions that
/// matter is known.
fn of_lists(level: Level, anomalies: &Anomalies, cycles: &Cycles, is_ordered: bool) -> Verdict {
    let is_serial = !cycles.has(Cycle::G2, level.cycles().1);
    let is_doubtful = anomalies.has(AnomalyKind::IncompatibleOrder)
        || hides_reads(level, anomalies)
        || (!is_ordered && !is_serial && level.needs_order());
    match cycles.rule_out(level) {
        _ if anomalies.forbid(level) => Verdict::Violated,
        Some(true) => Verdict::Violated,
        Some(false) if !is_doubtful => Verdict::Holds,
        _ => Verdict::Unknown,
    }
}

/// Judges registers. An error says why nothing can be said.
pub(crate) fn registers(
    mut registers: Registers<'_>,
    options: &Options,
    report: &mut TxnReport,
) -> Result<(), String> {
    let history = registers.history;
    let transactions = history.transactions().len();
    if registers.first_count() > EDGES_MAX {
        return Err("there are too many reads of initial states of keys".to_owned());
    }
    let mut edges = Edges::new(transactions);
    for Link { from, to, kind, key } in registers.certain() {
        edges.add(from, to, kind, key);
    }
    order::add_edges(history, &registers.committed, Variant::RealTime, &mut edges);
    let graph = Graph::new(transactions, &edges);
    drop(edges);
    let cycles = cycles(&graph, &whole(&graph), options);
    let mut anomalies = std::mem::take(&mut registers.anomalies);
    tell(&cycles, &mut anomalies, |link| registers.sentence(link));
    let mut known = Known::default();
    for (_, level) in LEVEL_NAMES {
        if anomalies.forbid(level) || cycles.rule_out(level) == Some(true) {
            known.violated.push(level);
        } else if needs_no_order(level) && !hides_reads(level, &anomalies) {
            known.holds.push(level);
        }
    }
    // Serializability comes first: it is found sooner, and implies snapshot isolation.
    for level in SERIAL.into_iter().chain(SNAPSHOT) {
        if known.of(level) == Verdict::Unknown && !options.stop.is_stopped() {
            known.solve(level, &registers, options);
        }
    }
    if let Some((level, links)) = known.excluded.take() {
        let involved: Vec<u32> = links.iter().flatten().map(|link| link.from).collect();
        let sentences = || no_order(level, &registers, &links);
        anomalies.add(AnomalyKind::NoOrder, &involved, sentences);
    }
    report.judged(|level| known.of(level));
    for execution in known.executions {
        report.prove(history, execution);
    }
    report.found(history, anomalies.into_vec());
    Ok(())
}

/// Whether a level without known anomalies holds, as an order that suits writes and reads does.
fn needs_no_order(level: Level) -> bool {
    level.cycles().0 <= Cycle::G1c && !matches!(level, Level::ReadAtomic | Level::UpdateAtomic)
}

/// What is known about levels, without what follows.
#[derive(Debug, Default)]
struct Known {
    holds: Vec<Level>,
    violated: Vec<Level>,
    /// For each level that was solved, the order that was found.
    executions: Vec<Execution>,
    /// The weakest level for which there is no order of the writes, and the cycles that show it.
    excluded: Option<(Level, Vec<Vec<Link>>)>,
}

impl Known {
    fn of(&self, level: Level) -> Verdict {
        if self.violated.iter().any(|violated| level.implies(*violated)) {
            Verdict::Violated
        } else if self.holds.iter().any(|holds| holds.implies(level)) {
            Verdict::Holds
        } else {
            Verdict::Unknown
        }
    }

    /// Looks for an order of the writes that keeps a level.
    fn solve(&mut self, level: Level, registers: &Registers<'_>, options: &Options) {
        let (cycle, variant) = level.cycles();
        let mut order = Edges::new(registers.committed.len());
        order::add_edges(registers.history, &registers.committed, variant, &mut order);
        match solve(registers, &order, cycle == Cycle::GNonadjacent, options) {
            Answer::Unknown => {}
            Answer::Possible(nodes) => {
                self.holds.push(level);
                self.executions.push(Execution::of_nodes(level, &nodes, &registers.committed));
            }
            Answer::Impossible(cycles) => {
                self.violated.push(level);
                let is_weaker = |(known, _): &(Level, _)| known.implies(level);
                if self.excluded.as_ref().is_none_or(is_weaker) {
                    self.excluded = Some((level, cycles));
                }
            }
        }
    }
}

/// That there is no order, in sentences.
fn no_order(level: Level, registers: &Registers<'_>, cycles: &[Vec<Link>]) -> Vec<String> {
    let mut sentences = vec![format!("no order of the writes is {level}")];
    for (way, links) in ["one way", "the other way"].iter().zip(cycles) {
        let told: Vec<_> = links.iter().map(|link| registers.sentence(link)).collect();
        sentences.push(format!("{way}: {}", told.join("; ")));
    }
    sentences
}
