//! The async handle.

use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{Call, TxnHandle};
use kv_core::id::{Address, NodeId, Timestamp};
use kv_core::node::Status;
use kv_core::op::{Expect, Found, Key, Value, WriteOp};
use kv_core::txn::{Age, OutcomeId, TxnOutcome};
use kv_core::wire::{AdminReply, AdminRequest, MapView};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{self, CasResult, Driver, Reply, Request};
use crate::error::{ClientError, ConnectError};
use crate::transaction::Transaction;

/// How long a call may take unless [`Client::with_deadline`] says otherwise: several elections.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// A handle to a cluster. Clones share connections, map and session; the last one to go ends the
/// background task.
///
/// A call whose future is dropped goes on in the background: a write may still take effect.
#[derive(Clone, Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    /// Transactions that their users have dropped. It takes any number, since a drop cannot wait; each
    /// was begun through `requests`, which limits them.
    dropped: mpsc::UnboundedSender<TxnHandle>,
    deadline: Duration,
}

impl Client {
    /// A client of the cluster that is found at `endpoints`, with its task on the current runtime.
    /// Nothing is sent before the first call, so this succeeds without a cluster.
    ///
    /// # Errors
    /// [`ConnectError`] without endpoints or randomness.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(endpoints: Vec<String>) -> Result<Self, ConnectError> {
        let (client, driver) = Self::unstarted(endpoints)?;
        tokio::spawn(driver.run());
        Ok(client)
    }

    /// A client and the driver that somebody has to run.
    pub(crate) fn unstarted(endpoints: Vec<String>) -> Result<(Self, Driver), ConnectError> {
        let endpoints = endpoints.into_iter().map(Address).collect();
        let (requests, dropped, driver) = Driver::new(endpoints)?;
        Ok((Self { requests, dropped, deadline: DEADLINE_DEFAULT }, driver))
    }

    /// The same client with another time limit per call.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let (requests, dropped) = (self.requests.clone(), self.dropped.clone());
        Self { requests, dropped, deadline }
    }

    /// The time limit per call.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The value of `key`, with its version; none if the key does not exist. Linearizable.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.call(Call::Get { key: Key::new(key) }).await.map(driver::found)
    }

    /// Sets `key` to `value`, exactly once, and answers the new version.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Timestamp, ClientError> {
        let op = WriteOp::Put { key: Key::new(key), value: Value::string(value) };
        self.call(Call::Write(op)).await.map(driver::put)
    }

    /// Removes `key`, exactly once, and answers whether it existed.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
        self.call(Call::Write(WriteOp::Delete { key: Key::new(key) })).await.map(driver::deleted)
    }

    /// Sets `key` to `value` if `expect` holds, decided exactly once.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`]. An expectation that does not hold
    /// is no error.
    pub async fn cas(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
        value: impl Into<Bytes>,
    ) -> Result<CasResult, ClientError> {
        let op = WriteOp::Cas { key: Key::new(key), expect, value: Value::string(value) };
        self.call(Call::Write(op)).await.map(driver::cas)
    }

    /// How a transaction or batch ended whose outcome was unknown ([`ClientError::outcome_id`]). Any
    /// client may ask, from any process. If nothing is decided by then, it is aborted, so the answer
    /// never changes.
    ///
    /// # Errors
    /// [`ClientError`]. [`CallError::OutcomeForgotten`](kv_core::client::CallError::OutcomeForgotten)
    /// says that nobody remembers it; after any other one, ask again.
    pub async fn outcome(&self, id: &OutcomeId) -> Result<TxnOutcome, ClientError> {
        self.call(Call::Outcome { id: *id }).await.map(driver::outcome)
    }

    /// The view that the node at `address` has of itself.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn status(&self, address: &str) -> Result<Status, ClientError> {
        let address = Address(address.to_owned());
        self.call(Call::Status { address }).await.map(driver::status)
    }

    /// The cluster map, and what the node that answered believes of leaders.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn map(&self) -> Result<MapView, ClientError> {
        self.call(Call::Map).await.map(driver::map)
    }

    /// What an operator asks: of the leader of the meta group, of a shard's leader, or of any node,
    /// as the request wants it.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`]. To repeat the request does no harm.
    pub async fn admin(&self, request: AdminRequest) -> Result<AdminReply, ClientError> {
        self.call(Call::Admin(request)).await.map(driver::admin)
    }

    /// Has the node at `address`, which belongs to no cluster and waits, join the one that is found
    /// at `seeds`. Answers when the node is a member, durably.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`]. To repeat the request does no harm.
    pub async fn join(&self, address: &str, seeds: Vec<String>) -> Result<NodeId, ClientError> {
        self.call(driver::join_call(address, seeds)).await.map(driver::joined)
    }

    /// What the session has seen; none if it is not known when all of it was.
    pub(crate) async fn known_token(&self) -> Result<Option<Timestamp>, ClientError> {
        let (reply, receiver) = oneshot::channel();
        let request = Request::Token { reply };
        self.requests.send(request).await.map_err(|_| ClientError::Closed)?;
        receiver.await.map_err(|_| ClientError::Closed)
    }

    /// The same for a thread without a runtime.
    pub(crate) fn known_token_blocking(&self) -> Result<Option<Timestamp>, ClientError> {
        let (reply, receiver) = oneshot::channel();
        let request = Request::Token { reply };
        self.requests.blocking_send(request).map_err(|_| ClientError::Closed)?;
        receiver.blocking_recv().map_err(|_| ClientError::Closed)
    }

    /// Has the session see what one has seen that had this token.
    pub(crate) async fn send_token(&self, token: Timestamp) -> Result<(), ClientError> {
        let (reply, receiver) = oneshot::channel();
        let request = Request::Join { token, reply };
        self.requests.send(request).await.map_err(|_| ClientError::Closed)?;
        receiver.await.map_err(|_| ClientError::Closed)
    }

    /// The same for a thread without a runtime.
    pub(crate) fn send_token_blocking(&self, token: Timestamp) -> Result<(), ClientError> {
        let (reply, receiver) = oneshot::channel();
        let request = Request::Join { token, reply };
        self.requests.blocking_send(request).map_err(|_| ClientError::Closed)?;
        receiver.blocking_recv().map_err(|_| ClientError::Closed)
    }

    /// Begins a transaction of an age.
    pub(crate) async fn begin_aged(&self, age: Age) -> Result<Transaction, ClientError> {
        let (reply, receiver) = oneshot::channel();
        let request = Request::Begin { age, reply };
        self.requests.send(request).await.map_err(|_| ClientError::Closed)?;
        let handle = receiver.await.map_err(|_| ClientError::Closed)?;
        Ok(Transaction::new(self.clone(), handle))
    }

    /// The same for a thread without a runtime.
    pub(crate) fn begin_blocking(&self, age: Age) -> Result<Transaction, ClientError> {
        let (reply, receiver) = oneshot::channel();
        let request = Request::Begin { age, reply };
        self.requests.blocking_send(request).map_err(|_| ClientError::Closed)?;
        let handle = receiver.blocking_recv().map_err(|_| ClientError::Closed)?;
        Ok(Transaction::new(self.clone(), handle))
    }

    /// Has a transaction rolled back whose user has dropped it.
    pub(crate) fn drop_transaction(&self, handle: TxnHandle) {
        // Without the task there is no transaction either.
        let _ = self.dropped.send(handle);
    }

    /// Does a call.
    pub(crate) async fn call(&self, call: Call) -> Reply {
        let (request, reply) = self.request(call);
        self.requests.send(request).await.map_err(|_| ClientError::Closed)?;
        reply.await.unwrap_or(Err(ClientError::Closed))
    }

    /// The same for a thread without a runtime.
    pub(crate) fn call_blocking(&self, call: Call) -> Reply {
        let (request, reply) = self.request(call);
        self.requests.blocking_send(request).map_err(|_| ClientError::Closed)?;
        reply.blocking_recv().unwrap_or(Err(ClientError::Closed))
    }

    fn request(&self, call: Call) -> (Request, oneshot::Receiver<Reply>) {
        let (reply, receiver) = oneshot::channel();
        (Request::Call { call, time_limit: self.deadline, reply }, receiver)
    }
}
