//! The end of a transaction: preparing, deciding, and what is certain when neither was answered.
//!
//! Only the anchor's commit decides. Until it has been sent the transaction certainly was not
//! committed, whatever the participants have prepared: without a decision the anchor will abort it
//! when they ask. Once it has been sent, only an answer to it tells the outcome.

use core::mem;

use super::Router;
use crate::client::transaction::Phase;
use crate::client::{Answer, CallError, CallId, TxnHandle};
use crate::id::{RequestId, SessionId, ShardId, Timestamp};
use crate::mutants::{self, Mutant};
use crate::txn::{AbortReason, OutcomeId};
use crate::wire::{Refusal, TxnRequest};

impl Router {
    /// Begins the commit, if it has not begun.
    pub(super) fn commit(&mut self, handle: TxnHandle) {
        let Some(txn) = self.txns.get(&handle) else {
            return;
        };
        if txn.phase != Phase::Open {
            return;
        }
        if txn.anchor(1).is_none() {
            self.end_call(handle, Ok(Answer::Committed { commit_ts: None }));
            return self.end(handle);
        }
        let Some((id, shard_count)) = self.identify(handle) else {
            return;
        };
        let Some(cluster) = self.map.as_ref().map(|map| map.cluster) else {
            return;
        };
        let request = self.new_request(id.session);
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        let anchor = txn.anchor(shard_count).expect("a transaction that did something has one");
        txn.request = Some(request);
        txn.outcome = Some(OutcomeId::new(cluster, anchor, id, request));
        let mut parts = txn.parts(shard_count);
        let part = parts.remove(&anchor).unwrap_or_default();
        txn.phase = Phase::Preparing {
            missing: parts.keys().copied().collect(),
            min_commit: Timestamp::default(),
            anchor,
            part,
            participants: parts.keys().copied().collect(),
        };
        for (shard, part) in parts {
            self.send_step(handle, shard, TxnRequest::Prepare { request, anchor, part });
        }
        self.decide_if_prepared(handle);
    }

    /// The next request id of a session; unfinished until somebody says otherwise.
    pub(super) fn new_request(&mut self, session: SessionId) -> RequestId {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.unfinished.insert(sequence);
        let acked_below = self.acked_below(sequence);
        RequestId { session, sequence, acked_below }
    }

    /// A participant has prepared.
    pub(super) fn on_prepared(&mut self, handle: TxnHandle, shard: ShardId, at: Timestamp) {
        let beat_at = self.now + super::transaction::BEAT_INTERVAL;
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        let Phase::Preparing { missing, min_commit, .. } = &mut txn.phase else {
            return;
        };
        missing.remove(&shard);
        *min_commit = at.max(*min_commit);
        if !txn.holds_locks() {
            txn.beat_at = beat_at;
        }
        txn.shards.entry(shard).or_default().is_prepared = true;
        self.watch(handle);
        self.decide_if_prepared(handle);
    }

    /// Asks the anchor to commit if all others have prepared.
    fn decide_if_prepared(&mut self, handle: TxnHandle) {
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        let Phase::Preparing { missing, min_commit, anchor, part, participants } = &mut txn.phase
        else {
            return;
        };
        if !missing.is_empty() && !mutants::is_active(Mutant::AnchorBeforeParticipants) {
            return;
        }
        let (anchor, min_commit) = (*anchor, *min_commit);
        let (part, participants) = (mem::take(part), mem::take(participants));
        let request = txn.request.expect("a transaction that prepares has its request");
        txn.phase = Phase::Committing;
        let commit = TxnRequest::Commit { request, part, participants, min_commit };
        self.send_step(handle, anchor, commit);
    }

    /// The transaction took effect.
    pub(super) fn on_committed(&mut self, handle: TxnHandle, commit_ts: Timestamp) {
        let Some(txn) = self.txns.get(&handle) else {
            return;
        };
        let commit_ts = txn.has_writes().then_some(commit_ts);
        self.end_call(handle, Ok(Answer::Committed { commit_ts }));
        self.end(handle);
    }

