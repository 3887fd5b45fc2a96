//! A router, and servers that hold what a test gives them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, RouterOutput,
};
use kv_core::cluster::{ClusterMap, ClusterRecord, Member, MemberState};
use kv_core::id::{Address, ClusterId, Incarnation, NodeId, ShardId, Timestamp};
use kv_core::op::{Found, Key, KeyRange, Page, PageLimit, Row, Value};
use kv_core::ring;
use kv_core::time::Instant;
use kv_core::wire::{ClientReply, ClientRequest, MapView, Refusal, ReplyFrame};

pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
pub(crate) const AT: Timestamp = Timestamp(50);
pub(crate) const NO_LIMIT: PageLimit = PageLimit { rows: u32::MAX, bytes: u32::MAX };

/// A request that the router sent, but for those about the map.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) to: Address,
    pub(crate) correlation: u64,
    pub(crate) body: ClientRequest,
}

impl Sent {
    /// What it asks of which shard, if it is a part of a scan.
    #[track_caller]
    pub(crate) fn part(&self) -> (ShardId, &KeyRange, PageLimit) {
        match &self.body {
            ClientRequest::ScanAt { shard, range, limit, at, .. } => {
                assert_eq!(*at, AT, "all shards are read at one timestamp");
                (*shard, range, *limit)
            }
            other => panic!("no part of a scan: {other:?}"),
        }
    }
}

pub(crate) struct Harness {
    pub(crate) router: Router,
    pub(crate) now: Instant,
    pub(crate) shard_count: u32,
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) done: BTreeMap<CallId, Result<Answer, CallError>>,
    /// How often the map was asked for.
    pub(crate) map_count: u32,
    /// Which cluster answers.
    pub(crate) cluster: ClusterId,
}

pub(crate) fn map(shard_count: u32) -> ClusterMap {
    let member = |id: u64| Member {
        id: NodeId(id),
        incarnation: Incarnation(id),
        address: Address(format!("n{id}")),
        state: MemberState::Active,
    };
    ring::initial_map(&ClusterRecord {
        id: ClusterId(1),
        members: (1..=3).map(member).collect(),
        shard_count,
        replica_count: 3,
    })
}

pub(crate) fn scan_of(range: impl Into<KeyRange>, limit: PageLimit) -> Call {
    Call::ScanAt { range: range.into(), at: AT, limit }
}

impl Harness {
    /// A router that knows nothing of a cluster with so many shards.
    pub(crate) fn new(shard_count: u32) -> Self {
        let endpoints = (1..=3).map(|id| Address(format!("n{id}"))).collect();
        Self {
            router: Router::new(RouterConfig::new(endpoints), 1),
            now: Instant::ZERO,
            shard_count,
            sent: VecDeque::new(),
            done: BTreeMap::new(),
            map_count: 0,
            cluster: ClusterId(1),
        }
    }

    pub(crate) fn call(&mut self, call: Call) -> CallId {
        let id = self.router.call(self.now, call, self.now + DEADLINE);
        self.drain();
        id
    }

    fn drain(&mut self) {
        while let Some(output) = self.router.poll_output() {
            match output {
                RouterOutput::Done { call, result } => {
                    assert!(self.done.insert(call, result).is_none(), "{call:?} ends twice");
                }
                RouterOutput::Send { to, request } if request.body == ClientRequest::Map => {
                    self.map_count += 1;
                    let leaders = (0..=self.shard_count).map(|shard| (ShardId(shard), NodeId(1)));
                    let map = ClusterMap { cluster: self.cluster, ..map(self.shard_count) };
                    let leaders = leaders.collect();
                    let body = ClientReply::Map(MapView { map, leaders });
                    let reply = ReplyFrame { correlation: request.correlation, body };
                    self.router.handle(self.now, RouterInput::Receive { from: to, reply });
                }
                RouterOutput::Send { to, request } => {
                    let (correlation, body) = (request.correlation, request.body);
                    self.sent.push_back(Sent { to, correlation, body });
                }
            }
        }
    }

