//! What the coordinator of a transaction remembers of it.
//!
//! The coordinator is a part of the client. It remembers what the transaction has read, so that a
//! second read needs no request, and what it is going to write, which no node hears of before the
//! commit. Locks are the business of the shards' leaders; here is only what a leader
//! they were got.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::vec::Vec;

use super::scan::{Merge, overlay};
use super::{CallError, CallId, TxnHandle, TxnOp};
use crate::id::{RequestId, ShardId, Timestamp};
use crate::locks::Target;
use crate::op::{Found, KEY_BYTES_MAX, Key, KeyRange, Page, PageLimit, VALUE_BYTES_MAX, Value};
use crate::ring;
use crate::time::Instant;
use crate::txn::{
    AbortReason, Age, Grant, LockMode, OPERATIONS_MAX, OutcomeId, Part, RANGES_PER_SHARD_MAX,
    TxnId, TxnWrite, VERSION_BUFFERED, WRITE_BYTES_MAX,
};
use crate::wire::{Refusal, TxnRequest};

/// A request of a transaction to one shard. It can be sent without the transaction, which may have
/// ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Whose step it is.
    pub(super) handle: TxnHandle,
    /// The name under which nodes know the transaction.
    pub(super) txn: TxnId,
    /// How old it is.
    pub(super) age: Age,
    /// At whose leader it is done.
    pub(super) shard: ShardId,
    /// What the shard has given it with its first lock.
    pub(super) grant: Option<Grant>,
    /// What is asked.
    pub(super) request: TxnRequest,
}

/// How far a transaction has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It reads and writes.
    Open,
    /// Its participants prepare. Nothing is decided.
    Preparing {
        /// Who has not answered.
        missing: BTreeSet<ShardId>,
        /// The highest of what the others answered.
        min_commit: Timestamp,
        /// Who decides.
        anchor: ShardId,
        /// Its part.
        part: Part,
        /// All others.
        participants: Vec<ShardId>,
    },
    /// The shard that decides is asked to commit, and nobody but it knows the outcome.
    Committing,
    /// It was aborted while its user asked for nothing; the next call hears why.
    Aborted(AbortReason),
}

/// What a transaction knows of a shard that it has sent something to.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// What its leader has given with the first lock.
    pub(super) grant: Option<Grant>,
    /// Whether the shard has prepared.
    pub(super) is_prepared: bool,
}

impl Touched {
    /// Whether the shard holds locks for it, as far as is known.
    pub(super) fn holds_locks(&self) -> bool {
        self.grant.is_some() || self.is_prepared
    }
}

/// A key that was locked and read.
#[derive(Debug)]
struct Seen {
    /// How it is locked.
    mode: LockMode,
    /// What it held.
    found: Option<Found>,
}

/// A scan that is under way: the call that is out.
#[derive(Debug)]
pub(super) struct TxnScan {
    /// What was asked for.
    pub(super) range: KeyRange,
    /// How much of it.
    pub(super) limit: PageLimit,
    /// The page in the making.
    pub(super) merge: Merge,
    /// The page as the shards have it, once it is made. Shards that are still out lock what they
    /// were asked for, and so they are waited for.
    pub(super) page: Option<Page>,
}

