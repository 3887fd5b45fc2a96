//! Scenarios: TOML files that say what runs, on what, and what breaks.
//!
//! Every key has a default, so an empty file is a scenario. Nothing else is taken: an unknown key,
//! a value of the wrong type or an impossible one is an error, and all errors of a file are
//! reported together, with line and column.
//!
//! ```toml
//! name = "crash"                 # default: the name of the file
//! description = "what it shows"
//!
//! [cluster]
//! nodes = 5
//! spares = 0                     # servers beside those, with empty disks, that may join
//! shards = 8
//! replicas = 3                   # default: the protocol's
//! heartbeat_ms = 100
//! election_min_ms = 1000
//! election_max_ms = 2000
//! retention_seconds = 5          # how far back what was true can be read
//!
//! [run]
//! safety_seconds = 60            # below 60 the run is invalid
//! liveness_seconds = 30          # budget for converging
//! expect = "convergence"         # or "refusal": so much is damaged that it may be refused for good
//! checks = []                    # of availability: bridge, majorities-ring, flapping, slow-disk, membership
//!
//! [workload]
//! kind = "register"              # few keys: read, write, cas; or "kv": many keys; or transactions:
//!                                # bank, list-append, rw-register, write-skew, long-fork, phantom,
//!                                # deadlock, ordered, hot-keys; or sessions
//! clients = 10
//! rate_per_client = 10.0         # operations per second; absent: the next when the last has ended
//! keys = 8                       # default: 10,000 for kv, 16 for rw-register, write-skew and
//!                                # sessions, 3 for hot-keys, 8 else
//! operations_max = 5             # of a transaction of list-append, rw-register or ordered
//! abandon_rate = 0               # share of transactions whose client dies in the middle
//! scan_rate = 0                  # share of transactions of a bank that scan all accounts
//! value_bytes = 16
//! operation_timeout_ms = 5000
//! mix = { get = 4, put = 4, delete = 1, cas = 1 }
//!
//! [network]                      # uniform between min and max; with a mean: exponential above min
//! latency_min_us = 500
//! latency_max_us = 2000
//! link = [{ from = "n1", to = "n2", latency_min_us = 40000, latency_max_us = 80000 }]
//!
//! [disk]
//! sync_min_us = 200
//! sync_mean_us = 1000
//! sync_max_us = 20000
//!
//! [faults.crash]                 # each table declares a kind of fault, which must strike
//! interval_seconds = 8
//! downtime_seconds = 2
//! target = "any"                 # or "leader"
//! storm_rate = 0.1               # chance of another crash right after the restart
//!
//! [faults.power-loss]            # interval_seconds, downtime_seconds
//! [faults.pause]                 # interval_seconds, duration_seconds, target
//! [faults.partition]             # interval_seconds, duration_seconds, kinds: one, minority, halves, leader, random
//! [faults.one-way-partition]     # interval_seconds, duration_seconds, target, direction: any, inbound, outbound
//! [faults.delay-spike]           # interval_seconds, duration_seconds, delay_ms
//! [faults.loss]                  # rate
//! [faults.duplicate]             # rate, delay_max_ms
//! [faults.reorder]               # rate, delay_max_ms
//! [faults.bit-rot]               # interval_seconds, downtime_seconds, servers: minority or all
//! [faults.disk-full]             # interval_seconds, duration_seconds
//! [faults.torn-write]            # nothing: a crash or power loss must leave some
//! [faults.swizzle]               # interval_seconds, step_seconds
//! [faults.bridge]                # interval_seconds, duration_seconds
//! [faults.majorities-ring]       # interval_seconds, duration_seconds
//! [faults.flapping]              # interval_seconds, duration_seconds, period_ms, target
//! [faults.clock-drift]           # interval_seconds, drift_max
//! [faults.clock-freeze]          # interval_seconds, duration_seconds
//! [faults.clock-jump]            # interval_seconds, ahead_seconds
//! [faults.slow-disk]             # interval_seconds, duration_seconds, delay_ms, target
//! [faults.membership]            # interval_seconds, kinds: add, remove, replace, nodes_min, nodes_max,
//!                                # changes, moves_min
//! ```

mod faults;
mod file;
mod nearest;
mod reader;
mod workload;

use toml::de::DeTable;

