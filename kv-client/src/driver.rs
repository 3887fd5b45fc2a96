//! The background task: the router's hands.
//!
//! The task owns the router, the connections and the callers that wait. It turns what happens (a
//! call, a reply, a lost connection, the time) into one input each, then drains the router's
//! outputs. It decides nothing: a send that cannot be done is dropped or reported as unreachable,
//! and the router retries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kv_core::client::RouterOutput;
use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, TxnHandle, TxnOp,
};
use kv_core::id::{Address, NodeId, Timestamp};
use kv_core::node::Status;
use kv_core::op::{Found, Page, WriteResult};
use kv_core::time::Instant;
use kv_core::txn::{Age, TxnOutcome};
use kv_core::wire::{AdminReply, Frame, MapView, RequestFrame};
use tokio::sync::{mpsc, oneshot};

use crate::connection::{Connection, ConnectionEvent};
use crate::error::{ClientError, ConnectError, ConnectionError, ConnectionFailure};
use crate::random;

/// Calls that wait to be taken up by the task; further callers wait for room.
const REQUEST_COUNT_MAX: usize = 1_024;
/// Events of connections that wait for the task; connections wait for room and stop reading.
const EVENT_COUNT_MAX: usize = 1_024;
/// Calls or events taken up in one turn.
const TURN_MAX: usize = 128;
/// How far away a timer is that nobody has set.
const FAR_AWAY: Duration = Duration::from_secs(3_600);
/// A rollback for a transaction that was dropped ends at once, whatever the nodes do.
const ROLLBACK_TIME_LIMIT: Duration = Duration::from_secs(1);

/// How a call ended.
pub(crate) type Reply = Result<Answer, ClientError>;

/// What a handle asks of the task.
#[derive(Debug)]
pub(crate) enum Request {
    /// A call.
    Call {
        /// The call.
        call: Call,
        /// How long it may take, counted from when the task takes it up.
        time_limit: Duration,
        /// Who waits for it.
        reply: oneshot::Sender<Reply>,
    },
    /// What the session has seen.
    Token {
        /// Who waits for it; none if it is not known when all of it was.
        reply: oneshot::Sender<Option<Timestamp>>,
    },
    /// Go on where a session was that had this token.
    Join {
        /// The token.
        token: Timestamp,
        /// Who waits for it.
        reply: oneshot::Sender<()>,
    },
    /// Begin a transaction.
    Begin {
        /// How old it is.
        age: Age,
        /// Who waits for it.
        reply: oneshot::Sender<TxnHandle>,
    },
}

/// The result of a compare-and-set that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CasResult {
    /// Whether the expectation held and the value was set.
    pub applied: bool,
    /// The key's version afterwards; none if it does not exist. In a transaction, a value that was
    /// set has the version [`VERSION_BUFFERED`](kv_core::txn::VERSION_BUFFERED) until the commit.
    pub version: Option<Timestamp>,
}

/// The task's state.
pub(crate) struct Driver {
    router: Router,
    started: tokio::time::Instant,
    requests: mpsc::Receiver<Request>,
    /// Transactions that their users have dropped.
    dropped: mpsc::UnboundedReceiver<TxnHandle>,
    events: mpsc::Receiver<ConnectionEvent>,
    /// Cloned into each connection; also keeps `events` open while there is none.
    events_sender: mpsc::Sender<ConnectionEvent>,
    connections: BTreeMap<Address, Connection>,
    connection_count: u64,
    waiting: BTreeMap<CallId, oneshot::Sender<Reply>>,
    /// Why each node that cannot be reached cannot.
    failures: BTreeMap<Address, Arc<ConnectionError>>,
}

