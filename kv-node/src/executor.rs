//! The executor: owns the core, and is the only one to call it.
//!
//! One task waits for whatever comes next (answers of the log, frames of peers, requests of clients,
//! the time), feeds everything that waits by then into the node as one step, and carries out all outputs
//! before the next. So the busier the node is, the more shares an append, a frame and a wake-up:
//!
//! ```text
//! sockets ── peers, clients ──▶ ┌──────────┐ ── send ──▶ links
//! log's thread ──── stored ───▶ │ executor │ ── reply ─▶ outboxes of clients
//! clock ─────────── alarm ────▶ └──────────┘ ── store ─▶ log's thread, or answered at once
//! ```
//!
//! What the store answers at once goes in before anything else that waits. All queues into the
//! executor are bounded and make their senders wait; all queues out of it are bounded and never
//! make it wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kv_core::id::{NodeId, RequestHandle, ShardId, Term};
use kv_core::node::{Event, Input, LinkState, Node, Output, Start, Status};
use kv_core::raft::Role;
use kv_core::storage::{StorageDamage, StorageReply, StorageRequest};
use kv_core::time::Instant;
use kv_core::wire::{
    ClientReply, Frame, LocalIdentity, PeerFrame, Refusal, ReplyFrame, RequestFrame,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::disk::{self, Disk};
use crate::error::NodeError;
use crate::links::Links;
use crate::listener::Client;
use crate::random;
use crate::settings::Settings;

/// Inputs of one kind in one step. Enough to share the cost of a step, and few enough that a
/// heartbeat does not wait for long.
const STEP_INPUT_MAX: usize = 128;
/// How far away a timer is that nobody has set.
const FAR_AWAY: Duration = Duration::from_secs(3_600);

/// A connection of a client, unique in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What clients do.
#[derive(Debug)]
pub(crate) enum ClientEvent {
    /// A client connected.
    Opened {
        /// The connection.
        connection: ConnectionId,
        /// Where its replies go.
        client: Client,
    },
    /// A client asks.
    Request {
        /// The connection.
        connection: ConnectionId,
        /// What it asks.
        frame: Box<RequestFrame>,
        /// One of the connection's places for unanswered requests; given back with the answer.
        slot: OwnedSemaphorePermit,
        /// Its share of the room for large requests; given back when the core has it.
        _bytes: Option<OwnedSemaphorePermit>,
    },
    /// A client is gone. Answers to it have nowhere to go.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
}

/// What comes in from other tasks and threads.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// From the log's thread.
    pub(crate) stored: mpsc::UnboundedReceiver<Vec<StorageReply>>,
    /// From links: what became of their connections.
    pub(crate) links: mpsc::UnboundedReceiver<(NodeId, LinkState)>,
    /// From peers.
    pub(crate) peers: mpsc::Receiver<PeerFrame>,
    /// From clients.
    pub(crate) clients: mpsc::Receiver<ClientEvent>,
    /// From operators, who want to know the node's status.
    pub(crate) admin: mpsc::Receiver<oneshot::Sender<Status>>,
}

/// What has arrived since the last step.
#[derive(Debug, Default)]
struct Arrived {
    inputs: Vec<Input>,
    frames: Vec<PeerFrame>,
    events: Vec<ClientEvent>,
}

impl Arrived {
    fn store_replied(&mut self, replies: Vec<StorageReply>) {
        self.inputs.extend(replies.into_iter().map(Input::Stored));
    }

    /// Takes what waits, but not more of a kind than one step bears.
    fn take_waiting(&mut self, inbox: &mut Inbox, has_budget: bool) {
        while let Ok(replies) = inbox.stored.try_recv() {
            self.store_replied(replies);
        }
        while self.frames.len() < STEP_INPUT_MAX
            && let Ok(frame) = inbox.peers.try_recv()
        {
            self.frames.push(frame);
        }
        while has_budget
            && self.events.len() < STEP_INPUT_MAX
            && let Ok(event) = inbox.clients.try_recv()
        {
            self.events.push(event);
        }
    }
}

