//! Batches, and transactions with conditions, in one call.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kv_core::client::{Call, TxnOp, check_operations};
use kv_core::id::Timestamp;
use kv_core::op::{Expect, Found, Key, Value};
use kv_core::txn::TxnWrite;

use crate::client::Client;
use crate::driver;
use crate::error::ClientError;
use crate::transaction::{self, Transaction};

/// Puts and deletes of any keys that take effect together, or not at all. Of several writes to one
/// key the last counts.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
/// let mut batch = kv_client::WriteBatch::new();
/// batch.put("order/7", "tea").put("last", "7").delete("draft");
/// client.write_batch(batch).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    writes: Vec<TxnWrite>,
}

impl WriteBatch {
    /// One without writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.writes.push(TxnWrite { key: Key::new(key), value: Some(Value::string(value)) });
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.writes.push(TxnWrite { key: Key::new(key), value: None });
        self
    }

    /// How many writes it has.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The call that does it.
    pub(crate) fn into_call(self) -> Call {
        Call::WriteBatch { age: transaction::age_now(), writes: self.writes }
    }
}

/// A condition of [`Client::txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    key: Bytes,
    /// What must hold.
    expect: Expect,
}

impl Compare {
    /// The key exists and holds this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), expect: Expect::Value(Value::string(value)) }
    }

    /// The key exists at this version.
    pub fn version(key: impl Into<Bytes>, version: Timestamp) -> Self {
        Self { key: key.into(), expect: Expect::Version(version) }
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), expect: Expect::Absent }
    }
}

/// What a branch of [`Client::txn`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op(TxnOp);

impl Op {
    /// Reads a key. Sees what the branch wrote before.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self(TxnOp::Get { key: Key::new(key) })
    }

    /// Sets a key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self(transaction::put_op(key, value))
    }

    /// Removes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self(TxnOp::Delete { key: Key::new(key) })
    }
}

/// How [`Client::txn`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether all conditions held, so that `then` was done; if not, `otherwise` was.
    pub is_met: bool,
    /// What the gets of that branch found, in their order. What the branch itself wrote has the
    /// version [`VERSION_BUFFERED`](kv_core::txn::VERSION_BUFFERED).
    pub found: Vec<Option<Found>>,
    /// The version of what was written; none if nothing was.
    pub version: Option<Timestamp>,
}

/// Conditions, and what is to be done.
#[derive(Debug)]
pub(crate) struct Conditional {
    compares: Vec<Compare>,
    then: Vec<TxnOp>,
    otherwise: Vec<TxnOp>,
}

