//! Gossip: who is there, who is alive, and what each node tells of itself.
//!
//! Every node owns one record: where it is, what it runs, how much it carries. Gossip spreads the
//! records to all nodes, and with them signs of life, from which every node judges the others.
//!
//! **Gossip only hints.** It decides neither who belongs to the cluster, nor who votes, nor who
//! owns a shard: that is Raft's, and only Raft's. A member that is down here may be alive, and still
//! counts in every quorum. What is known here may direct a request or a warning, and nothing that
//! would be wrong if it were out of date.
//!
//! ## Exchanges
//!
//! `fanout` times per interval, evenly spread, a node counts its heartbeat up and sends a digest to a
//! random live peer. A digest lists all known nodes with generation, state and heartbeat, and from
//! time to time the version of the record. The peer takes over what is newer, replies with what it
//! knows better and asks for the records that it lacks, which come in a third message
//! ([`exchange`]). So each exchange levels two nodes, and after a few rounds all nodes.
//!
//! A digest alone carries the heartbeats, which change all the time; only changed values of records
//! need more. That is what makes the exchanges cheap.
//!
//! Now and then a digest goes to a member that is down, or to a seed address: that joins the halves
//! of a partition, and clusters that never heard of each other. A node that knows nobody asks the
//! seeds four times per interval; one seed is enough to find all.
//!
//! ## News
//!
//! A new member, a new state or a new generation does not wait for the next interval: whoever learns
//! of it tells a few random peers at once, once. What that misses the exchanges repair.
//!
//! ## States
//!
//! - `Alive` to `Suspect`: phi crosses the threshold ([`detector`]), although the member was probed
//!   from halfway on. It is spread as news, so the first node that notices tells all.
//! - `Suspect` to `Down`: nothing was heard for `down_after`. A member that is down stays a member.
//! - Back to `Alive`: a newer heartbeat, or a new generation of the node ([`member`]).
//! - `Left`: the node said so itself.
//!
//! A node that hears itself called suspect, down or left begins a new generation, which wins over
//! all that was said of the old one. The same happens when it hears of signs of life that it has not
//! given: they are from an earlier process of it. So nothing need be durable; an owner that counts
//! its restarts durably passes the count as first generation and saves that detour.
//!
//! Only the owner makes this module forget a member ([`Gossip::forget`],
//! [`Gossip::retain_members`]), once Raft has removed it. A tombstone then keeps out what others
//! still tell of it.
//!
//! ## Numbers
//!
//! The defaults are chosen for 50 nodes, an interval of 1 s and exponential delays with a mean of
//! 30 ms: with 10 % loss all agree on a join, and suspect a crashed node, within 5 s; without loss
//! nobody is suspected falsely; a node sends at most 2 KiB per second. Tests hold them to it.
//!
//! ## What this leaves out
//!
//! - Connections and addresses: the owner carries a message to an address, and says from whom one
//!   came. In a node that is [`node::hints`](crate::node).
//! - Two processes with one id: both would refute without end. Links refuse the second one.
//! - Probes through other nodes: heartbeats arrive through others anyway.
//! - Removal: a member stays down for as long as the owner does not forget it.
//! - Joining the cluster: a node that is found here belongs to nothing yet.

mod config;
pub mod detector;
mod exchange;
mod member;
mod message;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

pub use config::{GossipConfig, GossipConfigError, GossipConfigErrors};
pub use member::{ADDRESS_BYTES_MAX, LEADS_MAX, SOFTWARE_BYTES_MAX};
pub use message::{
    Delta, Digest, Endpoint, Entry, GossipMessage, Load, MESSAGE_BYTES_MAX, MemberState, Release,
    ShardLead, Update, Value, Want,
};

use crate::id::{Address, Generation, Heartbeat, Incarnation, NodeId, RecordVersion, ShardId};
use crate::rng::Rng;
use crate::time::Instant;
use detector::Criteria;
use member::{Member, Record};

/// Most members that are known at a time; what is told of more is ignored.
pub const MEMBERS_MAX: usize = 1_024;

/// Most tombstones; the one that would end first makes room.
const TOMBSTONES_MAX: usize = 1_024;

/// Generations above this are ignored, so that there is always room for a refutation.
const GENERATION_MAX: Generation = Generation(1 << 48);

