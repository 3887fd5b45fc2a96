//! Faults that strike processes and links: which, when and where.
//!
//! A scenario declares kinds of faults with their parameters. For each kind there is one
//! [`Nemesis`] with a random stream of its own, so that declaring one more kind does not move the
//! others. It wakes at intervals, picks its victims and says what begins now and what ends later;
//! the engine does it. The intervals and rates of a run are drawn from its seed around what the
//! scenario states, and every declared kind strikes in every run.
//!
//! Crashes and pauses leave a majority of the servers running, so that a run does useful work; a
//! power loss takes all of them down at once. The first crash is one of a leader.

use std::fmt;

use super::machine::ProcessId;
use super::rng::{Draw as _, Rng};

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A server dies; what it had not synced is lost. It is restarted later.
    Crash,
    /// A crash of a server that led something. Counted beside the crash itself.
    LeaderCrash,
    /// All servers die at once.
    PowerLoss,
    /// A server stands still for a while and then goes on, unaware.
    Pause,
    /// Some servers cannot talk to the others, in both directions.
    Partition,
    /// Some servers can be heard by the others but cannot hear them, or the reverse.
    OneWayPartition,
    /// Messages are lost.
    Loss,
    /// Messages arrive twice.
    Duplicate,
    /// Messages are overtaken.
    Reorder,
    /// The links of a server become slow for a while.
    DelaySpike,
    /// Bits change on the disk of a server.
    BitRot,
    /// The disk of a server is full for a while.
    DiskFull,
    /// A crash leaves a write on the disk in part, or without an earlier one. It follows from
    /// crashes; declaring it demands that it happens.
    TornWrite,
}

impl FaultKind {
    /// The name in scenarios and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::LeaderCrash => "leader-crash",
            Self::PowerLoss => "power-loss",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWayPartition => "one-way-partition",
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::DelaySpike => "delay-spike",
            Self::BitRot => "bit-rot",
            Self::DiskFull => "disk-full",
            Self::TornWrite => "torn-write",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A fault begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultEvent {
    /// What kind.
    pub kind: FaultKind,
    /// Whether it begins.
    pub begins: bool,
    /// Who is struck, in words.
    pub detail: String,
}

/// Whom a crash strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any server, leaders half of the time.
    Any,
    /// A server that leads something.
    Leader,
}

/// Which servers a fault of disks may strike in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// The same minority all the time: the others have all that is needed.
    Minority,
    /// Every one.
    All,
}

/// How a partition divides the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One server against the rest.
    One,
    /// A random minority against the rest.
    Minority,
    /// Two halves.
    Halves,
    /// A leader against the rest.
    Leader,
    /// Each pair of servers is cut or not by the toss of a coin.
    Random,
}

/// A declared fault. Times are nanoseconds, rates are in a million; both are what a seed draws
/// around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultSpec {
    /// See [`FaultKind::Crash`].
    Crash {
        /// From one to the next.
        interval: u64,
        /// From the crash to the restart.
        downtime: u64,
        /// Whom.
        target: Target,
        /// Chance that the server crashes again shortly after its restart, as in a restart storm.
        storm: u32,
    },
    /// See [`FaultKind::PowerLoss`].
    PowerLoss {
        /// From one to the next.
        interval: u64,
        /// From the loss to the restart, for each server.
        downtime: u64,
    },
    /// See [`FaultKind::Pause`].
    Pause {
        /// From one to the next.
        interval: u64,
        /// How long.
        duration: u64,
    },
    /// See [`FaultKind::Partition`].
    Partition {
        /// From one to the next.
        interval: u64,
        /// How long.
        duration: u64,
        /// Which shapes are drawn from. At least one.
        shapes: Vec<Shape>,
    },
    /// See [`FaultKind::OneWayPartition`].
    OneWayPartition {
        /// From one to the next.
        interval: u64,
        /// How long.
        duration: u64,
    },
    /// See [`FaultKind::DelaySpike`].
    DelaySpike {
        /// From one to the next.
        interval: u64,
        /// How long.
        duration: u64,
        /// What is added to the latency.
        delay: u64,
    },
    /// See [`FaultKind::Loss`].
    Loss {
        /// Share of the messages.
        rate: u32,
    },
    /// See [`FaultKind::Duplicate`].
    Duplicate {
        /// Share of the messages.
        rate: u32,
        /// How much later the copy arrives at most.
        delay_max: u64,
    },
    /// See [`FaultKind::Reorder`].
    Reorder {
        /// Share of the messages.
        rate: u32,
        /// How much later they arrive at most.
        delay_max: u64,
    },
    /// See [`FaultKind::BitRot`].
    BitRot {
        /// From one to the next.
        interval: u64,
        /// Half of the bits rot while the server is down: for how long it is.
        downtime: u64,
        /// Where.
        victims: Victims,
    },
    /// See [`FaultKind::DiskFull`].
    DiskFull {
        /// From one to the next.
        interval: u64,
        /// How long.
        duration: u64,
    },
    /// See [`FaultKind::TornWrite`].
    TornWrite,
}

