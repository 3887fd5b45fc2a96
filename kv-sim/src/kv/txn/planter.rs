//! A client that plants deadlocks.
//!
//! It begins some transactions at a time, each of which locks a key of its own, on a shard of its own.
//! When all have theirs, each asks for the key of the next one, the last for that of the first: now
//! they form a *ring* of waits, which stands until somebody gives way. Whoever gets both keys writes
//! both and commits.
//!
//! No other client wants these keys, so it is known what should happen: one that gives way breaks the
//! ring, and the others commit.

use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, TxnHandle, TxnOp,
};
use kv_core::id::ShardId;
use kv_core::op::Key;
use kv_core::ring;
use kv_core::time::Instant;
use kv_core::txn::{AbortReason, Age};
use kv_core::wire::{self, Frame};

use super::attempt::Attempt;
use super::client::{Next, next};
use super::operations::placed_key;
use super::rings::RingEvent;
use super::transaction::{Op, Transaction, TxnEnd, TxnEvent};
use crate::engine::{Boot, Draw, Input, Kind, Machine, Outbox, Phase, ProcessId, Rng};
use crate::kv::caller::next_done;
use crate::kv::client::quiet;
use crate::kv::replica::{Note, address_of};
use crate::scenario::Scenario;

/// Transactions of the largest ring.
const MEMBERS_MAX: usize = 6;
/// Pause before the last ring is planted once more, if something came in between.
const BACKOFF: Duration = Duration::from_millis(100);

/// A client that plants deadlocks.
#[derive(Debug)]
pub struct Planter {
    router: Router,
    rng: Rng,
    /// Number of the client, and how many there are.
    client: u64,
    client_count: u64,
    /// A key for each shard that only this client uses.
    keys: Vec<Key>,
    shard_count: u32,
    /// Numbers of its transactions in the history, by their place in the ring.
    processes: [u64; MEMBERS_MAX],
    value_count: u64,
    /// How long a step may take.
    timeout: Duration,
    /// Time between two rings.
    interval: u64,
    next_at: Instant,
    round: Option<Round>,
    phase: Phase,
    /// Whether nothing ever breaks.
    is_calm: bool,
    /// How long to pause in the liveness phase before the last ring.
    quiet: Duration,
    quiet_until: Instant,
    is_over: bool,
    refused_count: u32,
}

/// A ring that is being planted, or stands, or falls.
#[derive(Debug)]
struct Round {
    members: Vec<Member>,
    shards: Vec<ShardId>,
    is_calm: bool,
    /// Whether somebody did not get its own key.
    is_given_up: bool,
    is_closed: bool,
    is_broken: bool,
}

#[derive(Debug)]
struct Member {
    attempt: Attempt,
    txn: TxnHandle,
    /// What was asked for last, and the call as long as it is not answered.
    op: TxnOp,
    call: Option<CallId>,
    end: Option<TxnEnd>,
    /// Of how many transactions it was told when it gave way.
    cycle: Option<usize>,
}

impl Member {
    fn is_waiting_for_others(&self) -> bool {
        self.call.is_none() && self.end.is_none()
    }
}