    /// The time of a call is over.
    pub(super) fn on_step_deadline(&mut self, handle: TxnHandle, last: Option<Refusal>) {
        let sent_count = self.commit_sent_count(handle);
        let steps = self.txns.get(&handle).into_iter().flat_map(|txn| &txn.steps);
        let mut refusals = steps.filter_map(|id| self.jobs.get(id)?.last_refusal.clone());
        let last = refusals.next().or(last);
        let Some(txn) = self.txns.get(&handle) else {
            return;
        };
        let request = txn.request.filter(|_| sent_count > 0);
        if let Some(request) = request {
            return self.leave(handle, request);
        }
        // Of a batch that was aborted before, that says more than that nobody answered since.
        let last_abort = txn.call.and_then(|call| self.jobs.get(&call)?.last_abort.clone());
        let error = match (&txn.phase, last_abort) {
            (Phase::Preparing { .. }, _) => CallError::Aborted(AbortReason::GivenUp),
            (Phase::Committing, None) if txn.shards.len() > 1 => {
                CallError::Aborted(AbortReason::GivenUp)
            }
            (Phase::Open | Phase::Committing, Some(reason)) => CallError::Aborted(reason),
            (Phase::Open | Phase::Committing, None) => CallError::Unavailable { last },
            (Phase::Aborted(reason), _) => CallError::Aborted(reason.clone()),
        };
        self.fail(handle, error);
    }

    /// Ends the transaction without knowing how it ended. It is not rolled back: it may be committed.
    fn leave(&mut self, handle: TxnHandle, request: RequestId) {
        let id = self.txns.get(&handle).and_then(|txn| txn.outcome);
        self.keep_unknown(request);
        self.end_call(handle, Err(CallError::UnknownOutcome { request, id }));
        self.end(handle);
    }

    /// How often the anchor was asked to commit.
    fn commit_sent_count(&self, handle: TxnHandle) -> u32 {
        let steps = self.txns.get(&handle).into_iter().flat_map(|txn| &txn.steps);
        let jobs = steps.filter_map(|id| self.jobs.get(id));
        let is_commit = |request: &TxnRequest| matches!(request, TxnRequest::Commit { .. });
        let commits = jobs.filter(|job| job.step().is_some_and(|step| is_commit(&step.request)));
        commits.map(|job| job.sent_count).sum()
    }

    /// A node refused a step for a reason that another attempt does not mend.
    pub(super) fn on_step_fatal(&mut self, id: CallId, refusal: Refusal) {
        let Some((job, step)) = self.jobs.get(&id).and_then(|job| Some((job, job.step()?))) else {
            return;
        };
        let (handle, shard, session) = (step.handle, step.shard, step.txn.session);
        let is_expired = refusal == Refusal::SessionExpired;
        match step.request {
            TxnRequest::Beat | TxnRequest::Rollback => self.drop_step(id),
            TxnRequest::Commit { request, .. } if job.sent_count > 1 => {
                if matches!(refusal, Refusal::NoSpace { .. } | Refusal::Diverged { .. }) {
                    self.pause(id);
                } else {
                    self.leave(handle, request);
                }
            }
            TxnRequest::Lock { .. }
            | TxnRequest::Scan { .. }
            | TxnRequest::Prepare { .. }
            | TxnRequest::Commit { .. } => {
                self.fail(handle, fatal_error(refusal, shard));
            }
        }
        if is_expired && self.session == Some(session) {
            self.session = None;
            self.on_session_lost(session);
        }
    }
}

/// How a refusal ends a transaction that was not committed.
fn fatal_error(refusal: Refusal, shard: ShardId) -> CallError {
    if refusal == Refusal::SessionExpired {
        CallError::Aborted(AbortReason::LocksLost { shard })
    } else if refusal == Refusal::Superseded {
        CallError::Aborted(AbortReason::GivenUp)
    } else {
        CallError::Refused(refusal)
    }
}