impl Driver {
    /// A driver, and where to hand it calls and transactions that were dropped.
    pub(crate) fn new(
        endpoints: Vec<Address>,
    ) -> Result<(mpsc::Sender<Request>, mpsc::UnboundedSender<TxnHandle>, Self), ConnectError> {
        if endpoints.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let seed = random::seed().map_err(ConnectError::Randomness)?;
        let (requests_sender, requests) = mpsc::channel(REQUEST_COUNT_MAX);
        let (dropped_sender, dropped) = mpsc::unbounded_channel();
        let (events_sender, events) = mpsc::channel(EVENT_COUNT_MAX);
        let driver = Self {
            router: Router::new(RouterConfig::new(endpoints), seed),
            started: tokio::time::Instant::now(),
            requests,
            dropped,
            events,
            events_sender,
            connections: BTreeMap::new(),
            connection_count: 0,
            waiting: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        Ok((requests_sender, dropped_sender, driver))
    }

    /// Serves calls until every handle is gone.
    pub(crate) async fn run(mut self) {
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(self.wake_at()));
        let (mut requests, mut events) = (Vec::new(), Vec::new());
        loop {
            let wake_at = self.wake_at();
            if alarm.deadline() != wake_at {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                count = self.requests.recv_many(&mut requests, TURN_MAX) => match count {
                    0 => return,
                    _ => requests.drain(..).for_each(|request| self.start(request)),
                },
                Some(txn) = self.dropped.recv() => self.roll_back(txn),
                1.. = self.events.recv_many(&mut events, TURN_MAX) => {
                    events.drain(..).for_each(|event| self.on_event(event));
                }
                () = &mut alarm => self.input(RouterInput::Timeout),
            }
            self.drain_outputs();
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    fn wake_at(&self) -> tokio::time::Instant {
        match self.router.poll_timeout() {
            Some(at) => self.started + at.saturating_since(Instant::ZERO),
            None => tokio::time::Instant::now() + FAR_AWAY,
        }
    }

    fn input(&mut self, input: RouterInput) {
        let now = self.now();
        self.router.handle(now, input);
    }

    fn start(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Call { call, time_limit, reply } => {
                let call = self.router.call(now, call, now + time_limit);
                self.waiting.insert(call, reply);
            }
            // Whoever asked may have gone; nobody is left to tell.
            Request::Token { reply } => {
                let _ = reply.send(self.router.session_token());
            }
            Request::Join { token, reply } => {
                self.router.join_session(token);
                let _ = reply.send(());
            }
            Request::Begin { age, reply } => {
                let txn = self.router.begin(now, age);
                if reply.send(txn).is_err() {
                    self.roll_back(txn);
                }
            }
        }
    }

    /// Rolls a transaction back that has no user any more.
    fn roll_back(&mut self, txn: TxnHandle) {
        let now = self.now();
        let call = Call::Txn { txn, op: TxnOp::Rollback };
        self.router.call(now, call, now + ROLLBACK_TIME_LIMIT);
    }

    fn on_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Opened { address } => {
                self.failures.remove(&address);
            }
            ConnectionEvent::Reply { from, reply } => {
                self.input(RouterInput::Receive { from, reply });
            }
            ConnectionEvent::Lost { address, connection, error } => {
                if self.connections.get(&address).is_some_and(|held| held.id() == connection) {
                    self.connections.remove(&address);
                }
                self.failures.insert(address.clone(), Arc::new(error));
                self.input(RouterInput::Unreachable { to: address });
            }
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.router.poll_output() {
            match output {
                RouterOutput::Send { to, request } => self.send(to, request),
                RouterOutput::Done { call, result } => self.finish(call, result),
            }
        }
    }

    fn send(&mut self, to: Address, request: RequestFrame) {
        let connection = self.connections.entry(to).or_insert_with_key(|address| {
            self.connection_count += 1;
            Connection::open(self.connection_count, address.clone(), self.events_sender.clone())
        });
        connection.send(kv_core::wire::encode(&Frame::Request(request)));
    }

    fn finish(&mut self, call: CallId, result: Result<Answer, CallError>) {
        let Some(reply) = self.waiting.remove(&call) else {
            return;
        };
        let result =
            result.map_err(|call| ClientError::Call { call, connections: self.failures() });
        // The caller may have gone; nobody is left to tell.
        let _ = reply.send(result);
    }

