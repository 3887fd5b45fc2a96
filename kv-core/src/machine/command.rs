//! The payload of a log entry.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterRecord;
use crate::codec::{self, CodecError};
use crate::id::{Address, Incarnation, NodeId, RequestId, ShardId, Timestamp};
use crate::op::WriteOp;
use crate::oracle::Raise;
use crate::raft::Configuration;
use crate::txn::{Decision, Part, TxnId, TxnOutcome};

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
        /// The version of what it writes: a timestamp of the oracle, asked for after the request
        /// had come to the leader that proposes it.
        commit_ts: Timestamp,
    },
    /// A change of the meta group's own state.
    Meta(MetaCommand),
    /// Who takes part in the group from this entry on, in any group. Raft acts upon it as soon as
    /// the entry is appended; the machine only remembers it.
    Configuration(Configuration),
    /// In the meta group: lets the leader that proposed it issue timestamps up to a new bound
    /// ([`oracle`](crate::oracle)).
    RaiseBound(Raise),
    /// Nobody reads what was true before this: versions that only such a read could see may be
    /// dropped. A watermark below the one that holds changes nothing.
    RaiseWatermark {
        /// The oldest timestamp that can still be read.
        watermark: Timestamp,
    },
    /// Makes a transaction's part on this shard durable, until the anchor has decided.
    Prepare {
        /// Identity of the decision; here that of the preparation.
        request: RequestId,
        /// Which transaction.
        txn: TxnId,
        /// The shard that decides.
        anchor: ShardId,
        /// The part.
        part: Part,
        /// The decision takes a timestamp that is at least this, as the shard's leader knows: reads
        /// below it need not wait for the transaction.
        floor: Timestamp,
    },
    /// Decides a transaction, if it is not decided.
    Decide {
        /// Identity of the decision.
        request: RequestId,
        /// Which transaction.
        txn: TxnId,
        /// The decision.
        decision: Decision,
    },
    /// Ends a transaction on a participant: the anchor has decided.
    Finish {
        /// Which transaction.
        txn: TxnId,
        /// How.
        outcome: TxnOutcome,
    },
    /// All participants of these transactions have applied what was decided here.
    Forget {
        /// The transactions.
        txns: Vec<TxnId>,
    },
}

/// What the encoding of a [`Command::Configuration`] begins with: the version, then the variant.
const CONFIGURATION_PREFIX: [u8; 2] = [0, 3];

/// The configuration that an entry's payload holds, if it is the entry of one. For all other
/// entries two bytes are looked at.
///
/// None also for a payload that begins like one and is none: an entry that no leader makes, and
/// that [`Command::decode`] refuses.
pub fn configuration_in(payload: &[u8]) -> Option<Configuration> {
    if !payload.starts_with(&CONFIGURATION_PREFIX) {
        return None;
    }
    let Ok(Command::Configuration(configuration)) = Command::decode(payload) else {
        return None;
    };
    Some(configuration)
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
    /// Makes a node a member, under the next id. A copy finds it to be one already.
    AddMember {
        /// The life of its data directory.
        incarnation: Incarnation,
        /// Where it is reached. That of the first copy holds.
        address: Address,
    },
    /// Lets a member leave: its replicas move away, then it is dropped.
    RemoveMember {
        /// Who.
        id: NodeId,
    },
    /// Lets a member leave whose replicas another one takes over.
    ReplaceMember {
        /// Who leaves.
        old: NodeId,
        /// Who takes over.
        new: NodeId,
    },
    /// A shard's leader has committed a configuration. Taken if its epoch is above the map's.
    Placed {
        /// The shard.
        shard: ShardId,
        /// What holds there.
        configuration: Configuration,
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
