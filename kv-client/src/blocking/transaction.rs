//! Transactions of the blocking handle.

use std::thread;

use bytes::Bytes;
use kv_core::client::TxnOp;
use kv_core::id::Timestamp;
use kv_core::op::{Expect, Found, Key};

use super::Client;
use crate::driver::{self, CasResult, Reply};
use crate::error::ClientError;
use crate::transaction::{self, Attempts};

/// As [`crate::Transaction`], for code without a runtime.
///
/// ```no_run
/// # fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let client = kv_client::blocking::Client::connect(vec!["127.0.0.1:7101".into()])?;
/// let mut txn = client.begin()?;
/// txn.put("left", "1")?;
/// txn.put("right", "2")?;
/// txn.commit()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Transaction(crate::Transaction);

impl Transaction {
    /// Does a step.
    pub(super) fn call(&mut self, op: TxnOp) -> Reply {
        self.0.call_blocking(op)
    }

    /// As [`crate::Transaction::get`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn get(&mut self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.0.call_blocking(TxnOp::Get { key: Key::new(key) }).map(driver::found)
    }

    /// As [`crate::Transaction::get_for_update`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn get_for_update(&mut self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.0.call_blocking(TxnOp::GetForUpdate { key: Key::new(key) }).map(driver::found)
    }

    /// As [`crate::Transaction::put`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn put(
        &mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), ClientError> {
        self.0.call_blocking(transaction::put_op(key, value)).map(driver::buffered)
    }

    /// As [`crate::Transaction::delete`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn delete(&mut self, key: impl Into<Bytes>) -> Result<(), ClientError> {
        self.0.call_blocking(TxnOp::Delete { key: Key::new(key) }).map(driver::buffered)
    }

    /// As [`crate::Transaction::cas`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn cas(
        &mut self,
        key: impl Into<Bytes>,
        expect: Expect,
        value: impl Into<Bytes>,
    ) -> Result<CasResult, ClientError> {
        let key = key.into();
        let found = self.get_for_update(key.clone())?;
        let result = transaction::decide(&expect, found.as_ref());
        if result.applied {
            self.put(key, value)?;
        }
        Ok(result)
    }

    /// As [`crate::Transaction::commit`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn commit(mut self) -> Result<Option<Timestamp>, ClientError> {
        self.0.call_blocking(TxnOp::Commit).map(driver::committed)
    }

    /// As [`crate::Transaction::rollback`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn rollback(mut self) -> Result<(), ClientError> {
        self.0.call_blocking(TxnOp::Rollback).map(driver::rolled_back)
    }
}

impl Client {
    /// As [`crate::Client::begin`].
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn begin(&self) -> Result<Transaction, ClientError> {
        self.0.begin_blocking(transaction::age_now()).map(Transaction)
    }

    /// As [`crate::Client::transact`].
    ///
    /// # Errors
    /// As there.
    pub fn transact<T>(
        &self,
        body: impl FnMut(&mut Transaction) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        self.transact_with_retries(u32::MAX, body).map(|(answer, _)| answer)
    }

    /// As [`Client::transact`], but with at most so many attempts after the first one. Answers also
    /// the version of what was written; none if nothing was.
    ///
    /// # Errors
    /// As there.
    pub fn transact_with_retries<T>(
        &self,
        retries: u32,
        mut body: impl FnMut(&mut Transaction) -> Result<T, ClientError>,
    ) -> Result<(T, Option<Timestamp>), ClientError> {
        let mut attempts = Attempts::new(self.0.deadline(), retries);
        loop {
            let client = self.0.with_deadline(attempts.left());
            let mut txn = Transaction(client.begin_blocking(attempts.age)?);
            let result = match body(&mut txn) {
                Ok(answer) => {
                    let reply = txn.0.call_blocking(TxnOp::Commit);
                    reply.map(|reply| (answer, driver::committed(reply)))
                }
                Err(error) => Err(error),
            };
            match (result, txn.0.is_aborted()) {
                (Err(error), true) if !error.is_outcome_unknown() => {
                    drop(txn);
                    let Some(pause) = attempts.next_pause() else {
                        return Err(error);
                    };
                    thread::sleep(pause);
                }
                (result, _) => return result,
            }
        }
    }
}
