//! What was measured, as tables and as JSON.

use serde_json::{Value, json};

use super::load::{KEY_COUNT, Measured, Operation, VALUE_BYTES};
use super::nodes::{Kind, NODE_COUNT};
use crate::stats::{grouped, median, with_spread};

/// One measurement of throughput.
pub struct Sample {
    /// The store.
    pub kind: Kind,
    /// What clients asked for.
    pub operation: Operation,
    /// What they saw.
    pub measured: Measured,
    /// CPU time of all nodes per operation, in microseconds.
    pub server_cpu_us: f64,
    /// CPU time of the clients per operation, in microseconds.
    pub client_cpu_us: f64,
    /// Syncs of the logs of all nodes, those of the second for warming up included; 0 if not known.
    pub sync_count: u64,
    /// Entries that were added to the logs of all groups in that time; 0 if not known.
    pub entry_count: u64,
}

/// One kill of a leader.
pub struct Failover {
    /// The store.
    pub kind: Kind,
    /// Time without a successful write, in milliseconds.
    pub gap_ms: f64,
}

/// Everything that was measured.
pub struct Report {
    /// How many clients asked.
    client_count: usize,
    /// What etcd says that it is; none if it was left out.
    pub etcd_version: Option<String>,
    /// Throughput, in the order of measurement.
    pub samples: Vec<Sample>,
    /// Failovers, in the order of measurement.
    pub failovers: Vec<Failover>,
}

/// A row: heading, operation, digits after the point, and what it shows of a sample.
type Row = (&'static str, Operation, usize, fn(&Sample) -> f64);

const ROWS: [Row; 10] = [
    ("puts per second", Operation::Put, 0, |sample| sample.measured.rate),
    ("put, median (ms)", Operation::Put, 2, |sample| sample.measured.p50_ms),
    ("put, p99 (ms)", Operation::Put, 2, |sample| sample.measured.p99_ms),
    ("CPU time of the nodes per put (µs)", Operation::Put, 0, |sample| sample.server_cpu_us),
    ("CPU time of the clients per put (µs)", Operation::Put, 0, |sample| sample.client_cpu_us),
    ("gets per second", Operation::Get, 0, |sample| sample.measured.rate),
    ("get, median (ms)", Operation::Get, 2, |sample| sample.measured.p50_ms),
    ("get, p99 (ms)", Operation::Get, 2, |sample| sample.measured.p99_ms),
    ("CPU time of the nodes per get (µs)", Operation::Get, 0, |sample| sample.server_cpu_us),
    ("CPU time of the clients per get (µs)", Operation::Get, 0, |sample| sample.client_cpu_us),
];

impl Report {
    /// Nothing yet.
    pub fn new(client_count: usize) -> Self {
        Self { client_count, etcd_version: None, samples: vec![], failovers: vec![] }
    }

    /// Prints the tables.
    pub fn print(&self) {
        let count = self.of(Kind::Ours, Operation::Put, |sample| sample.measured.rate).len();
        println!(
            "{} clients, {KEY_COUNT} keys, values of {VALUE_BYTES} bytes, medians of {count} rounds.",
            self.client_count
        );
        println!("etcd: {}.\n", self.etcd_version.as_deref().unwrap_or("left out"));
        self.print_throughput();
        if !self.failovers.is_empty() {
            self.print_failovers();
        }
    }

    fn print_throughput(&self) {
        println!("| measured | ours | etcd | ours / etcd |");
        println!("| --- | ---: | ---: | ---: |");
        for (heading, operation, digits, field) in ROWS {
            let [ours, etcd] = [Kind::Ours, Kind::Etcd].map(|kind| self.of(kind, operation, field));
            let cell = |values: &[f64]| match values {
                [] => "-".to_owned(),
                values => with_spread(values, digits),
            };
            let ratio = match (ours.is_empty(), etcd.is_empty()) {
                (false, false) => grouped(median(&ours) / median(&etcd), 2),
                _ => "-".to_owned(),
            };
            println!("| {heading} | {} | {} | {ratio} |", cell(&ours), cell(&etcd));
        }
        let entries_per_sync = self.of(Kind::Ours, Operation::Put, |sample| {
            (NODE_COUNT as u64 * sample.entry_count) as f64 / sample.sync_count.max(1) as f64
        });
        if !entries_per_sync.is_empty() {
            println!(
                "\nOurs: {} entries per sync of a node's log.",
                with_spread(&entries_per_sync, 2)
            );
        }
    }

    fn print_failovers(&self) {
        println!("\n| time without a successful write (ms) | kills | median | least | worst |");
        println!("| --- | ---: | ---: | ---: | ---: |");
        for kind in [Kind::Ours, Kind::Etcd, Kind::EtcdTuned] {
            let gaps: Vec<f64> = self.gaps(kind);
            if gaps.is_empty() {
                continue;
            }
            let least = gaps.iter().copied().fold(f64::INFINITY, f64::min);
            let worst = gaps.iter().copied().fold(0.0, f64::max);
            let [middle, least, worst] = [median(&gaps), least, worst].map(|ms| grouped(ms, 0));
            println!("| {} | {} | {middle} | {least} | {worst} |", kind.name(), gaps.len());
        }
    }

    fn of(&self, kind: Kind, operation: Operation, field: fn(&Sample) -> f64) -> Vec<f64> {
        let is_wanted = |sample: &&Sample| sample.kind == kind && sample.operation == operation;
        self.samples.iter().filter(is_wanted).map(field).collect()
    }

    fn gaps(&self, kind: Kind) -> Vec<f64> {
        let wanted = self.failovers.iter().filter(|failover| failover.kind == kind);
        wanted.map(|failover| failover.gap_ms).collect()
    }

    /// Everything, without medians.
    pub fn json(&self) -> Value {
        let sample = |sample: &Sample| {
            json!({
                "store": sample.kind.name(),
                "operation": match sample.operation {
                    Operation::Put => "put",
                    Operation::Get => "get",
                },
                "per_second": sample.measured.rate,
                "count": sample.measured.count,
                "failure_count": sample.measured.failure_count,
                "p50_ms": sample.measured.p50_ms,
                "p99_ms": sample.measured.p99_ms,
                "server_cpu_us": sample.server_cpu_us,
                "client_cpu_us": sample.client_cpu_us,
                "sync_count": sample.sync_count,
                "entry_count": sample.entry_count,
            })
        };
        let failover = |failover: &Failover| json!({ "store": failover.kind.name(), "gap_ms": failover.gap_ms });
        json!({
            "clients": self.client_count,
            "keys": KEY_COUNT,
            "value_bytes": VALUE_BYTES,
            "etcd_version": self.etcd_version,
            "throughput": self.samples.iter().map(sample).collect::<Vec<_>>(),
            "failover": self.failovers.iter().map(failover).collect::<Vec<_>>(),
        })
    }
}
