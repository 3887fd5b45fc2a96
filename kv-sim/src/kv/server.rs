//! A server: a machine with a disk, on which a node runs, or is to run.
//!
//! Those that form the cluster run a node from the begin. The others are *spare*: their disks are
//! empty, and they wait for an operator's [`Order`] to join. Who gets one empties its disk, whatever
//! is on it, begins a data directory with the incarnation that the order names, and asks the cluster
//! to be added, as `kv-node start --join` does. The cluster's record, the map and the id that it gets
//! are made durable, which takes the disk's time, and then the node starts.
//!
//! The incarnation is durable before anybody hears of it, and who asks again under the same one is
//! given the same id. So a crash at any point is mended by asking again.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput};
use kv_core::cluster::{Identity, MetaError};
use kv_core::id::{Address, Incarnation, NodeId};
use kv_core::node::{LeaseConfig, Node, NodeConfig, Start};
use kv_core::storage::{Recovered, StorageDamage};
use kv_core::time::Instant;
use kv_core::wire::{self, AdminReply, AdminRequest, ClientReply, Frame, Refusal, ReplyFrame};
use kv_storage::mutants::Mutants;
use kv_storage::vfs::{SimDisk, Vfs as _};
use kv_storage::{OpenOptions, Opened};

use super::caller::next_done;
use super::disks::{SEGMENT_BYTES, SLACK_BYTES, tree_options};
use super::replica::{Note, Replica, address_of, timings};
use super::running::Running;
use crate::engine::{Input, Io, IoToken, Kind, Machine, Outbox, ProcessId, fork_seed};
use crate::scenario::Cluster;

const CLUSTER_NAME: &str = "sim";
/// What the wall clock shows when true time begins: the first moment of 2026. A server's wall clock
/// is as wrong as its monotonic one.
const UNIX_EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// What an order begins with: no frame begins so.
const ORDER_PREFIX: &[u8] = b"join";
/// How long a server that joins waits for an answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits until it asks again.
const JOIN_PAUSE: Duration = Duration::from_millis(500);
/// What an identity takes on the disk, for the time that it takes.
const IDENTITY_BYTES: u64 = 4096;

/// An operator's order to join with an empty disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Of the life that begins. An order whose incarnation is not above the one at hand is a late
    /// copy, and ignored: it would cost a member its data.
    pub(super) incarnation: Incarnation,
}

impl Order {
    /// The order with this number, which begins at 1 and grows; `noise` makes incarnations differ
    /// from those of other runs.
    pub(super) fn new(number: u32, noise: u32) -> Self {
        Self { incarnation: Incarnation(u64::from(number) << 32 | u64::from(noise)) }
    }

    pub(super) fn encode(self) -> Bytes {
        [ORDER_PREFIX, &self.incarnation.0.to_le_bytes()].concat().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = bytes.strip_prefix(ORDER_PREFIX)?.try_into().ok()?;
        Some(Self { incarnation: Incarnation(u64::from_le_bytes(number)) })
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) cluster: Cluster,
    pub(super) mutants: Mutants,
    pub(super) disk: SimDisk,
    /// Of this life.
    pub(super) seed: u64,
    /// Who runs on the disk as long as it is that of a server which forms the cluster.
    pub(super) founder: Option<NodeId>,
}

impl Settings {
    /// Opens the disk; `damage` is what a node that ran on it has found since it was opened.
    pub(super) fn open(
        &self,
        fresh_incarnation: Incarnation,
        damage: Option<StorageDamage>,
    ) -> Result<Opened, String> {
        let node = self.founder.unwrap_or(NodeId::UNKNOWN);
        let options = OpenOptions {
            log_segment_bytes: SEGMENT_BYTES,
            tree: tree_options(self.mutants),
            damage,
            ..OpenOptions::new(CLUSTER_NAME, node, fresh_incarnation)
        };
        kv_storage::open(Arc::new(self.disk.clone()), options)
            .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))
    }

    /// Starts the node that an open disk belongs to.
    pub(super) fn start(
        &self,
        mut opened: Opened,
        now: Instant,
        token: u64,
    ) -> Result<Replica, String> {
        let identity = opened.identity.identity().clone();
        let config = node_config(&self.cluster, &identity);
        let life = identity.life;
        let nothing =
            Recovered { identity: identity.clone(), groups: BTreeMap::new(), damage: None };
        let recovered = mem::replace(&mut opened.recovered, nothing);
        // Who has just joined was opened as nobody.
        let recovered = Recovered { identity, ..recovered };
        let peers = config.peers.clone();
        let seed = fork_seed(self.seed, "life", life);
        let start =
            Start { seed, now, unix_time: UNIX_EPOCH + now.saturating_since(Instant::ZERO) };
        let node = Node::new(config, recovered, start).map_err(|wrong| wrong.to_string());
        Ok(Replica::new(node?, opened, self.disk.clone(), peers, token))
    }
}

