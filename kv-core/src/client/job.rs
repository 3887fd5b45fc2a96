//! One thing that a router is working on.

use alloc::collections::VecDeque;

use super::transaction::Step;
use super::{Call, CallError, CallId, Level, TxnHandle};
use crate::id::{Address, NodeId, RequestId, ShardId, Timestamp};
use crate::op::{Key, KeyRange, PageLimit};
use crate::time::Instant;
use crate::txn::AbortReason;
use crate::wire::{AdminRequest, Refusal};

/// Attempts of a step whose answers are waited for beside the last one.
pub(super) const LATE_MAX: usize = 8;

/// What one shard is asked for by a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The scan.
    pub(super) call: CallId,
    /// The shard.
    pub(super) shard: ShardId,
    /// At which timestamp.
    pub(super) at: Timestamp,
    /// Which keys.
    pub(super) range: KeyRange,
    /// How many, at most.
    pub(super) limit: PageLimit,
}

/// What the job is to get done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A call of the user.
    User(Call),
    /// The router's own map.
    FetchMap,
    /// The router's own session.
    OpenSession { nonce: u64 },
    /// The router's own timestamp, above all that its session has seen without being told when:
    /// so many times by now.
    CloseGap { gap_count: u64 },
    /// A request of a transaction.
    Step(Step),
    /// A shard's part of a scan.
    Part(Part),
    /// Looking after a transaction: it pauses until something is due.
    Watch(TxnHandle),
}

/// Where the job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for the map or the session.
    Parked,
    /// A request is out.
    Sent { correlation: u64, to: Address, until: Instant },
    /// Pauses before the next attempt.
    Pausing { until: Instant },
}

/// One thing that a router is working on.
///
/// - `request` is set before the first attempt of a write and then stays, until the session is
///   replaced.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) goal: Goal,
    /// When the job is given up. The router's own jobs live as long as some job needs them.
    pub(super) deadline: Instant,
    pub(super) stage: Stage,
    /// Earlier attempts of a step whose answers still count, as it may wait long for a lock: at most
    /// [`LATE_MAX`].
    pub(super) late: VecDeque<(u64, Address)>,
    pub(super) request: Option<RequestId>,
    /// Attempts that were sent.
    pub(super) sent_count: u32,
    /// Refusals and timeouts since the last progress; sets the length of the pause.
    pub(super) failure_count: u32,
    pub(super) last_refusal: Option<Refusal>,
    /// The transaction that is the present attempt of a batch.
    pub(super) attempt: Option<TxnHandle>,
    /// Why the last attempt of a batch was aborted.
    pub(super) last_abort: Option<AbortReason>,
    /// A node that said it serves nothing: another one is asked if there is one.
    pub(super) avoided: Option<NodeId>,
    /// The filed wake-up.
    pub(super) filed: Instant,
}

impl Job {
    pub(super) fn new(goal: Goal, deadline: Instant) -> Self {
        Self {
            goal,
            deadline,
            stage: Stage::Parked,
            late: VecDeque::new(),
            request: None,
            sent_count: 0,
            failure_count: 0,
            last_refusal: None,
            attempt: None,
            last_abort: None,
            avoided: None,
            filed: deadline,
        }
    }

    /// Whether the router has it for other jobs, and drops it when there are none.
    pub(super) fn is_own(&self) -> bool {
        match self.goal {
            Goal::FetchMap | Goal::OpenSession { .. } | Goal::CloseGap { .. } => true,
            Goal::User(_) | Goal::Step(_) | Goal::Part(_) | Goal::Watch(_) => false,
        }
    }

    /// Whether the router's own jobs are kept for it.
    pub(super) fn needs_own(&self) -> bool {
        matches!(self.goal, Goal::User(_) | Goal::Step(_) | Goal::Part(_))
    }

    /// The step of a transaction that it is to get done, if it is one.
    pub(super) fn step(&self) -> Option<&Step> {
        let Goal::Step(step) = &self.goal else { return None };
        Some(step)
    }

    /// The same, to be changed.
    pub(super) fn step_mut(&mut self) -> Option<&mut Step> {
        let Goal::Step(step) = &mut self.goal else { return None };
        Some(step)
    }

