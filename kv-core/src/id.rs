//! Identities and positions, one newtype each.
//!
//! A number that means something has a type of its own, so that a term is never passed where an
//! index is expected. Display forms are the ones of traces and logs: `n2` for a node, `s3` for a
//! shard, `7@3` for index 7 of term 3.

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A node of the cluster. Chosen by the operator, at least 1, never reused.
    NodeId, u64, "n"
);
impl NodeId {
    /// Stands for the id of a node that has not been given one yet.
    pub const UNKNOWN: Self = Self(0);
}

number!(
    /// A shard, which is one Raft group. 0 is the meta group; user shards are `1..=Q`.
    ShardId, u32, "s"
);
number!(
    /// Version of one shard's placement in the cluster map; grows with every change of it.
    Epoch, u64, "e"
);
number!(
    /// Raft leadership number.
    Term, u64, ""
);
number!(
    /// Position in a Raft log. The first entry has index 1; 0 stands before the log.
    LogIndex, u64, ""
);
number!(
    /// A timestamp of the oracle: the commit timestamp of a write, and so the version of a key. Zero
    /// is below every write.
    ///
    /// The upper 46 bits are milliseconds since 1970 (UTC), the lower [`Timestamp::COUNTER_BITS`]
    /// count within a millisecond. Order never depends on any clock: the oracle issues each
    /// timestamp above all before it, whatever its clock says.
    Timestamp, u64, ""
);
number!(
    /// Number of a leadership confirmation of one node; grows with every round it starts.
    Round, u64, "r"
);
number!(
    /// Number of an append handed to the store; appends become durable in this order.
    AppendId, u64, "a"
);
number!(
    /// One client request waiting for its reply, numbered by the driver of a node.
    RequestHandle, u64, "q"
);
number!(
    /// A keyspace: a set of keys with one kind and one partition function. 0 is the default
    /// keyspace.
    KeyspaceId, u32, "k"
);
number!(
    /// One life of a node's process, as gossip counts them: grows with every restart, and whenever
    /// the node refutes what others say of it.
    Generation, u64, "g"
);
number!(
    /// Sign of life of one node; grows by one with every interval of gossip, in all generations of
    /// a process.
    Heartbeat, u64, "h"
);
number!(
    /// Version of what a node tells of itself by gossip; grows with every change of it.
    RecordVersion, u64, "v"
);

impl ShardId {
    /// The meta group: cluster id, members and the map of all shards. No key hashes to it.
    pub const META: Self = Self(0);
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Timestamp {
    /// Above every timestamp that is ever issued: a read at it sees the newest version.
    pub const MAX: Self = Self(u64::MAX);
    /// How many bits count within a millisecond.
    pub const COUNTER_BITS: u32 = 18;

    /// The first timestamp of a millisecond, counted since 1970. What does not fit is the last one.
    #[must_use]
    pub const fn at_millis(unix_ms: u64) -> Self {
        let ms_max = u64::MAX >> Self::COUNTER_BITS;
        Self((if unix_ms < ms_max { unix_ms } else { ms_max }) << Self::COUNTER_BITS)
    }

    /// The millisecond of its clock part.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The timestamp `count` after this one.
    #[must_use]
    pub const fn after(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

/// An entry's identity: Raft logs that hold the same `LogId` are equal up to it (Raft paper,
/// section 5.3).
///
/// Ordered by term, then index: the order of "at least as up to date" (section 5.4.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogId {
    /// Term of the leader that created the entry.
    pub term: Term,
    /// Position of the entry.
    pub index: LogIndex,
}

impl LogId {
    /// The entry of `term` at `index`.
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term: Term(term), index: LogIndex(index) }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// Identity of a cluster, drawn at random when it is formed. Frames of another cluster are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One life of a node's data directory, drawn at random when the directory is first used.
///
/// A node whose disk was wiped comes back under another incarnation and is kept out: it may have
/// forgotten votes and entries that others count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where a node can be reached: `HOST:PORT` in production, a process name in the simulator.
///
/// The core never interprets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's session, within which requests are numbered so that each runs exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// When the meta group opened the session. A shard that does not know the session runs its
    /// requests only if this is above the shard's session floor: otherwise it may have known, and
    /// forgotten, it.
    pub opened_ts: Timestamp,
    /// Drawn at random by the client, so that two sessions never share an id.
    pub nonce: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.opened_ts, self.nonce)
    }
}

/// Identity of one write request over all its retries (linearizable RPCs: Raft thesis, section
/// 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The session that numbers the request.
    pub session: SessionId,
    /// Number of the request in its session, from 1.
    pub sequence: u64,
    /// Every request with a smaller sequence has been answered or given up by the client: its
    /// result may be forgotten, and a late copy of it must not run.
    pub acked_below: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.sequence)
    }
}
