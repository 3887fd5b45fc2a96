//! Messages between nodes.
//!
//! The link between two nodes is the unit: all that one step of a node has for one peer leaves in
//! one frame, whatever shards it concerns. Liveness and leadership are confirmed per pair of nodes,
//! not per shard ([`PeerMessage::Confirm`]).

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterMap, ClusterRecord};
use crate::gossip::GossipMessage;
use crate::id::{
    ClusterId, Incarnation, LogId, LogIndex, NodeId, RequestId, Round, ShardId, Term, Timestamp,
};
use crate::machine::SnapshotChunk;
use crate::raft::Configuration;
use crate::storage::{SnapshotId, StateHash};
use crate::txn::{Age, TxnId, TxnOutcome};
use crate::wire::client::{AdminRequest, ClientReply};

/// All that one step of a node has for one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFrame {
    /// The sender's cluster; none before it is formed. A frame of another cluster is dropped before
    /// it touches a term.
    pub cluster: Option<ClusterId>,
    /// The sender.
    pub from: NodeId,
    /// The sender's incarnation. A frame of a wiped node's new life is dropped.
    pub from_incarnation: Incarnation,
    /// The receiver.
    pub to: NodeId,
    /// Control messages first, then entries.
    pub messages: Vec<PeerMessage>,
}

/// One message between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Forming the cluster.
    Formation(FormationMessage),
    /// "I am alive, and lead what my list of that version says." Sent every heartbeat and when
    /// reads wait.
    Confirm {
        /// Drawn by the sender's process when it started, echoed in the answer: an answer to an
        /// earlier process of the same node must not count.
        boot: u64,
        /// Echoed in the answer.
        round: Round,
        /// Version of the sender's list for this receiver.
        version: u64,
        /// The list, until the receiver has acknowledged its version.
        leads: Option<Vec<Lead>>,
    },
    /// Answer to [`PeerMessage::Confirm`].
    Confirmed(Confirmation),
    /// A message of one Raft group.
    Raft {
        /// The group.
        shard: ShardId,
        /// The message.
        message: RaftMessage,
    },
    /// About the cluster's map.
    Map(MapMessage),
    /// A part of a shard's state for a member that lacks entries which no log has any more.
    Snapshot(SnapshotMessage),
    /// What a client asked of another node than the one that does it, or the answer.
    Forward(ForwardMessage),
    /// Hints about members.
    Gossip(GossipMessage),
    /// Asking for timestamps, and getting them.
    Oracle(OracleMessage),
    /// Ending a transaction on its shards.
    Txn(TxnMessage),
    /// As leader of a shard: the replicas' states differ.
    Diverged {
        /// The shard.
        shard: ShardId,
        /// The leader's term.
        term: Term,
        /// After which entry.
        index: LogIndex,
        /// The state that a majority has, as a hash, which is not the receiver's; none if no state
        /// can have a majority.
        majority: Option<u64>,
    },
    /// Up to when replicas of a shard may be read.
    SafeTime(SafeTimeMessage),
}

/// Messages between a replica that is to be read and the leader of its shard. Any of them may be
/// lost: who waits asks again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SafeTimeMessage {
    /// A safe time, please, from the leader of the shard.
    Ask {
        /// The shard.
        shard: ShardId,
        /// Drawn by the asker's process when it started, echoed in the answer.
        boot: u64,
        /// Chosen by the asker, echoed in the answer. A question with a higher one replaces it.
        number: u64,
        /// An answer below this is of no use, and better waited for; zero if any is.
        at_least: Timestamp,
    },
    /// The answer.
    Answer {
        /// The shard.
        shard: ShardId,
        /// Of the process that asked.
        boot: u64,
        /// Of the question.
        number: u64,
        /// The safe time, unless the sender does not lead the shard.
        result: Result<SafeTime, Elsewhere>,
    },
}

/// Up to when a shard can be read at a replica. Every write with a timestamp at or below `safe` is in
/// the log at or below `index`, and no other one will ever be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafeTime {
    /// The timestamp to read at.
    pub safe: Timestamp,
    /// What a replica must have applied.
    pub index: LogIndex,
    /// A timestamp that was issued after the question had come; `safe`, or above it while a
    /// transaction has prepared that may commit in between. What was acknowledged before the question
    /// was asked is below it.
    pub issued: Timestamp,
}

/// Messages between the leaders of a transaction's shards. Any of them may be lost: who waits says it
/// again. Who does not lead the shard that is meant ignores them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnMessage {
    /// From a participant to the anchor: how did it end?
    Resolve {
        /// The anchor.
        anchor: ShardId,
        /// The participant.
        participant: ShardId,
        /// Which transaction.
        txn: TxnId,
        /// Identity of its decision.
        request: RequestId,
    },
    /// From the anchor to a participant: it ended so.
    Finish {
        /// The anchor.
        anchor: ShardId,
        /// The participant.
        participant: ShardId,
        /// Which transaction.
        txn: TxnId,
        /// How it ended.
        outcome: TxnOutcome,
    },
    /// From a participant to the anchor: that is applied here.
    Finished {
        /// The anchor.
        anchor: ShardId,
        /// The participant.
        participant: ShardId,
        /// Which transaction.
        txn: TxnId,
    },
    /// To the leader of the meta group: who waits for whom on the sender's shards.
    Waits {
        /// The poll that it answers; 0 if none.
        poll: u64,
        /// The waits.
        waits: Vec<Wait>,
    },
    /// From the leader of the meta group: who waits for whom?
    Poll {
        /// Echoed in the answer.
        poll: u64,
    },
    /// From the leader of the meta group: the first of these has to give way.
    Deadlock {
        /// Each waits for the next one, the last for the first.
        cycle: Vec<TxnId>,
    },
}