    /// The part of a scan that it is to get, if it is for one.
    pub(super) fn part(&self) -> Option<&Part> {
        let Goal::Part(part) = &self.goal else { return None };
        Some(part)
    }

    /// Whether it is a scan, which gets its answer from parts.
    pub(super) fn is_scan(&self) -> bool {
        matches!(self.goal, Goal::User(Call::ScanAt { .. }))
    }

    /// Whether it is a batch, which the router runs as transactions.
    pub(super) fn is_batch(&self) -> bool {
        matches!(self.goal, Goal::User(Call::WriteBatch { .. }))
    }

    /// How fresh what it reads at a replica must be, if it does that.
    pub(super) fn level(&self) -> Option<Level> {
        let Goal::User(Call::GetReplica { level, .. }) = &self.goal else { return None };
        Some(*level)
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self.goal, Goal::User(Call::Write(_)))
    }

    /// Whether it is an operator's request that changes something.
    fn is_change(&self) -> bool {
        match &self.goal {
            Goal::User(Call::Admin(request)) => !matches!(request, AdminRequest::Plan { .. }),
            Goal::User(Call::Join { .. }) => true,
            Goal::User(_)
            | Goal::FetchMap
            | Goal::OpenSession { .. }
            | Goal::CloseGap { .. }
            | Goal::Step(_)
            | Goal::Part(_)
            | Goal::Watch(_) => false,
        }
    }

    /// The key that decides the shard, if one does.
    pub(super) fn key(&self) -> Option<&Key> {
        match &self.goal {
            Goal::User(
                Call::Get { key } | Call::GetAt { key, .. } | Call::GetReplica { key, .. },
            ) => Some(key),
            Goal::User(Call::Write(op)) => Some(op.key()),
            Goal::User(
                Call::Txn { .. }
                | Call::WriteBatch { .. }
                | Call::Timestamp
                | Call::ScanAt { .. }
                | Call::Outcome { .. }
                | Call::Status { .. }
                | Call::Map
                | Call::Admin(_)
                | Call::Join { .. },
            )
            | Goal::FetchMap
            | Goal::OpenSession { .. }
            | Goal::CloseGap { .. }
            | Goal::Step(_)
            | Goal::Part(_)
            | Goal::Watch(_) => None,
        }
    }

    /// The shard at whose leader the job is done, if it is done at one.
    pub(super) fn shard(&self, shard_count: u32) -> Option<ShardId> {
        match &self.goal {
            Goal::OpenSession { .. } => Some(ShardId::META),
            Goal::User(Call::Admin(AdminRequest::TransferLeader { shard, .. })) => Some(*shard),
            Goal::User(Call::Admin(AdminRequest::Plan { .. } | AdminRequest::Join { .. })) => None,
            Goal::User(Call::Admin(_)) => Some(ShardId::META),
            Goal::User(Call::Outcome { id }) => Some(id.anchor),
            Goal::Step(step) => Some(step.shard),
            Goal::Part(part) => Some(part.shard),
            Goal::User(_) | Goal::FetchMap | Goal::CloseGap { .. } | Goal::Watch(_) => {
                self.key().map(|key| crate::ring::shard_of(key, shard_count))
            }
        }
    }

    /// When the job wants to be looked at.
    pub(super) fn wake_at(&self) -> Instant {
        match self.stage {
            Stage::Parked => self.deadline,
            Stage::Sent { until, .. } | Stage::Pausing { until } => until.min(self.deadline),
        }
    }

    /// How the job ends when it is given up.
    pub(super) fn give_up(&self) -> CallError {
        if let Some(reason) = &self.last_abort {
            return CallError::Aborted(reason.clone());
        }
        match self.request {
            Some(request) if self.is_write() && self.sent_count > 0 => {
                CallError::UnknownOutcome { request, id: None }
            }
            _ if self.is_change() && self.sent_count > 0 => CallError::AdminUnknown,
            Some(_) | None => CallError::Unavailable { last: self.last_refusal.clone() },
        }
    }
}
