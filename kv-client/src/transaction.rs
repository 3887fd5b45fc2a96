//! Transactions of the async handle.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kv_core::client::{Call, TxnHandle, TxnOp};
use kv_core::id::Timestamp;
use kv_core::op::{Expect, Found, Key, Value};
use kv_core::rng::Rng;
use kv_core::txn::{Age, VERSION_BUFFERED};
use tokio::time::Instant;

use crate::client::Client;
use crate::driver::{self, CasResult, Reply};
use crate::error::ClientError;
use crate::random;

/// The longest time for which attempts are made, if more is allowed: a year.
const LIMIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The first pause before an aborted transaction is run again; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A transaction: reads and writes of any keys that take effect together, or not at all.
///
/// What it reads is locked until it ends, so nobody changes it meanwhile. What it writes is kept
/// here until [`Transaction::commit`], and seen by its own reads before. If a step fails, but for
/// [`CallError::NoTransaction`](kv_core::client::CallError::NoTransaction), the transaction is over
/// and nothing of it took effect. [`Client::transact`] runs it again then, if that makes sense.
///
/// Dropping it rolls it back, and so does leaving it alone for a minute. Dropping the future of a
/// step half-way ends it with the next step: nobody knows what the step did.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
/// let mut txn = client.begin().await?;
/// if let Some(found) = txn.get_for_update("draft").await? {
///     let kv_core::op::Value::String(text) = found.value;
///     txn.put("published", text).await?;
///     txn.delete("draft").await?;
/// }
/// txn.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Transaction {
    client: Client,
    handle: TxnHandle,
    /// Whether it was committed or rolled back, or at least tried.
    is_over: bool,
    /// Whether a step heard that the transaction was aborted.
    is_aborted: bool,
}

impl Transaction {
    /// A transaction that the router has begun.
    pub(crate) fn new(client: Client, handle: TxnHandle) -> Self {
        Self { client, handle, is_over: false, is_aborted: false }
    }

    /// The value of `key`, with its version; none if it does not exist. A value that the transaction
    /// itself wrote has the version [`VERSION_BUFFERED`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn get(&mut self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.call(TxnOp::Get { key: Key::new(key) }).await.map(driver::found)
    }

    /// As [`Transaction::get`], of a key that is going to be written: others neither read nor write
    /// it until the end. Two transactions that only [`get`](Transaction::get) a key before they both
    /// write it wait for each other, and one is aborted.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn get_for_update(
        &mut self,
        key: impl Into<Bytes>,
    ) -> Result<Option<Found>, ClientError> {
        self.call(TxnOp::GetForUpdate { key: Key::new(key) }).await.map(driver::found)
    }

    /// Sets `key` to `value` at the commit. No node is asked.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn put(
        &mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), ClientError> {
        self.call(put_op(key, value)).await.map(driver::buffered)
    }

    /// Removes `key` at the commit. No node is asked.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn delete(&mut self, key: impl Into<Bytes>) -> Result<(), ClientError> {
        self.call(TxnOp::Delete { key: Key::new(key) }).await.map(driver::buffered)
    }

    /// Sets `key` to `value` at the commit if `expect` holds. The key is locked as by
    /// [`Transaction::get_for_update`], so it still holds then.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.* An expectation that does not hold is no error.
    pub async fn cas(
        &mut self,
        key: impl Into<Bytes>,
        expect: Expect,
        value: impl Into<Bytes>,
    ) -> Result<CasResult, ClientError> {
        let key = key.into();
        let found = self.get_for_update(key.clone()).await?;
        let result = decide(&expect, found.as_ref());
        if result.applied {
            self.put(key, value).await?;
        }
        Ok(result)
    }

    /// Makes all writes take effect at once, exactly once. Answers the version that they have; none
    /// if there were none.
    ///
    /// If the future is dropped, the commit goes on in the background.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`]. If it is known, *nothing was
    /// changed*.
    pub async fn commit(mut self) -> Result<Option<Timestamp>, ClientError> {
        self.commit_once().await
    }

    /// Drops all writes and locks.
    ///
    /// # Errors
    /// [`ClientError`], if there was nothing to roll back. *Nothing was changed.*
    pub async fn rollback(mut self) -> Result<(), ClientError> {
        self.is_over = true;
        self.call(TxnOp::Rollback).await.map(driver::rolled_back)
    }

    /// Commits; further steps fail.
    pub(crate) async fn commit_once(&mut self) -> Result<Option<Timestamp>, ClientError> {
        self.is_over = true;
        self.call(TxnOp::Commit).await.map(driver::committed)
    }

    /// Does a step.
    pub(crate) async fn call(&mut self, op: TxnOp) -> Reply {
        let reply = self.client.call(Call::Txn { txn: self.handle, op }).await;
        self.note(&reply);
        reply
    }

    /// A step for a thread without a runtime.
    pub(crate) fn call_blocking(&mut self, op: TxnOp) -> Reply {
        self.is_over |= matches!(op, TxnOp::Commit | TxnOp::Rollback);
        let reply = self.client.call_blocking(Call::Txn { txn: self.handle, op });
        self.note(&reply);
        reply
    }

    fn note(&mut self, reply: &Reply) {
        self.is_aborted |= reply.as_ref().is_err_and(ClientError::is_aborted);
    }

    /// Whether a step heard that the transaction was aborted.
    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_over {
            self.client.drop_transaction(self.handle);
        }
    }
}

