//! Asking how a commit ended whose answer did not come.
//!
//! A session that goes on acknowledges what it has heard, and servers forget it. What it has not heard
//! it keeps unacknowledged, so that it can still be asked for, but not without end: servers keep
//! everything that comes after it.

use super::Router;
use crate::client::job::Goal;
use crate::client::{Answer, Call, CallError, CallId};
use crate::id::{RequestId, SessionId};
use crate::machine::RESULTS_PER_SESSION_MAX;
use crate::txn::{OutcomeId, TxnOutcome};
use crate::wire::{Refusal, TxnReply};

/// Unknown outcomes that a client keeps unacknowledged. Beyond it the oldest is given up.
pub const UNKNOWN_MAX: usize = 64;
/// How many requests later an unknown outcome is given up at the latest: half of what a shard
/// remembers of a session, so that nothing is forgotten for its sake that is waited for.
pub const UNKNOWN_AGE_MAX: u64 = RESULTS_PER_SESSION_MAX as u64 / 2;

impl Router {
    /// Keeps a request unacknowledged whose outcome is unknown.
    pub(super) fn keep_unknown(&mut self, request: RequestId) {
        if self.session == Some(request.session) {
            self.unknown.insert(request.sequence);
        }
    }

    /// Every request with a smaller sequence has been answered, or is not asked for any more.
    pub(super) fn acked_below(&mut self, sequence: u64) -> u64 {
        while let Some(oldest) = self.unknown.first()
            && (self.unknown.len() > UNKNOWN_MAX || oldest + UNKNOWN_AGE_MAX < sequence)
        {
            self.unknown.pop_first();
        }
        let waited_for = self.unfinished.first().into_iter().chain(self.unknown.first());
        waited_for.min().copied().unwrap_or(sequence)
    }

    /// An outcome can be asked for only where it was decided: any other cluster would settle it as
    /// aborted.
    pub(super) fn check_outcome(&self, id: OutcomeId) -> Result<(), CallError> {
        match &self.map {
            Some(map) if !id.is_of(map.cluster) => Err(CallError::WrongOutcomeId { id }),
            Some(_) | None => Ok(()),
        }
    }

    /// What the job is to ask for, if it is such a question.
    pub(super) fn outcome_of(&self, call: CallId) -> Option<OutcomeId> {
        let Goal::User(Call::Outcome { id }) = self.jobs.get(&call)?.goal else { return None };
        Some(id)
    }

    /// Takes the answer of the shard that decides.
    pub(super) fn on_outcome(&mut self, call: CallId, id: OutcomeId, reply: TxnReply) {
        let outcome = match reply {
            TxnReply::Committed { commit_ts } => TxnOutcome::Committed { commit_ts },
            TxnReply::Aborted(_) => TxnOutcome::Aborted,
            // No answer to this request: it is as if none had come.
            TxnReply::Locked { .. }
            | TxnReply::Scanned { .. }
            | TxnReply::Waiting { .. }
            | TxnReply::Alive
            | TxnReply::RolledBack
            | TxnReply::Prepared { .. } => return,
        };
        self.end_unknown(id.txn.session, id.sequence);
        self.finish(call, Ok(Answer::Outcome(outcome)));
    }

    /// The shard that decides refuses for good.
    pub(super) fn on_outcome_refused(&mut self, call: CallId, id: OutcomeId, refusal: Refusal) {
        let is_forgotten = matches!(refusal, Refusal::Superseded | Refusal::SessionExpired);
        let error = match is_forgotten {
            true => CallError::OutcomeForgotten { id },
            false => CallError::Refused(refusal),
        };
        self.finish(call, Err(error));
    }

    fn end_unknown(&mut self, session: SessionId, sequence: u64) {
        if self.session == Some(session) {
            self.unknown.remove(&sequence);
        }
    }
}
