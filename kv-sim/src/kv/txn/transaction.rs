//! What a transaction consists of.

use kv_core::id::{ShardId, Timestamp};
use kv_core::op::{Found, Key};
use kv_core::ring;

use super::lists::ROLLBACK_RATE;
use crate::engine::{Draw, Rng};

/// One operation of a transaction. What is written may follow from what the transaction has read, whose
/// reads are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A read that locks against writers.
    Read { key: Key },
    /// A read that locks against everybody.
    Lock { key: Key },
    /// Adds an element to the list that the operation before this one has read.
    Append { key: Key, element: u64 },
    /// Overwrites a value.
    Write { key: Key, value: u64 },
    /// Writes a value, unless so many keys or more were found by the reads.
    Insert { key: Key, value: u64, rows_max: usize },
    /// Gives an account its first balance, unless read number `read` has found one.
    Open { key: Key, read: usize },
    /// Takes so much, or what there is, from the account of read 0.
    Debit { key: Key, amount: i64 },
    /// Gives what was taken to the account of read 1.
    Credit { key: Key, amount: i64 },
}

impl Op {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Read { key }
            | Self::Lock { key }
            | Self::Append { key, .. }
            | Self::Write { key, .. }
            | Self::Insert { key, .. }
            | Self::Open { key, .. }
            | Self::Debit { key, .. }
            | Self::Credit { key, .. } => key,
        }
    }

    /// The value that makes this write unlike all others.
    pub(super) fn unique(&self) -> Option<u64> {
        match self {
            Self::Append { element: value, .. }
            | Self::Write { value, .. }
            | Self::Insert { value, .. } => Some(*value),
            Self::Read { .. }
            | Self::Lock { .. }
            | Self::Open { .. }
            | Self::Debit { .. }
            | Self::Credit { .. } => None,
        }
    }

    /// Whether it reads and does nothing else.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Lock { .. })
    }
}

/// What one attempt of a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) ops: Vec<Op>,
    /// Whether it ends with a rollback, so that nobody may ever see anything of it.
    pub(super) rolls_back: bool,
    /// How it is carried out.
    pub(super) style: Style,
}

/// How a transaction is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// With locks.
    Locking,
    /// The same, but the reads with which it begins are done by scanning the range of their keys.
    LockingScan,
    /// Its only operation, a read or a write, is asked for without a transaction.
    Plain,
    /// Its reads are done at one timestamp, key by key.
    Snapshot,
    /// The same, by scanning the range of its keys.
    Scan,
}

/// Of the transactions that consist of one read or one write so many are none, in a million.
const PLAIN_RATE: u32 = 500_000;
/// Of the transactions that only read so many do so at a timestamp, in a million; every other one of
/// them scans.
const SNAPSHOT_RATE: u32 = 600_000;

impl Transaction {
    pub(super) fn new(ops: Vec<Op>) -> Self {
        Self { ops, rolls_back: false, style: Style::Locking }
    }

    /// The same, carried out in another way.
    pub(super) fn in_style(self, style: Style) -> Self {
        Self { style, ..self }
    }

    /// One that only reads, some way or other.
    pub(super) fn drawn_reads(ops: Vec<Op>, rng: &mut Rng) -> Self {
        let style = match rng.chance(SNAPSHOT_RATE) {
            false => Style::Locking,
            true if rng.chance(500_000) => Style::Scan,
            true => Style::Snapshot,
        };
        Self::new(ops).in_style(style)
    }

    /// A drawn one: some end with a rollback, some that are short enough are plain calls, and some
    /// that only read do so at a timestamp.
    pub(super) fn drawn(ops: Vec<Op>, rng: &mut Rng) -> Self {
        let rolls_back = rng.chance(ROLLBACK_RATE);
        let is_short = matches!(&ops[..], [Op::Read { .. } | Op::Write { .. }]);
        if rolls_back {
            return Self { rolls_back, ..Self::new(ops) };
        }
        if is_short && rng.chance(PLAIN_RATE) {
            return Self::new(ops).in_style(Style::Plain);
        }
        match ops.iter().all(|op| matches!(op, Op::Read { .. })) {
            true => Self::drawn_reads(ops, rng),
            false => Self::new(ops),
        }
    }

    /// The same with other values.
    pub(super) fn renew(&mut self, mut next_value: impl FnMut() -> u64) {
        for op in &mut self.ops {
            if let Op::Append { element: value, .. }
            | Op::Write { value, .. }
            | Op::Insert { value, .. } = op
            {
                *value = next_value();
            }
        }
    }

    /// The shards that it writes to.
    fn shards(&self, shard_count: u32) -> Vec<ShardId> {
        let writes = self.ops.iter().filter(|op| !op.is_read());
        let mut shards: Vec<_> = writes.map(|op| ring::shard_of(op.key(), shard_count)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TxnEnd {
    /// It took effect.
    Committed {
        /// What it had read.
        found: Vec<Option<Found>>,
        /// The version of what it wrote.
        commit_ts: Option<Timestamp>,
        /// What it read at, if that was a timestamp.
        at: Option<Timestamp>,
    },
    /// It did not, and never will.
    Failed {
        /// Why.
        reason: String,
        /// Whether it gave way in a deadlock.
        is_deadlock: bool,
    },
    /// Nobody knows.
    Unknown,
}

impl TxnEnd {
    /// It did not take effect, and not because of a deadlock.
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), is_deadlock: false }
    }
}

/// One end of an attempt of a transaction.
#[derive(Debug)]
pub struct TxnEvent {
    /// The process of the history: a client goes on under another number after an unknown outcome.
    pub(super) process: u64,
    /// What it does.
    pub(super) transaction: Transaction,
    /// What it came to; none when it begins.
    pub(super) end: Option<TxnEnd>,
}

impl TxnEvent {
    /// The process of the history.
    pub(in super::super) fn process(&self) -> u64 {
        self.process
    }

    /// The shards that it writes to.
    pub(in super::super) fn shards(&self, shard_count: u32) -> Vec<ShardId> {
        self.transaction.shards(shard_count)
    }

    /// What it came to, if it has ended: why it did not take effect for certain.
    pub(in super::super) fn outcome(&self) -> Option<Result<(), &str>> {
        self.end.as_ref().map(|end| match end {
            TxnEnd::Committed { .. } => Ok(()),
            TxnEnd::Failed { reason, .. } => Err(reason.as_str()),
            TxnEnd::Unknown => Err("outcome unknown"),
        })
    }
}
