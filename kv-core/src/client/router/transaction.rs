//! Transactions while they read and write: steps, beats, and how they are given up.
//!
//! A call of the user stays parked while requests of its transaction to shards, jobs of their own,
//! are out. What ends the transaction ends all of them, and the call with it. Only rollbacks outlive
//! a transaction: they free locks that would fall by themselves a little later.

use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::{NEVER, Router};
use crate::client::job::{Goal, Stage};
use crate::client::transaction::{Phase, Step, Transaction};
use crate::client::{Answer, Call, CallError, CallId, TxnHandle, TxnOp};
use crate::id::{SessionId, ShardId};
use crate::op::{Found, Key, Value};
use crate::ring;
use crate::rng::Rng;
use crate::time::Instant;
use crate::txn::{AbortReason, Age, Grant, LockMode, TxnId};
use crate::wire::{TxnReply, TxnRequest};

/// How often a shard hears that a transaction which holds locks there is alive. Locks fall after
/// three silent ones.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A transaction of which its user wants nothing for so long is rolled back.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Attempts of a rollback. If all fail, the locks fall because nobody beats for them.
const ROLLBACK_ATTEMPTS_MAX: u32 = 3;
/// How long a rollback is attempted.
const ROLLBACK_TIME_MAX: Duration = Duration::from_secs(4);

impl Router {
    /// Begins a transaction of an age; nothing is sent. Its steps are [`Call::Txn`]s.
    ///
    /// It ends by a commit, by a rollback, or by the first step that fails for another reason than
    /// [`CallError::NoTransaction`]. If there is no step for 60 s it is rolled back.
    pub fn begin(&mut self, now: Instant, age: Age) -> TxnHandle {
        self.now = self.now.max(now);
        self.begin_aged(age)
    }

    /// Begins a transaction at this moment.
    pub(super) fn begin_aged(&mut self, age: Age) -> TxnHandle {
        self.last_txn += 1;
        let handle = TxnHandle(self.last_txn);
        let watch = self.add_job(Goal::Watch(handle), NEVER);
        self.txns.insert(handle, Transaction::new(age, watch, self.now + IDLE_MAX));
        self.watch(handle);
        handle
    }

    /// Takes up a step that the user asks for.
    pub(super) fn start_step(&mut self, id: CallId, handle: TxnHandle, op: &TxnOp) {
        let Some(txn) = self.txns.get_mut(&handle) else {
            return self.finish(id, Err(CallError::NoTransaction));
        };
        let is_rollback = *op == TxnOp::Rollback;
        if txn.phase == Phase::Committing {
            return self.finish(id, Err(CallError::NoTransaction));
        }
        if let Phase::Aborted(reason) = &txn.phase {
            let error = CallError::Aborted(reason.clone());
            self.end(handle);
            return self.finish(id, if is_rollback { Ok(Answer::RolledBack) } else { Err(error) });
        }
        if txn.call.is_some() {
            // Its user did not wait for the step before, and cannot know what it did.
            let error = CallError::Aborted(AbortReason::GivenUp);
            self.fail(handle, error.clone());
            return self.finish(id, if is_rollback { Ok(Answer::RolledBack) } else { Err(error) });
        }
        txn.call = Some(id);
        if let Err(error) = txn.admit(op) {
            return self.fail(handle, error);
        }
        self.watch(handle);
        self.advance(id);
    }

    /// Does what the step needs next, if nothing is out for it.
    pub(super) fn advance_step(&mut self, handle: TxnHandle, op: TxnOp) {
        match op {
            TxnOp::Get { key } => self.read(handle, key, LockMode::Shared),
            TxnOp::GetForUpdate { key } => self.read(handle, key, LockMode::Exclusive),
            TxnOp::Put { key, value } => self.buffer(handle, key, Some(value)),
            TxnOp::Delete { key } => self.buffer(handle, key, None),
            TxnOp::Scan { range, limit } => self.scan_locking(handle, range, limit),
            TxnOp::Commit => self.commit(handle),
            TxnOp::Rollback => {
                self.roll_back(handle);
                self.end_call(handle, Ok(Answer::RolledBack));
                self.end(handle);
            }
        }
    }

    fn buffer(&mut self, handle: TxnHandle, key: Key, value: Option<Value>) {
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        match txn.write(key, value) {
            Ok(()) => self.end_call(handle, Ok(Answer::Buffered)),
            Err(error) => self.fail(handle, error),
        }
    }

