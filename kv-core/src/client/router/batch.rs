//! Batches: writes that take effect together, in one call.
//!
//! A batch is a transaction without a reading half: the coordinator goes to the commit at once, so
//! nobody holds a lock while a user thinks. What aborts it changed nothing, and there is nobody who
//! would have to read again, so the router itself tries again, as another transaction of the same
//! age, until it is committed or the call's time is over.

use super::Router;
use crate::client::job::{Goal, Stage};
use crate::client::{Answer, Call, CallError, CallId, TxnOp};
use crate::txn::TxnWrite;

impl Router {
    /// Begins an attempt of a batch. None is under way.
    pub(super) fn advance_batch(&mut self, call: CallId) {
        let Some(job) = self.jobs.get(&call) else {
            return;
        };
        let Goal::User(Call::WriteBatch { age, writes }) = &job.goal else {
            return;
        };
        let (age, writes) = (*age, writes.clone());
        self.set_stage(call, Stage::Parked);
        let txn = self.begin_aged(age);
        if let Some(job) = self.jobs.get_mut(&call) {
            job.attempt = Some(txn);
        }
        let Some(attempt) = self.txns.get_mut(&txn) else {
            return;
        };
        attempt.call = Some(call);
        if let Err(error) = writes.into_iter().try_for_each(|write| attempt.add(&op_of(write))) {
            return self.fail(txn, error);
        }
        self.watch(txn);
        self.advance(call);
    }

    /// Has a batch tried again after a pause, if that is what it was aborted for. Says whether.
    pub(super) fn retry_batch(&mut self, call: CallId, result: &Result<Answer, CallError>) -> bool {
        let Err(CallError::Aborted(reason)) = result else {
            return false;
        };
        let now = self.now;
        let Some(job) = self.jobs.get_mut(&call) else {
            return false;
        };
        if !job.is_batch() || job.deadline <= now {
            return false;
        }
        job.attempt = None;
        job.last_abort = Some(reason.clone());
        self.pause(call);
        true
    }
}

/// The operation that makes a write.
fn op_of(write: TxnWrite) -> TxnOp {
    match write.value {
        Some(value) => TxnOp::Put { key: write.key, value },
        None => TxnOp::Delete { key: write.key },
    }
}
