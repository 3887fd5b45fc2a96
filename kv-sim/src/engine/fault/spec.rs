//! The declared faults: kinds, and the parameters of each.

use std::fmt;

/// The kinds of faults. Rates are drawn by the number of a kind, so a new one comes last.
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
    /// Some servers lose all their links one after the other, and get them back in another order.
    Swizzle,
    /// Two halves cannot talk to each other, but one server between them talks to both.
    Bridge,
    /// Each server talks to a majority, and no two to the same one.
    MajoritiesRing,
    /// The links of a server are cut and mended again and again.
    Flapping,
    /// The clock of a server runs fast or slow.
    ClockDrift,
    /// The clock of a server stands still for a while.
    ClockFreeze,
    /// The clock of a server leaps ahead, as after a virtual machine was suspended.
    ClockJump,
    /// Each sync of a server's disk takes much longer for a while.
    SlowDisk,
    /// Servers join, leave, and replace one another. Counted when all that follows from it is over.
    Membership,
    /// A server applies something else than what is in its log, as if its memory lied, and leaves no
    /// damage behind that a checksum shows. Counted when it happens.
    Misapply,
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
            Self::Swizzle => "swizzle",
            Self::Bridge => "bridge",
            Self::MajoritiesRing => "majorities-ring",
            Self::Flapping => "flapping",
            Self::ClockDrift => "clock-drift",
            Self::ClockFreeze => "clock-freeze",
            Self::ClockJump => "clock-jump",
            Self::SlowDisk => "slow-disk",
            Self::Membership => "membership",
            Self::Misapply => "misapply",
        }
    }

    /// Whether it keeps processes from talking to one another, so that its end is a heal of the
    /// network.
    pub fn cuts_links(self) -> bool {
        matches!(
            self,
            Self::Partition
                | Self::OneWayPartition
                | Self::Swizzle
                | Self::Bridge
                | Self::MajoritiesRing
                | Self::Flapping
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any server. Crashes, pauses and one-way partitions strike leaders half of the time.
    Any,
    /// A server that leads something.
    Leader,
}

/// A change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberChange {
    /// A server joins that is none: a spare one, or one that was removed, with an empty disk.
    Add,
    /// A member leaves.
    Remove,
    /// A server joins, and a member leaves in its favour.
    Replace,
}

impl MemberChange {
    /// The name in scenarios and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Replace => "replace",
        }
    }
}

/// How the members change. See [`FaultKind::Membership`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// From the end of one change to the next, in nanoseconds.
    pub interval: u64,
    /// Which ones. Each must happen.
    pub kinds: Vec<MemberChange>,
    /// Members that stay at least.
    pub nodes_min: u16,
    /// Members at most.
    pub nodes_max: u16,
    /// Changes, exactly; none: as many as there is time for.
    pub changes: Option<u32>,
    /// How often shards must get other voters at least.
    pub moves_min: u64,
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

/// What a one-way partition takes from those whom it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Either, by the toss of a coin.
    Any,
    /// They hear nothing from the others.
    Inbound,
    /// The others hear nothing from them.
    Outbound,
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
        /// Whom.
        target: Target,
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
        /// Whom; any: a minority, or a leader half of the time.
        target: Target,
        /// What they lose.
        direction: Direction,
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
    /// See [`FaultKind::Swizzle`].
    Swizzle {
        /// From the end of one to the next.
        interval: u64,
        /// From one server to the next, both when links go and when they come back.
        step: u64,
    },
    /// See [`FaultKind::Bridge`].
    Bridge {
        /// From the end of one to the next.
        interval: u64,
        /// How long.
        duration: u64,
    },
    /// See [`FaultKind::MajoritiesRing`].
    MajoritiesRing {
        /// From the end of one to the next.
        interval: u64,
        /// How long.
        duration: u64,
    },
    /// See [`FaultKind::Flapping`].
    Flapping {
        /// From the end of one to the next.
        interval: u64,
        /// How long.
        duration: u64,
        /// From one cut to the next.
        period: u64,
        /// Whom.
        target: Target,
    },
    /// See [`FaultKind::ClockDrift`].
    ClockDrift {
        /// From one change of a rate to the next.
        interval: u64,
        /// Largest deviation from true time, in parts per million, either way.
        drift_max: u32,
    },
    /// See [`FaultKind::ClockFreeze`].
    ClockFreeze {
        /// From the end of one to the next.
        interval: u64,
        /// How long.
        duration: u64,
    },
    /// See [`FaultKind::ClockJump`].
    ClockJump {
        /// From one to the next.
        interval: u64,
        /// How far ahead.
        ahead: u64,
    },
    /// See [`FaultKind::SlowDisk`].
    SlowDisk {
        /// From the end of one to the next.
        interval: u64,
        /// How long.
        duration: u64,
        /// What is added to the time of a sync.
        delay: u64,
        /// Whom.
        target: Target,
    },
    /// See [`FaultKind::Membership`].
    Membership(Membership),
    /// See [`FaultKind::Misapply`].
    Misapply {
        /// From one to the next.
        interval: u64,
    },
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
            Self::Swizzle { .. } => FaultKind::Swizzle,
            Self::Bridge { .. } => FaultKind::Bridge,
            Self::MajoritiesRing { .. } => FaultKind::MajoritiesRing,
            Self::Flapping { .. } => FaultKind::Flapping,
            Self::ClockDrift { .. } => FaultKind::ClockDrift,
            Self::ClockFreeze { .. } => FaultKind::ClockFreeze,
            Self::ClockJump { .. } => FaultKind::ClockJump,
            Self::SlowDisk { .. } => FaultKind::SlowDisk,
            Self::Membership(_) => FaultKind::Membership,
            Self::Misapply { .. } => FaultKind::Misapply,
        }
    }

    /// The mean time between two strikes; none for faults that strike single messages, and for
    /// changes of the members, which the system makes.
    pub(super) fn interval(&self) -> Option<u64> {
        match self {
            Self::Crash { interval, .. }
            | Self::PowerLoss { interval, .. }
            | Self::Pause { interval, .. }
            | Self::Partition { interval, .. }
            | Self::OneWayPartition { interval, .. }
            | Self::DelaySpike { interval, .. }
            | Self::BitRot { interval, .. }
            | Self::DiskFull { interval, .. }
            | Self::Swizzle { interval, .. }
            | Self::Bridge { interval, .. }
            | Self::MajoritiesRing { interval, .. }
            | Self::Flapping { interval, .. }
            | Self::ClockDrift { interval, .. }
            | Self::ClockFreeze { interval, .. }
            | Self::ClockJump { interval, .. }
            | Self::SlowDisk { interval, .. }
            | Self::Misapply { interval } => Some(*interval),
            Self::Loss { .. }
            | Self::Duplicate { .. }
            | Self::Reorder { .. }
            | Self::TornWrite
            | Self::Membership(_) => None,
        }
    }

    /// Whether the next strike waits for the end of the one before. The checks of these look at one
    /// at a time.
    pub(super) fn is_spaced(&self) -> bool {
        matches!(
            self,
            Self::Swizzle { .. }
                | Self::Bridge { .. }
                | Self::MajoritiesRing { .. }
                | Self::Flapping { .. }
                | Self::ClockFreeze { .. }
                | Self::SlowDisk { .. }
        )
    }
}
