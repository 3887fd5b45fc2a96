//! Sessions that read at replicas: kind `sessions`.
//!
//! Each client is one session. It writes keys, one at a time or two at once in a batch, each time
//! another value, and reads them at all levels: `sequential` and `stale` at whichever replica its
//! router draws, so that it hops from node to node, and `linearizable` in between. Batches go over
//! shards, so there is always something prepared somewhere.
//!
//! # What is checked
//!
//! Versions are timestamps of one oracle, and a read at a replica says at which one it read. So
//! nothing has to be searched for ([`check`]).
//!
//! **What this leaves out:** a session that goes on with the token of another one, and deletes.

mod check;
mod client;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kv_core::id::Timestamp;
use kv_core::op::{Found, Key};

use crate::engine::ProcessId;

pub(super) use check::{SessionRecorder, judge};
pub use client::SessionClient;

/// How fresh a read is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As of now.
    Linearizable,
    /// As of what the session has seen.
    Sequential,
    /// At most so old.
    Stale(Duration),
}

/// What a session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOp {
    /// Writes a value to one or two keys at once.
    Write {
        /// The keys.
        keys: Vec<Key>,
        /// The value.
        value: u64,
    },
    /// Reads a key.
    Read {
        /// The key.
        key: Key,
        /// How fresh.
        freshness: Freshness,
    },
}

/// How that ended.
#[derive(Clone, Debug)]
pub enum SessionEnd {
    /// It was written.
    Written {
        /// Under this version.
        version: Timestamp,
    },
    /// It was read.
    Read {
        /// What the key held.
        found: Option<Found>,
        /// At which timestamp, if it was read at a replica.
        at: Option<Timestamp>,
        /// Who answered.
        by: ProcessId,
    },
    /// It came to nothing.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One end of an operation of a session.
#[derive(Clone, Debug)]
pub struct SessionEvent {
    /// Whose: the number of its client.
    pub session: u64,
    /// What.
    pub op: SessionOp,
    /// How it ended; none when it begins.
    pub end: Option<SessionEnd>,
}
