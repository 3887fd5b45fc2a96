//! A cluster in memory: whole nodes, an instant network, and stores that are vectors.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, RouterOutput,
};
use kv_core::cluster::Identity;
use kv_core::id::{Address, Incarnation, LogIndex, NodeId, RequestHandle, ShardId, Timestamp};
use kv_core::machine::{self, Machine, ReadView};
use kv_core::node::{Event, Input, Node, NodeConfig, Output};
use kv_core::op::{Key, Value};
use kv_core::storage::{
    Append, LogCounters, ReadRefused, Recovered, RecoveredGroup, StorageReply, StorageRequest,
};
use kv_core::time::Instant;
use kv_core::wire::{self, ClientReply, ClientRequest, Frame, PeerFrame, ReplyFrame, RequestFrame};

#[derive(Default)]
struct View(BTreeMap<Key, (Timestamp, Option<Value>)>);

impl ReadView for View {
    fn newest(&self, key: &Key, at: Timestamp) -> Option<(Timestamp, Option<Value>)> {
        self.0.get(key).filter(|(version, _)| *version <= at).cloned()
    }
}

/// What survives a restart, and the applied state, which does not.
struct Store {
    identity: Identity,
    groups: BTreeMap<ShardId, RecoveredGroup>,
    applied: BTreeMap<ShardId, (Machine, View)>,
}

impl Store {
    fn execute(&mut self, request: StorageRequest) -> StorageReply {
        match request {
            StorageRequest::Append(append) => self.append(append),
            StorageRequest::StoreIdentity(identity) => {
                self.identity = identity;
                StorageReply::IdentityStored
            }
            StorageRequest::Apply { shard, entries } => {
                let (machine, view) = self.applied.entry(shard).or_default();
                let mut outcomes = Vec::new();
                for entry in &entries {
                    let (batch, outcome) = machine.apply(view, entry);
                    for write in batch.writes {
                        view.0.insert(write.key, (write.version, write.value));
                    }
                    outcomes.push((entry.id.index, outcome));
                }
                StorageReply::Applied { shard, applied: machine.applied(), outcomes }
            }
            StorageRequest::Read(read) => {
                let (machine, view) = self.applied.entry(read.shard).or_default();
                let applied = machine.applied().index;
                let result = if applied < read.at_least {
                    Err(ReadRefused { at_least: read.at_least, applied })
                } else {
                    Ok(machine::read(view, &read.key, read.timestamp))
                };
                StorageReply::Read { handle: read.handle, result }
            }
        }
    }

    fn append(&mut self, append: Append) -> StorageReply {
        let mut written = Vec::new();
        for write in append.writes {
            let group = self.groups.entry(write.shard).or_default();
            if let Some(first) = write.entries.first() {
                let keep = usize::try_from(first.id.index.0 - 1).unwrap();
                assert!(keep <= group.entries.len(), "an append leaves no gap");
                group.entries.truncate(keep);
                written.push((write.shard, write.entries[write.entries.len() - 1].id));
                group.entries.extend(write.entries);
            }
            group.hard_state = write.hard_state.unwrap_or(group.hard_state);
        }
        StorageReply::Appended { id: append.id, written, counters: LogCounters::default() }
    }
}

struct Process {
    node: Option<Node>,
    store: Store,
    events: Vec<Event>,
}

/// Nodes `1..=count` and one client.
pub(crate) struct Cluster {
    pub(crate) now: Instant,
    processes: BTreeMap<NodeId, Process>,
    network: VecDeque<PeerFrame>,
    pub(crate) router: Router,
    pub(crate) done: BTreeMap<CallId, Result<Answer, CallError>>,
    requests: BTreeMap<RequestHandle, (NodeId, u64)>,
    last_handle: u64,
    boot_count: u64,
    /// Every frame that was ever sent.
    pub(crate) sent: Vec<PeerFrame>,
    /// Links that carry nothing, by sender and receiver.
    pub(crate) cut: Vec<(NodeId, NodeId)>,
}