use crate::engine::{
    ClockProfile, DiskProfile, FaultKind, FaultSpec, Latency, LinkProfile, Membership,
    NetworkProfile, Probes, ProcessId, RunConfig,
};
use reader::{Problems, Reader};

pub use file::{LoadError, load};
pub use reader::Problem;
pub use workload::{Mix, Workload, WorkloadKind};

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;
/// Nanoseconds in a millisecond.
const MILLISECOND: f64 = 1e6;
/// Nanoseconds in a microsecond.
const MICROSECOND: f64 = 1e3;

/// A scenario, checked. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The name in reports.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The servers.
    pub cluster: Cluster,
    /// Length of the safety phase.
    pub safety: u64,
    /// Budget of the liveness phase.
    pub liveness: u64,
    /// What the liveness phase must come to.
    pub expect: Expect,
    /// What is checked beside that.
    pub checks: Vec<AvailabilityCheck>,
    /// The clients.
    pub workload: Workload,
    /// The network without its faults.
    pub network: NetworkProfile,
    /// The disks.
    pub disk: DiskProfile,
    /// The declared faults.
    pub faults: Vec<FaultSpec>,
}

/// What a run must come to when all that can be healed is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// All servers but those with damaged data are equal and serve everything.
    Convergence,
    /// So much may be damaged that nothing can be served. Then it is refused.
    Refusal,
}

/// A check of how well the system serves while one kind of fault lasts. Its name, and what it needs,
/// is that of the kind; see [docs/simulation.md](../../../docs/simulation.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AvailabilityCheck {
    /// Behind a bridge every shard takes writes and keeps its leader.
    Bridge,
    /// On a ring of majorities every shard takes writes and has few leaders.
    MajoritiesRing,
    /// Links that flap cost at most one leader each time, and every shard takes writes.
    Flapping,
    /// A server that hears nothing, or is not heard, costs at most one leader, and every shard takes
    /// writes.
    OneWayPartition,
    /// A server with a slow disk leads no longer, and the others make up for it.
    SlowDisk,
    /// No call fails while members change.
    Membership,
}

impl AvailabilityCheck {
    /// The kind of fault during which it looks.
    pub fn fault(self) -> FaultKind {
        match self {
            Self::Bridge => FaultKind::Bridge,
            Self::MajoritiesRing => FaultKind::MajoritiesRing,
            Self::Flapping => FaultKind::Flapping,
            Self::OneWayPartition => FaultKind::OneWayPartition,
            Self::SlowDisk => FaultKind::SlowDisk,
            Self::Membership => FaultKind::Membership,
        }
    }
}

/// The servers of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How many form the cluster.
    pub nodes: u16,
    /// How many there are beside those, with empty disks.
    pub spares: u16,
    /// How many user shards.
    pub shards: u32,
    /// Replicas of each shard; none: the protocol's default.
    pub replicas: Option<u32>,
    /// Between two signs of life of a leader.
    pub heartbeat: u64,
    /// Shortest time without a leader after which a replica campaigns.
    pub election_min: u64,
    /// Longest such time.
    pub election_max: u64,
    /// How far back what was true can be read.
    pub retention: u64,
    /// By how much, in a million, clocks may run fast or slow for leaders to read by leases; none:
    /// they do not.
    pub lease_drift: Option<u32>,
}

impl Cluster {
    /// How many replicas a shard has.
    pub fn voters(&self) -> u32 {
        let odd = |count: u32| if count.is_multiple_of(2) { count - 1 } else { count };
        self.replicas.unwrap_or_else(|| odd(u32::from(self.nodes.min(7))))
    }
}

