//! A client: the routing core, working off a workload.
//!
//! One operation is out at a time. In the liveness phase a client finishes what is out and pauses
//! for a while ([`quiet`]), in which the replicas must become equal without any new work. Then it writes to
//! the shards that fall to it, which shows that every shard takes writes again, and reads the keys
//! that fall to it, so that the history ends with what is there.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput};
use kv_core::codec;
use kv_core::op::{Found, WriteOp, WriteResult};
use kv_core::time::Instant;
use kv_core::wire::{self, Frame};

use super::caller::next_done;
use super::history::ClientEvent;
use super::replica::{Note, address_of};
use super::workload::{self, Operations};
use crate::engine::{Boot, Draw, Input, Kind, Machine, Outbox, Phase, ProcessId, Rng};
use crate::scenario::Scenario;

/// How long clients pause in the liveness phase: some elections long.
const QUIET: Duration = Duration::from_secs(10);

/// The same where members change: what has begun must come to its end first.
const QUIET_OF_CHANGES: Duration = Duration::from_secs(40);

/// Keys that all clients together read at the end, at most: every one of a small workload, a sample
/// of a large one.
const FINAL_READS_MAX: u64 = 1_000;

/// One client.
#[derive(Debug)]
pub struct Client {
    router: Router,
    operations: Operations,
    rng: Rng,
    /// Number in the history.
    process: u64,
    /// How far apart the numbers of one client are.
    client_count: u64,
    timeout: Duration,
    /// Time between two operations; none: the next starts when the last has ended.
    interval: Option<u64>,
    next_at: Option<Instant>,
    current: Option<(CallId, Call)>,
    phase: Phase,
    /// What is left to be done in the liveness phase.
    final_calls: VecDeque<Call>,
    /// How long to pause before that.
    quiet: Duration,
    quiet_until: Instant,
    /// Calls of the liveness phase that came to nothing.
    refused_count: u32,
    scratch: Vec<u8>,
}

/// How long clients pause in the liveness phase of a scenario.
pub(super) fn quiet(scenario: &Scenario) -> Duration {
    if scenario.membership().is_some() { QUIET_OF_CHANGES } else { QUIET }
}

/// What falls to client number `index` when all faults are healed.
fn final_calls(scenario: &Scenario, index: u64) -> VecDeque<Call> {
    let client_count = u64::from(scenario.workload.clients);
    let is_mine = |number: &u64| number % client_count == index;
    let shards = (1..=scenario.cluster.shards).filter(|shard| is_mine(&u64::from(*shard)));
    let writes = shards.map(|shard| workload::final_write(shard, scenario.cluster.shards));
    let reads = (0..scenario.workload.keys.min(FINAL_READS_MAX)).filter(is_mine);
    writes.chain(reads.map(|number| Call::Get { key: workload::key(number) })).collect()
}

impl Client {
    pub(super) fn new(scenario: &Scenario, boot: Boot) -> Self {
        let ProcessId::Client(index) = boot.process else {
            unreachable!("a server is not a client");
        };
        let servers = (0..scenario.cluster.nodes).map(ProcessId::Server);
        let workload = &scenario.workload;
        let client_count = u64::from(workload.clients);
        let config = RouterConfig {
            attempt_timeout: Duration::from_millis(500),
            ..RouterConfig::new(servers.map(address_of).collect())
        };
        let mut rng = Rng::fork(boot.seed, "pace", 0);
        let interval = workload.rate_per_client.map(|rate| (1e9 / rate) as u64);
        let first = interval.map_or(0, |interval| rng.below(interval));
        Self {
            router: Router::new(config, boot.seed),
            operations: Operations::new(workload, index, boot.seed),
            rng,
            process: u64::from(index),
            client_count,
            timeout: Duration::from_nanos(workload.operation_timeout),
            interval,
            next_at: Some(Instant::from_nanos(boot.now + first)),
            current: None,
            phase: Phase::Safety,
            final_calls: final_calls(scenario, u64::from(index)),
            quiet: quiet(scenario),
            quiet_until: Instant::ZERO,
            refused_count: 0,
            scratch: Vec::new(),
        }
    }

    /// Whether the client was told in the liveness phase that it gets nothing.
    pub(super) fn was_refused(&self) -> bool {
        self.refused_count > 0
    }

