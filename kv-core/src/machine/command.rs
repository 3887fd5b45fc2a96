//! The payload of a log entry.

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterRecord;
use crate::codec::{self, CodecError};
use crate::id::RequestId;
use crate::op::WriteOp;
use crate::raft::Configuration;

/// What an entry asks the state machine to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing: a new leader's first entry, which lets it commit what came before (Raft paper,
    /// section 8).
    Noop,
    /// A client's write.
    Write {
        /// Its identity over all retries.
        request: RequestId,
        /// The write.
        op: WriteOp,
    },
    /// A change of the meta group's own state.
    Meta(MetaCommand),
    /// Who takes part in the group. Raft itself looks at these.
    Configuration(Configuration),
}

/// What encoded configurations begin with: version and variant.
const CONFIGURATION_PREFIX: [u8; 2] = [0, 3];

/// The configuration in a payload, if it is one.
pub fn configuration_in(payload: &Bytes) -> Option<Configuration> {
    if !payload.starts_with(&CONFIGURATION_PREFIX) {
        return None;
    }
    match Command::decode(payload) {
        Ok(Command::Configuration(configuration)) => Some(configuration),
        Ok(Command::Noop | Command::Write { .. } | Command::Meta(_)) | Err(_) => None,
    }
}

/// A command of the meta group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// The first command: makes the map out of what the cluster was formed as.
    Bootstrap {
        /// The cluster.
        record: ClusterRecord,
    },
    /// Opens a client session; its `opened_ts` is the index of this entry.
    OpenSession {
        /// Drawn by the client.
        nonce: u64,
    },
}

/// The stored form: a version, then the command.
#[derive(Serialize, Deserialize)]
enum StoredCommand<C> {
    V1(C),
}

impl Command {
    /// Encodes the command for the log.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&StoredCommand::V1(self))
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`CodecError`] if it is not a command of a known version.
    pub fn decode(payload: &[u8]) -> Result<Self, CodecError> {
        let StoredCommand::V1(command) = codec::decode(payload)?;
        Ok(command)
    }
}
