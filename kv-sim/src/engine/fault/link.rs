//! Faults that strike links.

use super::{Action, FaultKind, Links, Nemesis, Shape, Strike, View, names};
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

    pub(super) fn one_way(&mut self, view: &View, duration: u64) -> Strike {
        let shape = if self.rng.chance(500_000) && !view.leaders.is_empty() {
            Shape::Leader
        } else {
            Shape::Minority
        };
        let (servers, size) =
            self.sides(view, shape).expect("there is a leader if one is asked for");
        let (left, right) = servers.split_at(size);
        let deaf = self.rng.chance(500_000);
        let mut links = Links::new();
        cross(left, right, |one, other| links.push(if deaf { (other, one) } else { (one, other) }));
        let detail = format!(
            "{} cannot {} {}",
            names(left),
            if deaf { "hear" } else { "reach" },
            names(right)
        );
        self.cut(FaultKind::OneWayPartition, detail, links, duration)
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
