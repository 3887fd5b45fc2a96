//! The network: when a message arrives, if at all.
//!
//! Each ordered pair of processes is a link with a random stream of its own. A link delivers in
//! order, like a TCP connection: a message never arrives before one that was sent earlier on the
//! same link. Faults break that:
//!
//! - *loss* drops a message, *duplication* delivers a copy a little later, *reordering* lets a
//!   message arrive late without holding back those behind it;
//! - a *cut* link drops what is sent into it and what is on its way when the cut begins. Cuts are
//!   counted, so partitions may overlap, and each direction has its own;
//! - a *delay* adds to the latency of a link, and order is kept.
//!
//! Messages to a process that is down are lost; those that arrive at its next life are delivered,
//! however old they are.
//!
//! **What this leaves out**: bandwidth, queues of bounded length, corrupted bytes.

use super::machine::ProcessId;
use super::rng::{Draw as _, Latency, LinkRng};

/// The latencies of a network without faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkProfile {
    /// Of each link without a profile of its own.
    pub latency: Latency,
    /// Exceptions.
    pub links: Vec<LinkProfile>,
}

impl Default for NetworkProfile {
    /// A local network: half a millisecond to two milliseconds.
    fn default() -> Self {
        Self { latency: Latency { min: 500_000, mean: None, max: 2_000_000 }, links: Vec::new() }
    }
}

/// The latency of one link, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkProfile {
    /// Who sends.
    pub from: ProcessId,
    /// Who receives.
    pub to: ProcessId,
    /// How long it takes.
    pub latency: Latency,
}

/// A fault that strikes single messages at a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageFault {
    /// In a million.
    pub(crate) rate: u32,
    /// Longest extra delay of the message or its copy.
    pub(crate) delay_max: u64,
    /// How often it struck.
    pub(crate) count: u64,
}

struct Link {
    rng: LinkRng,
    /// When the last message that kept the order arrives.
    last: u64,
    cut_count: u32,
    delay: u64,
    latency: Latency,
}

/// What becomes of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Arrives { at: u64, copy: Option<u64> },
}

pub(crate) struct Network {
    servers: usize,
    clients: usize,
    links: Vec<Link>,
    pub(crate) loss: MessageFault,
    pub(crate) duplication: MessageFault,
    pub(crate) reordering: MessageFault,
}

impl Network {
    pub(crate) fn new(seed: u64, servers: usize, clients: usize, profile: &NetworkProfile) -> Self {
        let mut network = Self {
            servers,
            clients,
            links: Vec::new(),
            loss: MessageFault::default(),
            duplication: MessageFault::default(),
            reordering: MessageFault::default(),
        };
        for (from, to) in network.pairs() {
            let stream = u64::from(from.code()) << 32 | u64::from(to.code());
            let rng = LinkRng::new(seed, stream);
            network.links.push(Link {
                rng,
                last: 0,
                cut_count: 0,
                delay: 0,
                latency: profile.latency,
            });
        }
        for link in &profile.links {
            if let Some(index) = network.link_index(link.from, link.to) {
                network.links[index].latency = link.latency;
            }
        }
        network
    }

    /// Every link, in the order of their indexes: from each server to every process, then from each
    /// client to each server.
    fn pairs(&self) -> Vec<(ProcessId, ProcessId)> {
        let servers = || (0..self.servers).map(|index| ProcessId::Server(index as u16));
        let clients = || (0..self.clients).map(|index| ProcessId::Client(index as u16));
        let outgoing =
            servers().flat_map(|from| servers().chain(clients()).map(move |to| (from, to)));
        let incoming = clients().flat_map(|from| servers().map(move |to| (from, to)));
        outgoing.chain(incoming).collect()
    }

