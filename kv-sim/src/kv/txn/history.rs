//! Recording transactions, as events in EDN that kv-check reads.
//!
//! Elements, values and balances are numbers. What is no number where one should be is recorded as the
//! text that was found, which nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kv_check::Workload;
use kv_core::op::{Found, Key};

use super::bank;
use super::lists;
use super::operations::text_of;
use super::rings::Rings;
use super::seen::SeenVersions;
use super::transaction::{Op, Transaction, TxnEnd, TxnEvent};
use crate::engine::Operations;
use crate::kv::version_order::VersionOrder;
use crate::scenario::WorkloadKind;

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    Failed,
    Unknown,
}

/// The history of a run, and what is counted on the way.
#[derive(Debug)]
pub(in super::super) struct TxnRecorder {
    pub(super) kind: WorkloadKind,
    /// The events, one a line.
    pub(in super::super) text: String,
    /// Transactions by outcome.
    pub(in super::super) operations: Operations,
    pub(in super::super) versions: VersionOrder<u64>,
    pub(super) seen: SeenVersions,
    /// What became of each unique value.
    pub(super) writes: BTreeMap<Key, BTreeMap<u64, Fate>>,
    /// Values that a committed transaction has read and overwritten, by key and version.
    overwritten: BTreeSet<(Key, u64)>,
    /// Of those, some that two did.
    pub(super) lost: Vec<String>,
    /// Transactions that gave way in a deadlock.
    pub(super) deadlock_count: u64,
    /// Committed transactions by process.
    pub(super) committed: BTreeMap<u64, u64>,
    /// Circles of waits that were closed.
    pub(in super::super) rings: Rings,
}

impl TxnRecorder {
    pub(in super::super) fn new(kind: WorkloadKind) -> Self {
        Self {
            kind,
            text: String::new(),
            operations: Operations::default(),
            versions: VersionOrder::default(),
            seen: SeenVersions::default(),
            writes: BTreeMap::new(),
            overwritten: BTreeSet::new(),
            lost: Vec::new(),
            deadlock_count: 0,
            committed: BTreeMap::new(),
            rings: Rings::default(),
        }
    }

    /// What kv-check takes the events for.
    pub(super) fn workload(&self) -> Workload {
        match self.kind {
            WorkloadKind::Bank => Workload::Bank,
            WorkloadKind::ListAppend => Workload::ListAppend,
            WorkloadKind::RwRegister
            | WorkloadKind::WriteSkew
            | WorkloadKind::LongFork
            | WorkloadKind::CausalReverse
            | WorkloadKind::Phantom
            | WorkloadKind::Deadlock
            | WorkloadKind::Ordered
            | WorkloadKind::HotKeys => Workload::RwRegister,
            WorkloadKind::Register | WorkloadKind::Kv | WorkloadKind::Sessions => {
                unreachable!("workloads of single keys have another history")
            }
        }
    }

    pub(in super::super) fn push_fault(&mut self, now: u64, kind: &str) {
        self.line(now, ":nemesis", "info", kind, "nil");
    }

    pub(in super::super) fn record(&mut self, now: u64, event: &TxnEvent) {
        let TxnEvent { process, transaction, end } = event;
        let (kind, fate, found) = match end {
            None => {
                self.versions.on_invoke(*process);
                ("invoke", None, None)
            }
            Some(TxnEnd::Committed { found, commit_ts, at }) => {
                self.operations.ok += 1;
                let heard = self.versions.heard_before(*process);
                self.seen.on_committed(transaction, found, (*commit_ts, *at), heard);
                *self.committed.entry(*process).or_default() += 1;
                if self.kind == WorkloadKind::HotKeys && commit_ts.is_some() {
                    self.note_overwritten(transaction, found);
                }
                let read = found.iter().flatten().map(|found| (found.version.0, false));
                let written = commit_ts.map(|version| (version.0, true));
                for (version, is_own) in read.chain(written) {
                    self.versions.on_told(*process, version, is_own);
                }
                ("ok", Some(Fate::Committed), Some(found.as_slice()))
            }
            Some(TxnEnd::Failed { is_deadlock, .. }) => {
                self.operations.failed += 1;
                self.deadlock_count += u64::from(*is_deadlock);
                ("fail", Some(Fate::Failed), None)
            }
            Some(TxnEnd::Unknown) => {
                self.operations.unknown += 1;
                ("info", Some(Fate::Unknown), None)
            }
        };
        if let Some(fate) = fate {
            self.note_writes(transaction, fate);
        }
        let (f, value) = match self.kind {
            WorkloadKind::Bank if is_of_transfer(transaction) => ("transfer", "nil".to_owned()),
            WorkloadKind::Bank => ("read", balances(transaction, found)),
            _ => ("txn", micro_operations(self.kind, transaction, found)),
        };
        self.line(now, &process.to_string(), kind, f, &value);
    }

