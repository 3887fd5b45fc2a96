//! Faults that strike links.

use super::{
    Action, Direction, FaultEdge, FaultEvent, FaultKind, Links, Nemesis, Shape, Strike, Target,
    View, names,
};
use crate::engine::machine::ProcessId;
use crate::engine::rng::Draw as _;

impl Nemesis {
    /// Servers in random order, and how many of them are on the first side.
    fn sides(&mut self, view: &View, shape: Shape) -> Option<(Vec<u16>, usize)> {
        let count = view.running.len();
        let mut servers: Vec<u16> = (0..count as u16).collect();
        self.rng.shuffle_front(&mut servers, count);
        let minority_max = (count.saturating_sub(1) / 2).max(1);
        let size = match shape {
            Shape::One | Shape::Random => 1,
            Shape::Minority => self.rng.between(1, minority_max as u64) as usize,
            Shape::Halves => (count / 2).max(1),
            Shape::Leader => {
                let leader =
                    *view.leaders.get(self.rng.below(view.leaders.len() as u64) as usize)?;
                servers.sort_by_key(|server| *server != leader);
                1
            }
        };
        Some((servers, size))
    }

    pub(super) fn partition(
        &mut self,
        view: &View,
        duration: u64,
        shapes: &[Shape],
    ) -> Option<Strike> {
        let shape = shapes[self.rng.index(shapes.len())];
        let (servers, size) = self.sides(view, shape)?;
        let (left, right) = servers.split_at(size);
        let mut links = Links::new();
        if shape == Shape::Random {
            for (position, one) in servers.iter().enumerate() {
                for other in &servers[position + 1..] {
                    if self.rng.chance(500_000) {
                        both_ways(&mut links, ProcessId::Server(*one), ProcessId::Server(*other));
                    }
                }
            }
            if links.is_empty() {
                return None;
            }
        } else {
            cross(left, right, |one, other| both_ways(&mut links, one, other));
            self.divide_clients(view, left, right, &mut links);
        }
        let detail = match shape {
            Shape::Random => format!("{} links", links.len() / 2),
            _ => format!("{} | {}", names(left), names(right)),
        };
        Some(self.cut(FaultKind::Partition, detail, links, duration))
    }

    /// Half of the time clients reach both sides, else each client only one.
    fn divide_clients(&mut self, view: &View, left: &[u16], right: &[u16], links: &mut Links) {
        if self.rng.chance(500_000) {
            return;
        }
        for client in (0..view.clients).map(ProcessId::Client) {
            let lost_side = if self.rng.chance(500_000) { left } else { right };
            for server in lost_side {
                both_ways(links, client, ProcessId::Server(*server));
            }
        }
    }

    pub(super) fn one_way(
        &mut self,
        view: &View,
        duration: u64,
        target: Target,
        direction: Direction,
    ) -> Option<Strike> {
        let has_leader = !view.leaders.is_empty();
        let coin = self.rng.chance(500_000);
        let shape = match target {
            Target::Leader => Shape::Leader,
            Target::Any if coin && has_leader => Shape::Leader,
            Target::Any => Shape::Minority,
        };
        let (servers, size) = self.sides(view, shape)?;
        let (left, right) = servers.split_at(size);
        let coin = self.rng.chance(500_000);
        let deaf = match direction {
            Direction::Any => coin,
            Direction::Inbound => true,
            Direction::Outbound => false,
        };
        let mut links = Links::new();
        cross(left, right, |one, other| links.push(if deaf { (other, one) } else { (one, other) }));
        let detail = format!(
            "{} cannot {} {}",
            names(left),
            if deaf { "hear" } else { "reach" },
            names(right)
        );
        Some(self.cut(FaultKind::OneWayPartition, detail, links, duration))
    }

    fn cut(&mut self, kind: FaultKind, detail: String, links: Links, duration: u64) -> Strike {
        let later = vec![(self.rng.around(duration), vec![Action::Mend(links.clone())])];
        Strike { detail, begin: vec![Action::Cut(links)], later }.ending(kind)
    }

    pub(super) fn delay_spike(&mut self, view: &View, duration: u64, delay: u64) -> Strike {
        let victim = ProcessId::Server(self.rng.index(view.running.len()) as u16);
        let others =
            (0..view.running.len() as u16).map(ProcessId::Server).filter(|other| *other != victim);
        let mut links = Links::new();
        for other in others.chain((0..view.clients).map(ProcessId::Client)) {
            both_ways(&mut links, victim, other);
        }
        let extra = self.rng.around(delay);
        let later = vec![(self.rng.around(duration), vec![Action::Hasten(links.clone(), extra)])];
        let detail = format!("{victim} by {} ms", extra / 1_000_000);
        Strike { detail, begin: vec![Action::Delay(links, extra)], later }
            .ending(FaultKind::DelaySpike)
    }

