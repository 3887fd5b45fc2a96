//! A client that is one session, one operation at a time.
//!
//! In the liveness phase it is quiet for as long as other clients are, then writes to the shards and
//! reads the keys that fall to it, however often it must try.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{Answer, Call, CallError, CallId, Level, Router, RouterConfig, RouterInput};
use kv_core::op::{Key, Value, WriteOp, WriteResult};
use kv_core::time::Instant;
use kv_core::txn::{Age, TxnWrite};
use kv_core::wire::{self, Frame};

use super::{Freshness, SessionEnd, SessionEvent, SessionOp};
use crate::engine::{Boot, Draw, Input, Kind, Machine, Outbox, Phase, ProcessId, Rng};
use crate::kv::caller::next_done;
use crate::kv::client::quiet;
use crate::kv::replica::{Note, address_of};
use crate::kv::workload;
use crate::scenario::Scenario;

/// How old a stale read may be, of which one is drawn.
const MAX_AGES_MS: [u64; 4] = [0, 200, 1_000, 5_000];

/// A client that is one session.
#[derive(Debug)]
pub struct SessionClient {
    router: Router,
    rng: Rng,
    session: u64,
    client_count: u64,
    keys: u64,
    value_count: u64,
    timeout: Duration,
    /// Time between two operations; none: the next starts when the last has ended.
    interval: Option<u64>,
    next_at: Instant,
    current: Option<(CallId, SessionOp)>,
    /// Who answered last.
    heard_from: ProcessId,
    phase: Phase,
    /// What is left to be done in the liveness phase.
    final_ops: VecDeque<SessionOp>,
    /// How long to pause before that.
    quiet: Duration,
    quiet_until: Instant,
    /// Operations of the liveness phase that came to nothing.
    refused_count: u32,
}

/// What falls to a session when all faults are healed.
fn final_ops(scenario: &Scenario, session: u64) -> VecDeque<SessionOp> {
    let client_count = u64::from(scenario.workload.clients);
    let is_mine = |number: &u64| number % client_count == session;
    let shard_count = scenario.cluster.shards;
    let shards = (1..=shard_count).filter(|shard| is_mine(&u64::from(*shard)));
    let writes = shards.map(|shard| {
        let value = u64::from(shard) * client_count + session + (1 << 40);
        SessionOp::Write { keys: vec![workload::final_key(shard, shard_count)], value }
    });
    let keys = (0..scenario.workload.keys).filter(is_mine).map(workload::key);
    let reads = keys.flat_map(|key| {
        let levels = [Freshness::Sequential, Freshness::Linearizable];
        levels.map(|freshness| SessionOp::Read { key: key.clone(), freshness })
    });
    writes.chain(reads).collect()
}

impl SessionClient {
    pub(in super::super) fn new(scenario: &Scenario, boot: Boot) -> Self {
        let ProcessId::Client(index) = boot.process else {
            unreachable!("a server is not a client");
        };
        let servers = (0..scenario.cluster.nodes).map(ProcessId::Server);
        let config = RouterConfig {
            attempt_timeout: Duration::from_millis(800),
            ..RouterConfig::new(servers.map(address_of).collect())
        };
        let workload = &scenario.workload;
        let mut rng = Rng::fork(boot.seed, "sessions", 0);
        let interval = workload.rate_per_client.map(|rate| (1e9 / rate) as u64);
        let first = interval.map_or(0, |interval| rng.below(interval));
        Self {
            router: Router::new(config, boot.seed),
            rng,
            session: u64::from(index),
            client_count: u64::from(workload.clients),
            keys: workload.keys,
            value_count: 0,
            timeout: Duration::from_nanos(workload.operation_timeout),
            interval,
            next_at: Instant::from_nanos(boot.now + first),
            current: None,
            heard_from: ProcessId::Server(0),
            phase: Phase::Safety,
            final_ops: final_ops(scenario, u64::from(index)),
            quiet: quiet(scenario),
            quiet_until: Instant::ZERO,
            refused_count: 0,
        }
    }

    /// Whether the client was told in the liveness phase that it gets nothing.
    pub(in super::super) fn was_refused(&self) -> bool {
        self.refused_count > 0
    }

    /// Whether the client has ended its work.
    pub(in super::super) fn is_done(&self) -> bool {
        self.phase == Phase::Liveness && self.current.is_none() && self.final_ops.is_empty()
    }

    fn key(&mut self) -> Key {
        workload::key(self.rng.below(self.keys))
    }

