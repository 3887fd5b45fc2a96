//! The calls of an object that exclude each other: how they are found, and how they are told.
//!
//! What it means to leave a call out is said in [`crate::object::conflict()`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::budget::Options;
use crate::decision::Decision;
use crate::format::{QueueRecord, RegisterRecord, SetRecord};
use crate::minimal::Bad;
use crate::names::Names;
use crate::object::{
    Call, Counter, CounterAction, GrowSet, LastRead, Mutex, MutexAction, Object, PENDING, Presence,
    PresenceAction, Queue, QueueAction, Registers, Removal, SetAction, StringAction, Text,
    by_value, conflict, conflict_of, conflict_of_groups, decide_element, decide_part, grow_set,
    observed, read_window, search, silent_part, with_rest,
};
use crate::report::shortened;

/// Steps of each search for a window beyond one for each call.
const WINDOW_STEPS_MAX: u64 = 20_000;

/// How many calls of a window the text form shows.
const WINDOW_LINES_MAX: usize = 8;

/// The fewest calls that exclude each other: they have no order even if all others may have taken
/// effect at any moment, or not at all. Of an element of a set: whatever the others found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectWindow {
    /// The name of the object.
    pub name: String,
    /// The calls, in the order of their invocations.
    pub calls: Vec<CallView>,
    /// Position of the event that invoked the culprit: the last to complete, or the read of a counter.
    pub culprit: Option<u64>,
    /// Whether they have an order, in that sense, once any one of them is left out. If not, the limit
    /// was reached on the way. Of a counter: whether the read is within its bounds then.
    pub is_minimal: bool,
    /// What positions are: `events` before the call in the text, or `lines`.
    pub positions: &'static str,
    /// What of the others does not matter, and what comes of the calls without one of them.
    #[serde(skip)]
    meaning: [&'static str; 2],
}

/// What positions are in texts of which each line is an event, and in others.
const LINES: &str = "lines";
const EVENTS: &str = "events";

/// Up to so many elements that a read found are told one by one.
const ELEMENTS_MAX: usize = 10;

/// How many elements of one kind are told of a larger set.
const TELLING_MAX: usize = 2;

/// What it means to leave a call out.
const FORGOTTEN: [&str; 2] = ["whatever else was done and when", "there is one"];

/// What it means to leave out a call on an element of a set.
const UNSEEN: [&str; 2] = ["whatever the others found", "there is one"];

/// What it means to leave out an addition to a counter that is read.
const UNCOUNTED: [&str; 2] =
    ["whatever else was added until it ended", "the read is within its bounds"];

/// One call, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallView {
    /// Number of the client, if anybody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<u64>,
    /// Position of the event that invoked it.
    pub index: u64,
    /// Position of the event that completed it, if one did.
    pub completed: Option<u64>,
    /// The request.
    pub operation: String,
    /// What came of it; empty if there is nothing to say.
    pub result: String,
}

/// The limits of a question about a few calls.
fn limited(options: &Options) -> Options {
    let steps = options.budget_steps.map_or(WINDOW_STEPS_MAX, |steps| steps.min(WINDOW_STEPS_MAX));
    Options { budget_steps: Some(steps), ..options.clone() }
}

/// Of a lock.
pub(crate) fn of_mutex(calls: &[Call<MutexAction>], options: &Options) -> ObjectWindow {
    let bad = by_search(&Mutex, calls, options);
    ObjectWindow::new(&Mutex, "mutex", calls, &Names::default(), bad)
}

/// Of several registers.
pub(crate) fn of_registers(record: &RegisterRecord, options: &Options) -> ObjectWindow {
    let RegisterRecord { names, calls } = record;
    let object = Registers(names.len());
    let bad = by_search(&object, calls, options);
    let texts = names.iter().map(String::as_str).collect();
    ObjectWindow::new(&object, &names.join(" "), calls, &texts, bad)
}

fn by_search<O: Object>(object: &O, calls: &[Call<O::Action>], options: &Options) -> Bad {
    conflict(object, calls, &options.stop, |part| search(object, part, &limited(options)))
}

/// Of a string.
pub(crate) fn of_text(name: &str, calls: &[Call<StringAction>], options: &Options) -> ObjectWindow {
    let bad = conflict(&Text, calls, &options.stop, |part| {
        observed::decide(part).unwrap_or_else(|| search(&Text, part, &limited(options)))
    });
    let window = ObjectWindow::new(&Text, name, calls, &Names::default(), bad);
    ObjectWindow { positions: LINES, ..window }
}

