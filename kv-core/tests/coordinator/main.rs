//! The coordinator of transactions, a part of the client's router, against hand-made replies.
//!
//! What would go wrong: a transaction that reads two states of one key, sends its commit under two
//! names, says that it was aborted when it may not have been, or leaves locks behind.

mod batch;
mod commit;
mod harness;
mod outcome;
mod scans;
mod steps;