impl Conditional {
    /// Checks that it is not too large, whichever branch is taken.
    pub(crate) fn new(
        compares: Vec<Compare>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<Self, ClientError> {
        let branch = |ops: Vec<Op>| {
            let ops: Vec<_> = ops.into_iter().map(|op| op.0).collect();
            for_update(ops)
        };
        let this = Self { compares, then: branch(then), otherwise: branch(otherwise) };
        let locks = this.locks();
        for branch in [&this.then, &this.otherwise] {
            check_operations(locks.iter().chain(branch))
                .map_err(|call| ClientError::Call { call, connections: vec![] })?;
        }
        Ok(this)
    }

    /// The reads of the compared keys. In the order of the keys, so that two of the same kind do not
    /// wait for each other; a key that may be written is locked for that at once.
    pub(crate) fn locks(&self) -> Vec<TxnOp> {
        let written: BTreeSet<_> =
            self.then.iter().chain(&self.otherwise).filter_map(written_key).collect();
        let compared: BTreeSet<_> =
            self.compares.iter().map(|it| Key::new(it.key.clone())).collect();
        let lock = |key: Key| match written.contains(&key) {
            true => TxnOp::GetForUpdate { key },
            false => TxnOp::Get { key },
        };
        compared.into_iter().map(lock).collect()
    }

    /// Whether all conditions hold for what those reads found.
    pub(crate) fn is_met(&self, found: Vec<Option<Found>>) -> bool {
        let keys = self.compares.iter().map(|compare| &compare.key).collect::<BTreeSet<_>>();
        let found: BTreeMap<_, _> = keys.into_iter().zip(found).collect();
        self.compares.iter().all(|compare| {
            let found = found.get(&compare.key).and_then(Option::as_ref);
            compare.expect.is_met(found)
        })
    }

    /// What is to be done then.
    pub(crate) fn branch(&self, is_met: bool) -> &[TxnOp] {
        if is_met { &self.then } else { &self.otherwise }
    }

    async fn run(&self, txn: &mut Transaction) -> Result<(bool, Vec<Option<Found>>), ClientError> {
        let is_met = self.is_met(Self::run_all(txn, &self.locks()).await?);
        let found = Self::run_all(txn, self.branch(is_met)).await?;
        Ok((is_met, found))
    }

    async fn run_all(
        txn: &mut Transaction,
        ops: &[TxnOp],
    ) -> Result<Vec<Option<Found>>, ClientError> {
        let mut found = vec![];
        for op in ops {
            found.extend(driver::found_if_any(txn.call(op.clone()).await?));
        }
        Ok(found)
    }
}

/// The key that an operation writes.
fn written_key(op: &TxnOp) -> Option<&Key> {
    match op {
        TxnOp::Put { key, .. } | TxnOp::Delete { key } => Some(key),
        TxnOp::Get { .. }
        | TxnOp::GetForUpdate { .. }
        | TxnOp::Scan { .. }
        | TxnOp::Commit
        | TxnOp::Rollback => None,
    }
}

/// The same operations, of which those read for an update whose keys are written as well.
fn for_update(ops: Vec<TxnOp>) -> Vec<TxnOp> {
    let written: BTreeSet<_> = ops.iter().filter_map(written_key).cloned().collect();
    let lock = |op| match op {
        TxnOp::Get { key } if written.contains(&key) => TxnOp::GetForUpdate { key },
        other => other,
    };
    ops.into_iter().map(lock).collect()
}

impl Client {
    /// Makes all writes of a batch take effect at once, exactly once, whatever shards they are on.
    /// Answers the version that they have; none if there were none.
    ///
    /// Nothing is read and no lock is held between two requests, so this is the fastest way to write
    /// several keys. While the batch is aborted, by a deadlock say, it is tried again until the
    /// deadline.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`]. If it is known, *nothing was
    /// changed*. A batch that is too large is refused before anything is sent.
    pub async fn write_batch(&self, batch: WriteBatch) -> Result<Option<Timestamp>, ClientError> {
        self.call(batch.into_call()).await.map(driver::committed)
    }