impl Scenario {
    /// Reads a scenario, or lists everything that is wrong with it. `name` is used if the text does
    /// not give one.
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let problems = Problems::default();
        for error in errors {
            problems.add(error.span().map_or(0, |span| span.start), error.message().to_owned());
        }
        let scenario = Self::read(Reader::new(&root, &problems), name);
        let problems = problems.into_list(text);
        if problems.is_empty() { Ok(scenario) } else { Err(problems) }
    }

    fn read(mut reader: Reader<'_>, name: &str) -> Self {
        let name = reader.text("name").unwrap_or(name).to_owned();
        let description = reader.text("description").unwrap_or_default().to_owned();
        let cluster = section(&mut reader, "cluster", cluster);
        let expectations = [("convergence", Expect::Convergence), ("refusal", Expect::Refusal)];
        let (safety, liveness, expect, checks) = section(&mut reader, "run", |reader| {
            (
                reader.time("safety_seconds", 60.0, SECOND, 1.0..=36_000.0),
                reader.time("liveness_seconds", 30.0, SECOND, 1.0..=3_600.0),
                reader.choice("expect", Expect::Convergence, &expectations),
                reader.optional_choices("checks", &AVAILABILITY_CHECKS),
            )
        });
        let workload = section(&mut reader, "workload", workload::read);
        let processes = (cluster.nodes + cluster.spares, workload.clients);
        let network = section(&mut reader, "network", |reader| network(reader, processes));
        let disk = section(&mut reader, "disk", disk);
        let faults = section(&mut reader, "faults", faults::read);
        faults::check_nodes(&reader, &faults, &cluster);
        check_availability(&reader, &cluster, &checks, &faults);
        reader.finish();
        Self {
            name,
            description,
            cluster,
            safety,
            liveness,
            expect,
            checks,
            workload,
            network,
            disk,
            faults,
        }
    }

    /// How the members change, if they do.
    pub fn membership(&self) -> Option<&Membership> {
        self.faults.iter().find_map(|fault| match fault {
            FaultSpec::Membership(plan) => Some(plan),
            _ => None,
        })
    }

    /// The run of this scenario with a seed. Where members change there is an operator behind the
    /// clients.
    pub fn run_config(&self, seed: u64) -> RunConfig {
        RunConfig {
            seed,
            servers: self.cluster.nodes + self.cluster.spares,
            clients: self.workload.clients + u16::from(self.membership().is_some()),
            safety: self.safety,
            liveness: self.liveness,
            network: self.network.clone(),
            disk: self.disk,
            clocks: ClockProfile::default(),
            faults: self.faults.clone(),
            probes: Probes::default(),
        }
    }
}

const AVAILABILITY_CHECKS: [(&str, AvailabilityCheck); 6] = [
    ("bridge", AvailabilityCheck::Bridge),
    ("majorities-ring", AvailabilityCheck::MajoritiesRing),
    ("flapping", AvailabilityCheck::Flapping),
    ("one-way-partition", AvailabilityCheck::OneWayPartition),
    ("slow-disk", AvailabilityCheck::SlowDisk),
    ("membership", AvailabilityCheck::Membership),
];

/// A check of availability says what one kind of fault does, so it needs that kind and no other;
/// where it counts on majorities of the servers, every shard must be on all of them.
fn check_availability(
    reader: &Reader<'_>,
    cluster: &Cluster,
    checks: &[AvailabilityCheck],
    faults: &[FaultSpec],
) {
    let is_everywhere = cluster.voters() == u32::from(cluster.nodes);
    for check in checks {
        let kind = check.fault();
        if faults.iter().all(|fault| fault.kind() != kind) {
            reader.fail("run", format_args!("checks \"{kind}\", so `faults.{kind}` must be there"));
        }
        if let Some(other) = faults.iter().map(FaultSpec::kind).find(|other| *other != kind) {
            reader.fail(
                "run",
                format_args!("checks \"{kind}\", so `faults.{other}` must not be there"),
            );
        }
        let counts = matches!(check, AvailabilityCheck::Bridge | AvailabilityCheck::MajoritiesRing);
        if counts && !is_everywhere {
            reader.fail(
                "run",
                format_args!(
                    "checks \"{kind}\", so `cluster.replicas` must be the number of nodes"
                ),
            );
        }
    }
}

