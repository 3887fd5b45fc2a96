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

use crate::history::{Event, EventKind, History, MicroOp, Observed, Process};

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

/// One operation of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation<'h> {
    /// Number of the client.
    pub(crate) process: u64,
    /// Position of the invocation.
    pub(crate) invoked: usize,
    /// Position of the completion, of whatever kind; `None` if there is none.
    pub(crate) completed: Option<usize>,
    /// What was asked.
    pub(crate) request: &'h MicroOp,
    /// What came of it.
    pub(crate) outcome: Outcome<'h>,
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

#[derive(Clone, Copy)]
enum Client {
    Idle,
    Waiting(usize),
    Retired,
}

/// Pairs the events of a history.
pub(crate) fn pair(history: &History) -> Result<Vec<Operation<'_>>, HistoryError> {
    let mut pairing = Pairing::default();
    let mut previous = None;
    for (position, event) in history.events.iter().enumerate() {
        in_order(previous, event)
            .and_then(|()| pairing.add(position, event))
            .map_err(|problem| HistoryError { event: position, problem })?;
        previous = Some(event);
    }
    Ok(pairing.operations)
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

#[derive(Default)]
struct Pairing<'h> {
    operations: Vec<Operation<'h>>,
    clients: BTreeMap<u64, Client>,
}

impl<'h> Pairing<'h> {
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
        let client = self.clients.entry(process).or_insert(Client::Idle);
        if !matches!(client, Client::Idle) {
            return Err(Problem::ProcessBusy { process });
        }
        *client = Client::Waiting(self.operations.len());
        let (invoked, completed, outcome) = (position, None, Outcome::Unknown);
        self.operations.push(Operation { process, invoked, completed, request, outcome });
        Ok(())
    }

    fn complete(&mut self, position: usize, process: u64, event: &'h Event) -> Result<(), Problem> {
        let Some(client @ &mut Client::Waiting(open)) = self.clients.get_mut(&process) else {
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