/// A transaction that waits for a lock, and one that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wait {
    /// Who waits.
    pub waiter: TxnId,
    /// How old it is.
    pub age: Age,
    /// For whom.
    pub holder: TxnId,
    /// Number of the wait at the node that reports it: another wait has another one.
    pub number: u64,
}

/// Messages between a node that needs timestamps and the leader of the meta group, directly or by one
/// hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OracleMessage {
    /// Timestamps, please.
    Request {
        /// Who needs them: the sender, or for whom it passes this on.
        asker: NodeId,
        /// Drawn by the asker's process when it started, echoed in the answer.
        boot: u64,
        /// Chosen by the asker, echoed in the answer.
        number: u64,
        /// How many, at least one and at most [`COUNT_MAX`](crate::oracle::COUNT_MAX).
        count: u32,
        /// The term in which the asker's replica of the meta group follows the receiver, at the
        /// moment of asking, and how many requests it knows that the receiver had by then; none if
        /// it does not follow, or is no replica, or the request was passed on. It confirms the
        /// leadership as far as the asker's vote goes, for those requests and for this one.
        follows: Option<Receipt>,
        /// Whether it is passed on for another node.
        is_relayed: bool,
    },
    /// The answer, on the way that the request came.
    Reply {
        /// Who asked.
        asker: NodeId,
        /// Of the process that asked.
        boot: u64,
        /// Of the request.
        number: u64,
        /// The timestamps.
        result: Result<Issued, Elsewhere>,
    },
}

/// Timestamps that were issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The first one; the others follow.
    pub first: Timestamp,
    /// What the oracle had got when it issued them.
    pub receipt: Receipt,
}

/// How many requests an oracle has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The term in which it leads the meta group.
    pub term: Term,
    /// Requests in that term, this node's own included.
    pub count: u64,
}

/// The node issues no timestamps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Who may; a hint.
    pub leader: Option<NodeId>,
}

/// Messages that bring a client's request to the leader of the meta group, by one hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardMessage {
    /// A client of the sender asks this. It is not sent on any further.
    Request {
        /// Drawn by the sender's process when it started, echoed in the answer.
        boot: u64,
        /// Chosen by the sender, echoed in the answer.
        number: u64,
        /// What is asked.
        request: NodeRequest,
    },
    /// The answer.
    Reply {
        /// Of the process that asked.
        boot: u64,
        /// Of the request.
        number: u64,
        /// What the client is to be told.
        body: ClientReply,
    },
}

/// What only the leader of the meta group carries out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Open a session.
    OpenSession {
        /// Drawn at random by the client.
        nonce: u64,
    },
    /// Change the members.
    Admin(AdminRequest),
}

/// Messages by which nodes learn the newest map, and the meta leader what it is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapMessage {
    /// The sender leads the meta group, and this is the version of its map.
    Version {
        /// The version.
        version: LogIndex,
    },
    /// Answer to `Version`: what the sender has.
    Have {
        /// The version.
        version: LogIndex,
    },
    /// A map, for who has an older one.
    Map(ClusterMap),
    /// The sender leads the shard, and this configuration is committed there.
    Placed {
        /// The shard.
        shard: ShardId,
        /// What holds.
        configuration: Configuration,
    },
}

/// Messages that bring a snapshot to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotMessage {
    /// The next part, or the last one again.
    Chunk {
        /// The sender's term as leader of the shard.
        term: Term,
        /// The snapshot.
        id: SnapshotId,
        /// Number of the chunk, from 0.
        sequence: u64,
        /// The chunk.
        chunk: SnapshotChunk,
    },
    /// The chunk was taken: the next one, please.
    Staged {
        /// The snapshot.
        id: SnapshotId,
        /// Number of the chunk.
        sequence: u64,
    },
    /// The chunk was not taken: this snapshot is of no use here any more.
    Refused {
        /// The snapshot.
        id: SnapshotId,
    },
}

