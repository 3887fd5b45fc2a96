//! The same client for code without a runtime.

mod batch;
mod snapshot;
mod transaction;
mod transaction_scan;

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use kv_core::client::Call;
use kv_core::id::{Address, NodeId, Timestamp};
use kv_core::node::Status;
use kv_core::op::{Expect, Found, Key, Value, WriteOp};
use kv_core::txn::{OutcomeId, TxnOutcome};
use kv_core::wire::{AdminReply, AdminRequest, MapView};

use crate::consistency::{Consistency, get_call};
use crate::driver::{self, CasResult};
use crate::error::{ClientError, ConnectError};

pub use snapshot::{Scan, Snapshot};
pub use transaction::Transaction;
pub use transaction_scan::TransactionScan;

/// A handle to a cluster whose connections live on a thread of their own. Clones share it; the last
/// one to go ends it.
///
/// Its methods panic when called from async code, where they would block the runtime: use
/// [`crate::Client`] there.
#[derive(Clone, Debug)]
pub struct Client(crate::Client);

impl Client {
    /// A client of the cluster that is found at `endpoints`. Nothing is sent before the first call.
    ///
    /// # Errors
    /// [`ConnectError`] without endpoints, randomness or a thread.
    pub fn connect(endpoints: Vec<String>) -> Result<Self, ConnectError> {
        let (client, driver) = crate::Client::unstarted(endpoints)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ConnectError::Thread)?;
        thread::Builder::new()
            .name("kv-client".into())
            .spawn(move || runtime.block_on(driver.run()))
            .map_err(ConnectError::Thread)?;
        Ok(Self(client))
    }

    /// The same client with another time limit per call.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self(self.0.with_deadline(deadline))
    }

    /// As [`crate::Client::get`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn get(&self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.0.call_blocking(Call::Get { key: Key::new(key) }).map(driver::found)
    }

    /// As [`crate::Client::get_with`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Found>, ClientError> {
        self.0.call_blocking(get_call(key, consistency)).map(driver::found_at_any)
    }

    /// As [`crate::Client::session_token`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn session_token(&self) -> Result<Timestamp, ClientError> {
        match self.0.known_token_blocking()? {
            Some(token) => Ok(token),
            None => self.0.call_blocking(Call::Timestamp).map(driver::timestamp),
        }
    }

    /// As [`crate::Client::join_session`].
    ///
    /// # Errors
    /// [`ClientError::Closed`] if the client's thread has ended.
    pub fn join_session(&self, token: Timestamp) -> Result<(), ClientError> {
        self.0.send_token_blocking(token)
    }

    /// As [`crate::Client::put`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Timestamp, ClientError> {
        let op = WriteOp::Put { key: Key::new(key), value: Value::string(value) };
        self.0.call_blocking(Call::Write(op)).map(driver::put)
    }

    /// As [`crate::Client::delete`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn delete(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
        let op = WriteOp::Delete { key: Key::new(key) };
        self.0.call_blocking(Call::Write(op)).map(driver::deleted)
    }

    /// As [`crate::Client::cas`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn cas(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
        value: impl Into<Bytes>,
    ) -> Result<CasResult, ClientError> {
        let op = WriteOp::Cas { key: Key::new(key), expect, value: Value::string(value) };
        self.0.call_blocking(Call::Write(op)).map(driver::cas)
    }

    /// As [`crate::Client::outcome`].
    ///
    /// # Errors
    /// [`ClientError`]; see there.
    pub fn outcome(&self, id: &OutcomeId) -> Result<TxnOutcome, ClientError> {
        self.0.call_blocking(Call::Outcome { id: *id }).map(driver::outcome)
    }

    /// As [`crate::Client::status`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn status(&self, address: &str) -> Result<Status, ClientError> {
        let address = Address(address.to_owned());
        self.0.call_blocking(Call::Status { address }).map(driver::status)
    }

    /// As [`crate::Client::map`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn map(&self) -> Result<MapView, ClientError> {
        self.0.call_blocking(Call::Map).map(driver::map)
    }

    /// As [`crate::Client::admin`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn admin(&self, request: AdminRequest) -> Result<AdminReply, ClientError> {
        self.0.call_blocking(Call::Admin(request)).map(driver::admin)
    }

    /// As [`crate::Client::join`].
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub fn join(&self, address: &str, seeds: Vec<String>) -> Result<NodeId, ClientError> {
        self.0.call_blocking(driver::join_call(address, seeds)).map(driver::joined)
    }
}