    pub(crate) fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent).into()
    }

    /// The only request that was sent.
    #[track_caller]
    pub(crate) fn only(&mut self) -> Sent {
        let sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent[0].clone()
    }

    pub(crate) fn reply(&mut self, to: &Sent, body: ClientReply) {
        let reply = ReplyFrame { correlation: to.correlation, body };
        self.router.handle(self.now, RouterInput::Receive { from: to.to.clone(), reply });
        self.drain();
    }

    pub(crate) fn refuse(&mut self, to: &Sent, refusal: Refusal) {
        self.reply(to, ClientReply::Refused(refusal));
    }

    pub(crate) fn unreachable(&mut self, to: &Sent) {
        self.router.handle(self.now, RouterInput::Unreachable { to: to.to.clone() });
        self.drain();
    }

    /// Lets the next timer come.
    pub(crate) fn wait(&mut self) {
        self.now = self.router.poll_timeout().expect("the router waits for something");
        self.router.handle(self.now, RouterInput::Timeout);
        self.drain();
        assert!(self.router.poll_timeout().is_none_or(|at| at > self.now), "the timer stands");
    }

    #[track_caller]
    pub(crate) fn result(&mut self, call: CallId) -> Result<Answer, CallError> {
        self.done.remove(&call).expect("the call has ended")
    }

    #[track_caller]
    pub(crate) fn page(&mut self, call: CallId) -> Page {
        match self.result(call) {
            Ok(Answer::Page(page)) => page,
            other => panic!("no page: {other:?}"),
        }
    }

    /// Nothing is left to be done, also not by timers.
    #[track_caller]
    pub(crate) fn assert_idle(&mut self) {
        assert!(self.sent.is_empty(), "{:?}", self.sent);
        assert_eq!(self.router.poll_timeout(), None);
    }
}

/// What a cluster holds at a timestamp, deleted keys included.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) rows: BTreeMap<Key, Option<Found>>,
    /// How many keys a shard walks over for one answer, deleted ones included.
    pub(crate) walk_max: usize,
    /// Rows that were handed out.
    pub(crate) row_count: usize,
    /// Requests that were answered.
    pub(crate) answer_count: usize,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { walk_max: usize::MAX, ..Self::default() }
    }

    pub(crate) fn put(&mut self, key: impl AsRef<[u8]>, value_bytes: usize) {
        let value = Value::string(vec![b'v'; value_bytes]);
        let found = Found { version: Timestamp(7), value };
        self.rows.insert(Key::new(key.as_ref().to_vec()), Some(found));
    }

    /// All that exist in a range.
    pub(crate) fn rows_of(&self, range: &KeyRange) -> Vec<Row> {
        let rows = self.rows.iter().filter(|(key, _)| range.contains(key));
        rows.filter_map(|(key, found)| Some(Row { key: key.clone(), found: found.clone()? }))
            .collect()
    }

    /// What a shard answers to its part.
    pub(crate) fn answer(&mut self, sent: &Sent, shard_count: u32) -> ClientReply {
        let (shard, range, limit) = sent.part();
        let (mut page, mut bytes) = (Page::default(), 0);
        let rows = self.rows.iter().filter(|(key, _)| range.contains(key));
        let rows = rows.filter(|(key, _)| ring::shard_of(key, shard_count) == shard);
        for (walked, (key, found)) in rows.enumerate() {
            let size = found.as_ref().map_or(0, |it| key.bytes.len() + it.value.size());
            let is_full = page.rows.len() >= limit.rows as usize
                || (!page.rows.is_empty() && bytes + size > limit.bytes as usize);
            if is_full || walked == self.walk_max {
                page.next = Some(key.clone());
                break;
            }
            bytes += size;
            let row = |found: &Found| Row { key: key.clone(), found: found.clone() };
            page.rows.extend(found.as_ref().map(row));
        }
        self.row_count += page.rows.len();
        self.answer_count += 1;
        ClientReply::Page(page)
    }
}