/// Of a queue or a stack.
pub(crate) fn of_queue(record: &QueueRecord, options: &Options) -> ObjectWindow {
    let QueueRecord { side, calls, values } = record;
    let object = Queue(*side);
    // A value can be left out only if no removal may have found it without saying so.
    let is_silent = calls.iter().any(|call| {
        call.completed != PENDING && call.action == QueueAction::Remove(Removal::Unknown)
    });
    let decide = |places: &[usize]| {
        let part = match is_silent {
            true => silent_part(calls, places),
            false => with_rest(&object, calls, places),
        };
        // A removal that may have been at any moment is tried at all of them.
        let steps = WINDOW_STEPS_MAX.saturating_add(8 * part.len() as u64);
        let steps = options.budget_steps.map_or(steps, |budget| budget.min(steps));
        let options = Options { budget_steps: Some(steps), ..options.clone() };
        let rules = decide_part(*side, &part, &options);
        rules.unwrap_or_else(|| search(&object, &part, &options))
    };
    let bad = match decide_part(*side, calls, &limited(options)) {
        Some(_) => conflict_of(calls, &options.stop, decide),
        None => conflict_of_groups(calls, &by_value(calls), &options.stop, decide),
    };
    let window = ObjectWindow::new(&object, record.name(), calls, values, bad);
    ObjectWindow { positions: LINES, ..window }
}

/// Of an element of a set.
pub(crate) fn of_element(
    name: &str,
    calls: &[Call<PresenceAction>],
    options: &Options,
) -> ObjectWindow {
    let options = &limited(options);
    let decide = |places: &[usize]| decide_element(calls, places, options);
    let bad = conflict_of(calls, &options.stop, decide);
    let window = ObjectWindow::new(&Presence, name, calls, &Names::default(), bad);
    ObjectWindow { meaning: UNSEEN, positions: LINES, ..window }
}

/// The calls of a set that count: of the reads only the last one, if not all do.
pub(crate) fn calls_of_set(record: &SetRecord) -> Cow<'_, [Call<SetAction>]> {
    let SetRecord { calls, is_full, .. } = record;
    if *is_full {
        return Cow::Borrowed(calls);
    }
    let is_known = |call: &&Call<_>| matches!(call.action, SetAction::Read(Some(_)));
    let last = calls.iter().filter(is_known).map(|call| call.completed).max();
    let counts = |call: &&Call<_>| match call.action {
        SetAction::Add(_) => true,
        SetAction::Read(_) => Some(call.completed) == last,
    };
    Cow::Owned(calls.iter().filter(counts).cloned().collect())
}

/// Of a set, whose calls that [count](calls_of_set) are `calls`.
pub(crate) fn of_set(
    calls: &[Call<SetAction>],
    record: &SetRecord,
    options: &Options,
) -> ObjectWindow {
    let SetRecord { elements, is_full, .. } = record;
    let bad = conflict(&GrowSet, calls, &options.stop, |part| {
        if !*is_full {
            let is_right = grow_set::last_read(part).is_none_or(|last| last == LastRead::default());
            return if is_right { Decision::Holds(None) } else { Decision::Violated(()) };
        }
        // Of a read of which nobody knows what it found everything is true.
        let says = |call: &&Call<_>| call.action != SetAction::Read(None);
        let part: Vec<_> = part.iter().filter(says).cloned().collect();
        let decided = grow_set::decide(&part);
        decided.unwrap_or_else(|| search(&GrowSet, &part, &limited(options)))
    });
    let reads = bad.places.iter().filter_map(|place| match &calls[*place].action {
        SetAction::Read(Some(found)) => Some((u64::from(calls[*place].invoked), &found[..])),
        SetAction::Read(None) | SetAction::Add(_) => None,
    });
    let telling = telling(calls, &bad.places);
    let reads: Vec<_> = reads.collect();
    let mut window = ObjectWindow::new(&GrowSet, "set", calls, elements, bad);
    for call in &mut window.calls {
        let read = reads.iter().find(|(index, _)| *index == call.index);
        if let Some((_, found)) = read.filter(|(_, found)| found.len() > ELEMENTS_MAX) {
            call.result = excerpt(found, &telling, elements);
        }
    }
    window
}