    /// If all conditions hold, does `then`, else `otherwise`: all at one moment. Without conditions it
    /// does `then`.
    ///
    /// Compared and read keys are locked until it ends; while it is aborted it is tried again until
    /// the deadline.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
    /// use kv_client::{Compare, Op};
    ///
    /// let taken = client
    ///     .txn(
    ///         vec![Compare::absent("lock"), Compare::value("state", "idle")],
    ///         vec![Op::put("lock", "me"), Op::put("state", "busy")],
    ///         vec![Op::get("lock")],
    ///     )
    ///     .await?;
    /// if !taken.is_met {
    ///     println!("held by {:?}", taken.found[0]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_outcome_unknown`]. If it is known, *nothing was
    /// changed*. One that is too large is refused before anything is sent. Conditions that do not
    /// hold are no error.
    pub async fn txn(
        &self,
        compares: Vec<Compare>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<TxnResult, ClientError> {
        let plan = Conditional::new(compares, then, otherwise)?;
        let mut attempts = transaction::Attempts::new(self.deadline(), u32::MAX);
        loop {
            let mut txn = self.attempt(&attempts).await?;
            let result = match plan.run(&mut txn).await {
                Ok(answer) => txn.commit_once().await.map(|version| (answer, version)),
                Err(error) => Err(error),
            };
            if let Some(((is_met, found), version)) = attempts.settle(txn, result).await? {
                return Ok(TxnResult { is_met, found, version });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kv_core::client::CallError;
    use kv_core::op::VALUE_BYTES_MAX;
    use kv_core::txn::{OPERATIONS_MAX, WRITE_BYTES_MAX};

    use super::*;

    fn found(value: &'static str, version: u64) -> Option<Found> {
        Some(Found { version: Timestamp(version), value: Value::string(value) })
    }

    fn plan(compares: Vec<Compare>, then: Vec<Op>, otherwise: Vec<Op>) -> Conditional {
        Conditional::new(compares, then, otherwise).unwrap()
    }

    #[test]
    fn all_conditions_must_hold_also_several_of_one_key() {
        let is_met = |compares: &[Compare]| {
            // In the order of the keys: a, b, c.
            let all = [found("1", 5), None, found("3", 7)];
            let keys = ["a", "b", "c"];
            let is_compared = |key: &str| compares.iter().any(|it| it.key == key);
            let read = keys.iter().zip(all).filter(|(key, _)| is_compared(key));
            let read = read.map(|(_, found)| found).collect();
            plan(compares.to_vec(), vec![], vec![]).is_met(read)
        };
        let [a, b, c] =
            [Compare::value("a", "1"), Compare::absent("b"), Compare::version("c", Timestamp(7))];
        assert!(is_met(&[]));
        assert!(is_met(&[c.clone(), a.clone(), b.clone()]));
        assert!(is_met(&[c.clone(), Compare::value("c", "3")]));
        assert!(!is_met(&[c.clone(), Compare::value("c", "4")]));
        assert!(!is_met(&[a, b, Compare::version("c", Timestamp(8))]));
        assert!(!is_met(&[Compare::absent("c")]));
        assert!(!is_met(&[Compare::value("b", "")]));
    }

    #[test]
    fn compared_keys_are_locked_once_in_order_and_for_what_is_done_with_them() {
        let compares = ["c", "a", "b", "a"].map(Compare::absent).to_vec();
        let then = vec![Op::put("a", "1"), Op::get("a"), Op::get("d")];
        let plan = plan(compares, then, vec![Op::delete("b"), Op::get("a")]);
        let for_update = |key: &'static str| TxnOp::GetForUpdate { key: Key::new(key) };
        let get = |key: &'static str| TxnOp::Get { key: Key::new(key) };
        assert_eq!(plan.locks(), [for_update("a"), for_update("b"), get("c")]);
        let put = transaction::put_op("a", "1");
        assert_eq!(plan.branch(true), [put, for_update("a"), get("d")]);
        let delete = TxnOp::Delete { key: Key::new("b") };
        assert_eq!(plan.branch(false), [delete, get("a")]);
    }

    #[test]
    fn limits_hold_for_each_branch_with_the_conditions() {
        let gets = |count: usize| vec![Op::get("k"); count];
        let is_fine = |compares: usize, then, otherwise| {
            let compares = (0..compares).map(|at| Compare::absent(at.to_string())).collect();
            Conditional::new(compares, then, otherwise).is_ok()
        };
        assert!(is_fine(10, gets(OPERATIONS_MAX - 10), gets(OPERATIONS_MAX - 10)));
        assert!(!is_fine(11, gets(OPERATIONS_MAX - 10), gets(0)));
        assert!(!is_fine(11, gets(0), gets(OPERATIONS_MAX - 10)));
        let put = |key: &'static str| Op::put(key, vec![0; VALUE_BYTES_MAX]);
        assert!(is_fine(0, vec![put("a")], vec![put("b")]));
        let error = Conditional::new(vec![], vec![], vec![put("a"), put("b")]).unwrap_err();
        let too_large = |error: &ClientError| match error {
            ClientError::Call { call: CallError::TxnTooLarge { size, size_max, .. }, .. } => {
                Some((*size, *size_max))
            }
            _ => None,
        };
        let size_max = WRITE_BYTES_MAX as u64;
        assert_eq!(too_large(&error), Some((size_max + 2, size_max)));
    }
}
