//! Transactions: the values that clients, nodes and logs exchange about them.
//!
//! A read-write transaction locks what it reads and writes on the leaders of the shards that hold
//! it (strict two-phase locking), buffers its writes at its *coordinator*, which is a part of the
//! client, and ends in one of two ways:
//!
//! - If one shard holds all of its locks, a single entry of that shard's log commits it.
//! - Otherwise one shard, the *anchor*, holds its decision. Each other *participant* first makes
//!   its part durable (`prepare`); then the anchor's log takes the decision together with the
//!   anchor's own writes, and the client is answered; then the participants hear of it (`finish`).
//!
//! A prepared participant keeps all locks until it has heard of the decision, through crashes and
//! changes of leaders. If that takes long it asks the anchor, which, if nothing was decided,
//! decides to abort: presumed abort (Mohan, Lindsay, Obermarck 1986), with the difference that the
//! presumption is written down before anybody acts upon it, so that a late decision finds it.
//!
//! # Identity
//!
//! A [`TxnId`] says whose locks are whose. What must happen once, `prepare` and the decision, goes
//! by a [`RequestId`] in the session table of the shard's log, as all writes do.

mod outcome;

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{RequestId, SessionId, ShardId, Term, Timestamp};
pub use crate::locks::LockMode;
use crate::op::{Key, KeyRange, Value};
pub use outcome::{OutcomeId, OutcomeIdError, TxnOutcome};

/// Operations of one transaction.
pub const OPERATIONS_MAX: usize = 10_000;
/// Bytes of keys and values that one transaction may write.
pub const WRITE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Ranges that one transaction may have locked on one shard: one for each part of a scan.
pub const RANGES_PER_SHARD_MAX: usize = 128;

/// The version under which a transaction reads what it wrote itself: it gets its own at the commit.
pub const VERSION_BUFFERED: Timestamp = Timestamp(0);

/// One attempt of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxnId {
    /// The client's session.
    pub session: SessionId,
    /// Number of the attempt in the session, from 1; apart from the numbers of requests.
    pub number: u64,
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.session, self.number)
    }
}

/// How old a transaction is: the less, the older. It is kept over the attempts of one transaction, so
/// that whoever lost before wins some day.
///
/// The clock of a client makes it. Nothing depends on it but who gives way.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Age(pub u64);

/// Says that a transaction is alive at the leader of a shard, and holds its locks there.
///
/// It is drawn by the leader when it first hears of the transaction, and never again: not by another
/// leader, and not when a late copy of the first step comes after the locks have fallen. Whoever has
/// another one has lost its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grant(pub u64);

impl Grant {
    /// The grant of that number of the leader of a term. No other process leads in the same term.
    pub(crate) const fn new(term: Term, number: u64) -> Self {
        Self((term.0 << 32) | (number & 0xffff_ffff))
    }

    /// Whether the leader of that term gave it.
    pub(crate) const fn is_of(self, term: Term) -> bool {
        self.0 >> 32 == term.0 & 0xffff_ffff
    }

    /// Whether the leader of one term gave both.
    pub(crate) const fn is_of_term_of(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32
    }
}

/// A buffered write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnWrite {
    /// The key.
    pub key: Key,
    /// Its new value; none deletes it.
    pub value: Option<Value>,
}

impl TxnWrite {
    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.bytes.len() + self.value.as_ref().map_or(0, Value::size)
    }
}

/// A transaction's part on one shard.
///
/// - At most one write for each key. A key that is written need not be among the reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Keys that are locked because they were read.
    pub reads: Vec<Key>,
    /// What is written.
    pub writes: Vec<TxnWrite>,
    /// Ranges that are locked because they were scanned, in any order; they may overlap.
    pub ranges: Vec<KeyRange>,
}

impl Part {
    /// How many keys are read and written.
    pub fn key_count(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// Memory that it takes.
    pub fn size(&self) -> usize {
        let reads = self.reads.iter().map(|key| key.bytes.len() + size_of::<Key>());
        let writes = self.writes.iter().map(|write| write.size() + size_of::<TxnWrite>());
        let ranges = self.ranges.iter().map(|range| {
            let end = range.end.as_ref().map_or(0, |end| end.bytes.len());
            range.start.bytes.len() + end + size_of::<KeyRange>()
        });
        reads.chain(writes).chain(ranges).sum()
    }
}

/// What an entry of the anchor's log, or of the only shard's, is to decide. The first such entry of a
/// transaction decides it, whatever later ones say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Commit.
    Commit {
        /// A timestamp of the oracle, asked for when all participants had prepared.
        commit_ts: Timestamp,
        /// What is written on the deciding shard.
        writes: Vec<TxnWrite>,
        /// The other shards, which have prepared and are to hear of it.
        participants: Vec<ShardId>,
    },
    /// Abort: no later commit counts.
    Abort,
}

/// What is known of a participant that has prepared. It is part of the shard's state until the
/// decision is applied there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The request under which the anchor decides, and this shard prepared.
    pub request: RequestId,
    /// The shard that decides.
    pub anchor: ShardId,
    /// The transaction's part here: its keys stay locked.
    pub part: Part,
    /// The least commit timestamp that the shard can take.
    pub min_commit: Timestamp,
}

/// A transaction that was committed, and of which participants may not know yet. It is part of the
/// anchor's state until all of them have applied it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// At which timestamp.
    pub commit_ts: Timestamp,
    /// Who is to hear of it.
    pub participants: Vec<ShardId>,
}

/// Why a transaction was aborted. *None of it took effect.* To run it again, from its beginning, is
/// safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AbortReason {
    /// It waited for a transaction that waited for it.
    #[error("deadlock of {} transactions; this one was the youngest", cycle.len())]
    Deadlock {
        /// Who waited for whom: each for the next, the last for the first, which is this one.
        cycle: Vec<TxnId>,
    },
    /// It did not get a lock in time.
    #[error("a lock was not free in time")]
    LockTimeout,
    /// The leader of a shard on which it held locks gave them up, because it heard nothing of the
    /// coordinator; or the shard has forgotten the session.
    #[error("its locks on {shard} were lost, because nothing was heard of the client")]
    LocksLost {
        /// The shard.
        shard: ShardId,
    },
    /// The decision to abort came first: the coordinator was silent for too long, or somebody asked
    /// for the outcome.
    #[error("it was given up before it committed")]
    GivenUp,
    /// Its time is over.
    #[error("it took longer than a transaction may")]
    TooOld,
    /// A shard on which it held locks has another leader, which knows nothing of them.
    #[error("its locks on {shard} went with the leader of the shard")]
    LeaderChanged {
        /// The shard.
        shard: ShardId,
    },
}
