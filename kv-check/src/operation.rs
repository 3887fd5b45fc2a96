//! From events to operations: pairing each invocation with its completion.
//!
//! A history is well-formed if its events are in order, if every client is sequential, and if every
//! completion answers the request that was made.
//! Only then do real-time order and outcome mean anything, so everything else is refused here,
//! once, for parsed histories and for those built in memory.
//!
//! # Invariants of the result
//!
//! - The operations of a key are in the order of their invocations.
//! - `invoked < completed`, both positions in `History::events`.
//! - A process number never appears again after an operation of unknown outcome.
//!
//! # What this leaves out
//!
//! Fields of an invocation that belong to a result are ignored, not refused: only the completion
//! speaks about results.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Event, EventKind, Expect, History, MicroOp, Observed, Process};
use crate::intern::Interner;

/// Why a history means nothing. *No verdict exists.*
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event}: {problem}")]
pub struct HistoryError {
    /// Position of the offending event, counted from 0.
    pub event: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with an event. *No verdict exists* for the whole history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Two events claim the same or the reverse order.
    #[error("expected an `index` above {previous}, the one before; found {found}")]
    IndexNotIncreasing {
        /// Index of the event before.
        previous: u64,
        /// Index of this event.
        found: u64,
    },
    /// The clock went backwards.
    #[error("expected a `time_ns` of at least {previous}, the one before; found {found}")]
    TimeWentBack {
        /// Time of the event before.
        previous: u64,
        /// Time of this event.
        found: u64,
    },
    /// A client invoked while its last operation was still open, or after an unknown outcome.
    #[error("expected process {process} to have no open operation (after `info` it is retired)")]
    ProcessBusy {
        /// Number of the client.
        process: u64,
    },
    /// A completion without an open invocation.
    #[error("expected an open operation of process {process} for this completion")]
    NothingOpen {
        /// Number of the client.
        process: u64,
    },
    /// A completion of a request that was not made.
    #[error("expected the operation that process {process} invoked, with the same arguments")]
    OtherRequest {
        /// Number of the client.
        process: u64,
    },
    /// A client event without an operation.
    #[error("expected one micro-operation in `ops`; found none")]
    NoOperation,
    /// More than one micro-operation in an event.
    #[error("unsupported: transactions (expected one micro-operation in `ops`; found {count})")]
    Transaction {
        /// How many were found.
        count: usize,
    },
    /// A result that no data type could give, such as the version of an absent key.
    #[error("expected no `version` where nothing was read or written")]
    VersionOfNothing,
    /// A nemesis event that is not an `info` without operations.
    #[error("expected a nemesis event to be an `info` with empty `ops`")]
    NemesisShape,
}

/// The number of no value.
pub(crate) const NO_VALUE: u32 = u32::MAX;

/// The position of no event.
const NO_EVENT: u32 = u32::MAX;

/// One operation of one client.
///
/// Small, and with all that is asked of most operations inside: requests and answers lie all over
/// the memory, so that each look at them takes as long as everything else together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation<'h> {
    /// What was asked.
    pub(crate) request: &'h MicroOp,
    /// The results, if it is known to have taken effect.
    answer: Option<&'h MicroOp>,
    invoked: u32,
    /// [`NO_EVENT`] if there is none.
    completed: u32,
    /// Number of the value that it writes, among those of its key; [`NO_VALUE`] if it writes none.
    pub(crate) writes: u32,
    /// Number of the value that it saw, or that a cas expects; [`NO_VALUE`] if there is none.
    pub(crate) sees: u32,
    /// What it did, in short.
    pub(crate) effect: Effect,
    has_failed: bool,
}

impl<'h> Operation<'h> {
    /// An operation that nobody saw completed, with its values not numbered.
    pub(crate) fn open(invoked: usize, request: &'h MicroOp) -> Self {
        Self {
            request,
            answer: None,
            invoked: narrow(invoked),
            completed: NO_EVENT,
            writes: NO_VALUE,
            sees: NO_VALUE,
            effect: Effect::of_request(request),
            has_failed: false,
        }
    }

    /// The same operation if nothing is known of its completion but when it was.
    pub(crate) fn without_outcome(&self) -> Self {
        let effect = Effect::of_request(self.request);
        Self { answer: None, effect, has_failed: false, ..*self }
    }

    /// Position of the invocation.
    pub(crate) fn invoked(&self) -> usize {
        self.invoked as usize
    }

    /// Position of the completion, of whatever kind; `None` if there is none.
    pub(crate) fn completed(&self) -> Option<usize> {
        (self.completed != NO_EVENT).then_some(self.completed as usize)
    }

