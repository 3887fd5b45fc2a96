//! The page of objects other than keys.

use std::collections::BTreeMap;

use super::bars::{Bar, Run};
use super::{GROUPS_MAX, Group, Page, headline};
use crate::format::Recorded;
use crate::names::Names;
use crate::object::{Call, Object, PENDING, Visitor, visit_objects};
use crate::recording::{Finding, Objects};

/// The page for what a check of the objects found.
pub(super) fn page(recorded: &Recorded, finding: &Finding) -> Page {
    let text = finding.to_string();
    let mut page = Page {
        headline: headline(finding.verdict(), "Linearizability"),
        verdict: finding.verdict(),
        summary: text
            .lines()
            .filter(|line| !line.starts_with("verdict"))
            .map(str::to_owned)
            .collect(),
        timed: false,
        unit: match recorded {
            Recorded::Strings(_) | Recorded::Queue(_) | Recorded::Elements(_) => "line",
            _ => "event",
        },
        faults: Vec::new(),
        groups: Vec::new(),
    };
    if let Finding::Objects(objects) = finding {
        let mut groups = Groups { objects, is_violated: true, groups: Vec::new() };
        visit_objects(recorded, &mut groups);
        groups.is_violated = false;
        visit_objects(recorded, &mut groups);
        page.groups = groups.groups;
        if objects.count > GROUPS_MAX {
            let line = format!("Of {} objects, {GROUPS_MAX} are listed here.", objects.count);
            page.summary.push(line);
        }
    }
    page
}

/// Groups in the making.
struct Groups<'o> {
    objects: &'o Objects,
    /// Whether only the violated objects are visited, or only the others.
    is_violated: bool,
    groups: Vec<Group>,
}

impl Visitor for Groups<'_> {
    fn visit<O: Object>(
        &mut self,
        object: &O,
        name: &str,
        calls: &[Call<O::Action>],
        names: &Names,
    ) {
        let is_violated = self.objects.violated.iter().any(|known| known == name);
        if is_violated == self.is_violated && self.groups.len() < GROUPS_MAX {
            let describe = |action: &O::Action| object.describe(action, names);
            self.groups.push(group(name, calls, self.objects, describe));
        }
    }
}

fn group<A>(
    name: &str,
    calls: &[Call<A>],
    objects: &Objects,
    describe: impl Fn(&A) -> (String, String),
) -> Group {
    let order = objects.witness.get(name).map(Vec::as_slice).unwrap_or_default();
    let positions: BTreeMap<u64, usize> = order.iter().copied().zip(0..).collect();
    let window = objects.windows.iter().find(|window| window.name == name);
    let runs = calls.iter().map(|call| {
        let (text, result) = describe(&call.action);
        let begin = u64::from(call.invoked);
        let end = (call.completed != PENDING).then_some(u64::from(call.completed));
        let outcome = if end.is_some() { "ok" } else { "unknown" };
        let (begin_time, end_time) = (begin, end);
        let position = positions.get(&begin).copied();
        let culprit = window.and_then(|window| window.culprit) == Some(begin);
        let window = window.is_some_and(|window| window.calls.iter().any(|it| it.index == begin));
        let bar = Bar {
            lane: 0,
            begin,
            end,
            begin_time,
            end_time,
            text,
            result,
            outcome,
            window,
            culprit,
            position,
        };
        Run { process: call.caller.number(), bar }
    });
    let is_in = |names: &[String]| names.iter().any(|known| known == name);
    let (mark, sentence) = match (is_in(&objects.violated), is_in(&objects.undecided)) {
        (true, _) => ("\u{2717} ", "Its operations have no order."),
        (_, true) => ("? ", "The budget was spent on it."),
        _ if order.is_empty() => ("\u{2713} ", "Its operations have an order."),
        _ => ("\u{2713} ", "An order of all its operations was found and replayed."),
    };
    Group::new(name.to_owned(), mark, vec![sentence.to_owned()], runs.collect())
}
