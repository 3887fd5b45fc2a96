//! From events to operations: pairing each invocation with its completion.
//!
//! A history is well-formed if its events are in order, if every client is sequential, and if every
//! completion answers the request that was made.
//! Only then do real-time order and outcome mean anything, so everything else is refused here,
//! once, for parsed histories and for those built in memory.
//!
//! # Invariants of the result
//!
//! - Operations are in the order of their invocations.
//! - `invoked < completed`, both positions in `History::events`.
//! - A process number never appears again after an operation of unknown outcome.
//!
//! # What this leaves out
//!
//! Fields of an invocation that belong to a result are ignored, not refused: only the completion
//! speaks about results.

use std::collections::BTreeMap;

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

/// One operation of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation<'h> {
    /// Number of the client.
    pub(crate) process: u64,
    /// Position of the invocation.
    pub(crate) invoked: usize,
    /// Position of the completion, of whatever kind; `None` if there is none.
    pub(crate) completed: Option<usize>,
    /// Number of the key.
    pub(crate) key: u32,
    /// Number of the value that it writes, among those of its key; [`NO_VALUE`] if it writes none.
    pub(crate) writes: u32,
    /// Number of the value that it saw, or that a cas expects; [`NO_VALUE`] if there is none.
    pub(crate) sees: u32,
    /// What was asked.
    pub(crate) request: &'h MicroOp,
    /// What came of it.
    pub(crate) outcome: Outcome<'h>,
}

impl<'h> Operation<'h> {
    /// An operation that nobody saw completed, with neither its key nor its values numbered.
    pub(crate) fn open(process: u64, invoked: usize, request: &'h MicroOp) -> Self {
        Self {
            process,
            invoked,
            completed: None,
            key: 0,
            writes: NO_VALUE,
            sees: NO_VALUE,
            request,
            outcome: Outcome::Unknown,
        }
    }
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
enum Client {
    #[default]
    Idle,
    Waiting(usize),
    Retired,
}

/// Pairs the events of a history, and numbers keys and values.
///
/// This is the one time that the texts are read: they lie all over the memory, so that each further
/// time takes as long as everything else together.
pub(crate) fn pair(history: &History) -> Result<Vec<Operation<'_>>, HistoryError> {
    Pairing::new(history, Some(Names::default())).run(history)
}

/// Verifies that a history is well-formed.
pub(crate) fn verify(history: &History) -> Result<(), HistoryError> {
    Pairing::new(history, None).run(history).map(|_| ())
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

/// The numbers of all keys and values.
#[derive(Default)]
struct Names<'h> {
    keys: Interner<'h>,
    /// The last key, which often comes again.
    last: Option<(&'h str, u32)>,
    /// The values of each key.
    values: Vec<Interner<'h>>,
}

impl<'h> Names<'h> {
    fn key(&mut self, key: &'h str) -> u32 {
        if let Some((_, number)) = self.last.filter(|(last, _)| *last == key) {
            return number;
        }
        let number = self.keys.number(key);
        self.last = Some((key, number));
        if self.values.len() <= number as usize {
            self.values.push(Interner::default());
        }
        number
    }

    fn value(&mut self, key: u32, value: &'h str) -> u32 {
        self.values[key as usize].number(value)
    }

    fn request(&mut self, operation: &mut Operation<'h>) {
        let key = self.key(operation.request.key());
        operation.key = key;
        if let MicroOp::Put { value, .. } | MicroOp::Cas { value, .. } = operation.request {
            operation.writes = self.value(key, value);
        }
        if let MicroOp::Cas { expect: Expect::Value(value), .. } = operation.request {
            operation.sees = self.value(key, value);
        }
    }

    fn answer(&mut self, operation: &mut Operation<'h>) {
        if let Outcome::Ok(MicroOp::Get { value: Observed::Value(value), .. }) = operation.outcome {
            operation.sees = self.value(operation.key, value);
        }
    }
}

struct Pairing<'h> {
    operations: Vec<Operation<'h>>,
    clients: PerClient<Client>,
    /// If keys and values shall be numbered.
    names: Option<Names<'h>>,
}

impl<'h> Pairing<'h> {
    fn new(history: &History, names: Option<Names<'h>>) -> Self {
        let operations = Vec::with_capacity(history.events.len().div_ceil(2));
        Self { operations, clients: PerClient::default(), names }
    }

    fn run(mut self, history: &'h History) -> Result<Vec<Operation<'h>>, HistoryError> {
        let mut previous = None;
        for (position, event) in history.events.iter().enumerate() {
            in_order(previous, event)
                .and_then(|()| self.add(position, event))
                .map_err(|problem| HistoryError { event: position, problem })?;
            previous = Some(event);
        }
        Ok(self.operations)
    }

    fn add(&mut self, position: usize, event: &'h Event) -> Result<(), Problem> {
        let process = match event.process {
            Process::Nemesis if event.kind == EventKind::Info && event.ops.is_empty() => {
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
        if !matches!(client, Client::Idle) {
            return Err(Problem::ProcessBusy { process });
        }
        *client = Client::Waiting(self.operations.len());
        let mut operation = Operation::open(process, position, request);
        if let Some(names) = &mut self.names {
            names.request(&mut operation);
        }
        self.operations.push(operation);
        Ok(())
    }

    fn complete(&mut self, position: usize, process: u64, event: &'h Event) -> Result<(), Problem> {
        let client @ &mut Client::Waiting(open) = self.clients.of(process) else {
            return Err(Problem::NothingOpen { process });
        };
        *client = if event.kind == EventKind::Info { Client::Retired } else { Client::Idle };
        let operation = &mut self.operations[open];
        let answer = event.ops.first();
        if answer.is_some_and(|answer| !answer.is_same_request(operation.request)) {
            return Err(Problem::OtherRequest { process });
        }
        operation.completed = Some(position);
        operation.outcome = match event.kind {
            EventKind::Ok => Outcome::Ok(sensible(answer.ok_or(Problem::NoOperation)?)?),
            EventKind::Fail => Outcome::Failed,
            EventKind::Info | EventKind::Invoke => Outcome::Unknown,
        };
        if let Some(names) = &mut self.names {
            names.answer(operation);
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
