//! What clients do, and how it is read.

use super::MILLISECOND;
use super::reader::Reader;

/// What the clients do.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// On which keys.
    pub kind: WorkloadKind,
    /// How many clients.
    pub clients: u16,
    /// Operations per second of each; none: the next starts when the last has ended.
    pub rate_per_client: Option<f64>,
    /// How many keys.
    pub keys: u64,
    /// Size of a value.
    pub value_bytes: u32,
    /// The deadline of an operation, counted from its start.
    pub operation_timeout: u64,
    /// Weights of the operations; of transactions, nothing.
    pub mix: Mix,
    /// How many operations a transaction draws, at most.
    pub operations_max: u32,
    /// How many transactions their client abandons somewhere, in a million.
    pub abandon_rate: u32,
    /// How many transactions of a bank scan all accounts, in a million; beside those that read them
    /// anyway.
    pub scan_rate: u32,
}

/// Kinds of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// Few keys that all clients fight over: read, write, cas.
    Register,
    /// Many keys.
    Kv,
    /// Transfers between accounts, and reads of all of them.
    Bank,
    /// Transactions that append to lists and read them.
    ListAppend,
    /// Transactions that write and read registers.
    RwRegister,
    /// Transactions that read both keys of a pair and write one of them.
    WriteSkew,
    /// Transactions that write one key of a group, or read all of them.
    LongFork,
    /// Single writes of the keys of a group, one after the other, and reads of all of them at a
    /// timestamp.
    CausalReverse,
    /// Transactions that scan a group of keys and put one into it, depending on what is there.
    Phantom,
    /// Transactions that wait for each other in a circle.
    Deadlock,
    /// Transactions that lock what all want, in one order.
    Ordered,
    /// Transactions that lock and overwrite one of few keys, and how evenly clients get to it.
    HotKeys,
    /// Sessions that write keys and read them at replicas.
    Sessions,
}

impl WorkloadKind {
    /// Whether clients run transactions.
    pub fn has_transactions(self) -> bool {
        match self {
            Self::Register | Self::Kv | Self::Sessions => false,
            Self::Bank
            | Self::ListAppend
            | Self::RwRegister
            | Self::WriteSkew
            | Self::LongFork
            | Self::CausalReverse
            | Self::Phantom
            | Self::Deadlock
            | Self::Ordered
            | Self::HotKeys => true,
        }
    }
}

/// How often each operation is chosen, relative to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Reads.
    pub get: u32,
    /// Writes.
    pub put: u32,
    /// Deletions.
    pub delete: u32,
    /// Compare and set.
    pub cas: u32,
}

const KINDS: [(&str, WorkloadKind); 13] = [
    ("register", WorkloadKind::Register),
    ("kv", WorkloadKind::Kv),
    ("bank", WorkloadKind::Bank),
    ("list-append", WorkloadKind::ListAppend),
    ("rw-register", WorkloadKind::RwRegister),
    ("write-skew", WorkloadKind::WriteSkew),
    ("long-fork", WorkloadKind::LongFork),
    ("causal-reverse", WorkloadKind::CausalReverse),
    ("phantom", WorkloadKind::Phantom),
    ("deadlock", WorkloadKind::Deadlock),
    ("ordered", WorkloadKind::Ordered),
    ("hot-keys", WorkloadKind::HotKeys),
    ("sessions", WorkloadKind::Sessions),
];

