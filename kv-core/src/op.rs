//! What clients ask for, and what they are told.
//!
//! Operations are values: the same types travel from the client, sit in the Raft log, and are
//! applied by every replica. A *version* is the commit timestamp of the write that made a value.
//! Every write takes a larger one than any before it on the same key, so a version never comes back
//! (no ABA), not even after a delete.

mod range;

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{KeyspaceId, Timestamp};

/// The largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 8 * 1024;
/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A key: a byte string within a keyspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The keyspace; 0 is the default one.
    pub keyspace: KeyspaceId,
    /// Any bytes, at most [`KEY_BYTES_MAX`].
    pub bytes: Bytes,
}

impl Key {
    /// A key of the default keyspace.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { keyspace: KeyspaceId(0), bytes: bytes.into() }
    }
}

/// A value with its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// A byte string, at most [`VALUE_BYTES_MAX`].
    String(Bytes),
}

impl Value {
    /// A string value.
    pub fn string(bytes: impl Into<Bytes>) -> Self {
        Self::String(bytes.into())
    }

    /// Size of the content in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::String(bytes) => bytes.len(),
        }
    }
}

/// A value together with the version that a read saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Version of the write that made the value.
    pub version: Timestamp,
    /// The value.
    pub value: Value,
}

/// All keys from one to another, whether they exist or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key in it.
    pub start: Key,
    /// The first key after it; without one it goes on to the end of everything.
    pub end: Option<Key>,
}

impl KeyRange {
    /// Whether the key is in it.
    pub fn contains(&self, key: &Key) -> bool {
        self.start <= *key && self.end.as_ref().is_none_or(|end| key < end)
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// How much a page of a scan may hold. A page that has not reached the end of its range holds at
/// least one key, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageLimit {
    /// Keys.
    pub rows: u32,
    /// Bytes of keys and values.
    pub bytes: u32,
}

impl PageLimit {
    /// The most that a page may hold: 10,000 keys, 4 MiB.
    pub const MAX: Self = Self { rows: 10_000, bytes: 4 * 1024 * 1024 };

    /// The limit, or the most that a page may hold if that is less; at least one key.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self { rows: self.rows.clamp(1, Self::MAX.rows), bytes: self.bytes.min(Self::MAX.bytes) }
    }
}

/// A key that exists, with what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// What it holds.
    pub found: Found,
}

/// A part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Keys that exist, in order.
    pub rows: Vec<Row>,
    /// Where the scan goes on; none if it has reached the end of its range.
    pub next: Option<Key>,
}

/// The condition of a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key exists and holds this value.
    Value(Value),
    /// The key exists at this version.
    Version(Timestamp),
    /// The key does not exist.
    Absent,
}

impl Expect {
    /// Whether a key meets it that holds `found`, or does not exist.
    pub fn is_met(&self, found: Option<&Found>) -> bool {
        match (self, found) {
            (Self::Absent, found) => found.is_none(),
            (Self::Version(version), Some(found)) => *version == found.version,
            (Self::Value(value), Some(found)) => *value == found.value,
            (Self::Version(_) | Self::Value(_), None) => false,
        }
    }
}

/// A write to one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOp {
    /// Sets the key to the value.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Key,
    },
    /// Sets the key to the value if the expectation holds, else changes nothing.
    Cas {
        /// The key.
        key: Key,
        /// What must hold.
        expect: Expect,
        /// Its new value.
        value: Value,
    },
}

impl WriteOp {
    /// The key that is written.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Cas { key, .. } => key,
        }
    }

    /// Size of the largest value in it, be it written or expected; 0 for a delete.
    pub fn value_size(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.size(),
            Self::Cas { value, expect: Expect::Value(expected), .. } => {
                value.size().max(expected.size())
            }
            Self::Cas { value, expect: Expect::Version(_) | Expect::Absent, .. } => value.size(),
            Self::Delete { .. } => 0,
        }
    }
}

/// The result of a write that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteResult {
    /// The put took effect.
    Put {
        /// The version of the new value.
        version: Timestamp,
    },
    /// The delete took effect.
    Delete {
        /// Whether there was anything to delete.
        existed: bool,
    },
    /// The compare-and-set was decided.
    Cas {
        /// Whether the expectation held and the value was set.
        applied: bool,
        /// The key's version afterwards; none if it does not exist.
        version: Option<Timestamp>,
    },
}