impl Client {
    /// Begins a transaction; no node is asked. It is as old as this moment: of two that wait for each
    /// other, the younger one is aborted.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn begin(&self) -> Result<Transaction, ClientError> {
        self.begin_aged(age_now()).await
    }

    /// Runs `body` in a transaction, then commits it, and answers what `body` answered. While that
    /// ends with an abort it is done again from the beginning, after a pause, and as old as it was
    /// the first time, so that its turn comes. The client's deadline limits all attempts together.
    ///
    /// `body` may run more than once: what it does beside the transaction should bear that. To leave
    /// without writing, let it answer so before it has written anything.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
    /// let is_swapped = client
    ///     .transact(async |txn| {
    ///         let left = txn.get_for_update("left").await?;
    ///         let right = txn.get_for_update("right").await?;
    ///         let (Some(left), Some(right)) = (left, right) else {
    ///             return Ok(false);
    ///         };
    ///         let kv_core::op::Value::String(left) = left.value;
    ///         let kv_core::op::Value::String(right) = right.value;
    ///         txn.put("left", right).await?;
    ///         txn.put("right", left).await?;
    ///         Ok(true)
    ///     })
    ///     .await?;
    /// # let _ = is_swapped;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `body` fails with unless it is an abort, the last abort, or how the commit failed. See
    /// [`ClientError::is_outcome_unknown`].
    pub async fn transact<T>(
        &self,
        mut body: impl AsyncFnMut(&mut Transaction) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut attempts = Attempts::new(self.deadline(), u32::MAX);
        loop {
            let mut txn = self.attempt(&attempts).await?;
            let result = match body(&mut txn).await {
                Ok(answer) => txn.commit_once().await.map(|_| answer),
                Err(error) => Err(error),
            };
            if let Some(answer) = attempts.settle(txn, result).await? {
                return Ok(answer);
            }
        }
    }

    /// Begins the next attempt of a transaction, for as long as all of them have left.
    pub(crate) async fn attempt(&self, attempts: &Attempts) -> Result<Transaction, ClientError> {
        self.with_deadline(attempts.left()).begin_aged(attempts.age).await
    }
}

/// The attempts of one transaction.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// Of all of them.
    pub(crate) age: Age,
    ends_at: Instant,
    pause: Duration,
    /// How many further ones there may be.
    retries_left: u32,
    rng: Rng,
}

impl Attempts {
    /// Attempts that may take so long together: the first one and so many more.
    pub(crate) fn new(limit: Duration, retries: u32) -> Self {
        let age = age_now();
        // Without randomness two clients of one moment may collide again; no more than that.
        let rng = Rng::fork(random::seed().unwrap_or(age.0), "transact");
        let now = Instant::now();
        let ends_at = now.checked_add(limit).unwrap_or_else(|| now + LIMIT_MAX);
        Self { age, ends_at, pause: PAUSE_MIN, retries_left: retries, rng }
    }

    /// The time that is left.
    pub(crate) fn left(&self) -> Duration {
        self.ends_at.saturating_duration_since(Instant::now())
    }

    /// Ends an attempt. If it was aborted and there is time for another one, pauses, and answers
    /// nothing.
    pub(crate) async fn settle<T>(
        &mut self,
        txn: Transaction,
        result: Result<T, ClientError>,
    ) -> Result<Option<T>, ClientError> {
        let is_aborted = txn.is_aborted();
        drop(txn);
        match result {
            Err(error) if is_aborted && !error.is_outcome_unknown() => {
                let pause = self.next_pause().ok_or(error)?;
                tokio::time::sleep(pause).await;
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// How long to pause before the next attempt; none if there may be none, or is no time for one.
    pub(crate) fn next_pause(&mut self) -> Option<Duration> {
        self.retries_left = self.retries_left.checked_sub(1)?;
        let pause = self.rng.duration(self.pause / 2, self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        (pause < self.left()).then_some(pause)
    }
}

/// The age of a transaction that begins: milliseconds since 1970.
pub(crate) fn age_now() -> Age {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Age(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A put of a transaction.
pub(crate) fn put_op(key: impl Into<Bytes>, value: impl Into<Bytes>) -> TxnOp {
    TxnOp::Put { key: Key::new(key), value: Value::string(value) }
}

/// How a compare-and-set ends on a key that holds this.
pub(crate) fn decide(expect: &Expect, found: Option<&Found>) -> CasResult {
    let applied = expect.is_met(found);
    let version = found.map(|found| found.version);
    CasResult { applied, version: if applied { Some(VERSION_BUFFERED) } else { version } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_and_set_compares_the_value_the_version_or_the_absence() {
        let found = Found { version: Timestamp(7), value: Value::string("a") };
        let is_applied =
            |expect: &Expect| [decide(expect, Some(&found)).applied, decide(expect, None).applied];
        assert_eq!(is_applied(&Expect::Value(Value::string("a"))), [true, false]);
        assert_eq!(is_applied(&Expect::Value(Value::string("b"))), [false, false]);
        assert_eq!(is_applied(&Expect::Version(Timestamp(7))), [true, false]);
        assert_eq!(is_applied(&Expect::Version(Timestamp(8))), [false, false]);
        assert_eq!(is_applied(&Expect::Absent), [false, true]);
        assert_eq!(decide(&Expect::Absent, Some(&found)).version, Some(Timestamp(7)));
        assert_eq!(decide(&Expect::Absent, None).version, Some(VERSION_BUFFERED));
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_end_with_the_time_or_the_retries() {
        let mut attempts = Attempts::new(Duration::from_secs(3_600), 12);
        for at in 0..12 {
            let pause = attempts.next_pause().expect("there is time");
            let longest = (PAUSE_MIN * (1 << at)).min(PAUSE_MAX);
            assert!((longest / 2..=longest).contains(&pause), "{at}: {pause:?}");
        }
        assert_eq!(attempts.next_pause(), None);
        assert_eq!(Attempts::new(Duration::ZERO, 1).next_pause(), None);
    }
}