    /// Of ten operations three write one key, one writes two, and the others read.
    fn draw(&mut self) -> SessionOp {
        let key = self.key();
        let freshness = match self.rng.below(10) {
            choice @ 0..4 => {
                let other = if choice == 0 { self.key() } else { key.clone() };
                let mut keys = vec![key, other];
                keys.dedup();
                self.value_count += 1;
                let value = self.value_count * self.client_count + self.session;
                return SessionOp::Write { keys, value };
            }
            4..7 => Freshness::Sequential,
            7..9 => {
                let max_age = MAX_AGES_MS[self.rng.index(MAX_AGES_MS.len())];
                Freshness::Stale(Duration::from_millis(max_age))
            }
            _ => Freshness::Linearizable,
        };
        SessionOp::Read { key, freshness }
    }

    fn start_next(&mut self, now: Instant, out: &mut Outbox<Note>) {
        if self.current.is_some() || self.next_at > now {
            return;
        }
        let op = match (self.phase, self.final_ops.front()) {
            (Phase::Safety, _) => self.draw(),
            (Phase::Liveness, Some(op)) => op.clone(),
            (Phase::Liveness, None) => return,
        };
        let words = format!("{op:?}");
        out.record(Kind::Call, words.as_bytes(), || words.clone());
        self.note(&op, None, out);
        let id = self.router.call(now, call(&op, now), now + self.timeout);
        self.current = Some((id, op));
    }

    fn note(&self, op: &SessionOp, end: Option<SessionEnd>, out: &mut Outbox<Note>) {
        let event = SessionEvent { session: self.session, op: op.clone(), end };
        out.note(Note::Session(Box::new(event)));
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
        let Some((expected, op)) = self.current.take() else { panic!("{id:?} was not called") };
        assert_eq!(id, expected, "one call is out at a time");
        let words = format!("{result:?}");
        out.record(Kind::Reply, words.as_bytes(), || words.clone());
        let is_final = self.phase == Phase::Liveness && now >= self.quiet_until;
        if is_final {
            match &result {
                Ok(_) => drop(self.final_ops.pop_front()),
                Err(_) => self.refused_count += 1,
            }
        }
        self.note(&op, Some(end(result, self.heard_from)), out);
        let pause = match (self.phase, self.interval) {
            (Phase::Safety, Some(interval)) => self.rng.around(interval),
            (Phase::Safety, None) | (Phase::Liveness, _) => 0,
        };
        self.next_at = (now + Duration::from_nanos(pause)).max(self.quiet_until);
    }

    fn deliver(&mut self, now: Instant, from: ProcessId, bytes: &Bytes) {
        if let Ok(Frame::Reply(reply)) = wire::decode(bytes) {
            self.heard_from = from;
            let from = address_of(from);
            self.router.handle(now, RouterInput::Receive { from, reply });
        }
    }
}

fn call(op: &SessionOp, now: Instant) -> Call {
    let text = |value: &u64| Value::string(value.to_string().into_bytes());
    match op {
        SessionOp::Write { keys, value } => match &keys[..] {
            [key] => Call::Write(WriteOp::Put { key: key.clone(), value: text(value) }),
            keys => {
                let write = |key: &Key| TxnWrite { key: key.clone(), value: Some(text(value)) };
                let writes = keys.iter().map(write).collect();
                Call::WriteBatch { age: Age(now.as_nanos()), writes }
            }
        },
        SessionOp::Read { key, freshness } => match *freshness {
            Freshness::Linearizable => Call::Get { key: key.clone() },
            Freshness::Sequential => {
                Call::GetReplica { key: key.clone(), level: Level::Sequential }
            }
            Freshness::Stale(max_age) => {
                Call::GetReplica { key: key.clone(), level: Level::Stale { max_age } }
            }
        },
    }
}

fn end(result: Result<Answer, CallError>, by: ProcessId) -> SessionEnd {
    match result {
        Ok(
            Answer::Written(WriteResult::Put { version })
            | Answer::Committed { commit_ts: Some(version) },
        ) => SessionEnd::Written { version },
        Ok(Answer::Got(found)) => SessionEnd::Read { found, at: None, by },
        Ok(Answer::GotReplica { found, at }) => SessionEnd::Read { found, at: Some(at), by },
        Ok(answer) => panic!("a session was answered with {answer:?}"),
        Err(CallError::UnknownOutcome { .. }) => SessionEnd::Unknown,
        Err(_) => SessionEnd::Failed,
    }
}

impl Machine for SessionClient {
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
                self.next_at = self.quiet_until;
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
        let next = is_due.then_some(self.next_at);
        self.router.poll_timeout().into_iter().chain(next).min().map(Instant::as_nanos)
    }
}