    /// All servers, in random order.
    fn shuffled(&mut self, view: &View) -> Vec<u16> {
        let count = view.running.len();
        let mut servers: Vec<u16> = (0..count as u16).collect();
        self.rng.shuffle_front(&mut servers, count);
        servers
    }

    /// A random choice of servers loses all links, one server after the other, and gets them back in
    /// another order.
    pub(super) fn swizzle(&mut self, view: &View, step: u64) -> Strike {
        let mut chosen = self.shuffled(view);
        let count = self.rng.between(1, chosen.len() as u64) as usize;
        chosen.truncate(count);
        let detail = names(&chosen);
        let begin = vec![Action::Cut(links_of(view, chosen[0]))];
        let mut later = Vec::new();
        let mut at = 0;
        for server in &chosen[1..] {
            at += self.rng.around(step);
            later.push((at, vec![Action::Cut(links_of(view, *server))]));
        }
        self.rng.shuffle_front(&mut chosen, count);
        for server in &chosen {
            at += self.rng.around(step);
            later.push((at, vec![Action::Mend(links_of(view, *server))]));
        }
        Strike { detail, begin, later }.ending(FaultKind::Swizzle)
    }

    /// Clients reach everyone. None if there is nobody to divide.
    pub(super) fn bridge(&mut self, view: &View, duration: u64) -> Option<Strike> {
        let servers = self.shuffled(view);
        let (middle, others) = servers.split_first()?;
        let (left, right) = others.split_at(others.len() / 2);
        if left.is_empty() {
            return None;
        }
        let mut links = Links::new();
        cross(left, right, |one, other| both_ways(&mut links, one, other));
        let detail =
            format!("{} | {}, bridged by {}", names(left), names(right), names(&[*middle]));
        Some(self.cut(FaultKind::Bridge, detail, links, duration))
    }

    /// The servers stand on a circle, and each talks to its nearest neighbours, just so many that
    /// they and it are a majority. Clients reach everyone. None if that leaves no link out.
    pub(super) fn majorities_ring(&mut self, view: &View, duration: u64) -> Option<Strike> {
        let circle = self.shuffled(view);
        let count = circle.len();
        let reach = (count / 2).div_ceil(2);
        let mut links = Links::new();
        for (position, one) in circle.iter().enumerate() {
            for (other_position, other) in circle.iter().enumerate().skip(position + 1) {
                let ahead = other_position - position;
                if ahead.min(count - ahead) > reach {
                    both_ways(&mut links, ProcessId::Server(*one), ProcessId::Server(*other));
                }
            }
        }
        let detail = format!("circle {}", names(&circle));
        (!links.is_empty()).then(|| self.cut(FaultKind::MajoritiesRing, detail, links, duration))
    }

    /// All links of a server are cut and mended, about once in each period, with clients, too.
    pub(super) fn flapping(
        &mut self,
        view: &View,
        duration: u64,
        period: u64,
        target: Target,
    ) -> Option<Strike> {
        let victim = self.one_of(view, target)?;
        let links = links_of(view, victim);
        let detail = names(&[victim]);
        let kind = FaultKind::Flapping;
        let length = self.rng.around(duration);
        let mut later = Vec::new();
        let mut at = 0;
        loop {
            at += self.rng.around(period / 2);
            later.push((at, vec![Action::Mend(links.clone())]));
            at += self.rng.around(period / 2);
            if at >= length {
                break;
            }
            let again = FaultEvent { kind, edge: FaultEdge::Repeats, detail: detail.clone() };
            later.push((at, vec![Action::Cut(links.clone()), Action::Tell(again)]));
        }
        Some(Strike { detail, begin: vec![Action::Cut(links)], later }.ending(kind))
    }
}

/// Every link of a server, in both directions, with clients, too.
fn links_of(view: &View, server: u16) -> Links {
    let others = (0..view.running.len() as u16).filter(|other| *other != server);
    let clients = (0..view.clients).map(ProcessId::Client);
    let mut links = Links::new();
    for other in others.map(ProcessId::Server).chain(clients) {
        both_ways(&mut links, ProcessId::Server(server), other);
    }
    links
}

fn both_ways(links: &mut Links, one: ProcessId, other: ProcessId) {
    links.push((one, other));
    links.push((other, one));
}

fn cross(left: &[u16], right: &[u16], mut each: impl FnMut(ProcessId, ProcessId)) {
    for one in left {
        for other in right {
            each(ProcessId::Server(*one), ProcessId::Server(*other));
        }
    }
}
