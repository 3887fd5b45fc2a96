//! Inputs and outputs of a node.

use core::time::Duration;

use crate::gossip::MemberState;
use crate::id::{Address, LogId, LogIndex, NodeId, RequestHandle, ShardId, Term};
use crate::raft::{Contradiction, Role};
use crate::storage::{StorageDamage, StorageReply, StorageRequest};
use crate::time::Instant;
use crate::wire::{ClientReply, ClientRequest, PeerFrame};

/// The beginning of one life of a node's process.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Makes the node's random draws: production takes it from the operating system, the simulator
    /// from the run's seed.
    pub seed: u64,
    /// The time on the node's monotonic clock.
    pub now: Instant,
    /// What the wall clock shows then: the time since 1970 (UTC). It is not asked again, so that no
    /// jump of it matters while the process lives; wrong clocks change no order of anything.
    pub unix_time: Duration,
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// The time of [`Node::poll_timeout`](super::Node::poll_timeout) has come. Early or superfluous
    /// ones do no harm.
    Timeout,
    /// A frame from a peer.
    Receive(PeerFrame),
    /// A request from a client.
    Request {
        /// Chosen by the driver, unique in the life of this node; echoed in [`Output::Reply`],
        /// which comes exactly once.
        handle: RequestHandle,
        /// The request.
        body: ClientRequest,
    },
    /// The store's answer.
    Stored(StorageReply),
    /// The connection to a peer broke off, or stands. A hint that spares waiting: whatever is said
    /// here, nothing becomes wrong.
    Link {
        /// The peer.
        peer: NodeId,
        /// What became of the connection.
        state: LinkState,
    },
}

/// What became of the connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The peer's side ended it: most probably its process has ended. Not to be said of
    /// a peer that is only silent.
    Down,
    /// It stands.
    Up,
}

/// What a node wants done. To be drained with [`Node::poll_output`](super::Node::poll_output) after
/// each input.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send to the peer `frame.to`. May be lost.
    Send(PeerFrame),
    /// Answer a client's request.
    Reply {
        /// Of the request.
        handle: RequestHandle,
        /// The answer.
        body: ClientReply,
    },
    /// Execute, and feed the answer back.
    Store(StorageRequest),
    /// The peer is said to be reached at this address from here on. A hint: the other addresses that
    /// are known of it may be tried as well.
    Connect {
        /// The peer.
        peer: NodeId,
        /// The address.
        address: Address,
    },
    /// Something worth logging and checking.
    Event(Event),
    /// What is stored is damaged, and this node does nothing any more. Give up the store and this
    /// node; open the data directory anew, told of the damage, which sets all of it aside; make
    /// another node of what that gives. A node that stays as it is harms nobody, either.
    Reopen(StorageDamage),
}

/// What observers may want to know: logs, metrics, and the simulator's checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A replica's role or term changed.
    RoleChanged {
        /// The shard.
        shard: ShardId,
        /// Its new term.
        term: Term,
        /// Its new role.
        role: Role,
    },
    /// A replica learned that more is committed.
    Committed {
        /// The shard.
        shard: ShardId,
        /// The last committed entry.
        committed: LogId,
        /// The replica's term.
        term: Term,
        /// The replica's role: as leader it counted itself, else it was told.
        role: Role,
    },
    /// A peer said something that cannot be true; it was ignored.
    Contradicted {
        /// The shard.
        shard: ShardId,
        /// The peer.
        from: NodeId,
        /// What it said.
        what: Contradiction,
    },
    /// A peer told of a cluster that cannot be; it was ignored.
    InvalidCluster {
        /// The peer.
        from: NodeId,
    },
    /// The node now belongs to a cluster.
    Joined,
    /// The node has a newer map.
    MapChanged {
        /// Its version.
        version: LogIndex,
    },
    /// The node has no replica of the shard any more.
    ReplicaRemoved {
        /// The shard.
        shard: ShardId,
    },
    /// The node was removed from the cluster: it does nothing any more.
    Removed,
    /// What the node has stored is damaged: it counts for nothing until it is repaired.
    Damaged(StorageDamage),
    /// All that was damaged was repaired from other nodes.
    Repaired,
    /// Replicas of a shard came to different states, and this one is either not that of the majority,
    /// and is given up to be filled again from the others, or there is no majority, and the shard is
    /// not served.
    Diverged {
        /// The shard.
        shard: ShardId,
        /// Where the states were compared.
        index: LogIndex,
        /// Whether a majority has one state.
        is_decided: bool,
    },
    /// The node's disk became full, or is not full any more.
    SpaceChanged {
        /// Whether it is full.
        is_full: bool,
    },
    /// The cluster knows another incarnation of this node: its disk was wiped. It stays out.
    WipedNode,
    /// Another member is heard of, or believed to be in another state. A hint: nothing follows from
    /// it.
    PeerChanged {
        /// The member.
        node: NodeId,
        /// What is believed of it.
        state: MemberState,
    },
    /// A frame was dropped.
    FrameIgnored {
        /// The sender that it names.
        from: NodeId,
        /// Why.
        reason: IgnoreReason,
    },
}

/// Why a frame was dropped. None of these touches any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IgnoreReason {
    /// Addressed to another node.
    WrongReceiver,
    /// The sender is not a member.
    UnknownSender,
    /// From another cluster.
    WrongCluster,
    /// From another life of the sender.
    WrongIncarnation,
}

/// Why a node wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerReason {
    /// Asking peers whether a cluster can be formed.
    Formation,
    /// A leader's sign of life, retransmissions, and reads that wait for a confirmation.
    Heartbeat,
    /// Gossip with another member.
    Gossip,
    /// A peer may have become silent: who follows it, or counts on it, is looked at.
    Contact(NodeId),
    /// A request that was sent on to another node is given up.
    Forward,
    /// A request for timestamps is repeated or given up, or a round of confirmation is begun for one.
    Oracle,
    /// Reads at this replica are given up, or a question about their safe time is repeated.
    SafeTime,
    /// Transactions are looked after: locks fall, participants ask, waits are reported.
    Transactions,
    /// A replica without a leader campaigns, or a leader checks that a quorum still answers. Not for
    /// replicas of which a link would notice that.
    Raft(ShardId),
}

/// How much a driver may still feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of client requests that are welcome. At zero a driver stops reading client
    /// connections.
    pub request_bytes: usize,
}
