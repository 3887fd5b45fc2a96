//! Batches, and transactions with conditions, of the blocking handle.

use kv_core::client::TxnOp;
use kv_core::id::Timestamp;
use kv_core::op::Found;

use super::{Client, Transaction};
use crate::batch::{Compare, Conditional, Op, TxnResult, WriteBatch};
use crate::driver;
use crate::error::ClientError;

impl Client {
    /// As [`crate::Client::write_batch`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn write_batch(&self, batch: WriteBatch) -> Result<Option<Timestamp>, ClientError> {
        self.0.call_blocking(batch.into_call()).map(driver::committed)
    }

    /// As [`crate::Client::txn`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn txn(
        &self,
        compares: Vec<Compare>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<TxnResult, ClientError> {
        let plan = Conditional::new(compares, then, otherwise)?;
        let ((is_met, found), version) = self.transact_with_retries(u32::MAX, |txn| {
            let is_met = plan.is_met(run_all(txn, &plan.locks())?);
            Ok((is_met, run_all(txn, plan.branch(is_met))?))
        })?;
        Ok(TxnResult { is_met, found, version })
    }
}

fn run_all(txn: &mut Transaction, ops: &[TxnOp]) -> Result<Vec<Option<Found>>, ClientError> {
    let mut found = vec![];
    for op in ops {
        found.extend(driver::found_if_any(txn.call(op.clone())?));
    }
    Ok(found)
}
