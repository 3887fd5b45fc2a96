//! The `[faults.*]` tables: each declares one kind of fault, which then strikes in every run.

use super::reader::Reader;
use super::{Cluster, MILLISECOND, SECOND};
use crate::engine::{
    Direction, FaultKind, FaultSpec, MemberChange, Membership, Shape, Target, Victims,
};

/// Longest interval: a fault must have its turn in the shortest safety phase that counts.
const INTERVAL_MAX: f64 = 30.0;

const SHAPES: [(&str, Shape); 5] = [
    ("one", Shape::One),
    ("minority", Shape::Minority),
    ("halves", Shape::Halves),
    ("leader", Shape::Leader),
    ("random", Shape::Random),
];

const TARGETS: [(&str, Target); 2] = [("any", Target::Any), ("leader", Target::Leader)];

const CHANGES: [(&str, MemberChange); 3] = [
    ("add", MemberChange::Add),
    ("remove", MemberChange::Remove),
    ("replace", MemberChange::Replace),
];

const DIRECTIONS: [(&str, Direction); 3] =
    [("any", Direction::Any), ("inbound", Direction::Inbound), ("outbound", Direction::Outbound)];

pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<FaultSpec> {
    let mut faults = Vec::new();
    faults.extend(reader.table("crash", crash));
    faults.extend(reader.table("power-loss", |reader| FaultSpec::PowerLoss {
        interval: interval(reader, 15.0),
        downtime: seconds(reader, "downtime_seconds", 1.0),
    }));
    faults.extend(reader.table("pause", |reader| FaultSpec::Pause {
        interval: interval(reader, 8.0),
        duration: seconds(reader, "duration_seconds", 3.0),
        target: reader.choice("target", Target::Any, &TARGETS),
    }));
    faults.extend(reader.table("partition", |reader| FaultSpec::Partition {
        interval: interval(reader, 8.0),
        duration: seconds(reader, "duration_seconds", 4.0),
        shapes: reader.choices("kinds", &SHAPES),
    }));
    faults.extend(reader.table("one-way-partition", |reader| FaultSpec::OneWayPartition {
        interval: interval(reader, 8.0),
        duration: seconds(reader, "duration_seconds", 4.0),
        target: reader.choice("target", Target::Any, &TARGETS),
        direction: reader.choice("direction", Direction::Any, &DIRECTIONS),
    }));
    faults.extend(reader.table("delay-spike", |reader| FaultSpec::DelaySpike {
        interval: interval(reader, 6.0),
        duration: seconds(reader, "duration_seconds", 2.0),
        delay: milliseconds(reader, "delay_ms", 200.0),
    }));
    faults.extend(reader.table("loss", |reader| FaultSpec::Loss { rate: rate(reader, 0.02, 0.5) }));
    faults.extend(reader.table("duplicate", |reader| FaultSpec::Duplicate {
        rate: rate(reader, 0.02, 1.0),
        delay_max: milliseconds(reader, "delay_max_ms", 50.0),
    }));
    faults.extend(reader.table("reorder", |reader| FaultSpec::Reorder {
        rate: rate(reader, 0.05, 1.0),
        delay_max: milliseconds(reader, "delay_max_ms", 50.0),
    }));
    faults.extend(reader.table("bit-rot", |reader| FaultSpec::BitRot {
        interval: interval(reader, 10.0),
        downtime: seconds(reader, "downtime_seconds", 1.0),
        victims: reader.choice(
            "servers",
            Victims::Minority,
            &[("minority", Victims::Minority), ("all", Victims::All)],
        ),
    }));
    faults.extend(reader.table("disk-full", |reader| FaultSpec::DiskFull {
        interval: interval(reader, 10.0),
        duration: seconds(reader, "duration_seconds", 4.0),
    }));
    faults.extend(reader.table("torn-write", |_| FaultSpec::TornWrite));
    faults.extend(
        reader.table("misapply", |reader| FaultSpec::Misapply { interval: interval(reader, 10.0) }),
    );
    read_links(reader, &mut faults);
    read_clocks(reader, &mut faults);
    faults.extend(reader.table("slow-disk", |reader| FaultSpec::SlowDisk {
        interval: interval(reader, 10.0),
        duration: seconds(reader, "duration_seconds", 10.0),
        delay: milliseconds(reader, "delay_ms", 600.0),
        target: reader.choice("target", Target::Any, &TARGETS),
    }));
    faults.extend(reader.table("membership", |reader| {
        FaultSpec::Membership(Membership {
            interval: interval(reader, 5.0),
            kinds: reader.choices("kinds", &CHANGES),
            nodes_min: reader.integer("nodes_min", 3, 1..=200) as u16,
            nodes_max: reader.integer("nodes_max", 7, 1..=200) as u16,
            changes: reader.optional_integer("changes", 1..=10_000).map(|changes| changes as u32),
            moves_min: reader.integer("moves_min", 1, 0..=1_000_000),
        })
    }));
    faults
}

