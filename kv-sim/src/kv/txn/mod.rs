//! Workloads of transactions.
//!
//! A [`TxnClient`] runs one transaction after the other, each step by step: it reads and locks, writes
//! what follows from what it has read, and commits. What clients do is up to the kind of workload:
//!
//! - `bank`: transfers between accounts, and reads of all of them. Their sum never changes.
//! - `list-append`: unique elements are appended to lists, which show the order of everything.
//! - `rw-register`: unique values are written and read, a few keys at a time.
//! - `write-skew`: both keys of a pair are read, and one of them is written.
//! - `long-fork`: each key is written once, and groups of them are read.
//! - `causal-reverse`: keys of a group are written one after the other, without transactions, and all
//!   of them are read at a timestamp: who sees a later one sees the earlier ones.
//! - `phantom`: groups of keys are scanned under locks, and something is put into them that follows
//!   from what is there, or from one key of it.
//! - `deadlock`: rings of transactions that wait for each other ([`Planter`]).
//! - `ordered`: few keys that all want are locked in one order, so that nobody is ever in a deadlock.
//! - `hot-keys`: one of few keys is locked and overwritten.
//!
//! Every attempt of a transaction is one of its own in the history, with values of its own: if
//! anything of an aborted one is ever seen, it shows.
//!
//! # What is checked
//!
//! All but `bank` record what kv-check judges as strictly serializable, real time included; of a bank
//! it looks at the sums. What was read is also compared with when it was written ([`seen`]). What
//! committed transactions wrote must be on every replica at the end, and
//! commit timestamps agree with real time. Of transactions that wait for each other more is checked:
//! that deadlocks are broken in time, and where there are none nobody is told of one, and that nobody
//! starves.
//!
//! Clients may die in the middle of a transaction, between two steps or two messages of one step
//! (`abandon_rate`): nobody beats for it, and nobody rolls it back. Some reads and writes of a
//! single key are no transactions, so that these meet those; and of the transactions that only
//! read, many read at a timestamp without locks ([`snapshot`]), key by key or by a scan. A scan
//! that locks is a read of each key of its transaction, of those that do not exist too ([`scan`]).
//!
//! **What this leaves out:** keys that are deleted.

mod attempt;
mod bank;
mod client;
mod contention;
mod history;
mod judge;
mod lists;
mod operations;
mod phantoms;
mod planter;
mod registers;
mod rings;
mod scan;
mod seen;
mod snapshot;
#[cfg(test)]
mod tests;
mod transaction;

pub use client::TxnClient;
pub(super) use history::TxnRecorder;
pub(super) use judge::judge;
pub use planter::Planter;
pub(super) use rings::Ring;
pub use rings::RingEvent;
pub use transaction::TxnEvent;