    /// What came of it.
    pub(crate) fn outcome(&self) -> Outcome<'h> {
        match self.answer {
            Some(answer) => Outcome::Ok(answer),
            None if self.has_failed => Outcome::Failed,
            None => Outcome::Unknown,
        }
    }
}

fn narrow(position: usize) -> u32 {
    let position = u32::try_from(position).ok().filter(|position| *position != NO_EVENT);
    position.expect("a history has fewer than 2^32 - 1 events")
}

/// What came of an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome<'h> {
    /// It took effect, with these results.
    Ok(&'h MicroOp),
    /// It certainly had no effect.
    Failed,
    /// The client cannot know whether it happened.
    Unknown,
}

/// What an operation did, or would do if it took effect, beside the values that it wrote and saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A get that does not say what it saw.
    Get,
    /// A get that saw a value.
    SawValue,
    /// A get that saw nothing.
    SawNothing,
    /// A put.
    Put,
    /// A delete, and whether there was something.
    Delete(Option<bool>),
    /// A cas that expects a value or, if there is none, nothing; and whether it applied.
    Cas(Option<bool>),
    /// It names a version, and the rest is to be asked of its request and its answer.
    Versioned,
}

impl Effect {
    /// What a request does if nothing is known of its results.
    fn of_request(request: &MicroOp) -> Self {
        match request {
            MicroOp::Get { .. } => Self::Get,
            MicroOp::Put { .. } => Self::Put,
            MicroOp::Delete { .. } => Self::Delete(None),
            MicroOp::Cas { expect: Expect::Version(_), .. } => Self::Versioned,
            MicroOp::Cas { .. } => Self::Cas(None),
        }
    }

    fn of_answer(answer: &MicroOp) -> Self {
        match answer {
            MicroOp::Get { version: Some(_), .. }
            | MicroOp::Put { version: Some(_), .. }
            | MicroOp::Cas { version: Some(_), .. }
            | MicroOp::Cas { expect: Expect::Version(_), .. } => Self::Versioned,
            MicroOp::Get { value: Observed::NotReported, .. } => Self::Get,
            MicroOp::Get { value: Observed::Absent, .. } => Self::SawNothing,
            MicroOp::Get { value: Observed::Value(_), .. } => Self::SawValue,
            MicroOp::Put { .. } => Self::Put,
            MicroOp::Delete { existed, .. } => Self::Delete(*existed),
            MicroOp::Cas { applied, .. } => Self::Cas(*applied),
        }
    }
}

/// Clients with numbers below this have a place in a list.
const LISTED_CLIENTS_MAX: u64 = 1 << 16;

/// Something for each client.
///
/// Numbers are small as a rule, and then a list is much faster than a map; it is as long as the
/// greatest of them, hence the limit.
#[derive(Debug, Default)]
pub(crate) struct PerClient<T> {
    listed: Vec<T>,
    others: BTreeMap<u64, T>,
}

impl<T: Clone + Default> PerClient<T> {
    /// That of client `number`.
    pub(crate) fn of(&mut self, number: u64) -> &mut T {
        if number >= LISTED_CLIENTS_MAX {
            return self.others.entry(number).or_default();
        }
        let at = usize::try_from(number).expect("below the limit");
        if at >= self.listed.len() {
            self.listed.resize(at + 1, T::default());
        }
        &mut self.listed[at]
    }
}

#[derive(Debug, Clone, Copy, Default)]
enum Client<'h> {
    #[default]
    New,
    Idle,
    Waiting {
        request: &'h MicroOp,
        /// Number of the key, and place among its operations.
        key: u32,
        place: u32,
    },
    Retired,
}

/// The operations of a history, key by key.
#[derive(Debug, Default)]
pub(crate) struct Paired<'h> {
    /// The operations of each key, sorted by key.
    pub(crate) keys: Vec<(&'h str, Vec<Operation<'h>>)>,
    /// How many different clients there are.
    pub(crate) processes: usize,
    /// How many faults began.
    pub(crate) faults: usize,
    /// How many operations took effect.
    pub(crate) ok: usize,
    /// How many certainly had no effect.
    pub(crate) failed: usize,
    /// Of how many nobody knows.
    pub(crate) unknown: usize,
}