    fn read(&mut self, handle: TxnHandle, key: Key, mode: LockMode) {
        let Some(txn) = self.txns.get(&handle) else {
            return;
        };
        if let Some(found) = txn.known(&key, mode) {
            return self.end_call(handle, Ok(Answer::Got(found)));
        }
        if self.has_main_step(handle) {
            return;
        }
        let Some((_, shard_count)) = self.identify(handle) else {
            return;
        };
        let shard = ring::shard_of(&key, shard_count);
        self.send_step(handle, shard, TxnRequest::Lock { key, mode });
    }

    /// Whether a request is out without which the call cannot go on.
    pub(super) fn has_main_step(&self, handle: TxnHandle) -> bool {
        let steps = self.txns.get(&handle).into_iter().flat_map(|txn| &txn.steps);
        let mut steps = steps.filter_map(|id| self.jobs.get(id)?.step());
        steps.any(|step| step.request != TxnRequest::Beat)
    }

    /// The transaction's name, and the number of shards. Gets both if they are missing; then the
    /// call, which is parked, is advanced once they are there.
    pub(super) fn identify(&mut self, handle: TxnHandle) -> Option<(TxnId, u32)> {
        let Some(shard_count) = self.map.as_ref().map(|map| map.shard_count()) else {
            self.ensure_own_job(&|goal| matches!(goal, Goal::FetchMap), |_| Goal::FetchMap);
            return None;
        };
        let txn = self.txns.get_mut(&handle)?;
        if let Some(id) = txn.id {
            return Some((id, shard_count));
        }
        let Some(session) = self.session else {
            let open = |rng: &mut Rng| Goal::OpenSession { nonce: rng.next_u64() };
            self.ensure_own_job(&|goal| matches!(goal, Goal::OpenSession { .. }), open);
            return None;
        };
        self.last_txn_number += 1;
        let id = TxnId { session, number: self.last_txn_number };
        txn.id = Some(id);
        Some((id, shard_count))
    }

    /// Sends a request of the transaction to a shard.
    pub(super) fn send_step(&mut self, handle: TxnHandle, shard: ShardId, request: TxnRequest) {
        let deadline = match request {
            TxnRequest::Lock { .. }
            | TxnRequest::Scan { .. }
            | TxnRequest::Prepare { .. }
            | TxnRequest::Commit { .. } => NEVER,
            TxnRequest::Beat => self.now + BEAT_INTERVAL,
            TxnRequest::Rollback => self.now + ROLLBACK_TIME_MAX,
        };
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        let id = txn.id.expect("a transaction is named before its first request");
        let grant = txn.shards.entry(shard).or_default().grant;
        let is_rollback = request == TxnRequest::Rollback;
        let step = Step { handle, txn: id, age: txn.age, shard, grant, request };
        let job = self.add_job(Goal::Step(step), deadline);
        if let Some(txn) = self.txns.get_mut(&handle)
            && !is_rollback
        {
            txn.steps.insert(job);
        }
        self.advance(job);
    }

    /// Whether the step is sent once more if this attempt of it fails.
    pub(super) fn may_retry(&self, id: CallId) -> bool {
        let Some((job, step)) = self.jobs.get(&id).and_then(|job| Some((job, job.step()?))) else {
            return true;
        };
        match step.request {
            TxnRequest::Lock { .. }
            | TxnRequest::Scan { .. }
            | TxnRequest::Prepare { .. }
            | TxnRequest::Commit { .. } => true,
            TxnRequest::Beat => false,
            TxnRequest::Rollback => job.sent_count < ROLLBACK_ATTEMPTS_MAX,
        }
    }

