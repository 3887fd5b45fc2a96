//! A node: all its shards, its links to the other nodes, and the clients that wait.
//!
//! [`Node`] is a pure state machine. A driver calls [`Node::handle`] with whatever happened and the
//! time, then drains [`Node::poll_output`], then arms one timer for [`Node::poll_timeout`].
//! `handle`, or `handle_all` for several inputs in one step, is the only way to change a node; it
//! never fails and never blocks. Peers and clients
//! cannot make it panic: what is foreign or stale is ignored and counted first, and only then the
//! node's own invariants are asserted.
//!
//! # Two machines
//!
//! A [`Group`](crate::raft::Group) is one shard's Raft: it knows no links, no other shards and no
//! files. The node owns the groups and everything that is per node: one frame per peer and step
//! ([`outbox`]), one append to the store per step for all groups, liveness and leadership once per
//! pair of nodes ([`link`], [`confirm`], [`contact`]), and one set of deadlines. An input touches
//! only the shards that it names; a step ends with [`Node::settle`], which looks at the touched ones.
//!
//! # Life of a write
//!
//! `Request(Write)` → it waits for its commit timestamp ([`stamps`], [`oracle`]) → propose →
//! `Store(Append)` and appends to the followers, at the same time → a
//! majority has it durably → committed → `Store(Apply)` → the outcome answers the client. If
//! leadership is lost on the way the client is told `NotLeader` and asks again with the same
//! request id: the session table sees to it that the write runs once.
//!
//! # Life of a read
//!
//! `Request(Read)` → it notes the commit index and the next confirmation round → a majority
//! confirms that round, and the index is applied → `Store(Read)` → the value answers the client. A
//! read at a timestamp first waits until no earlier write can come any more ([`reading`]).
//!
//! # Life of a transaction
//!
//! `Request(Txn)` steps lock keys and ranges ([`locking`], [`transactions`], [`scanning`]); the
//! last ones prepare its parts on all shards but one, and have that one decide. The leaders see to
//! it that all hear of the decision ([`finishing`]), and that nobody waits in a circle
//! ([`deadlocks`]).
//!
//! # Reads at replicas
//!
//! `Request(ReadReplica)` → a safe time that the leader gives out ([`safe_time`]) → its index is
//! applied here → `Store(Read)` at the safe time → the value answers the client ([`levels`]).

mod admin;
mod config;
mod confirm;
mod contact;
mod damage;
mod deadlocks;
mod divergence;
mod finishing;
mod formation;
mod forward;
mod hints;
mod incoming;
mod io;
mod lease;
mod levels;
mod link;
mod locking;
mod membership;
mod moves;
mod oracle;
mod outbox;
mod outcomes;
mod reading;
mod replica;
mod requests;
mod safe_time;
mod scanning;
mod snapshots;
mod stamps;
mod status;
mod stored;
mod transactions;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::mem;

pub use crate::raft::{LeaseConfig, Limits, Timings};
pub use config::{ConfigError, ConfigErrors, NodeConfig};
pub use io::{Budget, Event, IgnoreReason, Input, LinkState, Output, Start, TimerReason};
pub use status::{PeerStatus, ShardStatus, Status};

use crate::cluster::{ClusterMap, Identity};
use crate::id::{AppendId, Epoch, LogIndex, NodeId, RequestHandle, ShardId, Term};
use crate::machine::{Command, MetaCommand};
use crate::mutants::{self, Mutant};
use crate::raft::Role;
use crate::ring;
use crate::rng::Rng;
use crate::storage::{
    Append, GroupWrite, HardState, LogCounters, Recovered, RecoveredGroup, StorageDamage,
    StorageRequest,
};
use crate::time::Instant;
use crate::wire::{PeerMessage, Refusal};
use confirm::Rounds;
use deadlocks::Deadlocks;
use formation::Formation;
use forward::Forwards;
use hints::Hints;
use levels::Levels;
use link::Link;
use membership::Removing;
use oracle::Oracle;
use outbox::{Outbox, Sender};
use reading::ServedRead;
use replica::{Replica, Reported};
use scanning::Probe;
use snapshots::Snapshots;
use stamps::Stamps;

/// Bytes of entries in one apply: what an executor does in one go between two heartbeats.
const APPLY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
enum Phase {
    /// Belongs to no cluster yet.
    Forming(Formation),
    /// A member.
    Running,
    /// Has the id of a member, but not its data.
    Wiped,
    /// Was removed from the cluster.
    Removed,
    /// What it has stored is damaged, and is to be set aside.
    Suspect(StorageDamage),
}