/// Pairs the events of a history, and numbers keys and values.
///
/// This is the one time that the texts are read.
pub(crate) fn pair(history: &History) -> Result<Paired<'_>, HistoryError> {
    let names = Names { events: history.events.len(), ..Names::default() };
    let pairing = Pairing::new(Some(names)).run(history)?;
    let Pairing { mut processes, faults, mut ok, failed, names, .. } = pairing;
    let initial = usize::from(history.events.first().is_some_and(Event::is_initial));
    (processes, ok) = (processes - initial, ok.saturating_sub(initial));
    // Every second event of a kind ends the fault that the one before it began.
    let faults = faults.values().map(|count| count.div_ceil(2)).sum();
    let mut keys: Vec<_> = names.map_or_else(Vec::new, Names::into_keys);
    keys.sort_unstable_by_key(|(key, _)| *key);
    let paired: usize = keys.iter().map(|(_, operations)| operations.len()).sum();
    let unknown = paired.saturating_sub(ok + failed + initial);
    Ok(Paired { keys, processes, faults, ok, failed, unknown })
}

/// The operations of a history of one key at most.
#[cfg(test)]
pub(crate) fn pair_one(history: &History) -> Result<Vec<Operation<'_>>, HistoryError> {
    let mut keys = pair(history)?.keys;
    assert!(keys.len() < 2, "one key");
    Ok(keys.pop().map_or_else(Vec::new, |(_, operations)| operations))
}

/// Verifies that a history is well-formed.
pub(crate) fn verify(history: &History) -> Result<(), HistoryError> {
    Pairing::new(None).run(history).map(|_| ())
}

fn in_order(previous: Option<&Event>, event: &Event) -> Result<(), Problem> {
    let Some(previous) = previous else {
        return Ok(());
    };
    if event.index <= previous.index {
        let (previous, found) = (previous.index, event.index);
        return Err(Problem::IndexNotIncreasing { previous, found });
    }
    if event.time_ns < previous.time_ns {
        let (previous, found) = (previous.time_ns, event.time_ns);
        return Err(Problem::TimeWentBack { previous, found });
    }
    Ok(())
}

/// The operations of all keys, and the numbers of keys and values.
#[derive(Default)]
struct Names<'h> {
    /// How many events there are.
    events: usize,
    numbers: Interner<'h>,
    /// The last key, which often comes again.
    last: Option<(&'h str, u32)>,
    keys: Vec<Key<'h>>,
    /// The values of all keys together, as values that come one after the other are near each other
    /// here even if they are those of different keys.
    texts: Interner<'h>,
    /// For each text the first key that has it as a value, and the number that it has there.
    owners: Vec<(u32, u32)>,
    /// The numbers of texts, in second place, for other keys, in the first.
    // Only ever asked for one value, so the order of the map never matters.
    shared: HashMap<(u32, u32), u32>,
}

/// A key.
struct Key<'h> {
    name: &'h str,
    /// How many values it has.
    values: u32,
    operations: Vec<Operation<'h>>,
}

impl<'h> Names<'h> {
    fn key(&mut self, name: &'h str) -> u32 {
        if let Some((_, number)) = self.last.filter(|(last, _)| *last == name) {
            return number;
        }
        let number = self.numbers.number(name);
        self.last = Some((name, number));
        if self.keys.len() <= number as usize {
            // If there is but one key, all operations are its own.
            let count = if number == 0 { self.events.div_ceil(2) } else { 0 };
            let operations = Vec::with_capacity(count);
            self.keys.push(Key { name, values: 0, operations });
        }
        number
    }

    /// The number of a value of a key.
    fn value(&mut self, key: u32, text: &'h str) -> u32 {
        let text = self.texts.number(text);
        let values = &mut self.keys[key as usize].values;
        let mut new = || std::mem::replace(values, *values + 1);
        match self.owners.get(text as usize) {
            Some((owner, number)) if *owner == key => *number,
            Some(_) => *self.shared.entry((key, text)).or_insert_with(new),
            None => {
                let number = new();
                self.owners.push((key, number));
                number
            }
        }
    }

    /// Adds an operation and says where it is.
    fn invoke(&mut self, position: usize, request: &'h MicroOp) -> (u32, u32) {
        let number = self.key(request.key());
        let mut operation = Operation::open(position, request);
        if let MicroOp::Put { value, .. } | MicroOp::Cas { value, .. } = request {
            operation.writes = self.value(number, value);
        }
        if let MicroOp::Cas { expect: Expect::Value(value), .. } = request {
            operation.sees = self.value(number, value);
        }
        let key = &mut self.keys[number as usize];
        let place = narrow(key.operations.len());
        key.operations.push(operation);
        (number, place)
    }

    /// Completes the operation at `place`.
    fn complete(
        &mut self,
        (number, place): (u32, u32),
        position: usize,
        answer: Option<&'h MicroOp>,
        has_failed: bool,
    ) {
        let sees = match answer {
            Some(MicroOp::Get { value: Observed::Value(value), .. }) => {
                Some(self.value(number, value))
            }
            _ => None,
        };
        let operation = &mut self.keys[number as usize].operations[place as usize];
        operation.completed = narrow(position);
        operation.has_failed = has_failed;
        if let Some(answer) = answer {
            operation.answer = Some(answer);
            operation.effect = Effect::of_answer(answer);
            operation.sees = sees.unwrap_or(operation.sees);
        }
    }

