//! A router, and servers whose answers a test makes.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, RouterOutput, TxnHandle,
    TxnOp,
};
use kv_core::cluster::{ClusterMap, ClusterRecord, Member, MemberState};
use kv_core::id::{
    Address, ClusterId, Incarnation, NodeId, RequestId, SessionId, ShardId, Timestamp,
};
use kv_core::op::{Found, Key, Page, Value};
use kv_core::ring;
use kv_core::time::Instant;
use kv_core::txn::{AbortReason, Age, Grant, OutcomeId, TxnId};
use kv_core::wire::{
    ClientReply, ClientRequest, MapView, Refusal, ReplyFrame, TxnReply, TxnRequest,
};

const CLUSTER: ClusterId = ClusterId(1);
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
pub(crate) const SHARD_COUNT: u32 = 3;
pub(crate) const AGE: Age = Age(77);
pub(crate) const MIN_COMMITS: [u64; 4] = [0, 10, 30, 20];

/// A request of a transaction that the router sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) to: Address,
    pub(crate) correlation: u64,
    pub(crate) shard: ShardId,
    pub(crate) txn: TxnId,
    pub(crate) grant: Option<Grant>,
    pub(crate) step: TxnRequest,
}

pub(crate) struct Harness {
    pub(crate) router: Router,
    pub(crate) now: Instant,
    /// Ends of calls that came while something else was looked for.
    pub(crate) done: BTreeMap<CallId, Result<Answer, CallError>>,
    /// Requests of the same kind.
    pub(crate) sent: Vec<Sent>,
    /// Questions for outcomes that were sent: to whom, under which number, for what.
    pub(crate) asked: Vec<(Address, u64, OutcomeId)>,
    pub(crate) is_mute: bool,
}

pub(crate) fn map() -> ClusterMap {
    let member = |id: u64| Member {
        id: NodeId(id),
        incarnation: Incarnation(id),
        address: Address(format!("n{id}")),
        state: MemberState::Active,
    };
    ring::initial_map(&ClusterRecord {
        id: CLUSTER,
        members: (1..=3).map(member).collect(),
        shard_count: SHARD_COUNT,
        replica_count: 3,
    })
}

pub(crate) fn session(opened: u64) -> SessionId {
    SessionId { opened_ts: Timestamp(opened), nonce: opened }
}

/// The `at`-th key of a shard.
pub(crate) fn key_of(shard: u32, at: usize) -> Key {
    let keys = (0..).map(|number| Key::new(format!("key{number}")));
    let mut keys = keys.filter(|key| ring::shard_of(key, SHARD_COUNT) == ShardId(shard));
    keys.nth(at).expect("there are endlessly many")
}

pub(crate) fn key(shard: u32) -> Key {
    key_of(shard, 0)
}

pub(crate) fn get(shard: u32) -> TxnOp {
    TxnOp::Get { key: key(shard) }
}

pub(crate) fn put(shard: u32) -> TxnOp {
    TxnOp::Put { key: key(shard), value: Value::string("new") }
}

pub(crate) fn old() -> Option<Found> {
    Some(Found { version: Timestamp(4), value: Value::string("old") })
}

pub(crate) fn locked() -> TxnReply {
    TxnReply::Locked { grant: Grant(5), found: old() }
}

/// What a server that has no trouble answers.
pub(crate) fn good_reply(sent: &Sent) -> TxnReply {
    match &sent.step {
        TxnRequest::Lock { .. } => locked(),
        TxnRequest::Scan { .. } => TxnReply::Scanned { grant: Grant(5), page: Page::default() },
        TxnRequest::Beat => TxnReply::Alive,
        TxnRequest::Rollback => TxnReply::RolledBack,
        TxnRequest::Prepare { .. } => {
            let min_commit = Timestamp(MIN_COMMITS[sent.shard.0 as usize]);
            TxnReply::Prepared { min_commit }
        }
        TxnRequest::Commit { .. } => TxnReply::Committed { commit_ts: Timestamp(90) },
    }
}

pub(crate) fn request_of(sent: &Sent) -> RequestId {
    match &sent.step {
        TxnRequest::Prepare { request, .. } | TxnRequest::Commit { request, .. } => *request,
        other => panic!("{other:?} has no request id"),
    }
}

pub(crate) fn is_prepare(sent: &Sent) -> bool {
    matches!(sent.step, TxnRequest::Prepare { .. })
}

pub(crate) fn is_commit(sent: &Sent) -> bool {
    matches!(sent.step, TxnRequest::Commit { .. })
}

impl Harness {
    /// A router that knows nothing.
    pub(crate) fn new() -> Self {
        let config = RouterConfig::new(vec![Address("n1".into())]);
        Self {
            router: Router::new(config, 1),
            now: Instant::ZERO,
            done: BTreeMap::new(),
            sent: Vec::new(),
            asked: Vec::new(),
            is_mute: false,
        }
    }

    pub(crate) fn begin(&mut self) -> TxnHandle {
        self.router.begin(self.now, AGE)
    }

    pub(crate) fn start(&mut self, txn: TxnHandle, op: TxnOp) -> CallId {
        let call = self.router.call(self.now, Call::Txn { txn, op }, self.now + DEADLINE);
        self.drain();
        call
    }

