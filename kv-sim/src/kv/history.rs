//! Recording what clients asked and heard.

use kv_check::{EventKind, Expect as CheckExpect, History, MicroOp, Model, Observed, Process};
use kv_core::client::{Answer, Call, CallError};
use kv_core::op::{Expect, Found, Key, Value, WriteOp, WriteResult};

use crate::engine::Operations;
use crate::scenario::WorkloadKind;

/// One end of an operation.
#[derive(Debug)]
pub struct ClientEvent {
    /// The process of the history: a client goes on under another number after an unknown outcome.
    pub process: u64,
    /// What was asked.
    pub call: Call,
    /// What was heard; none when the operation begins.
    pub result: Option<Result<Answer, CallError>>,
}

/// The history of a run, and what is counted on the way.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) history: History,
    pub(super) operations: Operations,
}

impl Recorder {
    pub(super) fn new(kind: WorkloadKind) -> Self {
        let model = match kind {
            WorkloadKind::Register => Model::Register,
            WorkloadKind::Kv => Model::Kv,
            WorkloadKind::Bank
            | WorkloadKind::ListAppend
            | WorkloadKind::RwRegister
            | WorkloadKind::WriteSkew
            | WorkloadKind::LongFork
            | WorkloadKind::CausalReverse
            | WorkloadKind::Phantom
            | WorkloadKind::Deadlock
            | WorkloadKind::Ordered
            | WorkloadKind::HotKeys => unreachable!("transactions have another history"),
            WorkloadKind::Sessions => unreachable!("sessions have another history"),
        };
        Self { history: History::new(model), operations: Operations::default() }
    }

    pub(super) fn record(&mut self, now: u64, event: &ClientEvent) {
        if matches!(event.call, Call::Admin(_)) {
            return;
        }
        let kind = match &event.result {
            None => EventKind::Invoke,
            Some(Ok(_)) => {
                self.operations.ok += 1;
                EventKind::Ok
            }
            Some(Err(
                CallError::UnknownOutcome { .. }
                | CallError::OutcomeForgotten { .. }
                | CallError::AdminUnknown,
            )) => {
                self.operations.unknown += 1;
                EventKind::Info
            }
            Some(Err(
                CallError::Unavailable { .. }
                | CallError::Refused(_)
                | CallError::Aborted(_)
                | CallError::NoTransaction
                | CallError::TxnTooLarge { .. }
                | CallError::WrongOutcomeId { .. },
            )) => {
                self.operations.failed += 1;
                EventKind::Fail
            }
        };
        let answer = event.result.as_ref().and_then(|result| result.as_ref().ok());
        let operation = micro_operation(&event.call, answer);
        self.history.push(now, Process::Client(event.process), kind, vec![operation]);
    }
}

/// The operation in the words of the history, with its results if there are any.
fn micro_operation(call: &Call, answer: Option<&Answer>) -> MicroOp {
    let written = match answer {
        Some(Answer::Written(result)) => Some(result),
        Some(
            Answer::Got(_)
            | Answer::Timestamp(_)
            | Answer::Page(_)
            | Answer::GotReplica { .. }
            | Answer::Buffered
            | Answer::Committed { .. }
            | Answer::RolledBack
            | Answer::Outcome(_)
            | Answer::Status(_)
            | Answer::Map(_)
            | Answer::Admin(_),
        )
        | None => None,
    };
    match call {
        Call::Get { key } => read(key, answer),
        Call::Write(WriteOp::Put { key, value }) => MicroOp::Put {
            key: text(&key.bytes),
            value: content(value),
            version: match written {
                Some(WriteResult::Put { version }) => Some(version.0),
                Some(WriteResult::Delete { .. } | WriteResult::Cas { .. }) | None => None,
            },
        },
        Call::Write(WriteOp::Delete { key }) => MicroOp::Delete {
            key: text(&key.bytes),
            existed: match written {
                Some(WriteResult::Delete { existed }) => Some(*existed),
                Some(WriteResult::Put { .. } | WriteResult::Cas { .. }) | None => None,
            },
        },
        Call::Write(WriteOp::Cas { key, expect, value }) => {
            let (applied, version) = match written {
                Some(WriteResult::Cas { applied: true, version }) => {
                    (Some(true), version.map(|version| version.0))
                }
                Some(WriteResult::Cas { applied: false, .. }) => (Some(false), None),
                Some(WriteResult::Put { .. } | WriteResult::Delete { .. }) | None => (None, None),
            };
            let expect = expectation(expect);
            MicroOp::Cas { key: text(&key.bytes), expect, value: content(value), applied, version }
        }
        Call::Timestamp
        | Call::GetAt { .. }
        | Call::GetReplica { .. }
        | Call::ScanAt { .. }
        | Call::Txn { .. }
        | Call::WriteBatch { .. }
        | Call::Outcome { .. }
        | Call::Status { .. }
        | Call::Map
        | Call::Admin(_)
        | Call::Join { .. } => {
            unreachable!("workloads of single keys hold no such calls")
        }
    }
}

fn read(key: &Key, answer: Option<&Answer>) -> MicroOp {
    let (value, version) = match answer {
        Some(Answer::Got(Some(Found { version, value }))) => {
            (Observed::Value(content(value)), Some(version.0))
        }
        Some(Answer::Got(None)) => (Observed::Absent, None),
        Some(
            Answer::Written(_)
            | Answer::Timestamp(_)
            | Answer::Page(_)
            | Answer::GotReplica { .. }
            | Answer::Buffered
            | Answer::Committed { .. }
            | Answer::RolledBack
            | Answer::Outcome(_)
            | Answer::Status(_)
            | Answer::Map(_)
            | Answer::Admin(_),
        )
        | None => (Observed::NotReported, None),
    };
    MicroOp::Get { key: text(&key.bytes), value, version }
}

fn expectation(expect: &Expect) -> CheckExpect {
    match expect {
        Expect::Value(value) => CheckExpect::Value(content(value)),
        Expect::Version(version) => CheckExpect::Version(version.0),
        Expect::Absent => CheckExpect::Absent,
    }
}

fn content(value: &Value) -> String {
    match value {
        Value::String(bytes) => str::from_utf8(bytes).unwrap_or("not text").trim_end().to_owned(),
    }
}

/// Keys and values of workloads are text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