impl Planter {
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
        let interval = scenario.workload.rate_per_client.map_or(0, |rate| (1e9 / rate) as u64);
        let first = rng.below(interval);
        let (client, shards) = (u64::from(index), scenario.cluster.shards);
        let key_count = u64::from(shards).max(MEMBERS_MAX as u64);
        let keys = (0..key_count).map(|at| placed_key(&format!("d{client}-"), at, shards));
        let first_process = client * MEMBERS_MAX as u64;
        Self {
            router: Router::new(config, boot.seed),
            rng,
            client,
            client_count: u64::from(scenario.workload.clients),
            keys: keys.collect(),
            shard_count: shards,
            processes: std::array::from_fn(|at| first_process + at as u64),
            value_count: 0,
            timeout: Duration::from_nanos(scenario.workload.operation_timeout),
            interval,
            next_at: Instant::from_nanos(boot.now + first),
            round: None,
            phase: Phase::Safety,
            is_calm: scenario.faults.is_empty(),
            quiet: quiet(scenario),
            quiet_until: Instant::ZERO,
            is_over: false,
            refused_count: 0,
        }
    }

    /// Whether the client has ended its work.
    pub(in super::super) fn is_done(&self) -> bool {
        self.is_over
    }

    /// Whether the client was told in the liveness phase that it gets nothing.
    pub(in super::super) fn was_refused(&self) -> bool {
        self.refused_count > 0
    }

    fn is_final(&self, now: Instant) -> bool {
        self.phase == Phase::Liveness && now >= self.quiet_until
    }

    /// The keys of the next ring. The last ring has those of the client's shard and the next ones.
    fn draw_keys(&mut self, now: Instant) -> Vec<Key> {
        let mut keys = self.keys.clone();
        if self.is_final(now) {
            let first = self.client as usize % keys.len();
            keys.rotate_left(first);
            keys.truncate(MEMBERS_MAX);
            return keys;
        }
        let size = self.rng.between(2, MEMBERS_MAX as u64) as usize;
        let draw = |_| keys.remove(self.rng.index(keys.len()));
        (0..size).map(draw).collect()
    }

    fn start_next(&mut self, now: Instant, out: &mut Outbox<Note>) {
        if self.round.is_some() || self.is_over || self.next_at > now {
            return;
        }
        let keys = self.draw_keys(now);
        let shards = keys.iter().map(|key| ring::shard_of(key, self.shard_count)).collect();
        let members = (0..keys.len()).map(|at| {
            let (own, next) = (keys[at].clone(), keys[(at + 1) % keys.len()].clone());
            // The one that is begun first is the oldest.
            let age = Age(now.as_nanos() + at as u64);
            let transaction = Transaction::new(vec![
                Op::Lock { key: own.clone() },
                Op::Lock { key: next.clone() },
                Op::Write { key: own, value: self.value() },
                Op::Write { key: next, value: self.value() },
            ]);
            self.note(at, &transaction, None, out);
            let txn = self.router.begin(now, age);
            let mut attempt = Attempt::new(transaction);
            let op = attempt.next_op();
            let call = Some(self.ask(now, txn, &op, out));
            Member { attempt, txn, op, call, end: None, cycle: None }
        });
        self.round = Some(Round {
            members: members.collect(),
            shards,
            is_calm: self.is_calm || self.is_final(now),
            is_given_up: false,
            is_closed: false,
            is_broken: false,
        });
    }

    /// A value that is written once in a run.
    fn value(&mut self) -> u64 {
        self.value_count += 1;
        self.value_count * self.client_count + self.client
    }

    fn note(
        &self,
        at: usize,
        transaction: &Transaction,
        end: Option<TxnEnd>,
        out: &mut Outbox<Note>,
    ) {
        let (process, transaction) = (self.processes[at], transaction.clone());
        out.note(Note::Txn(Box::new(TxnEvent { process, transaction, end })));
    }

    fn note_ring(&self, event: RingEvent, out: &mut Outbox<Note>) {
        out.note(Note::Ring { client: self.client, event });
    }

    fn ask(&mut self, now: Instant, txn: TxnHandle, op: &TxnOp, out: &mut Outbox<Note>) -> CallId {
        let words = format!("{txn:?} {op:?}");
        out.record(Kind::Call, words.as_bytes(), || words.clone());
        self.router.call(now, Call::Txn { txn, op: op.clone() }, now + self.timeout)
    }

    fn drain(&mut self, now: Instant, out: &mut Outbox<Note>) {
        while let Some((call, result)) = next_done(&mut self.router, out) {
            self.on_done(now, call, result, out);
        }
    }

    fn on_done(
        &mut self,
        now: Instant,
        call: CallId,
        result: Result<Answer, CallError>,
        out: &mut Outbox<Note>,
    ) {
        let words = format!("{result:?}");
        out.record(Kind::Reply, words.as_bytes(), || words.clone());
        let mut round = self.round.take().expect("calls are of a ring");
        let at = round.members.iter().position(|member| member.call == Some(call));
        let at = at.expect("calls are of its members");
        if round.is_closed && !round.is_broken {
            round.is_broken = true;
            self.note_ring(RingEvent::Broken, out);
        }
        let member = &mut round.members[at];
        member.call = None;
        if let Err(CallError::Aborted(AbortReason::Deadlock { cycle })) = &result {
            member.cycle = Some(cycle.len());
        }
        match next(&member.op, result, &mut member.attempt.found) {
            // It has its own key.
            Next::Continue if !round.is_closed => {}
            Next::Continue => {
                let op = member.attempt.next_op();
                self.go_on(now, member, op, out);
            }
            Next::Rollback => {
                round.is_given_up |= !round.is_closed;
                self.go_on(now, member, TxnOp::Rollback, out);
            }
            Next::End(end) | Next::Retry(end) => {
                round.is_given_up |= !round.is_closed;
                self.note(at, &member.attempt.transaction, Some(end.clone()), out);
                if end == TxnEnd::Unknown {
                    self.processes[at] += self.client_count * MEMBERS_MAX as u64;
                }
                member.end = Some(end);
            }
        }
        self.advance(now, round, out);
    }

    fn go_on(&mut self, now: Instant, member: &mut Member, op: TxnOp, out: &mut Outbox<Note>) {
        member.call = Some(self.ask(now, member.txn, &op, out));
        member.op = op;
    }

    /// Closes a ring whose members all have their keys, gives one up of which somebody has not, and
    /// ends one whose members have ended.
    fn advance(&mut self, now: Instant, mut round: Round, out: &mut Outbox<Note>) {
        if round.is_given_up {
            for member in round.members.iter_mut().filter(|it| it.is_waiting_for_others()) {
                self.go_on(now, member, TxnOp::Rollback, out);
            }
        } else if !round.is_closed && round.members.iter().all(Member::is_waiting_for_others) {
            round.is_closed = true;
            let (shards, is_calm) = (round.shards.clone(), round.is_calm);
            self.note_ring(RingEvent::Closed { shards, is_calm }, out);
            for member in &mut round.members {
                let op = member.attempt.next_op();
                self.go_on(now, member, op, out);
            }
        }
        if round.members.iter().all(|member| member.end.is_some()) {
            self.end(now, &round, out);
        } else {
            self.round = Some(round);
        }
    }

    fn end(&mut self, now: Instant, round: &Round, out: &mut Outbox<Note>) {
        let size = round.members.len();
        let count = |is_so: fn(&Member, usize) -> bool| {
            round.members.iter().filter(|member| is_so(member, size)).count()
        };
        let committed_count =
            count(|member, _| matches!(member.end, Some(TxnEnd::Committed { .. })));
        let victim_count = count(|member, size| member.cycle == Some(size));
        if round.is_closed {
            self.note_ring(RingEvent::Ended { committed_count, victim_count }, out);
        }
        let is_broken = round.is_closed && committed_count + victim_count == size;
        if !self.is_final(now) {
            let pause = if self.interval > 0 { self.rng.around(self.interval) } else { 0 };
            self.next_at = (now + Duration::from_nanos(pause)).max(self.quiet_until);
        } else if is_broken && committed_count > 0 {
            self.is_over = true;
        } else {
            self.refused_count += 1;
            let pause = self.rng.around(BACKOFF.as_nanos() as u64);
            self.next_at = now + Duration::from_nanos(pause);
        }
    }

    fn on_phase(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.quiet_until = now + self.quiet;
        self.next_at = self.quiet_until;
    }
}

impl Machine for Planter {
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
        self.drain(now, out);
        self.start_next(now, out);
        self.drain(now, out);
    }

    fn deadline(&self) -> Option<u64> {
        let is_due = self.round.is_none() && !self.is_over;
        let next = is_due.then_some(self.next_at);
        self.router.poll_timeout().into_iter().chain(next).min().map(Instant::as_nanos)
    }
}

impl Planter {
    fn deliver(&mut self, now: Instant, from: ProcessId, bytes: &Bytes) {
        if let Ok(Frame::Reply(reply)) = wire::decode(bytes) {
            let from = address_of(from);
            self.router.handle(now, RouterInput::Receive { from, reply });
        }
    }
}
