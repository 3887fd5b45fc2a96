//! The client's routing core.
//!
//! A [`Router`] turns calls of the user into requests to nodes, and keeps at it until there is an
//! answer or the deadline passes. It is as pure as the node: a driver feeds it replies and the time
//! and carries out what it puts out, so retries are simulated together with the servers.
//!
//! # Life of a call
//!
//! The first call fetches the cluster *map* from any endpoint; keys are hashed to shards with it.
//! The first write opens a *session* at the leader of the meta group. A request goes to the shard's
//! leader if it is known, else to any replica; who is not the leader names it. Every retry of a
//! write carries the same request id, so it runs once. Retries pause for a time that doubles and is
//! jittered, unless the refusal itself named a better place.
//!
//! A scan asks every shard for its part of the range, all at one timestamp, and merges the parts into
//! one page. A scan of a transaction does the same, and has each shard lock what it tells.
//!
//! A read at a replica goes to whichever is drawn, and carries what the session has seen.
//!
//! A batch is a transaction that begins with its commit; the router runs it again if it is aborted.
//!
//! # How a call ends
//!
//! With an answer, with a refusal that no retry mends, or at its deadline: then a write that was
//! sent at least once has an *unknown outcome*, and everything else certainly changed nothing.
//!
//! A session that a shard has forgotten is replaced by a new one. That is safe only for a request
//! that was sent once, whose refusal is then the fate of its only copy (a connection delivers no
//! copy of a request on its own); any other gets the unknown outcome.
//!
//! **What this leaves out:** requests that share a frame, a circuit breaker, a retry budget, and asking
//! later for the outcome of a write that is no transaction.

mod api;
mod job;
mod router;
mod scan;
mod transaction;

pub use api::{
    Answer, Call, CallError, CallId, Level, RouterConfig, RouterInput, RouterOutput, TxnHandle,
    TxnOp,
};
pub use router::{Router, UNKNOWN_AGE_MAX, UNKNOWN_MAX};
pub use scan::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
pub use transaction::check_operations;