/// What other tasks need to know of the node.
#[derive(Debug)]
pub(crate) struct Published {
    /// Who it is.
    pub(crate) identity: watch::Sender<LocalIdentity>,
    /// Whether it welcomes requests.
    pub(crate) has_budget: watch::Sender<bool>,
}

/// Where an answer goes.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    correlation: u64,
    _slot: OwnedSemaphorePermit,
}

/// The executor.
#[derive(Debug)]
pub(crate) struct Executor {
    settings: Settings,
    node: Node,
    clock: Clock,
    /// None only while the data directory is opened anew.
    disk: Option<Disk>,
    /// Why it is to be opened anew, if it is.
    damage: Option<StorageDamage>,
    links: Links,
    published: Published,
    clients: BTreeMap<ConnectionId, Client>,
    waiting: BTreeMap<RequestHandle, Waiting>,
    handle_count: u64,
    /// Shards that this node leads; only to tell their comings and goings from other changes of
    /// role.
    led: BTreeSet<ShardId>,
    /// What the store answered at once and the node does not know yet.
    answers: VecDeque<StorageReply>,
}

/// The core's clock: time since the process started the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(tokio::time::Instant);

impl Clock {
    /// Starts at zero.
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// The time.
    pub(crate) fn now(self) -> Instant {
        Instant::ZERO + self.0.elapsed()
    }

    /// The beginning of a node's life, now.
    pub(crate) fn node_start(self, seed: u64) -> Start {
        // Before 1970 a clock is wrong, and nothing depends on it but ages.
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Start { seed, now: self.now(), unix_time }
    }

    fn at(self, at: Instant) -> tokio::time::Instant {
        self.0 + at.saturating_since(Instant::ZERO)
    }
}

impl Executor {
    /// An executor of a node that has just been made. `clients` connected before.
    pub(crate) fn new(
        settings: Settings,
        node: Node,
        clock: Clock,
        disk: Disk,
        links: Links,
        published: Published,
        clients: BTreeMap<ConnectionId, Client>,
    ) -> Self {
        Self {
            settings,
            node,
            clock,
            disk: Some(disk),
            damage: None,
            links,
            published,
            clients,
            waiting: BTreeMap::new(),
            handle_count: 0,
            led: BTreeSet::new(),
            answers: VecDeque::new(),
        }
    }