    /// Whether the client has ended its work.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Liveness && self.current.is_none() && self.final_calls.is_empty()
    }

    fn start_next(&mut self, now: Instant, out: &mut Outbox<Note>) {
        if self.current.is_some() || self.next_at.is_none_or(|at| at > now) {
            return;
        }
        let call = match self.phase {
            Phase::Safety => self.operations.next_call(),
            Phase::Liveness => match self.final_calls.front() {
                Some(call) => call.clone(),
                None => return,
            },
        };
        self.next_at = None;
        self.record(Kind::Call, out, |scratch| encode_call(&call, scratch), || format!("{call:?}"));
        out.note(Note::Client(Box::new(ClientEvent {
            process: self.process,
            call: call.clone(),
            result: None,
        })));
        let id = self.router.call(now, call.clone(), now + self.timeout);
        self.current = Some((id, call));
    }

    fn record(
        &mut self,
        kind: Kind,
        out: &mut Outbox<Note>,
        encode: impl FnOnce(&mut Vec<u8>),
        words: impl FnOnce() -> String,
    ) {
        self.scratch.clear();
        encode(&mut self.scratch);
        out.record(kind, &self.scratch, words);
    }

    fn drain(&mut self, now: Instant, out: &mut Outbox<Note>) {
        while let Some((call, result)) = next_done(&mut self.router, out) {
            self.finish(now, call, result, out);
        }
    }

    fn finish(
        &mut self,
        now: Instant,
        id: CallId,
        result: Result<Answer, CallError>,
        out: &mut Outbox<Note>,
    ) {
        let Some((expected, call)) = self.current.take() else {
            panic!("{id:?} was not called");
        };
        assert_eq!(id, expected, "one call is out at a time");
        let words = || format!("{result:?}");
        self.record(Kind::Reply, out, |scratch| encode_result(&result, scratch), words);
        self.learn(&call, &result);
        if result.is_ok() && self.final_calls.front() == Some(&call) {
            self.final_calls.pop_front();
        }
        let in_liveness = self.phase == Phase::Liveness && now >= self.quiet_until;
        self.refused_count += u32::from(in_liveness && result.is_err());
        let is_unknown = matches!(result, Err(CallError::UnknownOutcome { .. }));
        let process = self.process;
        out.note(Note::Client(Box::new(ClientEvent { process, call, result: Some(result) })));
        if is_unknown {
            self.process += self.client_count;
        }
        let pause = match (self.phase, self.interval) {
            (Phase::Safety, Some(interval)) => self.rng.around(interval),
            (Phase::Safety, None) | (Phase::Liveness, _) => 0,
        };
        self.next_at = Some((now + Duration::from_nanos(pause)).max(self.quiet_until));
    }

    fn learn(&mut self, call: &Call, result: &Result<Answer, CallError>) {
        match (call, result) {
            (Call::Get { key }, Ok(Answer::Got(found))) => {
                self.operations.see(key, found.clone());
            }
            (
                Call::Write(WriteOp::Put { key, value }),
                Ok(Answer::Written(WriteResult::Put { version })),
            )
            | (
                Call::Write(WriteOp::Cas { key, value, .. }),
                Ok(Answer::Written(WriteResult::Cas { applied: true, version: Some(version) })),
            ) => {
                let found = Found { version: *version, value: value.clone() };
                self.operations.see(key, Some(found));
            }
            _ => {}
        }
    }

    fn deliver(&mut self, now: Instant, from: ProcessId, bytes: &Bytes) {
        if let Ok(Frame::Reply(reply)) = wire::decode(bytes) {
            let from = address_of(from);
            self.router.handle(now, RouterInput::Receive { from, reply });
        }
    }
}

/// All of a call, for the trace hash.
fn encode_call(call: &Call, out: &mut Vec<u8>) {
    match call {
        Call::Get { key } => codec::encode_into(key, out),
        Call::Write(op) => codec::encode_into(op, out),
        Call::Admin(request) => codec::encode_into(request, out),
        Call::Timestamp
        | Call::GetAt { .. }
        | Call::GetReplica { .. }
        | Call::ScanAt { .. }
        | Call::Txn { .. }
        | Call::WriteBatch { .. }
        | Call::Outcome { .. }
        | Call::Status { .. }
        | Call::Map
        | Call::Join { .. } => {
            unreachable!("workloads of single keys hold no such calls")
        }
    }
}

/// All of what a call came to, for the trace hash.
fn encode_result(result: &Result<Answer, CallError>, out: &mut Vec<u8>) {
    match result {
        Ok(Answer::Got(found)) => codec::encode_into(found, out),
        Ok(Answer::Written(result)) => codec::encode_into(result, out),
        Ok(Answer::Admin(reply)) => codec::encode_into(reply, out),
        Ok(
            Answer::Timestamp(_)
            | Answer::Page(_)
            | Answer::GotReplica { .. }
            | Answer::Buffered
            | Answer::Committed { .. }
            | Answer::RolledBack
            | Answer::Outcome(_)
            | Answer::Status(_)
            | Answer::Map(_),
        ) => unreachable!("workloads of single keys ask for none of these"),
        Err(error) => out.extend_from_slice(error.to_string().as_bytes()),
    }
}

impl Machine for Client {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        let now = Instant::from_nanos(now);
        match input {
            Input::Start | Input::IoDone(_) | Input::Link { is_up: true, .. } => {}
            Input::Link { peer, is_up: false } => {
                let to = address_of(peer);
                self.router.handle(now, RouterInput::Unreachable { to });
            }
            Input::Phase(phase) => {
                self.phase = phase;
                self.quiet_until = now + self.quiet;
                if self.current.is_none() {
                    self.next_at = Some(self.quiet_until);
                }
            }
            Input::Deliver { from, bytes } => self.deliver(now, from, &bytes),
            Input::Timer => self.router.handle(now, RouterInput::Timeout),
        }
        // An operation may end within the step that starts it; then the next one may be due at
        // once.
        loop {
            self.drain(now, out);
            let before = self.current.is_some();
            self.start_next(now, out);
            if before || self.current.is_none() {
                return;
            }
        }
    }

    fn deadline(&self) -> Option<u64> {
        let is_due = self.current.is_none() && !self.is_done();
        let next = self.next_at.filter(|_| is_due);
        self.router.poll_timeout().into_iter().chain(next).min().map(Instant::as_nanos)
    }
}