pub(crate) fn address(id: NodeId) -> Address {
    Address(id.to_string())
}

impl Cluster {
    pub(crate) fn new(count: u64) -> Self {
        let endpoints = (1..=count).map(|id| address(NodeId(id))).collect();
        let mut cluster = Self {
            now: Instant::ZERO,
            processes: BTreeMap::new(),
            network: VecDeque::new(),
            router: Router::new(RouterConfig::new(endpoints), 7),
            done: BTreeMap::new(),
            requests: BTreeMap::new(),
            last_handle: 0,
            boot_count: 0,
            sent: Vec::new(),
            cut: Vec::new(),
        };
        for id in (1..=count).map(NodeId) {
            let identity = Identity {
                cluster_name: "test".into(),
                node: id,
                incarnation: Incarnation(100 + id.0),
                cluster: None,
            };
            let store = Store { identity, groups: BTreeMap::new(), applied: BTreeMap::new() };
            cluster.processes.insert(id, Process { node: None, store, events: Vec::new() });
        }
        for id in (1..=count).map(NodeId) {
            cluster.start(id);
        }
        cluster
    }

    fn config(&self, id: NodeId) -> NodeConfig {
        let peers = self.processes.keys().map(|id| (*id, address(*id))).collect();
        NodeConfig { shard_count: 4, ..NodeConfig::new(id, "test", peers) }
    }

    /// Starts `id` with what its store holds.
    pub(crate) fn start(&mut self, id: NodeId) {
        self.boot_count += 1;
        let config = self.config(id);
        let process = self.processes.get_mut(&id).unwrap();
        process.store.applied.clear();
        let recovered = Recovered {
            identity: process.store.identity.clone(),
            groups: process.store.groups.clone(),
        };
        let node = Node::new(config, recovered, id.0 * 1_000 + self.boot_count, self.now).unwrap();
        process.node = Some(node);
        self.drain(id);
    }

    pub(crate) fn stop(&mut self, id: NodeId) {
        self.processes.get_mut(&id).unwrap().node = None;
    }

    /// Forgets everything that `id` has stored; its next life has another incarnation.
    pub(crate) fn wipe(&mut self, id: NodeId) {
        let store = &mut self.processes.get_mut(&id).unwrap().store;
        store.groups.clear();
        store.identity.cluster = None;
        store.identity.incarnation = Incarnation(store.identity.incarnation.0 + 1_000);
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        self.processes[&id].node.as_ref().unwrap()
    }

    pub(crate) fn events(&self, id: NodeId) -> &[Event] {
        &self.processes[&id].events
    }

    pub(crate) fn applied(&self, id: NodeId, shard: ShardId) -> LogIndex {
        let applied = &self.processes[&id].store.applied;
        applied.get(&shard).map(|(machine, _)| machine.applied().index).unwrap_or_default()
    }

    pub(crate) fn state_hash(&self, id: NodeId, shard: ShardId) -> u64 {
        let applied = &self.processes[&id].store.applied;
        applied.get(&shard).map(|(machine, _)| machine.state_hash()).unwrap_or_default()
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        if let Some(node) = &mut self.processes.get_mut(&id).unwrap().node {
            node.handle(now, input);
            self.drain(id);
        }
    }