    /// Takes all outputs. Answers what is about the map, sessions and plain writes.
    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.router.poll_output() {
            let (to, request) = match output {
                RouterOutput::Send { to, request } => (to, request),
                RouterOutput::Done { call, result } => {
                    assert!(self.done.insert(call, result).is_none(), "{call:?} ends twice");
                    continue;
                }
            };
            let correlation = request.correlation;
            let body = match request.body {
                ClientRequest::Map => {
                    let leaders = (0..=SHARD_COUNT).map(|shard| (ShardId(shard), NodeId(1)));
                    ClientReply::Map(MapView { map: map(), leaders: leaders.collect() })
                }
                ClientRequest::OpenSession { .. } => ClientReply::SessionOpened(session(1)),
                ClientRequest::Txn { shard, txn, age, grant, step, .. } => {
                    assert_eq!(age, AGE);
                    self.sent.push(Sent { to, correlation, shard, txn, grant, step });
                    continue;
                }
                ClientRequest::Outcome { anchor, txn, sequence, .. } => {
                    let request = RequestId { session: txn.session, sequence, acked_below: 0 };
                    self.asked.push((to, correlation, outcome_id(anchor, txn, request)));
                    continue;
                }
                other => panic!("nobody asked for {other:?}"),
            };
            if !self.is_mute {
                let reply = ReplyFrame { correlation, body };
                self.router.handle(self.now, RouterInput::Receive { from: to, reply });
            }
        }
    }

    /// All requests that were sent.
    pub(crate) fn take_sent(&mut self) -> Vec<Sent> {
        self.drain();
        std::mem::take(&mut self.sent)
    }

    /// The only request that was sent.
    #[track_caller]
    pub(crate) fn sent(&mut self) -> Sent {
        let sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent[0].clone()
    }

    pub(crate) fn reply(&mut self, to: &Sent, body: TxnReply) {
        self.reply_body(to, ClientReply::Txn(body));
    }

    pub(crate) fn refuse(&mut self, to: &Sent, refusal: Refusal) {
        self.reply_body(to, ClientReply::Refused(refusal));
    }

    pub(crate) fn reply_body(&mut self, to: &Sent, body: ClientReply) {
        let reply = ReplyFrame { correlation: to.correlation, body };
        self.router.handle(self.now, RouterInput::Receive { from: to.to.clone(), reply });
        self.drain();
    }

    /// Lets the next timer come.
    pub(crate) fn wait(&mut self) {
        self.now = self.router.poll_timeout().expect("the router waits for something");
        self.router.handle(self.now, RouterInput::Timeout);
        self.drain();
        assert!(self.router.poll_timeout().is_none_or(|at| at > self.now), "the timer stands");
    }

    /// Waits until the call has ended, and hands out what was sent meanwhile, unanswered.
    pub(crate) fn starve(&mut self, call: CallId) -> (Vec<Sent>, Result<Answer, CallError>) {
        let mut sent = self.take_sent();
        while !self.done.contains_key(&call) {
            self.wait();
            sent.extend(self.take_sent());
        }
        (sent, self.result(call))
    }

    #[track_caller]
    pub(crate) fn result(&mut self, call: CallId) -> Result<Answer, CallError> {
        self.drain();
        self.done.remove(&call).expect("the call has ended")
    }

    /// Does a step with servers that have no trouble.
    #[track_caller]
    pub(crate) fn step(&mut self, txn: TxnHandle, op: TxnOp) -> Result<Answer, CallError> {
        let call = self.start(txn, op);
        loop {
            let sent = self.take_sent();
            if sent.is_empty() {
                return self.result(call);
            }
            for sent in sent {
                self.reply(&sent, good_reply(&sent));
            }
        }
    }

    /// A transaction that has written on all shards, the first one first, and read on the third.
    pub(crate) fn over_three_shards(&mut self) -> TxnHandle {
        let txn = self.begin();
        self.step(txn, get(3)).expect("the servers have no trouble");
        for shard in 1..=3 {
            self.step(txn, put(shard)).expect("the servers have no trouble");
        }
        txn
    }

    /// Nothing is left to be done, also not by timers.
    #[track_caller]
    pub(crate) fn assert_idle(&mut self) {
        assert!(self.take_sent().is_empty());
        assert_eq!(self.router.poll_timeout(), None);
    }

    /// The shards that are told of a rollback, each of which answers.
    pub(crate) fn rolled_back(&mut self) -> Vec<u32> {
        let sent = self.take_sent();
        for sent in &sent {
            assert_eq!(sent.step, TxnRequest::Rollback);
            self.reply(sent, TxnReply::RolledBack);
        }
        sent.iter().map(|sent| sent.shard.0).collect()
    }
}

/// How an aborted transaction ends a call.
pub(crate) fn aborted(reason: AbortReason) -> Result<Answer, CallError> {
    Err(CallError::Aborted(reason))
}

/// How a commit ends a call that was not answered.
pub(crate) fn unknown(
    anchor: ShardId,
    txn: TxnId,
    request: RequestId,
) -> Result<Answer, CallError> {
    Err(CallError::UnknownOutcome { request, id: Some(outcome_id(anchor, txn, request)) })
}

/// What a commit goes by in the cluster of the harness.
pub(crate) fn outcome_id(anchor: ShardId, txn: TxnId, request: RequestId) -> OutcomeId {
    OutcomeId::new(CLUSTER, anchor, txn, request)
}
