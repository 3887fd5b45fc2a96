//! A client that runs transactions, one at a time.
//!
//! What was aborted is begun again with the same age, some times. Whatever fails otherwise is rolled
//! back and given up; only a commit without an answer leaves open what happened. Then the client asks
//! how it ended, half of the time, and the answer goes into the history as if the commit had been
//! answered so: a wrong one shows. In the liveness phase
//! a client ends what is out, is quiet for as long as a client of single keys, and then commits what
//! falls to it, however often it must try.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, RouterOutput, TxnHandle,
    TxnOp,
};
use kv_core::op::{Found, WriteOp, WriteResult};
use kv_core::time::Instant;
use kv_core::txn::{AbortReason, Age, TxnOutcome};
use kv_core::wire::{self, Frame};

use super::attempt::Attempt;
use super::operations::Operations;
use super::snapshot::{Snapshot, Turn};
use super::transaction::{Style, Transaction, TxnEnd, TxnEvent};
use crate::engine::{Boot, Draw, Input, Kind, Machine, Outbox, Phase, ProcessId, Rng};
use crate::kv::client::quiet;
use crate::kv::replica::{Note, address_of, server_at};
use crate::scenario::Scenario;

/// Attempts of one transaction before the client goes on to another one.
const ATTEMPTS_MAX: u32 = 5;

/// Pause before an attempt, about, for each attempt before it: long enough for others to end.
const BACKOFF: Duration = Duration::from_millis(20);

/// A client that dies in the middle of a transaction dies after so many messages at most: some
/// locks, preparations, and a commit.
const LIFE_SENDS_MAX: u64 = 10;

/// How many of the commits without an answer are asked for, in a million.
const ASK_RATE: u32 = 500_000;

/// A client of transactions.
#[derive(Debug)]
pub struct TxnClient {
    router: Router,
    operations: Operations,
    rng: Rng,
    /// Number in the history.
    process: u64,
    /// How far apart the numbers of one client are.
    client_count: u64,
    /// How long an attempt may take.
    timeout: Duration,
    /// Time between two transactions; none: the next starts when the last has ended.
    interval: Option<u64>,
    next_at: Instant,
    current: Option<Current>,
    /// What was aborted and is to be begun again.
    aborted: Option<Work>,
    phase: Phase,
    /// What is left to be done in the liveness phase.
    final_work: VecDeque<Transaction>,
    /// How long to pause before that.
    quiet: Duration,
    quiet_until: Instant,
    /// Transactions of the liveness phase that came to nothing.
    refused_count: u32,
    /// What another life of the client begins with.
    config: RouterConfig,
    /// Transactions that are abandoned, in a million.
    abandon_rate: u32,
    /// What a life of the client adds to the numbers of its requests, so that it knows the answers
    /// to those of earlier lives.
    correlation_base: u64,
    last_correlation: u64,
}

/// A transaction that may take some attempts.
#[derive(Clone, Debug)]
struct Work {
    transaction: Transaction,
    age: Age,
    /// Attempts that were aborted.
    attempt_count: u32,
}

/// The attempt that is out.
#[derive(Debug)]
struct Current {
    attempt: Attempt,
    age: Age,
    attempt_count: u32,
    /// None for a call without a transaction.
    txn: Option<TxnHandle>,
    /// If it reads at a timestamp.
    snapshot: Option<Snapshot>,
    call: CallId,
    /// What was asked for.
    op: TxnOp,
    deadline: Instant,
    /// Whether it writes anything.
    has_written: bool,
    /// Whether the commit was not answered, and it asks for the outcome.
    is_asking: bool,
    /// Messages after which the client dies; none: it does not.
    sends_left: Option<u64>,
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) enum Next {
    Continue,
    Rollback,
    End(TxnEnd),
    /// The end of the attempt, but the transaction may be begun again.
    Retry(TxnEnd),
}

