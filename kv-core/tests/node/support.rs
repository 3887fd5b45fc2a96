//! A cluster in memory: whole nodes, an instant network, and stores that are vectors.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, RouterOutput,
};
use kv_core::cluster::{ClusterMap, ClusterRecord, Identity, Repair};
use kv_core::id::{
    Address, ClusterId, Epoch, Incarnation, LogId, LogIndex, NodeId, RequestHandle, RequestId,
    SessionId, ShardId, Term, Timestamp,
};
use kv_core::machine::Transactions;
use kv_core::node::{Event, Input, LeaseConfig, Node, NodeConfig, Output, Start, TimerReason};
use kv_core::op::{Key, Value, WriteOp};
use kv_core::storage::{StorageDamage, StorageReply, StorageRequest};
use kv_core::time::Instant;
use kv_core::wire::{
    self, ClientReply, ClientRequest, Frame, PeerFrame, PeerMessage, ReplyFrame, RequestFrame,
};

use crate::crash::{Crash, Moment, Strike, Victim};
use crate::store::Store;

/// The shard that most tests look at.
pub(crate) const SHARD: ShardId = ShardId(1);

/// What wall clocks show when a test begins.
pub(crate) const UNIX_TIME: Duration = Duration::from_secs(1_767_225_600);

/// A key of [`SHARD`].
pub(crate) fn key_of_shard() -> Key {
    let keys = (0..).map(|at| Key::new(format!("k{at}").into_bytes()));
    let is_there = |key: &Key| kv_core::ring::shard_of(key, 4) == SHARD;
    keys.into_iter().find(is_there).expect("every shard has keys")
}

/// Sets [`key_of_shard`].
pub(crate) fn put_of_shard(text: &str) -> Call {
    let value = Value::string(text.as_bytes().to_vec());
    Call::Write(WriteOp::Put { key: key_of_shard(), value })
}

/// A put as a client sends it.
pub(crate) fn write_of_shard(sequence: u64) -> ClientRequest {
    let session = SessionId { opened_ts: Timestamp(1), nonce: 1 };
    let request = RequestId { session, sequence, acked_below: 1 };
    let op = WriteOp::Put { key: key_of_shard(), value: Value::string("v") };
    ClientRequest::Write { shard: SHARD, epoch: Epoch(1), request, op }
}

struct Process {
    node: Option<Node>,
    store: Store,
    /// What a stalled store has not looked at.
    waiting: VecDeque<StorageRequest>,
    events: Vec<Event>,
    /// Where the node was last told that its peers are.
    connects: BTreeMap<NodeId, Address>,
}

/// Says of a message whether it is lost on its way to a node.
pub(crate) type Loses = Box<dyn FnMut(NodeId, &PeerMessage) -> bool>;

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
    /// Whether leaders read by leases, and how bad clocks may be.
    lease: Option<LeaseConfig>,
    /// Every request of the client that has reached a node.
    pub(crate) requested: Vec<ClientRequest>,
    /// How many frames had been sent when the last call was answered.
    pub(crate) answered_at: usize,
    /// Every frame that was ever sent.
    pub(crate) sent: Vec<PeerFrame>,
    /// Links that carry nothing, by sender and receiver.
    pub(crate) cut: Vec<(NodeId, NodeId)>,
    /// Nodes that the client cannot reach.
    pub(crate) hidden: BTreeSet<NodeId>,
    /// Nodes whose stores do nothing for the time being.
    pub(crate) stalled: BTreeSet<NodeId>,
    /// Handles of requests that the test made itself.
    asked: BTreeSet<RequestHandle>,
    /// The answers to those.
    pub(crate) replies: BTreeMap<RequestHandle, ClientReply>,
    /// Count of user shards, and of replicas of each if it is not the default.
    shape: (u32, Option<u32>),
    /// Whether there was another client, whose answers nobody waits for.
    forgotten: bool,
    /// Says of each message to a node whether it is lost.
    pub(crate) loses: Loses,
    /// Which timers have fired, and where.
    pub(crate) timers: Vec<(NodeId, TimerReason)>,
    /// A crash that is to come, or has come.
    pub(crate) crash: Option<Crash>,
}

pub(crate) fn address(id: NodeId) -> Address {
    Address(id.to_string())
}

impl Cluster {
    pub(crate) fn new(count: u64) -> Self {
        Self::with_shape(count, 4, None)
    }

    /// A cluster of so many user shards, each with so many replicas, by default one everywhere.
    pub(crate) fn with_shape(count: u64, shards: u32, replicas: Option<u32>) -> Self {
        Self::with(count, (shards, replicas), None)
    }

