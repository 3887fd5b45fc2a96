//! A server: a node, its log and its applied state, driven by the engine.
//!
//! The same small functions as in the production driver: take an input, drain the outputs, start
//! one write at a time for all appends that wait. An append is carried out only when its simulated
//! time is over, so a crash before that loses it; so is a step that brings the applied state to the
//! disk, and the chunk of a snapshot. Applying and reading are in memory, or a few reads of the disk,
//! and take no time, unless they have to wait for a snapshot of their shard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::id::{
    Address, LogId, NodeId, RequestHandle, RequestId, SessionId, ShardId, Timestamp,
};
use kv_core::machine::{CHECKPOINT_ENTRIES, Command, configuration_in};
use kv_core::node::{Event, Input as NodeInput, LinkState, Node, Output};
use kv_core::op::{Key, Value, WriteOp};
use kv_core::raft::{Configuration, Role};
use kv_core::storage::{Append, Entry, StorageDamage, StorageReply, StorageRequest};
use kv_core::time::Instant;
use kv_core::wire::{self, ClientReply, Frame, Refusal, ReplyFrame};
use kv_storage::Opened;
use kv_storage::engine::Engine;
use kv_storage::identity::IdentityFile;
use kv_storage::log::IDLE_BATCH_AFTER;
use kv_storage::vfs::SimDisk;
use kv_storage::writer::LogWriter;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::disks::RESERVE_BYTES;
use super::history::ClientEvent;
use super::operator::OperatorEvent;
use super::sessions::SessionEvent;
use super::txn::{RingEvent, TxnEvent};
use super::work::{LogWork, Work, Write, shard_of, takes_no_time};
use crate::engine::{Input, Io, IoToken, Kind, Machine, Outbox, ProcessId};

/// How often a full disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_millis(200);

/// What a process tells the checks.
#[derive(Debug)]
pub enum Note {
    /// A node's event.
    Node(Event),
    /// A replica has applied entries.
    Applied(Applied),
    /// A client's operation.
    Client(Box<ClientEvent>),
    /// A client's transaction.
    Txn(Box<TxnEvent>),
    /// What a session has done.
    Session(Box<SessionEvent>),
    /// Transactions of a client that waited for each other.
    Ring {
        /// The client.
        client: u64,
        /// What happened to its ring.
        event: RingEvent,
    },
    /// A client has got a timestamp to read at.
    Timestamp(Timestamp),
    /// What an operator has achieved.
    Operator(OperatorEvent),
    /// The server has emptied its disk, to join as a new member.
    Wiped,
    /// The server applies an entry of a shard otherwise than it is in the log.
    Misapplied(ShardId),
    /// The server has forgotten what it had applied to a shard.
    Forgotten(ShardId),
}

/// Entries that a replica has applied.
#[derive(Debug)]
pub struct Applied {
    /// The shard.
    pub shard: ShardId,
    /// Each entry with a hash of its payload.
    pub entries: Vec<(LogId, u64)>,
    /// Those that change who takes part, with what they say.
    pub configurations: Vec<(LogId, Configuration)>,
    /// The hash of the state after the last one.
    pub state_hash: u64,
}

/// What goes on from one store to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    last_token: u64,
    last_handle: u64,
}

/// One store of a server, and the node on it.
#[derive(Debug)]
pub struct Replica {
    node: Node,
    log: LogWriter,
    engine: Engine,
    identity: IdentityFile,
    /// What waits for the disk to be free.
    queued: Work,
    /// What the disk is doing.
    in_flight: Option<(IoToken, Write)>,
    last_token: u64,
    /// What was begun up to here was for a store that was given up.
    void_token: u64,
    /// Why the store must be opened anew, if it must.
    damage: Option<StorageDamage>,
    /// Whether the store is to apply something else than what is in the log.
    misapplies: bool,
    /// When the log is to state that its end is durable.
    idle_at: Option<Instant>,
    /// When to look again whether the disk has room; until then appends that found none wait.
    retry_at: Option<Instant>,
    /// When to look at the space of a full disk.
    space_at: Option<Instant>,
    requests: BTreeMap<RequestHandle, (ProcessId, u64)>,
    last_handle: u64,
    /// Where nodes that the map does not have were heard from: those that were removed are told so.
    heard: BTreeMap<NodeId, ProcessId>,
    /// Where the nodes are that form the cluster.
    peers: Vec<(NodeId, Address)>,
    scratch: Vec<u8>,
}

/// Where a server is reached: its name.
pub(super) fn address_of(server: ProcessId) -> Address {
    Address(server.to_string())
}