    fn note_overwritten(&mut self, transaction: &Transaction, found: &[Option<Found>]) {
        let reads = transaction.ops.iter().filter(|op| op.is_read()).zip(found);
        for (op, found) in reads {
            let version = found.as_ref().map_or(0, |found| found.version.0);
            if !self.overwritten.insert((op.key().clone(), version)) {
                self.lost.push(format!("{} at {version}", name(op.key())));
            }
        }
    }

    fn note_writes(&mut self, transaction: &Transaction, fate: Fate) {
        for op in &transaction.ops {
            if let Some(value) = op.unique() {
                self.writes.entry(op.key().clone()).or_default().insert(value, fate);
            }
        }
    }

    fn line(&mut self, now: u64, process: &str, kind: &str, f: &str, value: &str) {
        let line = format_args!(
            "{{:process {process}, :type :{kind}, :f :{f}, :value {value}, :time {now}}}\n"
        );
        self.text.write_fmt(line).expect("a text takes everything");
    }
}

/// Whether a transaction of a bank is no read of all accounts.
fn is_of_transfer(transaction: &Transaction) -> bool {
    if transaction.ops.len() == 1 {
        return true;
    }
    transaction.ops.iter().any(|op| !op.is_read() && !matches!(op, Op::Open { .. }))
}

/// What a transaction of a bank has seen in all accounts, or put there first. An account that holds no
/// balance is left out, and with it what it should hold.
fn balances(transaction: &Transaction, found: Option<&[Option<Found>]>) -> String {
    let Some(found) = found else { return "nil".into() };
    let opens = transaction.ops.iter().any(|op| matches!(op, Op::Open { .. }));
    let reads = transaction.ops.iter().filter(|op| op.is_read());
    let entries = reads.zip(found).filter_map(|(op, found)| {
        let balance = match found {
            None => opens.then_some(bank::BALANCE_FIRST),
            Some(found) => bank::balance(found),
        };
        balance.map(|balance| format!("{} {balance}", name(op.key())))
    });
    format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
}

/// The operations of a transaction over lists or registers, with what they read, if that is known.
fn micro_operations(
    kind: WorkloadKind,
    transaction: &Transaction,
    found: Option<&[Option<Found>]>,
) -> String {
    let mut found = found.map(<[_]>::iter);
    let ops = transaction.ops.iter().map(|op| {
        let key = name(op.key());
        match op {
            Op::Append { element, .. } => format!("[:append {key} {element}]"),
            Op::Write { value, .. } | Op::Insert { value, .. } => format!("[:w {key} {value}]"),
            Op::Read { .. } | Op::Lock { .. } => {
                let read = found.as_mut().and_then(|found| found.next().and_then(Option::as_ref));
                let read = read.map(|found| observed(kind, found));
                format!("[:r {key} {}]", read.as_deref().unwrap_or("nil"))
            }
            Op::Open { .. } | Op::Debit { .. } | Op::Credit { .. } => {
                unreachable!("only banks have accounts")
            }
        }
    });
    format!("[{}]", ops.collect::<Vec<_>>().join(" "))
}

fn observed(kind: WorkloadKind, found: &Found) -> String {
    let number = || text_of(found).and_then(|text| text.parse::<u64>().ok());
    match kind {
        WorkloadKind::ListAppend => match lists::elements(Some(found)) {
            Ok(list) => {
                let list: Vec<String> = list.iter().map(u64::to_string).collect();
                format!("[{}]", list.join(" "))
            }
            Err(text) => format!("[{text:?}]"),
        },
        _ => number().map_or_else(|| format!("{:?}", found.value), |number| number.to_string()),
    }
}

fn name(key: &Key) -> String {
    format!("\"{}\"", String::from_utf8_lossy(&key.bytes))
}
