//! A simulated network of gossiping nodes: virtual time, seeded delays and losses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use kv_core::codec;
use kv_core::gossip::{
    Gossip, GossipConfig, GossipMessage, Introduction, Load, MESSAGE_BYTES_MAX, MemberState,
    Output, Release,
};
use kv_core::id::{Address, ClusterId, Generation, Incarnation, NodeId};
use kv_core::rng::Rng;
use kv_core::time::Instant;
use kv_core::wire::{FRAME_HEADER_BYTES, PeerFrame};

/// The one address that every node knows at its start: that of node 1.
pub(crate) const SEED_ADDRESS: &str = "10.0.0.1:7400";

/// A change of state that a node reported.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "who said it of whom is shown when a test fails")]
pub(crate) struct Report {
    pub(crate) at: Instant,
    pub(crate) by: NodeId,
    pub(crate) node: NodeId,
    pub(crate) state: MemberState,
}

/// A message on its way. Ordered by time, then by the order of sending.
type InFlight = (Instant, u64, NodeId, NodeId, Payload);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Payload(usize);

pub(crate) struct Network {
    pub(crate) now: Instant,
    /// Mean of the one-way delays, which are exponential.
    pub(crate) delay_mean: Duration,
    /// Of 1,000 messages so many are lost.
    pub(crate) loss_per_mille: u64,
    /// Whether every message goes through the codec and is counted.
    pub(crate) is_counting: bool,
    /// Bytes that each node sent, frames included.
    pub(crate) sent_bytes: BTreeMap<NodeId, u64>,
    /// Everything but new members that are alive.
    pub(crate) reports: Vec<Report>,
    /// Where each node was last told that another one is.
    pub(crate) moves: BTreeMap<(NodeId, NodeId), Address>,
    nodes: BTreeMap<NodeId, Gossip>,
    addresses: BTreeMap<Address, NodeId>,
    /// Nodes in different parts do not reach each other; part 0 unless said otherwise.
    parts: BTreeMap<NodeId, u8>,
    deadlines: BTreeSet<(Instant, NodeId)>,
    filed: BTreeMap<NodeId, Instant>,
    queue: BinaryHeap<Reverse<InFlight>>,
    messages: BTreeMap<usize, GossipMessage>,
    message_count: usize,
    rng: Rng,
    seed: u64,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Instant::ZERO + Duration::from_secs(1),
            delay_mean: Duration::from_millis(30),
            loss_per_mille: 0,
            is_counting: true,
            sent_bytes: BTreeMap::new(),
            reports: vec![],
            moves: BTreeMap::new(),
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            parts: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            filed: BTreeMap::new(),
            queue: BinaryHeap::new(),
            messages: BTreeMap::new(),
            message_count: 0,
            rng: Rng::fork(seed, "network"),
            seed,
        }
    }

    /// A network of nodes 1 to `count` that have been gossiping for half a minute.
    pub(crate) fn settled(seed: u64, count: u64) -> Self {
        let mut network = Self::new(seed);
        for node in 1..=count {
            network.start(node);
        }
        network.run(Duration::from_secs(30));
        network.assert_all_alive();
        network
    }

    /// Starts a node as a new process that remembers nothing.
    pub(crate) fn start(&mut self, node: u64) {
        self.start_with(node, GossipConfig::default());
    }

    pub(crate) fn start_with(&mut self, node: u64, config: GossipConfig) {
        let own = introduction(node);
        let id = own.node;
        self.addresses.insert(own.address.clone(), id);
        let seeds = vec![Address(SEED_ADDRESS.to_owned())];
        let seed = self.seed ^ node << 32 ^ self.now.as_nanos();
        let gossip = Gossip::new(config, own, seeds, seed, self.now).expect("a good configuration");
        self.nodes.insert(id, gossip);
        self.drain(id);
    }

    /// A node is gone at once, with all that it knew.
    pub(crate) fn crash(&mut self, node: u64) {
        let id = NodeId(node);
        self.nodes.remove(&id).expect("a running node");
        if let Some(at) = self.filed.remove(&id) {
            self.deadlines.remove(&(at, id));
        }
    }

    /// Cuts `nodes` off from all others.
    pub(crate) fn partition(&mut self, nodes: impl IntoIterator<Item = u64>) {
        self.parts.extend(nodes.into_iter().map(|node| (NodeId(node), 1)));
    }

    pub(crate) fn heal(&mut self) {
        self.parts.clear();
    }

    pub(crate) fn node(&self, node: u64) -> &Gossip {
        &self.nodes[&NodeId(node)]
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (NodeId, &Gossip)> {
        self.nodes.iter().map(|(id, gossip)| (*id, gossip))
    }

    /// Lets a node do something of its own accord.
    pub(crate) fn act(&mut self, node: u64, act: impl FnOnce(&mut Gossip, Instant)) {
        let id = NodeId(node);
        act(self.nodes.get_mut(&id).expect("a running node"), self.now);
        self.drain(id);
    }

    /// Tells a node how many bytes its data takes.
    pub(crate) fn set_load(&mut self, node: u64, pending_bytes: u64) {
        let (replica_count, leader_count) = (16, 5);
        let load = Load { replica_count, leader_count, pending_bytes, is_full: false };
        self.act(node, |gossip, _| gossip.set_load(load));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.run_until(until, |_| false);
        self.now = until;
    }

    /// Lets time pass until `is_done` holds, looked at every 10 ms, or for `most`. How long it
    /// took, or none if it never came.
    pub(crate) fn run_until_all(
        &mut self,
        most: Duration,
        is_done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        while self.now < begin + most {
            if is_done(self) {
                return Some(self.now.saturating_since(begin));
            }
            self.run(Duration::from_millis(10));
        }
        is_done(self).then_some(most)
    }

    fn run_until(&mut self, until: Instant, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            let timeout = self.deadlines.first().map(|(at, _)| *at);
            let arrival = self.queue.peek().map(|Reverse(next)| next.0);
            let Some(next) = [timeout, arrival].into_iter().flatten().min() else { return };
            if next > until {
                return;
            }
            assert!(next >= self.now, "time does not run backwards");
            self.now = next;
            if arrival == Some(next) {
                self.deliver();
            } else {
                let id = self.deadlines.first().expect("just seen").1;
                self.nodes.get_mut(&id).expect("a running node").on_timeout(next);
                self.drain(id);
                assert!(self.filed.get(&id).is_none_or(|at| *at > next), "a timer advances");
            }
        }
    }

    fn deliver(&mut self) {
        let Reverse((_, _, from, to, Payload(number))) = self.queue.pop().expect("just seen");
        let message = self.messages.remove(&number).expect("each arrives once");
        let part = |node| self.parts.get(&node).copied().unwrap_or_default();
        if part(from) != part(to) {
            return;
        }
        if let Some(gossip) = self.nodes.get_mut(&to) {
            gossip.handle(self.now, from, message);
            self.drain(to);
        }
    }

    fn drain(&mut self, id: NodeId) {
        while let Some(output) = self.nodes.get_mut(&id).expect("a running node").poll_output() {
            match output {
                Output::Send { to, message } => {
                    let receiver = self.addresses.get(&to.address).copied();
                    assert!(to.node.is_none() || to.node == receiver, "id and address agree");
                    self.transmit(id, receiver, message);
                }
                Output::Changed { node, state } => {
                    self.reports.push(Report { at: self.now, by: id, node, state });
                }
                Output::Moved { node, address } => {
                    self.moves.insert((id, node), address);
                }
            }
        }
        let filed = self.nodes[&id].poll_timeout();
        if let Some(at) = self.filed.remove(&id) {
            self.deadlines.remove(&(at, id));
        }
        if let Some(at) = filed {
            self.filed.insert(id, at);
            self.deadlines.insert((at, id));
        }
    }

    fn transmit(&mut self, from: NodeId, to: Option<NodeId>, message: GossipMessage) {
        let message = if self.is_counting { self.count(from, message) } else { message };
        // As many draws for a lost message as for one that arrives.
        let is_lost = self.rng.below(1_000) < self.loss_per_mille;
        let delay = self.delay();
        let Some(to) = to.filter(|_| !is_lost) else { return };
        self.message_count += 1;
        self.messages.insert(self.message_count, message);
        let order = self.message_count as u64;
        let payload = Payload(self.message_count);
        self.queue.push(Reverse((self.now + delay, order, from, to, payload)));
    }

    /// Sends the message through the codec.
    fn count(&mut self, from: NodeId, message: GossipMessage) -> GossipMessage {
        let bytes = codec::encode(&message);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", bytes.len());
        *self.sent_bytes.entry(from).or_default() += (bytes.len() + frame_bytes()) as u64;
        codec::decode(&bytes).expect("what was encoded is decoded")
    }

    fn delay(&mut self) -> Duration {
        // In (0, 1], so that the logarithm is finite.
        let uniform = (self.rng.below(1 << 53) + 1) as f64 / (1_u64 << 53) as f64;
        self.delay_mean.mul_f64(-uniform.ln())
    }

    /// The state in which every running node, but itself, holds `node`; none if they differ.
    pub(crate) fn agreed(&self, node: u64) -> Option<Option<MemberState>> {
        let id = NodeId(node);
        let others = self.running().filter(|(other, _)| *other != id);
        let states: Vec<_> = others.map(|(_, gossip)| gossip.state(id)).collect();
        states.windows(2).all(|pair| pair[0] == pair[1]).then(|| states[0])
    }

    /// Whether every running node holds every running node for alive.
    pub(crate) fn are_all_alive(&self) -> bool {
        let ids: Vec<_> = self.nodes.keys().map(|id| id.0).collect();
        ids.iter().all(|id| self.agreed(*id) == Some(Some(MemberState::Alive)))
    }

    #[track_caller]
    pub(crate) fn assert_all_alive(&self) {
        for (id, _) in self.running() {
            assert_eq!(self.agreed(id.0), Some(Some(MemberState::Alive)), "{id}");
        }
    }

    /// What was reported since `begin` other than life.
    pub(crate) fn accusations(&self, begin: Instant) -> Vec<&Report> {
        let reports = self.reports.iter();
        reports.filter(|it| it.at >= begin && it.state != MemberState::Alive).collect()
    }
}

/// Bytes of the frame around one message between peers.
pub(crate) fn frame_bytes() -> usize {
    let frame = PeerFrame {
        cluster: Some(ClusterId(u128::MAX)),
        from: NodeId(50),
        from_incarnation: Incarnation(u64::MAX),
        to: NodeId(50),
        messages: vec![],
    };
    // One byte more for the kind of message.
    FRAME_HEADER_BYTES + codec::encode(&frame).len() + 1
}

pub(crate) fn introduction(node: u64) -> Introduction {
    Introduction {
        node: NodeId(node),
        generation: Generation(1),
        incarnation: Incarnation(u64::MAX - node),
        address: Address(format!("10.0.0.{node}:7400")),
        release: Release { protocol: 7, software: "0.1.0".to_owned() },
    }
}

/// How much a heavy test does: the first number, or the second one with `KV_TEST_SCALE=full`.
pub(crate) fn scale(ci: u64, full: u64) -> u64 {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => full,
        Ok(_) | Err(_) => ci,
    }
}
