//! What can go wrong, and what each case says about the state of the cluster.

use std::fmt;
use std::io;
use std::sync::Arc;

use kv_core::client::CallError;
use kv_core::id::Address;
use kv_core::txn::OutcomeId;
use kv_core::wire::{FrameError, HelloRefusal, Refusal};

/// A client could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address to start from. *Nothing was changed.*
    #[error("no endpoint is given; name at least one HOST:PORT")]
    NoEndpoints,
    /// The operating system gave no randomness. *Nothing was changed.*
    #[error("no randomness from /dev/urandom")]
    Randomness(#[source] io::Error),
    /// The thread of a blocking client could not be started. *Nothing was changed.*
    #[error("the client's thread could not be started")]
    Thread(#[source] io::Error),
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The call was carried out as far as it went, and failed. *See [`CallError`] for what that
    /// changed.*
    #[error("{call}{}", Failures(connections))]
    Call {
        /// What the routing core says.
        #[source]
        call: CallError,
        /// The last failure of each node that could not be reached; tells why nobody answered.
        connections: Vec<ConnectionFailure>,
    },
    /// The client's task ended first: its runtime was shut down. *The outcome of a write is
    /// unknown.*
    #[error(
        "the client was shut down before the call ended; whether a write took effect is unknown"
    )]
    Closed,
}

impl ClientError {
    /// Whether a write may or may not have taken effect, now or later. If not, nothing was changed.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Call {
                call:
                    CallError::UnknownOutcome { .. }
                    | CallError::OutcomeForgotten { .. }
                    | CallError::AdminUnknown,
                ..
            }
            | Self::Closed => true,
            Self::Call {
                call:
                    CallError::Unavailable { .. }
                    | CallError::Refused(_)
                    | CallError::Aborted(_)
                    | CallError::NoTransaction
                    | CallError::TxnTooLarge { .. }
                    | CallError::WrongOutcomeId { .. },
                ..
            } => false,
        }
    }
}

impl ClientError {
    /// What the outcome of a transaction or batch can be asked for by, with
    /// [`Client::outcome`](crate::Client::outcome), if it is unknown.
    pub fn outcome_id(&self) -> Option<OutcomeId> {
        match self {
            Self::Call { call: CallError::UnknownOutcome { id, .. }, .. } => *id,
            Self::Call { .. } | Self::Closed => None,
        }
    }

    /// Whether a transaction was aborted: nothing of it took effect, and to run it again from its
    /// beginning is safe and makes sense.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Call { call: CallError::Aborted(_), .. })
    }

    /// Whether a read-only transaction looks back further than old values are kept. The same read
    /// fails again; in another transaction, begun anew, it can succeed.
    pub fn is_snapshot_too_old(&self) -> bool {
        let Self::Call { call: CallError::Refused(refusal), .. } = self else {
            return false;
        };
        matches!(refusal, Refusal::SnapshotTooOld { .. })
    }

    /// Whether nothing was changed, and the same call, or the whole transaction, may succeed if it is
    /// made again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Call { call: CallError::Unavailable { .. } | CallError::Aborted(_), .. } => true,
            Self::Call {
                call:
                    CallError::UnknownOutcome { .. }
                    | CallError::OutcomeForgotten { .. }
                    | CallError::AdminUnknown
                    | CallError::Refused(_)
                    | CallError::NoTransaction
                    | CallError::TxnTooLarge { .. }
                    | CallError::WrongOutcomeId { .. },
                ..
            }
            | Self::Closed => false,
        }
    }
}

/// A node that could not be reached, and why.
#[derive(Clone, Debug)]
pub struct ConnectionFailure {
    /// The node's address.
    pub address: Address,
    /// Why the last connection to it failed.
    pub error: Arc<ConnectionError>,
}

struct Failures<'a>(&'a [ConnectionFailure]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.0 {
            write!(f, "; {}: {}", failure.address, failure.error)?;
        }
        Ok(())
    }
}

/// Why a connection failed. Requests on it may or may not have arrived; the router sends them again
/// under the same id.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The node refused the connection.
    #[error("refused: {0}")]
    Refused(#[source] HelloRefusal),
    /// What came is not a frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A valid frame that has no place on a client connection.
    #[error("the other side is no node: unexpected frame")]
    Unexpected,
    /// The other side closed the connection.
    #[error("closed by the other side")]
    Closed,
}