    /// Runs the node until `shutdown` is done.
    ///
    /// # Errors
    /// [`NodeError`] if data are damaged and the directory cannot be opened anew.
    pub(crate) async fn run(
        mut self,
        mut inbox: Inbox,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), NodeError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(self.wake_at()));
        let mut arrived = Arrived::default();
        self.drain_outputs();
        self.feed_answers();
        loop {
            if let Some(damage) = self.damage.take() {
                inbox.stored = self.reopen(damage)?;
            }
            if let Some(disk) = &mut self.disk {
                disk.flush();
            }
            let has_budget = self.publish_budget();
            let wake_at = self.wake_at();
            if alarm.deadline() != wake_at {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                () = &mut shutdown => break,
                () = &mut alarm => arrived.inputs.push(Input::Timeout),
                Some(replies) = inbox.stored.recv() => arrived.store_replied(replies),
                Some((peer, state)) = inbox.links.recv() => {
                    arrived.inputs.push(Input::Link { peer, state });
                }
                1.. = inbox.peers.recv_many(&mut arrived.frames, STEP_INPUT_MAX) => {}
                1.. = inbox.clients.recv_many(&mut arrived.events, STEP_INPUT_MAX), if has_budget => {}
                Some(reply) = inbox.admin.recv() => {
                    // Who asked may have gone.
                    let _ = reply.send(self.node.status());
                    continue;
                }
            }
            // The sockets that are ready are read first: what they bring belongs to the same step.
            tokio::task::yield_now().await;
            arrived.take_waiting(&mut inbox, has_budget);
            self.on_arrived(&mut arrived);
        }
        self.disk.into_iter().for_each(Disk::close);
        Ok(())
    }

    /// Gives up the store, has what is damaged set aside, and goes on with another node. Returns
    /// where the new store answers.
    fn reopen(
        &mut self,
        damage: StorageDamage,
    ) -> Result<mpsc::UnboundedReceiver<Vec<StorageReply>>, NodeError> {
        self.disk.take().into_iter().for_each(Disk::close);
        self.answers.clear();
        let node = self.node.identity().node;
        for handle in self.waiting.keys().copied().collect::<Vec<_>>() {
            let refusal = Refusal::Damaged { node, damage: damage.clone() };
            self.reply(handle, ClientReply::Refused(refusal));
        }
        let (sender, stored) = mpsc::unbounded_channel();
        let (recovered, disk) = disk::open(&self.settings, sender, Some(damage))?;
        self.disk = Some(disk);
        let config = self.settings.config_of(&recovered.identity);
        let start = self.clock.node_start(random::number()?);
        self.node = Node::new(config, recovered, start).map_err(NodeError::Mismatch)?;
        self.drain_outputs();
        self.feed_answers();
        Ok(stored)
    }

    fn wake_at(&self) -> tokio::time::Instant {
        match self.node.poll_timeout() {
            Some((at, _)) => self.clock.at(at),
            None => tokio::time::Instant::now() + FAR_AWAY,
        }
    }

    fn publish_budget(&self) -> bool {
        let has_budget = self.node.budget().request_bytes > 0;
        self.published.has_budget.send_if_modified(|published| {
            let is_changed = *published != has_budget;
            *published = has_budget;
            is_changed
        });
        has_budget
    }

    fn on_arrived(&mut self, arrived: &mut Arrived) {
        arrived.inputs.extend(arrived.frames.drain(..).map(Input::Receive));
        for event in arrived.events.drain(..) {
            arrived.inputs.extend(self.on_client(event));
        }
        self.node.handle_all(self.clock.now(), arrived.inputs.drain(..));
        self.drain_outputs();
        self.feed_answers();
    }

    fn on_client(&mut self, event: ClientEvent) -> Option<Input> {
        match event {
            ClientEvent::Opened { connection, client } => {
                self.clients.insert(connection, client);
                None
            }
            ClientEvent::Closed { connection } => {
                self.clients.remove(&connection);
                None
            }
            ClientEvent::Request { connection, frame, slot, _bytes } => {
                self.handle_count += 1;
                let handle = RequestHandle(self.handle_count);
                let RequestFrame { correlation, body } = *frame;
                self.waiting.insert(handle, Waiting { connection, correlation, _slot: slot });
                Some(Input::Request { handle, body })
            }
        }
    }

    fn feed_answers(&mut self) {
        while let Some(reply) = self.answers.pop_front() {
            self.node.handle(self.clock.now(), Input::Stored(reply));
            self.drain_outputs();
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send(frame) => self.send(frame),
                Output::Reply { handle, body } => self.reply(handle, body),
                Output::Store(request) => self.store(request),
                Output::Event(event) => self.on_event(&event),
                Output::Connect { peer, address } => self.links.redirect(peer, address),
                Output::Reopen(damage) => self.damage = Some(damage),
            }
        }
    }

    /// Sends to a member, or tells one that was removed.
    fn send(&mut self, frame: PeerFrame) {
        if let Some(link) = self.links.to(frame.to, self.node.map()) {
            link.send(frame);
        }
    }

    fn reply(&mut self, handle: RequestHandle, body: ClientReply) {
        let waiting = self.waiting.remove(&handle).expect("the core answers each request once");
        let Some(client) = self.clients.get(&waiting.connection) else { return };
        let frame = Frame::Reply(ReplyFrame { correlation: waiting.correlation, body });
        if client.outbox.push(&frame).is_err() {
            tracing::warn!("a client does not fetch its replies: its connection is closed");
            self.clients.remove(&waiting.connection);
        }
    }

    fn store(&mut self, request: StorageRequest) {
        // Without a disk the node is being replaced.
        let disk = self.disk.as_mut();
        self.answers.extend(disk.and_then(|disk| disk.execute(request)));
    }

    fn on_event(&mut self, event: &Event) {
        let me = self.node.identity().node;
        match event {
            Event::RoleChanged { shard, term, role } => self.on_role(me, *shard, *term, *role),
            Event::Committed { shard, committed, .. } => {
                tracing::trace!("{me}: {shard} is committed up to {committed}");
            }
            Event::Joined => {
                let cluster = self.node.identity().cluster.as_ref().map(|record| record.id);
                self.published.identity.send_modify(|identity| identity.cluster = cluster);
                let id = cluster.map(|id| id.to_string()).unwrap_or_default();
                tracing::info!("{me} is a member of cluster {id}");
            }
            Event::Damaged(damage) => tracing::error!(
                "{me}: {damage}; the node may have promised what is lost, so all of its data is set aside and it \
                 counts for nothing until the other nodes have filled it again. Check the drive"
            ),
            Event::Repaired => tracing::warn!(
                "{me} has all of its data again, from the other nodes; what was set aside is removed"
            ),
            Event::Diverged { shard, index, is_decided: true } => tracing::error!(
                "{me}: its state of {shard} after entry {index} is not that of most replicas, so it gives the replica \
                 up and is filled again from them. This must not happen: check the machine's memory, and report it"
            ),
            Event::Diverged { shard, index, is_decided: false } => tracing::error!(
                "{me}: the replicas of {shard} differ after entry {index}, and no state has a majority: the shard is \
                 not served. Stop all of its nodes, and keep their data directories"
            ),
            Event::SpaceChanged { is_full: true } => tracing::warn!(
                "{me}: the disk is full: writes that need room are refused, reads and deletes go on"
            ),
            Event::SpaceChanged { is_full: false } => {
                tracing::info!("{me}: the disk has room again");
            }
            Event::MapChanged { version } => {
                tracing::debug!("{me} has version {version} of the map");
                if let Some(map) = self.node.map() {
                    self.links.follow(map, me);
                }
            }
            Event::ReplicaRemoved { shard } => {
                tracing::info!("{me} has no replica of {shard} any more: it was moved");
            }
            Event::Removed => tracing::warn!(
                "{me} was removed from the cluster and does nothing any more; stop it, and keep nothing of its data \
                 directory: it cannot return under this id"
            ),
            Event::PeerChanged { node, state } => {
                tracing::info!("{me} believes that {node} is {state:?}");
            }
            Event::WipedNode => tracing::error!(
                "{me}: the cluster knows another data directory of this node, so its disk was wiped or exchanged; \
                 it stays out, because it may have forgotten what others count on. Bring the old directory back; or \
                 start it with --join instead of --id and --peers, which makes it a new member, and then run \
                 'kv cluster replace-node {} NEW' with the id that it gets",
                me.0
            ),
            Event::Contradicted { shard, from, what } => {
                tracing::error!(
                    "{me}: {from} said of {shard} what cannot be true: {what}; ignored"
                );
            }
            Event::InvalidCluster { from } => {
                tracing::error!("{me}: {from} told of a cluster that cannot be; ignored");
            }
            Event::FrameIgnored { from, reason } => {
                tracing::debug!("{me}: a frame of {from} was dropped: {reason:?}");
            }
        }
    }

    fn on_role(&mut self, me: NodeId, shard: ShardId, term: Term, role: Role) {
        if role == Role::Leader {
            self.led.insert(shard);
            tracing::info!("{me} leads {shard} in term {term}");
        } else if self.led.remove(&shard) {
            tracing::info!("{me} leads {shard} no more: {role} in term {term}");
        } else {
            tracing::debug!("{me} is {role} of {shard} in term {term}");
        }
    }
}
