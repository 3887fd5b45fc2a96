//! What a router is asked for and what it answers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::id::{Address, RequestId, Timestamp};
use crate::node::Status;
use crate::op::{Found, Key, KeyRange, Page, PageLimit, Value, WriteOp, WriteResult};
use crate::txn::{AbortReason, Age, OutcomeId, TxnOutcome, TxnWrite};
use crate::wire::{AdminReply, AdminRequest, MapView, Refusal, ReplyFrame, RequestFrame};

/// Configuration of a router.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Where to find the cluster: at least one address. The rest is learned from there.
    pub endpoints: Vec<Address>,
    /// How long to wait for one attempt's answer before the next. Default 1 s.
    pub attempt_timeout: Duration,
    /// Shortest pause before a retry; doubled with each further one and jittered. Default 20 ms.
    pub backoff_min: Duration,
    /// Longest pause before a retry. Default 250 ms, about a quarter of an election.
    pub backoff_max: Duration,
}

impl RouterConfig {
    /// A configuration with defaults for everything else.
    pub fn new(endpoints: Vec<Address>) -> Self {
        Self {
            endpoints,
            attempt_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(250),
        }
    }
}

/// One call of the user, numbered by the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A transaction of one router, numbered by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnHandle(pub u64);

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Reads a key and locks it against writers. Sees the transaction's own writes.
    Get {
        /// The key.
        key: Key,
    },
    /// Reads a key and locks it against everybody: for what is going to be written.
    GetForUpdate {
        /// The key.
        key: Key,
    },
    /// Sets a key at the commit.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
    },
    /// Removes a key at the commit.
    Delete {
        /// The key.
        key: Key,
    },
    /// Reads a page of a range, over all shards in the order of the keys, and locks it against
    /// writers up to where it goes on, with all keys in it that do not exist. Sees the
    /// transaction's own writes. A page may be empty and yet not be the last one.
    Scan {
        /// The range.
        range: KeyRange,
        /// How much the page may hold: at most [`PAGE_ROWS_MAX`](super::PAGE_ROWS_MAX) and
        /// [`PAGE_BYTES_MAX`](super::PAGE_BYTES_MAX), at least one row.
        limit: PageLimit,
    },
    /// Makes all writes take effect, on all shards at once.
    Commit,
    /// Drops all writes and locks.
    Rollback,
}

/// How fresh what a replica answers must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// At least all that the session of this router has seen
    /// ([`Router::session_token`](super::Router::session_token)).
    Sequential,
    /// All that was acknowledged before `max_age` ago.
    Stale {
        /// In whole milliseconds; what is left of one is cut off.
        max_age: Duration,
    },
}