/// A transaction as its coordinator knows it.
///
/// - `scan` is there while the call that is out is a scan that has begun.
///
/// - `id` is set before the first request and then stays.
/// - `request` is set at the commit and then stays; its sequence is unfinished until the
///   transaction has ended.
/// - While a call is out, the transaction is not given up for being idle.
#[derive(Debug)]
pub(super) struct Transaction {
    /// How old it is.
    pub(super) age: Age,
    /// The name under which nodes know it.
    pub(super) id: Option<TxnId>,
    /// How far it has come.
    pub(super) phase: Phase,
    /// Identity of the decision.
    pub(super) request: Option<RequestId>,
    /// What it can be asked for by; set with `request`.
    pub(super) outcome: Option<OutcomeId>,
    /// The shards that may know of it.
    pub(super) shards: BTreeMap<ShardId, Touched>,
    /// The call of its user that is out.
    pub(super) call: Option<CallId>,
    /// The job that wakes the router for it.
    pub(super) watch: CallId,
    /// Its requests that are out, but for rollbacks, which outlive it.
    pub(super) steps: BTreeSet<CallId>,
    /// When it is given up unless its user asks for something.
    pub(super) idle_until: Instant,
    /// When its shards are to hear of it next.
    pub(super) beat_at: Instant,
    /// The scan that is under way.
    pub(super) scan: Option<TxnScan>,
    seen: BTreeMap<Key, Seen>,
    /// What was scanned, on each shard. No range lies within another one.
    ranges: BTreeMap<ShardId, BTreeSet<KeyRange>>,
    writes: BTreeMap<Key, Option<Value>>,
    /// The first key that was written.
    first_written: Option<Key>,
    /// The first key that was read.
    first_read: Option<Key>,
    operation_count: usize,
    write_bytes: usize,
}

impl Transaction {
    /// One that has done nothing.
    pub(super) fn new(age: Age, watch: CallId, idle_until: Instant) -> Self {
        Self {
            age,
            id: None,
            phase: Phase::Open,
            request: None,
            outcome: None,
            shards: BTreeMap::new(),
            call: None,
            watch,
            steps: BTreeSet::new(),
            idle_until,
            beat_at: idle_until,
            scan: None,
            seen: BTreeMap::new(),
            ranges: BTreeMap::new(),
            writes: BTreeMap::new(),
            first_written: None,
            first_read: None,
            operation_count: 0,
            write_bytes: 0,
        }
    }

    /// Counts an operation, if the transaction may have it.
    pub(super) fn admit(&mut self, op: &TxnOp) -> Result<(), CallError> {
        let (key, value) = match op {
            TxnOp::Get { key } | TxnOp::GetForUpdate { key } | TxnOp::Delete { key } => (key, None),
            TxnOp::Put { key, value } => (key, Some(value)),
            TxnOp::Scan { range, .. } => {
                let end = range.end.as_ref().unwrap_or(&range.start);
                check_size("key", end.bytes.len(), KEY_BYTES_MAX)?;
                (&range.start, None)
            }
            TxnOp::Commit | TxnOp::Rollback => return Ok(()),
        };
        check_size("key", key.bytes.len(), KEY_BYTES_MAX)?;
        check_size("value", value.map_or(0, Value::size), VALUE_BYTES_MAX)?;
        self.operation_count += 1;
        check_total("operations", self.operation_count, OPERATIONS_MAX)
    }

    /// Counts an operation, and remembers it if it is a write.
    pub(super) fn add(&mut self, op: &TxnOp) -> Result<(), CallError> {
        self.admit(op)?;
        match op {
            TxnOp::Put { key, value } => self.write(key.clone(), Some(value.clone())),
            TxnOp::Delete { key } => self.write(key.clone(), None),
            TxnOp::Get { .. }
            | TxnOp::GetForUpdate { .. }
            | TxnOp::Scan { .. }
            | TxnOp::Commit
            | TxnOp::Rollback => Ok(()),
        }
    }

    /// Remembers a write until the commit.
    pub(super) fn write(&mut self, key: Key, value: Option<Value>) -> Result<(), CallError> {
        let key_size = key.bytes.len();
        let size = |value: &Option<Value>| key_size + value.as_ref().map_or(0, Value::size);
        let bytes = self.write_bytes + size(&value) - self.writes.get(&key).map_or(0, size);
        check_total("bytes", bytes, WRITE_BYTES_MAX)?;
        self.write_bytes = bytes;
        self.first_written.get_or_insert_with(|| key.clone());
        self.writes.insert(key, value);
        Ok(())
    }

    /// What a read finds without a request: what the transaction itself wrote, or what it has seen
    /// under a lock that is strong enough.
    pub(super) fn known(&self, key: &Key, mode: LockMode) -> Option<Option<Found>> {
        if let Some(value) = self.writes.get(key) {
            let found = |value: &Value| Found { version: VERSION_BUFFERED, value: value.clone() };
            return Some(value.as_ref().map(found));
        }
        let seen = self.seen.get(key)?;
        let is_enough = mode == LockMode::Shared || seen.mode == LockMode::Exclusive;
        is_enough.then(|| seen.found.clone())
    }

