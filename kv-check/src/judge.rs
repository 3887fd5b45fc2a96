//! Objects whose violations are told in words: sets and counters.

use crate::budget::Options;
use crate::decision::{Decided, Decision, Method};
use crate::format::SetRecord;
use crate::names::Names;
use crate::object::{Call, Counter, CounterAction, GrowSet, LastRead, counter, grow_set, search};

/// How many elements or reads are told.
const TOLD_MAX: usize = 5;

/// Decides a set, and says what is wrong with it.
pub(crate) fn set(record: &SetRecord, options: &Options) -> (Decided, Vec<String>) {
    let SetRecord { calls, elements, is_full } = record;
    let last = grow_set::last_read(calls);
    let notes = last.as_ref().map_or_else(Vec::new, |last| tell(last, elements));
    if *is_full {
        let decided = match grow_set::decide(calls) {
            Some(decision) => decision.by(Method::ObservedOrder),
            None => search(&GrowSet, calls, options).by(Method::Search),
        };
        return (decided, notes);
    }
    let decision = match last {
        None => {
            let note = "no read says what is there in the end".to_owned();
            return (Decision::Unknown.by(Method::LastRead), vec![note]);
        }
        Some(last) if last == LastRead::default() => Decision::Holds(None),
        Some(_) => Decision::Violated(()),
    };
    (decision.by(Method::LastRead), notes)
}

fn tell(last: &LastRead, elements: &Names) -> Vec<String> {
    let kinds =
        [("lost", &last.lost), ("unexpected", &last.unexpected), ("duplicated", &last.duplicated)];
    let told = kinds.into_iter().filter(|(_, numbers)| !numbers.is_empty());
    let note = |(what, numbers): (&str, &Vec<u32>)| {
        let names = numbers.iter().take(TOLD_MAX).map(|number| elements.of(*number));
        let names: Vec<_> = names.collect();
        let more = if numbers.len() > TOLD_MAX { ", ..." } else { "" };
        format!("{} {what} in the last read: {}{more}", numbers.len(), names.join(", "))
    };
    told.map(note).collect()
}

/// Decides a counter, and says which reads are wrong. What each read could find alone is known at
/// once, and rules most of what is wrong out before an order is looked for.
pub(crate) fn counter(calls: &[Call<CounterAction>], options: &Options) -> (Decided, Vec<String>) {
    let wrong = counter::out_of_bounds(calls);
    let note = |wrong: &counter::OutOfBounds| {
        let counter::OutOfBounds { found, low, high, place } = wrong;
        let begin = calls[*place].invoked;
        format!("the read that event {begin} invoked found {found}, not {low} to {high}")
    };
    let mut notes: Vec<_> = wrong.iter().take(TOLD_MAX).map(note).collect();
    if wrong.len() > TOLD_MAX {
        notes.push(format!("and {} reads more", wrong.len() - TOLD_MAX));
    }
    if !wrong.is_empty() {
        return (Decision::Violated(()).by(Method::Bounds), notes);
    }
    let decision = search(&Counter, calls, options);
    let more = match decision {
        Decision::Holds(_) => None,
        Decision::Violated(()) => Some("but no order explains all of them"),
        Decision::Unknown => Some("but the search for an order of all was given up"),
    };
    notes.extend(more.map(|more| format!("each read is within its bounds, {more}")));
    (decision.by(Method::Search), notes)
}