/// The server that is reached at an address.
pub(super) fn server_at(address: &Address) -> ProcessId {
    let number = address.0.strip_prefix('n').and_then(|number| number.parse::<u16>().ok());
    ProcessId::Server(number.expect("addresses are names of servers") - 1)
}

impl Replica {
    pub(super) fn new(
        node: Node,
        opened: Opened,
        disk: SimDisk,
        peers: Vec<(NodeId, Address)>,
        last_token: u64,
    ) -> Self {
        Self {
            heard: BTreeMap::new(),
            peers,
            node,
            log: LogWriter::new(opened.log, Arc::new(disk), RESERVE_BYTES),
            engine: opened.engine,
            identity: opened.identity,
            queued: Work::default(),
            in_flight: None,
            last_token,
            void_token: 0,
            damage: None,
            misapplies: false,
            idle_at: None,
            retry_at: None,
            space_at: None,
            requests: BTreeMap::new(),
            last_handle: 0,
            scratch: Vec::new(),
        }
    }

    /// Storage operations up to this one have begun.
    pub(super) fn last_token(&self) -> u64 {
        self.last_token
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// What a store that was given up leaves to the next one.
    pub(super) fn give_up(self, damage: &StorageDamage, out: &mut Outbox<Note>) -> Rest {
        let Self { node, requests, last_token, last_handle, .. } = self;
        for (client, correlation) in requests.into_values() {
            let refusal = Refusal::Damaged { node: node.identity().node, damage: damage.clone() };
            let body = ClientReply::Refused(refusal);
            out.send(client, wire::encode(&Frame::Reply(ReplyFrame { correlation, body })).into());
        }
        Rest { last_token, last_handle }
    }

    pub(super) fn go_on_after(&mut self, rest: Rest) {
        (self.last_token, self.last_handle) = (rest.last_token, rest.last_handle);
        self.void_token = rest.last_token;
    }

    /// Why the store must be opened anew, if it must.
    pub(super) fn take_damage(&mut self) -> Option<StorageDamage> {
        self.damage.take()
    }

    /// Has the store apply something else than what is in the log, when it next can.
    pub(super) fn misapply(&mut self) {
        self.misapplies = true;
    }

    /// Whether the node's data are damaged and not repaired yet.
    pub(super) fn is_damaged(&self) -> bool {
        self.node.status().damage.is_some()
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Carries out what the disk was doing, as far as the disk lets it: the process is about to
    /// die.
    pub(super) fn crash_during_io(&mut self) {
        if let Some((_, work)) = self.in_flight.take() {
            // What fails here fails because the power is gone; nobody is told.
            let _ = self.log.append(&work.appends);
            let _ = self.log.release(&work.releases);
            for request in &work.engine {
                let _ = self.engine.execute(request);
            }
            if work.step {
                let _ = self.engine.work();
            }
            if let Some(identity) = &work.identity {
                let _ = self.identity.store(identity);
            }
        }
    }

    fn deliver(&mut self, now: Instant, from: ProcessId, bytes: &Bytes) {
        match wire::decode(bytes) {
            Ok(Frame::Peer(frame)) => {
                if self.node.map().is_some_and(|map| map.member(frame.from).is_none()) {
                    self.heard.insert(frame.from, from);
                }
                self.node.handle(now, NodeInput::Receive(frame));
            }
            Ok(Frame::Request(request)) => {
                self.last_handle += 1;
                let handle = RequestHandle(self.last_handle);
                self.requests.insert(handle, (from, request.correlation));
                self.node.handle(now, NodeInput::Request { handle, body: request.body });
            }
            // A production node closes the connection; there is none here.
            Ok(Frame::Hello(_) | Frame::HelloReply(_) | Frame::Reply(_)) | Err(_) => {}
        }
    }

    /// The server that a node runs on, as far as this one knows.
    fn server_of(&self, node: NodeId) -> Option<ProcessId> {
        let member = self.node.map().and_then(|map| map.member(node));
        let listed = || self.peers.iter().find(|(peer, _)| *peer == node);
        let known = member.map(|member| server_at(&member.address));
        known
            .or_else(|| self.heard.get(&node).copied())
            .or_else(|| listed().map(|(_, address)| server_at(address)))
    }

    /// The node that runs on a server, as far as this one knows.
    fn node_on(&self, server: ProcessId) -> Option<NodeId> {
        let address = address_of(server);
        let members = self.node.map().into_iter().flat_map(|map| &map.members);
        let known = members.filter(|member| member.address == address).map(|member| member.id);
        let listed = self.peers.iter().filter(|(_, listed)| *listed == address);
        known.max().or_else(|| listed.map(|(node, _)| *node).max())
    }

    fn drain(&mut self, now: Instant, out: &mut Outbox<Note>) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send(frame) => {
                    if let Some(to) = self.server_of(frame.to) {
                        out.send(to, wire::encode(&Frame::Peer(frame)).into());
                    }
                }
                Output::Reply { handle, body } => {
                    if let Some((client, correlation)) = self.requests.remove(&handle) {
                        let reply = ReplyFrame { correlation, body };
                        out.send(client, wire::encode(&Frame::Reply(reply)).into());
                    }
                }
                Output::Store(request) => self.store(now, request, out),
                Output::Event(event) => out.note(Note::Node(event)),
                // Servers never move.
                Output::Connect { .. } => {}
                Output::Reopen(damage) => self.damage = Some(damage),
            }
        }
    }

    fn store(&mut self, now: Instant, request: StorageRequest, out: &mut Outbox<Note>) {
        match request {
            StorageRequest::Append(append) => {
                self.record_append(&append, out);
                self.queued.log.push_back(LogWork::Append(append));
                self.idle_at = Some(now + IDLE_BATCH_AFTER);
            }
            StorageRequest::StoreIdentity(identity) => self.queued.identity = Some(identity),
            StorageRequest::Release { shard, floor } => {
                out.record(Kind::StorageRequest, &floor.index.0.to_le_bytes(), || {
                    format!("release {shard} to {floor}")
                });
                self.queued.log.push_back(LogWork::Release(shard, floor));
            }
            request if takes_no_time(&request) && !self.must_wait(&request) => {
                self.execute(now, request, out);
            }
            request => self.queued.engine.push(request),
        }
    }

    /// Whether something of the request's shard waits for the disk, which it must not overtake.
    fn must_wait(&self, request: &StorageRequest) -> bool {
        let is_of_shard = |other: &StorageRequest| shard_of(other) == shard_of(request);
        let in_flight = self.in_flight.iter().flat_map(|(_, write)| &write.engine);
        in_flight.chain(&self.queued.engine).any(is_of_shard)
    }

    /// Has the engine do something.
    fn execute(&mut self, now: Instant, request: StorageRequest, out: &mut Outbox<Note>) {
        let reply = match request {
            StorageRequest::Apply { shard, entries } => self.apply(shard, &entries, out),
            StorageRequest::Read(read) => {
                out.record(Kind::StorageRequest, &read.key.bytes, || format!("{read:?}"));
                let reply = self.engine.read(&read);
                self.scratch.clear();
                if let StorageReply::Read { result, .. } = &reply {
                    kv_core::codec::encode_into(&result.as_ref().ok(), &mut self.scratch);
                }
                out.record(Kind::StorageResult, &self.scratch, || format!("{reply:?}"));
                Some(reply)
            }
            StorageRequest::Scan(scan) => {
                out.record(Kind::StorageRequest, &scan.range.start.bytes, || format!("{scan:?}"));
                let reply = self.engine.scan_page(&scan);
                self.scratch.clear();
                if let StorageReply::Scanned { result, .. } = &reply {
                    kv_core::codec::encode_into(&result.as_ref().ok(), &mut self.scratch);
                }
                out.record(Kind::StorageResult, &self.scratch, || format!("{reply:?}"));
                Some(reply)
            }
            request => {
                let shard = shard_of(&request).map_or(0, |shard| shard.0).to_le_bytes();
                out.record(Kind::StorageRequest, &shard, || format!("{request:?}"));
                let reply = self.engine.execute(&request);
                if let StorageRequest::RemoveShard { shard } = request {
                    out.note(Note::Forgotten(shard));
                }
                record_snapshot(reply.as_ref(), out);
                self.queued.step |= self.engine.is_work_due();
                reply
            }
        };
        reply.into_iter().for_each(|reply| self.node.handle(now, NodeInput::Stored(reply)));
    }

    fn apply(
        &mut self,
        shard: ShardId,
        entries: &[Entry],
        out: &mut Outbox<Note>,
    ) -> Option<StorageReply> {
        let other = self.misapplied(shard, entries);
        if other.is_some() {
            self.misapplies = false;
            out.note(Note::Misapplied(shard));
        }
        let reply = self.engine.apply(shard, other.as_deref().unwrap_or(entries));
        self.queued.step |= self.engine.is_work_due();
        if let StorageReply::Damaged(_) = &reply {
            return Some(reply);
        }
        let configuration = |entry: &Entry| Some((entry.id, configuration_in(&entry.payload)?));
        let configurations = entries.iter().filter_map(configuration).collect();
        let hash = |payload: &[u8]| xxh3_64_with_seed(payload, 0);
        let entries: Vec<_> =
            entries.iter().map(|entry| (entry.id, hash(&entry.payload))).collect();
        let state_hash = self.engine.state_hash(shard);
        let last = entries.last().map(|(id, _)| id.index.0).unwrap_or_default();
        out.record(Kind::StorageRequest, &last.to_le_bytes(), || {
            format!("apply {shard} to {last}")
        });
        out.record(Kind::StorageResult, &state_hash.to_le_bytes(), || {
            format!("applied {shard}, state {state_hash:016x}")
        });
        out.note(Note::Applied(Applied { shard, entries, configurations, state_hash }));
        Some(reply)
    }

    /// What is to be applied instead of entries that hold a write at which replicas are compared: a
    /// write that nobody asked for. Elsewhere it would be found as well, but clients might read it
    /// before. None of a replica that leads, for the same reason, or that is just being filled.
    fn misapplied(&self, shard: ShardId, entries: &[Entry]) -> Option<Vec<Entry>> {
        if !self.misapplies {
            return None;
        }
        let is_checkpoint = |entry: &Entry| entry.id.index.0.is_multiple_of(CHECKPOINT_ENTRIES);
        let at = entries.iter().position(is_checkpoint)?;
        let Ok(Command::Write { request, commit_ts, .. }) = Command::decode(&entries[at].payload)
        else {
            return None;
        };
        let shards = self.node.status().shards;
        let status = shards.into_iter().find(|status| status.shard == shard)?;
        if status.role == Role::Leader || status.is_suspect {
            return None;
        }
        let session = SessionId { nonce: !request.session.nonce, ..request.session };
        let request = RequestId { session, sequence: 1, acked_below: 1 };
        let op = WriteOp::Put { key: Key::new("misapplied"), value: Value::string("a lie") };
        let mut entries = entries.to_vec();
        entries[at].payload = Command::Write { request, op, commit_ts }.encode().into();
        Some(entries)
    }

    fn record_append(&mut self, append: &Append, out: &mut Outbox<Note>) {
        self.scratch.clear();
        for write in &append.writes {
            kv_core::codec::encode_into(write, &mut self.scratch);
        }
        out.record(Kind::StorageRequest, &self.scratch, || format!("{append:?}"));
    }

    /// Starts what waits for the disk, if the disk is free. All appends that wait share one sync.
    fn start_io(&mut self, out: &mut Outbox<Note>) {
        if self.in_flight.is_some() || self.queued.is_empty() || self.retry_at.is_some() {
            return;
        }
        let work = self.queued.take_one_write();
        self.last_token += 1;
        let token = IoToken(self.last_token);
        out.start_io(Io { token, bytes: work.bytes() as u64, sync: true });
        self.in_flight = Some((token, work));
    }

    /// The simulated time of the disk's work is over: does it, and tells the node.
    fn finish_io(&mut self, now: Instant, token: IoToken, out: &mut Outbox<Note>) {
        if token.0 <= self.void_token {
            return;
        }
        let Some((expected, work)) = self.in_flight.take() else {
            panic!("{token:?} was not started");
        };
        assert_eq!(token, expected, "one storage operation is out at a time");
        if let Some(identity) = &work.identity {
            let reply = self.identity.store(identity).expect("the disk takes the identity");
            self.node.handle(now, NodeInput::Stored(reply));
        }
        if work.idle_batch {
            self.log.write_idle_batch().expect("the disk takes an empty batch");
        }
        let mut releases = work.releases;
        match self.log.append(&work.appends) {
            Ok(replies) => self.appended(now, replies, out),
            Err(error) if error.is_retryable() => {
                self.wait_for_room(now, work.appends, &mut releases, out);
            }
            Err(error) => panic!("the disk takes appends: {error}"),
        }
        let damage = self.log.release(&releases).expect("the disk takes releases");
        damage.into_iter().for_each(|damage| self.node.handle(now, NodeInput::Stored(damage)));
        work.engine.into_iter().for_each(|request| self.execute(now, request, out));
        if work.step {
            self.step_engine(now, out);
        }
        self.look_at_space(now);
    }

    fn appended(&mut self, now: Instant, replies: Vec<StorageReply>, out: &mut Outbox<Note>) {
        for reply in &replies {
            if let StorageReply::Appended { id, .. } = reply {
                let id = id.0;
                out.record(Kind::StorageResult, &id.to_le_bytes(), || format!("durable: a{id}"));
            }
        }
        self.node.handle_all(now, replies.into_iter().map(NodeInput::Stored));
    }

    /// Puts back appends for which there was no room, before what came later, and with them the
    /// releases of their shards. Other releases make room.
    fn wait_for_room(
        &mut self,
        now: Instant,
        appends: Vec<Append>,
        releases: &mut BTreeMap<ShardId, LogId>,
        out: &mut Outbox<Note>,
    ) {
        out.record(Kind::StorageResult, &[], || "no room for appends".into());
        let shards: BTreeSet<_> =
            appends.iter().flat_map(|append| &append.writes).map(|write| write.shard).collect();
        let mut log: VecDeque<_> = appends.into_iter().map(LogWork::Append).collect();
        releases.retain(|shard, floor| {
            let must_wait = shards.contains(shard);
            log.extend(must_wait.then_some(LogWork::Release(*shard, *floor)));
            !must_wait
        });
        log.append(&mut self.queued.log);
        self.queued.log = log;
        self.retry_at = Some(now + SPACE_INTERVAL);
    }

    fn step_engine(&mut self, now: Instant, out: &mut Outbox<Note>) {
        let replies = self.engine.work().expect("the disk takes tables");
        for reply in replies {
            if let StorageReply::Flushed { applied } = &reply {
                let indexes: Vec<u8> =
                    applied.values().flat_map(|applied| applied.index.0.to_le_bytes()).collect();
                out.record(Kind::StorageResult, &indexes, || format!("flushed: {applied:?}"));
            }
            record_snapshot(Some(&reply), out);
            self.node.handle(now, NodeInput::Stored(reply));
        }
        if self.engine.is_full() {
            self.retry_at.get_or_insert(now + SPACE_INTERVAL);
        }
        self.queued.step |= self.engine.is_work_due();
    }

    fn look_at_space(&mut self, now: Instant) {
        let changed = self.log.look_at_space().expect("the disk knows its free space");
        if let Some(reply) = changed {
            self.node.handle(now, NodeInput::Stored(reply));
            // A full disk is looked at until it has room.
            self.space_at = Some(now + SPACE_INTERVAL);
        }
    }

    fn check_space(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.space_at.is_some_and(|at| at <= now) {
            self.space_at = self.log.is_full().then(|| now + SPACE_INTERVAL);
            self.look_at_space(now);
        }
    }

    fn check_idle(&mut self, now: Instant) {
        if self.idle_at.is_some_and(|at| at <= now) {
            self.idle_at = None;
            self.queued.idle_batch = self.log.owes_idle_batch();
        }
    }
}