impl FaultSpec {
    /// The kind.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Crash { .. } => FaultKind::Crash,
            Self::PowerLoss { .. } => FaultKind::PowerLoss,
            Self::Pause { .. } => FaultKind::Pause,
            Self::Partition { .. } => FaultKind::Partition,
            Self::OneWayPartition { .. } => FaultKind::OneWayPartition,
            Self::DelaySpike { .. } => FaultKind::DelaySpike,
            Self::Loss { .. } => FaultKind::Loss,
            Self::Duplicate { .. } => FaultKind::Duplicate,
            Self::Reorder { .. } => FaultKind::Reorder,
            Self::BitRot { .. } => FaultKind::BitRot,
            Self::DiskFull { .. } => FaultKind::DiskFull,
            Self::TornWrite => FaultKind::TornWrite,
        }
    }

    /// The mean time between two strikes; none for faults that strike single messages.
    fn interval(&self) -> Option<u64> {
        match self {
            Self::Crash { interval, .. }
            | Self::PowerLoss { interval, .. }
            | Self::Pause { interval, .. }
            | Self::Partition { interval, .. }
            | Self::OneWayPartition { interval, .. }
            | Self::DelaySpike { interval, .. }
            | Self::BitRot { interval, .. }
            | Self::DiskFull { interval, .. } => Some(*interval),
            Self::Loss { .. } | Self::Duplicate { .. } | Self::Reorder { .. } | Self::TornWrite => {
                None
            }
        }
    }
}

/// Links, each in one direction.
pub(crate) type Links = Vec<(ProcessId, ProcessId)>;

/// What the engine does to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Crash(u16),
    Restart(u16),
    Pause(u16),
    Resume(u16),
    Cut(Links),
    Mend(Links),
    Delay(Links, u64),
    Hasten(Links, u64),
    Rot(u16),
    Fill(u16),
    MakeRoom(u16),
    /// Tells of the end of a fault.
    End(FaultEvent),
}

/// What a nemesis sees when it wakes.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// For each server, whether it runs and is not paused.
    pub(crate) running: Vec<bool>,
    /// Servers that run and lead something.
    pub(crate) leaders: Vec<u16>,
    pub(crate) clients: u16,
    pub(crate) leader_crashed: bool,
}

/// A strike.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    pub(crate) detail: String,
    pub(crate) begin: Vec<Action>,
    /// What follows, after how long.
    pub(crate) later: Vec<(u64, Vec<Action>)>,
}

/// How long a nemesis waits that finds no victim.
const RETRY: u64 = 200_000_000;
/// How soon after its restart a server crashes again in a restart storm, at most.
const STORM_PAUSE_MAX: u64 = 500_000_000;

/// One declared kind of fault at work.
#[derive(Debug)]
pub(crate) struct Nemesis {
    spec: FaultSpec,
    pub(super) rng: Rng,
    /// Servers whose disks may be struck, drawn with the first strike.
    pub(super) chosen: Vec<u16>,
    interval: u64,
}

