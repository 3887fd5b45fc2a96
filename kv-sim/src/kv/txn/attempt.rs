//! One attempt of a transaction: what comes next, given what it has read.

use kv_core::client::TxnOp;
use kv_core::op::{Found, Key, Page, Value};

use super::bank;
use super::lists;
use super::scan::LockingScan;
use super::transaction::{Op, Transaction};

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) transaction: Transaction,
    /// The scan with which it begins, until that is done.
    scan: Option<LockingScan>,
    /// The next operation.
    next: usize,
    /// What its reads have found, in order.
    pub(super) found: Vec<Option<Found>>,
}

/// What an operation asks of the store.
enum Step {
    Ask(TxnOp),
    /// Nothing.
    Skip,
    /// That the transaction end: it cannot do what it was to do.
    GiveUp,
}

impl Attempt {
    pub(super) fn new(transaction: Transaction) -> Self {
        let scan = LockingScan::new(&transaction);
        Self { transaction, scan, next: 0, found: Vec::new() }
    }

    /// Takes a page of the scan.
    pub(super) fn take_page(&mut self, page: Page) {
        let scan = self.scan.as_mut().expect("a page was asked for");
        if let Some(found) = scan.take(page, &self.transaction.ops) {
            (self.next, self.found, self.scan) = (found.len(), found, None);
        }
    }

    /// What to ask for next; at the end, a commit or a rollback.
    pub(super) fn next_op(&mut self) -> TxnOp {
        if let Some(scan) = &self.scan {
            return scan.op();
        }
        while let Some(op) = self.transaction.ops.get(self.next) {
            self.next += 1;
            match self.step(op) {
                Step::Ask(op) => return op,
                Step::Skip => {}
                Step::GiveUp => return TxnOp::Rollback,
            }
        }
        if self.transaction.rolls_back { TxnOp::Rollback } else { TxnOp::Commit }
    }

    fn step(&self, op: &Op) -> Step {
        let put = |key: &Key, value: String| {
            Step::Ask(TxnOp::Put { key: key.clone(), value: Value::string(value.into_bytes()) })
        };
        match op {
            Op::Read { key } => Step::Ask(TxnOp::Get { key: key.clone() }),
            Op::Lock { key } => Step::Ask(TxnOp::GetForUpdate { key: key.clone() }),
            Op::Append { key, element } => {
                let list = self.found.last().map(|found| lists::elements(found.as_ref()));
                match list {
                    Some(Ok(list)) if list.len() < lists::LENGTH_MAX => {
                        put(key, lists::text(&list, *element))
                    }
                    Some(_) | None => Step::GiveUp,
                }
            }
            Op::Write { key, value } => put(key, value.to_string()),
            Op::Insert { key, value, rows_max } => match self.found.iter().flatten().count() {
                count if count < *rows_max => put(key, value.to_string()),
                _ => Step::GiveUp,
            },
            Op::Open { key, read } => match self.found.get(*read) {
                Some(Some(_)) => Step::Skip,
                Some(None) | None => put(key, bank::BALANCE_FIRST.to_string()),
            },
            Op::Debit { key, amount } => match self.transfer(*amount) {
                Some((from, _)) => put(key, from.to_string()),
                None => Step::GiveUp,
            },
            Op::Credit { key, amount } => match self.transfer(*amount) {
                Some((_, to)) => put(key, to.to_string()),
                None => Step::GiveUp,
            },
        }
    }

    /// The balances of both accounts after a transfer of `amount`, or of what there is.
    fn transfer(&self, amount: i64) -> Option<(i64, i64)> {
        let balance = |read: usize| bank::balance(self.found.get(read)?.as_ref()?);
        let (from, to) = (balance(0)?, balance(1)?);
        let amount = amount.min(from);
        Some((from - amount, to + amount))
    }
}
