//! What clients asked and heard: single keys, transactions or sessions, by the kind of the workload.

use std::io;

use kv_core::node::Event;

use super::history::Recorder;
use super::judge;
use super::replica::Note;
use super::sessions::{self, SessionRecorder};
use super::system::KvSystem;
use super::timeline::Timeline;
use super::txn::{self, Ring, TxnRecorder};
use super::version_order;
use crate::engine::{Check, FaultKind, FaultSpec, Operations, ProcessId, World};
use crate::scenario::{Expect, Scenario, WorkloadKind};

/// The clients' history.
#[derive(Debug)]
pub(super) enum Record {
    /// Of operations of single keys.
    Keys(Recorder),
    /// Of transactions.
    Txns(Box<TxnRecorder>),
    /// Of sessions, over so many shards.
    Sessions(Box<SessionRecorder>, u32),
}

impl Record {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let kind = scenario.workload.kind;
        if kind == WorkloadKind::Sessions {
            return Self::Sessions(Box::default(), scenario.cluster.shards);
        }
        match kind.has_transactions() {
            true => Self::Txns(Box::new(TxnRecorder::new(kind))),
            false => Self::Keys(Recorder::new(kind)),
        }
    }

    /// Takes what a client tells, if it is an operation.
    pub(super) fn on_note(&mut self, now: u64, note: &Note) {
        match (self, note) {
            (Self::Keys(recorder), Note::Client(event)) => recorder.record(now, event),
            (Self::Txns(recorder), Note::Txn(event)) => recorder.record(now, event),
            (Self::Txns(recorder), Note::Ring { client, event }) => {
                recorder.rings.on_event(now, *client, event);
            }
            (Self::Txns(recorder), Note::Timestamp(at)) => recorder.versions.on_heard(at.0),
            (Self::Sessions(recorder, shard_count), Note::Session(event)) => {
                recorder.record(now, event, *shard_count);
            }
            (Self::Keys(_) | Self::Txns(_) | Self::Sessions(..), _) => {}
        }
    }

    /// A server has told something about itself.
    pub(super) fn on_node_event(&mut self, server: ProcessId, event: &Event) {
        match self {
            Self::Keys(_) | Self::Txns(_) => {}
            Self::Sessions(recorder, _) => recorder.on_node_event(server, event),
        }
    }

    pub(super) fn push_fault(&mut self, now: u64, kind: FaultKind) {
        match self {
            Self::Keys(recorder) => recorder.history.push_fault(now, &kind.to_string()),
            Self::Txns(recorder) => recorder.push_fault(now, &kind.to_string()),
            Self::Sessions(..) => {}
        }
    }

    pub(super) fn operations(&self) -> Operations {
        match self {
            Self::Keys(recorder) => recorder.operations,
            Self::Txns(recorder) => recorder.operations,
            Self::Sessions(recorder, _) => recorder.operations,
        }
    }

    /// The rings of transactions that waited for each other.
    pub(super) fn rings(&self) -> &[Ring] {
        match self {
            Self::Keys(_) | Self::Sessions(..) => &[],
            Self::Txns(recorder) => recorder.rings.ended(),
        }
    }

    pub(super) fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        match self {
            Self::Keys(recorder) => kv_check::write_to(&recorder.history, out),
            Self::Txns(recorder) => out.write_all(recorder.text.as_bytes()),
            Self::Sessions(recorder, _) => out.write_all(recorder.text.as_bytes()),
        }
    }

    /// What the history promises, and whether that is kept.
    pub(super) fn judge(
        &self,
        scenario: &Scenario,
        timeline: &Timeline,
        world: &World<'_, KvSystem>,
    ) -> Vec<Check> {
        let history = match self {
            Self::Keys(recorder) => &recorder.history,
            Self::Txns(recorder) => return txn::judge(recorder, scenario, timeline, world),
            Self::Sessions(recorder, _) => return sessions::judge(recorder, scenario, world),
        };
        let shard_count = scenario.cluster.shards;
        let mut kinds = scenario.faults.iter().map(FaultSpec::kind);
        let may_rot = kinds.any(|kind| kind == FaultKind::BitRot);
        let durability = match scenario.expect {
            _ if !world.is_complete() => Check::skipped("durability", "the run ended before"),
            Expect::Convergence => judge::durability(history, world, shard_count, may_rot),
            Expect::Refusal => Check::skipped("durability", "what is damaged is not there"),
        };
        vec![durability, judge::linearizability(history), version_order::judge(history)]
    }
}
