//! What breaks: which, when and where.
//!
//! A scenario declares kinds of faults with their parameters. For each kind there is one
//! [`Nemesis`] with a random stream of its own, so that declaring one more kind does not move the
//! others. It wakes at intervals, picks its victims and says what begins now and what ends later;
//! the engine does it. The intervals and rates of a run are drawn from its seed around what the
//! scenario states, and every declared kind strikes in every run.
//!
//! Crashes and pauses leave a majority of the members running, so that a run does useful work; a
//! power loss takes all servers down at once. The first crash is one of a leader. Changes of the
//! members are declared here, too, and made by the system.
//!
//! What a kind strikes is in a file of its own: [processes](process), [links](link),
//! [clocks](clock), [disks](disk).

mod clock;
mod disk;
mod link;
mod process;
mod spec;

use std::fmt;

use super::machine::ProcessId;
use super::rng::{Draw as _, Rng};
pub use spec::{Direction, FaultKind, FaultSpec, MemberChange, Membership, Shape, Target, Victims};

/// What a fault does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEdge {
    /// It begins.
    Begins,
    /// It goes on by striking once more, as links do that flap.
    Repeats,
    /// It ends. Some kinds never do: a bit that has changed stays so.
    Ends,
}

impl fmt::Display for FaultEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Begins => "begins",
            Self::Repeats => "repeats",
            Self::Ends => "ends",
        })
    }
}

/// A fault begins, goes on or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultEvent {
    /// What kind.
    pub kind: FaultKind,
    /// Which of the three.
    pub edge: FaultEdge,
    /// Who is struck, in words.
    pub detail: String,
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
    /// Makes a server apply something else than what is in its log, when it next can.
    Misapply(u16),
    /// Makes each sync of a disk take longer by so much.
    Slow(u16, u64),
    /// Takes that back.
    Quicken(u16, u64),
    /// Sets by how much a clock deviates from true time, in parts per million.
    Drift(u16, i32),
    Freeze(u16),
    /// Lets a clock go on, from where it stood or, if so, from where it would be.
    Thaw(u16, bool),
    /// Puts a clock ahead.
    Leap(u16, u64),
    /// Tells that a fault goes on or ends.
    Tell(FaultEvent),
}

/// What a nemesis sees when it wakes.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// For each server, whether it runs and is not paused.
    pub(crate) running: Vec<bool>,
    /// For each server, whether the others count on it.
    pub(crate) members: Vec<bool>,
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
    /// None for faults that strike single messages, which the network has, and for what the system
    /// itself does.
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
            FaultSpec::Pause { duration, target, .. } => self.pause(view, duration, target),
            FaultSpec::Partition { duration, shapes, .. } => {
                self.partition(view, duration, &shapes)
            }
            FaultSpec::OneWayPartition { duration, target, direction, .. } => {
                self.one_way(view, duration, target, direction)
            }
            FaultSpec::DelaySpike { duration, delay, .. } => {
                Some(self.delay_spike(view, duration, delay))
            }
            FaultSpec::BitRot { downtime, victims, .. } => {
                Some(self.bit_rot(view, downtime, victims))
            }
            FaultSpec::Misapply { .. } => Some(self.misapply(view)),
            FaultSpec::DiskFull { duration, .. } => Some(self.disk_full(view, duration)),
            FaultSpec::Swizzle { step, .. } => Some(self.swizzle(view, step)),
            FaultSpec::Bridge { duration, .. } => self.bridge(view, duration),
            FaultSpec::MajoritiesRing { duration, .. } => self.majorities_ring(view, duration),
            FaultSpec::Flapping { duration, period, target, .. } => {
                self.flapping(view, duration, period, target)
            }
            FaultSpec::ClockDrift { drift_max, .. } => Some(self.clock_drift(view, drift_max)),
            FaultSpec::ClockFreeze { duration, .. } => Some(self.clock_freeze(view, duration)),
            FaultSpec::ClockJump { ahead, .. } => Some(self.clock_jump(view, ahead)),
            FaultSpec::SlowDisk { duration, delay, target, .. } => {
                self.slow_disk(view, duration, delay, target)
            }
            FaultSpec::Loss { .. }
            | FaultSpec::Duplicate { .. }
            | FaultSpec::Reorder { .. }
            | FaultSpec::TornWrite
            | FaultSpec::Membership(_) => None,
        };
        let pause = match &strike {
            Some(strike) if self.spec.is_spaced() => {
                strike.length() + self.rng.around(self.interval)
            }
            Some(_) => self.rng.around(self.interval),
            None => RETRY,
        };
        (strike, pause)
    }

    /// A server that a fault strikes which leaves it running: any, or one that leads something.
    fn one_of(&mut self, view: &View, target: Target) -> Option<u16> {
        match target {
            Target::Any => Some(self.rng.index(view.running.len()) as u16),
            Target::Leader if view.leaders.is_empty() => None,
            Target::Leader => Some(view.leaders[self.rng.index(view.leaders.len())]),
        }
    }
}

impl Strike {
    /// Adds the news of the end to what happens last.
    pub(super) fn ending(mut self, kind: FaultKind) -> Self {
        let event = FaultEvent { kind, edge: FaultEdge::Ends, detail: self.detail.clone() };
        if let Some((_, last)) = self.later.last_mut() {
            last.push(Action::Tell(event));
        }
        self
    }

    /// How long until all of it is over. What follows stands in order.
    fn length(&self) -> u64 {
        self.later.last().map_or(0, |(at, _)| *at)
    }

    /// Whether it lasts and tells of its end.
    pub(crate) fn lasts(&self) -> bool {
        !self.later.is_empty()
    }
}

pub(super) fn names(servers: &[u16]) -> String {
    let names: Vec<String> =
        servers.iter().map(|index| ProcessId::Server(*index).to_string()).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests;
