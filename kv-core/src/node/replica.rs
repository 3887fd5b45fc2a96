//! One shard on this node: its Raft group, and the requests that wait for it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::mem;

use super::divergence::States;
use super::forward::Asker;
use super::locking::{Hold, Locking};
use super::reading::{Query, WaitingRead};
use super::safe_time::WaitingQuestion;
use super::stamps::Unstamped;
use crate::id::{AppendId, Epoch, LogIndex, NodeId, Round, Term, Timestamp};
use crate::machine::Transactions;
use crate::raft::{Group, Role};
use crate::time::Instant;

/// A write that was proposed and not applied yet.
#[derive(Debug)]
pub(super) struct PendingWrite {
    /// Who waits for it; none if nobody does.
    pub(super) asker: Option<Asker>,
    pub(super) bytes: usize,
    /// What it keeps locked until it is applied.
    pub(super) hold: Hold,
}

/// What others were last told of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) role: Role,
    pub(super) term: Term,
    pub(super) commit_index: LogIndex,
    pub(super) leader: Option<NodeId>,
    pub(super) heard_append: bool,
    /// Of the configuration that holds.
    pub(super) epoch: Epoch,
}

impl Reported {
    pub(super) fn new(group: &Group, commit_index: LogIndex) -> Self {
        Self {
            role: group.role(),
            term: group.term(),
            commit_index,
            leader: group.leader(),
            heard_append: group.has_heard_append(),
            epoch: group.configuration().epoch,
        }
    }

    /// Whether the replica answers a peer's list of leaderships as it did.
    pub(super) fn answers_as(&self, before: &Self) -> bool {
        (self.term, self.role, self.leader, self.heard_append)
            == (before.term, before.role, before.leader, before.heard_append)
    }
}

/// One shard on this node.
///
/// - `pending`, `unstamped`, `fenced`, `reads` and `questions` are empty unless the group leads.
/// - Rounds of `reads` never shrink along the queue.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) group: Group,
    /// The last append that holds something of this group.
    pub(super) last_append: AppendId,
    /// The append that says that the replica is whole; none while it is suspect.
    pub(super) whole_since: Option<AppendId>,
    pub(super) pending: BTreeMap<LogIndex, PendingWrite>,
    /// Writes that wait for their timestamps, in the order in which they came.
    pub(super) unstamped: VecDeque<Unstamped>,
    /// How much was ever registered to get a timestamp; what is registered anew counts again.
    pub(super) registered_count: u64,
    /// Reads of keys that were being written when they came, each until so much of what was registered
    /// is proposed.
    pub(super) fenced: VecDeque<(u64, Query)>,
    pub(super) reads: VecDeque<WaitingRead>,
    /// Questions for a safe time that have their timestamp: at most one of each node.
    pub(super) questions: Vec<WaitingQuestion>,
    /// Who has locked what.
    pub(super) locking: Locking,
    /// What the store has applied.
    pub(super) store_applied: LogIndex,
    /// What of it is durable without the log.
    pub(super) flushed: LogIndex,
    pub(super) reported: Reported,
    /// The watermark that was last proposed or applied here; zero if none was seen yet.
    pub(super) watermark: Timestamp,
    /// What the replicas of the shard came to.
    pub(super) states: States,
    /// When the role last changed.
    pub(super) role_since: Instant,
    /// When the placement was last reported to the meta leader.
    pub(super) reported_at: Instant,
    /// The deadline under which the node has filed the group; none while it is watched.
    pub(super) filed_deadline: Option<Instant>,
}

impl Replica {
    pub(super) fn new(group: Group, transactions: Transactions) -> Self {
        let reported = Reported::new(&group, LogIndex(0));
        let store_applied = group.applied_index();
        let whole_since = (!group.is_suspect()).then_some(AppendId(0));
        Self {
            group,
            last_append: AppendId(0),
            whole_since,
            pending: BTreeMap::new(),
            unstamped: VecDeque::new(),
            registered_count: 0,
            fenced: VecDeque::new(),
            reads: VecDeque::new(),
            questions: Vec::new(),
            locking: Locking::new(transactions),
            store_applied,
            flushed: store_applied,
            reported,
            watermark: Timestamp(0),
            states: States::default(),
            role_since: Instant::ZERO,
            reported_at: Instant::ZERO,
            filed_deadline: None,
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.group.role() == Role::Leader
    }

    /// Whether it leads, and everything that earlier leaders committed is applied: it has applied an
    /// entry of its own term.
    pub(super) fn knows_its_past(&self) -> bool {
        self.group.term_start().is_some_and(|index| index <= self.store_applied)
    }

    /// Removes and returns the reads that leadership confirmed up to `confirmed` lets go.
    pub(super) fn take_ready_reads(&mut self, confirmed: Round) -> VecDeque<WaitingRead> {
        let count = self.reads.iter().take_while(|read| read.round <= confirmed).count();
        if count == 0 {
            return VecDeque::new();
        }
        let applied = self.store_applied;
        let (ready, mut waiting): (VecDeque<_>, VecDeque<_>) =
            self.reads.drain(..count).partition(|read| read.index <= applied);
        waiting.append(&mut self.reads);
        self.reads = waiting;
        ready
    }

    /// Removes everything that waits, with the bytes of the writes: the leadership is over.
    pub(super) fn take_waiting(&mut self) -> (Vec<Asker>, usize) {
        let (waiting, waiting_bytes) = self.locking.close();
        let pending_bytes: usize = self.pending.values().map(|write| write.bytes).sum();
        let pending = mem::take(&mut self.pending).into_values().filter_map(|write| write.asker);
        let unstamped = mem::take(&mut self.unstamped);
        let unstamped_bytes: usize = unstamped.iter().map(|work| work.bytes).sum();
        let unstamped = unstamped.into_iter().map(|work| work.asker);
        let reads = mem::take(&mut self.reads).into_iter().map(|read| read.query);
        let fenced = mem::take(&mut self.fenced).into_iter().map(|(_, query)| query);
        let reads = reads.chain(fenced).map(|query| query.handle.into());
        let askers = pending.chain(unstamped).chain(reads).chain(waiting).collect();
        (askers, pending_bytes + unstamped_bytes + waiting_bytes)
    }
}
