//! Operations as bars in lanes.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::{BARS_MAX, Group};

/// One operation.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Bar {
    /// Which lane it is in.
    pub(super) lane: usize,
    /// Positions of the events that invoked and completed it; none if its outcome is unknown.
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
    /// The times of both, in nanoseconds.
    pub(super) begin_time: u64,
    pub(super) end_time: Option<u64>,
    pub(super) text: String,
    pub(super) result: String,
    /// `ok`, `failed` or `unknown`.
    pub(super) outcome: &'static str,
    /// Whether it is one of the operations that explain a violation.
    pub(super) window: bool,
    pub(super) culprit: bool,
    /// Where it is in the order that was found.
    pub(super) position: Option<usize>,
}

/// What the bars are drawn from: an operation and who ran it, if anybody knows.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) bar: Bar,
    pub(super) process: Option<u64>,
}

impl Run {
    fn is_marked(&self) -> bool {
        self.bar.window || self.bar.culprit
    }
}

impl Group {
    /// A group of the operations, which are in the order of invocation; says what it leaves out.
    pub(super) fn new(
        name: String,
        mark: &'static str,
        mut sentences: Vec<String>,
        mut runs: Vec<Run>,
    ) -> Self {
        let count = runs.len();
        let stretch = shown(&runs);
        let is_explained = runs.iter().filter(|run| run.is_marked()).count() <= BARS_MAX;
        let is_drawn = |(place, run): &(usize, Run)| {
            stretch.contains(place) || (is_explained && run.is_marked())
        };
        runs = runs.into_iter().enumerate().filter(is_drawn).map(|(_, run)| run).collect();
        if runs.len() < count {
            let shown = runs.len();
            sentences.push(format!(
                "Drawn are {shown} of its {count} operations: a stretch, and those that are marked."
            ));
        }
        let lanes = into_lanes(&mut runs);
        let bars = runs.into_iter().map(|run| run.bar).collect();
        let caption = "These operations exclude each other:";
        Self { name, mark, sentences, caption, lanes, bars, cycles: Vec::new() }
    }
}

/// The stretch to draw in full: all that is marked if it fits, or what is around the culprit.
fn shown(runs: &[Run]) -> Range<usize> {
    let culprit = runs.iter().position(|run| run.bar.culprit);
    let begin = runs.iter().position(Run::is_marked).unwrap_or(0);
    let end = runs.iter().rposition(Run::is_marked).map_or(0, |last| last + 1);
    let middle = match culprit {
        Some(culprit) if end - begin > BARS_MAX => culprit,
        _ => begin.midpoint(end),
    };
    let first = middle.saturating_sub(BARS_MAX / 2).min(runs.len().saturating_sub(BARS_MAX));
    first..(first + BARS_MAX).min(runs.len())
}

/// Puts the operations into lanes and returns the names of those.
///
/// Processes have lanes of their own. An operation of nobody goes into the first lane that is free.
fn into_lanes(runs: &mut [Run]) -> Vec<String> {
    let processes: BTreeMap<u64, ()> =
        runs.iter().filter_map(|run| Some((run.process?, ()))).collect();
    let numbers: BTreeMap<u64, usize> = processes.into_keys().zip(0..).collect();
    let mut free_from: Vec<u64> = Vec::new();
    for run in runs {
        if let Some(process) = run.process {
            run.bar.lane = numbers[&process];
            continue;
        }
        let end = run.bar.end.map_or(u64::MAX, |end| end + 1);
        let free = free_from.iter().position(|from| *from <= run.bar.begin);
        let lane = free.unwrap_or(free_from.len());
        free_from.resize(free_from.len().max(lane + 1), 0);
        free_from[lane] = end;
        run.bar.lane = numbers.len() + lane;
    }
    let named = numbers.keys().map(|process| format!("process {process}"));
    named.chain((1..=free_from.len()).map(|lane| format!("row {lane}"))).collect()
}