/// What the user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A linearizable read.
    Get {
        /// The key.
        key: Key,
    },
    /// A read at any replica of the key's shard. Answered by [`Answer::GotReplica`].
    GetReplica {
        /// The key.
        key: Key,
        /// How fresh it must be.
        level: Level,
    },
    /// A timestamp of the oracle, from any node: above that of everything that was acknowledged
    /// before.
    Timestamp,
    /// A read of what a key held at a timestamp of the oracle.
    GetAt {
        /// The key.
        key: Key,
        /// The timestamp.
        at: Timestamp,
    },
    /// A page of what a range held at a timestamp of the oracle, over all shards, in the order of the
    /// keys. A page may be empty and yet not be the last one.
    ScanAt {
        /// The range.
        range: KeyRange,
        /// The timestamp.
        at: Timestamp,
        /// How much the page may hold: at most [`PAGE_ROWS_MAX`](super::PAGE_ROWS_MAX) and
        /// [`PAGE_BYTES_MAX`](super::PAGE_BYTES_MAX), at least one row.
        limit: PageLimit,
    },
    /// A write, exactly once.
    Write(WriteOp),
    /// A step of a transaction that was begun with [`Router::begin`](super::Router::begin). One step
    /// of a transaction is out at a time.
    Txn {
        /// The transaction.
        txn: TxnHandle,
        /// The step.
        op: TxnOp,
    },
    /// Writes of any keys that take effect together, or not at all, exactly once. Of several writes
    /// to one key the last counts. Answered by [`Answer::Committed`].
    WriteBatch {
        /// How old it is: of two that wait for each other, the younger gives way, and tries again.
        age: Age,
        /// The writes.
        writes: Vec<TxnWrite>,
    },
    /// How a transaction ended whose commit was not answered. If nothing is decided yet, it is aborted
    /// by this. Answered by [`Answer::Outcome`], or fails with [`CallError::OutcomeForgotten`].
    Outcome {
        /// What [`CallError::UnknownOutcome`] has named.
        id: OutcomeId,
    },
    /// The status of one node.
    Status {
        /// The node's address.
        address: Address,
    },
    /// The cluster map, from any node.
    Map,
    /// What an operator asks.
    Admin(AdminRequest),
    /// That a node which belongs to no cluster join this one.
    Join {
        /// The node's address.
        address: Address,
        /// Where it finds the cluster.
        seeds: Vec<Address>,
    },
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get; none if the key does not exist.
    Got(Option<Found>),
    /// To a read at a replica.
    GotReplica {
        /// What the key held; none if it did not exist.
        found: Option<Found>,
        /// At which timestamp.
        at: Timestamp,
    },
    /// To a call for a timestamp.
    Timestamp(Timestamp),
    /// To a scan.
    Page(Page),
    /// To a write.
    Written(WriteResult),
    /// To a write of a transaction: it is remembered until the commit.
    Buffered,
    /// To a commit or a batch.
    Committed {
        /// The version of what was written; none if nothing was.
        commit_ts: Option<Timestamp>,
    },
    /// To a rollback.
    RolledBack,
    /// To the question how a transaction ended.
    Outcome(TxnOutcome),
    /// To a status call.
    Status(Status),
    /// To a map call.
    Map(MapView),
    /// To an operator's request.
    Admin(AdminReply),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The deadline passed after the write had been sent. *Whether it took effect, now or later, is
    /// unknown.*
    #[error(
        "outcome unknown: request {request} was sent but not answered in time; it may or may not take effect"
    )]
    UnknownOutcome {
        /// The id under which it was sent.
        request: RequestId,
        /// Of a transaction or batch: what its outcome can be asked for by, with [`Call::Outcome`].
        id: Option<OutcomeId>,
    },
    /// It is not remembered any more how the transaction ended. *It may have taken effect; it will not
    /// from here on.*
    #[error("the outcome {id} is forgotten; the transaction may have taken effect")]
    OutcomeForgotten {
        /// What was asked for.
        id: OutcomeId,
    },
    /// No transaction of this cluster goes by that id: it is of another cluster, or was mistyped.
    /// *Nothing was asked.*
    #[error("the outcome id {id} is not of this cluster, or was mistyped")]
    WrongOutcomeId {
        /// What was asked for.
        id: OutcomeId,
    },
    /// The deadline passed after an operator's request had been sent. *It may have been decided.* To
    /// repeat it does no harm.
    #[error("the request was sent but not answered in time; repeat it, which does no harm")]
    AdminUnknown,
    /// The deadline passed and nothing took effect. *Nothing was changed.*
    #[error("no node could answer in time{}", last_answer(last.as_ref()))]
    Unavailable {
        /// The last refusal heard, if any.
        last: Option<Refusal>,
    },
    /// The transaction was aborted. *None of it took effect.* To run it again from its beginning is
    /// safe.
    #[error("the transaction was aborted: {0}")]
    Aborted(AbortReason),
    /// The transaction has ended, or never was. *Nothing was changed.*
    #[error("the transaction has ended")]
    NoTransaction,
    /// The transaction would be larger than one may be. *Nothing was changed*, and it is over.
    #[error("{size} {what} exceed what a transaction may have, {size_max}")]
    TxnTooLarge {
        /// "operations", "bytes" or "scanned ranges of one shard".
        what: String,
        /// How many.
        size: u64,
        /// The limit.
        size_max: u64,
    },
    /// A node refused for a reason that a retry cannot mend. *Nothing was changed.*
    #[error(transparent)]
    Refused(Refusal),
}

/// What happens to a router.
#[derive(Clone, Debug)]
pub enum RouterInput {
    /// The time of [`Router::poll_timeout`](super::Router::poll_timeout) has come.
    Timeout,
    /// A reply from the process at `from`.
    Receive {
        /// Who sent it.
        from: Address,
        /// The reply.
        reply: ReplyFrame,
    },
    /// The driver could not send to `to`, or lost the connection: attempts waiting for it are
    /// retried at once.
    Unreachable {
        /// Who cannot be reached.
        to: Address,
    },
}

/// What a router wants done. To be drained with [`Router::poll_output`](super::Router::poll_output)
/// after each call and input.
#[derive(Clone, Debug)]
pub enum RouterOutput {
    /// Send the request. May be lost.
    Send {
        /// To whom.
        to: Address,
        /// The request.
        request: RequestFrame,
    },
    /// The call has ended. Comes exactly once per call, at the latest at its deadline.
    Done {
        /// The call.
        call: CallId,
        /// How it ended.
        result: Result<Answer, CallError>,
    },
}

fn last_answer(last: Option<&Refusal>) -> String {
    last.map(|last| format!(" (last answer: {last})")).unwrap_or_default()
}