impl TxnClient {
    pub(in super::super) fn new(scenario: &Scenario, boot: Boot) -> Self {
        let ProcessId::Client(index) = boot.process else {
            unreachable!("a server is not a client");
        };
        let servers = (0..scenario.cluster.nodes).map(ProcessId::Server);
        let config = RouterConfig {
            attempt_timeout: Duration::from_millis(500),
            ..RouterConfig::new(servers.map(address_of).collect())
        };
        let mut rng = Rng::fork(boot.seed, "pace", 0);
        let interval = scenario.workload.rate_per_client.map(|rate| (1e9 / rate) as u64);
        let first = interval.map_or(0, |interval| rng.below(interval));
        Self {
            router: Router::new(config.clone(), boot.seed),
            operations: Operations::new(scenario, index, boot.seed),
            rng,
            process: u64::from(index),
            client_count: u64::from(scenario.workload.clients),
            timeout: Duration::from_nanos(scenario.workload.operation_timeout),
            interval,
            next_at: Instant::from_nanos(boot.now + first),
            current: None,
            aborted: None,
            phase: Phase::Safety,
            final_work: VecDeque::new(),
            quiet: quiet(scenario),
            quiet_until: Instant::ZERO,
            refused_count: 0,
            config,
            abandon_rate: scenario.workload.abandon_rate,
            correlation_base: 0,
            last_correlation: 0,
        }
    }

    /// Whether the client was told in the liveness phase that it gets nothing.
    pub(in super::super) fn was_refused(&self) -> bool {
        self.refused_count > 0
    }

    /// Whether the client has ended its work.
    pub(in super::super) fn is_done(&self) -> bool {
        self.phase == Phase::Liveness && self.current.is_none() && self.final_work.is_empty()
    }

    fn start_next(&mut self, now: Instant, out: &mut Outbox<Note>) {
        if self.current.is_some() || self.is_done() || self.next_at > now {
            return;
        }
        let new = |transaction| Work { transaction, age: Age(now.as_nanos()), attempt_count: 0 };
        let work = match (self.aborted.take(), self.phase, self.final_work.front()) {
            (Some(mut work), ..) => {
                work.transaction = self.operations.again(&work.transaction);
                work
            }
            (None, Phase::Liveness, Some(transaction)) => new(self.operations.again(transaction)),
            (None, Phase::Liveness, None) => return,
            (None, Phase::Safety, _) => new(self.operations.next()),
        };
        self.begin(now, work, out);
    }

    fn begin(&mut self, now: Instant, work: Work, out: &mut Outbox<Note>) {
        let Work { transaction, age, attempt_count } = work;
        out.note(Note::Txn(Box::new(TxnEvent {
            process: self.process,
            transaction: transaction.clone(),
            end: None,
        })));
        let is_locking = matches!(transaction.style, Style::Locking | Style::LockingScan);
        let txn = is_locking.then(|| self.router.begin(now, age));
        let snapshot = Snapshot::new(transaction.style, &transaction.ops);
        let mut attempt = Attempt::new(transaction);
        let (op, deadline) = (attempt.next_op(), now + self.timeout);
        let call = match &snapshot {
            Some(_) => self.call(now, Call::Timestamp, deadline, out),
            None => self.ask(now, txn, &op, deadline, out),
        };
        let sends_left = self.draw_death();
        self.current = Some(Current {
            attempt,
            age,
            attempt_count,
            txn,
            snapshot,
            call,
            op,
            deadline,
            has_written: false,
            is_asking: false,
            sends_left,
        });
    }

    /// After how many messages the client dies, if it does not survive this transaction.
    fn draw_death(&mut self) -> Option<u64> {
        let may_die = self.abandon_rate > 0 && self.phase == Phase::Safety;
        let dies = may_die && self.rng.chance(self.abandon_rate);
        dies.then(|| self.rng.between(1, LIFE_SENDS_MAX))
    }