/// One node.
///
/// - `replicas` and `links` are empty unless the node runs. A suspect node says nothing to peers.
/// - After each step every replica's deadline is filed unless a link watches it, and everything that
///   must be durable is on its way to the store.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    identity: Identity,
    start: Start,
    rng: Rng,
    now: Instant,
    phase: Phase,
    map: Option<ClusterMap>,
    replicas: BTreeMap<ShardId, Replica>,
    links: BTreeMap<NodeId, Link>,
    rounds: Rounds,
    forwards: Forwards,
    /// What registered work waits for.
    stamps: Stamps,
    oracle: Oracle,
    snapshots: Snapshots,
    outbox: Outbox,
    /// Shards to look at before the step ends.
    touched: BTreeSet<ShardId>,
    /// Shards with reads that wait.
    reading: BTreeSet<ShardId>,
    /// Shards that this node leads and whose followers lack something.
    attention: BTreeSet<ShardId>,
    /// Of the replicas that no link watches.
    deadlines: BTreeSet<(Instant, ShardId)>,
    /// Whether the links are to be told anew what this node leads.
    is_leads_stale: bool,
    last_append: AppendId,
    pending_bytes: usize,
    log_counters: LogCounters,
    /// Whether the disk is full.
    is_full: bool,
    ignored_frame_count: u64,
    /// Whether the meta group's map is known to be in its log.
    is_bootstrapped: bool,
    /// The term in which this node, as meta leader, proposed the map.
    bootstrap_term: Term,
    /// Replicas made so far; each draws its timeouts from a stream of its own.
    replica_count: u64,
    /// Replicas that are being given up.
    removing: BTreeMap<ShardId, Removing>,
    /// What stays of replicas that were removed.
    removed: BTreeMap<ShardId, HardState>,
    /// Who last said that it leads the meta group.
    meta_leader: Option<NodeId>,
    /// As meta leader: when the map's version was last told.
    map_told_at: Instant,
    /// As meta leader: placements that are on their way into the log, with the term, and until when
    /// they are not proposed again.
    placing: BTreeMap<ShardId, (Term, Epoch, Instant)>,
    /// When the appends that are not durable yet were handed out.
    appends_begun: BTreeMap<AppendId, Instant>,
    /// Reads that the store works on, those of which there is something to know.
    served: BTreeMap<RequestHandle, ServedRead>,
    /// Scans of transactions of which is being found out how far to lock.
    probes: BTreeMap<RequestHandle, Probe>,
    /// When transactions are looked after; none while there are none.
    txn_tick_at: Option<Instant>,
    /// Number of the last wait for a lock.
    last_wait: u64,
    /// The last grant of this process.
    last_grant: u64,
    deadlocks: Deadlocks,
    /// Reads at this node's replicas, whoever leads.
    levels: Levels,
    /// Until then the disk counts as slow.
    slow_until: Instant,
    /// What other members tell; none while the node does not run.
    hints: Option<Hints>,
}

impl Node {
    /// A node with what its store recovered. Also to be drained after.
    ///
    /// # Errors
    /// If the configuration cannot work, or is not that of the data directory. *Nothing was
    /// changed.*
    pub fn new(
        config: NodeConfig,
        recovered: Recovered,
        start: Start,
    ) -> Result<Self, ConfigErrors> {
        let Start { seed, now, .. } = start;
        config.validate()?;
        check_identity(&config, &recovered.identity)?;
        let mut rng = Rng::fork(seed, "node");
        let rounds = Rounds::new(rng.next_u64());
        let mut node = Self {
            config,
            identity: recovered.identity,
            start,
            rng,
            now,
            phase: Phase::Forming(Formation::new(now)),
            map: None,
            replicas: BTreeMap::new(),
            links: BTreeMap::new(),
            rounds,
            forwards: Forwards::default(),
            stamps: Stamps::default(),
            oracle: Oracle::new(now),
            snapshots: Snapshots::default(),
            outbox: Outbox::default(),
            touched: BTreeSet::new(),
            reading: BTreeSet::new(),
            attention: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            is_leads_stale: false,
            last_append: AppendId(0),
            pending_bytes: 0,
            log_counters: LogCounters::default(),
            is_full: false,
            ignored_frame_count: 0,
            is_bootstrapped: false,
            bootstrap_term: Term(0),
            replica_count: 0,
            removing: BTreeMap::new(),
            removed: BTreeMap::new(),
            meta_leader: None,
            map_told_at: Instant::ZERO,
            placing: BTreeMap::new(),
            appends_begun: BTreeMap::new(),
            served: BTreeMap::new(),
            probes: BTreeMap::new(),
            txn_tick_at: None,
            last_wait: 0,
            last_grant: 0,
            deadlocks: Deadlocks::default(),
            levels: Levels::default(),
            slow_until: Instant::ZERO,
            hints: None,
        };
        let is_set_aside = node.identity.repair.as_ref().is_some_and(|repair| repair.is_set_aside);
        match recovered.damage {
            Some(damage) if is_set_aside => {
                node.outbox.push(Output::Event(Event::Damaged(damage)));
                node.start_replicas(recovered.groups);
            }
            Some(damage) => node.become_suspect(damage),
            None if node.identity.cluster.is_some() => node.start_replicas(recovered.groups),
            None => {}
        }
        node.handle(now, Input::Timeout);
        Ok(node)
    }

