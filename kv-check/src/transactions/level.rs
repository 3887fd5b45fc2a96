//! Levels of isolation, and the anomalies that rule them out.
//!
//! Adya (PhD thesis, MIT 1999) defines levels by the cycles that they forbid; Elle (Kingsbury and
//! Alvaro, VLDB 2020) adds what a list shows without a cycle, and variants whose cycles may also use
//! the order of a process or of real time. Snapshot isolation forbids cycles in which no two edges
//! against reads are adjacent (Cerone and Gotsman, JACM 2018).
//!
//! Transactions here read single keys, never ranges, so repeatable read and serializable are the
//! same.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Which cycle it is, from the worst to the mildest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cycle {
    /// Only of writes that overwrite each other.
    G0,
    /// Of writes, and reads of what was written.
    G1c,
    /// With exactly one write over what was read.
    GSingle,
    /// With several of these, but no two adjacent.
    GNonadjacent,
    /// With two adjacent ones, as in write skew.
    G2,
}

/// What order a cycle uses besides that of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// None.
    Item,
    /// That of processes.
    Process,
    /// That of real time, and maybe that of processes.
    RealTime,
}

/// What should not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnomalyKind {
    /// A list holds an element twice.
    DuplicateElements,
    /// A read saw what nobody wrote.
    GarbageRead,
    /// A committed write went over an aborted one.
    DirtyUpdate,
    /// G1a: a read saw a write of a transaction that aborted.
    AbortedRead,
    /// G1b: a read saw a version that its transaction replaced itself.
    IntermediateRead,
    /// A read saw what its own transaction wrote later.
    FutureRead,
    /// Two reads saw a list in orders that no one order explains.
    IncompatibleOrder,
    /// A read does not agree with what its transaction read and wrote before.
    Internal,
    /// A transaction saw a part of what another one wrote, but not all.
    FracturedRead,
    /// Two transactions read the same version and both wrote the key.
    LostUpdate,
    /// A cycle.
    Cycle(Cycle, Variant),
    /// No order exists, although each cycle can be avoided alone.
    NoOrder,
}

/// A level of isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// PL-1: writes do not interleave.
    ReadUncommitted,
    /// PL-2: reads see final writes of committed transactions.
    ReadCommitted,
    /// Transactions are seen whole or not at all.
    ReadAtomic,
    /// Read committed without lost updates.
    CursorStability,
    /// Read atomic without lost updates.
    UpdateAtomic,
    /// PL-2+: reads see a consistent state.
    ConsistentView,
    /// Reads see one moment, and no two concurrent transactions write the same key.
    SnapshotIsolation,
    /// PL-2.99: serializable as far as single keys go.
    RepeatableRead,
    /// PL-3: as if one ran after the other.
    Serializable,
    /// Read committed, in an order that keeps that of each process.
    StrongSessionReadCommitted,
    /// Snapshot isolation, in an order that keeps that of each process.
    StrongSessionSnapshotIsolation,
    /// Serializable, in an order that keeps that of each process.
    StrongSessionSerializable,
    /// Snapshot isolation, in an order that keeps real time.
    StrongSnapshotIsolation,
    /// Serializable, in an order that keeps real time.
    StrictSerializable,
}

/// The names of all levels, for people, a weaker one before those that imply it.
pub const LEVEL_NAMES: [(&str, Level); 14] = [
    ("read-uncommitted", Level::ReadUncommitted),
    ("read-committed", Level::ReadCommitted),
    ("read-atomic", Level::ReadAtomic),
    ("cursor-stability", Level::CursorStability),
    ("update-atomic", Level::UpdateAtomic),
    ("consistent-view", Level::ConsistentView),
    ("snapshot-isolation", Level::SnapshotIsolation),
    ("repeatable-read", Level::RepeatableRead),
    ("serializable", Level::Serializable),
    ("strong-session-read-committed", Level::StrongSessionReadCommitted),
    ("strong-session-snapshot-isolation", Level::StrongSessionSnapshotIsolation),
    ("strong-session-serializable", Level::StrongSessionSerializable),
    ("strong-snapshot-isolation", Level::StrongSnapshotIsolation),
    ("strict-serializable", Level::StrictSerializable),
];