    /// Remembers what a key held when it was locked.
    pub(super) fn see(&mut self, key: Key, mode: LockMode, found: Option<Found>) {
        self.first_read.get_or_insert_with(|| key.clone());
        self.seen.insert(key, Seen { mode, found });
    }

    /// Whether a shard can be scanned once more.
    pub(super) fn admit_range(&self, shard: ShardId) -> Result<(), CallError> {
        let count = self.ranges.get(&shard).map_or(0, BTreeSet::len);
        check_total("scanned ranges of one shard", count + 1, RANGES_PER_SHARD_MAX)
    }

    /// Remembers what a shard has locked for a scan.
    pub(super) fn see_range(&mut self, shard: ShardId, range: KeyRange) {
        let ranges = self.ranges.entry(shard).or_default();
        let target = Target::Range(range.clone());
        if !ranges.iter().any(|known| target.is_within(known)) {
            ranges.retain(|known| !Target::Range(known.clone()).is_within(&range));
            ranges.insert(range);
        }
    }

    /// What a scan shows of a page that the shards have.
    pub(super) fn with_own_writes(&self, scan: TxnScan, page: Page) -> Page {
        overlay(page, &scan.range, scan.limit, &self.writes)
    }

    /// Whether it writes anything.
    pub(super) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The shard that decides: the one that is written first, or, if none is, read first, or, if no
    /// key is, the first one that was scanned. None if nothing was done.
    pub(super) fn anchor(&self, shard_count: u32) -> Option<ShardId> {
        let key = self.first_written.as_ref().or(self.first_read.as_ref());
        let shard = key.map(|key| ring::shard_of(key, shard_count));
        shard.or_else(|| self.ranges.keys().next().copied())
    }

    /// What it does on each shard.
    pub(super) fn parts(&self, shard_count: u32) -> BTreeMap<ShardId, Part> {
        let mut parts = BTreeMap::<_, Part>::new();
        for key in self.seen.keys() {
            let part = parts.entry(ring::shard_of(key, shard_count)).or_default();
            part.reads.push(key.clone());
        }
        for (key, value) in &self.writes {
            let part = parts.entry(ring::shard_of(key, shard_count)).or_default();
            part.writes.push(TxnWrite { key: key.clone(), value: value.clone() });
        }
        for (shard, ranges) in &self.ranges {
            parts.entry(*shard).or_default().ranges.extend(ranges.iter().cloned());
        }
        parts
    }

    /// Whether any shard holds locks for it, as far as is known.
    pub(super) fn holds_locks(&self) -> bool {
        self.shards.values().any(Touched::holds_locks)
    }
}

/// Whether one transaction may have all of these operations: their number, and the sizes of keys,
/// values and writes.
///
/// # Errors
/// [`CallError::TxnTooLarge`] or [`CallError::Refused`], as a router would answer.
pub fn check_operations<'a>(ops: impl IntoIterator<Item = &'a TxnOp>) -> Result<(), CallError> {
    let mut txn = Transaction::new(Age(0), CallId(0), Instant::ZERO);
    ops.into_iter().try_for_each(|op| txn.add(op))
}

/// A limit on one key or value, which nodes have too.
fn check_size(what: &str, bytes: usize, bytes_max: usize) -> Result<(), CallError> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let (bytes, bytes_max) = (bytes as u64, bytes_max as u64);
    Err(CallError::Refused(Refusal::TooLarge { what: what.to_string(), bytes, bytes_max }))
}

/// A limit on the whole of a transaction.
fn check_total(what: &str, size: usize, size_max: usize) -> Result<(), CallError> {
    if size <= size_max {
        return Ok(());
    }
    let (size, size_max) = (size as u64, size_max as u64);
    Err(CallError::TxnTooLarge { what: what.to_string(), size, size_max })
}
