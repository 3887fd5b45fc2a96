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

mod disk;
mod link;
mod process;
mod spec;

use super::machine::ProcessId;
use super::rng::{Draw as _, Rng};
pub use spec::{FaultKind, FaultSpec, Shape, Target, Victims};

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

pub(super) fn names(servers: &[u16]) -> String {
    let names: Vec<String> =
        servers.iter().map(|index| ProcessId::Server(*index).to_string()).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests;