    /// Takes one input. Total: never fails, never blocks. Drain [`Node::poll_output`] afterwards.
    /// `now` is read after the input has arrived: what a voter promises must not begin before.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.handle_all(now, [input]);
    }

    /// Takes several inputs, in order, as one step: what they ask for leaves together,
    /// in one append and one frame per peer. As total as [`Node::handle`].
    pub fn handle_all(&mut self, now: Instant, inputs: impl IntoIterator<Item = Input>) {
        self.now = self.now.max(now);
        inputs.into_iter().for_each(|input| self.take(input));
        self.settle();
    }

    fn take(&mut self, input: Input) {
        if matches!(self.phase, Phase::Suspect(_)) {
            return self.handle_while_suspect(input);
        }
        match input {
            Input::Timeout => self.on_timeout(),
            Input::Receive(frame) => self.on_frame(frame),
            Input::Request { handle, body } => match &self.phase {
                Phase::Running => self.on_request(handle, body),
                Phase::Removed => {
                    let refusal = Refusal::Removed { node: self.config.id };
                    self.refuse_request(handle, &body, refusal);
                }
                Phase::Forming(_) | Phase::Wiped | Phase::Suspect(_) => {
                    self.refuse_request(handle, &body, Refusal::NotReady);
                }
            },
            Input::Stored(reply) => self.on_stored(reply),
            Input::Link { peer, state } => self.on_link(peer, state),
        }
    }

    /// The next output, none when drained.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.poll()
    }

    /// When to call again with [`Input::Timeout`]. After a drain it lies ahead of the last `now`.
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        let formation = match &self.phase {
            Phase::Forming(formation) => Some((formation.query_at, TimerReason::Formation)),
            Phase::Running | Phase::Wiped | Phase::Removed | Phase::Suspect(_) => None,
        };
        let heartbeat = self.rounds.heartbeat_at.map(|at| (at, TimerReason::Heartbeat));
        let raft = self.deadlines.first().map(|(at, shard)| (*at, TimerReason::Raft(*shard)));
        let forward = self.forwards.deadline().map(|at| (at, TimerReason::Forward));
        let gossip = self.gossip_timeout().map(|at| (at, TimerReason::Gossip));
        let contact = self.contact_timeout();
        let asking = self.stamps.deadline();
        let stamps = asking.into_iter().chain(self.oracle.deadline(self.now)).min();
        let stamps = stamps.map(|at| (at, TimerReason::Oracle));
        let txns = self.txn_tick_at.map(|at| (at, TimerReason::Transactions));
        let levels = self.levels.deadline().map(|at| (at, TimerReason::SafeTime));
        let timers = [formation, heartbeat, contact, forward, stamps, levels, txns, gossip, raft];
        timers.into_iter().flatten().min()
    }

    /// How much a driver may still feed.
    pub fn budget(&self) -> Budget {
        Budget { request_bytes: requests::PENDING_BYTES_MAX.saturating_sub(self.pending_bytes) }
    }

    /// Who the node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The newest map that the node knows; none before the cluster is formed.
    pub fn map(&self) -> Option<&ClusterMap> {
        self.map.as_ref()
    }

    /// The node's view of itself.
    pub fn status(&self) -> Status {
        let shards =
            self.replicas.iter().map(|(shard, Replica { group, store_applied, .. })| ShardStatus {
                shard: *shard,
                role: group.role(),
                term: group.term(),
                leader: group.leader(),
                configuration: group.configuration().clone(),
                last: group.last(),
                commit_index: group.commit_index(),
                applied_index: *store_applied,
                is_suspect: group.is_suspect(),
            });
        Status {
            node: self.config.id,
            incarnation: self.identity.incarnation,
            cluster_name: self.identity.cluster_name.clone(),
            cluster: self.identity.cluster.as_ref().map(|cluster| cluster.id),
            damage: self.damage().cloned().map(Box::new),
            is_full: self.is_full,
            shards: shards.collect(),
            peers: self.peer_statuses(),
            log: Box::new(self.log_counters),
            ignored_frame_count: self.ignored_frame_count,
            pending_bytes: self.pending_bytes as u64,
        }
    }

    /// Starts the replicas that the node has, and those that the cluster was formed with.
    fn start_replicas(&mut self, recovered: BTreeMap<ShardId, RecoveredGroup>) {
        let record = self.identity.cluster.as_ref().expect("a running node belongs to a cluster");
        let initial = ring::initial_map(record);
        self.phase = Phase::Running;
        let map = self.identity.map.clone().unwrap_or_else(|| initial.clone());
        self.is_bootstrapped = map.version > LogIndex(0);
        for member in map.members.iter().filter(|member| member.id != self.config.id) {
            self.links.insert(member.id, Link::new(member.incarnation));
        }
        let me = self.config.id;
        // A store that began anew does not remember which replicas were removed.
        let is_here = |shard| {
            let entry = map.entry(shard).filter(|_| self.identity.life > 0);
            entry.is_none_or(|entry| entry.names(me))
        };
        let mine = initial.shards.iter();
        let mine = mine.filter(|entry| entry.voters.contains(&me) && is_here(entry.shard));
        let mut groups: BTreeMap<_, RecoveredGroup> =
            mine.map(|entry| (entry.shard, RecoveredGroup::default())).collect();
        self.map = Some(map);
        groups.extend(recovered);
        for (shard, group) in groups {
            if group.is_removed && group.entries.is_empty() {
                self.removed.insert(shard, group.hard_state);
            } else if group.hard_state.quarantine > group.hard_state.life {
                let life = self.identity.replica_life();
                self.give_up(shard, group.hard_state.quarantined(life));
            } else {
                self.add_replica(shard, group);
            }
        }
        self.start_gossip();
    }

    fn on_timeout(&mut self) {
        self.on_formation_timeout(self.now);
        self.on_heartbeat_timeout();
        self.on_contact_timeout();
        self.on_forward_timeout();
        self.on_stamps_timeout();
        self.on_levels_timeout();
        self.on_txn_tick();
        self.on_gossip_timeout();
        self.on_deadlines();
    }

    /// Ends a step: collects from the touched shards what is to be written, sent, applied and told.
    fn settle(&mut self) {
        self.ask_for_stamps();
        while !self.touched.is_empty() || self.is_leads_stale {
            let touched = mem::take(&mut self.touched);
            self.collect_writes(&touched);
            for shard in &touched {
                self.collect_messages(*shard);
                self.report(*shard);
                self.bootstrap_map(*shard);
                self.collect_committed(*shard);
                self.release_late(*shard);
                self.update_snapshots(*shard);
                self.begin_early_writes(*shard);
                self.serve_locks(*shard);
                self.serve_reads(*shard);
                self.serve_safe_times(*shard);
                self.serve_levels(*shard);
                self.file_deadline(*shard);
            }
            if touched.contains(&ShardId::META) {
                self.serve_oracle();
            }
            self.ask_for_stamps();
            self.update_leads();
        }
        self.begin_round_for_waiting();
        self.arm_txn_tick();
        self.end_repair();
        self.outbox.pack(Sender {
            cluster: self.identity.cluster.as_ref().map(|cluster| cluster.id),
            node: self.config.id,
            incarnation: self.identity.incarnation,
        });
    }

    fn collect_writes(&mut self, touched: &BTreeSet<ShardId>) {
        let id = AppendId(self.last_append.0 + 1);
        let mut writes = Vec::new();
        for shard in touched {
            if let Some(replica) = self.replicas.get_mut(shard)
                && let Some(write) = replica.group.take_write(id)
            {
                replica.last_append = id;
                if replica.whole_since.is_none() && !replica.group.is_suspect() {
                    replica.whole_since = Some(id);
                }
                writes.push(write);
            }
        }
        if !writes.is_empty() {
            self.append(writes);
        }
    }

    fn append(&mut self, writes: Vec<GroupWrite>) -> AppendId {
        let id = AppendId(self.last_append.0 + 1);
        self.last_append = id;
        self.appends_begun.insert(id, self.now);
        self.outbox.push(Output::Store(StorageRequest::Append(Append { id, writes })));
        id
    }

    /// Makes the hard state of a shard durable that has no replica here any more.
    fn write_hard_state(&mut self, shard: ShardId, hard_state: HardState) -> AppendId {
        let hard_state = Some(hard_state);
        self.append(alloc::vec![GroupWrite { shard, hard_state, entries: Vec::new() }])
    }

    fn collect_messages(&mut self, shard: ShardId) {
        let hold_nothing = mutants::is_active(Mutant::AcknowledgedBeforeSync);
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        for envelope in replica.group.take_messages(self.now) {
            let message = PeerMessage::Raft { shard, message: envelope.message };
            if envelope.after_persist && !hold_nothing {
                self.outbox.send_after(replica.last_append, envelope.to, message);
            } else {
                self.outbox.send(envelope.to, message);
            }
        }
        if replica.group.needs_heartbeat() {
            self.attention.insert(shard);
        } else {
            self.attention.remove(&shard);
        }
    }

    /// Tells observers, links and waiting clients what changed about a replica.
    fn report(&mut self, shard: ShardId) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        for (from, what) in replica.group.take_contradictions() {
            self.outbox.push(Output::Event(Event::Contradicted { shard, from, what }));
        }
        let group = &replica.group;
        let (role, term) = (group.role(), group.term());
        let commit_index = group.commit_index();
        let reported = Reported::new(group, commit_index);
        let before = mem::replace(&mut replica.reported, reported);
        assert!(term >= before.term, "terms never shrink");
        assert!(commit_index >= before.commit_index, "what is committed stays committed");
        if commit_index > before.commit_index {
            let committed = replica.group.committed();
            self.outbox.push(Output::Event(Event::Committed { shard, committed, term, role }));
        }
        if (role, term) != (before.role, before.term) {
            replica.role_since = self.now;
            self.outbox.push(Output::Event(Event::RoleChanged { shard, term, role }));
            // A leadership may have begun and ended within the step, and was never seen here.
            if before.role == Role::Leader || role != Role::Leader {
                self.refuse_waiting(shard);
            }
            if role == Role::Leader || before.role == Role::Leader {
                if role == Role::Leader && shard == ShardId::META {
                    self.open_oracle();
                }
                self.is_leads_stale = true;
            }
        }
        // Who has become a member is to confirm the leadership, too.
        self.is_leads_stale |= role == Role::Leader && reported.epoch != before.epoch;
        if !reported.answers_as(&before) {
            self.links.values_mut().for_each(|link| link.unsettle(shard));
        }
    }

    /// As leader of the meta group: makes sure that its log holds the map.
    fn bootstrap_map(&mut self, shard: ShardId) {
        let Some(record) = self.identity.cluster.clone() else {
            return;
        };
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let knows_its_past =
            replica.group.read_index().is_some_and(|index| index <= replica.store_applied);
        let term = replica.group.term();
        if shard == ShardId::META
            && knows_its_past
            && !self.is_bootstrapped
            && self.bootstrap_term != term
        {
            let command = Command::Meta(MetaCommand::Bootstrap { record });
            let proposed = replica.group.propose(self.now, command.encode().into());
            assert!(proposed.is_ok(), "only a leader has a read index");
            self.bootstrap_term = term;
            self.touched.insert(shard);
        }
    }

    fn collect_committed(&mut self, shard: ShardId) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        loop {
            let entries = replica.group.take_committed(APPLY_BYTES_MAX);
            if entries.is_empty() {
                return;
            }
            self.outbox.push(Output::Store(StorageRequest::Apply { shard, entries }));
        }
    }
}

fn check_identity(config: &NodeConfig, identity: &Identity) -> Result<(), ConfigErrors> {
    let mut errors = Vec::new();
    if identity.node != config.id || identity.cluster_name != config.cluster_name {
        errors.push(ConfigError::OtherDirectory {
            node: identity.node,
            cluster_name: identity.cluster_name.clone(),
        });
    }
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
}