/// How many peers hear of news from each node that learns of them. News are rare and short. With six
/// peers all but one in 400 nodes hear of them, and one in 200 if every tenth message is lost.
const NEWS_PEERS: usize = 6;

/// News are gathered for this part of an interval after news were sent, so that a hundred changes
/// at a time do not cost a hundred messages.
const NEWS_PER_INTERVAL_MAX: u32 = 10;

/// A silent member is asked so often per interval, until it answers or is suspect.
const PROBES_PER_INTERVAL: u32 = 4;

/// A node that knows nobody asks so often per interval.
const SEARCHES_PER_INTERVAL: u32 = 4;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    /// The receiver; none if only its address is known.
    pub node: Option<NodeId>,
    /// Where it is reached.
    pub address: Address,
}

/// What the driver is to do, or may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message. It may get lost.
    Send {
        /// To whom.
        to: To,
        /// What.
        message: GossipMessage,
    },
    /// A member is new, or is in another state. A hint.
    Changed {
        /// The member.
        node: NodeId,
        /// Its state.
        state: MemberState,
    },
    /// A member is reached at another address than was known, or is new. A hint.
    Moved {
        /// The member.
        node: NodeId,
        /// Where it says that it is reached.
        address: Address,
    },
}

/// What a node tells of itself from its start on.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// The node.
    pub node: NodeId,
    /// At least 1; larger than in every earlier process of the node if the owner can tell, else 1.
    pub generation: Generation,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Where it can be reached: at most [`ADDRESS_BYTES_MAX`] bytes.
    pub address: Address,
    /// What it runs.
    pub release: Release,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    /// The member.
    pub node: NodeId,
    /// Its generation.
    pub generation: Generation,
    /// Its state.
    pub state: MemberState,
    /// How surprising its silence is: 0 to [`detector::PHI_MAX`]. 0 for a member that is down or
    /// left.
    pub phi: f64,
    /// When it gave the last sign of life; or when it was first heard of, or came back.
    pub heard_at: Instant,
    /// Its last known sign of life.
    pub heartbeat: Heartbeat,
    /// Which node it is, and where.
    pub endpoint: Endpoint,
    /// What it runs.
    pub release: Release,
    /// How much it carries, as of some time ago.
    pub load: Load,
    /// The newest version of the cluster map that it knows.
    pub map_version: u64,
    /// What it says it leads.
    pub leads: Vec<ShardLead>,
}

/// What is told about a member without having been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Its state or generation changed.
    State,
    /// It is new: the others need its record.
    Joined,
}

/// Gossip of one node.
///
/// Outputs are drained after every call. [`Gossip::on_timeout`] is called when
/// [`Gossip::poll_timeout`] says so; earlier calls do no harm.
///
/// - `members` holds neither this node nor a node with a tombstone.
/// - `own.state` is `Alive` until the node leaves; then nothing is sent or taken in any more.
#[derive(Debug)]
pub struct Gossip {
    config: GossipConfig,
    criteria: Criteria,
    rng: Rng,
    own: Entry,
    record: Record,
    seeds: Vec<Address>,
    members: BTreeMap<NodeId, Member>,
    /// Forgotten members, and until when they are kept out.
    tombstones: BTreeMap<NodeId, Instant>,
    news: BTreeMap<NodeId, News>,
    /// News do not leave before.
    news_at: Instant,
    next_tick: Instant,
    digest_count: u64,
    /// A load that is not told yet.
    pending_load: Option<Load>,
    /// It is not told before.
    load_at: Instant,
    outputs: VecDeque<Output>,
    ignored_count: u64,
}