    /// Takes the answer to a step.
    pub(super) fn on_step_reply(&mut self, id: CallId, reply: TxnReply) {
        let Some(step) = self.jobs.get(&id).and_then(|job| job.step()) else {
            return;
        };
        let (handle, shard) = (step.handle, step.shard);
        match (step.request.clone(), reply) {
            (TxnRequest::Lock { key, mode }, TxnReply::Locked { grant, found }) => {
                self.drop_step(id);
                self.on_locked(handle, shard, grant, (key, mode, found));
            }
            (TxnRequest::Scan { range, .. }, TxnReply::Scanned { grant, page }) => {
                self.on_scanned(id, range, grant, page);
            }
            (TxnRequest::Prepare { .. }, TxnReply::Prepared { min_commit }) => {
                self.drop_step(id);
                self.on_prepared(handle, shard, min_commit);
            }
            (TxnRequest::Commit { .. }, TxnReply::Committed { commit_ts }) => {
                self.on_committed(handle, commit_ts);
            }
            (TxnRequest::Rollback, _) | (TxnRequest::Beat, TxnReply::Alive) => self.drop_step(id),
            (request, TxnReply::Aborted(reason)) => {
                self.drop_step(id);
                self.on_aborted(handle, shard, &request, reason);
            }
            (
                TxnRequest::Lock { .. }
                | TxnRequest::Scan { .. }
                | TxnRequest::Prepare { .. }
                | TxnRequest::Commit { .. },
                TxnReply::Waiting { grant },
            ) => self.on_waiting(id, grant),
            // No answer to this request: it is as if none had come.
            (TxnRequest::Beat, TxnReply::Waiting { .. })
            | (
                TxnRequest::Lock { .. }
                | TxnRequest::Scan { .. }
                | TxnRequest::Prepare { .. }
                | TxnRequest::Commit { .. }
                | TxnRequest::Beat,
                TxnReply::Locked { .. }
                | TxnReply::Scanned { .. }
                | TxnReply::Alive
                | TxnReply::RolledBack
                | TxnReply::Prepared { .. }
                | TxnReply::Committed { .. },
            ) => {}
        }
    }

    /// The leader of a shard asks whether a step that waits there is still wanted. It is, unless
    /// another leader has given locks on the shard meanwhile: then it is repeated with the grant.
    fn on_waiting(&mut self, id: CallId, grant: Grant) {
        let Some(step) = self.jobs.get(&id).and_then(|job| job.step()) else {
            return;
        };
        let (handle, shard) = (step.handle, step.shard);
        let beat_at = self.now + BEAT_INTERVAL;
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        if !txn.holds_locks() {
            txn.beat_at = beat_at;
        }
        if *txn.shards.entry(shard).or_default().grant.get_or_insert(grant) != grant {
            return;
        }
        if let Some(step) = self.jobs.get_mut(&id).and_then(|job| job.step_mut()) {
            step.grant = Some(grant);
        }
        self.watch(handle);
        self.send(id);
    }

    fn on_locked(
        &mut self,
        handle: TxnHandle,
        shard: ShardId,
        grant: Grant,
        (key, mode, found): (Key, LockMode, Option<Found>),
    ) {
        let Some(txn) = self.take_grant(handle, shard, grant) else {
            return;
        };
        txn.see(key, mode, found.clone());
        self.end_call(handle, Ok(Answer::Got(found)));
    }

    /// A shard has locked something. If it has given another grant before, the locks of that one
    /// are lost, and the transaction is over.
    pub(super) fn take_grant(
        &mut self,
        handle: TxnHandle,
        shard: ShardId,
        grant: Grant,
    ) -> Option<&mut Transaction> {
        let beat_at = self.now + BEAT_INTERVAL;
        let txn = self.txns.get_mut(&handle)?;
        if !txn.holds_locks() {
            txn.beat_at = beat_at;
        }
        let touched = txn.shards.entry(shard).or_default();
        let before = *touched.grant.get_or_insert(grant);
        if before != grant {
            let reason = match before.is_of_term_of(grant) {
                true => AbortReason::LocksLost { shard },
                false => AbortReason::LeaderChanged { shard },
            };
            self.fail(handle, CallError::Aborted(reason));
            return None;
        }
        self.txns.get_mut(&handle)
    }

    /// A shard says that the transaction will not commit. A beat may cross the commit, and then finds
    /// nothing to keep alive.
    fn on_aborted(
        &mut self,
        handle: TxnHandle,
        shard: ShardId,
        request: &TxnRequest,
        reason: AbortReason,
    ) {
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        if *request == TxnRequest::Beat && txn.phase == Phase::Committing {
            return;
        }
        txn.shards.remove(&shard);
        self.abort(handle, reason);
    }

    /// Rolls the transaction back, and tells its user why: at once if a call is out, else with the
    /// next one.
    pub(super) fn abort(&mut self, handle: TxnHandle, reason: AbortReason) {
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        if txn.call.is_some() {
            return self.fail(handle, CallError::Aborted(reason));
        }
        txn.phase = Phase::Aborted(reason);
        self.roll_back(handle);
        self.watch(handle);
    }

    /// Ends the transaction, which certainly was not committed, and its call if one is out.
    pub(super) fn fail(&mut self, handle: TxnHandle, error: CallError) {
        self.roll_back(handle);
        self.end_call(handle, Err(error));
        self.end(handle);
    }

