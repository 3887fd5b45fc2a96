//! The verdicts on transactions that wait for each other.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::TxnRecorder;
use super::rings::Ring;
use crate::engine::Check;
use crate::kv::timeline::Timeline;
use crate::scenario::{Scenario, WorkloadKind};

/// How long a ring of waits may stand while nothing is broken, not even a message lost.
const STANDS_MAX: Duration = Duration::from_secs(1);
/// Of those that stand while other things break, so many per cent may stand that long in a row while
/// none is, but that messages get lost: each costs whoever waits for it an attempt.
const LATE_MAX_PERCENT: usize = 1;
/// How long any may stand in a row while nothing is broken but that messages get lost.
const STANDS_MAX_IN_CALM: Duration = Duration::from_secs(3);
/// How long it may stand whatever breaks: the longest wait for a lock, and then some until the client
/// hears of it.
const STANDS_MAX_WITH_FAULTS: Duration = Duration::from_secs(15);
/// The slowest client commits at least one so-manieth of what the median client commits.
const FAIR_SHARE: u64 = 3;
/// Commits of the median client below which nothing can be said.
const MEDIAN_MIN: u64 = 30;

/// What is checked of a kind beside what holds for all transactions.
pub(super) fn judge(
    recorder: &TxnRecorder,
    scenario: &Scenario,
    timeline: &Timeline,
) -> Vec<Check> {
    match recorder.kind {
        WorkloadKind::Deadlock => vec![deadlocks(recorder.rings.ended(), timeline)],
        WorkloadKind::Ordered => vec![no_deadlock(recorder)],
        WorkloadKind::HotKeys if scenario.faults.is_empty() => {
            let client_count = u64::from(scenario.workload.clients);
            vec![no_lost_update(recorder), fairness(&recorder.committed, client_count)]
        }
        WorkloadKind::HotKeys => {
            let fairness = Check::skipped(FAIRNESS, "who meets a fault loses time");
            vec![no_lost_update(recorder), fairness]
        }
        WorkloadKind::Register
        | WorkloadKind::Kv
        | WorkloadKind::Bank
        | WorkloadKind::ListAppend
        | WorkloadKind::RwRegister
        | WorkloadKind::WriteSkew
        | WorkloadKind::LongFork
        | WorkloadKind::CausalReverse
        | WorkloadKind::Phantom
        | WorkloadKind::Sessions => Vec::new(),
    }
}

/// Every ring was broken in time, and by one that gave way, unless something else broke meanwhile.
pub(super) fn deadlocks(rings: &[Ring], timeline: &Timeline) -> Check {
    let name = "deadlocks";
    if let Some((ring, wrong)) =
        rings.iter().find_map(|ring| Some((ring, what_is_wrong(ring, timeline)?)))
    {
        let at = ring.closed_at as f64 / 1e9;
        let size = ring.size();
        return Check::fail(name, format!("a ring of {size} that was closed at {at:.3} s {wrong}"));
    }
    let is_late = |ring: &&Ring| ring.calm(timeline) > STANDS_MAX;
    let (count, late_count) = (rings.len(), rings.iter().filter(is_late).count());
    let words =
        format!("{late_count} of {count} rings stood for longer than {STANDS_MAX:?} of calm");
    let calm_count = rings.iter().filter(|ring| ring.is_calm).count();
    if calm_count == 0 {
        Check::invalid(name, "no ring was closed while nothing was broken")
    } else if late_count * 100 > count * LATE_MAX_PERCENT {
        Check::fail(name, words)
    } else {
        Check::pass(name, format!("{words}; {calm_count} without faults"))
    }
}

fn what_is_wrong(ring: &Ring, timeline: &Timeline) -> Option<String> {
    let (lasted, calm) = (ring.lasted(), ring.calm(timeline));
    let bound = if ring.is_calm { STANDS_MAX } else { STANDS_MAX_WITH_FAULTS };
    if lasted > bound {
        return Some(format!("stood for {lasted:?}, longer than {bound:?}"));
    }
    if calm > STANDS_MAX_IN_CALM {
        let bound = STANDS_MAX_IN_CALM;
        return Some(format!("stood for {calm:?} while nothing was broken, longer than {bound:?}"));
    }
    let (committed, victims) = (ring.committed_count, ring.victim_count);
    let is_as_planted = victims == 1 && committed + victims == ring.size();
    (ring.is_calm && !is_as_planted)
        .then(|| format!("was broken by {victims} that gave way, and {committed} committed"))
}

/// Nobody gave way: all lock in the same order.
pub(super) fn no_deadlock(recorder: &TxnRecorder) -> Check {
    let name = "no-deadlock";
    match recorder.deadlock_count {
        0 => Check::pass(name, format!("{} transactions", recorder.operations.ok)),
        count => Check::fail(name, format!("{count} were aborted for a deadlock that cannot be")),
    }
}

/// No two transactions have overwritten the same.
pub(super) fn no_lost_update(recorder: &TxnRecorder) -> Check {
    let name = "no-lost-update";
    match recorder.lost.first() {
        None => Check::pass(name, format!("{} transactions", recorder.operations.ok)),
        Some(lost) => Check::fail(name, format!("two have overwritten {lost}")),
    }
}

const FAIRNESS: &str = "fairness";

/// Nobody starves: of clients that all want the same, the slowest commits a share of the median.
pub(super) fn fairness(committed: &BTreeMap<u64, u64>, client_count: u64) -> Check {
    let mut counts = vec![0; client_count as usize];
    for (process, count) in committed {
        counts[(process % client_count) as usize] += count;
    }
    counts.sort_unstable();
    let (slowest, median) = (counts[0], counts[counts.len() / 2]);
    let words = format!("the slowest client committed {slowest}, the median {median}");
    if median < MEDIAN_MIN {
        Check::invalid(FAIRNESS, format!("{words}, which says nothing"))
    } else if slowest * FAIR_SHARE < median {
        Check::fail(FAIRNESS, words)
    } else {
        Check::pass(FAIRNESS, words)
    }
}