    /// Executes what the node wants, storage at once and in order.
    fn drain(&mut self, id: NodeId) {
        let now = self.now;
        let process = self.processes.get_mut(&id).unwrap();
        let node = process.node.as_mut().unwrap();
        while let Some(output) = node.poll_output() {
            match output {
                Output::Send(frame) => {
                    let bytes = wire::encode(&Frame::Peer(frame));
                    let Ok(Frame::Peer(frame)) = wire::decode(&bytes) else {
                        panic!("a frame survives encoding");
                    };
                    self.sent.push(frame.clone());
                    self.network.push_back(frame);
                }
                Output::Store(request) => {
                    let reply = process.store.execute(request);
                    node.handle(now, Input::Stored(reply));
                }
                Output::Reply { handle, body } => {
                    let (_, correlation) = self.requests.remove(&handle).unwrap();
                    let reply = ReplyFrame { correlation, body };
                    let from = address(id);
                    self.router.handle(now, RouterInput::Receive { from, reply });
                }
                Output::Event(event) => process.events.push(event),
            }
        }
        let timeout = node.poll_timeout();
        assert!(
            timeout.is_none_or(|(at, _)| at > now),
            "a drained node waits for the future: {timeout:?} at {now}"
        );
    }

    fn drain_router(&mut self) {
        while let Some(output) = self.router.poll_output() {
            match output {
                RouterOutput::Done { call, result } => {
                    assert!(self.done.insert(call, result).is_none(), "a call ends once");
                }
                RouterOutput::Send { to, request } => self.deliver_request(&to, request),
            }
        }
    }

    fn deliver_request(&mut self, to: &Address, request: RequestFrame) {
        let id = self.processes.keys().copied().find(|id| address(*id) == *to).unwrap();
        if self.processes[&id].node.is_none() {
            return self.router.handle(self.now, RouterInput::Unreachable { to: to.clone() });
        }
        self.last_handle += 1;
        let handle = RequestHandle(self.last_handle);
        self.requests.insert(handle, (id, request.correlation));
        self.input(id, Input::Request { handle, body: request.body });
    }

    fn deliver_all(&mut self) {
        self.drain_router();
        while let Some(frame) = self.network.pop_front() {
            if !self.cut.contains(&(frame.from, frame.to)) {
                self.input(frame.to, Input::Receive(frame));
            }
            self.drain_router();
        }
    }

    /// Asks a node directly, and returns what it answers at once.
    pub(crate) fn request(&mut self, id: NodeId, body: ClientRequest) -> ClientReply {
        let now = self.now;
        let node = self.processes.get_mut(&id).unwrap().node.as_mut().unwrap();
        let handle = RequestHandle(u64::MAX);
        node.handle(now, Input::Request { handle, body });
        match node.poll_output() {
            Some(Output::Reply { handle: answered, body }) if answered == handle => body,
            other => panic!("expected an answer at once, got {other:?}"),
        }
    }

    /// Lets `duration` pass, in steps of one millisecond.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.deliver_all();
            self.now = self.now + Duration::from_millis(1);
            let due = |process: &Process, now| {
                let timeout = process.node.as_ref().and_then(|node| node.poll_timeout());
                timeout.is_some_and(|(at, _)| at <= now)
            };
            let ids: Vec<_> = self.processes.keys().copied().collect();
            for id in ids {
                if due(&self.processes[&id], self.now) {
                    self.input(id, Input::Timeout);
                }
            }
            if self.router.poll_timeout().is_some_and(|at| at <= self.now) {
                self.router.handle(self.now, RouterInput::Timeout);
            }
        }
        self.deliver_all();
    }

    /// Makes a call and lets time pass until it ends.
    pub(crate) fn call(&mut self, call: Call) -> Result<Answer, CallError> {
        let deadline = self.now + Duration::from_secs(10);
        let id = self.router.call(self.now, call, deadline);
        loop {
            if let Some(result) = self.done.remove(&id) {
                return result;
            }
            self.run(Duration::from_millis(1));
        }
    }

    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let leads = |id: &NodeId| {
            let node = self.processes[id].node.as_ref()?;
            let status = node.status();
            let of = status.shards.into_iter().find(|status| status.shard == shard)?;
            (of.role == kv_core::raft::Role::Leader).then_some(of.term)
        };
        let leaders = self.processes.keys().filter_map(|id| Some((leads(id)?, *id)));
        leaders.max().map(|(_, id)| id)
    }
}