    /// The client dies: nothing of what it was about to send is sent, nobody beats for what it has
    /// locked, and nobody rolls it back. Another one takes its place, which knows nothing.
    fn die(&mut self, now: Instant, current: Current, out: &mut Outbox<Note>) {
        out.record(Kind::Reply, b"abandoned", || "abandoned".into());
        self.router = Router::new(self.config.clone(), self.rng.next_u64());
        self.correlation_base = self.last_correlation;
        let is_open = match &current.op {
            TxnOp::Commit => true,
            TxnOp::Put { .. } => current.txn.is_none(),
            TxnOp::Get { .. }
            | TxnOp::GetForUpdate { .. }
            | TxnOp::Scan { .. }
            | TxnOp::Delete { .. }
            | TxnOp::Rollback => false,
        };
        let end = match is_open {
            true => TxnEnd::Unknown,
            false => TxnEnd::failed("abandoned"),
        };
        self.end(now, current, end, false, out);
    }

    fn ask(
        &mut self,
        now: Instant,
        txn: Option<TxnHandle>,
        op: &TxnOp,
        deadline: Instant,
        out: &mut Outbox<Note>,
    ) -> CallId {
        let words = format!("{txn:?} {op:?}");
        out.record(Kind::Call, words.as_bytes(), || words.clone());
        let call = match (txn, op.clone()) {
            (Some(txn), op) => Call::Txn { txn, op },
            (None, TxnOp::Put { key, value }) => Call::Write(WriteOp::Put { key, value }),
            (None, TxnOp::Get { key }) => Call::Get { key },
            (None, op) => unreachable!("{op:?} takes a transaction"),
        };
        self.router.call(now, call, deadline)
    }

    /// Asks for a read of a snapshot.
    fn call(
        &mut self,
        now: Instant,
        call: Call,
        deadline: Instant,
        out: &mut Outbox<Note>,
    ) -> CallId {
        let words = format!("{call:?}");
        out.record(Kind::Call, words.as_bytes(), || words.clone());
        self.router.call(now, call, deadline)
    }

    fn drain(&mut self, now: Instant, out: &mut Outbox<Note>) {
        while let Some(output) = self.router.poll_output() {
            match output {
                RouterOutput::Send { to, mut request } => {
                    request.correlation += self.correlation_base;
                    self.last_correlation = request.correlation;
                    let bytes = wire::encode(&Frame::Request(request));
                    out.send(server_at(&to), bytes.into());
                    self.on_sent(now, out);
                }
                RouterOutput::Done { call, result } => self.on_done(now, call, result, out),
            }
        }
    }

    fn on_sent(&mut self, now: Instant, out: &mut Outbox<Note>) {
        let sends_left = self.current.as_mut().and_then(|current| current.sends_left.as_mut());
        let Some(sends_left) = sends_left else { return };
        *sends_left -= 1;
        if *sends_left == 0
            && let Some(current) = self.current.take()
        {
            self.die(now, current, out);
        }
    }

    fn on_done(
        &mut self,
        now: Instant,
        id: CallId,
        result: Result<Answer, CallError>,
        out: &mut Outbox<Note>,
    ) {
        let words = format!("{result:?}");
        out.record(Kind::Reply, words.as_bytes(), || words.clone());
        let Some(mut current) = self.current.take() else { panic!("{id:?} was not called") };
        assert_eq!(id, current.call, "one call is out at a time");
        if let (TxnOp::Get { key } | TxnOp::GetForUpdate { key }, Ok(Answer::Got(found))) =
            (&current.op, &result)
        {
            self.operations.see(key, found.as_ref());
        }
        if let Ok(Answer::Timestamp(at)) = &result {
            out.note(Note::Timestamp(*at));
        }
        current.has_written |= matches!(result, Ok(Answer::Buffered));
        if let Err(CallError::UnknownOutcome { id: Some(id), .. }) = result
            && self.rng.chance(ASK_RATE)
        {
            current.is_asking = true;
            current.call = self.call(now, Call::Outcome { id }, now + self.timeout, out);
            self.current = Some(current);
            return;
        }
        if current.is_asking {
            let next = end_of_question(&result, current.has_written, &mut current.attempt.found);
            return self.follow(now, current, next, out);
        }
        let Current { attempt, op, snapshot, txn, .. } = &mut current;
        let next = match (snapshot, *txn) {
            (Some(snapshot), _) => match snapshot.turn(result, attempt, op) {
                Turn::Ask(call) => {
                    current.call = self.call(now, call, current.deadline, out);
                    self.current = Some(current);
                    return;
                }
                Turn::End(end) => Next::End(end),
                Turn::Retry(end) => Next::Retry(end),
            },
            (None, Some(_)) => match (&*op, result) {
                (TxnOp::Scan { .. }, Ok(Answer::Page(page))) => {
                    attempt.take_page(page);
                    Next::Continue
                }
                (op, result) => next(op, result, &mut attempt.found),
            },
            (None, None) => end_of_plain(result),
        };
        self.follow(now, current, next, out);
    }