impl Nemesis {
    /// None for faults that strike single messages: the network has those.
    pub(crate) fn new(seed: u64, spec: &FaultSpec) -> Option<Self> {
        let mut rng = Rng::fork(seed, spec.kind().name(), 0);
        let stated = spec.interval()?;
        let interval = rng.between(stated * 3 / 4, stated * 5 / 4);
        Some(Self { spec: spec.clone(), rng, chosen: Vec::new(), interval })
    }

    pub(crate) fn kind(&self) -> FaultKind {
        self.spec.kind()
    }

    /// How long until it wakes for the first time.
    pub(crate) fn first(&mut self) -> u64 {
        self.rng.between(self.interval / 3, self.interval)
    }

    /// Strikes, and says when to wake it next. No strike if there is no fitting victim.
    pub(crate) fn wake(&mut self, view: &View) -> (Option<Strike>, u64) {
        let strike = match self.spec.clone() {
            FaultSpec::Crash { downtime, target, storm, .. } => {
                self.crash(view, downtime, target, storm)
            }
            FaultSpec::PowerLoss { downtime, .. } => Some(self.power_loss(view, downtime)),
            FaultSpec::Pause { duration, .. } => self.pause(view, duration),
            FaultSpec::Partition { duration, shapes, .. } => {
                self.partition(view, duration, &shapes)
            }
            FaultSpec::OneWayPartition { duration, .. } => Some(self.one_way(view, duration)),
            FaultSpec::DelaySpike { duration, delay, .. } => {
                Some(self.delay_spike(view, duration, delay))
            }
            FaultSpec::BitRot { downtime, victims, .. } => {
                Some(self.bit_rot(view, downtime, victims))
            }
            FaultSpec::DiskFull { duration, .. } => Some(self.disk_full(view, duration)),
            FaultSpec::Loss { .. }
            | FaultSpec::Duplicate { .. }
            | FaultSpec::Reorder { .. }
            | FaultSpec::TornWrite => None,
        };
        let pause = if strike.is_some() { self.rng.around(self.interval) } else { RETRY };
        (strike, pause)
    }

    /// A server whose loss leaves a majority running.
    fn victim(&mut self, view: &View, target: Target) -> Option<u16> {
        let down = view.running.iter().filter(|running| !**running).count();
        if (down + 1) * 2 >= view.running.len() && view.running.len() > 1 {
            return None;
        }
        let leader_wanted = target == Target::Leader || self.rng.chance(500_000);
        if leader_wanted || !view.leader_crashed {
            if view.leaders.is_empty() {
                return None;
            }
            return Some(view.leaders[self.rng.index(view.leaders.len())]);
        }
        let running: Vec<u16> = (0..view.running.len() as u16)
            .filter(|index| view.running[usize::from(*index)])
            .collect();
        Some(running[self.rng.index(running.len())])
    }

    fn crash(&mut self, view: &View, downtime: u64, target: Target, storm: u32) -> Option<Strike> {
        let victim = self.victim(view, target)?;
        let mut at = self.rng.around(downtime);
        let mut later = vec![(at, vec![Action::Restart(victim)])];
        while self.rng.chance(storm) && later.len() < 16 {
            at += self.rng.between(0, STORM_PAUSE_MAX);
            later.push((at, vec![Action::Crash(victim)]));
            at += self.rng.around(downtime) / 4;
            later.push((at, vec![Action::Restart(victim)]));
        }
        let detail = ProcessId::Server(victim).to_string();
        let strike = Strike { detail, begin: vec![Action::Crash(victim)], later };
        Some(strike.ending(FaultKind::Crash))
    }

    fn power_loss(&mut self, view: &View, downtime: u64) -> Strike {
        let servers = 0..view.running.len() as u16;
        let begin = servers.clone().map(Action::Crash).collect();
        let mut later: Vec<_> = servers
            .map(|index| (self.rng.around(downtime), vec![Action::Restart(index)]))
            .collect();
        later.sort_by_key(|(at, _)| *at);
        Strike { detail: "all servers".into(), begin, later }.ending(FaultKind::PowerLoss)
    }

    fn pause(&mut self, view: &View, duration: u64) -> Option<Strike> {
        let victim = self.victim(view, Target::Any)?;
        let later = vec![(self.rng.around(duration), vec![Action::Resume(victim)])];
        let detail = ProcessId::Server(victim).to_string();
        Some(Strike { detail, begin: vec![Action::Pause(victim)], later }.ending(FaultKind::Pause))
    }

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