    /// None between two clients, and for processes that do not exist.
    fn link_index(&self, from: ProcessId, to: ProcessId) -> Option<usize> {
        let width = self.servers + self.clients;
        let column = |process| match process {
            ProcessId::Server(index) => {
                (usize::from(index) < self.servers).then_some(usize::from(index))
            }
            ProcessId::Client(index) => {
                (usize::from(index) < self.clients).then_some(self.servers + usize::from(index))
            }
        };
        let (row, column) = (column(from)?, column(to)?);
        match (row < self.servers, column < self.servers) {
            (true, _) => Some(row * width + column),
            (false, true) => {
                Some(self.servers * width + (row - self.servers) * self.servers + column)
            }
            (false, false) => None,
        }
    }

    /// A message is sent at `now`.
    pub(crate) fn send(&mut self, now: u64, from: ProcessId, to: ProcessId) -> Fate {
        let Some(index) = self.link_index(from, to) else { return Fate::Lost };
        let link = &mut self.links[index];
        let latency = link.latency.draw(&mut link.rng) + link.delay;
        if link.cut_count > 0 {
            return Fate::Lost;
        }
        let mut strikes = |fault: &mut MessageFault| {
            let struck = fault.rate > 0 && link.rng.chance(fault.rate);
            fault.count += u64::from(struck);
            struck.then(|| link.rng.between(1, fault.delay_max.max(1)))
        };
        if strikes(&mut self.loss).is_some() {
            return Fate::Lost;
        }
        let overtaken = strikes(&mut self.reordering);
        let copy = strikes(&mut self.duplication);
        let at = match overtaken {
            Some(delay) => now + latency + delay,
            None => {
                link.last = link.last.max(now + latency);
                link.last
            }
        };
        Fate::Arrives { at, copy: copy.map(|delay| at + delay) }
    }

    /// Whether a message that arrives at the end of its latency gets through.
    pub(crate) fn is_open(&self, from: ProcessId, to: ProcessId) -> bool {
        self.link_index(from, to).is_some_and(|index| self.links[index].cut_count == 0)
    }

    /// Cuts links, each in one direction.
    pub(crate) fn cut(&mut self, links: &[(ProcessId, ProcessId)]) {
        self.for_each(links, |link| link.cut_count += 1);
    }

    /// Takes one cut of each of the links away.
    pub(crate) fn mend(&mut self, links: &[(ProcessId, ProcessId)]) {
        self.for_each(links, |link| link.cut_count = link.cut_count.saturating_sub(1));
    }

    /// Delays links.
    pub(crate) fn delay(&mut self, links: &[(ProcessId, ProcessId)], extra: u64) {
        self.for_each(links, |link| link.delay += extra);
    }

    /// Takes a delay away again.
    pub(crate) fn hasten(&mut self, links: &[(ProcessId, ProcessId)], extra: u64) {
        self.for_each(links, |link| link.delay = link.delay.saturating_sub(extra));
    }

    fn for_each(&mut self, links: &[(ProcessId, ProcessId)], change: impl Fn(&mut Link)) {
        for (from, to) in links {
            if let Some(index) = self.link_index(*from, *to) {
                change(&mut self.links[index]);
            }
        }
    }