impl Gossip {
    /// Gossip of the node `own`, which finds others at the addresses `seeds`; its own may be among
    /// them. `seed` makes its random draws. Outputs are to be drained after.
    ///
    /// # Errors
    /// If the configuration is out of range. *Nothing was changed.*
    pub fn new(
        config: GossipConfig,
        own: Introduction,
        mut seeds: Vec<Address>,
        seed: u64,
        now: Instant,
    ) -> Result<Self, GossipConfigErrors> {
        config.validate()?;
        let Introduction { node, generation, incarnation, address, release } = own;
        seeds.retain(|seed| *seed != address);
        let mut gossip = Self {
            criteria: Criteria::new(config.clone()),
            config,
            rng: Rng::fork(seed, "gossip"),
            own: Entry {
                node,
                generation: Generation(generation.0.max(1)),
                state: MemberState::Alive,
                heartbeat: Heartbeat(0),
            },
            record: Record::new(Endpoint { incarnation, address: address.clone() }),
            seeds,
            members: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            news: BTreeMap::new(),
            news_at: now,
            next_tick: now,
            digest_count: 0,
            pending_load: None,
            load_at: now,
            outputs: VecDeque::new(),
            ignored_count: 0,
        };
        gossip.tell(Value::Endpoint(Endpoint { incarnation, address }));
        gossip.tell(Value::Release(release));
        gossip.on_timeout(now);
        Ok(gossip)
    }

    /// A message arrived. What is foreign, stale or malformed is ignored and counted.
    pub fn handle(&mut self, now: Instant, from: NodeId, message: GossipMessage) {
        let is_foreign = from == self.own.node || self.tombstones.contains_key(&from);
        if is_foreign || self.has_left() || !is_valid(&message) {
            self.ignored_count += 1;
            return;
        }
        match message {
            GossipMessage::Digest { address, digest } => {
                self.on_digest(now, from, address, &digest);
            }
            GossipMessage::Reply { update, wants } => self.on_reply(now, from, update, &wants),
            GossipMessage::Update(update) => self.on_update(now, update, News::Joined),
        }
        self.on_news_timeout(now);
    }