/// The configuration of the node that a disk belongs to.
pub(super) fn node_config(cluster: &Cluster, identity: &Identity) -> NodeConfig {
    let founders = (0..cluster.nodes).map(ProcessId::Server);
    let founders = (1_u64..).map(NodeId).zip(founders.map(address_of));
    let recorded = identity.cluster.iter().flat_map(|record| &record.members);
    let members = recorded.chain(identity.map.iter().flat_map(|map| &map.members));
    let members = members.map(|member| (member.id, member.address.clone()));
    let peers: BTreeMap<NodeId, Address> = match &identity.cluster {
        None => founders.collect(),
        Some(_) => members.collect(),
    };
    NodeConfig {
        shard_count: cluster.shards,
        replica_count: cluster.replicas,
        timings: timings(cluster),
        lease: cluster.lease_drift.map(|drift_max_ppm| LeaseConfig { drift_max_ppm }),
        slack_bytes: SLACK_BYTES,
        retention: Duration::from_nanos(cluster.retention),
        ..NodeConfig::new(identity.node, CLUSTER_NAME, peers.into_iter().collect())
    }
}

/// The identity of a node that has stored nothing.
pub(super) fn empty_identity(node: NodeId) -> Identity {
    Identity {
        cluster_name: CLUSTER_NAME.into(),
        node,
        incarnation: Incarnation(0),
        cluster: None,
        map: None,
        life: 0,
        repair: None,
    }
}

/// One life of a server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    state: State,
    /// The last one that was obeyed on this disk.
    last_order: Incarnation,
    /// Storage operations up to this one are of a disk that was emptied since.
    stale: IoToken,
}

#[derive(Debug)]
enum State {
    /// The disk is empty.
    Spare,
    /// Has a data directory, and asks to be added.
    Joining(Box<Joiner>),
    /// Runs a node, which may have been removed since.
    Running(Box<Running>),
}

impl Server {
    /// Starts from whatever the disk holds.
    pub(super) fn boot(
        settings: Settings,
        fresh_incarnation: Incarnation,
        now: Instant,
    ) -> Result<Self, String> {
        let is_empty = settings.disk.list("").map_err(|error| error.to_string())?.is_empty();
        let mut last_order = Incarnation(0);
        let state = if settings.founder.is_none() && is_empty {
            State::Spare
        } else {
            let opened = settings.open(fresh_incarnation, None)?;
            let identity = opened.identity.identity();
            if settings.founder.is_none() {
                last_order = identity.incarnation;
            }
            if identity.node == NodeId::UNKNOWN {
                State::Joining(Box::new(Joiner::new(&settings, opened, 0)))
            } else {
                let replica = settings.start(opened, now, 0)?;
                State::Running(Box::new(Running::new(settings.clone(), replica)))
            }
        };
        Ok(Self { settings, state, last_order, stale: IoToken(0) })
    }

    /// The node that runs, with its disk.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.state {
            State::Running(running) => Some(running.replica()),
            State::Spare | State::Joining(_) => None,
        }
    }

    /// Has the store apply something else than what is in its log, when it next can.
    pub(super) fn misapply(&mut self) {
        if let State::Running(running) = &mut self.state {
            running.misapply();
        }
    }

    /// Carries out what the disk was doing, as far as the disk lets it: the process is about to die.
    pub(super) fn crash_during_io(&mut self) {
        match &mut self.state {
            State::Spare => {}
            State::Joining(joiner) => joiner.crash_during_io(),
            State::Running(running) => running.crash_during_io(),
        }
    }

    /// Empties the disk and begins to join.
    fn obey(&mut self, order: Order, out: &mut Outbox<Note>) {
        if order.incarnation <= self.last_order {
            return;
        }
        let token = match &self.state {
            State::Spare => self.stale.0,
            State::Joining(joiner) => joiner.last_token,
            State::Running(running) => running.replica().last_token(),
        };
        // Nothing on the disk may be open when it is emptied.
        self.state = State::Spare;
        self.settings.disk.wipe();
        out.note(Note::Wiped);
        let Order { incarnation } = order;
        out.record(Kind::StorageRequest, &order.encode(), || {
            format!("wipe, join as {incarnation}")
        });
        self.settings.founder = None;
        self.settings.seed = fork_seed(self.settings.seed, "join", incarnation.0);
        (self.last_order, self.stale) = (incarnation, IoToken(token));
        let opened = self.settings.open(incarnation, None).expect("an empty disk can be opened");
        self.state = State::Joining(Box::new(Joiner::new(&self.settings, opened, token)));
    }

    /// Starts the node that has just become a member.
    fn start_node(&mut self, now: Instant) {
        let State::Joining(joiner) = mem::replace(&mut self.state, State::Spare) else {
            return;
        };
        let Joiner { opened, last_token, .. } = *joiner;
        let replica = self.settings.start(opened, now, last_token);
        let replica = replica.expect("who was added can start");
        let running = Running::new(self.settings.clone(), replica);
        self.state = State::Running(Box::new(running));
    }
}