    /// A cluster of the usual shape that reads by leases, if it says so.
    pub(crate) fn with_lease(count: u64, lease: Option<LeaseConfig>) -> Self {
        Self::with(count, (4, None), lease)
    }

    fn with(count: u64, shape: (u32, Option<u32>), lease: Option<LeaseConfig>) -> Self {
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
            lease,
            requested: Vec::new(),
            answered_at: 0,
            sent: Vec::new(),
            cut: Vec::new(),
            hidden: BTreeSet::new(),
            stalled: BTreeSet::new(),
            asked: BTreeSet::new(),
            replies: BTreeMap::new(),
            shape,
            forgotten: false,
            loses: Box::new(|_, _| false),
            timers: Vec::new(),
            crash: None,
        };
        for id in (1..=count).map(NodeId) {
            let identity = Identity {
                cluster_name: "test".into(),
                node: id,
                incarnation: Incarnation(100 + id.0),
                cluster: None,
                map: None,
                life: 0,
                repair: None,
            };
            let store = Store::new(identity);
            let process = Process {
                node: None,
                store,
                waiting: VecDeque::new(),
                events: Vec::new(),
                connects: BTreeMap::new(),
            };
            cluster.processes.insert(id, process);
        }
        for id in (1..=count).map(NodeId) {
            cluster.start(id);
        }
        cluster
    }

    /// A cluster whose shards have leaders.
    pub(crate) fn formed(count: u64) -> Self {
        let mut cluster = Self::new(count);
        cluster.run(Duration::from_secs(5));
        cluster
    }

    /// Of a formed cluster.
    pub(crate) fn id(&self) -> ClusterId {
        let mut nodes = self.processes.values().filter_map(|process| process.node.as_ref());
        nodes.find_map(|node| Some(node.map()?.cluster)).expect("a node that runs has a map")
    }

    pub(crate) fn config(&self, id: NodeId) -> NodeConfig {
        let peers = self.processes.keys().map(|id| (*id, address(*id))).collect();
        let (shard_count, replica_count) = self.shape;
        let config = NodeConfig::new(id, "test", peers);
        NodeConfig { shard_count, replica_count, lease: self.lease, ..config }
    }

    /// Starts `id` with what its store holds.
    pub(crate) fn start(&mut self, id: NodeId) {
        let config = self.config(id);
        self.start_with(id, config);
    }

    /// Starts `id` with another configuration.
    pub(crate) fn start_with(&mut self, id: NodeId, config: NodeConfig) {
        self.boot_count += 1;
        let process = self.processes.get_mut(&id).unwrap();
        let recovered = process.store.open();
        let seed = id.0 * 1_000 + self.boot_count;
        let unix_time = UNIX_TIME + self.now.saturating_since(Instant::ZERO);
        let start = Start { seed, now: self.now, unix_time };
        let node = Node::new(config, recovered, start).unwrap();
        process.node = Some(node);
        self.drain(id);
    }

    /// Starts a node that has just joined.
    pub(crate) fn add_process(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        cluster: ClusterRecord,
        map: ClusterMap,
    ) {
        let (cluster, map) = (Some(cluster), Some(map));
        let cluster_name = "test".into();
        let (life, repair) = (0, None);
        let identity = Identity { cluster_name, node: id, incarnation, cluster, map, life, repair };
        let store = Store::new(identity);
        let (waiting, events, connects) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        self.processes.insert(id, Process { node: None, store, waiting, events, connects });
        self.start(id);
    }

    pub(crate) fn stop(&mut self, id: NodeId) {
        let process = self.processes.get_mut(&id).unwrap();
        process.node = None;
        process.waiting.clear();
    }

    /// Forgets everything that `id` has stored; its next life has another incarnation.
    pub(crate) fn wipe(&mut self, id: NodeId) {
        let store = &mut self.processes.get_mut(&id).unwrap().store;
        store.groups.clear();
        store.flushed.clear();
        store.identity.cluster = None;
        store.identity.incarnation = Incarnation(store.identity.incarnation.0 + 1_000);
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        self.processes[&id].node.as_ref().unwrap()
    }

    /// Where `id` was last told that `peer` is; none if it was not told.
    pub(crate) fn connect(&self, id: NodeId, peer: NodeId) -> Option<&Address> {
        self.processes[&id].connects.get(&peer)
    }

    pub(crate) fn events(&self, id: NodeId) -> &[Event] {
        &self.processes[&id].events
    }

    pub(crate) fn applied(&self, id: NodeId, shard: ShardId) -> LogIndex {
        let applied = &self.processes[&id].store.applied;
        applied.get(&shard).map(|(machine, _)| machine.applied().index).unwrap_or_default()
    }

    /// What is unfinished in the applied state of a shard.
    pub(crate) fn unfinished(&self, id: NodeId, shard: ShardId) -> Transactions {
        let applied = &self.processes[&id].store.applied;
        applied.get(&shard).map(|(machine, _)| machine.transactions().clone()).unwrap_or_default()
    }

    pub(crate) fn state_hash(&self, id: NodeId, shard: ShardId) -> u64 {
        let applied = &self.processes[&id].store.applied;
        applied.get(&shard).map(|(machine, _)| machine.state_hash()).unwrap_or_default()
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        // A node may be a member before its process is there.
        if let Some(Process { node: Some(node), .. }) = self.processes.get_mut(&id) {
            node.handle(now, input);
            self.drain(id);
        }
    }

    /// Lets the store of `id` make what it has applied durable without the log.
    pub(crate) fn flush(&mut self, id: NodeId) {
        let flushed = self.processes.get_mut(&id).unwrap().store.flush();
        self.input(id, Input::Stored(flushed));
    }

    /// Lets the store of `id` go on.
    pub(crate) fn resume(&mut self, id: NodeId) {
        self.stalled.remove(&id);
        let process = self.processes.get_mut(&id).unwrap();
        for request in std::mem::take(&mut process.waiting) {
            let reply = self.processes.get_mut(&id).unwrap().store.execute(request);
            reply.into_iter().for_each(|reply| self.input(id, Input::Stored(reply)));
        }
    }

    /// What the store of `id` finds damaged when it is opened next.
    pub(crate) fn damage(&mut self, id: NodeId, damage: StorageDamage) {
        self.processes.get_mut(&id).unwrap().store.damage = Some(damage);
    }

    /// Has the store of `id` set aside what it holds, and starts the node on an empty one.
    pub(crate) fn reopen(&mut self, id: NodeId, damage: StorageDamage) {
        self.stop(id);
        let store = &mut self.processes.get_mut(&id).unwrap().store;
        store.groups.clear();
        store.flushed.clear();
        let identity = store.identity.after_damage(damage.clone());
        let repair = identity.repair.map(|repair| Repair { is_set_aside: true, ..repair });
        store.identity = Identity { repair, ..identity };
        store.damage = Some(damage);
        self.start(id);
        self.processes.get_mut(&id).unwrap().store.damage = None;
    }

    /// Has the store of `id` apply the next put to a shard as if it were of this value.
    pub(crate) fn lie(&mut self, id: NodeId, shard: ShardId, text: &str) {
        let lie = Some((shard, Value::string(text.as_bytes().to_vec())));
        self.processes.get_mut(&id).unwrap().store.lie = lie;
    }

    /// The log that the store of `id` holds: its floor, and its last entry.
    pub(crate) fn stored_log(&self, id: NodeId, shard: ShardId) -> (LogId, LogId) {
        let group = &self.processes[&id].store.groups[&shard];
        (group.floor, group.entries.last().map_or(group.floor, |entry| entry.id))
    }

    /// Executes what the node wants, storage at once and in order.
    fn drain(&mut self, id: NodeId) {
        let now = self.now;
        let is_stalled = self.stalled.contains(&id);
        let process = self.processes.get_mut(&id).unwrap();
        let node = process.node.as_mut().unwrap();
        let mut strike = Strike::None;
        while let Some(output) = node.poll_output() {
            let struck = Strike::at(&mut self.crash, now, id, &output);
            if struck != Strike::None {
                strike = struck;
            }
            if strike == Strike::Here(true) {
                break;
            }
            match output {
                Output::Send(frame) => {
                    let bytes = wire::encode(&Frame::Peer(frame));
                    let Ok(Frame::Peer(mut frame)) = wire::decode(&bytes) else {
                        panic!("a frame survives encoding");
                    };
                    frame.messages.retain(|message| !(self.loses)(frame.to, message));
                    self.sent.push(frame.clone());
                    self.network.push_back(frame);
                }
                Output::Store(request) if is_stalled => process.waiting.push_back(request),
                Output::Store(request) => {
                    let reply = process.store.execute(request);
                    if let Some(reply) = reply.filter(|_| strike != Strike::Here(false)) {
                        node.handle(now, Input::Stored(reply));
                    }
                }
                Output::Reply { handle, body } => {
                    let Some((_, correlation)) = self.requests.remove(&handle) else {
                        if self.forgotten {
                            continue;
                        }
                        assert!(self.asked.remove(&handle), "a request is answered once");
                        self.replies.insert(handle, body);
                        continue;
                    };
                    let reply = ReplyFrame { correlation, body };
                    let from = address(id);
                    if !struck.loses_reply() {
                        self.router.handle(now, RouterInput::Receive { from, reply });
                    }
                }
                Output::Event(event) => process.events.push(event),
                Output::Connect { peer, address } => {
                    process.connects.insert(peer, address);
                }
                // What follows is the test's business.
                Output::Reopen(_) => {}
            }
            if strike == Strike::Here(false) {
                break;
            }
        }
        match strike {
            Strike::Here(_) => return self.stop(id),
            Strike::Other(victim, _) => self.kill(victim),
            Strike::None => {}
        }
        let node = self.processes[&id].node.as_ref().unwrap();
        let timeout = node.poll_timeout();
        assert!(
            timeout.is_none_or(|(at, _)| at > now),
            "a drained node waits for the future: {timeout:?} at {now}"
        );
    }

    /// Sends so many more requests of the client, and then forgets it, with all that it was told; from
    /// there on there is another one.
    pub(crate) fn forget_router_after(&mut self, request_count: usize) {
        let mut sent_count = 0;
        while let Some(output) = self.router.poll_output() {
            if let RouterOutput::Send { to, request } = output
                && sent_count < request_count
            {
                sent_count += 1;
                self.deliver_request(&to, request);
            }
        }
        self.requests.clear();
        self.forgotten = true;
        let endpoints = self.processes.keys().map(|id| address(*id)).collect();
        self.router = Router::new(RouterConfig::new(endpoints), 8);
    }

    /// Crashes somebody. What the client was told before counts.
    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Node(id) => self.stop(id),
            Victim::Coordinator => {
                while let Some(output) = self.router.poll_output() {
                    if let RouterOutput::Done { call, result } = output {
                        self.done.insert(call, result);
                    }
                }
                self.forget_router_after(0);
            }
        }
    }

    /// Does what happens at a moment of the network, with the crash that may be due before or after
    /// it.
    fn with_crash(&mut self, moment: &Moment<'_>, happen: impl FnOnce(&mut Self)) {
        let now = self.now;
        let strikes = |crash: &mut Crash| crash.strikes(now, moment);
        let is_struck = self.crash.as_mut().is_some_and(strikes);
        let victim = self.crash.as_ref().map(|crash| (crash.victim, crash.is_before));
        match victim.filter(|_| is_struck) {
            None => happen(self),
            // Who asks for nothing any more has not asked.
            Some((Victim::Coordinator, true)) if matches!(moment, Moment::Request(..)) => {
                self.kill(Victim::Coordinator);
            }
            Some((victim, true)) => {
                self.kill(victim);
                happen(self);
            }
            Some((victim, false)) => {
                happen(self);
                self.kill(victim);
            }
        }
    }

    fn drain_router(&mut self) {
        while let Some(output) = self.router.poll_output() {
            match output {
                RouterOutput::Done { call, result } => {
                    self.answered_at = self.sent.len();
                    assert!(self.done.insert(call, result).is_none(), "a call ends once");
                }
                RouterOutput::Send { to, request } => self.deliver_request(&to, request),
            }
        }
    }

    fn deliver_request(&mut self, to: &Address, request: RequestFrame) {
        let id = self.processes.keys().copied().find(|id| address(*id) == *to).unwrap();
        if self.hidden.contains(&id) {
            return;
        }
        let body = request.body.clone();
        let asks = |cluster: &mut Self| cluster.take_request(id, to, request);
        self.with_crash(&Moment::Request(&body), asks);
    }

    fn take_request(&mut self, id: NodeId, to: &Address, request: RequestFrame) {
        if self.processes[&id].node.is_none() {
            return self.router.handle(self.now, RouterInput::Unreachable { to: to.clone() });
        }
        self.requested.push(request.body.clone());
        self.last_handle += 1;
        let handle = RequestHandle(self.last_handle);
        self.requests.insert(handle, (id, request.correlation));
        self.input(id, Input::Request { handle, body: request.body });
    }

    fn deliver_all(&mut self) {
        self.drain_router();
        while let Some(frame) = self.network.pop_front() {
            if !self.cut.contains(&(frame.from, frame.to)) {
                self.take_frame(frame);
            }
            self.drain_router();
        }
    }

    fn take_frame(&mut self, frame: PeerFrame) {
        if self.crash.as_ref().is_none_or(|crash| crash.is_of_sender(&frame)) {
            return self.input(frame.to, Input::Receive(frame));
        }
        let taken = frame.clone();
        let takes = |cluster: &mut Self| cluster.input(taken.to, Input::Receive(taken));
        self.with_crash(&Moment::Frame(&frame), takes);
    }

    /// Asks a node directly; its answer, whenever it comes, is found in `replies`.
    pub(crate) fn ask(&mut self, id: NodeId, body: ClientRequest) -> RequestHandle {
        self.last_handle += 1;
        let handle = RequestHandle(self.last_handle);
        self.asked.insert(handle);
        self.input(id, Input::Request { handle, body });
        handle
    }

    /// Asks a node several things in one step.
    pub(crate) fn ask_all(&mut self, id: NodeId, bodies: Vec<ClientRequest>) {
        let first = self.last_handle + 1;
        self.last_handle += bodies.len() as u64;
        let requests: Vec<_> = (first..).map(RequestHandle).zip(bodies).collect();
        self.asked.extend(requests.iter().map(|(handle, _)| *handle));
        let inputs = requests.into_iter().map(|(handle, body)| Input::Request { handle, body });
        let node = self.processes.get_mut(&id).unwrap().node.as_mut().unwrap();
        node.handle_all(self.now, inputs);
        self.drain(id);
    }

    /// Asks a node something between two other inputs of the same step.
    pub(crate) fn ask_within(
        &mut self,
        id: NodeId,
        before: Input,
        body: ClientRequest,
        after: Input,
    ) -> RequestHandle {
        self.last_handle += 1;
        let handle = RequestHandle(self.last_handle);
        self.asked.insert(handle);
        let node = self.processes.get_mut(&id).unwrap().node.as_mut().unwrap();
        node.handle_all(self.now, [before, Input::Request { handle, body }, after]);
        self.drain(id);
        handle
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

    /// The map that `id` gives to clients.
    pub(crate) fn map_of(&mut self, id: NodeId) -> ClusterMap {
        match self.request(id, ClientRequest::Map) {
            ClientReply::Map(view) => view.map,
            other => panic!("expected a map, got {other:?}"),
        }
    }

    /// Gives a leader a request, then damage, and counts the frames that it still has for its peers.
    pub(crate) fn frames_after_damage(
        &mut self,
        id: NodeId,
        body: ClientRequest,
        damage: StorageDamage,
    ) -> usize {
        let now = self.now;
        let node = self.processes.get_mut(&id).unwrap().node.as_mut().unwrap();
        node.handle(now, Input::Request { handle: RequestHandle(u64::MAX), body });
        node.handle(now, Input::Stored(StorageReply::Damaged(damage)));
        let outputs: Vec<_> = std::iter::from_fn(|| node.poll_output()).collect();
        let is_reply = |output: &&Output| matches!(output, Output::Reply { .. });
        assert_eq!(outputs.iter().filter(is_reply).count(), 1, "a request is answered once");
        outputs.iter().filter(|output| matches!(output, Output::Send(_))).count()
    }

    /// Lets `duration` pass, in steps of one millisecond.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.deliver_all();
            self.now = self.now + Duration::from_millis(1);
            let due = |process: &Process, now| {
                let (at, reason) = process.node.as_ref()?.poll_timeout()?;
                (at <= now).then_some(reason)
            };
            let ids: Vec<_> = self.processes.keys().copied().collect();
            for id in ids {
                if let Some(reason) = due(&self.processes[&id], self.now) {
                    self.timers.push((id, reason));
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

    /// The term of a replica.
    pub(crate) fn term(&self, id: NodeId, shard: ShardId) -> Term {
        let node = self.processes[&id].node.as_ref().expect("it runs");
        let shards = node.status().shards;
        let status = shards.into_iter().find(|status| status.shard == shard);
        status.map(|status| status.term).unwrap_or_default()
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

/// A cluster that holds something, the leader of [`SHARD`], and the two others.
pub(crate) fn written() -> (Cluster, NodeId, [NodeId; 2]) {
    let mut cluster = Cluster::formed(3);
    assert!(cluster.call(put_of_shard("1")).is_ok());
    let leader = cluster.leader(SHARD).expect("the shard is led");
    let mut others = (1..=3).map(NodeId).filter(|id| *id != leader);
    let others = [(); 2].map(|()| others.next().expect("there are two others"));
    (cluster, leader, others)
}

/// The value of the key of [`SHARD`] is `expected`.
#[track_caller]
pub(crate) fn check_value(cluster: &mut Cluster, expected: &str) {
    let got = cluster.call(Call::Get { key: key_of_shard() });
    let Ok(Answer::Got(Some(found))) = got else { panic!("{got:?}") };
    assert_eq!(found.value, Value::string(expected.as_bytes().to_vec()));
}