    /// Drops all requests that are out, and frees the locks everywhere.
    fn roll_back(&mut self, handle: TxnHandle) {
        self.drop_steps(handle);
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        let shards: Vec<_> = txn.shards.keys().copied().collect();
        for shard in shards {
            self.send_step(handle, shard, TxnRequest::Rollback);
        }
        if let Some(txn) = self.txns.get_mut(&handle) {
            txn.shards.clear();
        }
    }

    /// Answers the call that is out. The transaction goes on.
    pub(super) fn end_call(&mut self, handle: TxnHandle, result: Result<Answer, CallError>) {
        let idle_until = self.now + IDLE_MAX;
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        txn.idle_until = idle_until;
        if let Some(call) = txn.call.take()
            && !self.retry_batch(call, &result)
        {
            self.finish(call, result);
        }
        self.watch(handle);
    }

    /// Forgets the transaction.
    pub(super) fn end(&mut self, handle: TxnHandle) {
        self.drop_steps(handle);
        let Some(txn) = self.txns.remove(&handle) else {
            return;
        };
        assert!(txn.call.is_none(), "a transaction ends after its call");
        self.remove_job(txn.watch);
        if let Some(request) = txn.request {
            self.unfinished.remove(&request.sequence);
        }
    }

    fn drop_steps(&mut self, handle: TxnHandle) {
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        for id in mem::take(&mut txn.steps) {
            self.remove_job(id);
        }
    }

    /// Ends a step's job. What it was for, it has done or never will.
    pub(super) fn drop_step(&mut self, id: CallId) {
        let Some(job) = self.remove_job(id) else {
            return;
        };
        let txn = job.step().and_then(|step| self.txns.get_mut(&step.handle));
        if let Some(txn) = txn {
            txn.steps.remove(&id);
        }
    }

    /// Sets the timer for what is due next.
    pub(super) fn watch(&mut self, handle: TxnHandle) {
        let Some(txn) = self.txns.get(&handle) else {
            return;
        };
        let idle_until = if txn.call.is_some() { NEVER } else { txn.idle_until };
        let beat_at = if txn.holds_locks() { txn.beat_at } else { NEVER };
        let until = idle_until.min(beat_at);
        self.set_stage(txn.watch, Stage::Pausing { until });
    }

    /// Beats, or gives the transaction up.
    pub(super) fn on_watch(&mut self, handle: TxnHandle) {
        let now = self.now;
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        if txn.call.is_none() && txn.idle_until <= now {
            self.roll_back(handle);
            return self.end(handle);
        }
        if txn.holds_locks() && txn.beat_at <= now {
            txn.beat_at = now + BEAT_INTERVAL;
            let holders = txn.shards.iter().filter(|(_, touched)| touched.holds_locks());
            let shards: Vec<_> = holders.map(|(shard, _)| *shard).collect();
            for shard in shards {
                self.send_step(handle, shard, TxnRequest::Beat);
            }
        }
        self.watch(handle);
    }

    /// The session is gone, and with it the names of transactions. One whose commit was sent waits
    /// for the outcome.
    pub(super) fn on_session_lost(&mut self, session: SessionId) {
        let is_lost = |txn: &Transaction| {
            let is_decided = matches!(txn.phase, Phase::Committing | Phase::Aborted(_));
            txn.id.is_some_and(|id| id.session == session) && !is_decided
        };
        let lost = self.txns.iter().filter(|(_, txn)| is_lost(txn));
        let lost: Vec<_> =
            lost.map(|(handle, txn)| (*handle, txn.shards.keys().next().copied())).collect();
        for (handle, shard) in lost {
            let shard = shard.unwrap_or(ShardId::META);
            self.abort(handle, AbortReason::LocksLost { shard });
        }
    }

    /// The step that the user asks for, if the job is one; a batch is a commit.
    pub(super) fn step_of(&self, id: CallId) -> Option<(TxnHandle, TxnOp)> {
        let job = self.jobs.get(&id)?;
        match &job.goal {
            Goal::User(Call::Txn { txn, op }) => Some((*txn, op.clone())),
            Goal::User(Call::WriteBatch { .. }) => Some((job.attempt?, TxnOp::Commit)),
            Goal::User(
                Call::Get { .. }
                | Call::Timestamp
                | Call::GetAt { .. }
                | Call::ScanAt { .. }
                | Call::Outcome { .. }
                | Call::GetReplica { .. }
                | Call::Write(_)
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
}