/// What divides the servers otherwise than in two.
fn read_links(reader: &mut Reader<'_>, faults: &mut Vec<FaultSpec>) {
    faults.extend(reader.table("swizzle", |reader| FaultSpec::Swizzle {
        interval: interval(reader, 5.0),
        step: seconds(reader, "step_seconds", 1.0),
    }));
    faults.extend(reader.table("bridge", |reader| FaultSpec::Bridge {
        interval: interval(reader, 8.0),
        duration: seconds(reader, "duration_seconds", 10.0),
    }));
    faults.extend(reader.table("majorities-ring", |reader| FaultSpec::MajoritiesRing {
        interval: interval(reader, 8.0),
        duration: seconds(reader, "duration_seconds", 10.0),
    }));
    faults.extend(reader.table("flapping", |reader| FaultSpec::Flapping {
        interval: interval(reader, 8.0),
        duration: seconds(reader, "duration_seconds", 10.0),
        period: milliseconds(reader, "period_ms", 1_500.0),
        target: reader.choice("target", Target::Any, &TARGETS),
    }));
}

fn read_clocks(reader: &mut Reader<'_>, faults: &mut Vec<FaultSpec>) {
    faults.extend(reader.table("clock-drift", |reader| FaultSpec::ClockDrift {
        interval: interval(reader, 4.0),
        drift_max: reader.rate("drift_max", 0.2, 0.000_001..=0.5),
    }));
    faults.extend(reader.table("clock-freeze", |reader| FaultSpec::ClockFreeze {
        interval: interval(reader, 6.0),
        duration: seconds(reader, "duration_seconds", 3.0),
    }));
    faults.extend(reader.table("clock-jump", |reader| FaultSpec::ClockJump {
        interval: interval(reader, 6.0),
        ahead: seconds(reader, "ahead_seconds", 5.0),
    }));
}

/// With fewer servers a fault of these kinds could never strike.
pub(crate) fn check_nodes(reader: &Reader<'_>, faults: &[FaultSpec], cluster: &Cluster) {
    let Cluster { nodes, spares, .. } = *cluster;
    for fault in faults {
        if let FaultSpec::Membership(plan) = fault {
            check_plan(reader, plan, nodes, nodes + spares);
        }
    }
    for kind in faults.iter().map(FaultSpec::kind) {
        let least = match kind {
            FaultKind::Bridge => 3,
            FaultKind::MajoritiesRing => 4,
            _ => 1,
        };
        if nodes < least {
            reader.fail("faults", format_args!("declares {kind}, which needs {least} nodes"));
        }
    }
}

/// There must be room for every kind of change.
fn check_plan(reader: &Reader<'_>, plan: &Membership, nodes: u16, servers: u16) {
    let Membership { nodes_min, nodes_max, .. } = *plan;
    if !(nodes_min <= nodes && nodes <= nodes_max && nodes_max <= servers) {
        reader.fail(
            "faults",
            format_args!(
                "declares membership, where nodes_min ({nodes_min}), nodes ({nodes}), nodes_max \
                 ({nodes_max}) and all servers ({servers}) must not fall"
            ),
        );
    }
    if plan.kinds.contains(&MemberChange::Replace) && nodes_max == servers {
        reader.fail("faults", "declares membership with \"replace\", which needs a spare server");
    }
}

fn crash(reader: &mut Reader<'_>) -> FaultSpec {
    FaultSpec::Crash {
        interval: interval(reader, 8.0),
        downtime: seconds(reader, "downtime_seconds", 2.0),
        target: reader.choice("target", Target::Any, &TARGETS),
        storm: reader.rate("storm_rate", 0.1, 0.0..=0.9),
    }
}

fn interval(reader: &mut Reader<'_>, default: f64) -> u64 {
    reader.time("interval_seconds", default, SECOND, 0.1..=INTERVAL_MAX)
}

fn seconds(reader: &mut Reader<'_>, key: &'static str, default: f64) -> u64 {
    reader.time(key, default, SECOND, 0.001..=60.0)
}

fn milliseconds(reader: &mut Reader<'_>, key: &'static str, default: f64) -> u64 {
    reader.time(key, default, MILLISECOND, 0.001..=60_000.0)
}

/// A rate of nothing would declare a fault that cannot strike.
fn rate(reader: &mut Reader<'_>, default: f64, max: f64) -> u32 {
    reader.rate("rate", default, 0.0001..=max)
}