    fn follow(&mut self, now: Instant, mut current: Current, next: Next, out: &mut Outbox<Note>) {
        match next {
            Next::Continue => {
                current.op = current.attempt.next_op();
                self.go_on(now, current, out);
            }
            Next::Rollback => {
                current.op = TxnOp::Rollback;
                current.deadline = now + self.timeout;
                self.go_on(now, current, out);
            }
            Next::End(end) => self.end(now, current, end, false, out),
            Next::Retry(end) => self.end(now, current, end, true, out),
        }
    }

    fn go_on(&mut self, now: Instant, mut current: Current, out: &mut Outbox<Note>) {
        current.call = self.ask(now, current.txn, &current.op, current.deadline, out);
        self.current = Some(current);
    }

    fn end(
        &mut self,
        now: Instant,
        current: Current,
        end: TxnEnd,
        is_aborted: bool,
        out: &mut Outbox<Note>,
    ) {
        let Current { attempt, age, attempt_count, .. } = current;
        let is_final = self.phase == Phase::Liveness && now >= self.quiet_until;
        let is_committed = matches!(end, TxnEnd::Committed { .. });
        let process = self.process;
        match &end {
            TxnEnd::Committed { .. } => {
                if is_final {
                    self.final_work.pop_front();
                }
            }
            TxnEnd::Failed { .. } => self.refused_count += u32::from(is_final),
            TxnEnd::Unknown => {
                self.refused_count += u32::from(is_final);
                self.process += self.client_count;
            }
        }
        let attempt_count = attempt_count + 1;
        let is_again = is_aborted && attempt_count < ATTEMPTS_MAX && self.phase == Phase::Safety;
        let transaction = attempt.transaction;
        if is_again {
            let transaction = transaction.clone();
            self.aborted = Some(Work { transaction, age, attempt_count });
        }
        out.note(Note::Txn(Box::new(TxnEvent { process, transaction, end: Some(end) })));
        let pause = match self.interval.filter(|_| self.phase == Phase::Safety) {
            Some(interval) if !is_again => self.rng.around(interval),
            _ if is_committed => 0,
            _ => self.rng.around(BACKOFF.as_nanos() as u64 * u64::from(attempt_count)),
        };
        self.next_at = (now + Duration::from_nanos(pause)).max(self.quiet_until);
    }

    fn on_phase(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.aborted = None;
        if let Some(current) = &mut self.current {
            current.sends_left = None;
        }
        self.quiet_until = now + self.quiet;
        self.next_at = self.quiet_until;
        self.final_work = self.operations.final_transactions().into();
    }

    fn deliver(&mut self, now: Instant, from: ProcessId, bytes: &Bytes) {
        let Ok(Frame::Reply(mut reply)) = wire::decode(bytes) else { return };
        if let Some(correlation) = reply.correlation.checked_sub(self.correlation_base) {
            reply.correlation = correlation;
            let from = address_of(from);
            self.router.handle(now, RouterInput::Receive { from, reply });
        }
    }
}

