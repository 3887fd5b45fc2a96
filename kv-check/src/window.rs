//! The calls of an object that exclude each other: how they are found, and how they are told.
//!
//! What it means to leave a call out is said in [`crate::object::conflict()`].

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::budget::Options;
use crate::decision::Decision;
use crate::format::SetRecord;
use crate::minimal::Bad;
use crate::object::{
    Call, Counter, CounterAction, GrowSet, LastRead, Object, PENDING, Presence, PresenceAction,
    Queue, QueueAction, Removal, SetAction, Side, StringAction, Text, conflict, conflict_of,
    decide_element, decide_part, grow_set, observed, read_window, search, silent_part, with_rest,
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
    /// What of the others does not matter, and what comes of the calls without one of them.
    #[serde(skip)]
    meaning: [&'static str; 2],
}

/// What it means to leave a call out.
const FORGOTTEN: [&str; 2] = ["whatever else was done and when", "there is one"];

/// What it means to leave out a call on an element of a set.
const UNSEEN: [&str; 2] = ["whatever the others found", "there is one"];

/// What it means to leave out an addition to a counter that is read.
const UNCOUNTED: [&str; 2] = ["whatever else was added and when", "the read is within its bounds"];

/// One call, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallView {
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

/// Of an object for which there are no rules.
pub(crate) fn by_search<O: Object>(
    object: &O,
    name: &str,
    calls: &[Call<O::Action>],
    options: &Options,
) -> ObjectWindow {
    let by_search = |part: &[_]| search(object, part, &limited(options));
    ObjectWindow::new(object, name, calls, conflict(object, calls, &options.stop, by_search))
}

/// Of a string.
pub(crate) fn of_text(name: &str, calls: &[Call<StringAction>], options: &Options) -> ObjectWindow {
    let decide = |part: &[_]| {
        observed::decide(part).unwrap_or_else(|| search(&Text, part, &limited(options)))
    };
    ObjectWindow::new(&Text, name, calls, conflict(&Text, calls, &options.stop, decide))
}

/// Of a queue or a stack.
pub(crate) fn of_queue(
    name: &str,
    side: Side,
    calls: &[Call<QueueAction>],
    options: &Options,
) -> ObjectWindow {
    let object = Queue(side);
    // A value can be left out only if no removal may have found it without saying so.
    let is_silent = calls.iter().any(|call| {
        call.completed != PENDING && call.action == QueueAction::Remove(Removal::Unknown)
    });
    let bad = conflict_of(calls, &options.stop, |places| {
        let part = match is_silent {
            true => silent_part(calls, places),
            false => with_rest(&object, calls, places),
        };
        let options = limited(options);
        let rules = decide_part(side, &part, &options);
        rules.unwrap_or_else(|| search(&object, &part, &options))
    });
    ObjectWindow::new(&object, name, calls, bad)
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
    let window = ObjectWindow::new(&Presence, name, calls, bad);
    ObjectWindow { meaning: UNSEEN, ..window }
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

/// Of a set.
pub(crate) fn of_set(calls: &[Call<SetAction>], is_full: bool, options: &Options) -> ObjectWindow {
    let bad = conflict(&GrowSet, calls, &options.stop, |part| {
        if !is_full {
            let is_right = grow_set::last_read(part).is_none_or(|last| last == LastRead::default());
            return if is_right { Decision::Holds(None) } else { Decision::Violated(()) };
        }
        // Of a read of which nobody knows what it found everything is true.
        let says = |call: &&Call<_>| call.action != SetAction::Read(None);
        let part: Vec<_> = part.iter().filter(says).cloned().collect();
        let decided = grow_set::decide(&part);
        decided.unwrap_or_else(|| search(&GrowSet, &part, &limited(options)))
    });
    ObjectWindow::new(&GrowSet, "set", calls, bad)
}

/// Of a read of a counter that is out of bounds; none if all are within.
pub(crate) fn of_counter(calls: &[Call<CounterAction>]) -> Option<ObjectWindow> {
    let (read, bad) = read_window(calls)?;
    let culprit = Some(u64::from(calls[read].invoked));
    let window = ObjectWindow::new(&Counter, "counter", calls, bad);
    Some(ObjectWindow { culprit, meaning: UNCOUNTED, ..window })
}

impl ObjectWindow {
    fn new<O: Object>(
        object: &O,
        name: &str,
        calls: &[Call<O::Action>],
        Bad { places, is_minimal }: Bad,
    ) -> Self {
        let view = |place: usize| {
            let Call { invoked, completed, action } = &calls[place];
            let (operation, result) = object.describe(action);
            let completed = (*completed != PENDING).then_some(u64::from(*completed));
            CallView { index: u64::from(*invoked), completed, operation, result }
        };
        let calls: Vec<_> = places.into_iter().map(view).collect();
        let culprit = calls.iter().max_by_key(|call| call.completed).map(|call| call.index);
        Self { name: name.to_owned(), calls, culprit, is_minimal, meaning: FORGOTTEN }
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
            writeln!(out, "          {mark} {call}")?;
        }
        if skipped > 0 {
            writeln!(out, "            and {skipped} before; --json shows all of them")?;
        }
        Ok(())
    }
}

impl fmt::Display for CallView {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", shortened(&self.operation))?;
        if !self.result.is_empty() {
            write!(out, " => {}", shortened(&self.result))?;
        }
        match self.completed {
            Some(completed) => write!(out, " [events {} - {completed}]", self.index),
            None => write!(out, " [events {} - ...]", self.index),
        }
    }
}