/// The elements that tell why calls exclude each other: those that are added, found twice, found in one
/// read and not in another one, or in the only call.
fn telling(calls: &[Call<SetAction>], places: &[usize]) -> BTreeSet<u32> {
    let mut telling = BTreeSet::new();
    let mut reads: Vec<&[u32]> = Vec::new();
    for place in places {
        match &calls[*place].action {
            SetAction::Add(element) => drop(telling.insert(*element)),
            SetAction::Read(Some(found)) => reads.push(found),
            SetAction::Read(None) => {}
        }
    }
    for read in &reads {
        telling.extend(read.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
    }
    for pair in reads.windows(2) {
        let only = |one: &[u32], other: &[u32]| -> Vec<u32> {
            one.iter().copied().filter(|it| other.binary_search(it).is_err()).collect()
        };
        telling.extend(only(pair[0], pair[1]));
        telling.extend(only(pair[1], pair[0]));
    }
    if let ([found], [place]) = (&reads[..], places) {
        let end = calls[*place].completed;
        let added: BTreeSet<u32> = calls
            .iter()
            .filter(|call| call.invoked < end)
            .filter_map(|call| match call.action {
                SetAction::Add(element) => Some(element),
                SetAction::Read(_) => None,
            })
            .collect();
        telling.extend(found.iter().filter(|element| !added.contains(element)));
    }
    telling
}

/// How many elements were found, and which of the telling ones.
fn excerpt(found: &[u32], telling: &BTreeSet<u32>, names: &Names) -> String {
    let mut text = format!("{} elements", found.len());
    let count = |element: &u32| {
        let first = found.partition_point(|it| it < element);
        found[first..].iter().take_while(|it| *it == element).count()
    };
    for (what, is_told) in [("without", 0), ("twice", 2), ("with", 1)] {
        let mut told = telling.iter().filter(|element| count(element).min(2) == is_told);
        let first: Vec<_> = told.by_ref().take(TELLING_MAX).map(|it| names.of(*it)).collect();
        if !first.is_empty() {
            let more = if told.next().is_some() { " ..." } else { "" };
            text += &format!(", {what} {}{more}", first.join(" "));
        }
    }
    text
}

/// Of a read of a counter that is out of bounds; none if all are within.
pub(crate) fn of_counter(calls: &[Call<CounterAction>]) -> Option<ObjectWindow> {
    let (read, bad) = read_window(calls)?;
    let culprit = Some(u64::from(calls[read].invoked));
    let window = ObjectWindow::new(&Counter, "counter", calls, &Names::default(), bad);
    Some(ObjectWindow { culprit, meaning: UNCOUNTED, ..window })
}

impl ObjectWindow {
    fn new<O: Object>(
        object: &O,
        name: &str,
        calls: &[Call<O::Action>],
        names: &Names,
        Bad { places, is_minimal }: Bad,
    ) -> Self {
        let view = |place: usize| {
            let Call { caller, invoked, completed, action } = &calls[place];
            let (operation, result) = object.describe(action, names);
            let completed = (*completed != PENDING).then_some(u64::from(*completed));
            let (process, index) = (caller.number(), u64::from(*invoked));
            CallView { process, index, completed, operation, result }
        };
        let calls: Vec<_> = places.into_iter().map(view).collect();
        let culprit = calls.iter().max_by_key(|call| call.completed).map(|call| call.index);
        let (meaning, positions) = (FORGOTTEN, EVENTS);
        Self { name: name.to_owned(), calls, culprit, is_minimal, positions, meaning }
    }
}

impl fmt::Display for ObjectWindow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = shortened(&self.name);
        let ([others, less], culprit) = (self.meaning, self.culprit);
        let has = if self.calls.len() == 1 { "this one has" } else { "these have" };
        write!(out, "because     of {name} {has} no order, {others}")?;
        match (self.calls.len(), self.is_minimal) {
            (1, _) => writeln!(out, ":")?,
            (_, true) => writeln!(out, ";\n            without any one of them {less}:")?,
            (_, false) => writeln!(out, ";\n            perhaps fewer of them would do:")?,
        }
        let skipped = self.calls.len().saturating_sub(WINDOW_LINES_MAX);
        let is_shown =
            |(place, call): &(usize, &CallView)| *place >= skipped || culprit == Some(call.index);
        for (_, call) in self.calls.iter().enumerate().filter(is_shown) {
            let mark = if culprit == Some(call.index) { '>' } else { ' ' };
            let end = call.completed.map_or_else(|| "...".to_owned(), |end| end.to_string());
            let positions = self.positions;
            writeln!(out, "          {mark} {call} [{positions} {} - {end}]", call.index)?;
        }
        if skipped > 0 {
            writeln!(out, "            and {skipped} before; --json shows all of them")?;
        }
        Ok(())
    }
}

impl fmt::Display for CallView {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = self.process {
            write!(out, "process {process}: ")?;
        }
        write!(out, "{}", shortened(&self.operation))?;
        match &self.result[..] {
            "" => Ok(()),
            result => write!(out, " => {}", shortened(result)),
        }
    }
}