/// What comes after the answer to a step.
pub(super) fn next(
    op: &TxnOp,
    result: Result<Answer, CallError>,
    found: &mut Vec<Option<Found>>,
) -> Next {
    match (op, result) {
        (TxnOp::Get { .. } | TxnOp::GetForUpdate { .. }, Ok(Answer::Got(value))) => {
            found.push(value);
            Next::Continue
        }
        (TxnOp::Put { .. } | TxnOp::Delete { .. }, Ok(Answer::Buffered)) => Next::Continue,
        (TxnOp::Commit, Ok(Answer::Committed { commit_ts })) => {
            let found = std::mem::take(found);
            Next::End(TxnEnd::Committed { found, commit_ts, at: None })
        }
        (TxnOp::Commit, Err(CallError::UnknownOutcome { .. })) => Next::End(TxnEnd::Unknown),
        (TxnOp::Rollback, Ok(Answer::RolledBack)) => Next::End(TxnEnd::failed("rolled back")),
        (op, Ok(answer)) => panic!("{op:?} was answered with {answer:?}"),
        (_, Err(error @ CallError::Aborted(_))) => {
            let is_deadlock = matches!(error, CallError::Aborted(AbortReason::Deadlock { .. }));
            Next::Retry(TxnEnd::Failed { reason: error.to_string(), is_deadlock })
        }
        (TxnOp::Commit | TxnOp::Rollback, Err(error)) => {
            Next::End(TxnEnd::failed(error.to_string()))
        }
        // No commit was asked for, so it will never take effect; its locks are not needed.
        (_, Err(_)) => Next::Rollback,
    }
}

/// How a transaction ended whose outcome was asked for.
fn end_of_question(
    result: &Result<Answer, CallError>,
    has_written: bool,
    found: &mut Vec<Option<Found>>,
) -> Next {
    match result {
        Ok(Answer::Outcome(TxnOutcome::Committed { commit_ts })) => {
            let (found, commit_ts) = (std::mem::take(found), has_written.then_some(*commit_ts));
            Next::End(TxnEnd::Committed { found, commit_ts, at: None })
        }
        Ok(Answer::Outcome(TxnOutcome::Aborted)) => {
            Next::Retry(TxnEnd::failed("it is told that it was aborted"))
        }
        Ok(answer) => panic!("a question for an outcome was answered with {answer:?}"),
        Err(_) => Next::End(TxnEnd::Unknown),
    }
}

/// How a call without a transaction ended.
fn end_of_plain(result: Result<Answer, CallError>) -> Next {
    Next::End(match result {
        Ok(Answer::Got(value)) => {
            TxnEnd::Committed { found: vec![value], commit_ts: None, at: None }
        }
        Ok(Answer::Written(WriteResult::Put { version })) => {
            TxnEnd::Committed { found: Vec::new(), commit_ts: Some(version), at: None }
        }
        Ok(answer) => panic!("a plain call was answered with {answer:?}"),
        Err(CallError::UnknownOutcome { .. }) => TxnEnd::Unknown,
        Err(error) => TxnEnd::failed(error.to_string()),
    })
}

impl Machine for TxnClient {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        let now = Instant::from_nanos(now);
        match input {
            Input::Start | Input::IoDone(_) | Input::Link { is_up: true, .. } => {}
            Input::Link { peer, is_up: false } => {
                let to = address_of(peer);
                self.router.handle(now, RouterInput::Unreachable { to });
            }
            Input::Phase(phase) => self.on_phase(now, phase),
            Input::Deliver { from, bytes } => self.deliver(now, from, &bytes),
            Input::Timer => self.router.handle(now, RouterInput::Timeout),
        }
        // A transaction may end within the step that starts it; then the next one may be due at
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
        let next = is_due.then_some(self.next_at);
        self.router.poll_timeout().into_iter().chain(next).min().map(Instant::as_nanos)
    }
}