/// Whether the answerer takes the asker for the leader of what is on the asker's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Of the process that asked.
    pub boot: u64,
    /// The round that is answered.
    pub round: Round,
    /// The list that the answer is about; 0 if the answerer does not have the one that was asked
    /// about.
    pub version: u64,
    /// Shards of the list that are *not* confirmed: the answerer knows a newer term, or has no
    /// replica.
    pub except: Vec<ShardId>,
    /// Confirmed shards in which this leadership has not said, since the answerer's process started,
    /// that all that it holds is committed: it may not know, even if an earlier process of it did.
    pub unheard: Vec<ShardId>,
    /// Shards of the list, among those that are not confirmed, in which the answerer is suspect, or
    /// would be if it had a replica, and in which life it is.
    pub suspect: Vec<(ShardId, u64)>,
    /// The newest states at which replicas are compared, of those that follow the asker; each is
    /// told once.
    pub states: Vec<(ShardId, StateHash)>,
    /// Whether the answerer's disk is full: it should get nothing but what makes room.
    pub is_full: bool,
    /// Whether the answerer should be given no leadership: its disk is slow, or it does not hear a
    /// leader that it should hear.
    pub is_unfit: bool,
}

impl Confirmation {
    /// The answer of who does not have the list that was asked about.
    pub(crate) fn unknown_list(boot: u64, round: Round) -> Self {
        Self {
            boot,
            round,
            version: 0,
            except: Vec::new(),
            unheard: Vec::new(),
            suspect: Vec::new(),
            states: Vec::new(),
            is_full: false,
            is_unfit: false,
        }
    }
}

/// One leadership: the sender leads this shard in this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// The shard.
    pub shard: ShardId,
    /// The term of the leadership.
    pub term: Term,
}

/// Messages that turn a set of empty nodes into a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FormationMessage {
    /// "Which life is yours, and do you belong to a cluster?"
    Query {
        /// Drawn by the asker's process when it started.
        nonce: u64,
    },
    /// Answer to `Query`; the sender's incarnation stands in the frame.
    Status {
        /// Of the question. An answer to anybody else, or to an earlier life of the asker, may be
        /// out of date and must not count.
        nonce: u64,
        /// The cluster that the sender belongs to.
        cluster: Option<ClusterRecord>,
    },
}

impl RaftMessage {
    /// The term that the message names.
    pub fn term(&self) -> Term {
        match self {
            Self::Vote { term, .. }
            | Self::VoteReply { term, .. }
            | Self::Append { term, .. }
            | Self::AppendAccepted { term, .. }
            | Self::AppendRejected { term, .. }
            | Self::Transfer { term }
            | Self::Cleared { term, .. } => *term,
        }
    }
}

/// A message of one Raft group (Raft paper, figure 2; PreVote: Raft thesis, section 9.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftMessage {
    /// Request for a vote.
    Vote {
        /// The candidate's term; for a pre-vote, the term that it would start.
        term: Term,
        /// The candidate's last entry.
        last: LogId,
        /// Why it asks.
        kind: VoteKind,
    },
    /// Answer to `Vote`.
    VoteReply {
        /// If granted, the term asked for; else the answerer's own term.
        term: Term,
        /// Whether a pre-vote is answered.
        pre: bool,
        /// Whether the vote is granted.
        granted: bool,
    },
    /// Entries to append.
    Append {
        /// The leader's term.
        term: Term,
        /// The entry before the first one.
        prev: LogId,
        /// The leader's commit index.
        commit: LogIndex,
        /// Every voter durably holds the committed entries up to here: nobody will have to send
        /// them again.
        held_by_all: LogIndex,
        /// Term and payload of each entry; the first has index `prev.index + 1`.
        entries: Vec<(Term, Bytes)>,
    },
    /// The entries are durable at the follower.
    AppendAccepted {
        /// The follower's term.
        term: Term,
        /// The follower's log equals the leader's up to here, durably.
        matched: LogIndex,
        /// The follower's commit index, so that the leader knows when it has told it.
        commit: LogIndex,
        /// What the follower knows to be held by all, for the same reason.
        held_by_all: LogIndex,
        /// Which life of the replica answers, and whether the follower may be counted.
        standing: Standing,
    },
    /// The follower's log does not hold `prev`, or the leader's term is old.
    AppendRejected {
        /// The follower's term.
        term: Term,
        /// The `prev.index` that was refused.
        prev: LogIndex,
        /// The follower's last entry that may match: at most `prev.index`, of a term at most
        /// `prev.term`.
        hint: LogId,
    },
    /// "Campaign at once: I hand the leadership over to you" (Raft thesis, section 3.10).
    Transfer {
        /// The leader's term.
        term: Term,
    },
    /// "You have all that may have been promised, and are suspect no more."
    Cleared {
        /// The leader's term.
        term: Term,
        /// The life of the follower's replica that this is about.
        life: u64,
        /// An entry up to which it has acknowledged in that life.
        barrier: LogIndex,
    },
}

/// Whether an answer of a follower counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The life of the follower's replica. What an earlier one acknowledged is lost.
    pub life: u64,
    /// Whether the follower may have promised what it has forgotten.
    pub is_suspect: bool,
}

/// Why a vote is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteKind {
    /// Only whether it would be granted: changes no term and no vote.
    Pre,
    /// No leader was heard of for an election timeout.
    Election,
    /// The leader that was wants it: whoever hears of a live leader grants it, too.
    Transfer,
}