/// A section; one that is not there has all its defaults.
fn section<T>(
    reader: &mut Reader<'_>,
    key: &'static str,
    read: impl Fn(&mut Reader<'_>) -> T,
) -> T {
    match reader.table(key, |reader| read(reader)) {
        Some(value) => value,
        None => reader.absent(read),
    }
}

fn cluster(reader: &mut Reader<'_>) -> Cluster {
    let milliseconds = |reader: &mut Reader<'_>, key, default| {
        reader.time(key, default, MILLISECOND, 1.0..=600_000.0)
    };
    let cluster = Cluster {
        nodes: reader.integer("nodes", 5, 1..=100) as u16,
        spares: reader.integer("spares", 0, 0..=100) as u16,
        shards: reader.integer("shards", 8, 1..=1_024) as u32,
        replicas: reader.optional_integer("replicas", 1..=99).map(|replicas| replicas as u32),
        heartbeat: milliseconds(reader, "heartbeat_ms", 100.0),
        election_min: milliseconds(reader, "election_min_ms", 1_000.0),
        election_max: milliseconds(reader, "election_max_ms", 2_000.0),
        retention: reader.time("retention_seconds", 5.0, SECOND, 0.1..=86_400.0),
        lease_drift: reader
            .optional_integer("lease_drift_max_ppm", 0..=500_000)
            .map(|ppm| ppm as u32),
    };
    if !cluster.shards.is_power_of_two() {
        reader.fail("shards", format_args!("must be a power of two, not {}", cluster.shards));
    }
    if let Some(replicas) = cluster.replicas
        && (replicas % 2 == 0 || replicas > u32::from(cluster.nodes))
    {
        reader.fail(
            "replicas",
            format_args!("must be odd and at most the number of nodes, {}", cluster.nodes),
        );
    }
    if cluster.election_min < 3 * cluster.heartbeat {
        reader.fail("election_min_ms", "must be at least three heartbeats");
    }
    if cluster.election_max < cluster.election_min + cluster.heartbeat {
        reader.fail("election_max_ms", "must be at least `election_min_ms` and one heartbeat more");
    }
    cluster
}

const LATENCY_KEYS: [&str; 3] = ["latency_min_us", "latency_mean_us", "latency_max_us"];
const SYNC_KEYS: [&str; 3] = ["sync_min_us", "sync_mean_us", "sync_max_us"];

/// Shortest, mean and longest. Without a mean the default's holds only if nothing else is given
/// either.
fn latency(
    reader: &mut Reader<'_>,
    [min, mean, max]: [&'static str; 3],
    default: Latency,
) -> Latency {
    let given = reader.has(min) || reader.has(max);
    let micros = |reader: &mut Reader<'_>, key, default: u64| {
        reader.time(key, default as f64 / MICROSECOND, MICROSECOND, 0.0..=60_000_000.0)
    };
    let latency = Latency {
        min: micros(reader, min, default.min),
        mean: reader
            .optional_number(mean, 0.0..=60_000_000.0)
            .map(|mean| (mean * MICROSECOND) as u64)
            .or_else(|| default.mean.filter(|_| !given)),
        max: micros(reader, max, default.max),
    };
    if latency.min > latency.max {
        reader.fail(max, format_args!("must not be below `{min}`"));
    } else if latency.mean.is_some_and(|mean| mean < latency.min || mean > latency.max) {
        reader.fail(mean, format_args!("must lie between `{min}` and `{max}`"));
    }
    latency
}

fn network(reader: &mut Reader<'_>, processes: (u16, u16)) -> NetworkProfile {
    let default = latency(reader, LATENCY_KEYS, NetworkProfile::default().latency);
    let links = reader.tables("link", |reader| {
        let from = process(reader, "from", processes);
        let to = process(reader, "to", processes);
        let latency = latency(reader, LATENCY_KEYS, default);
        let link = from.zip(to).map(|(from, to)| LinkProfile { from, to, latency });
        if matches!(
            link,
            Some(LinkProfile { from: ProcessId::Client(_), to: ProcessId::Client(_), .. })
        ) {
            reader.fail("to", "must be a server: there are no links between clients");
        }
        link
    });
    NetworkProfile { latency: default, links: links.into_iter().flatten().collect() }
}

/// `n1` is the first server, `c1` the first client.
fn process(
    reader: &mut Reader<'_>,
    key: &'static str,
    (servers, clients): (u16, u16),
) -> Option<ProcessId> {
    if !reader.has(key) {
        reader.fail(key, "is missing");
    }
    let name = reader.text(key)?;
    let number = |prefix, count| {
        let number = name.strip_prefix(prefix).and_then(|digits: &str| digits.parse::<u16>().ok());
        number.filter(|number| (1..=count).contains(number)).map(|number| number - 1)
    };
    let process = number('n', servers).map(ProcessId::Server);
    let process = process.or_else(|| number('c', clients).map(ProcessId::Client));
    if process.is_none() {
        reader.fail(
            key,
            format_args!("must be a server, n1 to n{servers}, or a client, c1 to c{clients}"),
        );
    }
    process
}

fn disk(reader: &mut Reader<'_>) -> DiskProfile {
    let default = DiskProfile::default();
    DiskProfile { sync: latency(reader, SYNC_KEYS, default.sync), ..default }
}

#[cfg(test)]
mod tests;
