//! The client library: a key-value cluster as a handful of async or blocking calls.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
//! client.put("greeting", "hello").await?;
//! let found = client.get("greeting").await?;
//! assert!(found.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! All that decides anything (where a key lives, when to retry, which request id a write has, when
//! a call has failed) is the [`Router`](kv_core::client::Router) of kv-core, the same one that the
//! simulator tests. This crate is its driver: a background task owns the router and one connection
//! per node, and carries out what the router puts out. A [`Client`] is a cheap handle to that task;
//! [`blocking::Client`] is one for code without a runtime.
//!
//! A call ends at the latest at its deadline (10 s unless [`Client::with_deadline`] says
//! otherwise), in one of three ways: it was done, nothing was changed, or *the outcome is unknown*.
//! The last one exists only for writes, commits, and questions how one ended;
//! [`ClientError::is_outcome_unknown`] tells it apart.
//! How a commit ended can be asked later ([`Client::outcome`]).
//!
//! A [`Transaction`] reads and writes any keys and takes effect at once or not at all.
//! [`Client::transact`] runs one, and runs it again if it is aborted.
//!
//! [`Client::write_batch`] and [`Client::txn`] do so in one call.
//!
//! A [`Snapshot`] reads keys and ranges as they were at one moment, without locks: it waits for no
//! writer, and no writer waits for it.
//!
//! [`Client::get_with`] reads at any replica, as fresh as a [`Consistency`] says.
//!
//! # What this leaves out
//!
//! TLS and authentication, and ranges that trade freshness for speed.

pub mod blocking;

mod batch;
mod client;
mod connection;
mod consistency;
mod driver;
mod error;
mod random;
mod snapshot;
mod transaction;
mod transaction_scan;

pub use batch::{Compare, Op, TxnResult, WriteBatch};
pub use client::{Client, DEADLINE_DEFAULT};
pub use consistency::{Consistency, UnknownConsistency};
pub use driver::CasResult;
pub use error::{ClientError, ConnectError, ConnectionError, ConnectionFailure};
pub use snapshot::{Scan, Snapshot};
pub use transaction::Transaction;
pub use transaction_scan::TransactionScan;

/// Compiles the examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/transactions.md")]
struct Guide;

/// Compiles the examples of the page about levels.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/consistency.md")]
struct GuideToConsistency;