impl Machine for Server {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        match &input {
            Input::IoDone(token) if *token <= self.stale => return,
            Input::Deliver { bytes, .. } => {
                if let Some(order) = Order::decode(bytes) {
                    self.obey(order, out);
                    return self.handle(now, Input::Start, out);
                }
            }
            _ => {}
        }
        match &mut self.state {
            State::Spare => {
                if let Input::Deliver { from, bytes } = input {
                    refuse(from, &bytes, out);
                }
            }
            State::Joining(joiner) => {
                let now = Instant::from_nanos(now);
                if joiner.handle(now, input, out) {
                    self.start_node(now);
                    self.handle(now.as_nanos(), Input::Start, out);
                }
            }
            State::Running(running) => running.handle(now, input, out),
        }
    }

    fn deadline(&self) -> Option<u64> {
        match &self.state {
            State::Spare => None,
            State::Joining(joiner) => joiner.deadline(),
            State::Running(running) => running.deadline(),
        }
    }
}

/// Answers a request to a server on which no node runs.
fn refuse(from: ProcessId, bytes: &[u8], out: &mut Outbox<Note>) {
    if let Ok(Frame::Request(request)) = wire::decode(bytes) {
        let body = ClientReply::Refused(Refusal::NotReady);
        let reply = ReplyFrame { correlation: request.correlation, body };
        out.send(from, wire::encode(&Frame::Reply(reply)).into());
    }
}

/// A server with a data directory that belongs to no cluster yet.
#[derive(Debug)]
struct Joiner {
    opened: Opened,
    router: Router,
    call: Option<CallId>,
    /// When to ask; none once the answer is known.
    ask_at: Option<Instant>,
    /// What is being made durable.
    storing: Option<(IoToken, Identity)>,
    last_token: u64,
}

impl Joiner {
    fn new(settings: &Settings, opened: Opened, last_token: u64) -> Self {
        let Cluster { nodes, spares, .. } = settings.cluster;
        let servers = (0..nodes + spares).map(ProcessId::Server);
        let config = RouterConfig {
            attempt_timeout: Duration::from_millis(500),
            ..RouterConfig::new(servers.map(address_of).collect())
        };
        let router = Router::new(config, settings.seed);
        let ask_at = Some(Instant::ZERO);
        Self { opened, router, call: None, ask_at, storing: None, last_token }
    }

    /// Whether the node is a member, durably, from this step on.
    fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox<Note>) -> bool {
        match input {
            Input::Start | Input::Phase(_) | Input::Link { .. } => {}
            Input::Deliver { from, bytes } => match wire::decode(&bytes) {
                Ok(Frame::Reply(reply)) => {
                    let from = address_of(from);
                    self.router.handle(now, RouterInput::Receive { from, reply });
                }
                _ => refuse(from, &bytes, out),
            },
            Input::Timer => self.router.handle(now, RouterInput::Timeout),
            Input::IoDone(token) => {
                if let Some((_, identity)) = self.storing.take_if(|(storing, _)| *storing == token)
                {
                    self.opened.identity.store(&identity).expect("the disk takes the identity");
                    return true;
                }
            }
        }
        if self.call.is_none() && self.ask_at.is_some_and(|at| at <= now) {
            let incarnation = self.opened.identity.identity().incarnation;
            let address = address_of(out.process);
            let call = Call::Admin(AdminRequest::AddNode { incarnation, address });
            self.call = Some(self.router.call(now, call, now + JOIN_TIMEOUT));
            self.ask_at = None;
        }
        self.drain(now, out);
        false
    }

    fn drain(&mut self, now: Instant, out: &mut Outbox<Note>) {
        while let Some((_, result)) = next_done(&mut self.router, out) {
            self.call = None;
            self.on_answer(now, result, out);
        }
    }

    fn on_answer(
        &mut self,
        now: Instant,
        result: Result<Answer, CallError>,
        out: &mut Outbox<Note>,
    ) {
        match result {
            Ok(Answer::Admin(AdminReply::NodeAdded { id, cluster, map })) => {
                let before = self.opened.identity.identity().clone();
                let (cluster, map) = (Some(cluster), Some(map));
                self.last_token += 1;
                let token = IoToken(self.last_token);
                out.record(Kind::StorageRequest, &id.0.to_le_bytes(), || format!("become {id}"));
                out.start_io(Io { token, bytes: IDENTITY_BYTES, sync: true });
                self.storing = Some((token, Identity { node: id, cluster, map, ..before }));
            }
            // It was a member already, and is none any more: only another order helps.
            Err(CallError::Refused(Refusal::Meta(MetaError::RemovedMember { .. }))) => {}
            _ => self.ask_at = Some(now + JOIN_PAUSE),
        }
    }

    fn crash_during_io(&mut self) {
        if let Some((_, identity)) = self.storing.take() {
            // What fails here fails because the power is gone; nobody is told.
            let _ = self.opened.identity.store(&identity);
        }
    }

    fn deadline(&self) -> Option<u64> {
        let times = self.router.poll_timeout().into_iter().chain(self.ask_at);
        times.min().map(Instant::as_nanos)
    }
}