    fn partition(&mut self, view: &View, duration: u64, shapes: &[Shape]) -> Option<Strike> {
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

    fn one_way(&mut self, view: &View, duration: u64) -> Strike {
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

    fn delay_spike(&mut self, view: &View, duration: u64, delay: u64) -> Strike {
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

impl Strike {
    /// Adds the news of the end to what happens last.
    pub(super) fn ending(mut self, kind: FaultKind) -> Self {
        let event = FaultEvent { kind, begins: false, detail: self.detail.clone() };
        if let Some((_, last)) = self.later.last_mut() {
            last.push(Action::End(event));
        }
        self
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

pub(super) fn names(servers: &[u16]) -> String {
    let names: Vec<String> =
        servers.iter().map(|index| ProcessId::Server(*index).to_string()).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View { running: vec![true; 5], leaders: vec![3], clients: 2, leader_crashed: false }
    }

    fn nemesis(spec: FaultSpec) -> Nemesis {
        Nemesis::new(1, &spec).unwrap()
    }

    #[test]
    fn the_first_crash_is_one_of_a_leader_and_a_majority_survives() {
        let spec =
            FaultSpec::Crash { interval: 1_000, downtime: 100, target: Target::Any, storm: 0 };
        let crashed = |seed, view: &View| {
            let strike = Nemesis::new(seed, &spec).unwrap().wake(view).0?;
            Some(strike.begin)
        };
        let first: Vec<_> = (0..20).map(|seed| crashed(seed, &view())).collect();
        assert!(first.iter().all(|begin| *begin == Some(vec![Action::Crash(3)])), "{first:?}");
        let later = View { leader_crashed: true, ..view() };
        assert!((0..20).any(|seed| crashed(seed, &later) != Some(vec![Action::Crash(3)])));
        let mut two_down = later;
        two_down.running[0] = false;
        two_down.running[1] = false;
        assert!((0..20).all(|seed| crashed(seed, &two_down).is_none()));
    }

    #[test]
    fn a_restart_storm_ends_with_a_restart() {
        let mut nemesis = nemesis(FaultSpec::Crash {
            interval: 1_000,
            downtime: 100,
            target: Target::Any,
            storm: 1_000_000,
        });
        let strike = nemesis.wake(&view()).0.unwrap();
        assert!(strike.later.len() > 10 && strike.later.is_sorted_by_key(|(at, _)| *at));
        let (_, last) = strike.later.last().unwrap();
        assert!(matches!(last[..], [Action::Restart(3), Action::End(_)]), "{last:?}");
    }

    #[test]
    fn every_partition_cuts_both_ways_and_mends_what_it_cut() {
        for shape in [Shape::One, Shape::Minority, Shape::Halves, Shape::Leader, Shape::Random] {
            let spec = FaultSpec::Partition { interval: 1_000, duration: 100, shapes: vec![shape] };
            let strike = nemesis(spec).wake(&view()).0.unwrap();
            let [Action::Cut(links)] = &strike.begin[..] else { panic!("{strike:?}") };
            assert!(links.iter().all(|(from, to)| links.contains(&(*to, *from))), "{shape:?}");
            assert_eq!(strike.later[0].1[0], Action::Mend(links.clone()));
        }
    }

    #[test]
    fn a_one_way_partition_leaves_the_other_direction() {
        let strike = nemesis(FaultSpec::OneWayPartition { interval: 1_000, duration: 100 })
            .wake(&view())
            .0
            .unwrap();
        let [Action::Cut(links)] = &strike.begin[..] else { panic!("{strike:?}") };
        assert!(links.iter().all(|(from, to)| !links.contains(&(*to, *from))));
    }

    #[test]
    fn a_power_loss_strikes_all() {
        let strike = nemesis(FaultSpec::PowerLoss { interval: 1_000, downtime: 100 })
            .wake(&view())
            .0
            .unwrap();
        assert_eq!(strike.begin.len(), 5);
        assert_eq!(strike.later.len(), 5);
    }
}