impl Level {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        LEVEL_NAMES[self as usize].0
    }

    /// Which cycles it forbids: all that are at least as bad.
    pub(crate) fn cycles(self) -> (Cycle, Variant) {
        match self {
            Self::ReadUncommitted => (Cycle::G0, Variant::Item),
            Self::ReadCommitted | Self::ReadAtomic => (Cycle::G1c, Variant::Item),
            Self::CursorStability | Self::UpdateAtomic => (Cycle::G1c, Variant::Item),
            Self::ConsistentView => (Cycle::GSingle, Variant::Item),
            Self::SnapshotIsolation => (Cycle::GNonadjacent, Variant::Item),
            Self::RepeatableRead | Self::Serializable => (Cycle::G2, Variant::Item),
            Self::StrongSessionReadCommitted => (Cycle::G1c, Variant::Process),
            Self::StrongSessionSnapshotIsolation => (Cycle::GNonadjacent, Variant::Process),
            Self::StrongSessionSerializable => (Cycle::G2, Variant::Process),
            Self::StrongSnapshotIsolation => (Cycle::GNonadjacent, Variant::RealTime),
            Self::StrictSerializable => (Cycle::G2, Variant::RealTime),
        }
    }

    /// Whether whatever keeps this level keeps the other one.
    pub(crate) fn implies(self, other: Self) -> bool {
        let ((cycle, variant), (other_cycle, other_variant)) = (self.cycles(), other.cycles());
        match self {
            _ if self == other || other == Self::ReadUncommitted => true,
            _ if other_variant > variant || other_cycle > cycle => false,
            _ if cycle > Cycle::G1c => true,
            Self::UpdateAtomic if other == Self::ReadAtomic => true,
            Self::UpdateAtomic if other == Self::CursorStability => true,
            _ => other == Self::ReadCommitted && self != Self::ReadUncommitted,
        }
    }

    /// Whether it takes the order of all versions to say that it holds. Where serial orders or
    /// cycles of writes are forbidden, writes that nobody saw can always be ordered.
    pub(crate) fn needs_order(self) -> bool {
        matches!(self.cycles().0, Cycle::GSingle | Cycle::GNonadjacent)
    }

    /// Whether it holds if and only if there is an order of transactions, or of their starts and
    /// commits, that explains all reads.
    pub(crate) fn is_shown_by_order(self) -> bool {
        self.cycles().0 >= Cycle::GNonadjacent
    }

    /// Whether the anomaly rules it out.
    #[must_use]
    pub fn forbids(self, kind: AnomalyKind) -> bool {
        let (cycle, variant) = self.cycles();
        match kind {
            AnomalyKind::DuplicateElements | AnomalyKind::GarbageRead => true,
            AnomalyKind::DirtyUpdate
            | AnomalyKind::AbortedRead
            | AnomalyKind::IntermediateRead
            | AnomalyKind::FutureRead
            | AnomalyKind::IncompatibleOrder => self != Self::ReadUncommitted,
            AnomalyKind::Internal | AnomalyKind::FracturedRead => {
                cycle > Cycle::G1c || matches!(self, Self::ReadAtomic | Self::UpdateAtomic)
            }
            AnomalyKind::LostUpdate => {
                cycle > Cycle::G1c || matches!(self, Self::CursorStability | Self::UpdateAtomic)
            }
            AnomalyKind::Cycle(found, used) => found <= cycle && used <= variant,
            AnomalyKind::NoOrder => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = LEVEL_NAMES.iter().find(|(known, _)| *known == name);
        let names = LEVEL_NAMES.map(|(name, _)| name).join(", ");
        found.map(|(_, level)| *level).ok_or_else(|| format!("expected one of {names}"))
    }
}

impl Serialize for Level {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cycle, variant) = match self {
            Self::DuplicateElements => return out.write_str("duplicate-elements"),
            Self::GarbageRead => return out.write_str("garbage-read"),
            Self::DirtyUpdate => return out.write_str("dirty-update"),
            Self::AbortedRead => return out.write_str("G1a"),
            Self::IntermediateRead => return out.write_str("G1b"),
            Self::FutureRead => return out.write_str("future-read"),
            Self::IncompatibleOrder => return out.write_str("incompatible-order"),
            Self::Internal => return out.write_str("internal"),
            Self::FracturedRead => return out.write_str("fractured-read"),
            Self::LostUpdate => return out.write_str("lost-update"),
            Self::NoOrder => return out.write_str("no-order"),
            Self::Cycle(cycle, variant) => (cycle, variant),
        };
        out.write_str(match cycle {
            Cycle::G0 => "G0",
            Cycle::G1c => "G1c",
            Cycle::GSingle => "G-single-item",
            Cycle::GNonadjacent => "G-nonadjacent-item",
            Cycle::G2 => "G2-item",
        })?;
        out.write_str(match variant {
            Variant::Item => "",
            Variant::Process => "-process",
            Variant::RealTime => "-realtime",
        })
    }
}

impl Serialize for AnomalyKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