    fn into_keys(self) -> Vec<(&'h str, Vec<Operation<'h>>)> {
        self.keys.into_iter().map(|key| (key.name, key.operations)).collect()
    }
}

struct Pairing<'h> {
    clients: PerClient<Client<'h>>,
    processes: usize,
    /// How many events there are of each kind of fault.
    faults: BTreeMap<&'h str, usize>,
    ok: usize,
    failed: usize,
    /// If the operations shall be kept.
    names: Option<Names<'h>>,
}

impl<'h> Pairing<'h> {
    fn new(names: Option<Names<'h>>) -> Self {
        let (clients, faults) = (PerClient::default(), BTreeMap::new());
        Self { clients, processes: 0, faults, ok: 0, failed: 0, names }
    }

    fn run(mut self, history: &'h History) -> Result<Self, HistoryError> {
        let mut previous = None;
        for (position, event) in history.events.iter().enumerate() {
            in_order(previous, event)
                .and_then(|()| self.add(position, event))
                .map_err(|problem| HistoryError { event: position, problem })?;
            previous = Some(event);
        }
        Ok(self)
    }

    fn add(&mut self, position: usize, event: &'h Event) -> Result<(), Problem> {
        let process = match event.process {
            Process::Nemesis if event.kind == EventKind::Info && event.ops.is_empty() => {
                *self.faults.entry(&event.f).or_default() += 1;
                return Ok(());
            }
            Process::Nemesis => return Err(Problem::NemesisShape),
            Process::Client(process) => process,
        };
        if event.ops.len() > 1 {
            return Err(Problem::Transaction { count: event.ops.len() });
        }
        if event.kind == EventKind::Invoke {
            self.invoke(position, process, event)
        } else {
            self.complete(position, process, event)
        }
    }

    fn invoke(&mut self, position: usize, process: u64, event: &'h Event) -> Result<(), Problem> {
        let request = event.ops.first().ok_or(Problem::NoOperation)?;
        let client = self.clients.of(process);
        match client {
            Client::New => self.processes += 1,
            Client::Idle => {}
            Client::Waiting { .. } | Client::Retired => {
                return Err(Problem::ProcessBusy { process });
            }
        }
        let names = self.names.as_mut();
        let (key, place) = names.map_or((0, 0), |names| names.invoke(position, request));
        *client = Client::Waiting { request, key, place };
        Ok(())
    }

    fn complete(&mut self, position: usize, process: u64, event: &'h Event) -> Result<(), Problem> {
        let client @ &mut Client::Waiting { request, key, place } = self.clients.of(process) else {
            return Err(Problem::NothingOpen { process });
        };
        *client = if event.kind == EventKind::Info { Client::Retired } else { Client::Idle };
        let results = event.ops.first();
        if results.is_some_and(|results| !results.is_same_request(request)) {
            return Err(Problem::OtherRequest { process });
        }
        let answer = match event.kind {
            EventKind::Ok => Some(sensible(results.ok_or(Problem::NoOperation)?)?),
            EventKind::Fail | EventKind::Info | EventKind::Invoke => None,
        };
        let has_failed = event.kind == EventKind::Fail;
        self.ok += usize::from(answer.is_some());
        self.failed += usize::from(has_failed);
        if let Some(names) = &mut self.names {
            names.complete((key, place), position, answer, has_failed);
        }
        Ok(())
    }
}

fn sensible(answer: &MicroOp) -> Result<&MicroOp, Problem> {
    match answer {
        MicroOp::Get { value: Observed::Absent, version: Some(_), .. }
        | MicroOp::Cas { applied: Some(false), version: Some(_), .. } => {
            Err(Problem::VersionOfNothing)
        }
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Model;

    #[test]
    fn each_key_numbers_its_values_from_0_even_those_of_other_keys() {
        let mut history = History::new(Model::Kv);
        let writes = [("b", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("a", "z"), ("b", "x")];
        for (client, (key, value)) in (0..).zip(writes) {
            let put = vec![MicroOp::put(key, value)];
            history.push(client, Process::Client(client), EventKind::Invoke, put);
        }
        let keys = pair(&history).unwrap().keys;
        let numbers = |at: usize| keys[at].1.iter().map(|put| put.writes).collect::<Vec<_>>();
        assert_eq!((keys[0].0, numbers(0)), ("a", vec![0, 1, 2]));
        assert_eq!((keys[1].0, numbers(1)), ("b", vec![0, 1, 0]));
    }
}