/// The keys of a workload, unless it says how many.
fn keys_default(kind: WorkloadKind) -> u64 {
    match kind {
        WorkloadKind::Kv => 10_000,
        WorkloadKind::RwRegister | WorkloadKind::WriteSkew | WorkloadKind::Sessions => 16,
        WorkloadKind::HotKeys => 3,
        WorkloadKind::Register
        | WorkloadKind::Bank
        | WorkloadKind::ListAppend
        | WorkloadKind::LongFork
        | WorkloadKind::CausalReverse
        | WorkloadKind::Phantom
        | WorkloadKind::Deadlock
        | WorkloadKind::Ordered => 8,
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Workload {
    let kind = reader.choice("kind", WorkloadKind::Register, &KINDS);
    check_keys(reader, kind);
    let mix = match kind {
        WorkloadKind::Register => Mix { get: 4, put: 4, delete: 0, cas: 2 },
        _ => Mix { get: 4, put: 4, delete: 1, cas: 1 },
    };
    let workload = Workload {
        kind,
        clients: reader.integer("clients", 10, 1..=10_000) as u16,
        rate_per_client: reader.optional_number("rate_per_client", 0.01..=100_000.0),
        keys: reader.integer("keys", keys_default(kind), 1..=100_000_000),
        value_bytes: reader.integer("value_bytes", 16, 8..=8_388_608) as u32,
        operation_timeout: reader.time(
            "operation_timeout_ms",
            5_000.0,
            MILLISECOND,
            1.0..=600_000.0,
        ),
        mix: read_mix(reader, mix),
        operations_max: reader.integer("operations_max", 5, 1..=100) as u32,
        abandon_rate: reader.rate("abandon_rate", 0.0, 0.0..=0.9),
        scan_rate: reader.rate("scan_rate", 0.0, 0.0..=0.99),
    };
    check_count(reader, &workload);
    workload
}

/// A key that a kind of workload makes nothing of is a mistake.
fn check_keys(reader: &Reader<'_>, kind: WorkloadKind) {
    let name = KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name);
    let foreign: &[&str] = match kind {
        WorkloadKind::Register | WorkloadKind::Kv => &["operations_max", "abandon_rate"],
        WorkloadKind::ListAppend | WorkloadKind::RwRegister | WorkloadKind::Ordered => {
            &["mix", "value_bytes"]
        }
        WorkloadKind::Bank | WorkloadKind::WriteSkew | WorkloadKind::HotKeys => {
            &["mix", "value_bytes", "operations_max"]
        }
        WorkloadKind::Sessions => &["mix", "value_bytes", "operations_max", "abandon_rate"],
        WorkloadKind::LongFork | WorkloadKind::CausalReverse | WorkloadKind::Phantom => {
            &["mix", "value_bytes", "operations_max", "keys"]
        }
        WorkloadKind::Deadlock => &["mix", "value_bytes", "operations_max", "keys", "abandon_rate"],
    };
    let of_bank: &[&str] = if kind == WorkloadKind::Bank { &[] } else { &["scan_rate"] };
    for key in foreign.iter().chain(of_bank).filter(|key| reader.has(key)) {
        reader.fail(key, format_args!("means nothing for the kind \"{name}\""));
    }
}

/// How many keys it takes, and how many a transaction can read.
fn check_count(reader: &Reader<'_>, workload: &Workload) {
    let keys = workload.keys;
    match workload.kind {
        WorkloadKind::Bank if !(2..=1_000).contains(&keys) => {
            reader.fail("keys", "must be from 2 to 1000, which are the accounts of a bank");
        }
        WorkloadKind::WriteSkew if keys % 2 == 1 => {
            reader.fail("keys", "must be even: they are pairs");
        }
        WorkloadKind::Ordered if keys < 2 => {
            reader.fail("keys", "must be at least 2, to be locked in an order");
        }
        WorkloadKind::Register
        | WorkloadKind::Kv
        | WorkloadKind::Bank
        | WorkloadKind::ListAppend
        | WorkloadKind::RwRegister
        | WorkloadKind::WriteSkew
        | WorkloadKind::LongFork
        | WorkloadKind::CausalReverse
        | WorkloadKind::Phantom
        | WorkloadKind::Deadlock
        | WorkloadKind::Ordered
        | WorkloadKind::HotKeys
        | WorkloadKind::Sessions => {}
    }
}

/// A mix that is given replaces the default as a whole.
fn read_mix(reader: &mut Reader<'_>, default: Mix) -> Mix {
    let mix = reader.table("mix", |reader| {
        let mut weight = |key| reader.integer(key, 0, 0..=1_000_000) as u32;
        Mix { get: weight("get"), put: weight("put"), delete: weight("delete"), cas: weight("cas") }
    });
    let Some(mix) = mix else { return default };
    if mix.get + mix.put + mix.delete + mix.cas == 0 {
        reader.fail("mix", "must give at least one operation a weight above 0");
    }
    mix
}