    /// The time has come that [`Gossip::poll_timeout`] named.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.has_left() {
            return;
        }
        self.excuse_own_pause(now);
        self.on_tick_timeout(now);
        self.on_silence_timeout(now);
        self.on_news_timeout(now);
    }

    /// What to do next; none when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Gossip::on_timeout`] is to be called; none once the node has left.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.has_left() {
            return None;
        }
        let news = (!self.news.is_empty()).then_some(self.news_at);
        let silences = self.members.values().filter_map(|member| self.silence_at(member));
        silences.chain(news).chain([self.next_tick]).min()
    }

    /// Where to look for members that are not heard of: in place of the seeds so far.
    pub fn set_seeds(&mut self, mut seeds: Vec<Address>) {
        seeds.retain(|seed| *seed != self.record.endpoint.value.address);
        self.seeds = seeds;
    }

    /// Tells others how much the node carries. Changes are gathered for a load interval.
    pub fn set_load(&mut self, load: Load) {
        self.pending_load = Some(load);
    }

    /// Tells others the newest version of the cluster map that this node knows.
    pub fn set_map_version(&mut self, version: u64) {
        if self.record.map_version.value != version {
            self.tell(Value::MapVersion(version));
        }
    }

    /// Tells others what this node leads; the first [`LEADS_MAX`] of it, if it is more.
    pub fn set_leads(&mut self, mut leads: Vec<ShardLead>) {
        leads.truncate(LEADS_MAX);
        if self.record.leads.value != leads {
            self.tell(Value::Leads(leads));
        }
    }

    /// Says good-bye to all live members. Nothing is sent or taken in after this.
    pub fn leave(&mut self) {
        self.own.state = MemberState::Left;
        let farewell = Update { entries: Vec::from([self.own]), deltas: Vec::new() };
        for to in self.choose_live(MEMBERS_MAX) {
            self.send(to, GossipMessage::Update(farewell.clone()));
        }
    }

    /// Forgets a node that Raft has removed from the cluster. For the tombstone time nothing that
    /// others say of it, nor it itself, brings it back.
    pub fn forget(&mut self, now: Instant, node: NodeId) {
        if node == self.own.node {
            return;
        }
        self.members.remove(&node);
        self.news.remove(&node);
        if self.tombstones.len() >= TOMBSTONES_MAX && !self.tombstones.contains_key(&node) {
            let first = self.tombstones.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(node, _)| *node) {
                self.tombstones.remove(&first);
            }
        }
        self.tombstones.insert(node, now + self.config.tombstone_time);
    }

    /// Forgets all members but `members`, and lifts the tombstones of those. To be called with the
    /// members of every new map.
    pub fn retain_members(&mut self, now: Instant, members: &[NodeId]) {
        self.tombstones.retain(|node, _| !members.contains(node));
        let strangers: Vec<_> =
            self.members.keys().filter(|node| !members.contains(node)).copied().collect();
        for node in strangers {
            self.forget(now, node);
        }
    }

    /// All known members but this node, by id.
    pub fn members(&self, now: Instant) -> impl Iterator<Item = MemberStatus> {
        self.members.values().map(move |member| self.status(now, member))
    }

    /// What is known of `node`.
    pub fn member(&self, now: Instant, node: NodeId) -> Option<MemberStatus> {
        self.members.get(&node).map(|member| self.status(now, member))
    }

    /// The state of `node`; none if it is unknown. Cheap.
    pub fn state(&self, node: NodeId) -> Option<MemberState> {
        self.members.get(&node).map(|member| member.entry.state)
    }

    /// The live members that tell of a cluster map newer than `version`, by id. A hint.
    pub fn members_with_newer_map(&self, version: u64) -> impl Iterator<Item = NodeId> {
        let newer = self.members.iter().filter(move |(_, member)| {
            member.entry.state.is_live() && member.record.map_version.value > version
        });
        newer.map(|(node, _)| *node)
    }

    /// The live member that says that it leads `shard`, under the newest placement if several do. A
    /// hint.
    pub fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        let live = self.members.iter().filter(|(_, member)| member.entry.state.is_live());
        let leads = live.filter_map(|(node, member)| {
            let lead = member.record.leads.value.iter().find(|lead| lead.shard == shard)?;
            Some((lead.epoch, *node))
        });
        leads.max().map(|(_, node)| node)
    }

    /// This node's generation.
    pub fn generation(&self) -> Generation {
        self.own.generation
    }

    /// Messages and entries that were ignored because they were foreign or malformed.
    pub fn ignored_count(&self) -> u64 {
        self.ignored_count
    }

    fn status(&self, now: Instant, member: &Member) -> MemberStatus {
        let Entry { node, generation, state, heartbeat, .. } = member.entry;
        let record = member.record.clone();
        MemberStatus {
            node,
            generation,
            state,
            phi: if state.is_live() { member.detector.phi(&self.criteria, now) } else { 0.0 },
            heard_at: member.detector.heard_at(),
            heartbeat,
            endpoint: record.endpoint.value,
            release: record.release.value,
            load: record.load.value,
            map_version: record.map_version.value,
            leads: record.leads.value,
        }
    }

    fn has_left(&self) -> bool {
        self.own.state == MemberState::Left
    }

    fn tell(&mut self, value: Value) {
        let version = RecordVersion(self.record.version.0 + 1);
        self.record.version = version;
        self.record.set(version, value);
    }

    fn send(&mut self, to: To, message: GossipMessage) {
        self.outputs.push_back(Output::Send { to, message });
    }

    /// A node that was stopped for more than an interval has heard nobody, and blames nobody.
    fn excuse_own_pause(&mut self, now: Instant) {
        if now <= self.next_tick + self.config.interval {
            return;
        }
        for member in self.members.values_mut() {
            member.detector.grant_grace(&self.criteria, now);
            if member.entry.state == MemberState::Suspect {
                member.state_since = now;
            }
        }
    }

    /// It is time for the next exchange: gives a sign of life and begins one.
    fn on_tick_timeout(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.tombstones.retain(|_, until| now < *until);
        if self.members.is_empty() {
            // No heartbeat: an earlier process that others remember is recognised by a larger one.
            self.next_tick = now + self.config.interval / SEARCHES_PER_INTERVAL;
            self.contact_seed(|_| true);
            return;
        }
        self.next_tick = now + self.config.interval / self.config.fanout;
        self.own.heartbeat = Heartbeat(self.own.heartbeat.0 + 1);
        self.tell_load(now);
        for to in self.choose_live(1) {
            self.send_digest(to);
        }
        self.contact_lost();
    }

    fn tell_load(&mut self, now: Instant) {
        if now >= self.load_at
            && let Some(load) = self.pending_load.take_if(|load| *load != self.record.load.value)
        {
            self.load_at = now + self.config.load_interval;
            self.tell(Value::Load(load));
        }
    }

    /// Now and then, begins an exchange with a member that is down, and with a seed that is no live
    /// member: the more often, the more nodes are down, and about once per interval in the whole
    /// cluster for a seed.
    fn contact_lost(&mut self) {
        let addresses = |is_wanted: fn(MemberState) -> bool| -> Vec<_> {
            let wanted = self.members.values().filter(|member| is_wanted(member.entry.state));
            wanted.map(Member::to).collect()
        };
        let live = addresses(MemberState::is_live);
        let mut down = addresses(|state| state == MemberState::Down);
        let odds = live.len() as u64 + 1;
        if self.rng.below(odds) < down.len() as u64 {
            let chosen = self.rng.below(down.len() as u64) as usize;
            self.send_digest(down.swap_remove(chosen));
        }
        if self.rng.below(odds) == 0 {
            self.contact_seed(|seed| live.iter().all(|to| to.address != *seed));
        }
    }

    fn contact_seed(&mut self, is_wanted: impl Fn(&Address) -> bool) {
        let mut wanted: Vec<_> =
            self.seeds.iter().filter(|seed| is_wanted(seed)).cloned().collect();
        if !wanted.is_empty() {
            let chosen = self.rng.below(wanted.len() as u64) as usize;
            self.send_digest(To { node: None, address: wanted.swap_remove(chosen) });
        }
    }

    /// Up to `count` different live members, drawn at random.
    fn choose_live(&mut self, count: usize) -> Vec<To> {
        let mut live: Vec<_> =
            self.members.values().filter(|member| member.entry.state.is_live()).collect();
        let count = count.min(live.len());
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.rng.below(live.len() as u64) as usize;
            chosen.push(live.swap_remove(at).to());
        }
        chosen
    }

    /// When the member's silence has a consequence, if it lasts.
    fn silence_at(&self, member: &Member) -> Option<Instant> {
        match member.entry.state {
            MemberState::Alive => {
                Some(member.detector.probe_at().min(member.detector.suspect_at()))
            }
            MemberState::Suspect => Some(member.state_since + self.config.down_after),
            MemberState::Down | MemberState::Left => None,
        }
    }

    /// Probes and suspects whose silence is too surprising, and gives up on who was suspect for too
    /// long.
    fn on_silence_timeout(&mut self, now: Instant) {
        let silent = self
            .members
            .values()
            .filter(|member| self.silence_at(member).is_some_and(|at| at <= now));
        let silent: Vec<_> = silent.map(|member| member.entry.node).collect();
        for node in silent {
            self.on_silent(now, node);
        }
    }

    fn on_silent(&mut self, now: Instant, node: NodeId) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let is_suspect = member.entry.state == MemberState::Suspect;
        if !is_suspect && now < member.detector.suspect_at() {
            member.detector.on_probe(now, self.config.interval / PROBES_PER_INTERVAL);
            let (to, entry) = (member.to(), member.entry);
            return self.send_probe(to, entry);
        }
        let state = if is_suspect { MemberState::Down } else { MemberState::Suspect };
        member.set_state(now, state);
        self.news.insert(node, News::State);
        self.outputs.push_back(Output::Changed { node, state });
        // Nobody can refute it sooner than the member itself.
        let accusation = Update { entries: Vec::from([member.entry]), deltas: Vec::new() };
        let to = member.to();
        self.send(to, GossipMessage::Update(accusation));
    }

    fn on_news_timeout(&mut self, now: Instant) {
        if !self.news.is_empty() && now >= self.news_at {
            self.send_news();
            self.news_at = now + self.config.interval / NEWS_PER_INTERVAL_MAX;
        }
    }
}

/// Whether all parts of a message are within their bounds.
fn is_valid(message: &GossipMessage) -> bool {
    let is_valid_entry = |entry: &Entry| {
        entry.node > NodeId(0) && (Generation(1)..=GENERATION_MAX).contains(&entry.generation)
    };
    let is_valid_delta = |delta: &Delta| {
        is_valid_entry(&delta.entry) && delta.values.iter().all(|(_, value)| value.is_valid())
    };
    match message {
        GossipMessage::Digest { address, digest } => {
            address.0.len() <= ADDRESS_BYTES_MAX && digest.entries.iter().all(is_valid_entry)
        }
        GossipMessage::Reply { update, .. } | GossipMessage::Update(update) => {
            update.entries.iter().all(is_valid_entry) && update.deltas.iter().all(is_valid_delta)
        }
    }
}