    fn failures(&self) -> Vec<ConnectionFailure> {
        let failure = |(address, error): (&Address, &Arc<ConnectionError>)| ConnectionFailure {
            address: address.clone(),
            error: Arc::clone(error),
        };
        self.failures.iter().map(failure).collect()
    }
}

/// The answer to a get.
pub(crate) fn found(answer: Answer) -> Option<Found> {
    let Answer::Got(found) = answer else { mismatch(&answer) };
    found
}

/// The answer to a get at any level.
pub(crate) fn found_at_any(answer: Answer) -> Option<Found> {
    match answer {
        Answer::GotReplica { found, .. } => found,
        other => found(other),
    }
}

/// The answer to a step of a transaction, if that was a read.
pub(crate) fn found_if_any(answer: Answer) -> Option<Option<Found>> {
    match answer {
        Answer::Got(found) => Some(found),
        other => {
            buffered(other);
            None
        }
    }
}

/// The answer to a call for a timestamp.
pub(crate) fn timestamp(answer: Answer) -> Timestamp {
    let Answer::Timestamp(at) = answer else { mismatch(&answer) };
    at
}

/// The answer to a scan.
pub(crate) fn page(answer: Answer) -> Page {
    let Answer::Page(page) = answer else { mismatch(&answer) };
    page
}

/// The answer to a put.
pub(crate) fn put(answer: Answer) -> Timestamp {
    let Answer::Written(WriteResult::Put { version }) = answer else { mismatch(&answer) };
    version
}

/// The answer to a delete.
pub(crate) fn deleted(answer: Answer) -> bool {
    let Answer::Written(WriteResult::Delete { existed }) = answer else { mismatch(&answer) };
    existed
}

/// The answer to a compare-and-set.
pub(crate) fn cas(answer: Answer) -> CasResult {
    let Answer::Written(WriteResult::Cas { applied, version }) = answer else { mismatch(&answer) };
    CasResult { applied, version }
}

/// The answer to a write of a transaction.
pub(crate) fn buffered(answer: Answer) {
    let Answer::Buffered = answer else { mismatch(&answer) };
}

/// The answer to a commit.
pub(crate) fn committed(answer: Answer) -> Option<Timestamp> {
    let Answer::Committed { commit_ts } = answer else { mismatch(&answer) };
    commit_ts
}

/// The answer to the question how a transaction ended.
pub(crate) fn outcome(answer: Answer) -> TxnOutcome {
    let Answer::Outcome(outcome) = answer else { mismatch(&answer) };
    outcome
}

/// The answer to a rollback.
pub(crate) fn rolled_back(answer: Answer) {
    let Answer::RolledBack = answer else { mismatch(&answer) };
}

/// The answer to a status call.
pub(crate) fn status(answer: Answer) -> Status {
    let Answer::Status(status) = answer else { mismatch(&answer) };
    status
}

/// The answer to a map call.
pub(crate) fn map(answer: Answer) -> MapView {
    let Answer::Map(map) = answer else { mismatch(&answer) };
    map
}

/// The answer to an operator's request.
pub(crate) fn admin(answer: Answer) -> AdminReply {
    let Answer::Admin(reply) = answer else { mismatch(&answer) };
    reply
}

/// Asks a node to join.
pub(crate) fn join_call(address: &str, seeds: Vec<String>) -> Call {
    let seeds = seeds.into_iter().map(Address).collect();
    Call::Join { address: Address(address.to_owned()), seeds }
}

/// The answer to that.
pub(crate) fn joined(answer: Answer) -> NodeId {
    let Answer::Admin(AdminReply::Joined { id, .. }) = answer else { mismatch(&answer) };
    id
}

fn mismatch(answer: &Answer) -> ! {
    unreachable!("the router answers each call in kind, not with {answer:?}")
}