    /// Ends every fault. What struck so far stays counted.
    pub(crate) fn heal(&mut self) {
        for link in &mut self.links {
            link.cut_count = 0;
            link.delay = 0;
        }
        for fault in [&mut self.loss, &mut self.duplication, &mut self.reordering] {
            fault.rate = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ProcessId = ProcessId::Server(0);
    const B: ProcessId = ProcessId::Server(1);
    const C: ProcessId = ProcessId::Client(0);

    fn network() -> Network {
        Network::new(1, 3, 2, &NetworkProfile::default())
    }

    fn arrivals(network: &mut Network, count: u64) -> Vec<u64> {
        (0..count)
            .filter_map(|index| match network.send(index * 10_000, A, B) {
                Fate::Arrives { at, .. } => Some(at),
                Fate::Lost => None,
            })
            .collect()
    }

    #[test]
    fn every_pair_with_a_server_is_a_link_of_its_own() {
        let network = network();
        let mut seen: Vec<_> = network
            .pairs()
            .iter()
            .map(|(from, to)| network.link_index(*from, *to).unwrap())
            .collect();
        assert_eq!(seen.len(), 3 * 5 + 2 * 3);
        let in_order = seen.clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, in_order);
        assert_eq!(network.link_index(C, ProcessId::Client(1)), None);
        assert_eq!(network.link_index(A, ProcessId::Server(3)), None);
    }

    #[test]
    fn a_link_keeps_the_order_and_the_latency() {
        let mut network = network();
        let arrivals = arrivals(&mut network, 1_000);
        assert!(arrivals.is_sorted());
        for (index, at) in arrivals.iter().enumerate() {
            let sent = index as u64 * 10_000;
            assert!(*at >= sent + 500_000 && *at <= sent + 2_000_000);
        }
    }

    #[test]
    fn links_have_streams_of_their_own() {
        let mut few = network();
        let mut many = Network::new(1, 3, 50, &NetworkProfile::default());
        many.send(0, C, A);
        assert_eq!(arrivals(&mut few, 100), arrivals(&mut many, 100));
    }

    #[test]
    fn loss_strikes_at_its_rate() {
        let mut network = network();
        network.loss.rate = 100_000;
        let arrived = arrivals(&mut network, 10_000).len() as u64;
        assert_eq!(network.loss.count, 10_000 - arrived);
        assert!((900..1_100).contains(&network.loss.count), "{}", network.loss.count);
        network.heal();
        assert_eq!(arrivals(&mut network, 1_000).len(), 1_000);
    }

    #[test]
    fn reordering_lets_messages_overtake() {
        let mut network = network();
        network.reordering = MessageFault { rate: 100_000, delay_max: 5_000_000, count: 0 };
        assert!(!arrivals(&mut network, 1_000).is_sorted());
        assert!((50..150).contains(&network.reordering.count), "{}", network.reordering.count);
    }

    #[test]
    fn a_duplicate_arrives_after_the_original() {
        let mut network = network();
        network.duplication = MessageFault { rate: 500_000, delay_max: 1_000_000, count: 0 };
        let mut copies = 0;
        for index in 0..1_000 {
            let Fate::Arrives { at, copy } = network.send(index, A, B) else {
                panic!("nothing is lost")
            };
            if let Some(copy) = copy {
                copies += 1;
                assert!(copy > at);
            }
        }
        assert_eq!(copies, network.duplication.count);
        assert!((400..600).contains(&copies), "{copies}");
    }

    #[test]
    fn cuts_are_directed_and_counted() {
        let mut network = network();
        network.cut(&[(A, B)]);
        network.cut(&[(A, B)]);
        assert_eq!(network.send(0, A, B), Fate::Lost);
        assert!(!network.is_open(A, B) && network.is_open(B, A));
        network.mend(&[(A, B)]);
        assert_eq!(network.send(0, A, B), Fate::Lost);
        network.mend(&[(A, B)]);
        assert!(matches!(network.send(0, A, B), Fate::Arrives { .. }));
    }

    #[test]
    fn a_delay_ends_and_keeps_the_order() {
        let mut network = network();
        network.delay(&[(A, B)], 1_000_000_000);
        let Fate::Arrives { at: slow, .. } = network.send(0, A, B) else {
            panic!("nothing is lost")
        };
        assert!(slow >= 1_000_000_000);
        network.hasten(&[(A, B)], 1_000_000_000);
        let Fate::Arrives { at: next, .. } = network.send(1, A, B) else {
            panic!("nothing is lost")
        };
        assert!(next >= slow);
        let Fate::Arrives { at, .. } = network.send(1, B, A) else { panic!("nothing is lost") };
        assert!(at < 3_000_000);
    }

    #[test]
    fn a_link_may_have_a_profile_of_its_own() {
        let latency = Latency { min: 7, mean: None, max: 7 };
        let profile = NetworkProfile {
            links: vec![LinkProfile { from: A, to: C, latency }],
            ..NetworkProfile::default()
        };
        let mut network = Network::new(1, 3, 2, &profile);
        assert_eq!(network.send(0, A, C), Fate::Arrives { at: 7, copy: None });
        assert!(matches!(network.send(0, C, A), Fate::Arrives { at, .. } if at >= 500_000));
    }
}