/// Records an answer about snapshots.
fn record_snapshot(reply: Option<&StorageReply>, out: &mut Outbox<Note>) {
    let number = match reply {
        Some(StorageReply::SnapshotOpened { id } | StorageReply::SnapshotInstalled { id, .. }) => {
            id.last.index.0
        }
        Some(StorageReply::SnapshotRead { chunk, .. }) => {
            chunk.as_ref().map_or(0, |chunk| chunk.checksum)
        }
        Some(StorageReply::ChunkStaged { sequence, .. }) => *sequence,
        Some(StorageReply::ShardRemoved { shard }) => shard.0.into(),
        _ => return,
    };
    out.record(Kind::StorageResult, &number.to_le_bytes(), || format!("{reply:?}"));
}

impl Machine for Replica {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        let now = Instant::from_nanos(now);
        match input {
            Input::Start | Input::Phase(_) => {}
            Input::Deliver { from, bytes } => self.deliver(now, from, &bytes),
            Input::Link { peer, is_up } => {
                let state = if is_up { LinkState::Up } else { LinkState::Down };
                if let Some(peer) = self.node_on(peer) {
                    self.node.handle(now, NodeInput::Link { peer, state });
                }
            }
            Input::Timer => {
                self.node.handle(now, NodeInput::Timeout);
                self.check_idle(now);
                self.check_space(now);
            }
            Input::IoDone(token) => self.finish_io(now, token, out),
        }
        self.drain(now, out);
        self.start_io(out);
    }

    fn deadline(&self) -> Option<u64> {
        let node = self.node.poll_timeout().map(|(at, _)| at);
        let disk = [self.idle_at, self.retry_at, self.space_at].into_iter().flatten();
        node.into_iter().chain(disk).min().map(Instant::as_nanos)
    }
}

/// The timers of a scenario, for a node.
pub(super) fn timings(cluster: &crate::scenario::Cluster) -> kv_core::node::Timings {
    kv_core::node::Timings {
        heartbeat: Duration::from_nanos(cluster.heartbeat),
        election_min: Duration::from_nanos(cluster.election_min),
        election_max: Duration::from_nanos(cluster.election_max),
    }
}
