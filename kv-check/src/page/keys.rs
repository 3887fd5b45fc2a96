//! The page of a history of keys.

use std::collections::{BTreeMap, BTreeSet};

use super::bars::{Bar, Run};
use super::{Fault, GROUPS_MAX, Group, Page, headline};
use crate::explain::{is_initial, view};
use crate::history::{History, Process};
use crate::operation::{self, Operation, Outcome};
use crate::report::{KeyViolation, Report};

/// The page for what a check of the history found.
pub(super) fn page(history: &History, report: &Report) -> Page {
    // What is not well-formed has no operations; the report says so.
    let keys = operation::pair(history).unwrap_or_default().keys;
    let by_key: BTreeMap<&str, Vec<Operation<'_>>> = keys.into_iter().collect();
    let violated = report.violations.iter().map(|violation| violation.key.as_str());
    let others = report.undecided.iter().map(String::as_str).chain(by_key.keys().copied());
    let mut listed = BTreeSet::new();
    let names: Vec<&str> = violated.chain(others).filter(|key| listed.insert(*key)).collect();
    let groups = names.iter().take(GROUPS_MAX);
    let groups: Vec<_> = groups.map(|key| group(history, report, key, &by_key)).collect();
    let text = report.to_string();
    let mut summary: Vec<String> =
        text.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect();
    summary.retain(|line| !line.starts_with("verdict:"));
    if names.len() > groups.len() {
        summary.push(format!("Of {} keys, {} are listed here.", names.len(), groups.len()));
    }
    Page {
        headline: headline(report.verdict, "Linearizability"),
        verdict: report.verdict,
        summary,
        timed: true,
        unit: "event",
        faults: faults(history),
        groups,
    }
}

fn group(
    history: &History,
    report: &Report,
    key: &str,
    by_key: &BTreeMap<&str, Vec<Operation<'_>>>,
) -> Group {
    let violation = report.violations.iter().find(|violation| violation.key == key);
    let is_undecided = report.undecided.iter().any(|undecided| undecided == key);
    let window: BTreeSet<u64> = violation
        .map(|violation| violation.window.iter().map(|view| view.index).collect())
        .unwrap_or_default();
    let order = report.witness.get(key).map(Vec::as_slice).unwrap_or_default();
    let index = |operation: &Operation<'_>| history.events[operation.invoked()].index;
    let is_invented =
        |at: &u64| history.events.first().is_some_and(|e| e.is_initial() && e.index == *at);
    let real = order.iter().copied().filter(|at| !is_invented(at));
    let positions: BTreeMap<u64, usize> = real.zip(0..).collect();
    let shown = by_key[key].iter().filter(|operation| !is_initial(history, operation));
    let runs = shown.map(|operation| {
        let view = view(history, operation);
        let is_known = !matches!(operation.outcome(), Outcome::Unknown);
        Run {
            process: Some(view.process),
            bar: Bar {
                lane: 0,
                begin: operation.invoked() as u64,
                end: operation.completed().filter(|_| is_known).map(|event| event as u64),
                begin_time: view.invoked_ns,
                end_time: view.completed_ns,
                text: view.operation,
                result: view.result,
                outcome: outcome(operation.outcome()),
                window: window.contains(&view.index),
                culprit: violation.is_some_and(|violation| violation.culprit.index == view.index),
                position: positions.get(&index(operation)).copied(),
            },
        }
    });
    let (mark, sentences) = match violation {
        Some(violation) => ("\u{2717} ", sentences(violation)),
        None if is_undecided => ("? ", vec!["The budget was spent on this key.".to_owned()]),
        None if order.is_empty() => ("\u{2713} ", Vec::new()),
        None => {
            ("\u{2713} ", vec!["An order of all its operations was found and replayed.".to_owned()])
        }
    };
    Group::new(format!("key {key:?}"), mark, sentences, runs.collect())
}

fn sentences(violation: &KeyViolation) -> Vec<String> {
    let KeyViolation { prefix, window, .. } = violation;
    let next =
        if violation.is_first { "the next one to complete" } else { "all up to the culprit" };
    let less = match violation.is_minimal {
        true if window.len() > 1 => " Without any one of them there is one.",
        true => "",
        false => " Perhaps fewer of them would do.",
    };
    vec![
        format!(
            "The first {prefix} completed operations have a legal order, but none that includes {next}, \
             the culprit."
        ),
        format!(
            "The {} marked have no order, whatever else was written and when.{less}",
            window.len()
        ),
    ]
}

fn outcome(outcome: Outcome<'_>) -> &'static str {
    match outcome {
        Outcome::Ok(_) => "ok",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    }
}

/// Every second event of a kind ends the fault that the one before it began.
fn faults(history: &History) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for (position, event) in (0..).zip(&history.events) {
        if event.process != Process::Nemesis {
            continue;
        }
        if let Some(begun) = open.remove(&*event.f) {
            faults[begun].end = Some(position);
        } else {
            open.insert(&event.f, faults.len());
            faults.push(Fault { kind: event.f.to_string(), begin: position, end: None });
        }
    }
    faults
}
